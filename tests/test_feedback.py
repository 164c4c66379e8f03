"""A scan goes back into the data with the label of a person: where it lands, what it carries, what is refused."""

# What may be missing by its type is there by the test: None fails it by itself.
# mypy: disable-error-code="arg-type, index"

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_files import dicom, picture
from test_intake import nearby  # noqa: F401 (a fixture)

from builder.data import Dataset
from builder.evaluate import count_opening
from builder.feedback import FeedbackRefused, Said, correct, take_back
from builder.intake import detect, import_scans
from builder.labels import pack
from tests.made_files import drained


@pytest.fixture
def animals(home: Path, tmp_path: Path, nearby: None) -> Dataset:  # noqa: F811
    for n in range(24):
        picture(tmp_path / "source" / ("cat" if n % 2 else "dog") / f"p{n:02d}.png", n, (48 + 2 * n, 64))
    report = drained(import_scans(detect(tmp_path / "source"), "Animals", home))
    return Dataset.open(home, report.dataset)


def brought(home: Path, dataset: Dataset, files: list[Path], said: Said, place: Path, **more: object) -> dict:
    place.mkdir()
    steps = take_back(home, dataset.id, files, said, place, **more)  # type: ignore[arg-type]
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_a_dropped_scan_joins_the_data_set_with_boxes_a_mask_and_a_class(
    home: Path, tmp_path: Path, animals: Dataset
) -> None:
    files = [dicom(tmp_path / f"{n}.dcm", n, float(n), SeriesInstanceUID="1.2.7") for n in range(3)]
    mask = np.zeros((3, 64, 64), np.uint8)
    mask[2, 3:9, 4:12] = 1
    said = Said(("cat",), ((1.0, 2.0, 9.5, 8.0, "tumour", 2),), pack(mask))
    assert Said.from_json(said.to_json()) == said
    told = brought(home, animals, files, said, tmp_path / "way", who="Ann")
    after = Dataset.open(home, animals.id)
    case = after.cases[told["case"]]
    assert len(after) == 25 and case.id == told["id"] and case.shape == (3, 1, 64, 64)
    assert after.classes[case.label] == "cat" and after.classes[-1] == "tumour"
    (box,) = after.boxes(told["case"]) or ()
    assert (box.x1, after.classes[box.label], box.slice) == (9.5, "tumour", 2)
    assert np.array_equal(after.mask(told["case"]), mask) and after.mask_names == ("lesion",)
    assert after.edits.of_case[case.id][0].who == "Ann"


def test_a_scan_never_joins_a_test_side_that_was_opened(home: Path, tmp_path: Path, animals: Dataset) -> None:
    count_opening(animals, "a run")
    for n in range(6):
        told = brought(home, animals, [picture(tmp_path / f"{n}.png", 100 + n)], Said(("dog",)), tmp_path / f"way{n}")
        assert told["split"] != "test"


def test_one_scan_of_several_goes_back_alone(home: Path, tmp_path: Path, animals: Dataset) -> None:
    files = [picture(tmp_path / f"{n}.png", 200 + n, (50 + n, 60)) for n in range(3)]
    told = brought(home, animals, files, Said(("dog",)), tmp_path / "way", member=1)
    after = Dataset.open(home, animals.id)
    assert len(after) == 25 and after.cases[told["case"]].shape[2] == 51


def test_a_scan_that_is_there_gets_the_label_where_it_lies(home: Path, tmp_path: Path, animals: Dataset) -> None:
    index = int(animals.indices("train")[0])
    n = next(n for n in range(24) if animals.cases[index].shape[2] == 48 + 2 * n)
    again = [picture(tmp_path / "again.png", n, (48 + 2 * n, 64))]
    told = brought(home, animals, again, Said(boxes=((1.0, 2.0, 9.0, 8.0, "scar", 0),)), tmp_path / "way")
    after = Dataset.open(home, animals.id)
    assert told["case"] == index and len(after) == 24 and len(after.boxes(index) or ()) == 1
    assert after.history(index)[0].origin == "corrected"
    count_opening(animals, "a run")
    n = next(n for n in range(24) if animals.cases[int(animals.indices("test")[0])].shape[2] == 48 + 2 * n)
    tested = [picture(tmp_path / "tested.png", n, (48 + 2 * n, 64))]
    with pytest.raises(FeedbackRefused, match="on the test side, which was opened"):
        brought(home, animals, tested, Said(("dog",)), tmp_path / "way2")


def test_of_several_series_the_one_that_was_answered_goes_back(home: Path, tmp_path: Path, animals: Dataset) -> None:
    files = [dicom(tmp_path / f"a{n}.dcm", n, float(n), PatientID="p", SeriesInstanceUID="1.2.3") for n in range(3)]
    files += [
        dicom(tmp_path / f"b{n}.dcm", 9 + n, float(n), PatientID="p", SeriesInstanceUID="1.2.4") for n in range(2)
    ]
    told = brought(home, animals, files, Said(("cat",)), tmp_path / "way")
    after = Dataset.open(home, animals.id)
    case = after.cases[told["case"]]
    assert len(after) == 25 and case.shape[0] == 3 and after.classes[case.label] == "cat"


def test_a_scan_that_is_there_and_comes_with_other_facts_of_its_patient_is_corrected_all_the_same(
    home: Path,
    tmp_path: Path,
    nearby: None,  # noqa: F811
) -> None:
    for n in range(4):
        dicom(tmp_path / "source" / f"{n}.dcm", n, PatientID=f"p{n}")
    (tmp_path / "source" / "labels.csv").write_text(
        "file,label\n" + "".join(f"{n}.dcm,{'ab'[n % 2]}\n" for n in range(4))
    )
    told = drained(import_scans(detect(tmp_path / "source"), "x", home))
    dataset = Dataset.open(home, told.dataset)
    again = [dicom(tmp_path / "again.dcm", 0, PatientID="p0", PatientSex="F")]
    made = brought(home, dataset, again, Said(("b",)), tmp_path / "way")
    after = Dataset.open(home, dataset.id)
    case = after.cases[made["case"]]
    assert len(after) == 4 and after.classes[case.label] == "b" and case.attributes["sex"] == "female"


def test_what_does_not_fit_is_refused_in_words(animals: Dataset) -> None:
    with pytest.raises(FeedbackRefused, match="another size"):
        correct(animals, 0, Said(mask=pack(np.zeros((1, 3, 3), np.uint8))))
    with pytest.raises(FeedbackRefused, match="exactly one class"):
        correct(animals, 0, Said(label=("cat", "dog")))
