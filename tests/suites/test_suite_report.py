"""What a report says, on rows whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.suites.report import write_report
from layerdial.suites.tables import Results, change, change_cell, rates_table
from layerdial.suites.times import first_reached, time_report
from layerdial.suites.training_record import Point, Trained, with_train_seconds
from tiny_suite import made_up_row, tiny_suite


def test_a_change_sums_the_errors_of_common_seeds_and_of_all_depths(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    rows = [
        made_up_row(suite, "ld", 0, 1, [4, 2, 0]),
        made_up_row(suite, "ld", 1, 1, [3, 1, 0]),
        made_up_row(suite, "ld", 0, 2, [1, 1, 1]),
        made_up_row(suite, "ld", 1, 2, [1, 1, 1]),
        made_up_row(suite, "dld", 1, 1, [2, 0, 0]),
        made_up_row(suite, "dld", 1, 2, [1, 0, 1]),
    ]
    results = Results(suite, "test", rows)
    one, both = change(results, "dld", "ld", [1]), change(results, "dld", "ld", [1, 2])
    assert one is not None and one[1] == 1 and one[0].relative == pytest.approx(2 / 4 - 1)
    assert both is not None and both[0].relative == pytest.approx(4 / 7 - 1)
    assert change(results, "dld", "ld", [3]) is None
    assert ", 1 seed)" in change_cell(results, "dld", "ld", [1])


def test_a_change_is_clear_when_every_utterance_agrees_and_open_when_they_do_not(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    rows = [made_up_row(suite, name, 0, 1, [e] * 20) for name, e in (("ld", 4), ("dld", 3))]
    rows += [made_up_row(suite, "ld", 0, 2, [4, 2] * 10), made_up_row(suite, "dld", 0, 2, [2, 4] * 10)]
    results = Results(suite, "test", rows)
    assert change_cell(results, "dld", "ld", [1]) == "**-25.0 (-25.0 to -25.0, 1 seed)**"
    assert change_cell(results, "dld", "ld", [2]).startswith("+0.0 (-")


def test_rates_are_means_over_seeds_with_their_range(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    rows = [made_up_row(suite, "ld", seed, 1, [errors] * 2) for seed, errors in ((0, 1), (1, 3))]
    assert "| ld | 2 | 20.00 (10.00-30.00) |" in rates_table(Results(suite, "test", rows))


def test_other_utterances_are_not_compared(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    rows = [made_up_row(suite, "ld", 0, 1, [1, 1]), made_up_row(suite, "dld", 0, 1, [1, 1, 1])]
    with pytest.raises(UserError, match="dld and ld were tested on other utterances of test"):
        change(Results(suite, "test", rows), "dld", "ld", [1])


def test_utterances_that_are_missing_are_named(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    rows = [made_up_row(suite, name, 0, 1, [1, 1]) for name in ("ld", "dld")]
    (suite.out / rows[1]["utterances_file"]).unlink()
    with pytest.raises(UserError, match=f"{rows[1]['utterances_file']} is missing, the errors of each utterance"):
        change(Results(suite, "test", rows), "dld", "ld", [1])


def test_a_report_has_its_pictures_and_the_targets_that_were_asked_for(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path, targets=["dld"])
    rows = [
        made_up_row(suite, name, seed, depth, [errors, 5 - depth])
        for name, errors in (("ld", 6), ("dld", 3))
        for seed in (0, 1)
        for depth in (1, 2, 4)
    ]
    text = write_report(suite, rows, "Made up.").read_text()
    assert "| dld against ld | **" in text or "| dld against ld | " in text
    assert "high dropping (1)" in text and "none (4)" in text
    assert (suite.out / "wer.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="has no rows of this suite yet"):
        write_report(suite, [], "")


def test_training_seconds_come_from_the_log_or_from_audio_by_speed() -> None:
    rows = [
        {"step": 1, "audio_seconds": 10.0, "audio_seconds_per_second": 5.0},
        {"step": 2, "audio_seconds": 30.0, "audio_seconds_per_second": 10.0},
        {"step": 2, "dev_wer_at_1": 0.5},
    ]
    assert [row["train_seconds"] for row in with_train_seconds(rows)] == [2.0, 4.0, 4.0]
    assert with_train_seconds([{**rows[0], "train_seconds": 7.5}])[0]["train_seconds"] == 7.5


def test_the_goal_is_reached_at_the_first_evaluation_as_good(tmp_path: Path) -> None:
    curve = [Point(10, 1.0, 0.5), Point(20, 2.0, 0.3), Point(30, 3.0, 0.4)]
    run = Trained(30, 30, 3.0, 60.0, 0.3, seconds_of={"reference": 5.0, "own": 3.0}, curve=curve)
    reached = first_reached(run, 0.3)
    assert reached is not None
    assert (reached.updates, reached.seconds, reached.total_seconds) == (20, 2.0, 7.0)
    assert first_reached(run, 0.2) is None


def test_the_time_to_the_end_of_ld_is_a_share_of_its_time_with_and_without_the_reference(tmp_path: Path) -> None:
    suite = tiny_suite(tmp_path)
    points = [Point(10, 4.0, 0.5), Point(20, 8.0, 0.4)]
    for seed in (0, 1):
        ld = Trained(20, 20, 8.0, 0.0, 0.4, seconds_of={"ld": 8.0}, curve=points)
        ld.save(suite.folder("ld", seed))
        quick = [Point(10, 6.0, 0.4 if seed == 0 else 0.45)]
        dld = Trained(10, 10, 6.0, 0.0, quick[0].dev_mean, seconds_of={"reference": 10.0, "dld": 6.0}, curve=quick)
        dld.save(suite.folder("dld", seed))
    runs = [(name, seed) for name in ("ld", "dld") for seed in (0, 1)]
    text = "\n".join(time_report(suite, runs, tmp_path / "time.png"))
    assert "| ld | 20 | 8 | 1.00 | 1.00 | 2 of 2 |" in text
    assert "| dld | 10 | 6 | 0.75 | 2.00 | 1 of 2 |" in text
    assert (tmp_path / "time.png").read_bytes().startswith(b"\x89PNG")
    assert "dld" not in "\n".join(time_report(suite, runs[:2], tmp_path / "time.png"))
