"""`layerdial serve`, for the full command line and for that of the device."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from layerdial.errors import UserError, needing
from layerdial.registry import DEFAULT
from layerdial.serving.limits import Limits

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_LANGUAGE = re.compile(r"[a-z]{2,3}")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command, with their help texts. Raises `UserError` for those that are invalid."""

    model: str = DEFAULT
    host: str = _option("127.0.0.1", "the address to listen at; 0.0.0.0 lets other machines in")
    port: int = _option(8000, "the port of HTTP and websockets; 0 takes a free one")
    wyoming_port: int | None = _option(None, "the port of the Wyoming protocol (Home Assistant); none if left out")
    api_key_file: Path | None = _option(None, "a file of keys, one a line; clients must send one of them")  # noqa: RUF009
    name: Sequence[str] = _option((), "the name by which clients call the model, such as whisper-1; may be repeated")
    language: str | None = _option(None, "what a CTC model is for, such as en, told to clients that ask")
    min_depth: int | None = _option(None, "no request runs shallower than this under load")
    cors_origin: Sequence[str] = _option((), "a site whose pages may use the server; may be repeated")
    threads: int | None = _option(None, "threads of one request; else the fastest in the profile")
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in self.name:
            if not _NAME.fullmatch(name):
                raise UserError(f"--name is {name!r}; give letters, digits and . _ / -")
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise UserError(f"--language is {self.language!r}; give a code such as en")
        for origin in self.cors_origin:
            if not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise UserError(f"--cors-origin is {origin!r}; give a site such as https://example.org, without a path")

    @classmethod
    def help(cls, name: str) -> str:
        """Return the help text of a field, for command lines."""
        return str(cls.__dataclass_fields__[name].metadata["help"])


def serve(options: ServeOptions) -> None:
    """Serve a model until a signal ends it. Raises `UserError` for what cannot be served or bound."""
    with needing("serve", "the server needs"):
        from layerdial.serving.engine import Engine
        from layerdial.serving.keys import read_keys
        from layerdial.serving.server import Sockets, bind, run_server
    from layerdial.runtime.recognizer import OnnxRecognizer
    from layerdial.serving.pool import Pool

    keys = read_keys(options.api_key_file) if options.api_key_file is not None else None
    wyoming = None if options.wyoming_port is None else bind(options.host, options.wyoming_port, "wyoming-port")
    sockets = Sockets(bind(options.host, options.port, "port"), wyoming)
    recognizer = OnnxRecognizer(options.model, options.threads)
    if options.min_depth is not None:
        recognizer.subset(options.min_depth)
    names = tuple(options.name) or (recognizer.manifest.name or recognizer.folder.name,)
    recognizer.warm_up()
    pool = Pool(recognizer, min_depth=options.min_depth)
    engine = Engine(recognizer, pool, names, options.limits, options.language)
    _warn(options, keys is not None)
    _tell(engine.names, engine.depths, sockets)
    try:
        run_server(engine, sockets, keys, options.cors_origin)
    finally:
        engine.close()
    print("stopped", flush=True)


def _warn(options: ServeOptions, keys: bool) -> None:
    """Warn where other machines can use the server and nothing keeps them out."""
    if _is_local(options.host):
        return
    if not keys:
        _log.warning("any machine that reaches %s can use this server; --api-key-file ends that", options.host)
    elif options.wyoming_port is not None:
        _log.warning("Wyoming has no keys: any machine that reaches port %d can use it", options.wyoming_port)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tell(names: Sequence[str], depths: Sequence[int], sockets: Any) -> None:
    host, port = sockets.http.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serving: {', '.join(names)} (depths {', '.join(map(str, depths))})")
    print(f"http:    http://{shown}:{port}/v1/audio/transcriptions")
    if sockets.wyoming is not None:
        print(f"wyoming: tcp://{shown}:{sockets.wyoming.getsockname()[1]}")
    print("ends:    with Ctrl-C or SIGTERM, after the requests that have begun", flush=True)
