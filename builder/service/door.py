"""Who may ask the service, and what every answer tells a browser. Pure ASGI.

On a loopback address everybody on this machine may ask, but no page of another site: the request must name this machine
(against DNS rebinding) and must not come from a foreign page. On any other address a token stands before everything but
the health check and the page that explains the service.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["OPEN", "TOKEN", "Door", "is_loopback", "objection"]

TOKEN = "SCANLOOM_SERVICE_TOKEN"
"""The environment variable that holds the token: on a command line every user of the machine could read it."""
MIN_TOKEN = 16
OPEN = frozenset({"/", "/page.js", "/page.css", "/favicon.ico", "/health", "/openapi.json"})
"""What is told without a token: nothing about the run, a scan or an archive."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def is_loopback(address: str) -> bool:
    """Whether a host name or IP address means this machine only."""
    address = address.strip("[]").lower().rstrip(".")
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def objection(address: str, token: str) -> str:
    """Why a service must not start on `address` ("" = every interface) with this token; "" where it may."""
    if token and (len(token) < MIN_TOKEN or not token.isascii() or any(c.isspace() for c in token)):
        return f"{TOKEN} must have at least {MIN_TOKEN} letters, digits and signs, without spaces."
    if is_loopback(address) or token:
        return ""
    return (
        f"The service does not start on the address {address or '0.0.0.0'} without a token, because anybody there "
        f"could then ask it: leave --address out, or set {TOKEN} to a secret of at least {MIN_TOKEN} letters that "
        'clients send as "Authorization: Bearer ...".'
    )


class Door:
    """ASGI middleware: the host's name, foreign pages, the token ("" = none), and the security headers."""

    def __init__(self, app: ASGIApp, token: str = "") -> None:
        self.app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no websocket is served, and there is nothing to start or end
        refused = self._refusal(Headers(scope=scope), scope["path"])
        sending = _with_headers(send)
        if refused is None:
            await self.app(scope, receive, sending)
        else:
            await refused(scope, receive, sending)

    def _refusal(self, headers: Headers, path: str) -> JSONResponse | None:
        host = headers.get("host", "")
        if not self._token and not is_loopback(_host_name(host)):
            return _said(403, "This service answers under the names 127.0.0.1 and localhost only.")
        origin = headers.get("origin")
        opened = path in OPEN and headers.get("sec-fetch-mode") == "navigate"  # by a link on a page of the app
        foreign = not opened and headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if foreign or (origin is not None and urlsplit(origin).netloc != host):
            return _said(403, "This request comes from a page of another site.")
        if not self._token or path in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return None
        return _said(401, 'A token is needed: send the header "Authorization: Bearer TOKEN".', challenge=True)


def _said(status: int, sentence: str, challenge: bool = False) -> JSONResponse:
    """A refusal; the rest of the request is not read, so the connection is closed."""
    headers = {"connection": "close", **({"www-authenticate": "Bearer"} if challenge else {})}
    return JSONResponse({"error": sentence}, status, headers)


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["content-security-policy"] = _POLICY
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = "no-referrer"
            headers["cache-control"] = "no-store"
        await send(message)

    return sending
