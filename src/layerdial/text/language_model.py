"""An n-gram language model of words, in ARPA or as a KenLM binary, read by the library KenLM."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from layerdial.errors import UserError, needing
from layerdial.text.hotwords import letters_of
from layerdial.text.phrases import unspellable

_LEAST_LOGP = -16.0  # nats of a word that the model does not know: some ARPA files give none, and KenLM then -230
_SAMPLE = 2000  # words that say what a vocabulary is like
_TAIL = 1 << 17  # bytes at the end of a binary, where its words are
_PLACES = (  # what stands before the reason in KenLM's messages
    re.compile(r"^Cannot read model '.*?' \(", re.DOTALL),
    re.compile(r"^.*threw \w+( because `[^']*')?\.", re.DOTALL),
)
_NEITHER = "it is neither ARPA, which begins with \\data\\, nor KenLM's binary"
_MARKS = ("<s>", "</s>", "<unk>", "<UNK>")


class NgramModel:
    """The model of a file; see `layerdial.text.ctc_beams.WordModel`. Words are looked up in its capitals."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._model, self._new_state = _loaded(file)
        self.words = tuple(_some_words(file))
        self._written = _capitals(self.words)
        self._known: dict[tuple[Any, str], tuple[Any, float]] = {}

    @property
    def order(self) -> int:
        return int(self._model.order)

    def knows(self, word: str) -> bool:
        return self._written(word) in self._model

    def start(self) -> Any:
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def word(self, state: Any, word: str) -> tuple[Any, float]:
        """Return the state behind a word, and its log-probability in nats."""
        after = self._new_state()
        log10 = self._model.BaseScore(state, self._written(word), after)
        return after, max(_LEAST_LOGP, math.log(10) * log10)

    def end(self, state: Any) -> float:
        """Return the log-probability of the end of the text."""
        return max(_LEAST_LOGP, math.log(10) * float(self._model.BaseScore(state, "</s>", self._new_state())))

    def check_vocabulary(self, tokens: Sequence[str], letters: Sequence[bytes], whole: bool, model: str) -> None:
        """Raise `UserError` for a language model of other words than a recogniser writes.

        Where every token is a word (`whole`), half of them must be known; else half of the language model's words must
        be such that the tokens, whose `letters` are given, spell them.
        """
        if whole:
            ours = [token.strip() for token in tokens if token.strip()]
            unknown = [word for word in ours if not self.knows(word)]
            if 2 * len(unknown) > len(ours):
                raise UserError(
                    f"{self.file} is of another vocabulary: it has not {len(unknown)} of the {len(ours)} words of "
                    f"{model}, such as {unknown[0]!r}"
                )
            return
        lone = sum(len(word) == 1 for word in self.words)
        strange = unspellable(tuple((word, 1.0) for word in self.words if letters_of(word).strip()), letters)
        if self.words and 2 * max(lone, len(strange)) > len(self.words):
            found = "single letters" if lone > len(strange) else f"words such as {strange[0]!r}"
            raise UserError(f"{self.file} is of another vocabulary: most of it is {found}; {model} writes words")


@lru_cache(maxsize=2)
def _read(file: Path, _changed: tuple[int, int]) -> NgramModel:
    return NgramModel(file)


def read_language_model(file: str | Path) -> NgramModel:
    """Return the model of a file, which is read once a process.

    Raises `UserError` for a file that is no language model, or one that the library cannot read, and without KenLM.
    """
    path = Path(file)
    if not path.is_file():
        problem = "is no file" if path.exists() else "does not exist"
        raise UserError(f"{path} {problem}; give an n-gram language model, ARPA or a KenLM binary")
    stat = path.stat()
    return _read(path.resolve(), (stat.st_mtime_ns, stat.st_size))


def _loaded(file: Path) -> tuple[Any, Callable[[], Any]]:
    with needing("lm", "a language model needs"):
        import kenlm
    settings = kenlm.Config()
    settings.show_progress = False
    settings.arpa_complain = kenlm.ARPALoadComplain.NONE
    try:
        return kenlm.Model(str(file), settings), kenlm.State
    except UnicodeDecodeError:
        raise UserError(f"{file} cannot be used as a language model: {_NEITHER}") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{file} cannot be used as a language model: {_reason(str(error))}") from None


def _reason(message: str) -> str:
    """Return what KenLM complains of, without the place in its source."""
    if "KENLM_MAX_ORDER" in message or "MAX_ORDER" in message or "compiled to support up to" in message:
        return "its order is above 6, the highest that KenLM reads; make it with fewer words a phrase"
    if "first non-empty line was" in message:
        return _NEITHER
    if "looks like a gzip file" in message:
        return "it is compressed; unpack it with gunzip"
    for place in _PLACES:
        message = place.sub("", message)
    text = " ".join(message.split()).rstrip(").")
    return f"{text[:160]}; give ARPA, or a binary that KenLM's build_binary wrote"


def _some_words(file: Path) -> Iterator[str]:
    """Yield some words of the vocabulary, none where the file does not say them."""
    with file.open("rb") as source:
        start = source.read(64)
        if start.startswith(b"mmap lm"):
            source.seek(max(0, file.stat().st_size - _TAIL))
            yield from _words_at_the_end(source.read())
            return
    with file.open(encoding="utf-8", errors="replace") as lines:
        unigrams = takewhile(lambda line: not line.startswith("\\2-grams"), lines)
        fields = (line.split() for line in unigrams)
        words = (field[1] for field in fields if len(field) in (2, 3) and field[0] != "ngram")
        yield from (word for word in islice(words, _SAMPLE) if word not in _MARKS)


def _words_at_the_end(tail: bytes) -> Iterator[str]:
    """Yield words of a binary, of which these are the last bytes: its words, or numbers and then its words."""
    _, first, listed = tail.rpartition(b"<unk>\0")
    parts = (listed if first else tail).split(b"\0")[:-1]
    found = (part.decode("utf-8", "replace") for part in parts[max(not first, len(parts) - _SAMPLE) :])
    yield from (word for word in found if word not in _MARKS and word.isprintable() and word)


def _capitals(words: Sequence[str]) -> Callable[[str], str]:
    """Return what writes a word in the capitals of a vocabulary: all, none, or as they come."""
    cased = [word for word in words if word.upper() != word.lower()]
    for form in (str.upper, str.lower):
        if cased and sum(word == form(word) for word in cased) > 0.95 * len(cased):
            return form
    return str
