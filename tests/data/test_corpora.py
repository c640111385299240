from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio.files import AudioProblem
from layerdial.data.corpora import prepare
from layerdial.data.corpora.librispeech import prepare_librispeech
from layerdial.data.corpora.tedlium import clean_tedlium_text, prepare_tedlium
from layerdial.data.manifest import cut_speaker, cut_text, load_samples, open_cuts
from layerdial.errors import UserError
from tiny_corpora import reasons, shorten, texts, write_audio


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    """Two parts in the layout of the corpus: part/speaker/chapter/speaker-chapter-utterance.flac."""
    root = tmp_path / "LibriSpeech"
    for part, speaker, chapter in (("train-clean-100", 103, 1240), ("train-clean-100", 26, 495), ("dev-clean", 84, 1)):
        folder = root / part / str(speaker) / str(chapter)
        names = [f"{speaker}-{chapter}-{i:04d}" for i in range(3)]
        for name in names:
            write_audio(folder / f"{name}.flac", 1.5)
        lines = [f"{name} CHAPTER ONE MISSUS LYNDE'S SURPRISED" for name in names]
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    (root / "SPEAKERS.TXT").write_text(";ID |SEX| SUBSET |MINUTES| NAME\n103 | F | train-clean-100 | 25.1 | X\n")
    return root


@pytest.mark.parametrize("above", [False, True])
def test_librispeech_parts_become_manifests(librispeech: Path, tmp_path: Path, above: bool) -> None:
    report = prepare_librispeech(librispeech.parent if above else librispeech, tmp_path / "out")
    sizes = {split: (summary.cuts, summary.speakers) for split, summary in report.splits.items()}
    assert sizes == {"train-clean-100": (6, 2), "dev-clean": (3, 1)}
    assert report.splits["dev-clean"].hours == pytest.approx(4.5 / 3600)
    assert report.rejected == () and reasons(tmp_path / "out") == {}
    cuts = list(open_cuts(tmp_path / "out" / "train-clean-100.cuts.jsonl.gz"))
    assert [cut.id for cut in cuts[:3]] == ["103-1240-0000", "103-1240-0001", "103-1240-0002"]
    assert cut_text(cuts[0]) == "chapter one missus lynde's surprised" and cut_speaker(cuts[0]) == "103"
    assert len(cuts[0].supervisions) == 1
    expected, _ = soundfile.read(librispeech / "train-clean-100/103/1240/103-1240-0000.flac", dtype="float32")
    np.testing.assert_array_equal(load_samples(cuts[0]), expected)
    np.testing.assert_array_equal(cuts[0].load_audio()[0], expected)


def test_broken_librispeech_files_are_left_out_and_named(librispeech: Path, tmp_path: Path) -> None:
    folder = librispeech / "train-clean-100" / "103" / "1240"
    names = [f"103-1240-{i:04d}" for i in range(10, 17)]
    write_audio(folder / f"{names[0]}.flac", rate=8000)
    write_audio(folder / f"{names[1]}.flac", channels=2)
    write_audio(folder / f"{names[2]}.flac", seconds=0.0)
    (folder / f"{names[3]}.flac").write_text("not audio")
    write_audio(folder / f"{names[4]}.flac", seconds=0.1)
    write_audio(folder / f"{names[6]}.flac")
    with (folder / "103-1240.trans.txt").open("a") as file:
        file.writelines(f"{name} SO FEW FRAMES\n" for name in names[:4])
        file.write(f"{names[4]} FAR TOO MANY WORDS\n{names[5]} NO SUCH FILE\n{names[6]}\n")
    report = prepare_librispeech(librispeech, tmp_path / "out")
    assert report.splits["train-clean-100"].cuts == 6
    found = reasons(tmp_path / "out")
    assert found == {r.cut_id: r.reason for r in report.rejected}
    words = ["8000 Hz, this corpus is at 16000", "2 channels", "is empty", "not audio", "4 words does not fit into 3 "]
    for name, expected in zip(names, [*words, "does not exist", "text is empty"], strict=True):
        assert expected in found[name]


def test_a_truncated_flac_is_found_without_decoding(librispeech: Path, tmp_path: Path) -> None:
    shorten(librispeech / "dev-clean" / "84" / "1" / "84-1-0001.flac")
    prepare_librispeech(librispeech, tmp_path / "quick", parts=["dev-clean"])
    assert "its last frame is incomplete" in reasons(tmp_path / "quick")["84-1-0001"]


def test_damage_inside_a_flac_is_found_when_decoding_and_when_loading(librispeech: Path, tmp_path: Path) -> None:
    file = librispeech / "dev-clean" / "84" / "1" / "84-1-0001.flac"
    content = bytearray(file.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    file.write_bytes(content)
    quick = prepare_librispeech(librispeech, tmp_path / "quick", parts=["dev-clean"])
    cuts = {cut.id: cut for cut in open_cuts(quick.splits["dev-clean"].path)}
    with pytest.raises(AudioProblem, match=r"cut 84-1-0001: .*84-1-0001.flac (is damaged|gave)"):
        load_samples(cuts["84-1-0001"])
    prepare_librispeech(librispeech, tmp_path / "thorough", parts=["dev-clean"], verify=True)
    assert "84-1-0001" in reasons(tmp_path / "thorough")


def test_a_folder_without_librispeech_is_refused(librispeech: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found none of dev-clean, .* give the folder that holds them"):
        prepare_librispeech(librispeech / "dev-clean", tmp_path / "out")
    with pytest.raises(UserError, match=r"no 'test-clean'.* present: dev-clean, train-clean-100"):
        prepare_librispeech(librispeech, tmp_path / "out", parts=["test-clean"])
    with pytest.raises(UserError, match="does not exist"):
        prepare_librispeech(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# TED-LIUM

STM = """\
Talk 1 Talk 0.00 2.00 <o,f0,male> i {NOISE} think it 's <unk> 'm fine
Talk 1 inter_segment_gap 2.00 2.50 <o,f0,> ignore_time_segment_in_scoring
Talk 1 Talk 2.50 4.00 <o,f0,male> they 're the(2) [BREATH] ones don 't
Talk 1 Talk 4.00 5.00 <o,f0,male> <unk>
Talk 1 Talk 4.50 6.10 <o,f0,male> a little past the end
Talk 1 Talk 5.50 9.00 <o,f0,male> far past the end
Talk 1 Talk 5.00 5.00 <o,f0,male> no time at all
"""


@pytest.fixture
def tedlium(tmp_path: Path) -> Path:
    root = tmp_path / "TEDLIUM_release-3"
    for part in ("train", "dev", "test"):
        folder = root / "legacy" / part
        write_audio(folder / "sph" / "Talk.sph", 6.0, format="NIST", subtype="PCM_16")
        (folder / "stm").mkdir()
        (folder / "stm" / "Talk.stm").write_text(STM)
    return root


def test_tedlium_segments_are_cut_out_of_talks(tedlium: Path, tmp_path: Path) -> None:
    report = prepare_tedlium(tedlium, tmp_path / "out")
    assert {split: summary.cuts for split, summary in report.splits.items()} == {"train": 3, "dev": 3, "test": 3}
    path = report.splits["dev"].path
    assert texts(path) == {
        "Talk-0": "i think it's fine",
        "Talk-2": "they're the ones don't",
        "Talk-4": "a little past the end",
    }
    cut = list(open_cuts(path))[1]
    talk, _ = soundfile.read(tedlium / "legacy/dev/sph/Talk.sph", dtype="float32")
    np.testing.assert_array_equal(load_samples(cut), talk[40000:64000])
    assert len(load_samples(list(open_cuts(path))[2])) == 24000  # trimmed to the end of the talk
    assert len(cut.supervisions) == 1 and cut.supervisions[0].start == 0 and cut_speaker(cut) == "Talk"
    found = reasons(tmp_path / "out")
    assert set(found) == {"Talk-3", "Talk-5", "Talk-6"}
    assert "empty" in found["Talk-3"] and "9.00 s, its talk at 6.00 s" in found["Talk-5"]


def test_broken_talks_are_left_out_and_named(tedlium: Path, tmp_path: Path) -> None:
    folder = tedlium / "legacy" / "train"
    for name, rate in (("Short", 16000), ("Slow", 8000), ("Mute", 16000), ("Odd", 16000)):
        write_audio(folder / "sph" / f"{name}.sph", 6.0, rate=rate, format="NIST", subtype="PCM_16")
        (folder / "stm" / f"{name}.stm").write_text(STM.replace("Talk", name))
    shorten(folder / "sph" / "Short.sph")
    (folder / "stm" / "Mute.stm").unlink()
    (folder / "stm" / "Odd.stm").write_text("Odd 1 Odd\n")
    (folder / "stm" / "Lost.stm").write_text(STM.replace("Talk", "Lost"))
    report = prepare_tedlium(tedlium.parent, tmp_path / "out", parts=["train"])
    assert report.splits["train"].cuts == 3
    found = reasons(tmp_path / "out")
    expected = {"Short": "truncated", "Slow": "8000 Hz", "Mute": "no transcript", "Odd": "not an STM"}
    for talk, words in (expected | {"Lost": "does not exist"}).items():
        assert words in found[talk]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("it 's what i 'd 've said", "it's what i'd've said"),
        ("<unk> 's book", "book"),
        ("the <unk> 's book", "the book"),
        ("just 'cause of the '60s", "just 'cause of the '60s"),
        ("a(2) man <sil> {SMACK} [NOISE]", "a man"),
        ("<unk>", ""),
    ],
)
def test_tedlium_text(raw: str, clean: str) -> None:
    assert clean_tedlium_text(raw) == clean


def test_results_come_in_order_and_not_far_ahead() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = prepare.in_order(lambda i: i * i, numbers(), threads=2)
    assert [next(results) for _ in range(10)] == [i * i for i in range(10)]
    assert len(taken) <= 10 + 8
    assert list(results) == [i * i for i in range(10, 100)]
