"""A server under load: depth by load beside fixed depths, refusals, switching, and another recogniser.

    python benchmarks/serving.py EXPORTED CUTS OUT
    python benchmarks/serving.py EXPORTED CUTS OUT --live 0.5 1 2 --seconds 30
    python benchmarks/serving.py EXPORTED CUTS OUT --peer PEER.jsonl

The utterances of CUTS come as requests at random times, at 0.2 to 3 times the rate that full depth can do, steadily or
in bursts. What each costs at each depth and how many errors it has is measured first, and kept in OUT. Then a simulated
clock serves the same arrivals by each policy (`serving_clock.py`); `--live` does it in real time with a real pool.
`--peer` is a file that `serving_peer.py` wrote. Tables are printed, rows go to OUT, and `OUT/serving.png` is drawn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layerdial.runtime.controller import DepthController
from layerdial.serving.scheduler import QueueScheduler
from serving_clock import Arrival, DeadlinesAlone, FirstAlone, InTurn, Outcome, Switching, Utterance, arrivals, simulate
from serving_live import live
from serving_picture import draw
from serving_speech import controller, measured, peer, spoken

LOADS = (0.2, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # times the rate that full depth can do
BURST = 3.0  # times the mean rate, for a tenth of the time
BOUND = 8  # waiting requests a worker, beyond which a bounded queue refuses
IN_TIME = 0.99
DYNAMIC, SHALLOWEST, FULL = "depth by load", "shallowest always", "full depth"
UNBOUNDED, BOUNDED, EXACT = (f"{FULL}, {rest}" for rest in ("unbounded queue", "bounded queue", "only what is in time"))
SWITCHED, PEER = "two models, switched", "faster-whisper tiny.en, bounded queue"

Decide = Callable[[DepthController, int], QueueScheduler]


@dataclass(frozen=True)
class Policy:
    """How requests are queued, and the least depth of a request."""

    decide: Decide
    least: int


@dataclass(frozen=True)
class Row:
    """The figures of one policy under one load. `wer_all` counts the words of refused requests as deleted,
    and `wer_in_time` also those of late ones.
    """

    policy: str
    load: float
    bursts: bool
    requests: int
    in_time: float
    refused: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_s: float
    wer: float
    wer_all: float
    wer_in_time: float
    depth: float


def row_of(policy: str, load: float, bursts: bool, outcomes: Sequence[Outcome]) -> Row:
    """Return the figures of the outcomes of all requests."""
    served = [(one, one.depth) for one in outcomes if one.depth is not None]
    took_ms = [1000.0 * one.took_s for one, _ in served]
    words = sum(one.arrival.utterance.words for one, _ in served)
    errors = sum(one.arrival.utterance.errors[depth] for one, depth in served)
    every = sum(one.arrival.utterance.words for one in outcomes)
    right = sum(one.arrival.utterance.words - one.arrival.utterance.errors[d] for one, d in served if one.in_time)
    end = max(one.arrival.at + one.took_s for one, _ in served)
    return Row(
        policy=policy,
        load=load,
        bursts=bursts,
        requests=len(outcomes),
        in_time=float(np.mean([one.in_time for one in outcomes])),
        refused=1.0 - len(served) / len(outcomes),
        **{f"p{share}_ms": float(np.quantile(took_ms, share / 100)) for share in (50, 95, 99)},
        per_s=len(served) / (end - outcomes[0].arrival.at),
        wer=100.0 * errors / words,
        wer_all=100.0 * (errors + every - words) / every,
        wer_in_time=100.0 * (every - right) / every,
        depth=float(np.mean([depth for _, depth in served])),
    )


def policies(depths: Sequence[int], workers: int) -> dict[str, Policy]:
    """Return what is compared, by its name; also each depth as the only one."""
    least, full = depths[0], depths[-1]
    found = {
        DYNAMIC: Policy(QueueScheduler, least),
        "depth by deadlines alone": Policy(DeadlinesAlone, least),
        "depth by the first one's slack": Policy(FirstAlone, least),
        UNBOUNDED: Policy(partial(in_turn, depth=full), least),
        BOUNDED: Policy(partial(in_turn, depth=full, bound=BOUND * workers), least),
        EXACT: Policy(QueueScheduler, full),
        SHALLOWEST: Policy(partial(in_turn, depth=least), least),
        SWITCHED: Policy(partial(switching, depths=(least, full)), least),
    }
    return found | {static(depth): Policy(partial(in_turn, depth=depth), least) for depth in depths[1:-1]}


def static(depth: int) -> str:
    return f"depth {depth} always"


def in_turn(known: DepthController, workers: int, depth: int, bound: float = float("inf")) -> QueueScheduler:
    return InTurn(known, workers, depth, bound)


def switching(known: DepthController, workers: int, depths: tuple[int, int]) -> QueueScheduler:
    return Switching(known, workers, depths, 2 * workers)


@dataclass(frozen=True)
class Bench:
    """The utterances that requests are made of, and the machine that serves them."""

    utterances: Sequence[Utterance]
    features_ms: Sequence[float]
    workers: int
    deadline: float
    requests: int = 4000
    seed: int = 1

    @property
    def capacity(self) -> float:
        """Requests a second that full depth can do."""
        return 1000.0 * self.workers / float(np.mean([one.ms[max(one.ms)] for one in self.utterances]))

    @property
    def deadline_s(self) -> float:
        """What every request has: so many times what the longest takes at full depth."""
        return self.deadline * max(one.ms[max(one.ms)] for one in self.utterances) / 1000.0

    def coming(self, load: float, bursts: bool, seconds: float | None = None) -> list[Arrival]:
        """Return requests at so many times the rate that full depth can do."""
        rate = load * self.capacity
        lasting = seconds or self.requests / rate
        return arrivals(self.utterances, rate, lasting, lambda _: self.deadline_s, self.seed, BURST if bursts else 0.0)

    def known(self) -> DepthController:
        return controller(self.utterances, self.features_ms)

    def serve(self, name: str, policy: Policy, load: float, bursts: bool = False) -> Row:
        """Serve requests on the simulated clock."""
        queue = policy.decide(self.known(), self.workers)
        return row_of(name, load, bursts, simulate(queue, self.coming(load, bursts), policy.least))

    def capacity_in_time(self, policy: Policy, step: float = 0.05) -> float:
        """Return up to which load 99 % of the requests are in time."""
        load = 0.0
        while self.serve("", policy, load + step).in_time >= IN_TIME:
            load += step
        return load


def with_peer(bench: Bench, file: Path) -> tuple[Bench, Policy]:
    """Return the same arrivals for another recogniser, whose costs and errors are in a file."""
    utterances = peer(file, bench.utterances)
    policy = Policy(partial(in_turn, depth=1, bound=BOUND * bench.workers), 1)
    return Bench(utterances, [0.1] * len(utterances), bench.workers, bench.deadline, bench.requests, bench.seed), policy


def table(rows: Iterable[Row]) -> str:
    """Return rows as Markdown."""
    heads = (
        "policy | load | in time | refused | p50 | p95 | p99 ms | answers/s | WER | refused deleted | late too | depth"
    )
    lines = [f"| {heads} |", f"|{'---|' * (heads.count('|') + 1)}"]
    for row in rows:
        times = " | ".join(f"{ms:.0f}" for ms in (row.p50_ms, row.p95_ms, row.p99_ms))
        shares = f"{100 * row.in_time:.1f} % | {100 * row.refused:.1f} %"
        errors = f"{row.wer:.2f} | {row.wer_all:.2f} | {row.wer_in_time:.2f}"
        load = f"{row.load:g}{', bursts' if row.bursts else ''}"
        lines.append(f"| {row.policy} | {load} | {shares} | {times} | {row.per_s:.2f} | {errors} | {row.depth:.2f} |")
    return "\n".join(lines)


def targets(bench: Bench, rows: Sequence[Row], every: dict[str, Policy]) -> str:
    """Return what the issue of this benchmark asked for, as Markdown."""
    at = {(row.policy, row.load): row for row in rows if not row.bursts}
    here, half = at[DYNAMIC, 2.0], at[DYNAMIC, 0.5]
    lines = ["| at 2 times the rate of full depth | measured | target |", "|---|---|---|"]
    for name in (BOUNDED, EXACT):
        share = here.in_time / max(at[name, 2.0].in_time, 1e-9)
        lines.append(f"| in time, against {name} | {share:.2f} times | 2.85 |")
    limits = {name: bench.capacity_in_time(every[name]) for name in (DYNAMIC, UNBOUNDED, BOUNDED, EXACT)}
    best = max(limits[name] for name in (UNBOUNDED, BOUNDED, EXACT))
    said = ", ".join(f"{name} {limit:.2f}" for name, limit in limits.items())
    lines.append(f"| rate with 99 % in time, against full depth ({said}) | {limits[DYNAMIC] / best:.2f} times | 2.7 |")
    lines.append(f"| p95 against p95 at half the rate | {here.p95_ms / half.p95_ms:.2f} times | at most 1.5 |")
    keeping = [
        row for row in at.values() if row.load == 2.0 and row.policy.endswith("always") and row.in_time >= IN_TIME
    ]
    if keeping:
        least = min(keeping, key=lambda row: row.wer)
        lines.append(f"| WER, against {least.policy} | {here.wer:.2f} | below {least.wer:.2f} |")
    lines.append(f"| WER at full depth | {at[UNBOUNDED, 0.2].wer:.2f} | printed |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an exported folder")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--deadline", type=float, default=3.0, help="times what the longest takes at full depth")
    parser.add_argument("--lengths", type=float, nargs=2, default=(2.0, 20.0), metavar=("FROM", "TO"), help="seconds")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--live", type=float, nargs="*", default=[], metavar="LOAD")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each run in real time")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    speech = spoken(options.cuts, options.lengths, options.utterances)
    utterances, features_ms = measured(options.model, speech, options.out)
    bench = Bench(utterances, features_ms, options.workers, options.deadline, options.requests)
    every = policies(sorted(utterances[0].ms), options.workers)
    print(facts(bench))
    if options.live:
        names = (DYNAMIC, BOUNDED, SHALLOWEST)
        samples = [samples for samples, _ in speech]
        runs = ((name, load) for load in options.live for name in names)
        rows = [run_live(options, bench, samples, name, every[name], load) for name, load in runs]
        write(rows, options.out / "live.jsonl")
        print(table(rows))
        return
    rows = [
        bench.serve(name, policy, load, bursts)
        for bursts in (False, True)
        for load in LOADS
        for name, policy in every.items()
    ]
    if options.peer:
        other, policy = with_peer(bench, options.peer)
        # the same arrivals, counted in what this model can do
        scale = bench.capacity / other.capacity
        rows += [peer_row(other, policy, load, scale) for load in LOADS]
    write(rows, options.out / "simulated.jsonl")
    print(table(rows), targets(bench, rows, every), sep="\n\n")
    draw([asdict(row) for row in rows if not row.bursts], options.out / "serving.png")


def peer_row(bench: Bench, policy: Policy, load: float, scale: float) -> Row:
    row = bench.serve(PEER, policy, load * scale)
    return Row(**asdict(row) | {"load": load})


def run_live(
    options: argparse.Namespace, bench: Bench, samples: Sequence[Any], name: str, policy: Policy, load: float
) -> Row:
    requests = bench.coming(load, False, options.seconds)
    outcomes = live(options.model, bench.utterances, samples, requests, options.workers, policy.decide, policy.least)
    return row_of(name, load, False, outcomes)


def facts(bench: Bench) -> str:
    """Return what the machine and the utterances are, in a line for each depth."""
    seconds = np.mean([one.seconds for one in bench.utterances])
    lines = [
        f"{len(bench.utterances)} utterances of {seconds:.1f} s at the mean, "
        f"{bench.workers} workers: full depth can do {bench.capacity:.2f} requests a second; "
        f"each has {1000 * bench.deadline_s:.0f} ms"
    ]
    words = sum(one.words for one in bench.utterances)
    for depth in sorted(bench.utterances[0].ms):
        ms = np.mean([one.ms[depth] for one in bench.utterances])
        errors = sum(one.errors[depth] for one in bench.utterances)
        lines.append(f"depth {depth}: {ms:.1f} ms at the mean, WER {100 * errors / words:.2f}")
    return "\n".join(lines) + "\n"


def write(rows: Iterable[Row], file: Path) -> None:
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
