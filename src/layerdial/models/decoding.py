"""From a network's outputs to texts: the best token of each frame (CTC), or what a decoder writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerdial.audio.whisper_mel import is_silent
from layerdial.errors import UserError
from layerdial.models.network import Network
from layerdial.modules.losses import cross_entropy_per_utterance, ctc_per_utterance
from layerdial.recognition.ctc import CtcUse, transcribe_ctc
from layerdial.recognition.pieces import PieceResult, again_with_all_blocks, recognize_pieces, texts_of
from layerdial.recognition.windows import WindowResult
from layerdial.recognizer import Audio, FeatureBatch, collate_features
from layerdial.request import Request
from layerdial.subset import Blocks, BlockSubset
from layerdial.text.byte_level import ByteTable
from layerdial.text.ctc import batch_texts
from layerdial.text.ctc_beams import Pieces
from layerdial.text.hotwords import hotwords_of
from layerdial.text.pieces import piece_table
from layerdial.text.prompt import DecoderUse
from layerdial.text.token_fallback import decode_one, decode_with_fallback
from layerdial.text.token_rules import NOTHING, TokenRules, Written
from layerdial.text.token_words import words_of
from layerdial.text.tokenizer import Tokenizer
from layerdial.transcript import Chunk, Transcribed

if TYPE_CHECKING:
    from layerdial.models.huggingface.whisper import Memory, WhisperNetwork
    from layerdial.models.huggingface.whisper_decoding import TorchEncoded
    from layerdial.models.huggingface.whisper_tokenizer import WhisperTextTokenizer


Transcribe = Callable[[Audio], Transcribed]


class Decoding(Protocol):
    """How a recogniser of one kind of network makes texts."""

    def texts(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        """Return the text of each utterance of a batch: greedy, or by the search of `request`."""
        ...

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        """Return the loss of the transcripts summed over a batch's utterances."""
        ...

    def loss_and_texts(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return the loss of the transcripts summed over a batch's utterances, and their texts."""
        ...

    def transcriber(self, subset: Any, request: Request) -> Transcribe:
        """Return what transcribes audio of any length as a request says. `subset` is that of the request."""
        ...


def decoding_for(network: Network, tokenizer: Tokenizer) -> Decoding:
    """Return what decodes the outputs of a network."""
    kind: Any = TokenDecoding if network.labels.teacher_forced else CtcDecoding
    return kind(network, tokenizer)  # type: ignore[no-any-return]


class _Decoding:
    def __init__(self, network: Network, tokenizer: Tokenizer) -> None:
        self.network, self.tokenizer = network, tokenizer

    def _inputs(self, batch: FeatureBatch) -> tuple[Tensor, Tensor]:
        device = next(self.network.parameters()).device
        return torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.lengths_B)

    def _labels(self, text: str) -> Tensor:
        try:
            return torch.tensor(self.tokenizer.encode(text), dtype=torch.long)
        except UserError:
            return torch.zeros(0, dtype=torch.long)


class CtcDecoding(_Decoding):
    """CTC: greedy, or by the beam search of a request."""

    @cached_property
    def pieces(self) -> Pieces:
        table, silent = piece_table(self.tokenizer)
        return Pieces(table.tokens, silent)

    def texts(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        if request is None or not request.searches:
            return self._texts(*self._posteriors(batch, subset))
        decoder = CtcUse.of(request, lambda: self.pieces, "this model").decoder
        assert decoder is not None
        return [self.tokenizer.decode(decoder.labels_of(logp_TV)) for logp_TV in self.log_probs(batch, subset)]

    def log_probs(self, batch: FeatureBatch, subset: Blocks) -> list[NDArray[np.float32]]:
        """Return the log-probabilities (T, V) of each utterance of a batch."""
        logp_BTV, lengths_B = self._posteriors(batch, subset)
        rows = zip(logp_BTV.float().cpu().numpy(), lengths_B.tolist(), strict=True)
        return [logp_TV[:length] for logp_TV, length in rows]

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        return self.loss_and_texts(batch, subset)[0]

    def loss_and_texts(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
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

    def transcriber(self, subset: Any, request: Request) -> Transcribe:
        use = CtcUse.of(request, lambda: self.pieces, "this model")

        def recognize(samples: Any, begin: float, end: float) -> WindowResult:
            batch = collate_features([""], [self.network.features(samples)], [""], 0.0)
            logp_BTV, _ = self._posteriors(batch, subset)
            ids, chunk = logp_BTV[0].argmax(dim=-1).tolist(), Chunk(begin, end, subset)
            return WindowResult(ids, chunk, logp_BTV[0].float().cpu().numpy() if use.needs_log_probs else None)

        def transcribe(audio: Audio) -> Transcribed:
            return transcribe_ctc(audio, self.network.features, recognize, self.tokenizer.decode, use)

        return transcribe

    def _posteriors(self, batch: FeatureBatch, subset: Blocks) -> tuple[Tensor, Tensor]:
        self.network.eval()
        inputs, lengths_B = self._inputs(batch)
        with torch.inference_mode():
            output = self.network(inputs, lengths_B, subset)
        return output.log_probs_BTV, output.lengths_B

    def _texts(self, logp_BTV: Tensor, lengths_B: Tensor) -> list[str]:
        return batch_texts(self.tokenizer.decode, logp_BTV.argmax(dim=-1).tolist(), lengths_B.tolist())


class TokenDecoding(_Decoding):
    """Greedy decoding, token by token, with other searches where a text loops."""

    network: WhisperNetwork
    tokenizer: WhisperTextTokenizer

    def __init__(self, network: WhisperNetwork, tokenizer: Any) -> None:
        super().__init__(network, tokenizer)
        settings = network.model.generation_config
        never, not_first = settings.suppress_tokens or (), settings.begin_suppress_tokens or ()
        self.rules = TokenRules.of(never, not_first, tokenizer.tokens, tokenizer.end)

    @cached_property
    def _bytes(self) -> ByteTable:
        return ByteTable(self.tokenizer.tokens, self.tokenizer.end)

    def texts(self, batch: FeatureBatch, subset: Blocks, request: Request | None = None) -> list[str]:
        if request is not None and request.searches:
            _, write = self._search(request)
            rows = zip(batch.inputs, batch.lengths_B.tolist(), strict=True)
            written = [write(inputs[:length], subset) for inputs, length in rows]
            return texts_of(batch, written, self.tokenizer.decode)
        self.network.eval()
        with torch.inference_mode():
            memory, _ = self.network.encode(*self._inputs(batch), subset)
            return self._write(memory, batch)

    def loss(self, batch: FeatureBatch, subset: Blocks) -> float:
        self.network.eval()
        with torch.inference_mode():
            memory, _ = self.network.encode(*self._inputs(batch), subset)
            return self._loss(memory, batch)

    def loss_and_texts(self, batch: FeatureBatch, subset: Blocks) -> tuple[float, list[str]]:
        """Return the cross-entropy summed over the batch's utterances, and their texts."""
        self.network.eval()
        with torch.inference_mode():
            memory, _ = self.network.encode(*self._inputs(batch), subset)
            return self._loss(memory, batch), self._write(memory, batch)

    def _loss(self, memory: Memory, batch: FeatureBatch) -> float:
        """Return the cross-entropy summed over the batch's utterances.

        Tokens beyond those that the decoder can write add nothing.
        """
        labels = [self._labels(text)[: self.network.most_tokens] for text in batch.texts]
        tokens_BU = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True).to(memory.states_BTD.device)
        logp_BUV = self.network.score(memory, tokens_BU)
        losses_B = cross_entropy_per_utterance(logp_BUV, tokens_BU, torch.tensor([len(label) for label in labels]))
        return float(losses_B.sum())

    def transcriber(self, subset: Any, request: Request) -> Transcribe:
        """Return what transcribes audio of any length, cut where it is quiet, or where a segment ends."""
        decoder, write = self._search(request)

        def recognize(samples: Any, begin: float, end: float, subset: BlockSubset) -> PieceResult:
            return PieceResult(write(self.network.features(samples), subset), Chunk(begin, end, subset))

        again = again_with_all_blocks(recognize, subset)
        words = partial(words_of, ByteTable(self.tokenizer.tokens, self.tokenizer.end)) if decoder.heads else None
        return lambda audio: recognize_pieces(audio, again, self.tokenizer.decode, decoder.stamps, words)

    def _search(self, request: Request) -> tuple[DecoderUse, Callable[[Any, Any], Written]]:
        """Return how a request uses the decoder, and what writes the transcript of log-mel (T, F) with a subset."""
        from layerdial.models.huggingface.whisper_attention import alignment_heads

        trained_here = not self.network.pads_input
        heads = alignment_heads(self.network.model) if request.words else ()
        use = self.network.decoder_use.for_request(request, self.tokenizer.tokens, trained_here, heads)
        request.refuse_ctc_options("this model")
        rules = self.rules
        if request.hotwords is not None:
            rules = rules.with_hotwords(hotwords_of(request.hotwords), self._bytes)
        return use, partial(self._piece, use=use, beams=request.beams or 1, rules=rules)

    def _piece(self, inputs: Any, subset: Any, use: DecoderUse, beams: int, rules: TokenRules) -> Written:
        batch = collate_features([""], [inputs], [""], 0.0)
        if is_silent(batch.inputs[0]):
            return NOTHING
        self.network.eval()
        with torch.inference_mode():
            memory, _ = self.network.encode(*self._inputs(batch), subset)
            seconds = batch.inputs.shape[1] / self.network.features.per_second
            return decode_one(self._encoded(memory, use), seconds, rules, beams)

    def _write(self, memory: Memory, batch: FeatureBatch) -> list[str]:
        seconds = [length / self.network.features.per_second for length in batch.lengths_B.tolist()]
        encoded = self._encoded(memory, self.network.decoder_use)
        return texts_of(batch, decode_with_fallback(encoded, seconds, self.rules), self.tokenizer.decode)

    def _encoded(self, memory: Memory, use: DecoderUse) -> TorchEncoded:
        from layerdial.models.huggingface.whisper_decoding import TorchEncoded

        return TorchEncoded(self.network, memory, use)
