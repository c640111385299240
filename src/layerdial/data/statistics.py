"""The mean and deviation of a corpus's features, for networks that normalise every frame by the same numbers."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.features import Features
from layerdial.audio.files import AudioProblem
from layerdial.data.manifest import load_samples, open_cuts
from layerdial.errors import UserError

_MOST_CUTS = 500  # evenly spaced in the manifest, so that all speakers and sources have a share


def feature_statistics(cuts: Path, features: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation (F,) of the features of a manifest's cuts, a sample of them if they are many.

    The same manifest gives the same numbers. Raises `UserError` where no cut can be read.
    """
    every = max(1, sum(1 for _ in open_cuts(cuts)) // _MOST_CUTS)
    count, total_F, squares_F = 0, np.zeros(()), np.zeros(())
    for cut in islice(open_cuts(cuts), 0, None, every):
        try:
            frames_TF = features(load_samples(cut)).astype(np.float64)
        except AudioProblem:
            continue  # training says which and why
        count += len(frames_TF)
        total_F, squares_F = total_F + frames_TF.sum(0), squares_F + np.square(frames_TF).sum(0)
    if not count:
        raise UserError(f"{cuts}: none of the cuts that were tried can be read, so the features have no mean")
    mean_F = total_F / count
    deviation_F = np.sqrt(np.maximum(squares_F / count - np.square(mean_F), 0.0))
    return mean_F.astype(np.float32), deviation_F.astype(np.float32)
