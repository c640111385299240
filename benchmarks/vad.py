"""What voice activity detection does for long audio: WER, invented words, time and memory, with it and without.

    python benchmarks/vad.py PART MODEL CUTS [--depth N]... [--most N] [--noise DB] [--share 0.5] [--normalizer basic]

PART is `wer`, `invented`, `time` or `memory`. MODEL is an exported folder or its name. Long audio is made of the
utterances of CUTS in their order, with 0.5 to 10 s before and behind each, twenty to a recording. White noise, so many
dB below the mean power of the speech, lies below all of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import coloured_noise, rms
from layerdial.audio.utterances import Segmenter
from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.metrics import ErrorCounts, score, total
from layerdial.recognition.speech import PIECES
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.text.normalisers import normalizer_of

Samples = NDArray[np.float32]
Spoken = Sequence[tuple[Samples, str]]
PAUSES = (0.5, 10.0)  # seconds, at the ends and between two utterances
TOGETHER = 20
NOISE_DB = (None, 40.0, 30.0, 20.0)
ALONE_SECONDS = 60
HOUR = 3600


def main() -> None:
    parts = {"wer": wer, "invented": invented, "time": times, "memory": memory}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("model")
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--depth", type=int, action="append")
    parser.add_argument("--most", type=int, help="utterances; all if left out")
    parser.add_argument("--normalizer", default="basic")
    parser.add_argument("--noise", type=float, action="append", help="wer: only noise so many dB below")
    parser.add_argument("--share", type=float, default=0.5, help="memory: how much of the hour is utterances")
    parts[(options := parser.parse_args()).part](options)


def spoken_in(options: argparse.Namespace) -> list[tuple[Samples, str]]:
    normal = normalizer_of(options.normalizer)
    cuts = islice(open_cuts(options.cuts), options.most)
    return [(load_samples(cut), normal(cut_text(cut) or "")) for cut in cuts]


def depths_in(options: argparse.Namespace, model: Recognizer) -> list[int]:
    return options.depth or [model.n_blocks]


def long_recordings(
    spoken: Spoken, pauses: tuple[float, float], below_db: float | None
) -> Iterator[tuple[Samples, str]]:
    """Yield long recordings and their texts; they are the same at every call."""
    rng = np.random.default_rng(0)
    for first in range(0, len(spoken), TOGETHER):
        some = spoken[first : first + TOGETHER]
        parts = [_pause(pauses, rng)]
        for samples, _ in some:
            parts += [samples, _pause(pauses, rng)]
        whole = np.concatenate(parts)
        if below_db is not None:
            level = rms(np.concatenate([samples for samples, _ in some])) * 10 ** (-below_db / 20)
            whole += rng.normal(0.0, level, len(whole)).astype(np.float32)
        yield whole, " ".join(text for _, text in some)


def _pause(pauses: tuple[float, float], rng: np.random.Generator) -> Samples:
    return np.zeros(round(rng.uniform(*pauses) * SAMPLE_RATE), np.float32)


# ------------------------------------------------------------------------------------------------------------- WER


def wer(options: argparse.Namespace) -> None:
    model, spoken, normal = Recognizer(options.model, 1), spoken_in(options), normalizer_of(options.normalizer)
    print("| depth | noise | pieces | WER in % | wrong | left out | invented | CPU seconds |" + "\n" + 8 * "|---" + "|")
    for depth in depths_in(options, model):
        print(row(depth, "none", "utterances", *errors(model, spoken, Request(depth), normal)), flush=True)
        for below in options.noise or NOISE_DB:
            pairs = list(long_recordings(spoken, PAUSES, below))
            noise = "none" if below is None else f"{below:g} dB below"
            for vad in (False, True):
                found = errors(model, pairs, Request(depth, vad=vad), normal)
                print(row(depth, noise, "by VAD" if vad else "as without VAD", *found), flush=True)


def errors(
    model: Recognizer, pairs: Spoken, request: Request, normal: Callable[[str], str]
) -> tuple[ErrorCounts, float]:
    """Return the errors, and the seconds of CPU time."""
    start = time.process_time()
    texts = [normal(model.answer(samples, request).text) for samples, _ in pairs]
    taken = time.process_time() - start
    return total(score(zip((text for _, text in pairs), texts, strict=True))), taken


def row(depth: int, noise: str, pieces: str, found: ErrorCounts, seconds: float) -> str:
    counts = f"{found.substitutions} | {found.deletions} | {found.insertions}"
    return f"| {depth} | {noise} | {pieces} | {100 * found.rate:.2f} | {counts} | {seconds:.0f} |"


# -------------------------------------------------------------------------------------------------------- no speech


def invented(options: argparse.Namespace) -> None:
    model = Recognizer(options.model, 1)
    depths = depths_in(options, model)
    print(
        f"| {ALONE_SECONDS} s of | "
        + " | ".join(f"depth {depth}, {how}" for depth in depths for how in ("", "VAD"))
        + " |"
    )
    print("|---" * (1 + 2 * len(depths)) + "|")
    for name, samples in without_speech():
        counts = [
            len(model.answer(samples, Request(depth, vad=vad)).text.split())
            for depth in depths
            for vad in (False, True)
        ]
        print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)


def without_speech() -> Iterator[tuple[str, Samples]]:
    """Yield audio in which nobody speaks."""
    n_samples, rng = ALONE_SECONDS * SAMPLE_RATE, np.random.default_rng(0)
    yield "digital silence", np.zeros(n_samples, np.float32)
    for name, slope in (("white", 0), ("pink", 1), ("brown", 2)):
        for level in (-60, -40, -20):
            noise = 10 ** (level / 20) * coloured_noise(n_samples, slope, rng)
            yield f"{name} noise, {level} dB of full scale", noise.clip(-1, 1)
    yield "mains hum, -40 dB", (0.01 * tone(50.0, n_samples, 8)).astype(np.float32)
    yield "chords of plucked strings, -20 dB", 0.1 * music(n_samples, rng)
    yield "clicks, two a second", clicks(n_samples, rng)


def tone(hertz: float, n_samples: int, harmonics: int) -> Samples:
    """Return a tone of power 1 with so many harmonics, which fall by 6 dB an octave."""
    at = np.arange(n_samples) / SAMPLE_RATE
    made = np.sum([np.sin(2 * np.pi * hertz * i * at) / i for i in range(1, harmonics + 1)], axis=0)
    return np.asarray(made / rms(made), np.float32)


def music(n_samples: int, rng: np.random.Generator) -> Samples:
    """Return chords that change every half second and fade away, of power 1."""
    made, step = np.zeros(n_samples, np.float32), SAMPLE_RATE // 2
    fade = np.exp(-np.arange(4 * step) / SAMPLE_RATE * 2).astype(np.float32)
    for start in range(0, n_samples, step):
        root = 110.0 * 2 ** (rng.integers(0, 24) / 12)
        for interval in (1.0, 1.26, 1.5, 2.0):
            note = tone(root * interval, 4 * step, 6) * fade
            made[start : start + len(note)] += note[: n_samples - start]
    return made / rms(made)


def clicks(n_samples: int, rng: np.random.Generator) -> Samples:
    made = np.zeros(n_samples, np.float32)
    for start in range(0, n_samples - 200, SAMPLE_RATE // 2):
        made[start : start + 80] = 0.5 * rng.standard_normal(80)
    return made.clip(-1, 1)


# ---------------------------------------------------------------------------------------------------------- cost


def times(options: argparse.Namespace) -> None:
    """Print the time of audio half of which is pauses, and that of the detector, in seconds a second of audio."""
    model, spoken = Recognizer(options.model, 1), spoken_in(options)
    mean = sum(len(samples) for samples, _ in spoken) / len(spoken) / SAMPLE_RATE
    pairs = list(long_recordings(spoken, (0.5 * mean, 1.5 * mean), 40.0))
    seconds = sum(len(samples) for samples, _ in pairs) / SAMPLE_RATE
    share = sum(len(samples) for samples, _ in spoken) / SAMPLE_RATE / seconds
    print(f"{seconds:.0f} s of audio, {share:.0%} of it utterances; CPU time over audio time")
    start = time.process_time()
    for samples, _ in pairs:
        find_stretches(samples)
    alone = (time.process_time() - start) / seconds
    print("| depth | all audio | speech alone | saved | detector | of it |\n|---|---|---|---|---|---|")
    for depth in depths_in(options, model):
        without, with_it = (errors(model, pairs, Request(depth, vad=vad), str)[1] / seconds for vad in (False, True))
        saved, of_it = 1 - with_it / without, alone / with_it
        print(f"| {depth} | {without:.4f} | {with_it:.4f} | {saved:.0%} | {alone:.4f} | {of_it:.0%} |", flush=True)


def find_stretches(samples: Samples) -> None:
    segmenter, step = Segmenter(PIECES), 10 * SAMPLE_RATE
    for start in range(0, len(samples), step):
        segmenter.feed(samples[start : start + step])
    segmenter.finish()


def memory(options: argparse.Namespace) -> None:
    """Print the peak memory of `layerdial transcribe` on an hour of audio."""
    spoken = spoken_in(options)
    depth = (options.depth or [None])[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "hour.wav")
        write_hour(spoken, path, options.share)
        print("| an hour of audio | peak memory in MB | minutes |\n|---|---|---|", flush=True)
        for words in (["--vad"], ["--vad", "--words"], ["--no-vad"]):
            command = [
                sys.executable,
                "-m",
                "layerdial",
                "transcribe",
                options.model,
                str(path),
                "--threads",
                "1",
                *words,
            ]
            command += [] if depth is None else ["--depth", str(depth)]
            start = time.perf_counter()
            peak = peak_kb(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            taken = (time.perf_counter() - start) / 60
            print(f"| {' '.join(words)} | {peak / 1024:.0f} | {taken:.1f} |", flush=True)


def peak_kb(process: subprocess.Popen[bytes]) -> int:
    """Return the peak memory of a process (Linux). Its resource usage would begin with the memory of this one."""
    peak = 0
    while process.poll() is None:
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            if process.poll() is None and "VmHWM" in status:
                peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
        time.sleep(0.1)
    assert process.returncode == 0
    return peak


def write_hour(spoken: Spoken, path: Path, share: float) -> None:
    """Write an hour of long recordings, as often as it takes; `share` of it is utterances."""
    mean = (1 / share - 1) * sum(len(samples) for samples, _ in spoken) / len(spoken) / SAMPLE_RATE
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype="PCM_16") as file:
        while file.tell() < HOUR * SAMPLE_RATE:
            for samples, _ in long_recordings(spoken, (0.0, 2 * mean), 40.0):
                file.write(samples[: max(0, HOUR * SAMPLE_RATE - file.tell())])


if __name__ == "__main__":
    main()
