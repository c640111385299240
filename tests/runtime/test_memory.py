"""A model that does not fit into memory is refused before it is loaded, with what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.errors import UserError
from layerdial.runtime import Recognizer, memory
from layerdial.runtime.memory import check_memory, free_bytes

pytest_plugins = ["tiny_export"]
MB = 1_000_000


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 3 MB and 1 MB of swap, and control groups `outer/inner` without limits."""
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    3000 kB\nSwapFree: 1000 kB\n")
    (tmp_path / "own").write_text("1:name=systemd:/x\n0::/outer/inner\n")
    for folder in ("outer", "outer/inner"):
        (tmp_path / "groups" / folder).mkdir(parents=True)
        limit(tmp_path / "groups" / folder, "max")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    return tmp_path


def limit(group: Path, most: str, used: int = 900_000, cached: int = 100_000) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_free_is_the_least_of_machine_and_groups(system: Path) -> None:
    assert free_bytes() == 4000 * 1024
    limit(system / "groups" / "outer", "2000000")
    assert free_bytes() == 1_200_000
    limit(system / "groups" / "outer" / "inner", "1000000")
    assert free_bytes() == 200_000
    limit(system / "groups" / "outer" / "inner", "100")  # set below what is used
    assert free_bytes() == 0


def test_a_system_that_tells_nothing_refuses_nothing(system: Path, exported: Path) -> None:
    for name in ("meminfo", "own"):
        (system / name).unlink()
    assert free_bytes() is None
    check_memory(exported, ["model.onnx"])


def test_a_model_that_does_not_fit_is_refused_with_what_it_needs(system: Path) -> None:
    (system / "edge").mkdir()
    (system / "edge" / "encoder.onnx").write_bytes(bytes(MB))
    (system / "edge" / "encoder.weights").write_bytes(bytes(MB // 2))
    check_memory(system / "edge", ["encoder.onnx", "decoder.onnx"])
    (system / "edge" / "decoder.onnx").write_bytes(bytes(MB))
    with pytest.raises(UserError, match=r"edge takes about 6 MB of memory, and 4 MB are free; .* --int8"):
        check_memory(system / "edge", ["encoder.onnx", "decoder.onnx"])


def test_it_is_asked_before_anything_is_loaded(system: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(system / "groups" / "outer", "1000")
    monkeypatch.setattr("layerdial.runtime.session._open", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=r"of memory, and 0 MB are free"):
        Recognizer(exported, threads=1)
