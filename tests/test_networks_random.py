"""Networks drawn at random: what is planned is what is built and exported; what is broken is told and mended.

Seeded (`derandomize`): the same networks on every machine and run. Each is drawn from a true random of its own, so that
three hundred of them differ widely; the first of them are asked in `make test`, all in `make exhaustive`.
"""

from itertools import product
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiers import covering

from builder.catalog import Domain, Flag, Float, Int, LayerSpec, OneOf
from builder.check import problems
from builder.listing import model_source
from builder.network import Planned, assemble_of, plan, plan_of, works_on_each
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Data, Experiment, Node, Problem

CLASSES = 3
MOST = 6  # Int settings are drawn up to here: tiny networks, and sizes that clash
HEAVY = ("builder.blocks.backbone:", "builder.blocks.decoder:", "builder.blocks.head:")
"""Whole known networks have contract tests of their own; hundreds of them would take hours."""
SPECS = {name: spec for name, spec in LAYERS.items() if not spec.target.startswith(HEAVY)}
FEW, ALL = 75, 300
drawn = pytest.mark.parametrize("count", covering([FEW, ALL], lambda place, count: count == FEW))
DRAWN = settings(
    max_examples=ALL,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(rng: Random) -> Data:
    """Data of any layout: pictures, series and volumes, grey or colour."""
    return Data(
        size_px=16,
        slices=rng.choice(["middle", "series", "volume"]),
        num_slices=rng.randint(2, 4),
        colour=rng.choice(["grey", "rgb"]),
    )


def value(rng: Random, domain: Domain) -> Any:
    """A small allowed value of a setting."""
    match domain:
        case Int():
            return rng.randint(domain.low, min(domain.high, max(domain.low, MOST)))
        case Float():
            return rng.uniform(domain.low, domain.high)
        case OneOf():
            return rng.choice(domain.options)
        case Flag():
            return rng.random() < 0.5
    return domain.default


def chosen(rng: Random, spec: LayerSpec) -> dict[str, Any]:
    """Some of the settings; the channels are always small ones."""
    costly = [p for p in spec.params if isinstance(p, Int) and p.default > MOST]
    some = [p for p in spec.params if p not in costly and rng.random() < 0.5]
    return {p.name: value(rng, p) for p in [*costly, *some]}


def picked(rng: Random, among: list[LayerSpec]) -> LayerSpec:
    """One of these layers, each group as likely: else activations and dropouts, which suit anything, crowd them out."""
    group = rng.choice(sorted({spec.group for spec in among}))
    return rng.choice([spec for spec in among if spec.group == group])


def network(rng: Random) -> Experiment:
    """A valid network of up to eight layers, each drawn among those that suit what is there, wired at random."""
    experiment = Experiment(data=inputs(rng))
    for _ in range(rng.randint(1, 8)):
        planned = plan_of(experiment, CLASSES)
        places = {INPUT: (planned.input, planned.layout)} | {n.id: (n.shape, n.layout) for n in planned.nodes}
        wire = rng.choice(list(places)[-3:])
        layout = places[wire][1]
        spec = picked(
            rng, [s for s in SPECS.values() if not s.takes or layout in s.takes or works_on_each(s, [layout])]
        )
        wires: tuple[str, ...] = () if wire == list(places)[-1] else (wire,)
        if spec.inputs > 1:
            alike = [w for w, place in places.items() if place == places[wire]]
            wires = (wire, *(rng.choice(alike) for _ in range(rng.randint(1, 2))))
        node = Node(id=experiment.fresh_id(spec.name), name=spec.name, params=chosen(rng, spec), inputs=wires)
        tried = experiment.insert(node)
        for _ in range(3):  # a setting that does not suit is set to the value that the planner says would
            last = plan_of(tried, CLASSES).nodes[-1]
            if last.value is not None:
                tried = tried.replace(f"network.{node.id}.{last.where}", last.value)
        last = plan_of(tried, CLASSES).nodes[-1]
        if not last.message and last.activations < 50_000:
            experiment = tried
    return experiment if experiment.network else network(rng)


@pytest.mark.slow
@drawn
def test_a_random_network_is_what_was_planned_and_its_exported_code_computes_the_same(count: int) -> None:
    seen: set[str] = set()

    @settings(DRAWN, max_examples=count)
    @given(st.randoms(use_true_random=True))
    def holds(rng: Random) -> None:
        experiment = network(rng)
        as_planned_and_exported(experiment)
        seen.update(n.name for n in experiment.network)

    holds()
    assert len(seen) > (0.9 if count == ALL else 0.7) * len(SPECS), f"never drawn: {sorted(set(SPECS) - seen)}"


def as_planned_and_exported(experiment: Experiment) -> None:
    """Every layer's shape for one scan and for three, the parameters, and the exported code's answer, bit for bit."""
    planned = plan_of(experiment, CLASSES)
    assert [n.message for n in planned.nodes] == [""] * len(planned.nodes)
    net = assemble_of(experiment, CLASSES, seed=0).eval()
    space: dict[str, Any] = {}
    exec(compile(model_source(experiment, CLASSES), "model.py", "exec"), space)
    owned = space["Model"]().eval()
    owned.load_state_dict({name.removeprefix("layers."): value for name, value in net.state_dict().items()})
    assert sum(p.numel() for p in net.parameters()) == planned.parameters
    real: dict[str, Any] = {}

    def shapes(out: Any) -> Any:
        return tuple(map(shapes, out)) if isinstance(out, tuple) else tuple(out.shape)  # several, where taps are told

    for id, layer in net.layers.items():
        layer.register_forward_hook(lambda _, __, out, id=id: real.update({id: shapes(out)}))
    extreme = any(n.params.get("fill") == "lowest" for n in experiment.network)  # a border of -3e38 may overflow
    with torch.no_grad():
        for batch in (1, 3):
            scans = torch.randn(batch, *planned.input, generator=torch.Generator().manual_seed(0))
            out = net(scans)
            assert real == {
                n.id: tuple((batch, *tap) for tap in n.taps) if n.taps else (batch, *(n.shape or ()))
                for n in planned.nodes
            }
            torch.testing.assert_close(owned(scans), out, rtol=0, atol=0, equal_nan=True)
            assert extreme or torch.isfinite(out).all()
    assert Experiment.loads(experiment.dumps()) == experiment


WRONG_VALUES = [-1, 0, 7, 10**6, 0.5, "x", "", None, True, 3.0]


def broken(rng: Random) -> Experiment:
    """A network of up to six layers, drawn without looking: wrong names, settings, values, wires and layouts."""
    experiment = Experiment(data=inputs(rng))
    for _ in range(rng.randint(1, 6)):
        spec = picked(rng, list(SPECS.values())) if rng.randint(0, 11) else None
        name = spec.name if spec else rng.choice(["conv4d", "wat", "globalpool", "Linear"])
        params = chosen(rng, spec) if spec else {}
        if rng.randint(0, 4) == 0:
            settings = [p.name for p in spec.params] if spec else []
            params[rng.choice([*settings, "kernel", "out_chanels"])] = rng.choice(WRONG_VALUES)
        ids = [INPUT, *(n.id for n in experiment.network)]
        own = experiment.fresh_id(name)
        strange = [*ids, own, "nowhere", f"{ids[-1]}:2"] if rng.randint(0, 4) == 0 else ids
        joins = spec is not None and spec.inputs > 1
        count = rng.choice([1, 2, 2, 2, 3] if joins else [0, 0, 0, 0, 1, 2])
        wires = rng.choices(strange, k=count)
        experiment = experiment.insert(Node(id=own, name=name, params=params, inputs=tuple(wires)))
    return experiment


def told(experiment: Experiment) -> list[Problem]:
    """The errors of the network, each with its place."""
    return [p for p in problems(experiment) if p.severity == "error" and p.path.startswith("network")]


@pytest.mark.slow
@drawn
def test_a_broken_network_is_told_with_its_place_and_its_repairs_repair(count: int) -> None:
    offered: set[str] = set()

    @settings(DRAWN, max_examples=count)
    @given(st.randoms(use_true_random=True))
    def holds(rng: Random) -> None:
        experiment = broken(rng)
        while not any(n.message for n in plan_of(experiment, 2).nodes):
            experiment = broken(rng)
        follow(experiment, offered)

    holds()
    wanted = {
        "Match channels with",
        "Resize to",
        "Put global pooling",
        "Remove this layer",
        "Feed it",
        "Pool over time",
    }
    never = [words for words in wanted if not any(repair.startswith(words) for repair in offered)]
    assert len(never) <= (0 if count == ALL else 2), f"never offered: {never}"


def follow(experiment: Experiment, offered: set[str]) -> None:
    """Presses the first repair button until nothing is wrong, and looks at every problem on the way."""
    for _ in range(40):
        found = told(experiment)
        if not found:
            break
        for problem in found:
            check(experiment, problem)
            offered.add(problem.repair)
        mendable = [p for p in found if p.fix is not None]
        assert mendable or len(experiment.network) == 1, [(p.path, p.message) for p in found]
        if not mendable:
            break
        assert mendable[0].fix is not None
        experiment = mendable[0].fix
    else:
        raise AssertionError(
            f"forty repairs did not mend it: {[(p.path, p.message, p.repair) for p in told(experiment)]}"
        )


def check(experiment: Experiment, problem: Problem) -> None:
    """One problem: a place that is there, a sentence, and a repair that takes it away and harms no other layer."""
    ids = {n.id for n in experiment.network}
    assert problem.path.split(".")[1] in ids
    assert problem.message.endswith((".", "?")) and "Traceback" not in problem.message
    if problem.fix is None:
        return
    assert problem.repair
    assert (problem.path, problem.message) not in [(p.path, p.message) for p in told(problem.fix)]
    before, after = plan_of(experiment, 2), plan_of(problem.fix, 2)
    well = {n.id for n in before.nodes if n.shape is not None}
    assert not [harmed(n) for n in after.nodes if n.message and n.id in well]


def harmed(node: Planned) -> str:
    return f"{node.id}: {node.message}"


@pytest.mark.parametrize("share", covering(range(4), lambda place, share: share == 0))
def test_every_pair_of_layers_either_plans_or_says_why_in_a_sentence(share: int) -> None:
    # Every fourth pair, so that each layer is first and second of many; the others are asked by `make exhaustive`.
    pairs = [(a, b) for (n, a), (m, b) in product(enumerate(SPECS), repeat=2) if (n + m) % 4 == share]
    for shape, layout in (((8, 12, 12), "maps"), ((3, 2, 12, 12), "series"), ((2, 4, 12, 12), "volume")):
        for one, two in pairs:
            nodes = [Node(id="a", name=one), Node(id="b", name=two)]
            for node in plan(nodes, shape, CLASSES, layout).nodes:
                assert node.shape is not None or not node.message or node.message.endswith("."), node
