"""Audio that libsndfile does not read, by PyAV, which has FFmpeg: MP4 and M4A, WebM and Matroska, AMR, AAC, WMA.

The format is taken from the first bytes, and FFmpeg reads that one alone, from an open file: no list of other files, no
address. A gap between times of a file, as pauses in calls make, becomes silence, so that times stay right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from layerdial.audio.decoder import OpenFiles, open_source
from layerdial.audio.layout import AudioProblem
from layerdial.errors import UserError, needing

_MATROSKA, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof")
_MOST_BOXES = 100_000
_NAMES = {"mov": "MP4", "matroska": "WebM or Matroska", "amr": "AMR", "aac": "AAC", "asf": "WMA"}
_ENCRYPTED = ("drms", "enca", "aavd", "adrm", "p608")
_GAP = 0.05  # seconds; less is rounding of times
_LONGEST_GAP = 3600.0
_MISSING = 0.1  # seconds that may lack at the end


def media_format(head: bytes) -> str | None:
    """Return FFmpeg's name of the format that a file begins as; None where it is none of these."""
    if head[4:8] in _BOXES:
        return "mov"
    if head[:4] == _MATROSKA:
        return "matroska"
    if head[:5] == b"#!AMR":
        return "amr"
    if head[:8] == _ASF:
        return "asf"
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


class MediaDecoder(OpenFiles):
    """The samples of the first sound track of a file, as `Decoder` gives those of others.

    Raises `ValueError` with what is wrong, and `AudioProblem` where PyAV is missing.
    """

    def __init__(self, source: Path | bytes, format: str, name: str) -> None:
        try:
            with needing("media", f"{name} is {_NAMES[format]}, which is read by"):
                import av
        except UserError as error:
            raise AudioProblem(str(error)) from None
        self._source, self._format = source, format
        with open_source(source) as file:
            _check_whole(file, format)
        try:
            self._open()
            self.frames = self._count()
        except av.FFmpegError as error:
            raise ValueError(f"it is damaged or truncated ({error.strerror})") from None

    def _container(self, stack: ExitStack) -> Any:
        import av

        return stack.enter_context(av.open(stack.enter_context(open_source(self._source)), format=self._format))

    def _open(self) -> None:
        """Begin at the start: the first samples say the rate and the channels, which headers may have otherwise."""
        import av

        with ExitStack() as stack:
            container = self._container(stack)
            if not container.streams.audio:
                raise ValueError("it has no sound track; give a recording with sound")
            stream = container.streams.audio[0]
            if (tag := stream.codec_context.codec_tag) in _ENCRYPTED:
                raise ValueError(f"it is encrypted (DRM, {tag}); give a copy without")
            self._start = (container.start_time or 0) / av.time_base
            self._decoded = container.decode(stream)
            self._begin(next(self._decoded, None))
            self._stack = stack.pop_all()

    def _begin(self, first: Any) -> None:
        from av import AudioResampler

        if first is None:
            raise ValueError("it holds no samples; give a recording of speech")
        self.samplerate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
        self._to_floats = AudioResampler(format="fltp", layout=first.layout, rate=first.sample_rate)
        self._blocks = self._in_time(first)
        self._held = np.zeros((0, self.channels), np.float32)
        self._at = 0

    def _count(self) -> int:
        """Return the number of samples: MP4 counts them, elsewhere the last packet ends with them."""
        with ExitStack() as stack:
            container = self._container(stack)
            stream = container.streams.audio[0]
            if self._format == "mov" and stream.duration:
                return self._samples(stream.duration * stream.time_base)
            end = total = 0
            for packet in container.demux(stream):
                total += packet.duration or 0
                end = max(end, (packet.pts or 0) + (packet.duration or 0))
            return max(1, self._samples(max(end, total) * stream.time_base))

    def _samples(self, seconds: Any) -> int:
        return round(float(seconds) * self.samplerate)

    def _in_time(self, first: Any) -> Iterator[NDArray[np.float32]]:
        """Yield blocks (S, C), with silence where the file has a gap."""
        done, frame = 0, first
        while frame is not None:
            if frame.pts is not None:
                gap = float(frame.pts * frame.time_base) - self._start - done / self.samplerate
                if _GAP < gap < _LONGEST_GAP:
                    yield np.zeros((round(gap * self.samplerate), self.channels), np.float32)
                    done += round(gap * self.samplerate)
            for part in self._to_floats.resample(frame):
                done += part.samples
                yield np.asarray(part.to_ndarray().T, np.float32)
            frame = next(self._decoded, None)

    def seek(self, frame: int) -> None:
        """Go to a sample of the whole: those before it are read."""
        if frame < self._at:
            self.close()
            self._open()
        while self._at < frame and len(self.read(min(1 << 16, frame - self._at))):
            pass

    def read(self, frames: int) -> NDArray[np.float32]:
        """Return the next (S, C) samples, fewer than `frames` at the end, none behind it."""
        exact = self._format == "mov"  # what follows fills the last packet
        wanted = min(frames, self.frames - self._at) if exact else frames
        parts, count = [self._held], len(self._held)
        while count < wanted and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            count += len(block)
        held = np.concatenate(parts)
        self._held, found = held[wanted:], np.ascontiguousarray(held[:wanted])
        self._at += len(found)
        if exact and len(found) < wanted and self.frames - self._at > _MISSING * self.samplerate:
            raise ValueError(f"{self.frames} samples are announced, {self._at} are there")
        return found


def _check_whole(file: BinaryIO, format: str) -> None:
    """Raise `ValueError` where a part of the file lies behind its end, or MP4 has no index."""
    size = file.seek(0, 2)
    if format == "mov":
        names, end = _boxes(file, size)
        if end > size:
            raise ValueError(_cut(end, size))
        if b"moov" not in names:
            raise ValueError("it is truncated: its index (moov) is missing; copy or download it again")
    if format == "matroska" and (end := _segment_end(file)) > size:
        raise ValueError(_cut(end, size))


def _cut(end: int, size: int) -> str:
    return f"it is truncated: its header announces {end} bytes, it has {size}; copy or download it again"


def _boxes(file: BinaryIO, size: int) -> tuple[set[bytes], int]:
    """Return the names of the outermost boxes of MP4, and where the last of them ends."""
    names, at = set[bytes](), 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - at
        if head[4:8] not in _BOXES:  # what other programs append, and kinds without sound
            length = min(length, size - at)
        names.add(head[4:8])
        at += max(8, length)
        if at >= size:
            break
    return names, at


def _segment_end(file: BinaryIO) -> int:
    """Return where the segment of Matroska ends, by its header; 0 where that is left open, as in recordings."""
    file.seek(4)
    length, _ = _number(file)
    file.seek(file.tell() + length)
    if file.read(4) != _SEGMENT:
        return 0
    length, is_open = _number(file)
    return 0 if is_open else file.tell() + length


def _number(file: BinaryIO) -> tuple[int, bool]:
    """Read a number of EBML, whose first bits say how long it is, and whether it is the one for an open length."""
    first = file.read(1) or b"\x01"
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return value, value == (1 << 7 * (more + 1)) - 1
