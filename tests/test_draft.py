"""The draft: undo and redo as a fold, crash-proof lines, two tabs at once, and the form widgets that write into it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from builder.spec import Choice, Experiment, Problem, SpecError
from pages.kit import draft as drafts
from pages.kit.draft import Draft, DraftMissing


def begun(home: Path) -> Draft:
    return Draft.create(Experiment(name="one"), at_home=home)


def lines_of(draft: Draft, home: Path) -> list[str]:
    return (home / "drafts" / f"{draft.id}.jsonl").read_text().splitlines()


def unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every edit be a step of its own, however quickly they follow each other."""
    monkeypatch.setattr(drafts, "_JOIN_S", 0.0)


def test_an_edit_is_on_disk_when_it_returns(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.epochs", 7)
    last = json.loads(lines_of(draft, home)[-1])
    assert last["path"] == "training.epochs"
    assert last["experiment"]["training"]["epochs"] == 7


def test_undo_and_redo_walk_through_the_versions(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unmerged(monkeypatch)
    draft = begun(home)
    draft.replace("training.epochs", 7)
    draft.replace("training.epochs", 9)
    draft.undo()
    assert draft.experiment.training.epochs == 7
    draft.undo()
    assert draft.experiment.training.epochs == Experiment().training.epochs
    draft.undo()
    draft.redo()
    draft.redo()
    draft.redo()
    assert draft.experiment.training.epochs == 9


def test_an_edit_after_an_undo_drops_what_was_undone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unmerged(monkeypatch)
    draft = begun(home)
    draft.replace("training.epochs", 7)
    draft.undo()
    draft.replace("training.epochs", 8)
    assert draft.redo_words == ""
    draft.redo()
    assert draft.experiment.training.epochs == 8
    draft.undo()
    assert draft.experiment.training.epochs == Experiment().training.epochs


def test_dragging_one_slider_is_one_step_of_undo(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.l2", 0.5)
    for value in (0.1, 0.2, 0.3):
        draft.replace("training.label_smoothing", value)
    draft.undo()
    assert draft.experiment.training.label_smoothing == 0.0
    assert draft.experiment.training.l2 == 0.5


def test_undo_says_what_it_would_take_back(home: Path) -> None:
    draft = begun(home)
    assert (draft.undo_words, draft.redo_words) == ("", "")
    draft.replace("training.epochs", 7)
    assert draft.undo_words == "Epochs to 7"
    draft.undo()
    assert draft.redo_words == "Epochs to 7"


def test_a_value_that_changes_nothing_adds_no_step(home: Path) -> None:
    draft = begun(home)
    before = lines_of(draft, home)
    draft.replace("training.epochs", Experiment().training.epochs)
    draft.put(draft.experiment, "nothing")
    assert lines_of(draft, home) == before


def test_a_refused_edit_writes_nothing(home: Path) -> None:
    draft = begun(home)
    before = lines_of(draft, home)
    with pytest.raises(SpecError):
        draft.replace("training.epoch", 3)
    with pytest.raises(SpecError):
        draft.replace("training.epochs", "many")
    assert lines_of(draft, home) == before


def test_a_torn_last_line_costs_only_that_edit(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.epochs", 7)
    file = home / "drafts" / f"{draft.id}.jsonl"
    whole = file.read_bytes()
    draft.replace("training.batch_size", 64)
    torn = file.read_bytes()[:-25]
    assert len(torn) > len(whole)
    file.write_bytes(torn)
    drafts._folds.clear()
    again = Draft.open(draft.id, at_home=home)
    assert again.experiment.training.epochs == 7
    assert again.experiment.training.batch_size == Experiment().training.batch_size
    again.replace("training.seed", 3)
    drafts._folds.clear()
    third = Draft.open(draft.id, at_home=home).experiment.training
    assert (third.epochs, third.seed) == (7, 3)


@pytest.mark.parametrize("cut", [1, 10, 60, 200])
def test_every_cut_of_the_file_leaves_an_earlier_version(home: Path, cut: int) -> None:
    draft = begun(home)
    for epochs in (3, 4, 5):
        draft.put(draft.experiment.replace("training.epochs", epochs), "step")
    file = home / "drafts" / f"{draft.id}.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    drafts._folds.clear()
    assert Draft.open(draft.id, at_home=home).experiment.training.epochs == 4


def test_two_tabs_do_not_lose_each_others_edits(home: Path) -> None:
    draft = begun(home)

    def tab(path: str, values: list[int]) -> None:
        own = Draft.open(draft.id, at_home=home)
        for value in values:
            own.replace(path, value)

    tabs = [
        threading.Thread(target=tab, args=("training.epochs", list(range(1, 21)))),
        threading.Thread(target=tab, args=("training.seed", list(range(1, 21)))),
    ]
    for thread in tabs:
        thread.start()
    for thread in tabs:
        thread.join()
    assert (draft.experiment.training.epochs, draft.experiment.training.seed) == (20, 20)
    drafts._folds.clear()
    again = Draft.open(draft.id, at_home=home).experiment.training
    assert (again.epochs, again.seed) == (20, 20)


@pytest.mark.parametrize("id", ["", "../../etc/passwd", "zz", "0" * 15, "0" * 16, "0" * 16 + "/.."])
def test_an_id_that_is_no_draft_is_said_in_a_sentence(home: Path, id: str) -> None:
    begun(home)
    with pytest.raises(DraftMissing, match="Home page"):
        Draft.open(id, at_home=home)


def test_a_draft_deleted_in_another_tab_is_said_in_a_sentence(home: Path) -> None:
    draft = begun(home)
    Draft.open(draft.id, at_home=home).delete()
    with pytest.raises(DraftMissing, match="deleted"):
        draft.replace("training.epochs", 3)


def test_recent_lists_the_newest_first_and_leaves_out_what_cannot_be_read(home: Path) -> None:
    first = begun(home)
    second = Draft.create(Experiment(name="two"), at_home=home)
    (home / "drafts" / ("f" * 16 + ".jsonl")).write_text("not json\n")
    first.replace("name", "one, changed")
    assert [entry.name for entry in drafts.recent(at_home=home)] == ["one, changed", "two"]
    assert second.id in {entry.id for entry in drafts.recent(at_home=home)}
    os.utime(home / "drafts" / ("f" * 16 + ".jsonl"), (2e9, 2e9))  # a crash right after it was begun
    assert [entry.name for entry in drafts.recent(1, at_home=home)] == ["one, changed"]


# -- forms ----------------------------------------------------------------------------------------------------------


def form_page() -> None:
    from builder.parts.training import OPTIMIZERS, TRAINING
    from pages.kit import findings, forms
    from pages.kit.draft import current

    draft = current()
    assert draft is not None
    problems = findings.look(draft.experiment).problems
    forms.section(draft, "training", TRAINING.params, problems)
    forms.choice(draft, "training.optimizer", OPTIMIZERS, problems)


def page_with(draft: Draft) -> AppTest:
    page = AppTest.from_function(form_page, default_timeout=20)
    page.query_params["draft"] = draft.id
    return page.run()


def test_an_address_of_an_experiment_that_is_not_there_shows_another_and_says_so(home: Path) -> None:
    shown = begun(home)
    page = AppTest.from_function(form_page, default_timeout=20)
    page.query_params["draft"] = "f" * 16
    page.run()
    assert not page.exception
    assert [told.value for told in page.toast] == [
        "That experiment is not there any more. The one last changed is shown."
    ]
    assert page.query_params["draft"] == shown.id
    assert not page.run().toast
    line = json.loads((home / "drafts" / f"{shown.id}.jsonl").read_text().splitlines()[0])
    line["experiment"]["version"] = 999
    (home / "drafts" / f"{'e' * 16}.jsonl").write_text(json.dumps(line) + "\n")
    page.query_params["draft"] = "e" * 16
    page.run()
    assert not page.exception and page.query_params["draft"] == shown.id
    assert [told.value for told in page.toast] == [
        "That experiment was made by a newer ScanLoom. The one last changed is shown."
    ]


def test_every_setting_of_training_has_a_widget_keyed_by_its_path(home: Path) -> None:
    from builder.parts.training import TRAINING

    page = page_with(begun(home))
    assert not page.exception
    for domain in TRAINING.params:
        assert page.session_state[f"training.{domain.name}"] == domain.default


def test_a_widget_writes_into_the_draft_and_an_undo_shows_in_the_widget(home: Path) -> None:
    draft = begun(home)
    page = page_with(draft)
    page.number_input(key="training.epochs").set_value(12).run()
    assert draft.experiment.training.epochs == 12
    page.toggle(key="training.channels_last").set_value(False).run()
    assert draft.experiment.training.channels_last is False
    draft.undo()
    page.run()
    assert page.toggle(key="training.channels_last").value is True
    assert page.number_input(key="training.epochs").value == 12


def test_an_edit_in_another_tab_shows_in_the_widget(home: Path) -> None:
    draft = begun(home)
    page = page_with(draft)
    Draft.open(draft.id, at_home=home).replace("training.epochs", 33)
    page.run()
    assert page.number_input(key="training.epochs").value == 33


def test_a_rerun_that_changes_nothing_adds_no_step(home: Path) -> None:
    draft = begun(home)
    page = page_with(draft)
    before = lines_of(draft, home)
    page.run()
    page.run()
    assert lines_of(draft, home) == before


def test_switching_the_optimizer_keeps_the_settings_it_has_too(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.optimizer", Choice(name="momentum", params={"lr": 0.5, "nesterov": False}))
    page = page_with(draft)
    page.selectbox(key="training.optimizer").set_value("rmsprop").run()
    assert not page.exception
    assert draft.experiment.training.optimizer == Choice(name="rmsprop", params={"lr": 0.5})
    page.number_input(key="training.optimizer.params.lr").set_value(0.25).run()
    assert draft.experiment.training.optimizer.params["lr"] == 0.25


def test_a_problem_stands_below_its_widget_and_its_button_repairs_it(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.epochs", 0)
    page = page_with(draft)
    assert any(":material/error:" in text.value for text in page.markdown)
    page.button(key="repair:training.epochs:0").click().run()
    assert draft.experiment.training.epochs == 1
    assert draft.undo_words == "Use 1"
    assert not any(":material/error:" in text.value for text in page.markdown)


def test_a_repair_keeps_what_was_changed_since_its_button_was_drawn(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.epochs", 0)
    page = page_with(draft)
    Draft.open(draft.id, at_home=home).replace("training.batch_size", 4)
    page.button(key="repair:training.epochs:0").click().run()
    assert not page.exception
    assert (draft.experiment.training.epochs, draft.experiment.training.batch_size) == (1, 4)


def test_a_repair_of_what_was_mended_meanwhile_does_nothing(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.epochs", 0)
    page = page_with(draft)
    Draft.open(draft.id, at_home=home).replace("training.epochs", 8)
    before = lines_of(draft, home)
    page.button(key="repair:training.epochs:0").click().run()
    assert not page.exception and lines_of(draft, home) == before


def test_what_is_pressed_for_a_draft_that_was_deleted_meanwhile_ends_in_a_sentence(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.epochs", 0)
    page = page_with(draft)
    begun(home)
    draft.delete()
    page.button(key="repair:training.epochs:0").click().run()
    assert not page.exception and "deleted in another tab" in page.toast[0].value


def test_a_change_is_made_to_the_newest_document_and_not_to_the_one_that_was_drawn(home: Path) -> None:
    draft, other = begun(home), None

    def change(now: Experiment) -> Experiment:
        nonlocal other
        other = threading.Thread(target=Draft.open(draft.id, at_home=home).replace, args=("training.epochs", 9))
        other.start()  # waits until this change is written
        return now.replace("training.batch_size", 4)

    draft.apply(change, "a batch of 4")
    assert other is not None
    other.join(10)
    assert (draft.experiment.training.epochs, draft.experiment.training.batch_size) == (9, 4)


def test_a_value_outside_of_its_range_is_shown_not_crashed_on(home: Path) -> None:
    draft = begun(home)
    draft.replace("training.label_smoothing", 0.9)
    draft.replace("training.batch_size", 9000)
    draft.replace("training.monitor", "auuc")
    page = page_with(draft)
    assert not page.exception
    assert page.number_input(key="training.batch_size").value == 9000


def test_problems_are_found_by_path_and_below_it() -> None:
    from pages.kit.forms import problems_at

    problems = [Problem("network.a", "x"), Problem("network.a.params.k", "y"), Problem("network.ab", "z")]
    assert [p.message for p in problems_at(problems, "network.a")] == ["x"]
    assert [p.message for p in problems_at(problems, "network.a", inside=True)] == ["x", "y"]


def test_a_number_outside_of_its_range_reaches_the_draft(home: Path) -> None:
    """The browser would swallow what lies outside of a field's bounds: the fields have none, the checks do."""
    draft = begun(home)
    page = page_with(draft)
    assert not any(field.proto.has_min or field.proto.has_max for field in page.number_input)
    page.number_input(key="training.epochs").set_value(0).run()
    page.number_input(key="training.optimizer.params.lr").set_value(-5.0).run()
    assert not page.exception and draft.experiment.training.epochs == 0
    assert draft.experiment.training.optimizer.params["lr"] == -5.0
    assert all(slider.min <= slider.value <= slider.max for slider in page.slider)
