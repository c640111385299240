"""The exported folder: graph, manifest, tokens, ladder; compared with torch at every depth before it is in place."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from layerdial import __version__
from layerdial.audio.features import Features, GraniteMel, LasrMel, LogMel, NemoMel, Samples, SeamlessMel, WhisperMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.cost import CostOfParts
from layerdial.errors import UserError
from layerdial.export.graph import to_onnx
from layerdial.export.streaming import Streaming, in_chunks_as_torch, streaming_facts, to_streaming_onnx
from layerdial.ladder import Ladder, depths_of, select
from layerdial.models.checkpoint import fingerprint, load_network, resolve_model
from layerdial.models.cost import subset_cost
from layerdial.models.network import EncoderOutput, Network
from layerdial.models.streaming import streaming_network
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.runtime.decoding import open_session
from layerdial.runtime.manifest import GRAPH, DecoderFacts, Manifest, Parity, describe_features
from layerdial.runtime.session import Session, is_exported
from layerdial.runtime.streaming_session import StreamingSession
from layerdial.runtime.token_session import TokenSession
from layerdial.subset import BlockSubset
from layerdial.text.byte_level import ByteTable
from layerdial.text.pieces import byte_table, piece_table
from layerdial.text.tokenizer import PieceTable
from layerdial.utils.checksums import checksums
from layerdial.utils.files import model_name, read_json, replacing

Precision = Literal["float32", "float16", "int8"]
WEIGHTS = ".weights"
_LABELS = 12  # of an encoder-decoder model, at which it is compared
EXTERNAL_FROM_MB = 64
_STFT = {"n_fft": 512, "win_length": 400, "hop_length": 160}
_ON_DEVICES: dict[str, dict[str, Any]] = {  # the library's feature extractors with log-mel that devices compute
    "ParakeetFeatureExtractor": {**_STFT, "preemphasis": 0.97},
    "LasrFeatureExtractor": _STFT,
    "GraniteSpeech5FeatureExtractor": {**_STFT, "delta_win_length": 3, "logmel_floor_db": 8.0},
    "SeamlessM4TFeatureExtractor": {"num_mel_bins": 80, "stride": 2},
}
_KNOWN = "Wav2Vec2FeatureExtractor, " + ", ".join(_ON_DEVICES)
_LARGEST_DIFFERENCE = 0.01  # of log-probabilities in float32; 1e-4 is usual
_IR_VERSION = 11  # the one that came with opset 23; a newer one would be refused by older runtimes


@dataclass(frozen=True)
class Described:
    """A torch model, and what is written beside its graph."""

    network: Network
    pieces: PieceTable | ByteTable
    ladder: Ladder | None
    manifest: Manifest


@dataclass(frozen=True)
class Traced(Described):
    """A traced torch model: its graph in float32, too.

    `decoder` is the second graph of an encoder-decoder model, whose first reads audio.
    """

    model: ir.Model
    decoder: ir.Model | None = None


def trace(
    folder: Path,
    licence: str | None = None,
    name: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    streaming: Streaming | None = None,
) -> Traced:
    """Load a torch model (folder or hub id) and trace it once; every precision is made of that.

    With `streaming` the graph takes chunks. Raises `UserError` for what cannot be exported.
    """
    found = describe(folder, licence, name, streaming)
    facts = found.manifest.decoder
    count = found.network.n_blocks + (facts.n_blocks if facts else 0)
    note(f"tracing {count} blocks, which takes a second or more each")
    model, decoder = _graphs(found.network, streaming is not None)
    return Traced(found.network, found.pieces, found.ladder, found.manifest, model, decoder)


def describe(
    folder: Path, licence: str | None = None, name: str | None = None, streaming: Streaming | None = None
) -> Described:
    """Load a torch model (folder or hub id). Raises `UserError` for what cannot be exported."""
    name = name or model_name(folder)
    folder = resolve_model(folder)
    refuse_exported(folder)
    network, tokenizer = load_network(folder)
    ladder = Ladder.beside(folder, network.n_blocks)
    _check_choice_of_blocks(folder, network, ladder)
    in_chunks = None if streaming is None else streaming_facts(streaming_network(network, str(folder)), streaming)
    facts = _decoder_facts(network)
    pieces, silent = piece_table(tokenizer) if facts is None else (byte_table(tokenizer, facts.end), ())
    features = device_features(network.features)
    manifest = Manifest(
        model_id="",
        name=name,
        family=type(network).__name__,
        n_blocks=network.n_blocks,
        skip=network.skip,
        precision="float32",
        sample_rate=SAMPLE_RATE,
        features=describe_features(features),
        vocab_size=len(pieces.tokens),
        silent_tokens=silent,
        costs=_costs(network),
        parity=(),
        licence=licence or "not stated",
        trained_with=_trained_with(folder),
        decoder=facts,
        streaming=in_chunks,
    )
    return Described(network, pieces, ladder, manifest)


def _decoder_facts(network: Network) -> DecoderFacts | None:
    """Return what a runtime must know of a network's decoder; none for a CTC model."""
    if not network.labels.teacher_forced:
        return None
    from layerdial.export.encoder_decoder import decoder_facts

    return decoder_facts(network)  # type: ignore[arg-type]


def _graphs(network: Network, streaming: bool) -> tuple[ir.Model, ir.Model | None]:
    """Return the graph of a CTC model, or both of an encoder-decoder model."""
    if streaming:
        return to_streaming_onnx(streaming_network(network, "this model")), None
    if not network.labels.teacher_forced:
        return to_onnx(network), None
    from layerdial.export.encoder_decoder import encoder_decoder_graphs

    return encoder_decoder_graphs(network)  # type: ignore[arg-type]


def refuse_exported(folder: Path) -> None:
    """Raise `UserError` for a folder that is an export itself."""
    if is_exported(folder):
        raise UserError(f"{folder} is exported already; export the torch model that it was made of")


def _check_choice_of_blocks(folder: Path, network: Network, ladder: Ladder | None) -> None:
    """Raise `UserError` for a network with a selector and without a ladder: the graph has no selector."""
    if network.selector is not None and ladder is None:
        raise UserError(
            f"{folder} chooses its blocks by itself (model.selector), which an exported graph cannot; "
            "run layerdial search on it first, for a fixed choice at each depth"
        )


def device_features(features: Features) -> Features:
    """Return the features as a device without transformers computes them.

    Raises `UserError` for settings that devices do not have.
    """
    if isinstance(features, LogMel | WhisperMel):
        return features
    extractor, convolutions = features.extractor, features.convolutions  # type: ignore[attr-defined]
    if features.takes_samples:  # type: ignore[attr-defined]
        fewest = features.fewest_frames  # type: ignore[attr-defined]
        return Samples(convolutions, bool(extractor.do_normalize), fewest_frames=fewest)
    kind = type(extractor).__name__
    if kind not in _ON_DEVICES:
        raise UserError(f"features of {kind} cannot be computed on devices without transformers; {_KNOWN} can")
    wanted = _ON_DEVICES[kind]
    settings = {name: getattr(extractor, name, None) for name in wanted}
    if settings != wanted:
        raise UserError(f"features with {settings} cannot be computed on devices; {wanted} can")
    if kind == "SeamlessM4TFeatureExtractor":
        return SeamlessMel(convolutions)
    if kind == "GraniteSpeech5FeatureExtractor":
        return GraniteMel(convolutions, int(extractor.num_mel_bins))
    return (LasrMel if kind == "LasrFeatureExtractor" else NemoMel)(convolutions, int(extractor.feature_size))


def write_folder(
    out: Path,
    traced: Traced,
    model: ir.Model,
    manifest: Manifest,
    compared: bool = True,
    decoder: ir.Model | None = None,
) -> Manifest:
    """Write the whole folder in one step, after a comparison with torch. Return the manifest with its results.

    The graphs are given their metadata; `decoder` is the second one of an encoder-decoder model. Raises `RuntimeError`
    for a float32 graph that differs from torch.
    """
    graphs = dict(zip(manifest.graphs, [model, decoder] if decoder else [model], strict=True))
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        manifest = replace(manifest, model_id=_model_id(graphs.values(), manifest))
        for name, graph in graphs.items():
            graph.metadata_props.clear()
            graph.metadata_props.update(manifest.graph_metadata())
            save_graph(graph, temporary, name)
        traced.pieces.save(temporary)
        if traced.ladder:
            traced.ladder.save(temporary / "ladder.json")
        manifest.save(temporary)
        if compared:
            manifest = replace(manifest, parity=compare(open_session(temporary, manifest, 1), traced))
            _judge(manifest)
        manifest = replace(manifest, sha256=checksums([temporary / "tokens.txt", *graph_files(temporary)]))
        manifest.save(temporary)
    return manifest


def graph_files(folder: Path) -> list[Path]:
    """Return the graphs of an exported folder, and the weights beside them."""
    return [file for file in folder.iterdir() if file.suffix in (".onnx", WEIGHTS)]


def _judge(manifest: Manifest) -> None:
    """Raise `RuntimeError` where the graph differs from the network, which is an error of this package."""
    limit = _LARGEST_DIFFERENCE if manifest.precision == "float32" else math.inf
    for row in manifest.parity:
        if not row.largest_difference < limit:  # also true for NaN
            raise RuntimeError(
                f"the exported graph differs from torch by {row.largest_difference} at depth {row.depth}"
            )


def save_graph(model: ir.Model, folder: Path, name: str = GRAPH, whole_to_mb: float | None = None) -> None:
    """Write a graph.

    Above 64 MB the weights go into a file beside it (`model.weights`), which a runtime maps into memory.
    """
    model.ir_version = _IR_VERSION
    for node in model.graph.all_nodes():  # the source lines of each node: as much text as a small model
        node.metadata_props.clear()
        node.doc_string = None
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    limit = EXTERNAL_FROM_MB if whole_to_mb is None else whole_to_mb
    beside = Path(name).with_suffix(WEIGHTS).name if size > limit * 1e6 else None
    ir.save(model, folder / name, external_data=beside)


def compare(
    session: Session | StreamingSession | TokenSession, traced: Traced, seconds: Sequence[float] = (1.3, 2.1)
) -> tuple[Parity, ...]:
    """Return the largest difference from torch at every depth, on a zero-padded batch of noise, without its padding.

    A streaming graph is compared in chunks of every size that the network was trained with.
    """
    features, network = traced.network.features, traced.network
    rng = np.random.default_rng(0)
    rows = [features(rng.normal(0.0, 0.1, round(SAMPLE_RATE * length)).astype(np.float32)) for length in seconds]
    batch = collate_features([""] * len(rows), rows, [""] * len(rows), sum(seconds))
    labels_BU = None
    if isinstance(session, TokenSession):
        shape = len(rows), min(_LABELS, session.facts.most_tokens)
        labels_BU = rng.integers(0, session.facts.end, shape)
    found = []
    for depth in depths_of(traced.ladder, network.n_blocks):
        subset = select(None, network.n_blocks, depth, traced.ladder)
        found.append(Parity(depth, subset.key, _difference(session, network, batch, subset, labels_BU)))
    return tuple(found)


def _difference(
    session: Session | StreamingSession | TokenSession,
    network: Network,
    batch: FeatureBatch,
    subset: BlockSubset,
    labels_BU: NDArray[np.int64] | None,
) -> float:
    """Return the largest difference of a log-probability from torch's at one subset."""
    inputs, lengths_B = batch.inputs, batch.lengths_B
    if isinstance(session, StreamingSession):
        return max(_largest(*both) for both in in_chunks_as_torch(session, network, batch, subset))
    of_labels = () if labels_BU is None else ((), torch.from_numpy(labels_BU))
    with torch.inference_mode():
        theirs = network(torch.from_numpy(inputs), torch.from_numpy(lengths_B), subset, *of_labels)
    theirs_BTV = theirs.log_probs_BTV.numpy()
    if isinstance(session, TokenSession):
        assert labels_BU is not None
        return float(np.abs(session.posteriors(inputs, lengths_B, subset, labels_BU) - theirs_BTV).max())
    return _largest(session.posteriors(inputs, lengths_B, subset), theirs)


def _largest(made: tuple[NDArray[np.float32], NDArray[np.int64]], theirs: EncoderOutput) -> float:
    """Return the largest difference of the log-probabilities of real frames."""
    ours_BTV, frames_B = made
    if theirs.lengths_B.tolist() != frames_B.tolist():
        raise RuntimeError(f"the exported graph makes {frames_B} frames, torch {theirs.lengths_B.tolist()}")
    both = zip(ours_BTV, theirs.log_probs_BTV.numpy(), frames_B, strict=True)
    return max(float(np.abs(ours[:n] - torchs[:n]).max()) for ours, torchs, n in both)


def _costs(network: Network) -> CostOfParts:
    """Return the costs of the parts, from the full subset and each block's absence: costs add up over blocks."""
    full = BlockSubset.full(network.n_blocks)
    whole = subset_cost(network, full)
    if network.n_blocks == 1:
        return CostOfParts(whole.parameters, whole.macs_per_second, (0,), (0.0,))
    without = [subset_cost(network, full.without(i)) for i in range(network.n_blocks)]
    parameters = tuple(whole.parameters - cost.parameters for cost in without)
    macs = tuple(whole.macs_per_second - cost.macs_per_second for cost in without)
    return CostOfParts(whole.parameters - sum(parameters), whole.macs_per_second - sum(macs), parameters, macs)


def _model_id(graphs: Iterable[ir.Model], manifest: Manifest) -> str:
    """Return a short hash of the weights and their use, which keeps apart graph and manifest of different exports."""
    digest = hashlib.sha256(f"{manifest.name}/{manifest.precision}/{manifest.float_blocks}".encode())
    for model in graphs:
        for name, value in sorted(model.graph.initializers.items()):
            assert value.const_value is not None
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.const_value.numpy()).data)
    return digest.hexdigest()[:16]


def _trained_with(folder: Path) -> str:
    """Return a text: which weights, trained at which commit, exported by which version."""
    meta = read_json(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    parts = [f"weights {fingerprint(folder)}", f"commit {meta['commit']}" if meta.get("commit") else ""]
    return ", ".join([part for part in parts if part] + [f"exported by layerdial {__version__}"])
