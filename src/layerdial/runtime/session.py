"""An exported graph in ONNX Runtime: posteriors of a batch for any subset, checked against its manifest.

Shapes: B batch, T frames, F mel bins, S samples, V vocabulary, N blocks.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError, installing
from layerdial.runtime.manifest import FILE, GRAPH, Manifest
from layerdial.subset import BlockSubset
from layerdial.utils.forks import never_free, renew_after_fork

INPUTS = ("x", "x_lens", "gates")
OUTPUTS = ("log_probs", "log_probs_lens")
LEAST_ONNXRUNTIME = (1, 23)


class Cancelled(Exception):
    """A run that was stopped before its end."""


class Session:
    """One graph, loaded once in a process, run by any number of threads.

    Weights beside the graph (`model.weights`) are mapped into memory. ONNX Runtime still copies those that it packs for
    its matrix products.
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.manifest = manifest
        self.threads = threads
        self.file = folder / GRAPH
        self._loading = threading.Lock()
        self._session: Any = self._load()
        renew_after_fork(self)

    def _load(self) -> Any:
        session = _open(self.file, self.threads)
        _check(session, self.manifest, self.file)
        return session

    def after_fork(self) -> None:
        """Load the graph anew when it is next used: ONNX Runtime's threads did not come along."""
        never_free(self._session)
        self._session, self._loading = None, threading.Lock()

    def _loaded(self) -> Any:
        if self._session is None:
            with self._loading:
                self._session = self._session or self._load()
        return self._session

    def posteriors(
        self,
        inputs: NDArray[np.float32],
        lengths_B: NDArray[np.int64],
        subset: BlockSubset,
        cancel: Cancel | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return log-probabilities (B, T', V) and valid frames (B,) of zero-padded inputs (B, T, F) or (B, S).

        Raises `Cancelled` when `cancel` was called in the meantime.
        """
        if subset.n_blocks != self.manifest.n_blocks:
            raise UserError(f"subset is for {subset.n_blocks} blocks, this encoder has {self.manifest.n_blocks}")
        gates_N = np.zeros(subset.n_blocks, dtype=np.bool_)
        gates_N[list(subset.kept)] = True
        session = self._loaded()
        feed = dict(zip(INPUTS, (inputs, lengths_B, gates_N), strict=True))
        try:
            logp_BTV, frames_B = session.run(list(OUTPUTS), feed, cancel.options if cancel else None)
        except Exception as error:  # ONNX Runtime has no exception of its own for this
            if cancel is not None and cancel.called:
                raise Cancelled from None
            raise RuntimeError(f"{self.file} failed on an input of shape {inputs.shape}: {error}") from error
        return logp_BTV, frames_B


class Cancel:
    """A handle by which another thread stops a run."""

    def __init__(self) -> None:
        from onnxruntime import RunOptions

        self.options = RunOptions()
        self.called = False

    def __call__(self) -> None:
        self.called = True
        self.options.terminate = True


def is_exported(folder: Path) -> bool:
    """Return whether `layerdial export` wrote a folder. A torch model may have another ONNX file beside it."""
    return not (folder / "config.json").is_file() and ((folder / FILE).is_file() or (folder / GRAPH).is_file())


def default_threads() -> int:
    """Return as many threads as this process may use, up to four: small networks are no faster with more."""
    return min(4, usable_cpus())


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _open(file: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError(f"exported models need ONNX Runtime: {installing('runtime')}") from None
    _check_version(onnxruntime.__version__)
    if not file.is_file():
        raise UserError(f"{file} does not exist; an exported folder holds {GRAPH}, {FILE} and tokens.txt")
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised as well
    options.enable_mem_pattern = False  # it keeps a plan for every length of audio ever run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads sleep: others need the CPU
    try:
        # its fallback tries the same again, after some lines on standard output
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # InvalidGraph, InvalidProtobuf, NoSuchFile, Fail, ...
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{file} cannot be loaded ({reason}); copy or export it again") from None


def _check_version(found: str) -> None:
    """Raise `UserError` for an ONNX Runtime that does not know the operators of an export."""
    numbers = re.findall(r"\d+", found)[:2]
    if tuple(map(int, numbers)) < LEAST_ONNXRUNTIME:
        least = ".".join(map(str, LEAST_ONNXRUNTIME))
        remedy = f"pip install -U 'onnxruntime>={least}'"
        raise UserError(f"exported models need ONNX Runtime {least} or newer, this is {found}; {remedy}")


def _check(session: Any, manifest: Manifest, file: Path) -> None:
    """Raise `UserError` unless the graph is of layerdial and the one that the manifest was written for."""
    inputs = tuple(value.name for value in session.get_inputs())
    outputs = tuple(value.name for value in session.get_outputs())
    if inputs != INPUTS or outputs != OUTPUTS:
        raise UserError(
            f"{file} is no graph of layerdial: its inputs are {', '.join(inputs)}; expected {', '.join(INPUTS)}"
        )
    written = session.get_modelmeta().custom_metadata_map.get("layerdial.model_id")
    gates, vocabulary = session.get_inputs()[2].shape, session.get_outputs()[0].shape[-1]
    if written != manifest.model_id or gates != [manifest.n_blocks] or vocabulary != manifest.vocab_size:
        raise UserError(
            f"{file} has {gates[0]} blocks, {vocabulary} tokens and the id {written}, its {FILE} {manifest.n_blocks}, "
            f"{manifest.vocab_size} and {manifest.model_id}; they are not from one export"
        )
