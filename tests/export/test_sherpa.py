"""Folders for sherpa-onnx, loaded by that very package: it hears what torch hears."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sherpa_onnx
import soundfile

from layerdial import load_model
from layerdial.audio.features import LogMel
from layerdial.data.batching import FeatureBatches
from layerdial.errors import UserError
from layerdial.evaluation.evaluate import evaluate
from layerdial.export.sherpa import write_sherpa_folder
from layerdial.export.writer import Precision, Traced
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime.manifest import describe_features
from layerdial.utils.checksums import checksum
from tiny import sentences, speak

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


Made = Callable[..., Path]
TEXTS = sentences(12, seed=7)


def conformer(folder: Path) -> Any:
    files = {"model": str(folder / "model.onnx"), "tokens": str(folder / "tokens.txt")}
    return sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(**files, num_threads=1)


def speech_transformer(folder: Path) -> Any:
    files = {"model": str(folder / "model.onnx"), "tokens": str(folder / "tokens.txt")}
    return sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(**files, num_threads=1)


def stream_of(theirs: Any, samples: np.ndarray | None) -> Any:
    stream = theirs.create_stream()
    if samples is not None:
        stream.accept_waveform(16000, samples)
    return stream


def hear(theirs: Any, samples: np.ndarray | None) -> str:
    stream = stream_of(theirs, samples)
    theirs.decode_stream(stream)
    return spaced(stream.result.text)


def hear_together(theirs: Any, audios: Sequence[np.ndarray]) -> list[str]:
    streams = [stream_of(theirs, samples) for samples in audios]
    theirs.decode_streams(streams)
    return [spaced(stream.result.text) for stream in streams]


def spaced(text: str) -> str:
    return " ".join(text.split())


def noise_and_tones() -> Iterable[np.ndarray]:
    rng = np.random.default_rng(0)
    yield from (speak(text, i) for i, text in enumerate(TEXTS[:4]))
    for n_samples in (400, 719, 5000, 30000):
        yield (0.1 * rng.standard_normal(n_samples)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------- Conformer


@pytest.fixture(scope="module")
def made(traced: Traced, tmp_path_factory: pytest.TempPathFactory) -> Made:
    def make(depth: int, precision: Precision = "float32") -> Path:
        out = tmp_path_factory.mktemp("sherpa") / f"{precision}-{depth}"
        write_sherpa_folder(out, traced, depth, precision)
        return out

    return make


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_whole_split_has_the_texts_of_torch(made: Made, laddered: Path, corpus: Any, depth: int) -> None:
    torchs = load_model(laddered)
    subset = torchs.subset(depth)
    heard = evaluate(torchs, FeatureBatches(corpus.train, torchs.features, workers=0), subset)
    expected = dict(zip(heard.ids, heard.hypotheses, strict=True))
    theirs = conformer(made(depth))
    found = {}
    for file in sorted((corpus.train.parent / "audio").glob("train*.wav")):
        found[file.stem] = hear(theirs, soundfile.read(file, dtype="float32")[0])
    assert len(found) == 60
    assert found == {name.split("_")[0]: text for name, text in expected.items()}


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_weights_hear_the_same(made: Made, precision: Precision) -> None:
    theirs = conformer(made(3, precision))
    assert [hear(theirs, speak(text, i)) for i, text in enumerate(TEXTS)] == TEXTS


def test_a_batch_of_unequal_lengths_hears_what_each_alone_does(made: Made) -> None:
    theirs = conformer(made(2))
    audios = [speak(text, i) for i, text in enumerate(TEXTS)] + [np.full(300, 0.1, np.float32)]
    assert hear_together(theirs, audios) == [hear(theirs, samples) for samples in audios]
    assert len({len(samples) for samples in audios}) == 5


@pytest.mark.parametrize("n_samples", [None, 0, 1, 40, 79, 80, 160, 400, 1039])
def test_moments_of_audio_are_no_error(made: Made, n_samples: int | None) -> None:
    samples = None if n_samples is None else np.full(n_samples, 0.01, np.float32)
    text = hear(conformer(made(1)), samples)
    assert len(text.split()) <= 1 if n_samples and n_samples >= 80 else text == ""


def test_a_moment_beside_a_sentence_changes_neither(made: Made) -> None:
    theirs = conformer(made(3))
    assert hear_together(theirs, [np.zeros(10, np.float32), speak(TEXTS[0])]) == ["", TEXTS[0]]


def test_the_graph_has_the_blocks_of_that_depth_and_no_choice(made: Made, traced: Traced) -> None:
    sizes = []
    for depth in (1, 2, 3):
        model = onnx.load(made(depth) / "model.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert not [node for node in model.graph.node if node.op_type == "If"]
        assert [value.name for value in model.graph.input] == ["x", "x_lens"]
        found = {entry.key: entry.value for entry in model.metadata_props}
        assert traced.ladder is not None
        assert (found["subset"], found["licence"]) == (traced.ladder.subset(depth).key, traced.manifest.licence)
        sizes.append(sum(np.prod(tensor.dims) for tensor in model.graph.initializer))
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.05) and sizes[0] < sizes[1]


def test_the_readme_of_the_folder_is_a_program_that_runs(made: Made) -> None:
    folder = made(3)
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {file.name: checksum(file) for file in folder.iterdir() if file.name != "SHA256SUMS"}
    program = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    soundfile.write(folder / "audio.wav", speak(TEXTS[0]), 16000)
    ended = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert spaced(ended.stdout) == TEXTS[0]


def test_another_subsampling_is_refused(traced: Traced, tmp_path: Path) -> None:
    manifest = replace(traced.manifest, features=describe_features(LogMel(8)))
    with pytest.raises(UserError, match="sherpa-onnx expects 4 log-mel frames a posterior, this model has 8"):
        write_sherpa_folder(tmp_path / "out", replace(traced, manifest=manifest), 2, "float32")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("depth", [0, 4])
def test_a_depth_that_the_model_does_not_have_is_refused(traced: Traced, tmp_path: Path, depth: int) -> None:
    with pytest.raises(UserError, match=f"depth {depth} does not exist in an encoder of 3 blocks"):
        write_sherpa_folder(tmp_path / "out", traced, depth, "float32")


# ------------------------------------------------------------------------------------------- models that hear samples


@pytest.fixture(scope="module")
def wavlm(trace_tiny: Callable[[str], tuple[Path, Traced]]) -> tuple[Path, Traced]:
    return trace_tiny("wavlm-base")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_speech_transformer_has_the_texts_of_torch(wavlm: tuple[Path, Traced], tmp_path: Path, depth: int) -> None:
    folder, traced = wavlm
    torchs = load_model(folder)
    write_sherpa_folder(tmp_path / "out", traced, depth, "float32")
    theirs = speech_transformer(tmp_path / "out")
    special = [torchs.tokenizer.tokens[i] for i in traced.manifest.silent_tokens]
    written = 0
    for samples in noise_and_tones():
        found, expected = hear(theirs, samples), torchs.transcribe(samples, depth=depth).text
        assert found == expected
        written += len(expected)
    assert written > 50 and special


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_weights_of_a_speech_transformer_load_and_say_much_the_same(
    wavlm: tuple[Path, Traced], tmp_path: Path, precision: Precision
) -> None:
    folder, traced = wavlm
    write_sherpa_folder(tmp_path / "out", traced, 3, precision)
    samples = list(noise_and_tones())[-1]
    found, expected = hear(speech_transformer(tmp_path / "out"), samples), load_model(folder).transcribe(samples).text
    assert abs(len(found) - len(expected)) < 0.3 * len(expected)  # random weights are never sure of a letter


@pytest.mark.slow  # traces another model
def test_sew_has_the_texts_of_torch_also_of_audio_shorter_than_its_two_frames(
    trace_tiny: Callable[[str], tuple[Path, Traced]], tmp_path: Path
) -> None:
    folder, traced = trace_tiny("sew-base")
    write_sherpa_folder(tmp_path / "out", traced, 2, "float32")
    theirs, ours = speech_transformer(tmp_path / "out"), load_model(folder)
    for samples in (noise(500), noise(719), noise(9000), speak(TEXTS[0], 1)):
        assert hear(theirs, samples) == ours.transcribe(samples, depth=2).text != ""


def noise(length: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)


def test_streams_of_a_speech_transformer_may_be_short_or_empty(wavlm: tuple[Path, Traced], tmp_path: Path) -> None:
    write_sherpa_folder(tmp_path / "out", wavlm[1], 2, "float32")
    theirs = speech_transformer(tmp_path / "out")
    for samples in (None, np.zeros(0, np.float32), np.zeros(79, np.float32), np.full(399, 0.1, np.float32)):
        assert hear(theirs, samples) == ""
    audios = list(noise_and_tones())
    assert hear_together(theirs, audios) == [hear(theirs, samples) for samples in audios]


def test_loudness_makes_no_difference_where_the_first_layer_takes_it_out(
    wavlm: tuple[Path, Traced], tmp_path: Path
) -> None:
    """sherpa-onnx normalises samples; a model trained on samples as they are has a group norm that does so too."""
    folder, traced = wavlm
    features = {**traced.manifest.features, "normalise": False}
    write_sherpa_folder(
        tmp_path / "out", replace(traced, manifest=replace(traced.manifest, features=features)), 3, "float32"
    )
    plain = load_model(folder)
    network = deepcopy(plain.network)
    network.features.extractor.do_normalize = False
    torchs, theirs = TorchRecognizer(network, plain.tokenizer), speech_transformer(tmp_path / "out")
    for samples in noise_and_tones():
        assert hear(theirs, samples) == torchs.transcribe(samples).text


def test_a_model_that_must_hear_samples_as_they_are_is_refused(wavlm: tuple[Path, Traced], tmp_path: Path) -> None:
    traced = wavlm[1]
    network = deepcopy(traced.network)
    network.model.wavlm.feature_extractor.conv_layers[0].layer_norm = None  # as in models with layer norm
    manifest = replace(traced.manifest, features={**traced.manifest.features, "normalise": False})
    with pytest.raises(UserError, match="trained on samples as they are; it would mishear"):
        write_sherpa_folder(tmp_path / "out", replace(traced, network=network, manifest=manifest), 3, "float32")
    assert os.listdir(tmp_path) == []
