"""OpenAI's transcriptions, by OpenAI's own client: every format, streams, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from openai import NotFoundError, OpenAI

from layerdial.request import Request
from layerdial.runtime import Recognizer
from tiny import speak
from tiny_serving import PATH, TEXT, Running, as_file, form, running, wav
from tiny_whisper import Pair, samples

pytest_plugins = ["tiny_export", "tiny_whisper_edge"]
LONG = samples(40 * 16000)


@pytest.fixture(scope="module")
def tones(edge: Recognizer) -> Iterator[Running]:
    """A CTC model."""
    with running(edge) as server:
        yield server


@pytest.fixture(scope="module")
def whisper(pair: Pair) -> Iterator[Running]:
    """A model with a decoder, which writes nonsense with times."""
    with running(pair.onnx, names=("whisper-1", "nonsense")) as server:
        yield server


def client(server: Running) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_the_client_gets_the_text_and_its_depth(tones: Running) -> None:
    with client(tones) as openai:
        found = openai.audio.transcriptions.create(model="tones", file=("a.wav", wav()))
        assert found.text == TEXT and found.usage is not None and found.usage.type == "duration"
        own = found.model_extra["layerdial"]  # type: ignore[index]
        assert own["depth"] == 3 and own["n_blocks"] == 3 and own["reason"]


def test_the_client_chooses_the_depth(tones: Running) -> None:
    with client(tones) as openai:
        raw = openai.audio.transcriptions.with_raw_response.create(
            model="tones", file=("a.wav", wav()), extra_body={"depth": 1}, response_format="text"
        )
        assert raw.headers["X-Layerdial-Depth"] == "1" and raw.headers["X-Layerdial-Reason"]


def test_text_is_plain_text(tones: Running) -> None:
    with client(tones) as openai:
        assert (
            openai.audio.transcriptions.create(model="tones", file=("a.wav", wav()), response_format="text")
            == f"{TEXT}\n"
        )


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "MP3"])
def test_any_format_and_rate_is_read(tones: Running, kind: str) -> None:
    content = as_file(speak(TEXT, 77, 48000), 48000, kind)
    assert tones.transcribe(content).json["text"] == TEXT


def test_the_stream_has_the_text_and_then_all_of_it(tones: Running) -> None:
    with client(tones) as openai:
        events = list(openai.audio.transcriptions.create(model="tones", file=("a.wav", wav()), stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[0].delta == events[1].text == TEXT  # type: ignore[union-attr]
    assert events[1].model_extra["layerdial"]["depth"] == 3  # type: ignore[index]


def test_a_decoder_streams_a_text_for_each_piece(whisper: Running) -> None:
    with client(whisper) as openai:
        events = list(openai.audio.transcriptions.create(model="nonsense", file=("a.wav", as_file(LONG)), stream=True))
        whole = openai.audio.transcriptions.create(model="nonsense", file=("a.wav", as_file(LONG)))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) == 2 and "".join(deltas) == events[-1].text == whole.text  # type: ignore[union-attr]


def test_verbose_json_has_words_and_segments(whisper: Running) -> None:
    with client(whisper) as openai:
        found = openai.audio.transcriptions.create(
            model="whisper-1",
            file=("a.wav", as_file(LONG)),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert found.duration == 40.0 and found.words and found.segments and found.language == "en"
    assert all(0 <= word.start <= word.end <= 40 for word in found.words)
    assert " ".join(segment.text for segment in found.segments) == " ".join(found.text.split())
    assert all(segment.avg_logprob <= 0 and segment.compression_ratio > 0 for segment in found.segments)


@pytest.mark.parametrize(
    ("granularity", "there", "missing"), [("word", "words", "segments"), ("segment", "segments", "words")]
)
def test_verbose_json_has_what_is_asked_for(whisper: Running, granularity: str, there: str, missing: str) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": granularity}
    found = whisper.transcribe(**fields).json
    assert there in found and missing not in found


def test_times_of_words_that_a_model_does_not_give_are_refused(whisper: Running) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    words, whisper.engine.timed = whisper.engine.timed, Request(timestamps=True)  # as an export of an earlier version
    try:
        found = whisper.transcribe(**fields)
    finally:
        whisper.engine.timed = words
    assert found.status == 400 and "give segment" in found.error["message"]


@pytest.mark.parametrize(("form", "begin"), [("srt", "1\n00:00:"), ("vtt", "WEBVTT\n\n00:00:")])
def test_subtitles(whisper: Running, form: str, begin: str) -> None:
    with client(whisper) as openai:
        found = openai.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", as_file(LONG)), response_format=form
        )  # type: ignore[call-overload]
    assert str(found).startswith(begin)


def test_a_ctc_model_gives_subtitles(tones: Running) -> None:
    with client(tones) as openai:
        made = openai.audio.transcriptions.create(model="tones", file=("a.wav", wav()), response_format="srt")
    assert made.startswith("1\n00:00:0") and TEXT in made


def test_another_model_is_not_found(tones: Running) -> None:
    with client(tones) as openai:
        with pytest.raises(NotFoundError, match="there is no model 'whisper-1' here; give tones"):
            openai.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav()))
        assert [model.id for model in openai.models.list()] == ["tones"]
        assert openai.models.retrieve("tones").owned_by == "layerdial"
        with pytest.raises(NotFoundError):
            openai.models.retrieve("gpt")


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"temperature": 0.5}, 400, "temperature", "texts are not sampled"),
        ({"temperature": "warm"}, 400, "temperature", "give a number"),
        ({"prompt": "Dear Sir"}, 400, "prompt", "hotwords"),
        ({"include[]": "logprobs"}, 400, "include", "are not given here"),
        ({"chunking_strategy": "never"}, 400, "chunking_strategy", "cut at pauses"),
        ({"response_format": "xml"}, 400, "response_format", "give json, text"),
        ({"response_format": "srt", "stream": "true"}, 400, "stream", "text alone"),
        ({"stream": "perhaps"}, 400, "stream", "true or false"),
        ({"timestamp_granularities[]": "word"}, 400, "timestamp_granularities", "of response_format verbose_json"),
        ({"timestamp_granularities[]": "letter"}, 400, "timestamp_granularities", "word or segment"),
        ({"depht": 3}, 400, "depht", "there is no field 'depht'"),
        ({"model[]": "tones"}, 400, "model[]", "there is no field 'model[]'"),
        ({"depth": ["1", "2"]}, 400, "depth", "2 times"),
        ({"depth": "deep"}, 400, "depth", "a whole number"),
        ({"depth": 9}, 400, None, "depth 9"),
        ({"depth": "9" * 400}, 400, "depth", "a whole number"),
        ({"depth": 1, "min_depth": 1}, 400, None, "give one of depth, min_depth"),
        ({"deadline_ms": -1}, 400, "deadline_ms", "give a number"),
        ({"deadline_ms": 0}, 400, None, "give a number above 0"),
        ({"deadline_ms": "nan"}, 400, "deadline_ms", "give a number"),
        ({"hotwords": "low :9"}, 400, "hotwords", "from 0 to 3"),
        ({"language": "de"}, 400, None, "this model takes no language"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tones: Running, fields: dict[str, object], status: int, param: str | None, words: str
) -> None:
    found = tones.transcribe(**fields)
    assert (found.status, found.error["param"]) == (status, param) and words in found.error["message"]
    assert found.error["type"] == "invalid_request_error" and "\n" not in found.error["message"]


def test_what_cannot_be_done_in_time_is_refused_at_once(tones: Running) -> None:
    found = tones.transcribe(deadline_ms=0.01)
    assert found.status == 503 and found.error["code"] == "overloaded" and "\n" not in found.error["message"]


def test_fields_that_ask_for_nothing_are_taken(tones: Running) -> None:
    fields = {"temperature": 0, "prompt": "", "chunking_strategy": "auto", "language": "", "stream": "false"}
    assert tones.transcribe(**fields).json["text"] == TEXT


def test_hotwords_are_taken(tones: Running) -> None:
    assert tones.transcribe(hotwords="low, high :1.5\nmiddle").json["text"] == TEXT
    assert tones.transcribe(**{"keywords[]": ["low", "high"]}).json["text"] == TEXT


def test_a_file_that_is_no_audio_is_named_as_the_client_names_it(tones: Running) -> None:
    body, kind = form({"model": "tones"}, b"no audio at all", name="C:\\\\my\\\\..\\\\song.mp3")
    found = tones.send("POST", PATH, body, {"Content-Type": kind})
    assert found.status == 400 and found.error["message"].startswith("song.mp3 is not audio")
    assert found.error["code"] == "invalid_audio"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (wav()[:5000], "is truncated"), (as_file(np.zeros(0)), "no samples")],
)
def test_damaged_audio_is_refused(tones: Running, content: bytes, words: str) -> None:
    found = tones.transcribe(content)
    assert found.status == 400 and words in found.error["message"]


def test_a_form_without_a_file_or_model_is_refused(tones: Running) -> None:
    body, kind = form({"model": "tones"}, None)
    assert "there is no file" in tones.send("POST", PATH, body, {"Content-Type": kind}).error["message"]
    body, kind = form({}, wav())
    assert tones.send("POST", PATH, body, {"Content-Type": kind}).error["message"] == "model is missing"
    found = tones.send("POST", PATH, json.dumps({"model": "tones"}).encode(), {"Content-Type": "application/json"})
    assert found.status == 415 and "multipart/form-data" in found.error["message"]


def test_silence_has_no_text(tones: Running) -> None:
    assert tones.transcribe(as_file(np.zeros(16000))).json["text"] == ""


def test_a_file_object_without_a_name_is_read(tones: Running) -> None:
    with client(tones) as openai:
        assert openai.audio.transcriptions.create(model="tones", file=io.BytesIO(wav())).text == TEXT


def test_paths_and_methods_that_are_not_there(tones: Running) -> None:
    assert (found := tones.get("/v1/chat/completions")).status == 404 and found.error["code"] == "unknown_path"
    assert tones.get(PATH).status == 405


def test_health_and_metrics(tones: Running) -> None:
    assert tones.get("/health").json == {"status": "ok"} and tones.get("/ready").json == {"status": "ready"}
    tones.transcribe()
    text = tones.get("/metrics").body.decode()
    for name in (
        "requests_total",
        "queued",
        "running",
        "load",
        "windows",
        "late_total",
        "queue_seconds",
        "answer_seconds",
    ):
        assert f"# TYPE layerdial_{name.removesuffix('_total')}" in text, name
    assert 'layerdial_requests_total{protocol="transcriptions",status="200"}' in text


def test_the_language_of_a_ctc_model_is_what_the_server_is_told(edge: Recognizer) -> None:
    with running(edge, language="en") as server:
        assert server.transcribe(language="en").json["text"] == TEXT
        assert server.transcribe(language="de").status == 400
