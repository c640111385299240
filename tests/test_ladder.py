"""A ladder comes back as it was saved, is refused where it does not belong, and rules choose blocks by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerdial.errors import UserError
from layerdial.evaluation.search import search_ladder
from layerdial.ladder import Ladder, select, select_all
from layerdial.subset import BlockSubset
from tiny_evaluation import additive, make_batches, rugged


def test_ladder_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    ladder = search_ladder(rugged(4, 3), make_batches(2), cuts="dev")
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json", n_blocks=4) == ladder
    stored = json.loads((tmp_path / "ladder.json").read_text())
    assert stored["format"] == 1
    assert set(stored["rungs"][0]) == {"depth", "subset", "loss", "wer", "errors", "words"}
    assert ladder.subset(4) == BlockSubset.full(4)
    with pytest.raises(UserError, match="depth 5 does not exist in an encoder of 4 blocks"):
        ladder.subset(5)


def test_ladder_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    search_ladder(rugged(4, 3), make_batches(2)).save(path)
    with pytest.raises(UserError, match=r"ladder\.json is for 4 blocks, this model has 6"):
        Ladder.load(path, n_blocks=6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": 2}, "has format 2; this layerdial reads format 1"),
        (lambda d: [d], "it holds no JSON object"),
        (lambda d: {k: v for k, v in d.items() if k != "rungs"}, "is damaged"),
        (lambda d: d | {"rungs": d["rungs"][1:]}, r"rungs 1 to 3, found \[2, 3\]"),
        (lambda d: d | {"shallowest": 2}, r"rungs 2 to 3, found \[1, 2, 3\]"),
        (lambda d: d | {"shallowest": 4, "rungs": []}, "depth 4 does not exist"),
        (lambda d: d | {"shallowest": 1.5}, "is damaged"),
        (lambda d: d | {"rungs": "abc"}, "is damaged"),
        (lambda d: d | {"rungs": [d["rungs"][0] | {"subset": "110"}, *d["rungs"][1:]]}, "cannot have the subset 110"),
        (lambda d: d | {"rungs": [d["rungs"][0] | {"subset": "x"}, *d["rungs"][1:]]}, "made of 0 and 1"),
        (lambda d: d | {"rungs": [d["rungs"][0] | {"errors": None}, *d["rungs"][1:]]}, "is damaged"),
    ],
)
def test_a_damaged_ladder_is_one_clear_line(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    path = tmp_path / "ladder.json"
    search_ladder(rugged(3, 0), make_batches(2)).save(path)
    plain = json.loads(path.read_text())
    del plain["record_sha256"]  # as one of an earlier version, or a person's
    path.write_text(json.dumps(change(plain)))
    with pytest.raises(UserError, match=message) as caught:
        Ladder.load(path)
    assert "\n" not in str(caught.value)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Ladder.load(path)


def test_selection_rules() -> None:
    ladder = search_ladder(additive([1, 4, 2, 3]), make_batches(2))
    keys = {rule: [s.key for s in select_all(rule, [1, 3], 4, ladder)] for rule in ("ladder", "prefix", "even")}
    assert keys == {"ladder": ["0100", "0111"], "prefix": ["1000", "1110"], "even": ["1000", "1011"]}
    assert [s.depth for s in select_all("random", None, 4, seed=3)] == [1, 2, 3, 4]
    assert select_all("random", None, 8, seed=3) == select_all("random", None, 8, seed=3)
    assert select_all("random", None, 8, seed=3) != select_all("random", None, 8, seed=4)


def test_a_ladder_that_begins_above_one_refuses_what_was_not_trained(tmp_path: Path) -> None:
    whole = search_ladder(additive([1, 4, 2, 3]), make_batches(2))
    ladder = replace(whole, rungs=whole.rungs[2:], shallowest=3)
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json", 4) == ladder
    assert [s.key for s in select_all("ladder", None, 4, ladder)] == ["0111", "1111"]
    with pytest.raises(UserError, match=r"trained at depths 3 to 4, found depth 2") as problem:
        ladder.subset(2)
    assert "\n" not in str(problem.value)
    for depth in (0, 9):
        with pytest.raises(UserError, match=f"depth {depth} does not exist in an encoder of 4 blocks; choose 3 to 4"):
            select(None, 4, depth, ladder)


def test_selection_refuses_what_is_not_there() -> None:
    with pytest.raises(UserError, match=r"no ladder\.json; run layerdial search first, or choose --select even"):
        select_all("ladder", [1], 4)
    with pytest.raises(UserError, match="choose one of ladder, prefix, even, random"):
        select_all("best", [1], 4)
    with pytest.raises(UserError, match="depth 0 does not exist"):
        select_all("even", [0], 4)
