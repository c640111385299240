"""The process: sockets, signals, and an end that answers what has begun."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from layerdial.errors import UserError
from layerdial.serving.app import make_app
from layerdial.serving.connection import connection_class
from layerdial.serving.engine import Engine
from layerdial.serving.guard import Access
from layerdial.serving.memory import give_back
from layerdial.serving.wyoming import WyomingServer

_BACKLOG = 512
_KEEP_ALIVE_S = 5.0
_LAST_WORDS_S = 0.2  # in which sessions send what they still have


@dataclass(frozen=True)
class Sockets:
    """Where a server listens: HTTP, and Wyoming if it is asked for."""

    http: socket.socket
    wyoming: socket.socket | None

    def listen(self) -> None:
        """Have connections wait from now on. Raises `UserError` for a port that another program took meanwhile."""
        for one, option in ((self.http, "port"), (self.wyoming, "wyoming-port")):
            if one is None:
                continue
            try:
                one.listen(_BACKLOG)
            except OSError as error:
                host, port = one.getsockname()[:2]
                raise UserError(f"{host} port {port} {_why(error)}; give another --{option}") from None


class _Uvicorn(uvicorn.Server):
    """uvicorn without its own handling of signals, which closes sessions at once and does not exit with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(engine: Engine, sockets: Sockets, access: Access) -> None:
    """Serve until SIGINT or SIGTERM; then answer what has begun, and return. A second signal does not wait for that."""

    async def run() -> None:
        signals, loop = asyncio.Semaphore(0), asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signals.release)
        giving_back = asyncio.ensure_future(give_back(lambda: _work(engine)))
        await serve_until(signals, engine, sockets, access)
        giving_back.cancel()

    asyncio.run(run())


async def serve_until(signals: asyncio.Semaphore, engine: Engine, sockets: Sockets, access: Access) -> None:
    """Serve until a signal can be acquired; then answer what has begun. Another one ends that too."""
    for library in ("uvicorn.error", "python_multipart"):
        logging.getLogger(library).setLevel(logging.ERROR)  # malformed requests are no news
    server = _Uvicorn(_config(engine, access))
    wyoming = WyomingServer(engine)
    listening = await wyoming.start(sockets.wyoming) if sockets.wyoming is not None else None
    serving = asyncio.ensure_future(server.serve(sockets=[sockets.http]))
    stopping = asyncio.ensure_future(signals.acquire())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    engine.stop.set()
    for one in [*getattr(server, "servers", []), *([listening] if listening else [])]:
        one.close()
    await _answered(engine, signals)
    await wyoming.end()
    server.should_exit = True
    await serving


async def _answered(engine: Engine, signals: asyncio.Semaphore) -> None:
    """Wait until all that has begun is answered, for as long as a request may take, or until another signal."""
    again = asyncio.ensure_future(signals.acquire())
    await asyncio.sleep(_LAST_WORDS_S)  # in which sessions end what is being said
    end = asyncio.get_running_loop().time() + engine.limits.max_request_s
    while engine.active and not again.done() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.02)
    again.cancel()
    await asyncio.sleep(_LAST_WORDS_S)


def _config(engine: Engine, access: Access) -> uvicorn.Config:
    limits = engine.limits
    return uvicorn.Config(
        make_app(engine, access),
        http=connection_class(limits.head_s, limits.max_connections),
        ws="websockets-sansio",
        ws_max_size=limits.max_body,
        ws_per_message_deflate=False,
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=min(_KEEP_ALIVE_S, limits.head_s),  # type: ignore[arg-type] # a float does as well
        timeout_graceful_shutdown=1,
    )


def bind(host: str, port: int, option: str) -> socket.socket:
    """Return a socket at a port, not yet listening. Raises `UserError` for a port that is taken or not allowed."""
    if not 0 <= port <= 65535:
        raise UserError(f"--{option} is {port}; give a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except socket.gaierror:
        raise UserError(f"--host is {host!r}, which is no address here; give 127.0.0.1, or 0.0.0.0 for all") from None
    except OSError as error:
        raise UserError(f"{host} port {port} {_why(error)}; give another --{option}") from None
    return found


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is taken by another program"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is no address of this machine"
    return f"cannot be used ({error.strerror})"


def _work(engine: Engine) -> tuple[int, int, int]:
    """Return what changes with all work: jobs so far, those that have not ended, and streams that are open."""
    found = engine.pool.metrics()
    return found.submitted, found.queued + found.running, engine.streams.open if engine.streams is not None else 0
