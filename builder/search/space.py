"""The space of a search: which choices can be unlocked, the range that suits each, and a document with values put in.

A choice may hang on another one: momentum is there only with SGD, a layer's settings only while the layer is there.
Such a dimension is *active* in a document in which its path leads to a setting, and is chosen in those trials only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from builder.catalog import Catalog, Digest, Domain, Flag, Float, Int, LayerSpec, OneOf, Part, Text
from builder.parts.images import AUGMENTATIONS, MIXING, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import GROUP, TRAINING
from builder.spec import CATALOGS, Choice, Dimension, Experiment, SpecError, Value
from builder.task import TASKS, find, losses, offered

PRESENT, ABSENT = "present", "absent"
_NO_LEARNING = {  # they change how a run is computed, counted or repeated, not what is learned
    *("training.seed", "training.monitor", "training.checkpoint_every_s", "training.compile", "training.resident"),
    *("training.channels_last", "training.mixed_precision", "training.processes", "data.slices"),
}
_PROPOSED = {  # where a catalog offers more than a first search should try
    "training.optimizer": ("momentum", "adam", "adamw"),
    "training.schedule": ("constant", "cosine", "one_cycle"),
    "training.average": ("none", "ema"),
}


# ---- what there is to choose ----------------------------------------------------------------------------------------


def domain(experiment: Experiment, path: str) -> Domain | None:
    """What can be chosen at `path` in this very document; None where nothing can be unlocked there."""
    found = _domain(experiment, path)
    return None if isinstance(found, OneOf) and len(found.options) < 2 else found


def _domain(experiment: Experiment, path: str) -> Domain | None:
    if path in _NO_LEARNING or _asks_another_question(experiment, path):
        return None
    section, _, rest = path.partition(".")
    if path in CATALOGS:
        return _names(experiment, path)
    for place in CATALOGS:
        if path.startswith(f"{place}.params."):
            return _setting(CATALOGS[place], experiment.at(place).name, path)
    if section == "network":
        return _of_layer(experiment, rest)
    if path.startswith("training.augment."):
        return _of_augmentation(experiment, path.removeprefix("training.augment."))
    if path.startswith("training.groups."):
        name, _, setting = path.removeprefix("training.groups.").partition(".")
        known = name in {group.name for group in experiment.training.groups}
        return _param(GROUP, setting) if known else None
    if section in ("data", "training"):
        found = _param(PREPARE if section == "data" else TRAINING, rest)
        return offered(experiment.task, path, found) if found else None
    return None


def _asks_another_question(experiment: Experiment, path: str) -> bool:
    """Whether trials with another value there are scored by another measure, so that who is asked the least would win:
    from how poor pictures good ones are to be made, and on which scale of grey these are judged."""
    if path == "data.window":
        return experiment.task in TASKS and "picture" in find(experiment.task).learns
    return path.startswith("data.degrade")


def unlockable(experiment: Experiment) -> dict[str, Domain]:
    """Every choice that can be unlocked, {path: what there is to choose}, in the order of the document.

    With choices that are unlocked already come the settings that are there only with some of their values.
    """
    found: dict[str, Domain] = {}
    for document in (experiment, *_alternatives(experiment)):
        for path in _paths(document):
            if path not in found and (there := domain(document, path)) is not None:
                found[path] = there
    return found


def reachable(experiment: Experiment, path: str) -> Domain | None:
    """What can be chosen at `path` in the document or with some value of a choice that its search has unlocked."""
    for document in (experiment, *_alternatives(experiment, path)):
        if (there := domain(document, path)) is not None:
            return there
    return None


def _paths(experiment: Experiment) -> Iterator[str]:
    yield from (f"data.{param.name}" for param in PREPARE.params)
    for node in experiment.network:
        yield f"network.{node.id}"
        yield f"network.{node.id}.name"
        if node.name in LAYERS:
            yield from (f"network.{node.id}.params.{param.name}" for param in LAYERS[node.name].params)
    for place in ("training.optimizer", "training.schedule", "training.loss", "training.average"):
        yield from _with_params(place, CATALOGS[place], experiment.at(place))
    chosen = {choice.name for choice in experiment.training.augment}
    for name, part in AUGMENTATIONS.items():
        yield f"training.augment.{name}"
        if name in chosen:
            yield from (f"training.augment.{name}.params.{param.name}" for param in part.params)
    for group in experiment.training.groups:
        yield from (f"training.groups.{group.name}.{param.name}" for param in GROUP.params)
    yield from (f"training.{param.name}" for param in TRAINING.params)


def _with_params(place: str, catalog: Catalog, choice: Choice) -> Iterator[str]:
    yield place
    if choice.name in catalog:
        yield from (f"{place}.params.{param.name}" for param in catalog[choice.name].params)


def _alternatives(experiment: Experiment, path: str = "") -> Iterator[Experiment]:
    """The document with each value of each choice that its search has unlocked (of those above `path` only)."""
    for dimension in experiment.search.dimensions if experiment.search else ():
        if path and not path.startswith(_stem(dimension.path)):
            continue
        if domain(experiment, dimension.path) is None or not _parent(dimension.path):
            continue
        for value in dimension.choices:
            try:
                yield apply(experiment, {dimension.path: value})
            except SpecError:  # a value that is no choice at all: `faults` says so
                continue


def _parent(path: str) -> bool:
    """Whether other settings may hang on the choice at `path`."""
    return path in CATALOGS or path.startswith(("network.", "training.augment.")) and ".params." not in path


def _stem(path: str) -> str:
    """What every path begins with that hangs on the choice at `path`."""
    return path.removesuffix(".name") + "."


def _names(experiment: Experiment, path: str) -> Domain | None:
    catalog = losses(experiment.task) if path == "training.loss" else CATALOGS[path]
    title = CATALOGS[path].name.capitalize()
    here = str(experiment.at(path).name)
    default = here if here in catalog else catalog.names[0]
    return OneOf(path.rpartition(".")[2], default, tuple(catalog.names), f"Which {catalog.name} is used.", title=title)


def _setting(catalog: Catalog, name: str, path: str) -> Domain | None:
    return _param(catalog[name], path.rpartition(".params.")[2]) if name in catalog else None


def _param(part: Part, name: str) -> Domain | None:
    found = next((param for param in part.params if param.name == name), None)
    return None if isinstance(found, Digest) else found


def _presence(name: str, title: str) -> OneOf:
    return OneOf(name, PRESENT, (PRESENT, ABSENT), "Whether it is there or left out.", title=title)


def _of_layer(experiment: Experiment, rest: str) -> Domain | None:
    id, _, setting = rest.partition(".")
    node = next((node for node in experiment.network if node.id == id), None)
    if node is None or node.name not in LAYERS:
        return None
    part = LAYERS[node.name]
    if not setting:
        return None if node is experiment.network[-1] else _presence(id, f"{part.title} ({id})")
    if setting == "name":
        names = tuple(name for name, other in LAYERS.items() if _alike(part, other))
        return OneOf("name", node.name, names, "Which layer stands here.", title="Layer")
    return _param(part, setting.removeprefix("params.")) if setting.startswith("params.") else None


def _alike(part: Part, other: Part) -> bool:
    """Whether one layer can stand where the other stands: same group, same inputs, same kinds of them."""
    assert isinstance(part, LayerSpec) and isinstance(other, LayerSpec)
    return all(getattr(part, fact) == getattr(other, fact) for fact in ("group", "inputs", "most", "takes", "gives"))


def _of_augmentation(experiment: Experiment, rest: str) -> Domain | None:
    name, _, setting = rest.partition(".params.")
    if name not in AUGMENTATIONS:
        return None
    if not setting:
        mixes = experiment.task in TASKS and find(experiment.task).mixes
        return None if name in MIXING and not mixes else _presence(name, AUGMENTATIONS[name].title)
    chosen = {choice.name for choice in experiment.training.augment}
    return _param(AUGMENTATIONS[name], setting) if name in chosen else None


# ---- what a search should try first ---------------------------------------------------------------------------------


def proposed(experiment: Experiment, path: str) -> Dimension:
    """A range or a list of choices that suits a first search: around the value now, inside what the catalog allows.

    Raises:
        SpecError: nothing can be unlocked there.
    """
    found = reachable(experiment, path)
    if found is None:
        raise SpecError(f"There is no choice at {path!r} that a search could make.")
    value = value_at(experiment, path, found)
    if isinstance(found, Int | Float):
        return _range(path, found, value)
    if isinstance(found, Flag):
        return Dimension(path=path, choices=(True, False))
    if isinstance(found, OneOf):
        options = tuple(name for name in _PROPOSED.get(path, found.options) if name in found.options)
        here = value in found.options and value not in options
        return Dimension(path=path, choices=(value, *options) if here else options)
    others = (name for name in (found.default, *(found.names() if isinstance(found, Text) else ())) if name)
    return Dimension(path=path, choices=tuple(dict.fromkeys([value, *others]))[:3])


def _range(path: str, found: Int | Float, value: Any) -> Dimension:
    low, high, step = found.low, found.high, found.step or 0
    if path.endswith(".kernel_size") and value % 2:  # odd ones have a middle
        return Dimension(path=path, low=max(found.low, value - 2), high=min(found.high, value + 2), step=2)
    wide = bool(step) and (high - low) / step > 1000 and not found.log  # a fine setting over many magnitudes
    if found.log or wide:
        around = value if value > 0 else (10 * step or math.sqrt(max(low, 1e-12) * high))
        factor = 4 if isinstance(found, Int) else 10
        low, high = max(low, around / factor, step if wide else 0), min(high, around * factor)
    elif high - low > 1 or isinstance(found, Int):
        around = value or max(step, low + (high - low) / 20)
        low, high = max(low, around / 2 if around > 0 else around * 2), min(high, max(around * 2, around + 2 * step))
    if isinstance(found, Int):
        every = int(found.step)
        low, high = _on_step(math.floor(low), found, down=True), _on_step(math.ceil(high), found, down=False)
        high = max(high, min(found.high, low + every))
        return Dimension(path=path, low=low, high=high, step=every, log=found.log and every == 1)
    neat = 0 if found.log or wide else step
    return Dimension(path=path, low=_neat(low), high=_neat(high), step=neat, log=bool(found.log or wide))


def _on_step(value: int, found: Int, *, down: bool) -> int:
    steps = (value - found.low) / found.step
    near = math.floor(steps) if down else math.ceil(steps)
    return int(min(max(found.low + near * found.step, found.low), found.high))


def _neat(value: float) -> float:
    """Without the tail of floating point: 0.30000000000000004 -> 0.3."""
    return float(f"{value:.6g}")


def value_at(experiment: Experiment, path: str, found: Domain | None = None) -> Any:
    """The value now at `path`, "present" or "absent" included; the catalog's default where the document leaves it."""
    found = found or reachable(experiment, path)
    try:
        there = experiment.at(path)
    except SpecError:
        there = None
    if _parent(path) and not path.endswith(".name"):
        if path in CATALOGS:
            return there.name if there is not None else None
        return ABSENT if there is None else PRESENT
    return found.default if there is None and found is not None else there


# ---- values put into the document -----------------------------------------------------------------------------------


def ordered(dimensions: Iterable[Dimension]) -> list[Dimension]:
    """The dimensions with those that others hang on first; otherwise in their order."""

    def depth(dimension: Dimension) -> int:
        if not _parent(dimension.path):
            return 2
        return 1 if dimension.path.endswith(".name") else 0

    return sorted(dimensions, key=depth)


def apply(experiment: Experiment, values: Mapping[str, Value]) -> Experiment:
    """The document of a trial: `values` put in at their paths, and no search.

    A part that takes another's place (an optimizer, a layer) begins with its own defaults.

    Raises:
        SpecError: a path that leads nowhere (a setting of a layer that is left out), or a value of a wrong type.
    """
    made = experiment.model_copy(update={"search": None})
    for dimension in ordered(Dimension(path=path) for path in values):
        made = _put(made, dimension.path, values[dimension.path])
    return made


def _put(experiment: Experiment, path: str, value: Value) -> Experiment:
    if path in CATALOGS:
        if value == experiment.at(path).name:
            return experiment
        return experiment.replace(path, {"name": value, "params": {}})
    if path.startswith("network.") and path.count(".") == 1:
        if value not in (PRESENT, ABSENT):
            raise SpecError(f"{path} is {value!r}; a layer is {PRESENT} or {ABSENT}.")
        experiment.at(path)
        return experiment.remove(path.partition(".")[2]) if value == ABSENT else experiment
    if path.startswith("network.") and path.endswith(".name"):
        node = experiment.at(path.removesuffix(".name"))
        if value == node.name:
            return experiment
        return experiment.replace(path.removesuffix(".name"), {**node.model_dump(), "name": value, "params": {}})
    if path.startswith("training.augment.") and ".params." not in path:
        return _augmented(experiment, path.removeprefix("training.augment."), value)
    if domain(experiment, path) is None and path not in _NO_LEARNING:
        raise SpecError(f"There is no choice at {path!r} in this document.")
    return experiment.replace(path, neat(value))


def neat(value: Value) -> Value:
    """The value without the tail that steps leave on it (0.30000000000000004 -> 0.3); all else as it is."""
    if not isinstance(value, float):
        return value
    short = float(f"{value:.12g}")
    return short if abs(short - value) <= 8 * sys.float_info.epsilon * abs(value) else value


def _augmented(experiment: Experiment, name: str, value: Value) -> Experiment:
    if value not in (PRESENT, ABSENT):
        raise SpecError(f"training.augment.{name} is {value!r}; it is {PRESENT} or {ABSENT}.")
    now = experiment.training.augment
    if (value == PRESENT) == any(choice.name == name for choice in now):
        return experiment
    rest: Sequence[Choice] = [choice for choice in now if choice.name != name]
    return experiment.replace("training.augment", [*rest, Choice(name=name)] if value == PRESENT else rest)
