"""A line of a terminal that is written again: no wider than the terminal, and gone when it is cleared."""

from __future__ import annotations

import io

import pytest

from layerdial.utils.rewritten import RewrittenLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> tuple[RewrittenLine, Terminal]:
    monkeypatch.setenv("COLUMNS", "11")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    return RewrittenLine(out), out


def shown(out: Terminal) -> str:
    return out.getvalue().rsplit("\r\x1b[K", 1)[1].replace("\x1b[2m", "<").replace("\x1b[0m", ">")


@pytest.mark.parametrize(
    ("stable", "rest", "seen"),
    [
        ("a dog", " bar", "a dog< bar>"),
        ("a dog and a cat", " ran", " a cat< ran>"),
        ("a dog", " abcdefghijklmnop", "<ghijklmnop>"),
        ("漢字漢字漢字", "漢", "漢字漢字<漢>"),
        ("e\u0301" * 20, "", "e\u0301" * 10 + "<>"),
        ("", "", "<>"),
    ],
)
def test_the_end_of_a_text_is_shown(line: tuple[RewrittenLine, Terminal], stable: str, rest: str, seen: str) -> None:
    line[0].show(stable, rest)
    assert shown(line[1]) == seen


def test_what_is_cleared_is_gone_and_is_cleared_once(line: tuple[RewrittenLine, Terminal]) -> None:
    line[0].clear()
    assert line[1].getvalue() == ""
    line[0].show("a", "b")
    line[0].clear()
    before = line[1].getvalue()
    line[0].clear()
    assert shown(line[1]) == "" and line[1].getvalue() == before


def test_where_there_is_no_terminal_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    RewrittenLine(out).show("a", "b")
    monkeypatch.setenv("TERM", "dumb")
    dumb = Terminal()
    RewrittenLine(dumb).show("a", "b")
    assert out.getvalue() == dumb.getvalue() == ""
