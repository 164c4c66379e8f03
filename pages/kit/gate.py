"""The door of the server: who may come in, and what every answer says to the browser. Pure ASGI, no Streamlit page
code.

Three ways to serve, decided by the environment:

* nothing set: only this machine (a loopback address); any other address is refused at start with exit code 2.
* `SCANLOOM_LOGIN=<password>`: any address; a login page of our own stands before everything but the health check.
* `SCANLOOM_BEHIND_PROXY=1`: any address; you state that something in front decides who comes in (a reverse proxy with a
  login, or a container whose port is published on 127.0.0.1 only).

Requests must name a host we expect (against DNS rebinding): localhost and 127.0.0.1, and those of `SCANLOOM_HOSTS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Door", "Rules", "is_loopback", "refuse_open_door", "same_origin"]

HEALTH = "/_stcore/health"
LOGIN = "/login"
_COOKIE = "scanloom_login"
_LOGIN_S = 12 * 3600
_MIN_PASSWORD = 12


def is_loopback(address: str) -> bool:
    """Says whether a host name or IP address means this machine only."""
    address = address.strip("[]").lower().rstrip(".")
    if address == "localhost" or address.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Rules:
    """What the environment decided: the password ("" = no login), whether a proxy guards us, extra host names."""

    password: str = ""
    behind_proxy: bool = False
    hosts: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Rules:
        """Reads the rules from environment variables."""
        hosts = tuple(h.strip().lower() for h in environment.get("SCANLOOM_HOSTS", "").split(",") if h.strip())
        proxied = environment.get("SCANLOOM_BEHIND_PROXY", "").lower() in ("1", "true", "yes")
        return cls(environment.get("SCANLOOM_LOGIN", ""), proxied, hosts)

    def objection(self, address: str) -> str:
        """Returns why the server must not start on `address` ("" means every interface), or "" where it may."""
        if self.password and len(self.password) < _MIN_PASSWORD:
            return f"SCANLOOM_LOGIN is too short: use a password of at least {_MIN_PASSWORD} characters."
        if is_loopback(address) or self.password or self.behind_proxy:
            return ""
        return (
            f"ScanLoom does not start on the address {address or '0.0.0.0'} without a login, because others could "
            "then see your scans: use --server.address 127.0.0.1, or set SCANLOOM_LOGIN to a password, or set "
            "SCANLOOM_BEHIND_PROXY=1 if a proxy in front checks who comes in."
        )

    def knows(self, host: str | None) -> bool:
        """Says whether a Host header names this server."""
        name = _host_name(host)
        if not name:
            return False
        if is_loopback(name) or name in self.hosts:
            return True
        return bool(self.password) and not self.hosts  # a foreign name brings no login cookie with it


def _host_name(host: str | None) -> str:
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        return ""
    if not host or parts.username or parts.path or parts.query or parts.fragment:
        return ""
    return (parts.hostname or "").rstrip(".")


def refuse_open_door(address: str, environment: Mapping[str, str] | None = None) -> None:
    """Ends the process with code 2 and one sentence where serving on `address` would leave the door open."""
    objection = Rules.of(os.environ if environment is None else environment).objection(address)
    if objection:
        print(objection, file=sys.stderr, flush=True)
        raise SystemExit(2)


def same_origin(headers: Headers) -> bool:
    """Says whether a request comes from our own pages (or from a program, which tells no origin)."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or (bool(urlsplit(origin).netloc) and urlsplit(origin).netloc == headers.get("host"))


def _policy(host: str) -> str:
    """The content security policy: everything from this server; inline scripts and eval as Streamlit needs them."""
    return "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "media-src 'self' blob:",
            "worker-src 'self' blob:",
            f"connect-src 'self' ws://{host} wss://{host}",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-src 'self' blob:",
            "frame-ancestors 'none'",
        )
    )


class Door:
    """ASGI middleware: host check, login, security headers. It never reads a request's body except the login form's."""

    def __init__(self, app: ASGIApp, rules: Rules | None = None):
        self.app = app
        self.rules = rules or Rules.of(os.environ)
        self._key = secrets.token_bytes(32)  # of this server run: after a restart people log in again
        self._one_try = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        send = _with_headers(send, _policy(host if self.rules.knows(host) else "localhost"))
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await self._answer(refusal, scope, receive, send)
        elif self.rules.password and scope["path"] == LOGIN and scope["type"] == "http":
            await self._answer(await self._login(scope, headers, receive), scope, receive, send)
        elif self.rules.password and scope["path"] != HEALTH and not self._is_in(headers):
            browsing = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
            wants_page = browsing and "text/html" in headers.get("accept", "")
            answer: Response = RedirectResponse(LOGIN, 303) if wants_page else PlainTextResponse("Log in first.", 401)
            await self._answer(answer, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if not self.rules.knows(headers.get("host")):
            return PlainTextResponse(
                "This server does not answer under that name. Set SCANLOOM_HOSTS to the name you use for it.", 400
            )
        server = scope.get("server")
        open_door = not (self.rules.password or self.rules.behind_proxy)
        if open_door and server and _is_outside(str(server[0])):
            return PlainTextResponse("ScanLoom answers only on this machine until a login is set up.", 403)
        return None

    async def _answer(self, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await response(scope, receive, send)

    def _is_in(self, headers: Headers) -> bool:
        cookie = SimpleCookie(headers.get("cookie", "")).get(_COOKIE)
        until, _, mark = (cookie.value if cookie else "").partition(".")
        return until.isdigit() and int(until) > time.time() and hmac.compare_digest(mark, self._mark(until))

    def _mark(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()

    async def _login(self, scope: Scope, headers: Headers, receive: Receive) -> Response:
        if scope["method"] != "POST":
            return HTMLResponse(_login_page(""))
        if not same_origin(headers):
            return PlainTextResponse("This login form belongs to another page.", 400)
        body = await _small_body(receive)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if not hmac.compare_digest(given.encode(), self.rules.password.encode()):
            async with self._one_try:  # one wrong guess a second for all the world together
                await asyncio.sleep(1.0)
            return HTMLResponse(_login_page("That password is not right."), 401)
        answer = RedirectResponse("/", 303)
        until = str(int(time.time()) + _LOGIN_S)
        secure = scope.get("scheme") == "https" or headers.get("x-forwarded-proto") == "https"
        answer.set_cookie(
            _COOKIE, f"{until}.{self._mark(until)}", _LOGIN_S, httponly=True, samesite="strict", secure=secure
        )
        return answer


def _is_outside(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False  # a test client or a Unix socket has no address


async def _small_body(receive: Receive, most: int = 4096) -> bytes:
    body = b""
    while len(body) <= most:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    return body[:most]


def _with_headers(send: Send, policy: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = policy
            headers["x-content-type-options"] = "nosniff"
            headers["x-frame-options"] = "DENY"
            headers["referrer-policy"] = "no-referrer"
            headers["permissions-policy"] = "camera=(), microphone=(), geolocation=()"
        await send(message)

    return sending


def _login_page(complaint: str) -> str:
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>ScanLoom: log in</title>
<meta name="viewport" content="width=device-width"><style>
:root{{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}}
body{{display:grid;place-items:center;min-height:90vh;margin:0}}
form{{display:grid;gap:.75rem;width:min(22rem,90vw);padding:1.5rem;border:1px solid #8886;border-radius:.6rem}}
h1{{font-size:1.25rem;margin:0}}input,button{{font:inherit;padding:.55rem .7rem;border-radius:.5rem;border:1px solid
#8888}} button{{background:#2456d6;color:#fff;border:0}}p{{margin:0;color:#c8322b}} </style><form method="post"
action="{LOGIN}"><h1>ScanLoom</h1><label for="p">Password of this server</label> <input id="p" name="password"
type="password" autocomplete="current-password" required autofocus> <button>Log in</button><p
role="alert">{complaint}</p></form></html>"""
