"""When a chunk of a stream was there: stalls leave nothing behind, and files that come at once do not wait."""

from __future__ import annotations

import pytest

from layerdial.recognition.chunk_arrivals import ChunkArrivals

CHUNK = 0.16


def dues(parts: list[tuple[float, float]], chunks: int) -> list[float]:
    """When chunks were there of sound that came as (seconds of it in all, at)."""
    arrivals, found = ChunkArrivals(CHUNK), []
    for seconds, at in parts:
        arrivals.follow(round(seconds * 16_000), at)
    for _ in range(chunks):
        found.append(arrivals.due)
        arrivals.took()
    return found


def test_a_chunk_is_there_with_the_part_that_completes_it() -> None:
    parts = [(0.1 * (i + 1), 0.1 * (i + 1)) for i in range(20)]
    assert dues(parts, 5) == pytest.approx([0.2, 0.4, 0.5, 0.7, 0.9])


def test_a_stall_is_over_with_the_chunks_that_it_held_up() -> None:
    stalled = [(0.1 * (i + 1), max(0.1 * (i + 1), 1.0 if 3 <= i < 9 else 0.0)) for i in range(20)]
    smooth = [(0.1 * (i + 1), 0.1 * (i + 1)) for i in range(20)]
    assert dues(stalled, 10)[:7] == pytest.approx([0.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.2])
    assert dues(stalled, 10)[7:] == pytest.approx(dues(smooth, 10)[7:])


def test_a_file_that_comes_at_once_has_not_waited() -> None:
    found = dues([(10.0, 5.0)], 20)
    assert found[:2] == [5.0, 5.0] and found[2:] == pytest.approx([5.0 + CHUNK * i for i in range(2, 20)])


def test_what_is_remembered_does_not_grow() -> None:
    arrivals = ChunkArrivals(CHUNK)
    for i in range(10_000):
        arrivals.follow(160 * (i + 1), 0.01 * i)
        if i % 16 == 15:
            assert arrivals.due >= 0.0
            arrivals.took()
    assert len(arrivals._came) < 40
