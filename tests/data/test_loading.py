"""Workers read ahead as far as /dev/shm holds it."""

from __future__ import annotations

import logging

import pytest

from layerdial.audio.features import LogMel, Samples
from layerdial.data import loading
from layerdial.data.loading import reading_ahead

MEL, WAVE = LogMel(4), Samples(((400, 320, 0),), True)


@pytest.mark.parametrize(
    ("free_mb", "workers", "seconds", "features", "expected"),
    [
        (None, 4, 600.0, WAVE, (4, 4)),
        (4096, 4, 600.0, WAVE, (4, 4)),
        (64, 4, 30.0, MEL, (4, 4)),
        (64, 4, 200.0, WAVE, (1, 2)),
        (64, 4, 60.0, WAVE, (4, 1)),
        (64, 8, 600.0, WAVE, (0, None)),
        (0, 2, 1.0, MEL, (0, None)),
        (0, 0, 600.0, WAVE, (0, None)),
    ],
)
def test_fewer_workers_and_batches_ahead_where_they_would_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    free_mb: int | None,
    workers: int,
    seconds: float,
    features: LogMel,
    expected: object,
) -> None:
    monkeypatch.setattr(loading, "_free_bytes", lambda: None if free_mb is None else free_mb * 2**20)
    found = reading_ahead(workers, seconds, features, 4)
    assert (found["num_workers"], found["prefetch_factor"]) == expected
    if free_mb and found["num_workers"]:
        batch = 1.5 * seconds * (64_000 if features is WAVE else 32_000)
        assert found["num_workers"] * ((found["prefetch_factor"] or 0) + 1) * batch <= free_mb * 2**20


def test_it_is_said_in_one_line_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(loading, "_free_bytes", lambda: 64 * 2**20)
    loading._say.cache_clear()
    with caplog.at_level(logging.INFO, "layerdial"):
        for _ in range(3):
            reading_ahead(8, 600.0, WAVE, 4)
            reading_ahead(1, 10.0, MEL, 4)
    [message] = caplog.messages
    assert message.startswith("/dev/shm has 64 MB free, 8 workers that read 4 batches of 54.9 MB ahead")
    assert "this process reads by itself" in message and "--shm-size" in message


def test_there_is_memory_to_pass_batches_through_here() -> None:
    free = loading._free_bytes()
    assert free is None or free >= 0
