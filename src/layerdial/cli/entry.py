"""The `layerdial` command: the full command line, or where only the runtime is installed, the device's."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    try:
        from layerdial.cli.app import main as run
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        from layerdial.cli.device import main as run
    run()
