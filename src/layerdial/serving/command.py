"""`layerdial serve`, for the full command line and for that of the device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from layerdial.errors import needing
from layerdial.serving.hosts import is_local
from layerdial.serving.options import ServeOptions

_log = logging.getLogger(__name__)


def serve(options: ServeOptions) -> None:
    """Serve a model until a signal ends it. Raises `UserError` for what cannot be served or bound."""
    if options.ray:
        from layerdial.serving.on_ray import serve_on_ray

        _warn(options, options.api_key_file is not None)
        serve_on_ray(options)
        return
    with needing("serve", "the server needs"):
        from layerdial.serving.opening import open_engine
        from layerdial.serving.server import Sockets, bind, run_server

    wyoming = None if options.wyoming_port is None else bind(options.host, options.wyoming_port, "wyoming-port")
    sockets = Sockets(bind(options.host, options.port, "port"), wyoming)
    engine, access = open_engine(options)
    try:  # its threads would keep the process alive
        _warn(options, access.keys is not None)
        sockets.listen()  # what connects from now on waits until it is taken
        _tell(engine.names, engine.depths, sockets)
        run_server(engine, sockets, access)
    finally:
        engine.close()
    print("stopped", flush=True)


def _warn(options: ServeOptions, keys: bool) -> None:
    """Warn where other machines can use the server and nothing keeps them out."""
    if is_local(options.host):
        return
    if not keys:
        _log.warning("any machine that reaches %s can use this server; --api-key-file ends that", options.host)
    elif options.wyoming_port is not None:
        _log.warning("Wyoming has no keys: any machine that reaches port %d can use it", options.wyoming_port)


def _tell(names: Sequence[str], depths: Sequence[int], sockets: Any) -> None:
    host, port = sockets.http.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serving: {', '.join(names)} (depths {', '.join(map(str, depths))})")
    print(f"page:    http://{shown}:{port}/")
    print(f"http:    http://{shown}:{port}/v1/audio/transcriptions")
    if sockets.wyoming is not None:
        print(f"wyoming: tcp://{shown}:{sockets.wyoming.getsockname()[1]}")
    print("ends:    with Ctrl-C or SIGTERM, after the requests that have begun", flush=True)
