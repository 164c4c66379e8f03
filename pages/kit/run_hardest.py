"""The training cases a run finds hardest: looked at, corrected or left out, and learned from again in a branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder.data import Dataset, UnknownDataset
from builder.execute import home
from builder.labels import LabelRefused, record
from builder.runs import Run, StoreError
from builder.spec import SpecError
from pages.kit import branching, jobs, style
from pages.kit.run_list import experiment_of
from pages.kit.words import amount, plain

__all__ = ["SLOT", "hardest"]

SLOT = "hardest"
_A_ROW = 6
_FIRST = 18
_SIDE_PX = 150


def hardest(run: Run, whose: str = "") -> None:
    """The card: the button, the pictures, what is to be done with each, and the branch that comes of it."""
    slot = f"{SLOT}-{run.id}"
    jobs.keep_in_url(slot)
    with style.card(f"Hardest training cases{whose}", key="hardest"):
        st.caption(
            "The loss of every training case with the weights saved last, without augmentation. A case far above the "
            "others is rare, hard or wrongly labelled: look at it, then leave it out, correct it, or keep it."
        )
        job, told = jobs.of_slot(slot), jobs.result(slot)
        st.button(
            "Look for them" if told is None else "Look again",
            key="look-hardest",
            icon=":material/search:",
            disabled=job is not None and job.view().active,
            on_click=ask,
            args=(run, slot),
        )
    jobs.watch(slot, "Asking about every training scan")
    if job is None or told is None:
        return
    try:
        dataset = Dataset.open(home(), run.experiment.data.dataset)
    except (UnknownDataset, SpecError, OSError):
        st.caption("The data set of this run is gone.")
        return
    with style.card(key="hardest-cases"):
        st.caption(
            f"After epoch {told['epoch']}: the {min(len(told['cases']), _FIRST)} highest of {told['n']:,} cases; half "
            f"of all lie below {told['median']:.3g}."
        )
        shown = told["cases"] if st.session_state.get("hardest-all") else told["cases"][:_FIRST]
        for start in range(0, len(shown), _A_ROW):
            for place, entry in zip(st.columns(_A_ROW, gap="small"), shown[start : start + _A_ROW], strict=False):
                with place:
                    case(run, dataset, job.folder, entry)
        if len(told["cases"]) > _FIRST:
            st.toggle(f"Show {len(told['cases'])}", key="hardest-all")
        go_on(run, dataset, told["cases"])


def ask(run: Run, slot: str) -> None:
    """Submits the question."""
    try:
        jobs.submit("hardest", {"run": run.id}, slot)
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)


def case(run: Run, dataset: Dataset, folder: Any, entry: Mapping[str, Any]) -> None:
    """One case: its picture, its loss, what is said of it and what the network says, and what to do."""
    name = entry["case"]
    st.image(str(folder / entry["picture"]), width=_SIDE_PX, alt=f"Training case {name}")
    times = f" · {entry['times']:g} x" if entry.get("times") else ""
    said = f"  \n{plain(entry['label'])}" if entry["label"] else ""
    if entry["says"] and entry["says"] != entry["label"]:
        said += f", not **{plain(entry['says'])}** ({100 * entry['sure']:.0f} %)?"
    st.markdown(f"**{entry['loss']:.3g}**{times}{said}")
    st.checkbox("Leave out", key=out_key(run, name), value=name in left_out(run))
    if dataset.classes and not dataset.multi_label and entry["label"]:
        st.selectbox(
            "It shows",
            range(len(dataset.classes)),
            index=int(dataset.labels[entry["index"]]),
            format_func=lambda k: dataset.classes[k],
            key=f"relabel-{run.id}-{name}",
            on_change=relabel,
            args=(dataset, entry["index"], f"relabel-{run.id}-{name}"),
            help="Corrects the label in the data set, with who and when in its history; the import stays as it was.",
        )


def out_key(run: Run, case: str) -> str:
    """The key of the tick that leaves a case out."""
    return f"out-{run.id}-{case}"


def left_out(run: Run) -> tuple[str, ...]:
    """The cases that the run itself leaves out."""
    experiment = experiment_of(run)
    return experiment.data.exclude if experiment else ()


def relabel(dataset: Dataset, index: int, key: str) -> None:
    """Keeps the corrected label among the edits of the data set."""
    try:
        record(dataset, index, label=int(st.session_state[key]), origin="corrected")
    except (LabelRefused, OSError) as error:
        st.session_state["runs-refused"] = str(error)
        return
    st.session_state["relabelled"] = st.session_state.get("relabelled", 0) + 1


def go_on(run: Run, dataset: Dataset, cases: list[dict[str, Any]]) -> None:
    """The way to a branch without the ticked cases and with the corrected labels."""
    experiment = experiment_of(run)
    if experiment is None:
        return
    ticked = [entry["case"] for entry in cases if st.session_state.get(out_key(run, entry["case"]))]
    kept = {entry["case"] for entry in cases} - set(ticked)
    wanted = sorted({*ticked, *(case for case in experiment.data.exclude if case not in kept)})
    corrected = int(st.session_state.get("relabelled", 0))
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button(
            "Go on with these changes",
            key="branch-hardest",
            icon=":material/fork_right:",
            disabled=wanted == sorted(experiment.data.exclude) and not corrected,
            help="Opens a branch of this run on the Training page, where you can change how it learns as well.",
        )
        words = f"{amount(len(wanted), 'case')} left out, {amount(corrected, 'label')} corrected."
        if corrected:
            words += " This run can be resumed only with the labels it began with; its branch learns the new ones."
        st.caption(words)
    if pressed:
        branching.begin(run, experiment.replace("data.exclude", wanted))
