"""Dropout on every layer at once, and stochastic depth: sliders that edit the network."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from builder.dropping import deepest, dropped, drops_paths, everywhere, over_depth
from builder.spec import Experiment
from pages.kit import draft as drafts
from pages.kit import findings
from pages.kit.words import amount, plain

__all__ = ["sliders"]

_DROP, _DEPTH = "drop-everywhere", "drop-depth"


def sliders(draft: drafts.Draft, found: findings.Findings) -> None:
    """Both sliders, each with what it does to this network."""
    now = draft.experiment
    left, right = st.columns(2, gap="medium")
    with left:
        _slider(draft, "Dropout everywhere", _DROP, dropped(now), 0.9, lambda e, v: everywhere(e, v, found.plan))
        there = [n.id for n in now.network if "dropout" in n.name]
        st.caption(
            f"Written into the network: {plain(', '.join(there))}."
            if there
            else "The network has no dropout layer. "
            "This one slider puts one behind every activation and sets the blocks' own; undo takes it back."
        )
    with right:
        ids = drops_paths(now)
        if ids:
            _slider(draft, "Stochastic depth", _DEPTH, deepest(now), 0.8, over_depth)
            st.caption(
                f"How often the deepest of {amount(len(ids), 'block')} with a shortcut is left out for a scan; "
                "the first never is (Huang 2016). In a known model it grows from its first branch to its last."
            )
        else:
            st.caption("Stochastic depth leaves out blocks with a shortcut; this network has none.")


def _slider(
    draft: drafts.Draft,
    title: str,
    key: str,
    value: float,
    most: float,
    change: Callable[[Experiment, float], Experiment],
) -> None:
    value = min(most, round(value, 2))
    if st.session_state.get(key) != value:
        st.session_state[key] = value
    st.slider(title, 0.0, most, value, step=0.05, key=key, on_change=_write, args=(draft, title, key, change))


@drafts.spared
def _write(draft: drafts.Draft, title: str, key: str, change: Callable[[Experiment, float], Experiment]) -> None:
    share = st.session_state[key]
    draft.apply(lambda now: change(now, share), f"{title.lower()} {share:.0%}")
