"""The time that the server adds to a request: the same audio by the recogniser, by the pool, and over HTTP.

The three alternate, so that other load on the machine falls on all of them. The model is untrained and tiny unless one
is given, so its own time hides nothing. The server is the command in a process of its own; its client is one keep-alive
connection of http.client on the loopback. Of the server's process the CPU time is printed too: on a machine that does
much else, it is what the server adds itself.

    python benchmarks/server_overhead.py [MODEL] [--seconds 5] [--rounds 300]
"""

from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import soundfile

from layerdial.audio.files import PipedAudio
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.serving.jobs import Job
from layerdial.serving.pool import Pool

NAME = "overhead"
Actions = dict[str, Callable[[], object]]


def main() -> None:
    """Print median times, the medians of the differences of pairs, and CPU times."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or tiny_model(Path(folder))
        recognizer = Recognizer(model, threads=1)
        with Pool(recognizer, deadline_ms=60_000.0) as pool, serving(model, "--threads", "1") as (server, port, _):
            actions = _actions(recognizer, pool, port, _clip(options.seconds))
            for action in actions.values():
                for _ in range(20):
                    action()
            begun = _cpu_ms(server)
            _report(_measure(actions, options.rounds), options)
            in_server = (_cpu_ms(server) - begun) / options.rounds
            alone = _cpu_of(actions["recogniser"], options.rounds)
    print(f"CPU of a request: {in_server:.2f} ms in the server's process, {alone:.2f} ms by the recogniser alone")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="an exported folder or a name of `layerdial models`; else a tiny one")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=300)
    return parser.parse_args()


def _actions(recognizer: Recognizer, pool: Pool, port: int, content: bytes) -> Actions:
    body, kind = form({"model": NAME}, content)
    headers = {"Content-Type": kind}
    connection = HTTPConnection("127.0.0.1", port)

    def over_http() -> None:
        connection.request("POST", "/v1/audio/transcriptions", body, headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said

    audio = PipedAudio("a.wav", content)
    return {
        "recogniser": lambda: recognizer.answer(audio, Request()),
        "pool": lambda: pool.submit(Job(audio)).result(),
        "http": over_http,
    }


def _measure(actions: Actions, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(1000.0 * (time.perf_counter() - start))
    return times


def _report(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    print(f"{options.seconds:g} s of audio, {options.rounds} rounds; medians in ms")
    for name, found in times.items():
        added = [b - a for a, b in zip(times["recogniser"], found, strict=True)]
        print(f"{name:12} {statistics.median(found):8.2f}  added {statistics.median(added):6.2f}")


def _cpu_ms(process: subprocess.Popen[str]) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return 1000.0 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_of(action: Callable[[], object], rounds: int) -> float:
    start = time.process_time()
    for _ in range(rounds):
        action()
    return 1000.0 * (time.process_time() - start) / rounds


def form(fields: Mapping[str, str], content: bytes) -> tuple[bytes, str]:
    """Return the body of a form with a file, and its content type."""
    boundary = uuid.uuid4().hex
    parts = [f'name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    parts.append(b'name="file"; filename="a.wav"\r\n\r\n' + content + b"\r\n")
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextmanager
def serving(model: str | Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int, int | None]]:
    """Run the command; yield its process, its port, and that of Wyoming where it is asked for."""
    words = ["serve", str(model), "--port", "0", "--name", NAME, *options]
    with subprocess.Popen([sys.executable, "-m", "layerdial", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = dict[str, str]()
            while "ends" not in told:
                kind, _, rest = process.stdout.readline().partition(":")
                told[kind] = rest
            http, wyoming = (re.search(r":(\d+)", told.get(kind, "")) for kind in ("http", "wyoming"))
            assert http is not None
            yield process, int(http[1]), None if wyoming is None else int(wyoming[1])
        finally:
            process.terminate()


def _clip(seconds: float) -> bytes:
    """Return noise as a WAV file."""
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds))
    soundfile.write(file, noise.astype(np.float32), 16000, format="WAV")
    return file.getvalue()


def tiny_model(folder: Path) -> Path:
    """Export a model of four narrow blocks and random weights."""
    import torch

    from layerdial.config.network import ConformerConfig
    from layerdial.export.export import export_model
    from layerdial.models.checkpoint import save_model
    from layerdial.models.conformer_ctc import ConformerCTC
    from layerdial.text.tokenizer import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer("word", ["a b c"])
    sizes = {"n_blocks": 4, "width": 16, "heads": 2, "ffn_width": 32, "kernel": 5}
    save_model(
        folder / "model", ConformerCTC(ConformerConfig.model_validate(sizes), len(tokenizer.tokens)), tokenizer, {}
    )
    export_model(folder / "model", folder / "edge")
    return folder / "edge"


if __name__ == "__main__":
    main()
