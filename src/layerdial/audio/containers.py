"""What an audio file holds by its own account, where libsndfile would read a part of it, or nothing.

libsndfile takes the WAV, Ogg and MP3 files of an interrupted copy without complaint, only shorter; of files joined
end to end it reads the first; and it trusts lengths that recorders and pipes never came to write. `layout` reads the
structure, which takes microseconds, and says what is missing and which bytes to read instead.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from layerdial.audio.flac import flac_layout
from layerdial.audio.layout import Layout
from layerdial.audio.mpeg import looks_like_mpeg, mpeg_layout

_UNKNOWN = 0x7FFF0000  # from here on a 32-bit length is a placeholder, written by programs that stream
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_MOST_CHUNKS = 10_000


def layout(file: BinaryIO, size: int) -> Layout:
    """Return how the `size` bytes of a file, open for reading, are to be read."""
    base = _after_id3(file, size)
    file.seek(base)
    head = file.read(1024)
    if head[:4] in (b"RIFF", b"RIFX", b"FORM", b"RF64"):
        return _riff(file, base, size, head[:4])
    if head[:16] == _W64_RIFF:
        return _w64(file, size)
    if head[:4] == b"caff":
        return _caf(file, size)
    if head[:4] in (b".snd", b"dns."):
        return _au(file, size, head)
    if head[:7] == b"NIST_1A":
        end = _sphere_bytes(head)
        return _joined(file, head[:7], end) or Layout(missing=_missing(end, size))
    if head[:4] == b"OggS":
        return _ogg(file, size)
    if head[:4] == b"fLaC":
        return flac_layout(file, base, size)
    return mpeg_layout(file, base, size) if looks_like_mpeg(head) or base else Layout(is_mpeg=True)


def _joined(file: BinaryIO, begins: bytes, *ends: int) -> Layout | None:
    """Return what to say where another file of the kind begins at one of the `ends`, as `cat a.wav b.wav` makes them.

    libsndfile reads the first alone, or takes the header of the second for samples.
    """
    for end in ends:
        for at in {end, end + end % 2} - {0}:
            file.seek(at)
            if file.read(len(begins)) == begins:
                return Layout(damage=f"another file begins at byte {at}; files joined end to end are to be taken apart")
    return None


def _after_id3(file: BinaryIO, size: int) -> int:
    """Return where the audio begins behind ID3 tags; other formats than MP3 have them too."""
    at = 0
    while at < size:
        file.seek(at)
        tag = file.read(10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            break
        at += 10 + sum((byte & 127) << shift for byte, shift in zip(tag[6:10], (21, 14, 7, 0), strict=True))
    return min(at, size)


@dataclass(frozen=True)
class _Chunk:
    """A chunk of a file: where its content begins, and its declared size."""

    name: bytes
    start: int
    size: int


def _chunks(file: BinaryIO, at: int, end: int, head: str, align: int = 2) -> Iterator[_Chunk]:
    """Yield chunks, each a name and a size as `struct` reads `head`, then the content."""
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        raw = file.read(struct.calcsize(head))
        if len(raw) < struct.calcsize(head):
            return
        name, length = struct.unpack(head, raw)
        yield _Chunk(name, at + len(raw), length)
        at += len(raw) + length + (-length % align)
        if length < 0 or at >= end:
            return


def _riff(file: BinaryIO, base: int, size: int, kind: bytes) -> Layout:
    """Read WAV, AIFF and RF64. What counts is the size of the samples' chunk; that of the whole file is often wrong."""
    order = "<" if kind in (b"RIFF", b"RF64") else ">"
    file.seek(base + 4)
    whole = int.from_bytes(file.read(4), "little" if order == "<" else "big")
    announced = {"riff": base + 8 + whole, "data": 0}
    for chunk in _chunks(file, base + 12, size, f"{order}4sI"):
        if chunk.name == b"ds64" and kind == b"RF64":
            file.seek(chunk.start)
            sizes = file.read(16)
            if len(sizes) == 16:
                whole, announced["data"] = struct.unpack("<QQ", sizes)
                announced["riff"] = base + 8 + whole
        if chunk.name in (b"data", b"SSND", b"BODY"):
            length = announced["data"] if kind == b"RF64" else chunk.size
            joined = _joined(file, kind, announced["riff"], chunk.start + length) if length else None
            return joined or _samples(
                file, base, size, _Chunk(chunk.name, chunk.start, length), announced["riff"], order
            )
    return Layout()


def _samples(file: BinaryIO, base: int, size: int, data: _Chunk, riff_end: int, order: str) -> Layout:
    there = size - data.start
    if data.size == 0 and data.name == b"data" and there > 0 and not _is_chunk(file, data.start, size, order):
        return _without_length(file, base, size, data, order)
    streamed = is_placeholder(data.size) or data.size >= 1 << 62
    if streamed or riff_end <= size:
        return Layout()
    return Layout(missing=_missing(data.start + data.size, size))


def is_placeholder(size: int) -> bool:
    """Return whether a length of 32 bits stands for one that was not known."""
    return _UNKNOWN <= size <= 0xFFFFFFFF


def _is_chunk(file: BinaryIO, at: int, size: int, order: str) -> bool:
    """Return whether a chunk stands there, as behind an empty one, and not samples."""
    file.seek(at)
    raw = file.read(8)
    if len(raw) < 8 or not (raw[:4].isascii() and raw[:4].decode("ascii").isprintable()):
        return False
    return at + 8 + int(struct.unpack(f"{order}I", raw[4:])[0]) <= size + 1


def _without_length(file: BinaryIO, base: int, size: int, data: _Chunk, order: str) -> Layout:
    """Read all that follows the header: a recorder was killed before it came to write the lengths."""
    file.seek(base)
    head = bytearray(file.read(data.start - base))
    if head[:4] == b"RF64":  # whose own lengths are nought as well
        head[:4] = b"RIFF"
    struct.pack_into(f"{order}I", head, len(head) - 4, min(size - data.start, 0xFFFFFFFF))
    struct.pack_into(f"{order}I", head, 4, min(size - base - 8, 0xFFFFFFFF))
    note = "its header gives no length, as after an interrupted recording; everything behind the header is read"
    return Layout(streams=((bytes(head), (data.start, size)),), note=note)


def _w64(file: BinaryIO, size: int) -> Layout:
    """Read Sony's Wave64: sizes of 64 bits, which count their own 24 bytes."""
    file.seek(16)
    whole, at = int.from_bytes(file.read(8), "little"), 40
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(24)
        length = int.from_bytes(head[16:], "little")
        if len(head) < 24 or head[:4] == b"data":
            joined = _joined(file, _W64_RIFF, whole, whole + -whole % 8)
            return joined or Layout(missing=_missing(at + length, size) if whole > size else None)
        at += max(24, length + (-length % 8))
    return Layout()


def _caf(file: BinaryIO, size: int) -> Layout:
    for chunk in _chunks(file, 8, size, ">4sq", align=1):
        if chunk.name == b"data" and chunk.size == -1:  # allowed, and unknown to libsndfile
            file.seek(0)
            head = bytearray(file.read(chunk.start))
            struct.pack_into(">q", head, chunk.start - 8, size - chunk.start)
            return Layout(streams=((bytes(head), (chunk.start, size)),))
        if chunk.name == b"data" and chunk.start + chunk.size > size:
            return Layout(missing=_missing(chunk.start + chunk.size, size))
        if joined := _joined(file, b"caff", chunk.start + chunk.size):
            return joined
    return Layout()


def _au(file: BinaryIO, size: int, head: bytes) -> Layout:
    if len(head) < 12:
        return Layout()
    start, length = struct.unpack(">II" if head[:4] == b".snd" else "<II", head[4:12])
    if length == 0 and start < size:
        file.seek(0)
        begin = bytearray(file.read(start))
        begin[8:12] = b"\xff" * 4
        return Layout(
            streams=((bytes(begin), (start, size)),), note="its header gives no length; it is read to its end"
        )
    if length < _UNKNOWN and (joined := _joined(file, head[:4], start + length)):
        return joined
    return Layout(missing=None if length >= _UNKNOWN else _missing(start + length, size))


def _missing(announced: int, size: int) -> str | None:
    return f"its header announces {announced} bytes, it has {size}" if announced > size else None


def _sphere_bytes(head: bytes) -> int:
    """Return the bytes that an uncompressed NIST SPHERE file should have; 0 if the header does not say."""
    lines = [line.split() for line in head.decode("latin-1").splitlines()]
    fields = {line[0]: line[2] for line in lines if len(line) == 3}
    if fields.get("sample_coding", "pcm") != "pcm" or len(lines) < 2:
        return 0
    try:
        samples = int(fields["sample_count"]) * int(fields.get("channel_count", 1)) * int(fields["sample_n_bytes"])
        return int(lines[1][0]) + samples
    except (KeyError, ValueError, IndexError):
        return 0


# ------------------------------------------------------------------------------------------------------------- Ogg


def _ogg(file: BinaryIO, size: int) -> Layout:
    """Read Ogg streams one after the other ("chained", as `cat` and radio make them) as so many files."""
    starts, at, in_headers, whole = list[int](), 0, False, True
    while at < size:
        file.seek(at)
        page = file.read(27 + 255)
        if page[:4] != b"OggS":
            at = _next_page(file, at + 1, size)
            continue
        if len(page) < 27 or len(page) < 27 + page[26]:
            whole = False
            break
        begins = bool(page[5] & 2)
        if begins and not in_headers:
            starts.append(at)
        in_headers = begins
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
        whole = at <= size
    if not whole:
        return Layout(missing="its last Ogg page is incomplete")
    if len(starts) < 2:
        return Layout()
    ends = [*starts[1:], size]
    return Layout(streams=tuple(((start, end),) for start, end in zip(starts, ends, strict=True)))


def _next_page(file: BinaryIO, at: int, size: int) -> int:
    """Return where the next page begins; the end of the file if there is none."""
    while at < size:
        file.seek(at)
        block = file.read(1 << 16)
        if (found := block.find(b"OggS")) >= 0:
            return at + found
        at += max(1, len(block) - 3)
    return size
