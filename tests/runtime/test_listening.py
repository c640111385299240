"""Sound that is recognised as it comes: the text of each stretch, nothing lost, and an end that is clean."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from layerdial.audio.live import Block, PlayedFile, Sound
from layerdial.audio.utterances import Pauses, Stretch
from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.runtime import Recognizer, listening
from layerdial.runtime.dictation import Dictation, _Backlog
from layerdial.runtime.listening import Utterance, listen
from layerdial.subset import BlockSubset
from layerdial.transcript import Chunk, Segment, Transcript, Word
from tiny_speech import RATE, Floats, hush, with_pauses

ENGLISH = Path(__file__).parents[2] / "models" / "english"
FIRST, SECOND = "one morning there was a ship in the harbour", "and nobody knew where it had come from"


@pytest.fixture(scope="module")
def english() -> Recognizer:
    return Recognizer(ENGLISH, threads=1)


@pytest.fixture(scope="module")
def samples() -> Floats:
    return with_pauses(FIRST, SECOND)


class Parts:
    """Sound whose blocks come at once. `then` is an error that it ends by; `lost` are seconds missing at a block."""

    name = "parts"

    def __init__(self, samples: Floats, rate: int = RATE, then: Exception | None = None, **lost: float) -> None:
        self.rate, self._samples, self._then, self._stopped = rate, samples, then, threading.Event()
        self._lost = {int(name[1:]): seconds for name, seconds in lost.items()}

    def stop(self) -> None:
        self._stopped.set()

    def blocks(self) -> Iterator[Block]:
        step = self.rate // 20
        for number, start in enumerate(range(0, len(self._samples), step)):
            if self._stopped.is_set():
                return
            lost = self._lost.get(number, 0.0)
            yield Block(self._samples[start : start + step], listening.time.monotonic(), lost)
        if self._then is not None:
            raise self._then


def heard(recognizer: Any, sound: Sound, request: Request | None = None) -> tuple[list[Utterance], list[str]]:
    said: list[str] = []
    return list(listen(recognizer, sound, request or Request(), Pauses(), said.append)), said


def spans(found: Sequence[Utterance]) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in found]


# ---------------------------------------------------------------------------------------------------------- utterances


@pytest.mark.medium
@pytest.mark.parametrize("depth", [3, 4])
def test_an_utterance_has_the_text_of_its_stretch(english: Recognizer, samples: Floats, depth: int) -> None:
    found, said = heard(english, Parts(samples), Request(depth, words=True))
    assert len(found) == 2 and said == ["listening to parts; Ctrl-C ends", f"listened for {len(samples) / RATE:.1f} s"]
    for one in found:
        stretch = samples[round(one.start * RATE) : round(one.end * RATE)]
        made = english.answer(stretch, Request(depth, words=True))
        assert one.transcript.text == made.text != "" and one.transcript.depth == depth
        assert [word.start for word in one.transcript.words] == [word.start + one.start for word in made.words]
        assert one.start <= one.transcript.words[0].start and one.transcript.words[-1].end <= one.end
        assert one.delay >= one.behind >= 0


@pytest.mark.medium
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_the_rate_of_the_sound_changes_no_time(english: Recognizer, samples: Floats, rate: int) -> None:
    found, _ = heard(english, Parts(soxr.resample(samples, RATE, rate).astype(np.float32), rate))
    np.testing.assert_allclose(spans(found), spans(heard(english, Parts(samples))[0]), atol=0.1)


def test_in_silence_nothing_is_said(english: Recognizer) -> None:
    assert heard(english, Parts(hush(3)))[0] == []
    assert heard(english, Parts(np.zeros(0, np.float32)))[0] == []


@pytest.mark.medium
def test_what_is_lost_is_said_and_the_times_behind_it_stay_true(english: Recognizer, samples: Floats) -> None:
    before, _ = heard(english, Parts(samples))
    found, said = heard(english, Parts(samples, b5=2.5))
    assert "2.50 s of sound are lost: it came faster than it was taken" in said
    np.testing.assert_allclose(spans(found), np.array(spans(before)) + 2.5, atol=0.1)


# ------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.medium
def test_an_utterance_that_is_open_at_the_end_is_still_recognised(english: Recognizer, samples: Floats) -> None:
    whole, _ = heard(english, Parts(samples))
    middle = round(RATE * (whole[1].start + whole[1].end) / 2)
    found, _ = heard(english, Parts(samples[:middle]))
    assert len(found) == 2 and found[0].transcript.text == whole[0].transcript.text
    assert found[1].transcript.text and found[1].end == pytest.approx(middle / RATE, abs=0.05)


@pytest.mark.medium
def test_an_error_of_the_sound_comes_behind_what_was_said_before(english: Recognizer, samples: Floats) -> None:
    found: list[Utterance] = []
    with pytest.raises(UserError, match="the cable is out"):
        for one in listen(english, Parts(samples, then=UserError("the cable is out")), Request(), Pauses(), print):
            found.append(one)
    assert len(found) == 2


def test_who_leaves_early_leaves_no_thread(english: Recognizer, samples: Floats) -> None:
    before = set(threading.enumerate())
    utterances = listen(english, Parts(np.tile(samples, 20)), Request(), Pauses(), print)
    next(utterances)
    utterances.close()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("request_", [Request(language="de"), Request(lm="words.arpa")], ids=str)
def test_what_the_model_refuses_is_refused_before_anyone_speaks(english: Recognizer, request_: Request) -> None:
    said: list[str] = []
    with pytest.raises(UserError):
        list(listen(english, Parts(hush(1)), request_, Pauses(), said.append))
    assert said == []


# ------------------------------------------------------------------------------------------------------------- backlog


class Slow:
    """A recogniser that begins when `go` is set."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer, self.go = recognizer, threading.Event()

    def answer(self, samples: Floats, request: Request) -> Transcript:
        if samples.any():  # not the trial before the sound
            self.go.wait(60)
        return self._recognizer.answer(samples, request)


class Ended(Parts):
    """Sound that lets a slow recogniser begin at its end."""

    def __init__(self, samples: Floats, slow: Slow) -> None:
        super().__init__(samples)
        self._slow = slow

    def blocks(self) -> Iterator[Block]:
        yield from super().blocks()
        self._slow.go.set()


@pytest.mark.medium
def test_nothing_is_lost_where_the_model_is_slower_than_the_speech(english: Recognizer, samples: Floats) -> None:
    long = np.tile(samples, 3)
    slow = Slow(english)
    found, said = heard(slow, Ended(long, slow))
    assert [one.transcript.text for one in found] == [one.transcript.text for one in heard(english, Parts(long))[0]]
    assert len(found) == 6 and "utterances are still to be written" in said[-1]
    assert all(one.behind > 0 for one in found)


@pytest.mark.medium
def test_with_a_deadline_the_depth_follows_the_backlog(english: Recognizer, samples: Floats) -> None:
    now = listening.time.monotonic()
    stretch = Stretch(RATE, 2 * RATE, samples[RATE : 2 * RATE], 2 * RATE)
    depths = [
        listening._recognised(english, listening._Cut(stretch, noticed, noticed), Request(deadline_ms=30_000))
        for noticed in (now, now - 100)
    ]
    assert [one.transcript.depth for one in depths] == [4, 3]
    assert depths[1].behind >= 100


def test_a_backlog_is_said_again_when_it_has_doubled(capsys: pytest.CaptureFixture[str]) -> None:
    backlog = _Backlog()
    for behind in (0.0, 0.9, 1.5, 2.9, 3.1, 0.6, 0.4, 0.0, 1.2):
        backlog.follow(behind)
    said = [line.removeprefix("layerdial: ")[:16] for line in capsys.readouterr().err.splitlines()]
    assert said == ["behind by 1.5 s;", "behind by 3.1 s;", "caught up", "behind by 1.2 s;"]


# --------------------------------------------------------------------------------------------------------- played file


def test_a_played_file_is_the_whole_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", hush(0.33), RATE, subtype="FLOAT")
    played = PlayedFile(tmp_path / "a.wav")
    blocks = list(played.blocks())
    np.testing.assert_array_equal(np.concatenate([block.samples for block in blocks]), hush(0.33))
    assert [len(block.samples) for block in blocks] == [800] * 6 + [480]
    ends = np.cumsum([len(block.samples) for block in blocks]) / played.rate
    np.testing.assert_allclose([block.at - blocks[0].at for block in blocks], ends - ends[0], atol=1e-9)


def test_a_played_file_can_be_stopped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", hush(60), RATE)
    played = PlayedFile(tmp_path / "a.wav")
    blocks = played.blocks()
    next(blocks)
    played.stop()
    assert list(blocks) == []


# --------------------------------------------------------------------------------------------------------------- times


def test_a_transcript_is_moved_with_all_its_times() -> None:
    full = BlockSubset.full(2)
    made = Transcript(
        "a", full, 1.0, 0.1, "", (Chunk(0, 1, full),), (Segment(0.1, 0.9, "a"),), (Word("a", 0.2, 0.8, 1),)
    )
    moved = made.moved(10.0)
    times = [(part.start, part.end) for parts in (moved.chunks, moved.segments, moved.words) for part in parts]
    assert times == [(10.0, 11.0), (10.1, 10.9), (10.2, 10.8)]
    assert replace(moved, chunks=made.chunks, segments=made.segments, words=made.words) == made


@pytest.mark.parametrize("pause", [0.0, 0.05, 6.0, float("nan")])
def test_a_pause_that_is_none_is_refused(pause: float) -> None:
    with pytest.raises(UserError, match=r"--pause is .*; give 0\.1 to 5 seconds"):
        Dictation(pause)
    assert Dictation(0.1).pauses.silence == 0.1
