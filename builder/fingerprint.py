"""What a dataset is like, in one small JSON-able object: the facts that checks, forms and model cards rest on."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from builder import attributes
from builder.labels import Box
from builder.shortcuts import shortcut
from builder.splits import join

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Fingerprint:
    """Facts about a dataset.

    Attributes:
        patient_source: who says which cases belong to one patient: "dicom", "csv", "filename", "official split" or
            "one image = one patient".
        class_counts: {split: {class: number of cases}}.
        cases_per_split: {split: number of cases}, labelled or not; {} where an older version made the dataset.
        num_patients_astride: patients with cases on more than one side, as only a split that came with the data says.
        sizes: {"min"|"median"|"max": [height_px, width_px]}.
        bits: {stored bits: number of cases}; modalities, channels, bodies (parts of the body) likewise.
        attributes: {attribute of person, machine or site: {value: patients}}; values of fewer than five patients
            are one, "other" (see `attributes`).
        spacing_mm: {"min"|"median"|"max": [z, y, x]} over the cases that know it; {} where none does.
        num_slices: {"min"|"median"|"max": n}.
        value_range: smallest and largest stored value.
        num_boxed, num_masked, num_paired: {split: cases with boxes (none found counts), with a mask, with a target}.
        num_empty: {"boxes"|"mask": {split: cases that somebody looked at and found nothing on}}.
        box_counts: {split: {class: boxes}}; mask_counts: {split: {structure: cases that show it}}.
        box_sizes_px: {"min"|"median"|"max": [height, width]} over all boxes; {} without any.
        mask_names: name of each structure; the value k of a mask means the k-th.
        duplicates: {"exact": groups of equal pictures, "near": groups of almost equal ones, "across_splits": groups
            that lie on more than one side, "label_conflicts": groups with different labels}.
        leaks: {"train": ids of training cases whose patient or (almost) equal picture also lies on another side, "val":
            ids of validation cases that have one in test}; {} where a version that did not look made the dataset.
        warnings: sentences for people.
    """

    num_cases: int = 0
    num_patients: int = 0
    patient_source: str = "one image = one patient"
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    unlabelled: int = 0
    class_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    patients_per_split: Mapping[str, int] = field(default_factory=dict)
    cases_per_split: Mapping[str, int] = field(default_factory=dict)
    num_patients_astride: int = 0
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)
    modalities: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    spacing_mm: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    num_slices: Mapping[str, int] = field(default_factory=dict)
    value_range: tuple[float, float] = (0.0, 0.0)
    duplicates: Mapping[str, int] = field(default_factory=dict)
    leaks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    official_split: bool = False
    synthetic: bool = False
    warnings: tuple[str, ...] = ()
    num_boxed: Mapping[str, int] = field(default_factory=dict)
    num_masked: Mapping[str, int] = field(default_factory=dict)
    num_paired: Mapping[str, int] = field(default_factory=dict)
    num_empty: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    box_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    mask_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    box_sizes_px: Mapping[str, Sequence[float]] = field(default_factory=dict)
    mask_names: tuple[str, ...] = ()
    bodies: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Fingerprint":
        """Reads `to_json`; fields of a later version are ignored."""
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in found.items() if name in known}
        for name in ("classes", "warnings", "value_range", "mask_names"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True)
class Fact:
    """What the fingerprint needs to know of one case.

    `label` and `boxes` as in `data.Case`; equal `content` means equal pixels, equal `alike` means equal or almost equal
    pictures. `structures` are those that the mask shows, None without a mask; `paired`: there is a clean scan to it.
    """

    patient: str
    label: int | tuple[int, ...] | None
    split: str
    shape: tuple[int, int, int, int]
    bits: int
    modality: str
    format: str
    spacing_mm: tuple[float | None, float | None, float | None]
    value_range: tuple[float, float]
    content: str
    alike: str
    boxes: tuple[Box, ...] | None = None
    structures: tuple[int, ...] | None = None
    paired: bool = False
    body: str = ""
    case: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


def fingerprint(
    facts: Sequence[Fact],
    classes: Sequence[str],
    *,
    multi_label: bool,
    patient_source: str,
    official_split: bool,
    synthetic: bool,
    warnings: Iterable[str] = (),
    mask_names: Sequence[str] = (),
    copies: Iterable[tuple[int, int]] = (),
) -> Fingerprint:
    """Summarises the facts; `warnings` are said before those found here. `copies` are pairs of places that an audit
    found to be almost the same, beside those that `alike` tells."""
    counts = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    patients: dict[str, set[str]] = {split: set() for split in SPLITS}
    for fact in facts:
        patients[fact.split].add(fact.patient)
        for index in _indices(fact.label):
            counts[fact.split][classes[index]] += 1
    copies = list(copies)
    exact = _grouped([fact.content for fact in facts])
    together = join(len(facts), [fact.alike for fact in facts], pairs=copies)
    alike = _grouped(together)
    near = [group for group in alike if len({facts[i].content for i in group}) > 1]
    across = [group for group in alike if len({facts[i].split for i in group}) > 1]
    across_test = [group for group in across if "test" in {facts[i].split for i in group}]
    conflicts = [group for group in alike if len({facts[i].label for i in group}) > 1]
    conflicts += [g for g in exact if len({facts[i].boxes for i in g}) > 1 and len({facts[i].label for i in g}) == 1]
    straddling = {p for p, n in Counter(p for ps in patients.values() for p in ps).items() if n > 1}
    unlabelled = sum(fact.label is None for fact in facts)
    nothing = sum(_bare(fact) for fact in facts)
    box_counts = {split: dict.fromkeys(classes, 0) for split in SPLITS}
    mask_counts = {split: dict.fromkeys(mask_names, 0) for split in SPLITS}
    for fact in facts:
        for box in fact.boxes or ():
            box_counts[fact.split][classes[box.label]] += 1
        for value in fact.structures or ():
            mask_counts[fact.split][mask_names[value - 1]] += 1
    boxed = any(fact.boxes is not None for fact in facts)
    said = [
        *warnings,
        *_class_warnings(
            _added(counts, box_counts) if boxed else counts, classes, patients, "box" if boxed else "case"
        ),
        *_patient_warnings(patients, straddling, patient_source),
        *_duplicate_warnings(across, across_test, conflicts),
    ]
    if told := _shortcut([fact for fact in facts if isinstance(fact.label, int)], classes):
        said.append(told)
    if nothing and (classes or nothing < len(facts)):
        said.append(f"{nothing} of {len(facts)} cases carry no label: they are kept but cannot be learned from.")
    spacings = [f.spacing_mm for f in facts if f.spacing_mm[1] and f.spacing_mm[2]]
    return Fingerprint(
        num_cases=len(facts),
        num_patients=len({fact.patient for fact in facts}),
        patient_source=patient_source,
        classes=tuple(classes),
        multi_label=multi_label,
        unlabelled=unlabelled,
        class_counts=counts,
        patients_per_split={split: len(found) for split, found in patients.items()},
        cases_per_split={split: sum(fact.split == split for fact in facts) for split in SPLITS},
        num_patients_astride=len(straddling),
        sizes=_three([f.shape[2:] for f in facts]),
        channels=_tally(f.shape[1] for f in facts),
        bits=_tally(f.bits for f in facts),
        modalities=_tally(f.modality or "unknown" for f in facts),
        bodies=_tally(f.body or "unknown" for f in facts),
        attributes=attributes.counts([f.attributes for f in facts], [f.patient for f in facts]),
        formats=_tally(f.format or "unknown" for f in facts),
        spacing_mm=_three([tuple(round(v, 4) if v else None for v in s) for s in spacings]),
        num_slices={k: v[0] for k, v in _three([f.shape[:1] for f in facts]).items()},
        value_range=(
            min((f.value_range[0] for f in facts), default=0.0),
            max((f.value_range[1] for f in facts), default=0.0),
        ),
        leaks=leaks(facts, copies),
        duplicates={
            "exact": len(exact),
            "near": len(near),
            "across_splits": len(across),
            "label_conflicts": len(conflicts),
        },
        official_split=official_split,
        synthetic=synthetic,
        warnings=tuple(said),
        num_boxed=_per_split(facts, lambda fact: fact.boxes is not None),
        num_masked=_per_split(facts, lambda fact: fact.structures is not None),
        num_paired=_per_split(facts, lambda fact: fact.paired),
        num_empty={
            "boxes": _per_split(facts, lambda fact: fact.boxes == ()),
            "mask": _per_split(facts, lambda fact: fact.structures == ()),
        },
        box_counts=box_counts if boxed else {},
        mask_counts=mask_counts if mask_names else {},
        box_sizes_px=_three([(round(b.y1 - b.y0, 1), round(b.x1 - b.x0, 1)) for f in facts for b in f.boxes or ()]),
        mask_names=tuple(mask_names),
    )


def _shortcut(facts: Sequence[Fact], classes: Sequence[str]) -> str:
    """A warning where what a file is, and not what it shows, tells its class."""
    varied = {name: values for name, values in facets(facts).items() if len(set(values)) > 1}
    return shortcut(varied, [fact.label for fact in facts if isinstance(fact.label, int)], classes)


def facets(facts: Sequence[Fact]) -> dict[str, list[str]]:
    """{name: words of each case}: what a file is, whatever it shows."""
    return {
        "colour": ["colour" if fact.shape[1] > 1 else "grey" for fact in facts],
        "size": ["{} x {} pixels".format(*fact.shape[2:]) for fact in facts],
        "number of slices": [f"{fact.shape[0]} slices deep" for fact in facts],
        "bit depth": [f"{fact.bits} bits deep" for fact in facts],
        "format": [f"{fact.format} files" for fact in facts],
        "modality": [f"of modality {fact.modality or 'unknown'}" for fact in facts],
        "pixel spacing": [_spaced(fact.spacing_mm[1:]) for fact in facts],
    }


def _spaced(spacing_mm: Sequence[float | None]) -> str:
    known = [f"{value:.3g}" for value in spacing_mm if value]
    return f"spaced {' x '.join(known)} mm" if known else "without a spacing"


def _bare(fact: Fact) -> bool:
    """Whether nothing at all is known of a scan but the scan."""
    return fact.label is None and fact.boxes is None and fact.structures is None and not fact.paired


def _per_split(facts: Sequence[Fact], test: Callable[[Fact], bool]) -> dict[str, int]:
    return {split: sum(fact.split == split and test(fact) for fact in facts) for split in SPLITS}


def _added(
    first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    return {split: {name: n + second[split][name] for name, n in counts.items()} for split, counts in first.items()}


def _indices(label: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (label,)


def _tally(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): n for value, n in sorted(Counter(values).items(), key=lambda item: (-item[1], str(item[0])))}


def _three(values: list[Any]) -> dict[str, list[Any]]:
    """Smallest, middle and largest by product, so that each stays one that occurs."""
    if not values:
        return {}

    def volume(value: Sequence[float | None]) -> float:
        product = 1.0
        for part in value:
            product *= part or 1.0
        return product

    ordered = sorted(values, key=volume)
    return {"min": list(ordered[0]), "median": list(ordered[len(ordered) // 2]), "max": list(ordered[-1])}


def leaks(facts: Sequence[Fact], copies: Iterable[tuple[int, int]] = ()) -> dict[str, list[str]]:
    """Ids of the cases of "train" and "val" that have their patient, or their picture, on a later side; a blank picture
    is nobody's, and a case on no side is left alone."""
    together = join(len(facts), [fact.alike for fact in facts], pairs=copies)
    sides: dict[tuple[str, str | int], set[str]] = {}
    keys: list[list[tuple[str, str | int]]] = [
        [("patient", fact.patient), *([("picture", group)] if fact.value_range[0] != fact.value_range[1] else [])]
        for fact, group in zip(facts, together, strict=True)
    ]
    for fact, own in zip(facts, keys, strict=True):
        for key in own if fact.split in SPLITS else ():
            sides.setdefault(key, set()).add(fact.split)
    found: dict[str, list[str]] = {"train": [], "val": []}
    for number, (fact, own) in enumerate(zip(facts, keys, strict=True)):
        later = SPLITS[SPLITS.index(fact.split) + 1 :] if fact.split in SPLITS else ()
        if any(side in sides[key] for key in own for side in later):
            found[fact.split].append(fact.case or f"c{number:06d}")
    return found


def _grouped(names: Sequence[str | int]) -> list[list[int]]:
    """Places of equal names, where there is more than one."""
    groups: dict[str | int, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _class_warnings(
    counts: Mapping[str, Mapping[str, int]], classes: Sequence[str], patients: Mapping[str, set[str]], what: str
) -> list[str]:
    """`counts` are of cases, or of what else carries the classes (`what`: "case" or "box")."""
    if not classes:
        return []
    present = [name for name in classes if any(counts[split][name] for split in SPLITS)]
    if len(present) < 2 and len(classes) < 2 and what == "case":
        return [f"There is only one class ({classes[0]}): nothing can be told apart. Add scans of a second class."]
    said = []
    absent = [name for name in classes if name not in present]
    if absent:
        said.append(f"No {'scan' if what == 'case' else what} carries the label {_listed(absent)}.")
    for split in SPLITS:
        missing = [name for name in present if not counts[split][name]]
        if missing and patients[split]:
            said.append(
                f"The {split} split holds no {what} of {_listed(missing)}: add patients with "
                f"{'it' if len(missing) == 1 else 'them'}, or figures for {split} say nothing about it."
            )
    few = [name for name in present if 0 < sum(counts[split][name] for split in SPLITS) < 10]
    if few:
        plural = "cases" if what == "case" else "boxes"
        said.append(f"Fewer than ten {plural} of {_listed(few)}: figures for it are very uncertain.")
    return said


def _patient_warnings(patients: Mapping[str, set[str]], straddling: set[str], patient_source: str) -> list[str]:
    everyone = set().union(*patients.values())
    said = []
    if len(everyone) == 1:
        said.append(
            "All scans belong to one patient: nothing can be held back for an honest test. Add patients, or say how a "
            "file name tells the patient."
        )
    else:
        empty = [split for split in SPLITS if not patients[split]]
        if everyone and empty:
            said.append(f"The {_listed(empty)} split is empty: {len(everyone)} patients are too few to fill three.")
    if straddling:
        said.append(
            f"{len(straddling)} patient{'s sit' if len(straddling) > 1 else ' sits'} in more than one split, as the "
            "source says: results will look better than they are."
        )
    if patient_source == "one image = one patient" and len(everyone) > 1:
        said.append(
            "The source names no patients: each image counts as one patient. If several images show one person, say "
            "how to tell (a patient column, or a pattern over file names), or results will look better than they are."
        )
    return said


def _duplicate_warnings(across: list[Any], across_test: list[Any], conflicts: list[Any]) -> list[str]:
    said = []
    if across:
        said.append(
            f"{len(across)} picture{'s occur' if len(across) > 1 else ' occurs'} (exactly or almost) on both sides of "
            f"a split, {len(across_test)} of them in test: the source's own split was kept."
        )
    if conflicts:
        said.append(
            f"{len(conflicts)} group{'s' if len(conflicts) > 1 else ''} of equal or almost equal pictures carry "
            "different labels: look at them."
        )
    return said


def _listed(names: Sequence[str]) -> str:
    shown = [str(name) for name in names[:8]]
    if len(names) > 8:
        shown.append(f"{len(names) - 8} more")
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
