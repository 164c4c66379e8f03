"""Label tables: a CSV with the columns file, label, perhaps patient and split; forgiving in form, strict in content.

All that is wrong is said in one sentence, by row numbers: never by file names or cell values, which may be personal.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FILE = ("file", "filename", "file_name", "path", "image", "image_path", "image_name")
LABEL = ("label", "labels", "class", "diagnosis", "target", "finding")
PATIENT = ("patient", "patient_id", "patientid", "subject", "subject_id", "case")
SPLIT = ("split", "subset", "set", "fold_name")
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
    """One line: `line` as a spreadsheet counts it, `labels` are class names (several only in a multi-label table)."""

    line: int
    file: str
    labels: tuple[str, ...]
    patient: str | None
    split: str | None


@dataclass(frozen=True)
class Table:
    """A table that holds together. `notes` tell what was read generously."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    multi_label: bool
    has_patient: bool
    has_split: bool
    notes: tuple[str, ...]


def read_table(path: Path) -> Table:
    """Reads a label table.

    Several labels of one image are joined with "|" ("mass|effusion"); a table with such a cell is multi-label, and an
    empty label there means none of the classes.

    Raises:
        TableRefused: no text, no such columns, ragged rows, empty cells, unknown splits; all problems at once.
    """
    text, notes = _text(path)
    delimiter, header = _header(text)
    columns = [_plain(cell) for cell in header]
    file_at, label_at = _find(columns, FILE), _find(columns, LABEL)
    patient_at, split_at = _find(columns, PATIENT), _find(columns, SPLIT)
    missing = [f"'{name}'" for name, at in (("file", file_at), ("label", label_at)) if at is None]
    if file_at is None or label_at is None:
        raise TableRefused(
            f"The label table has {len(columns)} column{'s' if len(columns) != 1 else ''} but none called "
            f"{' and none called '.join(missing)}: its first line must name the columns, such as file,label,patient."
        )
    if delimiter != ",":
        notes.append(f"the columns are separated by {_DELIMITERS[delimiter]}")
    ragged: list[int] = []
    nameless: list[int] = []
    unlabelled: list[int] = []
    bad_split: list[int] = []
    no_patient: list[int] = []
    rows: list[Row] = []
    try:
        for line, cells in _numbered(text, delimiter):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                ragged.append(line)
                continue
            labels = tuple(dict.fromkeys(part.strip() for part in cells[label_at].split("|") if part.strip()))
            patient = cells[patient_at].strip() if patient_at is not None else None
            split = cells[split_at].strip().lower() if split_at is not None else None
            if not cells[file_at].strip():
                nameless.append(line)
            if not labels:
                unlabelled.append(line)
            if patient == "":
                no_patient.append(line)
            if split is not None and split not in SIDES:
                bad_split.append(line)
            side = SIDES.get(split) if split is not None else None
            rows.append(Row(line, cells[file_at].strip(), labels, patient, side))
    except csv.Error:
        raise TableRefused(
            "The label table is damaged: a cell is longer than 100,000 characters or holds a zero byte. Save it again."
        ) from None
    multi_label = any(len(row.labels) > 1 for row in rows) or any(
        "|" in row for row in _cells(text, delimiter, label_at)
    )
    problems = [
        _problem(ragged, f"another number of columns than the first line ({len(columns)})"),
        _problem(nameless, "no file name"),
        _problem([] if multi_label else unlabelled, "no label"),
        _problem(no_patient, "no patient, while others have one"),
        _problem(bad_split, "a split other than train, val or test"),
    ]
    classes = _sorted({label for row in rows for label in row.labels})
    if not rows and not ragged:
        problems.append("it has no rows below the first line")
    if len(classes) > MAX_CLASSES or (len(classes) > 50 and len(classes) > 0.8 * len(rows)):
        problems.append(f"its label column holds {len(classes)} different values: class names repeat")
    if any(len(name) > 100 or not name.isprintable() for name in classes):
        problems.append("some labels are longer than 100 characters or hold unprintable ones")
    problems = [problem for problem in problems if problem]
    if problems:
        raise TableRefused(
            f"The label table cannot be used: {'; '.join(problems)}. Correct the table and import again."
        )
    return Table(tuple(rows), classes, multi_label, patient_at is not None, split_at is not None, tuple(notes))


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
        known = sum(_plain(cell) in FILE + LABEL + PATIENT + SPLIT for cell in cells)
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
