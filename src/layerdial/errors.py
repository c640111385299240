"""The one exception for a mistake in the user's input, with a hint at what would be right."""


class UserError(Exception):
    """A mistake in the input. Its text is one line that names the thing, what was found and what is right.

    The command line prints it on stderr and exits with 2, without a traceback.
    """


def installing(extras: str) -> str:
    """Return the command that installs this package with extras, for messages about a package that is missing."""
    return f"pip install 'layerdial[{extras}]' (in a clone: '.[{extras}]')"
