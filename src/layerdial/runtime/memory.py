"""Whether a model fits into the memory that is free, before it is loaded: else the system may end the process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from layerdial.errors import UserError

_OF_GRAPHS, _OF_WEIGHTS = 2.8, 1.5  # bytes at the peak of loading for each byte of a file
_MEMINFO = Path("/proc/meminfo")
_OWN_GROUP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def check_memory(folder: Path, graphs: Iterable[str]) -> None:
    """Raise `UserError`, which says how much is needed, where loading a folder's graphs takes more than is free.

    Says nothing on systems that do not tell what is free.
    """
    needed = 0.0
    for graph in (folder / name for name in graphs):
        for file, factor in ((graph, _OF_GRAPHS), (graph.with_suffix(".weights"), _OF_WEIGHTS)):
            needed += factor * file.stat().st_size if file.is_file() else 0
    free = free_bytes()
    if free is not None and free < needed:
        raise UserError(
            f"loading {folder} takes about {needed / 1e6:.0f} MB of memory, and {free / 1e6:.0f} MB are free; end "
            "other programs, or take a smaller model (layerdial export --int8)"
        )


def free_bytes() -> int | None:
    """Return the bytes that the machine, swap included, and this process' control groups leave; None where unknown."""
    found = [bytes_ for bytes_ in (_of_machine(), *map(_of_group, _groups())) if bytes_ is not None]
    return min(found) if found else None


def _of_machine() -> int | None:
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    return None


def _groups() -> list[Path]:
    """Return the folders of the control group (version 2) that this process is in, and of those around it."""
    with suppress(OSError):
        for line in _OWN_GROUP.read_text(encoding="utf-8").splitlines():
            if line.startswith("0::/"):
                own = Path(os.path.normpath(_GROUPS / line.removeprefix("0::/")))
                return [folder for folder in (own, *own.parents) if folder.is_relative_to(_GROUPS)]
    return []


def _of_group(folder: Path) -> int | None:
    """Return what a group leaves: cached files that it can drop count as free."""
    with suppress(OSError, KeyError, ValueError):
        most = int((folder / "memory.max").read_text(encoding="ascii"))  # "max" where there is no limit
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        return max(0, most - used + int(dict(line.split() for line in lines)["inactive_file"]))
    return None
