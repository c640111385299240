"""The transcript of a CTC model: greedy or by beams, and the words and segments that a request asks for.

Shapes: S samples, T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.windows import Window
from layerdial.recognition.pieces import Decode
from layerdial.recognition.windows import Recognize, recognize_windows
from layerdial.recognizer import Audio
from layerdial.request import Request
from layerdial.text.ctc import greedy_ctc
from layerdial.transcript import Transcribed

if TYPE_CHECKING:
    from layerdial.text.ctc_beams import Pieces
    from layerdial.text.ctc_decoder import CtcDecoder


@dataclass(frozen=True)
class CtcUse:
    """How a CTC model is used for one request: the beam search, if it is not greedy; whether words, and segments.

    `pieces` are the texts of its tokens, where they are needed.
    """

    decoder: CtcDecoder | None = None
    pieces: Pieces | None = None
    words: bool = False
    segments: bool = False

    @classmethod
    def of(cls, request: Request, pieces: Callable[[], Pieces], model: str) -> CtcUse:
        """Return what a request asks of `model`. Raises `UserError` for what a CTC model cannot do."""
        request.refuse_decoder_options(model)
        if not (request.searches or request.words or request.timestamps):
            return cls()
        from layerdial.text.ctc_decoder import ctc_decoder  # much that a greedy request does not need

        own = pieces()
        return cls(ctc_decoder(request, own, model), own, bool(request.words), bool(request.timestamps))

    @property
    def needs_log_probs(self) -> bool:
        """Whether a window's log-probabilities are needed, and not its best tokens alone."""
        return self.pieces is not None


def transcribe_ctc(audio: Audio, features: Features, recognize: Recognize, decode: Decode, use: CtcUse) -> Transcribed:
    """Return the transcript of a file or of samples (S,) at 16 kHz of any length.

    `recognize` is called as by `recognize_windows`, and gives log-probabilities where `use` needs them. Raises
    `UserError` as `windows` does.
    """
    search = use.decoder.begin() if use.decoder else None
    times = None
    if use.words or use.segments:
        from layerdial.recognition.ctc_words import CtcTimes  # much that a text does not need

        times = CtcTimes(greedy=search is None)

    def take(window: Window, logp_TV: NDArray[np.float32]) -> None:
        if search is not None:
            search.feed(logp_TV)
        if times is not None:
            times.take(window, logp_TV)

    ids, chunks, seconds = recognize_windows(audio, features, recognize, take if use.needs_log_probs else None)
    labels = search.finish() if search else greedy_ctc(ids)
    made = Transcribed(decode(labels), chunks, seconds)
    if times is None or use.pieces is None:
        return made
    from layerdial.recognition.word_places import segments_of

    words = times.words(ids, labels, use.pieces, features.samples_per_frame, seconds)
    segments = segments_of(words) if use.segments else ()
    return replace(made, segments=segments, words=tuple(words) if use.words else ())
