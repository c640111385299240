"""All of a recording is heard, or it is refused: never a part in silence."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio.files import AudioProblem, probe, read_audio, read_segment, verify

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)


def tones(seconds: float = 2.0, rate: int = 16000, channels: int = 1) -> np.ndarray:
    """Sines with pauses between them, which makes encoders vary their bit rate."""
    time = np.arange(round(seconds * rate)) / rate
    samples = (0.3 * np.sin(2 * np.pi * (300 + 200 * time) * time) * (time % 0.5 < 0.3)).astype(np.float32)
    return np.stack([samples] * channels, axis=1)


def encoded(folder: Path, name: str, samples: np.ndarray, rate: int = 16000, **how: str) -> bytes:
    soundfile.write(folder / name, samples, rate, **how)
    return (folder / name).read_bytes()


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def without_count(mp3: bytes) -> bytes:
    """An MP3 as encoders write it to a pipe: without the first frame, which counts the others."""
    at = min(found for mark in (b"Xing", b"Info") if (found := mp3.find(mark)) > 0)
    second = mp3.find(mp3[:2], at)
    assert mp3[0] == 0xFF and second > 0
    return mp3[second:]


def same(a: np.ndarray, b: np.ndarray) -> float:
    """How alike two recordings are, at the best shift of up to 2,500 samples."""
    size = 1 << (len(a) + len(b)).bit_length()
    crossed = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)))
    best = max(crossed[:2500].max(), crossed[-2500:].max())
    return float(best / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_that_does_not_count_its_frames_is_read_whole(tmp_path: Path, rate: int, channels: int) -> None:
    samples = tones(4.0, rate, channels)
    mp3 = encoded(tmp_path, "a.mp3", samples, rate, bitrate_mode="VARIABLE")
    bare = write(tmp_path, "bare.mp3", without_count(mp3))
    heard, found = read_audio(bare)
    assert found == rate and 0 <= len(heard) - len(samples) < 4 * 1152
    assert len(heard) == verify(bare).frames == probe(bare).frames
    assert same(heard, read_audio(tmp_path / "a.mp3")[0]) > 0.99


@pytest.mark.parametrize("padded_first", [True, False])
def test_a_constant_rate_is_counted_to_the_frame(tmp_path: Path, padded_first: bool) -> None:
    def frame(padded: bool) -> bytes:  # silence at 128 kbit/s and 44.1 kHz, whose frames have 417 or 418 bytes
        return bytes([0xFF, 0xFB, 9 << 4 | padded << 1, 0xC0]).ljust(417 + padded, b"\0")

    content = frame(padded_first) + b"".join(frame(i % 49 != 0) for i in range(1, 1000))
    for tail in (b"", b"TAG" + bytes(125), bytes(3000)):
        assert 0 <= 1000 * 1152 - verify(write(tmp_path, "a.mp3", content + tail)).frames < 1152


@pytest.mark.parametrize("between", [b"", b"TAG" + bytes(125), b"ID3\4\0\0\0\0\1\0" + b"A" * 128, bytes(500)])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_mp3_files_joined_end_to_end_are_read_whole(tmp_path: Path, rate: int, between: bytes) -> None:
    first = encoded(tmp_path, "a.mp3", tones(2.0, rate), rate)
    second = encoded(tmp_path, "b.mp3", tones(3.0, rate)[::-1].copy(), rate)
    joined = write(tmp_path, "joined.mp3", first + between + second)
    parts = [read_audio(tmp_path / name)[0] for name in ("a.mp3", "b.mp3")]
    np.testing.assert_array_equal(read_audio(joined)[0], np.concatenate(parts))
    assert verify(joined).frames == 5 * rate
    bare = write(tmp_path, "bare.mp3", without_count(first) + between + without_count(second))
    assert 0 <= len(read_audio(bare)[0]) - 5 * rate < 6 * 1152


@pytest.mark.parametrize("how", [{"format": "OGG", "subtype": "VORBIS"}, {"format": "OGG", "subtype": "OPUS"}])
@pytest.mark.parametrize("count", [2, 5])
def test_ogg_streams_one_after_the_other_are_read_whole(tmp_path: Path, how: dict[str, str], count: int) -> None:
    parts = [encoded(tmp_path, f"{i}.ogg", tones(0.7 + 0.1 * i), **how) for i in range(count)]
    joined = write(tmp_path, "joined.ogg", b"".join(parts))
    expected = np.concatenate([read_audio(tmp_path / f"{i}.ogg")[0] for i in range(count)])
    np.testing.assert_array_equal(read_audio(joined)[0], expected)
    assert verify(joined).frames == probe(joined).frames == len(expected)


@pytest.mark.parametrize("name", ["joined.mp3", "joined.ogg"])
def test_a_segment_of_joined_files_is_that_of_the_whole(tmp_path: Path, name: str) -> None:
    joined = write(tmp_path, name, encoded(tmp_path, f"a.{name[-3:]}", tones(1.0)) * 3)
    whole, _ = read_audio(joined)
    for start, frames in ((0, 100), (15990, 20), (20000, 16000), (47990, 100), (16000, 1)):
        part, info = read_segment(joined, start, frames)
        assert info.frames == len(whole)
        np.testing.assert_allclose(part, whole[start : start + frames], atol=2e-3)


def other_rate(folder: Path) -> bytes:
    return encoded(folder, "b.mp3", tones(1.0, 44100), 44100)


def other_channels(folder: Path) -> bytes:
    return encoded(folder, "c.mp3", tones(1.0, channels=2))


@pytest.mark.parametrize("other", [other_rate, other_channels])
def test_joined_recordings_of_two_kinds_are_refused(tmp_path: Path, other: Callable[[Path], bytes]) -> None:
    joined = write(tmp_path, "joined.mp3", encoded(tmp_path, "a.mp3", tones(1.0)) + other(tmp_path))
    with pytest.raises(
        AudioProblem, match=r"joined.mp3: it holds recordings of several kinds .*16000 Hz with 1 channel and"
    ):
        verify(joined)


def test_joined_wav_files_are_not_read_in_part(tmp_path: Path) -> None:
    joined = write(tmp_path, "joined.wav", encoded(tmp_path, "a.wav", tones(1.0)) * 2)
    try:
        assert verify(joined).frames == 32000
    except AudioProblem as problem:
        assert "joined.wav" in str(problem)


def test_junk_between_the_frames_of_an_mp3_is_damage(tmp_path: Path) -> None:
    mp3 = bytearray(encoded(tmp_path, "a.mp3", tones(3.0)))
    mp3[len(mp3) // 2 : len(mp3) // 2 + 2000] = b"no audio!!" * 200
    with pytest.raises(AudioProblem, match=r"is damaged: \d+ bytes from byte \d+ on are no MPEG frames; copy"):
        probe(write(tmp_path, "b.mp3", bytes(mp3)))


def test_a_flac_that_says_less_than_it_holds_is_read_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = tones(2.0)
    flac = bytearray(encoded(tmp_path, "a.flac", samples))
    for announced in (100, 4096, 31999, 32001, 1 << 35):
        flac[21:26] = bytes([flac[21] & 0xF0 | announced >> 32]) + struct.pack(">I", announced & 0xFFFFFFFF)
        short = write(tmp_path, "b.flac", bytes(flac))
        caplog.clear()
        assert verify(short).frames == 32000
        assert f"announces {announced} samples, it has 32000" in caplog.text
        np.testing.assert_allclose(read_audio(short)[0], samples[:, 0], atol=1e-4)


def test_an_mp3_read_in_blocks_has_no_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded(tmp_path, "a.mp3", tones(3.0))
    whole, _ = read_audio(tmp_path / "a.mp3")
    monkeypatch.setattr("layerdial.audio.files._BLOCK_VALUES", 5000)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.mp3")[0], whole)


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "FLAC"])
@pytest.mark.parametrize("samples", [1000, 1001, 997])
def test_other_files_joined_end_to_end_are_refused(tmp_path: Path, kind: str, samples: int) -> None:
    part = tmp_path / "part"
    soundfile.write(part, 0.1 * np.random.default_rng(0).standard_normal(samples), 16000, format=kind, subtype="PCM_16")
    assert verify(part).frames == samples
    joined = write(tmp_path, "joined", 2 * part.read_bytes())
    for read in (verify, read_audio):
        with pytest.raises(AudioProblem, match=r"joined is damaged"):
            read(joined)
