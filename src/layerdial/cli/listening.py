"""What both command lines have of `layerdial listen`. Imports nothing heavy: --help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerdial.recognizer import Recognizer
    from layerdial.request import Request

ABOUT = "Print what is said into a microphone, a line for each utterance, until Ctrl-C (exit code 0)."
HELP = {
    "from": "An audio file that is played in real time, instead of a microphone.",
    "microphone": "The number or a part of the name of a microphone; the system's choice if left out.",
    "list": "List the microphones, with * the system's choice, and listen to none.",
    "pause": "The seconds of silence that end an utterance; 0.5 if left out.",
    "json": "Print a JSON object for each utterance.",
    "out": "Also append what is said to this file: the text alone, or with --json the objects.",
}


def run_listen(
    load: Callable[[], Recognizer],
    request: Request,
    file: Path | None,
    microphone: str | None,
    list_them: bool,
    pause: float | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Listen with the model that `load` returns, after a check of all else; or list the microphones."""
    if list_them:
        from layerdial.audio.microphone import list_microphones

        print("\n".join(list_microphones()))
        return
    from layerdial.runtime.dictation import Dictation, dictate, open_sound

    dictation = Dictation(pause, as_json, out)
    sound = open_sound(file, microphone)
    dictate(load(), sound, request, dictation)
