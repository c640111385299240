"""What stands before every request: keys, foreign names and pages, and the headers that keep browsers careful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from layerdial.serving.hosts import Hosts
from layerdial.serving.keys import ApiKeys
from layerdial.serving.problems import Problem

_OPEN = ("/health", "/ready")  # those who start and watch servers have no keys
_SAFE = ("GET", "HEAD", "OPTIONS")
_SUBPROTOCOL = "openai-insecure-api-key."  # how OpenAI's clients in browsers send a key
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Access:
    """Who is let in: by the name of the server, by a key where there are some, and which sites' pages."""

    hosts: Hosts
    keys: ApiKeys | None = None
    origins: Sequence[str] = ()


class Guard:
    """Lets in what calls the server by its name and has a key, where there are keys; `pages` need none."""

    def __init__(self, app: ASGIApp, access: Access, pages: Sequence[str] = ()) -> None:
        self._app, self._access, self._pages = app, access, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            self._check(HTTPConnection(scope))
        except Problem as problem:
            response = JSONResponse(problem.body, problem.status, headers=problem.headers)
            if scope["type"] == "websocket":
                await WebSocket(scope, receive, send).send_denial_response(response)
            else:
                await response(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _check(self, connection: HTTPConnection) -> None:
        self._check_host(connection.headers.get("host", ""))
        if connection.scope.get("method") not in _SAFE:  # websockets have no method
            self._check_origin(connection.headers)
        # not `connection.url`, which the client's header Host is a part of
        keys = self._access.keys
        if keys is None or connection.scope["path"] in (*_OPEN, *self._pages):
            return
        key = key_of(connection.headers)
        if key is None:
            raise _unauthorised("this server needs a key; send the header Authorization: Bearer KEY")
        if not keys.admits(key):
            raise _unauthorised("the key is not known here")

    def _check_host(self, host: str) -> None:
        """Raise `Problem` for a request under another name: the page of a site whose name leads here may send it."""
        if not self._access.hosts.admits(host):
            message = f"{host[:80]!r} is no name of this server; start it with --allow-host NAME to add one"
            raise Problem(403, message, "foreign_host")

    def _check_origin(self, headers: Headers) -> None:
        """Raise `Problem` for a request from a page of another site: browsers send those without asking anyone."""
        origin = headers.get("origin")
        if origin is None or origin in self._access.origins:
            return
        site = _site_of(origin)
        if not site or site != headers.get("host"):
            raise Problem(403, "pages of other sites are not let in; see the server's --cors-origin", "foreign_origin")


def _site_of(origin: str) -> str:
    """Return the host and the port of an origin; nothing where it is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def key_of(headers: Headers) -> str | None:
    """Return the key of a request, or of a websocket that a page opens; None where it has none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(_SUBPROTOCOL):
            return protocol.strip().removeprefix(_SUBPROTOCOL)
    return None


def _unauthorised(message: str) -> Problem:
    return Problem(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _with_headers(send: Send) -> Send:
    """Return `send` with the headers that an answer has not set itself."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
