"""Transcription of files and arrays of any length, at any depth."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from layerdial import BlockSubset, UserError, load_model
from layerdial.audio.features import fbank
from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.evaluate import evaluate
from layerdial.evaluation.search import search_ladder
from layerdial.ladder import Ladder, Rung
from layerdial.models.checkpoint import load_network
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognizer import collate_features
from layerdial.text.tokenizer import build_tokenizer
from tiny import LOG_MEL, sentences, speak, tiny_network, write_hour

TEXT = "low high middle high low low"
SECOND = 16000
EVERY_SUBSET = [BlockSubset(3, kept) for depth in (1, 2, 3) for kept in combinations(range(3), depth)]


def recognised(recognizer: TorchRecognizer, samples: np.ndarray, subset: BlockSubset) -> str:
    return recognizer.recognize(collate_features(["a"], [fbank(samples)], [""], 0.0), subset)[0]


# ---------------------------------------------------------------------------------------------------- transcribe


@pytest.mark.parametrize("subset", EVERY_SUBSET, ids=lambda subset: subset.key)
def test_a_file_an_array_and_a_batch_give_the_same_text(
    recognizer: TorchRecognizer, tmp_path: Path, subset: BlockSubset
) -> None:
    samples = speak(TEXT, seed=77)
    soundfile.write(tmp_path / "a.wav", samples, SECOND, subtype="FLOAT")
    soundfile.write(tmp_path / "a.flac", samples, SECOND)
    expected = recognised(recognizer, samples, subset)
    for audio in (samples, tmp_path / "a.wav", str(tmp_path / "a.wav"), tmp_path / "a.flac"):
        transcript = recognizer.transcribe(audio, subset=subset)
        assert (transcript.text, transcript.subset, transcript.depth) == (expected, subset, subset.depth)
        assert transcript.seconds == pytest.approx(len(samples) / SECOND) and transcript.rtf > 0
    assert subset.depth < 3 or expected == TEXT


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_and_stereo_are_understood(recognizer: TorchRecognizer, tmp_path: Path, rate: int) -> None:
    samples = speak(TEXT, seed=77, rate=rate)
    soundfile.write(tmp_path / "a.wav", np.stack([samples, 0.5 * samples], axis=1), rate)
    transcript = recognizer.transcribe(tmp_path / "a.wav")
    assert transcript.text == TEXT
    assert transcript.seconds == pytest.approx(len(samples) / rate, abs=0.001)


@pytest.mark.parametrize(("n_samples", "rate"), [(800, 16000), (1, 16000), (1, 48000), (2, 44100), (400, 8000)])
def test_a_moment_of_audio_has_a_transcript(
    recognizer: TorchRecognizer, tmp_path: Path, n_samples: int, rate: int
) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(n_samples, 0.1), rate)
    transcript = recognizer.transcribe(tmp_path / "a.wav")
    assert len(transcript.text.split()) <= 1 and transcript.rtf >= 0


def test_silence_has_no_words(recognizer: TorchRecognizer) -> None:
    assert recognizer.transcribe(np.zeros(3 * SECOND, dtype=np.float32)).text == ""


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, dtype=np.float32), "is empty"),
        (np.zeros((2, 100), dtype=np.float32), r"float array \(S,\), found float32 of shape \(2, 100\)"),
        (np.zeros(100, dtype=np.int16), "found int16"),
        (np.array([0.0, np.nan]), "not finite"),
        (np.array([0.0, np.inf]), "not finite"),
    ],
)
def test_an_array_that_is_no_audio_is_refused(recognizer: TorchRecognizer, samples: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recognizer.transcribe(samples)


@pytest.mark.parametrize("depth", [0, 4, -1])
def test_a_depth_that_does_not_exist_is_refused(recognizer: TorchRecognizer, depth: int) -> None:
    with pytest.raises(UserError, match=f"depth {depth} does not exist in an encoder of 3 blocks; choose 1 to 3"):
        recognizer.transcribe(speak(TEXT), depth=depth)


def test_depth_and_subset_together_and_a_foreign_subset_are_refused(recognizer: TorchRecognizer) -> None:
    with pytest.raises(UserError, match="give one of depth, subset, not 2"):
        recognizer.transcribe(speak(TEXT), depth=1, subset=BlockSubset.full(3))
    with pytest.raises(UserError, match="subset is for 8 blocks, this encoder has 3"):
        recognizer.transcribe(speak(TEXT), subset=BlockSubset.full(8))


def test_a_device_that_is_not_there_is_refused(learnt: Path) -> None:
    with pytest.raises(UserError, match=r"device nonsense .*cpu"):
        load_model(learnt, "nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"device cuda .*cpu"):
            load_model(learnt, "cuda")


# -------------------------------------------------------------------------------------------------------- ladder


def ladder_of(keys: list[str]) -> Ladder:
    rungs = (Rung(depth, key, 0.0, 0.0, 0, 1) for depth, key in enumerate(keys, 1))
    return Ladder(len(keys), "loss", "dev", 1, tuple(rungs))


def test_the_ladder_chooses_the_blocks_and_even_spacing_without_one(learnt: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in learnt.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert [load_model(folder).subset(depth).key for depth in (1, 2, 3)] == ["100", "101", "111"]
    ladder_of(["010", "110", "111"]).save(folder / "ladder.json")
    model = load_model(folder)
    assert [model.subset(depth).key for depth in (1, 2, 3)] == ["010", "110", "111"]
    assert model.subset() == BlockSubset.full(3)
    assert model.transcribe(speak(TEXT), depth=1).subset.key == "010"


def test_a_ladder_for_other_blocks_or_damaged_is_refused(learnt: Path, tmp_path: Path) -> None:
    for file in learnt.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    ladder_of(["10", "11"]).save(tmp_path / "ladder.json")
    with pytest.raises(UserError, match=r"ladder\.json is for 2 blocks, this model has 3; run layerdial search again"):
        load_model(tmp_path)
    for damaged in ("{", "[]", '{"format": 1}', '{"format": 7}'):
        (tmp_path / "ladder.json").write_text(damaged)
        with pytest.raises(UserError, match=r"ladder\.json (is not valid|is damaged|has format)"):
            load_model(tmp_path)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["loss", "wer"])
def test_the_ladder_is_never_worse_on_dev_than_prefix_selection(corpus, metric, seed: int) -> None:
    """With random weights, whose best subsets are anywhere."""
    model = TorchRecognizer(tiny_network(seed), build_tokenizer("word", ["low high middle a b c"]))
    batches = FeatureBatches(corpus.dev, LOG_MEL, workers=0)
    ladder = search_ladder(model, batches, metric)
    for depth, rung in enumerate(ladder.rungs, 1):
        prefix = BlockSubset.prefix(4, depth)
        loss = sum(model.loss_and_text(batch, prefix)[0] for batch in batches) / 5
        assert rung.loss is not None
        if metric == "loss":
            assert rung.loss <= loss + 1e-6
        else:
            assert rung.errors <= evaluate(model, batches, prefix).wer.errors


def test_the_loss_of_a_batch_is_the_sum_of_its_utterances(recognizer: TorchRecognizer, corpus) -> None:
    subset = BlockSubset.from_key("101")
    whole = FeatureBatches(corpus.dev, LOG_MEL, workers=0)
    together = sum(recognizer.loss_and_text(batch, subset)[0] for batch in whole)
    alone = FeatureBatches(corpus.dev, LOG_MEL, batch_seconds=0.1, workers=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lhotse says that each cut is longer than 0.1 s
        single = [recognizer.loss_and_text(batch, subset)[0] for batch in alone]
    assert len(single) == 5 and together == pytest.approx(sum(single), rel=1e-4)


# ---------------------------------------------------------------------------------------------------- long audio


@pytest.mark.parametrize("depth", [1, 3])
def test_long_audio_has_the_words_of_its_parts(recognizer: TorchRecognizer, depth: int) -> None:
    texts = sentences(60, seed=5)
    samples = np.concatenate([speak(text, seed) for seed, text in enumerate(texts)])
    assert len(samples) > 65 * SECOND
    heard = recognizer.transcribe(samples, depth=depth)
    assert heard.seconds == pytest.approx(len(samples) / SECOND)
    assert heard.text == " ".join(texts)


def test_long_audio_in_windows_equals_one_pass() -> None:
    """Exactly, for a network that hears no further than the context, and audio whose statistics repeat."""
    network = tiny_network(n_blocks=2, kernel=5)
    for block in network.encoder.blocks:
        torch.nn.init.zeros_(block.attention.out.weight)
        torch.nn.init.zeros_(block.attention.out.bias)
    model = TorchRecognizer(network, build_tokenizer("char", ["abcdef"]))
    one_second = 0.2 * np.random.default_rng(1).standard_normal(SECOND).astype(np.float32)
    samples = np.tile(one_second, 85)
    whole = recognised(model, samples, BlockSubset.full(2))
    assert len(set(whole)) > 1 and len(whole) > 200
    assert model.transcribe(samples).text == whole


@pytest.fixture
def one_hour(tmp_path: Path) -> Iterator[Path]:
    path = write_hour(tmp_path / "hour.wav")
    yield path
    path.unlink()


@pytest.mark.slow
def test_an_hour_is_transcribed(recognizer: TorchRecognizer, one_hour: Path) -> None:
    assert recognizer.transcribe(one_hour, depth=1).seconds == 3600


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_a_model_is_refused_not_ignored(learnt: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(learnt, tmp_path / "model")
    load_network(tmp_path / "model")
    (tmp_path / "model" / name).write_text("{}")
    for read in (load_network, load_model):
        with pytest.raises(UserError, match=rf"model holds an adapter \({name}\).*merge it into its base model"):
            read(tmp_path / "model")
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / name).write_text("{}")
    with pytest.raises(UserError, match="holds an adapter"):
        load_model(tmp_path / "alone")
