"""Exported models on the device: ONNX Runtime, a depth dial, a deadline. Never imports torch, lhotse or transformers.

>>> from layerdial.runtime import Recognizer                             # doctest: +SKIP
>>> Recognizer("runs/demo/edge").transcribe("a.flac", deadline_ms=50)    # doctest: +SKIP
"""

from __future__ import annotations

from layerdial.runtime.recognizer import OnnxRecognizer as Recognizer
from layerdial.runtime.session import is_exported
from layerdial.transcript import Chunk, Transcript

__all__ = ["Chunk", "Recognizer", "Transcript", "is_exported"]
