"""A run that other programs ask: the service is started on this machine, its address shown, and ended."""

from __future__ import annotations

import streamlit as st

from builder import dicomweb
from builder.execute import home
from builder.runs import Run, StoreError
from builder.service import process
from pages.kit.gate import is_loopback
from pages.kit.words import plain

__all__ = ["card"]


def card(run: Run) -> None:
    """Says what a service is, starts and ends it, and shows how it is asked; on a server for others, how to start it
    there."""
    with st.expander("Answer other programs", icon=":material/lan:", key="serving"):
        st.caption(
            "The run as a small service: another program sends a scan and gets the answer as JSON, the same that this "
            "page gives, with the same warning where a scan is unlike the training scans. Scans are deleted once they "
            "are answered."
        )
        if not _here():
            st.caption(
                "These pages come from another machine. Start the service there; other machines reach it only with a "
                "token:"
            )
            st.code(f"SCANLOOM_SERVICE_TOKEN=... python -m builder serve {run.id} --address 0.0.0.0", language="bash")
            return
        _panel(run)


@st.fragment
def _panel(run: Run) -> None:
    found = process.address(home(), run.id)
    with st.container(horizontal=True, vertical_alignment="center"):
        if not found and st.button("Start the service", key="service-start", icon=":material/play_arrow:"):
            try:
                with st.spinner("The service is starting ..."):
                    found = process.start(home(), run.id)
            except StoreError as error:
                st.error(plain(str(error)), icon=":material/error:")
            else:
                st.rerun(scope="fragment")
        if found:
            st.markdown(f":green[:material/check_circle:] It answers at **{found}**")
            st.link_button("Open its page", found, icon=":material/open_in_new:", type="primary")
            if st.button("Stop it", key="service-stop", icon=":material/stop:"):
                with st.spinner("The service is ending ..."):
                    process.stop(home(), run.id)
                st.rerun(scope="fragment")
    if found:
        st.code(f'curl --data-binary @scan.dcm "{found}/predict?name=scan.dcm"', language="bash")
        st.caption(
            "It answers on this machine only, and ends with ScanLoom. One that goes on, or answers other machines "
            f"behind a token, is started by hand: python -m builder serve {run.id}"
        )
        _archives()


def _archives() -> None:
    """Which archives the service may ask."""
    try:
        known = dicomweb.archives(home())
    except dicomweb.ArchiveError as error:
        st.caption(f":orange[:material/warning: {plain(str(error))}]")
        return
    if known:
        told = ", ".join(f"{plain(a.title)} ({a.name}{', takes results' if a.store else ''})" for a in known)
        st.caption(f":material/database: Archives it may ask for series: {told}.")


def _here() -> bool:
    """Whether the browser runs on the machine that serves the pages."""
    asked = st.context.headers.get("host") or ""
    return is_loopback(asked.rsplit(":", 1)[0]) and is_loopback(st.get_option("server.address") or "127.0.0.1")
