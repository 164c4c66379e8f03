"""Which settings win? The choices that a search may make, how it goes about it, and the search while it runs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder.execute import home
from builder.search.studies import Study, StudyStore
from pages.kit import address, findings, go, locks, study_bin, study_live, study_space, style
from pages.kit import draft as drafts
from pages.kit.study_list import NEW, apart, dress, study_list


def nothing_open() -> None:
    """No experiment and no search yet: what to do."""
    style.heading("Which settings win?", "A search tries many values of a few choices and tells which serve best.")
    with style.empty(
        "travel_explore",
        "No experiment is open",
        "A search varies an experiment. Begin from a ready one, then unlock what may change: the learning rate, say.",
    ):
        first = findings.starters("")[0]
        st.button(
            f"Begin with {first.name}",
            type="primary",
            key="first-starter",
            icon=":material/auto_awesome:",
            on_click=findings.begin,
            args=(first,),
        )
        if st.button("Home", key="to-home", icon=":material/home:"):
            go.to("home")


def page(studies: Sequence[Study], draft: drafts.Draft | None) -> None:
    """The list of searches, and the one that is looked at."""
    known = {study.id: study for study in studies}
    asked = address.get("study")
    shown = asked if asked in known or (asked == NEW and draft is not None) else (apart(studies)[0] or studies)[0].id
    if asked != shown:
        address.put("study", shown)
    place = st.container()
    left, right = st.columns([1, 3.9], gap="medium")
    with left:
        study_list(studies, shown, draft is not None)
    if shown == NEW:
        assert draft is not None
        with place:
            study_space.heading(draft)
        with right:
            study_space.page(draft)
    else:
        with place:
            study_live.heading(known[shown])
        with right:
            study_live.page(known[shown])


dress()
locks.dress()
study_bin.undo()
studies, opened = StudyStore(home()).studies(), drafts.current()
if studies:
    page(studies, opened)
elif opened is not None:
    study_space.heading(opened)
    study_space.page(opened)
else:
    nothing_open()
study_bin.deleted()
