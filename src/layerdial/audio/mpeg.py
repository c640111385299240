"""MP3 files, frame by frame: how many there are, where something else stands between them, and where they end.

libsndfile believes the count in the first frame (Xing or Info), and without one guesses from the first frame's size,
which is wrong where sizes vary, be it by a byte. It reads no further than that, so a part of such a file, and of files
joined end to end, would be lost in silence. Here the frames are counted; where the count is not what the file says,
they are given to libsndfile behind a first frame that says the truth.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from layerdial.audio.layout import Layout, Piece

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_V1 = {
    3: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_V2 = {
    3: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    1: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_LARGEST = 1 << 30  # bytes of an MP3 file that are looked at
_LONGEST_END = 4096  # bytes of an unknown tag behind the last frame


@dataclass(frozen=True)
class _Header:
    """The header of a frame: `kind` must be the same for all frames of a stream."""

    kind: tuple[int, int, int, bool]  # version, layer (3 is I, 1 is III), rate in Hz, whether mono
    size: int


@dataclass
class _Segment:
    """Frames of one kind behind a frame that counts them, or behind none: what an encoder wrote in one go."""

    kind: tuple[int, int, int, bool]
    start: int
    declared: int | None = None
    frames: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)  # of the frames, neighbours together

    def add(self, start: int, end: int) -> None:
        if self.pieces and self.pieces[-1][1] == start:
            self.pieces[-1] = (self.pieces[-1][0], end)
        else:
            self.pieces.append((start, end))
        self.frames += 1

    @property
    def is_counted(self) -> bool:
        """Return whether the count is right; some encoders count the frame that holds it too."""
        return self.declared is not None and self.declared in (self.frames, self.frames + 1)

    @property
    def lost(self) -> int:
        return (self.declared or 0) - self.frames - 1


@dataclass
class _Walk:
    """What was met on the way through a file."""

    segments: list[_Segment] = field(default_factory=list)
    damage: str | None = None
    missing: str | None = None


def looks_like_mpeg(head: bytes) -> bool:
    """Return whether a file that begins so begins with a frame."""
    return _header(head, 0) is not None


def mpeg_layout(file: BinaryIO, base: int, size: int) -> Layout:
    """Return how an MP3 file is to be read whose first frame is at `base`, or behind tags and zeros there."""
    if size > _LARGEST:
        return Layout(is_mpeg=True)
    file.seek(0)
    data = file.read(size)
    first = _first_frame(data, base)
    if first is None:
        return Layout(is_mpeg=True)
    walk = _walk(data, *first)
    if walk.damage or walk.missing:
        return Layout(missing=None if walk.damage else walk.missing, damage=walk.damage)
    segments = [segment for segment in walk.segments if segment.frames]
    if len(segments) == 1 and segments[0].is_counted:
        return Layout(is_mpeg=True)
    return Layout(streams=tuple(_stream(data, segment) for segment in segments), is_mpeg=True)


def _stream(data: bytes, segment: _Segment) -> tuple[Piece, ...]:
    if segment.is_counted:
        return ((segment.start, segment.pieces[0][0]), *segment.pieces)  # its own first frame is right
    at = segment.pieces[0][0]
    header = _header(data, at)
    assert header is not None
    return (_count_frame(data, at, header, segment.frames), *segment.pieces)


def _header(data: bytes, at: int) -> _Header | None:
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    rate_index, speed = data[at + 2] >> 2 & 3, data[at + 2] >> 4
    if version == 1 or layer == 0 or rate_index == 3 or speed in (0, 15):
        return None
    rate, bits = _RATES[version][rate_index], (_V1 if version == 3 else _V2)[layer][speed - 1] * 1000
    padding = data[at + 2] >> 1 & 1
    samples = 384 if layer == 3 else 576 if layer == 1 and version != 3 else 1152
    size = (12 * bits // rate + padding) * 4 if layer == 3 else samples // 8 * bits // rate + padding
    return _Header((version, layer, rate, data[at + 3] >> 6 == 3), size)


def _first_frame(data: bytes, base: int) -> tuple[int, _Header] | None:
    """Return the first frame that another of its kind, or the end, follows."""
    at = base
    while 0 <= at < len(data):
        header = _header(data, at)
        if header is not None and _goes_on(data, at + header.size, header):
            return at, header
        at = data.find(b"\xff", at + 1)
    return None


def _goes_on(data: bytes, at: int, header: _Header) -> bool:
    following = _header(data, at)
    return at >= len(data) or (following is not None and following.kind == header.kind) or _tag(data, at) > 0


def _walk(data: bytes, at: int, first: _Header) -> _Walk:
    walk = _Walk([_Segment(first.kind, at)])
    while at < len(data) and not walk.missing:
        header, segment = _header(data, at), walk.segments[-1]
        if header is not None and (header.kind == segment.kind or _goes_on(data, at + header.size, header)):
            at = _take_frame(walk, data, at, header)
        elif skipped := _tag(data, at):
            at += skipped
        else:
            at = _behind_junk(walk, data, at)
    lost = next((segment for segment in walk.segments if segment.lost > 0), None)
    if lost is not None and not walk.missing:
        walk.missing = f"its header announces {lost.declared} frames, it has {lost.frames}"
    return walk


def _take_frame(walk: _Walk, data: bytes, at: int, header: _Header) -> int:
    segment, end = walk.segments[-1], at + header.size
    if end > len(data):  # fine where all frames that were announced are there already
        walk.missing = "its last frame is incomplete" if not segment.declared or segment.lost > -2 else None
        return len(data)
    count = _count_of(data, at, header)
    if header.kind != segment.kind or (count is not None and segment.frames):
        walk.segments.append(segment := _Segment(header.kind, at))
    if count is None:
        segment.add(at, end)
    else:
        segment.declared, segment.start = count, at
    return end


def _behind_junk(walk: _Walk, data: bytes, at: int) -> int:
    """Go on behind bytes that are no frame: zeros and a little at the end do no harm, before other frames they do."""
    following = _next_frame(data, at + 1)
    end = len(data) if following is None else following
    between = data[at:end].strip(b"\0")
    if between and (following is not None or len(between) > _LONGEST_END):
        walk.damage = walk.damage or f"{end - at} bytes from byte {at} on are no MPEG frames"
    return end


def _next_frame(data: bytes, at: int) -> int | None:
    while (at := data.find(b"\xff", at)) >= 0:
        header = _header(data, at)
        if header is not None and at + header.size < len(data) and _goes_on(data, at + header.size, header):
            return at
        at += 1
    return None


def _tag(data: bytes, at: int) -> int:
    """Return the bytes of a tag that begins there; 0 if none does."""
    head = data[at : at + 32]
    if head[:3] == b"TAG":
        return 227 if head[:4] == b"TAG+" else 128
    if head[:3] == b"ID3" and len(head) >= 10:
        length = sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return 10 + length + (10 if head[5] & 16 else 0)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        length, flags = struct.unpack("<I4xI", head[12:24])
        return 32 + int(length) if flags & (1 << 29) else 32
    if head[:11] == b"LYRICSBEGIN":
        end = max(data.find(b"LYRICS200", at), data.find(b"LYRICSEND", at))
        return end + 9 - at if end > 0 else 0
    return 0


def _side_info(header: _Header) -> int:
    """Return the bytes between a frame's start and where Xing puts its mark."""
    version, _, _, mono = header.kind
    if version == 3:
        return 4 + (17 if mono else 32)
    return 4 + (9 if mono else 17)


def _count_of(data: bytes, at: int, header: _Header) -> int | None:
    """Return the count of frames in a frame that holds no audio but a count (Xing, Info, VBRI); 0 if it has none."""
    if header.kind[1] != 1:
        return None
    mark = at + _side_info(header)
    if data[mark : mark + 4] in (b"Xing", b"Info"):
        flags, count = struct.unpack(">II", data[mark + 4 : mark + 12].ljust(8, b"\0"))
        return int(count) if flags & 1 else 0
    mark = at + 36
    if data[mark : mark + 4] == b"VBRI":
        return int.from_bytes(data[mark + 14 : mark + 18], "big")
    return None


def _count_frame(data: bytes, at: int, header: _Header, frames: int) -> bytes:
    """Return a first frame, of the stream's kind, that says how many follow."""
    begin = bytearray(data[at : at + 4])
    begin[1] |= 1  # no checksum
    mark = _side_info(header)
    sizes: list[int] = []
    for speed in range(1, 15):
        begin[2] = speed << 4 | begin[2] & 0x0C
        made = _header(bytes(begin), 0)
        sizes.append(made.size if made else 0)
        if sizes[-1] >= mark + 12:
            break
    frame = bytearray(sizes[-1])
    frame[:4] = begin
    frame[mark : mark + 12] = b"Xing" + struct.pack(">II", 1, frames)
    return bytes(frame)
