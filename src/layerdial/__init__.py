"""Dynamic speech recognition: one set of weights whose encoder blocks can be left out at run time.

>>> from layerdial import load_model                                # doctest: +SKIP
>>> load_model("runs/demo/sc_exits/model").transcribe("a.flac", depth=6)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerdial.errors import UserError
from layerdial.subset import BlockSubset

if TYPE_CHECKING:
    from layerdial.config.network import register_network
    from layerdial.config.objective import register_objective
    from layerdial.config.policies import Policy, Searched, Stack, register_policy
    from layerdial.evaluation.load import load_model
    from layerdial.ladder import Ladder
    from layerdial.recognizer import Recognizer, Transcript

__version__ = "0.1.0"
__all__ = [
    "BlockSubset",
    "Ladder",
    "Policy",
    "Recognizer",
    "Searched",
    "Stack",
    "Transcript",
    "UserError",
    "load_model",
    "register_network",
    "register_objective",
    "register_policy",
]

# Imported when first used: torch alone takes longer to import than this package may.
_LAZY = {
    "Ladder": "layerdial.ladder",
    "Policy": "layerdial.config.policies",
    "Recognizer": "layerdial.recognizer",
    "Searched": "layerdial.config.policies",
    "Stack": "layerdial.config.policies",
    "Transcript": "layerdial.recognizer",
    "load_model": "layerdial.evaluation.load",
    "register_network": "layerdial.config.network",
    "register_objective": "layerdial.config.objective",
    "register_policy": "layerdial.config.policies",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'layerdial' has no attribute {name!r}")
