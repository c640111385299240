"""Headers that are wrong while the audio is whole, lengths that nobody wrote, and audio that is cut."""

from __future__ import annotations

import io
import os
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio.files import AudioProblem, probe, read_audio, read_segment, verify
from layerdial.audio.windows import windows
from tiny import command, speak

SAMPLES = (0.3 * np.sin(np.arange(25_810) / 7)).astype(np.float32)
PCM = (SAMPLES * 32767).astype("<i2").tobytes()
CLIP = Path(__file__).parents[2].parent / "shared" / "faults"  # handed out beside the repository, not part of it


def wav(
    data: bytes = PCM, riff: int | None = None, data_size: int | None = None, rate: int = 16000, channels: int = 1,
    bits: int = 16, before: bytes = b"", behind: bytes = b"", order: str = "<",
) -> bytes:  # fmt: skip
    """A WAV file whose header says what it is told to."""
    width = channels * bits // 8
    form = struct.pack(f"{order}4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * width & 0xFFFFFFFF, width, bits)
    size = len(data) if data_size is None else data_size
    body = b"WAVE" + form + before + b"data" + struct.pack(f"{order}I", size) + data + behind
    whole = struct.pack(f"{order}I", (len(body) if riff is None else riff) & 0xFFFFFFFF)
    return (b"RIFF" if order == "<" else b"RIFX") + whole + body


def soundfile_bytes(**how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 16000, **how)
    return file.getvalue()


def patched(content: bytes, at: int, what: bytes) -> bytes:
    return content[:at] + what + content[at + len(what) :]


def aiff(form: int | None = None, chunk: int | None = None) -> bytes:
    content = soundfile_bytes(format="AIFF", subtype="PCM_16")
    at = content.find(b"SSND") + 4
    content = content if form is None else patched(content, 4, struct.pack(">I", form & 0xFFFFFFFF))
    return content if chunk is None else patched(content, at, struct.pack(">I", chunk))


def flac(samples: int, cut: int = 0) -> bytes:
    content = soundfile_bytes(format="FLAC", subtype="PCM_16")
    content = patched(content, 21, bytes([content[21] & 0xF0]) + struct.pack(">I", samples))
    return content[: len(content) - cut]


def caf(size: int) -> bytes:
    content = soundfile_bytes(format="CAF", subtype="PCM_16")
    return patched(content, content.find(b"data") + 4, struct.pack(">q", size))


def au(size: int) -> bytes:
    return patched(soundfile_bytes(format="AU", subtype="PCM_16"), 8, struct.pack(">I", size))


N = len(wav())
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT\x0e\0\0\0Lavf60.16.100\0"
WHOLE = {
    "riff is the file's size": wav(riff=N),
    "riff counts a pad byte": wav(riff=N - 8 + 1),
    "riff is too large": wav(riff=N + 1_000_000),
    "riff is 0": wav(riff=0),
    "riff is too small": wav(riff=100),
    "rifx": wav(data=(SAMPLES * 32767).astype(">i2").tobytes(), riff=N, order=">"),
    "data is larger, riff is right": wav(data_size=len(PCM) + 1000),
    "list behind, riff too large": wav(behind=LIST, riff=N + len(LIST)),
    "list before": wav(before=LIST, riff=N + 500),
    "data 0, riff 0": wav(riff=0, data_size=0),
    "data 0, riff 36": wav(riff=36, data_size=0),
    "data 0, riff right": wav(data_size=0),
    "data 0, list before": wav(before=LIST, riff=0, data_size=0),
    "both ff": wav(riff=0xFFFFFFFF, data_size=0xFFFFFFFF),
    "both 7f": wav(riff=0x7FFFFFFF, data_size=0x7FFFFFDB),
    "sox": wav(riff=0x7FFFF024, data_size=0x7FFFF000),
    "both 80": wav(riff=0x80000024, data_size=0x80000000),
    "riff 0, data ff": wav(riff=0, data_size=0xFFFFFFFF),
    "id3 before": b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + wav(riff=N),
    "id3 before, data 0": b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + wav(riff=0, data_size=0),
    "aiff, form 0": aiff(form=0),
    "aiff, form too large": aiff(form=N + 5000),
    "flac of unknown length": flac(0),
    "caf of unknown length": caf(-1),
    "au of unknown length": au(0xFFFFFFFF),
    "au of length 0": au(0),
}
KILLED = [name for name in WHOLE if "data 0" in name or name == "au of length 0"]


@pytest.mark.parametrize("name", WHOLE)
def test_what_counts_is_the_audio_that_is_there(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.audio"
    path.write_bytes(WHOLE[name])
    assert verify(path).frames == len(SAMPLES)
    np.testing.assert_allclose(read_audio(path)[0], SAMPLES, atol=1e-4)
    caplog.clear()
    assert probe(path).rate == 16000
    assert [record.getMessage().count("gives no length") for record in caplog.records] == [1] * (name in KILLED)


def test_a_byte_that_fills_up_an_odd_chunk_may_be_missing(tmp_path: Path) -> None:
    data = ((SAMPLES[:25_001] * 127) + 128).astype("u1").tobytes()
    (tmp_path / "a.wav").write_bytes(wav(data, riff=36 + 25_001 + 1, bits=8))
    assert verify(tmp_path / "a.wav").frames == 25_001


def test_an_empty_chunk_of_samples_before_others_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(b"", behind=LIST))
    with pytest.raises(AudioProblem, match="holds no samples"):
        probe(tmp_path / "a.wav")


def test_an_interrupted_flac_is_read_up_to_its_last_whole_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.flac").write_bytes(flac(0, cut=300))
    heard, _ = read_audio(tmp_path / "a.flac")
    assert 20_000 < len(heard) < len(SAMPLES)
    np.testing.assert_allclose(heard, SAMPLES[: len(heard)], atol=1e-4)
    assert "its last frame is incomplete" in caplog.text


@pytest.mark.parametrize("name", ["flac-unknown-length.flac", "pipe.flac", "riff-is-file-size.wav"])
def test_inputs_that_people_sent(name: str) -> None:
    if not (CLIP / name).is_file():
        pytest.skip(f"{CLIP / name} is not here")
    assert verify(CLIP / name).frames == len(SAMPLES)


# ------------------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("rate", [1, 100, 3999, 768_001, 2_000_000_000])
def test_rates_that_no_speech_has_are_refused_by_all_who_read(tmp_path: Path, rate: int) -> None:
    (tmp_path / "a.wav").write_bytes(wav(rate=rate))
    for read in (probe, verify, read_audio, read_segment, lambda path: list(windows(path))):
        with pytest.raises(AudioProblem, match=rf"a.wav is at {rate} Hz by its header; speech is at 4000 to 768000 Hz"):
            read(tmp_path / "a.wav")


def test_a_rate_of_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(rate=0))
    with pytest.raises(AudioProblem, match="its header says 0 Hz"):
        probe(tmp_path / "a.wav")


def test_a_tiny_rate_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(bytes(512 * 1024), rate=1))
    tracemalloc.start()
    with pytest.raises(AudioProblem, match="1 Hz"):
        list(windows(tmp_path / "a.wav"))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_the_number_of_channels_has_a_bound(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(channels=1000))
    with pytest.raises(AudioProblem, match=r"a.wav has 1000 channels; 256 is the most"):
        probe(tmp_path / "a.wav")


def test_a_declared_length_takes_no_memory(tmp_path: Path) -> None:
    content = patched(flac(0), 21, bytes([flac(0)[21] | 0x0F]) + b"\xff\xff\xff\xff")  # 68 thousand million samples
    (tmp_path / "a.flac").write_bytes(content)
    assert len(read_segment(tmp_path / "a.flac", 0, 1 << 35)[0]) == len(SAMPLES)


# ------------------------------------------------------------------------------------------------------------- pipes


@contextmanager
def pipe(content: bytes) -> Iterator[Path]:
    """A pipe that gives `content` once, as a path."""
    source, into = os.pipe()

    def feed() -> None:
        with os.fdopen(into, "wb") as file:
            file.write(content)

    feeder = threading.Thread(target=feed)
    feeder.start()
    if len(content) < 1 << 15:  # a child that is forked now must not hold the end that is written to
        feeder.join()
    try:
        yield Path(f"/dev/fd/{source}")
    finally:
        os.close(source)
        feeder.join()


FORMATS: dict[str, Callable[[], bytes]] = {
    "wav": wav,
    "killed wav": lambda: wav(riff=0, data_size=0),
    "flac": lambda: soundfile_bytes(format="FLAC", subtype="PCM_16"),
    "ogg": lambda: soundfile_bytes(format="OGG", subtype="VORBIS"),
    "mp3": lambda: soundfile_bytes(format="MP3"),
    "joined mp3": lambda: soundfile_bytes(format="MP3") * 2,
}


@pytest.mark.parametrize("name", FORMATS)
def test_audio_comes_through_a_pipe(name: str) -> None:
    content = FORMATS[name]()
    with pipe(content) as path:
        kept = sum(window.n_kept for window in windows(path))
    assert kept == len(SAMPLES) * (2 if "joined" in name else 1)


def test_what_comes_through_a_pipe_may_be_wrong() -> None:
    for content, words in ((b"", r"is empty"), (b"no audio" * 100, "is not audio"), (wav()[:999], "is truncated")):
        with pipe(content) as path, pytest.raises(AudioProblem, match=rf"/dev/fd/\d+ {words}"):
            list(windows(path))
    with pytest.raises(AudioProblem, match="/dev/null is empty"):
        list(windows("/dev/null"))


def test_a_pipe_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerdial.audio.piped.LARGEST", 1 << 20)
    with pytest.raises(AudioProblem, match="/dev/zero gives more than 1 MB; write long audio to a file"):
        list(windows("/dev/zero"))


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_the_command_reads_standard_input(tmp_path: Path, learnt: Path, name: str) -> None:
    soundfile.write(tmp_path / "a.wav", speak("low high"), 16000)
    with pipe((tmp_path / "a.wav").read_bytes()) as path:
        source = int(path.name)
        kept = os.dup(0)
        os.dup2(source, 0)
        try:
            ended = command("transcribe", learnt, name)
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert (ended.code, ended.out) == (0, "low high\n"), ended.err
