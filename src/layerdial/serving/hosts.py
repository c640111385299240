"""The names by which clients may call a server: a page of another site must not reach it under a name of its own.

A site can let its own name lead to 127.0.0.1 or to an address of the network that a browser is in (DNS rebinding). To
the browser the server is a part of that site then. What gives it away is the header Host.

Starlette's `TrustedHostMiddleware` compares that header for HTTP and websockets, without the port, as is done here. But
it answers in plain text, in words of its own, and cannot let in every address.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from ipaddress import ip_address

_HEADER = re.compile(r"(?P<name>\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


class Hosts:
    """The names of a server that listens at `host`, and those `named` besides.

    On this machine alone: localhost, its addresses, and `host`. Elsewhere: every address too, which no site can be
    behind, and the name of this machine. With `keys`, which no page of another site has, every name unless some are
    `named`.
    """

    def __init__(self, host: str, named: Sequence[str] = (), keys: bool = False) -> None:
        local = is_local(host)
        self._all = keys and not local and not named
        self._addresses = not local
        own = () if local else _machine()
        self._names = {_plain(name) for name in (*_LOCAL, host, *own, *named)}

    def admits(self, header: str) -> bool:
        """Return whether a request with this header Host is let in; the port does not matter."""
        if self._all:
            return True
        found = _HEADER.fullmatch(header)
        name = _plain(found["name"]) if found else ""
        return bool(name) and (name in self._names or (self._addresses and _is_address(name)))


def is_local(host: str) -> bool:
    """Return whether only this machine reaches a server that listens at `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_name(text: str) -> bool:
    """Return whether a text is a name or an address as the header Host has it, without a port."""
    return _is_address(_plain(text)) or bool(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})", text))


def _plain(name: str) -> str:
    """Return a name without what may differ: capitals, the brackets of an address, the dot of the root."""
    return name.lower().removeprefix("[").removesuffix("]").removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _machine() -> tuple[str, ...]:
    """Return the names of this machine, that of mDNS among them."""
    name = socket.gethostname()
    first = name.partition(".")[0]
    return name, first, f"{first}.local"
