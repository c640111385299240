"""How well detectors tell speech from the rest, and at what cost: Silero's, WebRTC's, and plain energy.

    python benchmarks/voice_detectors.py CUTS [--most 30]

WebRTC's is measured where its package is installed (webrtcvad-wheels); its score is how many of its four modes say
speech. Speech is the frames of 32 ms of clean utterances that are at most 30 dB below the loudest, noise the frames
between utterances. Printed is the share of speech that is missed where 1 % of the noise passes for speech, and CPU time
over audio time.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import coloured_noise, rms
from layerdial.audio.voice import FRAME, VoiceDetector
from layerdial.data.manifest import load_samples, open_cuts
from vad import music

Samples = NDArray[np.float32]
Detect = Callable[[Samples], Any]
SNR_DB = (40, 20, 10, 0)
_PAUSE_FRAMES = 100
_PASSES = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--most", type=int, default=30)
    options = parser.parse_args()
    utterances = [load_samples(cut) for cut in islice(open_cuts(options.cuts), options.most)]
    clean, kinds = joined(utterances)
    detectors = dict(available())
    print(f"| {len(utterances)} utterances | {' | '.join(detectors)} |\n{'|---' * (1 + len(detectors))}|")
    for name, slope in (("white noise", 0.0), ("pink noise", 1.0), ("music", None)):
        for snr in SNR_DB:
            noisy = clean + level_of(clean, kinds, snr) * noise_of(slope, len(clean))
            shares = [missed(detect(noisy.clip(-1, 1)), kinds) for detect in detectors.values()]
            print(f"| {name}, {snr} dB | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)
    print(f"| CPU time | {' | '.join(f'{cost(detect, clean):.4f}' for detect in detectors.values())} |")


def joined(utterances: list[Samples]) -> tuple[Samples, NDArray[np.int64]]:
    """Return utterances with pauses between, and the kind of each frame: 1 is speech, 0 none, -1 neither for sure."""
    parts, kinds = list[Samples](), list[NDArray[np.int64]]()
    for samples in utterances:
        whole = samples[: len(samples) // FRAME * FRAME]
        energies = np.square(whole.reshape(-1, FRAME)).mean(axis=1)
        parts += [np.zeros(_PAUSE_FRAMES * FRAME, np.float32), whole]
        between = np.zeros(_PAUSE_FRAMES, np.int64)
        between[:10] = -1  # where a detector may still wait for the end
        kinds += [between, np.where(energies > 1e-3 * energies.max(), 1, -1)]
    return np.concatenate(parts), np.concatenate(kinds)


def level_of(clean: Samples, kinds: NDArray[np.int64], snr_db: float) -> np.float32:
    return np.float32(rms(clean[np.repeat(kinds == 1, FRAME)]) * 10 ** (-snr_db / 20))


def noise_of(slope: float | None, n_samples: int) -> Samples:
    rng = np.random.default_rng(0)
    return music(n_samples, rng) if slope is None else coloured_noise(n_samples, slope, rng)


def missed(scores: Any, kinds: NDArray[np.int64]) -> float:
    """Return the share of speech below the threshold that `_PASSES` of the noise are above."""
    found = np.asarray(scores, np.float64)[: len(kinds)]
    kinds = kinds[: len(found)]
    return float((found[kinds == 1] <= np.quantile(found[kinds == 0], 1 - _PASSES)).mean())


def cost(detect: Detect, samples: Samples) -> float:
    start = time.process_time()
    detect(samples)
    return (time.process_time() - start) / (len(samples) / SAMPLE_RATE)


def available() -> Iterator[tuple[str, Detect]]:
    yield "Silero 6.2.3", lambda samples: VoiceDetector().feed(samples)
    yield "energy", energy
    try:
        import webrtcvad

        yield "WebRTC", lambda samples: by_webrtc(webrtcvad, samples)
    except ImportError:
        pass


def energy(samples: Samples) -> list[float]:
    """Return the decibels of each frame above the quietest of the last 3 s."""
    decibels = 10 * np.log10(
        np.square(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)).mean(axis=1) + 1e-10
    )
    last: deque[float] = deque(maxlen=3 * SAMPLE_RATE // FRAME)
    found = []
    for value in decibels.tolist():
        last.append(value)
        found.append(value - min(last))
    return found


def by_webrtc(package: Any, samples: Samples) -> list[float]:
    """Return how many of the four aggressiveness modes say speech, of the 30 ms in the middle of each frame."""
    detectors = [package.Vad(mode) for mode in range(4)]
    ints = (samples * 32767).astype(np.int16)
    frames = [ints[i : i + 480].tobytes() for i in range(16, len(ints) - FRAME + 17, FRAME)]
    return [sum(detector.is_speech(frame, SAMPLE_RATE) for detector in detectors) for frame in frames]


if __name__ == "__main__":
    main()
