"""ONNX Runtime for browsers (npm's onnxruntime-web): the two files of it that a folder for the web needs.

They are read and copied, never executed here, and they are those of one version, by their SHA-256.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from layerdial.errors import UserError

VERSION = "1.30.0"
SHA256 = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
PLACES = (Path("node_modules/onnxruntime-web"), Path(f"onnxruntime-web-{VERSION}.tgz"))
"""Where npm leaves it in the working directory: `npm install`, and `npm pack`."""

_REMEDY = f"`npm pack onnxruntime-web@{VERSION}` makes onnxruntime-web-{VERSION}.tgz"


def onnxruntime_web(source: Path | None = None) -> dict[str, bytes]:
    """Return the files by their names, of a folder or archive of npm; None: as npm leaves it in the working directory.

    Raises `UserError` where they are not there, or of another version.
    """
    found = source or next((place for place in PLACES if place.exists()), None)
    if found is None:
        raise UserError(f"onnxruntime-web is not here: {_REMEDY}, which --onnxruntime-web FILE names")
    read = _of_folder if found.is_dir() else _of_archive
    files = {name: read(found, name) for name in SHA256}
    for name, contents in files.items():
        if hashlib.sha256(contents).hexdigest() != SHA256[name]:
            raise UserError(f"{found}: {name} is damaged or not that of onnxruntime-web {VERSION}; {_REMEDY}")
    return files


def _of_folder(folder: Path, name: str) -> bytes:
    for file in (folder / "dist" / name, folder / name):
        if file.is_file():
            return file.read_bytes()
    raise _missing(folder, name)


def _of_archive(archive: Path, name: str) -> bytes:
    if not archive.is_file():
        raise UserError(f"{archive} does not exist; {_REMEDY}")
    try:
        with tarfile.open(archive) as opened:
            member = opened.extractfile(f"package/dist/{name}")
            assert member is not None
            return member.read()
    except KeyError:
        raise _missing(archive, name) from None
    except (tarfile.TarError, OSError, EOFError):
        raise UserError(f"{archive} is not a readable archive of npm; {_REMEDY}") from None


def _missing(found: Path, name: str) -> UserError:
    return UserError(f"{found} has no {name}, so it is not onnxruntime-web {VERSION}; {_REMEDY}")
