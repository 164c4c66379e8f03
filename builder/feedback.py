"""A scan that somebody asked about goes back into the data set, with the label that a person gave it or corrected.

It never joins a test side that was opened: a scan that was chosen because a network erred on it would bend the figures.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import labels
from builder.asking import files_of
from builder.data import Dataset
from builder.evaluate import was_opened
from builder.intake import ImportFailed, Step, import_scans
from builder.series import members
from builder.sources import Source

__all__ = ["FeedbackRefused", "Said", "correct", "take_back"]


class FeedbackRefused(ValueError):
    """A scan or a label that cannot go back. Its text is one sentence for people."""


@dataclass(frozen=True)
class Said:
    """What a person says of a scan; None where they say nothing.

    Attributes:
        label: names of classes ((one,) where a scan has one). boxes: (x0, y0, x1, y1, name of the class, slice).
        mask: uint8 (S, H, W), packed as `labels.pack` does.
    """

    label: tuple[str, ...] | None = None
    boxes: tuple[tuple[float, float, float, float, str, int], ...] | None = None
    mask: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return {
            "label": None if self.label is None else list(self.label),
            "boxes": None if self.boxes is None else [list(box) for box in self.boxes],
            "mask": None if self.mask is None else base64.b64encode(self.mask).decode(),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Said:
        """Reads `to_json`."""
        label, boxes, mask = found.get("label"), found.get("boxes"), found.get("mask")
        return cls(
            None if label is None else tuple(map(str, label)),
            None
            if boxes is None
            else tuple((float(a), float(b), float(c), float(d), str(n), int(s)) for a, b, c, d, n, s in boxes),
            None if mask is None else base64.b64decode(mask),
        )


def correct(dataset: Dataset, index: int, said: Said, who: str = "", origin: str = "corrected") -> None:
    """Records what a person says of a case; classes and structures that are new get their names first.

    Raises:
        FeedbackRefused, labels.LabelRefused: it does not fit the scan or the data set.
    """
    named = [*(said.label or ()), *(box[4] for box in said.boxes or ())]
    new = [name for name in dict.fromkeys(named) if name not in dataset.classes]
    if new:
        labels.name_classes(dataset, new, who=who)
    mask = None
    if said.mask is not None:
        slices, _, height, width = dataset.cases[index].shape
        try:
            mask = labels.unpack(said.mask, (slices, height, width))
        except OSError:
            raise FeedbackRefused("The mask is of another size than the scan.") from None
        if mask.any() and not dataset.mask_names:
            labels.name_classes(dataset, structures=["lesion"], who=who)
    label: int | tuple[int, ...] | None = None
    if said.label is not None:
        indices = tuple(dataset.classes.index(name) for name in said.label)
        if not dataset.multi_label and len(indices) != 1:
            raise FeedbackRefused("Each scan of this data set has exactly one class.")
        label = indices if dataset.multi_label else indices[0]
    boxes = None
    if said.boxes is not None:
        boxes = [labels.Box(x0, y0, x1, y1, dataset.classes.index(n), s) for x0, y0, x1, y1, n, s in said.boxes]
    labels.record(dataset, index, label=label, boxes=boxes, mask=mask, who=who, origin=origin)


def take_back(
    home: Path,
    dataset: str,
    files: Sequence[Path],
    said: Said,
    scratch: Path,
    *,
    member: int | None = None,
    who: str = "",
) -> Generator[Step, None, dict[str, Any]]:
    """Imports one dropped scan into a data set and records what a person says of it.

    Args:
        files: the scan's, or several scans' of which it is number `member`. scratch: an empty folder for the way.
    Yields: the steps of the import. Returns: {dataset, case (its position), id, split}.
    Raises:
        FeedbackRefused, labels.LabelRefused, sources.SourceRefused, scan.Unreadable: with the reason, as a sentence.
    """
    before = Dataset.open(home, dataset)
    opened = ("test",) if was_opened(before) else ()
    failed: ImportFailed | None = None
    with files_of(files, member) as found:
        if not found:
            raise FeedbackRefused("The scan's files are gone: drop it again.")
        if member is None and len(found) > 1:  # they were read as one series: what was left out is not spoken of
            found = tuple(members(found))
        for number, path in enumerate(found):
            shutil.copyfile(path, scratch / f"{number:05d}{path.suffix if path.suffix != '.bin' else ''}")
        try:
            steps = import_scans(Source("folder", scratch), before.name, home, into=before.id, keep_out_of=opened)
            ledger = (yield from steps).ledger
        except ImportFailed as error:  # such as where the data set has the scan already
            failed, ledger = error, error.ledger
    named = {entry.case for entry in ledger if entry.case}  # those that are new, and those that are there
    if failed is not None and len(named) != 1:
        raise failed
    if not named:
        raise FeedbackRefused("Nothing of it could be imported.")
    if len(named) > 1:
        raise FeedbackRefused(
            f"These files are {len(named)} scans of the data set now, none with what you said: look at them on the "
            "Data page."
        )
    after = Dataset.open(home, before.id)
    index = next(n for n, case in enumerate(after.cases) if case.id in named)
    case = after.cases[index]
    if case.split in opened:
        raise FeedbackRefused(
            f"This scan is in the data set, on the {case.split} side, which was opened: correct it on the Data page, "
            "where you see what it counts for."
        )
    correct(after, index, said, who)
    return {"dataset": after.id, "case": index, "id": case.id, "split": case.split}
