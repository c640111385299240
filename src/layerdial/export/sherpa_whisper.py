"""Whisper as the pair of graphs that sherpa-onnx's `OfflineRecognizer.from_whisper` loads, at one depth.

sherpa-onnx gives log-mel (1, F, T) followed by frames of zeros (`tail_paddings`; ten seconds by default), and takes the
most likely token of each step, whatever it is. So the first graph looks for those zeros, and gives the encoder what it
was trained with: audio as long as it is, or followed by silence up to 30 s. The second never finds the tokens likely
that the checkpoint suppresses.

Keys and values have the shape that sherpa-onnx allocates: (L, B, T', D) of the encoder's frames, (L, B, C, D) of the
tokens. Shapes: B batch, F mel bins, T mel frames, T' encoder frames, D width, H heads, L blocks of the decoder, C the
most tokens of the decoder, U tokens of a step, V vocabulary.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir import tape as ir_tape
from onnx_ir.passes.common import RemoveUnusedNodesPass

from layerdial.audio.features import WhisperMel
from layerdial.export.fixed import constant, fix_subset, put_first
from layerdial.export.writer import Traced
from layerdial.runtime.manifest import DECODER, ENCODER, DecoderFacts, read_features
from layerdial.subset import BlockSubset
from layerdial.text.byte_level import ByteTable

_CACHES = ("n_layer_self_k_cache", "n_layer_self_v_cache")
_CROSS = ("n_layer_cross_k", "n_layer_cross_v")
_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
_NEVER = -1e9  # added to the logits of tokens that may not be written
_LOUDEST_TO_SILENCE, _SILENCE = -2.0, -1.5  # in log-mel, see layerdial.audio.whisper_mel.silence


@dataclass(frozen=True)
class SherpaFolder:
    """What is written for one of sherpa-onnx's loaders: graphs by file, tokens, the call, metadata, notes."""

    graphs: dict[str, ir.Model]
    tokens: Sequence[str]
    call: str
    about: dict[str, str] = field(default_factory=dict)
    notes: str = ""


def whisper_folder(traced: Traced, subset: BlockSubset) -> SherpaFolder:
    """Return both graphs with the encoder's blocks of `subset` and all of the decoder's."""
    facts, pieces = traced.manifest.decoder, traced.pieces
    assert facts is not None and traced.decoder is not None and isinstance(pieces, ByteTable)
    decoder_subset = BlockSubset.full(facts.n_blocks)
    reader = fix_subset(traced.model, subset, decoder_subset)
    writer = fix_subset(traced.decoder, decoder_subset)
    _take_padded_mel(reader, facts, _n_mels(traced))
    _stack_memory(reader, facts)
    _suppress(writer, facts, pieces.tokens)
    _stack_caches(writer, facts)
    about = _metadata(traced, facts, pieces.tokens)
    call = f'from_whisper(\n    "{ENCODER}", "{DECODER}", tokens="tokens.txt", language="{_language(facts, pieces)}"\n)'
    in_base64 = [base64.b64encode(letters).decode() for letters in pieces.bytes]
    return SherpaFolder({ENCODER: reader, DECODER: writer}, in_base64, call, about, _NOTES)


def _n_mels(traced: Traced) -> int:
    features = read_features(traced.manifest.features)
    assert isinstance(features, WhisperMel)
    return features.n_mels


def _language(facts: DecoderFacts, pieces: ByteTable) -> str:
    return pieces.tokens[facts.prompt[1]].strip("<|>") if _is_multilingual(facts) else "en"


def _is_multilingual(facts: DecoderFacts) -> bool:
    return len(facts.prompt) > 2


def _width(facts: DecoderFacts) -> int:
    return facts.n_heads * facts.head_width


def _most_positions(facts: DecoderFacts) -> int:
    return facts.most_tokens + len(facts.prompt)


# ------------------------------------------------------------------------------------------------------- metadata


def _metadata(traced: Traced, facts: DecoderFacts, tokens: Sequence[str]) -> dict[str, str]:
    """Return what sherpa-onnx reads from the first graph: sizes, and the ids of special tokens by its own names."""
    special = {token: i for i, token in enumerate(tokens) if i >= facts.end}
    languages = [token for token in special if _LANGUAGE.fullmatch(token)]
    found = {
        "model_type": "whisper",
        "n_mels": _n_mels(traced),
        "n_text_layer": facts.n_blocks,
        "n_text_ctx": _most_positions(facts),
        "n_text_state": _width(facts),
        "n_vocab": len(tokens),
        "sot": facts.prompt[0],
        "eot": facts.end,
        "blank_id": tokens.index("Ġ") if "Ġ" in tokens else 0,
        "translate": special.get("<|translate|>", 0),
        "transcribe": special.get("<|transcribe|>", 0),
        "no_timestamps": facts.prompt[-1],
        "no_speech": next((special[token] for token in _NO_SPEECH if token in special), 0),
        "is_multilingual": int(_is_multilingual(facts)),
        "sot_sequence": ",".join(map(str, facts.prompt[:-1])),
        "all_language_tokens": ",".join(str(special[token]) for token in languages),
        "all_language_codes": ",".join(token.strip("<|>") for token in languages),
    }
    return {name: str(value) for name, value in found.items()}


# ---------------------------------------------------------------------------------------------- the graph that reads


def _take_padded_mel(model: ir.Model, facts: DecoderFacts, n_mels: int) -> None:
    """Make log-mel (B, F, T) the only input, without the zeros at its end."""
    graph = model.graph
    x, lengths = graph.inputs
    mel = _input("mel", ["batch", n_mels, "time"])
    tape = ir_tape.Tape()
    length = _frames_before_zeros(tape, mel)
    real = tape.op(
        "Slice", [tape.op("Transpose", [mel], {"perm": [0, 2, 1]}), constant(tape, [0]), length, _axis(tape)]
    )
    if facts.pads_input:
        real = _followed_by_silence(tape, real, length, facts.longest)
        length = constant(tape, [facts.longest])
    counted = tape.op("Expand", [length, tape.op("Shape", [mel], {"end": 1})])
    x.replace_all_uses_with(real)
    lengths.replace_all_uses_with(counted)
    put_first(model, tape)
    graph.inputs.clear()
    graph.inputs.append(mel)


def _axis(tape: ir_tape.Tape) -> ir.Value:
    return constant(tape, [1])


def _frames_before_zeros(tape: ir_tape.Tape, mel: ir.Value) -> ir.Value:
    """Return how many frames (1,) stand before the last ones of which every bin is zero; one at least."""
    zero, one = (tape.op("Constant", [], {"value_int": n}) for n in (0, 1))
    loudest_T = tape.op("ReduceMax", [tape.op("Abs", [mel]), constant(tape, [0, 1])], {"keepdims": 0})
    n_frames = tape.op("Squeeze", [tape.op("Shape", [mel], {"start": 2, "end": 3})])
    number_T = tape.op("Add", [tape.op("Range", [zero, n_frames, one]), one])
    is_real_T = tape.op("Greater", [loudest_T, tape.op("Constant", [], {"value_float": 0.0})])
    last = tape.op("ReduceMax", [tape.op("Where", [is_real_T, number_T, one]), constant(tape, [0])])
    return last


def _followed_by_silence(tape: ir_tape.Tape, x_BTF: ir.Value, length: ir.Value, longest: int) -> ir.Value:
    """Return log-mel (B, longest, F) of audio followed by silence, as `whisper_mel.pad_with_silence` does it."""
    loudest = tape.op("ReduceMax", [x_BTF], {"keepdims": 0})
    below = tape.op("Add", [loudest, tape.op("Constant", [], {"value_float": _LOUDEST_TO_SILENCE})])
    silence = tape.op("Max", [below, tape.op("Constant", [], {"value_float": _SILENCE})])
    missing = tape.op("Sub", [constant(tape, [longest]), length])
    ends = tape.op("Concat", [constant(tape, [0, 0, 0, 0]), missing, constant(tape, [0])], {"axis": 0})
    return tape.op("Pad", [x_BTF, ends, silence])


def _stack_memory(model: ir.Model, facts: DecoderFacts) -> None:
    """Make keys and values (L, B, T', D) the only outputs."""
    tape, outputs = ir_tape.Tape(), list(model.graph.outputs)[1:]
    halves = outputs[: facts.n_blocks], outputs[facts.n_blocks :]
    stacked = [
        _named(_stack(tape, half), name, [facts.n_blocks, "batch", "frames", _width(facts)])
        for half, name in zip(halves, _CROSS, strict=True)
    ]
    _end(model, tape, stacked)


# --------------------------------------------------------------------------------------------- the graph that writes


def _suppress(model: ir.Model, facts: DecoderFacts, tokens: Sequence[str]) -> None:
    """Make tokens that may not be written unlikely. At offset 0, where a prompt is read, languages stay likely.

    sherpa-onnx compares them there, to find out what is spoken; timestamps it may ask for at any step.
    """
    first = {*facts.suppressed, *facts.not_first}
    later = {*facts.suppressed, *range(facts.end + 1, facts.prompt[-1] + 1)}
    offset = _input("offset", [1], ir.DataType.INT64)
    tape = ir_tape.Tape()
    at_start = tape.op("Equal", [offset, constant(tape, [0])])
    added = [_penalties(tape, ids, len(tokens)) for ids in (first, later)]
    logits = model.graph.outputs[0]
    logits.name = "logits_of_all"
    made = tape.op("Add", [logits, tape.op("Where", [at_start, *added])])
    made.type, made.shape, made.name = logits.type, logits.shape, "logits"
    model.graph.extend(tape.nodes)
    model.graph.outputs[0] = made
    model.graph.inputs.append(offset)


def _penalties(tape: ir_tape.Tape, ids: Iterable[int], vocab_size: int) -> ir.Value:
    """Return what is added to the logits (V,)."""
    nothing = tape.op("ConstantOfShape", [constant(tape, [vocab_size])])
    listed = sorted(ids)
    never = tape.op("Constant", [], {"value_floats": [_NEVER] * len(listed)})
    return tape.op("ScatterElements", [nothing, constant(tape, listed), never])


def _stack_caches(model: ir.Model, facts: DecoderFacts) -> None:
    """Take and give keys and values of all blocks as one tensor each: those of the frames, those of the tokens."""
    graph, n_blocks = model.graph, facts.n_blocks
    tokens, frames, *cached, offset = graph.inputs
    cache_shape: list[int | str] = [n_blocks, "batch", _most_positions(facts), _width(facts)]
    past = [_input(f"in_{name}", cache_shape) for name in _CACHES]
    cross = [_input(name, [n_blocks, "batch", "frames", _width(facts)]) for name in _CROSS]
    tape = ir_tape.Tape()
    count = tape.op("Shape", [cross[0]], {"start": 2, "end": 3})
    frames.replace_all_uses_with(tape.op("Expand", [count, tape.op("Shape", [tokens], {"end": 1})]))
    so_far = [tape.op("Slice", [one, constant(tape, [0]), offset, constant(tape, [2])]) for one in past]
    made = [block for whole in (*cross, *so_far) for block in _unstack(tape, whole, facts)]
    for old, new in zip(cached, made, strict=True):
        old.replace_all_uses_with(new)
    put_first(model, tape)
    graph.inputs.clear()
    graph.inputs.extend([tokens, *past, *cross, offset])
    _give_caches(model, facts, cache_shape)


def _give_caches(model: ir.Model, facts: DecoderFacts, shape: list[int | str]) -> None:
    """Make the outputs logits, and keys and values of as many tokens as fit, of which the last are zero."""
    logits, *present = list(model.graph.outputs)[: 1 + 2 * facts.n_blocks]  # behind them are queries, for word times
    tape, outputs = ir_tape.Tape(), [logits]
    for half, name in zip((present[: facts.n_blocks], present[facts.n_blocks :]), _CACHES, strict=True):
        stacked = _stack(tape, half)
        missing = tape.op(
            "Sub", [constant(tape, [_most_positions(facts)]), tape.op("Shape", [stacked], {"start": 2, "end": 3})]
        )
        ends = tape.op("Concat", [constant(tape, [0] * 6), missing, constant(tape, [0])], {"axis": 0})
        outputs.append(_named(tape.op("Pad", [stacked, ends]), f"out_{name}", shape))
    _end(model, tape, outputs)


# ------------------------------------------------------------------------------------------------------------ tensors


def _stack(tape: ir_tape.Tape, blocks: Iterable[ir.Value]) -> ir.Value:
    """Return (L, B, T, D) of the (B, H, T, D/H) of each block."""
    each = [tape.op("Unsqueeze", [block, constant(tape, [0])]) for block in blocks]
    turned = tape.op("Transpose", [tape.op("Concat", each, {"axis": 0})], {"perm": [0, 1, 3, 2, 4]})
    return tape.op("Reshape", [turned, constant(tape, [0, 0, 0, -1])])


def _unstack(tape: ir_tape.Tape, whole: ir.Value, facts: DecoderFacts) -> list[ir.Value]:
    """Return the (B, H, T, D/H) of each block of (L, B, T, D)."""
    found = []
    for i in range(facts.n_blocks):
        one = tape.op("Gather", [whole, tape.op("Constant", [], {"value_int": i})])
        heads = tape.op("Reshape", [one, constant(tape, [0, 0, facts.n_heads, facts.head_width])])
        found.append(tape.op("Transpose", [heads], {"perm": [0, 2, 1, 3]}))
    return found


def _input(name: str, shape: Sequence[int | str], kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))


def _named(value: ir.Value, name: str, shape: Sequence[int | str]) -> ir.Value:
    value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return value


def _end(model: ir.Model, tape: ir_tape.Tape, outputs: Sequence[ir.Value]) -> None:
    model.graph.extend(tape.nodes)
    model.graph.outputs.clear()
    model.graph.outputs.extend(outputs)
    RemoveUnusedNodesPass()(model)


_NOTES = """sherpa-onnx computes the log-mel itself and takes 29.5 s at most. `tail_paddings` changes nothing:
`encoder.onnx` removes the zeros that it appends. sherpa-onnx decodes greedily, at most six tokens a second, without
layerdial's rules for loops and for silence. Tokens that the checkpoint suppresses are never written. Audio below 5 ms
ends the program.

"""
