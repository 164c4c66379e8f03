"""How it learns: schedules and averages against torch's own, balanced orders, layers with rates of their own."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from builder import averaging, batches, check, optim, schedule
from builder.blocks.network import Network
from builder.learner import Learner
from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.runs import EpochEnded, Finished
from builder.shares import Share, shares
from builder.spec import Choice, Data, Experiment, Group, Node, SpecError, Training
from builder.targets import UNKNOWN, _rarest
from builder.task import find
from builder.train import train
from tests.test_train import SIZE, Made

NODES = (
    Node(id="conv", name="conv2d", params={"out_channels": 8}),
    Node(id="act", name="relu"),
    Node(id="pool", name="max_pool"),
    Node(id="conv_b", name="conv2d", params={"out_channels": 8}),
    Node(id="act_b", name="relu"),
    Node(id="flat", name="flatten"),
    Node(id="head", name="linear", params={"out_features": 2}),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("data"), counts=(64, 24))


def taught(dataset: Any, folder: Any, **training: Any) -> tuple[list[EpochEnded], str]:
    settings = {"epochs": 4, "batch_size": 8, "monitor": "loss", **training}
    experiment = Experiment(data=Data(size_px=SIZE), network=NODES, training=Training(**settings))
    events = list(train(experiment, find("recognition"), dataset, folder, device="cpu"))
    assert isinstance(events[-1], Finished) and events[-1].status == "done", events[-1]
    return [e for e in events if isinstance(e, EpochEnded)], events[-1].reason


# -- schedules --------------------------------------------------------------------------------------------------------


def by_torch(build: Callable[[Any], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    made, found = build(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.step()
    return found


@pytest.mark.parametrize(
    ("name", "params", "build"),
    [
        ("polynomial", {"power": 0.9}, lambda o: lr_scheduler.PolynomialLR(o, 40, 0.9)),
        ("exponential", {"decay": 0.8}, lambda o: lr_scheduler.ExponentialLR(o, 0.8 ** (1 / 5))),
        (
            "restarts",
            {"first_epochs": 2, "stretch": 2, "final_fraction": 0.1},
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2, 0.1),
        ),
        (
            "cyclic",
            {"epochs_per_cycle": 2, "low_fraction": 0.1},
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 5, mode="triangular", cycle_momentum=False),
        ),
        (
            "cyclic",
            {"epochs_per_cycle": 2, "low_fraction": 0.1, "shrink": 0.5},
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 5, mode="triangular2", cycle_momentum=False),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schedule_is_what_torch_makes_of_it(name: str, params: dict[str, Any], build: Any) -> None:
    assert schedule.rates(Choice(name=name, params=params), 1.0, 8, 5) == pytest.approx(by_torch(build, 40), rel=1e-9)


@pytest.mark.parametrize("name", [n for n in SCHEDULES if "warmup_epochs" in SCHEDULES[n].defaults])
def test_every_schedule_can_climb_first_and_then_does_what_it_does(name: str) -> None:
    with_it = schedule.rates(Choice(name=name, params={"warmup_epochs": 2}), 1.0, 8, 5)
    without = schedule.rates(Choice(name=name), 1.0, 6, 5)
    assert with_it[:10] == pytest.approx([k / 10 for k in range(1, 11)]) and with_it[10:] == pytest.approx(without)


def test_the_schedules_that_begin_low_by_themselves_are_the_only_ones_without_a_warm_up() -> None:
    without = {name for name in SCHEDULES if "warmup_epochs" not in SCHEDULES[name].defaults}
    assert without == {"cyclic", "one_cycle"}
    assert all(schedule.factor(Choice(name=name), 0, 8, 5) < 0.2 for name in without)


def test_layers_with_rates_of_their_own_follow_the_schedule_beside_the_rest() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})})
    groups = (Group(name="slow", nodes=("a",), lr_factor=0.1, l2_factor=3.0, l1_factor=0.0),)
    chosen = Experiment(network=(Node(id="a", name="linear"), Node(id="b", name="linear"))).replace(
        "training.groups", groups
    )
    otherwise = shares(chosen, ())
    made = optim.optimizer(Choice(name="sgd", params={"lr": 0.5}), model, 0.01, otherwise)
    run = optim.Schedule(Choice(name="polynomial"), made, 5, 2, full=0.5)
    rate = run.set_rate(5)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in made.param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert rate == pytest.approx(0.25)
    assert found["layers.a.weight"] == pytest.approx((0.025, 0.03)) and found["layers.a.bias"][1] == 0
    assert found["layers.b.weight"] == pytest.approx((0.25, 0.01)) and found["layers.b.bias"] == (0.25, 0)
    assert [times for _, times in optim.penalized(model, otherwise)] == [1.0]


def test_a_backbone_learns_at_its_own_rate_unless_a_group_says_otherwise() -> None:
    nodes = (
        Node(id="body", name="timm_backbone", params={"model": "resnet18"}),
        Node(id="head", name="linear", params={"out_features": 2}),
    )
    plain = Experiment(network=nodes)
    assert shares(plain, ()) == {}
    slow = plain.replace("training.backbone_rate", 0.1)
    assert {id: share.lr for id, share in shares(slow, ()).items()} == {"body": 0.1}
    assert {id: share.lr for id, share in shares(slow, ("head",)).items()} == {"body": 0.1, "head": 0.1}
    told = slow.replace("training.groups", (Group(name="all", nodes=("body", "head"), lr_factor=0.5),))
    assert {id: share.lr for id, share in shares(told, ()).items()} == {"body": 0.5, "head": 0.5}


def test_groups_that_cannot_be_are_told_with_a_repair() -> None:
    chain = Experiment(network=NODES)
    groups = (Group(name="one", nodes=("conv", "gone"), l2_factor=-1.0), Group(name="two", nodes=("conv",)))
    found = [p for p in check.problems(chain.replace("training.groups", groups)) if ".groups." in p.path]
    assert {p.path for p in found} == {
        "training.groups.one.l2_factor",
        "training.groups.one.nodes",
        "training.groups.two.nodes",
    }
    now = chain.replace("training.groups", groups)
    for _ in range(5):
        wrong = [p for p in check.problems(now) if ".groups." in p.path]
        if not wrong:
            break
        assert wrong[0].fix is not None
        now = wrong[0].fix
    assert not wrong and now.training.groups == (Group(name="one", nodes=("conv",), l2_factor=0.0),)
    with pytest.raises(SpecError, match="share the name"):
        chain.replace("training.groups", (Group(name="one"), Group(name="one")))


STILL = (
    Node(id="conv", name="conv2d"),
    Node(id="norm", name="batch_norm"),
    Node(id="act", name="relu"),
    Node(id="pool", name="global_pool"),
    Node(id="head", name="class_scores"),
)


def held(**training: Any) -> Experiment:
    """An experiment that keeps a convolution and its norm as they are."""
    settings = {"epochs": 4, "batch_size": 8, "monitor": "loss", **training}
    groups = (Group(name="still", nodes=("conv", "norm", "act"), lr_factor=0.0),)
    return Experiment(data=Data(size_px=SIZE), network=STILL, training=Training(groups=groups, **settings))


def test_layers_with_a_rate_of_0_stay_as_they_are_and_their_gradients_count_nowhere(
    tmp_path: Any, dataset: Any
) -> None:
    chosen = held(clip_norm=0.01, l1=0.1, average=Choice(name="swa", params={"start_share": 0.1}))
    made = dataset.prepared(chosen.data)
    learner = Learner(chosen, find("recognition"), dataset, made, tmp_path, torch.device("cpu"))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    for _ in range(2):
        learner.model.eval()  # as after each epoch
        learner.update([np.arange(8)])
    moved = {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"layers.head.weight", "layers.head.bias"}
    grads = {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}
    assert grads.keys() == moved
    assert float(nn.utils.get_total_norm(list(grads.values()))) == pytest.approx(0.01, rel=1e-3)
    assert learner.average is not None
    learner.average.measure(iter([torch.rand(8, 1, SIZE, SIZE)]))
    for name, value in learner.average.copy.module.state_dict().items():
        assert name in moved or torch.equal(value, before[name]), name


def test_a_run_of_before_that_moved_statistics_of_a_held_layer_goes_on(
    tmp_path: Any, dataset: Any, monkeypatch: Any
) -> None:
    from builder import checkpoint

    steps, chosen = itertools.count(1), held()
    monkeypatch.setattr(Network, "hold", lambda self, ids: None)
    stop = lambda: next(steps) >= 5  # noqa: E731
    begun = list(train(chosen, find("recognition"), dataset, tmp_path, device="cpu", stop=stop))
    monkeypatch.undo()
    events = list(train(chosen, find("recognition"), dataset, tmp_path, device="cpu"))
    ends = [event.status for event in (*begun, *events) if isinstance(event, Finished)]
    assert ends == ["stopped", "done"], events[-1]
    found = checkpoint.load_latest(tmp_path, "last")
    assert found is not None and int(found.state["model"]["layers.norm.num_batches_tracked"]) == 5


def test_a_network_of_which_nothing_learns_is_refused_with_a_repair() -> None:
    chain = Experiment(network=NODES)
    every = (
        Group(name="a", nodes=("conv", "act"), lr_factor=0.0),
        Group(name="b", nodes=("conv_b", "head"), lr_factor=0.0),
    )
    (wrong,) = [p for p in check.problems(chain.replace("training.groups", every)) if ".groups." in p.path]
    assert wrong.path == "training.groups.a.lr_factor" and "nothing" in wrong.message and wrong.fix is not None
    assert not [p for p in check.problems(wrong.fix) if ".groups." in p.path]
    with pytest.raises(ValueError, match="nothing to learn"):
        optim.optimizer(Choice(name="sgd"), nn.Linear(2, 2), 0.0, {"weight": Share(lr=0.0), "bias": Share(lr=0.0)})


# -- averages ---------------------------------------------------------------------------------------------------------


def walked(steps: int) -> Any:
    """A network with batch normalization after each of some steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))
    images = torch.randn(6, 1, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(images).square().mean().backward()
        optimizer.step()
        yield model, images


def test_the_moving_average_is_torchs_once_it_has_left_its_start_behind() -> None:
    ours = theirs = None
    for step, (model, _) in enumerate(walked(30), 1):
        ours = ours or averaging.Ema(model, 1, decay=0.5)
        theirs = theirs or swa_utils.AveragedModel(
            model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
        )
        ours.told(model, 1, False)
        theirs.update_parameters(model)
        if step == 1:
            assert torch.equal(ours.copy.get_parameter("module.0.weight"), model[0].weight), (
                "it begins with the first weights"
            )
    assert ours is not None and theirs is not None
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(ours.copy.module.state_dict()[name], value, atol=1e-4), name
    assert int(ours.copy.get_buffer("module.1.num_batches_tracked")) == 30, "a counter is copied"


def test_stochastic_weight_averaging_is_torchs_with_batch_normalization_measured_anew() -> None:
    choice = Choice(name="swa", params={"start_share": 0.5})
    ours = theirs = images = None
    for step, (model, images) in enumerate(walked(12), 1):  # noqa: B007
        ours = ours or averaging.average(choice, model, 4)
        theirs = theirs or swa_utils.AveragedModel(model)
        assert ours is not None
        epoch = (step - 1) // 3 + 1
        ours.told(model, epoch, step % 3 == 0)
        assert ours.ready == (step >= 9)
        if step in (9, 12):
            theirs.update_parameters(model)
    assert ours is not None and theirs is not None and images is not None
    ours.measure([images[:3], images[3:]])
    swa_utils.update_bn([images[:3], images[3:]], theirs)
    for name, value in theirs.module.state_dict().items():
        assert torch.allclose(ours.copy.module.state_dict()[name], value, atol=1e-6), name
    assert not ours.copy.module.training and ours.copy.get_submodule("module.1").momentum == 0.1


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_the_average_is_what_is_judged_and_kept_as_the_best(tmp_path: Any, dataset: Any, name: str) -> None:
    from builder import checkpoint

    params = {"decay": 0.9} if name == "ema" else {"start_share": 0.1}
    taught(dataset, tmp_path, average=Choice(name=name, params=params), epochs=4)
    best = checkpoint.load_weights(tmp_path / "best.safetensors")
    found = checkpoint.load_latest(tmp_path, "last")
    assert found is not None
    average = {n.removeprefix("module."): t for n, t in found.state["average"].items()}
    assert best.metadata["epoch"] == "4"
    assert all(torch.equal(best.tensors[n], average[n]) for n in best.tensors)
    assert not torch.equal(best.tensors["layers.head.weight"], found.state["model"]["layers.head.weight"])


# -- what it learns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_every_optimizer_learns_the_planted_signal(tmp_path: Any, dataset: Any, name: str) -> None:
    quick = {"radam": 0.01, "lion": 0.001, "lamb": 0.02}  # their usual rates are for longer trainings than this one
    params = {"lr": quick[name]} if name in quick else {}
    ended, _ = taught(dataset, tmp_path, optimizer=Choice(name=name, params=params), epochs=8)
    losses = [event.metrics["val/loss"] for event in ended]
    assert min(losses) < 0.75 * losses[0] or min(losses) < 0.2, losses
    assert max(event.metrics["val/auc"] for event in ended) > 0.8


def test_an_epoch_judges_some_training_scans_as_they_are(tmp_path: Any, dataset: Any) -> None:
    ended, _ = taught(dataset, tmp_path, epochs=2, augment=(Choice(name="noise", params={"probability": 1.0}),))
    assert all({"train/loss", "train_eval/loss", "val/loss"} <= set(event.metrics) for event in ended)


def test_clipping_by_value_cuts_single_numbers_and_comes_before_the_length(tmp_path: Any, dataset: Any) -> None:
    from builder.learner import Learner

    chosen = Training(
        epochs=1,
        batch_size=8,
        clip_value=0.01,
        clip_norm=0.02,
        optimizer=Choice(name="sgd", params={"lr": 1.0}),
        l2=0.0,
    ).model_copy(update={"schedule": Choice(name="constant")})
    made = Learner(
        Experiment(data=Data(size_px=SIZE), network=NODES, training=chosen),
        find("recognition"),
        dataset,
        dataset.made,
        tmp_path,
        torch.device("cpu"),
    )
    before = [p.detach().clone() for p in made.learned]
    made.update([np.arange(8)])
    moved = torch.cat([(now - then).flatten() for now, then in zip(made.learned, before, strict=True)]).detach()
    assert float(moved.abs().max()) <= 0.01 + 1e-6 and float(moved.norm()) == pytest.approx(0.02, rel=0.01)
    assert float(made.norm) > 0.02, "the length that is shown is that of the gradient as it came"


def test_early_stopping_can_ask_for_a_real_gain(tmp_path: Any, dataset: Any, monkeypatch: Any) -> None:
    scores = [0.5, 0.8, 0.805, 0.809, 0.95, 0.96, 0.97, 0.98]
    for least, ended in ((0.0, 8), (0.01, 4)):
        heard = iter(scores)
        monkeypatch.setattr("tasks.recognition.Recognition.score", lambda *_, heard=heard: {"auc": next(heard)})
        events, reason = taught(dataset, tmp_path / str(ended), epochs=8, monitor="auc", patience=2, min_delta=least)
        assert len(events) == ended
    assert "0.809" in reason, "the best epoch is still the best one"


def test_an_equal_score_is_kept_for_its_lower_loss_but_patience_does_not_wait_for_it(
    tmp_path: Any, dataset: Any
) -> None:
    from builder.learner import Learner

    for least in (0.0, 1e-6):
        chosen = Experiment(data=Data(size_px=SIZE), network=NODES).replace("training.patience", 2)
        chosen = chosen.replace("training.min_delta", least).replace("training.monitor", "auc")
        made = Learner(chosen, find("recognition"), dataset, dataset.made, tmp_path, torch.device("cpu"))
        stale = []
        for made.place.epoch, (auc, loss) in enumerate(((0.9, 0.9), (1.0, 0.8), (1.0, 0.7), (1.0, 0.6)), 1):
            made.rank({"val/auc": auc, "val/loss": loss})
            stale.append(made.place.stale)
        assert stale == [0, 0, 1, 2] and made.is_stale and made.place.best_epoch == 4


# -- balance ----------------------------------------------------------------------------------------------------------


def test_a_balanced_epoch_has_its_length_and_every_kind_equally_often() -> None:
    kinds = np.array([0] * 50 + [1] * 9 + [2] * 4 + [UNKNOWN] * 7)
    orders = [batches.balanced(5, epoch, kinds) for epoch in range(1, 6)]
    for order in orders:
        assert len(order) == len(kinds)
        counts = np.bincount(kinds[order][kinds[order] >= 0])
        assert counts.sum() == 63 and counts.max() - counts.min() <= 1
        assert sorted(order[kinds[order] == UNKNOWN]) == list(range(63, 70)), "what is not known comes once each"
        times = np.bincount(order, minlength=len(kinds))
        rare = times[kinds == 2]
        assert rare.max() - rare.min() <= 1, "every scan of a rare kind before any comes again"
    assert np.array_equal(orders[0], batches.balanced(5, 1, kinds))
    assert not np.array_equal(orders[0], orders[1])
    assert len(set(np.concatenate(orders)[kinds[np.concatenate(orders)] == 0])) > 40, "over the epochs all are seen"


def test_a_scan_of_several_labels_counts_as_its_rarest() -> None:
    labels = [np.array([0, 1]), np.array([0]), np.array([0]), np.array([], np.int64), np.array([1, 0, 0])]
    assert _rarest(labels).tolist() == [1, 0, 0, -1, 1]


def test_a_balanced_order_helps_the_rare_class(tmp_path: Any) -> None:
    made = Made(tmp_path / "data", counts=(200, 200), shares=(0.93, 0.07), noise=0.25)
    recall = {}
    for balance in ("none", "sampler"):
        ended, _ = taught(
            made,
            tmp_path / balance,
            balance=balance,
            optimizer=Choice(name="adamw", params={"lr": 0.003}),
            batch_size=16,
        )
        recall[balance] = ended[-1].metrics["val/balanced_accuracy"]
    assert recall["sampler"] > recall["none"] + 0.1


def test_no_two_settings_of_the_recipe_share_a_digest() -> None:
    plain = Experiment(network=NODES)
    edits: list[tuple[str, Any]] = [
        ("training.balance", "weights"),
        ("training.balance", "sampler"),
        ("training.average", Choice(name="ema")),
        ("training.average", Choice(name="swa")),
        ("training.backbone_rate", 0.1),
        ("training.groups", (Group(name="a", nodes=("conv",)),)),
        ("training.clip_value", 1.0),
        ("training.min_delta", 0.01),
    ]
    made = [plain, *itertools.starmap(plain.replace, edits)]
    assert len({one.digest for one in made}) == len(made)
    for one in made:
        assert Experiment.loads(one.dumps()) == one
