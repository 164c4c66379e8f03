"""A network that reads series, all the way: imported, trained, stopped and gone on, asked, exported."""

from __future__ import annotations

import csv
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import corpus
import forks
import little_run
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import dicom, imported
from PIL import Image
from sklearn.metrics import roc_auc_score
from tiers import covering

from builder import checkpoint, network, task
from builder.__main__ import main
from builder.check import problems
from builder.data import Dataset
from builder.evaluate import evaluate
from builder.export import TOLERANCE, export
from builder.predict import Finding, Predictor, blanked, read
from builder.runs import EpochEnded, Run
from builder.sandbox import Sandbox
from builder.scan import Scan, Unreadable
from builder.spec import Choice, Data, Experiment, Node, Training
from builder.train import train
from tasks import perfusion

pytestmark = pytest.mark.usefixtures("warm_children")

SIDE = 16
RECOGNITION = task.find("recognition")
SLICED = (  # the same little CNN over each slice; the vector at the end knows the place of each slice
    Node(id="conv", name="conv2d", params={"out_channels": 6, "stride": 2}),
    Node(id="norm", name="batch_norm"),
    Node(id="act", name="relu"),
    Node(id="pool", name="global_pool", params={"kind": "both"}),
    Node(id="row", name="flatten"),
    Node(id="drop", name="dropout", params={"p": 0.1}),
    Node(id="head", name="class_scores"),
)

READ = (  # ... and a GRU over what it found, with errors that travel back three slices at most
    *SLICED[:4],
    Node(id="gru", name="gru", params={"units": 8, "layers": 2, "bidirectional": True, "dropout": 0.2, "bptt": 3}),
    *SLICED[5:],
)
DEEP = (
    Node(id="conv", name="conv3d", params={"out_channels": 6, "stride": 2}),
    Node(id="norm", name="batch_norm_3d"),
    *SLICED[2:4],
    *SLICED[5:],
)


def ordered(rng: np.random.Generator, label: int, num_slices: int, side: int = SIDE) -> np.ndarray:
    """(S, side, side) uint8: a spot that brightens (0) or darkens (1) from slice to slice; the set tells nothing."""
    levels = np.sort(rng.uniform(0, 120, num_slices))[:: -1 if label else 1]
    pixels = rng.normal(70, 12, (num_slices, side, side))
    pixels[:, 5:11, 4:12] += levels[:, None, None]
    return pixels.clip(0, 255).astype(np.uint8)


def source(folder: Path, count: int = 60, seed: int = 0) -> Path:
    """A folder per class of multi-page TIFFs of 5 to 8 pages."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        first, *rest = [Image.fromarray(page) for page in ordered(rng, n % 2, int(rng.integers(5, 9)))]
        path = folder / ("falling" if n % 2 else "rising") / f"case-{n:02d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(path, save_all=True, append_images=rest)
    return folder


def experiment(nodes: tuple[Node, ...] = SLICED, slices: str = "series", **training: Any) -> Experiment:
    chosen = {"epochs": 10, "batch_size": 8, "optimizer": Choice(name="adamw", params={"lr": 0.02}), **training}
    return Experiment(
        name="order",
        data=Data(slices=slices, num_slices=5, size_px=SIDE),
        network=nodes,
        training=Training(**{"augment": (Choice(name="shift"), Choice(name="noise")), **chosen}),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    """60 series of which only the order tells, and a run on them."""
    place = tmp_path_factory.mktemp("series")
    dataset = imported(source(place / "src"), place / "home", "classes")[1]
    return place / "home", dataset, little_run.trained(place / "home", experiment(), dataset)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_a_network_over_slices_learns_what_only_their_order_tells(made):
    home, dataset, run = made
    assert dataset.fingerprint.num_slices["max"] > 5
    figures = evaluate(run, home, resamples=50)
    assert figures["metrics"]["auc"]["value"] > 0.95
    predictor = Predictor.open(run.folder)
    rng = np.random.default_rng(77)
    for label in (0, 1) * 5:
        pixels = ordered(rng, label, 7)[:, None]
        there, back = (predictor.finding(Scan(p)).top for p in (pixels, pixels[::-1].copy()))
        assert there == ("falling" if label else "rising") and back != there, "the same slices the other way round"


@pytest.mark.parametrize("way", ["flat", "gru", "volume"])
def test_a_stop_and_a_resume_give_the_weights_of_a_run_that_nothing_disturbed(made, tmp_path, way):
    _, dataset, _ = made
    nodes = {"flat": SLICED, "gru": READ, "volume": DEEP}[way]
    wanted = experiment(nodes, "volume" if way == "volume" else "series", epochs=3).replace("data.dataset", dataset.id)

    def ended(folder: Path, breaks: int) -> dict[str, torch.Tensor]:
        left, steps = breaks, 0

        def stop() -> bool:
            nonlocal steps
            steps += 1
            return left > 0 and steps >= 5

        for attempt in range(1, breaks + 2):
            left, steps = breaks + 1 - attempt, 0
            events = list(train(wanted, RECOGNITION, dataset, folder, attempt=attempt, stop=stop, device="cpu"))
        losses = [event.metrics["train/loss"] for event in events if isinstance(event, EpochEnded)]
        assert breaks or losses[-1] < losses[0]
        found = checkpoint.load_latest(folder, "last")
        assert found is not None and found.state["place"]["epoch"] == 4
        return found.state["model"]

    one, other = ended(tmp_path / "one", 0), ended(tmp_path / "other", 2)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_memory_stays_flat_however_many_series_there_are(made):
    """A batch is read past the map: the process does not come to hold the prepared series."""
    import psutil

    from builder.batches import Scans
    from builder.targets import Targets

    _, dataset, run = made
    prepared = dataset.prepared(run.experiment.data)
    scans = Scans(
        prepared, Targets(dataset, run.experiment.data, prepared, np.arange(len(dataset))), torch.device("cpu")
    )
    scans.batch(np.arange(8))
    before = psutil.Process().memory_info().rss
    for k in range(200):
        images, _ = scans.batch((np.arange(8) + k) % len(dataset))
    assert images.shape == (8, 5, 1, SIDE, SIDE)
    assert psutil.Process().memory_info().rss - before < 8 << 20


# -- the demo set and the starters -----------------------------------------------------------------------------------


def test_the_demo_series_carry_their_label_in_the_order_of_slices_and_nowhere_else():
    made = list(perfusion.cohort(seed=3, num_series=60, size_px=32))
    labels = np.array([series.label == "wash-out" for series in made])
    falling = np.array([np.diff(series.levels).mean() < 0 for series in made])
    assert np.array_equal(labels, falling) and all(12 <= len(series.slices) <= 20 for series in made)
    patients: dict[str, set[str]] = {}
    for series in made:
        patients.setdefault(series.patient, set()).add(series.label)
    assert len(patients) > 20 and all(len(found) == 1 for found in patients.values())
    # Whatever does not look at the order: brightness, spread and range of levels, number of slices.
    facts = {
        "brightness": [series.slices.mean() for series in made],
        "spread": [series.slices.std() for series in made],
        "agent": [series.levels.mean() for series in made],
        "number": [len(series.slices) for series in made],
    }
    for name, values in facts.items():
        assert 0.25 < roc_auc_score(labels, values) < 0.75, name
    again = list(perfusion.cohort(seed=3, num_series=2, size_px=32))
    assert all(np.array_equal(a.slices, b.slices) for a, b in zip(made, again, strict=False))


def test_the_task_makes_each_of_its_demo_sets_and_refuses_another(tmp_path, monkeypatch):
    monkeypatch.setattr(perfusion.write_cohort, "__defaults__", (4, 32))
    table = RECOGNITION.demo(0, tmp_path / "demo", "series")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 4 and {row["label"] for row in rows} == set(perfusion.CLASSES)
    with Image.open(table.parent / rows[0]["file"]) as image:
        assert getattr(image, "n_frames", 1) >= 12 and np.asarray(image).dtype == np.uint16
    starters = {starter.name for starter in RECOGNITION.starters()}
    assert set(RECOGNITION.demos.values()) <= starters
    with pytest.raises(ValueError, match="no demo set 'films'; there are pictures, series"):
        RECOGNITION.demo(0, tmp_path / "other", "films")


def test_every_starter_comes_with_a_paragraph_on_when_to_use_it():
    names = [starter.name for starter in RECOGNITION.starters()]
    assert set(RECOGNITION.when) == set(names)
    assert all(30 <= len(words.split()) <= 110 and words.endswith(".") for words in RECOGNITION.when.values())
    layouts = {starter.name: starter.data.layout for starter in RECOGNITION.starters()}
    assert layouts["cnn-bigru"] == "series" and layouts["small-3d-cnn"] == "volume"


@pytest.mark.parametrize("name", ["cnn-bigru", "small-3d-cnn"])
def test_the_starters_over_slices_fit_their_demo_and_are_exported_with_proof(name, tmp_path):
    home = tmp_path / "home"
    place = perfusion.write_cohort(tmp_path / "demo", seed=0, num_series=30, size_px=32)
    dataset = little_run.imported(home, place, synthetic=True)
    starter = little_run.starter(name).replace("data.dataset", dataset.id)
    assert not [p for p in problems(starter, dataset.fingerprint) if p.severity == "error"]
    small = starter.replace("data.size_px", 32).replace("training.epochs", 1)
    run = little_run.trained(home, small, dataset)
    finding = Predictor.open(run.folder).finding(dataset.scan(0))
    assert finding.layout == starter.data.layout and len(finding.slices) == 12
    assert finding.heatmap is None or finding.heatmap.shape == (12, 32, 32)
    proof = json.loads((export(run, home, out=tmp_path / "out").with_suffix("") / "parity.json").read_text())
    assert proof["difference"]["input"] == 0 and proof["difference"]["probabilities"] <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", covering(["cnn-bigru", "small-3d-cnn"], lambda place, name: name == "cnn-bigru"))
def test_the_starters_over_slices_learn_their_demo_in_half_of_their_epochs(name, home, tmp_path):
    dataset = little_run.imported(home, RECOGNITION.demo(0, tmp_path / "demo", "series").parent, synthetic=True)
    starter = little_run.starter(name)
    run = little_run.trained(home, starter.replace("training.epochs", starter.training.epochs // 2), dataset)
    assert evaluate(run, home)["metrics"]["auc"]["value"] > 0.9


# -- asking -----------------------------------------------------------------------------------------------------------


def test_a_finding_tells_which_slices_were_seen_and_which_told_most(made):
    _, dataset, run = made
    predictor = Predictor.open(run.folder)
    finding = predictor.finding(Scan(ordered(np.random.default_rng(1), 0, 9)[:, None]), [(0.2, 0.2, 0.8, 0.8)])
    assert finding.image.shape == (5, 1, SIDE, SIDE) and finding.pictures.shape == (5, 1, SIDE, SIDE)
    assert finding.slices == (1, 3, 5, 7, 9) and finding.num_slices == 9
    assert "The scan has 9 slices; the network saw 5 of them." in finding.notes
    assert finding.heatmap is not None and finding.heatmap.shape == (5, SIDE, SIDE)
    assert finding.heatmap.max() == 1 and finding.heatmap.min() >= 0
    assert finding.telling == finding.heatmap.sum((1, 2)).argmax()
    told = finding.plain()["slices"]
    assert told == {"of": 9, "seen": [1, 3, 5, 7, 9], "telling": finding.telling}
    (covered,) = finding.covered
    assert abs(covered.change[finding.top]) > 0.01, "covering the spot on every slice changes the answer"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "one picture.*shown 5 times"),
        (3, "3 slices; the network saw all.*more than once to make 5"),
        (5, "all of them.$"),
    ],
)
def test_scans_of_few_slices_are_answered_with_a_word_about_it(made, count, words):
    import re

    predictor = Predictor.open(made[2].folder)
    finding = predictor.finding(Scan(ordered(np.random.default_rng(2), 1, count)[:, None]))
    assert any(re.search(words, note) for note in finding.notes), finding.notes


def test_a_volume_network_is_asked_in_the_same_way(made):
    _, dataset, run = made
    finding = Finding({"a": 1.0}, "a", None, np.zeros((3, 4, 8, 8)), slices=(1, 2, 3, 0), num_slices=3, layout="volume")
    assert finding.pictures.shape == (4, 3, 8, 8) and finding.telling == 2


@pytest.mark.parametrize(
    ("slices", "names"),
    [
        ("volume", ("conv3d", "slices_as_sequence", "global_pool", "gru", "class_scores")),
        ("series", ("conv2d", "slices_as_volume", "conv3d", "global_pool", "class_scores")),
        ("series", ("slices_as_channels", "conv2d", "global_pool", "class_scores")),
        ("series", ("conv2d", "global_pool", "lstm", "class_scores")),
    ],
)
def test_the_heat_map_has_a_picture_for_each_slice_whatever_the_layers_make_of_them(slices, names):
    nodes = tuple(Node(id=f"n{k}", name=name) for k, name in enumerate(names))
    chosen = experiment(nodes, slices).replace("data.num_slices", 6)
    net = network.assemble_of(chosen, 2, seed=3).eval()
    predictor = Predictor(chosen, ("a", "b"), False, 255, np.zeros(1, np.float32), np.ones(1, np.float32), "", net)
    image = predictor.prepared(Scan(ordered(np.random.default_rng(1), 0, 9)[:, None]))
    found = [heat for k in (0, 1) if (heat := predictor.heatmap(image, k)) is not None]
    assert found and all(heat.shape == (6, SIDE, SIDE) and heat.max() == 1 for heat in found)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_covering_a_region_covers_it_on_every_plane_and_nothing_else(seed):
    image = np.random.default_rng(seed).random((3, 2, 8, 10)).astype(np.float32)
    result = blanked(image, (0.3, 0.25, 0.7, 0.75))
    assert np.array_equal(result[..., :2, :], image[..., :2, :]) and np.array_equal(result[..., 7:], image[..., 7:])
    assert np.allclose(result[1, 0, 2:6, 3:7], np.median(image[1, 0]))


def slices_of(folder: Path, pixels: np.ndarray, shuffled: bool = True, **tags: Any) -> Path:
    """Writes (S, H, W) as the DICOM files of one series, under names that tell nothing of their order."""
    names = np.random.default_rng(5).permutation(len(pixels)) if shuffled else np.arange(len(pixels))
    for position, (name, plane) in enumerate(zip(names, pixels, strict=True)):
        same = {"SeriesInstanceUID": f"1.2.{len(pixels)}.{int(pixels.sum())}", **tags}
        dicom(folder / f"{name:03d}.dcm", plane.astype(np.int16), position=2.5 * position, **same)
    return folder


def test_a_folder_a_zip_and_a_multi_frame_file_of_one_series_give_one_answer(made, tmp_path):
    predictor = Predictor.open(made[2].folder)
    pixels = ordered(np.random.default_rng(3), 1, 8)
    folder = slices_of(tmp_path / "case", pixels)
    (folder / ".DS_Store").write_bytes(b"junk")
    with zipfile.ZipFile(tmp_path / "case.zip", "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"case/{path.name}")
    first, *rest = [Image.fromarray(page.astype(np.uint16)) for page in pixels]
    first.save(tmp_path / "case.tif", save_all=True, append_images=rest)
    (tmp_path / "frames.dcm").write_bytes(corpus.dicom_bytes(pixels.astype(np.uint16)))
    (tmp_path / "case.nii").write_bytes(corpus.nifti_bytes(pixels.astype(np.int16).transpose(2, 1, 0)))
    with Sandbox() as box:
        scans = [read([tmp_path / name], box) for name in ("case", "case.zip", "case.tif", "frames.dcm", "case.nii")]
        scans.append(read(sorted(folder.glob("*.dcm")), box))
        for bad, words in (("empty", "nothing|no file|empty"), ("text.zip", "nothing in it that could be a scan")):
            if bad.endswith("zip"):
                with zipfile.ZipFile(tmp_path / bad, "w") as packed:
                    packed.writestr("readme.txt", "hello")
            else:
                (tmp_path / bad).mkdir()
            with pytest.raises(Unreadable, match=words):
                read([tmp_path / bad], box)
    turned = scans.pop(4).pixels[:, 0]  # a NIfTI file whose axes run to the right and to the front: shown as DICOM is
    assert np.array_equal(turned, pixels[:, ::-1, ::-1]), "its slices stay in order"
    assert all(np.array_equal(scan.pixels[:, 0], pixels) for scan in scans)
    answers = [predictor.finding(scan).probabilities for scan in (scans[0], scans[1], scans[-1])]
    assert answers[0] == answers[1] == answers[2] and predictor.finding(scans[0]).top == "falling"


# -- taken away -------------------------------------------------------------------------------------------------------


def alone(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "-B", *arguments]
    done = forks.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_the_export_of_a_series_network_answers_as_the_app_and_learns_anew(made, tmp_path):
    home, dataset, run = made
    file = export(run, home, out=tmp_path / "out")
    folder = file.with_suffix("")
    proof = json.loads((folder / "parity.json").read_text())
    assert proof["difference"]["input"] == 0 and proof["difference"]["probabilities"] <= TOLERANCE
    pixels = ordered(np.random.default_rng(8), 0, 11)
    slices_of(tmp_path / "case", pixels, RescaleIntercept=-10)
    first, *rest = [Image.fromarray(page) for page in pixels]
    first.save(tmp_path / "case.tif", save_all=True, append_images=rest)
    slices_of(tmp_path / "mixed", pixels)
    dicom(tmp_path / "mixed" / "other.dcm", 3, position=1.0)
    names = ("case", "case.tif", "mixed")
    lines = alone(folder, "predict.py", *(str(tmp_path / n) for n in names), code=2).splitlines()
    assert "several series, or images of several sizes" in json.loads(lines[2])["error"]
    predictor = Predictor.open(run.folder)
    with Sandbox() as box:
        for name, line in zip(names[:2], lines, strict=False):
            ours = predictor.finding(read([tmp_path / name], box)).probabilities
            assert json.loads(line)["probabilities"] == pytest.approx(ours, abs=2e-6), name
    source(tmp_path / "own" / "train", 16, seed=1)
    source(tmp_path / "own" / "val", 8, seed=2)
    slices_of(tmp_path / "own" / "train" / "rising" / "dicom-case", pixels)
    told = alone(folder, "train.py", str(tmp_path / "own"), "--epochs", "2")
    assert "epoch 2" in told and (folder / "trained" / "weights.safetensors").exists()


# -- from the command line --------------------------------------------------------------------------------------------


def test_series_folders_are_imported_with_labels_trained_on_and_asked_from_the_command_line(home, tmp_path, capsys):
    rng = np.random.default_rng(4)
    with_table = tmp_path / "table"
    rows = []
    for n in range(24):
        slices_of(
            with_table / f"case-{n:02d}", ordered(rng, n % 2, int(rng.integers(5, 8))), PatientID=f"p{n // 2}-{n % 2}"
        )
        rows.append((f"case-{n:02d}", ("rising", "falling")[n % 2], f"p{n // 2}-{n % 2}"))
    with open(with_table / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient"), *rows])

    def ask(*arguments: str) -> Any:
        code = main([*arguments, "--json"])
        told = capsys.readouterr()
        assert code == 0, told.err
        return json.loads(told.out)

    report = ask("import", str(with_table), "--name", "series")
    assert report["cases"] == 24 and report["patients"] == 24
    dataset = Dataset.open(home, report["dataset"])
    assert dataset.fingerprint.num_slices["min"] >= 5 and dataset.classes == ("falling", "rising")
    document = tmp_path / "e.json"
    document.write_text(experiment(epochs=2).dumps())
    planned = ask("plan", str(document), "--data", dataset.id)
    assert planned["input"] == [5, 1, SIDE, SIDE]
    done = ask("train", str(document), "--data", dataset.id)
    assert done["status"] == "done"
    (finding,) = ask("predict", done["run"], str(with_table / "case-00"))["findings"]
    assert finding["slices"]["of"] >= 5 and len(finding["slices"]["seen"]) == 5
