"""Models that have a name: what is known of each, where it lies, and how it is fetched."""

DEFAULT = "english"
"""The model where a command is given none."""
