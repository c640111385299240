"""One line of a terminal that is written again and again, until what is final stands there."""

from __future__ import annotations

import os
import shutil
import unicodedata
from typing import TextIO

_CLEAR = "\r\x1b[K"
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class RewrittenLine:
    """A line that shows text as it comes; what may still change is dimmed. Where there is no terminal, it is none."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = False
        self._is_terminal = out.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, stable: str, rest: str) -> None:
        """Show a text whose `rest` may still change, or as much of its end as the terminal is wide."""
        if not self._is_terminal:
            return
        room = shutil.get_terminal_size().columns - 1
        rest = _end_of(rest, room)
        stable = _end_of(stable, room - _width(rest))
        self._out.write(f"{_CLEAR}{stable}{_DIM}{rest}{_PLAIN}")
        self._out.flush()
        self._shown = True

    def clear(self) -> None:
        """Take the text away, so that other lines can be written."""
        if self._shown:
            self._out.write(_CLEAR)
            self._out.flush()
            self._shown = False


def _width(text: str) -> int:
    """Return the columns that a text takes in a terminal."""
    return sum(map(_columns, text))


def _columns(letter: str) -> int:
    return 0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")


def _end_of(text: str, room: int) -> str:
    """Return the end of a text, no wider than `room` columns."""
    first = len(text)
    while first and (room := room - _columns(text[first - 1])) >= 0:
        first -= 1
    while first < len(text) and unicodedata.combining(text[first]):  # of a letter that has no room
        first += 1
    return text[first:]
