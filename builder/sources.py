"""What the files of a source mean: which kind of collection they are, and the label, patient and side of each.

Nothing is decoded here. Every file gathered ends in the arrangement: as an item to read, or left aside with a reason.
"""

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from builder.archives import plain_name
from builder.arrangement import Arrangement, Item, sides_of_folders
from builder.boxed_sources import KINDS as BOX_KINDS
from builder.boxed_sources import arranged, seen
from builder.boxfiles import BoxList, Drawn
from builder.gathering import Found, Gathered, Left, SourceRefused, gather, head_of
from builder.layouts import IMAGE_FOLDERS, Outlined, outlined, paired
from builder.medmnist import MedMNIST, NotMedMNIST
from builder.tables import MAX_CLASSES, SIDES, Row, Table, TableRefused, natural, read_table, rows_in_words, tells
from builder.task import find

__all__ = [
    "KINDS",
    "KIND_WORDS",
    "Arrangement",
    "Found",
    "Item",
    "Source",
    "SourceRefused",
    "arrange",
    "detect",
    "gather",
]

KINDS = ("folder", "classes", "csv", "medmnist", *BOX_KINDS, "masks", "pairs", "files")

_MAX_PATTERN = 300
_SOURCE = re.compile(
    r"(?i)(site|cent(er|re)|hospital|clinic|institution|scanner|vendor|source|cohort|collection)s?[ _.-]*\w*$"
)
"""Names of folders that are sources of scans, and no classes."""
_LONE_CLASS = (  # without the folder's name, which may tell a person
    "all scans lie in one folder and were imported without labels: if that folder is a class, import again as a folder "
    "per class (--kind classes), or with a table of labels (CSV)"
)


@dataclass(frozen=True)
class Source:
    """What to import.

    Attributes:
        kind: "folder" (no labels), "classes" (a folder per class, perhaps below train/val/test), "csv" (a label table),
            "medmnist" (a npz), "voc", "yolo" or "coco" (boxes in files of these formats), "masks" (scans, and masks of
            them), "pairs" (scans, and the clean scan to each), or "files" (whatever was dropped: told from what is
            there). Masks beside their scans are found with classes, too.
        root: a folder, a zip, a npz, or a single file.
        labels: the label table, COCO file or data.yaml; None takes the one that lies in the root.
        patient_pattern: regular expression with one group that finds the patient in a relative path.
        group_series: whether the DICOM files of one series become one case (else each file is its own).
        synthetic: the scans are made up.
        words: what `detect` saw, for people. choices: the kinds that it may be of, the likeliest first.
        label_kind: which labels come with it: "class", "boxes", "outline", "picture" (see `Task.label_kind`) or "".
    """

    kind: str
    root: Path
    labels: Path | None = None
    patient_pattern: str | None = None
    group_series: bool = True
    synthetic: bool = False
    words: str = ""
    choices: tuple[str, ...] = ()
    label_kind: str = ""

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


def detect(root: Path, labels: Path | None = None, task: str = "", kind: str = "") -> Source:
    """Guesses what a path holds, without unpacking or decoding; `words` says it for people.

    Args:
        labels: a label table (CSV), a COCO file (JSON) or a data.yaml that lies elsewhere.
        task: what shall be learned, where that is known: folders called low and high are pairs for image_enhancement,
            classes for others.
        kind: one of `KINDS`, where people know better than the guess; "" guesses.
    Raises:
        SourceRefused: nothing there, nothing that could be a scan, or nothing of that kind.
    """
    root, labels = _table_as_root(Path(root), labels)
    gathered = gather(root, None)
    scans = _scans(gathered)
    if not scans:
        raise SourceRefused("There is nothing here that could be a scan: only texts, documents or system files.")
    choices = _choices(gathered, labels, task)
    chosen = kind or choices[0]
    words, label_kind = _seen_as(chosen, gathered, labels)
    if not kind and chosen in (*BOX_KINDS, "csv") and choices[1:2] not in ((), ("folder",)):
        words += f"; it could also be read as {KIND_WORDS[choices[1]]}"
    return Source(chosen, root, labels, words=words, choices=choices, label_kind=label_kind)


def _seen_as(kind: str, gathered: Gathered, labels: Path | None) -> tuple[str, str]:
    """(what is there, in words, if it is read as `kind`; which labels come with it)."""
    scans = _scans(gathered)
    num = every = f"{len(scans):,} file{'s' if len(scans) != 1 else ''}"
    if kind == "medmnist":
        return "a MedMNIST file with its official splits", "class"
    if kind == "csv":
        table = Found(labels, labels.name, 0) if labels else _table(gathered.found)
        return f"{num} and a label table", (tells(head_of(table, 1 << 16)) if table else "") or "class"
    if kind in BOX_KINDS:
        return f"{num} with boxes in {KIND_WORDS[kind]}", "boxes"
    if kind == "pairs":
        pairs = paired(scans, unclear=True)
        if pairs is None:
            raise SourceRefused(_NO_PAIRS)
        more = f"; {len(pairs.left)} files have no partner" if pairs.left else ""
        return f"{len(pairs.scans):,} pairs of a scan and its clean scan{more}", "picture"
    parted = outlined(scans)
    masks = f", {parted.num:,} of them with a mask" if parted.num else ""
    num = f"{len(parted.scans):,} file{'s' if len(parted.scans) != 1 else ''}"
    if kind == "classes":
        arrangement = _by_class(parted.scans, asked=True)
        split = " in an official split" if arrangement.official_split else ""
        names = ", ".join(arrangement.classes[:6]) + (", ..." if len(arrangement.classes) > 6 else "")
        return f"a folder per class ({names}): {num}{split}{masks}", "outline" if parted.num else "class"
    if kind == "masks":
        return f"{num}{masks}", "outline"
    several = len(_by_class(scans).classes) > 1
    hint = "; if its folders are the classes, choose a folder per class" if several else ""
    hint = "; if its only folder is a class, choose a folder per class" if _lone_class(scans) else hint
    return f"{every} without labels{hint}", ""


KIND_WORDS = {
    "voc": "Pascal-VOC files",
    "yolo": "YOLO files",
    "coco": "a COCO file",
    "csv": "a label table",
    "pairs": "pairs of a scan and its clean scan",
    "masks": "scans with masks",
    "classes": "a folder per class",
    "folder": "scans without labels",
    "medmnist": "a MedMNIST file",
}


def _scans(gathered: Gathered) -> list[Found]:
    return [found for found in gathered.found if not found.name.lower().endswith(".csv")]


def new_classes(source: Source, known: Sequence[str]) -> tuple[str, ...]:
    """The classes that a source names and a dataset with the classes `known` has not, in the order of the source.

    No scan is decoded, and of a zip only tables and texts are unpacked.

    Raises:
        SourceRefused: as `arrange`.
    """
    with tempfile.TemporaryDirectory(prefix="scanloom-") as scratch:
        arrangement = arrange(source, Path(scratch), only_labels=True)
        classes = arrangement.classes
        if arrangement.npz:
            try:
                classes = MedMNIST(arrangement.npz.path, PurePosixPath(arrangement.npz.name).name).classes
            except NotMedMNIST as error:
                raise SourceRefused(str(error)) from None
    return tuple(name for name in classes if name not in known)


def spelled_alike(new: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """{new name: the known one that it differs from only by capitals, spaces, hyphens or a plural s}."""

    def bare(name: str) -> str:
        return re.sub(r"[\W_]+", "", name.casefold()).removesuffix("s")

    there = {bare(name): name for name in known}
    return {name: there[bare(name)] for name in new if bare(name) in there}


def arrange(source: Source, scratch: Path, only_labels: bool = False) -> Arrangement:
    """Gathers the files of a source and finds label, patient and side of each.

    Args:
        only_labels: as `gather`; enough to see what the source says, not to read its scans.
    Raises:
        SourceRefused: with everything that is wrong.
    """
    if source.kind not in KINDS:
        raise SourceRefused(f"The kind of source is unknown: choose one of {', '.join(KINDS)}.")
    pattern = _pattern(source.patient_pattern)
    root, labels = _table_as_root(source.root, source.labels)
    source = replace(source, root=root, labels=labels)
    gathered = gather(source.root, scratch, only_labels)
    guessed = _choices(gathered, source.labels)[0]
    kind = source.kind
    has_table = source.labels is not None and kind not in ("medmnist", *BOX_KINDS)
    if has_table or kind == "files" or (kind == "folder" and guessed == "medmnist"):
        kind = guessed
    if kind == "medmnist":
        return _as_npz(gathered)
    tables = [found for found in gathered.found if found.name.lower().endswith(".csv")]
    scans, texts = _scans(gathered), gathered.texts
    if source.labels and kind in BOX_KINDS:
        texts = _with_labels(texts, source.labels)
    if kind in BOX_KINDS:
        arrangement = arranged(kind, scans, texts)
    elif kind == "csv":
        arrangement = _by_table(source, scans, tables, texts)
    elif kind == "pairs":
        arrangement = _as_pairs(scans)
    else:
        arrangement = _as_folders(kind, scans, texts)
    left = (*gathered.left, *arrangement.left)
    if kind != "csv":
        left += tuple(Left(t.name, t.bytes, "skipped", "a table, no scan") for t in tables)
    if kind not in BOX_KINDS:
        told = {one.name for one in left}
        left += tuple(Left(t.name, t.bytes, "skipped", _NO_SCAN) for t in texts if t.name not in told)
    arrangement = replace(arrangement, left=left)
    if not source.group_series:
        arrangement = replace(arrangement, items=tuple(replace(item, bundle=None) for item in arrangement.items))
    if pattern:
        arrangement = _with_patients(arrangement, pattern)
    return arrangement


_NO_SCAN = "a text or document, no scan"
_NO_PAIRS = (
    "There are no pairs here: expected two folders such as input and target, or noisy and clean, with files of the "
    "same names, or a table (CSV) with the columns file and target."
)


def _with_labels(texts: Sequence[Found], labels: Path) -> list[Found]:
    """The label file that somebody named, and of the texts those that tell no boxes of another kind."""
    if not labels.is_file():
        raise SourceRefused("There is no label file at this path: check its spelling.")
    inside = [text for text in texts if text.path.samefile(labels)]
    if labels.suffix.lower() == ".json":  # this one and no other
        return inside or [Found(labels, labels.name, labels.stat().st_size)]
    return [*texts, *([] if inside else [Found(labels, labels.name, labels.stat().st_size)])]


def _as_pairs(scans: Sequence[Found]) -> Arrangement:
    pairs = paired(scans, unclear=True)
    if pairs is None:
        raise SourceRefused(_NO_PAIRS)
    sides = sides_of_folders([scan.name for scan in pairs.scans])
    items = tuple(
        Item(scan, split=sides.get(scan.name), bundle=_folder(scan), target=pairs.targets[scan.name])
        for scan in pairs.scans
    )
    return Arrangement("pairs", items, tuple(pairs.left), official_split=bool(sides))


def _folder(found: Found) -> str:
    return PurePosixPath(found.name).parent.as_posix()


def _as_folders(kind: str, scans: Sequence[Found], texts: Sequence[Found]) -> Arrangement:
    """Scans in folders: a class each or not, with masks or without."""
    parted = Outlined(scans=list(scans)) if kind == "folder" else outlined(scans)
    if kind == "classes":
        arrangement = _by_class(parted.scans, asked=True)
    elif kind == "masks":
        if not parted.masks:
            raise SourceRefused(
                "There are no masks here: expected a folder of masks beside that of the images, with files of the same "
                "names, or masks beside their scans that end in _mask, _label or _seg."
            )
        sides = sides_of_folders([scan.name for scan in parted.scans])
        sides = sides if all(scan.name in parted.masks for scan in parted.scans) else {}
        items = tuple(Item(scan, split=sides.get(scan.name), bundle=_folder(scan)) for scan in parted.scans)
        arrangement = Arrangement("masks", items, (), official_split=bool(sides))
    else:
        notes = (_LONE_CLASS,) if _lone_class(scans) else ()
        arrangement = Arrangement("folder", tuple(Item(found, bundle="") for found in scans), (), notes=notes)
    names, left = _mask_names(texts) if parted.masks else ((), [])
    items = tuple(
        replace(
            item,
            masks=tuple(parted.masks.get(item.found.name, ())),
            patient=parted.channels.get(item.found.name, item.patient),
        )
        for item in arrangement.items
    )
    taken = {item.found.name for item in items}
    orphans = [
        Left(mask.name, mask.bytes, "refused", "its scan was not taken")
        for mask in dict.fromkeys(m for scan, masks in parted.masks.items() if scan not in taken for m in masks)
        if not any(mask in item.masks for item in items)
    ]
    return replace(
        arrangement,
        items=items,
        left=(*arrangement.left, *parted.left, *left, *orphans),
        patient_source="filename" if parted.channels else arrangement.patient_source,
        mask_names=names,
    )


def _mask_names(texts: Sequence[Found]) -> tuple[tuple[tuple[int, str], ...], list[Left]]:
    """What a dataset.json (nnU-Net, Medical Decathlon) calls the values of masks; () without one."""
    for text in texts:
        if PurePosixPath(text.name).name.lower() != "dataset.json" or text.bytes > 1 << 24:
            continue
        labels: Any = None
        try:
            labels = json.loads(text.path.read_bytes()).get("labels")
        except (OSError, ValueError, AttributeError, RecursionError):
            labels = None
        if not isinstance(labels, dict):
            continue
        pairs = [(value, name) if isinstance(value, int) else (name, value) for name, value in labels.items()]
        names = {
            int(value): str(name).strip()
            for value, name in pairs
            if str(value).isdecimal() and 0 < int(value) < 65536 and 0 < len(str(name).strip()) <= 100
        }
        if names and len(set(names.values())) == len(names) and all(name.isprintable() for name in names.values()):
            return tuple(sorted(names.items())), [Left(text.name, text.bytes, "skipped", "the names of the structures")]
    return (), []


def _table_as_root(root: Path, labels: Path | None) -> tuple[Path, Path | None]:
    """Whoever names a label file means the files beside it."""
    is_label = root.suffix.lower() in (".csv", ".json", ".yaml", ".yml") and not root.is_dir()
    return (root.parent, root) if labels is None and is_label else (root, labels)


def _choices(gathered: Gathered, labels: Path | None, task: str = "") -> tuple[str, ...]:
    """The kinds that a source may be of, the likeliest first; after "folder" those that somebody must say."""
    scans = _scans(gathered)
    if len(scans) == 1 and scans[0].name.lower().endswith(".npz"):
        return ("medmnist",)
    if labels:
        return ({".json": "coco", ".yaml": "yolo", ".yml": "yolo"}.get(labels.suffix.lower(), "csv"),)
    found = ["csv"] if _table(gathered.found) else []
    found += seen(gathered.texts)
    wanted = bool(task) and "picture" in find(task).learns
    pairs = paired(scans, unclear=wanted)
    found += ["pairs"] if pairs and (not pairs.left or wanted) else []
    parted = outlined(scans)
    arrangement = _by_class(parted.scans)
    names = arrangement.classes
    by_class = 2 <= len(names) <= 200 and not arrangement.left and not _by_patient(parted.scans, names)
    if by_class and parted.masks and {name.lower() for name in names} <= {*SIDES, *IMAGE_FOLDERS}:
        by_class = False
    found += ["classes"] if by_class else []
    found += ["masks"] if parted.masks else []
    said = ["classes"] if len(names) > 1 or (not found and _lone_class(scans)) else []
    said += ["pairs"] if pairs or paired(scans, unclear=True) else []
    # "folder" also for DICOM trees: their folders are mostly called after patients
    return (*dict.fromkeys((*found, "folder", *said)),)


def _by_patient(scans: Sequence[Found], names: Sequence[str]) -> bool:
    """Whether folders of these names look like those of patients or series."""
    like_ids = sum(bool(re.search(r"\d{3,}", name)) for name in names) > len(names) / 2
    return like_ids or sum(f.suffix in ("", ".dcm", ".dicom", ".ima") for f in scans) > len(scans) / 2


def _lone_class(scans: Sequence[Found]) -> bool:
    """Whether all scans lie in one folder that could be a class."""
    paths = [PurePosixPath(found.name) for found in scans]
    shared = _common(paths)
    if not shared or any(len(path.parts) > shared + 1 for path in paths):
        return False
    return not _by_patient(scans, [paths[0].parts[shared - 1]])


def _table(found: Sequence[Found]) -> Found | None:
    """The label table: labels.csv, or the only CSV whose first line tells boxes, masks or clean scans of files."""
    tables = [f for f in found if f.name.lower().endswith(".csv")]
    named = [f for f in tables if PurePosixPath(f.name).name.lower() == "labels.csv"]
    if named:
        return min(named, key=lambda f: len(PurePosixPath(f.name).parts))
    return tables[0] if len(tables) == 1 and tells(head_of(tables[0], 1 << 16)) else None


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
    """Labels from folder names: <class>/... or <train|val|test>/<class>/..., below folders that all files share.

    <source>/<class>/... is understood where the upper folders call themselves sources ("site 1", "hospital-b") and each
    holds folders of classes that another one holds, too; <class>/<whatever>/... looks the same, so it takes the word.
    """
    paths = [PurePosixPath(found.name) for found in scans]
    shared = _common(paths)
    if asked and shared and not any(len(path.parts) > shared + 1 for path in paths):
        shared -= 1  # one class only: its folder is not a wrapping
    tops = {path.parts[shared].lower() for path in paths if len(path.parts) > shared + 1}
    official = bool(tops) and tops <= set(SIDES) and any(len(path.parts) > shared + 2 for path in paths)
    official = official and len({SIDES[top] for top in tops}) > 1
    by_source = not official and _are_sources(paths, shared)
    at = shared + 1 if official or by_source else shared
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
        name, told = path.parts[at], {"source": path.parts[shared]} if by_source else {}
        items.append(Item(found, (name,), None, split, bundle="/".join(path.parts[: at + 1]), attributes=told))
    classes = tuple(sorted({item.labels[0] for item in items if item.labels}, key=natural))
    if asked and any(len(name) > 100 or not name.isprintable() for name in classes):
        raise SourceRefused("Some class folders have names of over 100 or of unprintable characters: rename them.")
    if asked and len(classes) > MAX_CLASSES:
        raise SourceRefused(f"There are {len(classes)} class folders; at most {MAX_CLASSES} classes can be learned.")
    return Arrangement("classes", tuple(items), tuple(left), classes, official_split=official)


def _are_sources(paths: Sequence[PurePosixPath], shared: int) -> bool:
    """Whether the folders at this depth are sources, each with folders of classes below."""
    below: dict[str, set[str]] = {}
    for path in paths:
        if len(path.parts) > shared + 1:
            below.setdefault(path.parts[shared], set())
        if len(path.parts) > shared + 2:
            below[path.parts[shared]].add(path.parts[shared + 1])
    sets = list(below.values())
    return (
        len(below) > 1
        and all(map(_SOURCE.match, below))
        and all(own and any(own & other for k, other in enumerate(sets) if k != n) for n, own in enumerate(sets))
    )


def _by_table(source: Source, scans: Sequence[Found], tables: Sequence[Found], texts: Sequence[Found]) -> Arrangement:
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
    parted = Outlined(scans=list(scans)) if table.has_mask or table.has_target else outlined(scans)
    items, notes = _match(table, parted.scans, "" if base == "." else base)
    if parted.masks:
        items = [replace(item, masks=tuple(parted.masks.get(item.found.name, ()))) for item in items]
    used = {item.found.name for item in items} | {mask.name for item in items for mask in item.masks}
    used |= {item.target.name for item in items if item.target}
    used |= {orphan.name for orphan in parted.left}
    left = [Left(f.name, f.bytes, "skipped", "not in the label table") for f in scans if f.name not in used]
    left += parted.left
    mask_names, told = _mask_names(texts) if any(item.masks for item in items) else ((), [])
    left += [*told, *(Left(t.name, t.bytes, "skipped", "the label table") for t in inside)]
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
        mask_names=mask_names,
    )


class _Names:
    """Finds the file or folder that a label file means."""

    def __init__(self, scans: Sequence[Found], base: str) -> None:
        self._base = base
        self._by_name = {found.name: found for found in scans}
        self._by_base: dict[str, list[Found]] = {}
        self._by_folder: dict[str, list[Found]] = {}
        for found in scans:
            path = PurePosixPath(found.name)
            self._by_base.setdefault(path.name, []).append(found)
            for folder in path.parents:
                self._by_folder.setdefault(folder.as_posix(), []).append(found)
        self.loose = 0

    def find(self, name: str) -> tuple[list[Found], str | None]:
        """(files, bundle): one file, all files of a folder (then with a bundle), none, or several of that bare name."""
        name = plain_name(name).rstrip("/")
        for candidate in (f"{self._base}/{name}" if self._base else name, name):
            if candidate in self._by_name:
                return [self._by_name[candidate]], None
            if candidate in self._by_folder and candidate != ".":
                return self._by_folder[candidate], candidate
        similar = self._by_base.get(PurePosixPath(name).name, [])
        self.loose += len(similar) == 1
        return similar, None


def _match(table: Table, scans: Sequence[Found], base: str) -> tuple[list[Item], list[str]]:
    """Finds the file or folder that each row means, its masks and its clean scan."""
    names = _Names(scans, base)
    missing: list[int] = []
    unclear: list[int] = []
    contradicting: list[int] = []
    twice = 0
    chosen: dict[str, tuple[Row, Item]] = {}

    def one(name: str, line: int) -> Found | None:
        hits, bundle = names.find(name)
        if len(hits) == 1:
            return hits[0]
        (unclear if hits and not bundle else missing).append(line)
        return None

    for row in table.rows:
        hits, bundle = names.find(row.file)
        if len(hits) > 1 and bundle is None:
            unclear.append(row.line)
            continue
        if not hits:
            missing.append(row.line)
        masks = tuple(found for name in row.masks if (found := one(name, row.line)))
        target = one(row.target, row.line) if row.target else None
        boxes = _drawn(row, whole=bundle is not None) if table.boxed else None
        says = table.has_label and not row.unknown and bool(row.labels or table.multi_label)
        labels = row.labels if says else None
        for found in hits:
            item = Item(found, labels, row.patient, row.split, bundle, boxes, masks, target, row.attributes)
            if found.name not in chosen:
                chosen[found.name] = (row, item)
                continue
            before, earlier = chosen[found.name]
            told = (earlier.labels, earlier.patient, earlier.split, earlier.masks, earlier.target)
            if told != (labels, row.patient, row.split, masks, target):
                contradicting.append(row.line)
            elif boxes is None or earlier.boxes is None:
                twice += 1
            elif not boxes.boxes or not earlier.boxes.boxes:
                (contradicting.append(row.line) if boxes != earlier.boxes else None)
                twice += boxes == earlier.boxes
            else:
                joined = replace(earlier.boxes, boxes=earlier.boxes.boxes + boxes.boxes)
                chosen[found.name] = (before, replace(earlier, boxes=joined))
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
    if names.loose:
        notes.append(f"{names.loose} row{'s were' if names.loose > 1 else ' was'} matched by the bare file name")
    if twice:
        notes.append(f"{twice} repeated row{'s were' if twice > 1 else ' was'} read once")
    return [item for _, item in chosen.values()], notes


def _drawn(row: Row, whole: bool) -> BoxList:
    return BoxList((Drawn(*row.box, row.labels[0], row.slice),) if row.box else (), whole=whole)


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
