"""What was found on a scan as files for other programs: DICOM SEG and SR, a derived DICOM image, NIfTI.

A DICOM file that is made here names the patient and the study of its source, as the standard asks (PS3.3 C.7): else no
archive could put it beside the scan. It goes to the person who brought that source, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from builder.derived import in_all_letters, write
from builder.outputs import kept
from builder.scan import Scan, Unreadable, as_monochrome2
from builder.series import members

__all__ = ["KINDS", "TakeoutRefused", "derived", "nifti", "report", "results", "segmentation"]

KINDS = ("seg", "sr", "derived", "nifti")
MAKER, MODEL, VERSION = "ScanLoom", "ScanLoom (research, not for clinical use)", "1"
_SCHEME = "99SCANLOOM"
# Attributes that a source may lack and its descendants must have, at least empty (type 2).
_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "SliceThickness"),
)


class TakeoutRefused(ValueError):
    """A file that cannot be made of this scan. Its text is one sentence for people."""


def sources(files: Sequence[Path], num_slices: int) -> list[Any]:
    """The headers of the DICOM files a scan was read from, in the order of its slices; no pixels.

    Raises:
        TakeoutRefused: they are no DICOM, or not one file a slice.
    """
    import pydicom

    try:
        ordered = members(files)
    except Unreadable as error:
        raise TakeoutRefused(f"The scan's own files are needed, and they are no DICOM images: {error}") from None
    if len(ordered) != num_slices:
        raise TakeoutRefused(
            f"The scan has {num_slices} slices but comes from {len(ordered)} files: frames of multi-frame files cannot "
            "be referred to here. Take the NIfTI file."
        )
    found = []
    for path in ordered:
        header = in_all_letters(pydicom.dcmread(path, stop_before_pixels=True))
        for keyword in _EMPTY:
            if keyword not in header:
                setattr(header, keyword, None)
        if "StudyInstanceUID" not in header or "SOPInstanceUID" not in header:
            raise TakeoutRefused("The scan's files do not say which study they belong to.")
        found.append(header)
    return found


def segmentation(
    folder: Path, files: Sequence[Path], names: Sequence[str], out: Path, notes: Iterable[str] = ()
) -> Path:
    """Writes the mask of the job in `folder` as a DICOM segmentation (PS3.3 A.51) over the scan's own images.

    Args:
        names: of structure 1, 2, ... notes: of the finding; that the run is leaky is said in the file's head.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    mask = _output(folder, "mask").pixels[:, 0]
    headers = sources(files, len(mask))
    placed = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    if any(not header.get(keyword) for header in headers for keyword in placed):
        raise TakeoutRefused(
            "The scan's files do not say where they lie in the patient and how large their pixels are, which a DICOM "
            "segmentation refers to. Take the mask as a NIfTI file."
        )
    if len({tuple(header.ImagePositionPatient) for header in headers}) < len(headers):
        raise TakeoutRefused(
            "Several of the scan's files lie at the same place (echoes, or times), which a DICOM segmentation cannot "
            "tell apart. Take the mask as a NIfTI file."
        )
    if not mask.any():
        raise TakeoutRefused("Nothing is outlined on this scan: there is no segmentation to write.")
    algorithm = hd.AlgorithmIdentificationSequence(name=MAKER, version=VERSION, family=codes.DCM.ArtificialIntelligence)
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=hd.UID(),
            tracking_id=f"{MAKER} {number}",
        )
        for number, name in enumerate(names, 1)
    ]
    made = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=np.ascontiguousarray(np.minimum(mask, len(names))),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=900,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MODEL,
        software_versions=VERSION,
        device_serial_number="0",
        content_label="LESION",
        content_description="Outlined by a network; not for clinical use",
    )
    _stamped(made, notes)
    made.save_as(out)
    return out


def report(folder: Path, files: Sequence[Path], finding: Mapping[str, Any], out: Path, least: float = 0.0) -> Path:
    """Writes boxes, or the size of an outline, as a DICOM structured report (Comprehensive SR, TID 1500).

    Args:
        finding: as `predict.Finding.plain` tells it. least: boxes with a smaller score are left out.
    Raises:
        TakeoutRefused: also where the run does not answer, which a report could not say.
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if finding.get("reason"):
        raise TakeoutRefused(f"There is no answer to report. {finding['reason']}")
    headers = sources(files, len(_output(folder, "scan").pixels))
    if len({header.StudyInstanceUID for header in headers}) > 1:
        raise TakeoutRefused("The scan's files belong to several studies.")
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), name=MAKER, manufacturer_name=MAKER, model_name=MODEL
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    groups = [
        _box(header_of, box, number)
        for number, box in enumerate((b for b in finding.get("boxes") or () if b["score"] >= least), 1)
        for header_of in [headers[box["slice"]]]
    ]
    if finding.get("outline") is not None and finding["outline"]["slices"]:
        groups.append(_sizes(headers[finding["outline"]["slices"][0]], finding.get("facts") or {}))
    groups += [_class(name, chance) for name, chance in (finding.get("probabilities") or {}).items()]
    if not groups:
        raise TakeoutRefused("There is nothing to report on this scan: no box reaches the score.")
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=headers if _described(headers) else None,
    )
    made = hd.sr.ComprehensiveSR(
        evidence=headers,
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=901,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    _stamped(made, finding.get("notes") or ())
    made.save_as(out)
    return out


def results(
    folder: Path, files: Sequence[Path], finding: Mapping[str, Any], place: Path, least: float = 0.0
) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """What was found by the job in `folder` as DICOM files in `place`: ([(kind, file)], [(kind, why it could not be
    made)]).

    A report (SR) of every finding that has something to say, and of an outline a segmentation (SEG). Where the run does
    not answer, nothing is made: a report could not say so.
    """
    if finding.get("reason"):
        return [], [("sr", str(finding["reason"]))]
    kinds = {"sr": partial(report, folder, files, finding, place / "report.dcm", least)}
    if finding.get("outline") is not None:
        notes = finding.get("notes") or ()
        kinds["seg"] = partial(segmentation, folder, files, ["Lesion"], place / "mask.dcm", notes)
    made, refused = [], []
    for kind, make in kinds.items():
        try:
            made.append((kind, make()))
        except TakeoutRefused as error:
            refused.append((kind, str(error)))
    return made, refused


def _described(headers: Sequence[Any]) -> bool:
    """Whether the files say all that the image library of a report (TID 1600) tells of each image, which it may lack:
    where a slice lies and how thick it is, how a film was turned. The report refers to them all the same."""
    import highdicom as hd

    try:
        hd.sr.ImageLibrary(headers)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # whatever it misses an element with
        return False
    return True


def _stamped(made: Any, notes: Iterable[str]) -> None:
    """Says in the head of a DICOM object that its figures flatter, where the run learned from a known leak."""
    if any(str(note).startswith("LEAKY") for note in notes):
        made.SeriesDescription = "LEAKY: measured on scans it had learned from"


def _box(header: Any, box: Mapping[str, Any], number: int) -> Any:
    """One box as a group of TID 1410: its region on the image and its score."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    x0, y0, x1, y1 = box["box"]
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], np.float64)
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=corners,
        source_image=hd.sr.SourceImageForRegion.from_source_image(header),
    )
    name = str(box["class"])[:64]
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        referenced_region=region,
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=f"{name} {number}"),
        finding_type=codes.SCT.Lesion,
        algorithm_id=hd.sr.AlgorithmIdentification(name=MAKER, version=VERSION),
        measurements=[_measured("score", "Score of the network", box["score"], ("1", "UCUM", "no units"))],
        qualitative_evaluations=[_said(name)],
    )


def _sizes(header: Any, facts: Mapping[str, Any]) -> Any:
    """The numbers of an outline as a group of measurements."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    units = {
        "ml": ("ml", "UCUM", "milliliter"),
        "mm2": ("mm2", "UCUM", "square millimeter"),
        "mm": ("mm", "UCUM", "mm"),
    }
    told = []
    for name, value in facts.items():
        unit = units.get(name.rsplit("_", 1)[-1], ("1", "UCUM", "no units"))
        if isinstance(value, int | float) and not isinstance(value, bool):
            told.append(_measured(name, name.replace("_", " ").capitalize(), float(value), unit))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="Outline"),
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(header)],
        finding_type=codes.SCT.Lesion,
        algorithm_id=hd.sr.AlgorithmIdentification(name=MAKER, version=VERSION),
        measurements=told or None,
    )


def _class(name: str, chance: float) -> Any:
    """The probability of one class."""
    import highdicom as hd

    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name[:64]),
        algorithm_id=hd.sr.AlgorithmIdentification(name=MAKER, version=VERSION),
        measurements=[_measured("probability", "Probability", chance, ("1", "UCUM", "no units"))],
        qualitative_evaluations=[_said(name[:64])],
    )


def _said(name: str) -> Any:
    import highdicom as hd

    value = "".join(c if c.isalnum() else "-" for c in name)[:16] or "class"
    return hd.sr.QualitativeEvaluation(
        name=hd.sr.CodedConcept("class", _SCHEME, "Class that the network answered"),
        value=hd.sr.CodedConcept(value, _SCHEME, name),
    )


def _measured(code: str, words: str, value: float, unit: tuple[str, str, str]) -> Any:
    import highdicom as hd

    return hd.sr.Measurement(
        name=hd.sr.CodedConcept(code[:16], _SCHEME, words[:64]), value=float(value), unit=hd.sr.CodedConcept(*unit)
    )


def derived(folder: Path, files: Sequence[Path], made_by: str, out: Path) -> Path:
    """Writes the enhanced scan of the job in `folder` in the format of its source (`builder.derived.write`): one file,
    or a zip of several.

    Args:
        made_by: what made it, for people ("run 20261126-...: dncnn"). out: a folder that is not there yet.
    """
    import zipfile

    if not files:
        raise TakeoutRefused("The scan's own files are needed: drop it again.")
    scan, better = _output(folder, "scan"), _output(folder, "enhanced")
    made = write(list(files), scan, np.asarray(better.pixels), out, made_by)
    if len(made) == 1:
        return made[0]
    packed = out.parent / "enhanced.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in made:
            file.write(path, path.name)
    return packed


def nifti(folder: Path, out: Path) -> Path:
    """Writes the enhanced scan of the job in `folder`, else its mask, as NIfTI (.nii.gz).

    Voxel sizes in mm where the scan tells them, else 1; directions where it tells them, else marked as unknown. NIfTI
    knows no MONOCHROME1: such a scan is inverted, so that other programs show it as DICOM does.
    """
    import nibabel

    try:
        scan = _output(folder, "enhanced")
    except TakeoutRefused:
        scan = _output(folder, "mask")
    pixels = as_monochrome2(scan.pixels, scan)
    pixels = pixels[:, 0] if pixels.shape[1] == 1 else np.moveaxis(pixels, 1, -1)
    data = np.moveaxis(np.asarray(pixels), (0, 1, 2), (2, 1, 0))  # (S, H, W) -> (x, y, z)
    across = np.array([scan.spacing_mm[k] or 1.0 for k in (2, 1, 0)])
    affine, known = np.diag([*across, 1.0]), scan.grid is not None and not scan.grid.origins
    if scan.grid is not None and known:
        to_ras = np.diag([-1.0, -1.0, 1.0])  # DICOM counts to the left and the back, NIfTI to the right and the front
        affine[:3, :3] = to_ras @ np.array(scan.grid.steps[::-1]).T
        affine[:3, 3] = to_ras @ np.array(scan.grid.origin)
    image = nibabel.Nifti1Image(np.ascontiguousarray(data), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1 if known else 0)
    image.set_qform(affine, code=1 if known else 0)
    nibabel.save(image, out)
    return out


def _output(folder: Path, name: str) -> Scan:
    try:
        return kept(folder, name)
    except LookupError:
        raise TakeoutRefused("This answer holds no such picture (any more): ask again.") from None
