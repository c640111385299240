"""M4A, MP4, WebM, AMR: the samples that were written, in little memory; and what is wrong, in one line."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from layerdial.audio.channels import Channel
from layerdial.audio.files import AudioProblem, PipedAudio, probe, read_audio, read_segment, verify
from layerdial.audio.windows import windows
from tiny_media import KINDS, write_media


def sweep(seconds: float, rate: int) -> np.ndarray:
    """A tone that rises from 200 to 1,200 Hz, as samples (S, 1): every place of it is unlike the others."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 * time + 500 * time**2 / seconds)))[:, None].astype(np.float32)


def write(folder: Path, name: str, seconds: float = 2.0) -> tuple[Path, np.ndarray, int]:
    codec, format, rate = KINDS[name]
    samples = sweep(seconds, rate)
    return write_media(folder / name, samples, rate, codec, format, video=name in ("a.mp4", "a.mkv")), samples, rate


def pitches(samples: np.ndarray, rate: int) -> np.ndarray:
    """The loudest frequency of each whole tenth of a second, in Hz."""
    frames = samples[: len(samples) // (rate // 10) * (rate // 10)].reshape(-1, rate // 10)
    spectra = np.abs(np.fft.rfft(frames * np.hanning(rate // 10), 4 * rate))
    return spectra.argmax(axis=1) / 4


def likeness(found: np.ndarray, expected: np.ndarray, rate: int) -> tuple[float, float]:
    """The largest correlation at any delay of up to 70 ms, but for the ends, and the delay."""
    size, delays = len(expected) - rate // 2, range(0, rate // 14, 4)
    wanted = expected[rate // 4 :][:size]
    found_at = [np.corrcoef(found[at + rate // 4 :][:size], wanted)[0, 1] for at in delays]
    return float(max(found_at)), 4 * int(np.argmax(found_at)) / rate


@pytest.mark.parametrize("name", KINDS)
def test_samples_are_those_that_were_written(tmp_path: Path, name: str) -> None:
    path, samples, rate = write(tmp_path, name)
    found, found_rate = read_audio(path)
    info = verify(path)
    assert (found_rate, info.rate, info.channels) == (rate, rate, 1)
    assert abs(len(found) - len(samples)) < 0.12 * rate and abs(info.frames - len(found)) <= 0.025 * rate
    rising, heard = pitches(samples[:, 0], rate)[1:19], pitches(found, rate)[1:19]
    assert np.abs(heard - rising).max() < 60  # 500 Hz a second; AMR and bare AAC do not say what encoders put before
    if "amr" in KINDS[name][0]:
        return  # made for speech: it keeps no waves
    like, delay = likeness(found, samples[:, 0], rate)
    assert like > 0.99 and delay < (0.07 if name == "a.aac" else 0.005)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.amr"])
def test_a_segment_and_bytes_of_a_pipe_are_the_same_samples(tmp_path: Path, name: str) -> None:
    path, _, rate = write(tmp_path, name)
    whole, _ = read_audio(path)
    np.testing.assert_array_equal(read_segment(path, rate // 2, 1000)[0], whole[rate // 2 :][:1000])
    np.testing.assert_array_equal(read_audio(PipedAudio("-", path.read_bytes()))[0], whole)


def test_long_files_take_little_memory(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.m4a", np.zeros((600 * 16000, 1), np.float32), 16000, "aac", "ipod")
    tracemalloc.start()
    try:
        kept = sum(window.n_kept for window in windows(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept == 600 * 16000 and peak < 15e6  # 38 MB in all


def test_channels_are_apart(tmp_path: Path) -> None:
    left, right = sweep(1.0, 16000), 0 * sweep(1.0, 16000)
    path = write_media(tmp_path / "a.m4a", np.hstack([left, right]), 16000, "aac", "ipod")
    assert probe(path).channels == 2
    assert np.abs(read_audio(Channel(path, "right"))[0]).max() < 0.02
    assert likeness(read_audio(Channel(path, "left"))[0], left[:, 0], 16000)[0] > 0.99


def test_a_gap_in_the_times_is_silence(tmp_path: Path) -> None:
    """Recorders of calls write nothing while nobody speaks."""
    path, samples, rate = write(tmp_path, "a.webm")
    with av.open(str(path)) as source, av.open(str(tmp_path / "gap.webm"), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None and not 500 <= packet.pts < 1500:
                packet.stream = stream
                target.mux(packet)
    found, _ = read_audio(tmp_path / "gap.webm")
    assert abs(len(found) - len(samples)) < 0.02 * rate
    assert np.abs(found[round(0.6 * rate) : round(1.4 * rate)]).max() == 0
    np.testing.assert_allclose(pitches(found, rate)[16:19], pitches(samples[:, 0], rate)[16:19], atol=30)


# ---------------------------------------------------------------------------------------------------------- refusals


def refused(path: Path) -> str:
    with pytest.raises(AudioProblem) as problem:
        verify(path)
    assert "\n" not in str(problem.value) and str(path) in str(problem.value)
    return str(problem.value)


@pytest.mark.parametrize("part", [0.95, 0.5, 0.05])
@pytest.mark.parametrize("name", KINDS)
def test_a_part_of_a_file_is_refused(tmp_path: Path, name: str, part: float) -> None:
    path, _, _ = write(tmp_path, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part) | 1])
    assert "truncated" in refused(path)


def test_mp4_that_begins_with_its_index_is_found_to_be_cut(tmp_path: Path) -> None:
    path, _, _ = write(tmp_path, "a.m4a")
    how = {"format": "ipod", "options": {"movflags": "faststart"}}
    with av.open(str(path)) as source, av.open(str(tmp_path / "web.m4a"), "w", **how) as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "web.m4a").read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")
    assert verify(tmp_path / "web.m4a").seconds == pytest.approx(2.0, abs=0.1)
    (tmp_path / "web.m4a").write_bytes(content[:-500])
    assert "is truncated: its header announces" in refused(tmp_path / "web.m4a")


@pytest.mark.parametrize("tag", [b"drms", b"enca", b"aavd"])
def test_encrypted_audio_is_refused(tmp_path: Path, tag: bytes) -> None:
    path, _, _ = write(tmp_path, "a.m4a")
    path.write_bytes(path.read_bytes().replace(b"mp4a", tag))
    assert "it is encrypted (DRM, " in refused(path)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", np.zeros((0, 1)), 16000, "aac", "mp4", video=True)
    assert refused(path).endswith("a.mp4: it has no sound track; give a recording with sound")


@pytest.mark.parametrize("begin", [b"\0\0\0\x18ftypM4A ", b"\x1aE\xdf\xa3", b"#!AMR\n", b"\xff\xf1", b"\0\0\0\x08mdat"])
def test_a_file_that_only_begins_so_is_one_line(tmp_path: Path, begin: bytes) -> None:
    for behind in (b"", b"#EXTM3U\nfile:///etc/passwd\n" * 40, bytes(500)):
        (tmp_path / "a.m4a").write_bytes(begin + behind)
        refused(tmp_path / "a.m4a")


def test_where_pyav_is_missing_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, _ = write(tmp_path, "a.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    assert f"{path} is MP4, which is read by av, which is not installed: pip install '.[media]'" in refused(path)
