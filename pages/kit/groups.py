"""Layers that learn at a pace of their own: the backbone's rate, and groups of layers with theirs."""

from __future__ import annotations

import streamlit as st

from builder.network import beginning_of
from builder.parts.training import GROUP, TRAINING
from builder.shares import ready_made
from builder.spec import Experiment, Group
from pages.kit import draft as drafts
from pages.kit import findings, forms
from pages.kit.words import plain

__all__ = ["groups"]


def groups(draft: drafts.Draft, found: findings.Findings) -> None:
    """The rate of ready-made layers, and each group with its layers and factors."""
    now = draft.experiment
    ready = ready_made(now, _begun(now, found.num_classes))
    forms.section(draft, "training", [TRAINING.param("backbone_rate")], found.problems, num_columns=1)
    st.caption(
        f"It is for {plain(', '.join(ready))}." if ready else "The network has no such layer now: it changes none."
    )
    for group in now.training.groups:
        with st.container(border=True, key=f"group-{group.name}"):
            one(draft, group, found)
    last = _last_taught(found)
    taken = {id for group in now.training.groups for id in group.nodes}
    with st.container(horizontal=True):
        if last and last not in taken:
            words = f"Head ({last}) ten times as fast"
            st.button(words, key="group-head", icon=":material/bolt:", on_click=add, args=(draft, (last,), 10.0))
        st.button("A group of layers", key="group-new", icon=":material/add:", on_click=add, args=(draft, (), 1.0))


def _begun(now: Experiment, num_classes: int) -> tuple[str, ...]:
    """Layers that begin with the stored weights of the document; what is wrong with those is told where they are."""
    try:
        return beginning_of(now, num_classes).begun if now.weights else ()
    except ValueError:
        return ()


def one(draft: drafts.Draft, group: Group, found: findings.Findings) -> None:
    """One group."""
    path, ids = f"training.groups.{group.name}", [node.id for node in draft.experiment.network]
    options = [*ids, *(id for id in group.nodes if id not in ids)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = f"{path}.nodes"
        if tuple(st.session_state.get(key, ())) != group.nodes:
            st.session_state[key] = list(group.nodes)
        st.multiselect(
            "Layers", options, key=key, on_change=choose, args=(draft, group.name), placeholder="Choose layers"
        )
        st.button(
            "Remove",
            key=f"group-remove-{group.name}",
            icon=":material/delete:",
            on_click=drop,
            args=(draft, group.name),
        )
    forms.marks(draft, forms.problems_at(found.problems, f"{path}.nodes"))
    forms.section(draft, path, GROUP.params, found.problems, num_columns=3)


def _last_taught(found: findings.Findings) -> str:
    """The last layer that learns something."""
    return next((planned.id for planned in reversed(found.plan.nodes) if planned.parameters), "")


@drafts.spared
def add(draft: drafts.Draft, nodes: tuple[str, ...], rate: float) -> None:
    """A new group under a free name."""

    def change(now: Experiment) -> Experiment:
        names = {group.name for group in now.training.groups}
        name = next(
            n for n in ("head", *(f"group_{k}" for k in range(1, 200))) if n not in names and (nodes or n != "head")
        )
        return now.replace("training.groups", (*now.training.groups, Group(name=name, nodes=nodes, lr_factor=rate)))

    draft.apply(change, "a group of layers")


@drafts.spared
def choose(draft: drafts.Draft, name: str) -> None:
    """Writes the layers of a group."""
    draft.replace(f"training.groups.{name}.nodes", tuple(st.session_state[f"training.groups.{name}.nodes"]))


@drafts.spared
def drop(draft: drafts.Draft, name: str) -> None:
    """Takes a group away."""

    def change(now: Experiment) -> Experiment:
        return now.replace("training.groups", tuple(g for g in now.training.groups if g.name != name))

    draft.apply(change, "group of layers removed")
