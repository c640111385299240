"""The delay from the end of a word to its text under bursts of load: depth by load, all blocks, the fewest blocks.

    taskset -c 1 python benchmarks/stream_delay.py EXPORTED CUTS [--streams 8] [--chunk-ms 80] [--rounds 4]

EXPORTED is a streaming export, CUTS has the times of its words. In a round so many cuts are played at once, in real
time, as streams whose chunks are recognised together, while other processes spin on the same cores for a while and then
pause (`load_trace.py`). Each policy meets the same cuts and the same bursts, in an order that changes. A word is there
as soon as a partial text has it. Words that were not recognised have no delay, so errors are printed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from layerdial import step_streams
from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.evaluation.emission import KnownWord, aligned, known_words
from layerdial.ladder import depths_of
from layerdial.recognition.streaming import Stream
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.text.normalise import normalise
from layerdial.utils.rows import append_row
from load_trace import bursts

_TICK = 0.01  # seconds in which a stream's sound comes


@dataclass
class Played:
    """A cut that is played: its sound, and when how many words of its text were there."""

    samples: NDArray[np.float32]
    known: Sequence[KnownWord]
    stream: Stream
    fed: int = 0
    texts: list[str] = field(default_factory=list)  # that have ended
    there: list[tuple[float, int]] = field(default_factory=list)  # seconds since the begin, words
    depths: list[int] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.fed >= len(self.samples) and not self.stream.ready

    def delays(self) -> list[float]:
        """Return the seconds from the end of each recognised word to the first text that had it."""
        words = normalise(" ".join(self.texts)).split()
        found = []
        for i, j in aligned([word.text for word in self.known], words):
            if i is not None and j is not None and words[j] == self.known[i].text:
                end = self.known[i].end
                first = next((at for at, count in self.there if count > j), None)
                found += [first - end] if end is not None and first is not None else []
        return found

    def errors(self) -> int:
        words = normalise(" ".join(self.texts)).split()
        pairs = aligned([word.text for word in self.known], words)
        return sum(i is None or j is None or words[j] != self.known[i].text for i, j in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--chunk-ms", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kind", default="long")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recognizer = Recognizer(options.model, 1)
    known = known_words(options.cuts)
    cuts = [cut for cut in open_cuts(options.cuts) if str(cut.id) in known]
    shallowest, *_, deepest = depths_of(recognizer.ladder, recognizer.n_blocks)
    policies = {"by load": None, "all blocks": deepest, "fewest blocks": shallowest}
    rows = []
    for number in range(options.rounds):
        of_round = [cuts[(number * options.streams + i) % len(cuts)] for i in range(options.streams)]
        names = list(policies)
        for name in names[number % 3 :] + names[: number % 3]:
            played = play(recognizer, of_round, known, policies[name], options, number)
            row = {"round": number, "policy": name, "load": os.getloadavg()[0], **measured(played)}
            rows.append(row)
            print(json.dumps({key: value for key, value in row.items() if key != "delays"}), flush=True)
            if options.out:
                append_row(options.out, row)
    for name in policies:
        print(name, json.dumps(summary([row for row in rows if row["policy"] == name])))


def play(
    recognizer: Recognizer,
    cuts: Sequence[object],
    known: dict[str, list[KnownWord]],
    depth: int | None,
    options: argparse.Namespace,
    seed: int,
) -> list[Played]:
    """Return what came of cuts that were played at once."""
    request = Request(target_rtf=0.5) if depth is None else Request(depth=depth)
    first = recognizer.stream(request, chunk_ms=options.chunk_ms)
    played = [
        Played(load_samples(cut), known[cut.id], first if i == 0 else first.another())  # type: ignore[attr-defined]
        for i, cut in enumerate(cuts)
    ]
    with bursts(seed, options.kind):
        begin = time.monotonic()
        while not all(one.done for one in played):
            now = time.monotonic() - begin
            for one in played:
                feed(one, now, begin)
            ready = [one for one in played if one.stream.ready]
            if not ready:
                time.sleep(_TICK)
                continue
            for one, results in zip(ready, step_streams([one.stream for one in ready]), strict=True):
                at = time.monotonic() - begin
                for result in results:
                    if result.final:
                        one.texts.append(result.text)
                    texts = one.texts if result.final else [*one.texts, result.text]
                    one.there.append((at, len(normalise(" ".join(texts)).split())))
                if one.stream.last_choice is not None:
                    one.depths.append(one.stream.last_choice.subset.depth)
    return played


def feed(one: Played, now: float, begin: float) -> None:
    """Give a stream the sound that has come by `now`, and its end."""
    end = min(len(one.samples), int(now / _TICK) * int(_TICK * SAMPLE_RATE))
    if end > one.fed:
        one.stream.feed(one.samples[one.fed : end], at=begin + end / SAMPLE_RATE)
        one.fed = end
        if end == len(one.samples):
            one.stream.end()


def measured(played: Sequence[Played]) -> dict[str, object]:
    delays = [delay for one in played for delay in one.delays()]
    depths = [depth for one in played for depth in one.depths]
    words = sum(len(one.known) for one in played)
    return {"delays": delays, "errors": sum(one.errors() for one in played), "words": words, **of(delays, depths)}


def of(delays: Sequence[float], depths: Sequence[int]) -> dict[str, float]:
    middle, high = np.quantile(delays, [0.5, 0.95])
    found = {"mean_ms": 1000 * statistics.mean(delays), "median_ms": 1000 * float(middle), "p95_ms": 1000 * float(high)}
    return {key: round(value, 1) for key, value in found.items()} | {"depth": round(statistics.mean(depths), 2)}


def summary(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    delays = [delay for row in rows for delay in row["delays"]]  # type: ignore[attr-defined]
    errors, words = (sum(row[name] for row in rows) for name in ("errors", "words"))  # type: ignore[misc]
    depth = statistics.mean(float(str(row["depth"])) for row in rows)
    return {"errors": errors, "words": words, "recognised": len(delays), **of(delays, [1]), "depth": round(depth, 2)}


if __name__ == "__main__":
    main()
