"""A server under bursts for minutes: its memory, and what became of each request.

Every few seconds so many clients come at once, by all protocols: files over HTTP, some with a stream of events,
Realtime, and Wyoming. Some hang up before their answer. The server is the command in a process of its own. Every ten
seconds a line has the least and the most resident memory in these, its open files, and how many requests were sent,
answered, refused (503, or `overloaded` of the other protocols), left by their clients, and lost: without an answer, or
with any other. The least is what is kept between bursts. Memory is flat where it is within 5 % of its mean in each line
behind the warm-up, and so are the means of both halves.

    python benchmarks/soak.py [MODEL] [--minutes 10] [--burst 40] [--every 5] [--out ROWS.jsonl]

Speech is of espeak-ng (1 to 4 sentences), through the package's own synthesis.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from websockets.sync.client import connect
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.synthesis.espeak import Utterance, synthesise
from server_overhead import NAME, form, serving, tiny_model

SENTENCES = (
    "The train to the coast leaves at seven from platform nine.",
    "She put the letters back into the drawer and closed it without a sound.",
    "Nobody had expected that the river would rise so fast after a dry winter.",
    "We need two pounds of flour, a dozen eggs and some salt.",
)
WORDS = ("--wyoming-port", "0", "--threads", "1")
LINE_S = 10.0
AFTER_S = 3.0  # behind the last answer
LOOK_S = 0.25  # from one look at the memory to the next
FLAT = 0.05
ANSWERED, REFUSED, LEFT, LOST = "answered", "refused", "left", "lost"


@dataclass(frozen=True)
class Line:
    """The figures at one time; counts are of all requests so far."""

    seconds: float
    memory_mb: float
    peak_mb: float
    files: int
    sent: int
    answered: int
    refused: int
    left: int
    lost: int


@dataclass(frozen=True)
class Server:
    """A running server, as clients reach it."""

    pid: int
    port: int
    wyoming_port: int


Client = Callable[[Server, NDArray[np.float32]], str]


def main() -> None:
    """Print a line every ten seconds, and at the end whether memory was flat and nothing was lost."""
    options = _options()
    clips = [synthesise(Utterance(" ".join(SENTENCES[:n]), "en-us", speed=150), snr_db=None) for n in (1, 2, 3, 4)]
    lines = []
    with TemporaryDirectory() as folder, serving(options.model or tiny_model(Path(folder)), *WORDS) as found:
        process, port, wyoming_port = found
        assert wyoming_port is not None
        for line in soak(Server(process.pid, port, wyoming_port), clips, options):
            lines.append(line)
            print(" ".join(f"{name} {value:g}" for name, value in asdict(line).items()), flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(line)) + "\n")
    print(verdict(lines, options.warm_up))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="an exported folder or a name of `layerdial models`; else a tiny one")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--burst", type=int, default=40, help="clients that come at once")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from burst to burst")
    parser.add_argument("--warm-up", type=float, default=60.0, help="seconds that do not count")
    parser.add_argument("--out", type=Path, help="the lines, as JSON")
    return parser.parse_args()


def soak(server: Server, clips: Sequence[NDArray[np.float32]], options: argparse.Namespace) -> Iterator[Line]:
    """Send bursts for so many minutes; yield a line every ten seconds, and one after all is answered."""
    counts, lock, draw = Counter[str](), threading.Lock(), random.Random(0)

    def one(client: Client, clip: NDArray[np.float32]) -> None:
        try:
            found = client(server, clip)
        except Exception as error:
            found = LOST
            print(f"lost: {client.__name__}: {type(error).__name__}: {error}", flush=True)
        with lock:
            counts[found] += 1

    begun, memory = time.monotonic(), [_memory_mb(server.pid)]
    next_line, next_burst = begun + LINE_S, begun
    with ThreadPoolExecutor(4 * options.burst, "client") as clients:
        while time.monotonic() < begun + 60.0 * options.minutes:
            if time.monotonic() >= next_burst:
                next_burst += options.every
                for client in draw.choices(CLIENTS, SHARES, k=options.burst):
                    counts["sent"] += 1
                    clients.submit(one, client, draw.choice(clips))
            if time.monotonic() >= next_line:
                next_line += LINE_S
                yield _line(server.pid, time.monotonic() - begun, memory, counts)
                memory.clear()
            time.sleep(max(0.0, min(next_line, next_burst, time.monotonic() + LOOK_S) - time.monotonic()))
            memory.append(_memory_mb(server.pid))
    memory.clear()
    for _ in range(round(AFTER_S / LOOK_S)):
        time.sleep(LOOK_S)
        memory.append(_memory_mb(server.pid))
    yield _line(server.pid, time.monotonic() - begun, memory, counts)


def _line(pid: int, seconds: float, memory: Sequence[float], counts: Counter[str]) -> Line:
    files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    outcomes = [counts[name] for name in ("sent", ANSWERED, REFUSED, LEFT, LOST)]
    return Line(round(seconds, 1), round(min(memory), 1), round(max(memory), 1), files, *outcomes)


def _memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def verdict(lines: Sequence[Line], warm_up_s: float) -> str:
    """Return in words whether memory was flat behind the warm-up, and whether each request had its answer."""
    last, counted = lines[-1], [line for line in lines if line.seconds >= warm_up_s] or lines[-1:]
    warm = [line.memory_mb for line in counted]
    mean, half = statistics.mean(warm), max(1, len(warm) // 2)
    drift = statistics.mean(warm[-half:]) / statistics.mean(warm[:half]) - 1.0
    widest = max(abs(value / mean - 1.0) for value in warm)
    flat = "flat" if max(abs(drift), widest) <= FLAT else "missed"
    unanswered = last.sent - last.answered - last.refused - last.left
    return (
        f"memory: {flat}: {min(warm):.0f} to {max(warm):.0f} MB behind {warm_up_s:g} s, at most {100 * widest:.1f} % "
        f"from the mean; second half against the first {100 * drift:+.1f} % (target: within {100 * FLAT:g} %); "
        f"at most {max(line.peak_mb for line in counted):.0f} MB in a burst\n"
        f"requests: {last.sent} sent, {last.answered} answered, {last.refused} refused, {last.left} left, "
        f"{unanswered} lost (target: 0)"
    )


# ---------------------------------------------------------------------------------------------------------- clients


def http(server: Server, samples: NDArray[np.float32], stream: bool = False) -> str:
    """Send a file, and read its answer."""
    body, kind = form({"model": NAME, **({"stream": "true"} if stream else {})}, _wav(samples))
    connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": kind})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status == 503:
        return REFUSED
    assert answer.status == 200, content
    if stream:
        return _last_event(content)
    assert isinstance(json.loads(content)["text"], str), content
    return ANSWERED


def http_stream(server: Server, samples: NDArray[np.float32]) -> str:
    """Send a file, and read its answer as events."""
    return http(server, samples, stream=True)


def _last_event(content: bytes) -> str:
    events = [json.loads(line.removeprefix(b"data: ")) for line in content.splitlines() if line.startswith(b"data: {")]
    if "error" in events[-1]:
        return _refused(events[-1]["error"])
    assert events[-1]["type"] == "transcript.text.done", content
    return ANSWERED


def http_left(server: Server, samples: NDArray[np.float32]) -> str:
    """Send a file, and hang up before its answer."""
    body, kind = form({"model": NAME}, _wav(samples))
    connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": kind})
    connection.close()
    return LEFT


def realtime(server: Server, samples: NDArray[np.float32]) -> str:
    """Send audio in parts over a websocket, and commit it."""
    audio = {"format": {"type": "audio/pcm", "rate": SAMPLE_RATE}, "turn_detection": None}
    with connect(f"ws://127.0.0.1:{server.port}/v1/realtime?intent=transcription", open_timeout=120) as websocket:

        def send(kind: str, **fields: Any) -> None:
            websocket.send(json.dumps({"type": kind, **fields}))

        send("session.update", session={"type": "transcription", "audio": {"input": audio}})
        content = _pcm(samples)
        for start in range(0, len(content), 32000):
            part = base64.b64encode(content[start : start + 32000]).decode()
            send("input_audio_buffer.append", audio=part)
        send("input_audio_buffer.commit")
        while True:
            event = json.loads(websocket.recv(timeout=120))
            if event["type"] == "error" or event["type"].endswith(".failed"):
                return _refused(event["error"])
            if event["type"].endswith(".completed"):
                return ANSWERED


def wyoming(server: Server, samples: NDArray[np.float32]) -> str:
    """Send audio as Home Assistant does."""

    async def ask() -> str:
        async with AsyncTcpClient("127.0.0.1", server.wyoming_port) as client:
            await client.write_event(AudioStart(SAMPLE_RATE, 2, 1).event())
            content = _pcm(samples)
            for start in range(0, len(content), 2048):
                await client.write_event(AudioChunk(SAMPLE_RATE, 2, 1, content[start : start + 2048]).event())
            await client.write_event(AudioStop().event())
            while event := await asyncio.wait_for(client.read_event(), 120):
                if event.type == "error":
                    return _refused({"code": event.data["code"], "message": event.data["text"]})
                if event.type == "transcript":
                    return ANSWERED
        raise ConnectionError("closed without a transcript")

    return asyncio.run(ask())


CLIENTS: tuple[Client, ...] = (http, http_stream, http_left, realtime, wyoming)
SHARES = (5, 2, 1, 1, 1)


def _refused(error: dict[str, Any]) -> str:
    assert error["code"] == "overloaded", error
    return REFUSED


def _pcm(samples: NDArray[np.float32]) -> bytes:
    return (samples.clip(-1, 1) * 32767).astype("<i2").tobytes()


def _wav(samples: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV")
    return file.getvalue()


if __name__ == "__main__":
    main()
