"""Label tables: a CSV with the columns file, label, perhaps patient and split; forgiving in form, strict in content.

Instead of a label, or beside it, a row may tell a box (x0, y0, x1, y1, in pixels; label is its class; several rows for
several boxes, empty cells for a scan without any), the file of a mask, or the file of the clean scan (target). Columns
for sex, age, scanner, site and groups of one's own are found by `attributes.columns`.

All that is wrong is said in one sentence, by row numbers: never by file names or cell values, which may be personal.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from builder import attributes

FILE = ("file", "filename", "file_name", "path", "image", "image_path", "image_name")
LABEL = ("label", "labels", "class", "diagnosis", "target", "finding")
PATIENT = ("patient", "patient_id", "patientid", "subject", "subject_id", "case")
SPLIT = ("split", "subset", "set", "fold_name")
SLICE = ("slice", "slice_index", "frame", "z")
MASK = ("mask", "mask_file", "mask_path", "segmentation")
CLEAN = ("target", "target_file", "target_path", "clean", "reference")
EDGES = (
    ("x0", "y0", "x1", "y1"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("x", "y", "width", "height"),
)
"""What the edges of a box may be called; of the last, x and y are the upper left corner."""

SIDES = {
    "train": "train",
    "training": "train",
    "tr": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "te": "test",
}
"""What a split may be called."""

_MAX_BYTES = 200 << 20
_MAX_COLUMNS = 1000
MAX_CLASSES = 1000


class TableRefused(ValueError):
    """A label table that cannot be used. Its text says all that is wrong, by row numbers."""


@dataclass(frozen=True)
class Row:
    """One line: `line` as a spreadsheet counts it, `labels` are class names (several only in a multi-label table).

    In a table of boxes, `box` is x0, y0, x1, y1 in pixels of slice `slice`, None on a scan that has none. `masks` and
    `target` are files. `attributes`: cells that tell of person, machine and site (see `attributes.columns`). `unknown`:
    nobody has said which classes it shows, which is not the same as none of them.
    """

    line: int
    file: str
    labels: tuple[str, ...]
    patient: str | None
    split: str | None
    box: tuple[float, float, float, float] | None = None
    slice: int = 0
    masks: tuple[str, ...] = ()
    target: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    unknown: bool = False


@dataclass(frozen=True)
class Table:
    """A table that holds together. `notes` tell what was read generously. `boxed`: its labels are those of boxes."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    multi_label: bool
    has_patient: bool
    has_split: bool
    notes: tuple[str, ...]
    has_label: bool = True
    boxed: bool = False
    has_mask: bool = False
    has_target: bool = False


def read_table(path: Path) -> Table:
    """Reads a label table.

    Several labels of one image are joined with "|" ("mass|effusion"); a table with such a cell is multi-label, and an
    empty label there means none of the classes. Where cells end in "|" ("mass|", "|" for none of the classes), an empty
    one means that nobody has said.

    Raises:
        TableRefused: no text, no such columns, ragged rows, empty cells, unknown splits; all problems at once.
    """
    text, notes = _text(path)
    delimiter, header = _header(text)
    columns = [_plain(cell) for cell in header]
    at = _Columns(columns, text, delimiter)
    says_more = bool(at.box) or at.mask is not None or at.target is not None
    wanted = (("file", at.file),) if says_more else (("file", at.file), ("label", at.label))
    missing = [f"'{name}'" for name, index in wanted if index is None]
    if missing:
        raise TableRefused(
            f"The label table has {len(columns)} column{'s' if len(columns) != 1 else ''} but none called "
            f"{' and none called '.join(missing)}: its first line must name the columns, such as file,label,patient."
        )
    if delimiter != ",":
        notes.append(f"the columns are separated by {_DELIMITERS[delimiter]}")
    if at.box == EDGES[-1]:
        notes.append("x and y of a box were taken as its upper left corner")
    wrong = _Wrong()
    rows: list[Row] = []
    try:
        for line, cells in _numbered(text, delimiter):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                wrong.ragged.append(line)
                continue
            rows.append(_row(line, [cell.strip() for cell in cells], at, wrong))
    except csv.Error:
        raise TableRefused(
            "The label table is damaged: a cell is longer than 100,000 characters or holds a zero byte. Save it again."
        ) from None
    multi_label = not at.box and (
        any(len(row.labels) > 1 for row in rows)
        or (at.label is not None and any("|" in cell for cell in _cells(text, delimiter, at.label)))
    )
    closed = at.label is not None and any(cell.strip().endswith("|") for cell in _cells(text, delimiter, at.label))
    if not (multi_label and closed):
        rows = [replace(row, unknown=False) for row in rows]
    if says_more:
        wrong.unlabelled.clear()  # a scan may have a mask, and no class
    classes = _sorted({label for row in rows for label in row.labels})
    if at.box:
        negatives = sum(row.box is None and bool(row.labels) for row in rows)
        rows = [row if row.box else replace(row, labels=()) for row in rows]
        classes = _sorted({label for row in rows for label in row.labels})
        if negatives:
            notes.append(f"{negatives} row{'s name' if negatives > 1 else ' names'} a class but no box: no box there")
    problems = wrong.problems(len(columns), multi_label)
    for name in attributes.not_groups([row.attributes for row in rows]):
        problems.append(f"its group {attributes.title(name)!r} has more than {attributes.MOST_OWN} values: no groups")
    unread = Counter(name for row in rows for name in attributes.from_cells(row.attributes)[2])
    for name, num in unread.items():
        notes.append(
            f"the {attributes.title(name).lower()} of {num} row{'s' if num > 1 else ''} could not be read and was left "
            f"out ({attributes.expected(name)})"
        )
    if not rows and not wrong.ragged:
        problems.append("it has no rows below the first line")
    if len(classes) > MAX_CLASSES or (len(classes) > 50 and len(classes) > 0.8 * len(rows)):
        problems.append(f"its label column holds {len(classes)} different values: class names repeat")
    if any(len(name) > 100 or not name.isprintable() for name in classes):
        problems.append("some labels are longer than 100 characters or hold unprintable ones")
    if problems:
        raise TableRefused(
            f"The label table cannot be used: {'; '.join(problems)}. Correct the table and import again."
        )
    return Table(
        tuple(rows),
        classes,
        multi_label,
        at.patient is not None,
        at.split is not None,
        tuple(notes),
        has_label=at.label is not None and not at.box,
        boxed=bool(at.box),
        has_mask=at.mask is not None,
        has_target=at.target is not None,
    )


class _Columns:
    """Where each thing stands. A column "target" holds clean scans if its cells end like files, else labels."""

    def __init__(self, columns: list[str], text: str, delimiter: str) -> None:
        self.file = _find(columns, FILE)
        self.target = _find(columns, CLEAN)
        if self.target is not None and not _files(_cells(text, delimiter, self.target)):
            self.target = None
        self.label = _find([name if n != self.target else "" for n, name in enumerate(columns)], LABEL)
        self.patient, self.split = _find(columns, PATIENT), _find(columns, SPLIT)
        self.slice, self.mask = _find(columns, SLICE), _find(columns, MASK)
        self.box = next((names for names in EDGES if set(names) <= set(columns)), ())
        self.edges = [columns.index(name) for name in self.box]
        taken = {self.file, self.target, self.label, self.patient, self.split, self.slice, self.mask, *self.edges}
        found = attributes.columns(columns)
        self.attributes = {name: place for name, place in found.items() if place not in taken}


class _Wrong:
    """The lines in which something is wrong."""

    def __init__(self) -> None:
        self.ragged: list[int] = []
        self.nameless: list[int] = []
        self.unlabelled: list[int] = []
        self.no_patient: list[int] = []
        self.bad_split: list[int] = []
        self.bad_box: list[int] = []
        self.no_class: list[int] = []
        self.bad_slice: list[int] = []

    def problems(self, num_columns: int, multi_label: bool) -> list[str]:
        """All of it in words."""
        found = (
            _problem(self.ragged, f"another number of columns than the first line ({num_columns})"),
            _problem(self.nameless, "no file name"),
            _problem([] if multi_label else self.unlabelled, "no label"),
            _problem(self.no_patient, "no patient, while others have one"),
            _problem(self.bad_split, "a split other than train, val or test"),
            _problem(self.bad_box, "edges of a box that are no numbers"),
            _problem(self.no_class, "a box without its class"),
            _problem(self.bad_slice, "a slice that is no whole number from 0 on"),
        )
        return [problem for problem in found if problem]


def _row(line: int, cells: list[str], at: _Columns, wrong: _Wrong) -> Row:
    assert at.file is not None
    labels: tuple[str, ...] = ()
    if at.label is not None:
        labels = tuple(dict.fromkeys(part.strip() for part in cells[at.label].split("|") if part.strip()))
    patient = cells[at.patient] if at.patient is not None else None
    split = cells[at.split].lower() if at.split is not None else None
    box: tuple[float, float, float, float] | None = None
    if at.box:
        try:
            box = _edges([cells[index] for index in at.edges], at.box == EDGES[-1])
        except ValueError:
            wrong.bad_box.append(line)
        labels = (cells[at.label],) if at.label is not None and cells[at.label] else ()
        if at.label is None and box:
            labels = ("lesion",)
        if box and not labels:
            wrong.no_class.append(line)
    number = cells[at.slice] if at.slice is not None else ""
    if number and not (number.isdecimal() and len(number) < 7):
        wrong.bad_slice.append(line)
        number = ""
    if not cells[at.file]:
        wrong.nameless.append(line)
    if not labels:
        wrong.unlabelled.append(line)
    if patient == "":
        wrong.no_patient.append(line)
    if split is not None and split not in SIDES:
        wrong.bad_split.append(line)
    masks = tuple(part.strip() for part in cells[at.mask].split("|") if part.strip()) if at.mask is not None else ()
    target = cells[at.target] if at.target is not None else ""
    side = SIDES.get(split) if split is not None else None
    told = {name: cells[place] for name, place in at.attributes.items() if cells[place]}
    unknown = at.label is not None and not cells[at.label]
    return Row(line, cells[at.file], labels, patient, side, box, int(number or 0), masks, target, told, unknown)


def _edges(cells: Sequence[str], as_size: bool) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1; None where no cell says anything. Raises ValueError for what is no number."""
    if all(cell.lower() in ("", "nan", "none", "null") for cell in cells):
        return None
    x0, y0, x1, y1 = (float(cell) for cell in cells)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError
    return (x0, y0, x0 + x1, y0 + y1) if as_size else (x0, y0, x1, y1)


def _files(cells: Iterable[str]) -> bool:
    """Whether the cells look like names of files: every one that is filled ends in a dot and up to four letters."""
    try:
        told = [cell.strip() for cell in cells if cell.strip()]
    except csv.Error:  # told later, with all else that is wrong
        return False
    return bool(told) and all(1 < len(PurePosixPath(cell).suffix) <= 5 for cell in told)


def tells(head: bytes) -> str:
    """What the first line of a table names beside files: "boxes", "outline", "picture", or "" (at most a class)."""
    try:
        _, header = _header(head.decode("utf-8-sig", "replace"))
    except TableRefused:
        return ""
    columns = {_plain(cell) for cell in header}
    if not columns & set(FILE):
        return ""
    if any(set(names) <= columns for names in EDGES):
        return "boxes"
    if columns & set(MASK):
        return "outline"
    return "picture" if columns & {name for name in CLEAN if name != "target"} else ""


def read_people(path: Path) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    """A table that tells of patients, without files: ([(patient, {attribute: cell})], remarks).

    Raises:
        TableRefused: no text, no column for patients, none that tells of them, or a group that is none.
    """
    text, notes = _text(path)
    delimiter, header = _header(text)
    columns = [_plain(cell) for cell in header]
    who, told = _find(columns, PATIENT), attributes.columns(columns)
    if who is None or not told:
        raise TableRefused(
            "The table needs a column that names patients and one that tells of them: its first line must name the "
            "columns, such as patient,sex,age,site."
        )
    rows: list[tuple[str, dict[str, str]]] = []
    ragged: list[int] = []
    try:
        for line, cells in _numbered(text, delimiter):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                ragged.append(line)
                continue
            rows.append((cells[who].strip(), {n: cells[k].strip() for n, k in told.items() if cells[k].strip()}))
    except csv.Error:
        raise TableRefused("The table is damaged: a cell is too long or holds a zero byte. Save it again.") from None
    for name in attributes.not_groups([row for _, row in rows]):
        raise TableRefused(
            f"The group {attributes.title(name)!r} has more than {attributes.MOST_OWN} values: these are no groups."
        )
    if words := _problem(ragged, f"another number of columns than the first line ({len(columns)})"):
        notes.append(words)
    unread = Counter(name for _, row in rows for name in attributes.from_cells(row)[2])
    notes += [
        f"the {attributes.title(name).lower()} of {num} row{'s' if num > 1 else ''} could not be read and was left out "
        f"({attributes.expected(name)})"
        for name, num in unread.items()
    ]
    return [row for row in rows if row[0]], notes


def rows_in_words(lines: Iterable[int]) -> str:
    """ "row 3", "rows 3, 7 and 9", "rows 3, 7, 8 and 12 more"."""
    shown = sorted(lines)
    words = [str(line) for line in shown[:8]]
    if len(shown) > 8:
        words.append(f"{len(shown) - 8} more")
    if len(words) == 1:
        return f"row {words[0]}"
    return f"rows {', '.join(words[:-1])} and {words[-1]}"


def natural(name: str) -> tuple[int, int, str]:
    """Sorts numbers as numbers: class 2 before class 10."""
    return (0, int(name), "") if name.isdecimal() and len(name) < 18 else (1, 0, name.casefold())


_KNOWN = {*FILE, *LABEL, *PATIENT, *SPLIT, *SLICE, *MASK, *CLEAN, *(name for names in EDGES for name in names)}
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _text(path: Path) -> tuple[str, list[str]]:
    if path.stat().st_size > _MAX_BYTES:
        raise TableRefused("The label table is larger than 200 MB: expected a CSV with one short line a file.")
    raw = path.read_bytes()
    if not raw.strip():
        raise TableRefused("The label table is empty: expected a CSV with the columns file and label.")
    if raw[:2] in (b"PK", b"\xd0\xcf"):
        raise TableRefused("The label table is a spreadsheet: save it as CSV (Excel: 'CSV UTF-8') and import that.")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return raw.decode("utf-16"), ["the table was read as UTF-16"]
        except UnicodeDecodeError:
            raise TableRefused(
                "The label table is damaged: it begins as UTF-16 but is none. Save it as CSV again."
            ) from None
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        pass
    if b"\0" in raw:
        raise TableRefused("The label table is not text: expected a CSV with the columns file and label.")
    return raw.decode("cp1252", errors="replace"), ["the table was read as Windows Latin-1, as it is not UTF-8"]


def _header(text: str) -> tuple[str, list[str]]:
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    best = (-1, ",", [""])
    for delimiter in _DELIMITERS:
        if first.count(delimiter) >= _MAX_COLUMNS:
            raise TableRefused(
                f"The label table has more than {_MAX_COLUMNS} columns: expected file, label, patient, split."
            )
        try:
            cells = next(csv.reader([first], delimiter=delimiter), [""])
        except csv.Error:
            continue
        known = sum(_plain(cell) in _KNOWN or attributes.known_column(_plain(cell)) for cell in cells)
        if (known, len(cells)) > (best[0], len(best[2])):
            best = (known, delimiter, cells)
    return best[1], best[2]


def _numbered(text: str, delimiter: str) -> Iterable[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=delimiter)
    next(reader, None)
    yield from enumerate(reader, 2)


def _cells(text: str, delimiter: str, at: int) -> Iterable[str]:
    return (cells[at] for _, cells in _numbered(text, delimiter) if len(cells) > at)


def _plain(cell: str) -> str:
    return cell.strip().strip("\ufeff").lower().replace(" ", "_")


def _find(columns: list[str], names: tuple[str, ...]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _problem(lines: list[int], words: str) -> str:
    if not lines:
        return ""
    return f"{rows_in_words(lines)} {'has' if len(lines) == 1 else 'have'} {words}"


def _sorted(names: set[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural))
