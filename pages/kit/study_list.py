"""The searches of this data folder: which is looked at, how each stands, and the list to choose from."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from builder import nested
from builder.execute import home
from builder.search.studies import Study, StudyFollower, StudyView
from pages.kit import address, style
from pages.kit.study_words import number_words
from pages.kit.words import ago, amount, plain

__all__ = ["NEW", "apart", "begun", "best_words", "dress", "study_list", "view_of"]

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


def apart(studies: Sequence[Study]) -> tuple[list[Study], dict[str, list[Study]]]:
    """(searches of their own; {what they are about: the searches inside folds}).

    A search inside a fold is part of an estimate. It is listed below the search that the estimate is about; where that
    is gone, or never was (from the command line), below the estimate's own id.
    """
    known = {study.id: study for study in studies}
    inside: dict[str, list[Study]] = {}
    for one in nested.known(home()):
        plan = one.plan
        about = str(plan.get("of") or "")
        folds = [known[id] for id in plan["studies"] if id in known]
        inside.setdefault(about if about in known else one.id, []).extend(folds)
    parts = {fold.id for folds in inside.values() for fold in folds}
    return [study for study in studies if study.id not in parts], {about: f for about, f in inside.items() if f}


def study_list(studies: Sequence[Study], shown: str, offer: bool) -> None:
    """One card a search: a press shows it; those inside its folds below it. `offer`: the first one is a new search of
    the open experiment."""
    own, inside = apart(studies)
    with st.container(key="study-list", gap="xsmall"):
        if offer:
            _entry(NEW, "**A new search** :material/add: *of the open experiment*", shown)
        for study in own:
            _card(study, shown)
            folds = inside.pop(study.id, [])
            if shown in (study.id, *(fold.id for fold in folds)):
                _folds(folds, study.id, shown, "Inside")
        for about, folds in inside.items():
            named = view_of(folds[0]).name.partition(" · ")[2]
            _folds(folds, about, shown, f"{plain(named)}, inside")


def _folds(folds: Sequence[Study], about: str, shown: str, words: str) -> None:
    if not folds:
        return
    open_at_first = any(fold.id == shown for fold in folds)
    with st.expander(f"{words} {amount(len(folds), 'fold')}", expanded=open_at_first, key=f"folds-of-{about}"):
        for fold in folds:
            _card(fold, shown)


def _card(study: Study, shown: str) -> None:
    view = view_of(study)
    facts = [amount(len(view.trials), "trial"), best_words(view), ago(begun(study))]
    words = plain(" · ".join(filter(None, facts)))
    _entry(study.id, f"**{plain(view.name)}** {style.badge(view.status)} *{words}*", shown)


def _entry(id: str, words: str, shown: str) -> None:
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
