"""A pool over an exported encoder-decoder model: words, segments and long audio come as one recogniser gives them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from layerdial.request import Request
from layerdial.serving import Job, Pool
from tiny_runtime import HALF_A_MINUTE, LONG_AUDIO, NEVER_MS
from tiny_whisper import Pair

pytest_plugins = ["tiny_whisper_edge"]


@pytest.fixture
def pool(pair: Pair) -> Iterator[Pool]:
    with Pool(pair.onnx, workers=2) as made:
        yield made


@pytest.mark.medium
@pytest.mark.parametrize("options", [{}, {"timestamps": True}, {"beams": 2}])
def test_it_writes_what_one_recogniser_writes(pool: Pool, pair: Pair, options: dict[str, object]) -> None:
    audio = LONG_AUDIO[: 2 * len(HALF_A_MINUTE)] if "timestamps" in options else HALF_A_MINUTE
    served = pool.submit(Job(audio, Request(**options), depth=2, deadline_ms=NEVER_MS)).result()
    alone = pair.onnx.answer(audio, Request(depth=2, **options))
    assert served.transcript.text == alone.text and served.transcript.segments == alone.segments
    assert served.depth == 2 and served.reason.startswith("depth 2 was asked for")


def test_the_decoder_is_part_of_what_a_request_is_reckoned_to_take(pool: Pool) -> None:
    queue, controller = pool._queue, pool.recognizer.controller
    seconds = 10.0
    text_ms = controller.costs.decoding(seconds, controller.expected_steps(seconds))
    assert text_ms > 0
    assert 1000.0 * queue._window_s(1, seconds) > controller.costs.network(1, seconds) + text_ms
