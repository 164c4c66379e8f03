"""What lies in a source: its files, what kind of collection they are, and the label, patient and side of each.

Nothing is decoded here. Every file found ends in the arrangement: as an item to read, or left aside with a reason.
"""

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from builder.archives import ArchiveRefused, foreign_archive, is_zip, listing, plain_name, unpack
from builder.tables import SIDES, Row, Table, TableRefused, natural, read_table, rows_in_words

KINDS = ("folder", "classes", "csv", "medmnist", "files")
SUFFIXES = frozenset(
    ".bmp .csv .dcm .dicom .gif .ima .jpeg .jpg .json .md .nhdr .nii .nii.gz .npy .npz .nrrd .pdf .png .tif .tiff .txt "  # noqa: SIM905
    ".xml .zip".split()
)
"""File endings that may be written down; any other could be somebody's name."""

MAX_FILES = 1_000_000
_SYSTEM = {"thumbs.db", "desktop.ini", "ehthumbs.db", ".ds_store", "icon\r"}
_DOCUMENTS = frozenset(
    ".bib .cfg .csv .doc .docx .dump .htm .html .ini .ipynb .json .jsonl .log .md .pdf .py .rst .rtf .sh .toml .tsv "  # noqa: SIM905
    ".txt .xls .xlsx .xml .yaml .yml".split()
)
_PAPERS = ("license", "licence", "readme", "source.txt", "copying", "citation", "changelog", "notice")
_MAX_PATTERN = 300


class SourceRefused(ValueError):
    """A source that cannot be imported as asked. Its text is one clear sentence without personal data."""


@dataclass(frozen=True)
class Source:
    """What to import.

    Attributes:
        kind: "folder" (no labels), "classes" (a folder per class, perhaps below train/val/test), "csv" (a label table),
            "medmnist" (a npz), or "files" (whatever was dropped: told from what is there).
        root: a folder, a zip, a npz, or a single file.
        labels: the label table; None takes the one that lies in the root.
        patient_pattern: regular expression with one group that finds the patient in a relative path.
        group_series: whether the DICOM files of one series become one case (else each file is its own).
        synthetic: the scans are made up.
        words: what `detect` saw, for people.
    """

    kind: str
    root: Path
    labels: Path | None = None
    patient_pattern: str | None = None
    group_series: bool = True
    synthetic: bool = False
    words: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a job's payload."""
        return {
            "kind": self.kind,
            "root": str(self.root),
            "labels": str(self.labels) if self.labels else None,
            "patient_pattern": self.patient_pattern,
            "group_series": self.group_series,
            "synthetic": self.synthetic,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Source":
        """Reads `to_json`.

        Raises:
            SourceRefused: an unknown kind or field.
        """
        unknown = set(found) - {"kind", "root", "labels", "patient_pattern", "group_series", "synthetic"}
        if unknown or "root" not in found:
            raise SourceRefused(
                "The import is described by kind, root, labels, patient_pattern, group_series, synthetic."
            )
        kind = str(found.get("kind", "files"))
        if kind not in KINDS:
            raise SourceRefused(f"The kind of source is unknown: choose one of {', '.join(KINDS)}.")
        labels = found.get("labels")
        return cls(
            kind,
            Path(str(found["root"])),
            Path(str(labels)) if labels else None,
            found.get("patient_pattern") or None,
            bool(found.get("group_series", True)),
            bool(found.get("synthetic", False)),
        )


@dataclass(frozen=True)
class Found:
    """A file of the source: where it lies, its relative name (forward slashes), its size."""

    path: Path
    name: str
    bytes: int

    @property
    def suffix(self) -> str:
        """A known ending in small letters, else "other", or "" without one."""
        return known_suffix(self.name)


@dataclass(frozen=True)
class Left:
    """A file left aside: status "skipped" (no scan) or "refused" (should have been one), and why."""

    name: str
    bytes: int
    status: str
    reason: str


@dataclass(frozen=True)
class Item:
    """A file to read. Files with the same `bundle` may be slices of one series; None stands alone."""

    found: Found
    labels: tuple[str, ...] | None = None
    patient: str | None = None
    split: str | None = None
    bundle: str | None = None


@dataclass(frozen=True)
class Arrangement:
    """A source, understood. `npz` holds the MedMNIST file where that is the kind (then there are no items)."""

    kind: str
    items: tuple[Item, ...]
    left: tuple[Left, ...]
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    patient_source: str = ""
    official_split: bool = False
    npz: Found | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Gathered:
    """The files of a source before anybody asks what they mean."""

    found: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def known_suffix(name: str) -> str:
    """The ending of a name if it is one of `SUFFIXES`, "other" for any other, "" for none."""
    lower = PurePosixPath(name).name.lower()
    if lower.endswith(".nii.gz"):
        return ".nii.gz"
    suffix = PurePosixPath(lower).suffix
    return suffix if suffix in SUFFIXES or not suffix else "other"


# -- what is there ---------------------------------------------------------------------------------------------------


def gather(root: Path, scratch: Path | None) -> Gathered:
    """Every file below `root`; zips are unpacked into `scratch` (or only listed where that is None).

    Raises:
        SourceRefused: nothing there, not readable, too many files, or a zip given as the root that is refused.
    """
    root = Path(root)
    if not root.exists():
        raise SourceRefused("There is no file or folder at this path: check its spelling.")
    gathered = Gathered()
    try:
        for path, name in _walk(root):
            _sort_in(path, name, gathered, scratch, alone=path == root)
            if len(gathered.found) + len(gathered.left) > MAX_FILES:
                raise SourceRefused(f"The source holds more than {MAX_FILES:,} files: import it in parts.")
    except PermissionError:
        raise SourceRefused("This folder may not be read: give the program the right to read it.") from None
    if not gathered.found and not gathered.left:
        raise SourceRefused("The folder is empty: there is nothing to import.")
    return gathered


def _walk(root: Path) -> Iterable[tuple[Path, str]]:
    if not root.is_dir():
        yield root, root.name
        return
    names = root / "names.jsonl"
    if root.parent.name == "uploads" and names.is_file():
        yield from _uploads(root, names)
        return
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        for name in [n for n in folders if os.path.islink(os.path.join(folder, n))]:
            folders.remove(name)
            files.append(name)
        for name in sorted(files):
            path = Path(folder) / name
            yield path, path.relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _uploads(root: Path, names: Path) -> Iterable[tuple[Path, str]]:
    """The files of an upload ticket lie under generated names; names.jsonl tells what the browser called them."""
    for line in names.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told = json.loads(line)
            stored, name = str(told["file"]), plain_name(str(told["name"]))
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off while it was written: that file never arrived
        if re.fullmatch(r"[0-9]+\.bin", stored) and (root / stored).is_file():
            yield root / stored, "/".join(p for p in name.split("/") if p not in ("", ".", "..")) or stored


def _sort_in(path: Path, name: str, gathered: Gathered, scratch: Path | None, alone: bool) -> None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        gathered.left.append(Left(name, 0, "skipped", "a link: put the file itself here"))
        return
    if not stat.S_ISREG(status.st_mode):
        gathered.left.append(Left(name, 0, "skipped", "no ordinary file"))
        return
    if reason := no_scan(name):
        gathered.left.append(Left(name, status.st_size, "skipped", reason))
        if name.lower().endswith(".csv"):
            gathered.left.pop()
            gathered.found.append(Found(path, name, status.st_size))  # perhaps the label table
        return
    if not status.st_size:
        gathered.left.append(Left(name, 0, "refused", "the file is empty"))
        return
    with open(path, "rb") as file:
        head = file.read(512)
    if kind := foreign_archive(head):
        gathered.left.append(
            Left(name, status.st_size, "refused", f"a {kind} archive: only zip is opened; unpack it first")
        )
        return
    if is_zip(head) and not name.lower().endswith(".npz"):
        _open_zip(path, name, status.st_size, gathered, scratch, alone)
        return
    gathered.found.append(Found(path, name, status.st_size))


def _open_zip(path: Path, name: str, size: int, gathered: Gathered, scratch: Path | None, alone: bool) -> None:
    inside = "" if alone else f"{name}/"
    try:
        if scratch is None:
            for info in listing(path):
                member = plain_name(info.filename)
                if not no_scan(member) or member.lower().endswith(".csv"):
                    gathered.found.append(Found(path, inside + member, info.file_size))
            return
        into = scratch / f"zip-{len(gathered.found)}-{len(gathered.left)}"
        into.mkdir(parents=True, mode=0o700)
        out, left = unpack(path, into)
    except ArchiveRefused as error:
        if alone:
            raise SourceRefused(str(error)) from None
        gathered.left.append(Left(name, size, "refused", str(error)))
        return
    for file in out:
        reason = no_scan(file.name)
        if reason and not file.name.lower().endswith(".csv"):
            file.path.unlink()
            gathered.left.append(Left(inside + file.name, file.bytes, "skipped", reason))
        elif not file.bytes:
            gathered.left.append(Left(inside + file.name, 0, "refused", "the file is empty"))
        else:
            gathered.found.append(Found(file.path, inside + file.name, file.bytes))
    gathered.left.extend(Left(inside + entry.name, entry.bytes, "refused", entry.reason) for entry in left)


def no_scan(name: str) -> str:
    """Why a file is no scan by its name alone, or "" when it may be one."""
    parts = PurePosixPath(name).parts
    lower = parts[-1].lower()
    if "__MACOSX" in parts or lower in _SYSTEM or lower.startswith("._"):
        return "a file of the operating system"
    if any(part.startswith(".") for part in parts):
        return "a hidden file"
    if lower == "dicomdir":
        return "a DICOM directory: the images it lists are read themselves"
    if lower.startswith(_PAPERS) or PurePosixPath(lower).suffix in _DOCUMENTS:
        return "a text or document, no scan"
    return ""


# -- what it means ---------------------------------------------------------------------------------------------------


def detect(root: Path, labels: Path | None = None) -> Source:
    """Guesses what a path holds, without unpacking or decoding; `words` says it for people.

    Raises:
        SourceRefused: nothing there, or nothing that could be a scan.
    """
    gathered = gather(root, None)
    kind = _kind(gathered.found, labels)
    source = Source(kind, Path(root), labels)
    scans = [found for found in gathered.found if not found.name.lower().endswith(".csv")]
    if not scans:
        raise SourceRefused("There is nothing here that could be a scan: only texts, documents or system files.")
    num = f"{len(scans):,} file{'s' if len(scans) != 1 else ''}"
    if kind == "medmnist":
        return replace(source, words="a MedMNIST file with its official splits")
    if kind == "csv":
        return replace(source, words=f"{num} and a label table")
    if kind == "classes":
        arrangement = _by_class(scans)
        split = " in an official split" if arrangement.official_split else ""
        names = ", ".join(arrangement.classes[:6]) + (", ..." if len(arrangement.classes) > 6 else "")
        return replace(source, words=f"a folder per class ({names}): {num}{split}")
    return replace(source, words=f"{num} without labels")


def arrange(source: Source, scratch: Path) -> Arrangement:
    """Gathers the files of a source and finds label, patient and side of each.

    Raises:
        SourceRefused: with everything that is wrong.
    """
    if source.kind not in KINDS:
        raise SourceRefused(f"The kind of source is unknown: choose one of {', '.join(KINDS)}.")
    pattern = _pattern(source.patient_pattern)
    gathered = gather(source.root, scratch)
    guessed = _kind(gathered.found, source.labels)
    kind = source.kind
    if source.labels and kind != "medmnist":
        kind = "csv"
    elif kind in ("files", "folder") and (kind == "files" or guessed == "medmnist"):
        kind = guessed
    if kind == "medmnist":
        return _as_npz(gathered)
    tables = [found for found in gathered.found if found.name.lower().endswith(".csv")]
    scans = [found for found in gathered.found if not found.name.lower().endswith(".csv")]
    if kind == "csv":
        arrangement = _by_table(source, scans, tables)
    elif kind == "classes":
        arrangement = _by_class(scans, asked=True)
    else:
        arrangement = Arrangement("folder", tuple(Item(found, bundle="") for found in scans), ())
    left = (*gathered.left, *arrangement.left)
    if kind != "csv":
        left += tuple(Left(t.name, t.bytes, "skipped", "a table, no scan") for t in tables)
    arrangement = replace(arrangement, left=left)
    if not source.group_series:
        arrangement = replace(arrangement, items=tuple(replace(item, bundle=None) for item in arrangement.items))
    if pattern:
        arrangement = _with_patients(arrangement, pattern)
    return arrangement


def _kind(found: Sequence[Found], labels: Path | None) -> str:
    scans = [f for f in found if not f.name.lower().endswith(".csv")]
    if len(scans) == 1 and scans[0].name.lower().endswith(".npz"):
        return "medmnist"
    if labels or _table(found):
        return "csv"
    arrangement = _by_class(scans)
    names = arrangement.classes
    like_ids = sum(bool(re.search(r"\d{3,}", name)) for name in names) > len(names) / 2
    if 2 <= len(names) <= 200 and not arrangement.left and not like_ids:
        return "classes"
    return "folder"


def _table(found: Sequence[Found]) -> Found | None:
    """The label table: labels.csv, or the only CSV when it lies at the top."""
    tables = [f for f in found if f.name.lower().endswith(".csv")]
    named = [f for f in tables if PurePosixPath(f.name).name.lower() == "labels.csv"]
    if named:
        return min(named, key=lambda f: len(PurePosixPath(f.name).parts))
    return None


def _as_npz(gathered: Gathered) -> Arrangement:
    arrays = [found for found in gathered.found if found.name.lower().endswith(".npz")]
    if len(arrays) != 1:
        raise SourceRefused(f"Expected one MedMNIST file (npz), found {len(arrays)}: give the path of the file itself.")
    others = [f for f in gathered.found if f is not arrays[0]]
    left = (*gathered.left, *(Left(f.name, f.bytes, "skipped", "not the MedMNIST file") for f in others))
    return Arrangement("medmnist", (), left, npz=arrays[0])


def _common(names: Sequence[PurePosixPath]) -> int:
    """How many leading folders all paths share."""
    folders = [name.parts[:-1] for name in names]
    shared = 0
    while folders and all(len(f) > shared and f[shared] == folders[0][shared] for f in folders):
        shared += 1
    return shared


def _by_class(scans: Sequence[Found], asked: bool = False) -> Arrangement:
    """Labels from folder names: <class>/... or <train|val|test>/<class>/..., below folders that all files share."""
    paths = [PurePosixPath(found.name) for found in scans]
    shared = _common(paths)
    if asked and shared and not any(len(path.parts) > shared + 1 for path in paths):
        shared -= 1  # one class only: its folder is not a wrapping
    tops = {path.parts[shared].lower() for path in paths if len(path.parts) > shared + 1}
    official = bool(tops) and tops <= set(SIDES) and any(len(path.parts) > shared + 2 for path in paths)
    official = official and len({SIDES[top] for top in tops}) > 1
    at = shared + 1 if official else shared
    items: list[Item] = []
    left: list[Left] = []
    for found, path in zip(scans, paths, strict=True):
        if len(path.parts) <= at + 1:
            left.append(Left(found.name, found.bytes, "refused", "it lies outside the class folders: it has no label"))
            continue
        split = SIDES.get(path.parts[shared].lower()) if official else None
        if official and split is None:
            left.append(Left(found.name, found.bytes, "refused", "it lies outside the train and test folders"))
            continue
        name = path.parts[at]
        items.append(Item(found, (name,), None, split, bundle="/".join(path.parts[: at + 1])))
    classes = tuple(sorted({item.labels[0] for item in items if item.labels}, key=natural))
    return Arrangement("classes", tuple(items), tuple(left), classes, official_split=official)


def _by_table(source: Source, scans: Sequence[Found], tables: Sequence[Found]) -> Arrangement:
    if source.labels:
        path, base = source.labels, ""
        if not path.is_file():
            raise SourceRefused("There is no label table at this path: check its spelling.")
        others = [t for t in tables if not t.path.samefile(path)]
        inside = [t for t in tables if t.path.samefile(path)]
        base = PurePosixPath(inside[0].name).parent.as_posix() if inside else ""
    else:
        found = _table(tables) or (tables[0] if len(tables) == 1 else None)
        if found is None:
            raise SourceRefused(
                f"Found {len(tables)} tables (CSV) in the source: name the one with the labels, or call it labels.csv."
            )
        path, base = found.path, PurePosixPath(found.name).parent.as_posix()
        inside, others = [found], [t for t in tables if t is not found]
    try:
        table = read_table(path)
    except TableRefused as error:
        raise SourceRefused(str(error)) from None
    items, notes = _match(table, scans, "" if base == "." else base)
    used = {item.found.name for item in items}
    left = [Left(f.name, f.bytes, "skipped", "not in the label table") for f in scans if f.name not in used]
    left += [Left(t.name, t.bytes, "skipped", "the label table") for t in inside]
    left += [Left(t.name, t.bytes, "skipped", "a table, no scan") for t in others]
    return Arrangement(
        "csv",
        tuple(items),
        tuple(left),
        table.classes,
        table.multi_label,
        "csv" if table.has_patient else "",
        table.has_split,
        notes=(*table.notes, *notes),
    )


def _match(table: Table, scans: Sequence[Found], base: str) -> tuple[list[Item], list[str]]:
    """Finds the file or folder that each row means."""
    by_name = {found.name: found for found in scans}
    by_base: dict[str, list[Found]] = {}
    by_folder: dict[str, list[Found]] = {}
    for found in scans:
        path = PurePosixPath(found.name)
        by_base.setdefault(path.name, []).append(found)
        for folder in path.parents:
            by_folder.setdefault(folder.as_posix(), []).append(found)
    missing: list[int] = []
    unclear: list[int] = []
    contradicting: list[int] = []
    loose = twice = 0
    chosen: dict[str, tuple[Row, Item]] = {}
    for row in table.rows:
        name = plain_name(row.file).rstrip("/")
        hits: list[Found] = []
        bundle: str | None = None
        for candidate in (f"{base}/{name}" if base else name, name):
            if candidate in by_name:
                hits = [by_name[candidate]]
            elif candidate in by_folder and candidate != ".":
                hits, bundle = by_folder[candidate], candidate
            if hits:
                break
        if not hits:
            similar = by_base.get(PurePosixPath(name).name, [])
            if len(similar) > 1:
                unclear.append(row.line)
                continue
            hits = similar
            loose += len(similar)
        if not hits:
            missing.append(row.line)
        for found in hits:
            if found.name in chosen:
                before = chosen[found.name][0]
                same = (before.labels, before.patient, before.split) == (row.labels, row.patient, row.split)
                twice += same
                if not same:
                    contradicting.append(row.line)
                continue
            chosen[found.name] = (row, Item(found, row.labels, row.patient, row.split, bundle))
    problems = []
    if missing:
        problems.append(f"{rows_in_words(missing)} name{'s' if len(missing) == 1 else ''} a file that is not there")
    if unclear:
        problems.append(f"{rows_in_words(unclear)} could mean several files of that name: give the path")
    if contradicting:
        problems.append(
            f"{rows_in_words(contradicting)} contradict{'s' if len(contradicting) == 1 else ''} earlier rows"
        )
    if problems:
        raise SourceRefused(f"The label table cannot be used: {'; '.join(problems)}. Correct it and import again.")
    notes = []
    if loose:
        notes.append(f"{loose} row{'s were' if loose > 1 else ' was'} matched by the bare file name")
    if twice:
        notes.append(f"{twice} repeated row{'s were' if twice > 1 else ' was'} read once")
    return [item for _, item in chosen.values()], notes


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if not text:
        return None
    if len(text) > _MAX_PATTERN:
        raise SourceRefused(f"The patient pattern is longer than {_MAX_PATTERN} characters.")
    try:
        pattern = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise SourceRefused(
            f"The patient pattern is no regular expression ({error}): write for example ^(\\w+)_ for names such as "
            "p01_left.png."
        ) from None
    if pattern.groups != 1:
        raise SourceRefused(
            f"The patient pattern has {pattern.groups} groups in round brackets; expected exactly one, around the part "
            "of the name that tells the patient, such as ^(\\w+)_."
        )
    return pattern


def _with_patients(arrangement: Arrangement, pattern: re.Pattern[str]) -> Arrangement:
    items, without = [], 0
    for item in arrangement.items:
        match = pattern.search(item.found.name)
        if not match or not (match.group(1) or "").strip():
            without += 1
            continue
        items.append(replace(item, patient=match.group(1)))
    if without:
        raise SourceRefused(
            f"The patient pattern finds no patient in {without} of {len(arrangement.items)} file names: every name "
            "must match, else patients would be mixed. Change the pattern or leave those files out."
        )
    return replace(arrangement, items=tuple(items), patient_source="filename")
