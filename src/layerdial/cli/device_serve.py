"""`layerdial serve` in the command line of a device."""

from __future__ import annotations

import argparse
from pathlib import Path

from layerdial.serving.command import serve
from layerdial.serving.options import Limits, ServeOptions

_TYPES: dict[str, type] = {
    **{"host": str, "port": int, "wyoming_port": int, "api_key_file": Path},
    **{"language": str, "min_depth": int, "chunk_ms": int, "threads": int, "replicas": int},
}
_LISTS = ("name", "cors_origin", "allow_host")


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ServeOptions` and `Limits` to a command."""
    words = "an exported folder, or a name of `layerdial models` (english if left out)"
    parser.add_argument("model", nargs="?", help=words)
    for name, kind in _TYPES.items():
        default = getattr(ServeOptions, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=ServeOptions.help(name))
    for name in _LISTS:
        parser.add_argument(f"--{name.replace('_', '-')}", action="append", default=[], help=ServeOptions.help(name))
    parser.add_argument("--ray", action="store_true", help=ServeOptions.help("ray"))
    for name, kind in Limits.options().items():
        default = getattr(Limits(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=Limits.help(name))


def run_serve(options: argparse.Namespace) -> None:
    """Serve a model until a signal ends it."""
    limits = Limits(**{name: vars(options)[name] for name in Limits.options()})
    given = {name: vars(options)[name] for name in ("model", "ray", *_TYPES, *_LISTS)}
    serve(ServeOptions(**given, limits=limits))
