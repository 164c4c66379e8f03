"""A scan out of an archive of the administrator's list, and the results sent back there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from builder import dicomweb
from builder.dicomweb import Archive, ArchiveError
from builder.execute import home
from builder.runs import StoreError
from pages.kit import answers, jobs
from pages.kit.answers import Answer
from pages.kit.words import amount, plain

__all__ = ["SLOT", "box", "files", "forget", "send_back"]

SLOT = "fetched"  # of the job that fetches
_SERIES = "archive-series"  # what the last search found; in this session alone
_USED = "archive-used"  # the job whose scan was asked about
_RESULTS = {"sr": "a report (SR)", "seg": "an outline (SEG)"}


def box(on_scan: Callable[[list[Path]], None]) -> None:
    """Draws the search of the listed archives; nothing where none is listed. `on_scan` hears the files of a series that
    has just come, once."""
    try:
        known = dicomweb.archives(home())
    except ArchiveError as error:
        st.caption(f":orange[:material/warning: {plain(str(error))}]")
        return
    if not known:
        return
    with st.expander("From an archive", icon=":material/dns:", key="from-archive"):
        where = _which(known)
        _search(where)
        _found(where)
        jobs.watch(SLOT, "Fetching the scan", forget)
    job = jobs.of_slot(SLOT)
    came = files()
    if job is not None and came and st.session_state.get(_USED) != job.id:
        st.session_state[_USED] = job.id
        on_scan(came)


def files() -> list[Path]:
    """The files of the series that was fetched last; [] where there is none, or it is gone."""
    job, result = jobs.of_slot(SLOT), jobs.result(SLOT)
    if job is None or result is None:
        return []
    found = [job.folder / "scan" / str(name) for name in result["files"]]
    return found if all(path.is_file() for path in found) else []


def forget() -> None:
    """Puts the fetched scan away."""
    jobs.forget(SLOT)


def _which(known: Sequence[Archive]) -> Archive:
    if len(known) == 1:
        st.caption(f"{plain(known[0].title)}. No name of a patient is shown or kept here.")
        return known[0]
    names = {entry.name: entry for entry in known}
    chosen = st.selectbox("Archive", list(names), format_func=lambda name: names[name].title, key="archive-name")
    return names[str(chosen)]


def _search(where: Archive) -> None:
    with st.form("archive-search", border=False):
        left, middle, right = st.columns(3, gap="small")
        patient = left.text_input("Patient's number there", key="archive-patient")
        accession = middle.text_input("Accession number", key="archive-accession")
        date = right.text_input("Day", key="archive-date", placeholder="20260131", help="YYYYMMDD, or from-to")
        if st.form_submit_button("Look for scans", icon=":material/search:"):
            try:
                with st.spinner("Asking the archive"):
                    found = dicomweb.search(where, patient=patient, accession=accession, date=date)
            except ArchiveError as error:
                st.session_state.pop(_SERIES, None)
                st.error(plain(str(error)), icon=":material/error:")
            else:
                st.session_state[_SERIES] = (where.name, found)


def _found(where: Archive) -> None:
    name, found = st.session_state.get(_SERIES, ("", []))
    if name != where.name:
        return
    if not found:
        st.caption("The archive has nothing that matches.")
        return
    chosen = st.radio(
        "Scans that match",
        range(len(found)),
        format_func=lambda k: _words(found[k]),
        key="archive-chosen",
        index=None if len(found) > 1 else 0,
    )
    job = jobs.of_slot(SLOT)
    st.button(
        "Ask about it",
        key="archive-ask",
        type="primary",
        icon=":material/download:",
        disabled=chosen is None or (job is not None and job.view().active),
        on_click=_fetch,
        args=(where, found),
    )
    if refused := st.session_state.pop("archive-refused", ""):
        st.error(plain(refused), icon=":material/error:")


def _words(series: dicomweb.Series) -> str:
    day = f"{series.date[:4]}-{series.date[4:6]}-{series.date[6:8]}" if len(series.date) == 8 else "day unknown"
    kind = " ".join(filter(None, [series.modality, series.body_part.lower()])) or "kind unknown"
    return plain(f"{kind}, {amount(series.images, 'image')}, {day}")


def _fetch(where: Archive, found: Sequence[dicomweb.Series]) -> None:
    chosen = st.session_state.get("archive-chosen")  # as it is now: the button may be from before the last choice
    if chosen is None:
        return
    series = found[chosen]
    try:
        jobs.submit("fetch", {"archive": where.name, "study": series.study, "series": series.series}, SLOT)
    except StoreError as error:
        st.session_state["archive-refused"] = str(error)


# -- and back ---------------------------------------------------------------------------------------------------------


def send_back(answer: Answer, of: Sequence[Path]) -> None:
    """Draws the button that sends report and outline to the archive that the scan of this answer came from, and what
    became of it; nothing where it came from elsewhere, or the archive takes no results."""
    came, result = files(), jobs.result(SLOT)
    if result is None or not came or list(of) != came or answer.has("enhanced"):
        return
    try:
        where = dicomweb.archive(home(), str(result["archive"]))
    except ArchiveError:
        return
    if not where.store:
        return
    slot = f"send-{answer.job}"
    job, sent = jobs.of_slot(slot), jobs.result(slot)
    if sent is not None:
        told = " and ".join(_RESULTS.get(one["kind"], one["kind"]) for one in sent["stored"])
        if told:
            verb = "are" if len(sent["stored"]) > 1 else "is"
            words = f"{told[:1].upper()}{told[1:]} of this answer {verb} in {plain(where.title)} now."
            st.success(words, icon=":material/check_circle:")
        for one in sent["not_stored"]:
            st.caption(
                f":orange[:material/info: Without {_RESULTS.get(one['kind'], one['kind'])}: {plain(one['why'])}]"
            )
        return
    st.button(
        f"Send the results to {plain(where.title)}",
        key="send-back",
        icon=":material/upload:",
        disabled=job is not None and job.view().active,
        help="A report, and an outline where there is one. They name patient and study of the scan, as DICOM asks, and "
        "say that they are a network's and unverified.",
        on_click=_send,
        args=(answer, where, came, slot),
    )
    jobs.watch(slot, "Sending the results")
    if refused := st.session_state.pop("send-refused", ""):
        st.error(plain(refused), icon=":material/error:")


def _send(answer: Answer, where: Archive, of: Sequence[Path], slot: str) -> None:
    payload: dict[str, Any] = {"job": answer.job, "archive": where.name, "files": [str(file) for file in of]}
    try:
        jobs.submit("send", {**payload, "least": answers.threshold_of(answer)}, slot)
    except StoreError as error:
        st.session_state["send-refused"] = str(error)
