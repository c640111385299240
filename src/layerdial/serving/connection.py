"""An HTTP connection that ends where a client stalls, and where there are too many."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from layerdial.serving.problems import TOO_MANY_CONNECTIONS, Problem

_LINGER_S = 5.0  # for the rest of a body that nobody reads
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)
_TOO_MANY = json.dumps(Problem(503, TOO_MANY_CONNECTIONS, "overloaded").body).encode()


class _Timer:
    """Calls something once, unless it is stopped before."""

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float, action: Callable[[], object]) -> None:
        """Call `action` after so many seconds, instead of what was to be called."""
        self.stop()
        self._handle = asyncio.get_running_loop().call_later(seconds, action)

    def stop(self) -> None:
        """Call nothing."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class Connection(H11Protocol):
    """Ends where the head of a request has not arrived in `head_s`, or the rest of an unread body in five seconds.

    uvicorn alone waits for both without end. A connection beyond `most` is told so and closed.
    """

    head_s: float
    most: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._head, self._rest = _Timer(), _Timer()
        if len(self.connections) >= self.most:
            self.transport = transport
            transport.write(_FULL % (len(_TOO_MANY), _TOO_MANY))
            transport.close()
            return
        super().connection_made(transport)
        self._head.start(self.head_s, transport.abort)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head.stop()
            return
        self._rest.stop()
        if not self._head.runs:  # the head of a further request has begun
            self._head.start(self.head_s, self.transport.abort)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._rest.start(_LINGER_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, where an answer can follow; uvicorn alone would fail where none can."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # nobody waits for what is being answered
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._head.stop()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.stop()
        self._rest.stop()
        if self.flow is not None:  # else it was one too many
            super().connection_lost(exc)


def connection_class(head_s: float, most: int) -> type[Any]:
    """Return the class of connections with these limits."""
    return type("Connection", (Connection,), {"head_s": head_s, "most": most})
