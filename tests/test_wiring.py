"""The network as a graph: documents stay valid under every edit, and the browser's half makes the same of each edit."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder.network import plan
from builder.parts.layers import LAYERS
from builder.spec import INPUT, UNWIRED, Experiment, Node, feeder
from pages.kit import canvas
from pages.kit.draft import Draft
from pages.kit.wiring import Places, Refused, apply, fold, read, unfold

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("conv2d", "relu", "batch_norm", "add", "concatenate", "max_pool", "class_scores", "gru")


def node(id: str, name: str = "relu", *inputs: str, **params: Any) -> Node:
    return Node(id=id, name=name, inputs=inputs, params=params)


def document(*nodes: Node) -> Experiment:
    return Experiment(name="mine", network=nodes)


def edited(experiment: Experiment, *edits: dict[str, Any], places: Places | None = None) -> Experiment:
    places = places or Places()
    for edit in edits:
        experiment, places = apply(experiment, places, read(edit))
    return experiment


def wires(experiment: Experiment) -> list[tuple[str, tuple[str, ...]]]:
    return [(n.id, n.inputs) for n in experiment.network]


CHAIN = document(node("a", "conv2d"), node("b", "batch_norm"), node("c"))
SKIP = document(node("a", "conv2d"), node("b", "conv2d"), node("c", "add", "b", "a"), node("d"))


def test_a_list_becomes_wires_and_the_same_list_again() -> None:
    assert unfold(SKIP.network) == {"a": ("input",), "b": ("a",), "c": ("b", "a"), "d": ("c",)}
    assert fold(SKIP.network, unfold(SKIP.network)) == SKIP.network
    assert unfold((node("x", "relu", UNWIRED),)) == {"x": ()}
    assert fold((), {}) == ()


def test_layers_are_listed_below_what_feeds_them_and_a_wire_is_written_only_where_it_is_not_the_layer_above() -> None:
    nodes = (node("late"), node("early"), node("last"))
    told = fold(nodes, {"late": ("early",), "early": ("input",), "last": ("late",)})
    assert [(n.id, n.inputs) for n in told] == [("early", ()), ("late", ()), ("last", ())]


def test_a_layer_dropped_anywhere_says_that_nothing_is_connected_to_it_and_is_not_the_output() -> None:
    new = edited(CHAIN, {"op": "add", "id": "loose", "name": "conv2d", "at": [10, 20]})
    assert new.network[-1].id == "c" and new.at("network.loose.inputs") == (UNWIRED,)
    planned = plan(new.network, (1, 32, 32), 2)
    assert planned["loose"].message == "Nothing is connected to it yet." and planned["loose"].where == "inputs"
    assert planned.output == (16, 32, 32) and not planned["c"].message


def test_the_only_end_that_the_scan_reaches_is_the_output() -> None:
    new = edited(
        document(node("scores", "class_scores", UNWIRED)),
        {"op": "add", "id": "pool", "name": "global_pool", "feeds": ["input"]},
    )
    assert [n.id for n in new.network] == ["scores", "pool"]
    assert [n.id for n in edited(new, {"op": "wire", "source": "pool", "target": "scores"}).network] == [
        "pool",
        "scores",
    ]


def test_a_layer_put_into_a_wire_stands_in_for_its_source_and_leaves_the_skip() -> None:
    new = edited(SKIP, {"op": "add", "id": "n", "name": "relu", "feeds": ["a"], "takes": [["b", "a"]]})
    assert unfold(new.network) == {"a": ("input",), "n": ("a",), "b": ("n",), "c": ("b", "a"), "d": ("c",)}


def test_deleting_heals_the_chain_and_a_layer_of_one_input_keeps_the_main_way() -> None:
    assert wires(edited(CHAIN, {"op": "remove", "ids": ["b"]})) == [("a", ()), ("c", ())]
    assert unfold(edited(SKIP, {"op": "remove", "ids": ["c"]}).network)["d"] == ("b",)
    assert wires(edited(SKIP, {"op": "remove", "ids": ["a", "b", "c", "d"]})) == []
    cut = edited(SKIP, {"op": "remove", "ids": [], "wires": [["a", "c"]]})
    assert unfold(cut.network)["c"] == ("b",)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("c", "a", "a loop"),
        ("a", "a", "cannot feed itself"),
        ("a", "c", "takes one input and has one"),
        ("b", "c", "already gets this"),
        ("gone", "c", "is gone"),
        ("a", "gone", "is gone"),
        ("a", "input", "Nothing goes into the scan"),
    ],
)
def test_an_impossible_wire_is_refused_in_words(source: str, target: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        edited(CHAIN, {"op": "wire", "source": source, "target": target})


def test_a_tap_is_wired_and_healed_like_any_wire() -> None:
    stages = document(node("bb", "conv2d"), node("x", "relu", "bb:1"))
    new = edited(stages, {"op": "add", "id": "j", "name": "add", "feeds": ["x", "bb:2"]})
    assert unfold(new.network)["j"] == ("x", "bb:2")
    assert unfold(edited(new, {"op": "remove", "ids": ["bb"]}).network) == {"x": ("input",), "j": ("x", "input")}


def test_several_edits_are_one_step_and_an_edit_of_nonsense_is_refused() -> None:
    copies = [
        {"op": "add", "id": "p", "name": "conv2d", "like": "a", "feeds": ["c"]},
        {"op": "add", "id": "q", "name": "relu", "feeds": ["p"]},
    ]
    wide = CHAIN.replace("network.a.params.out_channels", 40)
    new = edited(wide, {"op": "together", "ops": copies})
    assert [n.id for n in new.network] == ["a", "b", "c", "p", "q"]
    assert new.at("network.p.params.out_channels") == 40, "a copy has the settings of the newest document"
    for nonsense in (
        {"op": "format"},
        {"op": "add", "id": "1 2", "name": "relu"},
        {"op": "wire"},
        3,
        None,
        {"op": "place"},
    ):
        with pytest.raises(Refused):
            read(nonsense)


def test_places_follow_the_layers_and_change_no_digest() -> None:
    places = Places()
    new, places = apply(CHAIN, places, read({"op": "place", "moved": {"a": [5, 6], "nobody": [1, 1]}}))
    assert new.digest == CHAIN.digest and places.moved == {"a": (5.0, 6.0)}
    new, places = apply(
        CHAIN, places, read({"op": "block", "id": "one", "name": "One", "ids": ["b", "c"], "closed": True})
    )
    assert places.blocks[0].ids == ("b", "c") and places.blocks[0].closed
    new, places = apply(new, places, read({"op": "remove", "ids": ["a", "b"]}))
    assert places.moved == {} and places.blocks == (), "a block of one layer is none"
    with pytest.raises(Refused, match="at least two"):
        apply(new, places, read({"op": "block", "id": "one", "name": "One", "ids": ["c"]}))
    assert Places.of({"moved": "nonsense"}) == Places()


# -- the draft ---------------------------------------------------------------------------------------------------------


def told(
    draft: Draft, mount: str, *edits: tuple[int, dict[str, Any]], selected: str | None = None, known: int = 0
) -> None:
    canvas.take(draft, {"mount": mount, "edits": [list(e) for e in edits], "selected": selected, "known": known})


def test_an_edit_is_taken_once_however_often_it_is_told(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    first = (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["c"]})
    second = (2, {"op": "add", "id": "relu_2", "name": "relu", "feeds": ["relu_1"]})
    told(draft, "tab", first)
    told(draft, "tab", first, second)
    told(draft, "tab", second)
    assert [n.id for n in draft.experiment.network] == ["a", "b", "c", "relu_1", "relu_2"]


def test_settings_typed_meanwhile_and_the_edits_of_another_tab_stay(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    draft.replace("network.a.params.out_channels", 64)
    told(draft, "one", (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["a"], "takes": [["b", "a"]]}))
    told(draft, "two", (1, {"op": "remove", "ids": ["c"]}))
    assert draft.experiment.at("network.a.params.out_channels") == 64
    assert [n.id for n in draft.experiment.network] == ["a", "relu_1", "b"]


def test_an_id_that_another_tab_has_taken_meanwhile_is_given_anew(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    told(draft, "one", (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["c"]}))
    told(draft, "two", (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["a"]}))
    told(draft, "two", (2, {"op": "wire", "source": "relu_1", "target": "c", "instead": "b"}), selected="relu_1")
    feeds = unfold(draft.experiment.network)
    assert feeds["relu_1"] == ("c",) or feeds["relu_2"] == ("a",)
    assert feeds["c"] == ("relu_2",) and feeds["relu_2"] == ("a",)


def test_once_heard_an_old_id_means_the_layer_of_the_other_tab(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    told(draft, "one", (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["c"]}))
    told(draft, "two", (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["a"]}))
    assert canvas._heard_of(draft, "two").names == [(1, "relu_1", "relu_2")]
    told(draft, "two", (2, {"op": "remove", "ids": ["relu_1"]}), known=1)
    assert "relu_1" not in unfold(draft.experiment.network) and "relu_2" in unfold(draft.experiment.network)


def test_a_restarted_server_takes_no_edit_and_no_undo_twice(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    add = (1, {"op": "add", "id": "relu_1", "name": "relu", "feeds": ["c"]})
    told(draft, "tab", add)
    canvas._heard.clear()
    told(draft, "tab", add, (2, {"op": "add", "id": "relu_2", "name": "relu", "feeds": ["relu_1"]}))
    assert [n.id for n in draft.experiment.network] == ["a", "b", "c", "relu_1", "relu_2"]
    undo = (3, {"op": "undo"})
    told(draft, "tab", undo)
    canvas._heard.clear()
    told(Draft.open(draft.id, at_home=home), "tab", undo)
    assert [n.id for n in draft.experiment.network] == ["a", "b", "c", "relu_1"]


def test_undo_takes_back_layers_places_and_settings_alike(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    told(draft, "tab", (1, {"op": "place", "moved": {"a": [30, 0]}}))
    draft.replace("network.a.params.out_channels", 64)
    told(draft, "tab", (2, {"op": "remove", "ids": ["c"]}))
    assert draft.layout == {"moved": {"a": [30.0, 0.0]}}
    before, now, after = draft.steps
    told(draft, "tab", (3, {"op": "undo"}), (4, {"op": "undo"}))
    assert draft.experiment == CHAIN and draft.layout == {"moved": {"a": [30.0, 0.0]}}
    assert draft.steps[1] == (before or 0) - 1 and draft.steps[2] == before
    told(draft, "tab", (5, {"op": "undo"}), (6, {"op": "undo"}))
    assert draft.layout == {} and draft.steps[0] is None
    for number in (7, 8, 9):
        told(draft, "tab", (number, {"op": "redo"}))
    assert draft.steps == (before, now, after) and [n.id for n in draft.experiment.network] == ["a", "b"]
    assert Draft.open(draft.id, at_home=home).layout == {"moved": {"a": [30.0, 0.0]}}


def test_a_repair_is_pressed_by_its_path_and_a_stale_one_is_refused_in_words(home: Path) -> None:
    draft = Draft.create(document(node("a", "conv2d"), node("s", "class_scores")), at_home=home)
    from pages.kit import findings

    problem = next(p for p in findings.look(draft.experiment).problems if p.path.startswith("network.s"))
    press = {"op": "repair", "path": problem.path, "repair": problem.repair}
    told(draft, "tab", (1, press))
    assert [n.name for n in draft.experiment.network] == ["conv2d", "global_pool", "class_scores"]
    told(draft, "tab", (2, press))
    assert canvas._heard_of(draft, "tab").refused[-1] == (2, "This is mended already.")


def test_a_repair_changes_nothing_that_it_is_not_about() -> None:
    from pages.kit import findings

    one = document(node("a", "conv2d"), node("s", "class_scores")).replace("data.num_slices", 20)
    other = one.replace("data.num_slices", 31)
    assert one.digest == other.digest, "the number of slices means nothing where one picture is seen"
    for asked in (one, other):
        found = [p for p in findings.look(asked).problems if p.fix is not None]
        assert found and {p.fix.data.num_slices for p in found if p.fix} == {asked.data.num_slices}


def test_what_is_no_edit_is_refused_and_never_a_traceback(home: Path) -> None:
    draft = Draft.create(CHAIN, at_home=home)
    for number, nonsense in enumerate((None, 7, {}, {"op": "together", "ops": []}, {"op": "begin"}, {"op": "add"}), 1):
        told(draft, "tab", (number, nonsense))  # type: ignore[arg-type]
    canvas.take(draft, None)
    canvas.take(draft, {"mount": 3})
    assert draft.experiment == CHAIN


# -- both halves -------------------------------------------------------------------------------------------------------


def randomly(seed: int) -> list[dict[str, Any]]:
    """A few edits of a growing network, sensible and not."""
    chance = random.Random(seed)
    ids, ops = [INPUT], []
    for number in range(chance.randint(4, 16)):
        kind = chance.choices(
            ("add", "insert", "wire", "unwire", "remove", "place", "block", "together"), (6, 3, 5, 2, 2, 1, 1, 1)
        )[0]
        some = chance.choice(ids)
        if kind in ("add", "insert"):
            id = f"n{number}"
            op: dict[str, Any] = {"op": "add", "id": id, "name": chance.choice(NAMES)}
            op["feeds"] = chance.sample(ids, min(len(ids), chance.randint(0, 2)))
            if kind == "insert" and op["feeds"]:
                op["takes"] = [[chance.choice(ids), op["feeds"][0]]]
            op |= chance.choice(({}, {"params": {"out_channels": number}}, {"like": some}))
            if not op["feeds"]:
                op["at"] = [chance.randint(-500, 500), 7]
            ids.append(id)
        elif kind == "wire":
            op = {"op": "wire", "source": some, "target": chance.choice(ids)}
        elif kind == "unwire":
            op = {"op": "unwire", "source": some, "target": chance.choice(ids)}
        elif kind == "remove":
            op = {"op": "remove", "ids": chance.sample(ids, min(len(ids), 2)), "wires": [[some, chance.choice(ids)]]}
        elif kind == "place":
            op = {"op": "place", "moved": {some: [chance.randint(-9, 9), 2]}}
        elif kind == "block":
            op = {"op": "block", "id": f"b{number}", "name": "B", "ids": chance.sample(ids, min(len(ids), 3))}
        else:
            op = {
                "op": "together",
                "ops": [{"op": "unwire", "source": some, "target": chance.choice(ids)}, {"op": "tidy"}],
            }
        ops.append(op)
    return ops


SCRIPT = """
import { edit, Refused, NO_PLACES } from %s
let text = ''
for await (const piece of process.stdin) text += piece
const { cases, catalog } = JSON.parse(text)
const told = cases.map((ops) => {
  let graph = { nodes: [], places: NO_PLACES }
  return ops.map((op) => {
    let words = ''
    try { graph = edit(graph, op, catalog) } catch (error) {
      if (!(error instanceof Refused)) throw error
      words = error.message
    }
    return [graph.nodes.map((n) => [n.id, n.name, n.feeds, n.params]), graph.places, words]
  })
})
console.log(JSON.stringify(told))
"""


def test_the_browser_and_python_make_the_same_of_every_edit() -> None:
    runs_node = shutil.which("node")
    if runs_node is None:
        pytest.skip("Node.js, which builds the browser parts, is not on the PATH")
    cases = [randomly(seed) for seed in range(300)]
    catalog = {p["name"]: {"title": p["title"], "most": p["most"]} for p in canvas.palette()}
    module = json.dumps((ROOT / "components" / "javascript" / "network" / "graph.js").as_uri())
    done = subprocess.run(
        [runs_node, "--input-type=module", "-e", SCRIPT % module],
        input=json.dumps({"cases": cases, "catalog": catalog}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused = 0
    for ops, states in zip(cases, json.loads(done.stdout), strict=True):
        now, places = document(), Places()
        for op, (there, lies, words) in zip(ops, states, strict=True):
            said = ""
            try:
                now, places = apply(now, places, read(op))
            except Refused as refusal:
                said, refused = str(refusal), refused + 1
            here = [[n.id, n.name, list(unfold(now.network)[n.id]), n.params] for n in now.network]
            assert (here, said) == (there, words), (ops, op)
            assert (
                json.loads(json.dumps({"moved": {}, "loose": {}, "blocks": [], **places.model_dump(mode="json")}))
                == lies
            )
            # The document is valid: every layer comes below what feeds it.
            seen = {INPUT}
            for one in now.network:
                assert all(feeder(f) in seen for f in unfold(now.network)[one.id])
                seen.add(one.id)
            assert fold(now.network, unfold(now.network)) == now.network
    assert refused > 100, "impossible edits are among them"
    assert all(name in LAYERS for name in NAMES)
