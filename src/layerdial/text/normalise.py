"""The normal form of a text: lower case, a-z, digits and apostrophes, without notes and quotation marks."""

from __future__ import annotations

import html
import re
import unicodedata

# Signs that people and keyboards put for an apostrophe. The acute accent would decompose to a space and a mark.
_APOSTROPHES = dict.fromkeys(
    map(ord, "`\u00b4\u02b9\u02bb\u02bc\u02bd\u055a\u2018\u2019\u201a\u201b\u2032\u2035\ua78c"), "'"
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]\w{1,30});")  # of HTML and XML: &amp; &#39;
# Brackets of other keyboards. Single guillemets are quotation marks.
_BRACKETS = str.maketrans("\u3010\u3011\u3014\u3015\u3016\u3017\u27e8\u27e9\u2329\u232a\u3008\u3009", "[][][]<><><>")
# Notes of a transcriber: [noise], <unk>, {breath}, (laughs). As in Whisper's normaliser (Radford et al. 2022), and only
# up to a length: brackets further apart belong to other things. "3 < 4" opens none. Round ones also hold what is said
# (Twain, who was there), so only up to four words in them are a note.
_NOTES = re.compile(
    r"\[[^\[\]]{0,80}\]|\{[^{}]{0,80}\}|<(?![\s\d])[^<>]{1,80}>|"
    r"\((?=[^()]{0,80}\))\s*(?:[^()\s]+(?:\s+[^()\s]+){0,3}\s*)?\)"
)
# words whose first or last letters are left out
_CLIPPED = re.compile(
    "bout|burbs|cause|course|co[sz]|cuz|d|em|ere?|fore|fraid|gainst|hood|im|kay|ll|m|mid|n|neath|nother|nuff|ow|re|"
    "round|s|scuse|sup|t|til|tis|twas|tween|twere|twill|twixt|ve|ya|\\d.*"
)
_CUT = re.compile(".*[snxz]|fo|jus|lil|mo|o|ol|po|tha?|wha|wi|yo")


def normalise(text: str) -> str:
    """Return a text in lower case: a-z, digits, apostrophes and single spaces stay, all else separates words.

    Accents, soft hyphens and signs of no width are removed, and so are notes in brackets and quotation marks. More than
    four words in round brackets are no note. Entities of HTML are the signs that they stand for.

    >>> normalise("Author of the danger trail, [cough] \u2018Philip Steels\u2019, etc.")
    'author of the danger trail philip steels etc'
    """
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES).translate(_BRACKETS))
    decomposed = decomposed.translate(_APOSTROPHES)
    # accents and letters without an ASCII form are removed; dashes and other non-ASCII signs separate words
    plain = "".join(c for c in decomposed if c.isascii() or not _vanishes(unicodedata.category(c))).lower()
    words = re.sub(r"[^a-z0-9' ]+|''+", " ", _without_notes(plain)).split()
    return " ".join(word for word in _without_quotes(words) if word.strip("'"))


def _vanishes(category: str) -> bool:
    return category[0] in "LM" or category == "Cf"  # letters, marks, and format signs such as the soft hyphen


def _without_notes(text: str) -> str:
    while (shorter := _NOTES.sub(" ", text)) != text:  # notes can hold notes
        text = shorter
    return text


def _without_quotes(words: list[str]) -> list[str]:
    """Take single quotation marks off words: those in pairs, and others that cannot be apostrophes.

    Apostrophes that belong to words stay: don't, the dogs' bone, goin', 'cause, rock 'n' roll.
    """
    is_open, plain = False, list[str]()
    for word in words:
        if word == "'n'":
            plain.append(word)
        elif word == "'":
            is_open = not is_open
        else:
            if word[0] == "'" and not _is_clipped(word):
                is_open, word = True, word[1:]
            if word[-1] == "'" and (is_open or not _ends_clipped(word)):
                is_open, word = False, word[:-1]
            plain.append(word)
    return plain


def _is_clipped(word: str) -> bool:
    """Return whether its first letters are left out: 'cause, 'em, '90s."""
    return _CLIPPED.fullmatch(word[1:]) is not None


def _ends_clipped(word: str) -> bool:
    """Return whether its last letters are left out, or it is a plural that owns: goin', th', the dogs'."""
    return _CUT.fullmatch(word[:-1]) is not None
