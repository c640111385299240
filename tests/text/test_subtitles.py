"""Subtitles: lines, seconds and order within limits whatever is said, no word lost, files as players read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from layerdial.text.subtitles import (
    COLUMNS,
    Cue,
    cues,
    in_order,
    label,
    pieces_of_segments,
    pieces_of_words,
    srt,
    tsv,
    vtt,
    width,
)
from layerdial.transcript import Segment, Word

GOLDEN = Path(__file__).parents[1] / "golden"
SAID = (
    (0.0, 2.4, "When she was told, the Duke said nothing at all."),
    (2.4, 9.8, "He looked out of the window, where it had begun to rain, and asked for the letter & the <second> key."),
    (12.0, 12.4, "Why?"),
    (12.4, 14.0, "Nobody knew."),
)
SEGMENTS = [Segment(*one) for one in SAID]


def random_words(seed: int) -> list[Word]:
    """Words of any length and rate, with pauses or none, some longer than a line, some of no length."""
    random, time, found = Random(seed), 0.0, list[Word]()
    slowest = random.choice([0.02, 0.3, 1.0, 9.0])
    for _ in range(random.randint(1, 120)):
        letters = random.choice(["abc", "abcdefgh", "äöé", "字幕", "a"])
        text = "".join(
            random.choices(letters, k=random.choice([1, 2, 3, 5, 8, 13, 100 if random.random() < 0.1 else 4]))
        )
        time += random.choice([0.0, 0.0, 0.0, 0.1, 0.6, 5.0])
        end = time + random.uniform(0, slowest)
        found.append(Word(text + random.choice(["", "", "", ".", ",", "?"]), time, end, 1.0))
        time = end
    return found


def text_of(found: Sequence[Cue]) -> str:
    """Everything that is shown, without spaces: long words are cut."""
    return "".join("".join(cue.lines) for cue in found).replace(" ", "")


@pytest.mark.parametrize("speaker", ["", "left"])
@pytest.mark.parametrize("seed", range(40))
def test_limits_hold_and_no_word_is_lost_or_moved(seed: int, speaker: str) -> None:
    words = random_words(seed)
    text = " ".join(word.text for word in words)
    found = cues(pieces_of_words(text, words), speaker)
    assert text_of(found) == text.replace(" ", "")
    for cue in found:
        assert 1000 <= cue.end_ms - cue.start_ms <= 7000
        assert 1 <= len(cue.lines) <= 2 and all(line == line.strip() != "" for line in cue.lines)
        assert width(label(speaker) + cue.lines[0]) <= COLUMNS and width(cue.lines[-1]) <= COLUMNS
    assert all(one.end_ms <= following.start_ms for one, following in pairwise(found))


def test_a_cue_is_shown_when_its_words_are_spoken() -> None:
    """At a usual rate no cue waits for the one before."""
    words = [Word(f"word{i % 7}" + "." * (i % 9 == 8), 0.4 * i, 0.4 * i + 0.35, 1.0) for i in range(200)]
    found = cues(pieces_of_words(" ".join(word.text for word in words), words))
    begins, at = [], 0
    for cue in found:
        begins.append(round(1000 * words[at].start))
        at += len(" ".join(cue.lines).split())
    assert [cue.start_ms for cue in found] == begins


def test_cues_end_with_sentences_and_pauses_and_lines_behind_signs() -> None:
    assert [cue.lines for cue in cues(pieces_of_segments(SEGMENTS))] == [
        ("When she was told,", "the Duke said nothing at all."),
        ("He looked out of the window,", "where it had begun to rain,"),
        ("and asked for the letter", "& the <second> key."),
        ("Why? Nobody knew.",),
    ]


def test_words_of_a_segment_share_its_time_by_their_characters() -> None:
    found = pieces_of_segments([Segment(1.0, 3.0, "one three"), Segment(3.0, 4.0, " ")])
    assert [(piece.text, piece.start, piece.end) for piece in found] == [("one", 1.0, 1.75), ("three", 1.75, 3.0)]


def test_signs_and_spaces_come_from_the_text() -> None:
    """Recognisers give words with or without their signs, and languages have spaces or none."""
    words = [Word(text, i, i + 0.9, 1.0) for i, text in enumerate(["He", "said", "hello", "twenty", "one"])]
    [cue] = cues(pieces_of_words('"He said: "hello, twenty-one!"', words))
    assert cue.lines == ('"He said: "hello, twenty-one!"',)
    [cue] = cues(pieces_of_words("字幕です。", [Word("字幕", 0, 1, 1.0), Word("です", 1, 2, 1.0)]))
    assert cue.lines == ("字幕です。",)
    assert [piece.text for piece in pieces_of_words("other words", words[:2])] == ["He", "said"]


def test_nobody_speaks() -> None:
    assert (srt(cues([])), vtt(cues([])), tsv(cues([]))) == ("", "WEBVTT\n", "start\tend\ttext\n")


def call() -> list[Cue]:
    sides = {"left": SEGMENTS[:2], "right": [Segment(2.0, 3.5, "I see."), Segment(10.0, 11.0, "Here --> it is.")]}
    return in_order(*(cues(pieces_of_segments(said), speaker) for speaker, said in sides.items()))


@pytest.mark.parametrize("name", ["one.srt", "one.vtt", "one.tsv", "call.srt", "call.vtt", "call.tsv"])
def test_files_are_as_they_were(name: str) -> None:
    found = call() if name.startswith("call") else cues(pieces_of_segments(SEGMENTS))
    write = {"srt": srt, "vtt": vtt, "tsv": tsv}[name.rpartition(".")[2]]
    assert write(found) == (GOLDEN / f"subtitles-{name}").read_text(encoding="utf-8")


@pytest.mark.parametrize(("write", "point"), [(srt, ","), (vtt, ".")])
def test_blocks_have_times_and_one_empty_line_between_them(write: object, point: str) -> None:
    assert callable(write)
    late = [Cue(3_599_999, 3_601_000, ("a", "b")), Cue(36_000_000, 36_001_500, ("x --> y",))]
    text = write(late)
    assert f"00:59:59{point}999 --> 01:00:01{point}000\na\nb\n\n" in text and f"10:00:00{point}000" in text
    assert len(re.findall("-->", text)) == 2 and "\n\n\n" not in text and text.endswith("\n")
