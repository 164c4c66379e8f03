"""The searches of this data folder: which is looked at, how each stands, and the list to choose from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from builder.search.studies import Study, StudyFollower, StudyView
from pages.kit import address, style
from pages.kit.study_words import number_words
from pages.kit.words import ago, amount, plain

__all__ = ["NEW", "begun", "best_words", "dress", "study_list", "view_of"]

NEW = "new"
"""In the place of a study's id in the URL: the search of the open experiment, which has not begun."""
_CSS = """<style>
.st-key-study-list .stButton>button{justify-content:flex-start;text-align:left;padding:.35rem .6rem;min-height:3.1rem}
.st-key-study-list .stButton>button>div,.st-key-study-list .stButton>button>div>span,
.st-key-study-list [data-testid=stMarkdownContainer]{width:100%}
.st-key-study-list .stButton p{display:grid;grid-template-columns:minmax(0,1fr) max-content;gap:.1rem .5rem;
 align-items:center;white-space:normal}
.st-key-study-list .stButton p strong{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-weight:600}
.st-key-study-list .stButton p em{grid-column:1/-1;font-style:normal;font-size:.82rem;opacity:.72}
[class*=st-key-study-shown-] button{box-shadow:inset 4px 0 0 #4a78ef}
[class*="st-key-relock-"] button [data-testid=stMarkdownContainer]{position:absolute;width:1px;height:1px;
 overflow:hidden;clip-path:inset(50%)}
[class*="st-key-relock-"] button{color:#4a78ef}
.st-key-study-drawn{min-height:24rem}
</style>"""
_KEPT = 64
_followers: dict[Path, tuple[threading.Lock, StudyFollower]] = {}
_adding = threading.Lock()


def dress() -> None:
    """The style sheet of the Search page, once a page."""
    st.html(_CSS)


def view_of(study: Study) -> StudyView:
    """How a search stands; only what was added since anybody looked last is read."""
    with _adding:
        if study.folder not in _followers:
            while len(_followers) >= _KEPT:
                _followers.pop(next(iter(_followers)))
            _followers[study.folder] = threading.Lock(), StudyFollower(study)
        lock, follower = _followers[study.folder]
    with lock:
        return follower.refresh()


def begun(study: Study) -> float:
    """When the search was made, in seconds since 1970."""
    return (study.folder / "experiment.json").stat().st_mtime


def study_list(studies: Sequence[Study], shown: str, offer: bool) -> None:
    """One card a search: a press shows it. `offer`: the first one is a new search of the open experiment."""
    with st.container(key="study-list", gap="xsmall"):
        entries = [(NEW, "**A new search** :material/add: *of the open experiment*")] if offer else []
        for study in studies:
            view = view_of(study)
            facts = [amount(len(view.trials), "trial"), best_words(view), ago(begun(study))]
            words = plain(" · ".join(filter(None, facts)))
            entries.append((study.id, f"**{plain(view.name)}** {style.badge(view.status)} *{words}*"))
        for id, words in entries:
            with st.container(key=f"study-{'shown' if id == shown else 'other'}-{id}"):
                st.button(words, key=f"study-{id}", width="stretch", on_click=show, args=(id,))


def show(id: str) -> None:
    """Shows this search."""
    address.put("study", id)


def best_words(view: StudyView) -> str:
    """What the best trial has reached, "" while there is none."""
    if view.front:
        return amount(len(view.front), "compromise")
    return f"best {number_words(view.best.values[0])}" if view.best else ""
