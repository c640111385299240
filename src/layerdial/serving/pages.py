"""The page at `/`: files that are read when the server starts, and a policy that lets it load nothing else.

What it shares with the page of an exported folder lies there.
"""

from __future__ import annotations

from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_OWN = ("client.js", "listen.js", "page.js", "picture.js", "server.css")
_SHARED = ("capture.js", "dial.js", "drop.js", "icon.svg", "microphone.js", "style.css")
_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PATHS = ("/", *(f"/page/{name}" for name in (*_OWN, *_SHARED)))


def page_routes() -> list[Route]:
    """Return the routes of the page and its files. None of them needs a key: they hold nothing of the server."""
    package = files("layerdial")
    index = (package / "serving/page/index.html").read_bytes()
    assets = {name: (package / "serving/page" / name).read_bytes() for name in _OWN}
    assets |= {name: (package / "export/web" / name).read_bytes() for name in _SHARED}

    async def page(request: Request) -> Response:
        return Response(index, media_type="text/html", headers={"Content-Security-Policy": _POLICY})

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets:
            raise HTTPException(404)
        return Response(assets[name], media_type=_TYPES[name.rpartition(".")[2]])

    return [Route("/", page), Route("/page/{name}", asset)]
