"""`layerdial calibrate`: the confidence of an exported model's words, fitted to dev data at each depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from layerdial.data.manifest import cut_speaker, cut_text, load_samples, open_cuts
from layerdial.errors import UserError
from layerdial.evaluation.judged import JudgedWords, cross_fitted, fitted_curve
from layerdial.evaluation.reliability import draw_reliability
from layerdial.ladder import depths_of
from layerdial.recognition.calibration import Calibration
from layerdial.recognizer import Recognizer
from layerdial.registry.find import model_folder
from layerdial.request import Request
from layerdial.runtime.recognizer import OnnxRecognizer
from layerdial.runtime.session import is_exported
from layerdial.text.normalisers import Normalizer, normalizer_of
from layerdial.utils.files import check_writable
from layerdial.utils.progress import progress

PICTURE = "confidence.png"
Row = tuple[float, bool, str]


def calibrate_model(
    model: Path, cuts: Path, depths: Sequence[int] | None = None, normalizer: Normalizer = "basic"
) -> tuple[Path, Calibration]:
    """Fit the confidence of an exported model's words at each depth to dev data, and store the maps beside it.

    A picture of the reliability before and after is stored there too. Returns the model's folder and the maps. Raises
    `UserError` for a torch model, for one that has no words, and where nothing is recognised.
    """
    folder = model_folder(model)
    if not is_exported(folder):
        raise UserError(f"{model} is no exported model; calibrate what is used: layerdial export {model} OUT, then OUT")
    check_writable(folder)
    recognizer = OnnxRecognizer(folder)
    recognizer.calibration = None  # the confidence as it is
    chosen = list(depths or depths_of(recognizer.ladder, recognizer.n_blocks))
    found, count = dict[int, JudgedWords](), sum(1 for _ in open_cuts(cuts))
    with progress(f"calibrate {folder.name}", count * len(chosen)) as update:
        for depth in chosen:
            rows = list[Row]()
            for n, more in enumerate(judged(recognizer, cuts, depth, normalizer), start=1):
                rows += more
                update(count * len(found) + n)
            found[depth] = JudgedWords.of(rows)
    curves = tuple(fitted_curve(depth, words) for depth, words in found.items())
    calibration = Calibration(recognizer.manifest.model_id, str(cuts), curves)
    calibration.save(folder)
    after = {depth: cross_fitted(words) for depth, words in found.items()}
    draw_reliability(found, after, folder / PICTURE, f"{recognizer.manifest.name} on {cuts.name.split('.')[0]}")
    return folder, calibration


def judged(
    recognizer: Recognizer, cuts: Path, depth: int | None, normalizer: Normalizer = "basic"
) -> Iterator[list[Row]]:
    """Yield the words of each cut: confidence, whether they were said, and the speaker."""
    normal = normalizer_of(normalizer)
    for cut in open_cuts(cuts):
        words = recognizer.answer(load_samples(cut), Request(depth, words=True)).words
        found = [(text, word.confidence) for word in words for text in normal(word.text).split()]
        right = hits(normal(cut_text(cut)).split(), [text for text, _ in found])
        yield [(confidence, hit, cut_speaker(cut)) for (_, confidence), hit in zip(found, right, strict=True)]


def hits(reference: Sequence[str], hypothesis: Sequence[str]) -> list[bool]:
    """Return for each recognised word whether an alignment of the smallest edit distance has it right."""
    right = [False] * len(hypothesis)
    if not reference or not hypothesis:
        return right
    import jiwer

    for part in jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]:
        if part.type == "equal":
            right[part.hyp_start_idx : part.hyp_end_idx] = [True] * (part.hyp_end_idx - part.hyp_start_idx)
    return right
