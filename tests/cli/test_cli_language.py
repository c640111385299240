"""`layerdial ngram`, `tune-decoder`, and a sweep by a search, as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import Corpus
from tiny import Ended, command


def assert_users_mistake(ended: Ended, message: str) -> None:
    """Exit code 2 and one line on stderr."""
    assert ended.code == 2 and ended.err.count("\n") == 1 and message in ended.err, ended.err


def test_an_ngram_is_made_of_text_and_of_transcripts(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Low, high.\nMiddle low!\n", encoding="utf-8-sig")
    made = command("ngram", tmp_path / "text.txt", corpus.train, tmp_path / "lm.arpa", "--order", 2)
    assert made.code == 0 and "layerdial tune-decoder MODEL DEV_CUTS" in made.out
    arpa = (tmp_path / "lm.arpa").read_text()
    assert "\tlow middle" in arpa and "," not in arpa.replace("\t", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lm.arpa"], "stands alone; give text files or manifests"),
        (["text.txt", "lm.txt"], "give a file that ends with .arpa behind the text"),
        (["none.txt", "lm.arpa"], "does not exist; give text, a sentence a line"),
        (["other.bin", "lm.arpa"], "is no UTF-8 text"),
        (["empty.txt", "lm.arpa"], "the text has no word"),
        (["text.txt", "old.arpa", "lm.arpa"], "old.arpa is a language model (ARPA); give the text"),
        (["text.txt", "lm.arpa", "--order", "9"], "the order is 9; give 2 to 6"),
    ],
)
def test_what_makes_no_ngram_is_said_in_one_line(words: list[str], message: str, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("low high\n")
    Path("empty.txt").write_text("\n!\n")
    Path("old.arpa").write_text("\n\\data\\\nngram 1=3\n")
    Path("other.bin").write_bytes(b"\xff\xfe\x80")
    assert_users_mistake(command("ngram", *words), message)
    assert not Path("lm.arpa").exists()


@pytest.mark.medium
def test_tuned_weights_are_those_of_a_sweep_and_of_a_transcript(learnt: Path, corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    model, lm = shutil.copytree(learnt, tmp_path / "model"), tmp_path / "lm.arpa"
    assert command("ngram", corpus.train, lm, "--order", 2).code == 0
    tuned = command("tune-decoder", model, corpus.dev, "--lm", lm, "--depths", "2", "--jobs", 1, "--workers", 0)
    assert tuned.code == 0 and str(model / "decoder.json") in tuned.out
    assert "words; below 500 it is chance that chooses" in tuned.err
    weights = json.loads((model / "decoder.json").read_text())["tuned"].popitem()[1]["weights"][0]
    out = tmp_path / "sweep"
    swept = command("sweep", model, corpus.dev, "--lm", lm, "--depths", "2", "--out", out, "--workers", 0)
    greedy, searched = (json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines())
    assert swept.code == 0 and "lm lm.arpa" in swept.out
    assert "search" not in greedy and searched["search"] == "lm lm.arpa"
    assert {name: searched[name] for name in ("beams", "lm_weight", "word_bonus")} == {
        name: weights[name] for name in ("beams", "lm_weight", "word_bonus")
    }


@pytest.mark.medium
def test_what_cannot_be_tuned_is_said_before_the_work(learnt: Path, corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("kenlm")
    assert command("ngram", corpus.train, tmp_path / "lm.arpa").code == 0
    (tmp_path / "other.txt").write_text("other words than those\n")
    assert command("ngram", tmp_path / "other.txt", tmp_path / "other.arpa").code == 0
    given = ["tune-decoder", learnt, corpus.dev, "--lm"]
    assert_users_mistake(command(*given, tmp_path / "other.arpa"), "is of another vocabulary")
    assert_users_mistake(command(*given, tmp_path / "none.arpa"), "does not exist; give an n-gram language model")
    assert_users_mistake(command(*given, tmp_path / "lm.arpa", "--depths", "9"), "depth 9 does not exist")
    assert_users_mistake(command(*given, tmp_path / "lm.arpa", "--beams", "0"), "beams is 0; give 1 or more")
    assert_users_mistake(command(*given, tmp_path / "lm.arpa", "--beams", "a"), "--beams 'a' is not a list of numbers")
    (tmp_path / "names.txt").write_text("Quilter\n")
    names = ["--hotwords", tmp_path / "names.txt"]
    assert_users_mistake(command(*given, tmp_path / "lm.arpa", *names), "cannot spell the hotwords 'Quilter'")
    assert not (learnt / "decoder.json").exists()
