"""The description of an exported folder: `manifest.json` beside the graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerdial.audio.features import Features, GraniteMel, LasrMel, LogMel, NemoMel, Samples, SeamlessMel, WhisperMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.cost import CostOfParts
from layerdial.errors import UserError
from layerdial.utils.checksums import check_files
from layerdial.utils.files import write_json
from layerdial.utils.records import between, parsing, read_record

if TYPE_CHECKING:
    from layerdial.runtime.streaming_facts import StreamingFacts

FORMAT = 1
STREAMING_FORMAT = 2  # of streaming exports, which earlier versions cannot run
_KINDS = {**dict.fromkeys(("model_id", "name", "skip", "precision"), str), "n_blocks": int, "vocab_size": int}
KIND = "layerdial-onnx"
SHERPA_KIND = "layerdial-sherpa-onnx"
FILE = "manifest.json"
GRAPH = "model.onnx"
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"  # of an encoder-decoder model, in the place of GRAPH


@dataclass(frozen=True, slots=True)
class Parity:
    """The largest difference of a log-probability from torch's, at one subset."""

    depth: int
    subset: str
    largest_difference: float


@dataclass(frozen=True, slots=True)
class DecoderFacts:
    """What a program needs to know of the decoder of an encoder-decoder model.

    `prompt` are the tokens before a transcript, `end` the one after it. `suppressed` are never written, `not_first` not
    at its start. It writes at most `most_tokens`. The encoder takes at most `longest` frames of log-mel; with
    `pads_input` every utterance is followed by silence up to that. `alignment_heads` (block, head) say when words are
    spoken (none in exports of earlier versions).
    """

    n_blocks: int
    n_heads: int
    head_width: int
    prompt: tuple[int, ...]
    end: int
    suppressed: tuple[int, ...]
    not_first: tuple[int, ...]
    most_tokens: int
    longest: int
    pads_input: bool
    alignment_heads: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> DecoderFacts:
        """Return what a manifest has; `ValueError` or `KeyError` where it is damaged."""
        lists = {name: tuple(_ids(name, stored[name])) for name in ("prompt", "suppressed", "not_first")}
        heads = tuple((int(block), int(head)) for block, head in stored.get("alignment_heads", ()))
        facts = cls(**{**stored, **lists, "alignment_heads": heads})
        for name in ("n_blocks", "n_heads", "head_width", "most_tokens", "longest"):
            between(name, getattr(facts, name), 1, 1_000_000)
        between("end", facts.end, 0, 1_000_000_000)
        for block, head in heads:
            between("block of an alignment head", block, 0, facts.n_blocks - 1)
            between("alignment head", head, 0, facts.n_heads - 1)
        if type(facts.pads_input) is not bool or not facts.prompt:
            raise ValueError("pads_input is no truth value, or the prompt is empty")
        return facts


@dataclass(frozen=True)
class Manifest:
    """Everything that a program needs to run the graph.

    `sha256` has the hashes of the files beside it (none in exports of earlier versions).
    `features` is as `describe_features` writes it; `silent_tokens` write nothing; `float_blocks` are those that int8
    left in float; `wer` has what int8 was checked with. `model_id` stands in the graph as well. `decoder` is none for
    CTC models; `float_blocks` counts its blocks after the encoder's. `streaming` is none for graphs that take whole
    utterances.
    """

    model_id: str
    name: str
    family: str
    n_blocks: int
    skip: str
    precision: str
    sample_rate: int
    features: dict[str, Any]
    vocab_size: int
    silent_tokens: tuple[int, ...]
    costs: CostOfParts
    parity: tuple[Parity, ...]
    licence: str = "not stated"
    trained_with: str = ""
    float_blocks: tuple[int, ...] = ()
    wer: dict[str, Any] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    decoder: DecoderFacts | None = None
    streaming: StreamingFacts | None = None

    @property
    def format(self) -> int:
        """The version of the folder's layout."""
        return FORMAT if self.streaming is None else STREAMING_FORMAT

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of the graphs beside it."""
        return (GRAPH,) if self.decoder is None else (ENCODER, DECODER)

    def save(self, folder: Path) -> None:
        stored = {"kind": KIND, "format": self.format, **asdict(self)}
        for name in ("decoder", "streaming"):
            if stored[name] is None:  # so that earlier versions read it
                del stored[name]
        write_json(folder / FILE, {**stored, "checksum": _checksum(stored)})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest. Raises `UserError` if it is missing, damaged, or of another kind or format."""
        file = folder / FILE
        if not file.is_file():
            raise UserError(f"{folder} is not an exported model: it has no {FILE}; make one with layerdial export")
        remedy = "export the model again"
        if read_record(file, remedy).get("kind") == SHERPA_KIND:
            raise UserError(f"{folder} was exported for sherpa-onnx; export it again without --format for layerdial")
        stored = read_record(file, remedy, kind=KIND)
        if stored.get("format") not in (FORMAT, STREAMING_FORMAT):
            read_record(file, remedy, format=FORMAT)  # raises the error of another version
        with parsing(file, remedy):
            manifest = cls._parse({k: v for k, v in stored.items() if k not in ("kind", "format", "checksum")})
            if stored["format"] != manifest.format:
                raise ValueError(f"format is {stored['format']}, with what it says of streaming {manifest.format}")
        return manifest

    @classmethod
    def _parse(cls, stored: dict[str, Any]) -> Manifest:
        costs = dict(stored.pop("costs"))
        for name in ("block_parameters", "block_macs_per_second"):
            costs[name] = tuple(costs[name])
        parity = tuple(Parity(**row) for row in stored.pop("parity"))
        for name in ("silent_tokens", "float_blocks"):
            stored[name] = tuple(int(i) for i in stored[name])
        for name, kind in _KINDS.items():
            if type(stored[name]) is not kind:
                raise ValueError(f"{name} is {stored[name]!r}, expected {kind.__name__}")
        if (decoder := stored.pop("decoder", None)) is not None:
            decoder = DecoderFacts.parse(decoder)
        features = read_features(stored["features"])
        if (streaming := stored.pop("streaming", None)) is not None:
            from layerdial.runtime.streaming_facts import StreamingFacts  # which other models do not need

            streaming = StreamingFacts.parse(streaming, features, stored["n_blocks"])
        manifest = cls(**stored, costs=CostOfParts(**costs), parity=parity, decoder=decoder, streaming=streaming)
        if manifest.sample_rate != SAMPLE_RATE:
            raise ValueError(f"sample_rate {manifest.sample_rate}, expected {SAMPLE_RATE}")
        if len(manifest.costs.block_parameters) != manifest.n_blocks:
            raise ValueError(f"costs of {len(manifest.costs.block_parameters)} blocks, expected {manifest.n_blocks}")
        return manifest

    def graph_metadata(self) -> dict[str, str]:
        """Return the metadata stored inside the graph, so that the file can be read without the rest."""
        return {
            "layerdial.kind": KIND,
            "layerdial.format": str(self.format),
            "layerdial.model_id": self.model_id,
            "name": self.name,
            "n_blocks": str(self.n_blocks),
            "skip": self.skip,
            "precision": self.precision,
            "sample_rate": str(self.sample_rate),
            "features": _in_words(read_features(self.features)),
            "silent_tokens": " ".join(map(str, self.silent_tokens)),
            "vocab_size": str(self.vocab_size),
            "tokens": "tokens.txt",
            "licence": self.licence,
            "trained_with": self.trained_with,
        }


def check_export(folder: Path) -> None:
    """Raise `UserError` unless manifest, graph, weights and tokens are as they were exported, to the last bit.

    Exports of earlier versions have no hashes and pass.
    """
    stored = read_record(folder / FILE, "export the model again")
    expected = stored.pop("checksum", None)
    if expected not in (None, _checksum(stored)):
        raise UserError(f"{folder / FILE} is damaged or was changed (it is not as it was exported); export it again")
    check_files(folder, stored.get("sha256"), "copy or export it again")


def _checksum(stored: Mapping[str, Any]) -> str:
    """Return a hash of the contents of a manifest, independent of its layout."""
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


_Mel = NemoMel | LasrMel | GraniteMel
_Convolved = Samples | SeamlessMel | _Mel
_OF_MELS: dict[str, type[_Mel]] = {"nemo-mel": NemoMel, "lasr-mel": LasrMel, "granite-mel": GraniteMel}


def _in_words(features: Features) -> str:
    """Describe the inputs, for a reader who has the graph alone."""
    if isinstance(features, LogMel):
        return "kaldi log-mel, 80 bins, 25 ms / 10 ms, samples in [-1, 1] at 16 kHz, dither 0, snip_edges false"
    if isinstance(features, NemoMel):
        return f"NeMo log-mel, {features.n_mels} bins, 25 ms / 10 ms, zero mean and unit variance of each bin"
    if isinstance(features, LasrMel):
        return f"log-mel, {features.n_mels} bins from 125 to 7500 Hz, 25 ms / 10 ms, not normalised"
    if isinstance(features, GraniteMel):
        return f"log-mel, {features.n_mels} bins, and its differences, 25 ms / 10 ms, two frames stacked"
    if isinstance(features, SeamlessMel):
        return "Kaldi log-mel, 80 bins, 25 ms / 10 ms, zero mean and unit variance of each bin, two frames stacked"
    if isinstance(features, WhisperMel):
        return f"Whisper log-mel, {features.n_mels} bins, 25 ms / 10 ms, not padded to 30 s"
    assert isinstance(features, Samples)
    return "samples at 16 kHz, " + ("zero mean and unit variance" if features.normalise else "in [-1, 1]")


def describe_features(features: Features) -> dict[str, Any]:
    """Return features as JSON."""
    if isinstance(features, LogMel):
        return {"kind": "log-mel", "subsampling": features.subsampling}
    if isinstance(features, WhisperMel):
        return {"kind": "whisper-mel", "n_mels": features.n_mels}
    if isinstance(features, _Convolved):
        convolutions = [list(part) for part in features.convolutions]
        return {**_describe_input(features), "convolutions": convolutions}
    raise UserError(f"features of the kind {type(features).__name__} cannot be exported")


def _describe_input(features: _Convolved) -> dict[str, Any]:
    if isinstance(features, Samples):
        fewest = {"fewest_frames": features.fewest_frames} if features.fewest_frames > 1 else {}
        return {"kind": "samples", "normalise": features.normalise, **fewest}
    if isinstance(features, SeamlessMel):
        return {"kind": "seamless-mel"}
    kind = next(kind for kind, made in _OF_MELS.items() if isinstance(features, made))
    return {"kind": kind, "n_mels": features.n_mels}


def read_features(stored: dict[str, Any]) -> Features:
    """Return the features that `describe_features` wrote. Raises `ValueError` for another kind."""
    if stored["kind"] == "log-mel":
        return LogMel(between("subsampling", stored["subsampling"], 1, 1000))
    if stored["kind"] == "whisper-mel":
        return WhisperMel(between("n_mels", stored["n_mels"], 1, 1000))
    if stored["kind"] in ("samples", "seamless-mel", *_OF_MELS):
        return _read_convolved(stored, tuple(_convolution(*part) for part in stored["convolutions"]))
    raise ValueError(f"features of kind {stored['kind']!r}")


def _read_convolved(stored: dict[str, Any], convolutions: tuple[tuple[int, int, int], ...]) -> Features:
    if stored["kind"] == "samples":
        fewest = between("fewest_frames", stored.get("fewest_frames", 1), 1, 1000)
        return Samples(convolutions, bool(stored["normalise"]), fewest_frames=fewest)
    if stored["kind"] == "seamless-mel":
        return SeamlessMel(convolutions)
    return _OF_MELS[stored["kind"]](convolutions, between("n_mels", stored["n_mels"], 1, 1000))


def _convolution(kernel: Any, stride: Any, padding: Any) -> tuple[int, int, int]:
    numbers = between("kernel", kernel, 1, 10_000), between("stride", stride, 1, 10_000)
    return (*numbers, between("padding", padding, 0, 10_000))


def _ids(name: str, values: Any) -> list[int]:
    return [between(name, value, 0, 1_000_000_000) for value in values]
