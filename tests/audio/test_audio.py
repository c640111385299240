from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from layerdial.audio import files as audio
from layerdial.audio.channels import Channel
from layerdial.audio.files import AudioProblem, change_speed, probe, read_audio, read_segment, to_target_rate, verify
from layerdial.errors import UserError

KINDS = {
    "a.wav": {},
    "a.flac": {},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {},
    "a.sph": {"format": "NIST", "subtype": "PCM_16"},
}


def tone(seconds: float = 2.0, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def noise() -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(48000) * 0.1).astype(np.float32)


@pytest.mark.parametrize("name", KINDS)
def test_every_format_reads_back_whole(tmp_path: Path, noise: np.ndarray, name: str) -> None:
    soundfile.write(tmp_path / name, noise, 16000, **KINDS[name])
    samples, rate = read_audio(tmp_path / name)
    assert samples.dtype == np.float32 and samples.shape == (48000,) and rate == 16000
    info = verify(tmp_path / name)
    assert (info.frames, info.rate, info.channels, info.seconds) == (48000, 16000, 1, 3.0)
    if name in ("a.wav", "a.flac", "a.sph"):
        np.testing.assert_allclose(samples, noise, atol=1 / 32768)


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF"])
@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        *(("PCM_U8", 1 / 127), ("PCM_S8", 1 / 127), ("PCM_16", 1 / 32000), ("PCM_24", 1e-6), ("PCM_32", 1e-6)),
        *(("FLOAT", 0), ("DOUBLE", 0), ("ULAW", 0.02), ("ALAW", 0.02)),
    ],
)
def test_every_kind_of_wav_equals_its_source(
    tmp_path: Path, noise: np.ndarray, format: str, subtype: str, tolerance: float
) -> None:
    if not soundfile.check_format(format, subtype):
        pytest.skip(f"there is no {format} of {subtype}")
    both = np.stack([noise, noise[::-1]], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 8000, format=format, subtype=subtype)
    assert verify(tmp_path / "a.wav").frames == len(noise)
    for number, column in ((1, 0), (2, 1)):
        samples, rate = read_audio(Channel(tmp_path / "a.wav", number))
        np.testing.assert_allclose(samples, both[:, column], atol=tolerance)
        assert rate == 8000


@pytest.mark.parametrize("part", [0.95, 0.6, 0.1])
@pytest.mark.parametrize("name", KINDS)
def test_a_truncated_file_is_found_in_every_format(tmp_path: Path, noise: np.ndarray, name: str, part: float) -> None:
    whole, cut = tmp_path / name, tmp_path / f"cut-{name}"
    soundfile.write(whole, noise, 16000, **KINDS[name])
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(AudioProblem, match=rf"{cut.name}.* (truncated|not audio)") as problem:
        verify(cut)
    assert "\n" not in str(problem.value)


def test_sphere_headers_of_other_programs_are_understood(tmp_path: Path) -> None:
    header = b"NIST_1A\n   1024\nsample_count -i 400\nsample_n_bytes -i 2\nchannel_count -i 1\n"
    header += b"sample_byte_format -s2 01\nsample_rate -i 16000\nsample_coding -s3 pcm\nend_head\n"
    samples = np.arange(400, dtype="<i2")
    path = tmp_path / "talk.sph"
    path.write_bytes(header.ljust(1024, b" ") + samples.tobytes())
    assert probe(path).frames == 400
    np.testing.assert_array_equal(read_audio(path)[0] * 32768, samples)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AudioProblem, match="announces 1824 bytes, it has 1724"):
        probe(path)


def test_a_streamed_wav_without_its_length_is_not_called_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(0.5), 16000)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(content))
    assert verify(path).frames == 8000


def test_what_is_not_a_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello, this is not audio\n" * 50)
    (tmp_path / "bare.raw").write_bytes(bytes(1000))
    soundfile.write(tmp_path / "none.wav", np.zeros(0, dtype=np.float32), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, 0.5, np.nan, 0], dtype=np.float32), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "inf.wav", np.array([[0, 0], [0, np.inf]], dtype=np.float32), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "divided_by_nobody.wav", 32768 * tone(0.1), 16000, subtype="FLOAT")
    facts = {
        "missing.wav": "does not exist",
        "empty.wav": "is empty",
        "text.wav": "is not audio",
        "bare.raw": "is not audio",
        ".": "is a folder",
        "none.wav": "no samples",
        "nan.wav": "sample 2 is not a finite number",
        "inf.wav": "sample 1 is not a finite number",
        "divided_by_nobody.wav": r"samples go up to 9830.*: divide 16-bit numbers by 32768",
    }
    for name, words in facts.items():
        for check in (read_audio, verify):
            with pytest.raises(AudioProblem, match=words) as problem:
                check(tmp_path / name)
            assert str(tmp_path / name) in str(problem.value) and "\n" not in str(problem.value)


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left, right = tone(0.1), -tone(0.1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0.5 * right], axis=1), 16000, subtype="FLOAT")
    samples, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(samples, 0.25 * left, atol=1e-7)


@pytest.mark.parametrize("gain", [-1.0, -0.98, -1.05])
def test_channels_that_cancel_each_other_are_not_averaged(
    tmp_path: Path, noise: np.ndarray, gain: float, caplog: pytest.LogCaptureFixture
) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([noise, gain * noise], axis=1), 16000, subtype="FLOAT")
    samples, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_array_equal(np.abs(samples), np.abs(noise) * np.float32(max(1.0, -gain)))
    assert "a.wav: its channels cancel each other out" in caplog.text


@pytest.mark.parametrize("channels", [2, 6, 200])
def test_one_speaker_on_one_of_many_channels_is_averaged_as_before(
    tmp_path: Path, noise: np.ndarray, channels: int
) -> None:
    many = np.zeros((len(noise), channels), np.float32)
    many[:, 1] = noise
    soundfile.write(tmp_path / "a.wav", many, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], noise / channels, atol=1e-7)


def test_a_segment_is_that_part_of_the_file(tmp_path: Path, noise: np.ndarray) -> None:
    for name in ("a.wav", "a.flac", "a.opus"):
        soundfile.write(tmp_path / name, noise, 16000, **KINDS[name])
        whole, _ = read_audio(tmp_path / name)
        part, info = read_segment(tmp_path / name, start=20000, frames=5000)
        assert info.frames == 48000
        np.testing.assert_allclose(part, whole[20000:25000], atol=1e-3)
    assert len(read_segment(tmp_path / "a.wav", start=47990, frames=100)[0]) == 10
    assert len(read_segment(tmp_path / "a.wav", start=50000, frames=100)[0]) == 0


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_pitch_and_duration(rate: int) -> None:
    resampled = to_target_rate(tone(1.0, rate), rate)
    assert resampled.dtype == np.float32 and abs(len(resampled) - 16000) <= 1
    assert np.argmax(np.abs(np.fft.rfft(resampled, 16000))) == 440


def test_samples_at_the_target_rate_pass_untouched() -> None:
    samples = tone()
    assert to_target_rate(samples, 16000) is samples


def test_resampling_is_said_once_per_rate(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_announced_rates", set())
    with caplog.at_level(logging.INFO, logger="layerdial"):
        for rate in (8000, 8000, 44100, 8000):
            to_target_rate(tone(0.1, rate), rate)
    assert [r.getMessage() for r in caplog.records] == [
        "resampling 8000 Hz to 16000 Hz",
        "resampling 44100 Hz to 16000 Hz",
    ]


def test_faster_is_shorter_and_higher() -> None:
    faster = change_speed(tone(1.0), 1.1)
    assert faster.dtype == np.float32 and abs(len(faster) - 16000 / 1.1) <= 1
    assert abs(int(np.argmax(np.abs(np.fft.rfft(faster, 16000)))) - 484) <= 1
    assert len(change_speed(tone(1.0), 0.5)) == pytest.approx(32000, abs=2)
    samples = tone()
    assert change_speed(samples, 1.0) is samples


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), 100.0])
def test_an_impossible_speed_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match="between"):
        change_speed(tone(0.1), factor)
