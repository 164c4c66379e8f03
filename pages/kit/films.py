"""The films of runs to the browser: GET /api/film/<run>/<file>, small PNG and JSON files from the run's own folder.

As for volumes, a page makes the address, with a mark that only this server run can make (`volumes.mark`); the login,
where there is one, stands in front of it all.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from builder import film
from builder.execute import home
from builder.runs import RunStore, StoreError
from pages.kit.gate import same_origin
from pages.kit.volumes import mark

__all__ = ["address", "routes"]

_FILE = re.compile(r"^(scan-\d+(-known(-outline)?)?|frame-\d{5}(-\d+(-outline)?)?)\.(json|png)\Z")


def address(run: str) -> tuple[str, str]:
    """Returns where the film of a run lies for the pages of this server run, and the key that opens it."""
    base = f"/api/film/{run}"
    return base, mark(base)


def routes(at_home: Callable[[], Path] = home) -> list[Route]:
    """Returns the route for `st.App(routes=...)`."""

    def file(request: Request) -> Response:
        run, name = request.path_params["run"], request.path_params["file"]
        if not same_origin(request.headers):
            return _refused(400, "This request does not come from a page of this server.")
        if not hmac.compare_digest(request.query_params.get("key", ""), mark(f"/api/film/{run}")):
            return _refused(403, "This address belongs to an earlier run of the server: reload the page.")
        try:
            path = RunStore(at_home()).run(run).folder / film.FOLDER / name
        except StoreError as error:
            return _refused(404, str(error))
        if not _FILE.match(name) or not path.is_file():
            return _refused(404, "There is no such picture of this run.")
        kind = "application/json" if path.suffix == ".json" else "image/png"
        return FileResponse(path, media_type=kind, headers={"cache-control": "private, no-cache", "vary": "cookie"})

    return [Route("/api/film/{run}/{file}", file, methods=["GET"])]


def _refused(status: int, words: str) -> Response:
    return JSONResponse({"error": words}, status, {"cache-control": "no-store"})
