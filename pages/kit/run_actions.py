"""What can be done with a run: stop, resume, again, open as an experiment, delete, test a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import streamlit as st

from builder.branch import best, saved
from builder.execute import executor, home
from builder.runs import Run, RunStore, RunView, StoreError
from builder.spec import Experiment
from pages.kit import address, branching, go
from pages.kit.run_bin import discard, put_away
from pages.kit.run_list import experiment_of, name_of
from pages.kit.words import plain

__all__ = ["actions"]


def attempt(act: Callable[[], object]) -> bool:
    """Does something with the store; what cannot be done is kept as a sentence for the next draw."""
    try:
        act()
        executor(home()).ensure()
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)
        return False
    return True


@st.dialog("Stop this training?", icon=":material/stop_circle:")
def confirm_stop(run: Run, view: RunView) -> None:
    """Asks before a run is stopped."""
    kept = f"The best network so far (epoch {view.best['epoch']}) is kept. " if view.best else ""
    st.write(f"{kept}You can resume it later exactly where it stopped.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep training"):
            st.rerun()
        if st.button("Stop now", type="primary", key="really-stop", on_click=run.stop):
            st.rerun()


@st.dialog("Delete this run?", icon=":material/delete:")
def confirm_delete(run: Run) -> None:
    """Asks before a run is deleted."""
    st.write(
        f"**{plain(name_of(run))}**: its network, its curves and its evaluation. You can take it back at once, or for "
        "two weeks from the list of deleted runs. The scans stay."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it"):
            st.rerun()
        if st.button("Delete", type="primary", key="really-delete", on_click=discard, args=(run.id,)):
            st.rerun()


def again(run: Run) -> None:
    """Starts the same experiment anew."""
    experiment = experiment_of(run)
    if experiment is None:
        return
    made: list[Run] = []
    if attempt(lambda: made.append(RunStore(home()).create(experiment))):
        address.put("run", made[0].id)


def pause(run: Run) -> None:
    """Lets a run wait where it is."""
    attempt(run.pause)


def resume(run: Run) -> None:
    """Lets a paused run go on, and puts one that ended early back into the queue."""
    attempt(run.resume)


def from_best(run: Run, experiment: Experiment) -> None:
    """The way back to the best epoch, where the run has learned on since."""
    top = best(run)
    if top is None or top.step == saved(run)[0].step:
        return
    if st.button(
        f"Edit and go on from epoch {top.epoch}",
        key="branch-best",
        icon=":material/star:",
        width="stretch",
        help="A new run that goes on from the end of the best epoch: what came after it is left out.",
    ):
        branching.begin(run, experiment, from_best=True)


def actions(run: Run, view: RunView) -> None:
    """The buttons of the run that is looked at: one main thing, the rest in a menu."""
    experiment = experiment_of(run)
    with st.popover("More", icon=":material/more_horiz:"):
        can = bool(experiment) and bool(saved(run))
        if st.button(
            "Edit and go on",
            key="branch",
            icon=":material/fork_right:",
            width="stretch",
            disabled=not can,
            help="A new run that goes on from the last saved state with another learning rate, augmentation, batch "
            "size, number of epochs, ...; this run stays as it is."
            if can
            else "It has saved no state yet.",
        ):
            assert experiment is not None
            branching.begin(run, experiment)
        if experiment is not None and can:
            from_best(run, experiment)
        if st.button(
            "Open as an experiment", key="clone", icon=":material/edit:", width="stretch", disabled=not experiment
        ):
            assert experiment is not None
            go.begin(experiment, words=f"opened from run {run.id}")
            go.to("network")
        st.button(
            "Run again",
            key="again",
            icon=":material/replay:",
            width="stretch",
            disabled=not experiment,
            help="The same settings and the same seed, from the beginning.",
            on_click=again,
            args=(run,),
        )
        st.button(
            "Archive",
            key="archive-run",
            icon=":material/inventory_2:",
            width="stretch",
            disabled=view.active,
            help="Stop it first." if view.active else "Out of this list; the runs below the list bring it back.",
            on_click=put_away,
            args=(run.id,),
        )
        if st.button(
            "Delete",
            key="delete-run",
            icon=":material/delete:",
            width="stretch",
            disabled=view.active,
            help="Stop it first." if view.active else None,
        ):
            confirm_delete(run)
    if view.status == "paused":
        st.button(
            "Resume",
            key="unpause-run",
            type="primary",
            icon=":material/play_arrow:",
            help="Goes on exactly where it paused.",
            on_click=resume,
            args=(run,),
        )
    elif view.status in ("starting", "running", "restarting") and not view.stopping:
        st.button(
            "Pausing ..." if view.pausing else "Pause",
            key="pause-run",
            icon=":material/pause:",
            disabled=view.pausing,
            help="Saves the present state and waits, ready to go on at once. Its place is free for another training.",
            on_click=pause,
            args=(run,),
        )
    if view.active:
        words = "Stopping ..." if view.stopping else "Stop"
        if st.button(words, key="stop-run", icon=":material/stop:", disabled=view.stopping):
            confirm_stop(run, view)
    usable = view.best is not None
    if view.resumable:
        aside = usable and view.status == "stopped"
        st.button(
            "Resume",
            key="resume-run",
            type="secondary" if aside else "primary",
            icon=":material/play_arrow:",
            help="Goes on exactly where the last state was saved.",
            on_click=resume,
            args=(run,),
        )
        if not aside:
            return
    # One main thing: where it is paused that is to go on.
    kind: Literal["primary", "secondary"] = "secondary" if view.status == "paused" else "primary"
    if usable and st.button("Test a scan", key="to-test", type=kind, icon=":material/biotech:"):
        go.to("test", run=run.id)
