"""Log-mel features, the same code in training and on the device.

Settings are those that lhotse and sherpa-onnx share: samples in [-1, 1] at 16 kHz, 25 ms windows every 10 ms,
Povey window, pre-emphasis 0.97, 80 bins from 20 Hz to 400 Hz below Nyquist, no dither, frames centred
(`snip_edges=False`). Mean and variance normalisation belongs to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
N_MELS = 80
FRAMES_PER_SECOND = 100
_SHIFT = SAMPLE_RATE // FRAMES_PER_SECOND
Lengths = TypeVar("Lengths")  # an int, or an integer array or tensor


class Features(Protocol):
    """The part without weights between samples and blocks: what the network hears, and how many frames it makes of it.

    Calling it turns samples (S,) at 16 kHz into the network's input: (T, F) log-mel, or (S,) samples.
    """

    @property
    def per_second(self) -> int:
        """Positions of the input a second of audio: 100 log-mel frames, or 16,000 samples."""
        ...

    @property
    def samples_per_frame(self) -> int:
        """Samples from the start of one of the network's output frames to the next."""
        ...

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def frames(self, lengths: Lengths) -> Lengths:
        """Output frames that the network makes of inputs of these lengths."""
        ...


@dataclass(frozen=True)
class LogMel:
    """`fbank`, and a front end whose convolutions round up, so that a frame never vanishes."""

    subsampling: int
    per_second: int = FRAMES_PER_SECOND

    @property
    def samples_per_frame(self) -> int:
        return _SHIFT * self.subsampling

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return fbank(samples)

    def frames(self, lengths: Lengths) -> Lengths:
        longer: Any = lengths
        return (longer + self.subsampling - 1) // self.subsampling  # type: ignore[no-any-return]


def num_frames(n_samples: int) -> int:
    """How many frames `fbank` makes of `n_samples` samples."""
    return (n_samples + _SHIFT // 2) // _SHIFT


def fbank(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples (S,) at 16 kHz -> log-mel energies (T, 80), T = num_frames(S), at least 1.

    Less than one frame shift of audio is padded with silence to one frame.
    """
    import kaldi_native_fbank

    if num_frames(len(samples)) < 1:
        samples = np.pad(samples, (0, _SHIFT - len(samples)))
    computer = kaldi_native_fbank.OnlineFbank(_options())
    computer.accept_waveform(SAMPLE_RATE, samples)
    computer.input_finished()
    frames = [computer.get_frame(i) for i in range(computer.num_frames_ready)]
    return np.stack(frames).astype(np.float32, copy=False)


def _options() -> object:
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    frame = options.frame_opts
    frame.samp_freq = SAMPLE_RATE
    frame.frame_length_ms = 25.0
    frame.frame_shift_ms = 1000.0 / FRAMES_PER_SECOND
    frame.window_type = "povey"
    frame.preemph_coeff = 0.97
    frame.dither = 0.0
    frame.snip_edges = False
    options.mel_opts.num_bins = N_MELS
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = -400.0
    return options
