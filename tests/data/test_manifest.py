from __future__ import annotations

import gc
import gzip
import json
import pickle
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut

from layerdial.audio.files import AudioProblem
from layerdial.data.batching import FeatureBatches
from layerdial.data.corpora.folder import prepare_folder
from layerdial.data.manifest import describe, load_samples, open_cuts, write_cuts
from layerdial.errors import UserError
from layerdial.training.loop import train
from tiny import LOG_MEL, tiny_recipe
from tiny_corpora import many_cuts, shorten, write_audio, write_table


@pytest.mark.medium
def test_a_big_manifest_passes_through_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.cuts.jsonl.gz"
    alive: list[int] = []

    def count() -> int:
        return sum(type(thing) is MonoCut for thing in gc.get_objects())

    gc.collect()
    others = count()  # of other tests in this process

    def watched(cuts: Iterable[MonoCut]) -> Iterator[MonoCut]:
        for i, cut in enumerate(cuts):
            if i % 800 == 799:
                alive.append(count() - others)
            yield cut

    summary = write_cuts(watched(many_cuts(4_000)), path)
    cuts = open_cuts(path)
    assert cuts.is_lazy and sum(1 for _ in watched(cuts)) == 4_000
    assert len(alive) == 10 and max(alive) <= 4
    assert (summary.cuts, summary.speakers) == (4_000, 50)
    assert summary.hours == pytest.approx(8_000 / 3600)


@pytest.mark.medium
def test_streaming_a_manifest_allocates_no_more_for_a_longer_one(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        write_cuts(many_cuts(count), tmp_path / "a.cuts.jsonl.gz")
        gc.collect()  # so that what other tests left behind does not decide when garbage is collected here
        tracemalloc.start()
        for _ in open_cuts(tmp_path / "a.cuts.jsonl.gz"):
            pass
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(1600) < 1.2 * peak(400)


def test_describe_agrees_with_what_was_written(tmp_path: Path) -> None:
    summary = write_cuts(many_cuts(120), tmp_path / "a.cuts.jsonl.gz")
    assert describe(tmp_path / "a.cuts.jsonl.gz") == summary


def is_fourth(cut: MonoCut) -> bool:
    return str(cut.id).endswith("3")


def test_open_cuts_is_a_cut_set_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.cuts.jsonl.gz"
    write_cuts(many_cuts(10), path)
    cuts = pickle.loads(pickle.dumps(open_cuts(path)))
    ids = [cut.id for cut in CutSet.from_jsonl_lazy(path)]
    assert len(cuts) == 10 and [cut.id for cut in cuts] == ids == [cut.id for cut in cuts]
    assert [cut.id for cut in cuts.filter(is_fourth).to_eager()] == [ids[3]]
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    assert [cut.id for cut in open_cuts(plain)] == ids


def test_what_is_not_a_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.cuts.jsonl.gz"
    with pytest.raises(UserError, match="does not exist"):
        open_cuts(path)
    cut = next(many_cuts(1))
    for content, words in {
        "": "holds no cuts",
        "hello\n": "line 1 is not a cut",
        '["list"]\n': "line 1 is not a cut",
        json.dumps(cut.recording.to_dict()) + "\n": "is a Recording, not a cut",
        json.dumps(cut.supervisions[0].to_dict()) + "\n": "is a SupervisionSegment, not a cut",
    }.items():
        path.write_bytes(gzip.compress(content.encode()))
        with pytest.raises(UserError, match=words):
            open_cuts(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="holds no cuts"):
        open_cuts(path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        open_cuts(tmp_path)


def test_damage_inside_a_manifest_is_named_when_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.cuts.jsonl.gz"
    write_cuts(many_cuts(2000), path)
    shorten(path)
    cuts = open_cuts(path)
    with pytest.raises(UserError, match=r"a.cuts.jsonl.gz is damaged after line \d+"):
        list(cuts)


def test_loading_compares_the_file_with_the_manifest(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    samples = write_audio(source / "a.wav", subtype="FLOAT")[:, 0]
    write_table(source / "metadata.csv", [["a.wav", "hello there", "me"]])
    path = prepare_folder(source, tmp_path / "out").splits["train"].path
    cut = next(iter(open_cuts(path)))
    np.testing.assert_array_equal(load_samples(cut), samples)
    np.testing.assert_array_equal(load_samples(cut.truncate(offset=0.25, duration=0.5)), samples[4000:12000])
    padded = load_samples(cut.pad(duration=1.5))
    assert len(padded) == 24000 and not padded[16000:].any()
    faster = load_samples(cut.perturb_volume(0.5))
    np.testing.assert_allclose(faster, 0.5 * samples, atol=1e-7)
    for change, words in (
        ({"rate": 8000}, r"cut a: .*a.wav is at 8000 Hz, the manifest says 16000 Hz"),
        ({"channels": 2}, "has 2 channels, training takes 1"),
        ({"seconds": 0.5}, "has 8000 samples, the manifest says 16000"),
        ({"seconds": 2.0}, "has 32000 samples, the manifest says 16000"),
        ({"seconds": 0.0}, "has 0 samples"),
    ):
        write_audio(source / "a.wav", **change)  # type: ignore[arg-type]
        with pytest.raises(AudioProblem, match=words):
            load_samples(cut)
    soundfile.write(source / "a.wav", np.full(16000, np.inf, dtype=np.float32), 16000, subtype="FLOAT")
    with pytest.raises(AudioProblem, match=r"cut a: .* not a finite number"):
        load_samples(cut)
    (source / "a.wav").unlink()
    with pytest.raises(AudioProblem, match=r"cut a: .* does not exist"):
        load_samples(cut)


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))  # gzip members one after the other are one file
    return path


def test_two_cuts_of_one_id_are_refused_when_a_manifest_is_opened(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_audio(tmp_path / name / "train" / "0001.wav")
        write_audio(tmp_path / name / "train" / "0002.wav")
        write_table(tmp_path / name / "train" / "metadata.csv", [["0001.wav", "x", name], ["0002.wav", "y", name]])
        prepare_folder(tmp_path / name, tmp_path / f"{name}-cuts")
    manifests = [tmp_path / f"{name}-cuts" / "train.cuts.jsonl.gz" for name in ("a", "b")]
    joined = join(tmp_path / "both.cuts.jsonl.gz", *manifests)
    words = r"both.cuts.jsonl.gz: lines 1 and 3 both have the id 'train/0001', which must be unique; .* other ids"
    for _ in range(2):  # also where it was looked at before
        with pytest.raises(UserError, match=words):
            open_cuts(joined)
    with pytest.raises(UserError, match=words):
        FeatureBatches(joined, LOG_MEL, workers=0)
    with pytest.raises(UserError, match=words):
        train(tiny_recipe(tmp_path / "run", joined, manifests[0], "data.cache_mb=64"))
    join(joined, manifests[0])  # repaired under the same name
    assert [cut.id for cut in open_cuts(joined)] == ["train/0001", "train/0002"]


@pytest.mark.medium
def test_ids_are_compared_in_bounded_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.cuts.jsonl.gz"
        write_cuts(many_cuts(count), path)
        tracemalloc.start()
        open_cuts(path)
        bytes_used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_used

    assert peak(4000) - peak(1000) < 3000 * 40  # a set of the ids takes 130 bytes each
