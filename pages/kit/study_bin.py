"""Searches that were deleted: deleting one, and the ways back."""

from __future__ import annotations

import streamlit as st

from builder import wastebin
from builder.discarding import discard, parts
from builder.execute import home
from builder.runs import RunStore, StoreError
from builder.search.studies import Study
from pages.kit import address
from pages.kit.study_words import experiment_of
from pages.kit.words import ago, amount, plain, size

__all__ = ["confirm_delete", "deleted", "undo"]

_DELETED = "deleted-study"


@st.dialog("Delete this search?", icon=":material/delete:")
def confirm_delete(study: Study) -> None:
    """Asks before a search is deleted."""
    runs = sum(part.startswith("runs/") for part in parts(study))
    going = f" and its {amount(runs, 'training')}" if runs else ""
    st.write(
        f"**{plain(experiment_of(study).name)}**{going}. You can take it back at once, or for two weeks from the list "
        "of deleted searches. The scans stay, and so does every experiment that was opened from a trial."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it"):
            st.rerun()
        if st.button("Delete", type="primary", key="really-delete-study", on_click=_discard, args=(study,)):
            st.rerun()


def _discard(study: Study) -> None:
    try:
        discard(study)
    except (StoreError, OSError) as error:
        st.session_state["study-refused"] = str(error)
        return
    st.session_state[_DELETED] = study.id, experiment_of(study).name


def undo() -> None:
    """The way back, right after a search was deleted."""
    if _DELETED not in st.session_state:
        return
    id, name = st.session_state[_DELETED]
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="deleted-search"):
        st.markdown(f":material/delete: The search **{plain(name)}** is deleted.", width="stretch")
        st.button("Undo", key="undo-delete-study", icon=":material/undo:", on_click=_restore, args=(id,))
        st.button("Put away", key="forget-delete-study", on_click=st.session_state.pop, args=(_DELETED, None))


def _restore(id: str) -> None:
    try:
        wastebin.restore(RunStore(home()), id)
        address.put("study", id)
    except StoreError as error:
        st.session_state["study-refused"] = str(error)
    if st.session_state.get(_DELETED, ("",))[0] == id:
        st.session_state.pop(_DELETED)


def deleted() -> None:
    """Lists the deleted searches, each with its way back; draws nothing where there is none."""
    gone = wastebin.content(home(), "studies")
    if not gone:
        return
    with st.expander(f"Deleted searches {len(gone)}", icon=":material/inventory_2:"):
        st.caption("Deleted searches are kept for two weeks, or until the disk is short.")
        for one in gone:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"{plain(one.name)} :gray[{ago(one.at)}, {size(one.bytes)}]", width="stretch")
                st.button("Bring back", key=f"restore-study-{one.id}", on_click=_restore, args=(one.id,))
                st.button(
                    "Delete for good", key=f"remove-study-{one.id}", on_click=wastebin.remove, args=(home(), one.id)
                )
