"""A branch while it is made: a draft that belongs to a run, edited on the Training page, started from there."""

from __future__ import annotations

import streamlit as st

from builder.branch import branch, epochs_done, hindrances
from builder.execute import home
from builder.runs import Run, RunStore, StoreError
from builder.spec import Experiment
from pages.kit import address, go
from pages.kit import draft as drafts
from pages.kit.run_compare import differences
from pages.kit.run_list import experiment_of, name_of
from pages.kit.words import amount, path_words, plain, value_words

__all__ = ["banner", "begin", "change_words", "origin", "start"]

_PARAMETER = "branch"  # in the URL: the run and the draft that is its branch to be
_KEPT = "branch-of"


def begin(run: Run, experiment: Experiment) -> None:
    """Opens `experiment` as a draft that will go on from what `run` has saved, on the Training page."""
    draft = go.begin(experiment, words=f"branched from run {run.id}")
    st.session_state.setdefault(_KEPT, {})[draft.id] = run.id
    go.to("training", draft=draft.id, **{_PARAMETER: f"{run.id}:{draft.id}"})


def origin(draft: drafts.Draft) -> Run | None:
    """The run that this draft goes on from; None where it is an experiment of its own."""
    kept: dict[str, str] = st.session_state.setdefault(_KEPT, {})
    asked, _, of = address.get(_PARAMETER).partition(":")
    if of == draft.id:
        kept[draft.id] = asked
    id = kept.get(draft.id)
    if not id:
        address.drop(_PARAMETER)
        return None
    address.put(_PARAMETER, f"{id}:{draft.id}")
    try:
        return RunStore(home()).run(id)
    except StoreError:
        forget(draft)
        return None


def forget(draft: drafts.Draft) -> None:
    """From now on the draft is an experiment of its own, which begins at the beginning."""
    st.session_state.setdefault(_KEPT, {}).pop(draft.id, None)
    address.drop(_PARAMETER)


def banner(draft: drafts.Draft) -> list[str]:
    """Says what the draft goes on from and what has changed; returns the paths that stand in its way."""
    run = origin(draft)
    if run is None:
        return []
    parent = experiment_of(run)
    if parent is None:
        return []
    blocked, done = hindrances(parent, draft.experiment), epochs_done(run)
    short = draft.experiment.training.epochs <= done
    changed = change_words(parent, draft.experiment)
    with st.container(border=True, key="branching", horizontal=True, vertical_alignment="center"):
        with st.container(width="stretch", gap=None):
            st.markdown(f":material/fork_right: **A branch of {plain(name_of(run))}** (run {run.id})")
            st.caption(
                "It goes on with the weights that run has saved; the run itself stays as it is. "
                + (f"Changed: {plain('; '.join(changed))}." if changed else "Nothing is changed yet.")
            )
            for path in blocked:
                st.caption(
                    f":red[:material/error: {plain(path_words(path))} cannot be changed in a branch: the weights, or "
                    "the scans they were made from, would be others.]"
                )
            if short:
                st.caption(
                    f":red[:material/error: It has learned for {done} epochs already: ask for more under Stopping.]"
                )
        st.button(
            "Begin anew instead",
            key="branch-forget",
            icon=":material/restart_alt:",
            help="The same experiment, trained from the beginning.",
            on_click=forget,
            args=(draft,),
        )
    return [*blocked, *(["training.epochs"] if short else [])]


def start(draft: drafts.Draft, experiment: Experiment) -> Run:
    """Makes the run of a draft: a branch where it goes on from another. StoreError in words."""
    run = origin(draft)
    store = RunStore(home())
    return store.create(experiment) if run is None else branch(store, run, experiment)


def change_words(before: Experiment, now: Experiment) -> list[str]:
    """What has changed, in the words of the catalogs: "AdamW: learning rate 0.001 → 0.0001"."""
    left_out = len(now.data.exclude) - len(before.data.exclude)
    said = []
    for words, (old, new) in differences(before, now).items():
        if words == path_words("data.exclude"):
            continue
        said.append(f"{words} {_value(old)} → {_value(new)}")
    if before.data.exclude != now.data.exclude:
        said.append(f"{amount(abs(left_out), 'case')} {'left out' if left_out >= 0 else 'taken in again'}")
    return said


def _value(value: object) -> str:
    return "–" if value is None else value_words(value)
