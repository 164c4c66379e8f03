"""Boxes as label files tell them: Pascal VOC (XML), YOLO (txt) and COCO (JSON), read as text of strangers.

Nothing of a picture is known here. What is wrong is said without repeating a name or value out of the file; document
types and entities in XML are refused, so nothing can be expanded or fetched.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.parsers import expat

from builder.archives import plain_name
from builder.gathering import Found

MAX_BOXES = 100_000
_MAX_XML_BYTES = 8 << 20
_MAX_JSON_BYTES = 500 << 20
_MAX_NAME = 100


class LabelFileRefused(ValueError):
    """A label file that cannot be used. Its text is one sentence without names or values out of the file."""


@dataclass(frozen=True)
class Drawn:
    """A box with the name of its class; edges in pixels, or in shares of the picture's sides (see `BoxList`)."""

    x0: float
    y0: float
    x1: float
    y1: float
    name: str
    slice: int = 0


@dataclass(frozen=True)
class BoxList:
    """What is said of the boxes of one picture; no boxes mean that somebody looked and found none.

    Attributes:
        relative: the edges are shares of width and height, 0 to 1.
        size_px: (width, height) that the picture has by what the label file says, None where it does not.
        found: the label file of this one picture; None where one file tells of all.
        problem: why what is said cannot be used, "" where it can.
        whole: it is said of a folder, all of whose files are slices of one scan; each box tells its slice.
    """

    boxes: tuple[Drawn, ...]
    relative: bool = False
    size_px: tuple[int, int] | None = None
    found: Found | None = None
    problem: str = ""
    whole: bool = False


# -- Pascal VOC -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voc:
    """An annotation: the boxes, and the name of the picture as the file tells it ("" where it does not)."""

    boxes: BoxList
    filename: str


def read_voc(data: bytes) -> Voc:
    """Reads a Pascal-VOC annotation (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, section 4).

    The edges are taken as they stand, as LabelImg writes them: the picture spans 0 to its width.

    Raises:
        LabelFileRefused: no XML, a document type in it, another kind of XML, or edges that are no numbers.
    """
    walk = _VocWalk()
    problem = ""
    if len(data) > _MAX_XML_BYTES:
        raise LabelFileRefused("The XML file is larger than 8 MB; expected the boxes of one picture.")
    try:
        walk.parser.Parse(data, True)
    except expat.ExpatError:
        problem = "The XML file is damaged; expected a Pascal-VOC annotation."
    except (ValueError, LookupError):
        problem = "The XML file is written in an unknown encoding; save it as UTF-8."
    problem = walk.problem or problem
    if not problem and walk.root != "annotation":
        problem = "The XML file is no Pascal-VOC annotation."
    if problem:
        raise LabelFileRefused(problem)
    boxes = BoxList(tuple(map(_voc_box, walk.objects)), size_px=_voc_size(walk.size))
    return Voc(boxes, plain_name(walk.filename.strip()))


class _VocWalk:
    """Walks through the elements once, and keeps what lies at the places that matter."""

    _OF_OBJECT = ("name", "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.root, self.filename, self.problem = "", "", ""
        self.objects: list[dict[str, str]] = []
        self.size: dict[str, str] = {}
        self._path: list[str] = []

    def _refuse(self, *declared: object) -> None:
        self.problem = "The XML file declares a document type, which a label file does not need; remove it."
        raise ValueError

    def _start(self, name: str, attributes: object) -> None:
        self.root = self.root or name
        self._path.append(name)
        if len(self._path) > 50 or len(self.objects) > MAX_BOXES:
            self.problem = "The XML file is nested too deeply or holds too much; expected the boxes of one picture."
            raise ValueError
        if self._path[1:] == ["object"]:
            self.objects.append({})

    def _end(self, name: str) -> None:
        self._path.pop()

    def _text(self, text: str) -> None:
        at = "/".join(self._path[1:])
        if at == "filename":
            self.filename += text
        elif at in ("size/width", "size/height"):
            self.size[at[5:]] = self.size.get(at[5:], "") + text
        elif at.startswith("object/") and (key := at[7:]) in self._OF_OBJECT:
            self.objects[-1][key] = self.objects[-1].get(key, "") + text


def _voc_box(found: Mapping[str, str]) -> Drawn:
    edges = [_number(found.get(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
    return Drawn(edges[0], edges[1], edges[2], edges[3], _class(found.get("name", "")))


def _voc_size(found: Mapping[str, str]) -> tuple[int, int] | None:
    width, height = (found.get(side, "").strip() for side in ("width", "height"))
    if not (width.isdecimal() and height.isdecimal() and len(width) < 9 and len(height) < 9):
        return None
    return (int(width), int(height)) if int(width) and int(height) else None  # LabelImg writes 0 for unknown


# -- YOLO -------------------------------------------------------------------------------------------------------------

YOLO_LINE = re.compile(r"^\s*\d{1,5}(\s+[-+]?\d*\.?\d+([eE][-+]?\d+)?){4,}\s*$")


def read_yolo(data: bytes, names: Sequence[str]) -> BoxList:
    """Reads the boxes of one picture: a line a box, "class x_centre y_centre width height" in shares of the picture.

    A line with more numbers is an outline (class x y x y ...): its box is taken. An empty file: nothing on the picture.

    Args:
        names: the names of the classes; without any, a class is called by its number.
    Raises:
        LabelFileRefused: a line that is none of these, or a class that has no name.
    """
    boxes = []
    for number, line in enumerate(_text(data).splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        if not YOLO_LINE.match(line) or (len(parts) > 5 and len(parts) % 2 == 0) or number > MAX_BOXES:
            raise LabelFileRefused(
                f"Line {number} is no YOLO box; expected five numbers: class, centre x, centre y, width, height."
            )
        values = [_number(part) for part in parts[1:]]
        index = int(parts[0])
        if names and index >= len(names):
            raise LabelFileRefused(f"Line {number} is of class {index}, but only {len(names)} classes have a name.")
        if len(values) == 4:
            x, y, wide, high = values
            edges = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
        else:
            across, down = values[::2], values[1::2]
            edges = (min(across), min(down), max(across), max(down))
        boxes.append(Drawn(*edges, names[index] if names else str(index)))
    return BoxList(tuple(boxes), relative=True)


def read_yolo_names(name: str, data: bytes) -> tuple[str, ...]:
    """The class names in a data.yaml, or one a line in a classes.txt or obj.names.

    Raises:
        LabelFileRefused: no names in it.
    """
    if PurePosixPath(name.lower()).suffix not in (".yaml", ".yml"):
        return tuple(_class(line) for line in _text(data).splitlines() if line.strip())
    import yaml

    found: Any = None
    if len(data) <= 1 << 20:
        try:
            found = yaml.safe_load(_text(data))
        except (yaml.YAMLError, ValueError, RecursionError):
            found = None
    names = found.get("names") if isinstance(found, dict) else None
    if isinstance(names, dict) and all(isinstance(key, int) for key in names) and len(names) <= MAX_BOXES:
        names = [names.get(index, str(index)) for index in range(max(names, default=-1) + 1)] if _dense(names) else None
    if not isinstance(names, list) or not names:
        raise LabelFileRefused("The YAML file names no classes; expected a list called 'names'.")
    return tuple(_class(str(name)) for name in names)


def _dense(names: Mapping[int, Any]) -> bool:
    return min(names, default=0) >= 0 and max(names, default=-1) < 10 * len(names) + 10


# -- COCO -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coco:
    """What one file tells: {name of a picture: its boxes}, the classes in the order of their numbers, and notes."""

    pictures: Mapping[str, BoxList]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read_coco(data: bytes) -> Coco:
    """Reads an instances file (https://cocodataset.org/#format-data): images, categories, annotations with a bbox.

    An image without annotations is a negative. Crowds are left out, and told.

    Raises:
        LabelFileRefused: no JSON, other parts, numbers that refer to nothing, or two images of one name.
    """
    if len(data) > _MAX_JSON_BYTES:
        raise LabelFileRefused("The JSON file is larger than 500 MB: split it.")
    found: Any = None
    try:
        found = json.loads(_text(data))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise LabelFileRefused("The JSON file is damaged; expected a COCO file with images, annotations, categories.")
    images, annotations, categories = (found.get(part) for part in ("images", "annotations", "categories"))
    if not (isinstance(images, list) and isinstance(annotations, list) and isinstance(categories, list)):
        raise LabelFileRefused("The JSON file is no COCO file; expected lists called images, annotations, categories.")
    names = _coco_categories(categories)
    told, sizes = _coco_images(images)
    boxes: dict[Any, list[Drawn]] = {number: [] for number in told}
    astray, unnamed, bad, crowds = 0, 0, 0, 0
    used: set[str] = set()
    for one in annotations:
        image, category = (one.get("image_id"), one.get("category_id")) if isinstance(one, dict) else (None, None)
        bbox = one.get("bbox") if isinstance(one, dict) else None
        astray += not _key(image) or image not in told
        unnamed += not _key(category) or category not in names
        if not _key(image) or image not in told or not _key(category) or category not in names:
            continue
        if not (isinstance(bbox, list) and len(bbox) == 4 and all(_is_number(value) for value in bbox)):
            bad += 1
            continue
        if one.get("iscrowd"):
            crowds += 1
            continue
        x, y, wide, high = (float(value) for value in bbox)
        boxes[image].append(Drawn(x, y, x + wide, y + high, names[category]))
        used.add(names[category])
    problems = [
        f"{n} annotation{'s' if n > 1 else ''} {words}"
        for n, words in (
            (astray, "of an image that the file does not list"),
            (unnamed, "of a category that the file does not list"),
            (bad, "with a bbox that is not four numbers"),
        )
        if n
    ]
    if problems:
        raise LabelFileRefused(f"The COCO file cannot be used: it has {', '.join(problems)}. Correct it.")
    notes = [f"{crowds} crowd{'s were' if crowds > 1 else ' was'} left out: a crowd is no single box"] if crowds else []
    pictures = {told[number]: BoxList(tuple(found), size_px=sizes[number]) for number, found in boxes.items()}
    return Coco(pictures, tuple(name for name in dict.fromkeys(names.values()) if name in used), tuple(notes))


def _coco_categories(categories: list[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for category in categories:
        number = category.get("id") if isinstance(category, dict) else None
        if not _key(number) or number in names:
            raise LabelFileRefused("The COCO file has a category without a number of its own. Correct it.")
        names[number] = _class(str(category.get("name", "")))
    return names


def _coco_images(images: list[Any]) -> tuple[dict[Any, str], dict[Any, tuple[int, int] | None]]:
    told: dict[Any, str] = {}
    sizes: dict[Any, tuple[int, int] | None] = {}
    for image in images:
        number = image.get("id") if isinstance(image, dict) else None
        name = image.get("file_name") if isinstance(image, dict) else None
        if not _key(number) or number in told or not isinstance(name, str) or not name.strip():
            raise LabelFileRefused("The COCO file has an image without a number of its own or a file_name. Correct it.")
        width, height = image.get("width"), image.get("height")
        told[number] = plain_name(name)
        whole = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
        sizes[number] = (width, height) if whole else None
    twice = sum(n > 1 for n in Counter(told.values()).values())
    if twice:
        raise LabelFileRefused(f"The COCO file lists {twice} file name{'s' if twice > 1 else ''} twice. Correct it.")
    return told, sizes


def _key(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


# -- what they share --------------------------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    text: str | None = None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    if text is None or "\0" in text:
        raise LabelFileRefused("The label file is no text in UTF-8; save it again.")
    return text


def _number(text: str) -> float:
    value = math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LabelFileRefused("The label file has a box with an edge that is missing or no number.")
    return value


def _class(name: str) -> str:
    name = name.strip()
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise LabelFileRefused(f"The label file names a class by nothing, or by more than {_MAX_NAME} characters.")
    return name
