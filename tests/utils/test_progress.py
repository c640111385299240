"""Progress in a terminal, where the package that draws bars is not installed."""

from __future__ import annotations

import io
import sys
from contextlib import nullcontext

import pytest

from layerdial.utils import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("fails", [False, True])
def test_without_rich_one_line_is_rewritten_and_ended(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(ValueError) if fails else nullcontext(), progress.progress("fetching, MB", 3) as update:
        for done in (1, 1, 3):
            update(done, total=3)
        if fails:
            raise ValueError
    assert terminal.getvalue() == "\rfetching, MB 0/3  \rfetching, MB 1/3  \rfetching, MB 3/3  \n"
