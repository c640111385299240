"""A local HTTP server for the files of a folder, with the faults that servers and networks have."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    """What it serves, what goes wrong, and what it was asked for.

    `cuts` are the bytes after which the connection breaks, a number for each of the next answers. `changes` are the
    contents of files other than those in the folder.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    says_length: bool = True
    cuts: list[int] = field(default_factory=list)
    changes: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve the folder until the end of the block."""
    server = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            _answer(self, server)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, server: Server) -> None:
    wanted = handler.headers.get("Range")
    server.asked.append((handler.path, wanted))
    file = server.folder / handler.path.lstrip("/")
    if server.status != 200 or not file.is_file():
        handler.send_error(server.status if server.status != 200 else 404)
        return
    contents = server.changes.get(file.name, file.read_bytes())
    start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0  # type: ignore[index]
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(contents) - 1}/{len(contents)}")
    if server.says_length:
        handler.send_header("Content-Length", str(len(contents) - start))
    handler.end_headers()
    end = start + server.cuts.pop(0) if server.cuts else len(contents)
    handler.wfile.write(contents[start:end])
