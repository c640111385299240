"""A manifest whose texts are a recogniser's own: targets from which a student need not learn another style."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from layerdial.data.batching import FeatureBatches
from layerdial.data.manifest import cut_text, cut_writer, open_cuts
from layerdial.errors import UserError
from layerdial.evaluation.metrics import count_errors
from layerdial.models.checkpoint import fingerprint
from layerdial.models.torch_recognizer import load_torch_model
from layerdial.text.normalise import normalise
from layerdial.text.restyle import restyle
from layerdial.utils.files import contents, replacing
from layerdial.utils.progress import progress
from layerdial.utils.rows import Row, append_row, read_rows

WORDS = ("transcript", "recognised")
_BATCH_SECONDS = 240.0  # decoding reads the weights once a step, for however many utterances
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class PseudoLabels:
    """What was written: cuts kept, cuts left out for their errors, and cuts whose audio could not be read."""

    kept: int
    left_out: int
    unread: int


def write_pseudo_labels(
    model: Path,
    cuts: Path,
    out: Path,
    words: str = "transcript",
    max_wer: float = 0.3,
    precision: str = "fp32",
    device: str = "cpu",
) -> PseudoLabels:
    """Recognise every cut with all blocks of a model, and write the cuts with these texts as the manifest `out`.

    With `words` "transcript" a text has the words of the cut's transcript in the recogniser's style; with "recognised"
    it is what was recognised. Cuts of which more than `max_wer` is recognised wrongly are left out: the recogniser
    loops there, or the transcript is of something else. What was recognised is kept in a file beside `out`, from which
    the same command goes on. Raises `UserError` where `out` exists.
    """
    for name, value, known in (("--words", words, WORDS), ("--precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"{name} is {value!r}; choose {' or '.join(known)}")
    if out.exists():
        raise UserError(f"{out} exists already; choose another file")
    journal = out.with_name(f"{out.name}.recognised.jsonl")
    made_by = {"model": fingerprint(model), "cuts": contents(cuts)}
    texts = {str(row["id"]): str(row["text"]) for row in read_rows(journal) if _of(row) == made_by}
    for row in _recognised(model, cuts, set(texts), precision, device):
        append_row(journal, made_by | row)
        texts[str(row["id"])] = str(row["text"])
    return _write(cuts, out, texts, words, max_wer)


def _of(row: Row) -> dict[str, object]:
    return {name: row.get(name) for name in ("model", "cuts")}


def _recognised(model: Path, cuts: Path, known: set[str], precision: str, device: str) -> Iterator[Row]:
    recognizer = load_torch_model(model, device)
    if precision == "bf16":
        recognizer.network.to(torch.bfloat16)
    full = recognizer.subset()
    with progress("pseudo-labels", sum(1 for _ in open_cuts(cuts))) as update:
        for batch in FeatureBatches(cuts, recognizer.features, _BATCH_SECONDS, by_length=True):
            if not set(batch.ids) <= known:
                for cut_id, text in zip(batch.ids, recognizer.recognize(batch, full), strict=True):
                    known.add(cut_id)
                    yield {"id": cut_id, "text": text}
            update(len(known))


def _write(cuts: Path, out: Path, texts: dict[str, str], words: str, max_wer: float) -> PseudoLabels:
    kept, left_out, unread = 0, 0, 0
    with replacing(out) as temporary, cut_writer(temporary, out) as writer:
        for cut in open_cuts(cuts):
            if cut.id not in texts:
                unread += 1
                continue
            transcript, text = cut_text(cut), texts[cut.id]
            if not _is_like(transcript, text, max_wer):
                left_out += 1
                continue
            cut.supervisions[0].text = restyle(transcript, text) if words == "transcript" else text
            writer.write(cut)
            kept += 1
        if not kept:
            raise UserError(f"{cuts}: no text was recognised within {max_wer:.0%} of its transcript")
    return PseudoLabels(kept, left_out, unread)


def _is_like(transcript: str, text: str, max_wer: float) -> bool:
    errors = count_errors(normalise(transcript), normalise(text))
    return errors.errors <= max_wer * errors.words
