"""The evidence pack of a run, made at a press, and a place where a pack is verified."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st

from builder.evidence import checklists, facts, pack, verify
from builder.evidence.asked import KINDS
from builder.runs import Run, StoreError, read_json
from pages.kit import dropbox, jobs, style
from pages.kit.words import amount, plain, size

__all__ = ["card"]

_DROP = "pack-in"
_STATES = {
    "same": (":green", "check_circle"),
    "grown": (":blue", "add_circle"),
    "unknown": (":gray", "help"),
    "other": (":gray", "update"),
    "changed": (":red", "error"),
    "missing": (":red", "error"),
}
_PARTS = {
    "metrics": "overall figures",
    "per_class": "class by class",
    "roc": "ROC curves",
    "froc": "FROC",
    "calibration": "calibration",
    "operating_points": "thresholds",
    "confusion": "who was taken for whom",
}
_ASKED = {"operating": "at my threshold", "blanked": "parts taken away"}
_ASKED |= {name: f"{kind.title[0].lower()}{kind.title[1:]}" for name, kind in KINDS.items()}
_SHOWN = 30


def card(run: Run) -> None:
    """The card: the pack that is there, the button that makes one, and the check."""
    with style.card("Evidence to hand over", key="evidence"):
        st.caption(
            "One folder that another person can check: a report with every figure and its interval, data flow, recipe, "
            "curves, all that was asked (audit, confidence, gate, heat maps, readers), model card, checklists (CLAIM "
            "2024, TRIPOD+AI), and the hashes of data, split, document, weights and code. No scan, no name, no path."
        )
        _pack(run)
        st.divider()
        _check(run)


# -- making -----------------------------------------------------------------------------------------------------------


def _pack(run: Run) -> None:
    slot, file = f"evidence-{run.id}", pack.made(run)
    job = jobs.of_slot(slot)
    busy = job is not None and job.view().active
    if file is not None and not busy:
        _there(run, file)
    st.button(
        "Make the evidence pack" if file is None else "Make it anew",
        key="make-evidence",
        icon=":material/workspace_premium:",
        type="primary" if file is None else "tertiary",
        disabled=busy,
        help="Where labels were corrected since the test side was opened, it is opened again, which counts.",
        on_click=_submit,
        args=("evidence", {"run": run.id}, slot),
    )
    _refused()
    jobs.watch(slot, "Gathering the evidence")


def _there(run: Run, file: Path) -> None:
    """What was made: when, how complete its checklists are, and the files to take away."""
    found = _read(str(file), file.stat().st_mtime_ns)
    if found is None:
        return
    when = datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")
    st.markdown(f":green[:material/verified: Made {when}, {size(file.stat().st_size)}.]")
    if _older(run, found):
        st.markdown(":orange[:material/warning: The run was measured again since, or asked more: make the pack anew.]")
    left = [f"{len(numbers)} of {of} in {plain(name)}" for name, (numbers, of) in found["open"].items()]
    st.caption(f"Items of the checklists that only people can complete: {', '.join(left)}. The report lists them.")
    report = file.with_suffix("") / "report.html"
    with st.container(horizontal=True):
        st.download_button(
            "Download the pack", file.read_bytes, file.name, "application/zip", key="download-evidence",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        if report.is_file():
            st.download_button(
                "The report alone", report.read_bytes, f"{run.id}-report.html", "text/html", key="download-report",
                icon=":material/description:", on_click="ignore",
                help="One HTML file that opens in any browser, without a network. Print it there for a PDF.",
            )  # fmt: skip


@st.cache_data(max_entries=16, show_spinner=False)
def _read(file: str, changed: int) -> dict[str, Any] | None:
    """What the card tells of a pack: {open {checklist: (items for a person, items)}, checkpoint, at, asked}."""
    found = read_json(Path(file).with_suffix("") / pack.DATA)
    if found is None:
        return None
    lists = checklists.filled(found)
    told = {name: ([item.number for item in checklists.open_items(items)], len(items)) for name, items in lists.items()}
    return {
        "open": told,
        "at": found["evaluation"].get("at"),
        "operating": found.get("operating"),
        "probes": found["probes"],
    }


def _older(run: Run, found: Mapping[str, Any]) -> bool:
    """Whether the run has been measured, asked or given a threshold since the pack was made."""
    now = facts.evaluation(run) or {}
    kept = {label: row["threshold"] for label, row in (found.get("operating") or {}).items()}
    return now.get("at") != found["at"] or kept != {n: c.threshold for n, c in facts.operating.chosen(run).items()}


# -- checking ---------------------------------------------------------------------------------------------------------


def _check(run: Run) -> None:
    slot = f"verify-{run.id}"
    job, made = jobs.of_slot(slot), pack.made(run)
    busy = job is not None and job.view().active
    st.markdown("**Verify a pack**")
    st.caption(
        "Compares every hash, then prepares the scans anew, asks the network again and holds each number beside it."
    )
    result = jobs.result(slot)
    if result is not None and not busy:
        _verdict(result)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "Verify the pack above",
            key="verify-evidence",
            icon=":material/fact_check:",
            disabled=busy or made is None,
            on_click=_submit,
            args=("verify", {"run": run.id}, slot),
        )
    with st.expander("A pack from elsewhere", icon=":material/upload_file:"):
        came = dropbox.box(
            _DROP, label="An evidence pack (zip)", help="Its data set must be in this data folder.", several=False,
            folders=False,
        )  # fmt: skip
        if came:
            st.button(
                f"Verify this pack ({size(came[-1].bytes)})",
                key="verify-uploaded",
                icon=":material/fact_check:",
                disabled=busy,
                on_click=_submit,
                args=("verify", {"file": str(came[-1].path)}, slot),
            )
    jobs.watch(slot, "Verifying", lambda: dropbox.empty(_DROP))


def _verdict(found: Mapping[str, Any]) -> None:
    """Whether it holds, what was changed, and each number that comes out differently."""
    numbers = found["numbers"]
    if found["holds"]:
        exact = "to the last digit" if numbers["exact"] == numbers["checked"] else "to what three decimals show"
        st.success(
            f"The pack of run {plain(found['run'])} holds: nothing was changed, and {numbers['checked']:,} numbers "
            f"came out again, {exact}.",
            icon=":material/verified:",
        )
    else:
        st.error(f"The pack of run {plain(found['run'])} does not hold.", icon=":material/gpp_bad:")
    bad = [item for item in found["items"] if item["state"] not in verify.GOOD]
    for item in bad:
        st.markdown(f":red[:material/error: **{plain(item['item'])}**: {plain(item['words'])}]")
    if numbers["failing"]:
        st.caption(f"{amount(len(numbers['failing']), 'number')} of {numbers['checked']:,} come out differently:")
        rows = [
            {"Number": n["place"], "In the pack": _told(n["said"]), "Now": _told(n["now"])} for n in numbers["failing"]
        ]
        st.dataframe(rows[:_SHOWN], hide_index=True, key="verify-failing")
    with st.expander("Everything that was checked", icon=":material/checklist:"):
        for item in found["items"]:
            colour, icon = _STATES.get(item["state"], _STATES["unknown"])
            st.markdown(f"{colour}[:material/{icon}:] **{plain(item['item'])}**: {plain(item['words'])}")
        told = [
            {"Numbers": _part(part), "Hold": held, "Of": of}
            for part, (held, of) in numbers["by_part"].items()
            if of > 1
        ]
        if told:
            st.dataframe(told, hide_index=True, key="verify-parts")
        for words in found["not_checked"]:
            st.caption(plain(words))


def _part(name: str) -> str:
    first, _, last = name.partition(".")
    words = _PARTS.get(last, last.replace("_", " "))
    return words if first == "evaluation" else f"{_ASKED.get(first, first)}: {words}"


def _told(value: Any) -> str:
    return "undefined" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _submit(kind: str, payload: dict[str, Any], slot: str) -> None:
    try:
        jobs.submit(kind, payload, slot)
    except StoreError as error:
        st.session_state["evidence-refused"] = str(error)


def _refused() -> None:
    if said := st.session_state.pop("evidence-refused", ""):
        st.error(plain(said), icon=":material/error:")
