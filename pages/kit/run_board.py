"""TensorBoard for the runs that are looked at: started on this machine, linked, and ended."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder import tensorboards
from builder.execute import home
from builder.runs import Run, StoreError
from pages.kit.gate import is_loopback
from pages.kit.run_list import labels_of
from pages.kit.words import plain

__all__ = ["boards"]


def boards(runs: Sequence[Run]) -> None:
    """Says what TensorBoard shows and opens it; where pages are served to other machines it says how to reach it."""
    with st.expander("TensorBoard", icon=":material/monitoring:"):
        st.caption(
            "The same run in TensorBoard: curves, the film, the computational graph, how weights and gradients are "
            "spread, precision-recall curves, and all settings beside the scores."
        )
        if not _here():
            folder = home() / "runs" / runs[0].id / "tb"
            st.caption("These pages come from another machine, and TensorBoard has no login. Start it there:")
            st.code(f"python -m tensorboard.main --host 127.0.0.1 --port 6006 --load_fast=false --logdir {folder}")
            st.caption("Then on your own machine, with its name for THAT-MACHINE, and open http://127.0.0.1:6006")
            st.code("ssh -N -L 6006:127.0.0.1:6006 THAT-MACHINE")
            return
        _panel(runs)


@st.fragment
def _panel(runs: Sequence[Run]) -> None:
    found = tensorboards.address(home())
    with st.container(horizontal=True, vertical_alignment="center"):
        named = dict(zip((run.id for run in runs), labels_of(runs), strict=True))
        words = "Show these runs too" if found else "Start TensorBoard"
        if st.button(words, key="board-start", icon=":material/add:" if found else ":material/play_arrow:"):
            try:
                with st.spinner("TensorBoard is starting ..."):
                    found = tensorboards.start(home(), named)
            except StoreError as error:
                st.error(plain(str(error)), icon=":material/error:")
        if found:
            st.link_button("Open TensorBoard", found, icon=":material/open_in_new:", type="primary")
            if st.button("Stop it", key="board-stop", icon=":material/stop:"):
                tensorboards.stop(home())
                st.rerun(scope="fragment")
    if found:
        st.caption(
            "It runs on this machine only, and ends with ScanLoom, or when nobody has looked at it for half an hour."
        )


def _here() -> bool:
    """Whether the browser runs on the machine that serves the pages."""
    asked = st.context.headers.get("host") or ""
    return is_loopback(asked.rsplit(":", 1)[0]) and is_loopback(st.get_option("server.address") or "127.0.0.1")
