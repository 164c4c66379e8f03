"""The Label tab of a dataset: which scan is next, what is still to do, its class, and what was drawn on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from builder.data import Dataset
from builder.labels import Edits, LabelRefused, edits_size, name_classes, read_mask, record
from pages.kit import address, viewer
from pages.kit import datasets as shown
from pages.kit.labelling import BOXES, MASK, Marks, Naming, edit
from pages.kit.marks import together
from pages.kit.words import ago, amount, plain

__all__ = ["WAITING", "store_waiting", "tab", "who"]

_KEY = "label"
WAITING = "label-strokes"
"""In the session: (id of the data set, position of the case, mask) of strokes that are not stored yet."""
_CLASS = "class"
_WHATS = {_CLASS: "Class of the scan", BOXES: "Boxes", MASK: "Outlines"}
_NOUNS = {_CLASS: "a class", BOXES: "boxes", MASK: "outlines"}
_SHOW = {"all": "All", "open": "Not labelled", "done": "Labelled"}
_AT_ONCE = 8_000_000
"""Pixels of a mask up to which every stroke is stored at once; a larger one when the hand moves on."""
_PARAMETER, _WHO = "scan", "who"  # which case, and who labels, in the URL
_MOST_INITIALS = 20


def tab(dataset: Dataset) -> None:
    """Draws the tab; a change is stored at once, and everything here redraws itself alone."""
    st.fragment(_tab, key=f"label-{dataset.id}")(dataset)


def _tab(dataset: Dataset) -> None:
    _seen_anew(dataset)
    first = st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute")
    with first:
        what = _what(dataset)
    order = _order(dataset, what)
    index = _index(dataset, order)
    if _waits() and not _waits(dataset, index):  # the address leads to another scan, too
        store_waiting(dataset)
    second = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    if index is None:
        with second:
            _filter()
            _progress(dataset, what)
        st.success("Every scan carries this label." if _shown() == "open" else "There is no such scan.")
        return
    body = st.container(gap="small")
    with body:
        if what == _CLASS:
            _classes(dataset, index)
        else:
            _drawing(dataset, index, what)
    with first, st.container(horizontal=True, gap="small", width="content"):
        _ways(dataset, what, order, index)
    with second:  # drawn last, as it tells of what has just been labelled
        _filter()
        _progress(dataset, what)
    error = st.session_state.pop(f"{_KEY}-error", "")
    if error:
        st.error(error, icon=":material/error:")


def _seen_anew(dataset: Dataset) -> None:
    """Makes edits seen that another tab, or another person, has made meanwhile."""
    slot = f"{_KEY}-size-{dataset.id}"
    size = edits_size(dataset.folder)
    if st.session_state.get(slot) != size:
        dataset.refresh()
        st.session_state[slot] = size


# -- which scan ------------------------------------------------------------------------------------------------------


def _what(dataset: Dataset) -> str:
    """Draws what is labelled: classes, boxes or outlines; the kind that the dataset has most of comes first."""
    counts = {what: dataset.progress(what)[0] for what in _WHATS}
    slot = f"{_KEY}-what-{dataset.id}"
    first = max((BOXES, MASK), key=lambda what: counts[what])
    default = first if counts[first] else _CLASS
    chosen = st.segmented_control(
        "What is labelled",
        list(_WHATS),
        default=None if slot in st.session_state else default,
        key=slot,
        required=True,
        format_func=lambda what: _WHATS[what],
        label_visibility="collapsed",
        on_change=store_waiting,
        args=(dataset,),
    )
    return str(chosen or default)


def _shown() -> str:
    return str(st.session_state.get(f"{_KEY}-show") or "all")


def _filter() -> None:
    st.segmented_control(
        "Show",
        list(_SHOW),
        default="all",
        key=f"{_KEY}-show",
        required=True,
        format_func=lambda name: _SHOW[name],
        label_visibility="collapsed",
    )


def _order(dataset: Dataset, what: str) -> list[int]:
    """The cases to go through, by the filter."""
    cases = dataset.cases
    show = _shown()
    return [n for n, case in enumerate(cases) if show == "all" or case.carries(what) == (show == "done")]


def _index(dataset: Dataset, order: Sequence[int]) -> int | None:
    """The case that is shown: the URL's (also when the filter would leave it out by now), else the first to do."""
    told = address.get(_PARAMETER)
    if told.isdigit() and int(told) < len(dataset):
        return int(told)
    return order[0] if order else None


def _go(dataset: Dataset, index: int) -> None:
    store_waiting(dataset)
    address.put(_PARAMETER, str(index))


def _ways(dataset: Dataset, what: str, order: Sequence[int], index: int) -> None:
    """Buttons to the scans before and after, and to the next one that is not labelled yet."""
    before = [n for n in order if n < index]
    after = [n for n in order if n > index]
    todo = [n for n, case in enumerate(dataset.cases) if not case.carries(what) and n != index]
    following = next((n for n in todo if n > index), todo[0] if todo else index)
    for title, icon, letter, target, is_there in (
        ("Previous", "arrow_back", "P", before[-1] if before else index, bool(before)),
        ("Next", "arrow_forward", "N", after[0] if after else index, bool(after)),
        ("Next unlabelled", "skip_next", "U", following, bool(todo)),
    ):
        st.button(
            title,
            key=f"{_KEY}-go-{letter}",
            icon=f":material/{icon}:",
            shortcut=letter,
            disabled=not is_there,
            on_click=_go,
            args=(dataset, target),
        )


def _progress(dataset: Dataset, what: str) -> None:
    done, total = dataset.progress(what)
    st.progress(done / max(1, total), text=f"{done:,} of {amount(total, 'scan')} labelled with {_NOUNS[what]}")


# -- labelling -------------------------------------------------------------------------------------------------------


def who() -> str:
    """Whom the person at this browser says to be, "" where they do not; known on every page."""
    slot = f"{_KEY}-who"
    if slot in st.session_state:  # the field itself, which is gone where it is not drawn
        st.session_state[f"{slot}-kept"] = str(st.session_state[slot] or "").strip()
    return str(st.session_state.get(f"{slot}-kept", address.get(_WHO)[:_MOST_INITIALS]))


def _aside(dataset: Dataset, index: int, kind: str) -> None:
    """Which scan this is, and who said what of it."""
    case = dataset.cases[index]
    st.markdown(f"**Scan {case.id}** · {shown.SPLIT_WORDS[case.split]} · {index + 1:,} of {len(dataset):,}")
    name = "label" if kind == _CLASS else kind
    edits = [e for e in dataset.history(index) if getattr(e, name) is not None or kind in e.cleared]
    if edits:
        last = edits[-1]
        did = "taken away" if kind in last.cleared else last.origin
        by = f" by {plain(last.who)}" if last.who else ""
        more = f", {amount(len(edits), 'edit')}" if len(edits) > 1 else ""
        st.caption(f":material/history: {did.capitalize()}{by} {ago(last.at)}{more}")
    elif dataset.imported[index].carries(kind):
        st.caption(":material/download: As it came with the import")
    else:
        st.caption(":material/radio_button_unchecked: Not labelled yet")


def _initials() -> None:
    """Who labels: kept with every edit, where somebody says so, and in the address for a reload. What somebody else has
    said to be is offered to nobody."""
    slot = f"{_KEY}-who"
    if slot not in st.session_state:
        st.session_state[slot] = who()
    st.text_input(
        "Your initials",
        key=slot,
        max_chars=_MOST_INITIALS,
        width=200,
        placeholder="not said",
        help="Kept with each label, and the time; they stay on this machine.",
    )
    if said := who():
        address.put(_WHO, said)
    else:
        address.drop(_WHO)


def _classes(dataset: Dataset, index: int) -> None:
    """One class, or several, for the scan as a whole."""
    left, right = st.columns([2.3, 1], gap="medium")
    case = dataset.cases[index]
    held = case.label if isinstance(case.label, tuple) else () if case.label is None else (case.label,)
    with left:
        viewer.show(dataset, index, f"{_KEY}-look", height=560)
    with right:
        _aside(dataset, index, _CLASS)
        with st.container(gap="xsmall"):
            for number, name in enumerate(dataset.classes):
                st.button(
                    plain(name),
                    key=f"{_KEY}-class-{number}",
                    icon=":material/check:" if number in held else None,
                    type="primary" if number in held else "secondary",
                    shortcut=str(number + 1) if number < 9 else None,
                    width="stretch",
                    on_click=_classify,
                    args=(dataset, index, number),
                )
        if not dataset.classes:
            st.caption("No class has a name yet.")
        _new_class(dataset)
        with st.container(horizontal=True, gap="small"):
            if dataset.multi_label:
                nothing = {"label": ()}
                st.button(
                    "None of them",
                    key=f"{_KEY}-none",
                    icon=":material/done_all:",
                    shortcut="0",
                    disabled=case.label == (),
                    on_click=partial(_say, dataset, index, **nothing),
                )
            st.button(
                "Clear",
                key=f"{_KEY}-clear-class",
                icon=":material/delete:",
                disabled=case.label is None,
                on_click=partial(_say, dataset, index, clear=(_CLASS,)),
            )
        _initials()


def _new_class(dataset: Dataset) -> None:
    slot = f"{_KEY}-new-class-name"

    def add() -> None:
        name = str(st.session_state[slot]).strip()
        if name:
            _name(dataset, BOXES, name)
            st.session_state[slot] = ""

    with st.popover("New class", icon=":material/add:", type="tertiary", key=f"{_KEY}-new-class"):
        st.text_input("Name of the class", key=slot, max_chars=60, placeholder="lesion", on_change=add)


def _classify(dataset: Dataset, index: int, number: int) -> None:
    label = dataset.cases[index].label
    if not dataset.multi_label:
        _record(dataset, index, label=number)
        return
    held = set(label if isinstance(label, tuple) else ())
    _record(dataset, index, label=tuple(sorted(held ^ {number})))


def _drawing(dataset: Dataset, index: int, kind: str) -> None:
    """Boxes or outlines on the canvas, and on wish the viewer below it, whose slice the canvas follows."""
    names = Naming(dataset.classes, dataset.mask_names, partial(_name, dataset))
    id = f"{dataset.id}-{index}-{kind}-{_version(dataset, index)}"
    marks = Marks(dataset.boxes(index), dataset.mask(index) if kind == MASK else None)

    def aside(kind: str) -> None:
        _aside(dataset, index, kind)

    work = edit(
        dataset.scan(index),
        marks,
        id=id,
        key=_KEY,
        names=names,
        kinds=(kind,),
        on_change=partial(_changed, dataset, index),
        aside=aside,
    )
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        _initials()
        slices = work.shape[0]
        words = "In the viewer, too: three planes, millimetres" if slices > 1 else "In the viewer, too"
        beside = st.toggle(words, key=f"{_KEY}-beside")
        if _waits():
            st.button(
                "Store the outlines",
                key=f"{_KEY}-store",
                icon=":material/save:",
                on_click=store_waiting,
                args=(dataset,),
            )
    if beside:
        look = f"{_KEY}-look"

        def follow() -> None:
            seen = (st.session_state.get(look) or {}).get("seen")
            if seen:
                st.session_state[f"{_KEY}-slice"] = int(seen["slice"]) + 1

        viewer.show(dataset, index, look, height=520, slice=work.slice, follow=slices > 1, on_seen=follow)


def _version(dataset: Dataset, index: int) -> int:
    """Rises when somebody else has edited the case: the canvas then begins anew from what holds now."""
    slot = f"{_KEY}-known"
    if _waits(dataset, index) and _known(dataset, index)[0] != len(dataset.history(index)):
        store_waiting(dataset)  # beside what somebody else has said
    known, version = _known(dataset, index)
    num = len(dataset.history(index))
    version += num != known
    st.session_state[slot] = ((dataset.id, index), num, version)
    return version


def _known(dataset: Dataset, index: int) -> tuple[int, int]:
    """(how many edits of the case the canvas knows, how often it has begun anew): all and 0 where it has not shown it
    last."""
    case, known, version = st.session_state.get(f"{_KEY}-known", (None, 0, 0))
    return (int(known), int(version)) if case == (dataset.id, index) else (len(dataset.history(index)), 0)


def _changed(dataset: Dataset, index: int, marks: Marks, kind: str) -> None:
    """Stores what was drawn; strokes on a large volume wait until the hand moves on."""
    if _waits() and not _waits(dataset, index):  # a late stroke of the scan before
        store_waiting(dataset)
    if kind == MASK:
        st.session_state.pop(WAITING, None)  # they are in the mask that is told now
        if marks.mask is not None and marks.mask.size > _AT_ONCE:
            st.session_state[WAITING] = (dataset.id, index, marks.mask)
            return
    _store(dataset, index, kind, marks.of(kind))


def _store(dataset: Dataset, index: int, kind: str, value: Any) -> bool:
    """Stores boxes or a mask (None: taken away); what somebody else has said since the canvas began stays beside it.

    Returns: whether it is stored.
    """
    dataset.refresh()
    known, version = _known(dataset, index)
    mine = value
    if known != len(dataset.history(index)):
        value = together(kind, _after(dataset, index, kind, known), mine, _after(dataset, index, kind))
    if value is None:
        stored = _record(dataset, index, clear=(kind,))
    else:
        others = dataset.imported[index].carries(kind) or any(e.who != who() for e in dataset.history(index)[-1:])
        stored = _record(dataset, index, origin="corrected" if others else "drawn", **{kind: value})
    if value is mine:  # our own edit is no reason to begin anew
        slot = f"{_KEY}-known"
        if st.session_state.get(slot, (None,))[0] == (dataset.id, index):
            st.session_state[slot] = ((dataset.id, index), len(dataset.history(index)), version)
    return stored


def _after(dataset: Dataset, index: int, kind: str, num: int | None = None) -> Any:
    """The boxes or the mask that a case carried after its first `num` edits; None: after all of them."""
    case = dataset.imported[index]
    edits = Edits(of_case={case.id: dataset.history(index)[:num]})
    found = edits.state(case.id, boxes=case.boxes, mask=case.mask)[kind]
    if kind != MASK or found is None:
        return found
    slices, _, height, width = case.shape
    return read_mask(dataset.folder, found, (slices, height, width))


def _waits(dataset: Dataset | None = None, index: int | None = None) -> bool:
    """Whether strokes wait to be stored: of any scan, or of this one."""
    waiting = st.session_state.get(WAITING)
    return waiting is not None and (dataset is None or waiting[:2] == (dataset.id, index))


def store_waiting(at_hand: Dataset | None = None) -> None:
    """Stores the strokes that wait, of whatever scan they are: before another scan, page or data set is shown."""
    waiting = st.session_state.pop(WAITING, None)
    if waiting is None:
        return
    id, index, mask = waiting
    dataset = at_hand
    if dataset is None or dataset.id != id:
        there = shown.opened(id)
        dataset = there[0] if there is not None else None
    if dataset is not None and not _store(dataset, index, MASK, mask):  # else it was deleted, and they with it
        st.session_state[WAITING] = waiting


def _say(dataset: Dataset, index: int, **said: object) -> None:
    """As `_record`, of a button."""
    _record(dataset, index, **said)


def _record(dataset: Dataset, index: int, **said: object) -> bool:
    """Keeps an edit; a refusal, or a full disk, is told in words. Returns whether it is kept."""
    if "origin" not in said:
        said["origin"] = "cleared" if said.get("clear") else "drawn"
    kept = True
    try:
        record(dataset, index, who=who(), **said)  # type: ignore[arg-type]
    except (LabelRefused, OSError) as error:
        st.session_state[f"{_KEY}-error"] = plain(str(error))
        kept = False
    st.session_state[f"{_KEY}-size-{dataset.id}"] = edits_size(dataset.folder)
    return kept


def _name(dataset: Dataset, kind: str, name: str) -> None:
    try:
        name_classes(dataset, **{"classes" if kind == BOXES else "structures": [name]}, who=who())
    except (LabelRefused, OSError) as error:
        st.session_state[f"{_KEY}-error"] = plain(str(error))
