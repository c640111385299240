"""Manifests with damaged or hostile lines: one line of ours, in bounded memory and time."""

from __future__ import annotations

import copy
import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import MonoCut

from layerdial.data import manifest as manifests
from layerdial.data.corpora.folder import join_cuts
from layerdial.data.manifest import cut_speaker, cut_text, load_samples, open_cuts
from layerdial.errors import UserError
from layerdial.utils.files import contents
from tiny import write_cut

VALUES: tuple[Any, ...] = (
    None, True, "", "x", "-1", [], {}, [[]], -1, 0, 1e-300, -0.5, 10**6, 10**12, 2**63, 10**400, 1e308,
    float("nan"), float("inf"), "\0", "é" * 100, {"id": 1}, [1, 2, 3],
)  # fmt: skip


@pytest.fixture
def cuts(tmp_path: Path) -> list[MonoCut]:
    return [write_cut(tmp_path, name, np.full(8000, 0.1, np.float32), "some words") for name in ("a", "b")]


def write(folder: Path, *lines: bytes | dict[str, Any]) -> Path:
    path = folder / "bad.cuts.jsonl.gz"
    content = b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines)
    path.write_bytes(gzip.compress(content))
    return path


def places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place within a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*where, key)
        yield from places(part, (*where, key))


def changed(record: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    owner: Any = record
    for key in place[:-1]:
        owner = owner[key]
    if value is KeyError:
        del owner[place[-1]]
    else:
        owner[place[-1]] = value
    return record


@pytest.mark.parametrize("kind", ["single", "joined", "padded", "quieter"])
def test_whatever_stands_in_a_cut_it_is_read_or_refused_in_one_line(
    tmp_path: Path, cuts: list[MonoCut], kind: str
) -> None:
    whole = {
        "single": cuts[0],
        "joined": join_cuts("ab", cuts, random.Random(0)),
        "padded": cuts[0].pad(duration=1.0),
        "quieter": cuts[0].perturb_volume(0.5),
    }[kind].to_dict()
    rng, refused = random.Random(kind), 0
    everywhere = [(place, value) for place in places(whole) for value in (*VALUES, KeyError)]
    for place, value in rng.sample(everywhere, min(len(everywhere), 400)):
        path = write(tmp_path, changed(whole, place, value))
        try:
            for cut in open_cuts(path):
                assert isinstance(cut_text(cut), str) and cut_speaker(cut) and 0 <= cut.duration < 1e6
                assert len(load_samples(cut)) < 10**6
        except UserError as problem:
            refused += 1
            assert "\n" not in str(problem) and len(str(problem)) < 1000, (place, value)
    assert refused > 50


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("start",), -1.0, r"its start is -1.0, not within 0 and"),
        (("duration",), 1e12, r"its duration is 1000000000000.0, not within"),
        (("duration",), 0, r"its duration is 0"),
        (("duration",), "1", r"its duration is '1', not a number"),
        (("recording", "sampling_rate"), 1, r"its rate is 1, not within 4000 and 768000"),
        (("recording", "num_samples"), 8000.5, r"the number of samples of its recording is 8000.5, not a whole number"),
        (("supervisions", 0, "text"), 7, r"the text of a supervision is 7, not a text"),
        (("id",), 7, r"its id is 7, not a text"),
    ],
)
def test_a_value_that_no_cut_has_is_named(
    tmp_path: Path, cuts: list[MonoCut], place: tuple[Any, ...], value: Any, words: str
) -> None:
    with pytest.raises(UserError, match=rf"bad.cuts.jsonl.gz, line 1: {words}"):
        open_cuts(write(tmp_path, changed(cuts[0].to_dict(), place, value)))


def test_a_joined_cut_of_years_takes_no_memory(tmp_path: Path, cuts: list[MonoCut]) -> None:
    record = join_cuts("ab", cuts, random.Random(0)).to_dict()
    with pytest.raises(UserError, match="the offset of a track is"):
        open_cuts(write(tmp_path, changed(record, ("tracks", 1, "offset"), 3e8)))


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b'{"a":' * 50_000, b'{"id": ' + b"9" * 5000 + b"}", b"\xff\xfe\x00", b"{", b"null", b"3", b'""'],
)
def test_lines_that_are_no_record_are_refused(tmp_path: Path, line: bytes) -> None:
    with pytest.raises(UserError, match="line 1 is not a cut"):
        open_cuts(write(tmp_path, line))


def peak_while_refused(path: Path, words: str) -> int:
    tracemalloc.start()
    with pytest.raises(UserError, match=words):
        list(open_cuts(path))
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.medium
def test_a_few_bytes_of_gzip_do_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_LONGEST_LINE", 1 << 20)
    path = tmp_path / "bomb.cuts.jsonl.gz"
    path.write_bytes(gzip.compress(b"a" * (64 << 20), compresslevel=1))
    assert peak_while_refused(path, r"bomb.cuts.jsonl.gz, line 1 has more than 1 MB") < 8 << 20
    tracemalloc.start()
    assert len(contents(path)) == 16
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(b"\n" * (1 << 20)))
    assert peak_while_refused(path, r"more than 100000 blank lines from line 1 on") < 8 << 20
