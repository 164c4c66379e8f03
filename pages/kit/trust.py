"""How far a run can be trusted: its figures on the test scans, once somebody asked for them, and the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

from builder import siblings
from builder.data import Dataset, UnknownDataset
from builder.evaluate import evaluation, examples
from builder.execute import home
from builder.runs import Run, StoreError
from builder.spec import SpecError
from builder.task import TASKS, find
from pages.kit import (
    audit,
    beat,
    blanked,
    common_errors,
    evidence,
    explained,
    figures,
    go,
    hallucination,
    jobs,
    operating,
    scans,
    style,
    terms,
)
from pages.kit.words import plain

__all__ = ["everything", "test_side"]

_SIDE_PX = 220
_SHOWN = 12
_MISSED, _TRUE = "#ff5a5f", "#3fc796"
_GALLERIES: dict[str, tuple[str, str]] = {
    "misses": ("What it missed", "Red: the lesion that was missed. Green: the other lesions of the scan."),
    "false_alarms": ("False alarms", "Red: what it took for a lesion. Green: the lesions that are there."),
    "worst": ("The worst cases", "Green: the outline that a person drew. Press one to see what the network outlines."),
    "false_positives": ("Outlined where nothing is", "Press one to see what the network outlines."),
    "worst_images": ("The worst pictures", "Press one to see it before and after."),
}


def test_side(run: Run, whose: str = "") -> None:
    """Draws the figures in short, the button that opens the test side, and the way to all of them.

    Args:
        whose: words behind the title.
    """
    found = evaluation(run)
    audit.banner(run)
    with style.card(f"On the test scans{whose}", key="test-side"):
        if found is None:
            _closed()
        else:
            left, right = st.columns([1, 1.1], gap="medium")
            with left:
                figures.summary(found)
            with right:
                if found.get("confusion") and not isinstance(found["confusion"][0][0], list):
                    figures.confusion(found["classes"], found["confusion"])
                _compared(run)
            figures.notes(found)
            _outdated(run, found)
        with st.container(horizontal=True):
            _opener(run, found)
            if found is not None and st.button(
                "All results", key="to-results", icon=":material/verified:", help="Curves, tables, the worst cases"
            ):
                go.to("results", run=run.id)
        _watch(run)


def everything(run: Run) -> None:
    """Draws all that is known of a run on the test scans."""
    found = evaluation(run)
    audit.banner(run)
    if found is None:
        with style.card(key="test-side"):
            _closed()
            _opener(run, None)
            _watch(run)
        audit.beside(run)
        return
    whole = {**(found.get("outlines") or {}), **found}  # a task with two answers tells those of the outline apart
    narrow = [part for part in _parts(whole) if not part[3]]
    left, right = st.columns([1, 1.1], gap="medium")
    with left, style.card("On the test scans", key="test-side"):
        figures.summary(found, siblings.spread(run, home()))
        figures.notes(found)
        _outdated(run, found)
        _opener(run, found)
        _watch(run)
    with right:
        if _has_classes(run) and _dataset(run) is not None:
            with style.card("Against a baseline", key="against"):
                _compared(run)
        beside = narrow[: 1 if _has_classes(run) else 2]
        for _, title, draw, _ in beside:
            with style.card(title):
                draw(whole)
    sections(whole, beside)
    operating.at_my_prevalence(run, found)
    terms.card(run, _has_classes(run))
    audit.beside(run)
    if _has_classes(run):
        blanked.card(run)
    explained.card(run)
    hallucination.card(run)
    before_and_after(run)
    galleries(run, whole)
    if (dataset := _dataset(run)) is not None:
        common_errors.card(run, dataset)
    evidence.card(run)


def _parts(found: Mapping[str, Any]) -> list[figures.Section]:
    return [part for part in figures.SECTIONS if found.get(part[0])]


def sections(found: Mapping[str, Any], drawn_already: Sequence[figures.Section] = ()) -> None:
    """The parts of a report that are there, two in a row where they are narrow."""
    waiting: list[tuple[str, Callable[[Mapping[str, Any]], None]]] = []

    def drawn(parts: Sequence[tuple[str, Callable[[Mapping[str, Any]], None]]]) -> None:
        for place, (title, draw) in zip(st.columns(len(parts), gap="medium"), parts, strict=True):
            with place, style.card(title, height="stretch"):
                draw(found)

    for part in _parts(found):
        _, title, draw, wide = part
        if part in drawn_already:
            continue
        if wide:
            if waiting:
                drawn(waiting)
                waiting = []
            drawn([(title, draw)])
            continue
        waiting.append((title, draw))
        if len(waiting) == 2:
            drawn(waiting)
            waiting = []
    if waiting:
        drawn(waiting)


def before_and_after(run: Run) -> None:
    """Scans as they came, as the run made them, as they should be, and the difference between the last two."""
    found = examples(run)
    if not found:
        return
    with style.card("Before, after, and what is still wrong", key="before-and-after"):
        st.caption(
            "Still wrong: red is too bright, blue too dark. What looks like anatomy there was taken away or made up."
        )
        for titles in zip(st.columns(4), ("As it came", "This network", "The good scan", "Still wrong"), strict=True):
            titles[0].markdown(f"**{titles[1]}**")
        for triple in found:
            pictures, reach = _four(triple)
            for place, picture in zip(st.columns(4), pictures, strict=True):
                place.image(picture, width="stretch")
            much = f"{reach:,.0f}" if reach >= 10 else f"{reach:.2g}"
            st.caption(f"Still wrong: full colour at {much} stored values.")


def _four(triple: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Three pictures (3, H, W) on one scale of grey and the difference of the last two, uint8 (H, W, 3) each, and the
    difference that is shown in full colour."""
    low, high = np.percentile(triple[2], (0.5, 99.5))
    grey = np.clip((triple - low) / max(high - low, 1e-9), 0, 1)
    wrong = (triple[1] - triple[2]).astype(np.float64)
    reach = float(np.percentile(np.abs(wrong), 99)) or 1.0
    share = np.clip(wrong / reach, -1, 1)[..., None]
    white, red, blue = np.array([255.0] * 3), np.array([200.0, 30, 45]), np.array([35.0, 85, 200])
    coloured = np.where(share > 0, white + share * (red - white), white - share * (blue - white))
    pictures = [np.repeat((one * 255).astype(np.uint8)[..., None], 3, -1) for one in grey]
    return [*pictures, coloured.astype(np.uint8)], reach


def galleries(run: Run, found: Mapping[str, Any]) -> None:
    """The worst cases as small pictures; a press asks the run about one."""
    dataset = _dataset(run)
    if dataset is None:
        return
    by_id = {case.id: index for index, case in enumerate(dataset.cases)}
    for name, (title, words) in _GALLERIES.items():
        rows = [row for row in found.get(name) or () if row.get("case") in by_id][:_SHOWN]
        if not rows:
            continue
        with style.card(title, key=f"gallery-{name}"):
            st.caption(words)
            pictures, captions, keys = [], [], []
            for number, row in enumerate(rows):
                index = by_id[row["case"]]
                box = tuple(row["box"]) if row.get("box") else None
                pictures.append(_tile(str(home()), dataset.id, dataset.edited, index, int(row.get("slice") or 0), box))
                captions.append(_caption(row))
                keys.append(f"{name}-{number}")
            pressed = scans.gallery(pictures, captions, keys, num_columns=6)
            if pressed:
                case = by_id[rows[keys.index(pressed)]["case"]]
                go.to("test", run=run.id, case=str(case), ask="1")


def _caption(row: Mapping[str, Any]) -> str:
    said = []
    if row.get("class"):
        said.append(str(row["class"]))
    if row.get("dice") is not None:
        said.append(f"Dice {row['dice']:.2f}")
    if row.get("gain_db") is not None:
        said.append(f"{row['psnr_db']:.1f} dB, {row['gain_db']:+.1f} gained")
    if row.get("score") is not None:
        said.append(f"{100 * row['score']:.0f} %")
    if row.get("ml") is not None:
        said.append(f"{row['ml']:.2f} ml")
    return " · ".join(said) or str(row["case"])


@st.cache_data(max_entries=400, show_spinner=False)
def _tile(
    at_home: str, id: str, edited: int, index: int, slice: int, marked: tuple[float, float, float, float] | None
) -> np.ndarray:
    """One slice on a black square, with what people said of it in green and `marked` (px of the scan) in red.

    `edited` is part of the key: a corrected label is drawn anew.
    """
    dataset = Dataset.open(Path(at_home), id)
    scan = dataset.scan(index)
    mask = dataset.mask(index)
    if mask is not None and mask.any() and not slice:
        slice = int(mask.sum((1, 2), dtype=np.int64).argmax())
    if not 0 <= slice < len(scan.pixels):  # as a report of an earlier version told it
        slice = len(scan.pixels) // 2
    image = Image.fromarray(scans.picture(scan, slice)).convert("RGB")
    scale = _SIDE_PX / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    across, down = image.width / scan.pixels.shape[3], image.height / scan.pixels.shape[2]
    draw = ImageDraw.Draw(image)

    def outlined(box: tuple[float, float, float, float], colour: str) -> None:
        x0, y0, x1, y1 = box
        draw.rectangle((x0 * across, y0 * down, x1 * across, y1 * down), outline=colour, width=2)

    for box in dataset.boxes(index) or ():
        if box.slice == slice:
            outlined((box.x0, box.y0, box.x1, box.y1), _TRUE)
    if marked is not None:
        outlined(marked, _MISSED)
    shown = np.asarray(image).copy()
    if mask is not None and mask[slice].any():
        inside = np.asarray(Image.fromarray((mask[slice] > 0).astype(np.uint8) * 255).resize(image.size)) > 127
        padded = np.pad(inside, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        shown[inside & ~core] = (63, 199, 150)
    square = np.zeros((_SIDE_PX, _SIDE_PX, 3), np.uint8)
    top, left = (_SIDE_PX - shown.shape[0]) // 2, (_SIDE_PX - shown.shape[1]) // 2
    square[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return square


# -- opening ----------------------------------------------------------------------------------------------------------


def _closed() -> None:
    st.caption(
        "The test scans were kept aside all the time. Each look at them is counted: whoever looks often and "
        "picks the best run afterwards fools himself. Look once, at the end."
    )


def _outdated(run: Run, found: Mapping[str, Any]) -> None:
    """Says it where people have edited the data set since these figures were made."""
    dataset = _dataset(run)
    if dataset is not None and found.get("edited") not in (None, dataset.edited):
        st.caption(
            ":orange[:material/edit_note: Labels of this data set, or what is known of its people and scanners, were "
            "changed since these figures were made: open it again for figures on the present ones.]"
        )


def _opener(run: Run, found: Mapping[str, Any] | None) -> None:
    working = jobs.of_slot(_slot(run))
    st.button(
        "Open the test side" if found is None else "Open it again",
        key="open-test",
        icon=":material/lock_open:",
        disabled=working is not None and working.view().active,
        on_click=_submit,
        args=(run,),
    )


def _watch(run: Run) -> None:
    refused = st.session_state.pop("open-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    jobs.watch(_slot(run), "Looking at the test scans")  # at its end the page runs again and finds the figures


def _submit(run: Run) -> None:
    try:
        jobs.submit("evaluate", {"run": run.id, "split": "test"}, _slot(run))
    except StoreError as error:
        st.session_state["open-refused"] = str(error)


def _slot(run: Run) -> str:
    return f"evaluate-{run.id}"


def _compared(run: Run) -> None:
    """What frozen features reach on the same scans."""
    dataset = _dataset(run)
    if dataset is not None and _has_classes(run):
        beat.on_test_side(dataset.id)


def _has_classes(run: Run) -> bool:
    try:
        task = run.experiment.task
    except (SpecError, OSError):
        return False
    return task in TASKS and "class" in find(task).learns


def _dataset(run: Run) -> Dataset | None:
    try:
        return Dataset.open(home(), run.experiment.data.dataset)
    except (UnknownDataset, SpecError, OSError):
        return None
