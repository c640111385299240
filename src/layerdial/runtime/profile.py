"""The cost of an exported model on a device, as data: `profile.json` beside the ladder."""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from layerdial.ladder import Ladder
from layerdial.runtime.controller import CostTable, DepthOption, worthwhile
from layerdial.utils.notices import said_before
from layerdial.utils.records import parsing, read_record, write_record

_log = logging.getLogger(__name__)
FORMAT = 1
FILE = "profile.json"
_REMEDY = "make it again with layerdial profile"


@dataclass(frozen=True)
class Device:
    """The device that a profile belongs to."""

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

    Of an encoder-decoder model `network_ms` is the encoder, and `token_ms[i]` one step of the decoder.
    `peak_rss_mb` is that of a fresh process that transcribes the longest of them with all blocks.
    """

    threads: int
    seconds: tuple[float, ...]
    features_ms: tuple[float, ...]
    network_ms: dict[int, tuple[float, ...]]
    cpu_share: float
    peak_rss_mb: float | None = None
    token_ms: tuple[float, ...] = ()

    def costs(self) -> CostTable:
        return CostTable(self.seconds, self.features_ms, self.network_ms, self.cpu_share, self.token_ms)


@dataclass(frozen=True)
class Profile:
    """The measurements of one device, a table for each number of threads."""

    model_id: str
    device: Device
    tables: tuple[ThreadProfile, ...]

    @classmethod
    def beside(cls, folder: Path, model_id: str) -> Profile | None:
        """Return the profile in an exported folder, or None unless it is there, and of this model and this device."""
        file = folder / FILE
        if not file.is_file():
            return None
        stored = read_record(file, _REMEDY, format=FORMAT)
        with parsing(file, _REMEDY):
            profile = cls(stored["model_id"], Device(**stored["device"]), tuple(map(_table, stored["tables"])))
            for table in profile.tables:
                table.costs()  # raises an error for inconsistent numbers
        if (profile.model_id, profile.device) == (model_id, Device.here()):
            return profile
        if not said_before(f"{file.resolve()} {file.stat().st_mtime_ns} {model_id} {Device.here()}"):
            _log.info("%s is of another device, model or ONNX Runtime; layerdial profile measures anew", file)
        return None

    def save(self, folder: Path, ladder: Ladder | None, n_blocks: int) -> Path:
        """Write `profile.json`, with the depths worth running as a Pareto table for each number of threads."""
        tables = [asdict(table) | {"pareto": pareto(table.costs(), ladder, n_blocks)} for table in self.tables]
        stored = {"format": FORMAT, "model_id": self.model_id, "device": asdict(self.device), "tables": tables}
        write_record(folder / FILE, stored)
        return folder / FILE

    def best_threads(self) -> int:
        """Return the number of threads with which ten seconds of audio took least with all blocks."""
        return min(self.tables, key=lambda table: table.costs().usual(max(table.network_ms), 10.0)).threads

    def table(self, threads: int) -> CostTable | None:
        """Return the costs with so many threads, or None if they were not measured."""
        return next((table.costs() for table in self.tables if table.threads == threads), None)


def pareto(costs: CostTable, ladder: Ladder | None, n_blocks: int, seconds: float = 10.0) -> list[dict[str, Any]]:
    """Return the depths of which no other is both faster and better.

    Each has the WER on the ladder's cuts, and the milliseconds for `seconds` of audio with a text of usual length.
    """
    options: list[DepthOption] = []
    for option in reversed(worthwhile(ladder, n_blocks)):  # each has fewer errors than those after it
        if not options or costs.usual(option.depth, seconds) < costs.usual(options[-1].depth, seconds):
            options.append(option)
    return [
        {
            "depth": option.depth,
            "subset": option.subset.key,
            "wer": option.wer,
            "latency_ms": round(costs.usual(option.depth, seconds), 3),
            "rtf": round(costs.usual(option.depth, seconds) / 1000.0 / seconds, 6),
        }
        for option in reversed(options)
    ]


def _table(stored: dict[str, Any]) -> ThreadProfile:
    return ThreadProfile(
        threads=int(stored["threads"]),
        seconds=tuple(map(float, stored["seconds"])),
        features_ms=tuple(map(float, stored["features_ms"])),
        network_ms={int(depth): tuple(map(float, row)) for depth, row in stored["network_ms"].items()},
        cpu_share=float(stored["cpu_share"]),
        peak_rss_mb=stored.get("peak_rss_mb"),
        token_ms=tuple(map(float, stored.get("token_ms", ()))),
    )


def _processor() -> str:
    """Return the processor's name where the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware"):
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
