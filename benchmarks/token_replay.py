"""Deadlines of an exported encoder-decoder model on recorded load, on a simulated clock, beside fixed depths.

    layerdial profile EXPORTED --threads 1
    python benchmarks/token_replay.py EXPORTED benchmarks/traces/*.npz --cuts dev.cuts.jsonl.gz

The costs are those of the folder's profile, and the texts are as long as those of the model with all blocks, at every
depth. A request works longer than one of a trace (see `load_trace.py`), so several of a trace follow each other in it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deadline_replay import DECODING_MS, Device, Request
from layerdial.audio.files import SAMPLE_RATE
from layerdial.runtime import Recognizer
from layerdial.runtime.controller import CostTable, DepthOption, worthwhile
from layerdial.runtime.scheduler import PassResult
from layerdial.runtime.session import Cancel
from layerdial.subset import BlockSubset
from layerdial.text.token_rules import Written
from load_trace import Trace

RATIOS = (1.5, 2.5)  # deadline over the idle time of all blocks for as much audio and a text of average length
TOLERANCE = 1.1


@dataclass(frozen=True)
class Utterance:
    """Seconds of speech, and how often the decoder runs for its text."""

    seconds: float
    steps: int


@dataclass(frozen=True)
class SpeechModel:
    """The costs of an exported model on the idle device, and utterances to recognise."""

    costs: CostTable
    options: tuple[DepthOption, ...]
    utterances: tuple[Utterance, ...]

    @property
    def n_blocks(self) -> int:
        return self.options[-1].subset.n_blocks

    @cached_property
    def steps_per_second(self) -> float:
        return sum(u.steps for u in self.utterances) / sum(u.seconds for u in self.utterances)

    def deadline_ms(self, utterance: Utterance, ratio: float) -> float:
        steps = self.steps_per_second * utterance.seconds
        return ratio * self.costs.total(self.n_blocks, utterance.seconds, steps)

    def work_ms(self, depth: int, utterance: Utterance) -> float:
        return self.costs.total(depth, utterance.seconds, utterance.steps) + DECODING_MS

    @property
    def most_ms(self) -> float:
        """The work of the longest request: a text by the shallowest, and one by all blocks."""
        least = self.options[0].depth
        return max(self.work_ms(self.n_blocks, u) + self.work_ms(least, u) for u in self.utterances)


class SpeechDevice(Device):
    """A device whose model writes the text of an utterance token by token."""

    def serve_utterance(self, request: Request, utterance: Utterance, deadline_ms: float) -> tuple[int, float]:
        self._utterance = utterance
        return self.serve(request, deadline_ms, utterance.seconds)

    def _run(self, inputs: NDArray[np.float32], subset: BlockSubset, cancel: Cancel | None = None) -> PassResult:
        self.spend(self.costs.network(subset.depth, self._utterance.seconds), cancel)
        return PassResult([], 1.0, subset, search=_Search(self, self._utterance))


@dataclass(frozen=True)
class _Search:
    """See `layerdial.runtime.scheduler.Search`."""

    device: SpeechDevice
    utterance: Utterance
    rows: int = 1
    is_measured: bool = True

    def first(self, cancel: Cancel | None = None) -> Written:
        self.device.spend(self.device.costs.decoding(self.utterance.seconds, self.utterance.steps), cancel)
        return Written([], 0.0, 0.0, False, n_steps=self.utterance.steps)

    def again(self, found: Written, cancel: Cancel | None = None) -> Written:
        return found


def joined(trace: Trace, work_ms: float, first: int = 0) -> Trace:
    """Return a trace of longer requests: as many of it, from `first` on, follow each other as have so much work."""
    firsts: list[int] = []
    walls: list[NDArray[np.float64]] = []
    i = first
    while (end := _end_of(trace, i, work_ms)) is not None:
        steps = [np.diff(wall, prepend=0.0) for wall in trace.wall_ms[i:end]]
        firsts.append(i)
        walls.append(np.cumsum(np.concatenate(steps)))
        i = end
    return Trace(trace.unit_ms, trace.start_s[firsts], trace.hogs[firsts], trace.timer_late_ms[firsts], walls)


def _end_of(trace: Trace, first: int, work_ms: float) -> int | None:
    """Return after which request of a trace, from `first` on, so much work is done; none where it ends before."""
    done_ms = 0.0
    for i in range(first, len(trace.wall_ms)):
        done_ms += len(trace.wall_ms[i]) * trace.unit_ms
        if done_ms >= work_ms:
            return i + 1
    return None


@dataclass(frozen=True)
class Served:
    """Requests: the time over the deadline of each way to choose a depth, and the depths of controller and oracle."""

    share: dict[str, list[float]]
    depth: dict[str, list[int]]

    def kept(self, name: str, limit: float) -> float:
        """Return the share of requests within `limit` times the deadline, of those that the shallowest keeps."""
        possible = np.array(self.share["shallowest"]) <= 1.0
        return float((np.array(self.share[name])[possible] <= limit).mean())

    @property
    def way(self) -> float:
        """Return how far the controller's mean depth is from the shallowest (0) to the oracle's (1)."""
        least = min(self.depth["oracle"])
        controller, oracle = (float(np.mean(self.depth[name])) for name in ("controller", "oracle"))
        return (controller - least) / (oracle - least)


def replay(traces: Sequence[Trace], model: SpeechModel, ratio: float, rounds: int = 1, seed: int = 0) -> Served:
    """Serve the requests of the traces, each with an utterance that is drawn; a device for each trace and round.

    Each round begins one request later in a trace, so that the longer ones are others.
    """
    draw, served = random.Random(seed), Served({}, {})
    longer = [joined(trace, 1.2 * model.most_ms, first) for first in range(rounds) for trace in traces]
    for trace in longer:
        device = SpeechDevice(model)
        for i in range(len(trace.wall_ms)):
            utterance, request = draw.choice(model.utterances), Request(trace, i)
            deadline_ms = model.deadline_ms(utterance, ratio)
            ms = {option.depth: request.wall(model.work_ms(option.depth, utterance)) for option in model.options}
            depth, took_ms = device.serve_utterance(request, utterance, deadline_ms)
            oracle = max((d for d in ms if ms[d] <= deadline_ms), default=min(ms))
            half = min(ms, key=lambda d: abs(d - model.n_blocks / 2))
            ways = {"shallowest": min(ms), "half": half, "all": max(ms)}
            for name, way in ways.items():
                served.share.setdefault(name, []).append(ms[way] / deadline_ms)
            served.share.setdefault("controller", []).append(took_ms / deadline_ms)
            served.depth.setdefault("controller", []).append(depth)
            served.depth.setdefault("oracle", []).append(oracle)
    return served


def utterances_of(recognizer: Recognizer, cuts: Path, most: int) -> list[Utterance]:
    """Recognise some utterances with all blocks, and return how long they and their texts are."""
    from layerdial.data.manifest import load_samples, open_cuts

    found, every = list[Utterance](), list(open_cuts(cuts))
    for cut in every[:: max(1, len(every) // most)][:most]:
        samples = load_samples(cut)
        begun = recognizer.decoding.begin(recognizer.features(samples), recognizer.subset())
        if begun.search is not None:
            found.append(Utterance(len(samples) / SAMPLE_RATE, begun.search.first().n_steps))
    return found


def kept_texts(file: Path | None, make: Callable[[], list[Utterance]]) -> tuple[Utterance, ...]:
    """Return the utterances that a file keeps, or make them, and keep them there."""
    if file is not None and file.is_file():
        return tuple(Utterance(*row) for row in json.loads(file.read_text()))
    made = make()
    if file is not None:
        file.write_text(json.dumps([[u.seconds, u.steps] for u in made]))
    return tuple(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported folder with a profile of one thread")
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--cuts", type=Path, required=True, help="speech whose texts are written")
    parser.add_argument("--utterances", type=int, default=80)
    parser.add_argument(
        "--rounds", type=int, default=20, help="how often each trace is replayed, with other utterances"
    )
    parser.add_argument("--texts", type=Path, help="a file that keeps the lengths of the texts for the next run")
    options = parser.parse_args()
    recognizer = Recognizer(options.model, 1)
    texts = kept_texts(options.texts, lambda: utterances_of(recognizer, options.cuts, options.utterances))
    model = SpeechModel(recognizer.controller.costs, worthwhile(recognizer.ladder, recognizer.n_blocks), texts)
    traces = [Trace.load(file) for file in options.traces]
    heads = "deadline | requests | shallowest could | kept within 1.1 times: half | all | controller | within 1.0"
    heads += " | depth: oracle | controller | way"
    print(f"| {heads} |\n|{'---|' * (heads.count('|') + 1)}")
    for ratio in RATIOS:
        found = replay(traces, model, ratio, options.rounds)
        print("| " + " | ".join(cells(found, ratio)) + " |", flush=True)


def cells(found: Served, ratio: float) -> list[str]:
    possible = float((np.array(found.share["shallowest"]) <= 1.0).mean())
    shares = [found.kept(name, TOLERANCE) for name in ("half", "all", "controller")] + [found.kept("controller", 1.0)]
    depths = [f"{np.mean(found.depth[name]):.1f}" for name in ("oracle", "controller")]
    counts = [f"{ratio} times all blocks", str(len(found.share["all"]))]
    return [*counts, *(f"{100 * share:.1f} %" for share in (possible, *shares)), *depths, f"{found.way:.2f}"]


if __name__ == "__main__":
    main()
