"""ScanLoom: `streamlit run app.py`. The server: the pages, the routes for uploads and volumes, the security headers,
the supervisor."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from builder.execute import executor, home
from pages.kit import films, gate, late, uploads, volumes

# The first page comes first: it needs neither torch nor the core that importing torch takes (here, in the supervisor).
OPEN_AFTER_S = 1.0
WARM_AFTER_S = 6.0

late.mend()
gate.refuse_open_door(st.get_option("server.address") or "")


def _open_house() -> None:
    """The data folder is there, stale uploads are gone, and somebody works on what waits in the queue."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    uploads.sweep(folder)
    executor(folder).ensure()


def _warm() -> None:
    """Imports what a first visitor of the Network page should not wait for: the planner brings torch with it.

    Streamlit looks for garbage after each drawing, before it tells the browser that the drawing is over. What is loaded
    by now stays; left out of that look, it saves each edit of a page about 0.15 s.
    """
    from builder.network import input_shape, plan
    from builder.task import TASKS, find

    starter = find(next(iter(TASKS))).starters()[0]
    plan(starter.network, input_shape(starter), 2)
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[None]:
    """Runs before the first request. The supervisor outlives this server: training goes on without it."""
    logging.captureWarnings(True)
    for after_s, work in ((OPEN_AFTER_S, _open_house), (WARM_AFTER_S, _warm)):
        timer = threading.Timer(after_s, work)
        timer.daemon = True
        timer.start()
    yield


app = st.App(
    "pages/shell.py",
    routes=[uploads.route(), *volumes.routes(), *films.routes()],
    middleware=[Middleware(gate.Door)],
    lifespan=lifespan,
)
