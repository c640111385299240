"""The inputs and outputs of a recogniser, and the one type that torch's and ONNX Runtime's implement.

Shapes: B batch, T frames, F mel bins, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.files import AudioPath
from layerdial.cost import Cost
from layerdial.errors import UserError
from layerdial.ladder import Ladder
from layerdial.request import Request
from layerdial.subset import Blocks, BlockSubset
from layerdial.transcript import Transcript, joined

if TYPE_CHECKING:
    from layerdial.text.ctc_beams import Pieces

Audio = AudioPath | NDArray[np.float32]
"""A file, `-` or another pipe, one `Channel` of either, or samples (S,) at 16 kHz within [-1, 1]."""


@dataclass(frozen=True)
class FeatureBatch:
    """Utterances as a network takes them: `inputs` zero-padded, `lengths_B` without padding, `texts` the transcripts.

    `inputs` is log-mel (B, T, F) or samples (B, S); `lengths_B` counts frames or samples. An utterance that is longer
    than the network takes stands there in pieces, one a row: they have its id, and the first has its transcript.
    """

    ids: tuple[str, ...]
    inputs: NDArray[np.float32]
    lengths_B: NDArray[np.int64]
    texts: tuple[str, ...]
    audio_seconds: float


def in_pieces(batch: FeatureBatch) -> set[str]:
    """Return the ids of the utterances in pieces. What was said in which of them is not known: they have no loss."""
    return {name for name, following in pairwise(batch.ids) if name and name == following}


def whole_rows(batch: FeatureBatch) -> FeatureBatch:
    """Return the utterances that are not in pieces: the batch itself where none is."""
    split = in_pieces(batch)
    if not split:
        return batch
    rows = [row for row, name in enumerate(batch.ids) if name not in split]
    ids, texts = (tuple(values[row] for row in rows) for values in (batch.ids, batch.texts))
    return replace(batch, ids=ids, texts=texts, inputs=batch.inputs[rows], lengths_B=batch.lengths_B[rows])


def by_utterance(batch: FeatureBatch, found: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the id, the transcript and the text found of each utterance; those of pieces are joined."""
    for name, rows in groupby(zip(batch.ids, batch.texts, found, strict=True), key=itemgetter(0)):
        pieces = list(rows)
        if name:
            yield name, joined(text for _, text, _ in pieces), joined(text for _, _, text in pieces)
        else:  # without a name nothing is a piece of anything
            yield from pieces


def check_whole(batch: FeatureBatch) -> None:
    """Raise `UserError` for an utterance in pieces, of which no loss can be computed."""
    if split := in_pieces(batch):
        raise UserError(f"cut {min(split)} is longer than the network takes at once, so it has no loss; leave it out")


def collate_features(
    ids: Sequence[str], features: Sequence[NDArray[np.float32]], texts: Sequence[str], audio_seconds: float
) -> FeatureBatch:
    """Pad features (T_b, F) or samples (S_b,) with zeros to one array."""
    lengths_B = np.array([len(f) for f in features], dtype=np.int64)
    padded = np.zeros((len(features), int(lengths_B.max()), *features[0].shape[1:]), dtype=np.float32)
    for row, feature in zip(padded, features, strict=True):
        row[: len(feature)] = feature
    return FeatureBatch(tuple(ids), padded, lengths_B, tuple(texts), audio_seconds)


class Recognizer(Protocol):
    """A loaded model that turns audio into text with any subset of its blocks."""

    @property
    def name(self) -> str:
        """The folder that it was loaded from."""
        ...

    @property
    def n_blocks(self) -> int: ...

    @property
    def features(self) -> Features:
        """The function that turns samples into the network's input."""
        ...

    @property
    def ladder(self) -> Ladder | None:
        """The ladder beside the model, if it has one."""
        ...

    @property
    def device(self) -> str:
        """The device that computes: "cpu", "cuda:0", ..."""
        ...

    @property
    def threads(self) -> int:
        """The number of threads of one pass on the CPU."""
        ...

    @property
    def has_loss(self) -> bool:
        """True where `loss_and_text` gives a loss."""
        ...

    @property
    def writes_apart(self) -> bool:
        """True where writing a text costs more than its loss: it is written token by token."""
        ...

    def subset(self, depth: int | None = None) -> BlockSubset:
        """Return the blocks to run at `depth` (None: all): the ladder's, or evenly spaced ones without a ladder."""
        ...

    def cost(self, subset: Blocks) -> Cost:
        """Return parameters in use and multiply-accumulates per second of audio."""
        ...

    def transcribe(self, audio: Audio, depth: int | None = None, subset: BlockSubset | None = None) -> Transcript:
        """Return the transcript of a file or of samples, of any length: `answer` with the fields of a `Request`."""
        ...

    def answer(self, audio: Audio, request: Request) -> Transcript:
        """Return the transcript by the blocks or the constraint of `request`."""
        ...

    def recognize(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        """Return the text of each utterance of a batch: greedy, or by the search of `request`."""
        ...

    def settled(self, request: Request, subset: Blocks | None = None) -> Request:
        """Return a request with the weights that were tuned for its language model at its depth, or at `subset`."""
        ...

    @property
    def pieces(self) -> Pieces:
        """The texts of a CTC model's tokens. Raises `UserError` for other models."""
        ...

    def log_probs(self, batch: FeatureBatch, subset: Blocks) -> list[NDArray[np.float32]]:
        """Return a CTC model's log-probabilities (T, V) of each utterance. Raises `UserError` for other models."""
        ...

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        """Return the loss of the transcripts summed over a batch's utterances (infinite without `has_loss`)."""
        ...

    def loss_and_text(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return the loss summed over a batch's utterances (infinite without `has_loss`), and their texts."""
        ...

    def pass_over(self, batch: FeatureBatch, subset: Blocks) -> Callable[[], object]:
        """Return a function that runs the network alone on a batch, and returns when the device has finished."""
        ...
