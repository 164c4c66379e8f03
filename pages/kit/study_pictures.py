"""The pictures of a search: one at a time, made anew only when a trial has ended."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import streamlit as st

from builder.search.studies import Study, StudyView
from pages.kit import study_curves, study_figures, study_strands
from pages.kit.study_list import view_of
from pages.kit.study_words import experiment_of, names_of, titles_of
from pages.kit.words import amount, plain

__all__ = ["MANY", "Picture"]

_COMPROMISES = "Compromises"
_LEARNING = "Learning curves"
_VIEWS = ("Best so far", "All choices", "What matters", "Each choice", "In pairs", _LEARNING)
MANY = 200
"""From so many trials on a browser takes long to draw them: the picture, and the page without it, take turns."""
_REST_S, _LONG_REST_S = 2.5, 5.0  # between two looks of the picture, with few trials and with many
_APART_S = 2.0
_KEY = "study-picture-of"
_KEPT = 24
_made: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()


class Picture:
    """The picture of a search in one session. It looks by itself while the search goes on, at its own times.

    Where there are many trials it stays as it is while the rest of the page is drawn, and is brought up to date by its
    next look: so that no look takes a browser as long as both.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._view: StudyView | None = None
        self._changed_at = 0.0

    @classmethod
    def of(cls, study: Study) -> Picture:
        """The one of this session; another search gets another one."""
        found: Picture | None = st.session_state.get(_KEY)
        if found is None or found.study.folder != study.folder:
            found = st.session_state[_KEY] = cls(study)
        return found

    def rests(self) -> bool:
        """Whether the browser has had the time to draw what changed last."""
        return time.monotonic() - self._changed_at >= _APART_S

    def show(self, view: StudyView) -> None:
        """Draws it in its place on the page."""
        rest_s = _REST_S if len(view.trials) < MANY else _LONG_REST_S
        st.fragment(run_every=rest_s if view.active else None, key="live-picture")(self._look)(time.monotonic())

    def _look(self, page_at: float) -> None:
        newest = view_of(self.study)
        if self._view is None or not newest.active or len(newest.trials) < MANY:
            self._view = newest
        elif time.monotonic() - page_at >= _APART_S and _drawn(newest) != _drawn(self._view):
            self._view, self._changed_at = newest, time.monotonic()
        _pictures(self.study, self._view)


def _drawn(view: StudyView) -> tuple[int, int, int]:
    return len(view.trials), sum(trial.ended for trial in view.trials), view.epochs_run


def _pictures(study: Study, view: StudyView) -> None:
    """One picture at a time: what is not looked at is not made."""
    several = len(view.objectives) > 1
    offers = [*([_COMPROMISES] if several else []), *_VIEWS]
    with st.container(key="study-picture", border=True):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            shown = st.segmented_control(
                "Picture",
                offers,
                default=offers[0],
                required=True,
                key="study-view",
                label_visibility="collapsed",
                width="content",
                wrap=True,
            )
            at, names = 0, names_of(view)
            if several and shown in ("Best so far", "All choices", "Each choice", "In pairs"):
                at = st.selectbox(
                    "Of",
                    range(len(names)),
                    key="study-objective",
                    format_func=names.__getitem__,
                    label_visibility="collapsed",
                    width=200,
                )
        with st.container(key="study-drawn", gap="xsmall"):
            draw(study, view, shown if shown in offers else offers[0], at)


def draw(study: Study, view: StudyView, shown: str, at: int) -> None:
    """The picture of this name, of the objective number `at`."""
    if shown == _LEARNING:
        learning(study, view)
        return
    done = sum(trial.status == "done" for trial in view.trials)
    if not done:
        st.caption("The pictures begin with the first trial that is over.")
        return
    search = experiment_of(study).search
    unlocked = search.dimensions if search else ()
    titles, name, rising = titles_of(study), names_of(view)[at], view.rising[at]
    if shown == "Best so far":
        figure(
            view,
            (shown, at),
            lambda: study_figures.progress(view.trials, name, rising, titles, at),
            f"{name} of {amount(done, 'trial')}, and the best so far",
        )
        st.caption(
            "A dot is a trial, a grey one ended early; the line is the best up to then. Point at a dot to read it."
        )
    elif shown == "All choices":
        import scanloom_components  # only where it is drawn: it registers itself with a running Streamlit

        axes, lines = made(
            view, (shown, at), lambda: study_strands.strands(view.trials, unlocked, name, rising, titles, at)
        )
        scanloom_components.strands(
            axes,
            lines,
            key=f"study-strands-{study.id}-{at}",
            scale=study_figures.scale(),
            faint=study_figures.faint(),
            summary=f"{amount(done, 'trial')} as lines through their choices to what they reached",
        )
        st.caption(
            "A line is a trial: its choices from left to right, and on the last axis what it reached; the warmest is "
            "best. Point at a line to read it. Draw along an axis with the mouse to keep the trials that pass there; "
            "press on the axis to let go."
        )
    elif shown == "What matters":
        matters(study, view)
    elif shown == "Each choice":
        figure(
            view,
            (shown, at),
            lambda: study_figures.slices(view.trials, unlocked, name, titles, at),
            f"{name} along each choice",
        )
        st.caption(
            "A dot is a trial; the later it ran, the stronger its colour. Of many that lie on one another the last is "
            "drawn."
        )
    elif shown == "In pairs":
        both(study, view, at)
    else:
        compromises(study, view)


def matters(study: Study, view: StudyView) -> None:
    """How much each choice matters, as the search has weighed it."""
    if not view.importance:
        st.caption("What matters is weighed once enough trials are over to tell chance from effect.")
        return
    titles = titles_of(study)
    figure(
        view,
        ("What matters", tuple(view.importance.items())),
        lambda: study_figures.importance(view.importance, titles),
        "How much each choice matters",
    )
    st.caption(
        f"The share of each choice in how {plain(names_of(view)[0])} differs between the trials, within the ranges "
        "that were tried. With fewer than 50 trials take it as a hint."
    )


def both(study: Study, view: StudyView, at: int) -> None:
    """A map over two choices."""
    search = experiment_of(study).search
    unlocked = {d.path: d for d in search.dimensions} if search else {}
    titles, paths = titles_of(study), list(unlocked)
    if len(paths) < 2:
        st.caption("This needs two unlocked choices.")
        return
    with st.container(horizontal=True):
        across = st.selectbox("Across", paths, index=0, key="study-across", format_func=titles.__getitem__)
        rest = [path for path in paths if path != across]
        upwards = st.selectbox("Upwards", rest, index=0, key="study-upwards", format_func=titles.__getitem__)
    name, rising = names_of(view)[at], view.rising[at]
    figure(
        view,
        ("In pairs", at, across, upwards),
        lambda: study_figures.contour(view.trials, unlocked[across], unlocked[upwards], name, rising, titles, at),
        f"{name} over {titles[across]} and {titles[upwards]}",
    )
    st.caption("Each mark is a trial; between them a smoothed mean, blank where no trial lies near.")


def compromises(study: Study, view: StudyView) -> None:
    """The Pareto front over two of the objectives."""
    names, titles = names_of(view), titles_of(study)
    across, upwards = 0, 1
    if len(names) > 2:
        places = list(range(len(names)))
        with st.container(horizontal=True):
            across = st.selectbox("Across", places, index=0, key="front-across", format_func=names.__getitem__)
            rest = [place for place in places if place != across]
            upwards = st.selectbox("Upwards", rest, index=0, key="front-upwards", format_func=names.__getitem__)
    figure(
        view,
        (_COMPROMISES, across, upwards),
        lambda: study_figures.pareto(view.trials, view.front, names, titles, across, upwards),
        f"{names[across]} against {names[upwards]}",
    )
    st.caption(
        "No other trial beats the marked ones in everything at once; which of them is right is for you to weigh."
    )


def made(view: StudyView, what: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
    """What `make` gives, from the last time where no trial has ended since."""
    state = sum(trial.ended for trial in view.trials), len(view.trials)
    key = (view.id, *state, st.context.theme.type, *what)
    with _lock:
        drawn = _made.get(key)
    if drawn is None:
        drawn = make()
        with _lock:
            _made[key] = drawn
            while len(_made) > _KEPT:
                _made.popitem(last=False)
    return drawn


def figure(view: StudyView, what: tuple[Hashable, ...], make: Callable[[], Any], words: str) -> None:
    """A figure of Plotly in its place."""
    drawn = made(view, what, make)
    st.plotly_chart(drawn, key="study-figure", config={"displaylogo": False, "displayModeBar": False}, alt=words)


def learning(study: Study, view: StudyView) -> None:
    """Every trial's learning curve, the best in front, those that were ended early in grey."""
    import scanloom_components  # only where it is drawn: it registers itself with a running Streamlit

    colours = [*study_figures.grades(), study_figures.running()]
    lines = study_curves.lines(view, colours, study_figures.faint())
    if not lines:
        st.caption("The curves begin with the first epoch of the first trial.")
        return
    scanloom_components.curves(
        [scanloom_components.Series(**vars(line)) for line in lines],
        key="study-curves",
        height=380,
        x_title="Epoch",
        y_title=names_of(view)[0],
        view=study.id,
        summary=f"Learning curves of {amount(len(view.trials), 'trial')}",
    )
