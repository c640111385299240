"""What the package computes is what `golden/` says that it did: a change of the code alone changes no number.

Where another number is wanted, `python tests/golden/record.py` writes them anew.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_golden as golden
from tiny_golden import Export, Workshop

pytest_plugins = ["tiny_export"]
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

# together they cover every objective, every policy and every family; the others differ from them in one setting
QUICK = {
    "ctc",
    "stochastic_depth",
    "subsets_ladder",
    "subsets_chosen_input",
    "sandwich_in_place_alpha",
    "sandwich_in_place_dld",
    "dld_cached",
    "dld_from_stored",
    "sc_exits_from_reference",
    "early_exit_own_heads",
    "exits_learn_from_the_last",
    "skip_norm",
    "augmented",
    "wavlm_exits",
    "wav2vec2_ld",
    "hubert_exits",
    "parakeet_ld",
}


@cache
def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    return found


# ------------------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("golden"))


def test_every_run_is_recorded() -> None:
    assert list(recorded("losses")) == list(golden.RUNS)
    assert set(golden.RUNS) >= QUICK


@pytest.mark.medium
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in golden.RUNS]
)
def test_a_run_has_the_recorded_losses(workshop: Workshop, name: str) -> None:
    if name == "dropout" and not torch.backends.mkl.is_available():
        pytest.skip("torch draws dropout by MKL, and otherwise where there is none")
    found, expected = workshop.losses(name), recorded("losses")[name]
    assert found["depth"] == expected["depth"] and found["ladder"] == expected["ladder"]
    for kind in ("loss", "ctc", "kl"):
        assert len(found[kind]) == len(expected[kind])
        for step, (ours, theirs) in enumerate(zip(found[kind], expected[kind], strict=True)):
            assert ours == pytest.approx(theirs, rel=tolerance(step), abs=1e-6), f"{kind} at step {step + 1}"


def tolerance(step: int) -> float:
    """From 1e-5 at the first step to 1e-4 at the 20th, evenly in powers of ten.

    The same machine gives the same numbers. Other instructions (torch without AVX, with AVX2, oneDNN and MKL with SSE4
    alone) and a second thread sum in another order: that changed at most 1e-6 at first and 5e-6 at last, since updates
    carry differences on. Half a percent more or less of any weight in an objective changes more than this allows.
    """
    return float(10.0 ** (-5 + step / 19))


# --------------------------------------------------------------------------------------- sweep, export, transcripts


def test_a_sweep_has_the_recorded_rows(exported_old: Export, tmp_path: Path) -> None:
    cuts, expected = golden.write_noisy(tmp_path), recorded("sweep")
    assert golden.sweep_rows(golden.MODEL, cuts, ("ladder", "prefix", "random")) == expected["torch"]
    assert golden.sweep_rows(exported_old.folder, cuts, ("ladder",)) == expected["exported"]


def test_an_exported_graph_has_the_recorded_checksum(exported_old: Export) -> None:
    if exported_old.versions() != recorded("export")["versions"]:
        pytest.skip(f"recorded with {recorded('export')['versions']}")
    assert exported_old.checksums() == recorded("export")["checksums"]


def test_an_exported_folder_has_the_recorded_manifest(exported_old: Export) -> None:
    assert exported_old.manifest() == recorded("export")["manifest"]


def test_an_exported_graph_has_the_recorded_outputs(exported_old: Export) -> None:
    for subset, expected in recorded("export")["log_probabilities"].items():
        (found,) = exported_old.log_probabilities([subset]).values()
        for ours_TV, theirs_TV in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.tensor(ours_TV), torch.tensor(theirs_TV), rtol=0, atol=5e-4)


def test_transcribe_prints_the_recorded_json(exported_old: Export, tmp_path: Path) -> None:
    audio, expected = golden.write_audio(tmp_path), recorded("transcribe")
    assert golden.transcripts(golden.MODEL, audio, golden.FOR_TORCH) == expected["torch"]
    assert golden.transcripts(exported_old.folder, audio, golden.TRANSCRIBE) == expected["exported"]
