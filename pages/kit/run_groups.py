"""Runs that belong to a search or to a round of trainings: out of the lists of runs; one card a search below."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import streamlit as st

from builder.execute import home
from builder.rounds import round_of
from builder.runs import Run, StoreError
from builder.search.studies import StudyStore, trial_of
from pages.kit import address, go, style
from pages.kit.study_curves import ranked
from pages.kit.study_list import apart, best_words, view_of
from pages.kit.study_words import number_words
from pages.kit.words import amount, plain

__all__ = ["groups", "own", "searches", "trial_number"]

_OPEN = "open-search"
_BEST = 5
_SEARCHES = 6


@lru_cache(maxsize=20_000)
def _trial(folder: Path) -> tuple[str, int] | None:
    """(study, number) of a trial; what a run belongs to never changes, so it is read once."""
    return trial_of(folder)


def trial_number(run: Run) -> int | None:
    """Returns which trial of its search a run is; None for a run of its own."""
    found = _trial(run.folder)
    return found[1] if found else None


def own(runs: Iterable[Run], also: Container[str] = ()) -> list[Run]:
    """Returns the runs that are neither trials nor of a round, and those whose ids are in `also`, in their order."""
    return [run for run in runs if run.id in also or (_trial(run.folder) is None and not round_of(run))]


def groups(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Returns the trials by the id of their search, in the order given."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if (trial := _trial(run.folder)) is not None:
            found.setdefault(trial[0], []).append(run)
    return found


def searches(by_study: Mapping[str, Sequence[Run]], shown: Sequence[str]) -> None:
    """One card a search: a press opens its best trials; from there one goes to any of them or to the whole search."""
    known = StudyStore(home())
    with st.container(key="run-list-searches", gap="xsmall"):
        st.caption("Searches")
        # Those inside the folds of another are reached from it; searches of the command line stand for themselves.
        inside = {fold.id for about, folds in apart(known.studies())[1].items() if about in by_study for fold in folds}
        for id in [id for id in by_study if id not in inside][:_SEARCHES]:
            try:
                view = view_of(known.study(id))
            except (StoreError, OSError, ValueError):
                continue  # its folder is gone; its trials are found by their address
            words = " · ".join(filter(None, [amount(len(view.trials), "trial"), best_words(view)]))
            st.button(
                f"**{plain(view.name)}** {style.badge(view.status)} *{plain(words)}*",
                key=f"search-{id}",
                width="stretch",
                on_click=_toggle,
                args=(id,),
            )
            if st.session_state.get(_OPEN) != id:
                continue
            with st.container(key=f"limb-1-{id}", gap="xsmall"):
                there = {run.id for run in by_study[id]}
                for trial in [t for t in ranked(view) if t.run in there][:_BEST]:
                    reached = number_words(trial.values[0]) if trial.values else "not over"
                    reached += " · shown" if trial.run in shown else ""
                    st.button(
                        f"**Trial {trial.number}** *{plain(reached)}*",
                        key=f"of-search-{trial.run}",
                        width="stretch",
                        on_click=_only,
                        args=(trial.run,),
                    )
                if st.button("The whole search", key=f"to-search-{id}", icon=":material/travel_explore:"):
                    go.to("search", study=id)


def _toggle(id: str) -> None:
    st.session_state[_OPEN] = "" if st.session_state.get(_OPEN) == id else id


def _only(id: str) -> None:
    address.put("run", id)
