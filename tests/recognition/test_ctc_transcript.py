"""Words and segments of CTC models: in order, within the audio, the whole text, and where they are spoken."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from layerdial.audio.features import LogMel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.recognition.ctc import CtcUse, transcribe_ctc
from layerdial.recognition.windows import WindowResult
from layerdial.request import Request
from layerdial.subset import BlockSubset
from layerdial.text.ctc_beams import Pieces
from layerdial.text.tokenizer import PieceTable
from layerdial.transcript import Chunk, Transcribed
from tiny import GAP_SECONDS, WORD_SECONDS
from tiny_runtime import LONG_AUDIO, SAMPLES, TEXT

if TYPE_CHECKING:
    from layerdial.models.torch_recognizer import TorchRecognizer
    from layerdial.runtime import Recognizer

pytest_plugins = ["tiny_export"]

WORDS = Request(words=True)
TOKENS = ["<blk>", "▁", "a", "b", "▁c"]
FEATURES = LogMel(4)
FRAME = FEATURES.samples_per_frame


def spans(made: Any) -> list[tuple[str, float, float]]:
    return [(word.text, round(word.start, 6), round(word.end, 6)) for word in made.words]


def check_order(made: Any) -> None:
    times = [time for word in made.words for time in (word.start, word.end)]
    assert times == sorted(times) and (not times or (times[0] >= 0 and times[-1] <= made.seconds))
    assert all(0 < word.confidence <= 1 for word in made.words)
    assert " ".join(word.text for word in made.words) == made.text


def random_transcript(request: Request, seconds: float, seed: int) -> Transcribed:
    """Of noise, with random posteriors, which are those of a frame of the recording in whatever window it stands."""
    rng = np.random.default_rng(seed)
    audio = rng.normal(size=round(seconds * SAMPLE_RATE)).astype(np.float32) * 0.01
    n_frames = FEATURES.frames(len(audio) // 160 + 1)
    x = rng.normal(size=(n_frames, len(TOKENS))) * 3
    logp_TV = (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).astype(np.float32)

    def recognize(samples: Any, begin: float, end: float) -> WindowResult:
        first = max(0, round(begin * SAMPLE_RATE) - 2 * SAMPLE_RATE) // FRAME
        own_TV = logp_TV[first : first + -(-len(samples) // FRAME)]
        return WindowResult(own_TV.argmax(axis=1).tolist(), Chunk(begin, end, BlockSubset.full(2)), own_TV)

    use = CtcUse.of(request, lambda: Pieces(TOKENS), "random")
    return transcribe_ctc(audio, FEATURES, recognize, PieceTable(TOKENS).decode, use)


@pytest.mark.parametrize("request_", [WORDS, Request(words=True, beams=4)], ids=["greedy", "beams"])
@pytest.mark.parametrize("seconds", [0.05, 3.0, pytest.param(70.0, marks=pytest.mark.medium)])
def test_words_of_random_posteriors_are_in_order_and_the_whole_text(request_: Request, seconds: float) -> None:
    for seed in range(3):
        made = random_transcript(request_, seconds, seed)
        check_order(made)
        assert seconds < 1 or len(made.words) > seconds
        assert made.text == random_transcript(Request(beams=request_.beams), seconds, seed).text


def test_words_of_torch_and_of_the_export_are_the_same_at_every_depth(edge: Recognizer, heavy: TorchRecognizer) -> None:
    for request in (WORDS, Request(words=True, beams=4), Request(words=True, timestamps=True)):
        for depth in (1, 2, 3):
            ours, theirs = (model.answer(SAMPLES, Request(depth, **asked(request))) for model in (edge, heavy))
            assert spans(ours) == spans(theirs) and ours.segments == theirs.segments
            confidence = [[word.confidence for word in made.words] for made in (ours, theirs)]
            np.testing.assert_allclose(*confidence, rtol=1e-3)
            check_order(ours)


def asked(request: Request) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ("words", "timestamps", "beams")}


def test_words_are_where_the_tones_are(edge: Recognizer) -> None:
    made = edge.answer(SAMPLES, WORDS)
    assert made.text == TEXT
    for i, word in enumerate(made.words):
        begin = GAP_SECONDS + i * (GAP_SECONDS + WORD_SECONDS)
        assert abs(word.start - begin) < 0.03 and abs(word.end - begin - WORD_SECONDS) < 0.03


def test_a_beam_search_places_the_words_of_the_best_path_where_that_does(edge: Recognizer) -> None:
    greedy, beams = (edge.answer(SAMPLES, Request(words=True, beams=beams)) for beams in (1, 8))
    assert greedy.text == beams.text and spans(greedy) == spans(beams)


@pytest.mark.medium
def test_words_of_long_audio_are_those_of_one_window(edge: Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = LONG_AUDIO[: 70 * SAMPLE_RATE]
    windows = edge.answer(audio, Request(words=True, timestamps=True))
    monkeypatch.setattr("layerdial.audio.windows.WINDOW_SECONDS", 100)
    whole = edge.answer(audio, Request(words=True, timestamps=True))
    assert len(windows.chunks) == 3 and len(whole.chunks) == 1
    assert [word.text for word in windows.words] == [word.text for word in whole.words]
    differences = [abs(a.start - b.start) for a, b in zip(windows.words, whole.words, strict=True)]
    assert max(differences) < 0.05
    for made in (windows, whole):
        check_order(made)


def test_segments_are_cut_at_pauses_and_hold_the_whole_text(edge: Recognizer) -> None:
    pause = np.zeros(SAMPLE_RATE, np.float32)
    noise = 0.003 * np.random.default_rng(0).standard_normal(len(pause)).astype(np.float32)
    made = edge.answer(np.concatenate([SAMPLES, pause + noise, SAMPLES]), Request(timestamps=True))
    assert [segment.text for segment in made.segments] == [TEXT, TEXT]
    assert not made.words
    (first, second) = made.segments
    assert second.start - first.end == pytest.approx(1 + GAP_SECONDS * 2, abs=0.05)


def test_segments_of_speech_without_pauses_are_short(edge: Recognizer) -> None:
    made = edge.answer(LONG_AUDIO[: 40 * SAMPLE_RATE], Request(timestamps=True, words=True))
    assert all(segment.end - segment.start <= 15 for segment in made.segments) and len(made.segments) >= 3
    assert " ".join(segment.text for segment in made.segments) == made.text
    assert all(a.end <= b.start for a, b in pairwise(made.segments))


def test_silence_has_no_words_and_no_segments(edge: Recognizer) -> None:
    made = edge.answer(np.zeros(SAMPLE_RATE, np.float32), Request(words=True, timestamps=True))
    assert made.words == made.segments == () and made.text == ""


def test_words_go_with_constraints(edge: Recognizer) -> None:
    for wishes in ({"deadline_ms": 1e9}, {"target_rtf": 1e6}, {"max_cpu": 1e6}, {"confidence": 0.0}):
        check_order(edge.answer(SAMPLES, Request(**wishes, words=True)))  # type: ignore[arg-type]
