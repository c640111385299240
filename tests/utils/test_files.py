"""Files and folders replaced in one step, whatever a killed process left, and locks that end with their process."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.utils import files, locks
from layerdial.utils.files import check_writable, recover, replacing, write_text
from layerdial.utils.locks import acquire, holding
from layerdial.utils.temporary import temporary_folder
from tiny import in_child


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(action: Callable[[], object]) -> None:
    assert in_child(action).code == -signal.SIGKILL


def write_folder(place: Path, text: str, then: Callable[[], None] = lambda: None) -> None:
    with replacing(place) as temporary:
        temporary.mkdir()
        (temporary / "file").write_text(text)
        then()


def write_file(place: Path, text: str, then: Callable[[], None] = lambda: None) -> None:
    with replacing(place) as temporary:
        temporary.write_text(text)
        then()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("write", [write_folder, write_file])
def test_what_a_killed_process_of_the_same_number_left_does_not_block_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in a container, in the child too
    killed(lambda: write(tmp_path / "it", "half", lambda: os.kill(child_pid(), signal.SIGKILL)))
    assert len(names(tmp_path)) == 1  # the half
    write(tmp_path / "it", "whole")
    assert names(tmp_path) == ["it"]


def child_pid() -> int:
    return int(os.readlink("/proc/self"))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_earlier_versions_left_is_removed_too(tmp_path: Path, kind: str) -> None:
    for pid in (os.getpid(), 2**22 + 1):  # this process' number, and one that no process has
        half = tmp_path / f".it.{pid}.tmp"
        if kind == "folder":
            half.mkdir()
            (half / "file").write_text("half")
        else:
            half.write_text("half")
    write_folder(tmp_path / "it", "whole")
    assert names(tmp_path) == ["it"]


def test_the_temporary_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "it") as temporary:
        temporary.write_text("first")
        write_text(tmp_path / "it", "second")  # this process
        assert in_child(lambda: write_text(tmp_path / "it", "third")).code == 0
        assert temporary.read_text() == "first"
    assert (tmp_path / "it").read_text() == "first" and names(tmp_path) == ["it"]


def test_scratch_folders_of_the_dead_are_removed_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def scratch() -> None:
        with temporary_folder() as folder:
            (folder / "model.onnx").write_bytes(b"x")
            die()

    killed(scratch)
    assert len(names(tmp_path)) == 1
    with temporary_folder(name="other") as folder:
        assert names(tmp_path) == [folder.name]
    assert names(tmp_path) == []


@pytest.mark.parametrize("atomic", [True, False])
def test_a_folder_is_there_whenever_its_replacement_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool
) -> None:
    """Killed after each of the renames and exchanges in turn: the old one or the new one is found."""
    if not atomic:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    place = tmp_path / "it"
    write_folder(place, "old")
    found = []
    for last in range(1, 4):

        def deadly(last: int = last) -> None:
            count = iter(range(1, 100))

            def counted(step: Callable[..., object]) -> Callable[..., object]:
                def run(*arguments: object) -> object:
                    made = step(*arguments)
                    return die() if next(count) == last else made

                return run

            os.replace = counted(os.replace)  # type: ignore[assignment]
            if atomic:
                files._exchange = counted(files._exchange)  # type: ignore[assignment]
            write_folder(place, f"new {last}")

        if in_child(deadly).code == 0:
            break
        found.append((recover(place) / "file").read_text())
    assert found == (["new 1"] if atomic else ["old", "new 2"])
    write_folder(place, "newest")
    assert names(tmp_path) == ["it"]


def test_where_the_system_exchanges_folders_the_name_is_never_gone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files._exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == ["b"] and names(tmp_path / "b") == ["a"]
    assert not files._exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_place_that_cannot_be_written_is_one_line_and_a_trial_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/folder: a file is there, or on the way"):
        check_writable(tmp_path / "file" / "folder")
    with pytest.raises(UserError, match=r"file: a file is there"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    assert names(tmp_path / "new") == []


# --------------------------------------------------------------------------------------------------------------- locks


def test_a_folder_is_held_by_one_process_which_is_named(tmp_path: Path) -> None:
    def second() -> None:
        with holding(tmp_path / "run", "run", "wait for it"):
            raise AssertionError

    with holding(tmp_path / "run", "run", "wait for it"):
        (tmp_path / "run" / "kept").touch()
        ended = in_child(second)
        assert f"run {tmp_path}/run is in use by process {os.getpid()} on " in ended.err
        assert "since 2" in ended.err and "wait for it" in ended.err
        with pytest.raises(UserError, match=r"in use by this process"):
            second()
        assert "is in use by process" in in_child(second).err  # the refusals did not free it
    with holding(tmp_path / "run", "run", "wait for it"):
        pass
    assert names(tmp_path / "run") == ["kept"]


def test_a_lock_ends_with_its_process_even_if_its_children_live_on(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def parent() -> None:
        with holding(tmp_path, "run", ""):
            if os.fork() == 0:
                os.close(writer)
                os.read(reader, 1)  # until the test ends
                os._exit(0)
            die()

    killed_code = in_child_without_pipes(parent)
    assert killed_code == -signal.SIGKILL
    with holding(tmp_path, "run", ""):
        pass
    os.close(writer)
    os.close(reader)


def in_child_without_pipes(action: Callable[[], object]) -> int:
    """Like `in_child`, whose pipes would stay open in a grandchild."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_folder_that_was_made_to_be_held_goes_if_nothing_came_of_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mistake"), holding(tmp_path / "a" / "run", "run", ""):
        raise UserError("mistake")
    assert names(tmp_path) == []


def test_where_there_are_no_locks_nothing_is_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_lock", lambda handle: None)
    with temporary_folder(tmp_path, "it") as folder:
        monkeypatch.setattr(locks, "_held", set())  # as another process sees it
        write_text(tmp_path / "it", "whole")
        assert folder.is_dir()
    held = acquire(tmp_path / "lock")
    assert held is not None and not held.sure
