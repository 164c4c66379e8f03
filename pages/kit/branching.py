"""A branch while it is made: a draft that belongs to a run, edited on the Training page, started from there."""

from __future__ import annotations

import streamlit as st

from builder.branch import branch, epochs_done, hindrances
from builder.execute import home
from builder.runs import Run, RunStore, StoreError
from builder.spec import Experiment, SpecError
from pages.kit import draft as drafts
from pages.kit import go
from pages.kit.run_compare import differences
from pages.kit.run_list import name_of
from pages.kit.words import amount, path_words, plain, value_words

__all__ = ["banner", "begin", "change_words", "origin", "start"]


def begin(run: Run, experiment: Experiment, *, from_best: bool = False) -> None:
    """Opens `experiment` as a draft that will go on from what `run` has saved, on the Training page."""
    draft = go.begin(experiment, words=f"branched from run {run.id}")
    draft.goes_on_from(run.id, best=from_best)
    go.to("training", draft=draft.id)


def origin(draft: drafts.Draft) -> str:
    """The id of the run that this draft goes on from, there or not; "" where it is an experiment of its own."""
    return draft.origin[0] if draft.origin else ""


def begins_best(draft: drafts.Draft) -> bool:
    """Whether the branch that this draft is begins at the end of the best epoch."""
    return bool(draft.origin and draft.origin[1])


@drafts.spared
def forget(draft: drafts.Draft) -> None:
    """From now on the draft is an experiment of its own, which begins at the beginning."""
    draft.goes_on_from("")


def banner(draft: drafts.Draft) -> list[str]:
    """Says what the draft goes on from and what has changed; returns the paths that stand in its way. A run that is
    gone stands in its way, too: that the network begins at the beginning instead is for the person to say."""
    id = origin(draft)
    if not id:
        return []
    try:
        run = RunStore(home()).run(id)
        parent = run.experiment
    except (StoreError, SpecError, OSError):
        return gone(draft, id)
    from_best = begins_best(draft)
    blocked, done = hindrances(parent, draft.experiment), epochs_done(run, from_best)
    short = draft.experiment.training.epochs <= done
    changed = change_words(*(e.model_copy(update={"search": None}) for e in (parent, draft.experiment)))
    with st.container(border=True, key="branching", horizontal=True, vertical_alignment="center"):
        with st.container(width="stretch", gap=None):
            st.markdown(f":material/fork_right: **A branch of {plain(name_of(run))}** (run {run.id})")
            st.caption(
                f"It goes on {f'from the end of epoch {done}, its best' if from_best else 'with the weights'} "
                f"{'so far' if from_best else 'that run has saved'}; the run itself stays as it is. "
                + (f"Changed: {plain('; '.join(changed))}." if changed else "Nothing is changed yet.")
            )
            for path in blocked:
                st.caption(
                    f":red[:material/error: {plain(path_words(path))} cannot be changed in a branch: the weights, or "
                    "the scans they were made from, would be others.]"
                )
            if short:
                state = f"Its best state is that of epoch {done}" if from_best else f"It has learned for {done} epochs"
                st.caption(f":red[:material/error: {state} already: ask for more under Stopping.]")
        anew(draft)
    return [*blocked, *(["training.epochs"] if short else [])]


def gone(draft: drafts.Draft, id: str) -> list[str]:
    """Says that the run which the draft goes on from is not there; returns what stands in its way."""
    with st.container(border=True, key="branching", horizontal=True, vertical_alignment="center"):
        st.markdown(
            f":red[:material/error: This was to go on from run {plain(id)}, which is not there any more or cannot be "
            "read. A deleted run can be brought back at the foot of the Runs page.]",
            width="stretch",
        )
        anew(draft)
    return ["branch"]


def anew(draft: drafts.Draft) -> None:
    """The way from a branch to an experiment of its own."""
    st.button(
        "Begin anew instead",
        key="branch-forget",
        icon=":material/restart_alt:",
        help="The same experiment, trained from the beginning.",
        on_click=forget,
        args=(draft,),
    )


def start(draft: drafts.Draft, experiment: Experiment) -> Run:
    """Makes the run of a draft: a branch where it goes on from another. StoreError in words, also where that one is
    gone: it never begins at the beginning unasked."""
    id, store = origin(draft), RunStore(home())
    return branch(store, store.run(id), experiment, from_best=begins_best(draft)) if id else store.create(experiment)


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
