"""`layerdial serve --ray`: the same application as a Ray Serve deployment, whose replicas follow the queue."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Any

from layerdial.errors import UserError, needing
from layerdial.runtime.cluster import cluster
from layerdial.serving.options import ServeOptions

NAME = "layerdial"
_QUEUED = 2  # requests that a replica has at a time; with more for some seconds, another one is started


def serve_on_ray(options: ServeOptions) -> None:
    """Serve a model on a Ray cluster until a signal ends it. Raises `UserError` for what is not served there."""
    if options.wyoming_port is not None:
        raise UserError("--ray serves HTTP and websockets alone; leave out --wyoming-port, or --ray")
    with needing("serve", "the server needs"):
        from layerdial.serving.opening import open_engine
    engine, _ = open_engine(options)  # what cannot be served is said here, in one line
    names = ", ".join(engine.names)
    engine.close()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with cluster() as cpus:
        start(options, cpus)
        print(f"serving: {names} (1 to {replicas(options, cpus)} replicas)")
        print(f"http:    http://{options.host}:{options.port}/v1/audio/transcriptions")
        print("ends:    with Ctrl-C or SIGTERM, after the requests that have begun", flush=True)
        ended.wait()
        stop()
    print("stopped", flush=True)


def start(options: ServeOptions, cpus: int) -> None:
    """Start the replicas and what hands requests to them. Raises `UserError` where that fails."""
    with needing("ray", "--ray needs"):
        from ray import serve
    serve.start(http_options={"host": options.host, "port": options.port}, logging_config={"log_level": "WARNING"})
    try:
        serve.run(_deployment(options, cpus).bind(), name=NAME, route_prefix="/")
    except RuntimeError as error:
        stop()
        raise UserError(f"the replicas do not start: {str(error).splitlines()[0]}") from None


def stop() -> None:
    """End the replicas, after the requests that have begun."""
    from ray import serve

    serve.shutdown()


def replicas(options: ServeOptions, cpus: int) -> int:
    """Return how many replicas there are at the most."""
    return options.replicas or cpus


def _deployment(options: ServeOptions, cpus: int) -> Any:
    from ray import serve

    def build() -> Any:
        from layerdial.serving.app import make_app
        from layerdial.serving.opening import open_engine

        logging.getLogger("layerdial").setLevel(logging.WARNING)
        return make_app(*open_engine(options))

    scaling = {
        "min_replicas": 1,
        "max_replicas": replicas(options, cpus),
        "target_ongoing_requests": _QUEUED,
        "upscale_delay_s": 5,
    }
    return serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        autoscaling_config=scaling,
        max_ongoing_requests=options.limits.max_connections,
        graceful_shutdown_timeout_s=options.limits.max_request_s,
        ray_actor_options={"num_cpus": 1},
    )
