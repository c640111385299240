"""From an exported encoder-decoder model to texts: greedy or beam search, with other searches where a text loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.whisper_mel import is_silent
from layerdial.errors import UserError
from layerdial.recognition.pieces import PieceResult, again_with_all_blocks, recognize_pieces, texts_of
from layerdial.recognizer import Audio, FeatureBatch
from layerdial.request import Request
from layerdial.runtime.decoding import RecognizeStretch, tokens_of
from layerdial.runtime.manifest import Manifest, read_features
from layerdial.runtime.scheduler import PassResult
from layerdial.runtime.session import Cancel
from layerdial.runtime.token_session import OnnxEncoded, TokenSession
from layerdial.subset import BlockSubset
from layerdial.text.byte_level import ByteTable
from layerdial.text.prompt import DecoderUse
from layerdial.text.speech_rate import usual_text
from layerdial.text.token_fallback import decode_again, decode_once, decode_with_fallback
from layerdial.text.token_rules import NOTHING, TokenRules, Written
from layerdial.text.token_words import words_of
from layerdial.transcript import Transcribed


@dataclass(frozen=True)
class TokenSearch:
    """How a request has its text searched."""

    use: DecoderUse
    beams: int = 1


@dataclass(frozen=True)
class OneSearch:
    """See `layerdial.runtime.scheduler.Search`; `rows` is the number of beams."""

    encoded: OnnxEncoded
    seconds: float
    rules: TokenRules
    rows: int

    @property
    def is_measured(self) -> bool:
        use = self.encoded.use
        return self.rows == 1 and use.subset.depth == use.subset.n_blocks

    def first(self, cancel: Cancel | None = None) -> Written:
        return decode_once(self.encoded.until(cancel), self.seconds, self.rules, self.rows)

    def again(self, found: Written, cancel: Cancel | None = None) -> Written:
        if self.rows > 1:  # as in torch: nothing follows beams
            return found
        return decode_again(self.encoded.until(cancel), self.seconds, self.rules, found)


class TokenDecoding:
    """See `layerdial.runtime.decoding.Decoding`."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        assert manifest.decoder is not None
        self.features: Features = read_features(manifest.features)
        self.session = TokenSession(folder, manifest, threads)
        facts, tokens = manifest.decoder, tokens_of(folder, manifest, blank=False)
        self.rules = TokenRules.of(facts.suppressed, facts.not_first, tokens, facts.end)
        self.tokenizer = ByteTable(tokens, facts.end)
        self.search = TokenSearch(self.session.default_use())

    def of(self, request: Request, model: str) -> TokenDecoding:
        facts = self.session.facts
        if request.words and not facts.alignment_heads:
            raise UserError(f"words: {model} was exported by an earlier version, without their times; export it again")
        use = self.search.use.for_request(request, self.tokenizer.tokens, not facts.pads_input, facts.alignment_heads)
        changed = copy(self)
        request.refuse_ctc_options(model)
        if request.hotwords is not None:
            from layerdial.text.hotwords import hotwords_of

            changed.rules = self.rules.with_hotwords(hotwords_of(request.hotwords), self.tokenizer)
        changed.search = TokenSearch(use, request.beams or 1)
        return changed

    @property
    def rows(self) -> int:
        return self.search.beams

    def run(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        result = self.begin(inputs, subset, cancel)
        if result.search is None:
            return result
        written = result.search.first(cancel)
        if written.looped:
            written = result.search.again(written, cancel)
        return replace(result, written=written, confidence=math.exp(written.mean_logp))

    def begin(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        if is_silent(inputs):
            return PassResult([], 1.0, subset, written=NOTHING, ran=False)
        encoded = self.session.encode(inputs[None], np.array([len(inputs)]), subset, self.search.use, cancel)
        search = OneSearch(encoded, len(inputs) / self.features.per_second, self.rules, self.search.beams)
        return PassResult([], 0.0, subset, search=search)

    def texts(self, batch: FeatureBatch, subset: BlockSubset) -> list[str]:
        return texts_of(batch, self.written(batch, subset), self.tokenizer.decode)

    def written(self, batch: FeatureBatch, subset: BlockSubset) -> list[Written]:
        """Return the transcript of each utterance of a batch."""
        if self.search.beams > 1:  # which follow one utterance at a time
            rows = zip(batch.inputs, batch.lengths_B.tolist(), strict=True)
            return [self.run(inputs[:length], subset).written or NOTHING for inputs, length in rows]
        encoded = self.session.encode(batch.inputs, batch.lengths_B, subset, self.search.use)
        seconds = [length / self.features.per_second for length in batch.lengths_B.tolist()]
        return decode_with_fallback(encoded, seconds, self.rules)

    def labels(self, batch: FeatureBatch, subset: BlockSubset) -> tuple[NDArray[np.int64], list[int]]:
        """Return the tokens (B, U) that are written of each utterance and their end, and how many they are."""
        end = self.rules.end
        rows = [[*one.tokens, end][: self.session.facts.most_tokens] for one in self.written(batch, subset)]
        counts = [len(row) for row in rows]
        return np.array([row + [end] * (max(counts) - len(row)) for row in rows]), counts

    def pass_over(self, batch: FeatureBatch, subset: BlockSubset) -> Callable[[], object]:
        return partial(self._usual_pass, batch.inputs, batch.lengths_B, subset)

    def usual_search(self, inputs: NDArray[np.float32]) -> tuple[Callable[[], object], int]:
        lengths_B = np.array([len(inputs)])
        encoded = self.session.encode(inputs[None], lengths_B, BlockSubset.full(self.session.manifest.n_blocks))
        n_tokens = usual_text(encoded.most_tokens, len(inputs) / self.features.per_second)
        return partial(repeat_tokens, encoded, n_tokens, self.rules), n_tokens

    def _usual_pass(self, inputs: NDArray[np.float32], lengths_B: NDArray[np.int64], subset: BlockSubset) -> None:
        encoded = self.session.encode(inputs, lengths_B, subset, self.search.use)
        repeat_tokens(encoded, usual_text(encoded.most_tokens, inputs.shape[1] / self.features.per_second))

    def transcribe(self, audio: Audio, recognize: RecognizeStretch, subset: BlockSubset | None) -> Transcribed:
        def piece(samples: NDArray[np.float32], begin: float, end: float, blocks: BlockSubset | None) -> PieceResult:
            result, chunk = recognize(samples, begin, end, blocks)
            assert result.written is not None
            return PieceResult(result.written, chunk)

        def by_request(samples: NDArray[np.float32], begin: float, end: float) -> PieceResult:
            return piece(samples, begin, end, None)

        recognize_piece = by_request if subset is None else again_with_all_blocks(piece, subset)
        words = partial(words_of, self.tokenizer) if self.search.use.heads else None
        return recognize_pieces(audio, recognize_piece, self.tokenizer.decode, self.search.use.stamps, words)


def repeat_tokens(encoded: OnnxEncoded, n_tokens: int, rules: TokenRules | None = None) -> None:
    """Make `n_tokens` steps of the decoder, each with the last token of the prompt: their cost is that of any text.

    With `rules` the best token of each step is found too, as a search does.
    """
    steps = encoded.begin()
    tokens_BU = np.tile(np.array(encoded.prompt, np.int64), (len(encoded), 1))
    for _ in range(n_tokens):
        logits_BUV = steps.next(tokens_BU)
        if rules is not None:
            rules.log_probs(logits_BUV[:, -1], tokens_BU.tolist()).argmax(axis=-1)
        tokens_BU = tokens_BU[:, -1:]
