"""The two graphs of an exported encoder-decoder model in ONNX Runtime: utterances in, logits of tokens out.

Shapes: B batch, T mel frames, T' encoder frames, F mel bins, D width, H heads, U tokens of a step, V vocabulary, A
alignment heads (of one utterance: their queries and keys are (A, U or T', D/H)).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.whisper_mel import check_length, pad_with_silence
from layerdial.errors import UserError
from layerdial.runtime.manifest import DECODER, ENCODER, FILE, DecoderFacts, Manifest
from layerdial.runtime.session import Cancel, LoadedGraph, check_ends, gates_of, model_id_of
from layerdial.subset import BlockSubset
from layerdial.text.prompt import DecoderUse
from layerdial.text.token_rules import log_softmax

Ends = tuple[tuple[str, ...], tuple[str, ...]]


def caches(*names: str, n_blocks: int) -> tuple[str, ...]:
    """Return the names of keys and values of each block of the decoder."""
    return tuple(f"{name}_{i}" for name in names for i in range(n_blocks))


def encoder_ends(n_blocks: int) -> Ends:
    """Return the names of the encoder's inputs and outputs, for so many blocks of the decoder."""
    return ("x", "x_lens", "gates", "decoder_gates"), ("frames", *caches("keys", "values", n_blocks=n_blocks))


def decoder_ends(facts: DecoderFacts) -> Ends:
    """Return the names of the inputs and outputs of a step of the decoder; earlier versions' have no queries."""
    n_blocks = facts.n_blocks
    inputs = caches("keys", "values", "past_keys", "past_values", n_blocks=n_blocks)
    queries = ("queries",) if facts.alignment_heads else ()
    outputs = caches("present_keys", "present_values", *queries, n_blocks=n_blocks)
    return ("tokens", "frames", "decoder_gates", *inputs), ("logits", *outputs)


class TokenSession:
    """Both graphs, loaded once in a process, run by any number of threads."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        assert manifest.decoder is not None
        self.manifest, self.facts, self.threads = manifest, manifest.decoder, threads
        n_blocks = self.facts.n_blocks
        files = folder / ENCODER, folder / DECODER
        ends = encoder_ends(n_blocks), decoder_ends(self.facts)
        self.encoder, self.decoder = (
            LoadedGraph(file, threads, _checker(file, manifest, end)) for file, end in zip(files, ends, strict=True)
        )

    def default_use(self) -> DecoderUse:
        """Return the decoder's own prompt, and all its blocks."""
        return DecoderUse(self.facts.prompt, BlockSubset.full(self.facts.n_blocks))

    def encode(
        self,
        inputs: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        subset: BlockSubset,
        use: DecoderUse | None = None,
        cancel: Cancel | None = None,
    ) -> OnnxEncoded:
        """Run the encoder on zero-padded log-mel (B, T, F).

        Raises `Cancelled` when `cancel` was called in the meantime, and `UserError` for more than the encoder takes.
        """
        use = use or self.default_use()
        check_length(inputs.shape[1], self.facts.longest)
        if self.facts.pads_input:
            rows = zip(inputs, lengths_B.tolist(), strict=True)
            inputs = np.stack([pad_with_silence(row[:length], self.facts.longest) for row, length in rows])
            lengths_B = np.full_like(lengths_B, self.facts.longest)
        gates = (
            gates_of(subset, self.manifest.n_blocks, "encoder"),
            gates_of(use.subset, self.facts.n_blocks, "decoder"),
        )
        inputs_of, outputs_of = encoder_ends(self.facts.n_blocks)
        given = inputs, lengths_B, *gates
        feed = {name: _value(array) for name, array in zip(inputs_of, given, strict=True)}
        frames_B, *memory = self.encoder.run(outputs_of, feed, cancel)
        return OnnxEncoded(self, use, frames_B, tuple(memory), cancel)

    def posteriors(
        self,
        inputs: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        subset: BlockSubset,
        labels_BU: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return the log-probabilities (B, U, V) of labels, each given those before it (teacher forcing)."""
        encoded = self.encode(inputs, lengths_B, subset)
        prompt_BP = np.tile(np.array(encoded.prompt, np.int64), (len(labels_BU), 1))
        logits = encoded.begin().next(np.concatenate([prompt_BP, labels_BU[:, :-1]], axis=1))
        return log_softmax(logits[:, prompt_BP.shape[1] - 1 :])


@dataclass(frozen=True)
class OnnxEncoded:
    """Utterances that the encoder has read; see `layerdial.text.token_decoding.Encoded`.

    `memory` are ONNX Runtime's values: keys (B, H, T', D/H) of each block of the decoder, then values.
    """

    session: TokenSession
    use: DecoderUse
    frames_B: Any
    memory: tuple[Any, ...]
    cancel: Cancel | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.use.prompt

    @property
    def most_tokens(self) -> int:
        return self.session.facts.most_tokens

    def __len__(self) -> int:
        return int(self.frames_B.shape()[0])

    def begin(self) -> OnnxSteps:
        return OnnxSteps(self)

    def until(self, cancel: Cancel | None) -> OnnxEncoded:
        """Return the same, which another thread stops by `cancel`."""
        return replace(self, cancel=cancel)

    def keys(self) -> NDArray[np.float32]:
        by_block = {block: self.memory[block].numpy()[0] for block in {block for block, _ in self.use.heads}}
        return np.stack([by_block[block][head] for block, head in self.use.heads])

    def of(self, row: int) -> OnnxEncoded:
        return self.of_rows([row])

    def of_rows(self, rows: Sequence[int]) -> OnnxEncoded:
        """Return some utterances of the batch, in this order."""
        return replace(self, frames_B=_rows(self.frames_B, rows), memory=tuple(_rows(one, rows) for one in self.memory))


class OnnxSteps:
    """The decoder with its keys and values of the tokens so far."""

    def __init__(self, encoded: OnnxEncoded) -> None:
        self._encoded = encoded
        facts, session = encoded.session.facts, encoded.session
        self._inputs, outputs = decoder_ends(facts)
        self._asked = dict.fromkeys(block for block, _ in encoded.use.heads)  # blocks, each once
        self._queries = list[list[Any]]()
        # what nobody asks for is not copied
        self._outputs = [*outputs[: 1 + 2 * facts.n_blocks], *(f"queries_{block}" for block in self._asked)]
        self._gates = _value(gates_of(encoded.use.subset, facts.n_blocks, "decoder"))
        nothing = _value(np.zeros((len(encoded), facts.n_heads, 0, facts.head_width), np.float32))
        self._past = [nothing] * (2 * facts.n_blocks)
        self._graph = session.decoder

    def next(self, tokens_BU: NDArray[np.int64]) -> NDArray[np.float32]:
        given = (_value(tokens_BU), self._encoded.frames_B, self._gates, *self._encoded.memory, *self._past)
        feed = dict(zip(self._inputs, given, strict=True))
        logits, *made = self._graph.run(self._outputs, feed, self._encoded.cancel)
        self._past, queries = made[: len(self._past)], made[len(self._past) :]
        self._queries.append(queries)
        found: NDArray[np.float32] = logits.numpy()
        return found

    def queries(self) -> NDArray[np.float32]:
        width = self._encoded.session.facts.head_width
        of_calls = zip(*self._queries, strict=True)
        by_block = {
            block: np.concatenate([one.numpy()[0] for one in calls])
            for block, calls in zip(self._asked, of_calls, strict=True)
        }
        heads = self._encoded.use.heads
        return np.stack([by_block[block][:, head * width : (head + 1) * width] for block, head in heads])

    def reorder(self, rows: Sequence[int]) -> None:
        if len(rows) != len(self._encoded):
            self._encoded = self._encoded.of_rows([0] * len(rows))
        self._past = [_rows(one, rows) for one in self._past]


def _value(array: Any) -> Any:
    """Return an array as ONNX Runtime's own value, which refers to it."""
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _rows(value: Any, rows: Iterable[int]) -> Any:
    return _value(value.numpy()[list(rows)])


def _checker(file: Path, manifest: Manifest, ends: Ends) -> Any:
    """Return a function that raises `UserError` unless a graph is of the export that the manifest describes."""

    def check(session: Any) -> None:
        check_ends(session, file, *ends)
        found = model_id_of(session), _sizes(session)
        if found != (manifest.model_id, _expected_sizes(session, manifest)):
            raise UserError(f"{file} and {FILE} are not from one export; copy or export the folder again")

    return check


def _sizes(session: Any) -> dict[str, int]:
    """Return the sizes of a graph that its manifest also says, by the names of its inputs and outputs."""
    ends = {end.name: end.shape for end in (*session.get_inputs(), *session.get_outputs())}
    return {name: ends[name][-1] for name in ("gates", "decoder_gates", "logits", "keys_0") if name in ends}


def _expected_sizes(session: Any, manifest: Manifest) -> dict[str, int]:
    facts = manifest.decoder
    assert facts is not None
    every = {"gates": manifest.n_blocks, "decoder_gates": facts.n_blocks, "logits": manifest.vocab_size}
    return {name: every.get(name, facts.head_width) for name in _sizes(session)}
