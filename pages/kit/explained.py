"""Where it looks: can that be believed? The tests that a heat map must pass, and how much of it lies on lesions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import calibrate, sanity
from builder.runs import Run, StoreError
from builder.saliency import METHODS, refused
from builder.spec import SpecError
from pages.kit import figures, jobs, style
from pages.kit.words import amount, plain

__all__ = ["card", "verdict"]


def card(run: Run) -> None:
    """The card: a button that tests, or what was found; words where there is nothing to test."""
    with style.card("Where it looks: can that be believed?", key="explained"):
        if words := _not_offered(run):
            st.caption(plain(words))
            return
        st.caption(
            "A heat map is shown in colour only where it changes once the weights are taken away and stays where the "
            "scan moves by a few pixels. A map that passes may still be wrong; one that fails is greyed."
        )
        found, slot = sanity.kept(run, calibrate.weights_of(run)), f"explained-{run.id}"
        if found is not None:
            _table(found)
        job = jobs.of_slot(slot)
        st.button(
            "Test its heat maps" if found is None else "Test again",
            key="ask-explained",
            icon=":material/troubleshoot:",
            type="secondary" if found is None else "tertiary",
            disabled=job is not None and job.view().active,
            on_click=_submit,
            args=(run, slot),
        )
        if refused_now := st.session_state.pop("explained-refused", ""):
            st.error(plain(refused_now), icon=":material/error:")
        jobs.watch(slot, "Testing its heat maps")


def verdict(run: Run, method: str) -> str | None:
    """Why the maps of a method are not to be believed; "" where they passed the tests, None where nobody tested."""
    return sanity.doubt(sanity.kept(run, calibrate.weights_of(run)), method)


def _not_offered(run: Run) -> str:
    try:
        experiment = run.experiment
    except (SpecError, OSError):
        return "The document of this run cannot be read."
    classes = (calibrate.kept(run) or {}).get("classes")
    return refused(experiment, len(classes) if classes else 2)


def _table(found: Mapping[str, Any]) -> None:
    rows = []
    for name, row in found["methods"].items():
        st.markdown(
            f":{'green' if row['ok'] else 'orange'}[:material/{'check_circle' if row['ok'] else 'block'}:] "
            f"**{METHODS[name].title}**: {plain(row['reason']) if row['reason'] else 'passed'}"
        )
        told = {
            "Map": METHODS[name].title,
            "Without its last layer": row["randomised"]["last"],
            "Without its upper half": row["randomised"]["upper"],
            "Without any weights": row["randomised"]["all"],
            "Scan moved a little": row["shifted"],
        }
        if row["lesions"]:
            told["Hottest place on a lesion"] = figures.interval(row["lesions"]["hit"])
            told["Heat on lesions"] = figures.interval(row["lesions"]["inside"])
        rows.append(told)
    number = st.column_config.NumberColumn(format="%.2f")
    columns = ("Without its last layer", "Without its upper half", "Without any weights", "Scan moved a little")
    st.dataframe(rows, hide_index=True, key="explained-table", column_config=dict.fromkeys(columns, number))
    words = (
        f"How like each other maps are (rank correlation, mean of {amount(found['n'], 'validation scan')}): without "
        f"weights it should be under {sanity.ALIKE:g}, after a move of {100 * sanity.SHIFT:g} % of the side over it."
    )
    lesions = next((row["lesions"] for row in found["methods"].values() if row["lesions"]), None)
    if lesions:
        words += (
            f" On {amount(lesions['n'], 'validation scan')} with a drawn lesion: it covers "
            f"{100 * lesions['area']:.0f} % of the scan on average: so much a map that knows nothing would lay on it."
        )
    else:
        words += " Too few lesions are drawn on the validation scans to say how much of the maps lies on them."
    st.caption(words)


def _submit(run: Run, slot: str) -> None:
    try:
        jobs.submit("explained", {"run": run.id}, slot)
    except StoreError as error:
        st.session_state["explained-refused"] = str(error)
