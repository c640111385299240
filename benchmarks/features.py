"""Log-mel features of ten seconds of audio: ours beside kaldi-native-fbank's, on one thread, in turns.

    python benchmarks/features.py [AUDIO ...]

With audio files, the largest difference is that on them, otherwise on noise.
"""

from __future__ import annotations

import sys

import numpy as np

from layerdial.audio.features import fbank
from layerdial.audio.files import SAMPLE_RATE, read_audio, to_target_rate
from layerdial.audio.kaldi_fbank import N_MELS
from layerdial.utils.timing import measure_in_turns


def main() -> None:
    files = [to_target_rate(*read_audio(path)) for path in sys.argv[1:]]
    samples = np.random.default_rng(0).normal(0.0, 0.1, 10 * SAMPLE_RATE).astype(np.float32)
    ours, native = measure_in_turns([lambda: fbank(samples), lambda: native_fbank(samples)], 3, 41)
    difference = max(np.abs(fbank(one) - native_fbank(one)).max() for one in files or [samples])
    print(f"ours / kaldi-native-fbank: {ours / native:.2f} of the time; largest difference {difference:.1e}")


def native_fbank(samples: np.ndarray) -> np.ndarray:
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins, options.mel_opts.high_freq = N_MELS, -400.0
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(SAMPLE_RATE, samples.tolist())  # a list: several times as fast as an array
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


if __name__ == "__main__":
    main()
