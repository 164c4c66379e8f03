"""Dropout and stochastic depth over a whole network at once, as edits of the document.

What is dropped is written into the layers themselves, so that the network shown, trained and exported says it.
"""

from __future__ import annotations

from builder.catalog import LayerSpec
from builder.network import Plan
from builder.parts.layers import LAYERS
from builder.spec import Experiment, Node, feeder

__all__ = ["deepest", "dropped", "drops_paths", "everywhere", "over_depth"]

_LAYERS = {"vector": "dropout", "sequence": "dropout", "maps": "channel_dropout", "volume": "channel_dropout_3d"}
"""{layout: the dropout that suits what comes out of an activation}."""
_KINDS = {"dropout", "channel_dropout", "channel_dropout_1d", "channel_dropout_3d"}


def everywhere(experiment: Experiment, share: float, plan: Plan) -> Experiment:
    """Returns the document with `share` dropped at every place where networks drop.

    Dropout layers and the dropout settings of blocks take the share; an activation that no dropout follows gets a
    dropout layer below it (whole channels of pictures and volumes). 0 takes the dropout layers away and switches the
    settings of blocks off.

    Args:
        plan: of the experiment's network: what comes out of each layer.
    """
    now = experiment
    for node in experiment.network:
        if node.name in _KINDS:
            now = now.replace(f"network.{node.id}.params.p", share) if share else now.remove(node.id)
        elif _works(node, "dropout"):
            now = now.replace(f"network.{node.id}.params.dropout", share)
    return _filled(now, share, plan) if share else now


def _filled(now: Experiment, share: float, plan: Plan) -> Experiment:
    """The document with a dropout layer after each activation that has none behind it."""
    known = {planned.id: planned for planned in plan.nodes}
    for node in now.network[:-1]:  # what comes last is the answer
        planned, spec = known.get(node.id), LAYERS.get(node.name)
        if spec is None or spec.group != "Activation" or planned is None:
            continue
        place = [n.id for n in now.network].index(node.id)
        readers = [n for k, n in enumerate(now.network) if _feeds(node.id, n, k == place + 1)]
        kind = _LAYERS.get(planned.layout)
        if kind is None or not readers or any(n.name in _KINDS for n in readers):
            continue
        new = Node(id=now.fresh_id(kind), name=kind, params={"p": share}, inputs=(node.id,))
        now = now.insert(new, after=node.id)
        for reader in readers:
            if reader.inputs:
                wires = [new.id if wire == node.id else wire for wire in reader.inputs]
                now = now.replace(f"network.{reader.id}.inputs", wires)
    return now


def dropped(experiment: Experiment) -> float:
    """The largest share that is dropped anywhere in the network."""
    shares = [0.0]
    for node in experiment.network:
        name = "p" if node.name in _KINDS else "dropout" if _works(node, "dropout") else ""
        if name:
            value = node.params.get(name, LAYERS[node.name].defaults[name])
            shares += [float(value)] if isinstance(value, int | float) else []
    return max(shares)


def drops_paths(experiment: Experiment) -> list[str]:
    """The ids of the layers with a shortcut whose rest can be left out, in order of depth."""
    return [node.id for node in experiment.network if _works(node, "drop_path")]


def over_depth(experiment: Experiment, share: float) -> Experiment:
    """Returns the document in which blocks with a shortcut are left out now and then: the first one never, the last one
    as often as `share` says, those between in a straight line (Huang et al. 2016). Inside a known model timm does the
    same, up to `share`."""
    ids = drops_paths(experiment)
    for k, id in enumerate(ids):
        known = LAYERS[experiment.at(f"network.{id}").name].group == "Backbones"
        rate = round(share * (1.0 if known or len(ids) == 1 else k / (len(ids) - 1)), 3)
        experiment = experiment.replace(f"network.{id}.params.drop_path", rate or None)
    return experiment


def deepest(experiment: Experiment) -> float:
    """How often the deepest block with a shortcut is left out."""
    ids = drops_paths(experiment)
    value = experiment.at(f"network.{ids[-1]}").params.get("drop_path", 0.0) if ids else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def _has(node: Node, setting: str) -> bool:
    spec = LAYERS.get(node.name)
    return spec is not None and setting in spec.defaults


def _works(node: Node, setting: str) -> bool:
    """Whether a layer has this setting and it does something as the layer stands."""
    if not _has(node, setting):
        return False
    spec: LayerSpec = LAYERS[node.name]
    settings = {**spec.defaults, **node.params}
    return not any(idle.name == setting and settings[idle.other] == idle.value for idle in spec.idle)


def _feeds(id: str, node: Node, is_next: bool) -> bool:
    return id in map(feeder, node.inputs) if node.inputs else is_next
