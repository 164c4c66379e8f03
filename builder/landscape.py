"""How optimizers walk: real ones on landscapes of two numbers, for learners.

Each landscape is a function (x, y) -> height with its name, what it shows, where walks begin and how far one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.parts.training import OPTIMIZERS
from builder.spec import Choice

__all__ = ["SURFACES", "Surface", "Walk", "heights", "walk"]

_FAR = 1e3  # a walk that leaves further than this has run away


@dataclass(frozen=True)
class Surface:
    """A landscape. `start`: (x, y) where walks begin; `goal`: its lowest place, () where there is none; `span`: x and y
    from and to; `rate`: a learning rate at which most walks get somewhere."""

    title: str
    words: str
    height: Callable[[Any, Any], Any]
    start: tuple[float, float]
    goal: tuple[float, ...]
    span: tuple[float, float, float, float]
    rate: float


def _waves(x: Any, y: Any) -> Any:
    cosine = np.cos if isinstance(x, np.ndarray | np.floating) else _torch().cos
    return 0.15 * (x**2 + y**2) + 1.2 * (2 - cosine(3 * x) - cosine(3 * y))


def _torch() -> Any:
    import torch

    return torch


SURFACES = {
    "ravine": Surface(
        "Ravine",
        "Steep across, nearly flat along: plain steps bounce between the walls, momentum and own rates a weight less.",
        lambda x, y: 0.05 * x**2 + 2.5 * y**2,
        (-9.0, 1.6),
        (0.0, 0.0),
        (-10.0, 4.0, -2.0, 2.0),
        0.15,
    ),
    "saddle": Surface(
        "Saddle",
        "Down on two sides, up on the other two, flat in the middle: who gets away from the middle, and how soon?",
        lambda x, y: 0.5 * x**2 - 0.5 * y**2 + 0.05 * y**4,
        (-2.5, 0.002),
        (),
        (-3.0, 3.0, -3.0, 3.0),
        0.05,
    ),
    "rosenbrock": Surface(
        "Rosenbrock",
        "A bent valley: its floor is found at once, its lowest place, (1, 1), by following the bend (Rosenbrock 1960).",
        lambda x, y: 0.05 * ((1 - x) ** 2 + 20 * (y - x**2) ** 2),
        (-1.4, 1.6),
        (1.0, 1.0),
        (-2.0, 2.0, -1.0, 3.0),
        0.03,
    ),
    "hills": Surface(
        "Many hollows",
        "A bowl full of hollows: small steps stay in the first one, larger ones and momentum leave it.",
        _waves,
        (-3.6, 3.1),
        (0.0, 0.0),
        (-4.5, 4.5, -4.5, 4.5),
        0.1,
    ),
}


@dataclass(frozen=True)
class Walk:
    """The way of one optimizer: places and heights, the start among them; `away`: it ran away and was stopped."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    height: tuple[float, ...]
    away: bool


def walk(surface: str, choice: Choice, rate: float, steps: int = 120) -> Walk:
    """Lets an optimizer of the catalog, as chosen but at learning rate `rate`, walk on a landscape."""
    torch = _torch()
    part, ground = OPTIMIZERS[choice.name], SURFACES[surface]
    chosen = {**part.defaults, **choice.params, "lr": rate}
    place = torch.nn.Parameter(torch.tensor(ground.start, dtype=torch.float64))
    optimizer: Any = part.load()([place], **part.arguments(chosen))
    xs, ys, hs, away = (
        [ground.start[0]],
        [ground.start[1]],
        [float(ground.height(*map(np.float64, ground.start)))],
        False,
    )
    for _ in range(steps):
        optimizer.zero_grad()
        ground.height(place[0], place[1]).backward()
        optimizer.step()
        x, y = (float(v) for v in place.detach())
        if not (abs(x) < _FAR and abs(y) < _FAR):
            away = True
            break
        xs.append(x)
        ys.append(y)
        hs.append(float(ground.height(place.detach()[0], place.detach()[1])))
    return Walk(tuple(xs), tuple(ys), tuple(hs), away)


def heights(surface: str, num: int = 70) -> tuple[Sequence[float], Sequence[float], np.ndarray]:
    """The landscape as a grid: x (num,), y (num,), heights (num, num) with y down its rows."""
    ground = SURFACES[surface]
    x, y = np.linspace(*ground.span[:2], num), np.linspace(*ground.span[2:], num)
    across, down = np.meshgrid(x, y)
    return x.tolist(), y.tolist(), np.asarray(ground.height(across, down))
