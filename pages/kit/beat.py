"""The number to beat: what frozen features reach without any training, beside the network that is to be trained."""

from __future__ import annotations

from typing import Any

import streamlit as st

from builder import baseline
from builder.data import Dataset, Summary, UnknownDataset
from builder.execute import home
from builder.runs import StoreError
from builder.task import TASKS, find
from pages.kit import jobs
from pages.kit.figures import interval, metric_words
from pages.kit.pairs import pairs
from pages.kit.words import plain

__all__ = ["SLOT", "card", "on_test_side"]

SLOT = "baseline"
_HELP = (
    "A network that was trained on photographs turns each scan into numbers; a simple rule on them is fitted to the "
    "training scans. No training, seconds to a minute. What you train should be better than this."
)


def card(summary: Summary | None, task: str) -> None:
    """Draws the baseline of a data set on its validation side, or the button that measures it; nothing for a task that
    does not tell classes apart."""
    if summary is None or task not in TASKS or "class" not in find(task).learns or len(summary.fingerprint.classes) < 2:
        return
    with st.container(border=True, key="baseline"):
        st.subheader("The number to beat", anchor=False)
        slot = f"{SLOT}-{summary.id}"
        found = _kept(summary.id)
        if found is None:
            st.caption(_HELP)
        else:
            _figures(found, "val")
            st.caption(
                f"On the validation scans, with {plain(found['chosen'])} on frozen features of EfficientNet-Lite0, "
                "chosen there too. In brackets the 95 % interval over patients."
            )
        _ask("Measure it" if found is None else "Measure again", summary.id, slot, {"dataset": summary.id}, found)


def on_test_side(dataset: str) -> None:
    """Draws the baseline on the test side, beside a run's own figures there, or the button that measures it."""
    found = _kept(dataset)
    slot = f"{SLOT}-test-{dataset}"
    if found is not None and found["test"]:
        st.markdown("**The number to beat**", help=_HELP)
        _figures(found, "test")
        st.caption(f"{plain(found['chosen']).capitalize()} on frozen features, on the same scans.")
        return
    _ask("Compare with frozen features", dataset, slot, {"dataset": dataset, "test": True}, found)


def _figures(found: dict[str, Any], side: str) -> None:
    metrics = found[side]["metrics"]
    named = ("auc", "accuracy", "balanced_accuracy", "f1")
    pairs([(metric_words(name), interval(metrics[name])) for name in named], figures=True)


def _ask(words: str, dataset: str, slot: str, payload: dict[str, Any], found: dict[str, Any] | None) -> None:
    job = jobs.of_slot(slot)
    busy = job is not None and job.view().active
    st.button(
        words,
        key=f"ask-{slot}",
        icon=":material/straighten:",
        type="secondary" if found is None else "tertiary",
        disabled=busy,
        help=_HELP,
        on_click=_submit,
        args=(payload, slot),
    )
    refused = st.session_state.pop(f"{slot}-refused", "")
    if refused:
        st.markdown(f":red[:material/error: {plain(refused)}]")
    jobs.watch(slot, "Measuring frozen features")


def _submit(payload: dict[str, Any], slot: str) -> None:
    try:
        jobs.submit("baseline", payload, slot)
    except StoreError as error:
        st.session_state[f"{slot}-refused"] = str(error)


def _kept(dataset: str) -> dict[str, Any] | None:
    try:
        return baseline.kept(Dataset.open(home(), dataset))
    except UnknownDataset:
        return None
