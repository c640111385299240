"""An exported Whisper with a dial beside faster-whisper: whole requests on one thread, memory, file sizes.

    python benchmarks/whisper_device.py CUTS OUT --exported int8=FOLDER [float32=FOLDER] \\
        --faster-whisper base=FOLDER tiny.en=FOLDER [--compute int8 float32] [--lengths 2 5 10 30] [--repeats 15]

Requests of so many seconds of the speech of CUTS, in turns: ratios mean much, milliseconds depend on the machine.
Greedy, English, no timestamps, no fallback. With `--clock cpu` milliseconds are CPU time of the process, for a machine
that does other things. `encoder_ms` are the encoder's graph alone: blocks, the convolutions before them, and the keys
and values that it makes for the decoder. Writes `OUT/device.json` and prints the tables. WER of the same things:
`layerdial sweep FOLDER CUTS` and `benchmarks/whisper_peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.ladder import depths_of
from layerdial.runtime import Recognizer
from layerdial.runtime.profiling import peak_rss_mb
from layerdial.utils.files import write_json
from turns import CLOCKS, Run, in_turns

_PEAK_OF_FASTER_WHISPER = """
import sys, numpy as np
from pathlib import Path
from faster_whisper import WhisperModel
model = WhisperModel(sys.argv[1], device="cpu", compute_type=sys.argv[2], cpu_threads=1, num_workers=1)
list(model.transcribe(np.load(sys.argv[3]), language="en", beam_size=1, without_timestamps=True, temperature=0.0)[0])
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) / 1000)
"""


def main() -> None:
    options = parse()
    exported = {name: Recognizer(Path(folder), threads=1) for name, folder in named(options.exported)}
    clock = CLOCKS[options.clock]
    samples = {f"{seconds:g}": speech(options.cuts, seconds) for seconds in options.lengths}
    times = {
        length: in_turns(requests(options, exported, one), options.repeats, clock) for length, one in samples.items()
    }
    encoder = {length: in_turns(encoders(exported, one), options.repeats, clock) for length, one in samples.items()}
    found = {"clock": options.clock, "request_ms": times, "encoder_ms": encoder}
    found |= {"peak_rss_mb": peaks(options, exported), "folder_mb": sizes(options)}
    write_json(options.out / "device.json", found)
    show(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--exported", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--faster-whisper", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--compute", nargs="+", default=["int8"])
    parser.add_argument("--lengths", nargs="+", type=float, default=[2.0, 5.0, 10.0, 30.0], help="seconds")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    return parser.parse_args()


def named(pairs: list[str]) -> list[tuple[str, str]]:
    return [(name, folder) for name, _, folder in (pair.partition("=") for pair in pairs)]


def speech(cuts: Path, seconds: float) -> NDArray[np.float32]:
    """Return so many seconds of the split's speech: the first utterance of that length or above, cut to it."""
    wanted = round(seconds * SAMPLE_RATE)
    parts: list[NDArray[np.float32]] = []
    for cut in open_cuts(cuts):
        samples = load_samples(cut)
        if len(samples) >= wanted:
            return samples[:wanted]
        parts.append(samples)
    return np.concatenate(parts)[:wanted]


def requests(
    options: argparse.Namespace, exported: dict[str, Recognizer], samples: NDArray[np.float32]
) -> dict[str, Run]:
    """Return what is timed: every depth of every export, every peer at every precision."""
    runs: dict[str, Run] = {
        f"{name} {depth}": partial(model.transcribe, samples, depth=depth)
        for name, model in exported.items()
        for depth in depths_of(model.ladder, model.n_blocks)
    }
    return runs | {name: partial(faster_whisper, model, samples) for name, model in peers(options).items()}


def encoders(exported: dict[str, Recognizer], samples: NDArray[np.float32]) -> dict[str, Run]:
    """Return a pass of the encoder at every depth of every export."""
    runs: dict[str, Run] = {}
    for name, model in exported.items():
        inputs_1TF = model.features(samples)[None]
        lengths_1 = np.array([inputs_1TF.shape[1]])
        for depth in depths_of(model.ladder, model.n_blocks):
            runs[f"{name} {depth}"] = partial(model.session.encode, inputs_1TF, lengths_1, model.subset(depth))
    return runs


def peers(options: argparse.Namespace) -> dict[str, Any]:
    """Load faster-whisper's models, one thread each."""
    from faster_whisper import WhisperModel

    return {
        f"faster-whisper {name} {compute}": WhisperModel(
            folder, device="cpu", compute_type=compute, cpu_threads=1, num_workers=1
        )
        for name, folder in named(options.faster_whisper)
        for compute in options.compute
    }


def faster_whisper(model: Any, samples: NDArray[np.float32]) -> str:
    segments, _ = model.transcribe(samples, language="en", beam_size=1, without_timestamps=True, temperature=0.0)
    return "".join(segment.text for segment in segments)


def peaks(options: argparse.Namespace, exported: dict[str, Recognizer]) -> dict[str, float | None]:
    """Return the peak memory in MB of fresh processes that transcribe ten seconds."""
    folders = dict(named(options.exported))
    found = {f"{name} {exported[name].n_blocks}": peak_rss_mb(Path(folders[name]), 1, 10.0) for name in folders}
    audio = options.out / "ten_seconds.npy"
    audio.parent.mkdir(parents=True, exist_ok=True)
    np.save(audio, speech(options.cuts, 10.0))
    for name, folder in named(options.faster_whisper):
        for compute in options.compute:
            words = [sys.executable, "-c", _PEAK_OF_FASTER_WHISPER, folder, compute, str(audio)]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[f"faster-whisper {name} {compute}"] = round(float(done.stdout), 1)
    return found


def sizes(options: argparse.Namespace) -> dict[str, float]:
    """Return the size of each folder in MB."""
    folders = named(options.exported) + named(options.faster_whisper)
    return {
        name: round(sum(f.stat().st_size for f in Path(folder).iterdir() if f.is_file()) / 1e6, 1)
        for name, folder in folders
    }


def show(found: dict[str, Any]) -> None:
    """Print milliseconds by length of audio, then memory and sizes."""
    for title, key in (("ms a request", "request_ms"), ("ms in the encoder", "encoder_ms")):
        lengths = list(found[key])
        print(title.ljust(28) + "".join(f"{length + ' s':>10}" for length in lengths))
        for name in found[key][lengths[0]]:
            print(name.ljust(28) + "".join(f"{found[key][length][name]:10.1f}" for length in lengths))
    print(json.dumps({"peak_rss_mb": found["peak_rss_mb"], "folder_mb": found["folder_mb"]}, indent=1))


if __name__ == "__main__":
    main()
