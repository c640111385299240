"""Texts of streams by their frames: where they end, what of them is stable, and that memory does not grow."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from layerdial import BlockSubset, UserError
from layerdial.recognition.endpointing import End, EndpointDetector, Endpoints
from layerdial.recognition.stream_results import ResultPlan, StreamResult, StreamResults
from layerdial.request import Request
from layerdial.text.ctc_beams import Pieces
from layerdial.text.ctc_decoder import ctc_decoder
from layerdial.transcript import Chunk

LETTERS = Pieces(["<blk>", "▁", *"abcde"])
WORDS = Pieces(["<blk>", "▁yes", "▁no"])
FRAME = 0.04
FULL, SHALLOW = BlockSubset.full(2), BlockSubset.prefix(2, 1)
QUICK = Endpoints(silence=0.2, longest=2.0)  # 5 frames, 50 frames


def frames(text: str, pieces: Pieces = LETTERS) -> np.ndarray:
    """Log-probabilities whose best tokens are the letters of `text`; "-" is the blank, "_" the space."""
    tokens = ["-", *("_" if one == " " else one for one in pieces.texts[1:])]
    logp_TV = np.full((len(text), len(tokens)), np.log(0.1 / (len(tokens) - 1)), np.float32)
    logp_TV[np.arange(len(text)), [tokens.index(letter) for letter in text]] = np.log(0.9)
    return logp_TV


def plan(endpoints: Endpoints | None = QUICK, pieces: Pieces = LETTERS, beams: int = 1) -> ResultPlan:
    decoder = ctc_decoder(Request(beams=beams), pieces, "model")
    return ResultPlan(pieces, 640, endpoints, decoder, words=True)


def follow(results: StreamResults, logp_TV: np.ndarray, size: int, subset: BlockSubset = FULL) -> list[StreamResult]:
    found = []
    for first in range(0, len(logp_TV), size):
        part = logp_TV[first : first + size]
        start = results._frame * FRAME
        energies = np.ones(4 * len(part), np.float32)
        found += results.follow(part, energies, Chunk(start, start + len(part) * FRAME, subset))
    return found


def finals(text: str, *, size: int = 8, then: bool = True, **given: object) -> list[StreamResult]:
    results = plan(**given).begin()  # type: ignore[arg-type]
    found = follow(results, frames(text), size)
    found += results.finish(len(text) * FRAME) if then else []
    return [one for one in found if one.final]


def texts(found: Sequence[StreamResult]) -> list[str]:
    return [one.text for one in found]


# ----------------------------------------------------------------------------------------------------------- end points


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_a_pause_ends_a_text_whatever_the_size_of_chunks(size: int, beams: int) -> None:
    found = finals("-aab-b---_c----dd-----e---e----------a", size=size, beams=beams)
    assert texts(found) == ["abb cd", "ee", "a"]
    assert [round(one.end / FRAME) for one in found] == [22, 32, 38]
    assert [one.chunks[0].start <= one.start <= one.words[0].start for one in found] == [True] * 3


def test_a_text_is_not_ended_before_it_is_long_enough() -> None:
    endpoints = Endpoints(silence=0.2, shortest=0.4, longest=2.0)
    assert texts(finals("a------b" + 20 * "-", endpoints=endpoints)) == ["ab"]
    (final,) = finals("a" + 20 * "-", endpoints=endpoints, then=False)
    assert round(final.end / FRAME) == 10


def test_a_text_that_is_too_long_ends_before_its_last_word() -> None:
    long = "a-_" * 16 + "bcde" * 3
    found = finals(long)
    assert texts(found) == [" ".join("a" * 16), "bcdebcdebcde"]
    assert found[0].end == pytest.approx(48 * FRAME) and found[1].start >= found[0].end
    assert "".join(texts(finals("a-b-" * 20))) == "ab" * 20  # one word without an end is cut where it is


def test_a_label_that_goes_on_behind_an_end_point_is_not_written_twice() -> None:
    assert texts(finals("a" * 120)) == ["a"]


def test_without_end_points_there_is_one_text() -> None:
    assert texts(finals("a" + 200 * "-" + "b", endpoints=None)) == ["ab"]


def test_nothing_said_is_no_result() -> None:
    for text in ("", "---", 300 * "-", "__----------__"):
        assert finals(text) == []


def test_a_final_result_says_which_depths_ran_in_its_chunks() -> None:
    results = plan().begin()
    follow(results, frames("-" * 16), 8)
    follow(results, frames("---a-b--"), 8, SHALLOW)
    (final,) = (one for one in follow(results, frames("c------d"), 8) if one.final)
    assert [(round(chunk.start / FRAME), chunk.depth) for chunk in final.chunks] == [(16, 1), (24, 2)]
    assert final.depth == 2
    (rest,) = results.finish(40 * FRAME)
    assert [round(chunk.start / FRAME) for chunk in rest.chunks] == [24]


def test_detectors_count_from_the_first_word() -> None:
    detector = EndpointDetector(QUICK, 25)
    assert [detector.follow(False) for _ in range(5)] == [None] * 4 + [End.NOTHING]
    detector.begin()
    assert {detector.follow(True) for _ in range(49)} == {None} and detector.follow(True) is End.LENGTH
    detector.begin(10)
    assert {detector.follow(True) for _ in range(39)} == {None} and detector.follow(True) is End.LENGTH


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"silence": 0.0}, "silence is 0.0"),
        ({"silence": float("nan")}, "silence is nan"),
        ({"silence": 61.0, "longest": 100.0}, "silence is 61.0"),
        ({"longest": 0.5}, "longest is 0.5; give 1 to 600"),
        ({"longest": float("inf")}, "longest is inf"),
        ({"silence": 5.0, "longest": 2.0}, "longest is 2.0"),
        ({"shortest": -1.0}, "shortest is -1.0"),
        ({"shortest": 21.0}, "shortest is 21.0; give 0 to longest, which is 20"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_end_points_that_make_no_sense_are_refused(given: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Endpoints(**given)


# ------------------------------------------------------------------------------------------------------- what is stable


def partials(text: str, pieces: Pieces = LETTERS, beams: int = 1) -> list[tuple[str, str]]:
    found = follow(plan(pieces=pieces, beams=beams).begin(), frames(text, pieces), 1)
    return [(one.text, one.stable) for one in found if not one.final]


def test_all_words_but_the_last_are_stable() -> None:
    assert partials("ab_-c") == [("a", ""), ("ab", ""), ("ab", "ab"), ("ab c", "ab")]


def test_words_that_are_tokens_are_stable_at_once() -> None:
    logp_TV = np.log(np.array([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], np.float32))
    found = follow(plan(pieces=WORDS).begin(), logp_TV, 1)
    assert [(one.text, one.stable) for one in found] == [("yes", "yes"), ("yes no", "yes no")]


def test_with_beams_what_all_of_them_begin_with_is_stable() -> None:
    logp_TV = frames("a_b-")
    logp_TV[2, [4, 3]] = np.log([0.5, 0.45])  # c or b
    found = follow(plan(beams=4).begin(), np.concatenate([logp_TV, frames("_a_")]), 1)
    assert all(one.text.startswith(one.stable) for one in found)
    assert {one.stable for one in found} <= {"", "a"}  # never "a c", while a beam with "a b" lives
    assert found[-1].text == "a c a"


# --------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.medium
@pytest.mark.parametrize(("beams", "many"), [(1, 11_250), (4, 600)])
def test_an_hour_of_silence_holds_no_more_than_a_second(beams: int, many: int) -> None:
    results = plan(beams=beams).begin()
    silent_TV = frames("-" * 8)
    follow(results, frames("a-b_c---"), 8)
    sizes = []
    for n_chunks in (10, many):
        for _ in range(n_chunks):
            follow(results, silent_TV, 8)
        sizes.append(len(pickle.dumps(results)))
    assert sizes[1] <= sizes[0] + 64  # numbers of frames are longer


def test_an_hour_of_speech_holds_no_more_than_the_longest_text() -> None:
    results, sizes = plan().begin(), []
    spoken_TV = frames("a-b_c-d_")
    for n_chunks in (60, 600):
        for _ in range(n_chunks):
            follow(results, spoken_TV, 8)
        sizes.append(len(pickle.dumps(results)))
    assert sizes[1] < 1.5 * sizes[0]
