"""Messages of clients in JSON, as websockets and Wyoming have them."""

from __future__ import annotations

import json
import re
from typing import Any

from layerdial.serving.problems import Problem

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a character beyond 16 bits, which may stand alone


def json_object(content: str | bytes) -> dict[str, Any]:
    """Return the object of a message. Raises `Problem` for another, and for texts that UTF-8 cannot write."""
    try:
        text = content.decode() if isinstance(content, bytes) else content
        found = json.loads(text)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeError:
        raise bad_message("the message is no text in UTF-8") from None
    except (ValueError, RecursionError):
        raise bad_message("the message is no JSON") from None
    if not isinstance(found, dict):
        raise bad_message("the message is no JSON object")
    return found


def bad_message(message: str) -> Problem:
    """Return what is said of a message that is no event."""
    return Problem(400, message, "invalid_event")
