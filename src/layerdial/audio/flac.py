"""The length of a FLAC file by its last frame, where the header does not know it (a pipe), or not truly."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

from layerdial.audio.layout import Layout

_TAIL = 1 << 18  # two frames of any usual kind
_INFO = 42  # bytes: the marker, and the first block, which says what the stream is


class _Frame(NamedTuple):
    """A frame's place in the tail, and the samples before its end."""

    at: int
    begins: int
    ends: int


def flac_layout(file: BinaryIO, base: int, size: int) -> Layout:
    """Return how a FLAC file is to be read, by the number of its last frame.

    A length that is unknown or not that of the frames is replaced, where the last frame is whole. It is whole if its
    checksum is right. Otherwise the file was cut.
    """
    file.seek(base)
    info = bytearray(file.read(_INFO))
    if len(info) < _INFO or info[4] & 127:
        return Layout()
    total = int.from_bytes(info[21:26], "big") & 0xFFFFFFFFF
    begin = max(base + _INFO, size - _TAIL)
    file.seek(begin)
    tail = _without_id3v1(file.read(size - begin))
    frames = []
    for frame in _frames(tail, info):
        if frame.ends == total:
            return Layout()
        frames.append(frame)
    whole = next((f for f in frames if f.begins < f.ends and _crc16(tail[f.at :]) == 0), None)
    if whole is not None:
        return _with_length(base, size, info, whole.ends, "" if total == 0 else _wrong(total, whole.ends))
    if total == 0 and frames:
        note = "its last frame is incomplete, as after an interrupted recording; what is before it is read"
        return _with_length(base, begin + frames[0].at, info, frames[0].begins, note)
    return Layout(missing="its last frame is incomplete") if total else Layout()


def _wrong(announced: int, found: int) -> str:
    return f"its header announces {announced} samples, it has {found}; all are read"


def _with_length(base: int, end: int, info: bytearray, samples: int, note: str) -> Layout:
    if samples <= 0:
        return Layout()
    info[21] = info[21] & 0xF0 | samples >> 32
    info[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    return Layout(streams=((bytes(info), (base + _INFO, end)),), note=note)


def _without_id3v1(tail: bytes) -> bytes:
    return tail[:-128] if tail[-128:-125] == b"TAG" else tail


def _frames(tail: bytes, info: bytes | bytearray) -> list[_Frame]:
    """Return frames whose headers have a right checksum, the last one first."""
    found: list[_Frame] = []
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (frame := _frame(tail, at, info)) is not None:
            found.append(frame)
            if len(found) > 4:
                break
    return found


def _frame(tail: bytes, at: int, info: bytes | bytearray) -> _Frame | None:
    header = tail[at : at + 16]
    if len(header) < 6 or header[3] & 1:
        return None
    number = _utf8_number(header[4:])
    if number is None:
        return None
    value, length = number
    end = 4 + length
    code = header[2] >> 4
    extra = {6: 1, 7: 2}.get(code, 0)
    block = _block_size(code, header[end : end + extra])
    end += extra + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if block is None or end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    variable = header[1] & 1
    begins = value if variable else value * int.from_bytes(info[8:10], "big")
    return _Frame(at, begins, begins + block)


def _utf8_number(data: bytes) -> tuple[int, int] | None:
    """Return the number that a frame carries in UTF-8's way, and in how many bytes."""
    first = data[0]
    if first < 0x80:
        return first, 1
    length = next((n for n in range(2, 8) if first >> (7 - n) == (1 << (n + 1)) - 2), None)
    if length is None or len(data) < length:
        return None
    value = first & ((1 << (7 - length)) - 1)
    for byte in data[1:length]:
        if byte >> 6 != 2:
            return None
        value = value << 6 | byte & 63
    return value, length


def _block_size(code: int, extra: bytes) -> int | None:
    if code == 1:
        return 192
    if 2 <= code <= 5:
        return 576 << (code - 2)
    if code in (6, 7):
        return int.from_bytes(extra, "big") + 1 if extra else None
    return 256 << (code - 8) if code >= 8 else None


def _table(polynomial: int, bits: int) -> list[int]:
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return table


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc


def _crc16(data: bytes) -> int:
    """Return the checksum: 0 for a frame with its own checksum behind it."""
    crc = 0
    for byte in data:
        crc = (crc << 8 ^ _CRC16[crc >> 8 ^ byte]) & 0xFFFF
    return crc
