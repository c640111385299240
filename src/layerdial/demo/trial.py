"""The first minute with a model: one clip at every depth, and the time that each depth takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE, probe, read_segment, to_target_rate
from layerdial.errors import UserError, installing, needing
from layerdial.evaluation.load import load_model
from layerdial.ladder import select_all
from layerdial.recognizer import Recognizer
from layerdial.registry import DEFAULT
from layerdial.transcript import Transcript
from layerdial.utils.files import check_writable
from layerdial.utils.timing import measure_in_turns

SENTENCE = "Please open the window, because it is very warm in this room today."
_LONGEST_S = 30
_TURNS = 7
_BUDGET_S = 20.0
_BAR = 24  # signs


@dataclass(frozen=True)
class DepthResult:
    """A transcript by `depth` blocks, and the median milliseconds of the whole request."""

    depth: int
    transcript: Transcript
    ms: float


def run_trial(model: str | Path, audio: Path | None, record_s: float | None, out: Path, threads: int | None) -> None:
    """Transcribe a clip at every depth; print texts and times, and draw the times as `out/depths.png`.

    The clip is a file, a recording, or else a sentence that a synthetic voice reads. Raises `UserError` as `load_model`
    does, and for a clip that cannot be had.
    """
    if audio is not None and record_s is not None:
        raise UserError("give --audio or --record, not both")
    if audio is not None:
        probe(audio)  # what is wrong with it is said before a model is fetched
    recognizer = load_model(model, threads=threads)
    check_writable(out)
    clip = audio or _make_clip(out, record_s)
    samples = _first_samples(clip)
    print(f"every depth of {model}, in turns, on {len(samples) / SAMPLE_RATE:.1f} s of {clip}:\n")
    results = measure_depths(recognizer, samples)
    print("\n".join(table(results)))
    _draw(results, out / "depths.png", f"{model}: {len(samples) / SAMPLE_RATE:.1f} s of speech")
    middle = results[(len(results) - 1) // 2].depth
    print(f"next:    layerdial transcribe {'' if model == DEFAULT else f'{model} '}{clip} --depth {middle}")


def measure_depths(recognizer: Recognizer, samples: NDArray[np.float32]) -> list[DepthResult]:
    """Return the transcript of samples (S,) at 16 kHz and its time at each depth, shallowest first."""
    ladder = recognizer.ladder
    subsets = select_all("ladder" if ladder else "even", None, recognizer.n_blocks, ladder)
    runs = [partial(recognizer.transcribe, samples, depth=subset.depth) for subset in subsets]
    transcripts = [run() for run in runs]
    times = measure_in_turns(runs, 0, _TURNS, _BUDGET_S, least=1)
    rows = zip(subsets, transcripts, times, strict=True)
    return [DepthResult(subset.depth, transcript, ms) for subset, transcript, ms in rows]


def table(results: Sequence[DepthResult]) -> list[str]:
    """Return the lines of a table: depth, time with a bar, share of the time of all blocks, text."""
    longest, full = max(result.ms for result in results), results[-1].ms
    lines = [f"depth  {'time':>8}  of full  {'':{_BAR}}  text"]
    for result in results:
        bar = "#" * max(1, round(_BAR * result.ms / longest))
        text = result.transcript.text + (f"  ({result.transcript.reason})" if result.transcript.reason else "")
        lines.append(f"{result.depth:5}  {result.ms:5.0f} ms  {result.ms / full:7.2f}  {bar:{_BAR}}  {text}")
    return lines


# ---------------------------------------------------------------------------------------------------------- the clip


def _make_clip(out: Path, record_s: float | None) -> Path:
    """Record or speak into a file in `out`, and say which."""
    if record_s is not None:
        from layerdial.audio.microphone import record

        record(record_s, out / "recorded.wav", lambda text: print(text, flush=True))
        return out / "recorded.wav"
    import soundfile

    from layerdial.data.synthesis.espeak import Utterance, synthesise

    with needing("try", "without --audio FILE or --record SECONDS a synthetic voice speaks, which needs"):
        import espeakng_loader  # noqa: F401
    samples = synthesise(Utterance(SENTENCE, "en-us", speed=140), snr_db=None)
    soundfile.write(out / "spoken.wav", samples, SAMPLE_RATE)
    print(f'no --audio and no --record: a synthetic voice (espeak-ng), not a person, reads "{SENTENCE}"')
    return out / "spoken.wav"


def _first_samples(clip: Path) -> NDArray[np.float32]:
    """Return the samples (S,) at 16 kHz of a file, up to 30 s."""
    info = probe(clip)
    samples, _ = read_segment(clip, 0, round(min(info.seconds, _LONGEST_S) * info.rate))
    if info.seconds > _LONGEST_S:
        print(f"{clip} has {info.seconds:.0f} s, of which the first {_LONGEST_S} are taken")
    return to_target_rate(samples, info.rate)


# -------------------------------------------------------------------------------------------------------- the picture


def _draw(results: Sequence[DepthResult], picture: Path, title: str) -> None:
    """Draw time against depth, where matplotlib is installed."""
    from layerdial.evaluation.plots import draw_times

    try:
        draw_times([result.depth for result in results], [result.ms for result in results], picture, title)
        print(f"\npicture: {picture}")
    except ModuleNotFoundError as error:
        print(f"\npicture: none, {(error.name or '').partition('.')[0]} is not installed: {installing('try')}")
