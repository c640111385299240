"""A folder for the web: an exported model, a page, and ONNX Runtime for browsers. Any host of static files serves it.

The page is in `export/web`, as it is written; this module adds the model, the matrices of its features, and lists.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerdial import __version__
from layerdial.audio.features import Features, LogMel, WhisperMel
from layerdial.audio.kaldi_fbank import GRAPH, fbank_matrices
from layerdial.audio.whisper_mel import whisper_matrices
from layerdial.errors import UserError
from layerdial.export.place import WEB_FILE, WEB_KIND
from layerdial.ladder import Ladder, depths_of, select
from layerdial.runtime.manifest import FILE, Manifest, check_export, read_features
from layerdial.utils.checksums import checksum
from layerdial.utils.files import replacing, write_json, write_text

PAGE = Path(__file__).with_name("web")
_FORMAT = 1
_WORKER = ("keep.js", "files.js")  # which browsers keep themselves


def write_web_folder(out: Path, exported: Path, runtime: Mapping[str, bytes]) -> Manifest:
    """Write the folder in one step, from an exported model and the files of `onnxruntime_web`.

    Raises `UserError` for a damaged model, for one that takes chunks, and for features that the page does not compute.
    """
    manifest = Manifest.load(exported)
    if manifest.streaming is not None:
        raise UserError(f"{exported} takes chunks, the page whole utterances; export the model without --streaming")
    features = read_features(manifest.features)
    matrices = _matrices_of(features, exported)
    check_export(exported)
    with replacing(out) as folder:
        shutil.copytree(PAGE, folder)
        _copy_model(exported, folder / "model", manifest)
        _write_features(folder / "features", matrices)
        (folder / "onnxruntime").mkdir()
        for name, contents in runtime.items():
            (folder / "onnxruntime" / name).write_bytes(contents)
        write_json(folder / WEB_FILE, _facts(exported, manifest, features, matrices))
        _write_list(folder)
    return manifest


Matrices = dict[str, NDArray[np.float32]]


def _matrices_of(features: Features, exported: Path) -> Matrices:
    """Return the matrices from windows to mel energies. Raises `UserError` for features that are no such product."""
    if isinstance(features, LogMel):
        spectrum, mel = fbank_matrices()
    elif isinstance(features, WhisperMel):
        spectrum, mel = whisper_matrices(features.n_mels)
    else:
        raise UserError(
            f"{exported} takes features of the kind {type(features).__name__}, which the page does not compute; "
            "--format web takes Conformers and Whisper models"
        )
    return {"spectrum": spectrum, "mel": mel}


def _copy_model(exported: Path, folder: Path, manifest: Manifest) -> None:
    """Copy what a runtime reads, so that the copy is an exported folder too, and the licence."""
    folder.mkdir()
    names = [FILE, "tokens.txt", *manifest.graphs, *_weights(exported, manifest).values()]
    names += [name for name in ("ladder.json", "LICENSE") if (exported / name).is_file()]
    for name in names:
        shutil.copyfile(exported / name, folder / name)


def _weights(exported: Path, manifest: Manifest) -> dict[str, str]:
    """Return the file of the weights of each graph that has one."""
    beside = {name: Path(name).with_suffix(".weights").name for name in manifest.graphs}
    return {name: weights for name, weights in beside.items() if (exported / weights).is_file()}


def _write_features(folder: Path, matrices: Matrices) -> None:
    folder.mkdir()
    shutil.copyfile(GRAPH, folder / GRAPH.name)
    for name, values in matrices.items():
        (folder / f"{name}.f32").write_bytes(np.ascontiguousarray(values, "<f4").tobytes())


def _facts(exported: Path, manifest: Manifest, features: Features, matrices: Matrices) -> dict[str, Any]:
    """Return what the page needs to know beside the manifest."""
    n_blocks = manifest.n_blocks
    ladder = Ladder.beside(exported, n_blocks)
    depths = [
        {"depth": depth, "subset": select(None, n_blocks, depth, ladder).key} for depth in depths_of(ladder, n_blocks)
    ]
    return {
        "kind": WEB_KIND,
        "format": _FORMAT,
        "layerdial": __version__,
        "name": manifest.name,
        "licence": manifest.licence,
        "n_blocks": n_blocks,
        "depths": depths,
        "samples_per_frame": features.samples_per_frame,
        "features": {name: list(values.shape) for name, values in matrices.items()},
        "weights": _weights(exported, manifest),
    }


def _write_list(folder: Path) -> None:
    """Write `files.js`: what browsers keep, each with its SHA-256, and a version that changes with any of it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name not in _WORKER)
    listed = {file.relative_to(folder).as_posix(): _integrity(file) for file in files}
    version = _checksum_of(listed)
    text = f"const VERSION = {json.dumps(version)};\nconst FILES = {json.dumps(listed, indent=1)};\n"
    write_text(folder / "files.js", text)


def _integrity(file: Path) -> str:
    """Return the hash of a file as browsers compare it."""
    return "sha256-" + base64.b64encode(bytes.fromhex(checksum(file))).decode()


def _checksum_of(listed: Mapping[str, str]) -> str:
    """Return a short hash of a list of files."""
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()[:16]
