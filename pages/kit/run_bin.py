"""Runs out of sight: put away, or deleted and still to be had back."""

from __future__ import annotations

import streamlit as st

from builder import wastebin
from builder.execute import home
from builder.runs import RunStore, StoreError
from pages.kit import address
from pages.kit.run_list import name_of
from pages.kit.words import ago, plain, size

__all__ = ["discard", "out_of_sight", "undo"]

_DELETED = "deleted-run"


def discard(id: str) -> None:
    """Deletes a run; it can come back. One that is still at work is refused in words."""
    store = RunStore(home())
    try:
        name = name_of(store.run(id))
        wastebin.discard(store, id)
    except (StoreError, OSError) as error:
        st.session_state["runs-refused"] = str(error)
        return
    st.session_state[_DELETED] = (id, name)
    _no_more_shown(id)


def _no_more_shown(id: str) -> None:
    """Takes a run out of the address, so that nobody is told that a run which he has just put away is not there."""
    left = [other for other in address.get("run").split(",") if other not in ("", id)]
    if left:
        address.put("run", ",".join(left))
    else:
        address.drop("run")


def undo() -> None:
    """The way back, right after a run was deleted."""
    if _DELETED not in st.session_state:
        return
    id, name = st.session_state[_DELETED]
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="deleted"):
        st.markdown(f":material/delete: **{plain(name)}** is deleted.", width="stretch")
        st.button("Undo", key="undo-delete", icon=":material/undo:", on_click=restore, args=(id,))
        st.button("Put away", key="forget-delete", on_click=st.session_state.pop, args=(_DELETED, None))


def restore(id: str) -> None:
    """Brings a deleted run back and shows it."""
    try:
        wastebin.restore(RunStore(home()), id)
        address.put("run", id)
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)
    if st.session_state.get(_DELETED, ("",))[0] == id:
        st.session_state.pop(_DELETED)


def put_away(id: str, away: bool = True) -> None:
    """Archives a run, or takes it back among the others."""
    try:
        RunStore(home()).archive(id, away)
        if away:
            _no_more_shown(id)
        else:
            address.put("run", id)
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)


def out_of_sight() -> None:
    """Lists what is archived and what was deleted, each with its way back; draws nothing where there is none."""
    store = RunStore(home())
    archived = [run for run in store.runs(archived=True) if run.archived]
    deleted = wastebin.content(store.home, "runs")
    if not archived and not deleted:
        return
    with st.expander(f"Archived {len(archived)} · deleted {len(deleted)}", icon=":material/inventory_2:"):
        for run in archived:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(plain(name_of(run)), width="stretch")
                st.button("Take back", key=f"unarchive-{run.id}", on_click=put_away, args=(run.id, False))
        if deleted:
            st.caption("Deleted runs are kept for two weeks, or until the disk is short.")
        for gone in deleted:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"{plain(gone.name)} :gray[{ago(gone.at)}, {size(gone.bytes)}]", width="stretch")
                st.button("Bring back", key=f"restore-{gone.id}", on_click=restore, args=(gone.id,))
                st.button(
                    "Delete for good", key=f"remove-{gone.id}", on_click=wastebin.remove, args=(store.home, gone.id)
                )
