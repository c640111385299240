"""Sound as it comes, recognised while it comes by a streaming model.

Times are of `time.monotonic()`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.live import Sound
from layerdial.errors import UserError
from layerdial.recognition.stream_results import StreamResult
from layerdial.recognition.streaming import StreamingRecognizer
from layerdial.request import Request
from layerdial.runtime.listening import HeardSound, Utterance
from layerdial.runtime.stream_rows import StreamOptions, transcript_of


def listen_in_chunks(
    recognizer: StreamingRecognizer, sound: Sound, request: Request, options: StreamOptions, say: Callable[[str], None]
) -> Iterator[tuple[StreamResult, Utterance | None]]:
    """Yield the results of a sound until it ends or is stopped; a final one with its utterance.

    A deadline counts from when a chunk was there, so that the depth falls where speech comes faster than it is
    recognised. `say` gets what a person should know. Raises `UserError` where the sound ends by an error, behind the
    last result, and as `Recognizer.stream` does.
    """
    stream = recognizer.stream(request, chunk_ms=options.chunks, endpoints=options.endpoints)
    stream.accept(np.zeros(SAMPLE_RATE, np.float32))  # the next is quicker
    stream.reset()
    heard = HeardSound(sound, say)
    taken = behind = 0.0

    def following(results: list[StreamResult], began: float) -> Iterator[tuple[StreamResult, Utterance | None]]:
        nonlocal taken
        now = time.monotonic()
        taken += now - began
        for result in results:
            if not result.final:
                yield result, None
                continue
            spoken = heard.when(result.words[-1].end if result.words else result.end)
            transcript = transcript_of(result, taken, request)
            yield result, Utterance(result.start, result.end, transcript, now - spoken, behind)
            taken = 0.0

    problem: UserError | None = None
    try:
        for block in sound.blocks():
            samples, began = heard.take(block), time.monotonic()
            behind = max(0.0, began - block.at)
            yield from following(stream.accept(samples, sound.rate, at=block.at), began)
    except UserError as error:  # what came before it counts
        problem = error
    finally:
        sound.stop()
    began = time.monotonic()
    yield from following(stream.finish(), began)
    heard.end()
    if problem is not None:
        raise problem
