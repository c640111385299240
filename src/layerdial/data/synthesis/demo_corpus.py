"""Corpora of synthetic speech: the demo corpus, and any texts for pre-training.

Licence: the voices come from espeak-ng, which is GPL-3.0-or-later. It is an optional extra (`pip install
'.[demo]'`) loaded at run time by `espeak.py` beside this file; nothing else in layerdial imports either.

Texts, voices, manners and noise are drawn from (seed, split) or from (seed, id, copy), and
`synthesise` is a pure function of that. So the same seed gives the same audio for any number of workers.

Workers are processes started by "spawn" that import numpy, soxr and soundfile alone. As always with "spawn", a script
that calls these functions does so under `if __name__ == "__main__":`. With `workers=1` no process is started.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.synthesis.espeak import PADDING, SNR_DB, Utterance, check_voice
from layerdial.data.synthesis.writer import CountFn, Reading, fill_folder
from layerdial.errors import UserError

if TYPE_CHECKING:
    from layerdial.data.manifest import CorpusReport

SPLITS = ("train", "dev", "test")
ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-scotland")
SPEEDS = (120, 220)  # words per minute
PITCHES = (20, 80)
MOST = {"hours": 1000, "utterances": 100_000}  # numbers in ids have five digits

# Variants in which one word is not taken for another when compared with the same words by the others. Left out:
# whispers, robots, clipping ones and near copies; near relatives stay in one split. The last line of each is Klatt's.
VOICES: dict[str, tuple[str, ...]] = {
    split: tuple(names.split())
    for split, names in {
        "train": """f2 f3 f5 aunty linda Andrea anika steph shelby
            m1 m2 m4 m5 m6 m8 Alex Mike Mario Michael gustave Nguyen Diogo Henrique michel Denis victor robert rob iven2
            iven3 iven4 ian norbert travis pedro kaukovalta grandpa Gene
            adam Reed edward edward2 klatt2 klatt3 klatt4""",
        "dev": "Annie grandma m7 boris sandro caleb",
        "test": "f1 f4 belinda m3 quincy pablo marcelo max david mike2",
    }.items()
}

# The demo's grammar: a word, or the name of a rule in capitals. 37 words, no two of them alike in sound.
DIGITS = ["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RULES: dict[str, list[str]] = {
    "D": DIGITS,
    "N": DIGITS[2:],  # an hour or a number of minutes
    "NUMBER": ["D D D", "D D D D", "D D D D D", "D D D D D D", "D D D D D D D"],
    "ROOM": ["kitchen", "bedroom"],
    "DEVICE": ["light", "fan", "radio"],
    "COMMAND": [
        "call NUMBER",
        "dial NUMBER",
        "set alarm at N",
        "set alarm at N thirty",
        "set alarm at N fifteen",
        "set timer N minutes",
        "set timer fifteen minutes",
        "turn on the ROOM DEVICE",
        "turn off the ROOM DEVICE",
        "turn on the DEVICE",
        "turn off the DEVICE",
        "volume up N",
        "volume down N",
        "volume up",
        "volume down",
        "play music",
        "play the radio",
        "play next",
        "stop the music",
        "stop the timer",
        "stop the alarm",
    ],
    "POLITE": ["COMMAND", "COMMAND", "COMMAND please", "please COMMAND"],
    "SENTENCE": ["NUMBER", "D NUMBER", "POLITE", "POLITE", "POLITE"],
}
VOCABULARY = sorted({word for rule in RULES.values() for line in rule for word in line.split() if word.islower()})


def prepare_demo(
    out: Path | str,
    *,
    hours: Mapping[str, float] | None = None,
    utterances: Mapping[str, int] | None = None,
    snr_db: tuple[float, float] = SNR_DB,
    reverb: tuple[float, float] | None = None,
    seed: int = 0,
    workers: int = 2,
    progress: CountFn | None = None,
) -> CorpusReport:
    """Make the demo corpus: `out/audio/<split>/*.flac`, `out/<split>.cuts.jsonl.gz`, and `out/demo.json`.

    hours: of audio per split; 19 minutes of train, 4 of dev, 8 of test unless given. utterances: number per split, in
    place of its hours; fewer are the first of more. snr_db: range of the noise levels. reverb: range of the rooms' RT60
    in seconds; no rooms unless given.

    A complete corpus of the same settings is left as it is, an interrupted one is continued, one of other settings is
    replaced. Raises UserError for bad numbers, a missing espeakng-loader, and a place that cannot be written.
    """
    counts = dict(utterances or {})
    lengths = {"train": 0.32, "dev": 4 / 60, "test": 8 / 60} | dict(hours or {})
    _check_sizes("hours", lengths)
    _check_sizes("utterances", counts)
    check_snr(snr_db)
    check_reverb(reverb)
    check_voice(ACCENTS[0])  # before any work: raises UserError where the library is missing
    lengths = {split: length for split, length in lengths.items() if split not in counts}
    plans = {
        split: list(itertools.islice(plan_demo(split, lengths.get(split, math.inf), seed), counts.get(split)))
        for split in SPLITS
    }
    jobs = {
        split: [
            Reading(id, utterance, f"{id}.flac", (seed, SPLITS.index(split), number), snr_db, reverb=reverb)
            for number, (id, utterance) in enumerate(plan)
        ]
        for split, plan in plans.items()
    }
    settings = {"hours": lengths, "snr_db": list(snr_db), "seed": seed}
    settings |= {"utterances": counts} if counts else {}  # absent as in corpora made before there were these settings
    settings |= {"reverb": list(reverb)} if reverb else {}
    total = sum(len(plan) for plan in plans.values())
    return fill_folder(Path(out), "demo", settings, jobs, workers=workers, total=total, progress=progress)


def plan_demo(split: str, hours: float, seed: int = 0) -> Iterator[tuple[str, Utterance]]:
    """Yield (id, utterance) of about `hours` of connected digits and commands, by the voices of `split` in turn."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    seconds = 0.0
    for number, variant in enumerate(_in_turn(VOICES[split], rng)):
        if seconds >= hours * 3600:
            return
        utterance = _draw_manner(expand("SENTENCE", rng), variant, rng)
        # Fitted to these sentences, so that the plan needs no audio; the result is within a few per cent.
        seconds += (40 + 8.6 * len(utterance.text)) / utterance.speed + sum(PADDING)
        yield f"{split}-{number:05d}", utterance


def expand(symbol: str, rng: np.random.Generator) -> str:
    """Return a random sentence of the grammar from `symbol`; a word is returned as it is.

    >>> expand("please", np.random.default_rng())
    'please'
    """
    if symbol not in RULES:
        return symbol
    line = RULES[symbol][rng.integers(len(RULES[symbol]))]
    return " ".join(expand(part, rng) for part in line.split())


def _in_turn(variants: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield all variants in a random order, then all again in another, and so on."""
    while True:
        yield from (variants[i] for i in rng.permutation(len(variants)))


def _draw_manner(text: str, variant: str, rng: np.random.Generator) -> Utterance:
    voice = f"{ACCENTS[rng.integers(len(ACCENTS))]}+{variant}"
    return Utterance(text, voice, int(rng.integers(SPEEDS[0], SPEEDS[1] + 1)), int(rng.integers(*PITCHES)))


def check_snr(snr_db: tuple[float, float] | None) -> None:
    """Raise UserError unless `snr_db` is None or a range (low, high) within -20 to 100 dB."""
    if snr_db is not None and not -20 <= snr_db[0] <= snr_db[1] <= 100:
        raise UserError(f"snr_db is {snr_db}; give two numbers from -20 to 100, the lower first")


def check_reverb(reverb: tuple[float, float] | None) -> None:
    """Raise UserError unless `reverb` is None or a range (low, high) of RT60 within 0.05 to 5 seconds."""
    if reverb is not None and not 0.05 <= reverb[0] <= reverb[1] <= 5:
        raise UserError(f"reverb is {reverb}; give two numbers from 0.05 to 5 seconds, the lower first")


def _check_sizes(what: str, sizes: Mapping[str, float]) -> None:
    for split, size in sizes.items():
        if split not in SPLITS or not 0 < size < MOST[what]:
            raise UserError(
                f"{what} of {split!r} is {size}; give a number above 0, below {MOST[what]:,}, for {', '.join(SPLITS)}"
            )


# Any texts


def speak_texts(
    texts: Iterable[tuple[str, str]],
    out: Path | str,
    *,
    voices: Sequence[str] = (),
    copies: int = 1,
    snr_db: tuple[float, float] | None = SNR_DB,
    rate: int = SAMPLE_RATE,
    seed: int = 0,
    workers: int = 2,
    progress: CountFn | None = None,
) -> CorpusReport:
    """Have (id, text) pairs read aloud: `out/train.cuts.jsonl.gz`, `out/audio/train/`, and `out/speak.json`.

    texts: read twice, so a sequence or an object that starts anew with every `iter`, not a generator. voices: such as
    `en-us+f2`; every variant of the demo's train split in every accent unless given. copies: readings of each text,
    each in a voice of its own, with ids `<id>-read0`, `<id>-read1` …. snr_db: None for no noise. rate: Hz of the files;
    the rate of the recordings that the speech replaces gives it no more bandwidth than theirs.

    An interrupted run is continued, a complete one reused. A text that gives no speech is in the report's `rejected`.
    """
    if iter(texts) is texts:
        raise TypeError("texts is an iterator; speak_texts reads it twice, so give a list")
    if copies < 1:
        raise UserError(f"copies is {copies}; give 1 or more")
    check_snr(snr_db)
    if not 1000 <= rate <= SAMPLE_RATE:
        raise UserError(f"rate is {rate}; give the recordings' sample rate in Hz, at most {SAMPLE_RATE}")
    speakers = tuple(voices) or tuple(f"{accent}+{name}" for name in VOICES["train"] for accent in ACCENTS)
    for voice in speakers:
        check_voice(voice)
    count, digest = _fingerprint(texts)
    settings = {"texts": digest, "voices": list(speakers), "copies": copies, "seed": seed}
    settings["snr_db"] = snr_db and list(snr_db)
    if rate != SAMPLE_RATE:
        settings["rate"] = rate
    jobs = {"train": (replace(job, rate=rate) for job in _readings(texts, speakers, copies, snr_db, seed))}
    total = count * copies
    return fill_folder(Path(out), "speak", settings, jobs, workers=workers, total=total, progress=progress)


def speak_cuts(cuts: Path | str, out: Path | str, *, copies: int = 2, **options: Any) -> CorpusReport:
    """Call `speak_texts` on the transcripts of the manifest `cuts`: pre-training material without recordings.

    The options are those of `speak_texts`. Raises UserError where `out` would replace `cuts` itself.
    """
    source = Path(cuts).resolve()
    if source.parent == Path(out).resolve():
        raise UserError(f"{out} is the folder of {cuts}; give another folder for the synthetic voices")
    return speak_texts(_CutTexts(source), out, copies=copies, **options)


class _CutTexts:
    """The (id, text) of every cut of a manifest, streamed anew by each `iter`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[tuple[str, str]]:
        from layerdial.data.manifest import cut_text, open_cuts

        for cut in open_cuts(self.path):
            yield str(cut.id), cut_text(cut)


def _fingerprint(texts: Iterable[tuple[str, str]]) -> tuple[int, str]:
    """Return the number of texts, and a hash of them and their ids."""
    count, digest = 0, hashlib.sha256()
    for id, text in texts:
        count += 1
        digest.update(f"{id}\0{text}\0".encode())
    return count, digest.hexdigest()


def _readings(
    texts: Iterable[tuple[str, str]],
    voices: Sequence[str],
    copies: int,
    snr_db: tuple[float, float] | None,
    seed: int,
) -> Iterator[Reading]:
    for number, (id, text) in enumerate(texts):
        origin = (seed, zlib.crc32(id.encode()))
        chosen = np.random.default_rng(origin).permutation(len(voices))
        for copy in range(copies):
            rng = np.random.default_rng((*origin, copy))
            speed, pitch = int(rng.integers(*SPEEDS)), int(rng.integers(*PITCHES))
            utterance = Utterance(text, voices[chosen[copy % len(voices)]], speed, pitch)
            file = f"{number // 1000:04d}/{number:07d}-{copy}.flac"  # ids may hold characters that file names may not
            yield Reading(f"{id}-read{copy}", utterance, file, (*origin, copy, 1), snr_db)
