"""A dataset on a page: opened once, told in words, drawn as facts and charts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import streamlit as st

from builder import attributes
from builder.data import SPLITS, Dataset, Fingerprint, Summary, datasets
from builder.execute import home
from pages.kit import charts, scans, style
from pages.kit.pairs import pairs
from pages.kit.words import amount, plain

__all__ = [
    "SPLIT_WORDS",
    "balances",
    "facts",
    "label_words",
    "opened",
    "show_attributes",
    "show_balance",
    "show_sizes",
    "show_warnings",
    "thumbnail",
    "words",
]

SPLIT_WORDS = {"train": "Training", "val": "Validation", "test": "Test"}
_PATIENTS = {
    "dicom": "The DICOM files say which scans belong to one patient.",
    "csv": "The label table says which scans belong to one patient.",
    "filename": "Your pattern over file names says which scans belong to one patient.",
    "official split": "The source's own split is used; it names no patients.",
    "one image = one patient": "No patient is known: one image counts as one patient. If several images show the same "
    "person, results will look better than they are.",
}


def opened(id: str) -> tuple[Dataset, Summary] | None:
    """Returns a dataset and its summary, kept open between runs of the page; None where it is gone."""
    for summary in datasets(home()):
        if summary.id == id:
            return _opened(str(home()), id, summary.changed), summary
    return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _opened(at_home: str, id: str, changed: float) -> Dataset:
    """`changed` is part of the key: after an import into it the dataset is opened anew."""
    return Dataset.open(Path(at_home), id)


@st.cache_data(max_entries=2000, show_spinner=False)
def thumbnail(at_home: str, id: str, index: int) -> np.ndarray:
    """Returns a case's picture on a small black square; a case never changes, so it is kept."""
    return scans.thumbnail(Dataset.open(Path(at_home), id).scan(index))


def label_words(dataset: Dataset, label: int | tuple[int, ...] | None) -> str:
    """Returns a case's label by name: "pneumonia", "mass, effusion", "no finding" or "no label"."""
    if label is None:
        return "no label"
    if isinstance(label, tuple):
        return ", ".join(dataset.classes[i] for i in label) or "no finding"
    return dataset.classes[label]


def words(fingerprint: Fingerprint) -> list[str]:
    """Returns what a dataset is like, in plain sentences (markdown-safe)."""
    f = fingerprint
    said = [f"{amount(f.num_cases, 'scan')} of {amount(f.num_patients, 'patient')}{_classes(f)}."]
    said.append(_sides(f))
    if f.sizes:
        low, middle, high = (f.sizes.get(k) for k in ("min", "median", "max"))
        if low == high and low:
            said.append(f"All are {low[1]} × {low[0]} pixels.")
        elif low and middle and high:
            said.append(
                f"From {low[1]} × {low[0]} to {high[1]} × {high[0]} pixels, most often near {middle[1]} × {middle[0]}."
            )
    most = f.num_slices.get("max", 1)
    if most > 1:
        said.append(f"Series of up to {most} slices.")
    kinds = [f"{plain(kind)}: {n:,}" for kind, n in f.modalities.items() if kind != "unknown"]
    formats = [f"{plain(name.upper())}: {n:,}" for name, n in f.formats.items()]
    depths = [f"{bits} bit" for bits in sorted(f.bits, key=int)]
    colour = any(int(c) > 1 for c in f.channels)
    kinds_said = f"{', '.join(kinds)}; " if kinds else ""
    said.append(f"{kinds_said}{', '.join(formats)}; {' and '.join(depths)}{', colour' if colour else ', grey'}.")
    if f.spacing_mm.get("median"):
        spacing = f.spacing_mm["median"]
        said.append(f"A pixel is about {spacing[2]:.2f} × {spacing[1]:.2f} mm.")
    exact, near = f.duplicates.get("exact", 0), f.duplicates.get("near", 0)
    if exact or near:
        sets = [amount(exact, "set") + " of equal pictures"] if exact else []
        sets += [amount(near, "set") + " of almost equal ones"] if near else []
        astride = f.duplicates.get("across_splits", 0)
        where = f"{astride:,} of them lie on several sides" if astride else "each set stays on one side of the split"
        said.append(f"{' and '.join(sets)}: {where}.")
    else:
        said.append("No picture occurs twice.")
    return said


def _sides(f: Fingerprint) -> str:
    counts = [f.patients_per_split.get(split, 0) for split in SPLITS]
    return (
        f"The split goes by patient: {counts[0]:,} for training, {counts[1]:,} for validation, "
        f"{counts[2]:,} for the test."
    )


def _classes(f: Fingerprint) -> str:
    if not f.classes:
        return ", without labels"
    names = ", ".join(plain(name) for name in f.classes[:8]) + (", ..." if len(f.classes) > 8 else "")
    return f", {amount(len(f.classes), 'class', 'classes')} ({names})"


def facts(dataset: Dataset) -> None:
    """Draws the split by patients as numbers side by side."""
    f = dataset.fingerprint
    why = {
        "train": "To learn from.",
        "val": "To check with while learning: after each epoch, to choose the best one.",
        "test": "Opened once, at the end: the honest figure.",
    }
    num_cases = _cases_per_split(dataset)
    entries = []
    for split in SPLITS:
        patients = f.patients_per_split.get(split, 0)
        entries.append((SPLIT_WORDS[split], f"{num_cases[split]:,}", f"{amount(patients, 'patient')}. {why[split]}"))
    style.facts([("Scans", f"{f.num_cases:,}", ""), ("Patients", f"{f.num_patients:,}", patient_words(f)), *entries])


def _cases_per_split(dataset: Dataset) -> dict[str, int]:
    """Each scan counts once, whatever labels it carries; datasets of an older version are counted case by case."""
    told = dataset.fingerprint.cases_per_split
    return {split: told[split] if split in told else int((dataset.splits == split).sum()) for split in SPLITS}


def patient_words(fingerprint: Fingerprint) -> str:
    """Returns who says which scans belong to one patient, in a sentence."""
    return _PATIENTS.get(fingerprint.patient_source, fingerprint.patient_source)


def show_warnings(fingerprint: Fingerprint) -> None:
    """Draws what a person should know about the data before trusting a figure."""
    for warning in fingerprint.warnings:
        st.warning(plain(warning), icon=":material/warning:")


def show_attributes(fingerprint: Fingerprint) -> None:
    """Draws how many patients are of which sex, age, site and scanner, as far as files or tables say so."""
    rows = [
        (attributes.title(name), " · ".join(f"{value}: {n:,}" for value, n in values.items()))
        for name, values in fingerprint.attributes.items()
    ]
    pairs(rows)
    st.caption(
        "Patients. Kept are a band of age and numbers for sites, no date and no name; values of fewer than five "
        "patients are told as “other”. Results shows the figures group by group, the audit whether one of them gives "
        "the class away."
    )


def show_sizes(dataset: Dataset) -> None:
    """Draws how many scans have which size, where sizes differ."""
    sides = np.array([max(case.shape[2:]) for case in dataset.cases])
    if not len(sides) or sides.min() == sides.max():
        return
    counts, edges = np.histogram(sides, bins=min(10, int(sides.max() - sides.min())))
    named = {f"{round(low)} to {round(high)}": n for low, high, n in zip(edges, edges[1:], counts, strict=False)}
    charts.bars(
        {name: {"Scans": int(n)} for name, n in named.items()}, key="sizes", x_title="Longer side (px)", y_title="Scans"
    )


def balances(fingerprint: Fingerprint) -> dict[str, dict[str, dict[str, int]]]:
    """{what is counted: {class or structure: {side in words: how many}}}, for each kind of label that is there."""
    f = fingerprint
    kinds = {
        "Scans": (f.classes, f.class_counts),
        "Boxes": (f.classes, f.box_counts),
        "Scans that show it": (f.mask_names, f.mask_counts),
    }
    return {
        what: {name: {SPLIT_WORDS[split]: counts.get(split, {}).get(name, 0) for split in SPLITS} for name in names}
        for what, (names, counts) in kinds.items()
        if any(count for of_side in counts.values() for count in of_side.values())
    }


def show_balance(fingerprint: Fingerprint) -> None:
    """Draws how many scans, boxes and outlines each class or structure has on each side of the split."""
    there = balances(fingerprint)
    for number, (what, counts) in enumerate(there.items()):
        charts.bars(counts, key=f"class-balance-{number}", y_title=what, height=260 if len(there) == 1 else 210)
    if not there and any(fingerprint.num_paired.values()):
        st.caption("Each of these scans has its clean twin: enhancement learns from that, and needs no class.")
    elif not there:
        st.caption(
            "These scans carry no labels. Enhancement can learn from clean ones; for everything else, label some first."
        )
