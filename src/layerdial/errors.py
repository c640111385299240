"""The one exception for a mistake in the user's input, with a hint at what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake in the input. Its text is one line that names the thing, what was found and what is right.

    The command line prints it on stderr and exits with 2, without a traceback.
    """


class WorseThanFloat(UserError):
    """An export in int8 that does worse than float by its own check, on which nobody has agreed."""


def installing(extras: str) -> str:
    """The command that installs this package with extras, for messages about a package that is missing."""
    return f"pip install '.[{extras}]' (in the clone of layerdial)"


@contextmanager
def needing(extras: str, what: str) -> Iterator[None]:
    """Turn a package that is missing within into a `UserError`: `what` needs it, and `extras` bring it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "layerdial").partition(".")[0]
        if package == "layerdial":
            raise
        raise UserError(f"{what} {package}, which is not installed: {installing(extras)}") from None
