"""Malformed requests by the thousand: no crash, no leak of memory, file descriptors or places, and an answer after."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from layerdial.runtime import Recognizer
from layerdial.serving.options import Limits
from tiny_processes import wait_for
from tiny_serving import PATH, TEXT, Running, form, running, wav

pytest_plugins = ["tiny_export"]

CLIP = wav("low high")
VALUES = (
    "",
    "0",
    "-1",
    "nan",
    "1e999",
    "999999999999999999999",
    "true",
    "\x00",
    "\ud7ff",
    "é" * 50,
    "x" * 5000,
    "a\r\nb",
)
NAMES = ("file", "model", "language", "prompt", "response_format", "temperature", "stream", "depth", "min_depth")
NAMES += (
    "deadline_ms",
    "hotwords",
    "include[]",
    "timestamp_granularities[]",
    "chunking_strategy",
    "",
    "file[]",
    "x" * 300,
)
KINDS = ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=é", "text/plain", "")
KINDS += ('multipart/form-data; boundary="', "multipart/form-data; boundary=" + "b" * 300, "application/json")
KINDS += ("multipart/form-data; boundary=x; charset=unicode_escape", "multipart/form-data; boundary=x; charset=zlib")
EVENTS = (
    "session.update",
    "input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "x",
    "",
)
WHOLE = ("\x00", [], {}, None, 0, -1, 1e308, "x" * 1000, True, "AAAA", "\ud800", [[[[]]]])


@pytest.fixture(scope="module")
def server(edge: Recognizer) -> Iterator[Running]:
    with running(edge, Limits(max_body_mb=0.3, max_audio_s=5, head_s=2, max_request_s=5)) as found:
        yield found


def mutated(random: Random, content: bytes) -> bytes:
    """A few bytes changed, a piece left out or doubled, or the end cut off."""
    found = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at, size = random.randrange(len(found) + 1), random.choice((1, 1, 2, 7, 60))
        match random.randrange(4):
            case 0:
                found[at : at + size] = random.randbytes(size)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = found[at : at + size]
            case _:
                del found[random.choice((at, len(found))) :]
    return bytes(found)


def bad_form(random: Random) -> bytes:
    """A request with a form that is wrong somewhere: its head, its fields, or its bytes."""
    fields: dict[str, Any] = {"model": "tones"} if random.random() < 0.8 else {}
    for _ in range(random.randint(0, 3)):
        fields[random.choice(NAMES)] = random.choice(VALUES)
    clip = random.choice((CLIP, mutated(random, CLIP), random.randbytes(random.randint(0, 3000)), b"", None))
    with suppress(UnicodeEncodeError):
        body, kind = form(fields, clip, random.choice(("a.wav", "", "../../x", "x" * 500, 'a".wav', "a\x00b")))
        if random.random() < 0.5:
            body = mutated(random, body)
        if random.random() < 0.2:
            kind = random.choice(KINDS)
        length = len(body) if random.random() < 0.9 else random.choice((0, len(body) - 1, 10**12, -5))
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}"
        )
        return head.encode("latin-1", "replace") + b"\r\n\r\n" + body
    return b"\r\n\r\n"


def bad_head(random: Random) -> bytes:
    """Bytes that are hardly HTTP."""
    kind = random.choice(KINDS)
    good = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: {kind}\r\n\r\n5\r\n--x\r\n"
    chosen = (mutated(random, good.encode()), random.randbytes(200), b"GET " + b"/" * 70_000, b"PUT * HTTP/9\r\n\r\n")
    return random.choice(chosen)


def bad_events(random: Random) -> bytes:
    """A websocket whose frames and events are wrong somewhere."""
    key = base64.b64encode(random.randbytes(16)).decode()
    head = "GET /v1/realtime?intent=transcription HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    found = f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    for _ in range(random.randint(1, 5)):
        text = json.dumps(bad_event(random)).encode()
        found += frame(random, mutated(random, text) if random.random() < 0.3 else text)
    return mutated(random, found) if random.random() < 0.2 else found


def bad_event(random: Random) -> Any:
    event: dict[str, Any] = {"type": random.choice(EVENTS)}
    for name in ("audio", "session", "event_id"):
        if random.random() < 0.6:
            event[name] = random.choice(WHOLE)
    if random.random() < 0.3:
        inside = {
            name: random.choice(WHOLE)
            for name in ("format", "transcription", "turn_detection")
            if random.random() < 0.5
        }
        inside |= {"transcription": {"keywords": [random.choice(WHOLE)]}} if random.random() < 0.3 else {}
        event["session"] = {"type": "transcription", "audio": {"input": inside}, "layerdial": random.choice(WHOLE)}
    return event if random.random() < 0.9 else random.choice(WHOLE)


def frame(random: Random, content: bytes) -> bytes:
    """A masked frame, with another opcode, length or no mask now and then."""
    opcode = 1 if random.random() < 0.9 else random.randrange(16)
    length, mask = len(content) if random.random() < 0.95 else random.randrange(1 << 20), random.randbytes(4)
    size = bytes([0x80 | length]) if length < 126 else struct.pack("!BH", 0xFE, length & 0xFFFF)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content))
    return bytes([0x80 | opcode]) + size + mask + masked


def send(port: int, content: bytes, hangs_up: bool) -> bytes:
    """Send bytes, and return what is answered until the server closes or is silent for a moment."""
    found = b""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(content)
        if hangs_up:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.05)
        while part := connection.recv(1 << 16):
            found += part
    return found


def wyoming(random: Random) -> bytes:
    """Events of Wyoming that are wrong somewhere."""
    found = b""
    for _ in range(random.randint(1, 5)):
        kind = random.choice(("describe", "transcribe", "audio-start", "audio-chunk", "audio-stop", "ping", "", 5))
        names = ("rate", "width", "channels", "name", "language", "transcript_names", "transcript_terms", "text")
        data = {
            name: random.choice((*WHOLE, 16000, 2, 1, ["low"], ["\ud800"])) for name in names if random.random() < 0.4
        }
        payload = random.randbytes(random.choice((0, 1, 3200)))
        lengths = {"payload_length": len(payload) if random.random() < 0.9 else random.choice(WHOLE)}
        found += json.dumps({"type": kind, "data": data, **lengths}).encode() + b"\n" + payload
    return mutated(random, found) if random.random() < 0.4 else found


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def attack(server: Running, count: int, seed: int) -> None:
    """Send so many requests, and assert that no answer tells of an error of the server."""
    random = Random(seed)
    answered = 0
    kinds: tuple[Callable[[Random], bytes], ...] = (bad_form, bad_form, bad_head, bad_events, wyoming)
    for number in range(count):
        make = kinds[number % len(kinds)]
        content = make(random)
        answer = send(server.wyoming_port if make is wyoming else server.port, content, random.random() < 0.3)
        assert b" 500 " not in answer[:20] and b"internal_error" not in answer, content
        answered += bool(answer)
    assert answered > count / 3


def assert_as_before(server: Running) -> None:
    wait_for(lambda: server.engine.active == 0 and server.engine._held == 0)
    wait_for(lambda: server.engine.pool.metrics().queued == server.engine.pool.metrics().running == 0)
    assert server.engine.pool.metrics().failed == 0
    assert server.transcribe(wav()).json["text"] == TEXT


def test_malformed_requests_change_nothing(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    attack(server, 200, seed=1)
    assert_as_before(server)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.slow
def test_ten_thousand_malformed_requests_leave_nothing_behind(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    attack(server, 1000, seed=2)  # what is imported and cached once is there then
    assert_as_before(server)
    memory, open_files = memory_mb(), descriptors()
    attack(server, 10_000, seed=3)
    assert_as_before(server)
    wait_for(lambda: descriptors() <= open_files)
    print(f"memory {memory:.0f} MB before, {memory_mb():.0f} MB after")
    assert memory_mb() < 1.05 * memory
    assert not [record for record in caplog.records if record.exc_info]
