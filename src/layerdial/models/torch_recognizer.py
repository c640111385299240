"""A loaded model that transcribes: the network with its tokenizer and, when it has one, its ladder."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.cost import Cost
from layerdial.errors import UserError
from layerdial.ladder import Ladder, select
from layerdial.models.checkpoint import fingerprint, load_network, resolve_model
from layerdial.models.chunk_model import TorchChunkModel
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.cost import forward_pass, subset_cost
from layerdial.models.decoding import CtcDecoding, decoding_for
from layerdial.models.network import Network
from layerdial.models.streaming import streaming_network
from layerdial.recognition.chunk_model import CHUNK_MS, ChunkModel
from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS, Endpoints
from layerdial.recognition.stream_depths import Depths
from layerdial.recognition.streaming import Stream
from layerdial.recognizer import Audio, FeatureBatch, check_whole
from layerdial.request import Request
from layerdial.subset import Blocks, BlockSubset
from layerdial.text.ctc_beams import Pieces
from layerdial.text.tokenizer import Tokenizer
from layerdial.text.tuned import with_tuned
from layerdial.transcript import Transcribed, Transcript
from layerdial.utils.forks import renew_after_fork


class TorchRecognizer:
    """Recognition with any subset of the network's blocks, by CTC or by a decoder."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer, ladder: Ladder | None = None, name: str = "model"
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.decoding = decoding_for(network, tokenizer)
        self.ladder = ladder
        self.name = name
        self.folder: Path | None = None
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Compute with one thread: a child has not got the threads that torch had, and would wait for them."""
        torch.set_num_threads(1)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickle as the folder and the device where it was loaded from a folder; else with its weights."""
        if self.folder is None:
            return TorchRecognizer, (self.network, self.tokenizer, self.ladder, self.name)
        return load_torch_model, (self.folder.resolve(), self.device)

    @property
    def n_blocks(self) -> int:
        return self.network.n_blocks

    @property
    def features(self) -> Features:
        return self.network.features

    @property
    def device(self) -> str:
        return str(next(self.network.parameters()).device)

    @property
    def has_loss(self) -> bool:
        return True

    @property
    def writes_apart(self) -> bool:
        return self.network.labels.teacher_forced

    @property
    def threads(self) -> int:
        """Torch's number of threads in this process."""
        return torch.get_num_threads()

    def subset(self, depth: int | None = None) -> BlockSubset:
        """Return the blocks to run at `depth` (None: all): the ladder's choice, or evenly spaced without a ladder."""
        return select(None, self.n_blocks, depth, self.ladder)

    def cost(self, subset: Blocks) -> Cost:
        """Return parameters in use and multiply-accumulates per second of audio, counted on a pass of 10 s."""
        return subset_cost(self.network, subset)

    def pass_over(self, batch: FeatureBatch, subset: Blocks) -> Callable[[], object]:
        """Return a function that runs the network alone on a batch, and returns when the device has finished."""
        inputs = torch.from_numpy(batch.inputs).to(self.device)
        return forward_pass(self.network, subset, inputs, torch.from_numpy(batch.lengths_B))

    def transcribe(self, audio: Audio, depth: int | None = None, subset: BlockSubset | None = None) -> Transcript:
        """Return the transcript of a file, or of an array of samples (S,) at 16 kHz within [-1, 1].

        `depth` selects the ladder's subset; `subset` is used as it is; with neither all blocks run. A file may have any
        sample rate, several channels and any length. Raises `UserError` for a file that is not audio or empty, and for
        samples that are not finite. It is also raised for a depth that the model does not have.
        """
        return self.answer(audio, Request(depth, subset))

    def answer(self, audio: Audio, request: Request) -> Transcript:
        """Return the transcript by the blocks of `request`.

        Raises `UserError` for a constraint, which requires an exported model.
        """
        for name in request.constraints:
            raise UserError(
                f"{name} needs an exported model: layerdial export {self.name} OUT, then transcribe with OUT"
            )
        subset = request.subset or self.subset(request.depth)
        start = time.perf_counter()
        transcribe = self.decoding.transcriber(subset, self.settled(request, subset))
        if request.vad:
            from layerdial.recognition.speech import transcribe_speech

            made = transcribe_speech(audio, lambda piece: transcribe(piece.samples))
        else:
            made = transcribe(audio)
        return Transcript.of(made, time.perf_counter() - start, subset)

    def recognize(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        """Return the text of each utterance of a batch: greedy, or by the search of `request`."""
        return self.decoding.texts(batch, subset, None if request is None else self.settled(request, subset))

    def settled(self, request: Request, subset: Blocks | None = None) -> Request:
        """Return a request with the weights that were tuned for its language model at its depth, or at `subset`."""
        folder = self.folder
        if request.lm is None or folder is None:
            return request
        depth = (subset or request.subset or self.subset(request.depth)).depth
        return with_tuned(request, folder, partial(fingerprint, folder), depth)

    @property
    def pieces(self) -> Pieces:
        """The texts of a CTC model's tokens. Raises `UserError` for other models."""
        return self._ctc.pieces

    def log_probs(self, batch: FeatureBatch, subset: Blocks) -> list[NDArray[np.float32]]:
        """Return a CTC model's log-probabilities (T, V) of each utterance. Raises `UserError` for other models."""
        return self._ctc.log_probs(batch, subset)

    # --------------------------------------------------------------------------------------------------- chunk by chunk

    @property
    def takes_chunks(self) -> bool:
        """Whether the network was trained to take speech in chunks."""
        return isinstance(self.network, ConformerCTC) and self.network.config.streaming is not None

    def chunk_model(self) -> ChunkModel:
        """Return the network, a chunk at a time. Raises `UserError` for a model that takes whole utterances."""
        return self._chunk_model

    @cached_property
    def _chunk_model(self) -> TorchChunkModel:
        return TorchChunkModel(streaming_network(self.network, self.name))

    def stream(
        self,
        request: Request | None = None,
        *,
        depth: Depths | None = None,
        chunk_ms: int = CHUNK_MS,
        endpoints: Endpoints | None = DEFAULT_ENDPOINTS,
    ) -> Stream:
        """Return a stream, which takes samples as they come; see `open_stream`."""
        from layerdial.runtime.streams import open_stream

        return open_stream(self, request, depth, chunk_ms, endpoints)

    def calibrated(self, made: Transcribed) -> Transcribed:
        """Return a transcript as it is: `layerdial calibrate` is for exported models."""
        return made

    # ----------------------------------------------------------------------------------------------------------- parts

    @property
    def _ctc(self) -> CtcDecoding:
        if isinstance(self.decoding, CtcDecoding):
            return self.decoding
        raise UserError(f"{self.name} has a decoder, which is a language model itself; give a CTC model")

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        """Return the transcripts' loss summed over the batch's utterances (CTC, or cross-entropy)."""
        check_whole(batch)
        return self.decoding.loss(batch, subset)

    def loss_and_text(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return the transcripts' loss summed over the batch's utterances (CTC, or cross-entropy), and their texts."""
        check_whole(batch)
        return self.decoding.loss_and_texts(batch, subset)


def load_torch_model(folder: Path, device: str = "cpu") -> TorchRecognizer:
    """Load a torch model folder or hub id, with its ladder when it has one.

    Raises `UserError` when the folder is not a model or is damaged, and when its ladder is for another number of
    blocks. It is also raised when the device does not exist.
    """
    folder = resolve_model(folder)
    _check_device(device)
    network, tokenizer = load_network(folder)
    ladder = Ladder.beside(folder, network.n_blocks)
    recognizer = TorchRecognizer(network.to(device), tokenizer, ladder, name=str(folder))
    recognizer.folder = folder
    return recognizer


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name} cannot be used: {reason}; choose cpu, or cuda where there is a GPU") from None
