"""Inputs of networks, the same code in training and on the device: log-mel features, or samples.

Settings are those that lhotse and sherpa-onnx share: samples in [-1, 1] at 16 kHz, 25 ms windows every 10 ms,
Povey window, pre-emphasis 0.97, 80 bins from 20 Hz to 400 Hz below Nyquist, no dither, frames centred
(`snip_edges=False`). Mean and variance normalisation belongs to the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from layerdial.audio import nemo_fbank as nemo_mel
from layerdial.audio import whisper_mel
from layerdial.audio.files import SAMPLE_RATE
from layerdial.audio.kaldi_fbank import SHIFT, WINDOW, log_mel

FRAMES_PER_SECOND = SAMPLE_RATE // SHIFT
_STACKED = 2  # frames in an input of wav2vec2-BERT and Granite Speech
Lengths = TypeVar("Lengths")  # an int, or an integer array or tensor


class Features(Protocol):
    """The part without weights between samples and blocks: the network's input, and its number of frames.

    A call turns samples (S,) at 16 kHz into the network's input: (T, F) log-mel, or (S,) samples.
    """

    @property
    def per_second(self) -> int:
        """Positions of the input a second of audio: 100 log-mel frames, or 16,000 samples."""
        ...

    @property
    def samples_per_frame(self) -> int:
        """Samples from the start of one of the network's output frames to the next."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that decide the inputs, by name."""
        ...

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def frames(self, lengths: Lengths) -> Lengths:
        """Return the number of output frames that the network makes of inputs of these lengths."""
        ...


@dataclass(frozen=True)
class LogMel:
    """The features of `fbank`, and a front end whose convolutions round up, so that a frame never vanishes."""

    subsampling: int
    per_second: int = FRAMES_PER_SECOND

    @property
    def samples_per_frame(self) -> int:
        return SHIFT * self.subsampling

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return fbank(samples)

    def frames(self, lengths: Lengths) -> Lengths:
        longer: Any = lengths
        return (longer + self.subsampling - 1) // self.subsampling  # type: ignore[no-any-return]


Convolution = tuple[int, int, int]


@dataclass(frozen=True)
class Framing:
    """How log-mel frames are cut: their distance in samples and, where they are not centred, their length.

    `stacked` frames one after the other make one input of the network.
    """

    shift: int = SHIFT
    window: int | None = None
    stacked: int = 1

    @property
    def samples_per_input(self) -> int:
        return self.shift * self.stacked

    def fewest_samples(self, inputs: int) -> int:
        """Return the number of samples of which come so many inputs, and two frames, which a variance needs."""
        frames = max(2, inputs * self.stacked)
        return frames * self.shift if self.window is None else self.window + (frames - 1) * self.shift


class _Convolved:
    """What features have in common that go into a stack of strided convolutions (kernel, stride, padding)."""

    convolutions: tuple[Convolution, ...]
    per_second: int

    @property
    def samples_per_frame(self) -> int:
        return SAMPLE_RATE // self.per_second * math.prod(stride for _, stride, _ in self.convolutions)

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def frames(self, lengths: Lengths) -> Lengths:
        return frames_after(self.convolutions, lengths)

    def _long_enough(self, samples: NDArray[np.float32], framing: Framing) -> NDArray[np.float32]:
        """Return samples with silence behind them where they would make no frame."""
        fewest = framing.fewest_samples(fewest_inputs(self.convolutions))
        return np.pad(samples, (0, max(0, fewest - len(samples))))


@dataclass(frozen=True)
class Samples(_Convolved):
    """Samples themselves, for a network whose front end is strided convolutions over them.

    With `normalise` each utterance gets zero mean and unit variance, as in the training of wav2vec2 and its relatives.
    The result is bit for bit that of transformers' Wav2Vec2FeatureExtractor. Audio shorter than `fewest_frames` is
    padded with silence: SEW needs two.
    """

    convolutions: tuple[Convolution, ...]
    normalise: bool
    per_second: int = SAMPLE_RATE
    fewest_frames: int = 1

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        fewest = fewest_inputs(self.convolutions, self.fewest_frames)
        samples = np.pad(samples, (0, max(0, fewest - len(samples))))
        if self.normalise:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return samples.astype(np.float32, copy=False)


@dataclass(frozen=True)
class NemoMel(_Convolved):
    """NeMo's log-mel for Parakeet, whose front end is strided convolutions over the frames.

    transformers' ParakeetFeatureExtractor gives the same to three decimals.
    """

    convolutions: tuple[Convolution, ...]
    n_mels: int
    per_second: int = FRAMES_PER_SECOND

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return nemo_mel.log_mel(self._long_enough(samples, Framing()), self.n_mels)


@dataclass(frozen=True)
class LasrMel(_Convolved):
    """The log-mel of LASR, whose front end is strided convolutions over the frames.

    transformers' LasrFeatureExtractor gives the same to three decimals.
    """

    convolutions: tuple[Convolution, ...]
    n_mels: int
    per_second: int = FRAMES_PER_SECOND

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        # here, as below: a device imports the one kind that it has
        from layerdial.audio import lasr_mel

        return lasr_mel.log_mel(self._long_enough(samples, Framing(window=WINDOW)), self.n_mels)


@dataclass(frozen=True)
class GraniteMel(_Convolved):
    """The features of Granite Speech, whose first blocks halve time as convolutions (2, 2, 0) would.

    transformers' GraniteSpeech5FeatureExtractor gives the same to three decimals.
    """

    convolutions: tuple[Convolution, ...]
    n_mels: int
    per_second: int = FRAMES_PER_SECOND // _STACKED

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        from layerdial.audio import granite_mel

        return granite_mel.log_mel(self._long_enough(samples, Framing(stacked=_STACKED)), self.n_mels)


@dataclass(frozen=True)
class SeamlessMel(_Convolved):
    """The log-mel of wav2vec2-BERT: 80 bins, two frames stacked to an input of 160 values.

    transformers' SeamlessM4TFeatureExtractor gives the same to three decimals.
    """

    convolutions: tuple[Convolution, ...] = ()
    per_second: int = FRAMES_PER_SECOND // _STACKED

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        from layerdial.audio import seamless_mel

        return seamless_mel.log_mel(self._long_enough(samples, Framing(window=WINDOW, stacked=_STACKED)))


@dataclass(frozen=True)
class WhisperMel:
    """Whisper's log-mel, and its front end, which makes a frame of two. Audio is not padded to 30 s."""

    n_mels: int
    per_second: int = FRAMES_PER_SECOND

    @property
    def samples_per_frame(self) -> int:
        return 2 * SHIFT

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def __call__(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        return whisper_mel.log_mel(samples, self.n_mels)

    def frames(self, lengths: Lengths) -> Lengths:
        longer: Any = lengths
        return (longer + 1) // 2  # type: ignore[no-any-return]


def frames_after(convolutions: Iterable[Convolution], lengths: Lengths) -> Lengths:
    """Return the output frames of a stack of convolutions over inputs of these lengths.

    Each convolution is (kernel, stride, padding).
    """
    made: Any = lengths
    for kernel, stride, padding in convolutions:
        made = (made + 2 * padding - kernel) // stride + 1
    return made  # type: ignore[no-any-return]


def fewest_inputs(convolutions: Sequence[Convolution], frames: int = 1) -> int:
    """Return the length of the shortest input of which such a stack makes so many frames."""
    fewest = frames
    for kernel, stride, padding in reversed(convolutions):
        fewest = (fewest - 1) * stride + kernel - 2 * padding
    return fewest


def fbank(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel energies (T, 80) of samples (S,) at 16 kHz; T = S / 160 rounded, at least 1.

    Audio shorter than one frame shift is padded with silence to one frame.
    """
    if len(samples) < SHIFT:
        samples = np.pad(samples, (0, SHIFT - len(samples)))
    return log_mel(samples)
