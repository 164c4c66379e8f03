"""What people write about a run: tags beside its name, notes with who and when."""

from __future__ import annotations

import time

import streamlit as st

from builder import notes
from builder.runs import Run, StoreError
from pages.kit.words import amount, plain

__all__ = ["remarks"]

_WHO = "note-who"


def remarks(run: Run) -> None:
    """Tags and notes of the run, and the fields to add some."""
    held = notes.read(run)
    words = [amount(len(held.tags), "tag") if held.tags else "", amount(len(held.notes), "note") if held.notes else ""]
    told = " and ".join(filter(None, words)) or "none yet"
    with st.expander(f"Notes and tags · {told}", icon=":material/edit_note:"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            for number, tag in enumerate(held.tags):
                st.button(
                    plain(tag),
                    key=f"untag-{run.id}-{number}",
                    icon=":material/close:",
                    help="Take this tag off",
                    on_click=write,
                    args=(run, "untag", tag),
                )
            st.text_input(
                "A tag", key=f"tag-{run.id}", placeholder="for the paper", max_chars=notes.MOST_TAG, width=190,
                on_change=take, args=(run, "tag", f"tag-{run.id}"),
            )  # fmt: skip
        for note in held.notes:
            when = time.strftime("%d %b %Y, %H:%M", time.localtime(note.at))
            st.markdown(f"{plain(note.text)}  \n:gray[:small[{plain(note.who or 'somebody')}, {when}]]")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.text_input("A note", key=f"note-{run.id}", max_chars=notes.MOST_NOTE, width="stretch")
            st.text_input("Your name", key=_WHO, max_chars=100, width=160)
            st.button(
                "Keep", key=f"keep-note-{run.id}", icon=":material/save:", on_click=take,
                args=(run, "note", f"note-{run.id}"),
            )  # fmt: skip


def take(run: Run, kind: str, key: str) -> None:
    """Keeps what was typed and empties the field; what cannot be kept stays in it."""
    text = str(st.session_state.get(key) or "").strip()
    if text and _kept(run, kind, text):
        st.session_state[key] = ""


def write(run: Run, kind: str, text: str) -> None:
    """Writes; what cannot be kept is told on the next draw."""
    _kept(run, kind, text)


def _kept(run: Run, kind: str, text: str) -> bool:
    """Writes, and says whether it could."""
    try:
        notes.write(run, kind, text, str(st.session_state.get(_WHO) or ""))
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)
        return False
    return True
