"""Folders for sherpa-onnx's online recogniser, loaded by that very package: it hears what torch hears in chunks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sherpa_onnx
import soundfile
import torch

from conftest import made_once
from layerdial import BlockSubset, UserError, load_model
from layerdial.export.export import export_sherpa_online
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.subset import ChunkSchedule
from layerdial.text.ctc import batch_texts
from tiny import command
from tiny_streaming import SECOND, sound
from tiny_streaming_export import network, save_streaming, writing_network

DEPTH, CHUNK_MS = 2, 160
# what follows an utterance; in digital silence the networks are as unsure as rounding is
FAINT = (1e-3 * np.random.default_rng(0).standard_normal(SECOND)).astype(np.float32)


@pytest.fixture(scope="module")
def online_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder, and what sherpa-onnx gets of it."""

    def make(folder: Path) -> None:
        model = save_streaming(folder / "model", writing_network())
        export_sherpa_online(model, folder / "sherpa", DEPTH, CHUNK_MS)

    folder = made_once(tmp_path_factory, "sherpa-online", make)
    return folder / "model", folder / "sherpa"


@pytest.fixture(scope="module")
def torchs(online_folders: tuple[Path, Path]) -> TorchRecognizer:
    found = load_model(online_folders[0])
    assert isinstance(found, TorchRecognizer)
    return found


def online(folder: Path) -> Any:
    files = {"model": str(folder / "model.onnx"), "tokens": str(folder / "tokens.txt")}
    return sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(**files, num_threads=1)


def hear(theirs: Any, samples: np.ndarray, parts: int = 7) -> str:
    """The text of samples that come in parts."""
    stream = theirs.create_stream()
    for part in np.array_split(samples, parts):
        stream.accept_waveform(SECOND, part)
        while theirs.is_ready(stream):
            theirs.decode_stream(stream)
    stream.input_finished()
    while theirs.is_ready(stream):
        theirs.decode_stream(stream)
    return spaced(theirs.get_result(stream))


def spaced(text: str) -> str:
    return " ".join(text.split())


def heard_in_chunks(torchs: TorchRecognizer, samples: np.ndarray) -> str:
    """The text that torch has of as many whole chunks as sherpa-onnx takes: it wants one frame more."""
    inputs = torchs.features(samples)
    taken = (len(inputs) - 1) // (CHUNK_MS // 10) * (CHUNK_MS // 10)
    schedule = ChunkSchedule((CHUNK_MS // 40,), (torchs.subset(DEPTH),))
    with torch.inference_mode():
        output = torchs.network(torch.from_numpy(inputs[None, :taken]), torch.tensor([taken]), schedule)
    ids = output.log_probs_BTV[0].argmax(-1).tolist()
    return spaced(batch_texts(torchs.tokenizer.decode, [ids], [len(ids)])[0])


def test_it_hears_what_torch_hears_in_chunks(online_folders: tuple[Path, Path], torchs: TorchRecognizer) -> None:
    theirs = online(online_folders[1])
    found, expected = [], []
    for seed in range(12):
        samples = np.concatenate([sound(1.5 + 0.37 * seed, seed), FAINT])
        found.append(hear(theirs, samples, parts=1 + seed))
        expected.append(heard_in_chunks(torchs, samples))
    assert found == expected
    assert len(set(expected)) > 8 and min(map(len, expected)) > 3


def test_streams_decoded_together_have_the_texts_of_each_alone(online_folders: tuple[Path, Path]) -> None:
    theirs = online(online_folders[1])
    audios = [np.concatenate([sound(2.0, seed), FAINT]) for seed in range(3)]
    streams = [theirs.create_stream() for _ in audios]
    for stream, samples in zip(streams, audios, strict=True):
        stream.accept_waveform(SECOND, samples)
        stream.input_finished()
    while ready := [stream for stream in streams if theirs.is_ready(stream)]:
        theirs.decode_streams(ready)
    assert [spaced(theirs.get_result(stream)) for stream in streams] == [hear(theirs, samples) for samples in audios]


def test_the_readme_of_the_folder_is_a_program_that_runs(
    online_folders: tuple[Path, Path], torchs: TorchRecognizer, tmp_path: Path
) -> None:
    folder = online_folders[1]
    text = (folder / "README.md").read_text()
    assert "blocks 101" in text and "chunks of 160 ms" in text
    for file in ("model.onnx", "tokens.txt"):
        (tmp_path / file).symlink_to(folder / file)
    soundfile.write(tmp_path / "audio.wav", np.concatenate([sound(2.0), FAINT]), SECOND, subtype="FLOAT")
    program = text.split("```python")[1].split("```")[0]
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    heard = heard_in_chunks(torchs, np.concatenate([sound(2.0), FAINT]))
    assert spaced(ended.stdout).startswith(heard) and heard


def test_the_graph_has_the_blocks_of_that_depth_alone(
    online_folders: tuple[Path, Path], torchs: TorchRecognizer
) -> None:
    model = onnx.load(online_folders[1] / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not [node for node in model.graph.node if node.op_type == "If"]
    blocks = [block for i, block in enumerate(torchs.network.blocks) if i in BlockSubset.from_key("101")]
    kept = sum(value.numel() for block in blocks for value in block.parameters() if value.ndim > 1)
    others = torchs.network.front_end.parameters(), torchs.network.head.parameters()  # type: ignore[union-attr]
    kept += sum(value.numel() for part in others for value in part if value.ndim > 1)
    assert sum(np.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1) < 1.3 * kept


@pytest.mark.slow  # traces again
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_weights_hear_much_the_same(online_folders: tuple[Path, Path], tmp_path: Path, precision: Any) -> None:
    model, folder = online_folders
    export_sherpa_online(model, tmp_path / "out", 2, CHUNK_MS, precision)
    samples = np.concatenate([sound(3.0), FAINT])
    found, expected = hear(online(tmp_path / "out"), samples), hear(online(folder), samples)
    assert abs(len(found) - len(expected)) <= 0.3 * len(expected)  # random weights are never sure of a letter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunk-ms", "160"], "sherpa-onnx runs one depth: say which"),
        (["--depth", "2"], "sherpa-onnx hears chunks of one size: say which, for example --chunk-ms 320"),
        (["--depth", "2", "--chunk-ms", "50"], "--chunk-ms is 50; give a multiple of 40"),
        (["--depth", "4", "--chunk-ms", "160"], "depth 4 does not exist in an encoder of 3 blocks"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, options: list[str], message: str) -> None:
    model = save_streaming(tmp_path / "model", network())
    ended = command("export", model, tmp_path / "out", "--streaming", "--format", "sherpa-onnx", *options)
    assert ended.code == 2 and message in ended.err
    assert not (tmp_path / "out").exists()


def test_models_of_whole_utterances_are_refused(learnt: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes whole utterances; for streaming, train a Conformer"):
        export_sherpa_online(learnt, tmp_path / "out", 2, CHUNK_MS)
