"""The exported folder: graph, manifest, tokens, ladder; compared with torch at every depth before it is in place."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from layerdial import __version__
from layerdial.audio.features import Features, LogMel, NemoMel, Samples, WhisperMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.cost import CostOfParts
from layerdial.errors import UserError
from layerdial.export.graph import to_onnx
from layerdial.export.tokens import piece_table
from layerdial.ladder import Ladder, select
from layerdial.models.checkpoint import fingerprint, load_network, resolve_model
from layerdial.models.cost import subset_cost
from layerdial.models.network import Network
from layerdial.recognizer import collate_features
from layerdial.runtime.manifest import GRAPH, Manifest, Parity, describe_features
from layerdial.runtime.session import Session, is_exported
from layerdial.subset import BlockSubset
from layerdial.text.tokenizer import PieceTable
from layerdial.utils.checksums import checksums
from layerdial.utils.files import model_name, read_json, replacing

Precision = Literal["float32", "float16", "int8"]
WEIGHTS = "model.weights"
EXTERNAL_FROM_MB = 64
_NEMO = {"n_fft": 512, "win_length": 400, "hop_length": 160, "preemphasis": 0.97}
_LARGEST_DIFFERENCE = 0.01  # of log-probabilities in float32; 1e-4 is usual
_IR_VERSION = 11  # the one that came with opset 23; a newer one would be refused by older runtimes


@dataclass(frozen=True)
class Traced:
    """A traced torch model: its graph in float32, and what is written beside it."""

    network: Network
    model: ir.Model
    pieces: PieceTable
    ladder: Ladder | None
    manifest: Manifest


def trace(
    folder: Path,
    licence: str | None = None,
    name: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Traced:
    """Load a torch model (folder or hub id) and trace it once; every precision is made of that."""
    name = name or model_name(folder)
    folder = resolve_model(folder)
    refuse_exported(folder)
    network, tokenizer = load_network(folder)
    if network.labels.teacher_forced:
        raise UserError(
            f"{folder} is an encoder-decoder model, which layerdial does not export yet; transcribe with it as it is, "
            "or write one depth as a checkpoint of transformers: layerdial prune"
        )
    ladder = Ladder.beside(folder, network.n_blocks)
    _check_choice_of_blocks(folder, network, ladder)
    pieces, silent = piece_table(tokenizer)
    features = device_features(network.features)
    note(f"tracing {network.n_blocks} blocks, which takes a second or more each")
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
    )
    return Traced(network, to_onnx(network), pieces, ladder, manifest)


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
        return Samples(convolutions, bool(extractor.do_normalize))
    settings = {name: getattr(extractor, name, None) for name in _NEMO}
    if settings != _NEMO:
        raise UserError(f"features with {settings} cannot be computed on devices; {_NEMO} can")
    return NemoMel(convolutions, int(extractor.feature_size))


def write_folder(out: Path, traced: Traced, model: ir.Model, manifest: Manifest, compared: bool = True) -> Manifest:
    """Write the whole folder in one step, after a comparison with torch. Return the manifest with its results.

    `model` is given its metadata. Raises `RuntimeError` for a float32 graph that differs from torch.
    """
    with replacing(out) as temporary:
        temporary.mkdir(parents=True)
        manifest = replace(manifest, model_id=_model_id(model, manifest))
        model.metadata_props.clear()
        model.metadata_props.update(manifest.graph_metadata())
        save_graph(model, temporary)
        traced.pieces.save(temporary)
        if traced.ladder:
            traced.ladder.save(temporary / "ladder.json")
        manifest.save(temporary)
        if compared:
            manifest = replace(manifest, parity=compare(Session(temporary, manifest, 1), traced))
            _judge(manifest)
        beside = [temporary / "tokens.txt", *temporary.glob("model.*")]
        manifest = replace(manifest, sha256=checksums(beside))
        manifest.save(temporary)
    return manifest


def _judge(manifest: Manifest) -> None:
    """Raise `RuntimeError` where the graph differs from the network, which is an error of this package."""
    limit = _LARGEST_DIFFERENCE if manifest.precision == "float32" else math.inf
    for row in manifest.parity:
        if not row.largest_difference < limit:  # also true for NaN
            raise RuntimeError(
                f"the exported graph differs from torch by {row.largest_difference} at depth {row.depth}"
            )


def save_graph(model: ir.Model, folder: Path) -> None:
    """Write `model.onnx`.

    Above 64 MB the weights go into `model.weights` beside it, which a runtime maps into memory.
    """
    model.ir_version = _IR_VERSION
    for node in model.graph.all_nodes():  # the source lines of each node: as much text as a small model
        node.metadata_props.clear()
        node.doc_string = None
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    beside = WEIGHTS if size > EXTERNAL_FROM_MB * 1e6 else None
    ir.save(model, folder / GRAPH, external_data=beside)


def compare(session: Session, traced: Traced, seconds: Sequence[float] = (1.3, 2.1)) -> tuple[Parity, ...]:
    """Return the largest difference from torch at every depth, on a zero-padded batch of noise, without its padding."""
    features, network = traced.network.features, traced.network
    rng = np.random.default_rng(0)
    rows = [features(rng.normal(0.0, 0.1, round(SAMPLE_RATE * length)).astype(np.float32)) for length in seconds]
    batch = collate_features([""] * len(rows), rows, [""] * len(rows), sum(seconds))
    inputs, lengths_B = batch.inputs, batch.lengths_B
    found = []
    for depth in range(1, network.n_blocks + 1):
        subset = select(None, network.n_blocks, depth, traced.ladder)
        ours_BTV, frames_B = session.posteriors(inputs, lengths_B, subset)
        with torch.inference_mode():
            theirs = network(torch.from_numpy(inputs), torch.from_numpy(lengths_B), subset)
        if theirs.lengths_B.tolist() != frames_B.tolist():
            raise RuntimeError(f"the exported graph makes {frames_B} frames, torch {theirs.lengths_B.tolist()}")
        both = zip(ours_BTV, theirs.log_probs_BTV.numpy(), frames_B, strict=True)
        largest = max(float(np.abs(ours[:n] - torchs[:n]).max()) for ours, torchs, n in both)
        found.append(Parity(depth, subset.key, largest))
    return tuple(found)


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


def _model_id(model: ir.Model, manifest: Manifest) -> str:
    """Return a short hash of the weights and their use, which keeps apart graph and manifest of different exports."""
    digest = hashlib.sha256(f"{manifest.name}/{manifest.precision}/{manifest.float_blocks}".encode())
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
