"""The table of a device: milliseconds of features and of each depth, by a clock of our own."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from layerdial.audio.features import SAMPLE_RATE
from layerdial.runtime import measure
from layerdial.runtime.measure import measure_table, measured_depths
from layerdial.subset import BlockSubset
from layerdial.utils import timing

SUBSETS = {1: BlockSubset.from_key("010"), 3: BlockSubset.full(3)}


class Device:
    """Features take 1 ms a second of audio, and each block 2 ms; two CPUs are busy all the time."""

    def __init__(self) -> None:
        self.now = 5.0
        self.clock = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: 2 * self.now)

    def features(self, samples: np.ndarray) -> np.ndarray:
        self.now += 0.001 * len(samples) / SAMPLE_RATE
        return np.zeros((len(samples) // 160, 80), np.float32)

    def spend(self, seconds: float) -> None:
        self.now += seconds

    def run(self, inputs: np.ndarray, subset: BlockSubset) -> None:
        self.now += 0.002 * subset.depth * len(inputs) / 100


def test_a_table_has_the_times_of_each_length_and_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    for module in (timing, measure):
        monkeypatch.setattr(module, "time", device.clock)
    table = measure_table(device.features, device.run, SUBSETS, 2, (1.0, 10.0), budget_s=1.0)
    assert (table.threads, table.seconds, table.features_ms) == (2, (1.0, 10.0), (1.0, 10.0))
    assert table.network_ms == {1: (2.0, 20.0), 3: (6.0, 60.0)}
    assert table.cpu_share == 2.0


def test_with_a_decoder_the_table_has_the_time_of_one_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    for module in (timing, measure):
        monkeypatch.setattr(module, "time", device.clock)

    def usual_search(inputs: np.ndarray) -> tuple[Callable[[], None], int]:
        steps = len(inputs) // 25  # four a second, each of 3 ms and one more for every ten seconds of audio
        return lambda: device.spend(steps * (0.003 + 0.0001 * len(inputs) / 100)), steps

    table = measure_table(device.features, device.run, SUBSETS, 2, (1.0, 10.0), budget_s=1.0, usual_search=usual_search)
    assert table.token_ms == (3.1, 4.0) and table.network_ms == {1: (2.0, 20.0), 3: (6.0, 60.0)}


def test_all_depths_of_a_small_encoder_are_measured_and_nine_of_a_large_one() -> None:
    assert measured_depths(range(1, 4)) == (1, 2, 3)
    assert measured_depths(range(1, 25)) == (1, 4, 7, 10, 12, 15, 18, 21, 24)
    assert measured_depths(range(3, 7)) == (3, 4, 5, 6)
