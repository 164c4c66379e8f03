"""What about this scan? A finished run answers, whatever its task: shown on the scan, to be corrected, to take away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st

from builder import saliency
from builder.data import Dataset, UnknownDataset
from builder.execute import home
from builder.runs import Run, StoreError
from builder.saliency import METHODS
from builder.spec import SpecError
from builder.task import TASKS, find
from pages.kit import (
    address,
    answers,
    archive,
    batch,
    correction,
    downloads,
    dropbox,
    explained,
    go,
    heat,
    jobs,
    opinions,
    serving,
    style,
    trained,
    truths,
)
from pages.kit.answers import Answer
from pages.kit.trained import chosen_run, usable_runs
from pages.kit.words import plain

if TYPE_CHECKING:
    from streamlit_drawable_canvas import CanvasResult

_CSS = """<style>.st-key-seen img,.st-key-looked img{image-rendering:pixelated;border-radius:.4rem}</style>"""
_SLOT = "ask"  # of the dropzone and of the job that answers
_COVER = "cover"  # of the job that answers with areas covered
_FIRST = "grad_cam"  # of the ways to ask where it looked: every answer comes with it
_SIDE_PX = 420
_ONE, _MANY = "One scan", "Many scans"
_PICKED = "picked-of-many"  # (files, number) of the scan that is looked at
_NOT_CLINICAL = "For research and education only: not for clinical use."


class Source:
    """The scan that is asked about: files of an upload (number `member` of several scans in them), or a case of the
    run's data set."""

    def __init__(
        self, dataset: str = "", case: int | None = None, files: Sequence[Path] = (), member: int | None = None
    ) -> None:
        self.dataset, self.case, self.files, self.member = dataset, case, tuple(files), member

    def payload(self, run: Run) -> dict[str, Any]:
        """What a predict job needs."""
        asked = {"run": run.id, "checkpoint": trained.state_of(run)}
        if self.case is not None:
            return {**asked, "dataset": self.dataset, "case": self.case}
        payload = {**asked, "files": [str(file) for file in self.files]}
        return payload if self.member is None else {**payload, "member": self.member}

    @property
    def digest(self) -> str:
        """Tells one source from another."""
        return json.dumps([self.dataset, self.case, [str(file) for file in self.files], self.member])


def forget() -> None:
    """Puts the present answer away."""
    jobs.forget(_SLOT)
    jobs.forget(_COVER)
    st.session_state.pop("asked", None)


def ask(run: Run, source: Source, slot: str = _SLOT, boxes: Sequence[Sequence[float]] = ()) -> None:
    """Submits the question; what cannot be done is kept as a sentence for the next draw."""
    payload = source.payload(run)
    if boxes:
        payload["occlude"] = [list(box) for box in boxes]
    try:
        jobs.submit("predict", payload, slot)
    except StoreError as error:
        st.session_state["ask-refused"] = str(error)
        return
    if slot == _SLOT:
        jobs.forget(_COVER)
        st.session_state["asked"] = (run.id, source.digest)


def dataset_of(run: Run) -> Dataset | None:
    """The data set the run learned from; None where it is gone."""
    try:
        return Dataset.open(home(), run.experiment.data.dataset)
    except (UnknownDataset, SpecError, OSError):
        return None


def ask_case(run: Run, dataset: Dataset, number: int) -> None:
    """Asks about a test scan."""
    rest = dataset.examples("test")
    archive.forget()
    case = int(rest[(number * 7919) % len(rest)])
    dropbox.empty(_SLOT)
    st.session_state.pop(_PICKED, None)
    address.put("case", str(case))
    st.session_state["case-number"] = number + 1
    ask(run, Source(dataset.id, case))


def source_of(run: Run, files: Sequence[Path]) -> Source | None:
    """What is asked about now: dropped files go before a case of the data set."""
    if files:
        st.session_state.pop(_PICKED, None)
        return Source(files=files)
    picked = st.session_state.get(_PICKED)
    if picked is not None:
        return Source(files=picked[0], member=picked[1])
    if fetched := archive.files():
        return Source(files=fetched)
    case = address.get("case")
    dataset = dataset_of(run)
    if dataset is not None and case.isdigit() and int(case) < len(dataset):
        return Source(dataset.id, int(case))
    return None


def dropped(run: Run) -> list[Path]:
    """The dropzone; a scan that has just arrived is asked about at once, and stands in for the one before it."""
    arrived = dropbox.box(
        _SLOT,
        label="Drop a scan here",
        help="DICOM, NIfTI, NRRD, PNG, JPEG or TIFF; several files at once, or a zip, count as one series.",
    )
    job = jobs.of_slot(_SLOT)
    newest = dropbox.newest(_SLOT, arrived, used=job is not None and not job.view().active)
    files = [received.path for received in newest]
    if len(newest) < len(arrived):
        st.caption(f"About {plain(newest[0].name) if len(files) == 1 else f'the last {len(files):,} files'}.")
    if files and st.session_state.get("asked") != (run.id, Source(files=files).digest):
        address.drop("case")
        archive.forget()
        ask(run, Source(files=files))
    archive.box(lambda came: ask_fetched(run, came))
    return files


def ask_fetched(run: Run, came: Sequence[Path]) -> None:
    """Asks about a series that has just come from an archive."""
    dropbox.empty(_SLOT)
    st.session_state.pop(_PICKED, None)
    address.drop("case")
    ask(run, Source(files=came))
    st.rerun()


def from_test_side(run: Run) -> None:
    """A scan of the run's own data set, where there is none at hand."""
    dataset = dataset_of(run)
    if dataset is None or not len(dataset.examples("test")):
        return
    st.button(
        "Take a test scan",
        key="take-test-scan",
        type="secondary" if jobs.of_slot(_SLOT) else "primary",
        icon=":material/casino:",
        help="One that the network has never seen in training; its label is known.",
        on_click=ask_case,
        args=(run, dataset, st.session_state.get("case-number", 0)),
    )


def answer(run: Run, source: Source | None) -> None:
    """The finding: on the scan, in numbers, in words, and what to make of it."""
    job, result = jobs.of_slot(_SLOT), jobs.result(_SLOT)
    if job is None or result is None:
        return
    dataset = dataset_of(run)
    case = source.case if source is not None else None
    said = truths.of_case(dataset, case) if dataset is not None and case is not None else {}
    classes = dataset.classes if dataset is not None else tuple(result["finding"].get("probabilities") or ())
    several = dataset.multi_label if dataset is not None else False
    told = Answer(run, job.id, job.folder, result, classes, several, said)
    finding = result["finding"]
    with style.card(key="answer"):
        st.markdown(f"### {answers.headline(told)}")
        if by := result.get("by"):
            st.caption(f":material/history: Answered by {trained.by_words(by)}")
        if said.get("label") and finding.get("top"):
            right = said["label"] == finding["top"]
            icon = ":green[:material/check_circle:]" if right else ":orange[:material/cancel:]"
            st.markdown(f"{icon} Its label is **{plain(said['label'])}**.")
        left, right_side = st.columns([1.75, 1], gap="medium")
        with left, st.container(key="found-on-scan"):
            answers.scan(told)
        with right_side:
            answers.silent(told)
            for applies, draw in answers.PARTS:
                if applies(finding):
                    draw(told)
            answers.likeness(told)
            for note in finding["notes"]:
                st.caption(f":orange[:material/warning: {plain(note)}]")
            st.caption(f":material/info: {_NOT_CLINICAL} A high number is not a certain one.")
        files, member = (source.files, source.member) if source is not None else ((), None)
        downloads.draw(told, files, member, _NOT_CLINICAL)
        archive.send_back(told, files)
        st.button("Put away", key="put-away", icon=":material/refresh:", on_click=start_over)
    if dataset is not None and (case is not None or files or jobs.of_slot(correction.SLOT)):
        correction.draw(told, dataset, run.experiment.task, case, files, member)
    if told.has("enhanced"):
        opinions.draw(told, usable_runs())
    if answers.likeliest(finding):
        looked(run, source, told)


def looked(run: Run, source: Source | None, told: Answer) -> None:
    """What the network was given, where it looked, and what it says with parts of it covered."""
    finding, place = told.finding, slice_place(told.job, told.finding)
    picture, warm = pictures(told.folder, told.result, place)
    with style.card("As the network saw it", key="as-seen"):
        if place is not None:
            slice_slider(told.job, finding)
        method = where(run, source, told, finding)
        one, two, _ = st.columns([1, 1, 1.15], gap="medium")
        with one, st.container(key="seen", gap="xsmall"):
            st.image(heat.enlarged(picture, _SIDE_PX), width="stretch", alt="The scan as the network saw it")
            st.caption(f"As the network saw it{which_slice(finding, place)}")
        with two, st.container(key="looked", gap="xsmall"):
            where_it_looked(run, told, method, picture, warm, place)
    if can_be_covered(run):
        cover(run, source, told.job, picture, finding)


def where(run: Run, source: Source | None, told: Answer, finding: Mapping[str, Any]) -> str:
    """The choice of the way in which it is asked where the network looked; another one than the first is a job."""
    try:
        offered = [name for name in METHODS if not saliency.refused(run.experiment, len(told.classes), name)]
    except (SpecError, OSError):
        offered = []
    if len(offered) < 2 or source is None:
        return _FIRST
    best = trained.state_of(run) == "best"  # the tests of the maps were of these weights
    doubted = {name for name in offered if best and explained.verdict(run, name)}
    method = st.segmented_control(
        "Where it looked",
        offered,
        format_func=lambda name: f":gray[~~{METHODS[name].title}~~]" if name in doubted else METHODS[name].title,
        default=_FIRST,
        required=True,
        key=f"method-{told.job}",
        help=" ".join(f"{METHODS[name].title}: {METHODS[name].help}" for name in offered),
    )
    method = str(method or _FIRST)
    slot = f"explain-{method}-{told.job}"
    if method != _FIRST and jobs.of_slot(slot) is None:
        try:
            jobs.submit("explain", {**source.payload(run), "method": method}, slot)
        except StoreError as error:
            st.error(plain(str(error)), icon=":material/error:")
    return method


def where_it_looked(
    run: Run, told: Answer, method: str, picture: np.ndarray, warm: np.ndarray | None, place: int | None
) -> None:
    """The map over the scan: in colour, or greyed with the reason where it has failed its tests."""
    if method != _FIRST:
        slot = f"explain-{method}-{told.job}"
        jobs.watch(slot, f"Asking: {METHODS[method].title}")
        job, result = jobs.of_slot(slot), jobs.result(slot)
        if job is None or result is None:
            return
        name = result["heatmap"] if place is None else next(iter(result["heatmaps"][place : place + 1]), None)
        warm = heat.loaded(job.folder / name) if name else None
    if warm is None:
        st.caption(f"{METHODS[method].title}: nothing in the scan speaks for the answer.")
        return
    doubt = explained.verdict(run, method) if trained.state_of(run) == "best" else None
    top = answers.likeliest(told.finding)
    over = heat.overlay(picture, warm, st.session_state.get("heat-opacity", 0.6), greyed=bool(doubt))
    st.image(heat.enlarged(over, _SIDE_PX), width="stretch", alt=f"Where the evidence for {top} lies")
    st.caption(f"What speaks for {plain(top)} ({METHODS[method].title}){which_slice(told.finding, place)}")
    if doubt:
        st.caption(f":orange[:material/block: Greyed, not to be believed. {plain(doubt)}]")
    elif doubt is None:
        st.caption(
            ":material/help: Nobody has tested yet whether such maps of this run show what it learned: see its results."
        )
    else:
        st.caption(":green[:material/check_circle:] Such maps of this run have passed their tests.")
    st.slider("Strength of the heat map", 0.0, 1.0, 0.6, 0.05, key="heat-opacity")


def can_be_covered(run: Run) -> bool:
    """Whether the run's task answers with classes alone, which covering a part may change."""
    try:
        task = run.experiment.task
    except (SpecError, OSError):
        return False
    return task in TASKS and find(task).label_kind == "class"


def slice_place(job: str, finding: Mapping[str, Any]) -> int | None:
    """Which of the slices that the network saw is shown, from 0; None where it saw one picture."""
    if "slices" not in finding:
        return None
    chosen = st.session_state.get(f"seen-slice-{job}", finding["slices"]["telling"] + 1)
    return int(min(max(chosen, 1), len(finding["slices"]["seen"]))) - 1


def slice_slider(job: str, finding: Mapping[str, Any]) -> None:
    """The choice of the slice that is shown; it begins with the one that tells most."""
    told = finding["slices"]
    st.slider(
        "Slice",
        1,
        len(told["seen"]),
        told["telling"] + 1,
        key=f"seen-slice-{job}",
        help=f"The slices that the network saw, in order. Most of the evidence lies in number {told['telling'] + 1}.",
    )


def which_slice(finding: Mapping[str, Any], place: int | None) -> str:
    """Words for the slice that is shown; "" where there is only one picture."""
    if place is None:
        return ""
    number = finding["slices"]["seen"][place]
    return f": slice {number} of {finding['slices']['of']}" if number else ": black, the scan has no slice here"


def pictures(folder: Path, result: Mapping[str, Any], place: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """What the network saw and its heat map, or of several slices those of number `place`."""
    if place is None:
        return heat.loaded(folder / result["image"]), (
            heat.loaded(folder / result["heatmap"]) if result["heatmap"] else None
        )
    warm = result["heatmaps"]
    return heat.loaded(folder / result["images"][place]), heat.loaded(folder / warm[place]) if warm else None


def start_over() -> None:
    """Back to the empty dropzone."""
    dropbox.empty(_SLOT)
    archive.forget()
    st.session_state.pop(_PICKED, None)
    address.drop("case")
    forget()


def cover(run: Run, source: Source | None, shown: str, picture: np.ndarray, finding: Mapping[str, Any]) -> None:
    """The probe: what the answer is worth once a part of the scan is hidden from the network."""
    with style.card("Cover an area", key="cover-card"):
        st.caption(
            "Draw a box over what you think decides. The network is asked again with it covered: if the answer stays, "
            "it rests on something else. What is covered becomes the median grey of the scan; a network may take a "
            "grey patch itself for something."
            + (" Of several slices every one is covered there." if "slices" in finding else "")
        )
        if source is None:
            st.caption("Drop the scan again to cover parts of it.")
            return
        left, right = st.columns([1, 1.15], gap="medium")
        with left:
            boxes = drawn(shown, picture)
            st.button(
                "Ask with it covered" if len(boxes) < 2 else f"Ask with each of {len(boxes)} covered",
                key="ask-covered",
                icon=":material/visibility_off:",
                disabled=not boxes,
                help=None if boxes else "Draw a box first: press, drag, release.",
                on_click=ask_covered,
                args=(run, source, shown, picture),
            )
        with right:
            jobs.watch(_COVER, "Asking with it covered")
            covered(finding)


def drawn(shown: str, picture: np.ndarray) -> list[tuple[float, float, float, float]]:
    """The boxes the person has drawn, as fractions of the picture."""
    from streamlit_drawable_canvas import st_canvas  # only where it is drawn: it registers itself with Streamlit

    big = heat.enlarged(picture, _SIDE_PX)
    height, width = big.shape[:2]
    result = st_canvas(
        background_image=heat.png(big),
        width=width,
        height=height,
        drawing_mode="labeled_rect",
        stroke_width=2,
        stroke_color="#f59e0b",
        fill_color="rgba(245,158,11,.25)",
        key=f"canvas-{shown}",
    )
    return _fractions(result, width, height)


def ask_covered(run: Run, source: Source, shown: str, picture: np.ndarray) -> None:
    """Asks with what is drawn when the button is pressed: the last box may have come together with the press."""
    from streamlit_drawable_canvas import CanvasResult

    told: Any = st.session_state.get(f"canvas-{shown}") or {}
    raw = (told.get("drawing") or {}).get("raw")
    height, width = heat.enlarged(picture, _SIDE_PX).shape[:2]
    boxes = _fractions(CanvasResult(raw, None, return_image_data=False), width, height)
    if boxes:
        ask(run, source, _COVER, boxes)


def _fractions(result: CanvasResult, width: int, height: int) -> list[tuple[float, float, float, float]]:
    found = []
    for box in result.boxes[:8]:
        x0, y0 = max(0.0, box["left"] / width), max(0.0, box["top"] / height)
        x1, y1 = min(1.0, (box["left"] + box["width"]) / width), min(1.0, (box["top"] + box["height"]) / height)
        if x1 - x0 > 0.01 and y1 - y0 > 0.01:  # a click is no box
            found.append((round(x0, 4), round(y0, 4), round(x1, 4), round(y1, 4)))
    return found


def covered(finding: Mapping[str, Any]) -> None:
    """What each covered box changed."""
    result = jobs.result(_COVER)
    if result is None:
        return
    top = answers.likeliest(finding)
    for number, entry in enumerate(result["finding"]["covered"], 1):
        change = 100 * entry["change"].get(top, 0.0)
        now = max(entry["probabilities"], key=entry["probabilities"].get)
        words = (
            f"**{plain(top)}** falls by {-change:.1f} points: the covered part mattered."
            if change < -5
            else f"**{plain(top)}** rises by {change:.1f} points: the covered part spoke against it."
            if change > 5
            else f"**{plain(top)}** hardly changes ({change:+.1f} points): the answer rests on something else."
        )
        turned = f" The answer is now **{plain(now)}**." if now != top else ""
        many = len(result["finding"]["covered"]) > 1
        st.markdown(f"{f'Box {number}: ' if many else ''}{words}{turned}")
        answers.bars(entry["probabilities"], now, answers.given(finding), key=f"covered-{number}")


def nothing_yet() -> None:
    """No network has learned anything yet: what to do."""
    style.heading("What about this scan?", "A trained network answers a new scan.")
    with style.empty(
        "biotech", "No trained network yet", "Train one first. The demo needs about a minute and no scans of your own."
    ):
        if st.button("Try the demo", key="to-home", type="primary", icon=":material/play_arrow:"):
            go.to("home")
        if st.button("Go to Training", key="to-training", icon=":material/model_training:"):
            go.to("training")


def page(runs: Sequence[Run]) -> None:
    """The page."""
    with style.heading("What about this scan?", f"A trained network answers a new scan. {_NOT_CLINICAL}"):
        if st.button("Its results", key="to-results", icon=":material/verified:"):
            go.to("results", run=address.get("run") or runs[0].id)
        if st.button("Its run", key="to-run", icon=":material/show_chart:"):
            go.to("runs", run=address.get("run") or runs[0].id)
    left, right = st.columns([1, 1], gap="medium", vertical_alignment="top")
    with left:
        help = "Every run that has saved a network, also one that still learns or is paused."
        run = chosen_run(runs, "tested-run", on_switch=forget, help=help)
        if jobs.run_of(_SLOT) not in ("", run.id):  # the address leads to another run, too
            forget()
        trained.choose_state(run, on_switch=forget)
        several = how_many() == _MANY
        if not several:
            from_test_side(run)
    if several:
        picked = batch.draw(run, _NOT_CLINICAL)
        if picked is not None:
            look_at(run, *picked)
        return
    with right:
        source = source_of(run, dropped(run))
    asked_from_elsewhere(run, source)
    refused = st.session_state.pop("ask-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    view = jobs.watch(_SLOT, "Asking the network", start_over)
    if view is None:
        with style.empty("radiology", "No scan yet", "Drop one above, or take a test scan.", key="no-scan"):
            pass
    answer(run, source)
    if trained.state_of(run) == "best":
        serving.card(run)


def how_many() -> str:
    """Whether one scan is asked about, or every one of many; kept in the URL."""
    asked = _MANY if address.get("scans") == "many" else _ONE
    if st.session_state.get("how-many") != asked:
        st.session_state["how-many"] = asked
    st.segmented_control(
        "How many scans?",
        [_ONE, _MANY],
        key="how-many",
        required=True,
        on_change=change_how_many,
        label_visibility="collapsed",
    )
    return asked


def change_how_many() -> None:
    """Writes the choice into the URL."""
    if st.session_state["how-many"] == _MANY:
        address.put("scans", "many")
    else:
        address.drop("scans")


def look_at(run: Run, files: Sequence[Path], number: int) -> None:
    """Goes to one scan of many."""
    source = Source(files=files, member=number)
    st.session_state[_PICKED] = (list(files), number)
    address.drop("scans")
    address.drop("case")
    dropbox.empty(_SLOT)
    ask(run, source)
    st.rerun()


def asked_from_elsewhere(run: Run, source: Source | None) -> None:
    """Another page has sent a case of the data set here to be asked about."""
    wanted = address.get("ask")
    address.drop("ask")
    if wanted and source is not None and source.case is not None:
        ask(run, source)
        st.rerun()


st.html(_CSS)
jobs.keep_in_url(archive.SLOT)
jobs.keep_in_url(_SLOT)
jobs.keep_in_url(_COVER)
jobs.keep_in_url(batch.SLOT)
jobs.keep_in_url(correction.SLOT)
found = trained.askable_runs()
if found:
    page(found)
else:
    nothing_yet()
