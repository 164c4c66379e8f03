"""Layers that learn otherwise than the rest: with a learning rate and penalties of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from builder.parts.layers import LAYERS
from builder.spec import Experiment, Node

__all__ = ["Share", "owner", "ready_made", "shares", "still"]

_BACKBONES = "Backbones"  # the heading of ready-made networks in the catalog


@dataclass(frozen=True)
class Share:
    """How layers learn beside the rest: multiples of the learning rate and of the penalties."""

    lr: float = 1.0
    l2: float = 1.0
    l1: float = 1.0


def shares(experiment: Experiment, begun: Collection[str]) -> dict[str, Share]:
    """{node id: how it learns}, of the nodes that learn otherwise than the rest.

    `training.groups` says it all for its layers; the rate of the backbone is for the others.

    Args:
        begun: as `ready_made` has it.
    """
    training = experiment.training
    found = {}
    if training.backbone_rate != 1.0:
        found = {id: Share(lr=training.backbone_rate) for id in ready_made(experiment, begun)}
    for group in training.groups:
        found |= {id: Share(group.lr_factor, group.l2_factor, group.l1_factor) for id in group.nodes}
    return found


def still(experiment: Experiment) -> list[str]:
    """Ids of the nodes that stay as they are, since their group's learning rate is 0 (that of a backbone never is)."""
    otherwise = shares(experiment, ())
    return [node.id for node in experiment.network if node.id in otherwise and not otherwise[node.id].lr]


def ready_made(experiment: Experiment, begun: Collection[str]) -> list[str]:
    """The ids of the nodes that know something before they learn: ready-made ones, and those that begin with the stored
    weights of the document.

    Args:
        begun: ids of the latter (`weights.Beginning.begun`).
    """
    return [node.id for node in experiment.network if node.id in begun or _is_ready_made(node)]


def _is_ready_made(node: Node) -> bool:
    """Whether a node is a backbone from a library, or one that can begin with stored weights and does."""
    spec = LAYERS.get(node.name)
    if spec is None:
        return False
    chosen = {**spec.defaults, **node.params}
    return spec.group == _BACKBONES or any(chosen.get(name) != value for name, value in spec.untrained.items())


def owner(name: str) -> str:
    """The id of the node that a module or parameter lies in: "layers.conv1.weight" -> "conv1"."""
    parts = name.split(".")
    return parts[1] if parts[0] == "layers" and len(parts) > 1 else parts[0]
