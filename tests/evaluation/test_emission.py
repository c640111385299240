"""A word is there when the chunk of its last label has been heard, and known times say how late that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lhotse.supervision import AlignmentItem
from numpy.typing import NDArray

from layerdial.cli.evaluate import parse_chunks
from layerdial.data.manifest import write_cuts
from layerdial.errors import UserError
from layerdial.evaluation.emission import DelayNotes, Known, KnownWord, aligned, chunk_ends, known_words
from layerdial.evaluation.evaluate import evaluate
from layerdial.evaluation.run import check_streaming, sweep_model
from layerdial.evaluation.sweep import sweep
from layerdial.models.checkpoint import save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.models.torch_recognizer import TorchRecognizer
from layerdial.recognizer import FeatureBatch
from layerdial.subset import Blocks, BlockSubset, ChunkSchedule
from layerdial.text.tokenizer import ListTokenizer
from layerdial.utils.rows import Row, read_rows
from tiny import speak, tiny_config, write_cut
from tiny_evaluation import QUICK, additive, make_batches, real_batches, tiny_recognizer

FULL = BlockSubset.full(3)
REACH = 0.0075  # seconds that the window of the last frame reaches beyond it


class Writes(TorchRecognizer):
    """Says "one" in frame 1, "two" in frames 3 and 4, "three" in frame 6, for every utterance."""

    def __init__(self) -> None:
        tokenizer = ListTokenizer(["", "one", "two", "three"], "word")
        super().__init__(ConformerCTC(tiny_config(), 4), tokenizer)

    def log_probs(self, batch: FeatureBatch, subset: Blocks) -> list[NDArray[np.float32]]:
        logp_TV = np.full((8, 4), -9.0, np.float32)
        logp_TV[np.arange(8), [0, 1, 0, 2, 2, 0, 3, 0]] = -0.1
        return [logp_TV] * len(batch.ids)


def measured(blocks: Blocks, known: Known) -> tuple[list[float], Row]:
    notes = DelayNotes(Writes(), known)
    assert evaluate(notes, make_batches(2), blocks).recognized == ("one two three",) * 2
    return notes.delays, notes.row()


def test_words_wait_for_the_end_of_their_chunk() -> None:
    known = {"u0": [KnownWord("one", 0.06), KnownWord("two", 0.14), KnownWord("three", None)]}
    for frames, ends in ((1, (2, 4)), (2, (2, 4)), (4, (4, 4)), (1000, (8, 8))):
        delays, _ = measured(ChunkSchedule((frames,), (FULL,)), known)
        assert delays == pytest.approx([0.04 * ends[0] + REACH - 0.06, 0.04 * ends[1] + REACH - 0.14])
    assert measured(FULL, known)[0] == delays  # whole: the end of the utterance


def test_only_words_that_are_right_have_a_delay() -> None:
    known = {"u0": [KnownWord("one", 0.1), KnownWord("nine", 0.2), KnownWord("three", 0.3)], "u1": []}
    delays, row = measured(ChunkSchedule((1,), (FULL,)), known)
    assert delays == pytest.approx([0.08 + REACH - 0.1, 0.28 + REACH - 0.3])
    assert row == {"delay_ms": -12.5, "delay_ms_95": -12.5, "delay_words": 2}
    assert measured(FULL, {})[1] == {"delay_ms": None, "delay_ms_95": None, "delay_words": 0}


def test_the_last_chunk_ends_with_the_frames() -> None:
    schedule = ChunkSchedule((2, 3), (FULL,))
    assert chunk_ends(schedule, 8).tolist() == [2, 2, 5, 5, 5, 7, 7, 8]
    assert chunk_ends(FULL, 3).tolist() == [3, 3, 3]


def test_words_are_aligned_at_the_smallest_edit_distance() -> None:
    assert aligned(["a", "b", "c"], ["a", "x", "c", "d"]) == [(0, 0), (1, 1), (2, 2), (None, 3)]
    assert aligned(["a", "b"], ["b"]) == [(0, None), (1, 0)]
    assert aligned([], ["a"]) == [(None, 0)] and aligned(["a"], []) == [(0, None)]


def test_times_are_those_of_the_alignment(tmp_path: Path) -> None:
    cut = write_cut(tmp_path, "a", speak("low high low"), "low high low")
    cut.supervisions[0].alignment = {"word": [AlignmentItem("Low high", 0.1, 0.4), AlignmentItem("low", 0.6, 0.2)]}
    write_cuts([cut, write_cut(tmp_path, "b", speak("low"), "low")], tmp_path / "x.cuts.jsonl.gz")
    words = [KnownWord("low", None), KnownWord("high", 0.5), KnownWord("low", pytest.approx(0.8))]
    assert known_words(tmp_path / "x.cuts.jsonl.gz") == {"a": words}


def streaming_recognizer() -> TorchRecognizer:
    tokenizer = tiny_recognizer().tokenizer
    settings = tiny_config(n_blocks=3, normalise="fixed", streaming={"left_context_ms": 200})
    return TorchRecognizer(ConformerCTC(settings, len(tokenizer.tokens)).eval(), tokenizer)


@pytest.mark.medium
def test_rows_of_chunks_say_their_size_and_cost_what_a_stream_costs() -> None:
    subsets = [ChunkSchedule((2,), (FULL,)), ChunkSchedule((2, 4), (FULL,)), FULL]
    rows = list(sweep(streaming_recognizer(), real_batches(), subsets, timing=QUICK))
    assert [row.get("chunk_ms") for row in rows] == [80, None, None]
    assert rows[0]["macs_per_second"] < rows[2]["macs_per_second"]  # attends to 7 frames, where all are 250
    assert rows[0]["parameters"] == rows[1]["parameters"] == rows[2]["parameters"]


@pytest.mark.slow
def test_a_folder_is_swept_in_chunks(tmp_path: Path) -> None:
    recognizer = streaming_recognizer()
    save_model(tmp_path / "model", recognizer.network, recognizer.tokenizer, {})
    cut = write_cut(tmp_path, "a", speak("low high"), "one two")
    cut.supervisions[0].alignment = {"word": [AlignmentItem("one", 0.1, 0.2), AlignmentItem("two", 0.4, 0.2)]}
    write_cuts([cut], tmp_path / "x.cuts.jsonl.gz")
    asked = tmp_path / "model", tmp_path / "x.cuts.jsonl.gz", [1, 3], "even", tmp_path
    sweep_model(*asked, timing=QUICK, workers=0, chunk_frames=(2, None))
    rows = read_rows(tmp_path / "sweep.jsonl")
    assert [(row["depth"], row.get("chunk_ms")) for row in rows] == [(1, 80), (3, 80), (1, None), (3, None)]
    assert all("delay_ms" in row for row in rows)


def test_chunks_are_for_streaming_networks() -> None:
    with pytest.raises(UserError, match="model takes whole utterances; for streaming, train a Conformer"):
        check_streaming(tiny_recognizer())
    with pytest.raises(UserError, match="scripted is exported"):
        check_streaming(additive([1]))


def test_sizes_of_chunks_are_numbers_of_frames_or_full() -> None:
    assert parse_chunks("--chunk-ms", "80,full") == (2, None) and parse_chunks("--chunk-ms", "") == ()
    for wrong in ("80,30", "all", "80,80"):
        with pytest.raises(UserError, match="--chunk-ms"):
            parse_chunks("--chunk-ms", wrong)
