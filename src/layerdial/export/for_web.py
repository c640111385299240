"""`layerdial export --format web`: a torch model is exported first; what is exported already is copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.errors import UserError, WorseThanFloat, needing
from layerdial.export.onnxruntime_web import onnxruntime_web
from layerdial.export.place import check_place
from layerdial.export.web_folder import write_web_folder
from layerdial.registry.find import model_folder
from layerdial.runtime.manifest import Manifest
from layerdial.runtime.session import is_exported
from layerdial.utils.temporary import temporary_folder

if TYPE_CHECKING:
    from layerdial.export.writer import Precision


def export_web(
    model: Path,
    out: Path,
    runtime: Path | None = None,
    precision: Precision = "float32",
    cuts: Path | None = None,
    licence: str | None = None,
    name: str | None = None,
    note: Callable[[str], None] = lambda text: None,
    force: bool = False,
    accept: bool = False,
) -> Manifest:
    """Write a folder for the web of a torch model, of an exported folder, or of a name of the registry.

    `runtime` is what npm made of onnxruntime-web. Raises as `export_model` does, and `UserError` for options of an
    export where nothing is exported again.
    """
    out = out.resolve()
    check_place(out, force)
    files = onnxruntime_web(runtime)
    folder = model_folder(model)
    if is_exported(folder):
        refuse_options(model, precision, licence, name)
        return write_web_folder(out, folder, files)
    with needing("export", f"{model} is not exported yet, which needs"):
        from layerdial.export.export import export_model

    with temporary_folder(out.parent, out.name) as beside:
        try:
            export_model(folder, beside / "model", precision, cuts, licence, name, note, accept=accept)
        except WorseThanFloat as worse:
            raise WorseThanFloat(str(worse).replace(str(beside / "model"), str(out))) from None
        return write_web_folder(out, beside / "model", files)


def refuse_options(model: Path, precision: str, licence: str | None, name: str | None) -> None:
    """Raise `UserError` for what is settled when a model is exported."""
    given = {"--int8": precision == "int8", "--fp16": precision == "float16", "--licence": licence, "--name": name}
    if options := [option for option, value in given.items() if value]:
        raise UserError(f"{model} is exported already, and is copied as it is; leave {' and '.join(options)} out")
