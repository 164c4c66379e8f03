"""The Label tab of a dataset: which scan is next, what is still to do, its class, and what was drawn on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from builder.data import Dataset
from builder.labels import LabelRefused, edits_size, name_classes, record
from pages.kit import address, viewer
from pages.kit import datasets as shown
from pages.kit.labelling import BOXES, MASK, Marks, Naming, edit
from pages.kit.words import ago, amount, plain

__all__ = ["tab"]

_KEY = "label"
_CLASS = "class"
_WHATS = {_CLASS: "Class of the scan", BOXES: "Boxes", MASK: "Outlines"}
_NOUNS = {_CLASS: "a class", BOXES: "boxes", MASK: "outlines"}
_SHOW = {"all": "All", "open": "Not labelled", "done": "Labelled"}
_AT_ONCE = 8_000_000
"""Pixels of a mask up to which every stroke is stored at once; a larger one when the hand moves on."""
_PARAMETER = "scan"  # which case, in the URL


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
        on_change=_store_strokes,
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
    _store_strokes(dataset)
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


def _who() -> str:
    return str(st.session_state.get(f"{_KEY}-who") or "").strip()


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


def _initials(dataset: Dataset) -> None:
    """Who labels: kept with every edit, where somebody says so."""
    slot = f"{_KEY}-who"
    if slot not in st.session_state:
        known = [edit for edits in dataset.edits.of_case.values() for edit in edits[-1:] if edit.who]
        st.session_state[slot] = max(known, key=lambda edit: edit.at).who if known else ""
    st.text_input(
        "Your initials",
        key=slot,
        max_chars=20,
        width=200,
        placeholder="not said",
        help="Kept with each label, and the time; they stay on this machine.",
    )


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
                    on_click=partial(_record, dataset, index, **nothing),
                )
            st.button(
                "Clear",
                key=f"{_KEY}-clear-class",
                icon=":material/delete:",
                disabled=case.label is None,
                on_click=partial(_record, dataset, index, clear=(_CLASS,)),
            )
        _initials(dataset)


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
        _initials(dataset)
        slices = work.shape[0]
        words = "In the viewer, too: three planes, millimetres" if slices > 1 else "In the viewer, too"
        beside = st.toggle(words, key=f"{_KEY}-beside")
        if _unstored():
            st.button(
                "Store the outlines",
                key=f"{_KEY}-store",
                icon=":material/save:",
                on_click=_store_strokes,
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
    num = len(dataset.history(index))
    case, known, version = st.session_state.get(slot, (None, 0, 0))
    if (dataset.id, index) != case:
        version = 0
    elif num != known:
        version += 1
    st.session_state[slot] = ((dataset.id, index), num, version)
    return int(version)


def _changed(dataset: Dataset, index: int, marks: Marks, kind: str) -> None:
    """Stores what was drawn; strokes on a large volume wait until the hand moves on."""
    if kind == MASK and marks.mask is not None and marks.mask.size > _AT_ONCE:
        st.session_state[f"{_KEY}-strokes"] = (dataset.id, index, marks.mask)
        return
    st.session_state.pop(f"{_KEY}-strokes", None)
    _store(dataset, index, kind, marks.of(kind))


def _store(dataset: Dataset, index: int, kind: str, value: object) -> None:
    if value is None:
        _record(dataset, index, clear=(kind,))
    else:
        others = dataset.imported[index].carries(kind) or any(e.who != _who() for e in dataset.history(index)[-1:])
        _record(dataset, index, origin="corrected" if others else "drawn", **{kind: value})
    slot = f"{_KEY}-known"  # our own edit is no reason to begin anew
    case, _, version = st.session_state.get(slot, (None, 0, 0))
    if case == (dataset.id, index):
        st.session_state[slot] = (case, len(dataset.history(index)), version)


def _unstored() -> bool:
    return f"{_KEY}-strokes" in st.session_state


def _store_strokes(dataset: Dataset) -> None:
    """Stores the strokes that wait, before another scan is shown."""
    waiting = st.session_state.pop(f"{_KEY}-strokes", None)
    if waiting is not None and waiting[0] == dataset.id:
        _store(dataset, waiting[1], MASK, waiting[2])


def _record(dataset: Dataset, index: int, **said: object) -> None:
    """Keeps an edit; a refusal, or a full disk, is told in words."""
    if "origin" not in said:
        said["origin"] = "cleared" if said.get("clear") else "drawn"
    try:
        record(dataset, index, who=_who(), **said)  # type: ignore[arg-type]
    except (LabelRefused, OSError) as error:
        st.session_state[f"{_KEY}-error"] = plain(str(error))
    st.session_state[f"{_KEY}-size-{dataset.id}"] = edits_size(dataset.folder)


def _name(dataset: Dataset, kind: str, name: str) -> None:
    try:
        name_classes(dataset, **{"classes" if kind == BOXES else "structures": [name]}, who=_who())
    except (LabelRefused, OSError) as error:
        st.session_state[f"{_KEY}-error"] = plain(str(error))
