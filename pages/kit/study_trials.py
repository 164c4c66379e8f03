"""The trials of a search: the best one, all of them in a table, and where one can go from each."""

from __future__ import annotations

import functools
from collections.abc import Callable

import streamlit as st

from builder.execute import executor, home
from builder.runs import StoreError
from builder.search.studies import Study, StudyView, TrialView
from pages.kit import go, study_table, style
from pages.kit.pairs import band
from pages.kit.study_curves import ranked
from pages.kit.study_words import names_of, number_words, option_words, titles_of
from pages.kit.words import plain

__all__ = ["attempt", "best", "table"]

_ORDERS = ("Best first", "As they ran")
_PICKED, _ROWS, _TICK = "trial-picked", "trial-rows", "trial-tick"


def attempt(act: Callable[[], object]) -> None:
    """Does something with the search; what cannot be done is kept as a sentence for the next draw."""
    try:
        act()
        executor(home()).ensure()
    except StoreError as error:
        st.session_state["study-refused"] = str(error)


def best(study: Study, view: StudyView) -> None:
    """The best trial: what it chose, and the ways on."""
    trial = view.best
    if trial is None and not view.front:
        return
    with st.container(key="study-best", border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if view.front:
                st.markdown("**A best compromise**", width="content")
                number = st.selectbox(
                    "Trial",
                    view.front,
                    key="study-front",
                    format_func=_trial_words,
                    label_visibility="collapsed",
                    width=130,
                )
                trial = next(t for t in view.trials if t.number == number)
            else:
                word = "The best so far" if view.active else "The winner"
                st.markdown(f":material/emoji_events: **{word}**", width="content")
            st.space("stretch")
            assert trial is not None
            ways(study, view, trial, "best")
        facts(study, view, trial)


def _trial_words(number: int) -> str:
    return f"Trial {number}"


def facts(study: Study, view: StudyView, trial: TrialView) -> None:
    """What a trial reached, and what it chose."""
    titles = titles_of(study)
    reached = [(name, number_words(value)) for name, value in zip(names_of(view), trial.values, strict=False)]
    chosen = [(titles.get(path, path), option_words(path, value)) for path, value in trial.params.items()]
    band([("Trial", str(trial.number)), *reached, *chosen])


def ways(study: Study, view: StudyView, trial: TrialView, place: str) -> None:
    """Where one can go from a trial."""
    if st.button(
        "Open as an experiment",
        key=f"{place}-experiment",
        icon=":material/edit_note:",
        help="A new draft with these choices: to look at, to change, to train for longer.",
    ):
        go.begin(study.trial(trial.number), words=f"trial {trial.number} of {view.name}")
        go.to("training")
    if trial.run and st.button("Open its run", key=f"{place}-run", icon=":material/show_chart:"):
        go.to("runs", run=trial.run)


def table(study: Study, view: StudyView) -> None:
    """All trials in a table; a tick on one opens what can be done with it."""
    with style.card("Trials", key="study-trials"):
        if not view.trials:
            st.caption("The first trial is about to begin.")
            return
        order = st.segmented_control(
            "Order", _ORDERS, default=_ORDERS[0], required=True, key="trial-order", label_visibility="collapsed"
        )
        by_rank = order == _ORDERS[0]
        listed = ranked(view) if by_rank else list(view.trials)
        numbers = [trial.number for trial in listed]
        st.session_state[_ROWS] = numbers
        if st.session_state.setdefault("trial-study", study.id) != study.id:  # what was ticked is of another search
            st.session_state["trial-study"] = study.id
            st.session_state.pop(_PICKED, None)
        picked = next((t for t in listed if t.number == st.session_state.get(_PICKED)), None)
        row = numbers.index(picked.number) if picked else None
        key = f"trials-{study.id}-{order}-{_table(row)}"
        rows = study_table.rows(listed, names_of(view), titles_of(study))
        st.dataframe(
            rows,
            key=key,
            hide_index=True,
            height=min(440, 38 + 35 * len(listed)),
            on_select=functools.partial(pick, key),
            selection_mode="single-row",
            selection_default={"selection": {"rows": [] if row is None else [row]}},
            placeholder="–",
            column_config=study_table.columns(rows),
        )
        if picked is None:
            st.caption("Tick a row to open that trial as an experiment, to see its run, or to let it run again.")
            return
        with st.container(key="trial-ways", horizontal=True, vertical_alignment="center"):
            st.markdown(f"**Trial {picked.number}**", width="content")
            ways(study, view, picked, "picked")
            st.button(
                "Run it again",
                key="requeue-trial",
                icon=":material/replay:",
                help="A trial more with the same choices.",
                disabled=not picked.ended or picked.status == "refused",
                on_click=attempt,
                args=(functools.partial(study.requeue, picked.number),),
            )
        if picked.reason:
            st.caption(plain(picked.reason))


def _table(row: int | None) -> int:
    """Which table this is: a new one where the ticked trial has got another row.

    The browser keeps a tick by its row, a tick belongs to a trial. As long as nothing is ticked, or what is ticked
    stays where it is, the rows of the same table change places: its scroll and its order of columns are kept.
    """
    number, ticked = st.session_state.get(_TICK, (0, None))
    if row is not None and row != ticked:
        number += 1
    st.session_state[_TICK] = number, row
    return int(number)


def pick(key: str) -> None:
    """Remembers which trial was ticked: by its number, whatever the order of the rows."""
    rows, numbers = st.session_state[key].selection.rows, st.session_state[_ROWS]
    row = rows[0] if rows and rows[0] < len(numbers) else None
    st.session_state[_PICKED] = None if row is None else numbers[row]
    st.session_state[_TICK] = st.session_state[_TICK][0], row
