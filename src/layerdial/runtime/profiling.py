"""Profiling of a device: an exported model measured with each number of threads, and its peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from layerdial.ladder import depths_of
from layerdial.runtime.measure import measured_depths
from layerdial.runtime.profile import Device, Profile, ThreadProfile
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.runtime.session import default_threads

SECONDS = (1.0, 3.0, 10.0, 30.0)


def profile_device(
    folder: Path, threads: Sequence[int] = (), budget_s: float = 60.0, note: Callable[[str], None] | None = None
) -> Profile:
    """Measure a model on this device with each number of threads (default: one, and all that may be used)."""
    device, tables = Device.here(), []
    wanted = list(dict.fromkeys(threads or (1, default_threads())))
    for count in wanted:
        if note:
            note(f"{count} thread{'s' * (count > 1)}")
        recognizer = OnnxRecognizer(folder, count)
        table = profile_recognizer(recognizer, SECONDS, budget_s / len(wanted))
        tables.append(ThreadProfile(**(vars(table) | {"peak_rss_mb": peak_rss_mb(folder, count, max(SECONDS))})))
    return Profile(recognizer.manifest.model_id, device, tuple(tables))


def profile_recognizer(
    recognizer: OnnxRecognizer, seconds: Sequence[float], budget_s: float, repeats: int = 15
) -> ThreadProfile:
    """Measure a loaded model, at the depths that `measured_depths` names."""
    return recognizer.measure(
        measured_depths(depths_of(recognizer.ladder, recognizer.n_blocks)), seconds, budget_s, repeats
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
    """Return the peak memory in MB of a fresh process that loads the model and transcribes so much noise.

    None where it is unknown.
    """
    words = [str(folder), str(threads), str(seconds), *([str(depth)] if depth else [])]
    done = subprocess.run([sys.executable, "-c", _PEAK_OF, *words], capture_output=True, text=True, check=False)
    return round(float(json.loads(done.stdout)), 1) if done.returncode == 0 else None
