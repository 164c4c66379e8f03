"""One server and one real browser for page tests: start, watch every request, know when a page has settled, end by pid.

Used by the journey test and the page tests. `CHROMIUM` names the browser; else /usr/bin/chromium, else Playwright's
own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from builder.execute import LocalExecutor
from builder.runs import Claim
from tests.service import FAKE

ROOT = Path(__file__).resolve().parents[1]
SLOW = float(os.environ.get("SCANLOOM_SLOW", "1"))  # every page takes so many times as long for its JavaScript
expect.set_options(timeout=20_000)  # these wait for what must come; how soon is measured elsewhere
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
)
_SETTLED = """() => {
    const app = document.querySelector('[data-testid=stApp]')
    return app && app.dataset.testScriptState === 'notRunning' && app.dataset.testConnectionState === 'CONNECTED'
        && !document.querySelector('[data-stale=true]') && !document.querySelector('[data-testid=stSkeleton]')
}"""


def browser_path() -> str | None:
    """Returns the browser to use; None leaves it to Playwright."""
    told = os.environ.get("CHROMIUM")
    return told or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running `streamlit run app.py`: its address, its process, and the file that holds its output."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """What the server has printed so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, as a crash would do."""
        self.process.kill()
        self.process.wait(10)


def start_server(
    home: Path,
    *,
    script: Path = ROOT / "app.py",
    port: int = 0,
    environment: Mapping[str, str] | None = None,
    wait_s: float = 60,
) -> Server:
    """Starts `script` on 127.0.0.1 with `home` as data folder and returns once it answers.

    Raises:
        RuntimeError: it ended or did not answer in time; the text holds its output.
    """
    port = port or free_port()
    log = home / f"server-{port}.log"
    home.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamlit",
                "run",
                str(script),
                "--server.port",
                str(port),
                "--server.headless",
                "true",
            ],
            cwd=ROOT,
            env={**os.environ, "SCANLOOM_HOME": str(home), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with code {process.returncode}:\n{server.output}")
        try:
            with urllib.request.urlopen(f"{server.address}/_stcore/health", timeout=1):
                return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"The server did not answer within {wait_s} s:\n{server.output}")


def stop_server(server: Server) -> None:
    """Ends the server by its process; the supervisor of its data folder is not touched."""
    if server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def idle_supervisor(home: Path) -> None:
    """Before the server starts: a supervisor without torch (seven seconds of a processor), for pages that give nobody
    work; `end_supervisor` ends it."""
    LocalExecutor(home, FAKE).ensure()


def end_supervisor(home: Path, wait_s: float = 20) -> None:
    """Ends the supervisor of a data folder, which outlives servers by design; does nothing where there is none."""
    claim = Claim.read(home / "supervisor.json")
    if claim is None or not claim.alive:
        return
    os.kill(claim.pid, signal.SIGTERM)
    until = time.monotonic() + wait_s
    while claim.alive:
        if time.monotonic() > until:
            os.kill(claim.pid, signal.SIGKILL)
            break
        time.sleep(0.05)


@dataclass
class Browser:
    """A Chromium with a request log."""

    context: BrowserContext
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def page(self, address: str, path: str = "/", *, dark: bool = False) -> Page:
        """Opens a new page and waits until it has settled."""
        page = self.context.new_page()
        page.on("console", lambda told: self.complaints.append(told.text) if told.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.emulate_media(color_scheme="dark" if dark else "light")
        if SLOW > 1:
            self.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOW})
        page.goto(address + path)
        settle(page)
        return page

    def foreign(self, address: str) -> list[str]:
        """Returns the requests, web sockets included, that went to another host than `address`."""
        home_of = urlsplit(address).netloc
        local = ("data:", "blob:", "about:")
        return [url for url in self.requests if not url.startswith(local) and urlsplit(url).netloc != home_of]


@contextmanager
def chromium(width: int = 1400, height: int = 900, flags: Sequence[str] = ()) -> Iterator[Browser]:
    """A headless Chromium with a fresh profile, and with `flags` of its own; ended and removed at the end."""
    profile = tempfile.mkdtemp(prefix="chromium-")
    try:
        with sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                profile,
                executable_path=browser_path(),
                args=[*_FLAGS, *flags],
                headless=True,
                viewport={"width": width, "height": height},
            )
            browser = Browser(context)
            context.set_default_timeout(60_000)
            context.on("request", lambda request: browser.requests.append(request.url))
            context.on("page", lambda page: page.on("websocket", lambda ws: browser.requests.append(ws.url)))
            try:
                yield browser
            finally:
                context.close()
    finally:
        shutil.rmtree(profile, ignore_errors=True)


def settle(page: Page) -> None:
    """Waits until the page is connected, idle, and shows nothing stale. After a click wait for its result first.

    The first page of a server imports torch: on a busy machine that alone is half a minute.
    """
    page.wait_for_function(_SETTLED, timeout=90_000)


def steady(found: Locator, for_s: float = 0.6, wait_s: float = 60) -> None:
    """Waits until the page is idle and an element has been the same one, at the same place, for `for_s`.

    What a page draws twice when it first comes, such as the canvas of labels, is there for the second time by then.
    """
    last: list[float] = []
    begun, since = time.monotonic(), time.monotonic()
    while time.monotonic() - since < for_s:
        assert time.monotonic() - begun < wait_s, "it does not come to rest"
        settle(found.page)
        now = found.evaluate(_WHICH)
        if now != last:
            last, since = now, time.monotonic()
        found.page.wait_for_timeout(50)


_WHICH = """one => {
    const box = one.getBoundingClientRect()
    one.__seen ??= Math.random()
    return [one.__seen, one.width ?? 0, box.x, box.y, box.width, box.height]
}"""


def button(page: Page, key: str) -> Locator:
    """The button with this key; one with a help text is in the document twice, once hidden."""
    return keyed(page, key).locator("button:visible").first


def keyed(page: Page, key: str) -> Locator:
    """Returns the locator of the element that a page drew with `key`."""
    return page.locator(f".st-key-{''.join(c if c.isalnum() or c in '_-' else '-' for c in key)}")
