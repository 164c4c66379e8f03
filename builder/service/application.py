"""The HTTP side of a served run (FastAPI): what can be asked, as OpenAPI 3.1 tells it, and the page that explains it.

FastAPI's own documentation pages load scripts from elsewhere and are left out; the page here is three files of ours.
Its telemetry, which would send paths and error messages to whatever server the environment names, is off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import FileResponse, JSONResponse

from builder.dicomweb import ArchiveError, BadQuestion
from builder.faults import note_fault, sentence
from builder.scan import Unreadable
from builder.service import archiving
from builder.service.answering import Answerer
from builder.service.receiving import Limits, Refused, Room

__all__ = ["application"]

_HERE = Path(__file__).parent
_OFF = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False}


class Like(BaseModel):
    """How far out the scan lies for this network."""

    farther_than: float = Field(description="share (0..1) of the training scans that lie nearer to the others")
    of: int = Field(description="how many training scans were compared with")
    unlike: bool = Field(description="farther out than nearly all validation scans: unlike what it learned from")


class Found(BaseModel):
    """What a run says of one scan; tasks that tell more add boxes, outline, enhanced, facts, slices.

    Where the run does not answer, top is "" and status ("unknown" or "refused"), reason and likeliest are added.
    """

    model_config = ConfigDict(extra="allow")
    scan: str = Field(description="what the scan was called in the request")
    top: str = Field(description='the likeliest class, "" for tasks without classes')
    probabilities: dict[str, float]
    covered: list[dict[str, Any]]
    notes: list[str] = Field(description="warnings in words; a scan unlike the training scans has one")
    like: Like | None


class Answer(BaseModel):
    """The JSON of `python -m builder predict RUN SCAN --json`; of results that were sent to an archive also stored and
    not_stored."""

    model_config = ConfigDict(extra="allow")
    run: str
    findings: list[Found]


class Refusal(BaseModel):
    """Why there is no answer, in one sentence for people."""

    error: str


class Facts(BaseModel):
    """What is served."""

    run: str
    name: str
    task: str
    classes: list[str]
    multi_label: bool
    epoch: int
    weights_sha256: str
    gate: int = Field(description="training scans that new ones are compared with; 0: nothing can be said")
    use: str


class Health(BaseModel):
    """The service is there."""

    status: str = "ready"
    questions: int = Field(description="scans that wait or are answered now")


_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal, "description": words}
    for code, words in (
        (400, "No scan came, or the upload broke off."),
        (401, "The token is missing or wrong."),
        (408, "Nothing came for too long."),
        (413, "The scan is larger than what is taken here."),
        (422, "This is no scan that the run can be asked about; the sentence says why."),
        (502, "The archive could not be asked; the sentence says why."),
        (503, "Too many scans wait; ask again."),
        (507, "The disk is nearly full."),
    )
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file itself: DICOM, NIfTI, NRRD, PNG, JPEG or TIFF; a zip is read as one series.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def application(answerer: Answerer, folder: Path, limits: Limits | None = None) -> FastAPI:
    """The service of one run.

    Args:
        folder: for scans on their way; what lies there is gone when the question is answered.
    """
    room = Room(folder, limits or Limits())
    app = FastAPI(
        title="ScanLoom service",
        version="1",
        description="Asks one trained run about scans. For research and education only: not for clinical use.",
        docs_url=None,
        redoc_url=None,
        telemetry=_OFF,  # type: ignore[arg-type]
    )

    @app.get("/health", summary="Is it there?")
    def health() -> Health:
        return Health(questions=room.questions)

    @app.get("/run", summary="Which run answers", responses={401: _REFUSALS[401]})
    def run() -> Facts:
        return Facts(**answerer.facts())

    @app.post("/predict", summary="Ask about a scan", response_model=Answer, responses=_REFUSALS, openapi_extra=_BODY)
    async def predict(request: Request, name: str = "scan") -> Response:
        async with room.place() as place:
            path = await room.receive(request, place)
            told = await to_thread.run_sync(partial(answerer.answer, _plain(name), [path]))
        return JSONResponse(told)

    archiving.add(app, answerer, room, _REFUSALS, Answer)
    for path, file, kind in (
        ("/", "page.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ):
        app.add_api_route(path, _file(_HERE / file, kind), methods=["GET"], include_in_schema=False)
    app.add_api_route("/favicon.ico", _nothing, methods=["GET"], include_in_schema=False)
    _explain(app, answerer)
    return app


def _file(path: Path, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return FileResponse(path, media_type=kind)

    return send


async def _nothing() -> Response:
    """Browsers ask for an icon by themselves."""
    return Response(status_code=204)


def _plain(name: str) -> str:
    """A scan's name as text: printed characters only, 200 at most."""
    return "".join(c for c in name if c.isprintable())[:200].strip() or "scan"


def _explain(app: FastAPI, answerer: Answerer) -> None:
    """What goes wrong is told in one sentence, with the status that says whose it is."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        headers = {"connection": "close"} | ({"retry-after": "2"} if error.status == 503 else {})
        return JSONResponse({"error": str(error)}, error.status, headers)

    async def unreadable(request: Request, error: Exception) -> Response:
        """A scan that is none, or that the run cannot be asked about: the words of the reader, or of the engine."""
        words = str(error) if isinstance(error, Unreadable) else sentence(error, "scan")
        if words.startswith("A fault of ScanLoom's own"):
            return await fault(request, error)
        name = _plain(request.query_params.get("name", "scan"))
        told = {"run": answerer.run.id, "findings": [{"scan": name, "error": words}]}
        return JSONResponse({"error": words, **told}, 422)

    async def not_asked(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, BadQuestion) else 502)

    async def mistyped(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"The request is not as it should be, at {where}: {first['msg']}."}, 400)

    async def fault(request: Request, error: Exception) -> Response:
        note_fault(error, private=True, root=answerer.home)
        words = f"A fault of ScanLoom's own ({type(error).__name__}) ended the question."
        return JSONResponse({"error": words}, 500)

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(Unreadable, unreadable)
    app.add_exception_handler(ArchiveError, not_asked)
    app.add_exception_handler(ValueError, unreadable)
    app.add_exception_handler(RequestValidationError, mistyped)
    app.add_exception_handler(Exception, fault)
