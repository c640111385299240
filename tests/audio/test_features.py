from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from layerdial.audio import kaldi_fbank as fbank_module
from layerdial.audio.features import fbank
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import N_MELS, num_frames


def tones(n_samples: int) -> np.ndarray:
    rng = np.random.default_rng(n_samples)
    time = np.arange(n_samples) / SAMPLE_RATE
    return (0.2 * np.sin(2 * np.pi * 700 * time) + 0.01 * rng.standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("n_samples", [160, 239, 240, 399, 400, 401, 800, 16000, 16079, 16080, 48123])
def test_frame_count_is_known_from_the_sample_count(n_samples: int) -> None:
    features = fbank(tones(n_samples))
    assert features.shape == (num_frames(n_samples), N_MELS)
    assert features.dtype == np.float32 and np.isfinite(features).all()


@pytest.mark.parametrize("n_samples", [1, 79, 80, 159])
def test_audio_shorter_than_a_frame_gives_one_frame(n_samples: int) -> None:
    features = fbank(tones(n_samples))
    assert features.shape == (1, N_MELS) and np.isfinite(features).all()


def test_silence_has_finite_features() -> None:
    assert np.isfinite(fbank(np.zeros(8000, dtype=np.float32))).all()


def test_a_tone_is_loudest_in_its_own_bin() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    loudest = [
        int(np.median(fbank((0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)).argmax(1)))
        for hertz in (200, 400, 800, 1600, 3200, 6400)
    ]
    assert loudest == sorted(set(loudest))


def test_a_whole_second_of_shift_moves_features_by_100_frames() -> None:
    samples = tones(4 * SAMPLE_RATE)
    whole, later = fbank(samples), fbank(samples[SAMPLE_RATE:])
    np.testing.assert_array_equal(whole[102:-2], later[2:-2])  # the window of an edge frame reaches over the edge


@pytest.mark.parametrize("n_samples", [16000, 16080, 23456])
def test_features_are_those_of_lhotse(n_samples: int) -> None:
    from lhotse import Fbank, FbankConfig

    samples = tones(n_samples)
    theirs = Fbank(FbankConfig(num_filters=N_MELS, dither=0.0)).extract(samples, SAMPLE_RATE)
    ours = fbank(samples)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=0.02)


@pytest.mark.parametrize("n_samples", [160, 400, 16000, 16080, 48123])
def test_features_are_those_of_kaldi_native_fbank(n_samples: int) -> None:
    samples = tones(n_samples)
    np.testing.assert_allclose(fbank(samples), native(samples), atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 1e-4, 0.5])
def test_offset_and_silence_come_out_as_in_kaldi_native_fbank(level: float) -> None:
    np.testing.assert_allclose(fbank(samples := np.full(3000, level, np.float32)), native(samples), atol=1e-3)


def native(samples: np.ndarray) -> np.ndarray:
    """Features by the package that sherpa-onnx uses too."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins, options.mel_opts.high_freq = N_MELS, -400.0
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, samples.tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def test_the_graph_of_the_features_is_this_one() -> None:
    assert fbank_module.GRAPH.read_bytes() == features_graph()


def features_graph() -> bytes:
    """What src/layerdial/fbank.onnx holds: log(max(energies, eps)) with energies = (frames @ spectrum)^2 @ mel."""
    from onnx import TensorProto, helper

    def matrix(name: str, *axes: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)

    eps = helper.make_tensor("floor", TensorProto.FLOAT, [], [float(np.finfo(np.float32).eps)])
    nodes = [
        helper.make_node("MatMul", ["frames", "spectrum"], ["parts"]),
        helper.make_node("Mul", ["parts", "parts"], ["squares"]),
        helper.make_node("MatMul", ["squares", "mel"], ["energies"]),
        helper.make_node("Constant", [], ["floor"], value=eps),
        helper.make_node("Max", ["energies", "floor"], ["floored"]),
        helper.make_node("Log", ["floored"], ["log_mel"]),
    ]
    inputs = [
        matrix("frames", "frames", "window"),
        matrix("spectrum", "window", "parts"),
        matrix("mel", "parts", "bins"),
    ]
    outputs = [matrix("log_mel", "frames", "bins"), matrix("energies", "frames", "bins")]
    graph = helper.make_graph(nodes, "fbank", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made: bytes = model.SerializeToString()
    return made
