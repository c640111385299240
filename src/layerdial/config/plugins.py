"""Loads a user's files, which register policies, objectives and network families that recipes and suites name."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from layerdial.config.registry import Source, forget, names_of, registering
from layerdial.errors import UserError

_loaded: dict[Path, Source] = {}


def with_plugins(data: Mapping[str, Any]) -> dict[str, Any]:
    """Load the files that the key `plugins` of a recipe or suite names; return its keys with absolute paths there."""
    files = data.get("plugins") or []
    if not isinstance(files, list | tuple) or not all(isinstance(file, str | Path) for file in files):
        raise UserError(f"plugins is {files!r}; give a list of Python files, for example [my_policy.py]")
    return {**data, "plugins": [str(file) for file in load_plugins(files)]}


def load_plugins(files: Iterable[str | Path]) -> tuple[Path, ...]:
    """Execute files that register something, each once unless it changed, and return their absolute paths.

    Relative paths are relative to the working directory, as all paths in recipes are. Raises `UserError` for a file
    that does not exist, does not import, registers nothing, or takes a name that is taken.
    """
    return tuple(_load(Path(file)) for file in files)


def _load(file: Path) -> Path:
    path = Path(file).resolve()
    if not path.exists():
        raise UserError(f"plugin {file} does not exist (looked for in {path.parent}); give a Python file")
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"plugin {file} is no Python file, whose name ends in .py")
    source = Source(str(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    before = _loaded.get(path)
    if before == source:
        return path
    if before is not None:
        forget(_loaded.pop(path))
    with registering(source):
        _execute(file, path)
        if not names_of(source):
            raise UserError(
                f"plugin {file} registers nothing; it has a class with @register_policy, @register_objective or "
                "@register_network before it"
            )
    _loaded[path] = source
    return path


def _execute(file: Path, path: Path) -> None:
    name = f"layerdial_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # since it ends in .py
    module: ModuleType = module_from_spec(spec)
    sys.modules[name] = module  # where annotations are looked up
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        raise UserError(f"plugin {file}: {error}") from None
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"plugin {file} does not import: line {_line(error, path)}: {reason}") from error


def _line(error: BaseException, path: Path) -> int:
    """The line of the file in which it went wrong."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 1
