"""Edits of a document that may help against what `diagnosis` found: what a press on a cure's button does.

A cure never touches the run that fell ill: it hands back another document, to be learned from the beginning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from builder.diagnosis import Finding, several
from builder.network import Plan, plan_of
from builder.parts.layers import LAYERS
from builder.parts.training import OPTIMIZERS
from builder.spec import INPUT, Choice, Experiment, Node, feeder

__all__ = ["Cure", "cures"]

_NORMS = {
    **{"maps": "batch_norm", "series": "batch_norm", "volume": "batch_norm_3d"},
    **{"vector": "batch_norm_1d", "sequence": "layer_norm"},
}
_SMALL_BATCH = 4  # below it the statistics of a batch say too little
_SQUASHING = ("sigmoid", "tanh")
_CLIP = 1.0


@dataclass(frozen=True)
class Cure:
    """One way to help. `words`: of its button. `why`: what it does, in a sentence. `experiment`: the edited one."""

    words: str
    why: str
    experiment: Experiment


def cures(finding: Finding, experiment: Experiment, num_classes: int = 2) -> list[Cure]:
    """Ways to help against `finding`, the most promising first; each has a network that fits together."""
    offered = _OFFERED[finding.kind](experiment, finding, max(1, num_classes))
    kept: list[Cure] = []
    for cure in offered:
        new = cure.experiment != experiment and all(cure.experiment != other.experiment for other in kept)
        if new and not any(n.message for n in plan_of(cure.experiment, max(1, num_classes)).nodes):
            kept.append(cure)
    return kept


# -- what helps against what ------------------------------------------------------------------------------------------


def _against_broke(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    rate, usual = _rate(experiment)
    ways = (_clipped(experiment), _slower(experiment))
    for way in ways if rate <= 3 * usual else ways[::-1]:
        yield from way
    if experiment.training.mixed_precision != "off":
        yield Cure(
            "Compute in full precision",
            "On a graphics card 16-bit numbers may overflow where 32-bit ones do not. On a processor nothing changes.",
            experiment.replace("training.mixed_precision", "off"),
        )


def _against_high_rate(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    yield from _slower(experiment)
    if experiment.training.schedule.name not in ("one_cycle", "cosine"):
        lowered = next((cure.experiment for cure in _slower(experiment)), experiment)
        yield Cure(
            "Warm up to a lower learning rate",
            "The rate begins small, climbs to its full value and falls again (one cycle).",
            lowered.replace("training.schedule", Choice(name="one_cycle")),
        )
    yield from _clipped(experiment)


def _against_exploding(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    recurrent = [id for id in finding.layers if _name(experiment, id) in ("rnn", "lstm", "gru")]
    yield from _gated(experiment, recurrent)
    yield from _clipped(experiment)
    for id in recurrent:
        if not experiment.at(f"network.{id}").params.get("bptt"):
            steps = _length(experiment, id, num_classes)
            if steps >= 8:
                yield Cure(
                    f"Let errors of {id} travel back {max(4, steps // 4)} steps only",
                    "Truncated back-propagation through time: the gradient is cut before it has grown beyond measure.",
                    experiment.replace(f"network.{id}.params.bptt", max(4, steps // 4)),
                )
    yield from _begun(experiment, "orthogonal")
    yield from _slower(experiment)
    if not recurrent:
        yield from _normed(experiment, num_classes)


def _against_vanishing(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    squashing = [n.id for n in experiment.network if n.name in _SQUASHING]
    relu = _activated(experiment, squashing, "relu")
    normed = _with_norms(relu, num_classes)
    if squashing and normed != relu:
        yield Cure(
            f"ReLU instead of {_titles(experiment, squashing)}, with a norm before each",
            "A ReLU lets the whole gradient of what is positive through; the norm keeps values where it is.",
            normed,
        )
    else:
        yield from _normed(experiment, num_classes)
    shortcuts = _with_shortcuts(normed, num_classes)
    if shortcuts != normed:
        yield Cure(
            "Add shortcuts around every two layers" + (" too" if normed != experiment else ""),
            "Residual connections (He 2016): the gradient also goes around the layers, and arrives as it was.",
            shortcuts,
        )
    if squashing:
        yield Cure(
            f"ReLU instead of {_titles(experiment, squashing)}, weights begun by He's rule",
            "With variance 2 / fan-in values keep their size through ReLUs, and so do gradients.",
            relu.replace("training.init", "he"),
        )
    else:
        yield from _begun(experiment, "he")


def _against_dead(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    plain = [id for id in finding.layers if _name(experiment, id) in ("relu", "relu6")]
    rate, usual = _rate(experiment)
    if rate > 3 * usual:  # steps too long are what mostly kills units
        yield from _slower(experiment)
    for name, why in (
        ("leaky_relu", "It lets a little of the negative side through, so no unit can die."),
        ("gelu", "It is smooth, and lets a little of the negative side through near zero."),
    ):
        if plain:
            title = LAYERS[name].title
            yield Cure(f"{title} instead of {_titles(experiment, plain)}", why, _activated(experiment, plain, name))
    before = [_fed_by(experiment, id) for id in plain]
    normed = _with_norms(experiment, num_classes, before)
    if normed != experiment:
        yield Cure(
            f"Put a norm before {several(plain)}",
            "It centres what comes in, so that about half of it is positive for every channel.",
            normed,
        )
    yield from _slower(experiment)


def _against_saturation(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    relu = _activated(experiment, finding.layers, "relu")
    yield Cure(
        f"ReLU instead of {_titles(experiment, finding.layers)}",
        "It has no flat end on the positive side.",
        relu,
    )
    normed = _with_norms(experiment, num_classes, [_fed_by(experiment, id) for id in finding.layers])
    if normed != experiment:
        yield Cure(
            f"Put a norm before {several(finding.layers)}",
            "It keeps what comes in small enough for the steep middle.",
            normed,
        )
    yield from _begun(experiment, "xavier")
    yield from _slower(experiment)


def _against_silence(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    edited = experiment
    for id in finding.layers:
        edited = edited.remove(id)
    yield Cure(f"Take out {several(finding.layers)}", "Nothing that is answered depends on it.", edited)


def _against_low_rate(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    rate, usual = _rate(experiment)
    name = OPTIMIZERS[experiment.training.optimizer.name].title
    if rate < usual / 3:
        words = f"Learning rate {usual:g}, the usual one of {name}"
        yield Cure(words, "Steps become as long as they mostly are.", _rated(experiment, usual))
    for factor in (10, 100):
        words = f"Learning rate {rate * factor:.2g} ({factor} times as high)"
        yield Cure(words, "Longer steps with every batch.", _rated(experiment, min(10.0, rate * factor)))


def _against_forgetting(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    yield from _gated(experiment, finding.layers)
    for id in finding.layers:
        edited = experiment.replace(f"network.{id}.params.output", "all states")
        pool = Node(id=edited.fresh_id("attention_pool"), name="attention_pool")
        yield Cure(
            f"Weigh all states of {id} by attention",
            "Every step is heard directly, not through all those after it.",
            _inserted(edited, id, pool),
        )
        if not experiment.at(f"network.{id}").params.get("bidirectional"):
            yield Cure(
                f"Let {id} read from both ends",
                "The first steps are then the last ones of the way back.",
                experiment.replace(f"network.{id}.params.bidirectional", True),
            )


def _against_start(experiment: Experiment, finding: Finding, num_classes: int) -> Iterator[Cure]:
    if experiment.data.normalize == "none":
        yield Cure(
            "Normalize the scans",
            "What comes in gets mean 0 and spread 1, as layers expect it.",
            experiment.replace("data.normalize", "dataset"),
        )
    yield from _begun(experiment, "xavier")
    yield from _normed(experiment, num_classes)


_OFFERED = {
    "broke": _against_broke,
    "rate-high": _against_high_rate,
    "exploding": _against_exploding,
    "vanishing": _against_vanishing,
    "dead": _against_dead,
    "saturated": _against_saturation,
    "no-gradient": _against_silence,
    "rate-low": _against_low_rate,
    "forgets": _against_forgetting,
    "start": _against_start,
}

# -- single edits -----------------------------------------------------------------------------------------------------


def _rate(experiment: Experiment) -> tuple[float, float]:
    """The learning rate of the document, and the usual one of its optimizer."""
    choice = experiment.training.optimizer
    usual = float(OPTIMIZERS[choice.name].param("lr").default)
    return float(choice.params.get("lr", usual) or usual), usual


def _rated(experiment: Experiment, rate: float) -> Experiment:
    return experiment.replace("training.optimizer.params.lr", float(f"{rate:.2g}"))


def _slower(experiment: Experiment) -> Iterator[Cure]:
    rate, usual = _rate(experiment)
    name = OPTIMIZERS[experiment.training.optimizer.name].title
    why = "Shorter steps do not overshoot what they are after."
    if rate > 3 * usual:
        yield Cure(f"Learning rate {usual:g}, the usual one of {name}", why, _rated(experiment, usual))
    lower = min(rate, usual) / 10
    if lower >= 1e-7:
        words = "a tenth" if rate <= usual else f"a tenth of {name}'s usual one"
        yield Cure(f"Learning rate {lower:.2g} ({words})", why, _rated(experiment, lower))


def _clipped(experiment: Experiment) -> Iterator[Cure]:
    if not 0 < experiment.training.clip_norm <= _CLIP:
        yield Cure(
            f"Shorten gradients longer than {_CLIP:g}",
            "Gradient clipping: a step keeps its direction, but none gets out of hand.",
            experiment.replace("training.clip_norm", _CLIP),
        )


def _begun(experiment: Experiment, rule: str) -> Iterator[Cure]:
    words = {"he": "He's", "xavier": "Xavier's", "orthogonal": "the orthogonal"}[rule]
    if experiment.training.init != rule:
        yield Cure(
            f"Begin the weights by {words} rule",
            "Values and gradients keep their size through the layers at the beginning.",
            experiment.replace("training.init", rule),
        )


def _gated(experiment: Experiment, ids: Sequence[str]) -> Iterator[Cure]:
    plain = [id for id in ids if _name(experiment, id) == "rnn"]
    for name in ("gru", "lstm") if plain else ():
        edited = experiment
        for id in plain:
            old = edited.at(f"network.{id}")
            params = {key: value for key, value in old.params.items() if key != "activation"}
            edited = edited.replace(f"network.{id}", old.model_copy(update={"name": name, "params": params}))
        yield Cure(
            f"{LAYERS[name].title} instead of {_titles(experiment, plain)}",
            "Gates decide what is kept: its memory, and the gradient in it, neither fades nor grows by itself.",
            edited,
        )


def _normed(experiment: Experiment, num_classes: int) -> Iterator[Cure]:
    normed = _with_norms(experiment, num_classes)
    if normed != experiment:
        yield Cure(
            "Put a norm after each layer with weights",
            "It brings values, and with them gradients, back to one size after every layer (Ioffe and Szegedy 2015).",
            normed,
        )


def _with_norms(experiment: Experiment, num_classes: int, only: Collection[str] | None = None) -> Experiment:
    """The document with a norm after each convolution and linear layer (of `only`) that has none and is not last."""
    plan = plan_of(experiment, num_classes)
    users = _users(plan)
    for node in plan.nodes[:-1]:
        weighty = LAYERS[node.name].group in ("Convolution", "Linear") and node.name != "class_scores"
        followers = users.get(node.id, [])
        if not weighty or not followers or (only is not None and node.id not in only):
            continue
        if any(LAYERS[_name(experiment, f)].group in ("Normalization", "Heads") for f in followers):
            continue
        small = experiment.training.batch_size < _SMALL_BATCH
        name = "layer_norm" if small or node.lone else _NORMS.get(node.layout, "layer_norm")
        experiment = _inserted(experiment, node.id, Node(id=experiment.fresh_id(name), name=name))
    return experiment


def _with_shortcuts(experiment: Experiment, num_classes: int) -> Experiment:
    """The document with an addition after every two layers with weights that change no shape, of what came before."""
    plan = plan_of(experiment, num_classes)
    users = _users(plan)
    start, weights, before = "", 0, ""
    for node in plan.nodes[:-1]:
        chained = bool(before) and node.inputs == (before,) and users.get(before) == [node.id]
        group = LAYERS[node.name].group
        if not chained or node.shape != plan[start].shape or group not in _PLAIN:
            start, weights = node.id, 0
        else:
            weights += group in ("Convolution", "Linear")
            if weights >= 2 and group == "Activation":
                extra = Node(id=experiment.fresh_id("add"), name="add", inputs=(_latest(experiment, start), node.id))
                experiment = _inserted(experiment, node.id, extra)
                start, weights = node.id, 0
        before = node.id
    return experiment


_PLAIN = ("Convolution", "Linear", "Activation", "Normalization", "Regularization")


def _latest(experiment: Experiment, id: str) -> str:
    """The addition right after a layer, where there is one: what the next shortcut begins from."""
    index = experiment._index(id)
    below = experiment.network[index + 1]
    return below.id if below.name == "add" and below.inputs[-1:] == (id,) else id


def _inserted(experiment: Experiment, above: str, extra: Node) -> Experiment:
    """The document with `extra` right after layer `above`, feeding all that `above` fed."""
    explicit = [n.id for n in experiment.network if above in n.inputs]
    index = experiment._index(above)
    for id in explicit:
        wires = tuple(extra.id if wire == above else wire for wire in experiment.at(f"network.{id}").inputs)
        experiment = experiment._with(
            tuple(n.model_copy(update={"inputs": wires}) if n.id == id else n for n in experiment.network)
        )
    below = experiment.network[index + 1] if index + 1 < len(experiment.network) else None
    if below is not None and below.inputs == (extra.id,):  # fed by the layer above once more: needs no wire
        experiment = experiment.replace(f"network.{below.id}.inputs", ())
    return experiment.insert(extra, above)


def _activated(experiment: Experiment, ids: Collection[str], name: str) -> Experiment:
    nodes = (n.model_copy(update={"name": name, "params": {}}) if n.id in ids else n for n in experiment.network)
    return experiment._with(tuple(nodes))


def _users(plan: Plan) -> dict[str, list[str]]:
    """Which layers each layer feeds."""
    found: dict[str, list[str]] = {}
    for node in plan.nodes:
        for wire in node.inputs:
            found.setdefault(feeder(wire), []).append(node.id)
    return found


def _fed_by(experiment: Experiment, id: str) -> str:
    """The layer that feeds layer `id` first."""
    index = experiment._index(id)
    node = experiment.network[index]
    return feeder(node.inputs[0]) if node.inputs else experiment.network[index - 1].id if index else INPUT


def _length(experiment: Experiment, id: str, num_classes: int) -> int:
    """Steps of the sequence that a layer reads; 0 where that cannot be told."""
    shape = plan_of(experiment, num_classes).along(_fed_by(experiment, id))
    return shape[0] if shape and len(shape) == 2 else 0


def _name(experiment: Experiment, id: str) -> str:
    return next((n.name for n in experiment.network if n.id == id), "")


def _titles(experiment: Experiment, ids: Sequence[str]) -> str:
    """What layers are, in words: "Sigmoid (30 layers)", "ReLU act_b"."""
    names = list(dict.fromkeys(LAYERS[_name(experiment, id)].title for id in ids))
    return f"{' and '.join(names)} " + (f"({len(ids)} layers)" if len(ids) > 1 else f"in {ids[0]}")
