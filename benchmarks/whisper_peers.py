"""Whisper as others run it on a manifest: what a dynamic Whisper is compared with.

    python benchmarks/whisper_peers.py CUTS OUT --faster-whisper base=FOLDER tiny.en=FOLDER [--compute int8 float32]
    python benchmarks/whisper_peers.py CUTS OUT --transformers base=FOLDER
    python benchmarks/whisper_peers.py CUTS OUT --sherpa-onnx "tiny.en float32=FOLDER"
    python benchmarks/whisper_peers.py CUTS OUT --exported "student int8=FOLDER" --depths 6 4 --against PEER
    python benchmarks/whisper_peers.py CUTS OUT --faster-whisper base=FOLDER --time 20

Greedy, English, no timestamps, no text of earlier windows, one thread. faster-whisper takes a CTranslate2 folder
(`pip install faster-whisper`), transformers the folder that `layerdial convert ctranslate2` makes of it, sherpa-onnx
(`pip install sherpa-onnx`) what `layerdial export --format sherpa-onnx` makes of that. `--exported` takes what
`layerdial export` writes, at each of `--depths`. `--against` prints the relative change of errors from a peer whose
texts are there, paired over utterances. Texts are
appended to `OUT/texts/<split>-<peer>.jsonl` as they are made, so an interrupted run goes on. `OUT/peers.jsonl` gets a
row for each peer, normaliser, and use of the fallback by temperature; the errors of each utterance are in the file that
it names, as those of a sweep. With `--time N` only times are measured, of N utterances of the middle lengths, on a
machine that does nothing else; `--clock cpu` takes the CPU time of the process instead.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.files import SAMPLE_RATE
from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.evaluation.evaluate import Evaluation
from layerdial.evaluation.metrics import paired_change
from layerdial.evaluation.sweep import measure_errors, utterance_lines
from layerdial.runtime import Recognizer
from layerdial.text.normalisers import Normalizer
from layerdial.utils.files import write_text
from layerdial.utils.rows import Row, append_row, read_rows
from turns import CLOCKS

Samples = NDArray[np.float32]
Transcribe = Callable[[Samples], Row]
REPEATS, LOG_PROBABILITY, NO_SPEECH = 2.4, -1.0, 0.6  # faster-whisper's own thresholds of a fallback
WINDOW = 30 * SAMPLE_RATE
TIMED = 3


def main() -> None:
    options = parse()
    split = options.cuts.name.split(".")[0]
    for peer, transcribe in peers(options):
        if options.time:
            row = {"peer": peer, "cuts": split, "clock": options.clock, **times(options, transcribe)}
            append_row(options.out / "times.jsonl", row)
            print(row, flush=True)
            continue
        texts = options.out / "texts" / f"{split}-{peer.replace(' ', '-')}.jsonl"
        recognise(options.cuts, texts, transcribe)
        for labels, evaluation in evaluations(options.cuts, texts):
            name = f"utterances/{texts.stem}-{evaluation.normalizer}{'-fallback' * labels['fallback']}.jsonl"
            write_text(options.out / name, utterance_lines(evaluation))
            row = {"peer": peer, "cuts": split, **labels, **measure_errors(evaluation), "utterances_file": name}
            if row not in read_rows(options.out / "peers.jsonl"):
                append_row(options.out / "peers.jsonl", row)
            print(f"{peer} on {split}, {evaluation.normalizer}: WER {100 * row['wer']:.2f} %", flush=True)
        if options.against:
            print(against(options, texts), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--faster-whisper", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--compute", nargs="+", default=["int8", "float32"])
    parser.add_argument("--transformers", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--sherpa-onnx", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--exported", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--depths", nargs="+", type=int, default=[6, 5, 4, 3])
    parser.add_argument("--against", metavar="PEER", help='such as "faster-whisper base int8"')
    parser.add_argument("--time", type=int, default=0, metavar="N")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    return parser.parse_args()


def peers(options: argparse.Namespace) -> Iterator[tuple[str, Transcribe]]:
    for named in options.faster_whisper:
        name, _, folder = named.partition("=")
        for compute in options.compute:
            yield f"faster-whisper {name} {compute}", faster_whisper(folder, compute)
    for named in options.transformers:
        name, _, folder = named.partition("=")
        yield f"transformers {name} float32", transformers(folder)
    for named in options.sherpa_onnx:
        name, _, folder = named.partition("=")
        yield f"sherpa-onnx {name}", sherpa(Path(folder))
    for named in options.exported:
        name, _, folder = named.partition("=")
        model = Recognizer(Path(folder), threads=1)
        for depth in options.depths:
            yield f"{name} {depth} blocks", partial(exported, model, depth)


def faster_whisper(folder: str, compute: str) -> Transcribe:
    """Return a function that gives the greedy text, and the text after a fallback where the greedy one needs it."""
    import ctranslate2
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type=compute, cpu_threads=1, num_workers=1)
    settings = {"language": "en", "beam_size": 1, "without_timestamps": True, "condition_on_previous_text": False}

    def transcribe(samples: Samples) -> Row:
        segments = list(model.transcribe(samples, temperature=0.0, **settings)[0])
        row: Row = {"text": "".join(segment.text for segment in segments)}
        if any(needs_fallback(segment) for segment in segments):
            ctranslate2.set_random_seed(0)
            row["fallback"] = "".join(segment.text for segment in model.transcribe(samples, **settings)[0])
        return row

    return transcribe


def needs_fallback(segment: Any) -> bool:
    """Return whether faster-whisper would decode the segment again at a higher temperature, if it could."""
    unlikely = segment.avg_logprob < LOG_PROBABILITY
    return (segment.compression_ratio > REPEATS or unlikely) and not (unlikely and segment.no_speech_prob > NO_SPEECH)


def transformers(folder: str) -> Transcribe:
    """Return a function that gives the greedy text of the first 30 s, padded to 30 s, without any safeguard."""
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    torch.set_num_threads(1)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    settings = {"language": "en", "task": "transcribe"} if model.generation_config.is_multilingual else {}

    def transcribe(samples: Samples) -> Row:
        inputs = processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        ids = model.generate(inputs, num_beams=1, do_sample=False, **settings)
        row: Row = {"text": processor.batch_decode(ids, skip_special_tokens=True)[0]}
        return row | {"cut_to_s": 30} if len(samples) > WINDOW else row

    return transcribe


def sherpa(folder: Path) -> Transcribe:
    """Return a function that gives sherpa-onnx's text of the first 29.5 s."""
    import sherpa_onnx

    files = (str(folder / name) for name in ("encoder.onnx", "decoder.onnx", "tokens.txt"))
    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(*files, language="en", num_threads=1)

    def transcribe(samples: Samples) -> Row:
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, samples)
        recognizer.decode_stream(stream)
        return {"text": str(stream.result.text)}

    return transcribe


def exported(model: Recognizer, depth: int, samples: Samples) -> Row:
    """Return the text of an exported model at one depth, with its own safeguards."""
    return {"text": model.transcribe(samples, depth=depth).text}


def recognise(cuts: Path, texts: Path, transcribe: Transcribe) -> None:
    """Append a row for each utterance that has none yet."""
    done = {row["id"] for row in read_rows(texts)}
    for cut in open_cuts(cuts):
        if cut.id not in done:
            append_row(texts, {"id": cut.id, **transcribe(load_samples(cut))})


def evaluations(cuts: Path, texts: Path) -> Iterator[tuple[Row, Evaluation]]:
    """Yield the texts with and without the fallback, by normaliser, and what a row says of them."""
    rows = {row["id"]: row for row in read_rows(texts)}
    spoken = {cut.id: (str(cut_text(cut) or ""), float(cut.duration)) for cut in open_cuts(cuts)}
    ids, references = tuple(spoken), tuple(text for text, _ in spoken.values())
    seconds, fell_back = sum(time for _, time in spoken.values()), sum("fallback" in rows[i] for i in ids)
    for fallback in sorted({False, fell_back > 0}):
        written = tuple(str(rows[i].get("fallback" if fallback else "text", rows[i]["text"])) for i in ids)
        for normalizer in get_args(Normalizer):
            labels = {"normalizer": normalizer, "fallback": fallback, "fell_back": fell_back}
            yield labels, Evaluation(ids, references, written, seconds, normalizer)


def against(options: argparse.Namespace, texts: Path) -> str:
    """Return a line for the relative change of errors from the peer of `--against`, normaliser `basic`."""
    split = options.cuts.name.split(".")[0]
    other = texts.with_name(f"{split}-{options.against.replace(' ', '-')}.jsonl")
    (_, before), *_ = evaluations(options.cuts, other)
    (_, after), *_ = evaluations(options.cuts, texts)
    old, new = before.word_counts, after.word_counts
    change = paired_change([c.errors for c in old], [c.words for c in old], [c.errors for c in new])
    interval = f"({change.low:+.1%} to {change.high:+.1%})"
    return f"{texts.stem} against {options.against}, {before.normalizer}: {change.relative:+.1%} {interval}"


def times(options: argparse.Namespace, transcribe: Transcribe) -> Row:
    """Return the real-time factor of whole requests: the fastest of a few repetitions, summed over utterances."""
    cuts = sorted(open_cuts(options.cuts), key=lambda cut: float(cut.duration))
    start = max(0, (len(cuts) - options.time) // 2)
    chosen = cuts[start : start + options.time]
    best, audio, clock = [], 0.0, CLOCKS[options.clock]
    for cut in chosen:
        samples, taken = load_samples(cut), []
        for _ in range(TIMED):
            begin = clock()
            transcribe(samples)
            taken.append(clock() - begin)
        best.append(min(taken))
        audio += len(samples) / SAMPLE_RATE
    return {
        "utterances": len(chosen),
        "audio_seconds": round(audio, 2),
        "rtf": round(sum(best) / audio, 4),
        "request_ms": round(1000 * statistics.median(best), 1),
    }


if __name__ == "__main__":
    main()
