"""A class that can be told from how a file was made is said aloud; chance is not."""

import random
from typing import Any

from made_files import imported, picture

from builder.fingerprint import Fact, fingerprint
from builder.shortcuts import shortcut

CLASSES = ("healthy", "ill")


def test_a_facet_that_tells_the_class_is_named_with_its_example():
    labels = [0] * 50 + [1] * 50
    colour = ["colour"] * 49 + ["grey"] + ["grey"] * 45 + ["colour"] * 5
    said = shortcut({"colour": colour, "size": ["same"] * 100}, labels, CLASSES)
    assert said.startswith("The colour of a file alone") and "94%" in said and "by chance 50%" in said
    assert "98% of healthy are colour, 10% of the others" in said


def test_chance_rare_values_and_one_class_are_no_shortcut():
    chance = random.Random(0)
    labels = [n % 2 for n in range(200)]
    assert shortcut({"size": [chance.randrange(3) for _ in labels]}, labels, CLASSES) == ""
    assert shortcut({"size": list(range(200))}, labels, CLASSES) == "", "each its own size tells nothing of the others"
    assert shortcut({"size": labels[:8]}, [0] * 8, CLASSES) == ""
    assert shortcut({"size": [0, 0, 1, 1]}, [0, 0, 1, 1], CLASSES) == "", "four scans prove nothing"
    assert shortcut({}, labels, CLASSES) == ""


def test_a_common_class_does_not_make_a_shortcut_by_itself():
    labels = [0] * 180 + [1] * 20
    values = [n % 2 for n in range(200)]
    assert shortcut({"size": values}, labels, CLASSES) == ""


def test_every_facet_of_a_case_is_looked_at():
    plain: dict[str, Any] = {
        "patient": "",
        "split": "train",
        "bits": 8,
        "modality": "MR",
        "format": "dicom",
        "value_range": (0, 1),
    }
    told: dict[str, tuple[str, Any, Any]] = {
        "bits": ("bit depth", 8, 16),
        "modality": ("modality", "MR", "CT"),
        "format": ("format", "jpeg", "png"),
        "shape": ("size", (1, 1, 8, 8), (1, 1, 8, 9)),
        "spacing_mm": ("pixel spacing", (None, 1.0, 1.0), (None, None, None)),
    }
    told |= {
        "shape ": ("colour", (1, 3, 8, 8), (1, 1, 8, 8)),
        "shape  ": ("number of slices", (1, 1, 8, 8), (5, 1, 8, 8)),
    }
    for name, (words, one, other) in told.items():
        facts = []
        for n in range(60):
            values = plain | {"shape": (1, 1, 8, 8), "spacing_mm": (None, None, None)}
            values |= {name.strip(): one if n % 2 else other, "patient": f"p{n}", "content": f"{n}", "alike": f"{n}"}
            facts.append(Fact(label=n % 2, **values))
        found = fingerprint(
            facts, CLASSES, multi_label=False, patient_source="csv", official_split=True, synthetic=False
        )
        assert any(said.startswith(f"The {words} of a file alone") for said in found.warnings), words


def test_an_import_says_it(tmp_path, home):
    for n in range(40):
        picture(tmp_path / "in" / ("ill" if n % 2 else "well") / f"{n}.png", n, (48 + 16 * (n % 2), 64))
    _, dataset = imported(tmp_path / "in", home)
    assert any("The size of a file alone" in said for said in dataset.fingerprint.warnings)
