"""OpenAI's Realtime protocol for transcription, by OpenAI's own client and by a plain websocket."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import soxr
from openai import OpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from layerdial.runtime import Recognizer
from layerdial.serving import turns
from layerdial.serving.options import Limits
from tiny import speak
from tiny_serving import TEXT, Running, running, voice

pytest_plugins = ["tiny_export"]

DONE = "conversation.item.input_audio_transcription.completed"
FAILED = "conversation.item.input_audio_transcription.failed"


@pytest.fixture(scope="module")
def server(edge: Recognizer) -> Iterator[Running]:
    with running(edge, Limits(max_audio_s=20, max_body_mb=8)) as found:
        yield found


def pcm(samples: np.ndarray) -> bytes:
    return (samples.clip(-1, 1) * 32767).astype("<i2").tobytes()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


SPOKEN = pcm(speak(TEXT, 77, 24000))
MANUAL = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}


class Session:
    """A websocket that speaks JSON."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    def send(self, kind: str, **fields: Any) -> None:
        self.websocket.send(json.dumps({"type": kind, **fields}))

    def append(self, content: bytes) -> None:
        self.send("input_audio_buffer.append", audio=encoded(content))

    def next(self) -> dict[str, Any]:
        return json.loads(self.websocket.recv(timeout=60))

    def until(self, kind: str) -> dict[str, Any]:
        """The next event of a kind; an error is not passed over."""
        while (event := self.next())["type"] != kind:
            assert event["type"] not in ("error", FAILED), event
        return event

    def update(self, **session: Any) -> dict[str, Any]:
        self.send("session.update", session={"type": "transcription", **session})
        return self.next()


@contextmanager
def session(server: Running, path: str = "/v1/realtime?intent=transcription", **options: Any) -> Iterator[Session]:
    with connect(f"ws://127.0.0.1:{server.port}{path}", **options) as websocket:
        found = Session(websocket)
        assert found.next()["type"] == "session.created"
        yield found


@contextmanager
def manual(server: Running) -> Iterator[Session]:
    """A session in which the client commits."""
    with session(server) as found:
        assert found.update(audio=MANUAL["audio"])["type"] == "session.updated"
        yield found


def all_of(server: Running) -> int:
    """The samples that all requests together may have in memory."""
    return int(4 * server.engine.limits.max_audio_s * 16000)


def test_the_client_of_openai_transcribes(server: Running) -> None:
    openai = OpenAI(base_url=f"{server.url}/v1", api_key="none", websocket_base_url=f"ws://127.0.0.1:{server.port}/v1")
    with openai, openai.realtime.connect(model="tones", extra_query={"intent": "transcription"}) as connection:
        assert (created := connection.recv()).type == "session.created" and created.session.type == "transcription"
        connection.session.update(session=MANUAL)  # type: ignore[arg-type]
        assert connection.recv().type == "session.updated"
        for start in range(0, len(SPOKEN), 4800):
            connection.input_audio_buffer.append(audio=encoded(SPOKEN[start : start + 4800]))
        connection.input_audio_buffer.commit()
        assert (committed := connection.recv()).type == "input_audio_buffer.committed"
        assert (delta := connection.recv()).type == DONE.replace("completed", "delta")
        assert (done := connection.recv()).type == DONE
        assert delta.delta == done.transcript == TEXT and done.item_id == committed.item_id
        assert done.usage.seconds == pytest.approx(len(SPOKEN) / 48000, abs=0.001)
        assert done.model_extra["layerdial"]["depth"] == 3


def test_items_follow_each_other(server: Running) -> None:
    with manual(server) as found:
        for text in ("low high", "middle low"):
            found.append(pcm(speak(text, 1, 24000)))
            found.send("input_audio_buffer.commit")
        events = [found.next()]
        while sum(event["type"] == DONE for event in events) < 2:
            events.append(found.next())
    first, second = (event for event in events if event["type"] == "input_audio_buffer.committed")
    assert first["previous_item_id"] is None and second["previous_item_id"] == first["item_id"]
    done = [(event["transcript"], event["item_id"]) for event in events if event["type"] == DONE]
    assert done == [("low high", first["item_id"]), ("middle low", second["item_id"])]


def test_turns_are_found_by_their_pauses(server: Running) -> None:
    with session(server) as found:
        found.append(pcm(np.zeros(24000)))
        found.append(pcm(voice()))
        found.append(pcm(np.zeros(24000)))
        started = found.until("input_audio_buffer.speech_started")
        stopped = found.until("input_audio_buffer.speech_stopped")
        committed = found.until("input_audio_buffer.committed")
        done = found.until(DONE)
    assert 500 <= started["audio_start_ms"] < stopped["audio_end_ms"] <= 3500
    assert started["item_id"] == stopped["item_id"] == committed["item_id"] == done["item_id"]


def test_a_commit_ends_a_turn_that_goes_on(server: Running) -> None:
    with session(server) as found:
        found.append(pcm(voice()))
        found.until("input_audio_buffer.speech_started")
        found.send("input_audio_buffer.commit")
        found.until("input_audio_buffer.speech_stopped")
        found.until(DONE)


def test_a_turn_without_a_place_fails_and_the_next_one_in_the_same_append_is_answered(server: Running) -> None:
    pause, long, short = np.zeros(24000), voice(), voice()[:16000]
    room = int(1.6 * 16000)  # for the short one with its margins, not for the long one
    with session(server) as found, server.engine.holding(all_of(server) - room):
        found.append(pcm(np.concatenate([pause, long, pause, short, pause])))
        events = [found.next()]
        while events[-1]["type"] not in ("error", DONE):
            events.append(found.next())
    stopped = [event["item_id"] for event in events if event["type"] == "input_audio_buffer.speech_stopped"]
    [failed] = [event for event in events if event["type"] == FAILED]
    [committed] = [event for event in events if event["type"] == "input_audio_buffer.committed"]
    assert len(set(stopped)) == 2 and failed["error"]["code"] == "overloaded"
    assert [failed["item_id"], committed["item_id"]] == stopped and committed["previous_item_id"] is None
    assert events[-1]["item_id"] == committed["item_id"]


def test_each_turn_without_a_place_fails(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_ITEMS", 0)
    with session(server) as found:
        found.append(pcm(np.concatenate([voice(), np.zeros(24000)] * 2)))
        events = [found.next() for _ in range(6)]
        found.append(pcm(voice()))
        started = found.until("input_audio_buffer.speech_started")
        found.send("input_audio_buffer.commit")
        found.next()
        last = found.next()
    kinds = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", FAILED]
    assert [event["type"] for event in events] == kinds * 2
    assert len({event["item_id"] for event in events}) == 2 and events[0]["item_id"] == events[2]["item_id"]
    assert last["type"] == FAILED and last["item_id"] == started["item_id"]
    assert {event["error"]["code"] for event in (events[2], events[5], last)} == {"too_many_items"}


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_audio_is_taken(server: Running, kind: str) -> None:
    import io

    import soundfile

    file = io.BytesIO()
    subtype = {"audio/pcmu": "ULAW", "audio/pcma": "ALAW"}[kind]
    soundfile.write(file, soxr.resample(speak("low low", 1), 16000, 8000), 8000, format="RAW", subtype=subtype)
    with session(server) as found:
        shown = found.update(audio={"input": {"format": {"type": kind}, "turn_detection": None}})
        assert shown["session"]["audio"]["input"]["format"] == {"type": kind, "rate": 8000}
        found.append(file.getvalue())
        found.send("input_audio_buffer.commit")
        assert "low" in found.until(DONE)["transcript"]


def test_another_rate_and_depth_are_taken(server: Running) -> None:
    with session(server) as found:
        updated = found.update(
            audio={"input": {"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": None}},
            layerdial={"depth": 1},
        )
        assert updated["session"]["layerdial"]["depth"] == 1
        found.append(pcm(speak(TEXT, 77)))
        found.send("input_audio_buffer.commit")
        assert found.until(DONE)["layerdial"]["depth"] == 1


def test_cleared_audio_is_not_transcribed(server: Running) -> None:
    with manual(server) as found:
        found.append(SPOKEN)
        found.send("input_audio_buffer.clear")
        assert found.next()["type"] == "input_audio_buffer.cleared"
        found.append(pcm(speak("high", 3, 24000)))
        found.send("input_audio_buffer.commit")
        assert found.until(DONE)["transcript"] == "high"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "no JSON"),
        (b"\x00\x01", "binary"),
        ('{"type": "session.update", "event_id": "\\ud800"}', "no text in UTF-8"),
        ('{"type": "response.create"}', "no event 'response.create'"),
        ('{"type": "input_audio_buffer.append"}', "audio is no text"),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "no base64"),
        ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "3 bytes"),
        ('{"type": "input_audio_buffer.commit"}', "0 ms of audio"),
        ('{"type": "session.update"}', "session is no object"),
    ],
)
def test_a_bad_event_is_answered_and_the_session_goes_on(server: Running, message: str | bytes, words: str) -> None:
    with manual(server) as found:
        found.websocket.send(message)
        event = found.next()
        assert event["type"] == "error" and words in event["error"]["message"]
        found.append(SPOKEN)
        found.send("input_audio_buffer.commit")
        assert found.until(DONE)["transcript"] == TEXT


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"voice": "alloy"}, "session.voice"),
        ({"type": "realtime"}, "session.type"),
        ({"include": ["item.input_audio_transcription.logprobs"]}, "session.include"),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "session.audio.input.noise_reduction"),
        ({"audio": {"input": {"format": {"type": "audio/mp3"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 1}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"transcription": {"model": "x"}}}}, "session.audio.input.transcription.model"),
        ({"audio": {"input": {"transcription": {"prompt": "x"}}}}, "session.audio.input.transcription.prompt"),
        ({"audio": {"input": {"transcription": {"keywords": [1]}}}}, "session.audio.input.transcription.keywords"),
        ({"audio": {"input": {"transcription": {"language": "de"}}}}, None),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.audio.input.turn_detection.type"),
        ({"audio": {"input": {"turn_detection": {"threshold": 2}}}}, "session.audio.input.turn_detection.threshold"),
        ({"layerdial": {"depth": "x"}}, "session.layerdial.depth"),
        ({"layerdial": {"deadline_ms": -1}}, "session.layerdial.deadline_ms"),
        ({"layerdial": {"depth": 10**400}}, "session.layerdial.depth"),
    ],
)
def test_a_setting_that_is_not_possible_is_refused(server: Running, change: dict[str, Any], param: str | None) -> None:
    with session(server) as found:
        found.send("session.update", event_id="mine", session=change)
        error = found.next()["error"]
        assert error["param"] == param and error["event_id"] == "mine"


def test_a_depth_that_is_not_there_fails_the_item(server: Running) -> None:
    with session(server) as found:
        found.update(audio=MANUAL["audio"], layerdial={"depth": 9})
        found.append(SPOKEN)
        found.send("input_audio_buffer.commit")
        assert found.next()["type"] == "input_audio_buffer.committed"
        failed = found.next()
        assert failed["type"] == FAILED and "depth 9" in failed["error"]["message"]


def test_a_buffer_has_an_end(server: Running) -> None:
    with manual(server) as found:
        for _ in range(2):
            found.append(pcm(np.zeros(11 * 24000)))
        assert "more than 20 s (the server's --max-audio-s)" in found.next()["error"]["message"]


def test_what_is_held_is_given_free(server: Running) -> None:
    with manual(server) as found:
        found.append(pcm(np.zeros(5 * 24000)))
        found.send("input_audio_buffer.commit")
        found.append(pcm(np.zeros(5 * 24000)))
        found.until("input_audio_buffer.committed")
    with manual(server) as found:
        found.append(SPOKEN)
        found.send("input_audio_buffer.commit")
        found.until(DONE)
    from tiny_processes import wait_for

    wait_for(lambda: server.engine._held == 0 and server.engine.active == 0)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/realtime", "add ?intent=transcription"),
        ("/v1/realtime?intent=transcription&model=gpt", "there is no model 'gpt'"),
    ],
)
def test_other_sessions_are_refused_before_they_begin(server: Running, path: str, words: str) -> None:
    with pytest.raises(InvalidStatus) as refused, session(server, path):
        pass
    assert words in json.loads(refused.value.response.body)["error"]["message"]


def test_a_message_that_is_too_large_ends_the_session(server: Running) -> None:
    with manual(server) as found, pytest.raises((ConnectionClosed, ConnectionError)):
        found.append(bytes(9_000_000))
        found.next()


def test_a_session_without_events_ends(edge: Recognizer) -> None:
    with (
        running(edge, Limits(idle_s=0.2)) as server,
        session(server) as found,
        pytest.raises(ConnectionClosed) as closed,
    ):
        found.next()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
