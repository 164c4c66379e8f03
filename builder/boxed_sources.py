"""Sources whose boxes lie in label files: which file tells of which picture, the classes, and the side of each.

Nothing of a picture is decoded here; a label file without its picture, or one that cannot be used, is left aside by
name with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from builder.archives import plain_name
from builder.arrangement import Arrangement, Item, nearest, side_of_folder, sides_of_folders, stem
from builder.boxfiles import (
    YOLO_LINE,
    BoxList,
    Coco,
    LabelFileRefused,
    read_coco,
    read_voc,
    read_yolo,
    read_yolo_names,
)
from builder.gathering import Found, Left, SourceRefused, head_of
from builder.layouts import of_stem
from builder.tables import MAX_CLASSES, SIDES, natural

KINDS = ("voc", "yolo", "coco")
_NAMES = ("classes.txt", "obj.names", "names.txt", "predefined_classes.txt", "labels.txt", "_darknet.labels")
_LISTS = {**SIDES, "trainval": "train"}
_HEAD_BYTES = 1 << 16
_PEEKS = 5
_CONTRADICT = "Two label files contradict each other about this scan: none of them was used."
_NO_PICTURE = "The picture that it tells of is not in this import."


def seen(texts: Sequence[Found]) -> tuple[str, ...]:
    """The kinds of label files that seem to be there, the likeliest first; nothing is read but their beginnings."""
    ending: dict[str, list[Found]] = {}
    for found in texts:
        ending.setdefault(PurePosixPath(found.name).suffix.lower(), []).append(found)
    tests: dict[str, tuple[list[Found], Callable[[bytes], bool]]] = {
        "voc": (ending.get(".xml", []), lambda head: b"<annotation" in head),
        "coco": (ending.get(".json", []), _like_coco),
        "yolo": ([found for found in ending.get(".txt", []) if _may_tell_boxes(found)], _like_yolo),
    }
    return tuple(
        kind for kind, (files, test) in tests.items() if any(test(head_of(f, _HEAD_BYTES)) for f in _some(files))
    )


def _some(files: Sequence[Found]) -> list[Found]:
    """A few of the files, spread over them all; files without a byte tell nothing."""
    full = [found for found in files if found.bytes]
    step = max(1, len(full) // _PEEKS)
    return full[::step][:_PEEKS]


def _like_coco(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{" and any(
        part in head for part in (b'"images"', b'"annotations"', b'"categories"')
    )


def _like_yolo(head: bytes) -> bool:
    lines = [line for line in head.decode("utf-8", "replace").splitlines()[:3] if line.strip()]
    return bool(lines) and bool(YOLO_LINE.match(lines[0]))


def _may_tell_boxes(found: Found) -> bool:
    name = PurePosixPath(found.name).name.lower()
    return name not in _NAMES and stem(name) not in _LISTS


def arranged(kind: str, scans: Sequence[Found], texts: Sequence[Found]) -> Arrangement:
    """Gives every picture what the label files of a kind say of it.

    Raises:
        SourceRefused: no usable label file, a COCO file that contradicts itself, or lists of a split that do.
    """
    used = {"voc": _voc, "yolo": _yolo, "coco": _coco}[kind](scans, texts)
    told = {left.name for left in used.left} | {
        item.boxes.found.name for item in used.items if item.boxes and item.boxes.found
    }
    spare = tuple(Left(t.name, t.bytes, "skipped", "a text or document, no scan") for t in texts if t.name not in told)
    classes = used.classes
    if not any(item.boxes for item in used.items):
        raise SourceRefused("None of the label files tells of a picture that is in this import: nothing was imported.")
    if len(classes) > MAX_CLASSES:
        raise SourceRefused(f"The label files name {len(classes)} classes; at most {MAX_CLASSES} can be learned.")
    return replace(used, left=(*used.left, *spare))


# -- a file for each picture ----------------------------------------------------------------------------------------


def _voc(scans: Sequence[Found], texts: Sequence[Found]) -> Arrangement:
    files = [found for found in texts if PurePosixPath(found.name).suffix.lower() == ".xml"]
    find, by_name = of_stem(scans), _by_bare_name(scans)
    told: dict[str, list[BoxList]] = {}
    left: list[Left] = []
    for found in files:
        try:
            voc = read_voc(_bytes(found))
        except LabelFileRefused as error:
            left.append(Left(found.name, found.bytes, "refused", str(error)))
            continue
        hits = find(found.name) or nearest(found.name, by_name.get(PurePosixPath(voc.filename).name, []))
        _give(found, voc.boxes, hits, told, left)
    return _each_told("voc", scans, texts, told, left, ())


def _yolo(scans: Sequence[Found], texts: Sequence[Found]) -> Arrangement:
    names: tuple[str, ...] = ()
    left: list[Left] = []
    for found in texts:
        lower = PurePosixPath(found.name).name.lower()
        if lower not in _NAMES and PurePosixPath(lower).suffix not in (".yaml", ".yml", ".names"):
            continue
        try:
            own = read_yolo_names(found.name, _bytes(found))
        except LabelFileRefused as error:
            left.append(Left(found.name, found.bytes, "skipped", str(error)))
            continue
        if names and own != names:
            raise SourceRefused(
                "Two files name the classes of the YOLO labels differently (data.yaml, classes.txt): keep one of them."
            )
        names = own
        left.append(Left(found.name, found.bytes, "skipped", "the names of the classes"))
    is_used = {one.name for one in left}
    files = [
        found
        for found in texts
        if PurePosixPath(found.name).suffix.lower() == ".txt" and found.name not in is_used and _may_tell_boxes(found)
    ]
    find = of_stem(scans)
    told: dict[str, list[BoxList]] = {}
    for found in files:
        try:
            boxes = read_yolo(_bytes(found), names)
        except LabelFileRefused as error:
            left.append(Left(found.name, found.bytes, "refused", str(error)))
            continue
        _give(found, boxes, find(found.name), told, left)
    return _each_told("yolo", scans, texts, told, left, names)


def _give(
    found: Found, boxes: BoxList, hits: Sequence[Found], told: dict[str, list[BoxList]], left: list[Left]
) -> None:
    if len(hits) == 1:
        told.setdefault(hits[0].name, []).append(replace(boxes, found=found))
        return
    reason = "It could mean several pictures of this name: put it beside its own." if hits else _NO_PICTURE
    left.append(Left(found.name, found.bytes, "refused", reason))


def _each_told(
    kind: str,
    scans: Sequence[Found],
    texts: Sequence[Found],
    told: Mapping[str, list[BoxList]],
    left: list[Left],
    names: Sequence[str],
) -> Arrangement:
    """The arrangement of pictures that have a label file each, or none: then nobody is taken to have looked at them."""
    items: list[Item] = []
    for scan in scans:
        lists = told.get(scan.name, [])
        boxes = lists[0] if lists else None
        same = all((one.boxes, one.size_px) == (lists[0].boxes, lists[0].size_px) for one in lists)
        for spare in lists[1:] if same else lists:
            assert spare.found is not None
            status, reason = ("skipped", "it says the same as another label file") if same else ("refused", _CONTRADICT)
            left.append(Left(spare.found.name, spare.found.bytes, status, reason))
        if lists and not same:
            boxes = BoxList((), problem=_CONTRADICT)
        items.append(Item(scan, bundle="", boxes=boxes))
    notes = []
    num = sum(item.boxes is None for item in items)
    if num:
        are = "scans have" if num > 1 else "scan has"
        notes.append(
            f"{num} {are} no label file and count as not labelled: where nothing is on a scan, an empty file says so"
        )
    occurring = {box.name for item in items for box in (item.boxes.boxes if item.boxes else ())}
    classes = tuple(n for n in dict.fromkeys(names) if n in occurring) or tuple(sorted(occurring, key=natural))
    sides, more = _sides(scans, texts, left)
    items = [replace(item, split=sides.get(item.found.name)) for item in items]
    return Arrangement(kind, tuple(items), tuple(left), classes, official_split=bool(sides), notes=(*notes, *more))


def _sides(scans: Sequence[Found], texts: Sequence[Found], left: list[Left]) -> tuple[Mapping[str, str], list[str]]:
    """{scan: side} by the lists train.txt, val.txt, test.txt, else by folders of these names; {} without either."""
    lists = [
        found
        for found in texts
        if PurePosixPath(found.name).suffix.lower() == ".txt" and stem(found.name).lower() in _LISTS
    ]
    if not lists:
        return sides_of_folders([scan.name for scan in scans]), []
    own = [found for found in lists if stem(found.name).lower() != "trainval"]
    find = of_stem(scans)
    sides: dict[str, str] = {}
    contradicting, missing = set(), 0
    for found in own or lists:
        side = _LISTS[stem(found.name).lower()]
        for line in _bytes(found).decode("utf-8", "replace").splitlines():
            words = line.strip().split("\t")[0].rsplit(" ", 1)
            name = words[0] if len(words) == 1 or words[1] in ("1", "-1", "0") else line.strip()
            if not name:
                continue
            suffixed = name if PurePosixPath(name).suffix else f"{name}.png"
            hits = find(plain_name(suffixed))
            missing += not hits
            for scan in hits[:1] if len(hits) == 1 else ():
                if sides.setdefault(scan.name, side) != side:
                    contradicting.add(scan.name)
    if contradicting:
        num = len(contradicting)
        raise SourceRefused(
            f"{num} picture{'s stand' if num > 1 else ' stands'} in two lists of the split (train, val, test): correct "
            "the lists and import again."
        )
    left += [Left(found.name, found.bytes, "skipped", "a list of the split") for found in lists]
    if not sides:
        return {}, ["the lists of a split name no picture of this import and were not used"]
    notes = []
    if missing:
        notes.append(
            f"the lists of the split name {missing} picture{'s that are' if missing > 1 else ' that is'} not here"
        )
    unlisted = [scan.name for scan in scans if scan.name not in sides]
    if unlisted:
        num = len(unlisted)
        notes.append(f"{num} scan{'s stand' if num > 1 else ' stands'} in no list of the split: put into train")
        sides.update(dict.fromkeys(unlisted, "train"))
    return sides, notes


# -- one file for all -------------------------------------------------------------------------------------------------


def _coco(scans: Sequence[Found], texts: Sequence[Found]) -> Arrangement:
    left: list[Left] = []
    files: list[tuple[Found, Coco]] = []
    for found in texts:
        if PurePosixPath(found.name).suffix.lower() != ".json" or not _like_coco(head_of(found, _HEAD_BYTES)):
            continue
        try:
            files.append((found, read_coco(_bytes(found))))
        except LabelFileRefused as error:
            raise SourceRefused(str(error)) from None
        left.append(Left(found.name, found.bytes, "skipped", "the label file"))
    by_name, by_bare = {scan.name: scan for scan in scans}, _by_bare_name(scans)
    sides_of_files = [_side_of(found) for found, _ in files]
    official = all(sides_of_files) and len(set(sides_of_files)) > 1
    chosen: dict[str, Item] = {}
    unclear = 0
    for (found, coco), side in zip(files, sides_of_files, strict=True):
        for name, boxes in coco.pictures.items():
            hits = _meant(name, found, by_name, by_bare)
            if len(hits) != 1:
                unclear += bool(hits)
                reason = (
                    "It could mean several pictures of this name."
                    if hits
                    else "The label file names it, but it is not here."
                )
                left.append(Left(name, 0, "refused", reason))
                continue
            item = Item(hits[0], None, None, side if official else None, "", boxes)
            before = chosen.setdefault(item.found.name, item)
            if before.boxes != boxes or before.split != item.split:
                chosen[item.found.name] = replace(before, boxes=BoxList((), problem=_CONTRADICT))
    left += [Left(s.name, s.bytes, "skipped", "not in the label file") for s in scans if s.name not in chosen]
    named = dict.fromkeys(name for _, coco in files for name in coco.classes)
    notes = [note for _, coco in files for note in coco.notes]
    items = tuple(chosen[scan.name] for scan in scans if scan.name in chosen)
    sides = {} if official else sides_of_folders([item.found.name for item in items])
    items = tuple(replace(item, split=sides.get(item.found.name, item.split)) for item in items)
    return Arrangement(
        "coco", items, tuple(left), tuple(named), official_split=official or bool(sides), notes=tuple(notes)
    )


def _meant(
    name: str, label_file: Found, by_name: Mapping[str, Found], by_bare: Mapping[str, list[Found]]
) -> list[Found]:
    """The picture that a label file calls `name`: by its path from the label file or the top, else by its bare name."""
    folder = PurePosixPath(label_file.name).parent
    for candidate in ((folder / name).as_posix(), (folder.parent / name).as_posix(), name):
        if candidate in by_name:
            return [by_name[candidate]]
    similar = by_bare.get(PurePosixPath(name).name, [])
    ends = [found for found in similar if found.name.endswith(f"/{name}")] or similar
    in_name = [f for f in ends if any(part.lower() in stem(label_file.name).lower() for part in _folders(f))]
    if len(ends) > 1 and in_name:  # instances_val2017.json and val2017/x.jpg
        ends = in_name
    return nearest(label_file.name, ends)


def _folders(found: Found) -> tuple[str, ...]:
    return PurePosixPath(found.name).parts[:-1]


def _side_of(found: Found) -> str | None:
    """The side that a label file is of: by a word of its name, else by its folder."""
    words = stem(found.name).lower().replace("-", "_").replace(".", "_").split("_")
    sides = {SIDES[plain] for word in words if (plain := word.rstrip("0123456789")) in SIDES}
    return sides.pop() if len(sides) == 1 else side_of_folder(found.name)


# -- what they share --------------------------------------------------------------------------------------------------


def _by_bare_name(scans: Sequence[Found]) -> dict[str, list[Found]]:
    known: dict[str, list[Found]] = {}
    for scan in scans:
        known.setdefault(PurePosixPath(scan.name).name, []).append(scan)
    return known


def _bytes(found: Found) -> bytes:
    try:
        return found.path.read_bytes()
    except OSError:
        raise LabelFileRefused("The label file could not be read.") from None
