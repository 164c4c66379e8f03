"""Many scans at once: a run is asked about each, with progress; a table of answers, and all of them as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from builder.asking import keyed
from builder.execute import home
from builder.runs import Run, StoreError
from builder.sources import SourceRefused, gather
from builder.terms import REFUSED
from pages.kit import answers, dropbox, jobs, style, trained
from pages.kit.uploads import Received
from pages.kit.words import amount, plain

__all__ = ["SLOT", "draw", "forget", "names_of", "table"]

SLOT = "ask-many"
_ASKED = "asked-many"


def draw(run: Run, notice: str) -> tuple[list[Path], int] | None:
    """Draws the dropzone, the progress and the answers; returns (files, number) of a scan that shall be looked at."""
    arrived = dropbox.box(
        SLOT,
        label="Drop scans, a folder or a zip here",
        help="DICOM, NIfTI, NRRD, PNG, JPEG or TIFF. DICOM files of one series count as one scan.",
    )
    job = jobs.of_slot(SLOT)
    came = dropbox.newest(SLOT, arrived, used=job is not None and not job.view().active)
    files = [received.path for received in came]
    asked = [run.id, trained.state_of(run), *(str(file) for file in files)]
    if files and st.session_state.get(_ASKED) != asked:
        _ask(run, files, asked)
    if jobs.run_of(SLOT) not in ("", run.id):
        jobs.forget(SLOT)
    refused = st.session_state.pop("many-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    jobs.watch(SLOT, "Asking about each scan", forget)
    job, result = jobs.of_slot(SLOT), jobs.result(SLOT)
    if job is None or result is None:
        if job is None:
            words = "Drop several above; each gets an answer."
            with style.empty("library_books", "No scans yet", words, key="no-scans"):
                pass
        return None
    chosen = _answers(run, job.folder, result, names_of(came), notice, there=bool(files))
    return None if chosen is None else (files, chosen)


def forget() -> None:
    """Back to the empty dropzone."""
    jobs.forget(SLOT)
    dropbox.empty(SLOT)
    st.session_state.pop(_ASKED, None)


def _ask(run: Run, files: Sequence[Path], asked: list[str]) -> None:
    try:
        payload = {"run": run.id, "checkpoint": trained.state_of(run), "files": [str(file) for file in files]}
        jobs.submit("predict-many", payload, SLOT)
    except StoreError as error:
        st.session_state["many-refused"] = str(error)
        return
    st.session_state[_ASKED] = asked


def names_of(came: Sequence[Received]) -> dict[str, str]:
    """Returns {key of `predict-many`: name} of what this browser dropped; names are in memory and nowhere else."""
    found = {}
    for number, received in enumerate(came):
        found[keyed(home(), str(number))] = received.name
        if received.name.lower().endswith(".zip"):
            try:
                inside = gather(received.path, None).found
            except (SourceRefused, OSError):
                continue  # the answer says what is wrong with it
            found |= {keyed(home(), f"{number}/{file.name}"): f"{received.name}/{file.name}" for file in inside}
    return found


def table(scans: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns a flat row a scan: its name, what was answered, what must be known, or why there is no answer."""
    rows = []
    for told in scans:
        finding = told.get("finding") or {}
        row: dict[str, Any] = {"scan": told["number"] + 1, "name": names.get(told["key"], ""), "files": told["files"]}
        if finding.get("top"):
            row |= {"answer": finding["top"], "probability": round(finding["probabilities"][finding["top"]], 4)}
        elif finding.get("status"):
            row["answer"] = "refused" if finding["status"] == REFUSED else "I don't know"
        row |= {f"p({name})": round(value, 4) for name, value in (finding.get("probabilities") or {}).items()}
        if finding.get("boxes") is not None:
            least = answers.chosen_threshold(finding)
            boxes = [box for box in finding["boxes"] if box["score"] >= least]
            row |= {"boxes": len(boxes), "surest box": max((box["score"] for box in boxes), default=None)}
        if finding.get("outline") is not None:
            row["slices outlined"] = len(finding["outline"]["slices"])
        if finding.get("enhanced") is not None:
            row["enhanced"] = " x ".join(str(n) for n in finding["enhanced"]["shape"][:1:-1])
        row |= {f"{name} ({unit})" if unit else name: value for name, value, unit in answers.facts(finding)}
        row["remarks"] = told.get("error") or " ".join(
            [*([finding["reason"]] if finding.get("reason") else []), *finding.get("notes", ())]
        )
        rows.append(row)
    return rows


def _answers(
    run: Run, folder: Path, result: Mapping[str, Any], names: Mapping[str, str], notice: str, there: bool
) -> int | None:
    """Draws the answers; `there`: the files are at hand, so that one can be looked at. Returns which one shall be."""
    scans, refused = result["scans"], result["refused"]
    rows = table(scans, names)
    chosen = None
    with style.card(key="many-answers"):
        silent = sum(bool((told.get("finding") or {}).get("status")) for told in scans)
        good = len(scans) - refused - silent
        said = f"### {amount(good, 'scan')} answered" + (f", {silent} not answered" if silent else "")
        said += f", {refused} refused" if refused else ""
        st.markdown(said)
        shown = st.dataframe(
            [
                {"Picture": _picture(folder, told), **{_title(k): v for k, v in row.items() if k not in _HIDDEN}}
                for told, row in zip(scans, rows, strict=True)
            ],
            hide_index=True,
            key="many-table",
            row_height=64,
            height="content" if len(rows) < 7 else 520,
            on_select="rerun",
            selection_mode="single-row",
            column_config={
                "Picture": st.column_config.ImageColumn(width="small"),
                "Probability": st.column_config.NumberColumn(format="percent"),
                "Surest box": st.column_config.NumberColumn(format="percent"),
                "Remarks": st.column_config.TextColumn(width="large"),
            },
        )
        picked = [n for n in shown.selection.rows if "error" not in scans[n]]
        st.caption("Select a row to look at that scan." if there and not picked else "")
        with st.container(horizontal=True):
            if picked and st.button(
                "Look at this scan", key="look-at", type="primary", icon=":material/visibility:", disabled=not there,
                help=None if there else "Drop the scans here again first.",
            ):  # fmt: skip
                chosen = int(scans[picked[0]]["number"])
            st.download_button(
                "All as CSV", _csv(rows), "answers.csv", "text/csv", key="many-csv", icon=":material/table:",
                on_click="ignore",
            )  # fmt: skip
            told = {"run": run.id, "checkpoint": result.get("checkpoint") or "best"}
            document = {**told, "scans": _plain(scans, names), "notice": notice}
            st.download_button(
                "All as JSON", json.dumps(document, indent=2), "answers.json", "application/json", key="many-json",
                icon=":material/download:", on_click="ignore",
            )  # fmt: skip
            st.button("Put away", key="many-away", icon=":material/refresh:", on_click=forget)
        st.caption(f":material/info: {notice} Names of files are in these downloads only if this browser dropped them.")
    return chosen


_HIDDEN = ("scan",)


def _title(name: str) -> str:
    return name if name.startswith("p(") else name.replace("_", " ").capitalize()


def _picture(folder: Path, told: Mapping[str, Any]) -> str | None:
    import base64

    if not told.get("picture"):
        return None
    try:
        data = (folder / str(told["picture"])).read_bytes()
    except OSError:
        return None
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows({k: _safe(v) for k, v in row.items()} for row in rows)
    return text.getvalue().encode("utf-8-sig")


def _safe(value: Any) -> Any:
    """A cell that no table program takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _plain(scans: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    dropped = ("key", "picture")
    return [
        {"name": names.get(told["key"], ""), **{k: v for k, v in told.items() if k not in dropped}} for told in scans
    ]
