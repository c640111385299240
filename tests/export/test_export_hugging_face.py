"""Hugging Face models as one graph: the same log-probabilities, the same samples, the same text as in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Wav2Vec2FeatureExtractor

from layerdial import load_model
from layerdial.audio.features import Samples
from layerdial.errors import UserError
from layerdial.export.precision import to_int8
from layerdial.export.sherpa import write_sherpa_folder
from layerdial.export.writer import Traced, trace, write_folder
from layerdial.models.cost import subset_cost
from layerdial.models.huggingface.processor import HuggingFaceFeatures
from layerdial.models.network import Network
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.subset import BlockSubset
from tiny import speak
from tiny_hf import save_tiny

pytest_plugins = ["tiny_export"]

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

SUBSETS = [BlockSubset(3, kept) for kept in chain.from_iterable(combinations(range(3), depth) for depth in range(1, 4))]
SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("wav2vec2-large", "wavlm-large", "hubert-base", "hubert-large")
]
CLOSE = 1e-3


@dataclass(frozen=True)
class Pair:
    """A model in torch and as exported."""

    torch: TorchRecognizer
    onnx: Recognizer
    traced: Traced

    @property
    def network(self) -> Network:
        return self.torch.network


@pytest.fixture(scope="module", params=["wavlm-base", pytest.param("wav2vec2-base", marks=pytest.mark.slow), *SLOW])
def pair(
    request: pytest.FixtureRequest,
    trace_tiny: Callable[[str], tuple[Path, Traced]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    """Tracing another takes ten seconds and more; those left to the slow tests have the parts of those that are not."""
    folder, traced = trace_tiny(request.param)
    out = tmp_path_factory.mktemp("edge") / request.param
    write_folder(out, traced, traced.model.clone(), traced.manifest)
    return Pair(load_model(folder), Recognizer(out, threads=1), traced)


def samples(n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def assert_as_torch(pair: Pair, lengths: Sequence[int], subset: BlockSubset, close: float = CLOSE) -> None:
    rows = [pair.network.features(samples(length, i)) for i, length in enumerate(lengths)]
    inputs = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), np.float32)
    for into, row in zip(inputs, rows, strict=True):
        into[: len(row)] = row
    lengths_B = np.array([len(row) for row in rows])
    ours_BTV, frames_B = pair.onnx.session.posteriors(inputs, lengths_B, subset)
    with torch.inference_mode():
        theirs_BTV, expected_B, _ = pair.network(torch.from_numpy(inputs), torch.from_numpy(lengths_B), subset)
    assert frames_B.tolist() == expected_B.tolist()
    for ours, theirs, frames in zip(ours_BTV, theirs_BTV.numpy(), frames_B, strict=True):
        assert np.isfinite(ours[:frames]).all()
        np.testing.assert_allclose(ours[:frames], theirs[:frames], atol=close)


# ------------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda subset: subset.key)
@pytest.mark.parametrize("lengths", [[9000], [9000, 4100, 400], [8000, 8000]], ids=["alone", "padded", "together"])
def test_every_subset_equals_torch_also_without_block_0(pair: Pair, lengths: list[int], subset: BlockSubset) -> None:
    assert_as_torch(pair, lengths, subset)


@pytest.mark.parametrize("length", [1, 399, 400, 401, 719, 720, 1040, 5003])
def test_audio_of_any_length_equals_torch(pair: Pair, length: int) -> None:
    assert_as_torch(pair, [length], BlockSubset(3, (1,)))
    assert_as_torch(pair, [length], BlockSubset.full(3))


def test_audio_far_longer_than_what_was_traced_equals_torch(pair: Pair) -> None:
    """Two seconds were traced; WavLM's table of positions ends at 64 frames, here are a thousand."""
    assert_as_torch(pair, [320_000], BlockSubset.full(3))
    assert_as_torch(pair, [160_000, 3000], BlockSubset(3, (1, 2)))


def test_padding_does_not_change_what_an_utterance_gets(pair: Pair) -> None:
    session = pair.onnx.session
    lengths_B = np.array([12000, 3000, 400])
    inputs = np.zeros((3, 12000), np.float32)
    for i, length in enumerate(lengths_B):
        inputs[i, :length] = pair.onnx.features(samples(length, i))
    together, frames_B = session.posteriors(inputs, lengths_B, BlockSubset.full(3))
    for row, length, frames, found in zip(inputs, lengths_B, frames_B, together, strict=True):
        alone, _ = session.posteriors(row[None, :length], np.array([length]), BlockSubset.full(3))
        np.testing.assert_allclose(found[:frames], alone[0], atol=CLOSE)


def test_the_manifest_says_how_close_each_depth_is_and_what_it_costs(pair: Pair) -> None:
    manifest = Manifest.load(pair.onnx.folder)
    assert [row.depth for row in manifest.parity] == [1, 2, 3]
    assert all(row.largest_difference < CLOSE for row in manifest.parity)
    assert (manifest.family, manifest.n_blocks, manifest.skip) == ("SpeechTransformerCTC", 3, "identity")
    for subset in SUBSETS:
        counted, ours = subset_cost(pair.network, subset), manifest.costs.of(subset)
        assert ours.parameters == counted.parameters
        assert ours.macs_per_second == pytest.approx(counted.macs_per_second)


def test_int8_reaches_into_the_branches_of_all_blocks_but_those_left_in_float(pair: Pair) -> None:
    model = to_int8(pair.traced.model, float_blocks=(0,))
    choices = [node for node in model.graph if node.op_type == "If"]
    counts = sorted(
        sum(node.op_type == "MatMulInteger" for node in choice.attributes["then_branch"].as_graph())
        for choice in choices
    )
    assert counts[0] == 0 and counts[1] == counts[2] >= 6  # query, key, value, output, and two of the feed-forward


# ------------------------------------------------------------------------------------------------- samples, text


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("n_samples", [400, 401, 16000, 48123])
def test_samples_are_bit_for_bit_those_of_the_library(normalise: bool, n_samples: int) -> None:
    theirs = Wav2Vec2FeatureExtractor(do_normalize=normalise)
    ours = Samples(((10, 5, 0),), normalise)
    for audio in (samples(n_samples), samples(n_samples) + 0.3, 1e-4 * samples(n_samples), np.zeros(n_samples, "f4")):
        audio = audio.astype(np.float32)
        expected = theirs(audio, sampling_rate=16000, return_tensors="np").input_values[0]
        found = ours(audio)
        assert found.dtype == np.float32 and np.isfinite(found).all()
        np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("n_samples", [1, 2, 160, 399])
def test_audio_too_short_for_a_frame_is_padded_as_in_torch(pair: Pair, normalise: bool, n_samples: int) -> None:
    convolutions = pair.network.features.convolutions  # type: ignore[attr-defined]
    theirs = HuggingFaceFeatures(Wav2Vec2FeatureExtractor(do_normalize=normalise), convolutions)
    ours = Samples(convolutions, normalise)
    np.testing.assert_array_equal(ours(samples(n_samples)), theirs(samples(n_samples)))
    assert ours.frames(len(ours(samples(n_samples)))) == 1


def test_the_features_of_the_folder_are_those_of_the_model(pair: Pair) -> None:
    audio = samples(20000)
    ours, theirs = pair.onnx.features, pair.network.features
    np.testing.assert_array_equal(ours(audio), theirs(audio))
    assert (ours.per_second, ours.samples_per_frame) == (theirs.per_second, theirs.samples_per_frame)
    assert [ours.frames(n) for n in (400, 719, 720, 16000)] == [theirs.frames(n) for n in (400, 719, 720, 16000)]


def test_the_text_is_that_of_torch_at_every_depth(pair: Pair) -> None:
    audios = [speak("low high middle", 1), samples(30000, 2), samples(500, 3), np.zeros(9000, np.float32)]
    heard = []
    for depth in (1, 2, 3):
        for audio in audios:
            ours, theirs = pair.onnx.transcribe(audio, depth=depth), pair.torch.transcribe(audio, depth=depth)
            assert (ours.text, ours.subset) == (theirs.text, theirs.subset)
            heard.append(ours.text)
    assert len("".join(heard)) > 100  # random weights say much, all of it nonsense


def test_the_text_of_audio_in_chunks_is_that_of_torch(pair: Pair) -> None:
    audio = samples(35 * 16000)
    ours, theirs = pair.onnx.transcribe(audio, depth=2), pair.torch.transcribe(audio, depth=2)
    assert ours.text == theirs.text and len(ours.chunks) == len(theirs.chunks) == 2


def test_random_labels_spell_what_the_library_spells(pair: Pair) -> None:
    random = Random(0)
    labels = range(1, len(pair.torch.tokenizer.tokens))
    for _ in range(300):
        ids = random.choices(labels, k=random.randint(0, 20))
        assert pair.onnx.tokenizer.decode(ids) == pair.torch.tokenizer.decode(ids)


def test_tokens_are_spelt_as_other_runtimes_read_them(pair: Pair) -> None:
    tokens = pair.onnx.tokenizer.tokens
    theirs = pair.torch.tokenizer.tokens
    assert tokens[0] == "<blk>" and len(tokens) == len(theirs)
    assert tokens[theirs.index("|")] == "▁" and "|" not in tokens
    letters = [(ours, other) for ours, other in zip(tokens, theirs, strict=True) if other.isalpha()]
    assert len(letters) == 26 and all(ours == other for ours, other in letters)


def test_special_tokens_write_nothing(pair: Pair) -> None:
    theirs = pair.torch.tokenizer.tokens
    special = [i for i, token in enumerate(theirs) if i > 0 and token[0] in "<["]
    assert special and list(Manifest.load(pair.onnx.folder).silent_tokens) == special
    letter = next(i for i, token in enumerate(theirs) if token.isalpha())
    assert pair.onnx.tokenizer.decode([letter, *special, letter]) == 2 * theirs[letter]


# ------------------------------------------------------------------------------------------------------- Parakeet


@pytest.fixture(scope="module")
def parakeet(trace_tiny: Callable[[str], tuple[Path, Traced]], tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Hears log-mel of NeMo's kind, which devices compute without transformers, and writes pieces of words."""
    folder, traced = trace_tiny("parakeet")
    out = tmp_path_factory.mktemp("edge") / "parakeet"
    write_folder(out, traced, traced.model.clone(), traced.manifest)
    return Pair(load_model(folder), Recognizer(out, threads=1), traced)


@pytest.mark.slow  # another variant to trace, as above
@pytest.mark.parametrize("subset", SUBSETS, ids=lambda subset: subset.key)
@pytest.mark.parametrize("lengths", [[9000], [30000, 9000, 500], [1]], ids=["alone", "padded", "a sample"])
def test_every_subset_of_parakeet_equals_torch(parakeet: Pair, lengths: list[int], subset: BlockSubset) -> None:
    assert_as_torch(parakeet, lengths, subset)


@pytest.mark.slow
def test_parakeet_writes_what_torch_writes(parakeet: Pair) -> None:
    audios = [speak("low high middle", 1), samples(30000, 2), samples(35 * 16000, 3)]
    heard = []
    for depth in (1, 2, 3):
        for audio in audios:
            ours, theirs = parakeet.onnx.transcribe(audio, depth=depth), parakeet.torch.transcribe(audio, depth=depth)
            assert (ours.text, ours.subset) == (theirs.text, theirs.subset)
            heard.append(ours.text)
    assert len("".join(heard)) > 100


@pytest.mark.slow
@pytest.mark.parametrize("n_samples", [1, 159, 160, 320, 400, 1600, 16001, 48123])
def test_parakeet_hears_the_features_of_the_library(parakeet: Pair, n_samples: int) -> None:
    ours, theirs = parakeet.onnx.features, parakeet.network.features
    assert (ours.per_second, ours.samples_per_frame) == (theirs.per_second, theirs.samples_per_frame)
    found, expected = ours(samples(n_samples)), theirs(samples(n_samples))
    assert found.dtype == np.float32 and ours.frames(len(found)) == theirs.frames(len(expected))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_parakeet_is_not_for_sherpa_onnx(parakeet: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for Parakeet it has its own"):
        write_sherpa_folder(tmp_path / "out", parakeet.traced, 2, "float32")


def test_mel_settings_that_devices_do_not_have_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "parakeet", "parakeet")
    processor = AutoProcessor.from_pretrained(folder)
    processor.feature_extractor.preemphasis = 0.9
    processor.save_pretrained(folder)
    with pytest.raises(UserError, match=r"features with .*'preemphasis': 0\.9.* cannot be computed on devices"):
        trace(folder)
