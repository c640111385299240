"""Long audio with timestamps: pieces end where the last whole segment does, and segments follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from layerdial.audio.windows import take_pieces
from layerdial.errors import UserError
from layerdial.recognition.pieces import PieceResult, recognize_pieces
from layerdial.subset import BlockSubset
from layerdial.text.timestamps import Stamps
from layerdial.text.token_rules import Written
from layerdial.transcript import Chunk, Transcribed

RATE = 16000
FIRST = 100
STAMPS = Stamps(FIRST, FIRST + 1500)
SUBSET = BlockSubset.full(2)
Timed = tuple[float, float | None, int]


@dataclass
class Speaker:
    """Recognises the words of a recording: each is a token, from one second of the whole to another.

    A word that is not whole in a piece has no end.
    """

    words: Sequence[tuple[float, float, int]]
    asked: list[tuple[float, float]] = field(default_factory=list)
    silent: bool = False

    def __call__(self, samples: NDArray[np.float32], begin: float, end: float) -> PieceResult:
        assert len(samples) == round((end - begin) * RATE)
        self.asked.append((round(begin, 2), round(end, 2)))
        tokens: list[int] = []
        for start, stop, word in self.words:
            if start > end - 0.01 or stop < begin + 0.01:
                continue
            tokens += [FIRST + round(50 * max(0.0, start - begin)), word]
            tokens += [FIRST + round(50 * (stop - begin))] if stop < end + 0.01 else []
        written = Written(tokens, -2.0 if self.silent else -0.1, 0.9 if self.silent else 0.1, False)
        return PieceResult(written, Chunk(begin, end, SUBSET))


def transcribe(speaker: Speaker, seconds: float, quiet: tuple[float, ...] = ()) -> Transcribed:
    samples = np.full(round(seconds * RATE), 0.1, np.float32)
    for place in quiet:
        samples[round((place - 0.1) * RATE) : round((place + 0.1) * RATE)] = 0.0
    return recognize_pieces(samples, speaker, lambda ids: " ".join(f"w{i}" for i in ids), STAMPS)


def spans(made: Transcribed) -> list[tuple[float, float, str]]:
    return [(round(one.start, 2), round(one.end, 2), one.text) for one in made.segments]


def test_short_audio_is_one_piece() -> None:
    made = transcribe(speaker := Speaker([(0.5, 2.0, 1), (2.0, 4.0, 2)]), 5.0)
    assert spans(made) == [(0.5, 2.0, "w1"), (2.0, 4.0, "w2")]
    assert (made.text, made.seconds, speaker.asked) == ("w1 w2", 5.0, [(0.0, 5.0)])


def test_long_audio_goes_on_where_the_last_whole_segment_ends() -> None:
    words = [(0.0, 9.0, 1), (9.5, 25.0, 2), (25.5, 41.0, 3), (42.0, 50.0, 4)]
    made = transcribe(speaker := Speaker(words), 52.0)
    assert speaker.asked == [(0.0, 30.0), (25.0, 52.0)]
    assert spans(made) == [(0.0, 9.0, "w1"), (9.5, 25.0, "w2"), (25.5, 41.0, "w3"), (42.0, 50.0, "w4")]
    assert made.text == "w1 w2 w3 w4" and made.seconds == 52.0
    assert [(chunk.start, chunk.end) for chunk in made.chunks] == [(0.0, 25.0), (25.0, 52.0)]


def test_where_no_segment_of_a_piece_is_whole_it_is_cut_where_it_is_quiet_and_recognised_again() -> None:
    made = transcribe(speaker := Speaker([(1.0, 8.0, 1), (9.0, 45.0, 2)]), 50.0, quiet=(24.0,))
    assert speaker.asked == [(0.0, 30.0), (0.0, 24.0), (24.0, 50.0)]
    assert spans(made) == [(1.0, 8.0, "w1"), (9.0, 24.0, "w2"), (24.0, 45.0, "w2")]  # both halves of the long word
    assert made.seconds == 50.0


def test_a_text_that_breaks_off_at_the_end_ends_with_the_audio() -> None:
    assert spans(transcribe(Speaker([(0.5, 2.0, 1), (2.0, 9.0, 2)]), 5.0)) == [(0.5, 2.0, "w1"), (2.0, 5.0, "w2")]


def test_what_nobody_says_has_no_segment_and_no_other_piece() -> None:
    made = transcribe(speaker := Speaker([(0.0, 9.0, 1)], silent=True), 45.0)
    assert (made.text, made.segments, speaker.asked) == ("", (), [(0.0, 30.0), (30.0, 45.0)])


@pytest.mark.parametrize("seed", range(8))
def test_segments_are_monotone_within_the_audio_and_hold_every_word_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.uniform(0.3, 9.0, 40)).round(1)
    words = [(float(a), float(b), i) for i, (a, b) in enumerate(zip([0.0, *ends[:-1]], ends, strict=True))]
    made = transcribe(Speaker(words), float(ends[-1]) + 1.0)
    found = spans(made)
    assert [text for *_, text in found] == [f"w{i}" for i in range(40)]
    times = [time for start, end, _ in found for time in (start, end)]
    assert times == sorted(times) and times[-1] <= made.seconds
    assert made.text.split() == [text for *_, text in found]
    assert all(a.end == b.start for a, b in zip(made.chunks, made.chunks[1:], strict=False))


def test_pieces_of_a_stream_begin_where_the_last_was_done() -> None:
    audio = np.arange(70 * RATE, dtype=np.float32) / 1e6
    seen: list[tuple[float, int, bool]] = []

    def take(samples: NDArray[np.float32], more: bool) -> int:
        seen.append((float(samples[0]), len(samples), more))
        return 12 * RATE

    take_pieces(audio, take)
    assert [(round(first * 1e6 / RATE), length / RATE, more) for first, length, more in seen] == [
        *((12 * i, 30.0, True) for i in range(4)),
        (48, 22.0, False),
    ]
    with pytest.raises(UserError, match="empty"):
        take_pieces(np.zeros(0, np.float32), take)
