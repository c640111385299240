"""The figures of a pool: what became of its jobs."""

from __future__ import annotations

from collections import Counter, deque

from layerdial.serving.jobs import Metrics, Served

_QUANTILES = (0.5, 0.95, 0.99)
_LAST = 1000  # answers that the quantiles are of


class Counts:
    """Counters of one pool; it is not safe for several threads at once."""

    def __init__(self) -> None:
        self.submitted = self.refused = 0
        self._answered = self._cancelled = self._failed = self._late = 0
        self._by_depth = Counter[int]()
        self._audio_seconds = 0.0
        self._took_ms = deque[float](maxlen=_LAST)

    def ran(self, depth: int, seconds: float) -> None:
        """Count a window."""
        self._by_depth[depth] += 1
        self._audio_seconds += seconds

    def ended(self, result: Served | BaseException | None) -> None:
        """Count a job that is over: with its answer, with an error, or cancelled."""
        if result is None:
            self._cancelled += 1
        elif isinstance(result, Served):
            self._answered += 1
            self._late += result.late
            self._took_ms.append(result.took_ms)
        else:
            self._failed += 1

    def metrics(self, queued: int, running: int, workers: int, load: float) -> Metrics:
        """Return the figures with the state of the queue now."""
        ordered = sorted(self._took_ms)
        quantiles = {share: ordered[int(share * len(ordered))] for share in _QUANTILES} if ordered else {}
        return Metrics(
            submitted=self.submitted,
            answered=self._answered,
            refused=self.refused,
            cancelled=self._cancelled,
            failed=self._failed,
            late=self._late,
            queued=queued,
            running=running,
            workers=workers,
            by_depth=dict(sorted(self._by_depth.items())),
            audio_seconds=self._audio_seconds,
            load=load,
            latency_ms=quantiles,
        )
