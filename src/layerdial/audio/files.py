"""Reading, checking and resampling of audio files, with errors that name the file.

Samples are float32 in [-1, 1]. libsndfile (through `soundfile`) reads WAV, FLAC, Ogg Vorbis and Opus, MP3 and
uncompressed SPHERE; PyAV, where it is installed, M4A, MP4, WebM and AMR. soxr resamples. Neither ffmpeg nor sph2pipe is
needed.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from layerdial.audio.channels import AudioPath, Channel
from layerdial.audio.containers import layout
from layerdial.audio.decoder import Decoder, open_source
from layerdial.audio.layout import AudioProblem, Layout
from layerdial.audio.media import MediaDecoder, media_format
from layerdial.audio.piped import PipedAudio, hold
from layerdial.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from layerdial.audio.piped_wav import PipedWav

__all__ = [
    "SAMPLE_RATE",
    "AudioInfo",
    "AudioPath",
    "AudioProblem",
    "Channel",
    "PipedAudio",
    "change_speed",
    "channels_of",
    "check_is_file",
    "hold",
    "open_audio",
]
__all__ += ["probe", "read_audio", "read_segment", "to_target_rate", "verify", "without_extension"]

SAMPLE_RATE = 16000
"""The rate, in Hz, at which every model listens."""

LOWEST_RATE, HIGHEST_RATE = 4000, 768_000
"""Rates, in Hz, between which a file holds speech; below, resampling to 16 kHz would also blow it up."""

MOST_CHANNELS = 256

LOUDEST = 100.0
"""What samples stay below: beyond one, because resampling and mixing overshoot; far below 16-bit numbers."""

EXTENSIONS = re.compile(
    r"\.(wave?|rf64|w64|bwf|flac|og[ga]|opus|spx|mp[1234]|mpga|sph|nist|aif[fc]?|au|snd|caf|voc|wv|sd2|raw|pcm|m4a|aac|"
    r"wma|webm|mka|mkv|m4[bv]|mov|3g[2p]|amr|awb|ac3|g722|gsm|ul|al)",
    re.IGNORECASE,
)
"""What names of audio files end with, whether or not such files can be read here."""

_FORMATS = "WAV, FLAC, Ogg, Opus, MP3, M4A, MP4, WebM, AMR or SPHERE"
_LENGTH_TOLERANCE = 0.025  # seconds, as in lhotse: encoders and headers may disagree by a fraction of a frame
_BLOCK_VALUES = 1 << 18  # read at once, of all channels
_log = logging.getLogger(__name__)
_CANCELLED = 0.02  # power of the mean over that of channels that have nothing to do with each other
_announced_rates: set[int] = set()
_announced_cancelling: set[str] = set()
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The contents of the header of an audio file."""

    frames: int  # samples of one channel
    rate: int  # Hz
    channels: int

    @property
    def seconds(self) -> float:
        """The duration."""
        return self.frames / self.rate


def without_extension(path: Path) -> Path:
    """Return `path` without the extension of an audio file; `spk.001` has none."""
    return path.with_suffix("") if EXTENSIONS.fullmatch(path.suffix) else path


def probe(path: AudioPath) -> AudioInfo:
    """Return length, rate and channels of an audio file from its header.

    Raises `AudioProblem` if the file is missing, empty, cut short (as far as its header tells), not audio, of a rate or
    number of channels that no speech has, or holds no samples.
    """
    with _opened(path) as file:
        return _info_of(file, path)


def channels_of(path: str | Path | PipedAudio) -> dict[str, Channel]:
    """Return the channels of a recording by the names of their speakers. Raises `AudioProblem` as `probe` does.

    What comes through a pipe is read here, and held.
    """
    with _naming(path):
        path = hold(path)
    count = probe(path).channels
    return {channel.name(count): channel for channel in (Channel(path, i + 1) for i in range(count))}


def verify(path: AudioPath) -> AudioInfo:
    """Decode a whole file, in bounded memory, to find damage, missing samples, NaN and infinity; else as `probe`."""
    with _opened(path) as file:
        info = _info_of(file, path)
        decoded = sum(len(block) for block in _mono_blocks(file, path))
    if abs(decoded - info.frames) > _LENGTH_TOLERANCE * info.rate:
        raise AudioProblem(f"{path} is truncated: its header says {info.frames} samples, {decoded} can be decoded")
    return info


def read_audio(path: AudioPath) -> tuple[NDArray[np.float32], int]:
    """Return all samples (S,) of an audio file, its channels averaged, and its rate in Hz.

    Raises `AudioProblem` if the file is missing, empty, not audio, damaged, or has no or non-finite samples.
    """
    with open_audio(path) as (rate, blocks):
        return np.concatenate(list(blocks)), rate


def read_segment(path: str | Path, start: int = 0, frames: int | None = None) -> tuple[NDArray[np.float32], AudioInfo]:
    """Return `frames` samples (S,) from sample `start` on, channels averaged, and the header; fewer where it ends.

    For training, which reads parts of regular files: a pipe or a device is an `AudioProblem`.
    """
    check_is_file(Path(path))
    with _opened(path) as file:
        info = AudioInfo(frames=file.frames, rate=file.samplerate, channels=file.channels)
        if start:
            _guarded(path, partial(file.seek, min(start, file.frames)))
        blocks = list(_mono_blocks(file, path, first=start, most=frames))
    return np.concatenate([np.zeros(0, np.float32), *blocks]), info


def to_target_rate(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Return `samples` (S,) at `rate` Hz resampled to 16 kHz (soxr, high quality). Each rate is logged once."""
    if rate == SAMPLE_RATE:
        return samples
    if rate not in _announced_rates:
        _announced_rates.add(rate)
        _log.info("resampling %d Hz to %d Hz", rate, SAMPLE_RATE)
    return _resample(samples, rate, SAMPLE_RATE)


def change_speed(samples: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Return `samples` (S,) played `factor` times as fast: S / factor samples, higher in pitch (Ko et al. 2015)."""
    if not (math.isfinite(factor) and 0.1 <= factor <= 10):
        raise UserError(f"speed factor {factor} is not between 0.1 and 10; usual ones are 0.9 and 1.1")
    return samples if factor == 1 else _resample(samples, factor, 1.0)


def check_is_file(path: Path) -> None:
    """Raise `AudioProblem` unless a corpus can name `path`: a pipe is read once only, and a device has no end."""
    try:
        if path.is_file():
            return
        found = "is not a file" if path.exists() else "does not exist"
    except OSError as error:  # a folder that may not be entered, a name that is too long
        found = f"cannot be read: {error.strerror or error}"
    raise AudioProblem(f"{path} {found}; give an audio file ({_FORMATS})")


@contextmanager
def open_audio(path: AudioPath) -> Iterator[tuple[int, Iterator[NDArray[np.float32]]]]:
    """Yield the rate in Hz, and the file in blocks (S,) with its channels averaged, in bounded memory.

    Raises `AudioProblem` as `read_audio` does. Damage further on is raised when the iteration gets there.
    """
    with _opened(path) as file:
        yield _info_of(file, path).rate, _mono_blocks(file, path)


@contextmanager
def open_coming(path: AudioPath) -> Iterator[tuple[int, Iterator[NDArray[np.float32]]]]:
    """Yield what `open_audio` does; a WAV file in a pipe in blocks as they come, and its damage where it comes."""
    from layerdial.audio.piped_wav import PipedWav, coming

    recording = path.recording if isinstance(path, Channel) else path
    with _naming(path):
        found = coming(recording)
    if isinstance(found, PipedWav):
        with closing(found):
            _check_bounds(found, path)
            yield found.samplerate, _some(_mono_blocks(found, path), path)
        return
    with open_audio(replace(path, recording=found) if isinstance(path, Channel) else found) as opened:
        yield opened


def _some(blocks: Iterator[NDArray[np.float32]], path: AudioPath) -> Iterator[NDArray[np.float32]]:
    """Yield blocks. Raises `AudioProblem` where there are none."""
    empty = True
    for block in blocks:
        empty = False
        yield block
    if empty:
        raise AudioProblem(f"{path} holds no samples; give a recording of speech")


def _info_of(file: Decoder | MediaDecoder, path: AudioPath) -> AudioInfo:
    if file.frames == 0:
        raise AudioProblem(f"{path} holds no samples; give a recording of speech")
    return AudioInfo(frames=file.frames, rate=file.samplerate, channels=file.channels)


def _mono_blocks(
    file: Decoder | MediaDecoder | PipedWav, path: AudioPath, first: int = 0, most: int | None = None
) -> Iterator[NDArray[np.float32]]:
    """Yield blocks (S,) of at most `most` samples in all, from where `file` stands, which is sample `first`."""
    at_once = max(1, _BLOCK_VALUES // file.channels)
    chosen = path.index(file.channels) if isinstance(path, Channel) else 0 if file.channels == 1 else None
    done = 0
    while most is None or done < most:
        wanted = at_once if most is None else min(at_once, most - done)
        block = _guarded(path, partial(file.read, wanted))
        if not len(block):
            return
        _check_values(block, path, first + done)
        done += len(block)
        yield _mix_down(block, path) if chosen is None else np.ascontiguousarray(block[:, chosen])


def _guarded(path: AudioPath, action: Callable[[], _Result]) -> _Result:
    try:
        return action()
    except Exception as error:
        raise AudioProblem(f"{path} is damaged or truncated ({_reason(error)})") from None


def _mix_down(block: NDArray[np.float32], path: AudioPath) -> NDArray[np.float32]:
    """Return the mean of the channels of a block (S, C), or the strongest of them where they cancel each other out.

    As they do where one is the other upside down, which a swapped pair of wires or an effect for stereo makes.
    """
    mean: NDArray[np.float32] = block.mean(axis=1, dtype=np.float32)
    power_C = np.einsum("sc,sc->c", block, block, dtype=np.float64)
    if float(np.dot(mean, mean)) >= _CANCELLED * power_C.sum() / len(power_C) ** 2:
        return mean
    if str(path) not in _announced_cancelling:
        _announced_cancelling.add(str(path))
        _log.warning("%s: its channels cancel each other out; the strongest one is taken", path)
    return np.ascontiguousarray(block[:, int(power_C.argmax())])


def _resample(samples: NDArray[np.float32], rate_in: float, rate_out: float) -> NDArray[np.float32]:
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(samples, rate_in, rate_out, quality="HQ")
    return resampled


def _format_of(source: Path | bytes) -> str | None:
    """Return the format of what PyAV reads."""
    with open_source(source) as file:
        return media_format(file.read(16))


def _opened(path: AudioPath) -> Decoder | MediaDecoder:
    """Return a decoder of what is at `path`. Raises `AudioProblem` with the reason where there is none."""
    recording = path.recording if isinstance(path, Channel) else path
    with _naming(path):
        held = hold(recording)
        if isinstance(held, Path) and held.is_dir():
            raise AudioProblem(f"{path} is a folder; give an audio file ({_FORMATS})")
        source = held.content if isinstance(held, PipedAudio) else held
        format = _format_of(source)
        found = Layout() if format else _layout_of(source, held)
        decoder = MediaDecoder(source, format, str(path)) if format else Decoder(source, found)
    with ExitStack() as stack:
        stack.callback(decoder.close)
        _check_bounds(decoder, path)
        stack.pop_all()
    if found.note:
        _log.warning("%s: %s", path, found.note)
    return decoder


@contextmanager
def _naming(path: AudioPath) -> Iterator[None]:
    """Turn what goes wrong with a file that is opened into an `AudioProblem` that names it."""
    import soundfile

    try:
        yield
    except FileNotFoundError:
        raise AudioProblem(f"{path} does not exist; give an audio file ({_FORMATS})") from None
    except OSError as error:
        raise AudioProblem(f"{path} cannot be read: {error.strerror or error}") from None
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        raise AudioProblem(f"{path} is not audio that can be read ({_reason(error)}); give {_FORMATS}") from None
    except ValueError as error:
        raise AudioProblem(f"{path}: {error}") from None


def _check_bounds(decoder: Decoder | MediaDecoder | PipedWav, path: AudioPath) -> None:
    """Raise `AudioProblem` for what no recording of speech has: a few bytes of a header could ask for any memory.

    Also for a channel that the recording does not have.
    """
    if not LOWEST_RATE <= decoder.samplerate <= HIGHEST_RATE:
        raise AudioProblem(
            f"{path} is at {decoder.samplerate} Hz by its header; speech is at {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        )
    if decoder.channels > MOST_CHANNELS:
        raise AudioProblem(f"{path} has {decoder.channels} channels; {MOST_CHANNELS} is the most")
    if isinstance(path, Channel):
        path.index(decoder.channels)


def _layout_of(source: Path | bytes, name: Path | PipedAudio) -> Layout:
    with open_source(source) as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            raise AudioProblem(f"{name} is empty (0 bytes); give a recording of speech")
        found = layout(file, size)
    if found.missing:
        raise AudioProblem(f"{name} is truncated: {found.missing}; copy or download it again")
    if found.damage:
        raise AudioProblem(f"{name} is damaged: {found.damage}; copy or download it again")
    return found


def _check_values(samples: NDArray[np.float32], path: AudioPath, first: int) -> None:
    """Raise `AudioProblem` for values that are not finite, and for 16-bit numbers in a file of floats."""
    finite = np.isfinite(samples)
    if not finite.all():
        at = int(np.argmin(finite.reshape(len(samples), -1).all(axis=1)))
        raise AudioProblem(f"{path}: sample {first + at} is not a finite number; write the file again")
    if (loudest := float(np.abs(samples).max(initial=0.0))) > LOUDEST:
        raise AudioProblem(
            f"{path}: samples go up to {loudest:.6g}; they must lie within [-1, 1]: divide 16-bit numbers by 32768"
        )


def _reason(error: Exception) -> str:
    """Return libsndfile's or FFmpeg's own message, without the path, which layerdial's messages give."""
    words = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    if "does not exist" in words:  # what it says of an MP3 without a frame
        return "no audio was found in it"
    if "SF_INFO struct incomplete" in words:
        return "its header says 0 Hz"
    return " ".join(words.split()).rstrip(".")
