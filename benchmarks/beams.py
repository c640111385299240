"""The cost of a CTC beam search beside a request to an encoder of the size of Whisper base.

    python benchmarks/beams.py WHISPER_FOLDER CUTS [--lm ARPA] [--utterances N] [--int8]

The encoder gets a random head for letters and is exported; a request to it at full depth is greedy, on one thread. Its
posteriors are flat, and a search of them costs what no trained model's would. So posteriors are made from transcripts:
each letter has a frame, three in ten a second one. In one letter of seven the mass is 0.6, 0.25, 0.1 and 0.05 on four
tokens, else 0.97, 0.02 and 0.01; frames between letters have 0.998 on the blank. CPU time, the medians of turns, summed
over utterances. The search is of 8 beams with 100 hotwords, and one with a language model too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from layerdial.data.manifest import cut_text, load_samples, open_cuts
from layerdial.export.export import export_model
from layerdial.models.checkpoint import save_model
from layerdial.models.huggingface.checkpoint import with_ctc_head
from layerdial.request import Request
from layerdial.runtime import Recognizer
from layerdial.text.ctc_beams import likely_tokens
from layerdial.text.ctc_decoder import ctc_decoder
from layerdial.text.normalise import normalise
from layerdial.text.tokenizer import SPACE, build_tokenizer

TURNS = 5


def made_posteriors(text: str, frames: int, tokens: list[str], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return log-probabilities (T, V) that say `text`, a letter a frame."""
    letters = [tokens.index(SPACE if letter == " " else letter) for letter in text]
    p_TV = np.full((frames, len(tokens)), 0.002 / (len(tokens) - 1))
    p_TV[:, 0] = 0.998
    places = np.linspace(1, frames - 3, len(letters)).astype(int)
    for place, letter in zip(places, letters, strict=True):
        unsure = rng.random() < 1 / 7
        others = rng.choice(len(tokens), 3, replace=False)
        for frame in range(place, place + 1 + (rng.random() < 0.3)):
            masses = (0.6, 0.25, 0.1, 0.05) if unsure else (0.97, 0.02, 0.01)
            p_TV[frame] = 1e-5
            for token, mass in zip((letter, 0, *others), masses, strict=False):
                p_TV[frame, token] += mass
    logp_TV: NDArray[np.float32] = np.log(p_TV / p_TV.sum(axis=1, keepdims=True)).astype(np.float32)
    return logp_TV


def base_size_model(whisper: Path, texts: list[str], int8: bool) -> tuple[list[str], Recognizer]:
    """Return the tokens and the exported model of an encoder under a random head."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer("char", texts)
        network, _ = with_ctc_head(whisper, tokenizer)
        save_model(Path(folder) / "model", network, tokenizer, {})
        export_model(Path(folder) / "model", Path(folder) / "edge", "int8" if int8 else "float32")
        return tokenizer.tokens, Recognizer(Path(folder) / "edge", threads=1)


def seconds_of(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--lm")
    parser.add_argument("--utterances", type=int, default=20)
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    cuts = [
        (load_samples(cut), normalise(cut_text(cut))) for cut in list(open_cuts(options.cuts))[: options.utterances]
    ]
    tokens, model = base_size_model(options.whisper, [text for _, text in cuts], options.int8)
    model.warm_up()
    rng = np.random.default_rng(0)
    words = sorted({word for _, text in cuts for word in text.split() if len(word) > 5})[:100]
    asked = {"8 beams, hotwords": Request(beams=8, hotwords=words)}
    if options.lm:
        asked["8 beams, hotwords, language model"] = replace(asked["8 beams, hotwords"], lm=options.lm)
    decoders = {name: ctc_decoder(request, model.pieces, "model") for name, request in asked.items()}
    greedy_s, search_s, likely, only_blank, frames = 0.0, dict.fromkeys(asked, 0.0), 0, 0, 0
    for samples, text in cuts:
        n_frames = round(50 * len(samples) / 16000)
        logp_TV = made_posteriors(text, n_frames, tokens, rng)
        actions: list[Callable[[], object]] = [partial(model.answer, samples, Request())]
        actions += [partial(decoder.labels_of, logp_TV) for decoder in decoders.values() if decoder is not None]
        turns = [[seconds_of(action) for action in actions] for _ in range(TURNS)]
        first, *rest = (median(column) for column in zip(*turns, strict=True))
        greedy_s += first
        for name, seconds in zip(search_s, rest, strict=True):
            search_s[name] += seconds
        ends = np.array(likely_tokens(logp_TV).ends)
        frames, likely = frames + n_frames, likely + int(ends[-1])
        only_blank += int((np.diff(ends, prepend=0) == 1).sum())
    audio = sum(len(samples) for samples, _ in cuts) / 16000
    print(f"{len(cuts)} utterances, {audio:.0f} s; {likely / frames:.2f} tokens a frame", end=", ")
    print(f"{only_blank / frames:.0%} of frames with one")
    print(f"greedy request: {1000 * greedy_s / len(cuts):.1f} ms")
    for name, seconds in search_s.items():
        print(f"{name}: {1000 * seconds / len(cuts):.1f} ms more, {seconds / greedy_s:.1%} of a request")


if __name__ == "__main__":
    main()
