"""An exported graph in ONNX Runtime: posteriors of a batch for any subset, checked against its manifest.

Shapes: B batch, T frames, F mel bins, S samples, V vocabulary, N blocks.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial.errors import UserError, installing
from layerdial.runtime.manifest import ENCODER, FILE, GRAPH, Manifest
from layerdial.subset import BlockSubset
from layerdial.utils.forks import never_free, renew_after_fork

INPUTS = ("x", "x_lens", "gates")
OUTPUTS = ("log_probs", "log_probs_lens")
GATES = ("gates", "decoder_gates")  # inputs: which blocks of the encoder run, and which of a decoder
LEAST_ONNXRUNTIME = (1, 23)


class Cancelled(Exception):
    """A run that was stopped before its end."""


class LoadedGraph:
    """One ONNX file, loaded once in a process, run by any number of threads. `check` is called with what is loaded.

    Weights beside the graph (`model.weights`) are mapped into memory. ONNX Runtime still copies those that it packs for
    its matrix products.
    """

    def __init__(self, file: Path, threads: int, check: Callable[[Any], None]) -> None:
        self.file = file
        self._threads, self._check = threads, check
        self._loading = threading.Lock()
        self._session: Any = self._load()
        renew_after_fork(self)

    def _load(self) -> Any:
        session = _open(self.file, self._threads)
        self._check(session)
        return session

    def after_fork(self) -> None:
        """Load the graph anew when it is next used: ONNX Runtime's threads did not come along."""
        never_free(self._session)
        self._session, self._loading = None, threading.Lock()

    def loaded(self) -> Any:
        """Return ONNX Runtime's session."""
        if self._session is None:
            with self._loading:
                self._session = self._session or self._load()
        return self._session

    def run(self, outputs: Sequence[str], feed: Mapping[str, Any], cancel: Cancel | None = None) -> list[Any]:
        """Return the outputs for a feed of arrays, or for one of ONNX Runtime's own values as such values.

        Raises `Cancelled` when `cancel` was called in the meantime.
        """
        session = self.loaded()
        first = next(iter(feed.values()))
        try:
            run = session.run if isinstance(first, np.ndarray) else session.run_with_ort_values
            return run(list(outputs), feed, cancel.options if cancel else None)  # type: ignore[no-any-return]
        except Exception as error:  # ONNX Runtime has no exception of its own for this
            if cancel is not None and cancel.called:
                raise Cancelled from None
            shape = first.shape if isinstance(first, np.ndarray) else first.shape()
            raise RuntimeError(f"{self.file} failed on an input of shape {tuple(shape)}: {error}") from error


class Session:
    """The graph of a CTC model."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.manifest = manifest
        self.threads = threads
        self.file = folder / GRAPH
        self.graph = LoadedGraph(self.file, threads, lambda session: _check(session, manifest, self.file))

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
        gates_N = gates_of(subset, self.manifest.n_blocks, "encoder")
        feed = dict(zip(INPUTS, (inputs, lengths_B, gates_N), strict=True))
        logp_BTV, frames_B = self.graph.run(OUTPUTS, feed, cancel)
        return logp_BTV, frames_B


def gates_of(subset: BlockSubset, n_blocks: int, part: str) -> NDArray[np.bool_]:
    """Return the gates (N,) of a subset. Raises `UserError` where the part has another number of blocks."""
    if subset.n_blocks != n_blocks:
        raise UserError(f"subset is for {subset.n_blocks} blocks, this {part} has {n_blocks}")
    gates_N = np.zeros(n_blocks, dtype=np.bool_)
    gates_N[list(subset.kept)] = True
    return gates_N


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
    files = (FILE, GRAPH, ENCODER)
    return not (folder / "config.json").is_file() and any((folder / file).is_file() for file in files)


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
        raise UserError(f"{file} does not exist; an exported folder holds {file.name}, {FILE} and tokens.txt")
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
    check_ends(session, file, INPUTS, OUTPUTS)
    check_export_of(session, manifest, file)


def check_export_of(session: Any, manifest: Manifest, file: Path) -> None:
    """Raise `UserError` unless a graph of log-probabilities is the one that the manifest was written for."""
    written = model_id_of(session)
    gates, vocabulary = session.get_inputs()[2].shape, session.get_outputs()[0].shape[-1]
    if written != manifest.model_id or gates != [manifest.n_blocks] or vocabulary != manifest.vocab_size:
        raise UserError(
            f"{file} has {gates[0]} blocks, {vocabulary} tokens and the id {written}, its {FILE} {manifest.n_blocks}, "
            f"{manifest.vocab_size} and {manifest.model_id}; they are not from one export"
        )


def check_ends(session: Any, file: Path, expected: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise `UserError` for a graph with other inputs or outputs."""
    inputs = tuple(value.name for value in session.get_inputs())
    if inputs != tuple(expected) or tuple(value.name for value in session.get_outputs()) != tuple(outputs):
        raise UserError(
            f"{file} is no graph of layerdial: its inputs are {', '.join(inputs)}; expected {', '.join(expected)}"
        )


def model_id_of(session: Any) -> str | None:
    """Return the id of the export that a graph is of."""
    found: str | None = session.get_modelmeta().custom_metadata_map.get("layerdial.model_id")
    return found
