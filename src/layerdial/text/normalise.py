"""The normal form of a text: lower case, a-z, digits and apostrophes."""

from __future__ import annotations

import re
import unicodedata


def normalise(text: str) -> str:
    """Return a text in lower case: a-z, digits, apostrophes and single spaces stay, all else separates words.

    >>> normalise("Author of the danger trail, Philip Steels, etc.")
    'author of the danger trail philip steels etc'
    """
    decomposed = unicodedata.normalize("NFKD", text.replace("\u2019", "'"))
    # accents and letters without an ASCII form are removed; dashes and other non-ASCII signs separate words
    plain = "".join(c for c in decomposed if c.isascii() or unicodedata.category(c)[0] not in "LM").lower()
    words = re.sub(r"[^a-z0-9' ]+", " ", plain).split()
    return " ".join(word for word in words if word.strip("'"))
