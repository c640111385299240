"""The depth of chunks on a simulated device: deepest that keeps up, shallow under load, and back again."""

from __future__ import annotations

import pytest

from layerdial import BlockSubset, UserError
from layerdial.runtime.chunk_controller import ChunkController
from layerdial.runtime.controller import CostTable, DepthOption

CHUNK = 0.32
DEPTHS = (2, 4, 8, 12)
OPTIONS = [DepthOption(depth, BlockSubset.prefix(12, depth), None) for depth in DEPTHS]
COSTS = CostTable((CHUNK, 4 * CHUNK), (1.0, 4.0), {2: (10.0, 30.0), 12: (60.0, 180.0)})  # of the ends, as measured


class Device:
    """Runs a chunk every 0.32 s, each of which takes `slow` times the idle device's time."""

    def __init__(self, streams: int = 1, **settings: float) -> None:
        self.controller = ChunkController(COSTS, OPTIONS, **settings)  # type: ignore[arg-type]
        self.streams, self.now, self.behind = streams, 0.0, 0.0

    def run(self, chunks: int, slow: float = 1.0) -> list[int]:
        depths = []
        for number in range(chunks):
            choices = self.controller.choose([number] * self.streams, CHUNK, self.behind, self.now)
            (subset,) = {choice.subset for choice in choices}
            took = slow * COSTS.total(subset.depth, self.streams * CHUNK) / 1000.0
            self.controller.observe(subset, self.streams, CHUNK, 1000.0 * took, self.now + took)
            self.behind = max(0.0, self.behind + took - CHUNK)
            self.now += max(CHUNK, took)
            depths.append(subset.depth)
        return depths


def test_an_idle_device_runs_all_blocks() -> None:
    assert Device().run(20) == [12] * 20


def test_depth_falls_with_the_load_and_comes_back() -> None:
    device = Device()
    device.run(5)
    loaded = device.run(10, slow=5.0)
    assert set(loaded[3:]) == {4} and device.behind == 0  # 5 x 21 ms of 160 ms; 8 blocks need 205 ms
    assert device.run(8)[-1] == 12  # two and a half seconds later


def test_under_a_burst_it_falls_behind_and_catches_up_at_the_shallowest() -> None:
    device = Device()
    burst = device.run(4, slow=20.0)
    assert burst[1:] == [2, 2, 2] and device.behind > 0.5
    depths = device.run(30)
    assert device.behind == 0 and depths[0] == 2 and depths[-1] == 12
    choice = device.controller.choose([0], CHUNK, 1.5, device.now)[0]
    assert choice.reason.startswith("shallowest: nothing keeps 160 ms, 1500 ms behind, expected 1")


def test_more_streams_at_once_share_a_smaller_depth() -> None:
    assert Device(streams=4).run(5)[-1] == 8  # 12 blocks need 184 ms of 160 ms
    assert Device(streams=8).run(5)[-1] == 4


@pytest.mark.parametrize(("settings", "depth"), [({"share": 0.25}, 12), ({"share": 0.1}, 4), ({"share": 0.01}, 2)])
def test_a_smaller_share_of_the_time_is_a_smaller_depth(settings: dict[str, float], depth: int) -> None:
    assert Device(**settings).run(3) == [depth] * 3


def test_a_deadline_counts_from_the_chunk_and_is_no_longer_than_it() -> None:
    assert Device(deadline_ms=45.0).run(3) == [8] * 3
    choice = Device(deadline_ms=1e6).controller.choose([0], CHUNK, 0.0, 0.0)[0]
    assert choice.reason == "deepest within 320 ms"


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_that_does_not_keep_up_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="does not keep up; give 0 to 1"):
        ChunkController(COSTS, OPTIONS, share)
