"""Pictures of sweeps: drawn whatever the figures, every line told from the others."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.evaluation import plots as picture
from layerdial.evaluation.plots import draw_sweep
from tiny_evaluation import make_row

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("wers", [(0.5, 0.25, 0.2), (1.0, 0.05, 0.02), (0.3, 0.0, 0.0), (0.0, 0.0, 0.0)])
def test_picture_is_drawn_whatever_the_spread(tmp_path: Path, wers: tuple[float, ...]) -> None:
    rows = [
        make_row(depth, method=method, wer=wer, wer_low=wer * 0.8, wer_high=wer * 1.2)
        for method in ("ld", "dld")
        for depth, wer in enumerate(wers, 1)
    ]
    draw_sweep(rows, tmp_path / "sweep.png", "digits")
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.png"]


def test_picture_without_methods_macs_or_intervals(tmp_path: Path) -> None:
    bare = [{"subset": "10", "depth": 1, "wer": 0.5}, {"subset": "11", "depth": 2, "wer": 0.25, "macs_per_second": 1}]
    draw_sweep([*bare, {"subset": "11", "depth": 2, "wer": None}], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("count", [7, 28])
def test_many_lines_look_different_and_all_their_names_are_in_the_picture(tmp_path: Path, count: int) -> None:
    figure, axes = picture.new_figure()
    styles = list(islice(picture.line_styles(), count))
    assert len({tuple(style.values()) for style in styles}) == count
    for number, style in enumerate(styles, 1):
        picture.draw_line(axes, [1, 2], [number, 2], [number, 2], [number, 2], label=f"method {number}", **style)
    picture.add_legend(axes, "95 % interval")
    picture.save_figure(figure, tmp_path / "sweep.png")
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [f"method {n}" for n in range(count, 0, -1)]
    box, (width, height) = legend.get_window_extent(), figure.get_size_inches() * figure.dpi
    assert 0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no row has a WER"):
        draw_sweep([], tmp_path / "sweep.png")
    assert list(tmp_path.iterdir()) == []
