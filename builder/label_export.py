"""Labels taken away in formats that other programs read, such that they come back as they were.

    voc       JPEGImages/<id>.png  Annotations/<id>.xml  ImageSets/Main/{train,val,test}.txt
    yolo      images/<side>/<id>.png  labels/<side>/<id>.txt  data.yaml
    coco      images/<side>/<id>.png  annotations/instances_<side>.json
    csv       scans/<id>.png or .nrrd  labels.csv (file,x0,y0,x1,y1,label,slice,patient,split)
    png       images/<side>/<id>.png  masks/<side>/<id>.png                labels.csv  dataset.json
    nifti     imagesTr|Ts/<id>_0000.nii.gz  labelsTr|Ts/<id>.nii.gz        labels.csv  dataset.json (as nnU-Net has it)
    nrrd      <side>/<id>_image.nrrd  <side>/<id>_label.nrrd               labels.csv  dataset.json
    dicom-seg <side>/<id>/0000.dcm ...  <side>/<id>-seg.dcm                labels.csv

Files are called by case; in formats of pictures, a scan of several slices becomes a picture a slice, <id>-0000.png.
Only cases that carry the labels in question are written, with those they carry now.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from builder.data import SPLITS, Dataset
from builder.labels import Box
from builder.scan import Scan
from builder.scan_files import (
    Unwritable,
    as_picture,
    write_nifti,
    write_nrrd,
    write_png,
    write_segmentation,
    write_series,
)


class ExportRefused(ValueError):
    """Labels that cannot be exported as asked. Its text is a sentence for people."""


@dataclass
class Exported:
    """What was written: cases, files of scans, boxes, masks; labelled cases that were left out, and notes in words."""

    folder: Path
    cases: int = 0
    scans: int = 0
    boxes: int = 0
    masks: int = 0
    unlabelled: int = 0
    notes: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        counts = {name: getattr(self, name) for name in ("cases", "scans", "boxes", "masks", "unlabelled")}
        return {"folder": str(self.folder), **counts, "notes": sorted(self.notes)}


def export_labels(dataset: Dataset, to: str, out: Path) -> Iterator[tuple[int, int, Exported]]:
    """Writes labels, and the scans that they belong to, into the folder `out`.

    Yields: (cases done, cases in all, what was written so far), the last time with all of it.
    Raises:
        ExportRefused: an unknown format, a folder that is not empty, nothing to export, or a scan that the format
            cannot hold.
    """
    if to not in FORMATS:
        raise ExportRefused(f"The format is unknown: choose one of {', '.join(FORMATS)}.")
    by = "boxes" if to in BOXES else "mask"
    chosen = [index for index, case in enumerate(dataset.cases) if case.carries(by)]
    if not chosen:
        what = "boxes" if by == "boxes" else "masks"
        raise ExportRefused(
            f"The dataset has no {what}, which this format is for: draw some, or choose another format."
        )
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportRefused("The folder is not empty: choose a new one, so that nothing in it is replaced.")
    out.mkdir(parents=True, exist_ok=True)
    done = Exported(out, unlabelled=len(dataset) - len(chosen))
    writer = FORMATS[to](dataset, out, done)
    for number, index in enumerate(chosen):
        yield number, len(chosen), done
        try:
            writer.write(index)
        except Unwritable as error:
            raise ExportRefused(str(error)) from None
        done.cases += 1
    writer.finish()
    if not writer.names_patients and max(writer.pictures_of.values()) > 1:
        done.notes.add(
            "This format does not say whose pictures they are: imported again, each counts as a patient, and those of "
            "one patient or volume may come to lie on several sides."
        )
    yield len(chosen), len(chosen), done


class _Writer:
    """One format: writes case by case, then what tells of all of them."""

    names_patients = True
    """Whether the format says whose scans they are."""

    def __init__(self, dataset: Dataset, out: Path, done: Exported) -> None:
        self.dataset, self.out, self.done = dataset, out, done
        self.pictures_of: Counter[str] = Counter()  # {patient: pictures written}
        self.prepare()

    def prepare(self) -> None:
        """What is there before the first case."""

    def write(self, index: int) -> None:
        """Writes one case."""
        raise AssertionError("each format writes in its own way")

    def finish(self) -> None:
        """Writes what tells of all cases."""

    def place(self, *parts: str) -> Path:
        """A path below the folder, which is made."""
        path = self.out.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def pictures(self, index: int, folder: str) -> Iterator[tuple[str, int, tuple[int, int]]]:
        """Writes the slices of a scan as PNG; (name without ending, slice, (width, height)) of each."""
        scan, case = self.dataset.scan(index), self.dataset.cases[index]
        for number in range(len(scan.pixels)):
            name = case.id if len(scan.pixels) == 1 else f"{case.id}-{number:04d}"
            write_png(self.place(folder, f"{name}.png"), as_picture(scan, number, self.done.notes))
            self.done.scans += 1
            self.pictures_of[case.patient] += 1
            yield name, number, (scan.pixels.shape[3], scan.pixels.shape[2])

    def boxes(self, index: int, number: int | None = None) -> list[Box]:
        """The boxes of a case, or of one of its slices."""
        found = [box for box in self.dataset.boxes(index) or () if number is None or box.slice == number]
        self.done.boxes += len(found)
        return found


# -- boxes ------------------------------------------------------------------------------------------------------------


class _Voc(_Writer):
    names_patients = False

    def prepare(self) -> None:
        self.lists: dict[str, list[str]] = {side: [] for side in SPLITS}

    def write(self, index: int) -> None:
        for name, number, (width, height) in self.pictures(index, "JPEGImages"):
            depth = self.dataset.cases[index].shape[1]
            objects = "".join(self._object(box) for box in self.boxes(index, number))
            self.place("Annotations", f"{name}.xml").write_text(
                f"<annotation>\n\t<folder>JPEGImages</folder>\n\t<filename>{name}.png</filename>\n"
                f"\t<size>\n\t\t<width>{width}</width>\n\t\t<height>{height}</height>\n\t\t<depth>{depth}</depth>\n"
                f"\t</size>\n\t<segmented>0</segmented>\n{objects}</annotation>\n",
                encoding="utf-8",
            )
            self.lists[self.dataset.cases[index].split].append(name)

    def _object(self, box: Box) -> str:
        edges = zip(("xmin", "ymin", "xmax", "ymax"), (box.x0, box.y0, box.x1, box.y1), strict=True)
        told = "".join(f"\t\t\t<{name}>{_decimal(edge)}</{name}>\n" for name, edge in edges)
        return (
            f"\t<object>\n\t\t<name>{escape(self.dataset.classes[box.label])}</name>\n\t\t<pose>Unspecified</pose>\n"
            f"\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n{told}\t\t</bndbox>\n"
            "\t</object>\n"
        )

    def finish(self) -> None:
        for side, names in self.lists.items():
            if names:
                self.place("ImageSets", "Main", f"{side}.txt").write_text("".join(f"{name}\n" for name in names))


class _Yolo(_Writer):
    names_patients = False

    def write(self, index: int) -> None:
        side = self.dataset.cases[index].split
        for name, number, (width, height) in self.pictures(index, f"images/{side}"):
            lines = []
            for box in self.boxes(index, number):
                centre = (box.x0 + box.x1) / 2 / width, (box.y0 + box.y1) / 2 / height
                size = (box.x1 - box.x0) / width, (box.y1 - box.y0) / height
                lines.append(f"{box.label} {' '.join(f'{value:.8f}' for value in (*centre, *size))}\n")
            self.place("labels", side, f"{name}.txt").write_text("".join(lines))

    def finish(self) -> None:
        sides = {
            self.dataset.cases[index].split
            for index in range(len(self.dataset))
            if self.dataset.boxes(index) is not None
        }
        lines = [f"{side}: images/{side}" for side in SPLITS if side in sides]
        names = [f"  {number}: {json.dumps(name)}" for number, name in enumerate(self.dataset.classes)]
        self.place("data.yaml").write_text("\n".join([*lines, "names:", *names]) + "\n", encoding="utf-8")


class _Coco(_Writer):
    names_patients = False

    def prepare(self) -> None:
        self.sides: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    def write(self, index: int) -> None:
        side = self.dataset.cases[index].split
        images, annotations = self.sides.setdefault(side, ([], []))
        for name, number, (width, height) in self.pictures(index, f"images/{side}"):
            images.append({"id": len(images) + 1, "file_name": f"{name}.png", "width": width, "height": height})
            for box in self.boxes(index, number):
                wide, high = round(box.x1 - box.x0, 3), round(box.y1 - box.y0, 3)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": len(images),
                        "category_id": box.label + 1,
                        "bbox": [box.x0, box.y0, wide, high],
                        "area": round(wide * high, 3),
                        "iscrowd": 0,
                        "segmentation": [],
                    }
                )

    def finish(self) -> None:
        categories = [{"id": n, "name": name} for n, name in enumerate(self.dataset.classes, 1)]
        for side, (images, annotations) in self.sides.items():
            told = {"images": images, "annotations": annotations, "categories": categories}
            self.place("annotations", f"instances_{side}.json").write_text(json.dumps(told, ensure_ascii=False))


class _Csv(_Writer):
    def prepare(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def write(self, index: int) -> None:
        case, scan = self.dataset.cases[index], self.dataset.scan(index)
        if len(scan.pixels) == 1 and scan.pixels.dtype.kind == "u" and scan.photometric != "MONOCHROME1":
            file = f"scans/{case.id}.png"
            write_png(self.place(file), as_picture(scan, 0, self.done.notes))
        else:
            file = f"scans/{case.id}.nrrd"
            write_nrrd(self.place(file), scan.pixels, scan, self.done.notes)
        self.done.scans += 1
        found = self.boxes(index)
        for box in found:
            edges = (_decimal(edge) for edge in (box.x0, box.y0, box.x1, box.y1))
            self.rows.append((file, *edges, self.dataset.classes[box.label], box.slice, case.patient, case.split))
        if not found:
            self.rows.append((file, "", "", "", "", "", "", case.patient, case.split))

    def finish(self) -> None:
        columns = ["file", "x0", "y0", "x1", "y1", "label", "slice", "patient", "split"]
        _table(self.place("labels.csv"), columns, self.rows)


# -- masks ------------------------------------------------------------------------------------------------------------


class _Masks(_Writer):
    """What the formats of masks have in common: a table of classes, patients and sides, and the structures' names."""

    values: Callable[[int], int] = staticmethod(lambda structure: structure)

    def prepare(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def write(self, index: int) -> None:
        mask = self.dataset.mask(index)
        assert mask is not None
        for file, outlined in self.files(index, self.dataset.scan(index), mask):
            self.row(index, file, outlined)
        self.done.masks += 1

    def files(self, index: int, scan: Scan, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        """Writes a scan and its mask; the names of both, below the folder."""
        raise AssertionError("each format writes in its own way")

    def row(self, index: int, file: str, outlined: str) -> None:
        """Notes a scan and its mask for the table."""
        case, classes = self.dataset.cases[index], self.dataset.classes
        if isinstance(case.label, tuple):  # closed: none of them is not the same as a word that is missing (`tables`)
            label = "".join(f"{classes[k]}|" for k in case.label) or "|"
        else:
            label = "" if case.label is None else classes[case.label]
        self.rows.append((file, outlined, *([label] if classes else []), case.patient, case.split))

    def finish(self) -> None:
        columns = ["file", "mask", *(["label"] if self.dataset.classes else []), "patient", "split"]
        _table(self.place("labels.csv"), columns, self.rows)
        labels = {name: self.values(k) for k, name in enumerate(self.dataset.mask_names, 1)}
        told = {"labels": {"background": 0, **labels}, **self.more()}
        self.place("dataset.json").write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def more(self) -> Mapping[str, Any]:
        """What else dataset.json tells."""
        return {}


class _Png(_Masks):
    def prepare(self) -> None:
        super().prepare()
        if len(self.dataset.mask_names) == 1:  # black and white, for people to see
            self.values = lambda structure: 255 * structure

    def files(self, index: int, scan: Scan, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        side = self.dataset.cases[index].split
        for name, number, _ in self.pictures(index, f"images/{side}"):
            outlined = f"masks/{side}/{name}.png"
            write_png(self.place(outlined), (mask[number] * np.uint8(self.values(1)))[None])
            yield f"images/{side}/{name}.png", outlined


class _Nifti(_Masks):
    def files(self, index: int, scan: Scan, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        case = self.dataset.cases[index]
        part = "Ts" if case.split == "test" else "Tr"
        file, outlined = f"images{part}/{case.id}_0000.nii.gz", f"labels{part}/{case.id}.nii.gz"
        write_nifti(self.place(file), scan.pixels, scan, self.done.notes)
        write_nifti(self.place(outlined), mask, scan, self.done.notes)
        self.done.scans += 1
        yield file, outlined

    def more(self) -> Mapping[str, Any]:
        num = sum(split != "test" for *_, split in self.rows)
        return {"channel_names": {"0": "scan"}, "numTraining": num, "file_ending": ".nii.gz"}


class _Nrrd(_Masks):
    def files(self, index: int, scan: Scan, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        case = self.dataset.cases[index]
        file, outlined = (f"{case.split}/{case.id}_{what}.nrrd" for what in ("image", "label"))
        write_nrrd(self.place(file), scan.pixels, scan, self.done.notes)
        write_nrrd(self.place(outlined), mask, scan, self.done.notes)
        self.done.scans += 1
        yield file, outlined


class _DicomSeg(_Masks):
    def files(self, index: int, scan: Scan, mask: np.ndarray) -> Iterator[tuple[str, str]]:
        case = self.dataset.cases[index]
        file, outlined = f"{case.split}/{case.id}", f"{case.split}/{case.id}-seg.dcm"
        images = write_series(self.place(file), scan, case.patient[:16], self.done.notes)
        write_segmentation(self.place(outlined), images, mask, self.dataset.mask_names)
        self.done.scans += len(images)
        yield file, outlined


def _table(path: Path, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def _decimal(value: float) -> str:
    """A number without needless noughts: 3, 3.5, 3.125."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


BOXES = ("voc", "yolo", "coco", "csv")
FORMATS: dict[str, type[_Writer]] = {
    "voc": _Voc,
    "yolo": _Yolo,
    "coco": _Coco,
    "csv": _Csv,
    "png": _Png,
    "nifti": _Nifti,
    "nrrd": _Nrrd,
    "dicom-seg": _DicomSeg,
}
"""What labels can be exported to; those in `BOXES` hold boxes, the others masks."""
