"""A loaded model that transcribes: the network with its tokenizer and, when it has one, its ladder."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerdial.audio.features import Features
from layerdial.cost import Cost
from layerdial.errors import UserError
from layerdial.ladder import Ladder, select
from layerdial.models.checkpoint import load_network, resolve_model
from layerdial.models.cost import forward_pass, subset_cost
from layerdial.models.network import Network
from layerdial.modules.losses import ctc_per_utterance
from layerdial.recognizer import (
    Audio,
    Chunk,
    FeatureBatch,
    Transcript,
    WindowResult,
    collate_features,
    recognize_windows,
)
from layerdial.request import Request
from layerdial.subset import Blocks, BlockSubset
from layerdial.text.ctc import batch_texts, greedy_ctc
from layerdial.text.tokenizer import Tokenizer
from layerdial.utils.forks import renew_after_fork


class TorchRecognizer:
    """Greedy CTC recognition with any subset of the network's blocks."""

    def __init__(
        self, network: Network, tokenizer: Tokenizer, ladder: Ladder | None = None, name: str = "model"
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
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

        def recognize(samples: NDArray[np.float32], begin: float, end: float) -> WindowResult:
            return WindowResult(self._frame_ids(samples, subset), Chunk(begin, end, subset))

        frame_ids, chunks, seconds = recognize_windows(audio, self.features, recognize)
        text = self.tokenizer.decode(greedy_ctc(frame_ids))
        return Transcript(text, subset, seconds, (time.perf_counter() - start) / seconds, chunks=chunks)

    def recognize(self, batch: FeatureBatch, subset: Blocks) -> list[str]:
        """Return the text of each utterance of a batch."""
        return self._texts(*self._posteriors(batch, subset))

    def loss_and_text(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return the CTC loss summed over the batch's utterances, and their texts, from one forward pass.

        Two kinds of utterances add nothing to the loss, but add their errors to the WER. The tokenizer cannot encode
        the text of the first. CTC cannot align the second, whose text needs more frames than there are.
        """
        logp_BTV, lengths_B = self._posteriors(batch, subset)
        labels = [self._labels(text) for text in batch.texts]
        tokens_BU = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
        token_lengths_B = torch.tensor([len(label) for label in labels])
        losses_B = ctc_per_utterance(logp_BTV, lengths_B.cpu(), tokens_BU.to(logp_BTV.device), token_lengths_B).cpu()
        counts_B = ~losses_B.isposinf() & (token_lengths_B > 0)
        return float(losses_B[counts_B].sum()), self._texts(logp_BTV, lengths_B)

    def _labels(self, text: str) -> Tensor:
        try:
            return torch.tensor(self.tokenizer.encode(text), dtype=torch.long)
        except UserError:
            return torch.zeros(0, dtype=torch.long)

    def _posteriors(self, batch: FeatureBatch, subset: Blocks) -> tuple[Tensor, Tensor]:
        self.network.eval()
        with torch.inference_mode():
            inputs = torch.from_numpy(batch.inputs).to(self.device)
            output = self.network(inputs, torch.from_numpy(batch.lengths_B), subset)
        return output.log_probs_BTV, output.lengths_B

    def _texts(self, logp_BTV: Tensor, lengths_B: Tensor) -> list[str]:
        return batch_texts(self.tokenizer.decode, logp_BTV.argmax(dim=-1).tolist(), lengths_B.tolist())

    def _frame_ids(self, samples: NDArray[np.float32], subset: BlockSubset) -> list[int]:
        logp_BTV, _ = self._posteriors(collate_features([""], [self.features(samples)], [""], 0.0), subset)
        ids: list[int] = logp_BTV[0].argmax(dim=-1).tolist()
        return ids


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
