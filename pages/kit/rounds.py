"""Questions that take several trainings, on a page: begin, watch, stop, go on, and the answer when all have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from builder.execute import executor, home
from builder.folds import FoldError
from builder.rounds import Member, Round, RoundStore, RoundView, ended_badly
from builder.runs import StoreError
from builder.spec import Experiment
from pages.kit import go, jobs, style
from pages.kit.run_list import view_of
from pages.kit.words import duration, plain

__all__ = ["asked", "begin", "cost", "followed", "is_going", "newest", "refused"]

_LOOK_S = 1.0


def newest(experiment: Experiment, kind: str) -> Round | None:
    """The newest round of a kind that asks about this very document."""
    found = RoundStore(home()).about(experiment, kind)
    return found[0] if found else None


def is_going(experiment: Experiment, kind: str) -> bool:
    """Whether a round of a kind that asks about this very document is at work."""
    one = newest(experiment, kind)
    return one is not None and one.view().active > 0


def begin(act: Callable[[], object], key: str, going: Callable[[], bool] = lambda: False) -> None:
    """Begins a round and sees to it that somebody works; what is refused is kept in words for the next draw.

    Args:
        going: whether one of the kind is at work already: the second press of a double click begins nothing.
    """
    try:
        if going():
            return
        act()
        executor(home()).ensure()
    except (FoldError, StoreError, LookupError, ValueError) as error:
        st.session_state[f"{key}-refused"] = str(error)


def refused(key: str) -> None:
    """Says what was refused at the last press."""
    if words := st.session_state.pop(f"{key}-refused", ""):
        st.error(plain(words), icon=":material/error:")


def cost(num: int, seconds: float) -> str:
    """What a number of trainings costs, where one has taken so long; "" where that is not known."""
    about = f" This one took {duration(seconds)}, so about {duration(num * seconds)}." if seconds > 0 else ""
    return f"{num} trainings, one after the other.{about} You may leave this page meanwhile."


def followed(one: Round, key: str, title: str, draw: Callable[[Mapping[str, Any]], None]) -> bool:
    """Draws how a round is going, or its answer by `draw`; whether it has one."""
    found, view = one.result(), one.view(view_of)
    if found is not None and view.ended:
        draw(found)
        return True
    if view.active:
        look = st.fragment(run_every=_LOOK_S, key=f"{key}-look")(_going)
        look(one, key, title)
        return False
    bad = ended_badly(view.views, one.members())
    if bad:
        _stuck(one, key, view, bad)
        return False
    asked({"round": one.id}, f"{key}-{one.id}", key, one.forget)
    return False


def _going(one: Round, key: str, title: str) -> None:
    view = one.view(view_of)
    if not view.active:
        st.rerun()
    num = len(view.views)
    st.progress(view.share, text=f"**{plain(title)}** · {view.done} of {num} trainings have ended")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("You may leave this page; the work goes on.")
        if view.stopping:
            st.caption("Stopping ...")
        else:
            st.button("Stop", key=f"{key}-stop", icon=":material/stop:", on_click=one.stop)
    _members(one.members(), view, key)


def _members(members: Sequence[Member], view: RoundView, key: str) -> None:
    """A line a training: its state, and the way to its curves."""
    with st.container(key=f"{key}-members", gap="xsmall"):
        for number, (member, now) in enumerate(zip(members, view.views, strict=True)):
            state = style.badge(now.status) if now is not None else style.badge("lost")
            far = f" · epoch {now.epoch} of {now.epochs}" if now is not None and now.active and now.epoch else ""
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.markdown(f"{state} {plain(member.words)}{far}", width="stretch")
                if now is not None and st.button(
                    "Curves", key=f"{key}-curves-{number}", type="tertiary", icon=":material/show_chart:"
                ):
                    go.to("runs", run=member.run)


def _stuck(one: Round, key: str, view: RoundView, bad: Sequence[str]) -> None:
    """Some trainings ended without an answer: which, why, and the way on."""
    st.warning(
        f"{view.done} of {len(view.views)} trainings have ended; the others stand still. What they learned is kept.",
        icon=":material/pause_circle:",
    )
    for words in bad[:4]:
        st.caption(plain(words))
    if len(bad) > 4:
        st.caption(f"And {len(bad) - 4} more.")
    with st.container(horizontal=True):
        st.button(
            "Go on", key=f"{key}-resume", icon=":material/play_arrow:", type="primary",
            on_click=begin, args=(one.resume, key),
        )  # fmt: skip
        _put_away(one.forget, key)


def _put_away(forget: Callable[[], None], key: str) -> None:
    st.button(
        "Put away", key=f"{key}-forget", icon=":material/close:", on_click=begin, args=(forget, key),
        help="The question goes; its trainings stay in the list of runs.",
    )  # fmt: skip


def asked(payload: dict[str, Any], slot: str, key: str, forget: Callable[[], None]) -> None:
    """All have ended: their answers are put together, by itself the first time; where that cannot be, the question is
    taken away by `forget`."""
    if jobs.of_slot(slot) is None and not st.session_state.get(f"{slot}-asked"):
        st.session_state[f"{slot}-asked"] = True
        begin(lambda: jobs.submit("gather", payload, slot), key)
    view = jobs.watch(slot, "Asking about what was held out")
    if view is None or view.status == "done":  # done, and yet no answer that fits: a run was made anew since
        with st.container(horizontal=True):
            st.button(
                "Put the answers together", key=f"{key}-gather", icon=":material/functions:", type="primary",
                on_click=begin, args=(lambda: jobs.submit("gather", payload, slot), key),
            )  # fmt: skip
            _put_away(forget, key)
