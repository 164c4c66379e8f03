"""What ails a network that learns, in words, from the looks into its layers and from its curves.

Thresholds are orders of magnitude: healthy networks, as our starters are, stay well clear of them, ill ones go far
beyond. Each finding brings its evidence and the layers it is about; what may help is said by `cures`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from builder.events import RunView
from builder.network import plan_of
from builder.parts.layers import LAYERS
from builder.probes import Probes
from builder.spec import INPUT, Experiment, feeder
from builder.task import find

__all__ = ["KINDS", "Finding", "diagnose", "several"]

KINDS = {
    "broke": "Numbers ran away",
    "rate-high": "The learning rate is too high",
    "exploding": "The gradient explodes",
    "vanishing": "The gradient vanishes on its way back",
    "dead": "Units behind a ReLU are dead",
    "saturated": "Sigmoid or tanh is saturated",
    "no-gradient": "Layers that no gradient reaches",
    "rate-low": "The learning rate is too low",
    "forgets": "The recurrent layer forgets",
    "start": "The first answers are far from chance",
}
"""Everything that can be found, the most pressing first, with its title."""

FAINT = 1e-4  # of the loudest layer's gradient; at a layer that gets less, learning stands still
WILD_STEP = 0.2  # of the length of a layer's own weights, in one step
STILL_STEP = 1e-4  # the same of the liveliest layer
LOUD = 1e3  # length of the gradient of the whole network
GROWTH = 1e3  # of that length since the beginning
REACH = 100.0  # times more gradient at the first step of a sequence than at the last
DEAD = (
    0.8  # share of dead channels; behind a linear layer a healthy network may have 60 % that the few scans never wake
)
FLAT = 0.5  # share of saturated values
FAR = 5.0  # times the loss of guessing, before the first step
FORGOTTEN = {"rnn": 1e-4, "lstm": 1e-6, "gru": 1e-6}  # share of the last step's gradient that reaches the first
_RECENT = 5  # looks that stand for "now"
_SHORT = 8  # steps of a sequence that nothing is said about


@dataclass(frozen=True)
class Finding:
    """Something that ails the network.

    Attributes:
        kind: of `KINDS`. words: the evidence, in one or two sentences. layers: ids of those concerned, in order.
        step: optimizer step of the newest look that it rests on. pressing: it spoils the training; else a hint.
    """

    kind: str
    words: str
    layers: tuple[str, ...] = ()
    step: int = 0
    pressing: bool = True

    @property
    def title(self) -> str:
        """The finding in a few words."""
        return KINDS[self.kind]


def diagnose(view: RunView, experiment: Experiment, num_classes: int = 0) -> list[Finding]:
    """What ails the run so far, the most pressing first; [] for a healthy one. `num_classes`: of the data; 0 = unknown.

    Consequences of a cause that is found are not told beside it where they tell nothing new.
    """
    case = _Case(view, experiment, num_classes)
    found = [finding for look in _LOOKS for finding in look(case)]
    kinds = {finding.kind for finding in found}
    silenced: set[str] = set()
    if "rate-high" in kinds:
        silenced |= {"start", "vanishing", "no-gradient", "forgets"}
        if not case.loud_at_first:
            silenced.add("exploding")
    if "exploding" in kinds:
        silenced |= {"start", "vanishing", "forgets"} | ({"rate-high"} if case.loud_at_first else set())
    order = list(KINDS)
    return sorted((f for f in found if f.kind not in silenced), key=lambda f: order.index(f.kind))


class _Case:
    """A run with what is asked of it again and again."""

    def __init__(self, view: RunView, experiment: Experiment, num_classes: int) -> None:
        self.view, self.experiment, self.num_classes = view, experiment, num_classes
        self.probes: Probes = view.probes
        self.step = self.probes.steps[-1] if self.probes.steps else 0
        known = self.probes.known("gradient")
        self.learned = [node.id for node in experiment.network if node.id in known]
        self.names = {node.id: node.name for node in experiment.network}
        self.losses = view.curves.get("train/loss", ([], []))[1]
        self.totals = self._totals()
        """Length of the whole gradient at each look."""

    def _totals(self) -> list[float]:
        rows = [self.probes.row(id, "gradient") for id in self.learned]
        return [math.sqrt(sum(v * v for v in column)) for column in zip(*rows, strict=True)] if rows else []

    @property
    def loud_at_first(self) -> bool:
        """Whether the gradient was wild before any step had been taken."""
        reaches = [self.probes.row(id, "reach")[:1] for id in self.names if self.probes.row(id, "reach")]
        return bool(self.totals and self.totals[0] > LOUD) or any(r and r[0] > REACH for r in reaches)

    def now(self, id: str, measure: str) -> float:
        """The median of the newest looks; NaN where nothing is known."""
        values = self.probes.last(id, measure, _RECENT)
        return median(values) if values else math.nan


# -- one kind after the other ----------------------------------------------------------------------------------------


def _broke(case: _Case) -> Iterator[Finding]:
    broke = case.view.broke
    if broke is None:
        return
    where = {
        "output": f"what came out of {broke.layer}",
        "gradient": f"the gradient of {broke.layer or 'the network'}",
        "weights": f"the weights of {broke.layer}",
    }.get(broke.what, "the loss")
    batch = f" on a batch of {len(broke.cases)} scans" if broke.cases else ""
    words = f"In epoch {broke.epoch}, at step {broke.step}, {where} was no finite number any more{batch}."
    before = [t for t in case.totals if math.isfinite(t)]
    if len(before) > 1 and before[-1] > 10 * before[0]:
        words += f" The gradient had grown {times(before[-1] / before[0])} since the first step."
    yield Finding("broke", words, (broke.layer,) if broke.layer else (), broke.step)


def _rate_high(case: _Case) -> Iterator[Finding]:
    rows = [case.probes.row(id, "update") for id in case.learned]
    rows = [row for row in rows if row]
    columns = [[v for v in column if not math.isnan(v)] for column in zip(*rows, strict=True)]
    typical = [median(column) for column in columns if column]
    wild = [v for v in typical if v > WILD_STEP]
    if len(wild) < 2 and not (wild and case.view.broke is not None and len(typical) < 3):
        return
    told = [id for id in case.learned if max(case.probes.last(id, "update", len(typical)), default=0.0) > WILD_STEP]
    words = (
        f"A single step of the optimizer changed the weights by up to {_percent(max(typical))} of their own length; "
        "about 0.1 % is usual, and above 20 % what was learned before is thrown away."
    )
    first = next(iter(case.view.curves.get("step/loss", ([], []))[1]), math.nan)
    worst = max((v for v in case.losses if math.isfinite(v)), default=math.nan)
    if worst > 2 * first:
        words += f" The loss rose from {first:.3g} at the start to {worst:.3g}."
    yield Finding("rate-high", words, tuple(told), case.step)


def _exploding(case: _Case) -> Iterator[Finding]:
    finite = [(k, t) for k, t in enumerate(case.totals) if math.isfinite(t)]
    said, layers = [], []
    for id in case.names:
        reach = case.now(id, "reach")
        if reach > REACH:
            said.append(f"On its way back through the steps of {id} the gradient grows {times(reach)}.")
            layers.append(id)
    if finite:
        begin = median([t for _, t in finite[:3]])
        most = max(t for _, t in finite)
        if case.totals[0] > LOUD or (len(finite) > 3 and most > GROWTH * begin and most > LOUD):
            said.append(
                f"The gradient of the whole network is up to {most:,.0f} long"
                + (f", {times(most / begin)} longer than at the beginning." if most > 10 * begin else ".")
            )
            if not layers:
                layers = [max(case.learned, key=lambda id: max(case.probes.last(id, "gradient", 400), default=0.0))]
    if len(case.learned) > 2:
        low, high = case.now(case.learned[0], "gradient"), case.now(case.learned[-1], "gradient")
        if high > 0 and low / high > 1 / FAINT:
            said.append(f"The gradient of {case.learned[0]} is {times(low / high)} longer than {case.learned[-1]}'s.")
            layers = layers or [case.learned[0]]
    if said:
        yield Finding("exploding", " ".join(said), tuple(layers), case.step)


def _vanishing(case: _Case) -> Iterator[Finding]:
    if len(case.probes.steps) < 2 or len(case.learned) < 3:
        return
    lengths = {id: case.now(id, "gradient") for id in case.learned}
    loudest = max(case.learned[len(case.learned) // 2 :], key=lambda id: lengths[id])
    if not lengths[loudest] > 0 or _deaf(case):
        return
    joined = _feeding(case.experiment)
    faint = [id for id in case.learned if lengths[id] < FAINT * lengths[loudest] and id in joined]
    first = next((id for id in case.learned if id in joined), "")
    if first not in faint or faint == [loudest]:
        return
    quiet = lengths[first]
    size = "too small to be told from zero" if quiet == 0 else f"{times(lengths[loudest] / quiet)} smaller than that of"
    words = (
        f"The gradient of {first} is {size}"
        + (f", while that of {loudest} is {lengths[loudest]:.2g}" if quiet == 0 else f" {loudest}")
        + f": {several(faint)} hardly learn{'s' if len(faint) == 1 else ''} anything."
    )
    kinds = {case.names[id] for id in case.names} & {"sigmoid", "tanh", "softmax"}
    if kinds:
        title = " and ".join(sorted(LAYERS[name].title.lower() for name in kinds))
        share = "a quarter" if kinds == {"sigmoid"} else "a part"
        words += f" Each {title} on the way lets at most {share} of it through."
    yield Finding("vanishing", words, tuple(faint), case.step)


def _deaf(case: _Case) -> bool:
    """Whether a layer lets nothing back because all its units are dead: that is then the cause."""
    return any(case.now(id, "dead") > 0.99 for id in case.names)


def _dead(case: _Case) -> Iterator[Finding]:
    shares = {id: case.probes.last(id, "dead", 2) for id in case.names}
    ill = {id: values[-1] for id, values in shares.items() if len(values) == 2 and values[-1] >= DEAD}
    if not ill:
        return
    worst = max(ill, key=lambda id: ill[id])
    words = (
        f"Of the channels behind {worst}, {_percent(ill[worst])} gave nothing but zeros in all of the last batches: no "
        "gradient passes them, so they cannot come back by themselves."
    )
    others = [id for id in ill if id != worst]
    if others:
        words += f" The same is seen behind {several(others)}."
    yield Finding("dead", words, tuple(ill), case.step)


def _saturated(case: _Case) -> Iterator[Finding]:
    ill = {id: case.now(id, "saturated") for id in case.names if len(case.probes.last(id, "saturated", 3)) > 1}
    ill = {id: share for id, share in ill.items() if share >= FLAT}
    if not ill:
        return
    worst = max(ill, key=lambda id: ill[id])
    words = (
        f"Of what comes out of {worst}, {_percent(ill[worst])} lies at its flat ends, where hardly any gradient passes."
    )
    others = [id for id in ill if id != worst]
    if others:
        words += f" So it is with {several(others)}."
    yield Finding("saturated", words, tuple(ill), case.step)


def _no_gradient(case: _Case) -> Iterator[Finding]:
    if len(case.probes.steps) < 3:
        return
    most = {id: max(case.probes.last(id, "gradient", len(case.probes.steps)), default=0.0) for id in case.learned}
    joined = _feeding(case.experiment)
    idle = [id for id in case.learned if most[id] == 0 and id not in joined]
    if idle and any(most.values()):
        words = (
            f"Nothing that {several(idle)} give{'s' if len(idle) == 1 else ''} reaches the network's answer: no "
            "gradient has ever come, and none can."
        )
        yield Finding("no-gradient", words, tuple(idle), case.step, pressing=False)


def _rate_low(case: _Case) -> Iterator[Finding]:
    if len(case.losses) < 2 or len(case.probes.steps) < 4:
        return
    rows = [row for id in case.learned if (row := case.probes.row(id, "update"))]
    liveliest = [max((v for v in column if not math.isnan(v)), default=0.0) for column in zip(*rows, strict=True)]
    gain = (case.losses[0] - min(case.losses[1:])) / max(abs(case.losses[0]), 1e-12)
    if liveliest and max(liveliest) < STILL_STEP and gain < 0.02:
        words = (
            f"No layer moved its weights by more than {max(liveliest):.1g} of their length in a step (about 0.001 is "
            f"usual), and in {len(case.losses)} epochs the loss went from {case.losses[0]:.4g} to only "
            f"{case.losses[-1]:.4g}."
        )
        yield Finding("rate-low", words, tuple(case.learned), case.step)


def _forgets(case: _Case) -> Iterator[Finding]:
    for node in case.experiment.network:
        reach, heard = case.now(node.id, "reach"), case.now(node.id, "heard")
        if node.name not in FORGOTTEN or not reach < FORGOTTEN[node.name] or len(case.probes.steps) < 2:
            continue
        shape = plan_of(case.experiment, max(2, case.num_classes)).along(
            next(iter(node.inputs), "") or _above(case.experiment, node.id)
        )
        length = shape[0] if shape else 0
        learns = len(case.losses) < 2 or case.losses[-1] < 0.9 * case.losses[0]
        if node.params.get("output", "last state") != "last state" or length < _SHORT or heard > length / 2:
            continue
        if node.name != "rnn" and learns:  # gates begin half open and learn to hold: only where nothing comes of it
            continue
        share = "nothing" if reach == 0 else f"1 part in {_big(1 / reach)}"
        words = (
            f"Of the gradient at the last of {length} steps, {share} reaches the first one in {node.id}: only the last "
            f"{heard:.0f} steps count for what is learned."
        )
        yield Finding("forgets", words, (node.id,), case.step, pressing=False)


def _start(case: _Case) -> Iterator[Finding]:
    experiment = case.experiment
    if find(experiment.task).learns != ("class",) or experiment.training.loss.name != "usual" or not case.num_classes:
        return
    steps, values = case.view.curves.get("step/loss", ([], []))
    chance = math.log(max(2, case.num_classes))
    if steps and steps[0] == 1 and values[0] > FAR * chance + 1:
        words = (
            f"Before anything was learned the loss was {values[0]:.3g}; guessing would have cost {chance:.3g}. The "
            "network begins with strong opinions, which it has to unlearn first."
        )
        yield Finding("start", words, (case.experiment.network[-1].id,), 1, pressing=False)


_LOOKS = (
    *(_broke, _rate_high, _exploding, _vanishing, _dead, _saturated),
    *(_no_gradient, _rate_low, _forgets, _start),
)


# -- words and wires -------------------------------------------------------------------------------------------------


def _above(experiment: Experiment, id: str) -> str:
    index = next(k for k, node in enumerate(experiment.network) if node.id == id)
    return experiment.network[index - 1].id if index else INPUT


def _feeding(experiment: Experiment) -> set[str]:
    """Ids of the layers on whose output the network's answer depends."""
    found: set[str] = set()
    wanted = [experiment.network[-1].id]
    by_id = {node.id: node for node in experiment.network}
    while wanted:
        id = wanted.pop()
        if id in found or id not in by_id:
            continue
        found.add(id)
        wanted += [feeder(wire) for wire in by_id[id].inputs or (_above(experiment, id),)]
    return found


def several(ids: Sequence[str]) -> str:
    """Names of layers for a sentence: "conv_1, conv_2 and 27 more"."""
    if len(ids) < 4:
        return " and ".join(filter(None, (", ".join(ids[:-1]), ids[-1]))) if ids else ""
    return f"{', '.join(ids[:2])} and {len(ids) - 2} more"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def times(ratio: float) -> str:
    """A factor in words: 3.2 times, 40,000 times, 10^20 times."""
    return f"{_big(ratio)} times"


def _big(number: float) -> str:
    if not math.isfinite(number):
        return "endlessly many"
    if number >= 1e7:
        return f"10^{math.floor(math.log10(number))}"
    if number < 10:
        return f"{number:.1f}"
    digits = 10 ** (math.floor(math.log10(number)) - 1)
    return f"{round(number / digits) * digits:,}"
