"""What a client is told where a request is not answered: one line, in the JSON of OpenAI's errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "invalid_request_error"}


class Problem(Exception):
    """A request that is refused with an HTTP status. `param` is the field, `code` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, _writable(" ".join(message.split())), code
        self.param = param if param is None else _writable(param)
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """OpenAI's type of the error."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def error(self) -> dict[str, Any]:
        """The object that describes it, as HTTP and websockets have it."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    @property
    def body(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": self.error}


TOO_MANY_CONNECTIONS = "the server has as many connections as it may (its --max-connections)"


def busy(message: str, retry_after_s: float | None) -> Problem:
    """Return what is said where there is no place for a request; after `retry_after_s` there may be one."""
    headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
    return Problem(503, message, "overloaded", headers=headers)


def _writable(text: str) -> str:
    """Return a text, which may have a client's words, without halves of characters that UTF-8 has not."""
    return text.encode("utf-8", "backslashreplace").decode()
