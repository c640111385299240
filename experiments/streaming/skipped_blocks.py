"""What a burst at the shallowest depth costs the five seconds that follow it, by four rules for skipped blocks.

    python experiments/streaming/skipped_blocks.py MODEL data/streams/dev.cuts.jsonl.gz --out ROWS.jsonl
        [--holes MODEL_TRAINED_WITH_HOLES] [--rules W,C,M] [--chunk-ms 320] [--depth 8] [--burst 2]

Each stream runs at `depth`, drops to one block at 3 s (in a second pass at 8 s) for `burst` seconds, and comes back.
Scored are the words that are spoken within the five seconds after, against the same stream that never drops.
Rules: `W`, what layerdial does: a skipped block keeps its input. `H`: it keeps a hole. `C`: when depth rises, the last
two seconds are computed again from scratch at full depth. `M`: depth rises at the next pause only, eight blank frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from holes import holes

from layerdial.config.network import FRAME_MS
from layerdial.data.batching import FeatureBatches
from layerdial.evaluation.emission import KnownWord, aligned, known_words
from layerdial.evaluation.metrics import bootstrap_interval, paired_change
from layerdial.ladder import select_all
from layerdial.models.torch_recognizer import TorchRecognizer, load_torch_model
from layerdial.recognizer import FeatureBatch, collate_features
from layerdial.subset import BlockSubset, ChunkSchedule
from layerdial.text.ctc import BLANK, greedy_ctc
from layerdial.text.normalise import normalise
from layerdial.utils.rows import append_row

BEGINS, AFTER, AGAIN, PAUSE = (3.0, 8.0), 5.0, 2.0, 8  # seconds, and frames of the pause


@dataclass(frozen=True)
class Burst:
    """A stream, in a batch of one, its words, and the frames from `first` to before `end` of a burst."""

    batch: FeatureBatch
    words: Sequence[KnownWord]
    first: int
    end: int

    def scored(self) -> list[bool]:
        """Return which of the words are spoken in the seconds after the burst."""
        begin = self.end * FRAME_MS / 1000
        ends = [word.end for word in self.words]
        starts = [0.0, *(end or 0.0 for end in ends[:-1])]
        return [
            end is not None and begin <= start and end <= begin + AFTER for start, end in zip(starts, ends, strict=True)
        ]


class Dial:
    """A model at two depths, heard in chunks: the best token of each frame."""

    def __init__(self, model: TorchRecognizer, depth: int, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self.shallow, self.deep = select_all("", [1, depth], model.n_blocks, model.ladder)
        self._known: dict[tuple[str, str], np.ndarray] = {}

    def ids(self, batch: FeatureBatch, subsets: Sequence[BlockSubset] | None = None) -> np.ndarray:
        """Return the best token of each frame of a stream; what is asked for again is remembered."""
        schedule = ChunkSchedule((self.chunk,), tuple(subsets or (self.deep,)))
        key = batch.ids[0], schedule.key
        if key not in self._known:
            self._known[key] = self.model.log_probs(batch, schedule)[0].argmax(axis=1)
        return self._known[key]

    def subsets(self, burst: Burst, end: int | None = None) -> list[BlockSubset]:
        """Return the subset of each chunk."""
        n_chunks = -(-frames_of(burst.batch) // self.chunk)
        low, high = burst.first // self.chunk, (burst.end if end is None else end) // self.chunk
        return [self.shallow if low <= i < high else self.deep for i in range(n_chunks)]


def frames_of(batch: FeatureBatch) -> int:
    return -(-int(batch.lengths_B[0]) // 4)


def write_through(dial: Dial, burst: Burst) -> np.ndarray:
    return dial.ids(burst.batch, dial.subsets(burst))


def catch_up(dial: Dial, burst: Burst) -> np.ndarray:
    """Begin anew two seconds before the end of the burst, at full depth."""
    again = burst.end - int(AGAIN * 1000) // FRAME_MS // dial.chunk * dial.chunk
    inputs = burst.batch.inputs[0, 4 * max(0, again) :]
    fresh = dial.ids(collate_features([f"{burst.batch.ids[0]} from {again}"], [inputs], [""], 0.0))
    before = write_through(dial, burst)[: burst.end]
    return np.concatenate([before, fresh[burst.end - max(0, again) :]])


def at_pauses(dial: Dial, burst: Burst) -> np.ndarray:
    """Stay shallow until there were blanks alone for a while."""
    shallow = dial.ids(burst.batch, dial.subsets(burst, frames_of(burst.batch) + dial.chunk))
    for end in range(burst.end, len(shallow), dial.chunk):
        if (shallow[end - PAUSE : end] == BLANK).all():
            return dial.ids(burst.batch, dial.subsets(burst, end))
    return shallow


def never(dial: Dial, burst: Burst) -> np.ndarray:
    return dial.ids(burst.batch)


RULES: dict[str, Callable[[Dial, Burst], np.ndarray]] = {"W": write_through, "C": catch_up, "M": at_pauses}


def bursts(batches: Iterable[FeatureBatch], cuts: Path, seconds: float, chunk: int) -> Iterator[Burst]:
    """Yield the bursts that end within their streams; where five seconds are not left, fewer words are scored."""
    known = known_words(cuts)
    for batch in batches:
        for name, inputs, length in zip(batch.ids, batch.inputs, batch.lengths_B, strict=True):
            one = collate_features([name], [inputs[:length]], [""], 0.0)
            for begin in BEGINS:
                first = int(begin * 1000) // FRAME_MS // chunk * chunk
                end = first + int(seconds * 1000) // FRAME_MS // chunk * chunk
                if end + chunk < frames_of(one):
                    yield Burst(one, known[name], first, end)


def errors(model: TorchRecognizer, ids: np.ndarray, burst: Burst) -> tuple[int, int]:
    """Return errors and words of those that are scored; an insertion counts where the word before it is scored."""
    scored = burst.scored()
    found = normalise(model.tokenizer.decode(greedy_ctc(ids.tolist()))).split()
    wrong, last = 0, -1
    for i, j in aligned([word.text for word in burst.words], found):
        last = last if i is None else i
        same = i is not None and j is not None and burst.words[i].text == found[j]
        wrong += last >= 0 and scored[last] and not same
    return wrong, sum(scored)


def measure(dial: Dial, found: Sequence[Burst], rule: Callable[[Dial, Burst], np.ndarray]) -> list[tuple[int, int]]:
    return [errors(dial.model, rule(dial, burst), burst) for burst in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("cuts", type=Path)
    parser.add_argument("--holes", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chunk-ms", type=int, default=320)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--burst", type=float, default=2.0)
    parser.add_argument("--streams", type=int, default=1000, help="only the first so many")
    parser.add_argument("--rules", default="W,C,M", help="of these; H is measured where --holes names its model")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chunk = asked.chunk_ms // FRAME_MS
    model = load_torch_model(asked.model)
    batches = FeatureBatches(asked.cuts, model.features, workers=0)
    found = list(bursts(batches, asked.cuts, asked.burst, chunk))[: len(BEGINS) * asked.streams]
    jobs = [(rule, model, asked.model) for rule in asked.rules.split(",") if rule]
    if asked.holes:
        jobs.append(("H", load_torch_model(asked.holes), asked.holes))
    dials = {folder: Dial(network, asked.depth, chunk) for _, network, folder in jobs}
    for rule, _, folder in jobs:
        dial = dials[folder]
        with holes() if rule == "H" else nullcontext():
            base, after = (measure(dial, found, each) for each in (never, RULES.get(rule, write_through)))
        words = [count for _, count in base]
        (base_errors, after_errors) = ([wrong for wrong, _ in counts] for counts in (base, after))
        change = paired_change(base_errors, words, after_errors)
        low, high = bootstrap_interval(after_errors, words)
        row: dict[str, Any] = {"rule": rule, "model": str(folder), "cuts": asked.cuts.name, "chunk_ms": asked.chunk_ms}
        row |= {"depth": asked.depth, "burst_s": asked.burst, "words": sum(words), "errors": sum(after_errors)}
        row |= {"wer": sum(after_errors) / sum(words), "wer_low": low, "wer_high": high}
        row |= {"errors_never": sum(base_errors), "wer_never": sum(base_errors) / sum(words)}
        row |= {"change": change.relative, "change_low": change.low, "change_high": change.high}
        append_row(asked.out, row)
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
