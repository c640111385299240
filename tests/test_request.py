"""A request checks itself before any model is asked."""

from __future__ import annotations

import math
from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.request import Request
from layerdial.subset import BlockSubset


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"deadline_ms": 5, "target_rtf": 1}, "give one of deadline_ms, target_rtf, not 2"),
        ({"depth": 1, "deadline_ms": 5}, "give one of depth, deadline_ms, not 2"),
        ({"depth": 1, "subset": BlockSubset.full(3)}, "give one of depth, subset, not 2"),
        ({"max_cpu": 1, "target_rtf": 1, "depth": 1}, "give one of depth, target_rtf, max_cpu, not 3"),
        ({"deadline_ms": 0}, "deadline_ms is 0; give a number above 0"),
        ({"deadline_ms": -1.5}, "deadline_ms is -1.5; give a number above 0"),
        ({"deadline_ms": math.nan}, "deadline_ms is nan; give a number above 0"),
        ({"target_rtf": 0.0}, r"target_rtf is 0\.0; give a number above 0"),
        ({"target_rtf": math.nan}, "target_rtf is nan; give a number above 0"),
        ({"max_cpu": -1}, "max_cpu is -1; give a number above 0"),
        ({"confidence": 1.1}, r"confidence is 1\.1; give a number from 0 to 1"),
        ({"confidence": -0.1}, r"confidence is -0\.1; give a number from 0 to 1"),
        ({"confidence": math.nan}, "confidence is nan; give a number from 0 to 1"),
        ({"lm_weight": 0.5}, "lm_weight is of a language model; give lm too"),
        ({"lm": "a.arpa", "lm_weight": -1}, "lm_weight is -1; give a number of 0 or more"),
        ({"lm": "a.arpa", "word_bonus": math.nan}, "word_bonus is nan; give a number"),
        ({"word_bonus": 1}, "word_bonus is of a beam search; give beams, hotwords or lm too"),
        ({"task": "sing"}, "task is 'sing'; choose transcribe or translate"),
        ({"first_depth": 2}, "first_depth is what runs before another depth; give confidence too"),
    ],
    ids=str,
)
def test_a_request_that_makes_no_sense_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as problem:
        Request(**asked)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("asked", "constraints"),
    [
        ({}, ()),
        ({"depth": 2}, ()),
        ({"subset": BlockSubset.full(3)}, ()),
        ({"deadline_ms": 0.1}, ("deadline_ms",)),
        ({"target_rtf": math.inf, "confidence": 1}, ("target_rtf", "confidence")),
        ({"depth": 2, "confidence": 0, "first_depth": 1}, ("confidence",)),
    ],
    ids=str,
)
def test_constraints_are_what_leaves_the_depth_to_the_recogniser(
    asked: dict[str, Any], constraints: tuple[str, ...]
) -> None:
    assert Request(**asked).constraints == constraints


@pytest.mark.parametrize("asked", [{"language": "de"}, {"task": "translate"}, {"decoder_depth": 2}], ids=str)
def test_what_only_a_decoder_can_do_is_refused_for_others(asked: dict[str, Any]) -> None:
    Request(depth=1, timestamps=False).refuse_decoder_options("small")
    with pytest.raises(UserError, match=f"{next(iter(asked))} is for encoder-decoder models such as Whisper; small is"):
        Request(**asked).refuse_decoder_options("small")
