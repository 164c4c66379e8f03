"""Label-safety verdicts on planted data: what is said, where, with which repair; and what is unknown is said to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builder.augment import Augment
from builder.augment_safety import COLOUR, CT, FILM, MR, ULTRASOUND, UNKNOWN, kind_of, lesions, lost, verdicts
from builder.check import problems
from builder.data import Fingerprint
from builder.parts.images import AUGMENTATIONS, MIXING
from builder.parts.presets import PRESETS
from builder.spec import Choice, Data, Experiment, Problem
from builder.task import TASKS, find

MODALITY = {FILM: "DX", CT: "CT", MR: "MR", ULTRASOUND: "US", COLOUR: "SM", UNKNOWN: "unknown"}


def facts(kind: str = UNKNOWN, channels: str = "1", classes: tuple[str, ...] = ("a", "b"), **more: Any) -> Fingerprint:
    return Fingerprint(num_cases=9, classes=classes, modalities={MODALITY[kind]: 9}, channels={channels: 9}, **more)


def chosen(*names: str, task: str = "recognition", **paths: Any) -> Experiment:
    found = Experiment(task=task).replace("training.augment", [Choice(name=name) for name in names])
    for path, value in paths.items():
        found = found.replace(path.replace("__", "."), value)
    return found


def said(found: list[Problem], name: str) -> list[tuple[str, str]]:
    return [(p.severity, p.message) for p in found if p.path == f"training.augment.{name}"]


# -- from the facts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fingerprint", "data", "words"),
    [
        ("flip_horizontal", facts(FILM, classes=("normal", "pneumonia")), {}, "left and right on chest films"),
        ("flip_horizontal", facts(FILM), {}, "on X-ray films sides matter"),
        ("flip_horizontal", facts(MR, classes=("left lesion", "right lesion")), {}, "the label becomes wrong"),
        ("flip_vertical", facts(ULTRASOUND), {}, "shadows fall upwards"),
        ("colour", facts(), {"data__colour": "rgb"}, "Hue means nothing on these scans"),
        ("brightness", facts(CT), {"data__window": "ct lung"}, "a grey value is a Hounsfield unit"),
        ("ghosting", facts(CT), {}, "Nothing like it occurs on CT"),
        ("speckle", facts(MR), {}, "Nothing like it occurs on MR"),
        (
            "blur",
            facts(box_sizes_px={"median": [6, 9]}, sizes={"median": [512, 512]}),
            {"data__size_px": 128},
            "smaller than 1.5 px",
        ),
    ],
)
def test_what_makes_a_label_false_is_a_warning_beside_the_operation_with_a_repair(name, fingerprint, data, words):
    experiment = chosen("rotate", name, **data)
    (warning,) = [p for p in verdicts(experiment, fingerprint) if p.path == f"training.augment.{name}"]
    assert warning.severity == "warning" and words in warning.message and warning.repair
    assert warning.fix is not None and [c.name for c in warning.fix.training.augment] == ["rotate"]
    assert not said(verdicts(warning.fix, fingerprint), name)
    assert warning in problems(experiment, fingerprint), "and it is among all that is wrong"


def test_where_nothing_is_wrong_nothing_is_said():
    assert verdicts(chosen("rotate", "noise", "shift", "colour"), facts(COLOUR, "3")) == []
    assert verdicts(chosen("brightness", "gamma", "bias_field"), facts(MR)) == []
    assert verdicts(chosen("flip_horizontal", "speckle"), facts(ULTRASOUND)) == []
    assert verdicts(chosen("flip_horizontal"), None) == []


def test_what_is_unknown_is_said_to_be_unknown_and_is_no_warning():
    for name in ("flip_horizontal", "bias_field", "ct_noise", "speckle"):
        ((severity, words),) = said(verdicts(chosen(name), facts()), name)
        assert severity == "note" and "unknown" in words


def test_names_are_asked_only_where_the_files_say_nothing():
    assert kind_of(facts(), "BUSI breast ultrasound") == ULTRASOUND
    assert kind_of(facts(), "brain_mri") == MR and kind_of(facts(), "CT liver") == CT
    assert kind_of(facts(classes=("normal", "pneumonia"))) == FILM
    assert kind_of(facts(CT), "an ultrasound by its name") == CT
    assert kind_of(facts(), "my structures") == UNKNOWN == kind_of(None)
    mixed = Fingerprint(modalities={"CT": 3, "MR": 3})
    assert kind_of(mixed, "ct") == UNKNOWN


def test_a_view_that_training_never_shows_is_warned_of():
    asked = chosen("rotate", training__test_time="mirror")
    (warning,) = [p for p in verdicts(asked, facts(MR)) if p.path == "training.test_time"]
    assert "never saw in training" in warning.message and warning.fix.training.test_time == "off"  # type: ignore[union-attr]
    assert not [
        p for p in verdicts(chosen("flip_horizontal", training__test_time="mirror"), facts()) if "test" in p.path
    ]


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_valid_and_says_nothing_false_of_its_own_scans(preset):
    experiment = chosen().replace("training.augment", [Choice(name=n, params=p) for n, p in preset.choices])
    for name, params in preset.choices:
        for key, value in params.items():
            AUGMENTATIONS[name].param(key).parse(value)
    for kind in preset.kinds:
        coloured = experiment.replace("data.colour", "rgb") if kind == COLOUR else experiment
        found = problems(coloured, facts(kind, "3" if kind == COLOUR else "1"))
        assert not [p for p in found if p.path.startswith("training.augment")]


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused_in_words_by_tasks_that_have_no_answer_in_part(name):
    for task in TASKS.names:
        found = [p for p in problems(chosen(name, task=task), facts()) if p.path == f"training.augment.{name}"]
        refused = [p for p in found if p.severity == "error"]
        assert bool(refused) is not find(task).mixes
        if refused:
            assert "hold in part" in refused[0].message and refused[0].fix is not None


# -- from the lesions -------------------------------------------------------------------------------------------------


@dataclass
class Planted:
    """A data set of 100 px pictures with one lesion each, a box or an outline, as `lesions` reads it."""

    places: list[tuple[float, float, float, float]]
    outlined: bool = False
    cases: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        one = SimpleNamespace(shape=(1, 1, 100, 100), spacing_mm=(None, None, None))
        self.cases = [one] * len(self.places)

    def indices(self, split: str, by: str = "class") -> np.ndarray:
        return np.arange(len(self.places) if by == ("mask" if self.outlined else "boxes") else 0)

    def boxes(self, index: int) -> tuple[Any, ...]:
        x0, y0, x1, y1 = self.places[index]
        return (SimpleNamespace(x0=x0, y0=y0, x1=x1, y1=y1, slice=0),)

    def mask(self, index: int) -> np.ndarray:
        x0, y0, x1, y1 = (int(v) for v in self.places[index])
        mask = np.zeros((1, 100, 100), np.uint8)
        mask[0, y0:y1, x0:x1] = 1
        return mask


def shifted(fraction: float, task: str = "lesion_detection") -> Experiment:
    augment = [Choice(name="shift", params={"fraction": fraction, "probability": 1.0})]
    return chosen(task=task).replace("training.augment", augment)


@pytest.mark.parametrize("outlined", [False, True])
def test_lesions_at_the_rim_are_counted_as_lost_and_the_repair_loses_none(outlined: bool):
    rim, middle = [(92.0, 20.0, 99.0, 28.0)] * 30, [(45.0, 45.0, 55.0, 55.0)] * 170
    task = "tumor_diagnosis" if outlined else "lesion_detection"
    there = lesions(Planted(rim + middle, outlined), Data(size_px=100), task)  # type: ignore[arg-type]
    assert there is not None and len(there) == 200 and there.kind == ("outlines" if outlined else "boxes")
    (warning,) = lost(shifted(0.2, task), there)
    assert warning.severity == "warning" and f"of 200 {there.kind} lost" in warning.message
    count = int(warning.message.split(": ")[1].split(" ")[0])
    assert 8 <= count <= 14  # two of ten shifts to the right by up to 20 px push 8 px out, for 30 lesions
    assert warning.fix is not None and warning.repair.startswith("Use 0.")
    (fine,) = lost(warning.fix, there)
    assert fine.severity == "fine"


def test_the_count_is_that_of_the_boxes_that_training_really_drops():
    chance = np.random.default_rng(0)
    corners = chance.uniform(0, 85, (300, 2))
    places = [(x, y, x + 12.0, y + 10.0) for x, y in corners]
    there = lesions(Planted(places), Data(size_px=100), "lesion_detection")  # type: ignore[arg-type]
    assert there is not None
    (warning,) = lost(shifted(0.3), there, seeds=8)
    augment = Augment([Choice(name="shift", params={"fraction": 0.3, "probability": 1.0})])
    dropped = 0
    for seed in range(8):
        boxes = [torch.tensor([place]) for place in places]
        varied = augment(torch.zeros(300, 1, 100, 100), torch.Generator().manual_seed(seed), boxes=boxes)
        dropped += sum(int((~kept).sum()) for kept in varied.kept or ())
    count = int(warning.message.split(": ")[1].split(" ")[0])
    assert count == pytest.approx(dropped / 8, abs=5)


def test_patches_that_cover_lesions_and_zooms_that_cut_them_off_are_told_apart():
    small = lesions(Planted([(2.0, 2.0, 6.0, 6.0)] * 100), Data(size_px=100), "lesion_detection")  # type: ignore[arg-type]
    erase = Choice(name="cutout", params={"size": 0.6, "patches": 8, "probability": 1.0})
    zoom = Choice(name="zoom", params={"high": 1.6, "probability": 1.0})
    found = lost(chosen().replace("training.augment", [zoom, erase]), small)
    told = {p.path: p for p in found}
    assert "may remove the lesion" in told["training.augment.zoom"].message
    assert "while the scan keeps its label" in told["training.augment.zoom"].message
    assert "may cover the lesion" in told["training.augment.cutout"].message
    assert "All of it together" in told["training.augment"].message


def test_without_lesions_or_with_patches_cut_nothing_is_counted():
    assert lesions(Planted([]), Data(), "recognition") is None  # type: ignore[arg-type]
    assert lesions(Planted([(1, 1, 9, 9)]), Data(fit="patches"), "lesion_detection") is None  # type: ignore[arg-type]
    assert lost(shifted(0.3), None) == [] and lost(chosen("noise"), None) == []
