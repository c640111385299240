"""From an exported model's outputs to texts: the best token of each frame (CTC), or what a decoder writes."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.errors import UserError
from layerdial.recognition.ctc import CtcUse, transcribe_ctc
from layerdial.recognition.windows import WindowResult
from layerdial.recognizer import Audio, FeatureBatch
from layerdial.request import Request
from layerdial.runtime.manifest import Manifest, read_features
from layerdial.runtime.scheduler import PassResult
from layerdial.runtime.session import Cancel, Session
from layerdial.subset import BlockSubset
from layerdial.text.ctc import BLANK, batch_texts
from layerdial.text.tokenizer import PieceTable, read_tokens
from layerdial.transcript import Chunk, Transcribed

if TYPE_CHECKING:
    from layerdial.runtime.streaming_session import StreamingSession
    from layerdial.runtime.token_session import TokenSession
    from layerdial.text.byte_level import ByteTable
    from layerdial.text.ctc_beams import Pieces

RecognizeStretch = Callable[[NDArray[np.float32], float, float, BlockSubset | None], tuple[PassResult, Chunk]]
"""Recognises samples from one second to another, with blocks that take the place of the request's if given."""


class Decoding(Protocol):
    """How an exported model of one kind makes texts."""

    @property
    def session(self) -> Session | StreamingSession | TokenSession: ...

    @property
    def tokenizer(self) -> PieceTable | ByteTable: ...

    def of(self, request: Request, model: str) -> Decoding:
        """Return what decodes as a request says. Raises `UserError` for what the `model` cannot do."""
        ...

    def run(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        """Return the result of one pass over the input of one utterance."""
        ...

    @property
    def rows(self) -> int:
        """How many transcripts a decoder follows at a time."""
        ...

    def begin(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        """Return the result of what depends on depth: all of a CTC model, or the encoder, with the search that is left.

        Of silent audio an encoder-decoder model computes nothing.
        """
        ...

    def usual_search(self, inputs: NDArray[np.float32]) -> tuple[Callable[[], object], int] | None:
        """Return what writes a text of usual length for these inputs, and its number of steps; none without decoder."""
        ...

    def texts(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]:
        """Return the text of each utterance of a batch."""
        ...

    def pass_over(self, batch: FeatureBatch, subset: BlockSubset) -> Callable[[], object]:
        """Return a function that runs the graphs alone on a batch."""
        ...

    def transcribe(self, audio: Audio, recognize: RecognizeStretch, subset: BlockSubset | None) -> Transcribed:
        """Return the transcript of audio. `subset` are the blocks where a request names them."""
        ...


def tokens_of(folder: Path, manifest: Manifest, blank: bool) -> list[str]:
    """Read the tokens of an exported folder. Raises `UserError` where the model has another number of them."""
    tokens = read_tokens(folder / "tokens.txt", blank)
    if len(tokens) != manifest.vocab_size:
        raise UserError(f"{folder}: tokens.txt has {len(tokens)} tokens, the model {manifest.vocab_size}")
    return tokens


def ctc_session(folder: Path, manifest: Manifest, threads: int) -> Session | StreamingSession:
    """Load the graph of an exported CTC model."""
    if manifest.streaming is None:
        return Session(folder, manifest, threads)
    from layerdial.runtime.streaming_session import StreamingSession  # which other models do not need

    return StreamingSession(folder, manifest, threads)


def open_session(folder: Path, manifest: Manifest, threads: int) -> Session | StreamingSession | TokenSession:
    """Load the graphs of an exported folder of any kind."""
    if manifest.decoder is None:
        return ctc_session(folder, manifest, threads)
    from layerdial.runtime.token_session import TokenSession

    return TokenSession(folder, manifest, threads)


class CtcDecoding:
    """CTC: greedy, or by the beam search of a request."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.features: Features = read_features(manifest.features)
        self.session = ctc_session(folder, manifest, threads)
        self.tokenizer = PieceTable(tokens_of(folder, manifest, blank=True), manifest.silent_tokens)
        self._silent = manifest.silent_tokens
        self._use = CtcUse()

    @cached_property
    def pieces(self) -> Pieces:
        from layerdial.text.ctc_beams import Pieces

        return Pieces(self.tokenizer.tokens, self._silent)

    def of(self, request: Request, model: str) -> CtcDecoding:
        changed = copy(self)
        changed._use = CtcUse.of(request, lambda: self.pieces, model)
        return changed

    def run(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        logp_BTV, _ = self.session.posteriors(inputs[None], np.array([len(inputs)]), subset, cancel)
        frame_ids = logp_BTV[0].argmax(axis=-1)
        return PassResult(frame_ids.tolist(), confidence_of(logp_BTV[0], frame_ids), subset, logp_TV=logp_BTV[0])

    @property
    def rows(self) -> int:
        return 1

    def begin(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        return self.run(inputs, subset, cancel)

    def usual_search(self, inputs: NDArray[np.float32]) -> None:
        return None

    def texts(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]:
        if self._use.decoder is not None:
            return [
                self.tokenizer.decode(self._use.decoder.labels_of(logp_TV)) for logp_TV in self.log_probs(batch, subset)
            ]
        logp_BTV, frames_B = self.session.posteriors(batch.inputs, batch.lengths_B, subset)
        return batch_texts(self.tokenizer.decode, logp_BTV.argmax(axis=-1).tolist(), frames_B.tolist())

    def log_probs(self, batch: FeatureBatch, subset: BlockSubset) -> list[NDArray[np.float32]]:
        """Return the log-probabilities (T, V) of each utterance of a batch."""
        logp_BTV, frames_B = self.session.posteriors(batch.inputs, batch.lengths_B, subset)
        return [logp_TV[:length] for logp_TV, length in zip(logp_BTV, frames_B.tolist(), strict=True)]

    def pass_over(self, batch: FeatureBatch, subset: BlockSubset) -> Callable[[], object]:
        return partial(self.session.posteriors, batch.inputs, batch.lengths_B, subset)

    def transcribe(self, audio: Audio, recognize: RecognizeStretch, subset: BlockSubset | None) -> Transcribed:
        def recognize_window(samples: NDArray[np.float32], begin: float, end: float) -> WindowResult:
            result, chunk = recognize(samples, begin, end, None)
            return WindowResult(result.frame_ids, chunk, result.logp_TV)

        return transcribe_ctc(audio, self.features, recognize_window, self.tokenizer.decode, self._use)


def confidence_of(logp_TV: NDArray[np.float32], frame_ids: NDArray[np.int64]) -> float:
    """Return the mean posterior of the best token over the frames where it is not the blank; 1 where there is none."""
    best_T = logp_TV[np.arange(len(frame_ids)), frame_ids][frame_ids != BLANK]
    return float(np.exp(best_T).mean()) if len(best_T) else 1.0
