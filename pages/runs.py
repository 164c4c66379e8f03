"""How is it going? The list of runs; curves that grow while they learn; what happened; the test side; taking away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from builder.branch import saved
from builder.events import RESUMABLE
from builder.execute import home
from builder.rounds import Round
from builder.runs import Run, RunStore, RunView
from pages.kit import address, gap, go, style, takeaway, trust
from pages.kit.health import health
from pages.kit.preflight import foretold
from pages.kit.run_actions import actions
from pages.kit.run_bin import out_of_sight, undo
from pages.kit.run_board import boards
from pages.kit.run_compare import compared
from pages.kit.run_difference import shown_better
from pages.kit.run_film import screened
from pages.kit.run_groups import groups, own, searches
from pages.kit.run_hardest import hardest
from pages.kit.run_list import begun, dress, experiment_of, labels_of, name_of, run_list, shown_ids, view_of
from pages.kit.run_log import happened
from pages.kit.run_notes import remarks
from pages.kit.run_picture import picture
from pages.kit.run_rounds import active, questions, rounds_of
from pages.kit.run_state import state
from pages.kit.words import ago, plain

_LOOK_S = 1.0
_LISTED = 12
_ID_CHARS = 40


Trials = Mapping[str, Sequence[Run]]
Standing = tuple[tuple[str, str, bool, bool, bool], ...]


def standing(views: dict[str, RunView]) -> Standing:
    """What the buttons of the page depend on; when it changes the whole page is drawn anew."""
    return tuple((id, v.status, v.stopping, v.pausing, v.best is not None) for id, v in views.items())


def live(runs: Sequence[Run], trials: Trials, rounds: Sequence[Round], shown: Sequence[str], states: Standing) -> None:
    """Everything that moves: the list, the state of the run, the curves. Runs again by itself while a run is active."""
    views = {run.id: view_of(run) for run in runs}
    if address.get("run") != ",".join(shown):
        st.rerun()  # another run was picked in the list
    if standing(views) != states:
        st.rerun()
    by_id = {run.id: run for run in runs}
    left, right = st.columns([1.15, 2.9], gap="medium")
    with left:
        everything = st.session_state.get("all-runs", False)
        listed = list(runs) if everything else list(runs)[:_LISTED]
        listed += [by_id[id] for id in shown if by_id[id] not in listed]
        run_list(listed, views, shown)
        if len(runs) > _LISTED:
            st.toggle(f"Show all {len(runs)}", key="all-runs")
        if trials:
            searches(trials, shown)
        if rounds:
            questions(rounds, shown)
    with right:  # a box for each part always: what grows in one never moves the charts, which would cost their zoom
        with st.container(key="run-state"):
            state(by_id[shown[0]], views[shown[0]])
        with st.container(key="run-curves"):
            picture([by_id[id] for id in shown], [views[id] for id in shown])
        whose = labels_of([by_id[id] for id in shown])[0] if len(shown) > 1 else ""
        with st.container(key="run-gap"):
            gap.box(by_id[shown[0]], views[shown[0]])
        with st.container(key="run-film"):
            screened(by_id[shown[0]], views[shown[0]], whose)
        with st.container(key="run-health"):
            health(by_id[shown[0]], views[shown[0]])
        with st.container(key="run-log"):
            happened(views[shown[0]], whose)


def take_away(run: Run, whose: str = "") -> None:
    """The network as code and weights that need no ScanLoom. `whose`: words behind the title."""
    experiment = experiment_of(run)
    if experiment is None:
        return
    with style.card(f"Take it away{whose}", key="take-away"):
        st.caption(
            "A zip with the network, its weights, the preparation of the scans, and a proof that it answers as the app "
            "does. It needs no ScanLoom."
        )
        takeaway.formats(f"export-{run.id}", lambda: {"run": run.id}, experiment)


def nothing_yet() -> None:
    """No runs: what to do."""
    style.heading("How is it going?", "Trainings, while they run and afterwards.")
    with style.empty(
        "show_chart", "No runs yet", "A run begins on the Training page. Or try the demo: it learns in a minute."
    ):
        if st.button("Go to Training", key="to-training", type="primary", icon=":material/model_training:"):
            go.to("training")
        if st.button("Try the demo", key="to-home", icon=":material/play_arrow:"):
            go.to("home")


def page(runs: Sequence[Run], trials: Trials, rounds: Sequence[Round]) -> None:
    """The page. `trials`: of each search; neither they nor the members of `rounds` are in `runs` but for those that are
    looked at."""
    shown = shown_ids(runs)
    by_id = {run.id: run for run in runs}
    focus = by_id[shown[0]]
    views = {run.id: view_of(run) for run in runs}
    view = views[focus.id]
    experiment = experiment_of(focus)
    task = experiment.task.replace("_", " ") if experiment else ""
    with style.heading(plain(name_of(focus)), f"{plain(task)} · begun {ago(begun(focus))} · run {focus.id}"):
        actions(focus, view)
    refused = st.session_state.pop("runs-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    every = _LOOK_S if any(v.active for v in views.values()) or active(rounds) else None
    st.fragment(run_every=every, key="live-runs")(live)(runs, trials, rounds, shown, standing(views))
    foretold(focus, view)
    whose = ""
    if len(shown) > 1:
        whose = f" · {plain(labels_of([by_id[id] for id in shown])[0])}"
        shown_better([by_id[id] for id in shown])
        compared([by_id[id] for id in shown])
    remarks(focus)
    if view.status in ("paused", *RESUMABLE, "done") and saved(focus):
        hardest(focus, whose)
    if view.best is not None and not view.active:
        trust.test_side(focus, whose)
        take_away(focus, whose)
    if view.attempt:
        boards([by_id[id] for id in shown])


def missing(asked: Sequence[str], everything: Sequence[Run]) -> None:
    """Says it, until the next click, where the address names runs that are not there: what is shown are others."""
    there = {run.id for run in everything}
    gone = [plain(id[:_ID_CHARS]) for id in asked if id and id not in there]
    if gone:
        shown = "The others are shown." if len(gone) < len(asked) else "The newest is shown; the list has all others."
        st.warning(
            f"There is no run {', '.join(gone)} among these: it was deleted or put away, or the address is not whole. "
            f"{shown}",
            icon=":material/search_off:",
        )


dress()
undo()
everything = RunStore(home()).runs()
asked_for = address.get("run").split(",")
known = own(everything, asked_for) or everything[:1]
if known:
    missing(asked_for, everything)
    page(known, groups(everything), rounds_of(everything))
else:
    nothing_yet()
out_of_sight()
