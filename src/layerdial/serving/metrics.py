"""The figures of a server in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from layerdial.serving.jobs import Metrics, Served
from layerdial.serving.streams import StreamHub

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STATES = {
    "queued": "Jobs that wait.",
    "running": "Jobs that are computed now.",
    "workers": "Windows that can be computed at a time.",
    "load": "The time that work takes now over its time on the idle device.",
}
_COUNTS = {
    "answered": "Jobs that were answered.",
    "refused": "Jobs that were refused, because they could not be done in time.",
    "cancelled": "Jobs that were given up by their clients.",
    "failed": "Jobs that ended with an error.",
    "late": "Jobs that were answered after their deadline.",
    "audio_seconds": "Seconds of audio answered.",
}


class ServerMetrics:
    """What is counted of each request, and the figures of the pool when they are asked for."""

    def __init__(self, pool: Callable[[], Metrics], streams: StreamHub | None = None) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_OfPool(pool))
        if streams is not None:
            self._registry.register(_OfStreams(streams))
        self.requests = Counter(
            "layerdial_requests", "Requests by protocol and status.", ("protocol", "status"), registry=self._registry
        )
        self._seconds, self._waited = (
            Histogram(name, text, buckets=_SECONDS, registry=self._registry)
            for name, text in (
                ("layerdial_answer_seconds", "From a job's arrival to its answer."),
                ("layerdial_queue_seconds", "From a job's arrival to its first window."),
            )
        )

    def answered(self, served: Served) -> None:
        """Count an answer."""
        self._seconds.observe(served.took_ms / 1000.0)
        self._waited.observe(served.waited_ms / 1000.0)

    def text(self) -> bytes:
        """Return all figures."""
        return generate_latest(self._registry)


class _OfPool(Collector):
    """The pool's own figures."""

    def __init__(self, pool: Callable[[], Metrics]) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        found = self._pool()
        for name, text in _STATES.items():
            yield GaugeMetricFamily(f"layerdial_{name}", text, value=getattr(found, name))
        for name, text in _COUNTS.items():
            yield CounterMetricFamily(f"layerdial_{name}", text, value=getattr(found, name))
        depths = CounterMetricFamily("layerdial_windows", "Windows of audio by the depth that ran.", labels=["depth"])
        for depth, count in sorted(found.by_depth.items()):
            depths.add_metric([str(depth)], count)
        yield depths

    def describe(self) -> list[Metric]:
        return []  # else the pool is asked while the registry is made


class _OfStreams(Collector):
    """The figures of the streams."""

    def __init__(self, streams: StreamHub) -> None:
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("layerdial_streams", "Streams that are open.", value=self._streams.open)
        text = "The time that chunks take now over their time on the idle device."
        yield GaugeMetricFamily("layerdial_stream_load", text, value=self._streams.load)
        depths = CounterMetricFamily("layerdial_chunks", "Chunks of streams by the depth that ran.", labels=["depth"])
        for depth, count in sorted(self._streams.by_depth.copy().items()):
            depths.add_metric([str(depth)], count)
        yield depths

    def describe(self) -> list[Metric]:
        return []
