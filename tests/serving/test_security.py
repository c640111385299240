"""Keys, limits, foreign pages, stalling clients, and an end that answers what has begun."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from openai import AuthenticationError, OpenAI
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from layerdial.errors import UserError
from layerdial.runtime import Recognizer
from layerdial.serving import opening
from layerdial.serving.command import serve
from layerdial.serving.guard import Access
from layerdial.serving.hosts import Hosts
from layerdial.serving.keys import read_keys
from layerdial.serving.options import Limits, ServeOptions
from layerdial.serving.server import Sockets, bind
from tiny_processes import wait_for
from tiny_serving import PATH, TEXT, Running, as_file, form, running, wav

pytest_plugins = ["tiny_export"]

KEY, OTHER = "sk-first-key-of-the-file", "sk-second-key-of-the-file"
SITE = "https://page.example"
SMALL = Limits(max_body_mb=0.5, max_audio_s=5, head_s=0.3, max_connections=8, max_request_s=2)


@pytest.fixture(scope="module")
def locked(edge: Recognizer) -> Iterator[Running]:
    everywhere = Hosts("0.0.0.0", keys=True)
    with running(edge, keys=[KEY, OTHER], origins=(SITE,), hosts=everywhere) as found:
        yield found


@pytest.fixture(scope="module")
def small(edge: Recognizer) -> Iterator[Running]:
    with running(edge, SMALL) as found:
        yield found


def ended(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found


def status(port: int, host: str) -> int:
    """The status of an answer to a client that calls the server so."""
    return Running(None, port, 0, None, None).get("/health", Host=host).status  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_a_key_of_the_file_is_let_in(locked: Running, key: str) -> None:
    with OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as openai:
        assert openai.audio.transcriptions.create(model="tones", file=("a.wav", wav())).text == TEXT


def test_another_key_is_not(locked: Running) -> None:
    openai = OpenAI(base_url=f"{locked.url}/v1", api_key="sk-wrong", max_retries=0)
    with openai, pytest.raises(AuthenticationError, match="not known here"):
        openai.audio.transcriptions.create(model="tones", file=("a.wav", wav()))


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nothing", PATH])
def test_every_path_but_those_of_health_needs_a_key(locked: Running, path: str) -> None:
    found = locked.get(path)
    assert found.status == 401 and found.headers["www-authenticate"] == "Bearer"
    assert found.error["code"] == "invalid_api_key" and KEY not in found.body.decode()
    assert locked.get(path, Authorization=f"Basic {KEY}").status == 401
    assert locked.get(path, Authorization=f"Bearer {KEY}").status != 401


def test_the_name_of_the_host_is_no_path(locked: Running) -> None:
    assert [locked.get("/v1/models", Host=name).status for name in ("a/health?", "a/ready#")] == [401, 401]


def test_health_needs_no_key(locked: Running) -> None:
    assert [locked.get(path).status for path in ("/health", "/ready")] == [200, 200]


def test_a_websocket_needs_a_key_in_a_header_or_as_a_subprotocol(locked: Running) -> None:
    address = f"ws://127.0.0.1:{locked.port}/v1/realtime?intent=transcription"
    with pytest.raises(InvalidStatus) as refused, connect(address):
        pass
    assert refused.value.response.status_code == 401
    with connect(address, additional_headers={"Authorization": f"Bearer {KEY}"}) as websocket:
        assert json.loads(websocket.recv())["type"] == "session.created"
    protocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with connect(address, subprotocols=protocols) as websocket:  # type: ignore[arg-type]
        assert websocket.subprotocol == "realtime"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no keys"),
        ("# none\n\n", "has no keys"),
        (f"{KEY}\nshort\n", "line 2: this is no key"),
        ("a key with spaces in it\n", "line 1: this is no key"),
    ],
)
def test_a_file_of_keys_that_is_not_one_is_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(UserError, match=words) as refused:
        read_keys(file)
    assert KEY not in str(refused.value) and "short" not in str(refused.value)


def test_keys_are_read_without_comments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n  {OTHER}  \n")
    file.chmod(0o600)
    keys = read_keys(file)
    assert keys.admits(KEY) and keys.admits(OTHER) and not keys.admits("# ours") and not keys.admits("")
    assert not caplog.records
    file.chmod(0o644)
    read_keys(file)
    assert "can be read by others" in caplog.text and KEY not in caplog.text
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "none")


# ----------------------------------------------------------------------------------------------------- foreign pages


def test_a_page_of_another_site_is_not_let_in(small: Running) -> None:
    found = small.transcribe(headers={"Origin": "https://evil.example"})
    assert found.status == 403 and found.error["code"] == "foreign_origin"
    assert "access-control-allow-origin" not in found.headers
    assert [small.transcribe(headers={"Origin": site}).status for site in ("null", "http://[")] == [403, 403]
    assert small.transcribe(headers={"Origin": small.url}).status == 200
    address = f"ws://127.0.0.1:{small.port}/v1/realtime?intent=transcription"
    with pytest.raises(InvalidStatus) as refused, connect(address, origin=SITE):  # type: ignore[arg-type]
        pass
    assert refused.value.response.status_code == 403


def test_a_site_that_was_named_is_let_in(locked: Running) -> None:
    found = locked.transcribe(headers={"Origin": SITE, "Authorization": f"Bearer {KEY}"})
    assert found.status == 200 and found.headers["access-control-allow-origin"] == SITE
    asked = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert locked.send("OPTIONS", PATH, headers=asked).headers["access-control-allow-origin"] == SITE
    assert locked.send("OPTIONS", PATH, headers={**asked, "Origin": "https://evil.example"}).status == 400


def test_answers_keep_browsers_careful(small: Running) -> None:
    for found in (small.get("/health"), small.transcribe(), small.get("/nothing")):
        assert found.headers["content-security-policy"].startswith("default-src 'none'")
        assert found.headers["x-content-type-options"] == "nosniff" and found.headers["cache-control"] == "no-store"
        assert "server" not in found.headers


# ------------------------------------------------------------------------------------------------- names of the server


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "192.168.1.5:{port}", "localhost.example", ""])
def test_a_site_whose_name_leads_here_is_not_let_in(small: Running, host: str) -> None:
    named = host.format(port=small.port)
    found = small.transcribe(headers={"Host": named, "Origin": f"http://{named}"})
    assert found.status == 403 and found.error["code"] == "foreign_host"
    assert f"{named!r} is no name of this server" in found.error["message"] and "--allow-host" in found.error["message"]
    assert small.get("/", Host=named).status == 403


def test_nor_is_it_over_a_websocket(small: Running) -> None:
    address = f"ws://evil.example:{small.port}/v1/realtime?intent=transcription"
    with small.connect() as opened, pytest.raises(InvalidStatus) as refused, connect(address, sock=opened):
        pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "foreign_host"


def test_clients_call_it_localhost_too(small: Running) -> None:
    with OpenAI(base_url=f"http://localhost:{small.port}/v1", api_key="none", max_retries=0) as openai:
        assert openai.audio.transcriptions.create(model="tones", file=("a.wav", wav())).text == TEXT
    with connect(f"ws://localhost:{small.port}/v1/realtime?intent=transcription") as websocket:
        assert json.loads(websocket.recv())["type"] == "session.created"


LOCAL, NAMED = Hosts("127.0.0.1"), Hosts("127.0.0.1", ["Speech.Example.org"])
OPEN, KEYS = Hosts("0.0.0.0"), Hosts("0.0.0.0", keys=True)
BOTH = Hosts("0.0.0.0", ["speech.example.org"], keys=True)


@pytest.mark.parametrize(
    ("header", "let_in"),
    [
        ("localhost", [LOCAL, NAMED, OPEN, KEYS, BOTH]),
        ("LOCALHOST.:8000", [LOCAL, NAMED, OPEN, KEYS, BOTH]),
        ("127.0.0.1:8000", [LOCAL, NAMED, OPEN, KEYS, BOTH]),
        ("[::1]:8000", [LOCAL, NAMED, OPEN, KEYS, BOTH]),
        ("192.168.1.5:8000", [OPEN, KEYS, BOTH]),
        ("[fe80::1]", [OPEN, KEYS, BOTH]),
        (f"{socket.gethostname()}:8000", [OPEN, KEYS, BOTH]),
        ("speech.example.org", [NAMED, KEYS, BOTH]),
        ("speech.example.org:443", [NAMED, KEYS, BOTH]),
        ("evil.example", [KEYS]),
        ("localhost:evil.example", [KEYS]),
        ("localhost@evil.example", [KEYS]),
        ("speech.example.org.evil.example", [KEYS]),
    ],
)
def test_a_name_is_that_of_the_machine_or_was_given(header: str, let_in: list[Hosts]) -> None:
    assert [hosts for hosts in (LOCAL, NAMED, OPEN, KEYS, BOTH) if hosts.admits(header)] == let_in


# --------------------------------------------------------------------------------------------------------- limits


def test_a_body_that_is_too_large_is_refused_by_its_header_and_by_its_size(small: Running) -> None:
    found = small.transcribe(bytes(600_000))
    assert found.status == 413 and "larger than 0.5 MB (the server's --max-body-mb)" in found.error["message"]
    body, kind = form({"model": "tones"}, bytes(600_000))
    with small.connect() as connection:
        connection.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode())
        connection.sendall(f"Content-Type: {kind}\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert b"HTTP/1.1 413" in connection.recv(100)


def test_audio_that_is_too_long_is_refused_whatever_its_size(small: Running) -> None:
    content = as_file(np.zeros(6 * 16000), kind="FLAC")
    found = small.transcribe(content)
    assert len(content) < 50_000 and found.status == 413
    assert "longer than 5 s (the server's --max-audio-s)" in found.error["message"]


def test_a_head_that_does_not_come_ends_the_connection(small: Running) -> None:
    for sent in (b"", b"GET /health HTTP/1.1\r\nHost:", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he"):
        with small.connect() as connection:
            connection.sendall(sent)
            found = ended(connection)
        assert found.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


def test_a_body_that_comes_too_slowly_ends_the_request(small: Running) -> None:
    with small.connect() as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Type: multipart/form-data; boundary=x"
        )
        connection.sendall(head.encode() + b"\r\n\r\n--x\r\n")
        assert b"HTTP/1.1 408" in (found := ended(connection)) and b"--max-request-s" in found


def test_a_connection_too_many_is_told_so(small: Running) -> None:
    held = [small.connect() for _ in range(8)]
    try:
        with small.connect() as connection:
            assert b"HTTP/1.1 503" in (found := ended(connection)) and b"(its --max-connections)" in found
    finally:
        for connection in held:
            connection.close()
    wait_for(lambda: len(held) == 8 and small.get("/health").status == 200)


def test_a_client_that_leaves_gives_its_place_free(small: Running) -> None:
    body, kind = form({"model": "tones"}, wav())
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nContent-Type: {kind}\r\n\r\n".encode()
    for sent in (head, head + body[:1000], head + body):
        with small.connect() as connection:
            connection.sendall(sent)
    wait_for(lambda: small.engine.active == 0 and small.engine._held == 0)
    wait_for(lambda: small.engine.pool.metrics().queued == small.engine.pool.metrics().running == 0)


def test_a_message_never_has_a_path_of_the_server(edge: Recognizer, small: Running) -> None:
    for fields in ({"depth": 9}, {"language": "de"}, {"hotwords": "low :9"}, {"hotwords": "zyx"}):
        assert str(edge.folder) not in small.transcribe(**fields).body.decode()
    assert str(edge.folder) not in small.get("/v1/models").body.decode() + small.get("/metrics").body.decode()


@pytest.mark.parametrize("name", ["max_body_mb", "max_audio_s", "max_request_s", "max_connections"])
def test_a_limit_is_a_number_above_zero(name: str) -> None:
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(UserError, match=f"^{option} is 0; give a number above 0$"):
        Limits(**{name: 0})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": ["a b"]}, "--name is 'a b'"),
        ({"language": "English"}, "--language is 'English'"),
        ({"port": 8000, "wyoming_port": 8000}, "--wyoming-port is 8000, as --port is"),
        ({"cors_origin": ["*"]}, r"--cors-origin is '\*'"),
        ({"cors_origin": ["https://a.example/path"]}, "without a path"),
        ({"allow_host": ["a.example:8000"]}, "--allow-host is 'a.example:8000'; .* without a port"),
        ({"allow_host": ["*"]}, r"--allow-host is '\*'"),
    ],
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ServeOptions(**options)  # type: ignore[arg-type]


def test_a_port_that_was_taken_before_the_model_was_loaded_is_said() -> None:
    first = bind("127.0.0.1", 0, "port")
    second = bind("127.0.0.1", first.getsockname()[1], "port")  # as long as nobody listens there
    with first, second, pytest.raises(UserError, match="is taken by another program; give another --port"):
        first.listen()
        Sockets(second, None).listen()


def test_a_server_that_cannot_listen_ends_the_threads_of_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    port, ended = bind("127.0.0.1", 0, "port"), list[str]()

    def open_engine(options: ServeOptions) -> tuple[SimpleNamespace, Access]:
        port.listen()  # another server, meanwhile
        return SimpleNamespace(close=lambda: ended.append("closed")), Access(Hosts("127.0.0.1"))

    monkeypatch.setattr(opening, "open_engine", open_engine)
    with port, pytest.raises(UserError, match="is taken by another program"):
        serve(ServeOptions(port=port.getsockname()[1]))
    assert ended == ["closed"]


# ---------------------------------------------------------------------------------------------------------- the end


def test_a_server_that_stops_answers_what_has_begun_and_refuses_the_rest(edge: Recognizer) -> None:
    with running(edge) as server:
        waiting = server.connect()
        body, kind = form({"model": "tones"}, wav())
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nContent-Type: {kind}\r\n\r\n"
        waiting.sendall(head.encode())
        other = server.connect()
        other.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += other.recv(1000)
        assert b"200 OK" in answer
        wait_for(lambda: server.engine.active == 1)
        server.stop()
        wait_for(server.engine.stop.is_set)
        other.sendall(head.encode() + body)
        assert b"503" in other.recv(20)
        waiting.sendall(body)
        assert TEXT.encode() in ended(waiting)
        server.thread.join()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        waiting.close()
        other.close()


@pytest.mark.medium
def test_the_command_serves_and_ends_with_a_signal(exported: Path, tmp_path: Path) -> None:
    words = ["serve", exported, "--port", "0", "--wyoming-port", "0", "--name", "whisper-1", "--name", "tones"]
    words += ["--allow-host", "speech.example.org"]
    for program in ("layerdial", "layerdial.cli.device"):
        code = f"from {'layerdial.cli.app' if program == 'layerdial' else program} import main; main()"
        started = [sys.executable, "-c", code, *map(str, words)]
        with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            assert lines[0] == "serving: whisper-1, tones (depths 1, 2, 3)\n" and "127.0.0.1" in lines[1]
            port = int(lines[1].rsplit(":", 1)[1].split("/")[0])
            with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as openai:
                assert openai.audio.transcriptions.create(model="whisper-1", file=("a.wav", wav())).text == TEXT
            assert [status(port, host) for host in ("speech.example.org", "evil.example")] == [200, 403]
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped\n")
        assert not err or ("no profile" in err and err.count("\n") == 1)
