"""What both command lines have of `layerdial listen`. Imports nothing heavy: --help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from layerdial.errors import UserError

if TYPE_CHECKING:
    from layerdial.recognition.streaming import StreamingRecognizer
    from layerdial.request import Request

ABOUT = "Print what is said into a microphone, a line for each utterance, until Ctrl-C (exit code 0)."
HELP = {
    "from": "An audio file that is played in real time, instead of a microphone.",
    "microphone": "The number or a part of the name of a microphone; the system's choice if left out.",
    "list": "List the microphones, with * the system's choice, and listen to none.",
    "pause": "The seconds of silence (0.5 if left out), or for streaming models without a word (0.6), that end a text.",
    "json": "Print a JSON object for each utterance; of streaming models one for each partial result too.",
    "out": "Also append what is said to this file: the text alone, or with --json the objects.",
}


def run_listen(
    model: str,
    load: Callable[[str], StreamingRecognizer],
    request: Request,
    file: Path | None,
    microphone: str | None,
    list_them: bool,
    pause: float | None,
    chunk_ms: int | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Listen with `load(model)`, after a check of all else; or list the microphones.

    Raises `UserError` as `dictate` does, for audio in the place of the model, and where it would be written to.
    """
    if list_them:
        from layerdial.audio.microphone import list_microphones

        print("\n".join(list_microphones()))
        return
    from layerdial.audio.files import EXTENSIONS
    from layerdial.runtime.dictation import Dictation, dictate, open_sound

    if Path(model).is_file() and EXTENSIONS.fullmatch(Path(model).suffix):
        raise UserError(f"{model} is a recording, not a model; to play it: layerdial listen --from {model}")
    if out is not None and out.exists() and file is not None and file.exists() and out.samefile(file):
        raise UserError(f"--out {out} is the file that is played; give another")
    dictation = Dictation(pause, as_json, out, chunk_ms)
    sound = open_sound(file, microphone)
    dictate(load(model), sound, request, dictation)
