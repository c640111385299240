"""Whisper for sherpa-onnx: its loader takes the pair of graphs, whose logits are those of torch at every depth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kaldi_native_fbank
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import sherpa_onnx
import soundfile
import torch
from numpy.typing import NDArray

from conftest import made_once
from layerdial.export.sherpa import write_sherpa_folder
from layerdial.export.writer import Precision, Traced
from layerdial.models.huggingface.whisper_decoding import TorchEncoded
from layerdial.subset import BlockSubset
from tiny import command
from tiny_whisper import N_BLOCKS, save_student, save_whisper, traced_student

LABELS = [3, 4, 10, 9, 1]
CLOSE = 1e-4
Array = NDArray[Any]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return traced_student(made_once(tmp_path_factory, "whisper-edge", save_student))


def exported(traced: Traced, out: Path, depth: int = N_BLOCKS, precision: Precision = "float32") -> Path:
    write_sherpa_folder(out, traced, depth, precision)
    return out


def with_facts(traced: Traced, **changes: Any) -> Traced:
    assert traced.manifest.decoder is not None
    facts = replace(traced.manifest.decoder, **changes)
    return replace(traced, manifest=replace(traced.manifest, decoder=facts))


def talkative(traced: Traced) -> Traced:
    """A model that writes letters to the last: no timestamps, no end, and without what makes one letter likely."""
    assert traced.decoder is not None and traced.manifest.decoder is not None
    decoder, facts = traced.decoder.clone(), traced.manifest.decoder
    bias = decoder.graph.initializers["network.model.model.decoder.layer_norm.bias"]
    bias.const_value = ir.Tensor(np.zeros(tuple(bias.shape or ()), np.float32), name=bias.name)
    stamps = range(facts.prompt[-1] + 1, len(traced.pieces.tokens))
    return with_facts(replace(traced, decoder=decoder), suppressed=(*facts.suppressed, facts.end, *stamps))


def samples(length: int) -> Array:
    return np.random.default_rng(length).normal(0.0, 0.1, length).astype(np.float32)


@dataclass
class Graphs:
    """The pair as sherpa-onnx calls it: log-mel followed by zeros, caches of a fixed size, an offset."""

    folder: Path

    def __post_init__(self) -> None:
        made = (onnxruntime.InferenceSession(self.folder / f"{name}.onnx") for name in ("encoder", "decoder"))
        self.encoder, self.decoder = made
        self.about = self.encoder.get_modelmeta().custom_metadata_map

    def read(self, mel_TF: Array, zeros: int = 1000) -> None:
        """Read log-mel (T, F), and begin anew."""
        padded = np.pad(mel_TF, ((0, zeros), (0, 0))).T[None]
        self.cross = self.encoder.run(None, {"mel": np.ascontiguousarray(padded)})
        names = ("n_text_layer", "n_text_ctx", "n_text_state")
        n_blocks, most, width = (int(self.about[name]) for name in names)
        self.cache = [np.zeros((n_blocks, 1, most, width), np.float32)] * 2
        self.offset = 0

    def next(self, tokens: Sequence[int]) -> Array:
        names = [end.name for end in self.decoder.get_inputs()]
        given = (np.array([tokens]), *self.cache, *self.cross, np.array([self.offset]))
        logits, *self.cache = self.decoder.run(None, dict(zip(names, given, strict=True)))
        self.offset += len(tokens)
        return logits[0]  # type: ignore[no-any-return]

    def ids(self, mel_TF: Array, prompt: Sequence[int]) -> list[int]:
        """The most likely tokens, at most six a second."""
        self.read(mel_TF)
        best, found = int(self.next(prompt)[-1].argmax()), list[int]()
        for _ in range(min(int(len(mel_TF) / 100.0 * 6), int(self.about["n_text_ctx"]) // 2)):
            if best == int(self.about["eot"]):
                break
            found.append(best)
            best = int(self.next([best])[-1].argmax())
        return found


def their_mel(audio: Array) -> Array:
    """The log-mel (T, 80) that sherpa-onnx computes."""
    fbank = kaldi_native_fbank.OnlineWhisperFbank(kaldi_native_fbank.WhisperFeatureOptions())
    fbank.accept_waveform(16000, audio.tolist())
    fbank.input_finished()
    energies = np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
    logs = np.log10(np.maximum(energies, 1e-10))
    return ((np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).astype(np.float32)  # type: ignore[no-any-return]


def their_text(folder: Path, audio: Array, **settings: Any) -> str:
    files = (str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "tokens.txt"))
    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(*files, num_threads=1, **settings)
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, audio)
    recognizer.decode_stream(stream)
    return " ".join(stream.result.text.split())


def torch_steps(traced: Traced, mel_TF: Array, subset: BlockSubset) -> tuple[TorchEncoded, list[Array]]:
    """The logits (U, V) of torch after the prompt, and then after each of the labels."""
    network: Any = traced.network
    with torch.inference_mode():
        memory, _ = network.encode(torch.from_numpy(mel_TF[None]), torch.tensor([len(mel_TF)]), subset)
        encoded = TorchEncoded(network, memory, network.decoder_use)
        steps = encoded.begin()
        given = [list(network.decoder_use.prompt), *([label] for label in LABELS)]
        return encoded, [steps.next(np.array([tokens]))[0] for tokens in given]


# ------------------------------------------------------------------------------------------------------------ logits


@pytest.mark.parametrize("depth", range(1, N_BLOCKS + 1))
def test_logits_are_those_of_torch_at_every_depth(traced: Traced, tmp_path: Path, depth: int) -> None:
    graphs, mel = Graphs(exported(traced, tmp_path / "out", depth)), traced.network.features(samples(20000))
    graphs.read(mel)
    _, expected = torch_steps(traced, mel, BlockSubset.even(N_BLOCKS, depth))
    facts = traced.manifest.decoder
    assert facts is not None
    for tokens, theirs in zip([list(facts.prompt), *([label] for label in LABELS)], expected, strict=True):
        found = graphs.next(tokens)
        allowed = found > -1e6
        np.testing.assert_allclose(found[allowed], theirs[allowed], atol=CLOSE)
        assert allowed[:, : facts.end].any()


def test_tokens_that_the_checkpoint_suppresses_are_never_likely(traced: Traced, tmp_path: Path) -> None:
    facts = traced.manifest.decoder
    assert facts is not None and facts.suppressed and facts.not_first
    graphs = Graphs(exported(traced, tmp_path / "out"))
    graphs.read(traced.network.features(samples(9000)))
    first, later = graphs.next(facts.prompt)[-1], graphs.next([3])[-1]
    special = set(range(facts.end + 1, facts.prompt[-1] + 1))
    assert set(np.flatnonzero(first < -1e6)) == {*facts.suppressed, *facts.not_first}
    assert set(np.flatnonzero(later < -1e6)) == {*facts.suppressed, *special}


def test_zeros_behind_the_log_mel_change_nothing(traced: Traced, tmp_path: Path) -> None:
    graphs, mel = Graphs(exported(traced, tmp_path / "out")), traced.network.features(samples(9000))
    found = []
    for zeros in (0, 1, 50, 1000):
        graphs.read(mel, zeros)
        found.append(graphs.cross[0])
    assert found[0].shape[2] == (len(mel) + 1) // 2
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_a_checkpoint_that_expects_thirty_seconds_gets_silence(traced: Traced, tmp_path: Path) -> None:
    mel, network = traced.network.features(samples(9000)), traced.network
    graphs = Graphs(exported(with_facts(traced, pads_input=True), tmp_path / "out"))
    graphs.read(mel)
    network.pads_input = True
    try:
        _, (expected, *_) = torch_steps(traced, mel, BlockSubset.full(N_BLOCKS))
    finally:
        network.pads_input = False
    assert graphs.cross[0].shape[2] == 1500
    found = graphs.next(network.decoder_use.prompt)
    np.testing.assert_allclose(found[found > -1e6], expected[found > -1e6], atol=CLOSE)


# ------------------------------------------------------------------------------------------------------- the package


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_package_writes_the_most_likely_tokens(
    traced: Traced, tmp_path: Path, depth: int, precision: Precision
) -> None:
    folder, audio = exported(talkative(traced), tmp_path / "out", depth, precision), samples(40000)
    facts = traced.manifest.decoder
    assert facts is not None
    expected = traced.pieces.decode(Graphs(folder).ids(their_mel(audio), facts.prompt))
    assert their_text(folder, audio) == expected and len(set(expected)) > 2
    assert their_text(folder, audio, tail_paddings=3) == expected


def test_languages_and_tasks_of_a_checkpoint_are_reachable(traced: Traced, tmp_path: Path) -> None:
    tokens = list(traced.pieces.tokens)
    facts = traced.manifest.decoder
    assert facts is not None

    def prompt(language: str, task: str) -> tuple[int, ...]:
        names = ("startoftranscript", language, task, "notimestamps")
        return tuple(tokens.index(f"<|{name}|>") for name in names)

    multilingual = with_facts(talkative(traced), prompt=prompt("de", "transcribe"), most_tokens=facts.most_tokens - 2)
    folder, audio = exported(multilingual, tmp_path / "out"), samples(40000)
    texts = {}
    for language, task in (("en", "transcribe"), ("de", "transcribe"), ("de", "translate")):
        ids = Graphs(folder).ids(their_mel(audio), prompt(language, task))
        assert their_text(folder, audio, language=language, task=task) == traced.pieces.decode(ids)
        texts[language] = traced.pieces.decode(ids)
    assert texts["en"] != texts["de"]
    assert their_text(folder, audio, language="") in texts.values()  # sherpa-onnx finds out which
    assert 'language="de"' in (folder / "README.md").read_text()


def test_the_readme_is_a_program_that_runs(traced: Traced, tmp_path: Path) -> None:
    folder, audio = exported(talkative(traced), tmp_path / "out"), samples(40000)
    program = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    soundfile.write(folder / "audio.wav", audio, 16000, subtype="FLOAT")
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert " ".join(ended.stdout.split()) == their_text(folder, audio) != ""


@pytest.mark.parametrize("length", [80, 160, 400])
def test_moments_of_audio_are_no_error(traced: Traced, tmp_path: Path, length: int) -> None:
    assert their_text(exported(traced, tmp_path / "out"), np.full(length, 0.01, np.float32)) == ""


def test_blocks_that_do_not_run_are_not_in_the_file(traced: Traced, tmp_path: Path) -> None:
    sizes = []
    for depth in (1, 2, 3):
        folder = exported(traced, tmp_path / str(depth), depth)
        sizes.append((folder / "encoder.onnx").stat().st_size)
        assert {file.name for file in folder.iterdir()} == {
            *("encoder.onnx", "decoder.onnx", "tokens.txt"),
            *("manifest.json", "README.md", "SHA256SUMS"),
        }
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.slow  # another model to trace
def test_the_command_writes_a_folder_that_is_no_export_of_layerdial(tmp_path: Path) -> None:
    model = save_whisper(tmp_path / "hf", max_source_positions=1500)
    ended = command("export", model, tmp_path / "out", "--format", "sherpa-onnx", "--depth", "2", "--int8")
    assert ended.code == 0 and "sherpa-onnx:" in ended.out and "blocks 0, 3 of 4" in ended.out, ended.err
    about = Graphs(tmp_path / "out").about
    assert (about["subset"], about["precision"], about["n_text_layer"]) == ("1001", "int8", "2")
    refused = command("transcribe", tmp_path / "out", tmp_path / "a.wav")
    assert refused.code == 2 and "was exported for sherpa-onnx" in refused.err
