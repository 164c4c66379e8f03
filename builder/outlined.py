"""An outline as a file that lies on its scan, for other programs to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from builder.derived_files import free
from builder.scan import Scan
from builder.volumes import nifti_image, stored, value_axis


def write(sources: Sequence[Path], scan: Scan, outline: np.ndarray, folder: Path) -> Path:
    """Writes an outline beside what it was made of: NIfTI and NRRD lie in space as their scan does, 1 inside; for all
    other formats a PNG, of several slices a TIFF with a page each, 255 inside.

    Args:
        sources: the files that `scan` was read from. outline: (S, H, W) uint8 on the scan's own grid, 1 inside.
        folder: where to, made if need be; a name that is taken gets a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if scan.format == "nifti":
        return _nifti(sources[0], outline, folder)
    if scan.format == "nrrd":
        return _nrrd(sources[0], outline, folder)
    from PIL import Image

    pages = [Image.fromarray(np.ascontiguousarray(page) * np.uint8(255)) for page in outline]
    if len(pages) == 1:
        path = free(folder, "outline.png")
        pages[0].save(path)
    else:
        path = free(folder, "outline.tif")
        pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    return path


def _nifti(source: Path, outline: np.ndarray, folder: Path) -> Path:
    import nibabel

    old = nifti_image(source)
    slope, intercept = (1.0 if v is None else float(v) for v in (old.dataobj.slope, old.dataobj.inter or 0.0))
    scaled = outline[:, None].astype(np.float64) * slope + intercept  # what `stored` takes back
    voxels = np.rint(stored(source, scaled)[0]).astype(np.uint8)
    made = nibabel.Nifti1Image(voxels.reshape((*old.shape, 1, 1)[:3]), old.affine)
    made.header["xyzt_units"] = old.header["xyzt_units"]
    made.set_sform(old.affine, code=int(old.header["sform_code"]))
    made.set_qform(old.affine, code=int(old.header["qform_code"]))
    path = free(folder, "outline.nii.gz")
    nibabel.save(made, path)
    return path


def _nrrd(source: Path, outline: np.ndarray, folder: Path) -> Path:
    import nrrd

    header = nrrd.read_header(str(source))
    kept = {k: v for k, v in header.items() if k in ("space", "space origin", "space units")}
    sizes = [int(size) for size in header["sizes"]][1 if value_axis(header) else 0 :]  # an outline has no colours
    for name in ("space directions", "spacings"):
        if name in header:
            kept[name] = np.asarray(header[name], float)[-len(sizes) :]
    voxels = stored(source, outline[:, None])[0].astype(np.uint8).reshape(sizes)
    path = free(folder, "outline.nrrd")
    nrrd.write(str(path), np.ascontiguousarray(voxels), {**kept, "encoding": "gzip"}, index_order="F")
    return path
