"""int8 is checked at every depth, and blocks that it ruins stay in float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerdial.data.batching import FeatureBatches
from layerdial.export.export import export_model
from layerdial.export.quality import Int8, quantise
from layerdial.export.writer import Traced, write_folder
from layerdial.runtime.manifest import Manifest
from tiny_graphs import with_outliers

pytest_plugins = ["tiny_export"]


def test_quantising_ends_when_no_depth_is_worse(traced: Traced, corpus: Any) -> None:
    said: list[str] = []
    found = quantise(traced, FeatureBatches(corpus.dev, traced.network.features, workers=0), said.append)
    assert found.holds and found.float_blocks == ()  # a network that is right everywhere by a wide margin
    assert [row["depth"] for row in found.rows] == [1, 2, 3]
    assert all(row["words"] == found.rows[0]["words"] > 10 for row in found.rows)
    assert len(said) == len(found.float_blocks) + 1 and all(line.startswith("int8, ") for line in said)


@pytest.mark.medium
def test_a_block_that_int8_ruins_ends_in_float(traced: Traced, corpus: Any, tmp_path: Path) -> None:
    ruined = with_outliers(traced, block=1)
    manifest = write_folder(tmp_path / "float", ruined, ruined.model.clone(), ruined.manifest)
    assert max(row.largest_difference for row in manifest.parity) < 1e-3  # the graph was changed as the network was
    batches = FeatureBatches(corpus.dev, ruined.network.features, workers=0)
    found = quantise(ruined, batches, note=lambda text: None)
    assert found.holds and found.float_blocks == (1,)
    assert not found.rows[0]["int8_errors"]  # the block runs alone at depth 1


@pytest.mark.medium
def test_an_int8_export_writes_down_how_it_was_checked(
    traced: Traced, laddered: Path, corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerdial.export.export.trace", lambda *arguments: traced)  # traced before; spares ten seconds
    export_model(laddered, tmp_path / "int8", "int8", corpus.dev)
    manifest = Manifest.load(tmp_path / "int8")
    assert (manifest.precision, manifest.wer["cuts"]) == ("int8", str(corpus.dev))
    for row in manifest.wer["rows"]:
        assert set(row) == {"depth", "subset", "float_errors", "int8_errors", "words", "change", "low", "high"}
    float_errors, int8_errors = (
        sum(row[name] for row in manifest.wer["rows"]) for name in ("float_errors", "int8_errors")
    )
    assert manifest.wer["holds"] == (int8_errors <= 1.02 * float_errors)


def int8_found(*rows: tuple[int, int, float, float]) -> Int8:
    """What was found at each depth: float errors, int8 errors, the change, and the lower end of its interval."""
    names = ("float_errors", "int8_errors", "change", "low")
    return Int8(None, (), tuple(dict(zip(names, row, strict=True)) for row in rows))  # type: ignore[arg-type]


def test_one_error_more_at_one_depth_is_no_reason_against_int8() -> None:
    assert int8_found((273, 274, 0.004, -0.01), (26, 27, 0.04, 0.0)).holds


def test_a_depth_that_is_worse_beyond_chance_is() -> None:
    assert not int8_found((1000, 1000, 0.0, -0.01), (100, 112, 0.12, 0.05)).holds


def test_all_depths_a_little_worse_are() -> None:
    assert not int8_found(*[(100, 104, 0.04, -0.01)] * 8).holds
