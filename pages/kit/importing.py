"""The import form: where scans come from, what they seem to be, who is who, and the start of the import job."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from builder.data import Dataset, Pseudonyms, datasets
from builder.evaluate import was_opened
from builder.execute import home
from builder.runs import StoreError
from builder.sources import KIND_WORDS, Source, SourceRefused, detect, gather, new_classes, spelled_alike
from builder.task import TASKS, find
from pages.kit import address, dropbox, jobs, uploads
from pages.kit.gate import Rules
from pages.kit.words import amount, plain, size

__all__ = ["SLOT", "assign_names", "form", "known_names"]

SLOT = "import"
_BROWSER, _FOLDER = "From this browser", "A folder of this machine"
_AS_FILES_SAY, _PATTERN = "As the files or the table say", "By a pattern over file names"
_NEW = ""
_NUM_EXAMPLES = 8
_ANEW = ("way", "folder", "labels", "into", "keep-closed", "patient-rule", "pattern")
_MAX_NAMES = 5_000
_MAX_SHOWN = 12
_BROUGHT, _KNOWN = "brought-names", "known-names"


def form() -> None:
    """Draws the form; its button starts the job of slot `SLOT`."""
    with st.container(border=True, key="import-form"):
        way = st.segmented_control(
            "Where are the scans?", [_BROWSER, _FOLDER], default=_BROWSER, key="way", required=True
        )
        root = _from_browser() if way == _BROWSER else _from_folder()
        if root is None:
            return
        labels = _labels(way == _FOLDER)
        place, stamp = (str(root), str(labels or "")), _stamp(root, way == _BROWSER)
        above = st.container()
        left, right = st.columns(2, gap="medium")
        try:
            suits = _look(*place, stamp)["label_kind"]
            with left:
                into, name, task = _target(suits)
            seen = _look(*place, stamp, task)
            with above:
                kind = _kind(seen["choices"])
                seen = _look(*place, stamp, task, kind)
            known = Dataset.open(home(), into).classes if into else ()
            new = _new_classes(*place, stamp, seen["source"], known) if known else ()
        except SourceRefused as refused:
            above.error(plain(str(refused)), icon=":material/error:")
            return
        above.success(f"Found {plain(seen['words'])}.", icon=":material/check_circle:")
        with right:
            pattern, fits = _patients(seen["names"])
            closed = _keep_closed(into) if into else []
        welcome = _welcome(new, known)
        split = _split() if not into else None
        source = Source.from_json({**seen["source"], "patient_pattern": pattern}).to_json()
        payload: dict[str, Any] = {
            "source": source,
            "name": name,
            "task": task,
            "into": into or None,
            "split": split,
            "seed": 0,
            "keep_out_of": closed,
            "new_classes": list(new) if welcome else [],
        }
        ready = bool(fits and welcome and (into or name.strip()))
        st.button(
            "Import",
            type="primary",
            icon=":material/upload:",
            key="start-import",
            disabled=not ready,
            on_click=_start,
            args=(payload, way == _BROWSER, _chosen()),
        )


def assign_names(dataset: str) -> None:
    """Gives the names that this session brought to the dataset that its import made."""
    brought = st.session_state.pop(_BROUGHT, [])
    if brought:
        key = Pseudonyms(home())
        known = st.session_state.setdefault(_KNOWN, {}).setdefault(dataset, {})
        known.update({key("name", name): name for name in brought})


def known_names(dataset: str) -> dict[str, str]:
    """Returns {`Entry.key`: name} of the files that this session imported; names are in its memory and nowhere else."""
    found: dict[str, str] = st.session_state.get(_KNOWN, {}).get(dataset, {})
    return found


def _names(root: Path) -> list[str]:
    """The first names that the ledger will key, with the members of zip files, called as the import calls them."""
    try:
        gathered = gather(root, None)
    except (SourceRefused, OSError):
        return []  # the import itself says what is wrong
    return [*(left.name for left in gathered.left), *(found.name for found in gathered.found)][:_MAX_NAMES]


def _from_browser() -> Path | None:
    came = dropbox.box(
        SLOT,
        label="Drop scans here: files, folders or a zip",
        help="DICOM, NIfTI, NRRD, PNG, JPEG, BMP, TIFF, a MedMNIST npz; with a labels.csv or a folder per class. "
        "Files go straight to the disk of this machine.",
    )
    if not came:
        return None
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"{amount(len(came), 'file')} here, {size(sum(f.bytes for f in came))}.", width="content")
        st.button(
            "Start over",
            key="drop-all",
            icon=":material/delete:",
            type="tertiary",
            on_click=dropbox.empty,
            args=(SLOT,),
        )
    return uploads.folder_of(dropbox.ticket_of(SLOT))


def _from_folder() -> Path | None:
    text = st.text_input(
        "Folder, zip file or npz file on the machine that runs ScanLoom",
        key="folder",
        placeholder="/home/you/scans",
        help="It is read where it is and left as it is.",
    )
    if not text.strip():
        return None
    path = Path(text.strip()).expanduser()
    objection = _objection(path)
    if objection:
        st.error(objection, icon=":material/error:")
        return None
    return path


def _objection(path: Path) -> str:
    """Why a folder must not be read: where others than this machine's user come in, only named folders are open."""
    rules = Rules.of(os.environ)
    if not path.is_absolute():
        return "Give the whole path, from the root on, such as /home/you/scans."
    if not (rules.password or rules.behind_proxy):
        return ""
    roots = [Path(p).resolve() for p in os.environ.get("SCANLOOM_FOLDERS", "").split(os.pathsep) if p]
    if any(path.resolve().is_relative_to(root) for root in roots):
        return ""
    return "This server reads only the folders that its operator named in SCANLOOM_FOLDERS. Drop the files instead."


def _labels(from_folder: bool) -> Path | None:
    if not from_folder:
        return None
    text = st.text_input(
        "Label table (CSV), COCO file or data.yaml, if it does not lie in the folder",
        key="labels",
        placeholder="columns: file, label, and if known patient and split",
        help="One row a scan. A table called labels.csv in the folder is found by itself.",
    )
    path = Path(text.strip()).expanduser() if text.strip() else None
    if path is not None and _objection(path):
        st.error(_objection(path), icon=":material/error:")
        return None
    return path


def _stamp(root: Path, from_browser: bool) -> int:
    return len(uploads.received(root.name)) if from_browser else 0


@st.cache_data(ttl=30, max_entries=8, show_spinner="Looking at the files ...")
def _look(root: str, labels: str, stamp: int, task: str = "", kind: str = "") -> dict[str, Any]:
    """What lies at a path: the source as plain data, words for it, a few names. `stamp` tells that files were added."""
    source = detect(Path(root), Path(labels) if labels else None, task, kind)
    names = [found.name for found in gather(Path(root), None).found if not found.name.lower().endswith(".csv")]
    step = max(1, len(names) // _NUM_EXAMPLES)
    facts = {"words": source.words, "choices": source.choices, "label_kind": source.label_kind}
    return {"source": source.to_json(), "names": names[::step][:_NUM_EXAMPLES], **facts}


@st.cache_data(ttl=30, max_entries=8, show_spinner="Looking at the labels ...")
def _new_classes(root: str, labels: str, stamp: int, source: dict[str, Any], known: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the files name and the data set has not. The first three arguments only tell the files apart."""
    return new_classes(Source.from_json(source), known)


def _welcome(new: Sequence[str], known: Sequence[str]) -> bool:
    """Whether the import may go on: there are no new classes, or the person says yes to them, having seen their names.

    Asked for, since a folder called after a patient, or a misspelt label, would else become a class for good.
    """
    if not new:
        return True
    alike = spelled_alike(new, known)
    told = [
        f"**{plain(name)}**" + (f" (spelled otherwise than **{plain(alike[name])}**)" if name in alike else "")
        for name in new[:_MAX_SHOWN]
    ]
    if len(new) > _MAX_SHOWN:
        told.append(f"and {len(new) - _MAX_SHOWN:,} more")
    st.warning(
        f"The files name {amount(len(new), 'class', 'classes')} that the data set has not: {', '.join(told)}. It knows "
        f"{plain(', '.join(known[:_MAX_SHOWN]))}{', ...' if len(known) > _MAX_SHOWN else ''}.",
        icon=":material/new_label:",
    )
    yes = st.toggle(
        "Add them as new classes" if len(new) > 1 else "Add it as a new class",
        key=f"new-classes-{'-'.join(new)}"[:200],  # other names are asked for anew
        help="A name stays once it is there. If one is only spelled otherwise, correct it in the files and drop them "
        "again.",
    )
    st.caption(
        "Networks trained before go on answering with the classes they were taught, and their figures stay. To be "
        "measured on this data set again, or to learn on, they must be trained anew with all its classes."
    )
    return yes


def _kind(choices: tuple[str, ...]) -> str:
    """How the files shall be read, where there is more than one way; "" leaves it to the guess."""
    if len(choices) < 2:
        return ""
    return st.selectbox(
        "Read them as",
        choices,
        key=f"kind-{'-'.join(choices)}",  # other files may be read in other ways, and start with their likeliest
        format_func=lambda kind: KIND_WORDS[kind][0].upper() + KIND_WORDS[kind][1:],
        help="The likeliest way is chosen. Say another one where it is wrong, such as folders that are classes.",
    )


def _keep_closed(into: str) -> list[str]:
    """The sides that take no new scans: the test side of a dataset by which runs were judged, if people say so."""
    if not was_opened(Dataset.open(home(), into)):
        return []
    keep = st.toggle(
        "Keep them out of the test side",
        value=True,
        key="keep-closed",
        help="The test side was opened: runs have figures on it, and a scan that joins it would change what they are "
        "measured by. A scan of a patient who lies there is refused.",
    )
    return ["test"] if keep else []


def _target(suits: str) -> tuple[str, str, str]:
    """(dataset to add to or "", name, task); a new dataset is for the first task whose labels came with the files."""
    there = {summary.id: summary for summary in datasets(home())}
    into = ""
    if there:
        into = st.selectbox(
            "Into",
            [_NEW, *there],
            key="into",
            format_func=lambda id: "A new dataset" if id == _NEW else f"Add to: {there[id].name}",
            help="Scans that are added never change the side (training, validation, test) of those already there.",
        )
    if into:
        return into, there[into].name, there[into].task
    name = st.text_input("Name of the dataset", key="dataset-name", max_chars=120, placeholder="Chest films, spring")
    if not name.strip():
        st.caption(":red[Give it a name to go on.]")
    tasks = list(TASKS)
    fits = [name for name in tasks if suits and find(name).label_kind == suits]
    task = st.selectbox(
        "What shall be learned?",
        tasks,
        index=tasks.index(fits[0]) if fits else 0,
        key=f"task-{suits}",  # files with other labels suggest another task
        format_func=lambda t: TASKS[t].title,
    )
    st.caption(plain(TASKS[task].help))
    return "", name, task


def _patients(names: list[str]) -> tuple[str | None, bool]:
    """Returns the pattern (None = as the files say) and whether it can be used; shows what it finds in a few names."""
    rule = st.radio(
        "Which scans belong to one patient?",
        [_AS_FILES_SAY, _PATTERN],
        key="patient-rule",
        help="Scans of one patient never lie on both sides of the split: else a network is tested on people it knows. "
        "Patients are stored under pseudonyms only.",
    )
    if rule == _AS_FILES_SAY:
        st.caption("DICOM files and tables with a patient column say it; else one image counts as one patient.")
        return None, True
    text = st.text_input(
        "Pattern (regular expression with one group)",
        key="pattern",
        placeholder=r"^(\w+)_",
        max_chars=300,
        help=r"The part in round brackets is the patient: ^(\w+)_ finds p01 in p01_left.png.",
    )
    if not text:
        return None, False
    try:
        pattern = re.compile(text)
    except re.error as error:
        st.error(f"This is no regular expression: {plain(str(error))}.", icon=":material/error:")
        return None, False
    if pattern.groups != 1:
        st.error(
            "Put exactly one pair of round brackets around the part that names the patient.", icon=":material/error:"
        )
        return None, False
    found = [(name, match.group(1) if (match := pattern.search(name[:300])) else None) for name in names]
    st.dataframe(
        [{"File": name, "Patient": patient or "no match"} for name, patient in found],
        hide_index=True,
        height="content",
        key="pattern-preview",
    )
    num_without = sum(not patient for _, patient in found)
    if num_without:
        st.error(f"{num_without} of these {len(found)} names do not match; every name must.", icon=":material/error:")
    return text, not num_without


def _shares() -> list[float]:
    """Training, validation, test as the sliders stand now."""
    val, test = st.session_state["val-share"], st.session_state["test-share"]
    return [round(1 - (val + test) / 100, 4), val / 100, test / 100]


def _split() -> list[float]:
    with st.expander("How many scans are held back", icon=":material/call_split:"):
        st.caption("Whole patients are held back. A split that comes with the data is kept as it is.")
        st.slider("Validation (%)", 5, 40, 15, key="val-share", help="To check with while learning, after each epoch.")
        st.slider("Test (%)", 5, 40, 15, key="test-share", help="Opened once, at the end: the honest figure.")
    return _shares()


def _chosen() -> dict[str, Any]:
    """What is chosen just now, of all that the form draws something anew for."""
    return {
        str(key): value
        for key, value in st.session_state.items()
        if key in _ANEW or str(key).startswith(("task-", "kind-", "new-classes-"))
    }


def _start(payload: dict[str, Any], from_browser: bool, seen: Mapping[str, Any]) -> None:
    """Starts the import, if what was `seen` beside the button is still what is chosen: else other classes, sides or
    patients would be at stake than those that the person was shown."""
    if _chosen() != seen:
        st.session_state["data-error"] = (
            "Something was chosen anew just as you pressed Import, so nothing was started. See what is found now, and "
            "press Import again."
        )
        return
    if payload["split"] is not None:  # a new dataset: as it is called and divided now, not when the button was drawn
        name = str(st.session_state["dataset-name"]).strip() or payload["name"]
        payload = {**payload, "name": name, "split": _shares()}
    try:
        if from_browser:
            uploads.close(Path(payload["source"]["root"]).name)
        st.session_state[_BROUGHT] = _names(Path(payload["source"]["root"]))  # before the job removes an upload
        jobs.submit("import", payload, SLOT)
    except (StoreError, LookupError) as error:
        st.session_state["data-error"] = str(error)
        return
    address.drop("import")
