"""Small files that libsndfile does not read, made of samples by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

KINDS = {  # name: codec, FFmpeg's format, the rate in Hz
    "a.m4a": ("aac", "ipod", 44100),
    "a.mp4": ("aac", "mp4", 48000),
    "a.webm": ("libopus", "webm", 48000),
    "a.mkv": ("libopus", "matroska", 48000),
    "a.amr": ("libopencore_amrnb", "amr", 8000),
    "a.3gp": ("libopencore_amrnb", "3gp", 8000),
    "a.aac": ("aac", "adts", 16000),
}


def write_media(path: Path, samples_SC: np.ndarray, rate: int, codec: str, format: str, video: bool = False) -> Path:
    """Samples (S, C) of one or two channels, or none, and a black picture for their time."""
    layout = "stereo" if samples_SC.shape[1] == 2 else "mono"
    with av.open(str(path), "w", format=format) as container:
        sound = container.add_stream(codec, rate=rate, layout=layout) if len(samples_SC) else None
        pictures = container.add_stream("mpeg4", rate=10) if video else None
        if pictures is not None:
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            for frame in black(max(10, len(samples_SC) * 10 // rate)):
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode())
        if sound is not None:
            size = sound.codec_context.frame_size or None
            to_codec = av.AudioResampler(sound.codec_context.format, layout, rate, size)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_SC.T, np.float32), "fltp", layout)
            frame.sample_rate, frame.pts = rate, 0
            for part in [*to_codec.resample(frame), *to_codec.resample(None)]:
                container.mux(sound.encode(part))
            container.mux(sound.encode())
    return path


def black(count: int) -> Iterator[av.VideoFrame]:
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        frame.pts = number
        yield frame
