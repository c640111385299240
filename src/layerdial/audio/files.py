"""Reading, checking and resampling of audio files, with errors that name the file.

Samples are float32 in [-1, 1]. libsndfile (through `soundfile`) reads WAV, FLAC, Ogg Vorbis and Opus, MP3 and
uncompressed SPHERE; soxr resamples. Neither ffmpeg nor sph2pipe is needed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layerdial.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLE_RATE = 16000
"""The rate, in Hz, at which every model listens."""

_FORMATS = "WAV, FLAC, Ogg, Opus, MP3 or SPHERE"
_LENGTH_TOLERANCE = 0.025  # seconds, as in lhotse: encoders and headers may disagree by a fraction of a frame
_UNKNOWN_LENGTH = 0x7FFF0000  # from here on a RIFF length is a placeholder, written by programs that stream
_log = logging.getLogger(__name__)
_announced_rates: set[int] = set()


class AudioProblem(UserError):
    """A recording that cannot be used: its text names the file or cut, what was found, and what would be right."""


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


def probe(path: str | Path) -> AudioInfo:
    """Return length, rate and channels of an audio file from its header.

    Raises `AudioProblem` if the file is missing, empty, truncated (as far as its header shows), not audio, or holds no
    samples.
    """
    with _opened(Path(path)) as file:
        info = AudioInfo(frames=file.frames, rate=file.samplerate, channels=file.channels)
    lost = _cut_short(Path(path))
    if lost is not None:
        raise AudioProblem(f"{path} is truncated: {lost}; copy or download it again")
    if info.frames == 0:
        raise AudioProblem(f"{path} holds no samples; give a recording of speech")
    return info


def verify(path: str | Path) -> AudioInfo:
    """Decode a whole file, in bounded memory, to find damage, missing samples, NaN and infinity; else as `probe`."""
    info = probe(path)
    decoded = 0
    with _opened(Path(path)) as file:
        for block in _blocks(file, path):
            _check_finite(block, path, decoded)
            decoded += len(block)
    if abs(decoded - info.frames) > _LENGTH_TOLERANCE * info.rate:
        raise AudioProblem(f"{path} is truncated: its header says {info.frames} samples, {decoded} can be decoded")
    return info


def read_audio(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """Return all samples (S,) of an audio file, its channels averaged, and its rate in Hz.

    Raises `AudioProblem` if the file is missing, empty, not audio, damaged, or has no or non-finite samples.
    """
    samples, info = read_segment(path)
    if len(samples) == 0:
        raise AudioProblem(f"{path} holds no samples; give a recording of speech")
    return samples, info.rate


def read_segment(path: str | Path, start: int = 0, frames: int | None = None) -> tuple[NDArray[np.float32], AudioInfo]:
    """Return `frames` samples (S,) from sample `start` on, channels averaged, and the header.

    There are fewer samples where the file ends. Raises `AudioProblem` for a damaged file or non-finite samples.
    """
    with _opened(Path(path)) as file:
        info = AudioInfo(frames=file.frames, rate=file.samplerate, channels=file.channels)
        try:
            if start:
                file.seek(min(start, file.frames))
            samples: NDArray[np.float32] = file.read(-1 if frames is None else frames, dtype="float32", always_2d=True)
        except Exception as error:
            raise AudioProblem(f"{path} is damaged or truncated ({_reason(error)})") from None
    _check_finite(samples, path, start)
    return (samples[:, 0] if info.channels == 1 else samples.mean(axis=1, dtype=np.float32)), info


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


@contextmanager
def open_audio(path: str | Path) -> Iterator[tuple[int, Iterator[NDArray[np.float32]]]]:
    """Yield the rate in Hz, and the file in blocks (S,) with its channels averaged, in bounded memory.

    Raises `AudioProblem` as `read_audio` does. Damage further on is raised when the iteration gets there.
    """
    probe(path)
    with _opened(Path(path)) as file:
        yield file.samplerate, _mono_blocks(file, path)


def _mono_blocks(file: Any, path: str | Path) -> Iterator[NDArray[np.float32]]:
    done = 0
    for block in _blocks(file, path):
        _check_finite(block, path, done)
        done += len(block)
        yield block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32)


def _resample(samples: NDArray[np.float32], rate_in: float, rate_out: float) -> NDArray[np.float32]:
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(samples, rate_in, rate_out, quality="HQ")
    return resampled


def _opened(path: Path) -> Any:
    """Return the `soundfile.SoundFile` at `path`. Raises `AudioProblem` with the reason where there is none."""
    import soundfile

    try:
        if path.is_dir():
            raise AudioProblem(f"{path} is a folder; give an audio file ({_FORMATS})")
        if path.stat().st_size == 0:
            raise AudioProblem(f"{path} is empty (0 bytes); give a recording of speech")
        return soundfile.SoundFile(str(path))
    except FileNotFoundError:
        raise AudioProblem(f"{path} does not exist; give an audio file ({_FORMATS})") from None
    except OSError as error:
        raise AudioProblem(f"{path} cannot be read: {error.strerror or error}") from None
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless .raw
        lost = _cut_short(path)
        if lost is not None:
            raise AudioProblem(f"{path} is truncated: {lost}; copy or download it again") from None
        raise AudioProblem(f"{path} is not audio that can be read ({_reason(error)}); give {_FORMATS}") from None


def _blocks(file: Any, path: str | Path) -> Iterator[NDArray[np.float32]]:
    # Not `file.blocks()`, which fills up what an MP3 file lacks.
    try:
        while len(block := file.read(1 << 18, dtype="float32")):
            yield block
    except Exception as error:
        raise AudioProblem(f"{path} is damaged or truncated ({_reason(error)})") from None


def _check_finite(samples: NDArray[np.float32], path: str | Path, first: int) -> None:
    finite = np.isfinite(samples)
    if not finite.all():
        at = int(np.argmin(finite.reshape(len(samples), -1).all(axis=1)))
        raise AudioProblem(f"{path}: sample {first + at} is not a finite number; write the file again")


def _reason(error: Exception) -> str:
    """Return libsndfile's own message, without the path, which layerdial's messages give."""
    words = getattr(error, "error_string", None) or str(error)
    return " ".join(words.split()).rstrip(".")


def _cut_short(path: Path) -> str | None:
    """Return what is missing at the end of a file according to its header, or None.

    libsndfile reads the WAV, SPHERE and Ogg files of an interrupted copy without an error, only shorter.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1024)
        if head[:4] in (b"RIFF", b"FORM"):
            declared = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
            return None if declared >= _UNKNOWN_LENGTH else _missing(declared + 8, size)
        if head[:7] == b"NIST_1A":
            return _missing(_sphere_bytes(head), size)
        if head[:4] == b"OggS":
            file.seek(max(0, size - (1 << 17)))  # a page has at most 65,307 bytes
            return None if _last_page_is_whole(file.read()) else "its last Ogg page is incomplete"
    return None


def _missing(declared: int, size: int) -> str | None:
    return f"its header announces {declared} bytes, it has {size}" if declared > size else None


def _sphere_bytes(head: bytes) -> int:
    """Return the bytes that an uncompressed NIST SPHERE file should have; 0 if the header does not give them."""
    lines = [line.split() for line in head.decode("latin-1").splitlines()]
    fields = {line[0]: line[2] for line in lines if len(line) == 3}
    if fields.get("sample_coding", "pcm") != "pcm" or len(lines) < 2:
        return 0
    try:
        samples = int(fields["sample_count"]) * int(fields.get("channel_count", 1)) * int(fields["sample_n_bytes"])
        return int(lines[1][0]) + samples
    except (KeyError, ValueError, IndexError):
        return 0


def _last_page_is_whole(tail: bytes) -> bool:
    at = tail.rfind(b"OggS")
    if at < 0 or len(tail) < at + 27:
        return False
    body = at + 27 + tail[at + 26]  # 27 bytes of header, then the lengths of the segments
    return len(tail) >= body and len(tail) >= body + sum(tail[at + 27 : body])
