"""Have its errors something in common? Kinds of scans on which a run errs, with the scans themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import error_groups
from builder.data import Dataset
from builder.execute import home
from builder.runs import Run, StoreError
from pages.kit import datasets, go, jobs, scans, style
from pages.kit.figures import interval
from pages.kit.pairs import band
from pages.kit.words import plain

__all__ = ["card"]

_SIDES = {"val": "validation", "test": "test"}


def card(run: Run, dataset: Dataset) -> None:
    """The card: a button that asks, or what was found."""
    found = error_groups.kept_of(run)
    with style.card("Have its errors something in common?", key="common-errors"):
        st.caption(
            "Scans that look alike are put together, without asking the network, and groups are told that hold more of "
            "its errors than their classes and chance explain. The worst of many groups was picked: on new scans its "
            "rate will mostly be lower."
        )
        if found is not None:
            if found.get("edited") != dataset.edited:
                st.caption(
                    ":orange[:material/warning: Labels, or facts about the scans, were changed since: ask again.]"
                )
            sides = " and ".join(_SIDES[side] for side in found["sides"])
            for words in found.get("looked", ()):
                st.caption(f"{plain(words)} These are {sides} scans.")
            if not found["groups"]:
                st.markdown(f":gray[:material/info: {plain(found['words'][0])}]")
            for number, group in enumerate(found["groups"], 1):
                _group(run, dataset, number, found["words"][number - 1], group)
        slot = f"error-groups-{run.id}"
        job = jobs.of_slot(slot)
        st.button(
            "Look for groups" if found is None else "Look again",
            key="ask-common-errors",
            icon=":material/bubble_chart:",
            type="secondary" if found is None else "tertiary",
            disabled=job is not None and job.view().active,
            on_click=_submit,
            args=(run, slot),
        )
        if refused := st.session_state.pop("common-errors-refused", ""):
            st.error(plain(refused), icon=":material/error:")
        jobs.watch(slot, "Comparing scans")


def _submit(run: Run, slot: str) -> None:
    try:
        jobs.submit("error-groups", {"run": run.id}, slot)
    except StoreError as error:
        st.session_state["common-errors-refused"] = str(error)


def _group(run: Run, dataset: Dataset, number: int, words: str, group: Mapping[str, Any]) -> None:
    """One group: its sentence, its figures, what its scans share, and the wrong ones, the surest first."""
    st.markdown(f":orange[:material/warning: {plain(words)}]")
    if group["about"] == "low":
        band(
            [
                ("Among the worst answered", f"{group['wrong']} of {group['n']}"),
                ("Share (95 % interval)", interval(group["rate"])),
            ]
        )
    else:
        band(
            [
                ("Wrong", f"{group['wrong']} of {group['n']}"),
                ("Of these with 90 % confidence", str(group["sure"])),
                ("Error rate (95 % interval)", interval(group["rate"])),
            ]
        )
    if group["shared"]:
        st.caption(f"In common: {plain('; '.join(group['shared']))}.")
    by_id = {case.id: index for index, case in enumerate(dataset.cases)}
    rows = [row for row in group["cases"] if row["case"] in by_id][:6]
    keys = [f"common-{number}-{place}" for place in range(len(rows))]
    pictures = [datasets.thumbnail(str(home()), dataset.id, by_id[row["case"]]) for row in rows]
    captions = [
        f"Mark {row['mark']:.2f}"
        if "mark" in row
        else f"{row['given']}: it said {row['says']} ({100 * row['chance']:.0f} %)"
        for row in rows
    ]
    if rows and (pressed := scans.gallery(pictures, captions, keys, num_columns=6)):
        go.to("test", run=run.id, case=str(by_id[rows[keys.index(pressed)]["case"]]), ask="1")
