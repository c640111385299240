"""What a forked child must make anew: locks that threads of the parent held, and what had threads of its own."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, Protocol


class Renewable(Protocol):
    """An object that is made usable again in a forked child, where no thread but the forking one lives on."""

    def after_fork(self) -> None: ...


_living: weakref.WeakSet[Any] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Call `thing.after_fork()` in every child that is forked while `thing` lives."""
    _living.add(thing)


def never_free(thing: object) -> None:
    """Keep an object to the end of the process and beyond: its end would wait for threads that a fork left behind."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _renew() -> None:
    for thing in list(_living):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
