"""Folders that the sherpa-onnx package loads: the blocks of one depth, in the shape that its loaders expect.

Log-mel models are for `OfflineRecognizer.from_zipformer_ctc`: features (N, T, 80) and lengths in, log-probabilities and
lengths out, by position. Models that take samples are for `from_omnilingual_asr_ctc`: samples (1, S) in, already
normalised by sherpa-onnx, log-probabilities out. Whisper, with its decoder, is in `sherpa_whisper`. Streaming models,
for the online recogniser, are in `sherpa_online`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir import tape as ir_tape
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from layerdial.audio.features import LogMel, NemoMel, Samples, WhisperMel, fewest_inputs
from layerdial.errors import UserError
from layerdial.export.fixed import constant, fix_subset, put_first
from layerdial.export.precision import to_precision
from layerdial.export.sherpa_online import online_folder
from layerdial.export.sherpa_whisper import SherpaFolder, whisper_folder
from layerdial.export.writer import Described, Precision, Traced, save_graph
from layerdial.ladder import select
from layerdial.models.network import Network
from layerdial.runtime.manifest import FILE, GRAPH, SHERPA_KIND, read_features
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import save_tokens
from layerdial.utils.checksums import checksums
from layerdial.utils.files import replacing, write_json, write_text

SUMS = "SHA256SUMS"  # sherpa-onnx checks nothing; sha256sum does
_LOG_MEL_SUBSAMPLING = 4
_SILENT = "SIL"
_WHOLE_TO_MB = 1900  # apps load a graph from memory, where it has no file beside it; protobuf ends at 2 GB
_BEHIND_MS = 100  # sherpa-onnx waits for one frame more than a chunk, and for the window of the last frame
_EPSILON = 1e-7  # that of wav2vec2's feature extractor; sherpa-onnx's own is a hundred times that


def write_sherpa_folder(out: Path, traced: Traced, depth: int, precision: Precision) -> BlockSubset:
    """Write graphs, `tokens.txt`, a README with the call, and hashes. Return the encoder's blocks that run.

    Raises `UserError` for a model whose training inputs the loaders cannot produce.
    """
    subset = select(None, traced.network.n_blocks, depth, traced.ladder)
    made = _ctc_folder(traced, subset) if traced.decoder is None else whisper_folder(traced, subset)
    _write(out, traced, made, subset, precision, _README)
    return subset


def write_sherpa_online_folder(
    out: Path, described: Described, depth: int, chunk_ms: int, precision: Precision
) -> BlockSubset:
    """Write such a folder for sherpa-onnx's online recogniser, which hears chunks of `chunk_ms`."""
    subset = select(None, described.network.n_blocks, depth, described.ladder)
    readme = _README_ONLINE.replace("TAIL", f"{(chunk_ms + _BEHIND_MS) / 1000:g}")
    _write(out, described, online_folder(described, subset, chunk_ms), subset, precision, readme)
    return subset


def _write(
    out: Path, traced: Described, made: SherpaFolder, subset: BlockSubset, precision: Precision, readme: str
) -> None:
    about = traced.manifest.graph_metadata() | {"subset": subset.key, "precision": precision}
    about = {name: value for name, value in about.items() if not name.startswith("layerdial.")}
    readme = readme.format(name=traced.manifest.name, key=subset.key, call=made.call, notes=made.notes)
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        for name, model in made.graphs.items():
            smaller = to_precision(model, precision)
            smaller.metadata_props.clear()
            smaller.metadata_props.update(about | made.about)
            save_graph(smaller, temporary, name, _WHOLE_TO_MB)
        save_tokens(made.tokens, temporary)
        write_json(temporary / FILE, {"kind": SHERPA_KIND, **about})
        write_text(temporary / "README.md", readme)
        found = checksums(file for file in temporary.iterdir() if file.is_file())
        write_text(temporary / SUMS, "".join(f"{value}  {name}\n" for name, value in found.items()))


def _ctc_folder(traced: Traced, subset: BlockSubset) -> SherpaFolder:
    features = read_features(traced.manifest.features)
    model = fix_subset(traced.model, subset)
    if isinstance(features, LogMel):
        loader = "from_zipformer_ctc"
        if features.subsampling != _LOG_MEL_SUBSAMPLING:
            raise UserError(f"sherpa-onnx expects 4 log-mel frames a posterior, this model has {features.subsampling}")
        _allow_no_frame(model)
    elif isinstance(features, Samples):
        loader = "from_omnilingual_asr_ctc"
        _check_scale(traced.network, features)
        _take_samples_alone(model, features)
    elif isinstance(features, NemoMel):
        raise UserError("sherpa-onnx is given Conformers and models of samples; for Parakeet it has its own")
    else:
        whose = "Whisper's" if isinstance(features, WhisperMel) else "this model's"
        raise UserError(f"sherpa-onnx has no CTC loader for {whose} log-mel; export without --format, for layerdial")
    tokens = traced.pieces.tokens
    if silent := traced.manifest.silent_tokens:
        _join_silent(model, silent)
        tokens = [_SILENT if i == silent[0] else token for i, token in enumerate(tokens)]
    return SherpaFolder({GRAPH: model}, tokens, f'{loader}("{GRAPH}", tokens="tokens.txt", num_threads=1)')


def _join_silent(model: ir.Model, silent: tuple[int, ...]) -> None:
    """Join the tokens without text into the first of them: sherpa-onnx leaves out one token, called SIL."""
    graph = model.graph
    every = graph.outputs[0]
    assert every.shape is not None and isinstance(every.shape[2], int)
    size = every.shape[2]
    joined = ir.Value(name=every.name, type=every.type, shape=every.shape)
    every.name = f"{every.name}_of_all"
    tape = ir_tape.Tape()
    theirs = tape.op("Gather", [every, constant(tape, list(silent))], {"axis": 2})
    best = tape.op("ReduceMax", [theirs, constant(tape, [2])])
    first = tape.op("Cast", [constant(tape, [int(i == silent[0]) for i in range(size)])], {"to": ir.DataType.BOOL})
    others = tape.op("Cast", [constant(tape, [int(i in silent[1:]) for i in range(size)])], {"to": ir.DataType.BOOL})
    least = tape.op("Constant", [], {"value_float": -1e30})
    tape.op("Where", [first, best, tape.op("Where", [others, least, every])], output=joined)
    graph.extend(tape.nodes)
    graph.outputs[0] = joined


def _allow_no_frame(model: ir.Model) -> None:
    """Append one empty frame, beyond `x_lens`: sherpa-onnx also decodes audio below 5 ms, which has no frame."""
    x = model.graph.inputs[0]
    width = x.shape[2]
    extended = ir.Value(name="x_extended", type=ir.TensorType(ir.DataType.FLOAT))
    users = list(x.uses())
    tape = ir_tape.Tape()
    batch = tape.op("Shape", [x], {"start": 0, "end": 1})
    rest = tape.op("Constant", [], {"value_ints": [1, width]})
    zeros = tape.op("ConstantOfShape", [tape.op("Concat", [batch, rest], {"axis": 0})])
    tape.op("Concat", [x, zeros], {"axis": 1}, output=extended)
    for user in users:
        user.node.replace_input_with(user.idx, extended)
    put_first(model, tape)


def _take_samples_alone(model: ir.Model, features: Samples) -> None:
    """Make samples the only input and log-probabilities the only output, with samples scaled as in training."""
    graph = model.graph
    x, lengths = graph.inputs
    users, length_users = list(x.uses()), list(lengths.uses())
    tape = ir_tape.Tape()
    ready = x
    if features.normalise:
        axes = tape.op("Constant", [], {"value_ints": [1]})
        centred = tape.op("Sub", [x, tape.op("ReduceMean", [x, axes])])
        variance = tape.op("ReduceMean", [tape.op("Mul", [centred, centred]), axes])
        floor = tape.op("Constant", [], {"value_float": _EPSILON})
        ready = tape.op("Div", [centred, tape.op("Sqrt", [tape.op("Add", [variance, floor])])])
    length = tape.op("Shape", [x], {"start": 1, "end": 2})
    fewest = tape.op("Constant", [], {"value_ints": [fewest_inputs(features.convolutions, features.fewest_frames)]})
    nothing = tape.op("Constant", [], {"value_ints": [0]})
    missing = tape.op("Max", [tape.op("Sub", [fewest, length]), nothing])
    ready = tape.op("Pad", [ready, tape.op("Concat", [nothing, nothing, nothing, missing], {"axis": 0})])
    counted = tape.op("Expand", [tape.op("Add", [length, missing]), tape.op("Shape", [x], {"end": 1})])
    for user in users:
        user.node.replace_input_with(user.idx, ready)
    for user in length_users:
        user.node.replace_input_with(user.idx, counted)
    put_first(model, tape)
    graph.inputs.remove(lengths)
    graph.outputs.pop()
    RemoveUnusedNodesPass()(model)


def _check_scale(network: Network, features: Samples) -> None:
    """Raise `UserError` unless normalised samples, which sherpa-onnx gives, suit the model.

    They suit a model trained on them, and one whose first layer is invariant to scale.
    """
    first: Any = network.front_end.conv_layers[0]  # type: ignore[union-attr, index]
    invariant = first.conv.bias is None and isinstance(getattr(first, "layer_norm", None), nn.GroupNorm)
    if not features.normalise and not invariant:
        raise UserError(
            "sherpa-onnx normalises samples, this model was trained on samples as they are; it would mishear"
        )


_README = """# {name}, blocks {key}, for sherpa-onnx

Written by `layerdial export --format sherpa-onnx`. It runs these blocks only.

```python
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OfflineRecognizer.{call}
samples, rate = soundfile.read("audio.wav", dtype="float32")
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
```

{notes}After a copy, `sha256sum -c SHA256SUMS` in this folder finds what was damaged on the way.
"""


_README_ONLINE = """# {name}, blocks {key}, for sherpa-onnx's online recogniser

Written by `layerdial export --format sherpa-onnx --streaming`. It runs these blocks only.

```python
import numpy as np
import sherpa_onnx
import soundfile

recognizer = sherpa_onnx.OnlineRecognizer.{call}
samples, rate = soundfile.read("audio.wav", dtype="float32")
stream = recognizer.create_stream()
for part in np.array_split(samples, 20):  # as they come
    stream.accept_waveform(rate, part)
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
stream.accept_waveform(rate, np.zeros(round(TAIL * rate), np.float32))  # it hears whole chunks only: fill the last
stream.input_finished()
while recognizer.is_ready(stream):
    recognizer.decode_stream(stream)
print(recognizer.get_result(stream))
```

{notes}After a copy, `sha256sum -c SHA256SUMS` in this folder finds what was damaged on the way.
"""
