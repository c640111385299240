"""The sentences of a text file, or the transcripts of a manifest, as a language model takes them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from layerdial.errors import UserError
from layerdial.text.normalise import normalise

_ARPA = "\\data\\"  # the line that ARPA begins with


def sentences_of(file: Path) -> Iterator[str]:
    """Yield the normalised sentences of a text file, a line each, or the transcripts of a manifest of cuts.

    Raises `UserError` for a file that is missing or no UTF-8 text, and for a language model, which is text as well.
    """
    if ".jsonl" in file.suffixes:
        from layerdial.data.manifest import cut_text, open_cuts

        yield from (normalise(cut_text(cut)) for cut in open_cuts(file))
        return
    opening = gzip.open if file.suffix == ".gz" else open
    try:
        with opening(file, "rt", encoding="utf-8-sig") as lines:
            for line in lines:
                if line.strip() == _ARPA:
                    raise UserError(f"{file} is a language model (ARPA); give the text that one is made of")
                yield normalise(line)
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; give text, a sentence a line, or a manifest of cuts") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is no UTF-8 text; give text, a sentence a line, or a manifest of cuts") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
