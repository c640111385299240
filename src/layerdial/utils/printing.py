"""Output that any terminal and pipe takes, whatever names of files hold: they need not be text."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from typing import Any


def show_every_name() -> None:
    """From now on print what the output cannot show as its code, where Python would stop with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable_json(value: Any) -> str:
    """Return JSON in the characters that standard output has, others as JSON's own codes."""
    from layerdial.utils.files import json_text  # when it is needed: --help loads this module

    text = json_text(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def one_line(text: str) -> str:
    """Return `text` with its line breaks and other signs that a terminal obeys as their codes; names may have them."""
    return "".join(repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" else letter for letter in text)
