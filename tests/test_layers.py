"""Imports point down, and the lowest layers need neither torch nor lhotse; `test_startup.py` counts imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import layerdial

SOURCE = Path(layerdial.__file__).parent
LAYERS = (
    "errors subset",
    "utils",
    "cost request ladder config text audio transcript",
    "recognizer registry",
    "recognition",
    "runtime modules",
    "serving",
    "data",
    "models",
    "evaluation",
    "training export",
    "suites",
    "demo",
    "cli __main__",
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names.split()}
HEAVY = {"torch", "lhotse", "transformers", "accelerate", "matplotlib", "jiwer", "rich", "typer", "sentencepiece"}


def module_name(file: Path) -> str:
    parts = ("layerdial", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}


@cache
def imported(name: str) -> frozenset[str]:
    """The modules of this package that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in FILES else str(node.module) for member in members}
    return frozenset(other for other in found if other in FILES and other not in ("layerdial", name))


def part(name: str) -> str:
    """The file or folder of the package that a module is or is in."""
    return name.split(".")[1]


PARTS = [name for name in FILES if name != "layerdial"]


def in_fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_every_module_has_a_layer() -> None:
    assert {part(name) for name in PARTS} <= set(LAYER_OF)


@pytest.mark.parametrize("name", PARTS)
def test_imports_point_down(name: str) -> None:
    for other in imported(name):
        assert LAYER_OF[part(other)] <= LAYER_OF[part(name)], f"{name} imports {other}"


def test_no_two_parts_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for name in PARTS:
        graph.setdefault(part(name), set()).update(part(other) for other in imported(name) if part(other) != part(name))
    TopologicalSorter(graph).prepare()  # raises if there is a circle


def test_no_two_files_import_each_other() -> None:
    TopologicalSorter({name: imported(name) for name in PARTS}).prepare()


@pytest.mark.parametrize("name", list(FILES))
def test_every_module_can_be_imported(name: str) -> None:
    assert import_module(name).__doc__


def test_the_lowest_layers_leave_torch_and_lhotse_out() -> None:
    names = [name for name in PARTS if LAYER_OF[part(name)] <= LAYER_OF["serving"] and part(name) != "modules"]
    code = f"import sys, importlib; [importlib.import_module(n) for n in {names}];"
    printed = in_fresh_process(code + "print(*sorted({name.split('.')[0] for name in sys.modules}))").split()
    assert "numpy" in printed and not set(printed) & HEAVY


def test_starting_up_reads_no_entry_points() -> None:
    code = (
        "import importlib.metadata as metadata\n"
        "def entry_points(group):\n"
        "    assert not group.startswith('layerdial')\n"
        "    return ()\n"  # pydantic looks for its own
        "metadata.entry_points = entry_points\n"
        "import layerdial.config.recipe\n"
        "from layerdial.cli.app import app\n"
        "app(['--help'], standalone_mode=False)"
    )
    assert "transcribe" in in_fresh_process(code)


def test_what_the_package_promises_is_there() -> None:
    for name in layerdial.__all__:
        assert getattr(layerdial, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        layerdial.nothing  # noqa: B018
    assert (SOURCE / "py.typed").is_file()
