"""ScanLoom: `streamlit run app.py`. The server: the pages, the upload route, the security headers, the supervisor."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import streamlit as st
from anyio import to_thread
from starlette.middleware import Middleware

from builder.execute import LocalExecutor, home
from pages.kit import gate, uploads

gate.refuse_open_door(st.get_option("server.address") or "")


def _warm() -> None:
    """What a first visitor should not wait for: stale uploads go, the pages' imports are loaded, the supervisor runs."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    uploads.sweep(folder)
    LocalExecutor(folder).ensure()


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[None]:
    """Runs before the first request. The supervisor outlives this server: training goes on without it."""
    logging.captureWarnings(True)
    await to_thread.run_sync(_warm)
    yield


app = st.App("pages/shell.py", routes=[uploads.route()], middleware=[Middleware(gate.Door)], lifespan=lifespan)
