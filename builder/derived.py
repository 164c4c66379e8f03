"""A restored scan written back as a file: what the person who brought the scan takes home.

DICOM becomes a derived, secondary image (PS3.3 C.7.6.1.1.2): a series and instances of its own, the same rescale, bits
and place in the patient, uncompressed, with a description of what made it and a reference to its source. Who the
patient
is stays in that file, which is handed back to whom brought it, and nowhere else. Other formats: see `derived_files`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.derived_files import WriteRefused, free, write_picture, write_volume
from builder.dicom import frame_places
from builder.scan import Scan
from builder.series import ordered

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["WriteRefused", "in_all_letters", "write"]

MAKER = "ScanLoom"
_GONE = (
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData", "IconImageSequence", "PixelDataProviderURL"),
    *("SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
    *("DigitalSignaturesSequence", "MACParametersSequence", "OriginalAttributesSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
"""Elements that speak of the old pixels."""
_PALETTE = ("Red", "Green", "Blue", "Alpha")


def write(sources: Sequence[Path], scan: Scan, enhanced: np.ndarray, folder: Path, made_by: str) -> list[Path]:
    """Writes a restored scan in the format that its source has, as far as that format can hold it.

    Args:
        sources: the files that `scan` was read from. enhanced: (S, C, H', W') in its stored values.
        folder: where to, made if need be; a name that is taken gets a number. made_by: what made it, for people
            ("run 20261126-...: dncnn").
    Returns: the files, one a slice for a DICOM series and for pictures of several slices, else one.
    Raises:
        WriteRefused: in words, where the format cannot hold it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(enhanced) != len(scan.pixels):
        raise WriteRefused(f"The scan has {len(scan.pixels)} slices, but {len(enhanced)} were restored.")
    if scan.format == "dicom":
        return _write_dicom(sources, enhanced, folder, made_by)
    if scan.format in ("nifti", "nrrd"):
        return [write_volume(sources[0], scan.format, enhanced, folder)]
    return write_picture(enhanced, folder)


# -- DICOM ------------------------------------------------------------------------------------------------------------


def _write_dicom(sources: Sequence[Path], enhanced: np.ndarray, folder: Path, made_by: str) -> list[Path]:
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    files = [path for path, _ in ordered(sources)] if len(sources) > 1 else list(sources)
    series, now = generate_uid(), datetime.now()
    scale: int | None = None
    written = []
    for number, file in enumerate(files, 1):
        source = in_all_letters(dcmread(file))
        frames = int(source.get("NumberOfFrames", 1) or 1)
        pixels = enhanced[[number - 1]] if frames == 1 else enhanced[frame_places(file)[0]]
        if len(files) == 1 and frames == 1:
            pixels = enhanced
        scale = pixels.shape[-1] // int(source.Columns)
        made = _derived(source, pixels, scale, series, now, made_by)
        path = free(folder, f"enhanced-{number:04d}.dcm" if len(files) > 1 else "enhanced.dcm")
        made.save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def in_all_letters(source: Dataset) -> Dataset:
    """The data set with its texts in UTF-8, changed in place: what is told beside them may need letters that the
    character set of the source has not."""
    source.decode()
    source.SpecificCharacterSet = "ISO_IR 192"
    return source


def _derived(source: Dataset, pixels: np.ndarray, scale: int, series: str, now: datetime, made_by: str) -> Dataset:
    """The data set of one file. pixels: (frames, C, H, W) in units after the rescale, frames as the file has them."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    if len(source.get("ModalityLUTSequence", ())):
        raise WriteRefused(
            "The file turns stored numbers into values by a table (Modality LUT), which cannot be taken back; export "
            "it "
            "with a slope and an intercept."
        )
    made = copy.deepcopy(source)
    for keyword in (
        *_GONE,
        *(f"{colour}PaletteColorLookupTable{part}" for colour in _PALETTE for part in ("Descriptor", "Data")),
    ):
        if keyword in made:
            del made[keyword]
    for element in list(made.group_dataset(0x5400)):  # waveforms of no picture
        del made[element.tag]
    for group in range(0x6000, 0x6020, 2):  # overlays lie on the old grid, or in bits of the old pixels
        for element in list(made.group_dataset(group)):
            del made[element.tag]
    _fill(made, source, pixels)
    if scale > 1:
        _refine(made, scale)
    instance = generate_uid()
    kinds = [str(kind) for kind in made.get("ImageType", [])] or ["ORIGINAL", "PRIMARY"]
    made.ImageType = ["DERIVED", "SECONDARY", *kinds[2:]]
    for group in _frame_groups(made):
        for name in (
            "CTImageFrameTypeSequence",
            "MRImageFrameTypeSequence",
            "XRay3DFrameTypeSequence",
            "PETFrameTypeSequence",
        ):
            for item in group.get(name, ()):
                item.FrameType = ["DERIVED", "SECONDARY", *[str(kind) for kind in item.get("FrameType", [])][2:]]
    made.DerivationDescription = f"{MAKER}: restored by {made_by}. An estimate of a neural network; not for diagnosis."[
        :1024
    ]
    reference, purpose = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference.PurposeOfReferenceCodeSequence = [purpose]
    made.SourceImageSequence = [reference]
    made.SOPInstanceUID, made.SeriesInstanceUID = instance, series
    described = f"{str(source.get('SeriesDescription', '') or 'Series')[:48]} [enhanced]"
    made.SeriesDescription = described[:64]
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    for kind in ("InstanceCreation", "Content", "Series"):
        setattr(made, f"{kind}Date", date)
        setattr(made, f"{kind}Time", time)
    equipment, role = Dataset(), Dataset()
    role.CodeValue, role.CodingSchemeDesignator, role.CodeMeaning = "109103", "DCM", "Modifying Equipment"
    equipment.PurposeOfReferenceCodeSequence = [role]
    equipment.Manufacturer = MAKER
    equipment.ContributionDescription = made.DerivationDescription
    made.ContributingEquipmentSequence = [*made.get("ContributingEquipmentSequence", ()), equipment]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    made.preamble = b"\0" * 128
    return made


def _fill(made: Dataset, source: Dataset, pixels: np.ndarray) -> None:
    """Puts pixels (frames, C, H, W) into the data set as the numbers that its rescale makes these values of."""
    frames, channels, height, width = pixels.shape
    made.Rows, made.Columns = height, width
    if channels == 3:
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "RGB", 0
        numbers = np.moveaxis(pixels, 1, -1)
        if numbers.dtype != np.uint8:
            raise WriteRefused("Colour of more than 8 bits cannot be written as DICOM.")
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    elif int(source.get("SamplesPerPixel", 1)) != 1 or str(source.PhotometricInterpretation) == "PALETTE COLOR":
        raise WriteRefused(
            "The source is in colour, and its answer is grey: that cannot stand in the same kind of file."
        )
    elif "PixelData" not in source:
        raise WriteRefused("The file holds floating point pixels, which cannot be written back as DICOM here.")
    else:
        numbers = np.stack([_stored(pixels[k, 0], source, k) for k in range(frames)])
        made.HighBit = int(made.BitsStored) - 1  # wherever in the word the source holds them
    allocated = int(made.BitsAllocated)
    kind = np.dtype(f"<{'i' if int(made.PixelRepresentation) else 'u'}{allocated // 8}")
    data = np.ascontiguousarray(numbers).astype(kind).tobytes()
    made.add_new("PixelData", "OB" if allocated == 8 else "OW", data + b"\0" * (len(data) % 2))


def _stored(plane: np.ndarray, source: Dataset, frame: int) -> np.ndarray:
    """(H, W) values after the rescale as the nearest stored numbers that the file's bits hold."""
    slope, intercept = 1.0, 0.0
    for owner in (source, *_frame_groups(source, frame)):
        owner = next(iter(owner.get("PixelValueTransformationSequence", ())), owner)
        if "RescaleSlope" in owner and "RescaleIntercept" in owner:
            slope, intercept = float(owner.RescaleSlope), float(owner.RescaleIntercept)
    bits, signed = int(source.BitsStored), bool(int(source.PixelRepresentation))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return np.rint((plane.astype(np.float64) - intercept) / slope).clip(low, high)


def _refine(made: Dataset, scale: int) -> None:
    """Sets down that pixels are `scale` times smaller: their spacing, and where the centre of the first one lies."""
    owners = [made, *_frame_groups(made)]
    spaced = [item for owner in owners for item in (owner, *owner.get("PixelMeasuresSequence", ()))]
    placed = [item for owner in owners for item in (owner, *owner.get("PlanePositionSequence", ()))]
    turned = [item for owner in owners for item in (owner, *owner.get("PlaneOrientationSequence", ()))]
    spacing = next((item.PixelSpacing for item in spaced if item.get("PixelSpacing")), None)
    direction = next((item.ImageOrientationPatient for item in turned if item.get("ImageOrientationPatient")), None)
    if spacing is not None and direction is not None:
        across, down = np.array([float(v) for v in direction]).reshape(2, 3)
        row_mm, column_mm = float(spacing[0]), float(spacing[1])  # between rows, between columns
        shift = (across * column_mm + down * row_mm) * (1 / scale - 1) / 2
        for item in placed:
            if item.get("ImagePositionPatient"):
                item.ImagePositionPatient = [
                    _decimal(float(v) + d) for v, d in zip(item.ImagePositionPatient, shift, strict=True)
                ]
    for item in spaced:
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            if item.get(keyword):
                setattr(item, keyword, [_decimal(float(v) / scale) for v in item[keyword].value])


def _decimal(value: float) -> str:
    """A number as DICOM writes it: 16 characters at most."""
    return next(text for digits in range(12, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)


def _frame_groups(made: Dataset, frame: int | None = None) -> list[Any]:
    """The functional groups of an enhanced multi-frame image: the shared ones, and those of one or all frames."""
    own = made.get("PerFrameFunctionalGroupsSequence", ())
    chosen = own if frame is None else own[frame : frame + 1]
    return [*made.get("SharedFunctionalGroupsSequence", ()), *chosen]
