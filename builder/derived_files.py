"""Restored scans as NIfTI, NRRD and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.volumes import nifti_image, stored


class WriteRefused(ValueError):
    """A scan that cannot be written in a format. Its text is one sentence for people."""


def free(folder: Path, name: str) -> Path:
    """A path in `folder` that is not taken: `name`, else with a number before its ending."""
    stem, dot, ending = name.partition(".")
    path, number = folder / name, 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{dot}{ending}", number + 1
    return path


def write_volume(source: Path, kind: str, enhanced: np.ndarray, folder: Path) -> Path:
    """A volume (S, C, H', W') as a file of the `kind` of `source` ("nifti", "nrrd"), lying in space as that does."""
    voxels = stored(source, enhanced)
    return _nifti(source, voxels, folder) if kind == "nifti" else _nrrd(source, voxels, folder)


def _finer(matrix: np.ndarray, scale: Sequence[float]) -> np.ndarray:
    """An affine (4, 4) for voxels that are `scale` times smaller along each axis; outer edges stay where they are."""
    step = np.diag([1 / s for s in scale] + [1.0])
    step[:3, 3] = [(1 / s - 1) / 2 for s in scale]
    return matrix @ step


def _nifti(source: Path, voxels: np.ndarray, folder: Path) -> Path:
    import gzip

    old = nifti_image(source)
    header = old.header.copy()
    if len(voxels) != 1:
        raise WriteRefused("A coloured volume cannot be written as NIfTI; bring it as NRRD.")
    found = voxels[0].reshape(*voxels.shape[1:3], -1)
    i, j, k = found.shape
    before = (*old.shape, 1, 1)[:3]
    if len(old.shape) == 2:
        found = found[..., 0]
    matrix = _finer(old.affine, (i / before[0], j / before[1], k / before[2]))
    # nibabel's own writer would choose a new scaling: here the numbers stay as they are, under that of the source.
    header.set_data_dtype(found.dtype)
    header.set_data_shape(found.shape)
    header.set_sform(matrix, code=int(header["sform_code"]))
    header.set_qform(matrix, code=int(header["qform_code"]), strip_shears=True)
    header["scl_slope"], header["scl_inter"] = _scaling(old)
    header["descrip"] = b"restored by ScanLoom; not for diagnosis"
    size = int(header["sizeof_hdr"])
    begin = 352 if size == 348 else 544
    header["vox_offset"] = begin
    path = free(folder, "enhanced.nii.gz")
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        file.write(header.binaryblock)
        file.write(b"\0" * (begin - size))
        file.write(found.astype(found.dtype.newbyteorder(header.endianness)).tobytes(order="F"))
    return path


def _scaling(image: Any) -> tuple[float, float]:
    """Slope and intercept as the source says them (nibabel takes them out of the header when it loads a file)."""
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))


def _nrrd(source: Path, voxels: np.ndarray, folder: Path) -> Path:
    import nrrd

    header = nrrd.read_header(str(source))
    sizes = [int(size) for size in header["sizes"]]
    coloured = len(voxels) != 1
    found = voxels if coloured else voxels[0]
    found = found.reshape(found.shape[: len(sizes)])
    first = 1 if coloured else 0
    scale = [new / old for new, old in zip(found.shape[first:], sizes[first:], strict=True)]
    made = {
        name: value
        for name, value in header.items()
        if name not in ("sizes", "type", "dimension", "endian", "encoding")
    }
    if "space directions" in header:
        directions = np.array(header["space directions"], float)
        own = directions[-len(scale) :]
        shift = sum(own[axis] * (1 / s - 1) / 2 for axis, s in enumerate(scale))
        directions[-len(scale) :] = [direction / s for direction, s in zip(own, scale, strict=True)]
        made["space directions"] = directions
        if "space origin" in header:
            made["space origin"] = np.array(header["space origin"], float) + shift
    if "spacings" in header:
        spacings = np.array(header["spacings"], float)
        spacings[-len(scale) :] /= scale
        made["spacings"] = spacings
    path = free(folder, "enhanced.nrrd")
    nrrd.write(str(path), np.ascontiguousarray(found), {**made, "encoding": "gzip"}, index_order="F")
    return path


def write_picture(enhanced: np.ndarray, folder: Path) -> list[Path]:
    """Slices (S, C, H, W) as PNG of 8 or 16 bits, one a slice; as 32-bit TIFF where PNG cannot hold the values."""
    from PIL import Image

    slices, channels = enhanced.shape[:2]
    if channels == 3 and enhanced.dtype != np.uint8:
        raise WriteRefused("Colour of more than 8 bits cannot be written as a picture.")
    fits = enhanced.dtype in (np.uint8, np.uint16)
    written = []
    for number, piece in enumerate(enhanced, 1):
        name = "enhanced" if slices == 1 else f"enhanced-{number:04d}"
        path = free(folder, name + (".png" if fits else ".tiff"))
        plane = np.ascontiguousarray(np.moveaxis(piece, 0, -1) if channels == 3 else piece[0])
        Image.fromarray(plane if fits else plane.astype(np.float32)).save(path)
        written.append(path)
    return written
