"""A streaming model behind the server: text while somebody speaks, over Realtime and Wyoming, many clients at once."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from wyoming.asr import Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error

from layerdial.recognition.endpointing import DEFAULT_ENDPOINTS, Endpoints
from layerdial.runtime import Recognizer
from layerdial.serving import streams as hub
from tiny_serving import Running, as_file, running
from tiny_streaming import sound

pytest_plugins = ["tiny_streaming_export"]
pytestmark = pytest.mark.medium

TRANSCRIPTION = "conversation.item.input_audio_transcription"
RATE = 16_000
SAMPLES = (sound(6.0) * 32767).astype("<i2")
HEARD = SAMPLES.astype(np.float32) / 32768


@pytest.fixture(scope="module")
def recognizer(streaming_edge: Path) -> Recognizer:
    return Recognizer(streaming_edge, threads=1)


@pytest.fixture(scope="module")
def server(recognizer: Recognizer) -> Iterator[Running]:
    with running(recognizer) as found:
        yield found


def texts(recognizer: Recognizer, endpoints: Endpoints | None, samples: np.ndarray = HEARD) -> list[str]:
    """What a stream of its own makes of samples."""
    stream = recognizer.stream(depth=3, endpoints=endpoints)
    return [result.text for result in [*stream.accept(samples), *stream.finish()] if result.final]


@contextmanager
def session(server: Running, turns: dict[str, Any] | None, depth: int | None = 3) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime?intent=transcription") as websocket:
        websocket.recv(timeout=60)
        audio = {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": turns}
        settings = {"type": "transcription", "audio": {"input": audio}, "layerdial": {"depth": depth}}
        websocket.send(json.dumps({"type": "session.update", "session": settings}))
        assert json.loads(websocket.recv(timeout=60))["type"] == "session.updated"
        yield websocket


TURNS = {"type": "server_vad", "silence_duration_ms": 200}


def speak(websocket: ClientConnection, samples: np.ndarray, part: int = 1600) -> None:
    for first in range(0, len(samples), part):
        audio = base64.b64encode(samples[first : first + part].tobytes()).decode()
        websocket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))


def commit(websocket: ClientConnection) -> list[dict[str, Any]]:
    """End the audio; all events up to the answer to a last update, and the items that were still to come."""
    websocket.send(json.dumps({"type": "input_audio_buffer.commit"}))
    found: list[dict[str, Any]] = []
    while not found or found[-1]["type"] != f"{TRANSCRIPTION}.completed":
        found.append(json.loads(websocket.recv(timeout=60)))
        assert found[-1]["type"] not in ("error", f"{TRANSCRIPTION}.failed"), found[-1]
    return found


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def test_a_committed_item_has_the_text_of_a_stream_and_its_deltas_are_that_text(
    server: Running, recognizer: Recognizer
) -> None:
    for part in (160, 1600, len(SAMPLES)):
        with session(server, None) as websocket:
            speak(websocket, SAMPLES, part)
            events = commit(websocket)
        assert [event["transcript"] for event in of_kind(events, f"{TRANSCRIPTION}.completed")] == texts(
            recognizer, None
        )
        deltas = of_kind(events, f"{TRANSCRIPTION}.delta")
        assert "".join(event["delta"] for event in deltas) == events[-1]["transcript"]
        assert {event["layerdial"]["depth"] for event in deltas} == {3}
        assert events[-1]["layerdial"]["depths"] == [3] * len(events[-1]["layerdial"]["depths"])


def test_text_comes_before_the_audio_has_ended(server: Running) -> None:
    with session(server, None) as websocket:
        speak(websocket, SAMPLES)
        first = json.loads(websocket.recv(timeout=60))
        assert first["type"] == f"{TRANSCRIPTION}.delta" and first["layerdial"]["text"]
        commit(websocket)


def test_turns_end_at_the_end_points_of_the_stream(server: Running, recognizer: Recognizer) -> None:
    expected = texts(recognizer, Endpoints(silence=0.2))
    assert len(expected) > 1
    with session(server, TURNS) as websocket:
        speak(websocket, SAMPLES)
        websocket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        events: list[dict[str, Any]] = []
        while len(of_kind(events, f"{TRANSCRIPTION}.completed")) < len(expected):
            events.append(json.loads(websocket.recv(timeout=60)))
    assert [event["transcript"] for event in of_kind(events, f"{TRANSCRIPTION}.completed")] == expected
    for item in {event["item_id"] for event in events}:
        kinds = [event["type"].rsplit(".", 1)[-1] for event in events if event["item_id"] == item]
        order = [kind for kind in kinds if kind != "delta"]
        assert order == ["speech_started", "speech_stopped", "committed", "completed"]
    starts = [event["audio_start_ms"] for event in of_kind(events, "input_audio_buffer.speech_started")]
    ends = [event["audio_end_ms"] for event in of_kind(events, "input_audio_buffer.speech_stopped")]
    assert all(start < end for start, end in zip(starts, ends, strict=True)) and starts == sorted(starts)


def test_many_clients_at_once_have_the_texts_that_each_would_have_alone(
    server: Running, recognizer: Recognizer
) -> None:
    found: list[str] = []

    def talk() -> None:
        with session(server, None) as websocket:
            speak(websocket, SAMPLES)
            found.append(commit(websocket)[-1]["transcript"])

    threads = [threading.Thread(target=talk) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == texts(recognizer, None) * 6


def test_a_second_item_begins_anew(server: Running, recognizer: Recognizer) -> None:
    with session(server, None) as websocket:
        for _ in range(2):
            speak(websocket, SAMPLES)
            assert commit(websocket)[-1]["transcript"] == texts(recognizer, None)[0]


def test_what_is_cleared_is_not_in_the_next_item(server: Running, recognizer: Recognizer) -> None:
    with session(server, None) as websocket:
        speak(websocket, SAMPLES[:20_000])
        websocket.send(json.dumps({"type": "input_audio_buffer.clear"}))
        while json.loads(websocket.recv(timeout=60))["type"] != "input_audio_buffer.cleared":
            pass
        speak(websocket, SAMPLES)
        assert commit(websocket)[-1]["transcript"] == texts(recognizer, None)[0]


def test_audio_without_words_that_is_committed_has_an_empty_text_and_no_audio_is_an_error(
    server: Running, recognizer: Recognizer
) -> None:
    parts = [slice(first, first + 640) for first in range(0, len(SAMPLES), 640)]
    wordless = next(part for part in parts if not texts(recognizer, None, samples=HEARD[part]))
    with session(server, None) as websocket:
        websocket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        assert "holds no audio" in json.loads(websocket.recv(timeout=60))["error"]["message"]
        speak(websocket, SAMPLES[wordless])
        assert commit(websocket)[-1]["transcript"] == ""


def test_depth_follows_the_load_where_none_is_asked_for(server: Running) -> None:
    with session(server, None, depth=None) as websocket:
        speak(websocket, SAMPLES)
        own = commit(websocket)[-1]["layerdial"]
    assert set(own["depths"]) <= {1, 2, 3} and own["reason"]


def test_depth_changes_in_the_middle_of_what_is_said(server: Running) -> None:
    with session(server, None, depth=1) as websocket:
        speak(websocket, SAMPLES[:40_000])
        while json.loads(websocket.recv(timeout=60)).get("layerdial", {}).get("depth") != 1:
            pass
        websocket.send(json.dumps({"type": "session.update", "session": {"layerdial": {"depth": 3}}}))
        while json.loads(websocket.recv(timeout=60))["type"] != "session.updated":
            pass
        speak(websocket, SAMPLES[40_000:])
        depths = commit(websocket)[-1]["layerdial"]["depths"]
    assert depths == sorted(depths) and set(depths) == {1, 3}


def test_a_depth_that_does_not_exist_is_said_and_changes_nothing(server: Running) -> None:
    with session(server, None) as websocket:
        for own, message in (
            ({"depth": 9}, "depth 9 does not exist"),
            ({"min_depth": 2}, "give one of depth, min_depth"),
        ):
            websocket.send(json.dumps({"type": "session.update", "session": {"layerdial": own}}))
            assert message in json.loads(websocket.recv(timeout=60))["error"]["message"]
        speak(websocket, SAMPLES)
        assert set(commit(websocket)[-1]["layerdial"]["depths"]) == {3}


def test_settings_that_are_refused_change_nothing_not_the_format_either(
    server: Running, recognizer: Recognizer
) -> None:
    with session(server, None) as websocket:
        audio = {"format": {"type": "audio/pcm", "rate": 48_000}}
        settings = {"audio": {"input": audio}, "layerdial": {"depth": 9}}
        websocket.send(json.dumps({"type": "session.update", "session": settings}))
        assert "depth 9 does not exist" in json.loads(websocket.recv(timeout=60))["error"]["message"]
        speak(websocket, SAMPLES)
        assert commit(websocket)[-1]["transcript"] == texts(recognizer, None)[0]


def test_settings_are_answered_behind_the_text_of_what_was_committed(server: Running) -> None:
    with session(server, TURNS) as websocket:
        speak(websocket, SAMPLES, len(SAMPLES))
        websocket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        websocket.send(json.dumps({"type": "session.update", "session": {}}))
        kinds: list[str] = []
        while not kinds or kinds[-1] != "session.updated":
            kinds.append(json.loads(websocket.recv(timeout=60))["type"])
    assert kinds[-2] == f"{TRANSCRIPTION}.completed"


def test_wyoming_gets_certain_words_while_speaking_and_the_whole_text(server: Running, recognizer: Recognizer) -> None:
    async def talk() -> tuple[list[str], str]:
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
            await client.write_event(AudioStart(RATE, 2, 1).event())
            for first in range(0, len(SAMPLES), 1111):
                part = SAMPLES[first : first + 1111].tobytes()
                await client.write_event(AudioChunk(RATE, 2, 1, part).event())
            await client.write_event(AudioStop().event())
            pieces: list[str] = []
            while (event := await asyncio.wait_for(client.read_event(), 60)) is not None:
                if TranscriptChunk.is_type(event.type):
                    pieces.append(TranscriptChunk.from_event(event).text)
                if Transcript.is_type(event.type):
                    return pieces, Transcript.from_event(event).text
        raise AssertionError("no transcript")

    pieces, text = asyncio.run(talk())
    assert "".join(pieces) == text and len(pieces) > 1
    assert len(text.split()) > 1 and text == " ".join(texts(recognizer, DEFAULT_ENDPOINTS))


def test_files_are_transcribed_as_without_a_server(server: Running, recognizer: Recognizer) -> None:
    content = as_file(HEARD)
    assert server.transcribe(content, depth=2).json["text"] == recognizer.transcribe(HEARD, depth=2).text


def test_figures_count_chunks_and_models_say_that_they_stream(server: Running) -> None:
    with session(server, None) as websocket:
        speak(websocket, SAMPLES)
        commit(websocket)
    assert b'layerdial_chunks_total{depth="3"}' in server.get("/metrics").body
    assert server.get("/v1/models").json["data"][0]["layerdial"]["streaming"] is True


def test_who_leaves_in_the_middle_frees_everything(server: Running) -> None:
    with session(server, None) as websocket:
        speak(websocket, SAMPLES)
    end = time.monotonic() + 30
    while (server.engine.streams.open or server.engine._held) and time.monotonic() < end:
        time.sleep(0.02)
    assert (server.engine.streams.open, server.engine._held) == (0, 0)


def test_a_stream_that_could_not_keep_up_is_refused_at_once(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_FULL", 1e-9)
    with pytest.raises(InvalidStatus) as refused, session(server, None):
        pass
    assert refused.value.response.status_code == 503 and "Retry-After" in refused.value.response.headers


def test_streams_run_no_shallower_than_asked_for(recognizer: Recognizer) -> None:
    with running(recognizer, min_depth=3) as server:
        for own, expected in (({}, {3}), ({"min_depth": 2, "deadline_ms": 1}, {3})):
            with session(server, None, depth=None) as websocket:
                websocket.send(json.dumps({"type": "session.update", "session": {"layerdial": own}}))
                speak(websocket, SAMPLES)
                found = commit(websocket)[-1]["layerdial"]
                assert set(found["depths"]) == expected and found["deadline_ms"] == own.get("deadline_ms", 320)


def test_a_server_that_stops_answers_what_is_being_said(recognizer: Recognizer) -> None:
    for turns in (None, TURNS):
        with running(recognizer) as server, session(server, turns) as websocket:
            speak(websocket, SAMPLES[:30_000])
            heard = json.loads(websocket.recv(timeout=60))
            server.stop()
            while heard["type"] != f"{TRANSCRIPTION}.completed":
                heard = json.loads(websocket.recv(timeout=60))
            assert heard["transcript"]


def test_a_wyoming_client_is_told_that_the_server_stops(recognizer: Recognizer) -> None:
    async def talk(server: Running) -> str:
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
            await client.write_event(AudioStart(RATE, 2, 1).event())
            await client.write_event(AudioChunk(RATE, 2, 1, SAMPLES[:8000].tobytes()).event())
            while (event := await asyncio.wait_for(client.read_event(), 60)) is not None:
                if event.type == "transcript-start":
                    server.stop()
                if Error.is_type(event.type):
                    return Error.from_event(event).text
        return ""

    with running(recognizer) as server:
        assert "the server is stopping" in asyncio.run(talk(server))


def test_a_language_that_nobody_can_choose_is_said_with_what_to_do(server: Running, recognizer: Recognizer) -> None:
    assert "start the server with --language en" in server.transcribe(as_file(HEARD), language="en").error["message"]
    with running(recognizer, language="en") as told:
        assert told.transcribe(as_file(HEARD), language="en").status == 200
        assert "takes no language; leave language out" in told.transcribe(language="de").error["message"]
