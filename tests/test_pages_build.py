"""Network, Training, Runs and Test, run as a browser session would run them; runs are told by hand-written events."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_files import drained, picture
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_intake import nearby  # noqa: F401 (a fixture)
from test_pages_shell import (  # noqa: F401 (two of them are fixtures)
    cats,
    finish,
    no_supervisor,
    opened,
    parameter,
    said,
    title_of,
)

from builder import scans
from builder.data import Dataset
from builder.events import Branched, Event, fold
from builder.intake import detect, import_scans
from builder.network import input_shape, plan
from builder.parts.images import AUGMENTATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import TRAINING
from builder.runs import Claim, EpochEnded, Finished, Progress, Record, Run, RunStore, RunView, Saved, Started
from builder.spec import Choice, Experiment, Node
from builder.task import find
from pages.kit import curves, forms, heat, layers, preflight, run_state
from pages.kit.draft import Draft


def starter(name: str = "tiny-cnn") -> Experiment:
    return next(e for e in find("recognition").starters() if e.name == name)


def drafted(home: Path, experiment: Experiment) -> Draft:
    return Draft.create(experiment, at_home=home)


def at(page: str, draft: Draft, **parameters: str) -> AppTest:
    """A page with this draft open; the network as the list of cards (the canvas is tests/test_canvas.py's)."""
    session = opened(page, draft=draft.id, **parameters)
    if page == "network":
        session.button_group(key="network-view").set_value("List").run()
        assert not session.exception, session.exception
    return session


def ids(draft: Draft) -> list[str]:
    return [n.id for n in draft.experiment.network]


def buttons(session: AppTest) -> set[str]:
    return {button.key for button in session.button if button.key}


def pressed(session: AppTest, key: str) -> AppTest:
    session.button(key=key).click().run()
    assert not session.exception, session.exception
    if key.startswith("add:"):
        session.run()  # the press draws the list alone; here all is looked at
    return session


def label(session: AppTest, key: str) -> str:
    return str(session.button(key=key).label)


def groups(session: AppTest) -> list:
    """The radio groups of the layer list, in order."""
    return [radio for radio in session.radio if str(radio.key).startswith("layers-")]


def group_of(session: AppTest, id: str):
    """The radio group that holds a layer, and the layer's place in it."""
    for radio in groups(session):
        for place, option in enumerate(radio.options):
            if option == "**Scan**" if id == "input" else option.replace("\\", "").endswith(f"[{id}]"):
                return radio, place
    raise AssertionError(f"no card of {id}")


def card(session: AppTest, id: str) -> str:
    """All that the card of a layer says."""
    radio, place = group_of(session, id)
    return f"{radio.options[place]} {radio.proto.captions[place]}"


def opened_card(session: AppTest, id: str) -> AppTest:
    radio, _ = group_of(session, id)
    radio.set_value(id).run()
    assert not session.exception, session.exception
    return session


def repair_of(session: AppTest, place: str) -> str:
    """The key of the first repair button in a place of the page."""
    return next(key for key in sorted(buttons(session)) if key.startswith(f"repair-{place}"))


def primaries(session: AppTest) -> list[str]:
    return [button.label for button in session.button if button.proto.type == "primary"]


# -- network -----------------------------------------------------------------------------------------------------------


def test_without_an_experiment_the_network_page_offers_to_begin(home: Path) -> None:
    session = opened("network")
    assert "No experiment is open" in said(session) and len(primaries(session)) == 1
    pressed(session, "first-starter")
    session.button_group(key="network-view").set_value("List").run()
    begun = Draft.open(parameter(session, "draft"), at_home=home)
    assert begun.experiment.network == starter().network
    assert "16 x 32 x 32" in card(session, begun.experiment.network[0].id)


def test_a_network_without_layers_says_what_to_do_and_takes_the_first_one(home: Path) -> None:
    draft = drafted(home, Experiment(name="mine"))
    session = at("network", draft)
    assert "No layers yet" in said(session)
    pressed(session, "add:conv2d")
    assert [n.name for n in draft.experiment.network] == ["conv2d"]
    assert "16 x 64 x 64" in card(session, "conv2d_1")
    pressed(session, "add:conv2d")
    assert len(draft.experiment.network) == 2
    assert card(session, draft.experiment.network[1].id)


@pytest.mark.parametrize("value", ["3", 3.5, None, 1e30, "no"])
def test_a_value_of_another_kind_in_a_loaded_document_is_shown_and_mended(home: Path, value: object) -> None:
    written = {"kernel_size": value} if value != "no" else {"bias": value}
    node = Node(id="a", name="conv2d", params=written)
    session = at("network", drafted(home, Experiment(name="mine").insert(node)))  # a page, and no traceback
    [name] = written
    assert session.text_input(key=f"unfit:network.a.params.{name}").value == str(value)
    whole = Experiment(name="mine").insert(Node(id="a", name="conv2d", params={"kernel_size": 5.0}))
    assert at("network", drafted(home, whole)).slider(key="network.a.params.kernel_size").value == 5
    rate = starter().replace("training.optimizer.params.lr", "0.1")
    draft = drafted(home, rate)
    session = at("training", draft)
    pressed(session, "repair:training.optimizer.params.lr:0")
    assert isinstance(draft.experiment.at("training.optimizer.params.lr"), float)


def test_a_joining_layer_below_one_that_nothing_feeds_is_fed_by_that_one_alone(home: Path) -> None:
    loose = (
        Experiment(name="mine").insert(Node(id="a", name="conv2d")).insert(Node(id="b", name="conv2d", inputs=("-",)))
    )
    draft = drafted(home, loose)
    session = at("network", draft)
    session.text_input(key="palette-search").set_value("add").run()
    pressed(session, "add:add")
    assert ids(draft) == ["a", "b", "add_1"] and draft.experiment.at("network.add_1.inputs") == ()
    assert "does not exist" not in said(session)


@pytest.mark.parametrize(("words", "there"), [("relu", "relu"), ("activation", "gelu"), ("shrink", "max_pool")])
def test_a_layer_is_found_by_what_it_is_called_or_does(home: Path, words: str, there: str) -> None:
    session = at("network", drafted(home, starter()))
    shown = {key for key in buttons(session) if key.startswith("add:")}
    assert "add:conv2d" in shown and f"add:{LAYERS.names[-1]}" not in shown, "shut groups are not drawn"
    session.text_input(key="palette-search").set_value(words).run()
    found = {key for key in buttons(session) if key.startswith("add:")}
    assert f"add:{there}" in found and 0 < len(found) < len(LAYERS)


def test_a_search_that_finds_nothing_says_so(home: Path) -> None:
    session = at("network", drafted(home, starter()))
    session.text_input(key="palette-search").set_value("qqq").run()
    assert "No layer is found" in said(session)


def test_a_new_layer_goes_below_the_open_card_and_can_be_taken_back(home: Path) -> None:
    draft = drafted(home, starter())
    before = ids(draft)
    session = at("network", draft)
    opened_card(session, before[2])
    session.text_input(key="palette-search").set_value("max pooling").run()
    pressed(session, "add:max_pool")
    assert ids(draft)[:4] == [*before[:3], draft.experiment.network[3].id]
    assert draft.experiment.network[3].name == "max_pool"
    pressed(session, "undo")
    assert ids(draft) == before
    pressed(session, "redo")
    assert len(ids(draft)) == len(before) + 1


def test_a_new_layer_draws_the_list_and_the_steps_alone_unless_more_has_changed(home: Path) -> None:
    draft = drafted(home, starter())
    session = at("network", draft)
    session.text_input(key="palette-search").set_value("max pooling").run()
    session.button(key="add:max_pool").click().run()
    assert not session.exception, session.exception
    assert not [key for key in buttons(session) if key.startswith("add:")], "the palette was drawn anew"
    assert "add max pooling" in session.button(key="undo").help and session.button(key="redo").disabled
    session.run()
    draft.replace("name", "renamed")  # in another tab
    session.button(key="add:max_pool").click().run()
    assert session.button(key="add:max_pool") and any("renamed" in m.value for m in session.markdown)


def test_layers_are_moved_copied_and_deleted_from_their_card(home: Path) -> None:
    draft = drafted(home, starter())
    first, second, third = ids(draft)[:3]
    session = at("network", draft)
    opened_card(session, third)
    pressed(session, "up-layer")
    assert ids(draft)[:3] == [first, third, second]
    pressed(session, "down-layer")
    assert ids(draft)[:3] == [first, second, third]
    pressed(session, "copy-layer")
    assert [n.name for n in draft.experiment.network][2:4] == ["relu", "relu"]
    pressed(session, "delete-layer")
    assert ids(draft)[:3] == [first, second, third]
    opened_card(session, first)
    assert session.button(key="up-layer").disabled and not session.button(key="down-layer").disabled


@pytest.mark.parametrize("key", ["up-layer", "copy-layer", "delete-layer"])
def test_what_is_done_to_a_layer_that_was_deleted_in_another_tab_ends_in_a_sentence(home: Path, key: str) -> None:
    draft = drafted(home, starter())
    session = opened_card(at("network", draft), ids(draft)[2])
    gone = ids(draft)[2]
    layers_then = [i for i in ids(draft) if i != gone]
    draft.apply(lambda now: now.remove(gone), "delete it elsewhere")
    pressed(session, key)
    assert session.toast and gone in session.toast[0].value.replace("\\", "") and ids(draft) == layers_then


def test_a_repair_beside_a_card_keeps_what_another_tab_has_changed(home: Path) -> None:
    draft = drafted(home, starter().replace(f"network.{starter().network[0].id}.params.out_channels", 0))
    session = at("network", draft)
    draft.replace("training.epochs", 17)
    pressed(session, repair_of(session, "card"))
    assert draft.experiment.training.epochs == 17
    assert draft.experiment.at(f"network.{starter().network[0].id}.params.out_channels") > 0


def test_deleting_a_layer_of_a_branch_heals_the_wires(home: Path) -> None:
    network = (
        Node(id="a", name="conv2d"),
        Node(id="b", name="conv2d"),
        Node(id="c", name="add", inputs=("a", "b")),
        Node(id="d", name="global_pool"),
        Node(id="e", name="class_scores"),
    )
    draft = drafted(home, Experiment(name="branch", network=network))
    session = at("network", draft)
    opened_card(session, "b")
    pressed(session, "delete-layer")
    assert ids(draft) == ["a", "c", "d", "e"]
    assert "b" not in draft.experiment.at("network.c.inputs")


def test_a_changed_setting_shows_new_shapes_in_the_layers_below(home: Path) -> None:
    draft = drafted(home, starter())
    session = at("network", draft)
    first = ids(draft)[0]
    opened_card(session, first)
    session.number_input(key=f"network.{first}.params.out_channels").set_value(40).run()
    assert draft.experiment.at(f"network.{first}.params.out_channels") == 40
    assert "40 x 32 x 32" in card(session, first)
    assert "40 x 32 x 32" in card(session, ids(draft)[1])


def test_a_layer_that_fails_is_told_in_a_sentence_and_mended_by_its_button(home: Path) -> None:
    broken = Experiment(name="broken", network=(Node(id="conv", name="conv2d"), Node(id="scores", name="class_scores")))
    draft = drafted(home, broken)
    session = at("network", draft)
    assert "1 layer needs attention" in said(session)
    assert "Class scores expects" in said(session)
    assert "no shape" in card(session, "scores")
    pressed(session, repair_of(session, "card"))
    planned = plan(draft.experiment.network, input_shape(draft.experiment), 2)
    assert planned.output == (2,) and not any(n.message for n in planned.nodes)
    assert "needs attention" not in said(session)
    pressed(session, "undo")
    assert draft.experiment == broken


def test_sums_that_stop_at_a_broken_layer_say_so(home: Path) -> None:
    experiment = starter()
    whole = at("network", drafted(home, experiment))
    broken = at("network", drafted(home, experiment.insert(Node(id="late", name="conv2d"))))
    told = [" ".join(e.proto.body for e in session.get("html")) for session in (whole, broken)]
    assert "at least" not in told[0] and told[1].count("<dd>at least ") == 3


def test_a_layer_of_another_version_is_shown_as_unknown_and_can_be_removed(home: Path) -> None:
    nodes = (*starter().network[:2], Node(id="odd", name="hyper_conv"), *starter().network[2:])
    draft = drafted(home, starter().replace("network", nodes))
    session = at("network", draft)
    opened_card(session, "odd")
    assert "hyper" in card(session, "odd")
    assert "There is no layer called" in said(session)
    pressed(session, "delete-layer")
    assert "odd" not in ids(draft)


def test_joining_layers_begins_with_a_skip_and_any_layer_above_can_be_chosen(home: Path) -> None:
    network = (Node(id="a", name="conv2d"), Node(id="b", name="conv2d"), Node(id="c", name="relu"))
    draft = drafted(home, Experiment(name="skip", network=network))
    session = at("network", draft)
    session.text_input(key="palette-search").set_value("concatenate").run()
    pressed(session, "add:concatenate")
    id = ids(draft)[-1]
    assert draft.experiment.at(f"network.{id}.inputs") == ("c", "b")
    assert "32 x 64 x 64" in card(session, id)
    chosen = session.multiselect(key=f"wires:{id}")
    assert chosen.options == ["the scan", "a", "b", "c"]
    chosen.set_value(["input", "c"]).run()
    assert draft.experiment.at(f"network.{id}.inputs") == ("input", "c")
    assert "17 x 64 x 64" in card(session, id)


def test_a_branch_is_made_by_choosing_what_feeds_a_layer(home: Path) -> None:
    draft = drafted(home, starter())
    session = at("network", draft)
    third = ids(draft)[2]
    opened_card(session, third)
    session.selectbox(key=f"wires:{third}").set_value("input").run()
    assert draft.experiment.at(f"network.{third}.inputs") == ("input",)
    session.selectbox(key=f"wires:{third}").set_value(ids(draft)[1]).run()
    assert draft.experiment.at(f"network.{third}.inputs") == ()


def test_what_a_browser_still_tells_of_a_layer_that_is_gone_changes_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A click right after an undo carries the state of widgets that the undo removed; it once ended in a traceback.
    draft = drafted(home, starter())
    before = draft.experiment
    monkeypatch.setattr(layers.st, "session_state", {"wires:gone": ids(draft)[0], "wires:emptied": None})
    layers.rewire(draft, "gone_1", "wires:gone")
    layers.rewire(draft, ids(draft)[2], "wires:emptied")
    assert draft.experiment == before


def test_what_is_typed_into_a_form_that_is_just_leaving_counts_and_what_it_only_repeats_does_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser shows the form of a layer a moment longer than the server, and goes on telling what its fields held."""
    draft = drafted(home, starter())
    conv = next(n for n in draft.experiment.network if n.name == "conv2d")
    domain = next(p for p in LAYERS["conv2d"].params if p.name == "out_channels")
    path = f"network.{conv.id}.params.out_channels"
    state: dict[str, object] = {}
    monkeypatch.setattr(forms.st, "session_state", state)
    before = draft.experiment.at(path)
    key = forms.fresh_key(path, before)  # drawn; then another layer's form took its place

    def told(value: int) -> int:
        state[key] = value
        forms._write(draft, path, domain, key)
        return draft.experiment.at(path)

    draft.replace(path, before + 3)  # by another tab
    assert told(before) == before + 3, "repeated only"
    assert told(before + 1) == before + 1, "typed"
    draft.undo()  # of both: edits of one path in a moment are one step
    assert told(before + 1) == before, "repeated after an undo"
    draft.apply(lambda now: now.remove(conv.id), "delete it elsewhere")
    state[key] = before + 5
    forms._write(draft, path, domain, key)
    assert conv.id not in ids(draft) and forms._refusal(path) not in state


def test_an_experiment_file_is_opened_or_refused_in_a_sentence(home: Path) -> None:
    draft = drafted(home, starter())
    session = at("network", draft)
    saved = starter("vgg-style").dumps().encode()
    session.file_uploader(key="experiment-file").set_value([("e.json", saved, "application/json")]).run()
    assert draft.experiment == starter("vgg-style")
    pressed(session, "undo")
    assert draft.experiment == starter()
    session = at("network", draft)
    session.file_uploader(key="experiment-file").set_value([("e.json", b"{", "application/json")]).run()
    assert "not valid JSON" in said(session) and draft.experiment == starter()


def test_beginning_from_a_starter_keeps_the_name_and_the_scans(home: Path, cats: str) -> None:  # noqa: F811
    draft = drafted(home, Experiment(name="my own").replace("data.dataset", cats))
    session = at("network", draft)
    pressed(session, "starter-small-cnn")
    now = draft.experiment
    assert (now.name, now.data.dataset) == ("my own", cats)
    assert now.network == starter("small-cnn").network and now.data.size_px == 28


def test_sixty_layers_are_one_list_and_one_form(home: Path) -> None:
    nodes = tuple(Node(id=f"n{k}", name=("conv2d", "batch_norm", "relu")[k % 3]) for k in range(60))
    session = at("network", drafted(home, Experiment(name="deep", network=nodes)))
    listed = groups(session)
    assert [len(radio.options) for radio in listed] == [61]
    assert len(session.button) < len(LAYERS) + 30
    assert len(session.number_input) + len(session.slider) < 12


def test_the_list_is_parted_only_below_a_layer_about_which_something_is_said() -> None:
    assert layers.parted(["input", "a", "b", "c"], {"a"}) == [["input", "a"], ["b", "c"]]
    assert layers.parted(["input", "a"], {"a"}) == [["input", "a"]] and layers.parted(["input"], set()) == [["input"]]


def test_the_names_that_people_type_are_never_markup(home: Path) -> None:
    draft = drafted(home, starter().replace("name", "**x** [a](http://evil)"))
    for page in ("network", "training"):
        assert "[a](http" not in said(at(page, draft))


def test_numbers_are_told_short() -> None:
    assert [layers.count(n) for n in (0, 950, 15_300, 4_200_000, 3.1e9)] == ["0", "950", "15.3 k", "4.2 M", "3.1 G"]
    assert layers.operations(384) == "384 FLOP" and layers.operations(13.2e6) == "13.2 MFLOP"


# -- training ----------------------------------------------------------------------------------------------------------


def ready(home: Path, dataset: str) -> Draft:
    return drafted(home, starter().replace("data.dataset", dataset))


def test_without_an_experiment_the_training_page_offers_to_begin(home: Path) -> None:
    session = opened("training")
    assert "No experiment is open" in said(session)
    pressed(session, "first-starter")
    assert "Before the start" in said(session)


def test_a_widget_is_mounted_with_what_the_draft_says(home: Path) -> None:
    # A browser tells a fresh widget's default until it has taken in its value: a click in that moment wrote zeros.
    changed = {"training.epochs": 77, "training.checkpoint_every_s": 33, "training.label_smoothing": 0.05}
    experiment = starter()
    for path, value in changed.items():
        experiment = experiment.replace(path, value)
    session = at("training", drafted(home, experiment))
    widgets = {w.key: w for w in [*session.number_input, *session.slider]}
    for path, value in changed.items():
        told = widgets[path].proto.default
        assert (list(told) if hasattr(told, "__len__") else [told]) == [value], path
    assert session.text_input(key="name").proto.default == experiment.name


def test_every_setting_of_the_catalogs_has_its_widget(home: Path, cats: str) -> None:  # noqa: F811
    session = at("training", ready(home, cats))
    paths = [f"training.{p.name}" for p in TRAINING.params] + [f"data.{p.name}" for p in PREPARE.params]
    # Of one whole picture these mean nothing.
    of_slices = {"data.num_slices", "data.slice_choice", "data.num_patches"}
    of_slices |= {"data.outlined_share", "data.pixel_mm", "data.slice_mm"}
    drawn = {
        w.key for kind in ("number_input", "slider", "toggle", "selectbox", "button_group") for w in session.get(kind)
    }
    assert {p for p in paths if p not in drawn} == of_slices
    assert {f"switch:{name}" for name in AUGMENTATIONS} <= drawn


def test_without_scans_the_start_is_refused_with_its_reason_beside_it(home: Path) -> None:
    session = at("training", drafted(home, starter()))
    assert session.button(key="start-training").disabled
    assert "No scans are chosen" in said(session) and "It can start once 1 thing above is mended" in said(session)


def test_choosing_scans_shows_one_of_them_as_the_network_sees_it(home: Path, cats: str) -> None:  # noqa: F811
    draft = drafted(home, starter())
    session = at("training", draft)
    session.selectbox(key="data.dataset").set_value(cats).run()
    assert draft.experiment.data.dataset == cats
    assert "prepared to 64 x 64 px" in said(session)
    before = said(session)
    pressed(session, "another-example")
    assert said(session) != before


def test_problems_are_collected_and_mended_beside_the_start(home: Path, cats: str) -> None:  # noqa: F811
    wrong = starter().replace("data.dataset", cats).replace("training.optimizer.params.lr", 99.0)
    draft = drafted(home, wrong.replace("training.epochs", 0))
    session = at("training", draft)
    assert "In the way" in said(session) and session.button(key="start-training").disabled
    for _ in range(2):
        pressed(session, next(k for k in sorted(buttons(session)) if k.startswith("repair-start") and "-error:" in k))
    assert draft.experiment.training.epochs == 1
    assert not session.button(key="start-training").disabled
    pressed(session, "undo")
    assert session.button(key="start-training").disabled


def test_a_number_outside_of_its_range_is_told_beside_its_field_and_mended(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    session = at("training", draft)
    assert not session.button(key="start-training").disabled
    session.number_input(key="training.epochs").set_value(0).run()
    assert draft.experiment.training.epochs == 0
    assert "Epochs is 0; it must lie between" in said(session).replace("\\", "")
    assert session.button(key="start-training").disabled
    assert label(session, "repair:training.epochs:0") == "Use 1"
    pressed(session, "repair:training.epochs:0")
    assert draft.experiment.training.epochs == 1 and session.number_input(key="training.epochs").value == 1
    assert not session.button(key="start-training").disabled


@pytest.mark.parametrize("value", [-3, 0, 10**12])
def test_no_number_breaks_the_training_page(home: Path, cats: str, value: int) -> None:  # noqa: F811
    session = at("training", ready(home, cats))
    fields = {w.key: w for w in session.number_input}
    assert {"training.epochs", "training.batch_size"} <= set(fields)
    for key, field in fields.items():
        assert not field.proto.has_min and not field.proto.has_max  # the browser would swallow it
        typed: float = value if isinstance(field.value, int) else float(value)
        session.number_input(key=str(key)).set_value(typed).run()
        assert not session.exception, (key, session.exception)
    assert session.button(key="start-training").disabled


def test_the_training_scans_are_those_that_training_uses_each_once(home: Path, tmp_path: Path, nearby: None) -> None:  # noqa: F811
    labels = ["mass|effusion", "mass", "effusion", "mass|effusion", ""]  # one of five shows neither
    rows = ["file,label,patient,split"]
    for n in range(20):
        picture(tmp_path / "in" / f"{n}.png", n, (48, 64))
        rows.append(f"{n}.png,{labels[n % 5]},p{n},{'train' if n < 15 else 'val' if n < 18 else 'test'}")
    (tmp_path / "in" / "labels.csv").write_text("\n".join(rows))
    id = str(drained(import_scans(detect(tmp_path / "in" / "labels.csv"), "Findings", home)).dataset)
    data = Dataset.open(home, id)
    assert data.multi_label and sum(data.fingerprint.class_counts["train"].values()) == 18
    draft = ready(home, id)
    draft.put(draft.experiment.replace("training.epochs", 3).replace("training.batch_size", 4), "for the test")
    session = at("training", draft)
    shown = " ".join(e.proto.body for e in session.get("html"))
    assert "<dt>Training scans</dt><dd>15</dd>" in shown and "<dt>Steps</dt><dd>12</dd>" in shown
    session.number_input(key="training.batch_size").set_value(14).run()  # the fifteenth joins the batch before
    assert "<dt>Steps</dt><dd>3</dd>" in " ".join(e.proto.body for e in session.get("html"))


def test_an_augmentation_is_switched_on_set_and_off(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    session = at("training", draft)
    session.toggle(key="switch:flip_horizontal").set_value(True).run()
    names = [c.name for c in draft.experiment.training.augment]
    assert names == sorted(names, key=AUGMENTATIONS.names.index) and "flip_horizontal" in names
    session.slider(key="training.augment.flip_horizontal.params.probability").set_value(0.25).run()
    assert draft.experiment.at("training.augment.flip_horizontal.params.probability") == 0.25
    session.toggle(key="switch:flip_horizontal").set_value(False).run()
    assert "flip_horizontal" not in [c.name for c in draft.experiment.training.augment]


def test_the_designer_shows_a_scan_varied_and_follows_every_change(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    session = at("training", draft)
    pressed(session, "show-varied")
    job = RunStore(home).jobs()[0]
    assert job.kind == "augment" and job.payload["dataset"] == cats and job.payload["operations"]
    assert [c["name"] for c in job.payload["augment"]] == [c.name for c in draft.experiment.training.augment]
    for name in ("before.png", "after-01.png", "operation-rotate-0.png", "operation-mixup-0.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(job.folder / name)
    told = {
        **{"before": "before.png", "after": ["after-01.png"], "operations": {"rotate": ["operation-rotate-0.png"]}},
        "mixed": {"mixup": {"picture": "operation-mixup-0.png", "share": 0.7}},
        **{"cost_ms": {"rotate": 0.123, "shift": 0.2}, "whole_ms": 0.45, "batch": 16, "device": "one processor core"},
    }
    finish(home, "augment", told)
    session.run()
    assert len(session.get("image")) == 5  # the example, before, after, one operation, one mixed
    assert "press Show" not in said(session)
    reloaded = opened("training", **{"draft": draft.id, "job-augment": job.id})
    assert len(reloaded.get("image")) == 5 and "may be of other settings" in said(reloaded)
    assert "0.12 ms a scan" in said(session) and "0.45 ms a scan" in said(session) and "70% this scan" in said(session)
    session.toggle(key="switch:flip_vertical").set_value(True).run()
    following = RunStore(home).jobs()[0]
    assert following.id != job.id and "flip_vertical" in [c["name"] for c in following.payload["augment"]]
    assert len(session.get("image")) == 5, "what was on show stays until the new pictures are there"
    pressed(session, "vary-again")
    assert RunStore(home).jobs()[0].payload["seed"] == 1
    session.toggle(key="augment-live").set_value(False).run()
    session.toggle(key="switch:flip_vertical").set_value(False).run()
    assert "have changed since" in said(session)


def test_a_preset_replaces_the_augmentations_and_leaves_out_what_is_refused(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    session = at("training", draft)
    pressed(session, "preset-photo")
    names = [c.name for c in draft.experiment.training.augment]
    assert {"flip_vertical", "elastic", "rotate"} <= set(names) and names == sorted(
        names, key=AUGMENTATIONS.names.index
    )
    assert "colour" not in names, "the scans are prepared as grey pictures"
    pressed(session, "preset-none")
    assert draft.experiment.training.augment == ()


def test_a_verdict_stands_beside_its_operation_and_is_mended_by_one_click(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    draft.put(draft.experiment.replace("training.augment", [Choice(name="flip_horizontal")]), "for the test")
    session = at("training", draft)
    assert "What made these scans is unknown" in said(session)
    draft.put(draft.experiment.replace("training.test_time", "mirror both"), "for the test")
    session = at("training", draft)
    assert "never saw in training" in said(session)
    pressed(session, "repair:training.test_time:0")
    assert draft.experiment.training.test_time == "off"


def test_the_schedule_is_drawn_before_the_start(home: Path, cats: str) -> None:  # noqa: F811
    session = at("training", ready(home, cats))
    assert len(session.get("plotly_chart")) == 1
    session.selectbox(key="training.schedule").set_value("plateau").run()
    assert "each wait without a gain lowers the rate" in said(session)


def test_start_makes_one_run_also_when_pressed_twice_and_goes_to_it(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    session = at("training", draft)
    session.text_input(key="name").set_value("first try").run()
    pressed(session, "start-training")
    runs = RunStore(home).runs()
    assert len(runs) == 1 and runs[0].experiment.name == "first try" and runs[0].marker.exists()
    assert parameter(session, "run") == runs[0].id and title_of(session) == r"first try"
    session.switch_page("training.py").run()
    digest, _, id = session.session_state["last-start"]
    session.session_state["last-start"] = (digest, time.monotonic(), id)  # at once, however slow this machine is
    pressed(session, "start-training")
    assert len(RunStore(home).runs()) == 1


def test_a_network_too_large_for_this_machine_is_refused_before_anything_is_made(home: Path, cats: str) -> None:  # noqa: F811
    huge = Experiment(
        name="huge",
        network=(
            Node(id="flat", name="flatten"),
            Node(id="wide", name="linear", params={"out_features": 100_000}),
            Node(id="wider", name="linear", params={"out_features": 100_000}),
            Node(id="scores", name="class_scores"),
        ),
    ).replace("data.dataset", cats)
    session = at("training", drafted(home, huge.replace("data.size_px", 256)))
    assert session.button(key="start-training").disabled
    assert "GiB" in said(session)


# -- runs --------------------------------------------------------------------------------------------------------------


def a_run(home: Path, name: str = "one", **changes: object) -> Run:
    experiment = starter().replace("name", name).replace("training.monitor", "auc")
    for path, value in changes.items():
        experiment = experiment.replace(path.replace("__", "."), value)
    return RunStore(home).create(experiment)


def tell(run: Run, epochs: int = 3, last: Finished | None = None, alive: bool = False, total: int = 30) -> None:
    """Writes the events of `epochs` epochs of ten steps; then the run is lost, ended by `last`, or alive."""
    if alive:
        Claim.of(os.getpid()).write(run.folder / "claim.json")
    else:
        run.marker.unlink(missing_ok=True)
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started(attempt=1, device="cpu"))
        for epoch in range(1, epochs + 1):
            for step in range(epoch * 10 - 9, epoch * 10 + 1):
                record.append(Progress(step, total, epoch, {"step/loss": 1 / step, "step/lr": 0.01}))
            scores = {"train/loss": 1 / epoch, "val/loss": 1.1 / epoch, "val/auc": 0.8 + epoch / 100}
            record.append(EpochEnded(epoch, epoch * 10, {**scores, "val/accuracy": 0.7}, 1.0))
            record.append(Saved(epoch * 10, epoch, best=True))
        if last is not None:
            record.append(last)


DONE = Finished("done", "All 3 epochs are done.")


def test_without_runs_the_page_says_how_to_begin(home: Path) -> None:
    session = opened("runs")
    assert "No runs yet" in said(session) and len(primaries(session)) == 1


def test_runs_are_listed_with_status_place_in_the_queue_and_best_score(home: Path) -> None:
    done = a_run(home, "old")
    tell(done, last=DONE)
    waiting = [a_run(home, "next"), a_run(home, "later")]
    session = opened("runs", run=done.id)
    assert "done" in label(session, f"only-{done.id}") and "best AUC 0.830" in label(session, f"only-{done.id}")
    for number, run in enumerate(waiting, 1):
        assert f"number {number} in the queue" in label(session, f"only-{run.id}")
    assert "best validation AUC" in json.dumps([e.proto.body for e in session.get("html")]).replace("Best", "best")


def test_a_running_run_shows_progress_time_left_and_curves(home: Path) -> None:
    run = a_run(home)
    tell(run, epochs=1, alive=True)
    session = opened("runs")
    progress = session.get("progress")[0].proto
    assert progress.value == 33 and "epoch 1 of" in progress.text and "left" in progress.text
    assert len(session.main.get("bidi_component")) == 2
    assert "resume-run" not in buttons(session) and primaries(session) == ["Test a scan"]


def test_stopping_asks_first_and_then_says_that_it_stops(home: Path) -> None:
    run = a_run(home)
    tell(run, epochs=1, alive=True)
    session = opened("runs")
    pressed(session, "stop-run")
    assert not run.stop_wanted and "is kept" in said(session)
    pressed(session, "really-stop")
    assert run.stop_wanted
    session.run()
    assert session.button(key="stop-run").disabled and label(session, "stop-run") == "Stopping ..."


def test_a_lost_run_is_told_in_plain_words_and_can_be_resumed(home: Path) -> None:
    run = a_run(home)
    tell(run, epochs=2)
    session = opened("runs")
    assert "Lost" in session.error[0].value and "Resume" in session.error[0].value
    assert primaries(session) == ["Resume"]
    pressed(session, "resume-run")
    assert run.marker.exists()
    assert "resume-run" not in buttons(session)


def test_a_failed_run_says_why(home: Path) -> None:
    run = a_run(home)
    tell(run, epochs=1, last=Finished("failed", "The loss became infinite in layer conv2d_1."))
    session = opened("runs")
    assert "became infinite in layer conv2d" in session.error[0].value.replace("\\", "")


def test_the_runs_in_the_url_are_shown_together_with_what_differs(home: Path) -> None:
    first, second, third = a_run(home, "one"), a_run(home, "two", training__epochs=7), a_run(home, "three")
    for run in (first, second, third):
        tell(run, last=DONE)
    session = opened("runs", run=f"{second.id},{first.id}")
    assert title_of(session) == "two"
    assert session.checkbox(key=f"pick-{first.id}").value and not session.checkbox(key=f"pick-{third.id}").value
    assert "What differs" in said(session) and "On the test scans · two" in said(session)
    assert "Epochs" in list(session.dataframe[0].value["Choice"])
    session.checkbox(key=f"pick-{third.id}").check().run()
    session.run()
    assert parameter(session, "run") == f"{second.id},{first.id},{third.id}"
    pressed(session, f"only-{first.id}")
    assert parameter(session, "run") == first.id and title_of(session) == "one"


def test_a_finished_run_tells_the_numbers_of_the_epoch_that_is_kept(home: Path) -> None:
    run = a_run(home)
    tell(run, epochs=2)
    with Record(run.folder / "events.jsonl") as record:
        record.append(EpochEnded(3, 30, {"train/loss": 0.1, "val/loss": 2.0, "val/auc": 0.5, "val/accuracy": 0.3}, 1.0))
        record.append(DONE)
    told = " ".join(e.proto.body for e in opened("runs").get("html"))
    assert "<dt>Validation accuracy, epoch 2</dt><dd>0.700</dd>" in told
    assert "<dt>Validation loss, epoch 2</dt><dd>0.550</dd>" in told and "2.000" not in told
    quiet = a_run(home, "quiet")
    tell(quiet, epochs=0, last=None)
    with Record(quiet.folder / "events.jsonl") as record:
        record.append(EpochEnded(1, 10, {"train/loss": 0.000321, "val/loss": 0.00043}, 1.0))
    told = " ".join(e.proto.body for e in opened("runs", run=quiet.id).get("html"))
    assert "<dd>0.000321</dd>" in told and "<dd>0.00043</dd>" in told, "the squared error of good pictures is no 0.000"


def test_what_differs_is_told_in_the_words_of_the_catalogs(home: Path) -> None:
    first = starter().replace("training.optimizer", Choice(name="adamw", params={"lr": 0.01}))
    second = first.replace("training.optimizer", Choice(name="sgd")).replace("data.size_px", 96)
    second = second.insert(Node(id="late", name="dropout", params={"p": 0.3}))
    second = second.replace("training.augment", (Choice(name="blur"),))
    first = first.replace("training.average", Choice(name="ema"))
    second = second.replace("training.average", Choice(name="ema", params={"decay": 0.5}))
    second = second.replace("network.late.params.p", 0.3).replace("network.conv2d_1.params.dilation", 1)  # its default
    runs = [RunStore(home).create(e.replace("name", n)) for e, n in ((first, "one"), (second, "two"))]
    table = opened("runs", run=",".join(run.id for run in runs)).dataframe[0].value
    found = {row[0]: (row[1], row[2]) for row in table.values.tolist()}
    assert found["Optimizer"] == ("AdamW", "SGD") and found["Layer late"] == ("–", "Dropout")
    assert found["Optimizer: learning rate"] == ("0.01", "0.05") and found["Size"] == ("64", "96")
    assert found["Augmentation: Blur"] == ("–", "Blur") and found["Average: decay"] == ("0.998", "0.5")
    assert not [words for words in found if "dilation" in words]
    assert not [words for words in found if "late:" in words or "Blur:" in words]


def test_an_unknown_run_in_the_url_falls_back_to_the_newest(home: Path) -> None:
    tell(a_run(home, "old"), last=DONE)
    new = a_run(home, "new")
    session = opened("runs", run="20200101-000000-000000")
    assert title_of(session) == "new" and parameter(session, "run") == new.id


def test_a_run_is_run_again_opened_as_an_experiment_and_deleted_after_asking(home: Path) -> None:
    run = a_run(home)
    tell(run, last=DONE)
    session = opened("runs")
    pressed(session, "again")
    assert len(RunStore(home).runs()) == 2 and parameter(session, "run") != run.id
    session = opened("runs", run=run.id)
    pressed(session, "delete-run")
    assert len(RunStore(home).runs()) == 2
    pressed(session, "really-delete")
    assert [r.id for r in RunStore(home).runs()] != [] and run.id not in [r.id for r in RunStore(home).runs()]
    other = RunStore(home).runs()[0]
    session = opened("runs", run=other.id)
    pressed(session, "clone")
    assert title_of(session) == "Network"
    assert Draft.open(parameter(session, "draft"), at_home=home).experiment == other.experiment


def test_the_test_side_opens_only_on_demand_and_shows_intervals_and_the_majority(home: Path) -> None:
    run = a_run(home)
    tell(run, last=DONE)
    session = opened("runs")
    assert "is counted" in said(session)
    pressed(session, "open-test")
    job = RunStore(home).jobs()[0]
    assert (job.kind, job.payload) == ("evaluate", {"run": run.id, "split": "test"})
    figure = {"value": 0.9, "low": 0.8, "high": 0.95}
    found = {
        "run": run.id, "split": "test", "n": 40, "patients": 12, "classes": ["cat", "dog"], "synthetic": True,
        "metrics": {"auc": figure, "accuracy": figure, "f1": {"value": None, "low": None, "high": None}},
        "per_class": {"cat": {"n": 20, "sensitivity": figure}, "dog": {"n": 20, "sensitivity": figure}},
        "confusion": [[18, 2], [2, 18]], "majority_accuracy": 0.5, "majority_class": "cat",
        "openings": {"run": 1, "dataset": 3}, "notes": ["Class 'cat' has only 6 patients here."],
    }  # fmt: skip
    (run.folder / "evaluation-test.json").write_text(json.dumps(found))
    finish(home, "evaluate", found)
    session.run()
    shown = " ".join(e.proto.body for e in session.get("html"))
    assert "0.900 (0.800–0.950)" in shown and "undefined" in shown
    assert "Always the commonest class" in shown and "0.500" in shown
    assert (
        "opened 3 times in all, 1 of them" in said(session)
        and "Synthetic scans" in said(session)
        and "only 6 patients" in said(session)
    )
    assert len(session.get("plotly_chart")) == 1


def test_a_run_is_packed_by_a_job_and_handed_out(home: Path) -> None:
    run = a_run(home)
    tell(run, last=DONE)
    session = opened("runs")
    session.selectbox(key="export-to").set_value("onnx")  # and pressed before the page was drawn anew
    pressed(session, "export")
    job = RunStore(home).jobs()[0]
    assert (job.kind, job.payload) == ("export", {"run": run.id, "to": "onnx"})
    (job.folder / "out").mkdir()
    (job.folder / "out" / "run.zip").write_bytes(b"PK")
    finish(home, "export", {"file": "out/run.zip"})
    session.run()
    assert "download-export" in {d.key for d in session.get("download_button")}


def test_the_log_is_told_in_words(home: Path) -> None:
    tell(a_run(home), last=DONE)
    assert "The best model so far is saved" in said(opened("runs")).replace("\\", "")


def view(**changes: object) -> RunView:
    known = {
        "id": "20260101-000000-abcdef",
        "epochs": 3,
        "total": 30,
        "best": {"metric": "val/auc", "value": 0.9, "epoch": 2},
        "best_step": 20,
        "curves": {
            "step/loss": (list(range(1, 31)), [1 / k for k in range(1, 31)]),
            "train/loss": ([10, 20, 30], [3.0, 2.0, 1.0]),
            "val/loss": ([10, 20, 30], [3.0, 2.5, 2.0]),
            "val/auc": ([10, 20, 30], [0.7, 0.9, 0.8]),
        },
    }
    return RunView(**{**known, **changes})  # type: ignore[arg-type]


def test_curves_lie_along_steps_epochs_or_time() -> None:
    told = view()
    assert curves.axes([told]) == ("step", "epoch")
    assert curves.across(told, [10, 15], "epoch") == [1, 1.5]
    timed = view(curves={**told.curves, "time/seconds": ([10, 20, 30], [60.0, 120.0, 240.0])})
    assert curves.axes([timed]) == ("step", "epoch", "minutes") and curves.axes([timed, told]) == ("step", "epoch")
    assert curves.across(timed, [10, 30], "minutes") == [1, 4]
    assert curves.best_at(told, "epoch") == 2 and curves.best_at(told, "step") == 20
    assert curves.best_at(view(best=None, best_step=None), "step") is None


def test_the_best_epoch_and_the_time_of_a_branch_are_its_own() -> None:
    told: list[Event] = [Started(attempt=1, device="cpu"), Branched("p", 100, 10, clock=5.0)]
    for epoch in range(11, 31):  # of 30; ten steps an epoch, two seconds
        clock = 5.0 + 2.0 * (epoch - 10)
        scores = {"train/loss": float(epoch), "val/loss": float(epoch), "val/auc": 0.9 if epoch == 12 else 0.5}
        told.append(Progress(10 * epoch - 5, 300, epoch, {"step/loss": 1.0}, clock=clock - 1.0))
        told.append(EpochEnded(epoch, 10 * epoch, scores, 2.0, clock=clock))
        if epoch == 12:
            told.append(Saved(120, 12, best=True, clock=clock))
    branch = fold(told, monitor="auc", epochs=30)
    assert branch.best is not None and branch.best["epoch"] == 12 and branch.best_step == 120
    assert curves.best_at(branch, "epoch") == 12 and curves.best_value(branch, "val/loss") == 12.0
    assert branch.step_s == pytest.approx(0.2) and preflight.epoch_s(branch) == pytest.approx(2.0)
    early = fold(told[:5], monitor="auc", epochs=30)  # 115 steps, of which it has done none before the 105th
    assert run_state.left_words(replace(early, status="running")) == "about 35 s left"  # 185 steps are 37 s
    assert run_state.left_words(replace(fold(told[:3], monitor="auc", epochs=30), status="running")) == ""
    assert preflight.epoch_s(fold(told[:2])) is None


def _apart(lines: list[curves.Line]) -> tuple[list[curves.Line], list[curves.Line]]:
    """The lines, and the dots of the best epoch."""
    return [ln for ln in lines if not ln.id.endswith("-best")], [ln for ln in lines if ln.id.endswith("-best")]


def test_one_run_has_a_colour_per_curve_and_several_runs_a_colour_each() -> None:
    alone, best = _apart(curves.lines([view()], ["one"], ["val/loss", "train/loss"]))
    assert [line.color for line in alone] == [0, 1] and alone[0].y == [3.0, 2.5, 2.0]
    assert [(dot.x, dot.y, dot.legend) for dot in best] == [([20.0], [2.5], False), ([20.0], [2.0], False)]
    both, _ = _apart(curves.lines([view(), view(id="b")], ["one", "two"], ["val/loss", "train/loss"]))
    assert [(line.color, line.dash) for line in both] == [(0, "solid"), (0, "dot"), (1, "solid"), (1, "dot")]
    assert both[2].label.startswith("two")
    known = {f"val/recall of {name}": ([10, 20], [0.1, 0.2]) for name in ("T1+", "T1-", "肺炎", "正常")}
    named = curves.lines([view(curves=known, best_step=None)], ["one"], list(known))
    assert len({line.id for line in named}) == 4


def test_smoothing_keeps_the_line_itself_pale_behind_the_mean() -> None:
    pale, mean = curves.lines([view()], ["one"], ["step/loss"], smoothing=0.9)
    assert (pale.legend, mean.legend) == (False, True) and pale.opacity < mean.opacity
    assert pale.y[-1] == pytest.approx(1 / 30) and mean.y[-1] > pale.y[-1]


def test_a_learning_rate_is_no_noise() -> None:
    told = view(curves={"step/lr": ([1, 2, 3], [0.1, 0.2, 0.0])})
    [line] = curves.lines([told], ["one"], ["step/lr"], smoothing=0.9)
    assert line.opacity == 1.0 and line.y == [0.1, 0.2, 0.0]


def test_a_long_curve_is_thinned_for_the_browser() -> None:
    steps = list(range(100_000))
    long = view(curves={"step/loss": (steps, [float(s % 7) for s in steps])}, total=100_000)
    assert len(curves.lines([long], ["x"], ["step/loss"])[0].x) < 1000


# -- test --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def learned(home: Path, cats: str) -> Run:  # noqa: F811
    """A finished run on the little data set; its weights are only a name, since nobody asks them here."""
    run = a_run(home, "clever", data__dataset=cats)
    tell(run, last=DONE)
    (run.folder / "best.safetensors").write_bytes(b"")
    return run


FINDING = {
    "top": "dog",
    "probabilities": {"cat": 0.2, "dog": 0.8},
    "covered": [],
    "notes": ["This scan is of modality CT; the training scans were DX."],
}


def answered(home: Path, finding: dict[str, object] | None = None, **more: object) -> None:
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict")
    for name in ("input.png", "heat.png"):
        Image.fromarray(np.full((16, 16), 200, np.uint8)).save(job.folder / name)
    told = {"finding": finding or FINDING, "image": "input.png", "heatmap": "heat.png", "size": [16, 16]}
    finish(home, "predict", told | more)


def test_without_a_trained_network_the_page_points_to_the_demo(home: Path) -> None:
    a_run(home)
    session = opened("test")
    assert "No trained network yet" in said(session) and primaries(session) == ["Try the demo"]


def test_a_scan_of_the_test_side_is_answered_with_its_label_beside_it(home: Path, learned: Run) -> None:
    session = opened("test", run=learned.id)
    assert "No scan yet" in said(session)
    pressed(session, "take-test-scan")
    job = RunStore(home).jobs()[0]
    dataset = Dataset.open(home, learned.experiment.data.dataset)
    assert job.kind == "predict" and job.payload["run"] == learned.id
    assert dataset.cases[job.payload["case"]].split == "test"
    truth = dataset.classes[dataset.cases[job.payload["case"]].label]
    answered(home)
    session.run()
    text = said(session)
    assert "dog · 80.0 %" in text.replace("\\", "") and f"**{truth}**" in text
    assert "modality CT" in text and "not for clinical use" in text
    assert len(session.get("image")) == 2 and len(session.get("plotly_chart")) == 1
    assert {"answer-json", "answer-png"} <= {d.key for d in session.get("download_button")}
    again = opened("test", run=learned.id, case=parameter(session, "case"), **{"job-ask": job.id})
    assert "dog · 80.0 %" in said(again).replace("\\", "")


def test_a_scan_that_cannot_be_read_says_why_and_another_can_be_tried(home: Path, learned: Run) -> None:
    session = opened("test", run=learned.id)
    pressed(session, "take-test-scan")
    finish(home, "predict", None, "failed", "This file is no scan: it is a spreadsheet.")
    session.run()
    assert "it is a spreadsheet" in said(session)
    pressed(session, "forget-ask")
    assert "spreadsheet" not in said(session)


def drop(session: AppTest, home: Path, *names: str) -> None:
    """Files arrive as if the browser had sent them, and the page runs."""
    folder = home / "uploads" / session.session_state["ticket-ask"]
    with (folder / "names.jsonl").open("a") as told:
        for name in names:
            file = folder / f"{len(list(folder.glob('*.bin'))) + 1:05d}.bin"
            file.write_bytes(b"x")
            told.write(json.dumps({"file": file.name, "name": name, "bytes": 1}) + "\n")
    session.run()
    assert not session.exception, session.exception


def asked_about(home: Path) -> list[str]:
    """The files of the newest question."""
    return [Path(file).name for file in RunStore(home).jobs()[0].payload["files"]]


def test_a_new_drop_stands_in_for_the_one_before(home: Path, learned: Run) -> None:
    session = opened("test", run=learned.id)
    drop(session, home, "one.dcm")
    drop(session, home, "two.dcm")
    assert asked_about(home) == ["00001.bin", "00002.bin"]  # of one series: nothing was answered in between
    answered(home)
    session.run()
    drop(session, home, "three.png")
    assert asked_about(home) == ["00003.bin"] and "About three.png" in said(session).replace("\\", "")
    finish(home, "predict", None, "failed", "This file is no scan.")
    session.run()
    drop(session, home, "four.png")
    assert asked_about(home) == ["00004.bin"]
    num = len(RunStore(home).jobs())
    session.run()
    assert len(RunStore(home).jobs()) == num


def test_a_drop_is_asked_about_once_it_has_arrived_whole(home: Path, learned: Run) -> None:
    session = opened("test", run=learned.id)
    part = home / "uploads" / session.session_state["ticket-ask"] / "00009.part"
    part.touch()
    drop(session, home, "one.dcm")
    assert RunStore(home).jobs() == []
    part.unlink()
    drop(session, home, "two.dcm")
    assert asked_about(home) == ["00001.bin", "00002.bin"]


def test_putting_a_refused_scan_away_empties_the_dropzone(home: Path, learned: Run) -> None:
    session = opened("test", run=learned.id)
    drop(session, home, "one.png")
    finish(home, "predict", None, "failed", "This file is no scan.")
    session.run()
    ticket = session.session_state["ticket-ask"]
    pressed(session, "forget-ask")
    assert session.session_state["ticket-ask"] != ticket and not (home / "uploads" / ticket).exists()
    assert len(RunStore(home).jobs()) == 1 and "No scan yet" in said(session)
    drop(session, home, "two.png")
    assert len(RunStore(home).jobs()) == 2 and asked_about(home) == ["00001.bin"]


def test_the_browsers_reports_part_one_drop_from_the_next(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from pages.kit import dropbox, uploads

    state: dict[str, object] = {}
    monkeypatch.setattr(dropbox.st, "session_state", state)
    ticket = dropbox.ticket_of("ask")
    files = [uploads.Received(Path(f"{k}.bin"), f"{k}.dcm", 1) for k in range(9)]

    def newest(count: int, report: object, used: bool = False) -> list[str]:
        state["report-ask"] = report
        return [file.name[0] for file in dropbox.newest("ask", files[:count], used=used)]

    def report(seq: int, *failed: str) -> object:
        return SimpleNamespace(seq=seq, failed=failed) if seq else None

    first, second, third = report(1), report(2, "bad"), report(3)
    assert uploads.is_open(ticket) and newest(2, first) == ["0", "1"]
    assert newest(3, first, used=True) == ["0", "1"]  # a second drop is on its way
    assert newest(4, second) == ["2", "3"]
    assert newest(5, third, used=True) == ["2", "3", "4"]  # what had failed came after all
    assert newest(5, None, used=True) == ["2", "3", "4"]  # the page was left and opened again
    assert newest(6, first, used=True) == ["5"]


def test_several_pictures_dropped_together_are_refused_in_a_sentence(tmp_path: Path) -> None:
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for file in files:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)
    with pytest.raises(scans.Unreadable, match="These are 2 files, and not all are DICOM: drop one picture"):
        scans.read_series(files)


def test_what_covering_an_area_changes_is_told_in_words(home: Path, learned: Run) -> None:
    session = opened("test", run=learned.id)
    pressed(session, "take-test-scan")
    answered(home)
    session.run()
    assert session.button(key="ask-covered").disabled
    cover = RunStore(home).submit_job("predict", {})
    covered = [
        {"box": [0, 0, 0.5, 0.5], "probabilities": {"cat": 0.9, "dog": 0.1}, "change": {"cat": 0.7, "dog": -0.7}},
        {"box": [0, 0, 0.1, 0.1], "probabilities": {"cat": 0.2, "dog": 0.8}, "change": {"cat": 0.0, "dog": 0.0}},
    ]
    answered(home, {**FINDING, "covered": covered})
    ask = parameter(session, "job-ask")
    session = opened("test", run=learned.id, case=parameter(session, "case"), **{"job-ask": ask, "job-cover": cover.id})
    text = said(session)
    assert "falls by 70.0 points" in text and "The answer is now **cat**" in text and "hardly changes" in text


def test_another_network_puts_the_answer_away(home: Path, learned: Run) -> None:
    other = a_run(home, "other")
    (other.folder / "best.safetensors").write_bytes(b"")
    session = opened("test", run=learned.id)
    pressed(session, "take-test-scan")
    answered(home)
    session.run()
    session.selectbox(key="tested-run").set_value(other.id).run()
    assert parameter(session, "run") == other.id and "80.0" not in said(session)


def test_what_a_run_is_called_in_the_list_does_not_change_with_time(
    home: Path, learned: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A selectbox tells its choice by its words: had they changed, the answer would be put away as if by a choice."""
    options = opened("test", run=learned.id).selectbox(key="tested-run").options
    later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: later)
    assert opened("test", run=learned.id).selectbox(key="tested-run").options == options


def test_the_heat_map_lies_over_the_scan_and_the_sheet_is_a_picture() -> None:
    picture = np.full((8, 8), 100, np.uint8)
    warm = np.zeros((4, 4), np.uint8)
    warm[0, 0] = 255
    over = heat.overlay(picture, warm, 1.0)
    assert over.shape == (8, 8, 3) and (over[-1, -1] == 100).all() and (over[0, 0] != 100).any()
    assert (heat.overlay(picture, warm, 0.0) == 100).all()
    assert heat.enlarged(picture, 64).shape == (64, 64)
    assert heat.sheet(picture, over, {"cat": 0.4, "dog": 0.6}, ["not for clinical use"])[:4] == b"\x89PNG"


def test_an_experiment_of_choices_that_are_gone_still_opens_every_page(home: Path) -> None:
    odd = (
        starter().replace("training.optimizer", Choice(name="gone")).replace("training.augment", (Choice(name="old"),))
    )
    draft = drafted(home, odd.replace("data.dataset", "20200101-000000-abcdef"))
    for page in ("network", "training"):
        session = at(page, draft)
        assert not session.exception
    assert session.button(key="start-training").disabled
