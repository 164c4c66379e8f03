"""The label editor: boxes and outlines drawn on one slice of a scan, on streamlit-drawable-canvas, kept in scan pixels.

`edit` draws tools, canvas and list, and hands every change to its caller; it stores nothing itself, so that it serves
the Data page (a case and its labels) and the Test page (a scan and a model's proposals) alike. What has been drawn is
turned into boxes and masks by `builder.strokes`; the working copy (`pages.kit.marks`) lives in the session under the
editor's key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from builder.scans import Scan, Window
from pages.kit import scans
from pages.kit.backdrop import backdrop, framed
from pages.kit.marks import BOXES, ERASER, MASK, Changed, Marks, Naming, Work, ink_of
from pages.kit.viewer import COLOURS, colour_of
from pages.kit.words import amount, plain

__all__ = ["BOXES", "MASK", "Marks", "Naming", "drawn", "edit"]

_TOOLS = {
    "boxes": ("Boxes", ":material/crop_square:", "B", BOXES),
    "polygon": ("Outline", ":material/pentagon:", "O", MASK),
    "brush": ("Brush", ":material/brush:", "D", MASK),
    "eraser": ("Eraser", ":material/ink_eraser:", "E", MASK),
}
_SIZES = {"Tiny": 315, "Small": 440, "Medium": 610, "Large": 920, "Largest": 1500}
_MOST_HEIGHT_PX = 780
_TOOLBAR_PX = 20  # the canvas's own buttons float above its upper right corner
_OWN = "own"
_TINTS = """<style>
[class*="tint0-"] button{border-left:.4rem solid #ffb000!important}
[class*="tint1-"] button{border-left:.4rem solid #4fc3dc!important}
[class*="tint2-"] button{border-left:.4rem solid #f07aa5!important}
[class*="tint3-"] button{border-left:.4rem solid #7ee081!important}
[class*="tint4-"] button{border-left:.4rem solid #a68bff!important}
[class*="tint5-"] button{border-left:.4rem solid #ff7f50!important}
[class*="tint6-"] button{border-left:.4rem solid #e3e34f!important}
[class*="tint7-"] button{border-left:.4rem solid #6f9bff!important}
[class*="tint8-"] button{border-left:.4rem solid #c9a27a!important}
[class*="tint9-"] button{border-left:.4rem solid #c7d0dd!important}
</style>"""  # the colours of pages.kit.viewer.COLOURS


def edit(
    scan: Scan,
    marks: Marks,
    *,
    id: str,
    key: str,
    names: Naming,
    on_change: Changed,
    kinds: Collection[str] = (BOXES, MASK),
    proposals: Marks | None = None,
    scores: Sequence[float] = (),
    aside: Callable[[str], None] | None = None,
) -> Work:
    """Draws the editor and returns the working copy: `marks` are the labels now, `slice` is the one that is shown.

    Args:
        scan: what is labelled. marks: what it is labelled with already.
        id: tells one scan (or one version of its labels) from another: a new one begins anew from `marks`.
        key: of the widgets; fixed. `st.session_state[f"{key}-slice"]` is the slice that is shown, from 1.
        on_change: called with the labels and the kind ("boxes" or "mask") that has just changed.
        proposals: what a model suggests for the kinds that `marks` lacks: drawn beforehand, and handed on by the first
            change or by the button that agrees to them. scores (0..1): of its boxes.
        aside: draws what else the caller has to say beside the canvas; hears the kind that is being labelled.
    """
    work: Work | None = st.session_state.get(f"{key}-work")
    if work is None or work.id != id:
        slices, _, height, width = scan.pixels.shape
        st.session_state[f"{key}-before"] = work
        work = Work.begin(id, (slices, height, width), marks, proposals, scores, work.epoch if work else 0)
        st.session_state[f"{key}-work"] = work
        st.session_state[f"{key}-slice"] = work.slice + 1
        st.session_state.pop(f"{key}-said", None)
    work.tell = on_change
    st.html(_TINTS)
    tool = _tools(key, kinds)
    kind = _TOOLS[tool][3]
    left, right = st.columns([2.3, 1], gap="medium")
    with right:
        if aside is not None:
            aside(kind)
        chosen = _names(key, kind, names)
        width = _options(key, tool)
        actions = st.container(gap="small")
    with left:
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            _slices(key, work)
            there = scans.windows_of(scan)
            name = _window_name(key, there) if there else ""
        window = _by_hand(scan, key, there) if name == _OWN else there[name][1] if there else None
        if names.of(kind):
            st.space(_TOOLBAR_PX)
            _canvas(scan, work, key, tool, chosen, names, window, width)
        else:
            what = "class" if kind == BOXES else "structure"
            st.info(f"Name a {what} first: what is to be marked, such as “lesion”.", icon=":material/label:")
        st.segmented_control(
            "Size of the picture",
            list(_SIZES),
            default=_first_size(),
            key=f"{key}-size",
            required=True,
            label_visibility="collapsed",
        )
    with actions:
        _actions(work, key, kind, names)
    return work


def _first_size() -> str:
    """The size of the picture that one begins with: it fits a phone, too, where a finger draws and does not scroll."""
    return "Tiny" if "Mobi" in (st.context.headers.get("User-Agent") or "") else "Medium"  # so a phone calls itself


# -- tools -----------------------------------------------------------------------------------------------------------


def _tools(key: str, kinds: Collection[str]) -> str:
    """Draws the tools as buttons with keys; returns the one in hand."""
    there = [name for name, tool in _TOOLS.items() if tool[3] in kinds]
    held = st.session_state.get(f"{key}-tool")
    if held not in there:
        held = st.session_state[f"{key}-tool"] = there[0]
    if len(there) > 1:
        with st.container(horizontal=True, gap="small"):
            for name in there:
                title, icon, letter, _ = _TOOLS[name]
                st.button(
                    title,
                    key=f"{key}-tool-{name}",
                    icon=icon,
                    type="primary" if name == held else "secondary",
                    shortcut=letter,
                    on_click=st.session_state.__setitem__,
                    args=(f"{key}-tool", name),
                )
    return str(held)


def _names(key: str, kind: str, names: Naming) -> int:
    """Draws the classes or structures, keys 1 to 9; returns the number of the one that is drawn with."""
    there = names.of(kind)
    slot = f"{key}-chosen-{kind}"
    chosen = min(int(st.session_state.get(slot, 0)), max(0, len(there) - 1))
    with st.container(gap="xsmall"):
        for number, name in enumerate(there[:9]):
            st.button(
                plain(name),
                key=f"tint{number % len(COLOURS)}-{key}-{kind}-{number}",
                type="primary" if number == chosen else "secondary",
                shortcut=str(number + 1),
                width="stretch",
                on_click=st.session_state.__setitem__,
                args=(slot, number),
            )
        if len(there) > 9:
            every = f"{slot}-all-{chosen}"
            st.selectbox(
                "All names",
                range(len(there)),
                chosen,
                key=every,
                format_func=lambda number: there[number],
                on_change=lambda: st.session_state.__setitem__(slot, st.session_state[every]),
            )
        if names.add is not None:
            _new_name(key, kind, names.add)
    return chosen


def _new_name(key: str, kind: str, add: Callable[[str, str], None]) -> None:
    what = "class" if kind == BOXES else "structure"
    with st.popover(f"New {what}", icon=":material/add:", key=f"{key}-new-{kind}", type="tertiary"):
        st.text_input(
            f"Name of the {what}",
            key=f"{key}-name-{kind}",
            max_chars=60,
            placeholder="lesion",
            on_change=_named,
            args=(key, kind, add),
            help="Enter adds it. A name once given stays: labels are kept by their number.",
        )


def _named(key: str, kind: str, add: Callable[[str, str], None]) -> None:
    name = str(st.session_state.get(f"{key}-name-{kind}", "")).strip()
    if name:
        add(kind, name)
        st.session_state[f"{key}-name-{kind}"] = ""


def _options(key: str, tool: str) -> int:
    """Draws what a tool can be set to, or how it is used; returns the width of the brush in pixels of the scan."""
    if tool == "boxes":
        st.caption("Press, drag, release. The pencil above the picture moves and resizes boxes.")
    if tool == "polygon":
        st.caption("Click corner after corner; a click on the first one closes the outline.")
    if tool not in ("brush", "eraser"):
        return 1
    return int(st.slider("Width (pixels of the scan)", 1, 60, 8, key=f"{key}-brush"))


def _slices(key: str, work: Work) -> None:
    num_slices = work.shape[0]
    if num_slices < 2:
        return
    slot = f"{key}-slice"

    def step(by: int) -> None:
        st.session_state[slot] = min(num_slices, max(1, st.session_state[slot] + by))

    up, down = ":material/arrow_upward:", ":material/arrow_downward:"
    st.button("", icon=up, key=f"{slot}-up", shortcut="PageUp", help="Previous slice", on_click=step, args=(-1,))
    st.button("", icon=down, key=f"{slot}-down", shortcut="PageDown", help="Next slice", on_click=step, args=(1,))
    # The value, too: a slider that the browser hears of late begins there, and not on the first slice (kit/forms.py).
    here = int(st.session_state.get(slot, work.slice + 1))
    work.slice = int(st.slider("Slice", 1, num_slices, here, key=slot)) - 1


def _ranges(numbers: Sequence[int]) -> str:
    """Returns "slice 3", "slices 3, 7 to 9"."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    words = [str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts]
    return f"{'slice' if len(numbers) == 1 else 'slices'} {', '.join(words)}"


def _window_name(key: str, there: dict[str, tuple[str, Window]]) -> str:
    """Draws the choice of the window; returns its name."""
    slot = f"{key}-window"
    names = [*there, _OWN]
    if st.session_state.get(slot) not in names:
        st.session_state[slot] = names[0]
    name = st.selectbox(
        "Window",
        names,
        key=slot,
        width=190,
        format_func=lambda name: there[name][0] if name in there else "By hand",
    )
    if name != _OWN:
        st.session_state[f"{slot}-before"] = name
    return str(name)


def _by_hand(scan: Scan, key: str, there: dict[str, tuple[str, Window]]) -> Window:
    """Draws level and width, which begin with those of the window before."""
    slot = f"{key}-window"
    begun = there.get(st.session_state.get(f"{slot}-before", ""), next(iter(there.values())))[1]
    low, high = scans.range_of(scan, full=True)
    whole = scan.pixels.dtype.kind in "ui"
    step = float(max(1, round((high - low) / 256))) if whole else max(high - low, 1e-6) / 256
    number = "%.0f" if whole else "%.3g"
    center, width = (float(round(v)) if whole else float(v) for v in (begun.center, begun.width))
    low, high = min(low, center), max(high, low + step, center)
    most = max(high - low, 2 * step, width)
    with st.container(horizontal=True, gap="medium"):
        center = st.slider("Level", low, high, center, step, key=f"{slot}-level", format=number)
        width = st.slider("Width", step, most, max(width, step), step, key=f"{slot}-width", format=number)
    return Window(center, width, "LINEAR_EXACT")


# -- the canvas ------------------------------------------------------------------------------------------------------


def _canvas(
    scan: Scan,
    work: Work,
    key: str,
    tool: str,
    chosen: int,
    names: Naming,
    window: Window | None,
    width_px: int,
) -> None:
    from scanloom_components import hand  # only where it is drawn: it registers itself with Streamlit
    from streamlit_drawable_canvas import st_canvas  # as well

    kind = _TOOLS[tool][3]
    frame = framed(scan, _SIZES[st.session_state.get(f"{key}-size") or _first_size()])
    work.look(kind, tool, names.of(kind), frame.view, window, chosen, width_px)
    ink = colour_of(chosen) if kind == BOXES else ERASER if tool == "eraser" else ink_of(chosen)
    boxes = [] if kind == BOXES else [(work.marks.boxes or ())[n] for n in work.here]
    mask = work.base if tool == "brush" else work.plane  # what the brush paints lies on the canvas itself
    st_canvas(
        background_image=backdrop(scan, work.slice, window, frame, mask, boxes),
        width=frame.width,
        height=frame.height,
        max_display_height=_MOST_HEIGHT_PX,
        drawing_mode={"boxes": "labeled_rect", "polygon": "polygon"}.get(tool, "freedraw"),
        label=names.classes[chosen] if kind == BOXES else "",
        stroke_width=max(1, round(width_px * frame.view.across)) if tool in ("brush", "eraser") else 2,
        stroke_color=ink,
        fill_color="rgba(0,0,0,0)" if kind == BOXES else ink,
        initial_drawing=work.start,
        font_size=13,
        key=f"{key}-canvas",
        on_change=partial(drawn, key),
    )
    hand(key=f"{key}-hand")
    said = st.session_state.pop(f"{key}-said", "")
    if said:
        st.warning(said, icon=":material/label_off:")


def drawn(key: str) -> None:
    """Takes what the canvas of `key` tells by now: called before the page is drawn again, also by a button that keeps
    the drawing, since who draws and presses at once presses a button that was made before."""
    state: Any = st.session_state.get(f"{key}-canvas")
    take(key, ((state or {}).get("drawing") or {}).get("raw"))


def take(key: str, told: Any) -> None:
    """Takes a drawing as the canvas tells it into the working copy it belongs to: this scan's or the last one's."""
    works = (st.session_state.get(f"{key}-work"), st.session_state.get(f"{key}-before"))
    work = next((work for work in works if work is not None and work.knows(told)), None)
    unknown = work.take(told) if work is not None else []
    if unknown:
        said = f"There is no class called “{plain(unknown[0])}”: the box keeps its class. Name it first."
        st.session_state[f"{key}-said"] = said


# -- what can be done ------------------------------------------------------------------------------------------------


def _actions(work: Work, key: str, kind: str, names: Naming) -> None:
    if kind in work.proposed:
        st.info("Proposed by the network: change what is wrong, or agree.", icon=":material/smart_toy:")
        st.button(
            "Agree",
            key=f"{key}-agree-{kind}",
            type="primary",
            icon=":material/check:",
            shortcut="Y",
            on_click=work.change,
            args=(kind, work.marks.of(kind)),
        )
    if work.shape[0] > 1 and work.marks.slices:
        st.caption(f"Marked: {_ranges([n + 1 for n in work.marks.slices])}.")
    if kind == BOXES:
        _list(work, key, names)
    negative = work.marks.is_negative(kind)
    if negative:
        st.success("Looked at: nothing there.", icon=":material/check_circle:")
    st.button(
        "Nothing there",
        key=f"{key}-nothing-{kind}",
        icon=":material/done_all:",
        shortcut="0",
        width="stretch",
        disabled=negative,
        help="The whole scan was looked at, and there is none of these on it: a negative, which teaches, too.",
        on_click=work.negative,
        args=(kind,),
    )
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Undo",
            key=f"{key}-undo",
            icon=":material/undo:",
            shortcut="Z",
            disabled=not work.can_undo,
            on_click=work.take_back,
        )
        st.button(
            "Clear",
            key=f"{key}-clear-{kind}",
            icon=":material/delete:",
            disabled=work.marks.of(kind) is None,
            help=f"Takes all {'boxes' if kind == BOXES else 'outlines'} of this scan away, as if nobody had looked.",
            on_click=work.change,
            args=(kind, None),
        )
    if work.slice > 0:
        st.button(
            "Take over from the slice before",
            key=f"{key}-over-{kind}",
            icon=":material/content_copy:",
            type="tertiary",
            on_click=work.take_over,
            args=(kind,),
        )


def _list(work: Work, key: str, names: Naming) -> None:
    """The boxes of this slice: what each is, and a bin."""
    boxes = work.marks.boxes or ()
    here = work.here
    if not here:
        return
    elsewhere = len(boxes) - len(here)
    st.caption(f"{amount(len(here), 'box', 'boxes')} here" + (f", {elsewhere:,} on other slices" if elsewhere else ""))
    with st.container(key=f"{key}-list", gap="xsmall", height=min(270, 54 * len(here) + 4), border=False):
        for number in here[:60]:
            box = boxes[number]
            slot = f"{key}-class-{work.epoch}-{number}-{box.label}-{box.x0:g}-{box.y0:g}"
            with st.container(horizontal=True, gap="xsmall", vertical_alignment="center"):
                st.selectbox(
                    "Class of the box",
                    range(len(names.classes)),
                    box.label,
                    key=slot,
                    format_func=lambda number: names.classes[number],
                    label_visibility="collapsed",
                    on_change=partial(_relabel, work, number, slot),
                )
                st.button(
                    "",
                    key=f"{slot}-remove",
                    icon=":material/delete:",
                    type="tertiary",
                    help="Remove this box",
                    on_click=_remove,
                    args=(work, number),
                )


def _relabel(work: Work, number: int, slot: str) -> None:
    boxes = list(work.marks.boxes or ())
    label = int(st.session_state[slot])
    if number < len(boxes) and boxes[number].label != label:  # a widget that has just been mounted tells, too
        boxes[number] = replace(boxes[number], label=label)
        work.change(BOXES, tuple(boxes))


def _remove(work: Work, number: int) -> None:
    boxes = [box for n, box in enumerate(work.marks.boxes or ()) if n != number]
    work.change(BOXES, tuple(boxes) or None)
