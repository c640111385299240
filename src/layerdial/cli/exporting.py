"""`layerdial export --format web` on both command lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WEB_HELP = "what `npm pack onnxruntime-web` made; if left out, as npm leaves it in this directory"


def run_export_web(model: Path, out: Path, *options: Any, **more: Any) -> None:
    """Write the folder, and say how it is looked at; see `layerdial.export.for_web.export_web`."""
    from layerdial.export.for_web import export_web

    manifest = export_web(model, out, *options, **more)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    print(f"web:   {out} ({manifest.name}, {manifest.precision}, {size:.1f} MB with the runtime)")
    print(f"next:  python -m http.server --directory {out} --bind 127.0.0.1, then http://127.0.0.1:8000")
