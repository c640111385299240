"""Streams of commands whose words have known times: manifests `dev` and `test` in a folder.

    python experiments/streaming/streams.py data/streams

A stream is five to eight sentences of the demo's grammar by one voice, with pauses between them, in noise 5 to 20 dB
below the speech: 15 to 28 s. Voices are those of the demo's splits. The words' times are those of the synthesiser's
phonemes; they are in the manifests, as lhotse's alignment "word".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from lhotse.supervision import AlignmentItem

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.noise import coloured_noise
from layerdial.data.manifest import write_cuts
from layerdial.data.synthesis.demo_corpus import ACCENTS, PITCHES, SPEEDS, SPLITS, VOICES, expand
from layerdial.data.synthesis.espeak import NATIVE_RATE, PEAK_DB
from layerdial.data.synthesis.timed import SpokenWords, speak_timed

COUNTS = {"dev": 90, "test": 60}
SENTENCES, PAUSES, SNR_DB, LONGEST = (5, 8), (0.3, 1.2), (5.0, 20.0), 28.0


def main(out: Path) -> None:
    for split, count in COUNTS.items():
        summary = write_cuts(cuts(out / "audio" / split, split, count), out / f"{split}.cuts.jsonl.gz")
        print(f"{split}: {summary.cuts} streams, {summary.hours:.2f} h, {summary.path}")


def cuts(folder: Path, split: str, count: int) -> Iterator[MonoCut]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"{split}-stream-{number:03d}"
        rng = np.random.default_rng([1, SPLITS.index(split), number])
        voice = f"{ACCENTS[rng.integers(len(ACCENTS))]}+{VOICES[split][number % len(VOICES[split])]}"
        samples, words = stream(voice, rng)
        path = (folder / f"{name}.flac").resolve()
        soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        yield cut(name, path, len(samples), words, voice)


def stream(voice: str, rng: np.random.Generator) -> tuple[np.ndarray, list[SpokenWords]]:
    """Return the samples (S,) of sentences with pauses between them, in noise, and the words' times in seconds."""
    speed, pitch = int(rng.integers(*SPEEDS)), int(rng.integers(*PITCHES))
    parts, words, begin = [], list[SpokenWords](), 0.0
    for _ in range(rng.integers(SENTENCES[0], SENTENCES[1] + 1)):
        pause = np.zeros(int(rng.uniform(*PAUSES) * SAMPLE_RATE), np.float32)
        raw, spoken = speak_timed(expand("SENTENCE", rng), voice, speed, pitch)
        speech = soxr.resample(raw, NATIVE_RATE, SAMPLE_RATE)
        if begin + (len(pause) + len(speech)) / SAMPLE_RATE > LONGEST:
            break
        begin += len(pause) / SAMPLE_RATE
        words += [SpokenWords(word.text, begin + word.start, begin + word.end) for word in spoken]
        parts += [pause, speech]
        begin += len(speech) / SAMPLE_RATE
    clean = np.concatenate([*parts, np.zeros(int(rng.uniform(*PAUSES) * SAMPLE_RATE), np.float32)])
    return in_noise(clean, rng), words


def in_noise(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise below the level of the speech alone, and set the level of both."""
    power = float(np.mean(np.square(clean[clean != 0], dtype=np.float64)))
    level = np.sqrt(power * 10 ** (-rng.uniform(*SNR_DB) / 10))
    noisy = clean + np.float32(level) * coloured_noise(len(clean), rng.uniform(0.5, 1.2), rng)
    return noisy * np.float32(10 ** (rng.uniform(*PEAK_DB) / 20) / np.abs(noisy).max())


def cut(name: str, path: Path, samples: int, words: list[SpokenWords], voice: str) -> MonoCut:
    seconds = samples / SAMPLE_RATE
    recording = Recording(name, [AudioSource("file", [0], str(path))], SAMPLE_RATE, samples, seconds)
    items = [AlignmentItem(word.text, round(word.start, 4), round(word.end - word.start, 4)) for word in words]
    text = " ".join(word.text for word in words)
    said = SupervisionSegment(name, name, 0.0, seconds, text=text, speaker=voice, alignment={"word": items})
    return MonoCut(name, 0.0, seconds, 0, supervisions=[said], recording=recording)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
