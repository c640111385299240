"""The text of a stream as far as it has come: what it is now, and with what it surely begins.

Shapes: T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.text.ctc import BLANK
from layerdial.text.ctc_beams import Pieces
from layerdial.text.ctc_decoder import CtcDecoder
from layerdial.text.ctc_spans import LabelSpan, LikelyFrames, aligned_spans
from layerdial.text.token_words import whole_words


@dataclass(frozen=True)
class EndedText:
    """A text that has ended, and the frames of its labels, counted from the begin of the stream, where they are known.

    `goes_on` is the frame with which a word begins that is not in it, but in the next text.
    """

    text: str
    spans: Sequence[LabelSpan]
    goes_on: int | None = None


class StreamText(Protocol):
    """The text of a stream since the last end point."""

    def follow(self, logp_TV: NDArray[np.float32]) -> None:
        """Take the next frames."""
        ...

    @property
    def text(self) -> str: ...

    @property
    def stable(self) -> str:
        """The words with which the text begins, whatever follows."""
        ...

    def end(self, before_last_word: bool = False) -> EndedText:
        """Return the text and begin anew; with the last word, if it is to end before that and can."""
        ...


class GreedyText:
    """The best token of each frame. Labels are only added, so that only the last word may still become longer."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._spans: list[LabelSpan] = []
        self._token = BLANK  # of the last frame
        self._frame = 0

    def follow(self, logp_TV: NDArray[np.float32]) -> None:
        ids_T = logp_TV.argmax(axis=1)
        best_T = logp_TV[np.arange(len(ids_T)), ids_T]
        for token, logp in zip(ids_T.tolist(), best_T.tolist(), strict=True):
            if token != self._token and self._pieces.texts[token]:
                self._spans.append(LabelSpan(token, self._frame, self._frame + 1, logp))
            elif token != BLANK and self._spans and self._spans[-1].end == self._frame:
                last = self._spans[-1]
                self._spans[-1] = replace(last, end=self._frame + 1, logp=max(last.logp, logp))
            self._token = token
            self._frame += 1

    @property
    def text(self) -> str:
        return self._pieces.decode(span.label for span in self._spans)

    @property
    def stable(self) -> str:
        return self._pieces.decode(span.label for span in self._spans[: self._whole])

    @property
    def _whole(self) -> int:
        """The number of labels whose words are whole."""
        return whole_labels([span.label for span in self._spans], self._pieces)

    def end(self, before_last_word: bool = False) -> EndedText:
        whole = self._whole if before_last_word else 0
        if not 0 < whole < len(self._spans):
            ended = EndedText(self.text, self._spans)
            self._spans = []
            return ended
        ended = EndedText(self.stable, self._spans[:whole], self._spans[whole].first)
        self._spans = self._spans[whole:]
        return ended


class BeamText:
    """The best text of a beam search. With what all beams begin, no frame behind them can change.

    `aligned`: its labels get frames, on their most probable path.
    """

    def __init__(self, decoder: CtcDecoder, pieces: Pieces, aligned: bool) -> None:
        self._decoder, self._pieces, self._aligned = decoder, pieces, aligned
        self._frame = 0
        self._begin()

    def _begin(self) -> None:
        self._first = self._frame
        self._search = self._decoder.begin()
        self._likely = LikelyFrames() if self._aligned else None

    def follow(self, logp_TV: NDArray[np.float32]) -> None:
        self._search.feed(logp_TV)
        if self._likely is not None:
            self._likely.feed(logp_TV)
        self._frame += len(logp_TV)

    @property
    def text(self) -> str:
        return self._pieces.decode(self._search.finish())

    @property
    def stable(self) -> str:
        labels = [label for label in self._search.settled() if self._pieces.texts[label]]
        return self._pieces.decode(labels[: whole_labels(labels, self._pieces)])

    def end(self, before_last_word: bool = False) -> EndedText:
        labels, spans = self._search.finish(), list[LabelSpan]()
        if self._likely is not None:
            spans = [
                self._moved(span) for span in aligned_spans(labels, self._likely) if self._pieces.texts[span.label]
            ]
        self._begin()
        return EndedText(self._pieces.decode(labels), spans)

    def _moved(self, span: LabelSpan) -> LabelSpan:
        return replace(span, first=span.first + self._first, end=span.end + self._first)


def whole_labels(labels: Sequence[int], pieces: Pieces) -> int:
    """Return how many of the first labels, all of which have texts, spell words that none behind can make longer."""
    return len(labels) if pieces.whole else whole_words([pieces.texts[label] for label in labels])
