"""Opening a model of either kind: a torch model, or a folder that `layerdial export` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.errors import UserError, needing
from layerdial.registry.find import model_folder
from layerdial.runtime.session import is_exported

if TYPE_CHECKING:
    from layerdial.recognition.streaming import StreamingRecognizer  # much that whole utterances do not need


def load_model(model: str | Path, device: str = "cpu", threads: int | None = None) -> StreamingRecognizer:
    """Load a model with its ladder: a model folder (such as `runs/demo/sc_exits/model`), an exported folder, a hub id,
    or a name of the registry (such as `english`), which is fetched if it is not here.

    `device` is for torch models; exported ones run on the CPU. `threads` is the number of threads of a pass; torch has
    one such number a process. Raises `UserError` when the folder is not a model or is damaged, and when its ladder is
    for another number of blocks. It is also raised when the device does not exist.
    """
    folder = model_folder(model)
    if is_exported(folder):
        if device != "cpu":
            raise UserError(f"{model} is exported for CPUs; device {device} is for torch models")
        from layerdial.runtime.recognizer import OnnxRecognizer

        return OnnxRecognizer(folder, threads)
    with needing("train", f"{model} is a torch model: it needs"):
        from layerdial.models.torch_recognizer import load_torch_model

        if threads:
            import torch

            torch.set_num_threads(threads)
        return load_torch_model(folder, device)
