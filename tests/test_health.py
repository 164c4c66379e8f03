"""Planted pathologies are diagnosed in the right words, the first cure helps, healthy networks are left in peace; and
watching changes nothing of what is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from builder import health, learner, network
from builder.blocks.initial import begin
from builder.cures import Cure, cures
from builder.diagnosis import KINDS, Finding, diagnose
from builder.learner import Learner, NotFinite
from builder.network import plan_of
from builder.probes import MEASURES, Probes
from builder.runs import Broke, Probed, Resumed, RunView, decode, encode, fold
from builder.spec import Choice, Data, Experiment, Node
from builder.task import find
from builder.tripwire import Tripwire
from tests.test_train import AUGMENT, PLAIN, SIZE, TRICKY, Made, digest, experiment, run

CONSTANT = Choice(name="constant")


def rate(name: str, lr: float) -> Choice:
    return Choice(name=name, params={"lr": lr})


@dataclass
class Seen:
    """A training, its record, and what was found in it."""

    experiment: Experiment
    events: list[Any]
    view: RunView
    found: list[Finding]

    @property
    def kinds(self) -> list[str]:
        return [finding.kind for finding in self.found]

    @property
    def losses(self) -> list[float]:
        return list(self.view.curves.get("train/loss", ([], []))[1])

    def __getitem__(self, kind: str) -> Finding:
        return next(finding for finding in self.found if finding.kind == kind)

    def cures(self, kind: str) -> list[Cure]:
        return cures(self[kind], self.experiment, 2)


Watched = Callable[..., Seen]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """Trains a document on made-up scans and says what was seen in it."""
    dataset = Made(tmp_path / "data", (96, 16))
    count = iter(range(99))

    def watch(document: Experiment, epochs: int | None = None) -> Seen:
        if epochs:
            document = document.replace("training.epochs", epochs)
        folder = tmp_path / str(next(count))
        folder.mkdir()
        events = run(document, dataset, folder)
        view = fold(events)
        return Seen(document, events, view, diagnose(view, document, 2))

    return watch


def deep(activation: str, layers: int = 30) -> tuple[Node, ...]:
    """A plain stack of convolutions."""
    nodes: list[Node] = []
    for k in range(layers):
        nodes += [
            Node(id=f"conv_{k}", name="conv2d", params={"out_channels": 6}),
            Node(id=f"act_{k}", name=activation),
        ]
    return (*nodes, Node(id="pool", name="adaptive_pool", params={"size": 4}), Node(id="flat", name="flatten"), HEAD)


HEAD = Node(id="head", name="class_scores")


def recurrent(kind: str = "rnn", **params: Any) -> tuple[Node, ...]:
    return (Node(id="rows", name="rows_as_sequence"), Node(id="memory", name=kind, params=params), HEAD)


# -- what is planted is found, and the first cure helps ---------------------------------------------------------------


def test_thirty_layers_of_sigmoid_vanish_and_the_first_cure_makes_the_loss_fall(watched: Watched) -> None:
    ill = watched(experiment(deep("sigmoid"), epochs=2, optimizer=rate("adamw", 0.01)))
    assert ill.kinds == ["vanishing"]
    words = ill["vanishing"].words
    assert "conv_0" in words and "sigmoid" in words and len(ill["vanishing"].layers) > 15
    assert "head" not in ill["vanishing"].layers
    assert ill.losses[-1] > 0.65
    cure = ill.cures("vanishing")[0]
    assert "ReLU" in cure.words and "norm" in cure.words
    cured = watched(cure.experiment, 5)
    assert cured.losses[-1] < 0.5 and cured.found == []


def explosive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every vanilla RNN begin with recurrent weights that let its state grow from step to step."""
    real = network.assemble

    def assemble(*args: Any, **settings: Any) -> nn.Module:
        model: Any = real(*args, **settings)
        for part in model.modules():
            if isinstance(part, nn.RNN):
                nn.init.orthogonal_(part.get_parameter("weight_hh_l0"), gain=3.0)
        return model

    monkeypatch.setattr(network, "assemble", assemble)


def test_an_exploding_rnn_is_named_and_gates_make_the_loss_fall(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    explosive(monkeypatch)
    document = experiment(
        recurrent(activation="relu", units=32), epochs=2, optimizer=rate("adamw", 0.005), clip_norm=0.0
    )
    ill = watched(document)
    assert ill.kinds[0] == "exploding" and "forgets" not in ill.kinds and "vanishing" not in ill.kinds
    assert ill["exploding"].layers[0] == "memory" and "steps of memory" in ill["exploding"].words
    ways = ill.cures("exploding")
    assert [w for w in ways if w.experiment.training.clip_norm == 1.0]
    assert [w for w in ways if w.experiment.at("network.memory").params.get("bptt")]
    assert [w for w in ways if w.experiment.training.init == "orthogonal"]
    assert ways[0].experiment.at("network.memory").name == "gru"
    assert ill.losses[-1] > 1.0
    cured = watched(ways[0].experiment, 6)
    assert cured.losses[-1] < 0.6 and "exploding" not in cured.kinds


def test_dead_relus_are_counted_and_a_leaky_one_makes_the_loss_fall(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = network.assemble

    def assemble(*args: Any, **settings: Any) -> nn.Module:
        model: Any = real(*args, **settings)
        torch.nn.init.constant_(model.layers["conv_b"].bias, -9.0)  # as one step too long leaves them
        return model

    monkeypatch.setattr(network, "assemble", assemble)
    ill = watched(experiment(epochs=2, optimizer=rate("adamw", 0.003)))
    assert ill.kinds == ["dead"] and ill["dead"].layers == ("act_b",) and "100 %" in ill["dead"].words
    assert ill.losses[-1] > 0.65
    ways = ill.cures("dead")
    assert ways[0].experiment.at("network.act_b").name == "leaky_relu"
    assert any("norm" in w.words for w in ways) and any("ate" in w.words for w in ways)
    cured = watched(ways[0].experiment, 20)
    assert cured.losses[-1] < 0.6 and cured.found == []


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_of_ten_is_too_high_and_the_usual_one_makes_the_loss_fall(
    watched: Watched, optimizer: str
) -> None:
    ill = watched(experiment(epochs=2, optimizer=rate(optimizer, 10.0)))
    assert ill.kinds[0] == "rate-high" and not {"exploding", "vanishing", "start"} & set(ill.kinds)
    assert ill.losses[0] > 2
    cure = ill.cures("rate-high")[0]
    assert "the usual one" in cure.words and cure.experiment.training.optimizer.params["lr"] in (0.001, 0.05)
    cured = watched(cure.experiment, 5)
    assert cured.losses[-1] < 0.6 and cured.found == []


def test_a_learning_rate_of_a_millionth_is_too_low(watched: Watched) -> None:
    ill = watched(experiment(epochs=2, optimizer=rate("adam", 1e-6), schedule=CONSTANT))
    assert ill.kinds == ["rate-low"]
    cured = watched(ill.cures("rate-low")[0].experiment, 4)
    assert cured.losses[-1] < 0.6 and cured.found == []


def test_a_saturated_tanh_is_found(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    real = network.assemble

    def assemble(*args: Any, **settings: Any) -> nn.Module:
        model: Any = real(*args, **settings)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data.mul_(40)
        return model

    monkeypatch.setattr(network, "assemble", assemble)
    nodes = tuple(n.model_copy(update={"name": "tanh"}) if n.name == "relu" else n for n in PLAIN)
    ill = watched(experiment(nodes, epochs=2))
    assert ill.kinds == ["saturated"] and set(ill["saturated"].layers) == {"act", "act_b"}
    assert all(n.name != "tanh" for n in ill.cures("saturated")[0].experiment.network)


def test_a_layer_that_feeds_nothing_gets_no_gradient_and_is_taken_out(watched: Watched) -> None:
    idle = Node(id="idle", name="conv2d", params={"out_channels": 4}, inputs=("conv",))
    act = PLAIN[1].model_copy(update={"inputs": ("conv",)})
    ill = watched(experiment((PLAIN[0], idle, act, *PLAIN[2:]), epochs=2))
    assert ill.kinds == ["no-gradient"] and ill["no-gradient"].layers == ("idle",)
    assert "idle" not in [n.id for n in ill.cures("no-gradient")[0].experiment.network]


def test_a_vanilla_rnn_that_hears_only_the_last_steps_forgets(watched: Watched) -> None:
    ill = watched(experiment(recurrent(units=32), epochs=2, optimizer=rate("adamw", 0.003)))
    assert ill.kinds == ["forgets"] and not ill["forgets"].pressing
    assert "of 16 steps" in ill["forgets"].words
    names = [cure.experiment.at("network.memory").name for cure in ill.cures("forgets")]
    assert names[:2] == ["gru", "lstm"]
    assert "forgets" not in watched(ill.cures("forgets")[0].experiment).kinds


def test_numbers_that_run_away_name_the_layer_and_the_scans_of_the_batch(watched: Watched) -> None:
    ill = watched(experiment(epochs=9, optimizer=rate("sgd", 10.0), clip_norm=0.0, l2=1.0, schedule=CONSTANT))
    broke = next(event for event in ill.events if isinstance(event, Broke))
    assert ill.view.broke == broke and ill.view.status == "failed"
    assert broke.layer in {n.id for n in PLAIN} and len(broke.cases) == 16 and set(broke.cases) <= set(range(96))
    assert f"c{broke.cases[0]:06d}" in ill.view.reason and "and 8 more" in ill.view.reason
    assert ill.kinds[0] == "broke" and "rate-high" in ill.kinds
    assert f"step {broke.step}" in ill["broke"].words
    ways = ill.cures("broke")
    assert 1.0 in [way.experiment.training.clip_norm for way in ways]
    assert watched(ways[0].experiment, 2).view.status == "done"


def test_a_gpu_that_computes_ahead_names_step_layer_and_batch_all_the_same(tmp_path: Path) -> None:
    dataset: Any = Made(tmp_path / "data", (96, 0))
    document = experiment(epochs=9, optimizer=rate("sgd", 10.0), clip_norm=0.0, l2=1.0, schedule=CONSTANT)

    def ahead(steps: int, look: str = "look") -> NotFinite | None:
        """Steps without a look in between, as on a graphics card, and one look at the end."""
        learner = Learner(document, find("recognition"), dataset, dataset.made, tmp_path, torch.device("cpu"))
        learner.wire = Tripwire(list(learner.model.named_parameters()), torch.device("cpu"))
        for _ in range(steps):
            order = learner.order(learner.place.epoch)
            learner.update([order[start:end] for start, end in learner.updates[learner.place.update]])
            if learner.place.update == len(learner.updates):
                learner.place.epoch, learner.place.update = learner.place.epoch + 1, 0
        try:
            getattr(learner, look)()
        except NotFinite as error:
            return error
        return None

    told = next(e for e in run(document, dataset, tmp_path / "cpu") if isinstance(e, Broke))
    assert told.layer and ahead(told.step - 1) is None
    # Also where an epoch ends before the next look.
    for found in (ahead(told.step + 4), ahead(told.step + 3, "judge")):
        assert found is not None
        for name in ("step", "epoch", "layer", "what", "cases"):
            assert getattr(found.broke, name) == getattr(told, name), name


def test_where_the_steps_do_not_break_again_step_and_batch_are_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums on a graphics card may come in another order, or there is no time to look: then the layer is not named."""
    monkeypatch.setattr(learner, "_SEEN_AGAIN_S", -1.0)
    dataset: Any = Made(tmp_path / "data", (96, 0))
    document = experiment(epochs=9, optimizer=rate("sgd", 10.0), clip_norm=0.0, l2=1.0, schedule=CONSTANT)
    ahead = Learner(document, find("recognition"), dataset, dataset.made, tmp_path, torch.device("cpu"))
    ahead.wire = Tripwire(list(ahead.model.named_parameters()), torch.device("cpu"))
    order = ahead.order(1)
    for update in ahead.updates:
        ahead.update([order[start:end] for start, end in update])
    with pytest.raises(NotFinite, match="noticed a moment after it happened") as found:
        ahead.look()
    assert found.value.broke.layer == "" and len(found.value.broke.cases) == 16


def test_the_length_of_the_gradient_is_that_of_torch() -> None:
    model = network.assemble_of(experiment(TRICKY), 2, seed=0)
    wire = Tripwire(list(model.named_parameters()), torch.device("cpu"))
    model(torch.randn(4, 1, SIZE, SIZE)).square().sum().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    batch = np.array([3, 4])
    assert torch.equal(wire.note(1, 1, batch, torch.zeros(())), nn.utils.get_total_norm(grads))
    assert wire.tripped() is None
    weight = model.get_parameter("layers.conv.weight")
    assert weight.grad is not None
    weight.grad[0] = math.inf
    wire.note(2, 1, batch, torch.zeros(()))
    weight.grad = None
    wire.note(3, 1, batch[:1], torch.tensor(math.nan))
    tripped = wire.tripped()
    assert tripped is not None and (tripped.step, tripped.parameter) == (2, "layers.conv.weight")
    assert list(tripped.batch) == [3, 4]


# -- no false alarms --------------------------------------------------------------------------------------------------

STARTERS = ["tiny-cnn", "vgg-style", "small-cnn"]


@pytest.mark.parametrize("name", STARTERS)
def test_nothing_is_found_in_a_starter_that_learns(watched: Watched, name: str) -> None:
    starter = next(e for e in find("recognition").starters() if e.name == name)
    document = starter.model_copy(update={"data": Data(size_px=SIZE)})
    seen = watched(document.replace("training.augment", ()).replace("training.batch_size", 16), 2)
    assert seen.view.probes.steps[:3] == [1, 2, 3]
    assert seen.found == []


@pytest.mark.parametrize(
    "nodes", [PLAIN, TRICKY, recurrent("gru"), deep("relu", 4)], ids=["plain", "norm", "gru", "deep"]
)
def test_nothing_is_found_in_a_plain_network_that_learns(watched: Watched, nodes: tuple[Node, ...]) -> None:
    assert watched(experiment(nodes, epochs=3)).found == []


# -- cures ------------------------------------------------------------------------------------------------------------


def test_every_cure_changes_the_document_and_keeps_its_network_whole() -> None:
    start = experiment(deep("sigmoid", 6), optimizer=rate("adam", 0.5), clip_norm=0.0)
    for kind in KINDS:
        for cure in cures(Finding(kind, "", ("act_1", "act_2")), start):
            assert start.diff(cure.experiment), cure.words
            assert not any(node.message for node in plan_of(cure.experiment, 2).nodes), cure.words
            assert Experiment.loads(cure.experiment.dumps()) == cure.experiment


def test_shortcuts_add_what_came_before_to_what_comes_after_two_layers() -> None:
    found = Finding("vanishing", "", ("conv_0",))
    edited = next(c for c in cures(found, experiment(deep("relu", 6))) if "shortcuts" in c.words).experiment
    adds = [node for node in edited.network if node.name == "add"]
    assert len(adds) == 2  # the first layer changes the number of channels; the sixth is left over
    assert adds[1].inputs[0] == adds[0].id  # the gradient finds a way along additions only
    model = network.assemble_of(edited, 2, seed=0)
    assert model(torch.zeros(2, 1, SIZE, SIZE)).shape == (2, 2)


def test_a_norm_is_put_on_every_wire_that_a_layer_feeds() -> None:
    wired = (
        Node(id="conv", name="conv2d", params={"out_channels": 4}),
        Node(id="act", name="relu"),
        Node(id="side", name="relu6", inputs=("conv",)),
        Node(id="sum", name="add", inputs=("act", "side")),
        Node(id="pool", name="global_pool"),
        HEAD,
    )
    edited = next(c for c in cures(Finding("start", ""), experiment(wired)) if "norm" in c.words).experiment
    norm = next(node for node in edited.network if node.name == "batch_norm")
    assert edited.at("network.side").inputs == (norm.id,) and edited.at("network.act").inputs == ()
    assert not edited.diff(experiment(wired)).keys() & {"network.sum.inputs"}


# -- watching ---------------------------------------------------------------------------------------------------------

RECURRENT = (
    Node(id="rows", name="rows_as_sequence"),
    Node(id="memory", name="lstm", params={"units": 8, "layers": 2, "bidirectional": True, "dropout": 0.2}),
    HEAD,
)


@pytest.mark.parametrize(
    "nodes", [TRICKY, RECURRENT, recurrent("rnn"), recurrent("gru", bptt=5)], ids=["cnn", "lstm", "rnn", "bptt"]
)
def test_a_watched_run_ends_with_the_very_weights_of_an_unwatched_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: tuple[Node, ...]
) -> None:
    dataset = Made(tmp_path / "data")
    document = experiment(nodes, accumulate=2, augment=AUGMENT, l1=1e-4, batch_size=8)
    digests = []
    for number, watching in enumerate((True, False)):
        folder = tmp_path / str(number)
        folder.mkdir()
        if not watching:
            monkeypatch.setattr(health.Watch, "is_due", lambda self, step: False)
        events = run(document, dataset, folder)
        assert any(isinstance(event, Probed) for event in events) == watching
        digests.append(digest(folder))
    assert digests[0] == digests[1]


def test_what_is_told_of_a_layer_is_what_happens_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    real = torch.optim.SGD.step

    def step(self: Any, *args: Any) -> Any:
        before = [p.detach().clone() for g in self.param_groups for p in g["params"]]
        told.setdefault("gradient", [p.grad.clone() for g in self.param_groups for p in g["params"]])
        result = real(self, *args)
        after = [p.detach().clone() for g in self.param_groups for p in g["params"]]
        told.setdefault("moved", [a - b for a, b in zip(after, before, strict=True)])
        told.setdefault("weights", after)
        return result

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    nodes = (Node(id="flat", name="flatten"), HEAD)
    dataset = Made(tmp_path / "data", (16, 0))
    document = experiment(nodes, epochs=1, optimizer=rate("sgd", 0.1), clip_norm=0.0, schedule=CONSTANT)
    probed = next(e for e in run(document, dataset, tmp_path) if isinstance(e, Probed))

    def length(tensors: list[torch.Tensor]) -> float:
        return math.sqrt(sum(float(t.square().sum()) for t in tensors))

    assert probed.layers["head"]["gradient"] == pytest.approx(length(told["gradient"]), rel=1e-4)
    assert probed.layers["head"]["update"] == pytest.approx(length(told["moved"]) / length(told["weights"]), rel=1e-2)
    assert set(probed.layers) == {"flat", "head"} and "gradient" not in probed.layers["flat"]
    assert {name for numbers in probed.layers.values() for name in numbers} <= {*MEASURES, "heard"}


def test_a_gradient_through_time_is_that_of_the_steps(tmp_path: Path) -> None:
    document = experiment(recurrent("rnn", units=4), epochs=1)
    model = network.assemble_of(document, 2, seed=document.training.seed).train()
    watch = health.Watch(model, document, 2, 1000)
    images = torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    watch.begin(1)
    model(images).sum().backward()
    watch.passed()
    watch.before_step()
    watch.after_step()
    told = watch.told()
    assert told is not None
    rows = images[:, 0].clone().requires_grad_()
    model.layers["head"](model.layers["memory"](rows)).sum().backward()
    assert rows.grad is not None
    by_step = rows.grad.norm(dim=(0, 2))
    assert told["memory"]["reach"] == pytest.approx(float(by_step[0] / by_step[-1]), rel=1e-4)
    assert told["memory"]["update"] == 0


def test_few_steps_are_looked_at_and_fewer_of_a_long_run() -> None:
    document = experiment()
    model = network.assemble_of(document, 2, seed=0)
    for total in (100, 2_000, 1_000_000):
        watch = health.Watch(model, document, 2, total)
        looks = sum(watch.is_due(step) for step in range(1, total + 1))
        assert looks <= 10 + min(400, total / 50)
        assert all(watch.is_due(step) for step in (1, 2, 3, 4))


def test_probes_survive_the_record_and_a_resumed_run_forgets_what_it_does_again() -> None:
    looks = [Probed(step, 1, {"a": {"gradient": step / 3}, "b": {"std": math.nan}}) for step in (1, 2, 3, 4)]
    back = [event for look in looks if isinstance(event := decode(encode(look)), Probed)]
    assert len(back) == 4 and back[0].layers["a"]["gradient"] == pytest.approx(1 / 3, rel=1e-3)
    assert math.isnan(back[0].layers["b"]["std"])
    view = fold([*back, Resumed(2, 1), Probed(3, 1, {"a": {"gradient": 9.0}, "c": {"dead": 0.5}})])
    assert view.probes.steps == [1, 2, 3] and view.probes.row("a", "gradient")[2] == 9.0
    assert view.probes.known("dead") == ["c"] and view.probes.last("c", "dead", 5) == [0.5]
    assert len(view.probes.row("c", "dead")) == len(view.probes.row("b", "std")) == 3
    assert Probes().last("a", "gradient") == []
    broke = decode(encode(Broke(5, 1, "a", "output", [3, 4])))
    assert isinstance(broke, Broke) and broke.cases == [3, 4] and fold([broke]).broke == broke


# -- first weights ----------------------------------------------------------------------------------------------------


def test_first_weights_follow_the_rule_and_others_stay(tmp_path: Path) -> None:
    nodes = (*deep("relu", 2), Node(id="more", name="linear", params={"out_features": 64}))
    usual: Any = network.assemble_of(experiment(nodes), 2, seed=0)
    he: Any = network.assemble_of(experiment(nodes, init="he"), 2, seed=0)
    fan_in = 9 * 6
    assert float(he.layers["conv_1"].weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.15)
    assert torch.equal(usual.layers["conv_1"].bias, he.layers["conv_1"].bias)
    again = network.assemble_of(experiment(nodes, init="he"), 2, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(he.parameters(), again.parameters(), strict=True))
    gates: Any = network.assemble_of(experiment(recurrent("gru", units=8), init="orthogonal"), 2, seed=0)
    for gate in gates.layers["memory"].runs[0].weight_hh_l0.split(8):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
    assert experiment().digest == experiment(init="usual").digest != experiment(init="he").digest
    with pytest.raises(ValueError, match="Unknown rule"):
        begin(nn.Linear(2, 2), "mad")
