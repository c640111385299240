"""Recognition of speech alone: pauses cost no pass, times are those of the recording, torch and the runtime agree."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio.files import AudioProblem
from layerdial.errors import UserError
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognition.speech import Piece, transcribe_speech
from layerdial.recognizer import Recognizer as AnyRecognizer
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.subset import BlockSubset
from layerdial.transcript import Chunk, Segment, Transcribed, Word
from tiny import Ended, in_child
from tiny_runtime import NEVER_MS, controlled
from tiny_speech import RATE, recording
from tiny_whisper import Pair

pytest_plugins = ["tiny_export", "tiny_whisper_edge"]

SUBSET = BlockSubset.full(2)
SILENCE = np.zeros(40 * RATE, np.float32)


def heard(piece: Piece) -> Transcribed:
    """What a recogniser gives of a piece, with times that begin at its own."""
    seconds = len(piece.samples) / RATE
    text = f"at {piece.begin:.1f}"
    spoken = (Segment(0.1, seconds, text),), (Word(text, 0.2, seconds - 0.1, 0.5),)
    return Transcribed(text, (Chunk(0.0, seconds, SUBSET),), seconds, *spoken)


def test_times_are_those_of_the_recording() -> None:
    samples, spans = recording()
    pieces: list[Piece] = []
    made = transcribe_speech(samples, lambda piece: pieces.append(piece) or heard(piece))  # type: ignore[func-returns-value]
    assert made.seconds == len(samples) / RATE and len(made.chunks) == len(spans)
    assert made.text == " ".join(segment.text for segment in made.segments)
    end = 0.0
    for chunk, segment, word, piece, (start, _) in zip(
        made.chunks, made.segments, made.words, pieces, spans, strict=True
    ):
        assert chunk.start == piece.begin and segment.text == word.text == f"at {chunk.start:.1f}"
        assert chunk.start - 0.01 < start / RATE < chunk.start + 0.6
        assert (segment.start, word.start) == (chunk.start + 0.1, chunk.start + 0.2)
        assert segment.end == chunk.end and word.end == pytest.approx(chunk.end - 0.1)
        assert piece.pause == pytest.approx(chunk.start - end)
        at = round(chunk.start * RATE)
        np.testing.assert_array_equal(piece.samples, samples[at : at + len(piece.samples)])
        end = chunk.end


def test_a_file_is_cut_as_its_samples_are(tmp_path: Path) -> None:
    samples, _ = recording()
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert transcribe_speech(tmp_path / "a.wav", heard) == transcribe_speech(samples, heard)


def checked(model: AnyRecognizer, request: Request) -> list[tuple[float, float]]:
    """Transcribe the recording, and compare with the stretches by themselves; return their times."""
    samples, spans = recording()
    made = model.answer(samples, request)
    ends = [(chunk.start, chunk.end) for chunk in made.chunks]
    parts = [samples[round(start * RATE) : round(end * RATE)] for start, end in ends]
    texts = [model.transcribe(part, subset=request.subset, depth=request.depth).text for part in parts]
    assert made.text == " ".join(filter(None, texts)) and len(parts) == len(spans)
    assert made.seconds == len(samples) / RATE > sum(end - start for start, end in ends)
    return ends


@pytest.mark.parametrize("depth", [1, 3])
def test_a_ctc_model_recognises_each_stretch_by_itself(edge: Recognizer, heavy: TorchRecognizer, depth: int) -> None:
    assert checked(edge, Request(depth, vad=True)) == checked(heavy, Request(depth, vad=True))


def test_a_decoder_writes_each_stretch_by_itself(pair: Pair) -> None:
    request = Request(2, vad=True)
    assert checked(pair.torch, request) == checked(pair.onnx, request)


def test_a_beam_search_begins_anew_behind_a_pause(edge: Recognizer, heavy: TorchRecognizer) -> None:
    samples, _ = recording()
    one, other = (model.answer(samples, Request(beams=4, vad=True)) for model in (edge, heavy))
    assert one.text == other.text and one.chunks[0].end < one.chunks[1].start


def test_without_speech_there_is_no_text_and_no_pass(
    edge: Recognizer, heavy: TorchRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(edge.session, "posteriors", None)
        patched.setattr(heavy.network, "forward", None)
        for model in (edge, heavy):
            made = model.answer(SILENCE, Request(2, vad=True))
            assert (made.text, made.chunks, made.seconds, made.depth) == ("", (), 40.0, 2)
            assert made.reason == "no speech was found, so nothing was computed" and not made.cut
    assert edge.answer(SILENCE, Request(2)).chunks


@pytest.mark.parametrize("model", ["edge", "heavy"])
def test_what_a_model_cannot_do_is_refused_where_nobody_speaks_too(model: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(UserError, match="language is for encoder-decoder models"):
        request.getfixturevalue(model).answer(SILENCE, Request(language="de", vad=True))


def test_pauses_count_as_audio_under_a_constraint(exported: Path) -> None:
    """Depth 3 computes 0.6 s a second of speech: within 0.5 s a second of all audio, but not of speech alone."""
    samples, _ = recording()
    model = controlled(exported, {1: 100.0, 2: 300.0, 3: 600.0})
    chunks = model.answer(samples, Request(max_cpu=0.5, vad=True)).chunks
    assert [chunk.depth for chunk in chunks] == [3, 3, 3] and all(chunk.reason for chunk in chunks)
    alone = model.answer(samples[round(chunks[2].start * RATE) :], Request(max_cpu=0.5, vad=True))
    assert alone.depth == 2


def test_a_deadline_is_shared_by_what_is_left_of_the_recording(exported: Path) -> None:
    samples, _ = recording()
    model = controlled(exported, {1: 0.1, 2: 0.2, 3: 0.3})
    made = model.answer(samples, Request(deadline_ms=NEVER_MS, vad=True))
    assert [chunk.depth for chunk in made.chunks] == [3, 3, 3]
    shares = [float(chunk.reason.split()[2]) / NEVER_MS for chunk in made.chunks]
    ends = [0.0, *(chunk.end for chunk in made.chunks)]
    for share, start, end in zip(shares, ends, ends[1:], strict=False):
        assert share == pytest.approx((end - start) / (made.seconds - start), rel=1e-3)


def test_what_is_not_audio_is_said(edge: Recognizer, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF, but no more")
    with pytest.raises(AudioProblem, match=r"a\.wav"):
        edge.answer(tmp_path / "a.wav", Request(vad=True))
    with pytest.raises(UserError, match="empty"):
        edge.answer(np.zeros(0, np.float32), Request(vad=True))


@pytest.mark.parametrize("cli", ["app", "device"])
def test_both_command_lines_say_that_nobody_speaks(cli: str, exported: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SILENCE[: 2 * RATE], RATE)
    main = import_module(f"layerdial.cli.{cli}").main

    def run(*words: str) -> Ended:
        def action() -> None:
            sys.argv = ["layerdial", "transcribe", str(exported), str(tmp_path / "a.wav"), *words]
            main()

        return in_child(action)

    ended = run("--vad")
    assert (ended.code, ended.out) == (0, "\n")
    assert ended.err == f"layerdial: {tmp_path / 'a.wav'}: no speech was found, so nothing was computed\n"
    assert run("--no-vad").err == run().err == ""
