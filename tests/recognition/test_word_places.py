"""Where words are placed whose labels are emitted at known times: at pauses, or a little before their first label."""

from __future__ import annotations

import numpy as np
import pytest

from layerdial.recognition.word_places import placed, segments_of
from layerdial.transcript import Word


def words(*times: tuple[float, float]) -> list[Word]:
    return [Word(f"w{i}", start, end, 0.5) for i, (start, end) in enumerate(times)]


def spans(found: list[Word]) -> list[tuple[float, float]]:
    return [(round(word.start, 3), round(word.end, 3)) for word in found]


def test_a_pause_ends_a_word_and_begins_the_next() -> None:
    found = placed(words((0.5, 0.6), (2.0, 2.1)), [(0.0, 0.4), (0.9, 1.7), (2.5, 3.0)], 3.0)
    assert spans(found) == [(0.4, 0.9), (1.7, 2.5)]


def test_a_label_that_is_emitted_within_the_pause_is_of_the_word_before_it() -> None:
    found = placed(words((0.95, 1.0), (2.0, 2.1)), [(0.9, 1.7)], 3.0)
    assert spans(found)[0][1] == 0.9 and spans(found)[1][0] == 1.7


def test_a_quiet_stretch_between_the_labels_of_a_word_is_part_of_it() -> None:
    found = placed(words((0.5, 1.5), (2.0, 2.1)), [(0.9, 1.1), (1.6, 1.8)], 3.0)
    assert spans(found)[0][1] == 1.6 and spans(found)[1][0] == 1.8


def test_without_a_pause_a_word_ends_where_the_next_begins() -> None:
    first, second = placed(words((0.5, 0.6), (0.8, 0.9)), [], 3.0)
    assert 0.6 <= first.end == second.start < 0.8 and second.end < 1.5


@pytest.mark.parametrize("lag", [0.02, 0.2])
def test_words_without_a_pause_begin_as_long_before_their_labels_as_those_behind_pauses(lag: float) -> None:
    begins = [0.3, 0.8, 1.2, 1.6, 3.0, 3.5]
    late = words(*((begin + lag, begin + lag + 0.04) for begin in begins))
    found = placed(late, [(0.0, 0.3), (2.2, 3.0), (4.0, 5.0)], 5.0)
    assert [start for start, _ in spans(found)] == begins
    assert [end for _, end in spans(found)] == [0.8, 1.2, 1.6, 2.2, 3.5, 4.0]


@pytest.mark.parametrize("seed", range(20))
def test_words_follow_each_other_within_the_audio_whatever_is_quiet(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = np.sort(rng.choice(400, 60, replace=False)) * 0.04
    quiet = np.sort(rng.uniform(0, 16, 20))
    found = placed(words(*frames.reshape(-1, 2).tolist()), quiet.reshape(-1, 2).tolist(), 16.0)
    times = [time for word in found for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 16.0
    assert [word.text for word in found] == [f"w{i}" for i in range(30)]


def test_segments_end_at_pauses_and_long_ones_at_their_longest() -> None:
    apart = segments_of(words((0.0, 1.0), (1.5, 2.0), (2.7, 3.0)))
    assert [(one.start, one.end, one.text) for one in apart] == [(0.0, 2.0, "w0 w1"), (2.7, 3.0, "w2")]
    steps = [(float(i), i + 0.9) for i in range(20)]
    steps[12] = (12.3, 12.9)
    long = segments_of(words(*steps))
    assert [len(one.text.split()) for one in long] == [12, 8]
    assert segments_of([]) == ()
    assert len(segments_of(words((0.0, 40.0)))) == 1


def test_segments_of_even_speech_are_cut_in_the_middle() -> None:
    even = segments_of(words(*((i / 2, i / 2 + 0.5) for i in range(200))))
    assert all(5 < one.end - one.start <= 15 for one in even)
