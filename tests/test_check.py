"""Problems: all of them together, each with place, sentence and a repair that repairs."""

import time
from dataclasses import replace

import pytest
import torch

from builder import catalog
from builder.catalog import Float, LayerSpec, OneOf
from builder.check import problems
from builder.fingerprint import Fingerprint
from builder.parts.layers import LAYERS
from builder.spec import Choice, Experiment, Node, Training
from builder.task import TASKS, find

COUNTS = {"train": {"benign": 30, "malignant": 20}, "val": {"benign": 8, "malignant": 6}}
DATA = Fingerprint(
    num_cases=80,
    num_patients=40,
    classes=("benign", "malignant"),
    class_counts={**COUNTS, "test": {"benign": 8, "malignant": 8}},
    patients_per_split={"train": 24, "val": 8, "test": 8},
    sizes={"min": [64, 64], "median": [64, 64], "max": [64, 64]},
)
LABELLED = replace(  # with what any task may learn from, on scans large enough for every starter
    DATA,
    sizes={"min": [256, 256], "median": [256, 256], "max": [256, 256]},
    num_boxed={"train": 50, "val": 14, "test": 16},
    box_counts={split: {"benign": 20, "malignant": 20} for split in ("train", "val", "test")},
    box_sizes_px={"min": [30, 30], "median": [40, 40], "max": [60, 60]},
    num_masked={"train": 50, "val": 14, "test": 16},
    mask_names=("tumor",),
)


def node(name: str, id: str | None = None, inputs: tuple[str, ...] = (), **params) -> Node:
    return Node(id=id or name, name=name, params=params, inputs=inputs)


def experiment(*nodes: Node) -> Experiment:
    nodes = nodes or (node("conv2d"), node("relu"), node("global_pool"), node("class_scores"))
    return Experiment(network=nodes).replace("data.dataset", "set")


def errors(found) -> list:
    return [p for p in found if p.severity == "error"]


@pytest.mark.parametrize("task", TASKS)
def test_every_starter_of_every_task_has_no_problem_but_its_missing_scans(task):
    for starter in find(task).starters():
        assert [p.path for p in errors(problems(starter))] == ["data.dataset"], starter.name
        assert errors(problems(starter.replace("data.dataset", "set"), LABELLED)) == [], starter.name


@pytest.mark.parametrize(
    ("part", "idle"), [(part, idle) for part in LAYERS.values() for idle in part.idle], ids=lambda x: x.name
)
def test_a_setting_that_does_nothing_is_told_and_switched_off(part, idle):
    domain, other = part.param(idle.name), part.param(idle.other)
    assert other.parse(idle.value) == idle.value
    value = 0.5 if isinstance(domain, Float) else not domain.default if isinstance(domain.default, bool) else 2
    tried = other.options if isinstance(other, OneOf) else (False, 2)
    busy = next(v for v in tried if v != idle.value and type(v) is type(idle.value))
    for beside, told in ((idle.value, True), (busy, False)):
        node = Node(id="one", name=part.name, params={idle.name: value, idle.other: beside})
        body = [node] if "maps" in part.takes else [Node(id="rows", name="rows_as_sequence"), node]
        found = [p for p in problems(Experiment(network=tuple(body))) if p.path == f"network.one.params.{idle.name}"]
        assert bool(found) is told, problems(Experiment(network=tuple(body)))
        if told:
            assert found[0].severity == "warning" and found[0].message == idle.words and found[0].fix
            assert not [p for p in problems(found[0].fix) if p.path == found[0].path]


def test_a_good_experiment_has_no_problems():
    assert problems(experiment(), DATA) == []


def test_all_problems_are_told_at_once_with_distinct_places():
    wrong = experiment(node("conv2d", groups=3), node("conv2d", "two", kernel_size=99), node("bloat")).replace(
        "training",
        Training(
            optimizer=Choice(name="adamm", params={"lr": 1}),
            schedule=Choice(name="step", params={"factor": 7.0, "wat": 1}),
            epochs=0,
            label_smoothing=3.0,
            augment=(Choice(name="rotate", params={"degrees": 900.0}), Choice(name="colour"), Choice(name="rotat")),
        ),
    )
    wrong = wrong.replace("data.size_px", 3).replace("data.window", "ct lungs")
    paths = [p.path for p in problems(wrong, DATA)]
    assert len(set(paths)) == len(paths)
    assert {
        "data.size_px",
        "data.window",
        "network.two.params.kernel_size",
        "network.bloat.name",
        "training.optimizer.name",
        "training.schedule.params.factor",
        "training.schedule.params.wat",
        "training.epochs",
        "training.label_smoothing",
        "training.augment.rotate.params.degrees",
        "training.augment.colour",
        "training.augment.rotat",
    } <= set(paths)


WRONG = [
    experiment(node("conv2d", kernel_size=9, padding=0), node("max_pool", kernel_size=31), node("class_scores")),
    experiment(node("conv2d"), node("class_scores")),
    experiment(node("conv2d"), node("relu")),
    experiment(node("conv2d"), node("global_pool"), node("linear", out_features=7)),
    experiment(node("flatten"), node("conv2d"), node("global_pool"), node("class_scores")),
    experiment(node("conv2d"), node("add", inputs=("conv2d", "input")), node("global_pool"), node("class_scores")),
    experiment(
        node("conv2d", "a"),
        node("conv2d", "b", stride=2, out_channels=8),
        node("add", inputs=("a", "b")),
        node("global_pool"),
        node("class_scores"),
    ),
    experiment(node("conv2d", "a"), node("relu", "b"), node("add"), node("global_pool"), node("class_scores")),
    experiment(node("conv2d", inputs=("nowhere",)), node("global_pool"), node("class_scores")),
    experiment(node("conv2d"), node("global_pool", inputs=("conv2d", "conv2d")), node("class_scores")),
    experiment(node("conv2d", out_chanels=3), node("global_pool"), node("class_scores")),
    experiment(node("conv2d"), node("wat"), node("global_pool"), node("class_scores")),
    experiment().replace("training.optimizer", Choice(name="adamm")),
    experiment().replace("training.optimizer", Choice(name="sgd", params={"lr": -3.0, "momentum": 0.9})),
    experiment().replace("training.epochs", 10**9).replace("training.batch_size", 0),
    experiment().replace("training.augment", (Choice(name="colour"), Choice(name="rotate"), Choice(name="rotate"))),
    experiment().replace("task", "recogniton"),
    experiment().replace("training.batch_size", 4096).replace("data.size_px", 1024),
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_following_the_repair_buttons_ends_in_an_experiment_without_errors(wrong):
    assert errors(problems(wrong, DATA))
    for _ in range(12):
        found = errors(problems(wrong, DATA))
        if not found:
            break
        repairable = [p for p in found if p.fix is not None]
        assert repairable, [(p.path, p.message) for p in found]
        assert repairable[0].repair
        wrong = repairable[0].fix
    assert errors(problems(wrong, DATA)) == []


TAIL = (node("global_pool"), node("class_scores"))
STRUCTURE = [
    ("middle", (node("conv2d"), node("linear"), node("class_scores")), "Put global pooling before it", "global_pool"),
    (
        "middle",
        (node("conv2d"), node("add", inputs=("conv2d", "input")), *TAIL),
        "Match channels with a 1x1 convolution after input",
        "conv2d",
    ),
    (
        "middle",
        (node("conv2d", stride=2), node("add", inputs=("conv2d", "input")), *TAIL),
        "Match channels with a 1x1 convolution of stride 2 after input",
        "conv2d",
    ),
    (
        "middle",
        (node("upsample", scale_factor=3), node("concatenate", inputs=("upsample", "input")), *TAIL),
        "Resize to 96 x 96 after input",
        "resize",
    ),
    (
        "middle",
        (node("conv2d"), node("global_pool"), node("add", inputs=("global_pool", "conv2d")), node("class_scores")),
        "Put global pooling after conv2d",
        "global_pool",
    ),
    ("middle", (node("gru"), node("class_scores")), "Read the picture row by row before it", "rows_as_sequence"),
    ("middle", (node("flatten"), node("conv2d"), *TAIL), "Remove flatten before it", ""),
    ("middle", (node("relu"), node("conv2d", inputs=("relu", "input")), *TAIL), "Join them by Add before it", "add"),
    ("middle", (node("cnv2d"), *TAIL), "Use Convolution", "conv2d"),
    (
        "middle",
        (node("patch_embedding"), node("transformer_block"), node("class_scores")),
        "Pool over time before the last layer",
        "time_pool",
    ),
    (
        "series",
        (node("conv2d"), node("gru"), node("class_scores")),
        "Put global pooling of each slice before it",
        "global_pool",
    ),
    (
        "series",
        (node("conv2d"), node("global_pool"), node("gru", output="all states"), node("class_scores")),
        "Take only the last state of gru",
        "",
    ),
    ("series", (node("conv2d"), *TAIL), "Pool over time before the last layer", "time_pool"),
    ("series", (node("conv3d"), *TAIL), "Stack the slices into a volume before it", "slices_as_volume"),
    ("volume", (node("conv2d", out_channels=4), *TAIL), "Use Convolution 3-D instead", "conv3d"),
    (
        "volume",
        (node("gru"), node("class_scores")),
        "Take the volume apart into slices and pool each before it",
        "slices_as_sequence",
    ),
]


@pytest.mark.parametrize(("slices", "nodes", "words", "adds"), STRUCTURE, ids=[case[2] for case in STRUCTURE])
def test_one_press_of_a_structural_repair_mends_the_network(slices, nodes, words, adds) -> None:
    wrong = experiment(*nodes).replace("data.slices", slices).replace("data.size_px", 32)
    (found,) = [p for p in errors(problems(wrong)) if p.path.startswith("network")]
    assert found.repair == words and found.fix is not None
    assert [p for p in errors(problems(found.fix)) if p.path.startswith("network")] == []
    before = {(n.id, n.name) for n in wrong.network}
    new = [n.name for n in found.fix.network if (n.id, n.name) not in before]
    assert adds in new if adds else new == []


def test_a_batch_norm_that_would_compare_one_number_with_itself_is_refused_before_training() -> None:
    single = experiment(node("global_pool"), node("linear"), node("batch_norm_1d"), node("class_scores"))
    assert errors(problems(single, DATA)) == []
    (found,) = errors(problems(single.replace("training.batch_size", 1), DATA))
    assert found.path == "network.batch_norm_1d" and "single number" in found.message
    assert found.fix and errors(problems(found.fix, DATA)) == []
    wide = experiment(node("conv2d"), node("batch_norm"), *TAIL).replace("training.batch_size", 1)
    assert errors(problems(wide, DATA)) == []


def test_a_batch_norm_inside_a_block_is_refused_where_torch_would_refuse_it() -> None:
    inside = experiment(node("adaptive_pool", size=1), node("residual_block"), *TAIL)
    assert errors(problems(inside, DATA)) == []
    (found,) = errors(problems(inside.replace("training.batch_size", 1), DATA))
    assert found.path == "network.residual_block" and "single number" in found.message
    from builder import network

    net = network.assemble_of(inside, 2).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(torch.zeros(1, *network.input_shape(inside)))
    wide = experiment(node("residual_block"), *TAIL).replace("training.batch_size", 1)
    assert errors(problems(wide, DATA)) == []


def test_a_layer_made_for_colour_gets_its_three_channels_by_a_1x1_convolution(monkeypatch) -> None:
    class Colour(torch.nn.Conv2d):
        def __init__(self):
            super().__init__(3, 4, 3)

    spec = LayerSpec("for_colour", "For colour", "tests.colour:Colour", "A test layer.", takes=("maps",))
    monkeypatch.setitem(LAYERS._parts, "for_colour", spec)
    load = catalog.load
    monkeypatch.setattr(catalog, "load", lambda path: Colour if path == "tests.colour:Colour" else load(path))
    (found,) = errors(problems(experiment(node("for_colour"), *TAIL), DATA))
    assert found.repair == "Bring 1 channel to 3 with a 1x1 convolution before it"
    assert found.fix and errors(problems(found.fix, DATA)) == []


def test_a_layer_that_nothing_uses_is_a_warning():
    loose = experiment(
        node("conv2d"), node("relu", inputs=("input",)), node("global_pool", inputs=("conv2d",)), node("class_scores")
    )
    found = problems(loose, DATA)
    assert [(p.path, p.severity) for p in found] == [("network.relu", "warning")]


def test_a_network_too_large_for_this_machine_is_refused_before_anything_is_allocated():
    start = time.monotonic()
    giant = experiment(
        node("flatten"), *(node("linear", f"l{k}", out_features=100_000) for k in range(6)), node("class_scores")
    )
    found = errors(problems(giant, DATA))
    assert time.monotonic() - start < 5
    assert len(found) == 1 and "GiB to train" in found[0].message and found[0].path == "network.l1"


def test_a_batch_too_large_is_made_smaller_and_accumulated():
    wide = experiment(node("conv2d", out_channels=512), node("global_pool"), node("class_scores"))
    wide = wide.replace("data.size_px", 1024).replace("training.batch_size", 256)
    (found,) = errors(problems(wide, DATA))
    assert found.path == "training.batch_size"
    assert found.fix and found.fix.training.batch_size * found.fix.training.accumulate == 256


def test_a_wrong_head_names_both_numbers():
    three = Fingerprint(**{**DATA.__dict__, "classes": ("a", "b", "c")})
    wrong = experiment(node("global_pool"), node("linear", out_features=2))
    message = next(p for p in problems(wrong, three) if "classes" in p.message and p.path.startswith("network"))
    assert "ends in 2 numbers" in message.message and "3 classes" in message.message
    assert message.fix and message.fix.at("network.linear.params.out_features") == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ("benign",), "class_counts": {"train": {"benign": 9}, "val": {"benign": 9}}}, "class"),
        ({"num_patients": 1, "patients_per_split": {"train": 1}}, "patient"),
        ({"class_counts": {**COUNTS, "val": {"benign": 8}}}, "malignant"),
        ({"class_counts": {**COUNTS, "train": {"malignant": 20}}}, "benign"),
        ({"num_cases": 0, "classes": (), "class_counts": {}}, "."),
    ],
)
def test_data_that_cannot_teach_is_refused_in_words(change, words):
    found = errors(problems(experiment(), Fingerprint(**{**DATA.__dict__, **change})))
    assert any(words in p.message for p in found), found


def test_a_data_set_that_is_not_here_and_none_at_all_are_told_apart():
    assert "There is no data set" in problems(experiment())[0].message
    assert "No scans are chosen" in problems(experiment().replace("data.dataset", ""))[0].message
