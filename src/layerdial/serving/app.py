"""The application: which paths there are, and what stands around them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from layerdial.serving.engine import Engine
from layerdial.serving.guard import Access, Guard
from layerdial.serving.metrics import CONTENT_TYPE
from layerdial.serving.pages import PATHS, page_routes
from layerdial.serving.problems import Problem
from layerdial.serving.realtime import realtime
from layerdial.serving.transcriptions import problem_response, transcribe


def make_app(engine: Engine, access: Access) -> Starlette:
    """Return the application of a server."""
    around = [Middleware(Guard, access=access, pages=PATHS)]
    if access.origins:
        methods, headers = ["GET", "POST"], ["Authorization", "Content-Type"]
        shown = ["X-Layerdial-Depth", "X-Layerdial-Reason", "Retry-After"]
        around.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=access.origins,
                allow_methods=methods,
                allow_headers=headers,
                expose_headers=shown,
            ),
        )
    app = Starlette(
        routes=[
            Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/health", _health),
            Route("/ready", _ready),
            Route("/metrics", _metrics),
            WebSocketRoute("/v1/realtime", realtime),
            *page_routes(),
        ],
        middleware=around,
        exception_handlers={HTTPException: _refuse, Problem: _refuse, Exception: _fail},
    )
    app.state.engine = engine
    return app


async def _models(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    return JSONResponse({"object": "list", "data": [_described(engine, name) for name in engine.names]})


async def _model(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    engine.check_model(name := request.path_params["name"])
    return JSONResponse(_described(engine, name))


def _described(engine: Engine, name: str) -> dict[str, object]:
    own = {"n_blocks": engine.recognizer.n_blocks, "depths": engine.depths, "language": engine.language}
    own |= {"streaming": engine.streams is not None}
    if engine.streams is not None:
        own |= {"chunk_ms": engine.streams.chunk_ms}
    return {
        "id": name,
        "object": "model",
        "created": engine.created,
        "owned_by": "layerdial",
        "layerdial": own | engine.measured,
    }


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    if request.app.state.engine.stop.is_set():
        return JSONResponse({"status": "stopping"}, 503)
    return JSONResponse({"status": "ready"})


async def _metrics(request: Request) -> Response:
    engine: Engine = request.app.state.engine
    return Response(engine.metrics.text(), media_type=CONTENT_TYPE)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        return problem_response(error)
    assert isinstance(error, HTTPException)
    said = {404: "there is no such path here", 405: "this path does not take this method"}
    message = said.get(error.status_code, error.detail)
    code = {404: "unknown_path", 405: "method_not_allowed"}.get(error.status_code)
    return problem_response(Problem(error.status_code, message, code, headers=error.headers))


async def _fail(request: Request, error: Exception) -> Response:
    """Answer where this package has an error; the log of the server has what it is."""
    return problem_response(Problem(500, "an error of the server; its log says more", "internal_error"))
