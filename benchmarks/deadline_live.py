"""Deadlines in real time under bursts of a real load, with the controller and at each fixed depth.

    taskset -c 1 python benchmarks/deadline_live.py EXPORTED CUTS [--requests 200] [--kind short] [--out rows.jsonl]
    taskset -c 1 python benchmarks/deadline_live.py xs CUTS

Other processes spin on the cores that this one may use, for a while, and then pause (`load_trace.py`); with `taskset`
all share one core. In each round an utterance of CUTS, of 4 to 12 s, is transcribed by the controller and at every
depth that may be chosen, in random order, so that all meet about the same load. The oracle is the deepest depth that
was in time in its round. The shallowest runs twice: how often it is in time again, where it was once, is what chance
leaves.
`xs` is a Conformer of that size with random weights, which takes as long as a trained one. Deadlines are multiples of
what all blocks take for that utterance while nothing spins. A folder gets its `profile.json`, so give a copy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from layerdial.data.manifest import load_samples, open_cuts
from layerdial.ladder import depths_of
from layerdial.runtime import Recognizer
from layerdial.runtime.profiling import profile_device
from layerdial.utils.rows import append_row
from load_trace import Load, bursts

DEADLINES = (1.5, 2.5)
TOLERANCE = 1.1  # times the deadline, within which it counts as kept
SECONDS = (4.0, 12.0)
IDLE_RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an exported folder, or xs, s, paper: random weights")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--kind", default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        rows = rounds(loaded(options.model, Path(folder)), options)
    for row in rows if options.out else ():
        append_row(options.out, {"model": options.model, **row})
    for factor in DEADLINES:
        print(f"{factor:g} times all blocks:", json.dumps(summary([row for row in rows if row["factor"] == factor])))


def loaded(model: str, folder: Path) -> Recognizer:
    """Return a model, exported if it is a size, with its profile of this device beside it, if that can be written."""
    place = Path(model)
    if not place.exists():
        place = folder / "edge"
        export_random(model, folder)
    if not (place / "profile.json").exists():
        own = Recognizer(place, 1)
        profile_device(place, (1,), 20.0).save(place, own.ladder, own.n_blocks)
    recognizer = Recognizer(place, 1)
    recognizer.warm_up()
    assert recognizer.controller  # which may measure
    return recognizer


def export_random(size: str, folder: Path) -> None:
    """Write a Conformer of a size with random weights, exported, to `edge`."""
    from layerdial.config.network import ConformerConfig
    from layerdial.export.export import export_model
    from layerdial.models.checkpoint import save_model
    from layerdial.models.conformer_ctc import ConformerCTC
    from layerdial.text.tokenizer import build_tokenizer

    tokenizer = build_tokenizer("char", ["abcdefghijklmnopqrstuvwxyz"])
    network = ConformerCTC(ConformerConfig.model_validate({"size": size}), len(tokenizer.tokens))
    save_model(folder / "model", network, tokenizer, {})
    export_model(folder / "model", folder / "edge", "float32")


def rounds(recognizer: Recognizer, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each utterance: its deadline, the load, milliseconds at each depth and by the controller."""
    draw = random.Random(options.seed)
    cuts = [cut for cut in open_cuts(options.cuts) if SECONDS[0] <= cut.duration <= SECONDS[1]]
    audio = [load_samples(cut) for cut in draw.sample(cuts, min(20, len(cuts)))]
    idle = [statistics.median(timed(recognizer, one)[0] for _ in range(IDLE_RUNS)) for one in audio]
    depths = depths_of(recognizer.ladder, recognizer.n_blocks)
    rows: list[dict[str, Any]] = []
    with bursts(options.seed, options.kind) as load:
        for number in range(options.requests):
            which, factor = draw.randrange(len(audio)), DEADLINES[number % len(DEADLINES)]
            row = {"factor": factor, "deadline_ms": factor * idle[which], "idle_ms": idle[which]}
            rows.append(row | one_round(recognizer, audio[which], row["deadline_ms"], depths, load, draw))
            time.sleep(draw.uniform(0.02, 0.2))
    return rows


def one_round(
    recognizer: Recognizer, audio: Any, deadline_ms: float, depths: Sequence[int], load: Load, draw: random.Random
) -> dict[str, Any]:
    """Return what an utterance takes by the controller and at each depth, in random order."""
    row: dict[str, Any] = {"hogs": load.hogs, "by_depth": {}}
    order: list[int | str] = ["controller", "again", *depths]
    draw.shuffle(order)
    for what in order:
        if what == "controller":
            row["controller_ms"], row["depth"], row["reason"] = timed(recognizer, audio, deadline_ms=deadline_ms)
        elif what == "again":
            row["again_ms"] = timed(recognizer, audio, depth=depths[0])[0]
        else:
            row["by_depth"][str(what)] = timed(recognizer, audio, depth=what)[0]
    return row


def timed(recognizer: Recognizer, audio: Any, **request: Any) -> tuple[float, int, str]:
    """Return the milliseconds of a request, the depth that its text is of, and the reason."""
    start = time.perf_counter()
    result = recognizer.transcribe(audio, **request)
    return 1000.0 * (time.perf_counter() - start), result.depth, result.reason


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the shares of deadlines kept where the shallowest depth kept its own, and mean depths."""
    depths = sorted(map(int, rows[0]["by_depth"]))

    def in_time(row: dict[str, Any], depth: int) -> bool:
        return bool(row["by_depth"][str(depth)] <= TOLERANCE * row["deadline_ms"])

    could = [row for row in rows if in_time(row, depths[0])]
    half = depths[(len(depths) - 1) // 2]
    kept = {
        "controller": [row["controller_ms"] <= TOLERANCE * row["deadline_ms"] for row in could],
        "shallowest again": [row["again_ms"] <= TOLERANCE * row["deadline_ms"] for row in could],
        f"depth {half}": [in_time(row, half) for row in could],
        "all": [in_time(row, depths[-1]) for row in could],
    }
    shares = {name: round(statistics.fmean(found), 4) for name, found in kept.items()}
    oracle = statistics.fmean(max(depth for depth in depths if in_time(row, depth)) for row in could)
    chosen = statistics.fmean(row["depth"] for row in could)
    way = (chosen - depths[0]) / (oracle - depths[0]) if oracle > depths[0] else None
    counts = {"rounds": len(rows), "shallowest could": len(could), "under load": sum(row["hogs"] > 0 for row in rows)}
    means = {"oracle": round(oracle, 2), "controller's depth": round(chosen, 2), "way": way and round(way, 2)}
    return counts | {"idle_ms": round(statistics.median(row["idle_ms"] for row in rows), 1)} | shares | means


if __name__ == "__main__":
    main()
