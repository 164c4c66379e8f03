"""The npz layout of MedMNIST: {train,val,test}_{images,labels}, read in blocks and never as Python objects.

Source: Yang et al., MedMNIST v2, Sci Data 10:41 (2023); the layout as written by the package `medmnist` 3.0.2.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from builder.archives import ArchiveRefused, Limits, listing

SPLITS = ("train", "val", "test")
_DTYPES = ("uint8", "uint16", "int16", "float32")
_BLOCK_BYTES = 8 << 20
_LIMITS = Limits(entries=64, ratio=float("inf"))

_ORGANS = (
    "bladder",
    "femur left",
    "femur right",
    "heart",
    "kidney left",
    "kidney right",
    "liver",
    "lung left",
    "lung right",
    "pancreas",
    "spleen",
)
CLASSES = {
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal or benign"),
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocyte",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural",
        "hernia",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
"""Class names by the file's name; the npz itself only holds numbers."""


class NotMedMNIST(ValueError):
    """A npz that does not have the layout. Its text is one sentence for people."""


@dataclass(frozen=True)
class _Array:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    header_bytes: int


class MedMNIST:
    """An open npz. Arrays are streamed block by block: memory does not grow with the file.

    Attributes:
        splits: {split: number of pictures}, only those present.
        picture: shape of one picture as stored: (H, W), (H, W, 3) or (S, H, W).
        multi_label: whether labels are rows of several 0 and 1.
        classes: names, from `CLASSES` by the file's name, else "class 0", "class 1"...
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        try:
            listing(path, _LIMITS)
        except ArchiveRefused as error:
            raise NotMedMNIST(str(error).replace("zip file", "npz file")) from None
        self._arrays = {array.name: array for array in _headers(path)}
        self.splits = {s: self._arrays[f"{s}_images"].shape[0] for s in SPLITS if f"{s}_images" in self._arrays}
        if not any(self.splits.values()):
            raise NotMedMNIST(
                "The npz file does not have the MedMNIST layout: expected arrays called train_images, train_labels, "
                "val_images, val_labels, test_images and test_labels."
            )
        self._check()
        first = self._arrays[f"{next(iter(self.splits))}_images"]
        self.picture, self.dtype = first.shape[1:], first.dtype
        self._labels = {split: self._read_labels(split) for split in self.splits}
        width = next(iter(self._labels.values())).shape[1]
        self.multi_label = width > 1
        self._check_labels(width)
        highest = max((int(labels.max()) for labels in self._labels.values() if labels.size), default=0)
        num = width if self.multi_label else highest + 1
        known = CLASSES.get((name or path.name).lower().removesuffix(".npz").split("_")[0], ())
        self.classes = known if len(known) == num else tuple(f"class {index}" for index in range(num))

    def labels(self, split: str) -> np.ndarray:
        """int64 (n, L): class index (L = 1) or 0 and 1 per class."""
        return self._labels[split]

    def images(self, split: str) -> Iterator[np.ndarray]:
        """Blocks (n, S, C, H, W) of the pictures of a split, in order."""
        array = self._arrays[f"{split}_images"]
        for block in _blocks(self.path, array):
            yield _as_scans(block)

    def _check(self) -> None:
        shapes = {self._arrays[f"{split}_images"].shape[1:] for split in self.splits}
        kinds = {self._arrays[f"{split}_images"].dtype for split in self.splits}
        if len(shapes) > 1 or len(kinds) > 1:
            raise NotMedMNIST("The splits of the npz file hold pictures of different shapes or number types.")
        shape, kind = shapes.pop(), kinds.pop()
        if len(shape) not in (2, 3) or min(shape) < 1 or kind.name not in _DTYPES:
            raise NotMedMNIST(
                f"The npz file holds pictures of shape {shape} and type {kind.name}; expected height x width, height x "
                f"width x 3 or slices x height x width of {', '.join(_DTYPES)}."
            )
        for split, num in self.splits.items():
            labels = self._arrays.get(f"{split}_labels")
            if labels is None:
                raise NotMedMNIST(f"The npz file has {split}_images but no {split}_labels.")
            if labels.shape[0] != num or len(labels.shape) not in (1, 2):
                raise NotMedMNIST(f"The npz file has {num} {split}_images but {labels.shape[0]} {split}_labels.")
            if labels.dtype.kind not in "biuf":
                raise NotMedMNIST(f"The {split}_labels of the npz file are no numbers.")

    def _read_labels(self, split: str) -> np.ndarray:
        array = self._arrays[f"{split}_labels"]
        found = np.concatenate([np.zeros((0, *array.shape[1:])), *_blocks(self.path, array)])
        if found.size and (not np.isfinite(found).all() or (found != np.rint(found)).any() or found.min() < 0):
            raise NotMedMNIST(f"The {split}_labels of the npz file are not whole numbers from 0 on.")
        return found.astype(np.int64).reshape(len(found), -1)

    def _check_labels(self, width: int) -> None:
        for split, labels in self._labels.items():
            if labels.shape[1] != width:
                raise NotMedMNIST("The splits of the npz file have different numbers of labels.")
            if labels.size and labels.max() > (1 if self.multi_label else 1000):
                expected = "0 or 1" if self.multi_label else "class numbers up to 1000"
                raise NotMedMNIST(f"The {split}_labels of the npz file go up to {labels.max()}; expected {expected}.")


def _headers(path: Path) -> Iterator[_Array]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if not name.startswith(tuple(f"{split}_" for split in SPLITS)):
                continue
            if info.flag_bits & 0x1:
                raise NotMedMNIST("The npz file is encrypted.")
            try:
                with archive.open(info) as file:
                    stream = cast(BinaryIO, file)
                    version = np.lib.format.read_magic(stream)
                    if version == (1, 0):
                        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
                    else:
                        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
                    begin = file.tell()
            except (
                ValueError,
                TypeError,
                SyntaxError,
                EOFError,
                zlib.error,
                zipfile.BadZipFile,
                struct.error,
                OSError,
            ):
                raise NotMedMNIST("An array of the npz file is damaged: its header cannot be read.") from None
            if dtype.hasobject or dtype.fields:
                raise NotMedMNIST("The npz file holds Python objects instead of numbers: that is not opened.")
            if not shape or begin + _num(shape) * dtype.itemsize != info.file_size:
                raise NotMedMNIST("An array of the npz file is damaged: its size is not what its header says.")
            yield _Array(name, tuple(int(n) for n in shape), dtype, fortran, begin)


def _num(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= int(n)
    return total


def _blocks(path: Path, array: _Array) -> Iterator[np.ndarray]:
    """The array in blocks along its first axis."""
    if array.fortran and len(array.shape) > 1:
        raise NotMedMNIST("An array of the npz file is stored column by column: save it with numpy.ascontiguousarray.")
    row = max(1, _num(array.shape[1:]) * array.dtype.itemsize)
    if row > 1 << 30:
        raise NotMedMNIST("A single picture of the npz file takes more than 1 GB.")
    rows = max(1, _BLOCK_BYTES // row)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{array.name}.npy") as file:
            file.read(array.header_bytes)
            for start in range(0, array.shape[0], rows):
                wanted = min(rows, array.shape[0] - start)
                data = file.read(wanted * row)
                block = np.frombuffer(data, array.dtype).reshape(wanted, *array.shape[1:])
                yield block.astype(array.dtype.newbyteorder("="), copy=False)
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile, KeyError):
        raise NotMedMNIST("An array of the npz file is damaged: it cannot be unpacked.") from None


def _as_scans(block: np.ndarray) -> np.ndarray:
    """(n, S, C, H, W) from (n, H, W), (n, H, W, 3) or (n, S, H, W)."""
    if block.ndim == 3:
        return block[:, None, None]
    if block.shape[-1] == 3:
        return np.ascontiguousarray(block.transpose(0, 3, 1, 2))[:, None]
    return block[:, :, None]
