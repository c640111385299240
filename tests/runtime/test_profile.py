"""The profile of a device: measured, stored beside the model, and read only where it belongs."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerdial import BlockSubset
from layerdial.ladder import Ladder, Rung
from layerdial.runtime import Recognizer
from layerdial.runtime.controller import CostTable
from layerdial.runtime.profile import FILE as PROFILE
from layerdial.runtime.profile import Device, Profile, ThreadProfile, pareto
from layerdial.runtime.profiling import profile_device
from tiny_runtime import LADDER, NEVER_MS, SAMPLES, TEXT, change

pytest_plugins = ["tiny_export"]


@pytest.fixture(scope="session")
def profiled(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Profile]:
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("profiled") / "edge")
    notes: list[str] = []
    profile = profile_device(folder, (1, 2), budget_s=1.0, note=notes.append)
    assert notes == ["1 thread", "2 threads"]
    assert profile.save(folder, Ladder.beside(folder, 3), 3) == folder / PROFILE
    return folder, profile


def test_a_profile_is_measured_and_read_back(profiled: tuple[Path, Profile]) -> None:
    folder, profile = profiled
    recognizer = Recognizer(folder, threads=1)
    assert Profile.beside(folder, profile.model_id) == profile
    assert [table.threads for table in profile.tables] == [1, 2]
    for table in profile.tables:
        assert set(table.network_ms) == {1, 2, 3} and table.cpu_share > 0
        assert all(len(row) == len(table.seconds) and min(row) > 0 for row in table.network_ms.values())
    assert recognizer.controller.costs == profile.tables[0].costs()


def test_with_a_profile_the_first_request_finds_everything_warm(
    profiled: tuple[Path, Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = Recognizer(profiled[0], threads=1)
    ran: list[str] = []
    posteriors = recognizer.session.posteriors

    def remember(inputs: Any, lengths_B: Any, subset: BlockSubset, *rest: Any) -> Any:
        ran.append(subset.key)
        return posteriors(inputs, lengths_B, subset, *rest)

    monkeypatch.setattr(recognizer.session, "posteriors", remember)
    recognizer.transcribe(SAMPLES, deadline_ms=NEVER_MS)
    assert ran == ["111", "111"]  # the first is for nobody


@pytest.mark.parametrize("quickest", [1, 2])
def test_without_a_number_of_threads_the_fastest_of_the_profile_is_taken(
    profiled: tuple[Path, Profile], tmp_path: Path, quickest: int
) -> None:
    folder, profile = shutil.copytree(profiled[0], tmp_path / "edge"), profiled[1]
    ms = {threads: 1.0 if threads == quickest else 99.0 for threads in (1, 2)}
    tables = [
        replace(table, features_ms=(1.0,) * 4, network_ms={3: (ms[table.threads],) * 4}) for table in profile.tables
    ]
    replace(profile, tables=tuple(tables)).save(folder, None, 3)
    assert Recognizer(folder).threads == quickest


def test_the_peak_memory_of_a_profile_is_that_of_a_fresh_process(profiled: tuple[Path, Profile]) -> None:
    assert "torch" in sys.modules  # much larger
    assert all(20 < (table.peak_rss_mb or 0) < 200 for table in profiled[1].tables)


def test_a_profile_of_other_threads_another_device_or_model_is_left_alone(
    profiled: tuple[Path, Profile], tmp_path: Path
) -> None:
    folder = shutil.copytree(profiled[0], tmp_path / "edge")
    profile = profiled[1]
    assert profile.table(3) is None
    change(folder / PROFILE, device={"processor": "an abacus", "cores": 1, "onnxruntime": "0.1"})
    assert Profile.beside(folder, profile.model_id) is None
    assert Recognizer(folder, threads=1).transcribe(SAMPLES, deadline_ms=NEVER_MS).text == TEXT
    assert Profile.beside(profiled[0], "another model") is None


def test_the_stored_pareto_table_has_no_dominated_depth(profiled: tuple[Path, Profile]) -> None:
    for table in json.loads((profiled[0] / PROFILE).read_text())["tables"]:
        rows = table["pareto"]
        assert rows[-1]["depth"] == 3  # nothing is better
        for better, row in ((b, r) for b in rows for r in rows if b is not r):
            assert not (better["wer"] <= row["wer"] and better["latency_ms"] <= row["latency_ms"])
        assert all(row["rtf"] == pytest.approx(row["latency_ms"] / 10_000, abs=1e-6) for row in rows)


@pytest.mark.parametrize("wers", [(0.3, 0.2, 0.1), (0.3, 0.4, 0.1), (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("times", [(1.0, 2.0, 3.0), (2.0, 1.0, 3.0), (1.0, 3.0, 2.0), (1.0, 1.0, 1.0)])
def test_a_pareto_table_has_no_dominated_depth(wers: tuple[float, ...], times: tuple[float, ...]) -> None:
    ladder = Ladder(3, "wer", "dev", 1, tuple(Rung(d, LADDER[d], None, wers[d - 1], 0, 1) for d in (1, 2, 3)))
    costs = CostTable((10.0,), (1.0,), {depth: (times[depth - 1],) for depth in (1, 2, 3)})
    rows = pareto(costs, ladder, 3)
    for better, row in ((b, r) for b in rows for r in rows if b is not r):
        assert not (better["wer"] <= row["wer"] and better["latency_ms"] <= row["latency_ms"])


def test_a_profile_in_numbers_survives_being_stored(exported: Path, tmp_path: Path) -> None:
    table = ThreadProfile(1, (1.0, 3.0), (0.1, 0.3), {1: (1.0, 2.0), 3: (2.0, 5.0)}, 0.98, None)
    profile = Profile("a", Device.here(), (table,))
    profile.save(tmp_path, None, 3)
    assert Profile.beside(tmp_path, "a") == profile
    assert Profile.beside(exported, "a") is None
