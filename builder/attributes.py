"""What is kept of a person, a machine and a place: enough to see whom a network fails on, too little to say who.

Sex, a band of age, make and model of the scanner, a band of its field or voltage, and numbers that stand for a site or
a source. No age, date or name is kept (see docs/decisions/0020): a name becomes "site 2" through the salt, the same one
within a data set; what is on no list of makers is numbered likewise. Where people are told of groups, those of fewer
than five patients are one group, "other".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import date

__all__ = [
    "FEWEST_PATIENTS",
    "OTHER",
    "TITLES",
    "UNTOLD",
    "Numbers",
    "age_between",
    "age_in_years",
    "band_of_age",
    "band_of_field",
    "band_of_voltage",
    "columns",
    "counts",
    "expected",
    "folded",
    "from_cells",
    "in_order",
    "known_column",
    "not_groups",
    "place",
    "scanner",
    "sex",
    "title",
]

TITLES = {
    "sex": "Sex",
    "age": "Age",
    "site": "Site",
    "scanner": "Scanner",
    "field": "Field strength",
    "voltage": "Tube voltage",
    "source": "Source",
}
"""Names of attributes, and what people read; a group of the user's own is called "group <name>"."""
OWN = "group "
FEWEST_PATIENTS = 5
"""Groups of fewer patients are told as one: a single woman of 80 is nobody's secret in a table of one."""
OTHER, UNTOLD = "other", "not told"
_BANDS = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (75, "60-74"), (131, "75+"))
_FIELDS = ((0.95, "under 1 T"), (1.25, "1 T"), (2.0, "1.5 T"), (4.0, "3 T"), (float("inf"), "over 4 T"))
_VOLTAGES = (
    (50.5, "up to 50 kV"), (90.5, "51 to 90 kV"), (110.5, "91 to 110 kV"), (130.5, "111 to 130 kV"),
    (float("inf"), "over 130 kV"),
)  # fmt: skip
_SEXES = {
    "female": ("f", "female", "w", "woman", "weiblich", "femme", "féminin"),
    "male": ("m", "male", "man", "männlich", "homme", "masculin"),
    "other": ("o", "other", "d", "divers", "diverse", "x", "non-binary"),
}
_NOTHING = ("", "na", "n/a", "nan", "none", "null", "unknown", "u", "?", "-")
_MAKERS = {
    "siemens": "Siemens", "ge": "GE", "general electric": "GE", "philips": "Philips", "canon": "Canon",
    "toshiba": "Toshiba", "hitachi": "Hitachi", "fujifilm": "Fujifilm", "fuji": "Fujifilm", "hologic": "Hologic",
    "lorad": "Hologic", "agfa": "Agfa", "carestream": "Carestream", "kodak": "Carestream", "samsung": "Samsung",
    "mindray": "Mindray", "shimadzu": "Shimadzu", "konica": "Konica Minolta", "esaote": "Esaote", "bruker": "Bruker",
    "varian": "Varian", "elekta": "Elekta", "uih": "United Imaging", "united imaging": "United Imaging",
    "neusoft": "Neusoft", "planmeca": "Planmeca", "sirona": "Sirona", "zeiss": "Zeiss", "heidelberg": "Heidelberg",
    "topcon": "Topcon", "nidek": "Nidek", "olympus": "Olympus", "pentax": "Pentax", "picker": "Picker",
    "marconi": "Marconi", "elscint": "Elscint", "imatron": "Imatron", "aloka": "Aloka", "acuson": "Acuson",
    "supersonic": "SuperSonic", "leica": "Leica", "hamamatsu": "Hamamatsu", "sectra": "Sectra", "swissray": "Swissray",
    "del medical": "Del Medical", "ziehm": "Ziehm", "accuray": "Accuray", "brainlab": "Brainlab",
    "mediso": "Mediso", "hyperfine": "Hyperfine", "fonar": "Fonar", "paramed": "Paramed", "xoran": "Xoran",
    "neurologica": "NeuroLogica", "carestream health": "Carestream", "giotto": "IMS Giotto", "ims": "IMS Giotto",
}  # fmt: skip
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+/_-]{0,31}")
_CELLS = {
    "sex": ("sex", "gender", "patient_sex"),
    "age": ("age", "age_years", "patient_age", "age_band"),
    "scanner": ("scanner", "manufacturer", "vendor", "device", "machine"),
    "site": ("site", "hospital", "center", "centre", "institution", "clinic"),
    "source": ("source", "cohort", "collection"),
}
"""What columns of a label table may be called."""
_OWN_COLUMN = "group_"
MOST_OWN = 12
"""Values that a group of the user's own may have; more are no groups, and could be names."""


def place(name: str) -> tuple[int, str]:
    """The order in which attributes are told: as in `TITLES`, groups of the user's own last."""
    return [*TITLES, name].index(name), name


def title(name: str) -> str:
    """What people read for an attribute: "age" is "Age"."""
    own = name.removeprefix(OWN)
    return TITLES.get(name) or f"{own[:1].upper()}{own[1:].replace('_', ' ')}"


# -- from what a file says to what is kept ----------------------------------------------------------------------------


def sex(text: str) -> str:
    """ "female", "male", "other", or "" for anything else (0 and 1 mean different things to different people)."""
    plain = text.strip().casefold()
    return next((name for name, words in _SEXES.items() if plain in words), "")


def age_in_years(text: str) -> float | None:
    """Years of a DICOM age such as 045Y, 018M, 003W or 010D (PS3.5, AS); None for anything else."""
    found = re.fullmatch(r"\s*(\d{1,3})([YMWD])\s*", text.upper())
    return int(found[1]) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[found[2]] if found else None


def age_between(born: str, taken: str) -> float | None:
    """Whole years between two DICOM dates (YYYYMMDD); None where one is no date, or they are the wrong way round."""
    try:
        one, other = (date(int(text[:4]), int(text[4:6]), int(text[6:8])) for text in (born.strip(), taken.strip()))
    except ValueError:
        return None
    years = other.year - one.year - ((other.month, other.day) < (one.month, one.day))
    return float(years) if years >= 0 else None


def band_of_age(years: float | None) -> str:
    """ "0-17", "18-39", "40-59", "60-74", "75+"; "" where the age is unknown or nobody's."""
    if years is None or not 0 <= years <= 130:
        return ""
    return next(words for end, words in _BANDS if years < end)


def band_of_field(tesla: float | None) -> str:
    """The field strength of an MR scanner as people name it: "1.5 T"; "" where it is unknown."""
    if tesla is None or not 0 < tesla < 30:
        return ""
    return next(words for end, words in _FIELDS if tesla < end)


def band_of_voltage(kilovolt: float | None) -> str:
    """A band of the tube voltage (kVp); "" where it is unknown."""
    if kilovolt is None or not 5 < kilovolt < 1000:
        return ""
    return next(words for end, words in _VOLTAGES if kilovolt < end)


def scanner(maker: str, model: str = "") -> str:
    """Make and model, "Siemens Skyra", where the maker is a known one; "" where it is not, so that it may be numbered.

    A model that looks like no model (too long, or with odd characters) is left out: it could be anything.
    """
    plain = " ".join(maker.replace(",", " ").replace("_", " ").split())
    known = [key for key in _MAKERS if re.match(rf"{re.escape(key)}\b", plain, re.IGNORECASE)]
    if not known:
        return ""
    key = max(known, key=len)
    model = " ".join((model or plain[len(key) :]).replace("_", " ").split())
    model = re.sub(r"(?i)^(healthineers|healthcare|medical systems?|health|medical)\b *", "", model)
    model = re.sub(rf"(?i)^{re.escape(key)}\b *", "", model)
    return f"{_MAKERS[key]} {model}" if _MODEL.fullmatch(model) else _MAKERS[key]


class Numbers:
    """Numbers for names: "site 1" for the first site of a data set, "site 2" for the next.

    The same name gets the same number in every import into the data set; what is kept of it is a pseudonym under the
    salt, apart from the scans.
    """

    def __init__(self, pseudonym: Callable[[str, str], str], kept: Mapping[str, Sequence[str]] | None = None) -> None:
        self._pseudonym = pseudonym
        self._kept = {kind: list(known) for kind, known in (kept or {}).items()}

    def __call__(self, kind: str, name: str) -> str:
        """ "site 3" for a name of that kind; spelling in capitals or with other spaces makes no other one."""
        key = self._pseudonym(kind, " ".join(name.casefold().split()))
        known = self._kept.setdefault(kind, [])
        if key not in known:
            known.append(key)
        return f"{kind} {known.index(key) + 1}"

    def to_json(self) -> dict[str, list[str]]:
        """What the next import into the data set must know."""
        return {kind: list(known) for kind, known in self._kept.items()}


# -- label tables ------------------------------------------------------------------------------------------------------


def columns(names: Sequence[str]) -> dict[str, int]:
    """{attribute: place of its column} among the names of a table's columns, these in small letters with _ for spaces.

    A column called "group_<name>" makes groups of the user's own.
    """
    found = {}
    for attribute, called in _CELLS.items():
        place = next((names.index(name) for name in called if name in names), None)
        if place is not None:
            found[attribute] = place
    for place, name in enumerate(names):
        own = name.removeprefix(_OWN_COLUMN)
        if own != name and re.fullmatch(r"[a-z0-9_]{1,30}", own):
            found[f"{OWN}{own}"] = place
    return found


def known_column(name: str) -> bool:
    """Whether a column of that name tells an attribute."""
    return bool(columns([name]))


def from_cells(cells: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What a row of a table tells of a scan.

    Args:
        cells: {attribute: text}.
    Returns: ({attribute: what is kept}, {attribute: name that must be numbered}, attributes whose cell says something
        that could not be read).
    """
    kept: dict[str, str] = {}
    named: dict[str, str] = {}
    unread: list[str] = []
    for attribute, cell in cells.items():
        text = cell.strip()
        if text.casefold() in _NOTHING and not (attribute == "sex" and sex(text)):
            continue
        if attribute in ("site", "source"):
            named[attribute] = text
        elif attribute == "scanner":
            if words := scanner(text):
                kept[attribute] = words
            else:
                named[attribute] = text
        elif value := _read(attribute, text):
            kept[attribute] = value
        else:
            unread.append(attribute)
    return kept, named, unread


def _read(attribute: str, text: str) -> str:
    if attribute == "sex":
        return sex(text)
    if attribute == "age":
        plain = text.replace(" ", "").replace("\u2013", "-")
        if plain in {words for _, words in _BANDS}:
            return plain
        years = age_in_years(text)
        try:
            return band_of_age(float(text.replace(",", ".")) if years is None else years)
        except ValueError:
            return ""
    return text if len(text) <= 40 and text.isprintable() else ""


def expected(name: str) -> str:
    """What a cell of an attribute should say."""
    words = {"sex": "expected F, M or O", "age": "expected years, such as 63, or a band, such as 60-74"}
    return words.get(name, "expected up to 40 characters")


def not_groups(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Groups of the user's own with more than twelve values: these are no groups, and could be names."""
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(OWN):
                values.setdefault(name, set()).add(value)
    return sorted(name for name, found in values.items() if len(found) > MOST_OWN)


# -- groups ------------------------------------------------------------------------------------------------------------


def folded(values: Sequence[str], patients: Sequence[Hashable]) -> list[str]:
    """The values with those of fewer than five patients as "other", and "not told" for "".

    Args:
        values: (N,) of each scan. patients: (N,) whose it is.
    """
    told = [value or UNTOLD for value in values]
    people: dict[str, set[Hashable]] = {}
    for value, patient in zip(told, patients, strict=True):
        people.setdefault(value, set()).add(patient)
    few = {value for value, found in people.items() if len(found) < FEWEST_PATIENTS and value != UNTOLD}
    return [OTHER if value in few else value for value in told]


def counts(rows: Sequence[Mapping[str, str]], patients: Sequence[Hashable]) -> dict[str, dict[str, int]]:
    """{attribute: {value: patients}}, folded, of those attributes that any scan tells.

    Args:
        rows: (N,) the attributes of each scan. patients: (N,).
    """
    names = {name for row in rows for name in row}
    found: dict[str, dict[str, int]] = {}
    for name in sorted(names, key=place):
        values = folded([row.get(name, "") for row in rows], patients)
        people = {value: len({p for p, own in zip(patients, values, strict=True) if own == value}) for value in values}
        found[name] = {value: people[value] for value in sorted(people, key=in_order)}
    return found


def in_order(value: str) -> tuple[int, int, float, str]:
    """Bands from small to large, numbers as numbers, other names by the alphabet, "other" and "not told" last."""
    numbers = [float(word) for word in re.findall(r"\d+(?:\.\d+)?", value)]
    place = 2 if value.startswith("over") else 0 if value.startswith(("under", "up to")) else 1
    return (OTHER, UNTOLD).index(value) + 1 if value in (OTHER, UNTOLD) else 0, place, (numbers or [0.0])[0], value
