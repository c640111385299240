"""A manifest names files and nothing else: whoever opens one runs no command and asks no address."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import AudioSource, MonoCut, Recording

from layerdial.audio.files import AudioProblem
from layerdial.data.batching import FeatureBatches
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.errors import UserError
from tiny import LOG_MEL, command, write_cut

Record = dict[str, Any]


def recording(kind: str, source: Any, name: str = "bad") -> Record:
    sources = [{"type": kind, "channels": [0], "source": source}]
    return {"id": name, "sources": sources, "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}


def reverb(kind: str, source: str) -> Record:
    rir = recording(kind, source)
    return {"name": "ReverbWithImpulseResponse", "kwargs": {"rir": rir, "normalize_output": True}}


def in_cut(cut: Record, bad: tuple[str, str]) -> Record:
    return cut | {"recording": recording(*bad)}


def second_source(cut: Record, bad: tuple[str, str]) -> Record:
    both = cut["recording"] | {"sources": cut["recording"]["sources"] + recording(*bad)["sources"]}
    return cut | {"recording": both}


def in_track(cut: Record, bad: tuple[str, str]) -> Record:
    tracks = [{"type": "MonoCut", "cut": cut | {"recording": r}} for r in (cut["recording"], recording(*bad))]
    return {"id": "mix", "type": "MixedCut", "tracks": tracks}


def in_impulse_response(cut: Record, bad: tuple[str, str]) -> Record:
    return cut | {"recording": cut["recording"] | {"transforms": [reverb(*bad)]}}


def in_transform_of_a_mix(cut: Record, bad: tuple[str, str]) -> Record:
    return {"id": "mix", "type": "MixedCut", "tracks": [{"cut": cut}], "transforms": [reverb(*bad)]}


def in_custom_field(cut: Record, bad: tuple[str, str]) -> Record:
    return cut | {"custom": {"noise": recording(*bad)}}


PLACES = (in_cut, second_source, in_track, in_impulse_response, in_transform_of_a_mix, in_custom_field)


def manifest(folder: Path, record: Record) -> Path:
    path = folder / "bad.cuts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    return path


@pytest.fixture
def cut(tmp_path: Path) -> MonoCut:
    return write_cut(tmp_path, "good", np.full(16000, 0.1, np.float32), "some words")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["command", "url", "shar", "Command", "exec", "", None])
def test_a_source_that_is_no_file_is_refused_before_it_is_opened(
    tmp_path: Path, cut: MonoCut, place: Callable[[Record, tuple[str, str]], Record], kind: str
) -> None:
    trace = tmp_path / "trace"
    cuts = manifest(tmp_path, place(cut.to_dict(), (kind, f"touch {trace}; cat {tmp_path / 'good.wav'}")))
    with pytest.raises(UserError, match=r"bad.cuts.jsonl.gz, line 1, has an audio source of type .* never opened"):
        open_cuts(cuts)
    assert not trace.exists()


def test_no_command_line_runs_what_a_manifest_says(tmp_path: Path, cut: MonoCut, learnt: Path) -> None:
    trace = tmp_path / "trace"
    cuts = manifest(tmp_path, in_cut(cut.to_dict(), ("command", f"touch {trace}")))
    ended = command("sweep", learnt, cuts, "--depths", "1", "--workers", "0")
    assert ended.code == 2 and "never opened" in ended.err and ended.err.count("\n") == 1
    assert not trace.exists()


def test_a_cut_made_in_python_runs_no_command_either(tmp_path: Path, cut: MonoCut) -> None:
    trace = tmp_path / "trace"
    cut.recording.sources = [AudioSource("command", [0], f"touch {trace}; cat {tmp_path / 'good.wav'}")]
    with pytest.raises(UserError, match="cut good has an audio source of type 'command'"):
        load_samples(cut)
    assert not trace.exists()


def test_devices_and_addresses_given_as_files_are_not_opened(tmp_path: Path, cut: MonoCut) -> None:
    for source in ("/dev/zero", "/dev/stdin", "http://localhost/a.wav", "pipe:echo", "-"):
        quieter = cut.perturb_volume(0.5)  # which lhotse loads
        quieter.recording.sources = [AudioSource("file", [0], source)]
        with pytest.raises(UserError, match=r"which is not a file"):
            load_samples(quieter)
        cut.recording.sources = [AudioSource("file", [0], source)]
        with pytest.raises(AudioProblem, match=r"cut good: .*(not a file|does not exist)"):
            load_samples(cut)


def test_files_and_samples_in_memory_are_read(tmp_path: Path, cut: MonoCut) -> None:
    cuts = manifest(tmp_path, cut.to_dict() | {"custom": {"sources": "a web page", "n": 1}})
    assert len(load_samples(next(iter(open_cuts(cuts))))) == 16000
    held = Recording.from_file(tmp_path / "good.wav").move_to_memory()
    assert len(load_samples(held.to_cut())) == 16000
    assert len(next(iter(FeatureBatches(cuts, LOG_MEL, workers=0))).ids) == 1
