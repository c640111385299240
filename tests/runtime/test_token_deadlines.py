"""Deadlines of encoder-decoder models on a simulated clock: the decoder's time is set aside for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np
import pytest

from layerdial.runtime.controller import CostTable, DepthController, DepthOption
from layerdial.runtime.scheduler import Constraint, PassResult, Scheduler, TimedWindow
from layerdial.runtime.session import Cancel, Cancelled
from layerdial.subset import BlockSubset
from layerdial.text.speech_rate import USUAL, SpeechRate
from layerdial.text.token_rules import NOTHING, Written

N = 6
SECONDS = 10.0
TOKEN_MS = 4.0
LENGTHS = (1.0, 10.0, 30.0)
COSTS = CostTable(
    LENGTHS,
    tuple(0.3 * s for s in LENGTHS),
    {depth: tuple((2.0 + 3.0 * depth) * s for s in LENGTHS) for depth in range(1, N + 1)},
    token_ms=(TOKEN_MS,) * 3,
)
OPTIONS = tuple(DepthOption(depth, BlockSubset.prefix(N, depth), 1 / depth) for depth in range(1, N + 1))
IDLE_MS = COSTS.usual(N, SECONDS)  # 363 ms, of which the encoder takes 200


def written(steps: int, logp: float = -0.1, looped: bool = False) -> Written:
    return Written(list(range(steps - 1)), logp, 0.0, looped, n_steps=steps)


@dataclass
class Device:
    """Encodes and writes texts of `steps`, `slow(now)` times slower than its costs say; its own clock and watchdog.

    `text(depth)` is what the decoder writes at a depth, `other` what it writes in another search, of `other_steps`.
    """

    text: Callable[[int], Written] = lambda depth: written(41)
    other: Written = field(default_factory=lambda: written(30, -0.2))
    other_steps: int = 100
    slow: Callable[[float], float] = lambda now: 1.0
    rows: int = 1
    silent: bool = False
    now: float = 0.0
    due: float = math.inf
    encoded: list[int] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller = DepthController(COSTS, OPTIONS)
        self.scheduler = Scheduler(self._encode, self.controller, N, lambda: self.now, self, self.rows)

    @contextmanager
    def at(self, when: float, action: Callable[[], object]) -> Iterator[None]:
        self.due = when
        yield
        self.due = math.inf

    def serve(self, deadline_ms: float = math.inf, **constraint: object) -> PassResult:
        """Do one request of ten seconds; `took_ms` says how long it took."""
        start = self.now
        deadline = None if deadline_ms == math.inf else start + deadline_ms / 1000.0
        self._work(COSTS.features(SECONDS), None)
        self.controller.observe_features(SECONDS, 1000.0 * (self.now - start), self.now)
        window = TimedWindow(np.zeros(0, np.float32), SECONDS, SECONDS, deadline)
        result = self.scheduler.run(window, Constraint(deadline=deadline, **constraint))  # type: ignore[arg-type]
        self.took_ms = 1000.0 * (self.now - start)
        return result

    def least_ms(self, begin: float, steps: int) -> float:
        """Return what the shallowest would have taken for a text of so many steps, at that time."""
        now = begin
        for idle_ms in (COSTS.features(SECONDS), COSTS.network(1, SECONDS), *[TOKEN_MS] * steps):
            now += idle_ms * self.slow(now) / 1000.0
        return 1000.0 * (now - begin)

    def _encode(self, inputs: np.ndarray, subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        if self.silent:
            return PassResult([], 1.0, subset, written=NOTHING, ran=False)
        self.encoded.append(subset.depth)
        self._work(COSTS.network(subset.depth, SECONDS), cancel)
        return PassResult([], 0.0, subset, search=Decoder(self, subset.depth))

    def _work(self, idle_ms: float, cancel: Cancel | None) -> None:
        done = self.now + idle_ms * self.slow(self.now) / 1000.0
        if cancel is not None and done > self.due:
            self.now = max(self.now, self.due)
            raise Cancelled
        self.now = done


@dataclass(frozen=True)
class Decoder:
    """See `Search`: each step takes its time, and is where a search is stopped."""

    device: Device
    depth: int

    @property
    def rows(self) -> int:
        return self.device.rows

    @property
    def is_measured(self) -> bool:
        return self.rows == 1

    def first(self, cancel: Cancel | None = None) -> Written:
        found = self.device.text(self.depth)
        return self._search(f"first {self.depth}", found, found.n_steps, cancel)

    def again(self, found: Written, cancel: Cancel | None = None) -> Written:
        return self._search(f"again {self.depth}", self.device.other, self.device.other_steps, cancel)

    def _search(self, name: str, found: Written, steps: int, cancel: Cancel | None) -> Written:
        for _ in range(steps):
            self.device._work(self.rows * TOKEN_MS, cancel)
        self.device.searches.append(name)
        return found


def talker(rate: float, seed: int = 0) -> Callable[[int], Written]:
    """Texts of about `rate` tokens a second, whatever the depth."""
    rng = np.random.default_rng(seed)
    return lambda depth: written(2 + int(rng.poisson(rate * SECONDS)))


def settled(device: Device, deadline_ms: float, requests: int = 40) -> float:
    """The mean depth of requests after a while."""
    found = [device.serve(deadline_ms).subset.depth for _ in range(requests)]
    return fmean(found[requests // 2 :])


# ----------------------------------------------------------------------------------------------------------- the choice


def test_with_ample_time_the_deepest_is_encoded_once_and_written_once() -> None:
    device = Device()
    result = device.serve(10 * IDLE_MS)
    assert (result.subset.depth, result.written) == (N, written(41))
    assert (device.encoded, device.searches) == ([N], [f"first {N}"])
    assert device.took_ms == pytest.approx(COSTS.total(N, SECONDS, 41))
    assert result.confidence == pytest.approx(math.exp(-0.1))


def test_where_time_is_short_the_shallowest_is_encoded_first_and_only_one_text_is_written() -> None:
    device = Device()
    result = device.serve(1.5 * IDLE_MS)
    assert device.encoded == [1, N] and device.searches == [f"first {N}"] and result.reason.startswith("deepest within")


def test_the_time_of_the_decoder_is_set_aside() -> None:
    """The deepest encoder alone would be done in a third of this time."""
    device = Device(talker(USUAL))
    assert COSTS.network(N, SECONDS) < 0.6 * 340.0
    assert 1 <= settled(device, 340.0) < N
    assert device.serve(5.0).reason.startswith("shallowest: nothing keeps 2 ms, expected ")


def test_where_time_is_enough_for_two_texts_the_first_tells_how_long_the_second_will_be() -> None:
    device = Device(lambda depth: written(30))
    result = device.serve(2.0 * IDLE_MS)
    assert device.encoded == [1, N] and device.searches == ["first 1", f"first {N}"] and result.subset.depth == N


@pytest.mark.parametrize("texts", [1, 2])
def test_more_time_for_as_many_texts_never_gets_fewer_blocks(texts: int) -> None:
    devices = [(device := Device(), device.serve(ms).subset.depth) for ms in np.linspace(50, 1000, 200)]
    depths = [depth for device, depth in devices if len(device.searches) == texts]
    assert depths == sorted(depths) and depths[-1] == N


def test_fast_speech_gets_fewer_blocks_than_slow_speech() -> None:
    """Of both, the texts so far tell how long the next one will be."""
    slow, fast = (settled(Device(talker(rate)), 400.0) for rate in (1.5, 5.0))
    assert fast + 2 <= slow


@pytest.mark.parametrize("factor", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("rate", [2.5, 5.0])
def test_deadlines_are_kept_under_bursts_where_the_shallowest_could(factor: float, rate: float) -> None:
    """But for load that begins while a text is written: by then a depth has been chosen."""
    deadline_ms = 1.5 * COSTS.total(N, SECONDS, rate * SECONDS)
    kept = []
    for seed in range(3):
        device = Device(talker(rate, seed), slow=lambda now: factor if int(now / 15) % 2 else 1.0)
        for _ in range(200):
            begin, result = device.now, device.serve(deadline_ms)
            assert result.written is not None
            if device.least_ms(begin, result.written.n_steps) <= deadline_ms:
                kept.append(device.took_ms <= 1.1 * deadline_ms)
            device.now = max(device.now, begin + 0.5)
    assert len(kept) > 100 and fmean(kept) >= 0.985


def test_load_that_the_decoder_meets_counts_for_the_next_request() -> None:
    """The clock of a device slows down while it writes: the next one is encoded with fewer blocks."""
    device = Device()
    before = device.serve(1.8 * IDLE_MS).subset.depth
    device.slow = lambda now: 3.0
    device.serve(1.8 * IDLE_MS)
    assert device.controller.load.slowdown(device.now) == pytest.approx(3.0, rel=0.15)
    assert before == N and device.serve(1.8 * IDLE_MS).subset.depth < N


def test_beams_are_set_aside_time_for_each_and_say_nothing_of_the_load() -> None:
    one, three = (Device(lambda depth: written(31), rows=rows) for rows in (1, 3))
    assert three.serve(600.0).subset.depth < one.serve(600.0).subset.depth == N
    assert three.controller.speech.rate == USUAL != one.controller.speech.rate
    assert three.controller.load.slowdown(three.now) == pytest.approx(1.0)


def test_silence_says_nothing_of_the_load_nor_of_the_rate_of_speech() -> None:
    device = Device(silent=True)
    for _ in range(20):
        result = device.serve(500.0)
        assert result.written == NOTHING and not device.searches
    assert device.controller.load.slowdown(device.now) == pytest.approx(1.0)
    assert device.controller.speech.rate == USUAL


def test_a_share_of_the_cpu_counts_the_decoder() -> None:
    enough = COSTS.total(3, SECONDS, Device().controller.expected_steps(SECONDS)) / 1000.0 / SECONDS
    assert Device().serve(max_cpu=1.01 * enough).subset.depth == 3
    assert Device().serve(max_cpu=0.99 * enough).subset.depth == 2
    assert Device().serve(max_cpu=1e-6).reason.startswith("shallowest: nothing keeps 1e-06 of a CPU")


# ------------------------------------------------------------------------------------------------------------- too late


def test_an_encoder_that_is_late_is_stopped_and_the_shallower_one_is_decoded() -> None:
    device = Device()
    device.slow = lambda now: 1.0 if now < 0.05 else 4.0  # once the shallowest is encoded
    result = device.serve(550.0)
    assert device.encoded == [1, N] and device.searches == ["first 1"] and result.subset.depth == 1
    assert result.reason.startswith("shallowest: depth 6 was stopped after ")


def test_a_deepest_encoder_that_is_late_is_stopped_and_the_shallowest_follows() -> None:
    device = Device(slow=lambda now: 20.0)
    device.controller.observe_features = lambda *a: None  # type: ignore[method-assign]
    result = device.serve(2000.0)
    assert device.encoded == [N, 1] and device.searches == ["first 1"] and result.written == written(41)


def test_a_text_that_is_longer_than_foreseen_is_written_to_its_end() -> None:
    """Late, but whole: a deadline never cuts a text."""
    device = Device(lambda depth: written(200))
    result = device.serve(400.0)
    assert result.written == written(200) and device.took_ms > 800.0 and not result.loops


# ---------------------------------------------------------------------------------------------------------------- loops


def looping(depth: int) -> Written:
    return written(30, looped=True)


def test_other_searches_replace_a_text_that_loops_where_there_is_time() -> None:
    device = Device(looping)
    result = device.serve(2000.0)
    assert result.written == device.other and not result.loops and "cut" not in result.reason
    assert device.searches == [f"first {N}", f"again {N}"] and result.confidence == pytest.approx(math.exp(-0.2))


def test_other_searches_are_stopped_at_the_deadline_and_the_text_is_said_to_be_cut() -> None:
    device = Device(looping, other_steps=1000)
    result = device.serve(1000.0)
    assert device.took_ms <= 1000.0 and device.searches[-1] == f"first {N}"
    assert result.loops and result.reason.endswith("was cut: there was no time for another search")


@pytest.mark.parametrize("limit", [{"deadline_ms": 50.0}, {"max_cpu": 1.0}], ids=str)
def test_other_searches_are_left_out_where_no_time_is_left(limit: dict[str, float]) -> None:
    device = Device(looping)
    result = device.serve(**limit)  # type: ignore[arg-type]
    assert result.loops and len(device.searches) == 1 and "the text repeated itself and was cut" in result.reason


def test_a_text_that_no_search_betters_is_said_to_be_cut() -> None:
    device = Device(looping, other=written(30, looped=True))
    result = device.serve(5000.0)
    assert result.loops and result.reason.endswith("was cut: no other search did better")


def test_loops_say_nothing_of_the_rate_of_speech() -> None:
    device = Device(looping)
    device.serve(2000.0)
    assert device.controller.speech.rate == USUAL


# ----------------------------------------------------------------------------------------------------------- confidence


def unsure_first(depth: int) -> Written:
    return written(41, -0.05 if depth > 1 else -1.5)


def test_a_sure_text_of_the_shallowest_is_kept() -> None:
    device = Device()
    result = device.serve(confidence=0.9)
    assert device.encoded == [1] and result.reason == "shallowest, and sure of it (0.905)"


def test_an_unsure_text_is_followed_by_that_of_all_blocks() -> None:
    device = Device(unsure_first)
    result = device.serve(confidence=0.9)
    assert device.searches == ["first 1", f"first {N}"] and result.confidence > 0.9
    assert result.reason == "all blocks, as the shallowest was not sure (0.223)"


def test_a_text_that_loops_is_not_sure_and_is_followed_before_other_searches() -> None:
    device = Device(lambda depth: written(30, -0.01, looped=depth == 1))
    result = device.serve(confidence=0.5)
    assert device.searches == ["first 1", f"first {N}"] and not result.loops


def test_a_second_text_is_stopped_at_the_deadline_and_the_first_returned() -> None:
    """The first text tells how long the second will be, but it may be longer."""
    device = Device(lambda depth: replace(unsure_first(depth), n_steps=41 if depth == 1 else 400))
    result = device.serve(800.0, confidence=0.9)
    assert device.encoded == [1, N] and device.searches == ["first 1"] and device.took_ms <= 800.0
    assert result.subset.depth == 1 and result.written == unsure_first(1)
    assert result.reason.startswith("shallowest: depth 6 was stopped after ")


def test_the_length_of_the_first_text_is_what_is_set_aside_for_the_second() -> None:
    short, long = (Device(lambda depth, steps=steps: replace(unsure_first(depth), n_steps=steps)) for steps in (10, 60))
    assert long.serve(600.0, confidence=0.9).subset.depth < short.serve(600.0, confidence=0.9).subset.depth == N


def test_both_texts_count_for_a_share_of_the_cpu() -> None:
    enough = (COSTS.total(N, SECONDS, 82) + COSTS.network(1, SECONDS)) / 1000.0 / SECONDS
    depths = [Device(unsure_first).serve(max_cpu=m * enough, confidence=0.9).subset.depth for m in (1.01, 0.99)]
    assert depths == [N, N - 1]


# ------------------------------------------------------------------------------------------------------- rate and costs


def rates(texts: Sequence[tuple[int, float]]) -> SpeechRate:
    speech = SpeechRate()
    for tokens, seconds in texts:
        speech.observe(tokens, seconds)
    return speech


def test_the_rate_of_speech_is_that_of_the_texts_so_far() -> None:
    assert rates([(25, 10.0)] * 100).rate == pytest.approx(2.5, abs=0.01)
    assert rates([(25, 10.0)] * 100 + [(60, 10.0)] * 100).rate == pytest.approx(6.0, abs=0.01)
    assert 2.5 < rates([(25, 10.0)]).rate < USUAL  # one text does not tell


def test_one_text_in_ten_at_most_is_longer_than_foreseen() -> None:
    rng = np.random.default_rng(0)
    speech, longer = SpeechRate(), []
    for _ in range(2000):
        seconds = float(rng.uniform(2, 25))
        tokens = int(rng.normal(3.0 * seconds, math.sqrt(2.0 * seconds)))
        longer.append(tokens > speech.expected(seconds))
        speech.observe(max(0, tokens), seconds)
    assert 0 < fmean(longer) <= 0.1


def test_costs_with_a_decoder_are_those_of_its_steps_besides() -> None:
    table = CostTable((1.0, 3.0), (2.0, 4.0), {1: (10.0, 20.0)}, token_ms=(1.0, 3.0))
    assert table.decoding(2.0, 7) == pytest.approx(14.0)
    assert table.total(1, 2.0, 7) == pytest.approx(32.0)
    assert table.usual(1, 2.0) == pytest.approx(18.0 + 2.0 * 2.0 * USUAL)
    assert replace(table, token_ms=()).decoding(2.0, 7) == 0.0
    with pytest.raises(ValueError, match="as many times"):
        replace(table, token_ms=(1.0,))
