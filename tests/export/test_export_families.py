"""Every family of CTC models as one graph: log-probabilities and texts are those of torch at every depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch

from layerdial import load_model
from layerdial.export.export import export_model
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.runtime import Recognizer
from layerdial.runtime.manifest import Manifest
from layerdial.subset import BlockSubset
from tiny_families import CASES, granite_without_torchaudio

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]

# those of tests/export/test_export_hugging_face.py are left out; tracing one takes up to twenty seconds
OTHERS = [name for name in CASES if name not in ("wavlm", "wav2vec2", "hubert", "parakeet_ctc")]
NAMES = [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
SUBSETS = [BlockSubset(3, kept) for depth in (1, 2, 3) for kept in combinations(range(3), depth)]


@dataclass(frozen=True)
class Pair:
    torch: TorchRecognizer
    onnx: Recognizer
    manifest: Manifest


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("edge")
    with granite_without_torchaudio():
        CASES[request.param].save(folder / "model", n_blocks=3)
        manifest = export_model(folder / "model", folder / "edge")
        yield Pair(load_model(folder / "model"), Recognizer(folder / "edge", threads=1), manifest)


def noise(length: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)


@pytest.mark.parametrize(
    "lengths",
    [[1], [2320], [5003], [9000, 4100, 560], [8000, 8320, 8640], [10240, 10560], [160000, 3000]],
    ids=lambda lengths: " ".join(map(str, lengths)),
)
def test_every_subset_equals_torch(pair: Pair, lengths: list[int]) -> None:
    rows = [pair.torch.features(noise(length)) for length in lengths]
    inputs = np.zeros((len(rows), max(map(len, rows)), *rows[0].shape[1:]), np.float32)
    for into, row in zip(inputs, rows, strict=True):
        into[: len(row)] = row
    lengths_B = np.array([len(row) for row in rows])
    for subset in SUBSETS:
        found_BTV, frames_B = pair.onnx.session.posteriors(inputs, lengths_B, subset)
        with torch.inference_mode():
            theirs = pair.torch.network(torch.from_numpy(inputs), torch.from_numpy(lengths_B), subset)
        assert frames_B.tolist() == theirs.lengths_B.tolist()
        for found, expected, frames in zip(found_BTV, theirs.log_probs_BTV.numpy(), frames_B, strict=True):
            np.testing.assert_allclose(found[:frames], expected[:frames], atol=1e-3)


def test_the_text_is_that_of_torch_at_every_depth(pair: Pair) -> None:
    """From samples on: a device computes the features without transformers."""
    heard = []
    for depth in (1, 2, 3):
        for audio in (noise(30000), noise(500), np.zeros(9000, np.float32)):
            ours, theirs = pair.onnx.transcribe(audio, depth=depth), pair.torch.transcribe(audio, depth=depth)
            assert (ours.text, ours.subset) == (theirs.text, theirs.subset)
            heard.append(ours.text)
    assert len("".join(heard)) > 10


def test_the_manifest_says_how_close_each_depth_is(pair: Pair) -> None:
    assert [row.depth for row in pair.manifest.parity] == [1, 2, 3]
    assert all(row.largest_difference < 1e-3 for row in pair.manifest.parity)
