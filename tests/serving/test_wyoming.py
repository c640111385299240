"""The Wyoming protocol, by its own client: what Home Assistant sends, and what no client should."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from layerdial.runtime import Recognizer
from layerdial.serving.options import Limits
from tiny import speak
from tiny_serving import TEXT, Running, running
from tiny_whisper import Pair, samples

pytest_plugins = ["tiny_export", "tiny_whisper_edge"]


@pytest.fixture(scope="module")
def server(edge: Recognizer) -> Iterator[Running]:
    with running(edge, Limits(max_body_mb=1, head_s=1), language="en") as found:
        yield found


def pcm(rate: int = 16000) -> bytes:
    return (speak(TEXT, 77, rate) * 32767).astype("<i2").tobytes()


def with_client(server: Running, action: Callable[[AsyncTcpClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
            return await asyncio.wait_for(action(client), 60)

    return asyncio.run(run())


async def send_audio(client: AsyncTcpClient, content: bytes, rate: int = 16000, step: int = 2048) -> None:
    await client.write_event(AudioStart(rate, 2, 1).event())
    for start in range(0, len(content), step):
        await client.write_event(AudioChunk(rate, 2, 1, content[start : start + step]).event())
    await client.write_event(AudioStop().event())


async def until_stop(client: AsyncTcpClient) -> list[Event]:
    found = list[Event]()
    while not found or found[-1].type not in ("transcript-stop", "error"):
        event = await client.read_event()
        assert event is not None, found
        found.append(event)
    return found


def transcript(events: list[Event]) -> str:
    [found] = [Transcript.from_event(event) for event in events if Transcript.is_type(event.type)]
    return found.text


def test_the_server_says_what_it_is(server: Running) -> None:
    async def ask(client: AsyncTcpClient) -> Event | None:
        await client.write_event(Describe().event())
        return await client.read_event()

    [program] = Info.from_event(with_client(server, ask)).asr
    assert program.supports_transcript_streaming and program.installed
    [model] = program.models
    assert (model.name, model.languages) == ("tones", ["en"])


@pytest.mark.parametrize("rate", [16000, 22050, 48000])
def test_audio_becomes_a_transcript_whole_and_in_parts(server: Running, rate: int) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        await client.write_event(Transcribe(language="en").event())
        await send_audio(client, pcm(rate), rate)
        return await until_stop(client)

    events = with_client(server, ask)
    assert [event.type for event in events] == ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    assert transcript(events) == TEXT == events[1].data["text"]


def test_a_client_asks_twice_and_pings(server: Running) -> None:
    async def ask(client: AsyncTcpClient) -> list[str]:
        texts = []
        for _ in range(2):
            await send_audio(client, pcm())
            texts.append(transcript(await until_stop(client)))
        await client.write_event(Ping("now").event())
        event = await client.read_event()
        assert event is not None
        return [*texts, str(Pong.from_event(event).text)]

    assert with_client(server, ask) == [TEXT, TEXT, "now"]


def test_names_and_terms_are_favoured(server: Running) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        await client.write_event(Transcribe(transcript_names=["low"], transcript_terms=["high", "middle"]).event())
        await send_audio(client, pcm())
        return await until_stop(client)

    assert transcript(with_client(server, ask)) == TEXT


def test_no_audio_has_an_empty_transcript(server: Running) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        await send_audio(client, b"")
        return await until_stop(client)

    assert transcript(with_client(server, ask)) == ""


def test_long_audio_comes_in_parts(pair: Pair) -> None:
    content = (samples(40 * 16000).clip(-1, 1) * 32767).astype("<i2").tobytes()

    async def ask(client: AsyncTcpClient) -> list[Event]:
        await send_audio(client, content, step=1 << 16)
        return await until_stop(client)

    with running(pair.onnx) as server:
        events = with_client(server, ask)
    chunks = [event.data["text"] for event in events if event.type == "transcript-chunk"]
    assert len(chunks) == 2 and "".join(chunks) == transcript(events)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([Transcribe(name="gpt").event()], "there is no model 'gpt'"),
        ([Event("transcribe", {"language": 5})], "language is no text"),
        ([Event("transcribe", {"transcript_names": "x"})], "transcript_names is no list"),
        ([Transcribe(transcript_names=["!"]).event()], "no letter or digit"),
        ([Transcribe(language="de").event()], "this model takes no language"),
        ([AudioStart(1, 2, 1).event()], "rate is 1"),
        ([AudioStart(16000, 9, 1).event()], "width is 9"),
        ([Event("audio-chunk", {}, bytes(600_000))] * 2, "larger than 1 MB (the server's --max-body-mb)"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_and_the_connection_closed(
    server: Running, events: list[Event], words: str
) -> None:
    async def ask(client: AsyncTcpClient) -> list[Event]:
        for event in events:
            await client.write_event(event)
        found = []
        while event_read := await client.read_event():
            found.append(event_read)
        return found

    found = with_client(server, ask)
    assert words in Error.from_event(found[-1]).text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}\n", "has a type"),
        (b"\n", "no JSON"),
        (b"[]\n", "JSON object"),
        (b"GET / HTTP/1.1\r\n\r\n", "no JSON"),
        (b'{"type": "ping", "data": {"text": "\\ud800"}}\n', "no text in UTF-8"),
        (b"\xff\n", "no text in UTF-8"),
        (b"x" * 100_000, "too long"),
        (b'{"type": "audio-chunk", "payload_length": 99999999999}\n', "is the most"),
        (b'{"type": "audio-chunk", "data_length": -1}\n', "is the most"),
        (b'{"type": "audio-chunk", "data_length": 2}\n{}', ""),
        (b'{"type": "describe", "data_length": 2}\n[]', "JSON object"),
        (b'{"type": "describe"', ""),  # and then nothing
    ],
)
def test_malformed_events_end_the_connection(server: Running, content: bytes, words: str) -> None:
    with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=30) as connection:
        connection.sendall(content)
        if not words:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(1 << 16):
            found += part
    assert words in found.decode()
    if words:
        assert json.loads(found.splitlines()[0])["type"] == "error"


def test_an_event_that_stalls_ends_the_connection(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=30) as connection:
        connection.sendall(b'{"type": "desc')
        assert connection.recv(1) == b""


def test_a_client_that_leaves_gives_its_place_free(server: Running) -> None:
    from tiny_processes import wait_for

    with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=30) as connection:
        head = {"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": len(pcm())}
        connection.sendall(json.dumps(head).encode() + b"\n" + pcm() + b'{"type": "audio-stop"}\n')
    wait_for(lambda: server.engine.active == 0 and server.engine._held == 0)


def test_audio_that_is_not_answered_yet_counts_in_the_memory_of_all_requests(edge: Recognizer) -> None:
    from tiny_processes import wait_for

    part = bytes(900_000)
    with running(edge, Limits(max_body_mb=1, max_audio_s=4)) as server:  # 1,024,000 bytes of all requests

        async def ask(client: AsyncTcpClient) -> str:
            for _ in range(2):
                await client.write_event(AudioStart(16000, 2, 1).event())  # what came before is dropped
                await client.write_event(AudioChunk(16000, 2, 1, part).event())
                await asyncio.to_thread(wait_for, lambda: server.engine._held == len(part) // 4)
            assert (await asyncio.to_thread(server.transcribe)).status == 503
            async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as other:
                await other.write_event(AudioChunk(16000, 2, 1, part).event())
                event = await other.read_event()
                assert event is not None and "as much audio as it may" in Error.from_event(event).text
            await asyncio.to_thread(wait_for, lambda: server.engine._held == len(part) // 4)
            await send_audio(client, pcm())
            return transcript(await until_stop(client))

        assert with_client(server, ask) == TEXT
        wait_for(lambda: server.engine._held == 0)


def test_a_payload_counts_before_it_is_there(server: Running) -> None:
    from tiny_processes import wait_for

    with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=30) as connection:
        connection.sendall(b'{"type": "audio-chunk", "payload_length": 4000000}\n')
        wait_for(lambda: server.engine._held == 1_000_000)
    wait_for(lambda: server.engine._held == 0)


def test_one_connection_too_many_is_told_so(edge: Recognizer) -> None:
    with running(edge, Limits(max_connections=1)) as server:
        address = ("127.0.0.1", server.wyoming_port)
        with socket.create_connection(address, timeout=30) as first:
            first.sendall(b'{"type": "describe"}\n')
            assert b"info" in first.recv(100)
            with socket.create_connection(address, timeout=30) as second:
                told = b""
                while part := second.recv(1000):  # until it is closed
                    told += part
                assert b"(its --max-connections)" in told
