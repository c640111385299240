"""An HTTP connection that ends where a client stalls, and where there are too many."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER_S = 5.0  # for the rest of a body that nobody reads
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b"
)
_TOO_MANY = (
    b'{"error": {"message": "the server has as many connections as it may", "type": "server_error", "param": null,'
    b' "code": "overloaded"}}'
)


class Connection(H11Protocol):
    """Ends where the head of a request has not arrived in `head_s`, or the rest of an unread body in five seconds.

    uvicorn alone waits for both without end. A connection beyond `most` is told so and closed.
    """

    head_s: float
    most: int
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.most:
            self.transport = transport
            transport.write(_FULL % (len(_TOO_MANY), _TOO_MANY))
            transport.close()
            return
        super().connection_made(transport)
        self._wait(self.head_s)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:  # the head of a further request has begun
            self._wait(self.head_s)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._wait(_LINGER_S)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self.flow is not None:  # else it was one too many
            super().connection_lost(exc)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def connection_class(head_s: float, most: int) -> type[Any]:
    """Return the class of connections with these limits."""
    return type("Connection", (Connection,), {"head_s": head_s, "most": most})
