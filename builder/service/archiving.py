"""What the service does with the archives of the administrator's list: look for a series, ask about it, send results.

A client names an archive and a series, never an address (see `builder.dicomweb`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from builder import dicomweb, takeout
from builder.asking import keep
from builder.predict import Finding
from builder.scan import Scan
from builder.service.answering import Answerer
from builder.service.receiving import Room
from builder.terms import ANSWERED

__all__ = ["add", "results"]


class Listed(BaseModel):
    """An archive that may be asked; `store`: results may be sent there."""

    name: str
    title: str
    store: bool


class Series(BaseModel):
    """A series of an archive; no name of a patient is told."""

    study: str
    series: str
    modality: str
    images: int
    body_part: str
    date: str


class Question(BaseModel):
    """Which series is asked about, and whether the results are sent back to the archive."""

    model_config = ConfigDict(extra="forbid")
    study: str = Field(pattern=r"^[0-9][0-9.]{0,63}$")
    series: str = Field(pattern=r"^[0-9][0-9.]{0,63}$")
    store: bool = False


def add(app: FastAPI, answerer: Answerer, room: Room, answers: dict[int | str, dict[str, Any]], answer: Any) -> None:
    """Adds the routes of the archives.

    Args:
        answers: what else is said than an answer, by status. answer: the model of an answer, for the schema.
    """

    @app.get("/archives", summary="Archives that may be asked")
    def archives() -> list[Listed]:
        return [Listed(name=a.name, title=a.title, store=a.store) for a in dicomweb.archives(answerer.home)]

    @app.get("/archives/{name}/series", summary="Look for series", responses=answers)
    def series(
        name: str, patient: str = "", accession: str = "", study: str = "", modality: str = "", date: str = ""
    ) -> list[Series]:
        asked = {"patient": patient, "accession": accession, "study": study, "modality": modality, "date": date}
        found = dicomweb.search(dicomweb.archive(answerer.home, name), **asked)
        return [Series(**asdict(one)) for one in found]

    @app.post(
        "/archives/{name}/predict", summary="Ask about a series of an archive", response_model=answer, responses=answers
    )
    async def predict(name: str, question: Question) -> Response:
        async with room.place() as place:
            told = await to_thread.run_sync(partial(_answered, answerer, name, question, place))
        return JSONResponse(told)


def _answered(answerer: Answerer, name: str, question: Question, place: Path) -> dict[str, Any]:
    """The answer to a series of an archive: as `predict` has it; with `store` also {stored: [{kind, instance}],
    not_stored: [{kind, why}]}."""
    where = dicomweb.archive(answerer.home, name)
    if question.store and not where.store:
        dicomweb.store(where, [])  # says why not, before anything is fetched
    files = dicomweb.fetch(where, question.study, question.series, place)
    if not question.store:
        return answerer.answer(question.series, files)
    told = answerer.answer(question.series, files, partial(results, answerer, place))
    made, refused = told.pop("made")
    instances = dicomweb.store(where, [path for _, path in made]) if made else []
    stored = [{"kind": kind, "instance": uid} for (kind, _), uid in zip(made, instances, strict=True)]
    return {**told, "stored": stored, "not_stored": [{"kind": kind, "why": why} for kind, why in refused]}


def results(
    answerer: Answerer, place: Path, scan: Scan, files: Sequence[Path], found: Finding
) -> tuple[list[tuple[str, Path]], list[tuple[str, str]]]:
    """What was found as DICOM files in `place` (`takeout.results`)."""
    folder = place / "found"
    folder.mkdir()
    if found.status == ANSWERED:
        keep(folder, scan, found, answerer.predictor)
    told = found.plain()
    return takeout.results(folder, files, told, place, float(told.get("facts", {}).get("threshold", 0.0)))
