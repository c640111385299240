"""Recordings that were cut or damaged on their way: said in one line, whatever the format, and by us alone."""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio import quiet
from layerdial.audio.files import AudioProblem, probe, read_audio, verify
from layerdial.audio.quiet import without_decoder_notes

SAMPLES = (0.3 * np.sin(np.arange(40_000) / 7)).astype(np.float32)
KINDS: dict[str, dict[str, str]] = {
    "wav": {"format": "WAV"},
    "extensible": {"format": "WAVEX", "subtype": "PCM_24"},
    "ulaw": {"format": "WAV", "subtype": "ULAW"},
    "gsm": {"format": "WAV", "subtype": "GSM610"},
    "aiff": {"format": "AIFF"},
    "8svx": {"format": "SVX", "subtype": "PCM_16"},
    "au": {"format": "AU"},
    "ulaw au": {"format": "AU", "subtype": "ULAW"},
    "rf64": {"format": "RF64", "subtype": "PCM_16"},
    "w64": {"format": "W64"},
    "caf": {"format": "CAF"},
    "mp3": {"format": "MP3"},
    "flac": {"format": "FLAC"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "sphere": {"format": "NIST", "subtype": "PCM_16"},
}


def encoded(how: dict[str, str], samples: np.ndarray = SAMPLES) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_said_from_its_header(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    whole, path = encoded(KINDS[kind]), tmp_path / "a.audio"
    path.write_bytes(whole)
    assert verify(path).frames >= len(SAMPLES)
    for part in (0.97, 0.6, 0.3, 0.1):
        path.write_bytes(whole[: int(len(whole) * part)])
        look = verify if kind == "flac" and part > 0.9 else probe  # the header of the last frame is there
        with pytest.raises(AudioProblem, match=r"a.audio is (truncated|damaged or truncated|not audio)") as problem:
            look(path)
        assert "\n" not in str(problem.value) and "does not exist" not in str(problem.value)
    assert capfd.readouterr().err == ""


def test_an_mp3_without_a_count_that_was_cut_is_truncated(tmp_path: Path) -> None:
    mp3 = encoded(KINDS["mp3"])
    (tmp_path / "a.mp3").write_bytes(mp3[mp3.find(mp3[:2], 100) :][:-30])
    with pytest.raises(AudioProblem, match=r"a.mp3 is truncated: its last frame is incomplete"):
        probe(tmp_path / "a.mp3")


def test_damaged_mp3_files_are_named_and_the_decoder_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng, whole, refused = np.random.default_rng(0), encoded(KINDS["mp3"]), 0
    path = tmp_path / "a.mp3"
    for _ in range(150):
        content = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 6)):
            what = bytes(rng.integers(0, 256, rng.integers(1, 40), dtype=np.uint8))
            content[at : at + rng.integers(0, 200)] = what
        path.write_bytes(content)
        try:
            verify(path)
        except AudioProblem as problem:
            refused += 1
            assert "a.mp3" in str(problem) and "does not exist" not in str(problem)
    captured = capfd.readouterr()
    assert refused > 75 and captured.err == captured.out == ""


def test_what_others_write_meanwhile_is_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with without_decoder_notes():
        from_c(b"Note: Illegal Audio-MPEG-Header 0x0 at offset 1.\nours\n[src/libmpg123/layer3.c:x():1] error: y\n")
        with without_decoder_notes():
            from_c(b"also ours")
    os.write(2, b", behind\n")
    assert capfd.readouterr().err == "ours\nalso ours, behind\n"


def test_with_glibc_descriptor_2_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    if not quiet._has_glibc():
        pytest.skip("another C library, where descriptor 2 is led elsewhere")
    with without_decoder_notes():
        os.write(2, b"Note: at once")
        assert capfd.readouterr().err == "Note: at once"


def test_without_glibc_descriptor_2_is_led_elsewhere(capfd: pytest.CaptureFixture[str]) -> None:
    hush = quiet._Hush()
    hush.error = quiet._Descriptor()
    for text in (b"ours\n", b"more\n"):
        hush.begin()
        os.write(2, b"Note: theirs\n" + text)
        assert capfd.readouterr().err == ""
        hush.end()
        assert capfd.readouterr().err == text.decode()


def from_c(text: bytes) -> None:
    """Write to what C code takes for standard error."""
    libc = ctypes.CDLL(None)
    libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    libc.fputs(text, ctypes.c_void_p.in_dll(libc, "stderr" if sys.platform != "darwin" else "__stderrp"))


def test_many_threads_may_read_mp3_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.mp3").write_bytes(encoded(KINDS["mp3"]))
    expected, found = read_audio(tmp_path / "a.mp3")[0], list[bool]()

    def read() -> None:
        for _ in range(10):
            found.append(np.array_equal(read_audio(tmp_path / "a.mp3")[0], expected))
            os.write(2, b".")

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80 and capfd.readouterr().err == "." * 80
