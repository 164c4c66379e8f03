"""Help for whoever teaches: the range test, the gap in words, dropout everywhere, stochastic depth, walks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder import dropping, finder, gap, landscape, network
from builder.check import problems
from builder.parts.training import OPTIMIZERS
from builder.spec import Choice, Data, Experiment, Node, Training
from builder.task import find
from tests.test_recipe import NODES
from tests.test_train import SIZE, Made

DEEP = (
    Node(id="conv", name="conv2d", params={"out_channels": 4}),
    Node(id="act", name="relu"),
    *(Node(id=f"block_{k}", name="residual_block", params={"out_channels": 4}) for k in range(3)),
    Node(id="join", name="add", inputs=("block_2", "act")),
    Node(id="flat", name="flatten"),
    Node(id="hidden", name="linear", params={"out_features": 8}),
    Node(id="act_b", name="relu"),
    Node(id="head", name="linear", params={"out_features": 2}),
)


def document(nodes: Any = NODES, **training: Any) -> Experiment:
    settings = {"batch_size": 8, "optimizer": Choice(name="sgd"), "clip_norm": 0.0, **training}
    return Experiment(data=Data(size_px=SIZE), network=nodes, training=Training(**settings))


# -- the learning rate ------------------------------------------------------------------------------------------------


def test_the_range_test_finds_a_rate_that_learns_and_touches_nothing(tmp_path: Path) -> None:
    made: Any = Made(tmp_path / "data", counts=(64, 8))
    steps: list[int] = []
    state = torch.get_rng_state()
    found = finder.search(
        document(), find("recognition"), made, tmp_path / "run", "cpu", 60, lambda done, _: steps.append(done)
    )
    assert torch.equal(torch.get_rng_state(), state) and not (tmp_path / "run").exists()
    assert steps == list(range(1, len(found.rates) + 1)) and max(found.losses[-5:]) > 2 * min(found.smoothed)
    assert 0.003 < found.suggestion < 1, found.suggestion
    again = finder.search(document(), find("recognition"), made, tmp_path / "run", "cpu", 60)
    assert again == found
    said = finder.sentences(found.to_json())
    assert f"Use about {found.suggestion:.2g}" in said[0] and "thrown away" in said[1]


def test_the_rate_is_read_off_a_curve_whose_answer_is_known() -> None:
    rates = [10 ** (-6 + 7 * k / 99) for k in range(100)]
    falls = [0.7 - 0.5 / (1 + (0.01 / rate) ** 2) + (rate / 0.5) ** 2 for rate in rates]  # falls at 0.01, lowest ~ 0.08
    found = finder.suggested(rates, falls, "diverged")
    assert 0.003 < found.suggestion < 0.03 and found.best < 0.3
    flat = finder.suggested(rates, [0.7] * 100, "highest")
    assert flat.suggestion == 0 and "learns nothing" in finder.sentences(flat.to_json())[0]


# -- the gap ----------------------------------------------------------------------------------------------------------


def curves(train: list[float], val: list[float], honest: bool = True) -> dict[str, Any]:
    steps = list(range(len(val)))
    return {"train_eval/loss" if honest else "train/loss": (steps, train), "val/loss": (steps, val)}


def test_learning_by_heart_is_told_with_its_epoch_and_numbers() -> None:
    train = [0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.22, 0.21]
    found = gap.read(curves(train, [0.7, 0.62, 0.56, 0.52, 0.5, 0.5, 0.55, 0.56, 0.56]))
    assert found is not None and found.kind == "heart" and found.since == 5
    assert "since epoch 5" in found.words and "12%" in found.words and "40%" in found.words
    assert "no fair comparison" not in found.words
    older = gap.read(curves(train, [0.7, 0.62, 0.56, 0.52, 0.5, 0.5, 0.55, 0.56, 0.56], honest=False))
    assert older is not None and "no fair comparison" in older.words


@pytest.mark.parametrize(
    ("train", "val", "kind"),
    [
        ([0.7, 0.6], [0.7, 0.6], "early"),
        ([0.7, 0.6, 0.5, 0.4, 0.3], [0.7, 0.6, 0.52, 0.43, 0.35], "learning"),
        ([0.7, 0.69, 0.7, 0.69, 0.7], [0.7, 0.7, 0.69, 0.7, 0.7], "idle"),
        ([0.7, 0.3, 0.21, 0.2, 0.2, 0.2], [0.7, 0.5, 0.45, 0.45, 0.45, 0.45], "wide"),
        ([1.1, 0.4, 0.05, 0.004, 0.002, 0.0016], [1.1, 0.5, 0.09, 0.03, 0.022, 0.021], "learning"),  # hardly any left
        ([0.7, 0.3, 0.21, 0.2, 0.2, 0.2], [0.7, 0.3, 0.22, 0.22, 0.22, 0.22], "together"),
    ],
)
def test_other_curves_are_called_what_they_are(train: list[float], val: list[float], kind: str) -> None:
    found = gap.read(curves(train, val))
    assert found is not None and found.kind == kind, found
    assert gap.read({"train/loss": ([1], [0.5])}) is None


def test_every_cure_is_a_document_that_can_start_and_differs() -> None:
    now = document(DEEP, optimizer=Choice(name="sgd", params={"lr": 0.01}), l2=0.01)
    plan = network.plan_of(now, 2)
    for kind, least in (("heart", 4), ("wide", 4), ("idle", 2), ("learning", 1), ("together", 0)):
        offered = gap.cures(gap.Gap(kind, ""), now, plan)
        assert len(offered) >= least
        for words, cured in offered:
            assert cured != now and not [
                p for p in problems(cured) if p.severity == "error" and "data" not in p.path
            ], words


# -- dropping ---------------------------------------------------------------------------------------------------------


def test_dropout_everywhere_is_written_into_the_network_and_taken_out_again() -> None:
    now = document(DEEP)
    plan = network.plan_of(now, 2)
    wet = dropping.everywhere(now, 0.3, plan)
    kinds = {n.id: n.name for n in wet.network if "dropout" in n.name}
    assert sorted(kinds.values()) == ["channel_dropout", "dropout"], (
        "whole channels of pictures, single values of vectors"
    )
    assert all(wet.at(f"network.{id}").params["p"] == 0.3 for id in kinds)
    assert all(wet.at(f"network.block_{k}").params["dropout"] == 0.3 for k in range(3))
    (channels,) = [id for id, kind in kinds.items() if kind == "channel_dropout"]
    assert wet.at("network.join").inputs == ("block_2", channels), "also the wire across goes through it"
    assert dropping.dropped(wet) == 0.3 and dropping.dropped(now) == 0
    assert network.plan_of(wet, 2).output == plan.output
    more = dropping.everywhere(wet, 0.5, network.plan_of(wet, 2))
    assert len(more.network) == len(wet.network) and dropping.dropped(more) == 0.5
    dry = dropping.everywhere(more, 0.0, network.plan_of(more, 2))
    assert [n.id for n in dry.network] == [n.id for n in now.network] and dropping.dropped(dry) == 0
    assert dry.at("network.join").inputs == ("block_2", "act")


def test_stochastic_depth_grows_with_depth_and_leaves_branches_out_in_training_only() -> None:
    deep = dropping.over_depth(document(DEEP), 0.6)
    assert [deep.at(f"network.block_{k}").params.get("drop_path", 0) for k in range(3)] == [0, 0.3, 0.6]
    assert dropping.deepest(deep) == 0.6 and dropping.over_depth(deep, 0.0) == document(DEEP)
    known = [Node(id=f"k{frozen}", name="timm_backbone", params={"frozen": frozen}) for frozen in (False, True)]
    both = dropping.over_depth(document((known[0], known[1], *DEEP)), 0.6)
    assert both.at("network.kFalse").params["drop_path"] == 0.6, "timm lets it grow inside"
    assert "drop_path" not in both.at("network.kTrue").params, "nothing of a frozen model is left out"
    from builder.blocks.residual import ResidualBlock

    torch.manual_seed(0)
    block = ResidualBlock(3, 3, drop_path=0.5)
    scans = torch.rand(400, 3, 4, 4)
    out = block.train()(scans)
    left = (out - scans).flatten(1).abs().amax(1) < 1e-6  # relu(x) = x: the scan went by the shortcut alone
    assert 0.4 < float(left.float().mean()) < 0.6
    plain = ResidualBlock(3, 3)
    plain.load_state_dict(block.state_dict())
    assert torch.equal(block.eval()(scans), plain.eval()(scans))


# -- walks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_every_optimizer_walks_downhill_in_the_ravine(name: str) -> None:
    way = landscape.walk("ravine", Choice(name=name), 1.0 if name == "adadelta" else 0.15, 60)
    assert len(way.x) == 61 and not way.away and way.height[-1] < way.height[0]


def test_a_walk_is_what_the_optimizer_does_and_one_that_runs_away_says_so() -> None:
    way = landscape.walk("ravine", Choice(name="sgd"), 0.1, 5)
    x, y = landscape.SURFACES["ravine"].start
    for k in range(6):
        assert (way.x[k], way.y[k]) == pytest.approx((x * 0.99**k, y * 0.5**k))
    assert landscape.walk("ravine", Choice(name="momentum", params={"momentum": 0.0}), 0.1, 5) == way
    assert landscape.walk("ravine", Choice(name="sgd"), 2.0, 100).away
    for name, ground in landscape.SURFACES.items():
        x_line, y_line, height = landscape.heights(name, 40)
        assert height.shape == (40, 40) and np.isfinite(height).all()
        assert x_line[0] <= ground.start[0] <= x_line[-1] and y_line[0] <= ground.start[1] <= y_line[-1]
        if ground.goal:
            assert float(ground.height(*map(np.float64, ground.goal))) <= height.min() + 1e-9
