"""An answer to take away: JSON, CSV, a picture, and, made by a job, files for other programs (DICOM SEG, SR, NIfTI)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image, ImageDraw

from builder import outputs
from builder.runs import StoreError
from builder.scans import display
from pages.kit import answers, heat, jobs
from pages.kit.answers import Answer
from pages.kit.words import plain

__all__ = ["SLOT", "draw", "overlay"]

SLOT = "takeout"
_SIDE_PX = 720
_OTHERS = {
    "seg": ("Mask as DICOM SEG", ":material/gesture:", "application/dicom"),
    "sr": ("Report as DICOM SR", ":material/summarize:", "application/dicom"),
    "derived": ("Enhanced, as it came", ":material/auto_fix_high:", "application/octet-stream"),
    "nifti": ("As NIfTI", ":material/deployed_code:", "application/gzip"),
}


def draw(answer: Answer, files: Sequence[Path], member: int | None, notice: str) -> None:
    """Draws the buttons. `files` are those of the scan (number `member` of several), where it was dropped here."""
    document = {"run": answer.run.id, "checkpoint": answer.state, **answer.finding, "notice": notice}
    with st.container(horizontal=True):
        st.download_button(
            "JSON", json.dumps(document, indent=2), "answer.json", "application/json", key="answer-json",
            icon=":material/download:", on_click="ignore", help="The whole answer as a file",
        )  # fmt: skip
        st.download_button(
            "CSV", table(answer.finding), "answer.csv", "text/csv", key="answer-csv", icon=":material/table:",
            on_click="ignore", help="The numbers as a table",
        )  # fmt: skip
        st.download_button(
            "Picture", lambda: sheet(answer, notice), "answer.png", "image/png", key="answer-png",
            icon=":material/image:", on_click="ignore", help="The slice that tells most, with what was found on it",
        )  # fmt: skip
        for to in kinds(answer):
            _made(answer, to, files, member)
    refused = st.session_state.pop("takeout-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    for to in kinds(answer):
        jobs.watch(_slot(answer, to), "Writing the file")


def kinds(answer: Answer) -> list[str]:
    """What can be made of this answer, by `takeout.KINDS`; a scan that was DICOM can go back as DICOM."""
    if not answer.has("scan"):
        return []
    is_dicom = outputs.kept(answer.folder, "scan").format == "dicom"
    finding, found = answer.finding, []
    if is_dicom and answer.has("mask"):
        found.append("seg")
    if is_dicom and not answer.has("enhanced") and not finding.get("reason"):  # a report cannot say "I don't know"
        found.append("sr")
    if answer.has("enhanced"):
        found.append("derived")  # in the format of the scan: a derived DICOM image, NIfTI, NRRD or a picture
    if finding.get("outline") is not None or answer.has("enhanced"):
        found.append("nifti")
    return found


def _slot(answer: Answer, to: str) -> str:
    """Of the job that makes the file; a report of boxes is another one for each score from which they are shown."""
    least = f"-{answers.threshold_of(answer):.4f}" if to == "sr" and answer.finding.get("boxes") is not None else ""
    return f"{SLOT}-{to}-{answer.job}{least}"


def _made(answer: Answer, to: str, files: Sequence[Path], member: int | None) -> None:
    """A button that has a file written and, once it is there, one that hands it out."""
    words, icon, kind = _OTHERS[to]
    slot = _slot(answer, to)
    job, result = jobs.of_slot(slot), jobs.result(slot)
    if job is not None and result is not None:
        file = job.folder / str(result["file"])
        if file.is_file():
            st.download_button(
                f"Download: {words}", file.read_bytes, file.name, kind, key=f"download-{to}", icon=icon,
                on_click="ignore",
            )  # fmt: skip
            return
    needs = to != "nifti" and not files
    st.button(
        words,
        key=f"make-{to}",
        icon=icon,
        disabled=needs or (job is not None and job.view().active),
        help="Drop the scan here to have it: a case of a data set has left its DICOM files behind."
        if needs
        else "In the format of the scan. A DICOM file names the patient and the study, as DICOM asks."
        if to == "derived"
        else "It names the patient and the study of the scan, as DICOM asks."
        if to != "nifti"
        else None,
        on_click=_submit,
        args=(answer, to, files, member, slot),
    )


def _submit(answer: Answer, to: str, files: Sequence[Path], member: int | None, slot: str) -> None:
    payload: dict[str, Any] = {"job": answer.job, "to": to, "files": [str(file) for file in files], "member": member}
    payload |= {"run": answer.run.id, "least": answers.threshold_of(answer)}
    try:
        jobs.submit("takeout", payload, slot)
    except StoreError as error:
        st.session_state["takeout-refused"] = str(error)


# -- made here --------------------------------------------------------------------------------------------------------


def table(finding: Mapping[str, Any]) -> bytes:
    """Returns the numbers of a finding as CSV: kind, name, value, and for boxes their place."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["kind", "name", "value", "slice", "x0", "y0", "x1", "y1"])
    for name, value in (finding.get("probabilities") or {}).items():
        writer.writerow(["probability", name, value])
    for box in finding.get("boxes") or ():
        writer.writerow(["box", box["class"], box["score"], box["slice"] + 1, *box["box"]])
    for name, value in (finding.get("facts") or {}).items():
        writer.writerow(["fact", name, value])
    for name in ("status", "reason"):
        if finding.get(name):
            writer.writerow([name, "", finding[name]])
    for note in finding.get("notes") or ():
        writer.writerow(["note", note])
    return text.getvalue().encode("utf-8-sig")


def overlay(answer: Answer, index: int) -> np.ndarray:
    """Returns slice `index` with what was found on it, as people see it: uint8 (H, W, 3), longest side 720 px."""
    name = "enhanced" if answer.has("enhanced") else "scan"
    scan = outputs.kept(answer.folder, name)
    grey = np.rint(display(scan, only=[index])[0] * 255).astype(np.uint8)
    flat = np.moveaxis(grey, 0, -1) if len(grey) == 3 else np.repeat(grey[0][..., None], 3, 2)
    height, width = flat.shape[:2]
    if answer.has("mask"):
        mask = outputs.kept(answer.folder, "mask").pixels[index, 0] > 0
        padded = np.pad(mask, 1)
        core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        amber = np.array([255, 176, 0], np.float32)
        flat = flat.astype(np.float32)
        flat[mask & core] = 0.7 * flat[mask & core] + 0.3 * amber
        flat[mask & ~core] = amber
        flat = flat.round().astype(np.uint8)
    elif (
        answer.has("heat")
        and not answer.has("enhanced")
        and answer.finding.get("boxes") is None
        and not answers.greyed(answer)
    ):
        slices = answer.result["heat"]["slices"]
        if slices is None or index in slices:
            at = index if slices is None else slices.index(index)
            flat = heat.overlay(flat, np.asarray(outputs.kept(answer.folder, "heat").pixels[at, 0]), 0.5)
    scale = _SIDE_PX / max(height, width)
    image = Image.fromarray(flat).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    draw_on = ImageDraw.Draw(image)
    for box in answers.boxes_from(answer, answers.threshold_of(answer)):
        if box["slice"] == index:
            x0, y0, x1, y1 = (v * scale for v in box["box"])
            colour = answer.colour(box["class"])
            draw_on.rectangle((x0, y0, x1, y1), outline=colour, width=3)
            draw_on.text((x0 + 4, y0 + 2), f"{box['class']} {100 * box['score']:.0f} %", fill=colour)
    return np.asarray(image)


def sheet(answer: Answer, notice: str) -> bytes:
    """Returns one PNG: the slice that tells most, as it is and with what was found, and the answer in words."""
    index = int(answer.result.get("telling") or 0)
    lines = [*filter(None, [answer.finding.get("reason")]), f"Run {answer.run.id}", notice]
    if not answer.has("scan"):
        picture = heat.loaded(answer.folder / answer.result["image"])
        return heat.sheet(picture, None, answer.finding["probabilities"], lines)
    scan = outputs.kept(answer.folder, "scan")
    grey = np.rint(display(scan, only=[index])[0] * 255).astype(np.uint8)
    plain_slice = np.moveaxis(grey, 0, -1) if len(grey) == 3 else grey[0]
    numbers = [f"{name}: {value:.4g} {unit}".strip() for name, value, unit in answers.facts(answer.finding)]
    return heat.sheet(plain_slice, overlay(answer, index), answer.finding["probabilities"], [*numbers, *lines])
