"""Correcting an answer: what the network found is drawn beforehand, changed by hand, and goes back into the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from builder import feedback, outputs
from builder.data import SPLITS, Dataset
from builder.evaluate import was_opened
from builder.feedback import Said
from builder.labels import Box, LabelRefused, pack
from builder.runs import StoreError
from builder.task import find
from pages.kit import annotating, answers, go, jobs, labelling, style
from pages.kit.answers import Answer
from pages.kit.labelling import BOXES, MASK, Marks, Naming
from pages.kit.marks import Work
from pages.kit.words import plain

__all__ = ["SLOT", "draw", "proposals_of", "said_of"]

SLOT = "correct"
_EDITOR = "correcting"  # key of the canvas
_SIDES = dict(zip(SPLITS, ("training", "validation", "test"), strict=True))
_KINDS = {"boxes": BOXES, "mask": MASK}


def draw(
    answer: Answer, dataset: Dataset, task: str, case: int | None, files: Sequence[Path], member: int | None
) -> None:
    """Draws the button that begins, the editor with the network's proposals, and the one that saves.

    Args:
        dataset: that of the run. task: of the run. case: of the data set, where the scan is one.
        files, member: of the scan, where it was dropped.
    """
    learns = find(task).learns
    kinds = [_KINDS[kind] for kind in learns if kind in _KINDS]
    with_class = "class" in learns and len(dataset.classes) > 1
    if not (kinds or with_class) or not answer.has("scan"):
        return
    with style.card("Right or wrong?", key="correction"):
        if _done(answer, dataset):
            return
        open_now = st.toggle(
            "Correct it",
            key=f"correct-{answer.job}",
            help="What the network found is drawn beforehand: agree to it or change it, and save it into the data set "
            "of this run.",
        )
        st.caption(_destination(dataset, case))
        if not open_now:
            return
        if with_class:
            _label(answer, dataset, case)
        if MASK in kinds and answer.has("mask") and len(dataset.mask_names) > 1:
            st.caption(
                "The network outlines all structures of the data set as one and does not say which is which: nothing "
                "is drawn beforehand."
            )
        work = _edited(answer, dataset, case, kinds) if kinds else None
        _save(answer, dataset, case, files, member, work)


def _destination(dataset: Dataset, case: int | None) -> str:
    """What a correction is good for, and where the scan goes or stays."""
    if case is not None and dataset.cases[case].split == "test":
        stays = "It stays on the test side of the data set, and the next measurement counts what you say."
        if not was_opened(dataset):
            return stays
        return (
            f"{stays} That side was opened: labels that are corrected only where the network erred make its figures "
            "look better than they are."
        )
    teaches = "A corrected scan teaches the next training."
    if case is not None:
        return f"{teaches} It stays where it is in the data set."
    if was_opened(dataset):
        return (
            f"{teaches} It joins {plain(dataset.name)} for training or validation, never its test scans: these were "
            "looked at already."
        )
    return f"{teaches} It joins {plain(dataset.name)}; its patient decides on which side."


def _label(answer: Answer, dataset: Dataset, case: int | None) -> None:
    """The class or classes of the scan, beginning with what is known, else with what the network answers."""
    known = dataset.cases[case].label if case is not None else None
    if dataset.multi_label:
        chances = answer.finding.get("probabilities") or {}
        first = [n for n in dataset.classes if chances.get(n, 0) >= 0.5]
        if isinstance(known, tuple):
            first = [dataset.classes[k] for k in known]
        st.pills(
            "What it shows", dataset.classes, selection_mode="multi", default=first, key=f"label-{answer.job}",
            format_func=plain,
        )  # fmt: skip
        return
    first_one = dataset.classes[known] if isinstance(known, int) else answers.likeliest(answer.finding)
    known_one = first_one if first_one in dataset.classes else None
    # A press on the class that is chosen already says it again; it does not take it away.
    st.pills(
        "What it is", dataset.classes, default=known_one, required=known_one is not None,
        key=f"label-{answer.job}", format_func=plain,
    )  # fmt: skip


def _chosen(answer: Answer, dataset: Dataset) -> tuple[str, ...] | None:
    """The class or classes that are chosen now; None where the page does not ask, or nothing is chosen."""
    told = st.session_state.get(f"label-{answer.job}")
    if dataset.multi_label:
        return None if told is None else tuple(told)
    return (str(told),) if told else None


def _box(found: Mapping[str, Any], dataset: Dataset) -> Box:
    """A box that a network found as a label of the data set."""
    x0, y0, x1, y1 = found["box"]
    return Box(x0, y0, x1, y1, label=dataset.classes.index(found["class"]), slice=found["slice"])


def proposals_of(answer: Answer, dataset: Dataset) -> tuple[Marks, list[float]]:
    """What the network found as labels of the data set, and the scores of its boxes; None for what it does not tell.

    Its outline is that of all structures together: only where there is one at most it says which one that is.
    """
    boxes, scores, mask = None, [], None
    if answer.finding.get("boxes") is not None:
        shown = [b for b in answers.boxes_from(answer, answers.threshold_of(answer)) if b["class"] in dataset.classes]
        boxes = tuple(_box(b, dataset) for b in shown)
        scores = [float(b["score"]) for b in shown]
    if answer.has("mask") and len(dataset.mask_names) < 2:
        mask = outputs.kept(answer.folder, "mask").pixels[:, 0].copy()
    return Marks(boxes, mask), scores


def _edited(answer: Answer, dataset: Dataset, case: int | None, kinds: Sequence[str]) -> Work:
    known = Marks(dataset.boxes(case), dataset.mask(case)) if case is not None else Marks()
    proposed, scores = proposals_of(answer, dataset)
    return labelling.edit(
        outputs.kept(answer.folder, "scan"),
        known,
        id=f"{answer.job}-{len(dataset.history(case)) if case is not None else ''}",
        key=_EDITOR,
        names=Naming(dataset.classes, dataset.mask_names or ("lesion",)),
        on_change=lambda marks, kind: None,  # it is saved by its button, all at once
        kinds=kinds,
        proposals=proposed,
        scores=scores,
    )


def said_of(dataset: Dataset, marks: Marks, label: tuple[str, ...] | None) -> Said:
    """What a person says, in the names of the data set."""
    boxes = None
    if marks.boxes is not None:
        boxes = tuple((b.x0, b.y0, b.x1, b.y1, dataset.classes[b.label], b.slice) for b in marks.boxes)
    return Said(label, boxes, None if marks.mask is None else pack(marks.mask))


def _save(
    answer: Answer, dataset: Dataset, case: int | None, files: Sequence[Path], member: int | None, work: Work | None
) -> None:
    gone = case is None and not files
    nothing = _said(answer, dataset, work) == Said()
    job = jobs.of_slot(SLOT)
    st.button(
        "Save into the data set",
        key="save-correction",
        type="primary",
        icon=":material/library_add:",
        disabled=gone or nothing or (job is not None and job.view().active),
        help="Drop the scan here again first."
        if gone
        else "Say what is on it first: agree to what is proposed, or change it."
        if nothing
        else None,
        on_click=_keep,
        args=(answer, dataset, case, files, member, work),
    )
    if work is not None and work.proposed:
        st.caption("What the network proposes is saved once you have agreed to it, or changed it.")
    refused = st.session_state.pop("correct-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    jobs.watch(SLOT, "Saving into the data set")


def _said(answer: Answer, dataset: Dataset, work: Work | None) -> Said:
    """What a person says by now."""
    return said_of(dataset, Marks() if work is None else work.said, _chosen(answer, dataset))


def _keep(
    answer: Answer, dataset: Dataset, case: int | None, files: Sequence[Path], member: int | None, work: Work | None
) -> None:
    if work is not None:
        labelling.drawn(_EDITOR)
    said = _said(answer, dataset, work)  # as it is now: the button that was pressed may be from before the last choice
    who = annotating.who()  # as on the Data page
    try:
        if case is not None:
            feedback.correct(dataset, case, said, who)
            result = {"dataset": dataset.id, "case": case, "split": dataset.cases[case].split}
            st.session_state[f"corrected-{answer.job}"] = result
            return
        payload: dict[str, Any] = {
            "dataset": dataset.id,
            "files": [str(file) for file in files],
            "member": member,
            "said": said.to_json(),
            "who": who,
            "of": answer.job,
        }
        jobs.submit("correct", payload, SLOT)
        st.session_state[f"correcting-{answer.job}"] = True
    except (StoreError, LabelRefused, feedback.FeedbackRefused, OSError) as error:
        st.session_state["correct-refused"] = str(error)


def _done(answer: Answer, dataset: Dataset) -> bool:
    """What became of a correction of this answer that was saved; whether there was one."""
    told: dict[str, Any] | None = st.session_state.get(f"corrected-{answer.job}")
    if told is None and st.session_state.get(f"correcting-{answer.job}"):
        told = jobs.result(SLOT)
        if told is not None:
            jobs.forget(SLOT)
            st.session_state[f"corrected-{answer.job}"] = told
    if told is None:
        return False
    st.success(
        f"It is in the data set {plain(dataset.name)}, on the {_SIDES[told['split']]} side, with what you said.",
        icon=":material/check_circle:",
    )
    with st.container(horizontal=True):
        if st.button("Look at it there", key="to-corrected", icon=":material/radiology:"):
            go.to("data", dataset=str(told["dataset"]))
        st.button(
            "Correct it again", key="correct-again", type="tertiary", icon=":material/edit:",
            on_click=st.session_state.pop, args=(f"corrected-{answer.job}", None),
            disabled=st.session_state.get(f"correcting-{answer.job}", False),
        )  # fmt: skip
    return True
