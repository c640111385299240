"""`POST /v1/audio/transcriptions`, as OpenAI's clients send it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from layerdial.serving.engine import BYTES, Engine, Samples
from layerdial.serving.fields import Asked, read_fields
from layerdial.serving.formats import (
    CONTENT_TYPES,
    delta_event,
    depth_headers,
    done_event,
    error_event,
    written,
)
from layerdial.serving.jobs import Served
from layerdial.serving.problems import Problem
from layerdial.serving.uploads import ClientGone, Upload, read_upload

_Result = TypeVar("_Result")
_GONE = 499  # as in nginx: the client closed the connection


async def transcribe(request: Request) -> Response:
    """Answer a request, and count it."""
    engine: Engine = request.app.state.engine
    try:
        with engine.answering():
            response = await _within(engine, _answer(request, engine))
    except Problem as problem:
        response = problem_response(problem)
    except ClientGone:
        response = Response(status_code=_GONE)
    engine.metrics.requests.labels("transcriptions", str(response.status_code)).inc()
    return response


def problem_response(problem: Problem) -> Response:
    """Return the answer that tells of a problem."""
    return JSONResponse(problem.body, problem.status, headers=problem.headers)


async def _within(engine: Engine, answering: Coroutine[Any, Any, _Result]) -> _Result:
    """Return what comes within the server's time for a request. Raises `Problem` else."""
    longest = engine.limits.max_request_s
    try:
        async with asyncio.timeout(longest):
            return await answering
    except TimeoutError:
        message = f"the request took longer than {longest:g} s (the server's --max-request-s), its upload included"
        raise Problem(408, message, "timeout") from None


async def _answer(request: Request, engine: Engine) -> Response:
    upload = await read_upload(request, engine.limits)
    asked = read_fields(upload.fields, engine)
    with engine.holding(len(upload.content) // BYTES):  # the file too, while it waits to be decoded
        if asked.stream:
            return await _stream(request, engine, upload, asked)
        served = await unless_gone(request, engine.answer_file(upload.name, upload.content, asked.wish))
    body = written(served, asked.response_format, asked.granularities, _language(asked, engine))
    return Response(body, media_type=CONTENT_TYPES[asked.response_format], headers=depth_headers(served))


async def _stream(request: Request, engine: Engine, upload: Upload, asked: Asked) -> Response:
    """Return a stream that has begun: until its first event, what goes wrong has a status of its own."""
    async with AsyncExitStack() as stack:
        samples = await stack.enter_async_context(engine.decoded(upload.name, upload.content))
        events = _events(engine, samples, asked)
        first = await unless_gone(request, anext(events))
        return _Stream(first, events, stack.pop_all(), engine)


async def unless_gone(request: Request, answering: Awaitable[_Result]) -> _Result:
    """Return the result, or cancel the work and raise `ClientGone` once the client closes the connection."""
    task = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(engine: Engine, samples: Samples, asked: Asked) -> AsyncIterator[str]:
    """Yield the events of a stream: more text with each piece, and at the end all of it."""
    answers, text = list[Served](), ""
    async for served in engine.parts(samples, asked.wish):
        answers.append(served)
        more = served.transcript.text
        delta = f" {more}" if text and more else more
        text += delta
        yield delta_event(delta)
    yield done_event(text, answers)


class _Stream(StreamingResponse):
    """Events whose first is there already; what goes wrong from then on is an event too."""

    def __init__(self, first: str, events: AsyncIterator[str], held: AsyncExitStack, engine: Engine) -> None:
        super().__init__(self._all(first, events), media_type="text/event-stream")
        self._held, self._engine = held, engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:  # here, because what yields events may never begin
            with self._engine.answering():
                await super().__call__(scope, receive, send)

    async def _all(self, first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
        yield first
        end = asyncio.get_running_loop().time() + self._engine.limits.max_request_s
        try:
            while event := await asyncio.wait_for(anext(events, ""), end - asyncio.get_running_loop().time()):
                yield event
        except Problem as problem:
            yield error_event(problem.body)
        except TimeoutError:
            yield error_event(Problem(408, "the request took longer than the server's --max-request-s", "timeout").body)


def _language(asked: Asked, engine: Engine) -> str:
    return asked.wish.request.language or engine.language
