"""The experiment document: paths, edits, differences, reading and refusing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.parts.images import AUGMENTATIONS
from builder.parts.layers import LAYERS
from builder.parts.training import AVERAGES, OPTIMIZERS
from builder.spec import Choice, Experiment, Node, SpecError, Training


def chain(*names: str) -> Experiment:
    return Experiment(network=tuple(Node(id=n, name="relu") for n in names))


def ids(experiment: Experiment) -> list[str]:
    return [n.id for n in experiment.network]


def test_a_document_written_and_read_again_is_the_same_with_the_same_digest():
    one = chain("a", "b").replace("network.a.params.p", 0.25).replace("name", "Läsion ✓")
    two = Experiment.loads(one.dumps())
    assert two == one and two.digest == one.digest
    assert Experiment.loads(one.dumps().encode()) == one


WRITTEN_EARLIER = [  # documents as the first version wrote them, each with the digest that its runs carry
    ({}, "6bfab1ac2e6e895ec5d3ddb45b752276f5e14c2942439b0147bf6cbb1207ce48"),
    (
        {
            "task": "image_enhancement",
            "data": {"fit": "patches", "degrade": {"name": "noise", "params": {"sigma": 0.1}}},
        },
        "a027e1c357e3b979c6e5e924e7680fec14703a9024f7715e4cacd802f972be0e",
    ),
    (
        {"data": {"slices": "volume", "num_slices": 8}, "training": {"loss": {"name": "focal"}}},
        "9281c235fc9612bdd4c8339653494376399465191e536cc52590d5ff6d358f34",
    ),
    (
        {
            "network": [
                {"id": "conv", "name": "conv2d", "params": {"out_channels": 6}},
                {"id": "head", "name": "linear"},
            ],
            "training": {
                "class_weights": True,
                "l1": 1e-5,
                "augment": [{"name": "rotate", "params": {"degrees": 10.0}}],
            },
        },
        "cda090f8d16b2d283693e519373fa90b1f9811dd4fb20f503c3a478e9b9c4955",
    ),
]


@pytest.mark.parametrize(("written", "digest"), WRITTEN_EARLIER)
def test_a_document_written_earlier_keeps_the_digest_that_its_runs_carry(written, digest):
    now = Experiment.loads(json.dumps({"version": 1, **written}))
    assert now.digest == digest
    assert Experiment.loads(now.dumps()).digest == digest


def test_a_setting_added_later_counts_in_the_digest_only_where_it_is_used():
    class Learning(Training):
        zeal: float = 0.0
        steps: tuple[Choice, ...] = ()

    class Later(Experiment):
        training: Learning = Learning()

    def document(**chosen):
        return Later(training=Learning(**chosen))

    plain = document()
    assert plain.digest == Experiment().digest
    assert len({plain.digest, document(zeal=0.5).digest, document(steps=(Choice(name="up"),)).digest}) == 3


def test_every_edit_gives_another_digest_and_leaves_the_original_alone():
    one = chain("a", "b")
    edits = [
        one.replace("training.epochs", 3),
        one.replace("training.optimizer.params.lr", 0.1),
        one.replace("network.b.params.x", True),
        one.insert(Node(id="c", name="tanh"), after="a"),
        one.remove("a"),
        one.move("a", 1),
        one.duplicate("a"),
    ]
    assert len({e.digest for e in [one, *edits]}) == 8
    assert ids(one) == ["a", "b"]


def test_paths_address_lists_by_name():
    one = chain("a", "b").replace("training.augment", (Choice(name="rotate"), Choice(name="noise")))
    one = one.replace("training.augment.rotate.params.degrees", 20.0).replace("network.b.inputs", ("input",))
    assert one.at("training.augment.rotate.params.degrees") == 20.0
    assert one.at("network.b").inputs == ("input",)
    assert one.leaves()["training.augment.rotate.params.degrees"] == 20.0


def test_a_setting_set_to_none_goes_back_to_its_default():
    one = chain("a").replace("network.a.params.p", 0.5)
    assert one.replace("network.a.params.p", None) == chain("a")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("training.epoch", 3, "Did you mean epochs"),
        ("trainig.epochs", 3, "Did you mean training"),
        ("network.zz.params.p", 3, "There is no 'network.zz.params.p'"),
        ("training.epochs", "many", "valid integer"),
        ("training.epochs", 2.5, "integer"),
        ("training.l1", float("nan"), "finite number"),
        ("network.a.id", "1 x", "match pattern"),
        ("network.a.id", "input", "the scan itself"),
        ("name", "", "at least 1 character"),
        ("name.first", "x", "There is no"),
    ],
)
def test_a_wrong_path_or_value_is_refused_in_words(path, value, words):
    with pytest.raises(SpecError, match=words):
        chain("a").replace(path, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "expected a JSON object"),
        ('{"hello": 1}', "not an experiment of ScanLoom.*saved here"),
        ('{"training": {"l1": NaN}}', "NaN is not a number"),
        ('{"training": {"l1": 1e999}}', "finite number"),
        ('{"version": 99}', "Update ScanLoom"),
        ('{"version": "x"}', "whole number"),
        ('{"name": "a", "versio": 1, "trainin": {}}', "versio: .* Did you mean version.*trainin: unknown field"),
        ('{"training": {"epoch": 3}}', "Did you mean epochs"),
        ('{"network": [{"id": "a", "name": "relu"}, {"id": "a", "name": "relu"}]}', "share the id 'a'"),
        ('{"network": [{"id": "a", "name": "relu", "__class__": "os.system"}]}', "unknown field"),
        ('{"network": [{"id": "a", "name": "relu", "params": {"p": {"deep": 1}}}]}', "params"),
        ("[" * 100_000, "not an experiment"),
        ('{"network": "conv"}', "valid tuple|valid array"),
    ],
)
def test_a_document_that_cannot_be_understood_is_refused_in_words(text, words):
    with pytest.raises(SpecError, match=words) as error:
        Experiment.loads(text)
    assert "Traceback" not in str(error.value) and "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "must be a finite number (it is 'nan')."),
        (float("-inf"), "must be a finite number (it is '-inf')."),
        ([1], "must be a number, a word, yes, no or nothing (it is a list)."),
        ({"deep": 1}, "must be a number, a word, yes, no or nothing (it is an object)."),
    ],
)
def test_a_setting_that_is_no_value_is_told_once_by_the_path_that_there_is(value, words):
    with pytest.raises(SpecError) as error:
        chain("a").replace("training.optimizer.params.lr", value)
    assert str(error.value) == f"training.optimizer.params.lr: {words}"


def test_settings_that_are_no_values_are_counted_once_each():
    params = {f"p{k}": float("inf") for k in range(22)}
    with pytest.raises(SpecError, match=r"p19: must be .* And 2 more\.$"):
        chain("a").replace("training.optimizer", {"name": "adamw", "params": params})


def test_the_difference_names_paths_and_both_values():
    one = chain("a", "b", "c")
    two = one.replace("training.optimizer.params.lr", 0.3).replace("training.epochs", 7).remove("c")
    assert one.diff(two) == {
        "training.optimizer.params.lr": (None, 0.3),
        "training.epochs": (one.training.epochs, 7),
        "network.c.name": ("relu", None),
        "network.c.id": ("c", None),
        "network.c.inputs": ("", None),
    }
    assert one.diff(one.move("a", 2))["network"] == ("a > b > c", "b > c > a")
    assert one.diff(one) == {}


def test_a_default_that_is_written_down_is_no_difference():
    one = Experiment(
        network=(Node(id="a", name="conv2d"),), training={"average": {"name": "ema"}, "augment": [{"name": "rotate"}]}
    )
    written = one
    for path in ("network.a", "training.optimizer", "training.average", "training.augment.rotate"):
        part = {**LAYERS, **AUGMENTATIONS, **OPTIMIZERS, **AVERAGES}[one.at(path).name]
        for name, value in part.defaults.items():
            written = written.replace(f"{path}.params.{name}", value)
    assert written != one and one.diff(written) == {} == written.diff(one)
    assert one.diff(written.replace("training.average.params.decay", 0.5)) == {
        "training.average.params.decay": (None, 0.5)
    }


def test_removing_a_layer_heals_the_chain_and_every_wire_that_came_from_it():
    one = Experiment(
        network=(
            Node(id="a", name="relu"),
            Node(id="b", name="relu"),
            Node(id="c", name="add", inputs=("a", "b")),
            Node(id="d", name="relu"),
        )
    )
    assert one.remove("b").at("network.c").inputs == ("a",)
    assert one.remove("a").at("network.c").inputs == ("input", "b")
    assert one.remove("c").at("network.d").inputs == ("a", "b")


def test_a_new_layer_goes_where_it_is_put_and_ids_stay_distinct():
    one = chain("a", "b")
    assert ids(one.insert(Node(id="c", name="relu"), after="a")) == ["a", "c", "b"]
    assert ids(one.insert(Node(id="c", name="relu"), after="input")) == ["c", "a", "b"]
    assert ids(one.insert(Node(id="c", name="relu"))) == ["a", "b", "c"]
    assert ids(one.duplicate("a")) == ["a", "relu_1", "b"]
    with pytest.raises(SpecError, match="share the id"):
        one.insert(Node(id="a", name="relu"))
    with pytest.raises(SpecError, match="There is no"):
        one.insert(Node(id="c", name="relu"), after="zz")


def test_moving_stays_inside_the_list():
    one = chain("a", "b", "c")
    assert ids(one.move("b", -1)) == ["b", "a", "c"]
    assert ids(one.move("a", 9)) == ["b", "c", "a"]
    assert ids(one.move("c", -9)) == ["c", "a", "b"]


words = st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda t: t[0] != "_")
values = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-9, 9), words)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, st.dictionaries(words, values, max_size=3)), max_size=6, unique_by=lambda t: t[0]))
def test_any_network_survives_the_round_trip_and_its_diff_leads_from_one_to_the_other(layers):
    one = Experiment(network=tuple(Node(id=i, name="relu", params=p) for i, p in layers if i != "input"))
    assert Experiment.loads(one.dumps()) == one
    for path, value in one.leaves().items():
        if ".params." in path:
            assert one.at(path) == value
    other = one.replace("training", Training(epochs=3))
    assert {p for p in one.diff(other)} == {"training.epochs"}


json_values = st.recursive(
    st.one_of(st.none(), values), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), values), lambda s: st.lists(s, max_size=3) | st.dictionaries(words, s, max_size=3)
    )
)
def test_no_json_whatever_makes_reading_fail_in_any_other_way_than_a_sentence(found):
    try:
        Experiment.loads(json.dumps(found))
    except SpecError as error:
        assert str(error)
