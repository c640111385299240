"""The end of a command whose reader may be gone."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def end_quietly(code: int) -> NoReturn:
    """Exit with `code`; where nobody reads what was printed any more (`| head`), that is no failure and not said."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
