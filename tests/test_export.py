"""The PyTorch export: code that stands alone, answers the same, is proven so, and is withheld where it is not."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Any

import corpus
import forks
import little_run
import numpy as np
import pydicom
import pytest
import timm.optim
import torch
from fed import FEEDS
from PIL import Image

from builder import cutting, listing, network, optim, pytorch_export, schedule
from builder import dicom as dicom_reader
from builder import export as module
from builder.data import Dataset, prepare, quantize
from builder.export import TOLERANCE, ExportError, export
from builder.listing import attributes, model_source, predict_source, train_source
from builder.parts.layers import LAYERS
from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.predict import Predictor, read
from builder.readme import readme
from builder.runs import Run
from builder.sandbox import Sandbox
from builder.scan import NAMED_WINDOWS, collect
from builder.spec import Choice, Data, Experiment, Group, Node
from builder.targets import UNKNOWN
from builder.terms import Terms
from tasks.recognition import Recognition

pytestmark = pytest.mark.usefixtures("warm_children")
_an_interpreter = subprocess.run  # before that fixture has it fork


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("export") / "home"
    return home, *little_run.little(home)


@pytest.fixture(scope="module")
def folder(little, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked zip of an export, far away from the project."""
    home, _, run = little
    from builder.evaluate import evaluate

    evaluate(run, home, resamples=50)
    place = tmp_path_factory.mktemp("exported")
    with zipfile.ZipFile(export(run, home, out=place / "out")) as packed:
        packed.extractall(place / "taken away")
    return place / "taken away" / f"{run.id}-pytorch"


def alone(folder: Path, *arguments: str, cwd: Path | None = None, run: Any = forks.run) -> str:
    """What a script of the export prints, run by a Python that cannot see the project."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "-B", *arguments]
    done = run(command, cwd=cwd or folder, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what is handed out -----------------------------------------------------------------------------------------------


def test_the_zip_holds_code_weights_words_and_a_proof(folder, little):
    names = {path.name for path in folder.iterdir()}
    assert {"model.py", "predict.py", "train.py", "settings.json", "weights.safetensors", "README.md"} <= names
    assert {"requirements.txt", "parity.json", "augment.py"} <= names
    readme = (folder / "README.md").read_text()
    assert "Not for clinical use" in readme and "synthetic phantoms" in readme and "95 %" in readme
    assert all(name in readme for name in little[1].classes)


def test_the_proof_tells_how_many_scans_and_how_far_apart(folder):
    proof = json.loads((folder / "parity.json").read_text())
    assert proof["cases"] == 16 and proof["source"] == "scans of the data set"
    assert 0 <= proof["difference"]["probabilities"] <= TOLERANCE == 1e-5
    assert 0 <= proof["difference"]["input"] <= TOLERANCE


def test_no_file_of_the_export_needs_scanloom(folder):
    for file in folder.glob("*.py"):
        assert "builder" not in file.read_text() and "import tasks" not in file.read_text(), file.name
        compile(file.read_text(), file.name, "exec")


def test_nothing_is_left_of_a_working_folder(little, folder):
    assert not list(folder.parents[1].rglob(".export-*"))


def test_an_export_made_twice_replaces_the_first(little, tmp_path):
    home, _, run = little
    first = export(run, home, out=tmp_path)
    assert export(run, home, out=tmp_path) == first and zipfile.is_zipfile(first)


def test_an_export_leaves_what_a_person_changed_and_takes_another_name(little, tmp_path):
    home, _, run = little
    first = export(run, home, "document", tmp_path)
    folder = first.with_suffix("")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"Python's own")
    assert export(run, home, "document", tmp_path) == first and not (folder / "__pycache__").exists()
    (folder / "README.md").write_text("my notes")
    second = export(run, home, "document", tmp_path)
    assert second.name == f"{first.stem}-2.zip" and (folder / "README.md").read_text() == "my notes"
    assert {name.split("/")[0] for name in zipfile.ZipFile(second).namelist()} == {second.stem}
    assert export(run, home, "document", tmp_path) == second, "that one is as it was written"
    (second.with_suffix("") / "mine.py").write_text("x = 1")
    (tmp_path / f"{first.stem}-3").write_text("a file in the way")
    (tmp_path / f"{first.stem}-4.zip").write_bytes(b"not a zip of ours")
    (tmp_path / f"{first.stem}-5").mkdir()
    (tmp_path / f"{first.stem}-5" / "mine.py").write_text("no zip beside it")
    assert export(run, home, "document", tmp_path).stem == f"{first.stem}-6"
    assert (second.with_suffix("") / "mine.py").exists() and (tmp_path / f"{first.stem}-5" / "mine.py").exists()
    assert not list(tmp_path.glob(".export-*"))


# -- the exported code answers the same -------------------------------------------------------------------------------


def test_predict_py_answers_pictures_and_dicom_files_as_the_app_does(folder, little, tmp_path):
    random = np.random.default_rng(0)
    grey = random.integers(0, 40_000, (70, 50)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    colour = random.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    preview = Image.fromarray(colour[::2, ::2])
    Image.fromarray(colour).save(tmp_path / "preview.jpg", "MPO", save_all=True, append_images=[preview])
    Image.fromarray(np.dstack([colour, colour[..., 0]])).save(tmp_path / "alpha.png")
    Image.fromarray(colour[..., 0]).save(tmp_path / "grey8.bmp")
    pages = [Image.fromarray(page) for page in random.integers(0, 60_000, (5, 40, 50)).astype(np.uint16)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    ct = random.integers(-1000, 1500, (48, 64)).astype(np.int16)
    ramp = np.linspace(0, 60_000, 40 * 50).reshape(40, 50).astype(np.uint16)
    files = {
        "white.tif": corpus.white_is_zero(corpus.picture_bytes("TIFF", ramp)),
        "window.dcm": corpus.dicom_bytes(
            ct, RescaleSlope=1, RescaleIntercept=-24, WindowCenter=[40, 600], WindowWidth=[400, 9]
        ),
        "inverted.dcm": corpus.dicom_bytes(
            ct.astype(np.uint16), PhotometricInterpretation="MONOCHROME1", PixelSpacing=[2.0, 1.0]
        ),
        "padded.dcm": corpus.dicom_bytes(np.where(ct < 0, -2000, ct).astype(np.int16), PixelPaddingValue=-2000),
        "frames.dcm": corpus.dicom_bytes(
            random.integers(0, 4000, (5, 32, 32)).astype(np.uint16), BitsStored=12, HighBit=11
        ),
        "rgb.dcm": corpus.dicom_bytes(colour, SamplesPerPixel=3),
        "sigmoid.dcm": corpus.dicom_bytes(ct, WindowCenter=100, WindowWidth=300, VOILUTFunction="SIGMOID"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    scans = sorted(p for p in tmp_path.iterdir() if p.is_file())
    lines = alone(folder, "predict.py", *map(str, scans), run=_an_interpreter).splitlines()
    predictor = Predictor.open(little[2].folder)
    with Sandbox() as box:
        for path, line in zip(scans, lines, strict=True):
            ours, theirs = predictor.finding(read([path], box)).probabilities, json.loads(line)["probabilities"]
            assert theirs == pytest.approx(ours, abs=2e-6), path.name


def predicting(place: Path, data: Data | None = None, **settings: Any) -> dict:
    """The functions of an exported predict.py, without a network, with these choices and settings."""
    known = {"classes": ["a", "b"], "multi_label": False, "unit": 65535, "settled": {}, "expects": {}}
    terms = {"temperature": None, "limit": None, "gate": "warn"}
    windows = {name: list(pair) for name, pair in NAMED_WINDOWS.items()}
    chosen = (data or Data()).model_dump() | known | {"terms": terms, "named_windows": windows} | settings
    (place / "settings.json").write_text(json.dumps(chosen))
    text = predict_source().replace("import likeness\n", "from builder import likeness\n")
    space: dict = {"__name__": "exported", "__file__": str(place / "predict.py")}
    exec(compile(text, "predict.py", "exec"), space)
    return space


@pytest.mark.parametrize("window", ["auto", "stored range"])
def test_predict_py_sees_grey_values_and_windows_of_dicom_files_as_the_app_does(window, tmp_path):
    random = np.random.default_rng(0)
    twelve = random.integers(100, 3000, (40, 40)).astype(np.uint16)
    eight = random.integers(20, 200, (40, 40)).astype(np.uint8)
    signed = random.integers(-1000, 1500, (40, 40)).astype(np.int16)
    stored = {"BitsStored": 12, "HighBit": 11}
    files = [
        corpus.dicom_bytes(twelve, **stored),
        corpus.dicom_bytes(twelve, **stored, RescaleSlope=1, RescaleIntercept=0),
        corpus.dicom_bytes(twelve, **stored, RescaleSlope=0.5, RescaleIntercept=0),
        corpus.dicom_bytes(twelve, **stored, RescaleSlope=1, RescaleIntercept=-1024),
        corpus.dicom_bytes(twelve, PhotometricInterpretation="MONOCHROME1"),
        corpus.dicom_bytes(eight, RescaleSlope=1, RescaleIntercept=0),
        corpus.dicom_bytes(twelve, WindowCenter="", WindowWidth=""),
        corpus.dicom_bytes(twelve, WindowCenter=1000),
        corpus.dicom_bytes(twelve, WindowCenter=1000, WindowWidth=0),
        corpus.dicom_bytes(twelve, WindowCenter=[0, 1000], WindowWidth=[0, 500]),
        corpus.dicom_bytes(np.where(signed < -500, -2000, signed).astype(np.int16), PixelPaddingValue=-2000),
    ]
    files += [case.make() for case in corpus.dicom_cases() if case.id in ("41-float pixels", "41-double pixels")]
    assert len(files) == 13
    data = Data(size_px=32, window=window)
    space, file = predicting(tmp_path, data), tmp_path / "scan.dcm"
    for number, content in enumerate(files):
        file.write_bytes(content)
        scan, theirs = collect(dicom_reader.read(file)), space["read"](file)
        assert theirs.pixels.dtype == scan.pixels.dtype and theirs.bits == scan.bits, number
        ours = quantize(prepare(scan, data), 65535) / 65535
        assert np.allclose(space["prepare"](theirs), ours, atol=1e-6), number


def test_predict_py_sees_a_tiff_with_the_high_byte_first_as_the_app_does(tmp_path):
    values = np.random.default_rng(0).integers(100, 3000, (40, 40)).astype(">u2")
    Image.fromarray(values).save(tmp_path / "scan.tif")
    theirs = predicting(tmp_path, Data(window="stored range"))["read"](tmp_path / "scan.tif")
    with Sandbox() as box:
        ours = read([tmp_path / "scan.tif"], box)
    assert theirs.pixels.dtype == ours.pixels.dtype == np.uint16 and np.array_equal(theirs.pixels, ours.pixels)


def test_predict_py_refuses_values_that_are_no_numbers(tmp_path):
    values = np.ones((20, 20), np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "scan.tif")
    space = predicting(tmp_path)
    with pytest.raises(ValueError, match="not numbers"):
        space["read"](tmp_path / "scan.tif")


@pytest.mark.parametrize("multi_label", [False, True])
def test_predict_py_calibrates_what_the_network_gave_and_not_what_it_prints(multi_label, tmp_path):
    terms = {"temperature": 4.0, "limit": 0.99, "gate": "warn"}
    space = predicting(tmp_path, terms=terms, multi_label=multi_label)
    rows = np.array([[1 - 4e-7, 4e-7]])
    told = space["on_terms"](space["told"](None, rows, tmp_path))
    ours = Terms(temperature=4.0, limit=0.99).said({"a": 1 - 4e-7, "b": 4e-7}, multi_label)
    assert told["probabilities"] == pytest.approx(ours.probabilities, abs=1e-9)
    assert told.get("status", "answered") == ours.status == ("answered" if multi_label else "unknown")
    printed = space["rounded"](told)
    assert printed["uncalibrated"] == {"a": 1.0, "b": 0.0} and printed["probabilities"]["b"] > 0.02


def test_the_readme_tells_no_figures_of_other_weights(folder, little):
    run = little[2]
    own = Predictor.open(run.folder)
    assert "95 % intervals" in readme("pytorch", "PyTorch", own, run)
    later = readme("pytorch", "PyTorch", dataclasses.replace(own, weights_sha256="others"), run)
    assert "learned on since it was evaluated" in later and "95 %" not in later and "false-discovery" not in later


def test_predict_py_refuses_what_it_cannot_read_in_words_and_keeps_the_other_answers(folder, tmp_path):
    grey = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    page = Image.fromarray(grey)
    page.save(tmp_path / "good.png")
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page.resize((20, 20))])
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:300])
    (tmp_path / "colour16.png").write_bytes(png_of_16_bit_colour(8, 8))
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, 0, 8], bytes([0, 0, 1, 0, 2, 0, 3, 0])
    (tmp_path / "table.dcm").write_bytes(corpus.dicom_bytes(grey, VOILUTSequence=[table]))
    (tmp_path / "high.dcm").write_bytes(corpus.dicom_bytes(grey.astype(np.uint16) << 8, BitsStored=8, HighBit=15))
    names = ["bad.png", "pages.tif", "missing.png", "cut.png", "colour16.png", "table.dcm", "high.dcm", "good.png"]
    command = [sys.executable, "-B", "predict.py", *(str(tmp_path / name) for name in names)]
    done = forks.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [answer["scan"] for answer in answers] == [1, 2, 3, 4, 5, 6, 7, 8]
    words = [
        "no PNG",
        "slices of this scan differ in size",
        "No such file",
        "cannot be read",
        "colour picture of 16 bits",
        "VOI LUT",
        "high in their words",
    ]
    for answer, said in zip(answers, words, strict=False):
        assert said in answer["error"] and answer["error"].endswith(".") and "probabilities" not in answer
    assert sum(answers[-1]["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def png_of_16_bit_colour(rows: int, cols: int) -> bytes:
    """A black PNG that Pillow itself cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    head = struct.pack(">LLBBBBB", cols, rows, 16, 2, 0, 0, 0)
    body = zlib.compress((b"\0" + bytes(6 * cols)) * rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_serve_py_answers_over_http_what_predict_py_answers_and_refuses_an_open_door(folder, tmp_path):
    scans = [tmp_path / f"{number}.png" for number in range(2)] + [tmp_path / "none.png"]
    for number, path in enumerate(scans[:2]):
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (40, 50), np.uint8)).save(path)
    scans[2].write_bytes(b"nothing")
    command = [sys.executable, "-B", "predict.py", *map(str, scans)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SERVICE_"))}
    lines = forks.run(command, cwd=folder, capture_output=True, text=True, env=environment).stdout.splitlines()
    expected = [json.loads(line) for line in lines]
    open_door = [sys.executable, "-B", "serve.py", "--address", "0.0.0.0"]
    refused = forks.run(open_door, cwd=folder, capture_output=True, text=True, env=environment)
    assert refused.returncode == 1 and "SERVICE_TOKEN" in refused.stderr and "Traceback" not in refused.stderr
    command = [sys.executable, "-B", "serve.py", "--port", "0", "--out", str(tmp_path)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        for path, answer in zip(scans, expected, strict=True):
            status, told = _posted(f"{url}/predict", path.read_bytes())
            assert told == {name: value for name, value in answer.items() if name != "scan"}
            assert status == (422 if "error" in answer else 200)
        assert _posted(f"{url}/predict", b"", Origin="http://evil.example")[0] == 403
        assert _posted(f"{url}/predict", b"", Host="evil.example")[0] == 403
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()


def _posted(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_readme_names_what_predict_py_does_not_read(folder):
    readme = (folder / "README.md").read_text()
    refused = readme.split("What it does not read")[1]
    assert all(words in refused for words in ("one DICOM series", "PNG with 16 bits a colour", "VOI LUT", "NIfTI"))


def test_train_py_trains_on_a_folder_per_class_and_its_result_can_be_asked(folder, little, tmp_path):
    from tasks import phantoms

    for phantom in phantoms.cohort(seed=1, num_images=18):
        side = "val" if int(phantom.patient[1:]) > 3 else "train"
        place = tmp_path / "scans" / side / phantom.label
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.image).save(place / phantom.file)
    settings = json.loads((folder / "settings.json").read_text())
    worth: dict[str, Any] = {"classes": {name: {"answered": {}} for name in settings["classes"]}}
    terms = {"temperature": 3.0, "limit": 1.0, "gate": "refuse"}
    other = {**settings, "terms": terms, "worth": worth, "expects": {"sizes": {"min": 5000, "max": 6000}}}
    project = tmp_path / "project"
    shutil.copytree(folder, project)
    (project / "settings.json").write_text(json.dumps(other))
    said = alone(project, str(project / "train.py"), str(tmp_path / "scans"), "--epochs", "2", cwd=tmp_path)
    assert said.count("epoch") == 2 and "auc" in said and "trained/ has none of them" in said
    now = json.loads((tmp_path / "trained" / "settings.json").read_text())
    assert now["terms"] == {"temperature": None, "limit": None, "gate": "refuse"} and "worth" not in now
    scan = next((tmp_path / "scans").rglob("*.png"))
    answer = json.loads(alone(tmp_path / "trained", "predict.py", str(scan)))
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_train_py_begins_with_the_stored_weights_that_the_run_began_with(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    starter = next(e for e in Recognition().starters() if e.name == "efficientnet-lite0").replace("data.size_px", 32)
    predictor = module.untrained(starter, tmp_path)
    pytorch_export.write(tmp_path, predictor)
    text = (tmp_path / "train.py").read_text()
    assert "It begins with the stored weights in start.safetensors" in text and "load_file(" in text
    stored, begun = load_file(tmp_path / "start.safetensors"), predictor.net.state_dict()
    assert {key.split(".")[0] for key in stored} == {"timm_backbone_1"}
    assert all(torch.equal(tensor, begun[f"layers.{key}"]) for key, tensor in stored.items())
    model = made(starter, 2)
    told = model.load_state_dict(stored, strict=False)
    assert not told.unexpected_keys and all(key.startswith("class_scores_1.") for key in told.missing_keys)
    monkeypatch.setattr(network, "assemble_of", lambda *_: (_ for _ in ()).throw(ValueError("the file is gone")))
    pytorch_export.write(tmp_path, predictor)
    assert "gone when it was exported" in (tmp_path / "train.py").read_text()


def test_train_py_draws_the_first_weights_by_the_rule_of_the_run(tmp_path, monkeypatch):
    experiment = little_run.starter().replace("data.size_px", 32).replace("training.init", "orthogonal")
    pytorch_export.write(tmp_path, module.untrained(experiment, tmp_path))
    text = (tmp_path / "train.py").read_text()
    line = text[text.index("    for layer in (model.") :].splitlines()
    space: dict = {"model": made(experiment, 2)}
    exec((tmp_path / "initial.py").read_text(), space)
    exec("\n".join(each.removeprefix("    ") for each in line[:2]), space)
    drawn = [part.weight.flatten(1) for part in space["model"].modules() if isinstance(part, torch.nn.Conv2d)]
    assert drawn
    for weight in drawn:
        small = weight if len(weight) <= weight.shape[1] else weight.T
        assert torch.allclose(small @ small.T, torch.eye(len(small)), atol=1e-5)
    pytorch_export.write(tmp_path, module.untrained(experiment.replace("training.init", "usual"), tmp_path))
    assert "begin(" not in (tmp_path / "train.py").read_text()


def test_train_py_of_a_network_without_stored_weights_begins_at_random(folder):
    assert "It begins with random weights" in (folder / "train.py").read_text()
    assert not (folder / "start.safetensors").exists()


def made(experiment: Experiment, num_classes: int) -> torch.nn.Module:
    """The exported class, built."""
    space: dict = {}
    exec(compile(model_source(experiment, num_classes), "model.py", "exec"), space)
    return space["Model"]().eval()


def same(experiment: Experiment, num_classes: int = 3) -> None:
    """Asserts that the exported class with the app's weights gives what the app's network gives."""
    ours = network.assemble(experiment.network, network.input_shape(experiment), num_classes, seed=1).eval()
    names = attributes(experiment)
    state = {}
    for key, tensor in ours.state_dict().items():
        _, id, rest = key.split(".", 2)
        state[f"{names[id]}.{rest}"] = tensor
    theirs = made(experiment, num_classes)
    theirs.load_state_dict(state)
    images = torch.rand(2, *network.input_shape(experiment))
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("experiment", little_run.task.find("recognition").starters()[:4], ids=lambda e: e.name)
def test_every_starter_from_scratch_is_exported_as_it_is(experiment):
    same(experiment)


def test_the_export_knows_the_source_of_a_timm_backbone():
    nodes = (
        Node(id="body", name="timm_backbone", params={"model": "test_resnet"}),
        Node(id="pool", name="global_pool"),
        Node(id="scores", name="class_scores"),
    )
    same(little_run.starter().replace("data.size_px", 32).model_copy(update={"network": nodes}))


def test_skips_joins_and_ids_that_python_or_torch_use_are_spelled_out_rightly():
    nodes = (
        Node(id="x", name="conv2d", params={"out_channels": 8}),
        Node(id="lambda", name="relu"),
        Node(id="nn", name="conv2d", params={"out_channels": 8, "dilation": 2, "padding": 2}),
        Node(id="forward_", name="add", inputs=("nn", "lambda")),
        Node(id="class", name="concatenate", inputs=("forward_", "x", "input")),
        Node(id="pool", name="global_pool", params={"kind": "both"}),
        Node(id="out", name="class_scores"),
    )
    experiment = little_run.starter().replace("data.size_px", 32).model_copy(update={"network": nodes})
    same(experiment)
    assert "self.lambda_" in model_source(experiment, 3)


ALONE = [
    n
    for n, spec in LAYERS.items()
    if n not in ("timm_backbone", "timm_stage", *FEEDS)
    and spec.inputs == 1
    and (not spec.takes or "maps" in spec.takes)
]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ALONE)
def test_every_layer_of_the_catalog_can_be_exported(name: str):
    nodes = [Node(id="first", name="conv2d", params={"out_channels": 8}), Node(id="it", name=name)]
    experiment = little_run.starter().replace("data.size_px", 32).model_copy(update={"network": tuple(nodes)})
    shape = network.plan(nodes, (1, 32, 32), 3).output
    if shape is not None and len(shape) == 3:
        nodes.append(Node(id="pool", name="global_pool"))
    nodes.append(Node(id="out", name="class_scores"))
    same(experiment.model_copy(update={"network": tuple(nodes)}))


def test_a_name_typed_by_a_person_cannot_become_code():
    evil = little_run.starter().model_copy(update={"name": '"""\nimport os\nos.abort()\n"""\\'})
    same(evil)


# -- the recipe -------------------------------------------------------------------------------------------------------


def taught(**training: object) -> Experiment:
    """A starter with another recipe."""
    starter = little_run.starter()
    return starter.model_copy(update={"training": starter.training.model_copy(update=training)})


def recipe(experiment: Experiment, multi_label: bool = False) -> dict:
    """The functions of an exported train.py, without running it."""
    text = train_source(experiment, multi_label)
    text = text.replace("from augment import Augment", "from builder.augment import Augment")
    text = text.replace("from losses import", "from builder.losses import")
    text = text.replace("from model import Model", "")
    settings = {"classes": ["a", "b"], "multi_label": multi_label, "mean": [0.0], "std": [1.0]}
    text = text.replace("from predict import SETTINGS, prepare, read", f"SETTINGS = {settings!r}")
    space: dict = {"__name__": "exported"}
    exec(compile(text, "train.py", "exec"), space)
    return space


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (2, 1), (3, 1), (1, 2), (4, 2), (8, 5)])
@pytest.mark.parametrize("name", SCHEDULES.names)
def test_the_exported_schedule_is_the_one_that_training_uses(name: str, epochs: int, steps: int):
    params = {"step": {"every_epochs": 2}, "plateau": {"wait_epochs": 1}}.get(name, {})
    if any(p.name == "warmup_epochs" for p in SCHEDULES[name].params):
        params["warmup_epochs"] = 2
    choice = Choice(name=name, params=params)
    space = recipe(taught(schedule=choice))
    real = optim.Schedule(choice, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), steps, epochs)
    losses = [1.0, 0.9, 0.95, 0.9, 0.89999, 0.5, 0.6, 0.7]
    for epoch in range(epochs):
        for step in range(epoch * steps, (epoch + 1) * steps):
            assert space["rate"](step, epochs * steps, steps) == pytest.approx(real.set_rate(step), rel=1e-12), step
        real.epoch_ended(losses[epoch])
        if name == "plateau":
            space["PLATEAU"].after(losses[epoch])
    if name == "plateau" and epochs == 8:
        assert space["PLATEAU"].level < 1  # it has dropped, here and there


class Line(torch.nn.Module):
    """Two scores out of one picture of 2 px; it notes how many pictures it was taught with at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(self.line.weight, 0.1)
        torch.nn.init.zeros_(self.line.bias)
        self.taught: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.taught.append(len(images))
        return self.line(images.flatten(1))


def trained_by_the_export(
    num_scans: int, monkeypatch, *, epochs: int = 1, figures=None, kind=Line, **training: object
) -> tuple:
    """(model, images, targets, epochs kept) after the `main` of an exported train.py, on scans made up here."""
    plain = {"augment": (), "optimizer": Choice(name="sgd", params={"lr": 0.5}), "clip_norm": 0.0, "l2": 0.0}
    chosen = plain | {"schedule": Choice(name="constant"), "balance": "none", "label_smoothing": 0.0} | training
    experiment = taught(**chosen).replace("data.normalize", "none")
    space = recipe(experiment)
    images = torch.rand(num_scans, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(num_scans) % 2
    model, kept = kind(), []
    space |= {"Model": lambda: model, "load": lambda _: (images, targets), "keep": lambda *_: kept.append(1)}
    told = iter(figures or [])
    if figures is not None:
        names = ("auc", "accuracy", "balanced_accuracy", "f1", "loss")
        space["measure"] = lambda *_: dict(zip(names, np.broadcast_to(next(told), len(names)), strict=True))
    monkeypatch.setattr(sys, "argv", ["train.py", "scans", "--epochs", str(epochs)])
    main = space["main"]
    main.__globals__.update(space)
    main()
    return model, images, targets, len(kept)


def test_the_exported_training_mixes_scans_and_their_answers_as_the_run_does(monkeypatch):
    mixing = (Choice(name="mixup", params={"probability": 1.0, "strength": 1.0}),)
    for multi_label in (False, True):
        space = recipe(taught(augment=mixing, border="edge"), multi_label)
        assert space["AUGMENT"].border == "edge"
        images, rows = torch.rand(6, 1, 4, 4), torch.arange(6)
        targets = torch.rand(6, 2).round() if multi_label else torch.arange(6) % 2
        batch, known = space["varied"](images, targets, rows, torch.Generator().manual_seed(0))
        own, other, share = known
        assert torch.equal(own, targets) and 0 < share < 1 and not torch.equal(batch, images)
        loss, scores = space["loss_of"](targets), torch.randn(6, 2)
        assert torch.allclose(loss(scores, known), share * loss(scores, own) + (1 - share) * loss(scores, other))


def test_the_exported_training_counts_every_scan_of_an_update_the_same(monkeypatch):
    model, images, targets, _ = trained_by_the_export(7, monkeypatch, batch_size=4, accumulate=2, l1=0.01)
    reference = Line()
    loss = torch.nn.functional.cross_entropy(reference.line(images.flatten(1)), targets)
    (loss + 0.01 * reference.line.weight.abs().sum()).backward()
    assert sorted(model.taught) == [3, 4]
    grad = reference.line.weight.grad
    assert grad is not None
    assert torch.allclose(model.line.weight, reference.line.weight - 0.5 * grad, atol=1e-6)


@pytest.mark.parametrize(("num_scans", "batches"), [(9, [4, 5]), (8, [4, 4]), (1, [1])])
def test_the_exported_training_never_learns_from_a_last_scan_alone(num_scans, batches, monkeypatch):
    model, *_ = trained_by_the_export(num_scans, monkeypatch, batch_size=4, accumulate=1)
    assert model.taught == batches


@pytest.mark.parametrize(("patience", "ended"), [(2, 4), (0, 8)])
def test_the_exported_training_stops_early_when_its_patience_is_at_an_end(patience, ended, monkeypatch, capsys):
    figures = [0.5, 0.7, 0.6, 0.6, 0.9, 0.9, 0.9, 0.9]
    options = {"epochs": 8, "figures": figures, "patience": patience, "monitor": "auc"}
    *_, kept = trained_by_the_export(4, monkeypatch, **options)
    said = capsys.readouterr().out
    assert said.count("epoch ") - said.count("after epoch") == ended and ("Stopped early" in said) == (patience > 0)
    assert kept == (2 if patience else 3)


def test_the_exported_training_does_not_wait_for_lower_losses_at_an_equal_score(monkeypatch, capsys):
    figures = [[1.0, 1.0, 1.0, 1.0, loss] for loss in (0.9, 0.8, 0.7, 0.6, 0.5)]
    *_, kept = trained_by_the_export(4, monkeypatch, epochs=5, figures=figures, patience=2, monitor="auc")
    assert "Stopped early after epoch 3" in capsys.readouterr().out and kept == 3


def test_the_exported_training_goes_by_the_loss_where_its_score_cannot_be_computed():
    merit = listing._merit(taught(monitor="auc"))
    for figures, value in (({"auc": 0.7, "loss": 0.4}, 0.7), ({"loss": 0.4}, -0.4)):
        assert eval(merit, {"figures": figures}) == value
    assert eval(listing._merit(taught(monitor="loss")), {"figures": {"loss": 0.4}}) == -0.4


def test_the_exported_training_balances_outlines_without_types_as_the_run_does():
    space: dict[str, Any] = {"np": np}
    exec(listing._balanced("type_and_outline", False), space)
    some, none = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    shown = [
        (-1, some, 0, False),
        (-1, none, 1, False),
        (0, None, 2, True),
        (-1, cutting.Outlined.of(some[None]), 3, False),
    ]
    assert space["kinds_of"](shown).tolist() == [1, 0, UNKNOWN, 1]
    assert space["kinds_of"]([*shown, (1, none, 4, True)]).tolist() == [UNKNOWN, UNKNOWN, 0, UNKNOWN, 1]


def test_the_exported_training_balances_boxes_as_the_run_does():
    space: dict[str, Any] = {"np": np}
    exec(listing._balanced("boxes", False), space)
    boxes, where = torch.zeros(2, 4), (np.zeros(4), np.ones(2))
    targets = [(boxes, torch.tensor(labels, dtype=torch.int64), where) for labels in ([0, 1], [0, 0], [])]
    assert space["kinds_of"](targets).tolist() == [1, 0, -1]


def test_the_exported_training_tells_a_label_that_is_no_class_and_leaves_scans_without_one_out(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label\na.png,a\nb.png,\n")
    assert recipe(little_run.starter())["cases"](tmp_path) == [(tmp_path / "a.png", [0])]
    assert [labels for _, labels in recipe(little_run.starter(), True)["cases"](tmp_path)] == [[0], []]
    (tmp_path / "labels.csv").write_text("file,label\na.png,c\n")
    with pytest.raises(SystemExit, match="'c' is none of this network's classes: a, b"):
        recipe(little_run.starter())["cases"](tmp_path)


@pytest.mark.parametrize(("name", "params"), [*((name, {}) for name in OPTIMIZERS), ("momentum", {"momentum": 0.0})])
def test_every_optimizer_is_spelled_out_so_that_torch_takes_it(name: str, params: dict[str, Any]):
    training = little_run.starter().training.model_copy(
        update={"optimizer": Choice(name=name, params=params), "schedule": Choice(name="plateau"), "l1": 1e-5}
    )
    text = train_source(little_run.starter().model_copy(update={"training": training}), False)
    line = next(line.strip() for line in text.splitlines() if line.strip().startswith("optimizer = "))
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "weight_decay": 0.1}]
    optimizer = eval(line.removeprefix("optimizer = "), {"torch": torch, "timm": timm, "groups": groups})
    assert type(optimizer).__name__ == OPTIMIZERS[name].target.split(":")[1]
    assert optimizer.param_groups[0]["lr"] == OPTIMIZERS[name].defaults["lr"]


def test_the_exported_schedule_stays_constant_where_weights_are_averaged_in_the_end():
    average = Choice(name="swa", params={"start_share": 0.5, "rate": 0.4})
    space = recipe(taught(schedule=Choice(name="cosine"), average=average))
    told = [space["rate"](step, 20, 5) for step in range(20)]
    assert told == pytest.approx(schedule.rates(Choice(name="cosine"), 1.0, 4, 5, average))
    assert told[10:] == [0.4] * 10 and told[9] > 0.5


class Statistics(Line):
    """A line behind batch normalization, which an average of weights has to take care of."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.line(self.norm(images.flatten(1)))


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_the_exported_training_averages_weights_as_the_app_does(name, monkeypatch):
    from builder import averaging

    choice = Choice(name=name, params={"decay": 0.6} if name == "ema" else {"start_share": 0.5})
    augment = (Choice(name="noise", params={"probability": 1.0, "sigma": 0.5}), Choice(name="mixup"))
    space = recipe(taught(average=choice, batch_size=4, augment=augment))  # statistics are of scans that are not varied
    model, images = Statistics(), torch.rand(8, 1, 1, 2, generator=torch.Generator().manual_seed(2))
    ours, theirs, count = averaging.average(choice, model, 4), copy.deepcopy(model), 0
    assert ours is not None
    for epoch in range(1, 5):
        with torch.no_grad():
            model.line.weight.add_(torch.randn(2, 2, generator=torch.Generator().manual_seed(epoch)))
            model.train()(images)
        ours.told(model, epoch, True)
        if name == "ema" or epoch > space["swa_begins"](4):
            space["follow"](theirs, model, count)
            count += 1
    if name == "swa":
        ours.measure([images[:4], images[4:]])
        space["remeasure"](theirs, images, torch.zeros(8), 0.0, 1.0)
    for key, value in ours.copy.module.state_dict().items():
        assert torch.allclose(value.float(), theirs.state_dict()[key].float(), atol=1e-6), key


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_exported_focal_loss_is_the_one_of_the_task(multi_label: bool):
    update = {"loss": Choice(name="focal", params={"gamma": 1.5}), "balance": "weights"}
    training = little_run.starter().training.model_copy(update=update)
    labels = np.array([[1, 0], [0, 1], [0, 0], [0, 1]], np.uint8) if multi_label else np.array([0, 1, 1, 1])
    target = torch.from_numpy(labels).float() if multi_label else torch.from_numpy(labels)
    output = torch.randn(4, 2)
    ours = Recognition().class_loss(training, labels, 2, multi_label)(output, target)
    space = recipe(little_run.starter().model_copy(update={"training": training}), multi_label)
    assert torch.allclose(ours, space["loss_of"](target)(output, target))


def test_the_exported_training_balances_classes_and_lets_layers_learn_at_their_own_rate(monkeypatch):
    groups = (Group(name="slow", nodes=("line",), lr_factor=0.25, l2_factor=2.0),)
    monkeypatch.setattr("builder.listing.attributes", lambda _: {"line": "line"})
    training: dict[str, Any] = {"batch_size": 8, "balance": "sampler", "groups": groups, "clip_value": 0.01}
    model, *_ = trained_by_the_export(8, monkeypatch, **training)
    start = Line()
    moved = (model.line.weight - start.line.weight).detach().abs()
    assert float(moved.max()) == pytest.approx(0.5 * 0.25 * 0.01, rel=1e-3)  # a quarter of rate 0.5


@pytest.mark.parametrize("average", ["none", "swa"])
def test_the_exported_training_keeps_layers_with_a_rate_of_0_as_they_are(average: str, monkeypatch):
    monkeypatch.setattr("builder.listing.attributes", lambda _: {"norm": "norm"})
    monkeypatch.setattr("builder.listing.still", lambda _: ["norm"])
    groups = (Group(name="still", nodes=("norm",), lr_factor=0.0),)
    chosen: dict[str, Any] = {"groups": groups, "average": Choice(name=average), "augment": ()}
    model, images, *_ = trained_by_the_export(8, monkeypatch, epochs=2, kind=Statistics, **chosen)
    if average == "swa":
        recipe(taught(**chosen))["remeasure"](model, images, torch.zeros(8), 0.0, 1.0)
    assert not torch.equal(model.line.weight, Line().line.weight)
    for name, value in Statistics().norm.state_dict().items():
        assert torch.equal(model.norm.state_dict()[name], value), name


def test_the_exported_training_takes_an_l1_penalty_that_no_layer_is_given(monkeypatch):
    monkeypatch.setattr("builder.listing.attributes", lambda _: {"line": "line"})
    nobody = (Group(name="all", nodes=("line",), l1_factor=0.0),)
    plain, told = (trained_by_the_export(8, monkeypatch, groups=nobody, l1=l1)[0] for l1 in (0.0, 0.1))
    assert torch.equal(plain.line.weight, told.line.weight)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_exported_loss_is_the_one_of_the_task(multi_label: bool, weighted: bool):
    training = little_run.starter().training.model_copy(
        update={"balance": "weights" if weighted else "none", "label_smoothing": 0.1}
    )
    labels = np.array([[1, 0], [0, 1], [0, 0], [0, 1]], np.uint8) if multi_label else np.array([0, 1, 1, 1])
    target = torch.from_numpy(labels).float() if multi_label else torch.from_numpy(labels)
    output = torch.randn(4, 2)
    ours = Recognition().class_loss(training, labels, 2, multi_label)(output, target)
    space = recipe(little_run.starter().model_copy(update={"training": training}), multi_label)
    assert torch.allclose(ours, space["loss_of"](target)(output, target))


def scores_alike(output: torch.Tensor, labels: torch.Tensor) -> None:
    """Scores of the exported training are those of the task, and where the task has none it has none."""
    several = labels.ndim == 2
    space = recipe(little_run.starter(), several)
    space["main"].__globals__["CLASSES"] = ["a", "b", "c"][: output.shape[1]]
    ours = Recognition().score((output.sigmoid() if several else output.softmax(1)).numpy(), labels.numpy(), several)
    theirs = space["measure"](output, labels.float() if several else labels, lambda *_: 0.0)
    assert {name: value for name, value in theirs.items() if name != "loss"} == pytest.approx(ours)


def test_the_exported_scores_are_those_of_the_task():
    random = torch.Generator().manual_seed(0)
    output, labels = torch.randn(50, 3, generator=random), torch.randint(0, 2, (50,), generator=random)
    scores_alike(output[:, :2], labels)
    output[:, 2] -= 20  # a class that neither occurs nor is answered
    scores_alike(output, labels)
    scores_alike(output, torch.zeros(50, dtype=torch.int64))
    several = torch.randint(0, 2, (50, 2), generator=random)
    scores_alike(output[:, :2] + 20, several)  # everything is answered: half of it wrongly
    scores_alike(output[:, :2], several)
    several[:, 1] = 0
    scores_alike(output[:, :2], several)


# -- withheld ---------------------------------------------------------------------------------------------------------


def test_an_export_that_answers_differently_is_not_handed_out(little, tmp_path, monkeypatch):
    home, _, run = little
    honest = pytorch_export.model_source
    monkeypatch.setattr(
        pytorch_export, "model_source", lambda *a: honest(*a).replace("        return x\n", "        return x * 1.01\n")
    )
    with pytest.raises(ExportError, match="answers differently"):
        export(run, home, out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_an_export_that_does_not_run_is_not_handed_out(little, tmp_path, monkeypatch):
    home, _, run = little
    monkeypatch.setattr(pytorch_export, "model_source", lambda *_: "import builder.spec\nfrom nowhere import Model\n")
    with pytest.raises(ExportError, match="does not run"):
        export(run, home, out=tmp_path / "out")


def test_a_proof_that_takes_too_long_is_told_in_words(little, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.05)
    with pytest.raises(ExportError, match=r"had not answered 16 scans after 0.05 seconds"):
        export(little[2], little[0], out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_written_is_told_in_words(little, tmp_path, monkeypatch):
    home, _, run = little
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"^The folder .*out cannot be written \(not a directory\)\.$"):
        export(run, home, out=tmp_path / "file" / "out")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    with pytest.raises(ExportError, match=r"cannot be written \(no space left on device\)"):
        export(run, home, out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_another_format_is_refused_in_words(little):
    with pytest.raises(ExportError, match="no export to 'caffe'"):
        export(little[2], little[0], to="caffe")


def test_without_the_data_set_the_proof_is_made_on_random_pictures_and_says_so(little, tmp_path, monkeypatch):
    from builder.data import UnknownDataset

    def gone(*_: object) -> None:
        raise UnknownDataset("gone")

    monkeypatch.setattr(module.Dataset, "open", gone)
    file = export(little[2], little[0], out=tmp_path)
    assert "random pictures" in json.loads((file.with_suffix("") / "parity.json").read_text())["source"]
