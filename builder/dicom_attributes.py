"""What a DICOM header says of person, machine and place, as far as it may be kept (see `attributes`)."""

from __future__ import annotations

from pydicom.dataset import Dataset

from builder.attributes import age_between, age_in_years, band_of_age, band_of_field, band_of_voltage, scanner, sex
from builder.dicom_file import numbers, text
from builder.scan import Unreadable

__all__ = ["attributes", "unnumbered"]

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate")


def attributes(ds: Dataset) -> dict[str, str]:
    """{attribute: value that may be kept}; what the header does not say, or says oddly, is left out.

    The age is PatientAge, else the years from birth to the day of the study; only its band leaves this function.
    """
    years = age_in_years(_told(ds, "PatientAge"))
    for day in _DATES:
        years = age_between(_told(ds, "PatientBirthDate"), _told(ds, day)) if years is None else years
    modality = _told(ds, "Modality").upper()
    found = {
        "sex": sex(_told(ds, "PatientSex")),
        "age": band_of_age(years),
        "scanner": scanner(_told(ds, "Manufacturer"), _told(ds, "ManufacturerModelName")),
        "field": band_of_field(_number(ds, "MagneticFieldStrength")) if modality in ("MR", "") else "",
        "voltage": band_of_voltage(_number(ds, "KVP")) if modality != "MR" else "",
    }
    return {name: value for name, value in found.items() if value}


def unnumbered(ds: Dataset) -> dict[str, str]:
    """Raw names of the site (institution, else station) and of a scanner whose maker is on no list: to be numbered."""
    site = _told(ds, "InstitutionName") or _told(ds, "StationName")
    maker = _told(ds, "Manufacturer")
    machine = " ".join(filter(None, (maker, _told(ds, "ManufacturerModelName"))))
    return {
        **({"site": site} if site else {}),
        **({"scanner": machine} if maker and not scanner(maker) else {}),
    }


def _told(ds: Dataset, keyword: str) -> str:
    """The text of an element; "" where it is absent or damaged: no scan is refused for what only describes it."""
    try:
        return text(ds, keyword)
    except Unreadable:
        return ""


def _number(ds: Dataset, keyword: str) -> float | None:
    try:
        found = numbers(ds, keyword)
    except Unreadable:
        return None
    return float(found[0]) if found else None
