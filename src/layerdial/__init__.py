"""Dynamic speech recognition: one set of weights whose encoder blocks can be left out at run time.

>>> from layerdial import load_model                                # doctest: +SKIP
>>> load_model("runs/demo/sc_exits/model").transcribe("a.flac", depth=6)  # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from layerdial.errors import UserError
from layerdial.subset import BlockSubset

if TYPE_CHECKING:
    from layerdial.config.network import register_network
    from layerdial.config.objective import register_objective
    from layerdial.config.policies import Policy, Searched, Stack, register_policy
    from layerdial.evaluation.load import load_model
    from layerdial.ladder import Ladder
    from layerdial.recognition.endpointing import Endpoints
    from layerdial.recognition.streaming import Stream, step_streams
    from layerdial.recognizer import Recognizer
    from layerdial.transcript import Transcript

if os.path.expanduser("~") == "~":
    # No HOME, and a user that the system does not know, as in rootless containers. Packages ask for it as soon as they
    # are imported; this one is Docker's, in which nothing can be written.
    os.environ["HOME"] = os.path.sep
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime looks for a place to note its device

__version__ = "0.1.0"
__all__ = [
    "BlockSubset",
    "Endpoints",
    "Ladder",
    "Policy",
    "Recognizer",
    "Searched",
    "Stack",
    "Stream",
    "Transcript",
    "UserError",
    "load_model",
    "register_network",
    "register_objective",
    "register_policy",
    "step_streams",
]

# Imported when first used: torch alone takes longer to import than this package may.
_LAZY = {
    "Endpoints": "layerdial.recognition.endpointing",
    "Ladder": "layerdial.ladder",
    "Policy": "layerdial.config.policies",
    "Recognizer": "layerdial.recognizer",
    "Searched": "layerdial.config.policies",
    "Stack": "layerdial.config.policies",
    "Stream": "layerdial.recognition.streaming",
    "Transcript": "layerdial.transcript",
    "load_model": "layerdial.evaluation.load",
    "register_network": "layerdial.config.network",
    "register_objective": "layerdial.config.objective",
    "register_policy": "layerdial.config.policies",
    "step_streams": "layerdial.recognition.streaming",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'layerdial' has no attribute {name!r}")
