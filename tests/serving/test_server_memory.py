"""Free memory goes back to the system after work, and only then."""

from __future__ import annotations

import asyncio

import pytest

from layerdial.serving import memory


def test_memory_is_given_back_once_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EVERY_S", 0.0)
    monkeypatch.setattr(memory.gc, "freeze", lambda: None)  # it would be for the whole process of the tests
    given_back, work = list[int](), iter([0, 0, 1, 1, 2, 2])  # and then it ends

    async def run() -> None:
        monkeypatch.setattr(memory, "_trim", lambda: given_back.append)
        with pytest.raises(RuntimeError):  # what an end of the work becomes in a coroutine
            await memory.give_back(lambda: next(work))

    asyncio.run(run())
    assert given_back == [0, 0]


def test_the_c_library_is_asked() -> None:
    assert memory._trim()(0) in (0, 1)
