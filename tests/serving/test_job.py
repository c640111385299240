"""Jobs check themselves: what excludes each other, and what is the pool's to keep, is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.serving.jobs import Job


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 2, "min_depth": 1}, "give one of depth, min_depth"),
        ({"deadline_ms": 0.0}, "deadline_ms is 0.0; give a number above 0"),
        ({"deadline_ms": float("nan")}, "deadline_ms is nan"),
        ({"deadline_ms": float("inf")}, "deadline_ms is inf"),
        ({"request": Request(depth=2)}, "depth of a request"),
        ({"request": Request(deadline_ms=2.0)}, "deadline_ms of a request"),
        ({"request": Request(confidence=0.5)}, "confidence of a request"),
        ({"request": Request(vad=True)}, "vad of a request"),
    ],
)
def test_a_job_refuses_what_it_cannot_keep(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Job("a.wav", **fields)
    assert "\n" not in str(refused.value)


def test_search_options_belong_to_the_request() -> None:
    job = Job("a.wav", Request(hotwords=["Eyre"], words=True), min_depth=2, deadline_ms=100.0)
    assert job.request.hotwords == ["Eyre"] and job.min_depth == 2
