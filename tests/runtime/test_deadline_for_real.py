"""The controller on this very machine: other processes take the CPU, depth falls; they give it back, depth returns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

from layerdial.config.network import ConformerConfig
from layerdial.export.export import export_model
from layerdial.models.checkpoint import save_model
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.runtime import Recognizer
from layerdial.runtime.profiling import profile_device
from layerdial.text.tokenizer import ListTokenizer

SECONDS = 10


@contextmanager
def busy(processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.slow  # a network large enough to feel load takes half a minute to export
def test_depth_falls_under_load_and_returns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ConformerCTC(ConformerConfig.model_validate({"size": "xs"}), 4)
    save_model(tmp_path / "model", network, ListTokenizer(["<blk>", "one", "two", "three"], "word"), {})
    export_model(tmp_path / "model", tmp_path / "edge")
    profile = profile_device(tmp_path / "edge", (1,), 8.0)
    profile.save(tmp_path / "edge", None, network.n_blocks)
    table = profile.table(1)
    assert table is not None
    deadline_ms = 1.5 * table.total(network.n_blocks, SECONDS)
    recognizer = Recognizer(tmp_path / "edge", threads=1)
    samples = np.random.default_rng(0).normal(0.0, 0.1, SECONDS * 16000).astype(np.float32)

    def mean_depth(requests: int, ignored: int) -> float:
        results = [recognizer.transcribe(samples, deadline_ms=deadline_ms) for _ in range(requests)]
        assert all(result.reason for result in results)
        return fmean(result.depth for result in results[ignored:])

    idle = mean_depth(30, 10)
    with busy(3 * (os.cpu_count() or 1)):
        loaded = mean_depth(60, 10)
    returned = mean_depth(120, 90)
    assert loaded < idle - 1
    assert returned > loaded + 1
