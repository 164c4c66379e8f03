"""Which files of a source are masks or clean scans of which others, by the names that people give to files and folders.

    images/x.png  masks/x.png            x.png  x_mask.png  x_mask_1.png       imagesTr/x_0000.nii.gz  labelsTr/x.nii.gz
    x_image.nrrd  x_label.nrrd           x.nrrd  x-label.nrrd                  input/x.png  target/x.png

Only a file whose scan is there counts as a mask by its own name; what lies in a folder of masks without a scan to it is
refused by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from builder.arrangement import nearest, stem
from builder.gathering import Found, Left

IMAGE_FOLDERS = frozenset(
    ("images", "image", "imgs", "img", "scans", "scan", "volumes", "volume", "pictures", "jpegimages", "pngimages")
    + ("data", "original", "originals", "orig", "raw", "ct", "mr", "mri", "us", "xray")
    + ("imagestr", "imagests", "imagesval", "images_train", "images_val", "images_test")
)
_MASK_FOLDERS = frozenset(
    ("masks", "mask", "labels", "label", "segmentations", "segmentation", "segs", "seg", "gt", "groundtruth")
    + ("ground_truth", "ground-truth", "outlines", "rois", "annotations", "lesions", "segmentationclass")
    + ("labelstr", "labelsts", "labelsval", "masks_train", "masks_val", "masks_test")
)
_MASK_ENDING = re.compile(
    r"[\s_.\-]+(mask|masks|label|labels|labelmap|seg|segmentation|gt|groundtruth|roi|annotation|outline)[\s_.\-]*\d*$",
    re.IGNORECASE,
)
_IMAGE_ENDING = re.compile(r"[\s_.\-]+(image|images|img|im|scan|volume|vol|0000)$", re.IGNORECASE)
_SIDE_ENDING = re.compile(r"(tr|ts|val|_train|_test)$")  # labelsTr belongs to imagesTr
_CHANNEL = re.compile(r"_00\d\d$")

PAIRS = (
    ("input", "target"),
    ("inputs", "targets"),
    ("noisy", "clean"),
    ("lr", "hr"),
    ("ld", "fd"),
    ("low_dose", "full_dose"),
    ("lowdose", "fulldose"),
    ("quarter", "full"),
    ("quarter_dose", "full_dose"),
    ("blurred", "sharp"),
    ("degraded", "clean"),
)
"""Folders of which the second holds the clean scans."""

UNCLEAR_PAIRS = (("low", "high"), ("before", "after"))
"""As `PAIRS`, but they could as well be classes: taken as pairs only where somebody says that pairs are meant."""

_NO_SCAN = "It lies in a folder of masks, but no scan of its name is in this import."


@dataclass
class Outlined:
    """What is a mask of what: {name of the scan: its masks}, the scans, and the masks that have none."""

    masks: dict[str, list[Found]] = field(default_factory=dict)
    scans: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    channels: dict[str, str] = field(default_factory=dict)  # of scans that are one body in several contrasts

    @property
    def num(self) -> int:
        """Scans that have a mask."""
        return len(self.masks)


def outlined(found: Sequence[Found]) -> Outlined:
    """Parts masks from scans. Where nothing looks like a mask of something, all are scans."""
    by_folders = _by_folders(found)
    if by_folders.masks:
        return by_folders
    return _by_endings(found)


def _by_folders(found: Sequence[Found]) -> Outlined:
    """Masks in a folder beside the images, or in a folder among them."""
    paths = {one.name: PurePosixPath(one.name) for one in found}
    tops: dict[tuple[str, ...], set[str]] = {}
    for path in paths.values():
        for depth, part in enumerate(path.parts[:-1]):
            tops.setdefault(path.parts[:depth], set()).add(part)
    folders = {path.parts[:-1] for path in paths.values()}
    result = Outlined()
    candidates: dict[tuple[str, ...], list[Found]] = {}  # by everything but the folder that tells images from masks
    masks: list[tuple[Found, tuple[str, ...], str]] = []
    for one in found:
        parts = paths[one.name].parts
        places = [n for n, part in enumerate(parts[:-1]) if part.lower() in _MASK_FOLDERS]
        places = [n for n in places if _has_images(parts, n, tops, folders)]
        if places:
            at = places[0]
            masks.append((one, (*parts[:at], *parts[at + 1 : -1]), parts[at].lower()))
            continue
        result.scans.append(one)
        for n, part in enumerate(parts[:-1]):
            if part.lower() in IMAGE_FOLDERS:
                candidates.setdefault((*parts[:n], *parts[n + 1 : -1]), []).append(one)
        candidates.setdefault(parts[:-1], []).append(one)
    if not masks:
        return Outlined(scans=list(found))
    by_stem: dict[tuple[str, ...], dict[str, list[Found]]] = {}
    for key, scans in candidates.items():
        for scan in scans:
            own = by_stem.setdefault(key, {})
            name = stem(scan.name).lower()
            plain = _IMAGE_ENDING.sub("", name)
            for known in {name, plain, _CHANNEL.sub("", name)}:
                own.setdefault(known, []).append(scan)
    matched = 0
    for mask, key, folder in masks:
        name = stem(mask.name).lower()
        of_name = by_stem.get(key, {})
        hits = next((of_name[n] for n in (name, _MASK_ENDING.sub("", name)) if n in of_name), [])
        side = _SIDE_ENDING.search(folder)
        hits = [one for one in hits if not side or _in_folder_of(one, side.group())] or hits
        if not hits:
            result.left.append(Left(mask.name, mask.bytes, "refused", _NO_SCAN))
            continue
        matched += 1
        for one in hits:
            result.masks.setdefault(one.name, []).append(mask)
            if len(hits) > 1:
                result.channels[one.name] = mask.name
    return result if matched else Outlined(scans=list(found))


def _in_folder_of(scan: Found, ending: str) -> bool:
    return any(part.lower().endswith(ending) for part in PurePosixPath(scan.name).parts[:-1])


def _has_images(
    parts: tuple[str, ...], at: int, tops: Mapping[tuple[str, ...], set[str]], folders: set[tuple[str, ...]]
) -> bool:
    """Whether images lie beside the folder `parts[at]`, in one called so, or directly in the folder above it."""
    beside = {name.lower() for name in tops[parts[:at]]}
    return bool(beside & IMAGE_FOLDERS) or parts[:at] in folders


def _by_endings(found: Sequence[Found]) -> Outlined:
    """Masks beside their scans, told by the end of their names."""
    known: dict[tuple[str, str], list[Found]] = {}
    for one in found:
        folder, name = str(PurePosixPath(one.name).parent), stem(one.name).lower()
        known.setdefault((folder, name), []).append(one)
        plain = _IMAGE_ENDING.sub("", name)
        if plain != name:
            known.setdefault((folder, plain), []).append(one)
    result = Outlined()
    orphans: list[Found] = []
    for one in found:
        folder, name = str(PurePosixPath(one.name).parent), stem(one.name).lower()
        plain = _MASK_ENDING.sub("", name)
        hits = [scan for scan in known.get((folder, plain), []) if scan is not one] if plain != name else []
        hits = [
            scan for scan in hits if not _MASK_ENDING.search(stem(scan.name)) or _IMAGE_ENDING.search(stem(scan.name))
        ]
        if len(hits) == 1:
            result.masks.setdefault(hits[0].name, []).append(one)
        elif plain != name:
            orphans.append(one)
        else:
            result.scans.append(one)
    if not result.masks:
        return Outlined(scans=list(found))
    for one in orphans:
        result.left.append(Left(one.name, one.bytes, "refused", "It is called like a mask, but its scan is not here."))
    return result


@dataclass
class Paired:
    """{name of a scan: its clean scan}, the folders that told it, and the files that have no partner."""

    targets: dict[str, Found] = field(default_factory=dict)
    scans: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    folders: tuple[str, str] = ("", "")


def paired(found: Sequence[Found], unclear: bool = False) -> Paired | None:
    """Parts clean scans from the scans that shall become like them; None where the folders are not called so.

    Args:
        unclear: also take folders that could as well be classes.
    """
    for folders in (*PAIRS, *UNCLEAR_PAIRS) if unclear else PAIRS:
        result = _pairs_of(found, folders)
        if result is not None:
            return result
    return None


def _pairs_of(found: Sequence[Found], folders: tuple[str, str]) -> Paired | None:
    scans: dict[tuple[tuple[str, ...], str], Found] = {}
    targets: dict[tuple[tuple[str, ...], str], Found] = {}
    others: list[Found] = []
    for one in found:
        parts = PurePosixPath(one.name).parts
        at = next((n for n, part in enumerate(parts[:-1]) if part.lower() in folders), None)
        if at is None:
            others.append(one)
            continue
        key = ((*parts[:at], *parts[at + 1 : -1]), stem(one.name).lower())
        (scans if parts[at].lower() == folders[0] else targets)[key] = one
    both = scans.keys() & targets.keys()
    if not both:
        return None
    result = Paired(folders=folders)
    for key, one in scans.items():
        if key in both:
            result.scans.append(one)
            result.targets[one.name] = targets[key]
        else:
            result.left.append(Left(one.name, one.bytes, "refused", "No clean scan of its name is in this import."))
    for key, one in targets.items():
        if key not in both:
            reason = "It is a clean scan to which no other of its name is in this import."
            result.left.append(Left(one.name, one.bytes, "refused", reason))
    result.left += [Left(one.name, one.bytes, "skipped", "it lies outside the folders of the pairs") for one in others]
    return result


def of_stem(found: Sequence[Found]) -> Callable[[str], list[Found]]:
    """A function that finds the scans of a bare name, the nearest in folders: one, none, or several equally near."""
    known: dict[str, list[Found]] = {}
    for one in found:
        known.setdefault(stem(one.name).lower(), []).append(one)
    return lambda name: nearest(name, known.get(stem(name).lower(), []))
