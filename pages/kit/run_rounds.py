"""Trainings that answer one question together: one card a question below the list of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import streamlit as st

from builder.execute import home
from builder.rounds import Round, RoundStore, RoundView, round_of
from builder.runs import Run, StoreError
from pages.kit import address, curves, go, style
from pages.kit.run_list import MOST_SHOWN, only, view_of
from pages.kit.words import plain

__all__ = ["active", "questions", "rounds_of"]

_OPEN = "open-round"
_LISTED = 6
_TITLES = {"folds": "Cross-validation", "forecast": "Enough data?", "seeds": "Winner against default"}


def rounds_of(runs: Iterable[Run]) -> list[Round]:
    """The rounds that these runs are members of, the newest first."""
    known = RoundStore(home())
    return [known.round(id) for id in sorted({round_of(run) for run in runs} - {""}, reverse=True)]


def active(rounds: Iterable[Round]) -> bool:
    """Whether one of the rounds that are listed is at work."""
    return any(one.view(view_of).active for one in list(rounds)[:_LISTED])


def questions(rounds: Sequence[Round], shown: Sequence[str]) -> None:
    """One card a round: a press opens its trainings; from there one goes to each of them, or to the answer."""
    with st.container(key="run-list-rounds", gap="xsmall"):
        st.caption("Questions of several trainings")
        for one in rounds[:_LISTED]:
            try:
                plan, view = one.plan, one.view(view_of)
            except StoreError:
                continue  # put away since
            title = _TITLES.get(str(plan["kind"]), str(plan["kind"]))
            words = plain(f"{view.done} of {len(view.views)} · {plan['name']}")
            st.button(
                f"**{plain(title)}** {style.badge(_status(view))} *{words}*",
                key=f"round-{one.id}",
                width="stretch",
                on_click=_toggle,
                args=(one.id,),
            )
            if st.session_state.get(_OPEN) == one.id:
                with st.container(key=f"limb-1-{one.id}", gap="xsmall"):
                    _members(one, view, shown)


def _members(one: Round, view: RoundView, shown: Sequence[str]) -> None:
    there = []
    for (words, run), now in zip(one.named(), view.views, strict=True):
        if now is None:
            st.caption(f"{plain(words)}: deleted")
            continue
        there.append(run.id)
        facts = [curves.best_words(now), "shown" if run.id in shown else ""]
        facts_words = plain(" · ".join(filter(None, facts)) or "nothing yet")
        st.button(
            f"**{plain(words)}** {style.badge(now.status)} *{facts_words}*",
            key=f"of-round-{run.id}",
            width="stretch",
            on_click=only,
            args=(run.id,),
        )
    if 1 < len(there) <= MOST_SHOWN:
        st.button(
            "Their curves together",
            key=f"together-{one.id}",
            icon=":material/show_chart:",
            on_click=address.put,
            args=("run", ",".join(there)),
        )
    page, of = ("search" if one.kind == "seeds" else "results"), str(one.plan.get("of") or "")
    if not of or not (home() / ("studies" if page == "search" else "runs") / of).is_dir():
        return
    if st.button("The answer" if view.ended else "The question", key=f"answer-{one.id}", icon=":material/functions:"):
        go.to(page, **{"study" if page == "search" else "run": of})


def _status(view: RoundView) -> str:
    return "running" if view.active else "done" if view.ended else "stopped"


def _toggle(id: str) -> None:
    st.session_state[_OPEN] = "" if st.session_state.get(_OPEN) == id else id
