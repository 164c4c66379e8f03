"""From files to scans, in the sandbox: which DICOM files belong together, and what remains when one of them is bad.

Two sandboxes work side by side; what they have read waits in files without a name, so that memory stays flat.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from builder.arrangement import Item
from builder.data import pixels_digest
from builder.gathering import Found
from builder.masks import fitting, mask_values, united
from builder.sandbox import Sandbox
from builder.scan import Header, Scan, Unreadable

_HEADERS_AT_ONCE = 200
_AHEAD = 4
_FEW = 12
"""Up to this many readings a second sandbox would take longer to start than it saves."""

_COPY = "an exact copy of another file of this import"
_SAME_PIXELS = "the same image as another file of this import, packed in another way"
_CLAIM = "It claims to be the same image as another file (same SOP instance UID) but its pixels differ."
_OTHER_SERIES = (
    "This is a segmentation of another series: none of the images that it was drawn on is in this import. Import it "
    "together with them."
)
_NO_SERIES = "This is a segmentation that does not say which images it was drawn on, so it cannot be laid over any."


_NO_PARTNER = "Its {} could not be read, so the pair was left out: {}"
_MAX_FACTOR = 8


@dataclass(frozen=True)
class Aside:
    """What became of a file that belongs to a scan, a mask or a clean scan: status and reason as in the ledger."""

    found: Found
    status: str = "accepted"
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of some files: one scan made of all of them, or a status ("refused", "skipped") with its reason.

    `mask` is uint16 (S, H, W) on the grid of the scan, with the values of the files, `names` what the files call them;
    `target` the clean scan; `asides` tell of the files that these were read from.
    """

    items: tuple[Item, ...]
    scan: Scan | None = None
    status: str = ""
    reason: str = ""
    mask: np.ndarray | None = None
    names: tuple[tuple[int, str], ...] = ()
    target: Scan | None = None
    asides: tuple[Aside, ...] = ()


@dataclass
class _Reading:
    """Files to be read as one: a picture, a volume, or the slices of a series."""

    items: list[Item]
    series: bool = False


def decode(items: Sequence[Item], scratch: Path) -> Iterator[Outcome]:
    """Reads the items; every item is in exactly one outcome, in the order in which the scans begin.

    DICOM files of one series (within one bundle and with one size, orientation and label) become one scan. Two files
    with one SOP instance UID count once when they are equal; else the second is refused.

    Args:
        scratch: folder for pixels on their way.
    """
    num_boxes = 1 if len(items) <= _FEW else min(2, os.cpu_count() or 1)
    with ExitStack() as stack:
        boxes = [stack.enter_context(Sandbox(folder=scratch)) for _ in range(num_boxes)]
        done, readings = _together(items, boxes[0])
        yield from done
        yield from _read_ahead(readings, boxes)


def _read_ahead(readings: Iterable[_Reading], boxes: Sequence[Sandbox]) -> Iterator[Outcome]:
    """Outcomes in order, while the next readings are already under way."""
    free: SimpleQueue[Sandbox] = SimpleQueue()
    for box in boxes:
        free.put(box)

    def work(reading: _Reading) -> list[Outcome]:
        box = free.get()
        try:
            return [_with_labels(box, outcome) for outcome in _read(box, reading)]
        finally:
            free.put(box)

    waiting = iter(readings)
    with ThreadPoolExecutor(len(boxes)) as pool:
        under_way: list[Future[list[Outcome]]] = [pool.submit(work, reading) for reading in islice(waiting, _AHEAD)]
        try:
            while under_way:
                found = under_way.pop(0).result()
                under_way.extend(pool.submit(work, reading) for reading in islice(waiting, 1))
                yield from found
        finally:
            for future in under_way:
                future.cancel()


def _together(items: Sequence[Item], box: Sandbox) -> tuple[list[Outcome], list[_Reading]]:
    """What headers alone decide, and the readings that remain."""
    headers: dict[str, Header | Unreadable] = {}
    dicom = iter([item for item in items if _is_dicom(item.found.path)])
    while batch := list(islice(dicom, _HEADERS_AT_ONCE)):
        read = box.headers([item.found.path for item in batch])
        headers.update(zip((item.found.name for item in batch), read, strict=True))
    done: list[Outcome] = []
    drawn: list[tuple[Item, Header]] = []
    claims: dict[str, list[Item]] = {}
    for item in items:
        header = headers.get(item.found.name)
        if isinstance(header, Unreadable):
            done.append(Outcome((item,), None, "refused", header.reason))
        elif header is not None and header.modality == "SEG":
            drawn.append((item, header))
        elif header is not None:
            claims.setdefault(header.instance or f"file {item.found.name}", []).append(item)
    out = {outcome.items[0].found.name for outcome in done} | {item.found.name for item, _ in drawn}
    for claimants in claims.values():
        for outcome in _copies(claimants, box) if len(claimants) > 1 else ():
            done.append(outcome)
            out.add(outcome.items[0].found.name)
    readings: dict[Any, _Reading] = {}
    for item in items:
        header = headers.get(item.found.name)
        if item.found.name in out:
            continue
        if header is None or isinstance(header, Unreadable) or _alone(item, header):
            readings[item.found.name] = _Reading([item])
        else:
            readings.setdefault(_stack(item, header), _Reading([], series=True)).items.append(item)
    done += _attached(drawn, list(readings.values()), headers)
    return done, list(readings.values())


def _attached(
    drawn: Sequence[tuple[Item, Header]], readings: Sequence[_Reading], headers: Mapping[str, Header | Unreadable]
) -> Iterator[Outcome]:
    """Gives each segmentation as a mask to the series that it was drawn on; those without one are outcomes."""
    of_instance: dict[str, _Reading] = {}
    for reading in readings:
        for item in reading.items:
            header = headers.get(item.found.name)
            if isinstance(header, Header) and header.instance:
                of_instance[header.instance] = reading
    for item, header in drawn:
        hits = [of_instance[instance] for instance in header.outlines if instance in of_instance]
        if not hits:
            reason = _OTHER_SERIES if header.outlines else _NO_SERIES
            yield Outcome((item,), None, "refused", reason)
            continue
        reading = max(hits, key=hits.count)
        reading.items[:] = [replace(own, masks=(*own.masks, item.found)) for own in reading.items]


def _copies(claimants: Sequence[Item], box: Sandbox) -> Iterator[Outcome]:
    """Of files that claim to be one image, the first readable one stays; the others are told apart from it."""
    kept, digest, pixels = claimants[0], _file_digest(claimants[0].found.path), ""
    for item in claimants[1:]:
        if _file_digest(item.found.path) == digest:
            yield Outcome((item,), None, "skipped", _COPY)
            continue
        try:
            own = pixels_digest(box.read(item.found.path).pixels)
        except Unreadable as error:
            yield Outcome((item,), None, "refused", error.reason)
            continue
        if not pixels:
            try:
                pixels = pixels_digest(box.read(kept.found.path).pixels)
            except Unreadable as error:
                yield Outcome((kept,), None, "refused", error.reason)
                kept, digest, pixels = item, _file_digest(item.found.path), own
                continue
        status, reason = ("skipped", _SAME_PIXELS) if own == pixels else ("refused", _CLAIM)
        yield Outcome((item,), None, status, reason)


def _read(box: Sandbox, reading: _Reading) -> Iterator[Outcome]:
    items = reading.items
    if not reading.series or len(items) == 1:
        yield _read_alone(box, items[0])
        return
    try:
        yield Outcome(tuple(items), box.read([item.found.path for item in items], series=True))
        return
    except Unreadable as error:
        whole = error.reason
    kept = []
    for item in items:  # one bad slice must not cost the others
        outcome = _read_alone(box, item)
        if outcome.scan is None:
            yield outcome
        else:
            kept.append(item)
    lost = len(items) - len(kept)
    if lost and len(kept) > 1:
        try:
            scan = box.read([item.found.path for item in kept], series=True)
            note = f"{lost} of {len(items)} slices could not be read and were left out."
            yield Outcome(tuple(kept), replace(scan, notes=(note, *scan.notes)))
            return
        except Unreadable as error:
            whole = error.reason
    note = "" if lost and len(kept) == 1 else f"The series was left out as a whole, each file is a scan: {whole}"
    for item in kept:
        yield _read_alone(box, item, note)


def _read_alone(box: Sandbox, item: Item, note: str = "") -> Outcome:
    try:
        scan = box.read([item.found.path])
    except Unreadable as error:
        return Outcome((item,), None, "refused", error.reason)
    return Outcome((item,), replace(scan, notes=(note, *scan.notes)) if note else scan)


def _with_labels(box: Sandbox, outcome: Outcome) -> Outcome:
    """The outcome with the masks and the clean scan that its items name."""
    masks = tuple(dict.fromkeys(found for item in outcome.items for found in item.masks))
    targets = tuple(item.target for item in outcome.items if item.target)
    if outcome.scan is None:
        why = "its scan was not read"
        return replace(outcome, asides=tuple(Aside(found, "refused", why) for found in (*masks, *targets)))
    if targets:
        outcome = _paired(box, outcome, targets)
    if masks and outcome.scan is not None:
        outcome = _outlined(box, outcome, outcome.scan, masks)
    return outcome


def _outlined(box: Sandbox, outcome: Outcome, scan: Scan, masks: Sequence[Found]) -> Outcome:
    kept: list[np.ndarray] = []
    asides: list[Aside] = []
    codes: dict[str, int] = {}  # one number for each name: segment 1 of two files may be two structures
    for found in masks:
        try:
            mask = box.read([found.path], mask_of=[item.found.path for item in outcome.items])
            values, notes = mask_values(mask)
            laid, more = fitting(values, mask, scan)
            whole = united([*kept, _coded(laid, mask.names, codes)])
        except Unreadable as error:
            asides.append(Aside(found, "refused", error.reason))
            continue
        kept = [whole]
        notes = (*notes, *more, *(note for note in mask.notes if "not in this import" in note))
        asides.append(Aside(found, "repaired" if notes else "accepted", " ".join(notes)))
    names = tuple((value, name) for name, value in codes.items())
    return replace(outcome, mask=kept[0] if kept else None, names=names, asides=(*outcome.asides, *asides))


def _coded(mask: np.ndarray, names: Sequence[tuple[int, str]], codes: dict[str, int]) -> np.ndarray:
    """The mask with one number for each name, which `codes` remembers; a mask without names stays as it is."""
    if not names:
        return mask
    table = np.zeros(max(value for value, _ in names) + 1, np.uint16)
    for value, name in names:
        table[value] = codes.setdefault(name, len(codes) + 1)
    return table[mask]


def _paired(box: Sandbox, outcome: Outcome, targets: Sequence[Found]) -> Outcome:
    scan, reason = outcome.scan, ""
    assert scan is not None
    target: Scan | None = None
    try:
        target = box.read([found.path for found in targets], series=len(targets) > 1)
        reason = _objection(scan, target)
    except Unreadable as error:
        reason = error.reason
    if reason:
        asides = tuple(Aside(found, "refused", reason) for found in targets)
        return Outcome(outcome.items, None, "refused", _NO_PARTNER.format("clean scan", reason), asides=asides)
    return replace(outcome, target=target, asides=tuple(Aside(found) for found in targets))


def _objection(scan: Scan, target: Scan) -> str:
    """Why a clean scan cannot belong to a scan, "" where it can: its sides are 1 to 8 times as long, all else equal."""
    slices, channels, height, width = scan.pixels.shape
    of_target = target.pixels.shape
    factor = of_target[2] // height
    if of_target[:2] != (slices, channels) or of_target[2:] != (height * factor, width * factor):
        return "The two scans of the pair differ in slices, colours or size; sizes must be equal or a whole multiple."
    return "" if factor <= _MAX_FACTOR else f"The clean scan is more than {_MAX_FACTOR} times as large as the other."


def _alone(item: Item, header: Header) -> bool:
    return item.bundle is None or not header.series or header.slices > 1


def _stack(item: Item, header: Header) -> tuple[Any, ...]:
    """What slices of one volume have in common."""
    orientation = tuple(np.round(header.orientation, 2) + 0.0) if header.orientation else None
    size = header.rows, header.cols, header.channels
    told = item.labels, item.patient, item.split
    return item.bundle, told, header.patient, header.series, header.modality, size, orientation, header.localizer


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _file_digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
