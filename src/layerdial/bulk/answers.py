"""The answer to one file, as a row: what is said in it, or the error."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from layerdial.errors import UserError
from layerdial.recognizer import Recognizer
from layerdial.request import Request
from layerdial.runtime.commands import row_of
from layerdial.utils.printing import one_line
from layerdial.utils.rows import Row

_FINAL = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class Answer:
    """The row of a file, without its name; `again`: it is an error that may pass."""

    row: Row
    again: bool = False

    @property
    def failed(self) -> bool:
        """Whether it is an error."""
        return "error" in self.row


def answer_file(recognizer: Recognizer, file: str, request: Request) -> Answer:
    """Return what is said in a file, or the error: one file must not end the work on the others."""
    try:
        return Answer(row_of(recognizer.answer(Path(file), request)))
    except UserError as error:
        return Answer({"error": one_line(str(error))}, _may_pass(error))
    except MemoryError:
        return Answer({"error": "out of memory"}, True)
    except Exception as error:
        return Answer({"error": one_line(f"{type(error).__name__}: {error}")})


def _may_pass(error: BaseException | None) -> bool:
    """Return whether an error comes of the system, as of a disk in the network, and not of the file."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _FINAL
