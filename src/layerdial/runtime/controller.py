"""Choice of a depth that meets a constraint, from the cost of each depth and the current slowdown of the device.

The code is pure arithmetic on times that others measure, so it can be tested against a simulated device.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from layerdial.ladder import Ladder, depths_of
from layerdial.subset import BlockSubset
from layerdial.text.speech_rate import USUAL, SpeechRate
from layerdial.utils.forks import renew_after_fork


@dataclass(frozen=True)
class CostTable:
    """Milliseconds that an idle device needs, by seconds of audio and depth; linear between and beyond the points.

    `network_ms[depth][i]` and `features_ms[i]` belong to `seconds[i]`, ascending. `cpu_share` is the computing time of
    all threads divided by the elapsed time. `token_ms[i]` is one step of a decoder, where the model has one; then
    `network_ms` is the encoder alone.
    """

    seconds: tuple[float, ...]
    features_ms: tuple[float, ...]
    network_ms: Mapping[int, tuple[float, ...]]
    cpu_share: float = 1.0
    token_ms: tuple[float, ...] = ()
    _depths: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_depths", tuple(sorted(self.network_ms)))
        rows = [self.features_ms, *self.network_ms.values(), *([self.token_ms] if self.token_ms else [])]
        ascending = all(a < b for a, b in itertools.pairwise(self.seconds))
        if not (self.seconds and self.network_ms and ascending and all(len(row) == len(self.seconds) for row in rows)):
            raise ValueError("a table of costs needs lengths in ascending order, and as many times for each depth")
        if not all(0 < number < math.inf for row in (*rows, self.seconds, (self.cpu_share,)) for number in row):
            raise ValueError("a table of costs holds a number that is not above 0 and finite")

    def features(self, seconds: float) -> float:
        """Return the milliseconds for the features of `seconds` of audio."""
        return interpolate(self.seconds, self.features_ms, seconds)

    def network(self, depth: int, seconds: float) -> float:
        """Return the milliseconds of the part that depends on depth: a CTC network, or an encoder."""
        at = bisect.bisect_left(self._depths, depth)
        if at < len(self._depths) and self._depths[at] == depth:
            return interpolate(self.seconds, self.network_ms[depth], seconds)
        times = [interpolate(self.seconds, self.network_ms[d], seconds) for d in self._depths]
        return interpolate(self._depths, times, depth)

    def decoding(self, seconds: float, steps: float) -> float:
        """Return the milliseconds of so many steps of the decoder; none for a model that has no decoder."""
        return steps * interpolate(self.seconds, self.token_ms, seconds) if self.token_ms else 0.0

    def total(self, depth: int, seconds: float, steps: float = 0.0) -> float:
        """Return the milliseconds of a whole request, with so many steps of a decoder."""
        return self.features(seconds) + self.network(depth, seconds) + self.decoding(seconds, steps)

    def usual(self, depth: int, seconds: float) -> float:
        """Return the milliseconds of a request with a text of usual length."""
        return self.total(depth, seconds, USUAL * seconds)


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return the value at `x` of the line through the points, at least half of the least y."""
    if len(xs) == 1:
        return ys[0] * x / xs[0] if x > xs[0] else ys[0]
    i = min(max(bisect.bisect_right(xs, x), 1), len(xs) - 1)
    slope = (ys[i] - ys[i - 1]) / (xs[i] - xs[i - 1])
    return max(ys[i - 1] + slope * (x - xs[i - 1]), 0.5 * min(ys))


class Load:
    """A moving estimate of the device's slowdown: its time now over its time when it was profiled.

    It is the mean of the logarithm. It rises faster than it falls, short work counts less than long work, and a single
    outlier changes it by a bounded step. While nothing is measured it returns to one, because an old measurement says
    nothing about the load now.
    """

    RISE, FALL = 0.7, 0.3
    SHORT_MS = 2.0  # work of this time counts half: whether it was interrupted is chance
    LARGEST_STEP = math.log(3.0)
    FORGET_SECONDS = 15.0  # half-life

    def __init__(self) -> None:
        self._level = 0.0
        self._when = -math.inf

    def observe(self, took_ms: float, expected_ms: float, now: float) -> None:
        """Update the estimate: work that takes an idle device `expected_ms` took `took_ms`; `now` in seconds.

        `now` may be of any clock.
        """
        self._age(now)
        error = math.log(max(took_ms, 1e-3) / max(expected_ms, 1e-3)) - self._level
        error = max(-self.LARGEST_STEP, min(self.LARGEST_STEP, error))
        longer = max(took_ms, expected_ms)
        weight = longer / (longer + self.SHORT_MS)
        self._level += (self.RISE if error > 0 else self.FALL) * weight * error

    def slowdown(self, now: float) -> float:
        """Return the estimate as a factor."""
        self._age(now)
        return math.exp(self._level)

    def _age(self, now: float) -> None:
        if now > self._when:
            self._level *= 0.5 ** ((now - self._when) / self.FORGET_SECONDS)
            self._when = now


@dataclass(frozen=True, slots=True)
class DepthOption:
    """One depth that is worth running: no shallower one has as few errors."""

    depth: int
    subset: BlockSubset
    wer: float | None


def worthwhile(ladder: Ladder | None, n_blocks: int) -> tuple[DepthOption, ...]:
    """Return the ladder's rungs, shallowest first, without those that are no better than a shallower one.

    Without a ladder, all depths are returned, with evenly spaced blocks.
    """
    if ladder is None:
        depths = depths_of(ladder, n_blocks)
        return tuple(DepthOption(depth, BlockSubset.even(n_blocks, depth), None) for depth in depths)
    options: list[DepthOption] = []
    for rung in ladder.rungs:
        if not options or rung.wer < (options[-1].wer or 0.0):
            options.append(DepthOption(rung.depth, BlockSubset.from_key(rung.subset), rung.wer))
    return tuple(options)


@dataclass(frozen=True, slots=True)
class Plan:
    """The depth to run, and the reason.

    Unless it is done within `stop_ms` from now, it is stopped. `first`: a deeper one may follow in the time left.
    `writes`: the decoder is part of what is run and stopped; else it follows at last.
    """

    option: DepthOption
    reason: str
    stop_ms: float | None = None
    first: bool = False
    writes: bool = False


class DepthController:
    """The choice of the deepest option that meets a deadline, updated by measured times. Safe for many threads at once.

    Where time is short, the shallowest option runs first. Its result is there then, and its time says how slow the
    device is at this moment. The deepest that fits in the time left follows.

    Of an encoder-decoder model only the encoder depends on the depth. Where the time is enough for two texts, the first
    run writes one, which tells how long the second will be. Where it is not, the same is done with the encoder alone,
    and time for the `steps` of the decoder is set aside.
    """

    DECODING_MS = 0.5  # the work after the network
    AMPLE = 3.0  # times the expected time: with so much the deepest runs alone
    SLICE_MS = 4.0  # for how long an operating system lets another program run
    SLICES = 1.5  # of each other program, for which a run that is stopped may have to wait
    SPARE = 0.1  # of the time left
    CALM = 1.4  # with a larger slowdown no deeper encoder runs before there is a text: the load may rise once more

    def __init__(self, costs: CostTable, options: Sequence[DepthOption]) -> None:
        self.costs = costs
        self.options = tuple(options)
        self.load = Load()
        self.speech = SpeechRate()
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make the lock anew: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    @property
    def shallowest(self) -> DepthOption:
        return self.options[0]

    def expected_steps(self, seconds: float) -> float:
        """Return how often a decoder is expected to run for so much audio; 0 where there is none."""
        with self._lock:
            return self.speech.expected(seconds) + 1.0 if self.costs.token_ms else 0.0

    def choose(self, seconds: float, left_ms: float, now: float, steps: float = 0.0) -> Plan:
        """Return the plan for `seconds` of audio whose network must be done within `left_ms` from now.

        It is the deepest option where the time is ample, with a time at which the shallowest can still replace it. Else
        it is the shallowest; `choose_after` says what follows.
        """
        slow = self.slowdown(now)
        text_ms = self.costs.decoding(seconds, steps)
        every = [(self.costs.network(option.depth, seconds) + text_ms) * slow for option in self.options]
        least, deepest = every[0], self.options[-1]
        latest = self._latest(left_ms, slow) - least
        if deepest != self.shallowest and self.AMPLE * every[-1] <= latest:
            return Plan(deepest, within(left_ms, slow), latest, writes=True)
        if least > left_ms:
            reason = f"shallowest: nothing keeps {max(left_ms, 0):.0f} ms, expected {least:.0f} ms"
        else:
            reason = f"shallowest: no deeper one keeps {left_ms:.0f} ms"
        return Plan(self.shallowest, reason, first=True, writes=min(every[1:], default=math.inf) <= latest)

    def choose_after(
        self,
        after: DepthOption,
        seconds: float,
        left_ms: float,
        now: float,
        steps: float = 0.0,
        writes: bool = False,
    ) -> Plan:
        """Return the deepest option that can follow `after`, whose result is there, within `left_ms` from now.

        It is stopped early enough to return that result in time. The plan is `after` itself where no deeper one fits.
        `writes`: the result is a text, and so is that of what follows.
        """
        slow = self.slowdown(now)
        text_ms = self.costs.decoding(seconds, steps) * slow
        latest = self._latest(left_ms, slow) - text_ms
        fitting = [
            option
            for option in self.options
            if option.depth > after.depth and self.costs.network(option.depth, seconds) * slow <= latest
        ]
        if not fitting or (text_ms and not writes and slow > self.CALM):
            return Plan(after, f"nothing deeper keeps {max(left_ms, 0):.0f} ms")
        return Plan(fitting[-1], within(left_ms, slow), latest + (text_ms if writes else 0.0), writes=writes)

    def slowdown(self, now: float) -> float:
        """Return the time of work now over its time on the idle device; at least one."""
        with self._lock:
            return max(1.0, self.load.slowdown(now))

    def stop_ms(self, left_ms: float, now: float) -> float:
        """Return when what a request can do without must be stopped, in milliseconds from now."""
        return self._latest(left_ms, self.slowdown(now))

    def _latest(self, left_ms: float, slow: float) -> float:
        """Return when a run must be done or stopped, in milliseconds from now.

        A slowdown of n means about n - 1 other programs a CPU. Each of them may run for a time slice before the thread
        that is stopped runs again and notices it.
        """
        return (1.0 - self.SPARE) * left_ms - self.DECODING_MS - self.SLICES * self.SLICE_MS * (slow - 1.0)

    def choose_by_cpu(
        self,
        seconds: float,
        max_cpu: float,
        counted: float | None = None,
        after: DepthOption | None = None,
        steps: float = 0.0,
    ) -> Plan:
        """Return the deepest option that computes for at most `max_cpu` seconds, over all threads, a second of audio.

        `seconds` are computed, context included, of which `counted` (default: all) are new audio. The computing of
        `after`, an option that has run already, counts.
        """
        counted = seconds if counted is None else counted
        budget_ms = 1000.0 * max_cpu * counted / self.costs.cpu_share
        if after is not None:
            budget_ms -= self.costs.network(after.depth, seconds) + self.costs.decoding(seconds, steps)
        fitting = [option for option in self.options if self.costs.total(option.depth, seconds, steps) <= budget_ms]
        if not fitting:
            least = self.costs.total(self.shallowest.depth, seconds, steps) * self.costs.cpu_share / 1000.0 / counted
            return Plan(self.shallowest, f"shallowest: nothing keeps {max_cpu:g} of a CPU, it needs {least:.2g}")
        return Plan(fitting[-1], f"deepest within {max_cpu:g} of a CPU")

    def option_for(self, subset: BlockSubset) -> DepthOption:
        """Return an option for blocks that a request names."""
        return next(
            (option for option in self.options if option.subset == subset), DepthOption(subset.depth, subset, None)
        )

    def observe_network(self, depth: int, seconds: float, took_ms: float, now: float, unfinished: bool = False) -> None:
        """Update the load by `took_ms` of the network at `depth` for `seconds` of audio.

        `unfinished`: it was stopped after that time.
        """
        expected = self.costs.network(depth, seconds)
        with self._lock:
            if unfinished:  # it would have taken longer: half as long again is assumed, and at least the estimate
                took_ms = max(1.5 * took_ms, expected * self.load.slowdown(now))
            self.load.observe(took_ms, expected, now)

    def observe_decoding(self, seconds: float, steps: int, took_ms: float, now: float) -> None:
        """Update the load by `took_ms` of so many steps of the decoder for `seconds` of audio."""
        with self._lock:
            self.load.observe(took_ms, self.costs.decoding(seconds, steps), now)

    def observe_text(self, seconds: float, steps: int) -> None:
        """Update the rate of speech by a text after which the decoder ended of its own accord."""
        with self._lock:
            self.speech.observe(steps - 1, seconds)

    def observe_features(self, seconds: float, took_ms: float, now: float) -> None:
        """Update the load by the time of the features."""
        with self._lock:
            self.load.observe(took_ms, self.costs.features(seconds), now)


def within(left_ms: float, slow: float) -> str:
    """Return the reason for the deepest option that is done in so many milliseconds, at such a slowdown."""
    slowness = f", reckoned with {slow:.1f} times the idle time" if slow >= 1.2 else ""
    return f"deepest within {left_ms:.0f} ms{slowness}"
