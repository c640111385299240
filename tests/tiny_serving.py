"""A server of a tiny model in this process, on free ports; what clients send to it, raw where a library would not."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import numpy as np
import soundfile

from layerdial.runtime import Recognizer
from layerdial.serving.engine import Engine
from layerdial.serving.guard import Access
from layerdial.serving.hosts import Hosts
from layerdial.serving.keys import ApiKeys
from layerdial.serving.options import Limits
from layerdial.serving.pool import Pool
from layerdial.serving.server import Sockets, bind, serve_until
from layerdial.serving.streams import StreamHub
from tiny import speak

TEXT = "low high middle high low low"
PATH = "/v1/audio/transcriptions"


def wav(text: str = TEXT, seed: int = 77, rate: int = 16000) -> bytes:
    """A WAV file of spoken tones."""
    return as_file(speak(text, seed, rate), rate)


def as_file(samples: np.ndarray, rate: int = 16000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def voice() -> np.ndarray:
    """1.5 s at 24 kHz like a vowel: a falling pitch with formants, which the detector takes for speech."""
    rate, n = 24000, 36000
    time = np.arange(n) / rate
    pitch = 130 - 25 * time + 6 * np.sin(2 * np.pi * 5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    found = np.zeros(n)
    for harmonic in range(1, 40):
        frequency = harmonic * 120
        strength = sum(
            g / (1 + ((frequency - f) / w) ** 2) for f, w, g in ((700, 90, 1), (1200, 110, 0.6), (2600, 160, 0.3))
        )
        found += strength * np.sin(harmonic * phase)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)
    return 0.3 * found / np.abs(found).max() * syllables


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass(frozen=True)
class Running:
    """A server that runs in a thread of this process."""

    engine: Engine
    port: int
    wyoming_port: int
    stop: Any
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            found = connection.getresponse()
            return Reply(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, headers=headers)

    def transcribe(
        self, content: bytes | None = None, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Reply:
        body, kind = form({"model": self.engine.names[0], **fields}, wav() if content is None else content)
        return self.send("POST", PATH, body, {"Content-Type": kind, **(headers or {})})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def form(fields: Mapping[str, Any], content: bytes | None, name: str = "clip.wav") -> tuple[bytes, str]:
    """The body of a form, and its content type; a list is a field that is repeated."""
    boundary = uuid.uuid4().hex
    parts = []
    for key, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            parts.append(f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode())
    if content is not None:
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        parts.append(head + content + b"\r\n")
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextmanager
def running(
    recognizer: Recognizer,
    limits: Limits | None = None,
    keys: list[str] | None = None,
    origins: tuple[str, ...] = (),
    names: tuple[str, ...] = ("tones",),
    language: str | None = None,
    hosts: Hosts | None = None,
    min_depth: int | None = None,
) -> Iterator[Running]:
    """A server until the end of the block; it stops as by a signal. Raw requests call it x."""
    streams = StreamHub(recognizer, 2, min_depth) if recognizer.takes_chunks else None
    engine = Engine(
        recognizer,
        Pool(recognizer, min_depth=min_depth, deadline_ms=60_000.0),
        names,
        limits or Limits(),
        language,
        streams,
    )
    sockets = Sockets(bind("127.0.0.1", 0, "port"), bind("127.0.0.1", 0, "wyoming-port"))
    assert sockets.wyoming is not None
    ports = sockets.http.getsockname()[1], sockets.wyoming.getsockname()[1]
    started, held = threading.Event(), dict[str, Any]()

    async def run() -> None:
        held["signals"], held["loop"] = asyncio.Semaphore(0), asyncio.get_running_loop()
        started.set()
        access = Access(hosts or Hosts("127.0.0.1", ["x"]), None if keys is None else ApiKeys(keys), origins)
        await serve_until(held["signals"], engine, sockets, access)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    started.wait()

    def stop() -> None:
        if thread.is_alive():
            held["loop"].call_soon_threadsafe(held["signals"].release)

    server = Running(engine, *ports, stop, thread)
    try:
        _wait_until_it_answers(server)
        yield server
    finally:
        stop()
        thread.join()
        engine.close()


def _wait_until_it_answers(server: Running) -> None:
    while True:
        try:
            assert server.get("/ready").status == 200
            return
        except ConnectionRefusedError:
            pass
