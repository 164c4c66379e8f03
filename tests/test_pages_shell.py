"""The shell, Home and Data, run as a browser session would run them, and looked at by a real browser at the end."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from made_files import dicom, drained, picture
from streamlit.testing.v1 import AppTest
from test_intake import nearby  # noqa: F401 (a fixture)

from builder.data import Dataset, datasets
from builder.evaluate import count_opening
from builder.execute import LocalExecutor
from builder.intake import Source, detect, import_scans
from builder.runs import Finished, Record, RunStore, Started
from builder.spec import Experiment
from pages.kit import draft, importing, uploads, words
from pages.kit.draft import Draft
from tests.browser import ROOT


@pytest.fixture(autouse=True)
def no_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages submit real jobs here, and nobody works on them unless the test does."""
    monkeypatch.setattr(LocalExecutor, "ensure", lambda self, wait_s=0.0: False)


@pytest.fixture
def cats(home: Path, tmp_path: Path, nearby: None) -> str:  # noqa: F811
    """The id of a dataset of 24 pictures in two classes."""
    root = folder_of_classes(tmp_path / "source")
    return str(drained(import_scans(detect(root), "Cats and dogs", home)).dataset)


def folder_of_classes(root: Path, num: int = 24) -> Path:
    for n in range(num):
        picture(root / ("cat" if n % 2 else "dog") / f"p{n:02d}_left.png", n, (48 + 2 * n, 64))
    return root


def opened(page: str = "", **parameters: str) -> AppTest:
    session = AppTest.from_file(str(ROOT / "pages" / "shell.py"), default_timeout=60)
    for name, value in parameters.items():
        session.query_params[name] = value
    session.run()
    if page:
        session.switch_page(f"{page}.py")
        for name, value in parameters.items():
            session.query_params[name] = value
        session.run()
    assert not session.exception, session.exception
    return session


def title_of(session: AppTest) -> str:
    assert not session.exception, session.exception
    return session.title[0].value


def said(session: AppTest) -> str:
    """All text that a session shows now."""
    kinds = ("markdown", "caption", "title", "subheader", "error", "warning", "success", "info")
    return "\n".join(str(getattr(element, "value", "")) for kind in kinds for element in session.get(kind))


def parameter(session: AppTest, name: str) -> str:
    value = session.query_params.get(name, "")
    return value[0] if isinstance(value, list) and value else str(value or "")


def finish(home: Path, kind: str, result: dict[str, object] | None, status: str = "done", reason: str = "") -> None:
    """Ends the newest job of a kind as the worker would."""
    job = next(job for job in RunStore(home).jobs() if job.kind == kind)
    with_result = job.folder / "result.json"
    if result is not None:
        with_result.write_text(json.dumps(result))
    with Record(job.folder / "events.jsonl") as record:
        record.append(Started(attempt=1))
        record.append(Finished(status=status, reason=reason))
    job.marker.unlink()


# -- home --------------------------------------------------------------------------------------------------------------


def test_a_newcomer_sees_four_ways_to_begin_and_this_machine(home: Path) -> None:
    session = opened()
    assert title_of(session) == "Teach a network to read scans"
    text = said(session)
    for words_there in (
        "Try it",
        "Your scans",
        "A starter",
        "A saved experiment",
        "This machine",
        "not for clinical use",
    ):
        assert words_there in text


def test_the_demo_needs_one_click_to_be_ready_for_training(home: Path, cats: str) -> None:
    session = opened()
    session.button(key="try-recognition").click().run()
    job = next(job for job in RunStore(home).jobs())
    assert (job.kind, job.payload) == ("demo", {"task": "recognition", "seed": 0})
    assert session.button(key="try-recognition").disabled
    finish(home, "demo", {"dataset": cats})
    session.run()
    assert title_of(session) == "Training"
    made = Draft.open(parameter(session, "draft"), at_home=home)
    assert made.experiment.data.dataset == cats
    assert made.experiment.name.startswith("Demo: ")


def test_a_demo_that_failed_says_why_and_can_be_put_away(home: Path) -> None:
    session = opened()
    session.button(key="try-recognition").click().run()
    finish(home, "demo", None, "failed", "The disk is full.")
    session.run()
    assert "The disk is full" in said(session)
    session.button(key="forget-demo").click().run()
    assert "The disk is full" not in said(session)
    assert not session.button(key="try-recognition").disabled


def test_a_job_is_found_again_after_a_reload(home: Path) -> None:
    session = opened()
    session.button(key="try-recognition").click().run()
    id = parameter(session, "job-demo")
    again = opened(**{"job-demo": id})
    assert again.button(key="try-recognition").disabled


def test_a_starter_becomes_a_draft_on_the_network_page(home: Path) -> None:
    session = opened()
    session.selectbox(key="starter").set_value("vgg-style").run()
    session.button(key="open-starter").click().run()
    assert title_of(session) == "Network"
    assert Draft.open(parameter(session, "draft"), at_home=home).name == "vgg-style"


def test_a_saved_experiment_is_loaded_and_a_broken_one_is_refused_in_a_sentence(home: Path) -> None:
    session = opened()
    text = Experiment(name="mine").replace("training.epochs", 77).dumps()
    session.file_uploader(key="experiment-file").set_value([("e.json", text.encode(), "application/json")]).run()
    assert Draft.open(parameter(session, "draft"), at_home=home).experiment.training.epochs == 77
    for wrong in (b"not json", b'{"version": 99}', b'{"nmae": "x"}', b"\xff\xfe\x00", b"[]"):
        session = opened()
        session.file_uploader(key="experiment-file").set_value([("e.json", wrong, "application/json")]).run()
        assert not session.exception
        assert len(session.error) == 1 and len(session.error[0].value) > 20
        assert "Traceback" not in session.error[0].value
    assert len(draft.recent(at_home=home)) == 1


def test_runs_and_experiments_are_listed_with_their_state_in_words(home: Path) -> None:
    Draft.create(Experiment(name="first try"), at_home=home)
    RunStore(home).create(Experiment(name="**bold** [x](http://evil)"))
    session = opened()
    assert title_of(session) == "Where was I?"
    text = said(session)
    assert "first try" in text and "waiting" in text
    assert "[x](http" not in text and r"\[x\]" in text


def test_an_experiment_is_deleted_only_after_asking(home: Path) -> None:
    made = Draft.create(Experiment(name="to go"), at_home=home)
    session = opened()
    session.button(key=f"remove-{made.id}").click().run()
    assert [entry.id for entry in draft.recent(at_home=home)] == [made.id]
    session.button(key="really-delete").click().run()
    assert draft.recent(at_home=home) == []
    assert not session.exception


def test_undo_in_the_sidebar_takes_back_the_last_edit(home: Path) -> None:
    made = Draft.create(Experiment(name="mine"), at_home=home)
    made.replace("training.epochs", 9)
    session = opened(draft=made.id)
    session.button(key="undo").click().run()
    assert made.experiment.training.epochs == Experiment().training.epochs
    session.button(key="redo").click().run()
    assert made.experiment.training.epochs == 9


def test_a_draft_id_out_of_nowhere_is_no_error(home: Path) -> None:
    for wrong in ("0" * 16, "../../x", "<b>"):
        assert title_of(opened(draft=wrong)) == "Teach a network to read scans"


# -- data --------------------------------------------------------------------------------------------------------------


def test_without_scans_the_data_page_offers_two_ways_and_a_real_scan(home: Path) -> None:
    session = opened("data")
    text = said(session)
    assert "No scans yet" in text and "A real scan to look at" in text
    assert "128 × 128 px" in text
    session.button(key="make-demo-recognition").click().run()
    assert [job.kind for job in RunStore(home).jobs()] == ["demo"]


def folder_form(root: object) -> AppTest:
    session = opened("data")
    session.button(key="ask-import").click().run()
    session.segmented_control(key="way").set_value("A folder of this machine").run()
    return session.text_input(key="folder").set_value(str(root)).run()


def test_a_folder_is_recognised_and_its_import_is_submitted(home: Path, tmp_path: Path) -> None:
    session = folder_form(folder_of_classes(tmp_path / "animals"))
    assert "a folder per class" in said(session)
    assert session.button(key="start-import").disabled
    session.text_input(key="dataset-name").set_value("Cats").run()
    session.text_input(key="dataset-name").set_value("Animals")  # and pressed before the page was drawn anew
    session.button(key="start-import").click().run()
    assert not session.exception
    (job,) = RunStore(home).jobs()
    payload = job.payload
    assert (payload["name"], payload["task"], payload["into"]) == ("Animals", "recognition", None)
    assert payload["split"] == [0.7, 0.15, 0.15]
    assert payload["source"]["root"] == str(tmp_path / "animals")
    assert payload["source"]["kind"] == "classes"
    assert parameter(session, "import") == ""


def test_the_form_proposes_the_task_whose_labels_came_and_reads_the_files_as_one_says(
    home: Path, tmp_path: Path
) -> None:
    for n in range(6):
        for name in ("low", "high"):
            picture(tmp_path / "ct" / name / f"{n}.png", n)
    session = folder_form(tmp_path / "ct")
    assert "a folder per class" in said(session)
    task = next(box for box in session.selectbox if str(box.key).startswith("task-"))
    task.set_value("image_enhancement").run()
    assert "6 pairs of a scan and its clean scan" in said(session)
    kind = next(box for box in session.selectbox if str(box.key).startswith("kind-"))
    assert kind.options[0] == "Pairs of a scan and its clean scan" and "A folder per class" in kind.options
    session.text_input(key="dataset-name").set_value("Doses").run()
    session.button(key="start-import").click().run()
    (job,) = RunStore(home).jobs()
    assert (job.payload["source"]["kind"], job.payload["task"]) == ("pairs", "image_enhancement")

    for n in range(4):
        picture(tmp_path / "cells" / f"{n}.png", n)
    (tmp_path / "cells" / "labels.csv").write_text("file,x0,y0,x1,y1,label\n0.png,1,1,9,9,cell\n")
    session = folder_form(tmp_path / "cells")
    task = next(box for box in session.selectbox if str(box.key).startswith("task-"))
    assert task.value == "lesion_detection"
    kind = next(box for box in session.selectbox if str(box.key).startswith("kind-"))
    kind.set_value("folder").run()
    assert "4 files without labels" in said(session)


def test_scans_are_kept_out_of_a_test_side_that_was_opened(home: Path, tmp_path: Path, cats: str) -> None:
    root = folder_of_classes(tmp_path / "more")
    session = folder_form(root)
    session.selectbox(key="into").set_value(cats).run()
    assert not [toggle for toggle in session.toggle if toggle.key == "keep-closed"]
    count_opening(Dataset.open(home, cats), "a run")
    session.run()
    assert session.toggle(key="keep-closed").value is True
    session.button(key="start-import").click().run()
    (job,) = RunStore(home).jobs()
    assert (job.payload["into"], job.payload["keep_out_of"]) == (cats, ["test"])


def test_new_classes_are_shown_and_wait_for_a_yes(home: Path, tmp_path: Path, cats: str) -> None:
    root = folder_of_classes(tmp_path / "more")
    (root / sorted(path.name for path in root.iterdir())[0]).rename(root / "newt")
    session = folder_form(root)
    session.selectbox(key="into").set_value(cats).run()
    assert not session.exception
    assert "1 class that the data set has not: **newt**" in said(session)
    assert "must be trained anew" in said(session)
    assert session.button(key="start-import").disabled
    session.toggle(key="new-classes-newt").set_value(True).run()
    session.button(key="start-import").click().run()
    (job,) = RunStore(home).jobs()
    assert (job.payload["into"], job.payload["new_classes"]) == (cats, ["newt"])


def test_a_patient_pattern_is_shown_at_work_and_a_bad_one_explained(home: Path, tmp_path: Path) -> None:
    session = folder_form(folder_of_classes(tmp_path / "animals"))
    session.text_input(key="dataset-name").set_value("Animals").run()
    session.radio(key="patient-rule").set_value("By a pattern over file names").run()
    assert session.button(key="start-import").disabled
    for wrong, complaint in (("(", "no regular expression"), ("p..", "exactly one pair"), ("(zz)", "do not match")):
        session.text_input(key="pattern").set_value(wrong).run()
        assert complaint in said(session)
        assert session.button(key="start-import").disabled
    session.text_input(key="pattern").set_value(r"/(p\d+)_").run()
    session.text_input(key="pattern").set_value("/(p)")  # and pressed before the page was drawn anew
    session.button(key="start-import").click().run()
    assert not RunStore(home).jobs() and "nothing was started" in said(session)
    session.text_input(key="pattern").set_value(r"/(p\d+)_").run()
    assert set(session.dataframe[0].value["Patient"]) <= {f"p{n:02d}" for n in range(24)}
    session.button(key="start-import").click().run()
    assert RunStore(home).jobs()[0].payload["source"]["patient_pattern"] == r"/(p\d+)_"


@pytest.mark.parametrize(
    ("root", "complaint"),
    [("/no/such/folder", "no file or folder"), ("relative/path", "whole path"), ("EMPTY", "nothing")],
)
def test_a_folder_that_cannot_be_imported_is_explained(home: Path, tmp_path: Path, root: str, complaint: str) -> None:
    (tmp_path / "empty").mkdir()
    session = folder_form(tmp_path / "empty" if root == "EMPTY" else root)
    assert not session.exception
    assert complaint in said(session)
    assert not [b for b in session.button if b.key == "start-import"]


def test_where_others_may_come_in_only_named_folders_are_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of_classes(tmp_path / "open" / "animals", 8)
    monkeypatch.setenv("SCANLOOM_BEHIND_PROXY", "1")
    assert "SCANLOOM_FOLDERS" in said(folder_form(root))
    monkeypatch.setenv("SCANLOOM_FOLDERS", str(tmp_path / "open"))
    assert "a folder per class" in said(folder_form(root))
    assert "SCANLOOM_FOLDERS" in said(folder_form(tmp_path / "open" / ".." / "elsewhere"))


def test_a_finished_import_opens_its_dataset_and_says_what_came_of_it(home: Path, tmp_path: Path, cats: str) -> None:
    session = folder_form(folder_of_classes(tmp_path / "more"))
    session.text_input(key="dataset-name").set_value("More").run()
    session.button(key="start-import").click().run()
    finish(home, "import", {"dataset": cats, "accepted": 20, "repaired": 3, "refused": 1, "patients": 24})
    session.run()
    assert title_of(session) == "Cats and dogs"
    assert "20 files accepted, 3 files repaired, 1 file refused" in said(session)


def test_the_overview_says_the_patient_split_aloud(home: Path, cats: str) -> None:
    session = opened("data", dataset=cats)
    text = said(session)
    assert "24 scans of 24 patients, 2 classes (cat, dog)." in text
    assert "The split goes by patient" in text
    assert "one image counts as one patient" in text
    assert {metric.label: metric.value for metric in session.metric}["Scans"] == "24"


def test_scans_without_labels_and_with_several_count_once_on_their_side(home: Path, tmp_path: Path) -> None:
    for n in range(10):
        picture(tmp_path / "plain" / f"{n}.png", n)
        picture(tmp_path / "several" / f"{n}.png", n)
    rows = ["file,label", *(f"{n}.png,a{'|b' if n % 2 else ''}" for n in range(10))]
    (tmp_path / "several" / "labels.csv").write_text("\n".join(rows))
    for name in ("plain", "several"):
        dataset = str(drained(import_scans(detect(tmp_path / name), name, home)).dataset)
        path = home / "datasets" / dataset / "dataset.json"
        for _ in range(2):
            tiles = {metric.label: metric.value for metric in opened("data", dataset=dataset).metric}
            assert tiles["Scans"] == "10"
            assert sum(int(tiles[split]) for split in ("Training", "Validation", "Test")) == 10
            older = json.loads(path.read_text())
            older["fingerprint"].pop("cases_per_split", None)  # as an earlier version wrote it
            older["changed"] += 1
            path.write_text(json.dumps(older))


def tab(session: AppTest, dataset: str, name: str) -> AppTest:
    session.session_state[f"tabs-{dataset}"] = name
    return session.run()


def test_scans_are_shown_by_class_and_one_opens_large(home: Path, cats: str) -> None:
    session = tab(opened("data", dataset=cats), cats, "Scans")
    looks = [button for button in session.button if str(button.key).startswith("look-")]
    assert len(looks) == 24
    assert "Press a picture to look closer" in said(session)
    assert "comes first" not in said(session), "Streamlit writes a bare string in a page onto it"
    session.selectbox(key=f"class-{cats}").set_value("cat").run()
    looks = [button for button in session.button if str(button.key).startswith("look-")]
    assert {button.label for button in looks} == {"cat"} and len(looks) == 12
    looks[0].click().run()
    assert not session.exception
    index = str(looks[0].key).rsplit("-", 1)[1]
    assert [str(part.key).partition("-")[0] for part in session.get("bidi_component")].count("case") == 1
    assert Dataset.open(home, cats).cases[int(index)].id in said(session)


def test_a_file_is_found_by_its_typed_name_only(home: Path, cats: str) -> None:
    session = tab(opened("data", dataset=cats), cats, "Files")
    table = session.dataframe[0].value
    assert len(table) == 24 and not table.astype(str).apply(lambda c: c.str.contains("p0")).any().any()
    session.text_input(key=f"find-{cats}").set_value("p03_left.png").run()
    assert "accepted" in said(session) and "Scan c" in said(session)
    session.text_input(key=f"find-{cats}").set_value("other.png").run()
    assert "No file of this name" in said(session)


def test_an_uneven_series_is_told_without_a_spacing(
    home: Path,
    tmp_path: Path,
    nearby: None,  # noqa: F811
) -> None:
    for n, z in enumerate((0, 5, 9, 15, 18)):
        dicom(tmp_path / "in" / f"{n}.dcm", n, z, SeriesInstanceUID="1.2.9", WindowCenter=30, WindowWidth=310)
    made = str(drained(import_scans(detect(tmp_path / "in"), "CT", home)).dataset)
    session = opened("data", dataset=made)
    assert "1 series has unevenly spaced slices; see Scans." in said(session)
    session = tab(session, made, "Scans")
    session.button(key=f"look-{made}-0").click().run()
    assert "mm apart" not in said(session) and "unevenly spaced" in said(session)
    assert [str(part.key).partition("-")[0] for part in session.get("bidi_component")].count("case") == 1


def test_after_an_import_refused_files_are_named_until_the_page_is_reloaded(
    home: Path,
    tmp_path: Path,
    nearby: None,  # noqa: F811
) -> None:
    root = folder_of_classes(tmp_path / "in")
    (root / "dog" / "ZZPHI empty.png").write_bytes(b"")
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("busi/benign/ZZPHI notes.png", b"no picture")
    session = folder_form(root)
    session.text_input(key="dataset-name").set_value("Named").run()
    session.button(key="start-import").click().run()
    (job,) = RunStore(home).jobs()
    report = drained(import_scans(Source.from_json(job.payload["source"]), "Named", home))
    assert report.refused == 2
    finish(home, "import", report.to_json())
    session.run()
    summary = session.dataframe[0].value
    inside = "more.zip/busi/benign/ZZPHI notes.png"
    assert sorted(summary["Name"]) == ["dog/ZZPHI empty.png", inside]
    assert summary["What was done, or why not"].str.len().min() > 10
    assert "the tab Files says why" in said(session)
    session.button(key="import-seen").click().run()
    assert not session.dataframe
    tab(session, report.dataset, "Files")
    assert set(session.dataframe[0].value["Status"]) == {"refused"}
    assert inside in list(session.dataframe[0].value["Name"])
    for typed in ("busi/benign/ZZPHI notes.png", "ZZPHI notes.png"):
        session.text_input(key=f"find-{report.dataset}").set_value(typed).run()
        assert inside in said(session).replace("\\", "")
    assert "ZZPHI" not in str(session.query_params)
    assert not [path for path in home.rglob("*") if path.is_file() and b"ZZPHI" in path.read_bytes()]
    again = tab(opened("data", dataset=report.dataset), report.dataset, "Files")
    assert "Names are not stored; type one to look it up." in said(again)
    assert "Name" not in again.dataframe[0].value and not again.exception
    again.text_input(key=f"find-{report.dataset}").set_value("busi/benign/ZZPHI notes.png").run()
    assert "refused" in said(again) and "last part" in said(again)


def test_the_names_of_an_upload_are_those_the_ledger_keys(home: Path, tmp_path: Path, nearby: None) -> None:  # noqa: F811
    ticket = uploads.folder_of(uploads.new_ticket(home), home)
    picture(tmp_path / "a.png", 1).rename(ticket / "00001.bin")
    with zipfile.ZipFile(ticket / "00002.bin", "w") as archive:
        archive.write(picture(tmp_path / "b.png", 2), "inner/b.png")
    (ticket / "00003.bin").touch()
    told = ("folder/a.png", "two.zip", "folder/empty.dcm")
    lines = [json.dumps({"file": f"0000{n}.bin", "name": name, "bytes": 1}) for n, name in enumerate(told, 1)]
    (ticket / "names.jsonl").write_text("\n".join(lines))
    names = importing._names(ticket)
    report = drained(import_scans(detect(ticket), "Dropped", home))
    assert sorted(names) == sorted(entry.name for entry in report.ledger) and "two.zip/inner/b.png" in names


def test_using_a_dataset_puts_it_into_the_open_experiment(home: Path, cats: str) -> None:
    made = Draft.create(Experiment(name="mine"), at_home=home)
    session = opened("data", dataset=cats, draft=made.id)
    session.button(key="use-dataset").click().run()
    assert made.experiment.data.dataset == cats
    assert title_of(session) == "Network"


def test_a_dataset_is_deleted_only_after_asking(home: Path, cats: str) -> None:
    session = opened("data", dataset=cats)
    session.button(key="delete-dataset").click().run()
    assert [summary.id for summary in datasets(home)] == [cats]
    session.button(key="really-delete").click().run()
    assert datasets(home) == []
    assert "No scans yet" in said(session)


def test_names_out_of_folders_are_shown_as_text(home: Path, tmp_path: Path, nearby: None) -> None:  # noqa: F811
    root = tmp_path / "hostile"
    for n in range(16):
        picture(root / ("<img src=x onerror=alert(1)>" if n % 2 else "[a](http://evil.example)") / f"{n}.png", n)
    made = drained(import_scans(detect(root), "![x](http://evil.example/x.png)", home)).dataset
    session = opened("data", dataset=str(made))
    for text in (said(session), said(tab(session, str(made), "Scans"))):
        assert "](http" not in text
        assert "<img" not in text.replace(r"\<img", "")


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "given", "expected"),
    [
        (words.size, 0, "0 bytes"),
        (words.size, 1536, "1.5 kB"),
        (words.size, 250_000_000, "250 MB"),
        (words.size, 5e12, "5,000 GB"),
        (words.duration, 0.4, "0 s"),
        (words.duration, 75, "1 min 15 s"),
        (words.duration, 7_260, "2 h 01 min"),
        (words.path_words, "training.optimizer.params.lr", "Optimizer: lr"),
        (words.path_words, "data.size_px", "Size px"),
        (words.path_words, "name", "Name"),
        (words.value_words, True, "on"),
        (words.value_words, 0.1, "0.1"),
        (words.plain, "a_b *c* <i> [x](y) $z$", r"a\_b \*c\* \<i\> \[x\]\(y\) \$z\$"),
    ],
)
def test_numbers_and_paths_become_plain_words(function: Callable[[object], str], given: object, expected: str) -> None:
    assert function(given) == expected
