"""What an exported model costs on this very device, measured, and kept beside the ladder as `profile.json`."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError
from layerdial.features import SAMPLE_RATE
from layerdial.files import read_json, write_json
from layerdial.ladder import Ladder
from layerdial.runtime.budget import CostTable, Step, worthwhile
from layerdial.subset import BlockSubset
from layerdial.timing import measure_in_turns

if TYPE_CHECKING:
    from layerdial.runtime.recognizer import OnnxRecognizer

_log = logging.getLogger(__name__)
FORMAT = 1
FILE = "profile.json"
SECONDS = (1.0, 3.0, 10.0, 30.0)
_MOST_DEPTHS = 9


@dataclass(frozen=True)
class Device:
    """What a profile belongs to."""

    processor: str
    cores: int
    onnxruntime: str

    @classmethod
    def here(cls) -> Device:
        import onnxruntime

        return cls(_processor(), os.cpu_count() or 1, onnxruntime.__version__)


@dataclass(frozen=True)
class ThreadProfile:
    """Milliseconds with so many threads: `features_ms[i]`, `network_ms[depth][i]` for `seconds[i]` of audio.

    `peak_rss_mb` is that of a fresh process that transcribes the longest of them with all blocks.
    """

    threads: int
    seconds: tuple[float, ...]
    features_ms: tuple[float, ...]
    network_ms: dict[int, tuple[float, ...]]
    cpu_share: float
    peak_rss_mb: float | None = None

    def costs(self) -> CostTable:
        return CostTable(self.seconds, self.features_ms, self.network_ms, self.cpu_share)


@dataclass(frozen=True)
class Profile:
    """The measurements of one device, a table for each number of threads."""

    model_id: str
    device: Device
    tables: tuple[ThreadProfile, ...]

    @classmethod
    def beside(cls, folder: Path, model_id: str) -> Profile | None:
        """The profile in an exported folder, if it is there, and of this model and this device."""
        file = folder / FILE
        if not file.is_file():
            return None
        stored = read_json(file)
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise UserError(f"{file} is no profile of this layerdial; make it again with layerdial profile")
        try:
            profile = cls(stored["model_id"], Device(**stored["device"]), tuple(map(_table, stored["tables"])))
            for table in profile.tables:
                table.costs()  # complains of what makes no sense
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{file} is damaged ({error!r}); make it again with layerdial profile") from None
        if (profile.model_id, profile.device) == (model_id, Device.here()):
            return profile
        _log.info("%s is of another device, model or ONNX Runtime; layerdial profile measures anew", file)
        return None

    def save(self, folder: Path, ladder: Ladder | None, n_blocks: int) -> Path:
        """Write `profile.json`, with the depths worth running as a Pareto table for each number of threads."""
        tables = [asdict(table) | {"pareto": pareto(table.costs(), ladder, n_blocks)} for table in self.tables]
        stored = {"format": FORMAT, "model_id": self.model_id, "device": asdict(self.device), "tables": tables}
        write_json(folder / FILE, stored)
        return folder / FILE

    def best_threads(self) -> int:
        """The number of threads with which ten seconds of audio took least with all blocks."""
        return min(self.tables, key=lambda table: table.costs().total(max(table.network_ms), 10.0)).threads

    def table(self, threads: int) -> CostTable | None:
        """The costs with so many threads, if they were measured."""
        return next((table.costs() for table in self.tables if table.threads == threads), None)


def pareto(costs: CostTable, ladder: Ladder | None, n_blocks: int, seconds: float = 10.0) -> list[dict[str, Any]]:
    """The depths of which no other is both faster and better: WER on the ladder's cuts, milliseconds for `seconds`."""
    steps: list[Step] = []
    for step in reversed(worthwhile(ladder, n_blocks)):  # each does better than those after it
        if not steps or costs.total(step.depth, seconds) < costs.total(steps[-1].depth, seconds):
            steps.append(step)
    return [
        {
            "depth": step.depth,
            "subset": step.subset.key,
            "wer": step.wer,
            "latency_ms": round(costs.total(step.depth, seconds), 3),
            "rtf": round(costs.total(step.depth, seconds) / 1000.0 / seconds, 6),
        }
        for step in reversed(steps)
    ]


def profile_device(
    folder: Path, threads: Sequence[int] = (), budget_s: float = 60.0, note: Callable[[str], None] | None = None
) -> Profile:
    """Measure a model on this device with each number of threads (default: one, and all that may be used)."""
    from layerdial.runtime.recognizer import OnnxRecognizer
    from layerdial.runtime.session import default_threads

    tables = []
    wanted = list(dict.fromkeys(threads or (1, default_threads())))
    for count in wanted:
        if note:
            note(f"{count} thread{'s' * (count > 1)}")
        recognizer = OnnxRecognizer(folder, count)
        table = measure_table(recognizer, SECONDS, budget_s / len(wanted))
        tables.append(ThreadProfile(**(vars(table) | {"peak_rss_mb": peak_rss_mb(folder, count, max(SECONDS))})))
    return Profile(recognizer.manifest.model_id, Device.here(), tuple(tables))


def measure_table(
    recognizer: OnnxRecognizer,
    seconds: Sequence[float],
    budget_s: float,
    repeats: int = 15,
    depths: Sequence[int] = (),
) -> ThreadProfile:
    """Median milliseconds of features and network; all depths (default: `measured_depths`) and lengths take turns."""
    depths = depths or measured_depths(recognizer.n_blocks)
    samples = [_noise(length) for length in seconds]
    inputs = [recognizer.features(one) for one in samples]
    runs = [_features_run(recognizer, one) for one in samples]
    runs += [_network_run(recognizer, one, recognizer.subset(depth)) for depth in depths for one in inputs]
    cpu, wall = time.process_time(), time.perf_counter()
    found = measure_in_turns(runs, 1, repeats, budget_s, least=1)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    n = len(seconds)
    rows = [tuple(round(ms, 4) for ms in found[i : i + n]) for i in range(0, len(found), n)]
    network = dict(zip(depths, rows[1:], strict=True))
    return ThreadProfile(recognizer.threads, tuple(seconds), rows[0], network, round(share, 3))


def quick_profile(recognizer: OnnxRecognizer) -> CostTable:
    """A short measurement for want of a profile: shallowest and full depth, two lengths, at least twice each."""
    depths = sorted({1, recognizer.n_blocks})
    return measure_table(recognizer, (1.0, 5.0), budget_s=0.5, repeats=7, depths=depths).costs()


def measured_depths(n_blocks: int) -> tuple[int, ...]:
    """All depths of a small encoder, evenly spread ones of a large one: time grows in a straight line between them."""
    count = min(n_blocks, _MOST_DEPTHS)
    return tuple(dict.fromkeys(round(depth) for depth in np.linspace(1, n_blocks, count)))


def _features_run(recognizer: OnnxRecognizer, samples: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: recognizer.features(samples)


def _network_run(recognizer: OnnxRecognizer, inputs: NDArray[np.float32], subset: BlockSubset) -> Callable[[], object]:
    return lambda: recognizer.run(inputs, subset)


def _noise(seconds: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0.0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


def _table(stored: dict[str, Any]) -> ThreadProfile:
    return ThreadProfile(
        threads=int(stored["threads"]),
        seconds=tuple(map(float, stored["seconds"])),
        features_ms=tuple(map(float, stored["features_ms"])),
        network_ms={int(depth): tuple(map(float, row)) for depth, row in stored["network_ms"].items()},
        cpu_share=float(stored["cpu_share"]),
        peak_rss_mb=stored.get("peak_rss_mb"),
    )


_PEAK_OF = """
import json, resource, sys
import numpy as np
from layerdial.runtime import Recognizer
recognizer = Recognizer(sys.argv[1], int(sys.argv[2]))
depth = int(sys.argv[4]) if len(sys.argv) > 4 else None
recognizer.transcribe(np.random.default_rng(0).normal(0, 0.1, int(float(sys.argv[3]) * 16000)), depth=depth)
try:  # Linux's getrusage() never says less than the process had from which this one was started
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(status["VmHWM"].split()[0]) / 1000)
except (OSError, KeyError):
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1000)))
"""


def peak_rss_mb(folder: Path, threads: int, seconds: float, depth: int | None = None) -> float | None:
    """Peak memory in MB of a fresh process that loads the model and transcribes so much noise; None where unknown."""
    words = [str(folder), str(threads), str(seconds), *([str(depth)] if depth else [])]
    done = subprocess.run([sys.executable, "-c", _PEAK_OF, *words], capture_output=True, text=True, check=False)
    return round(float(json.loads(done.stdout)), 1) if done.returncode == 0 else None


def _processor() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
