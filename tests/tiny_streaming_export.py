"""Tiny streaming Conformers, schedules for them, and their exports, made once a session; a test file asks for those by
`pytest_plugins = ["tiny_streaming"]`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from conftest import made_once
from layerdial.config.network import ConformerConfig, StreamingConfig
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.subset import BlockSubset, ChunkSchedule
from tiny_streaming import streaming_recognizer

if TYPE_CHECKING:
    from layerdial.export.writer import Traced
    from layerdial.runtime.streaming_session import StreamingSession

N_BLOCKS = 3
SETTINGS = {"n_blocks": N_BLOCKS, "width": 16, "heads": 2, "ffn_width": 32, "kernel": 5, "normalise": "fixed"}
VARIANTS = ("plain", "self_condition")
LETTERS = ["abcde"]  # with the blank and the space as many tokens as the networks know


def network(self_condition: bool = False, left_context_ms: int = 400) -> ConformerCTC:
    torch.manual_seed(0)
    streaming = StreamingConfig(left_context_ms=left_context_ms)
    made = ConformerCTC(ConformerConfig(**SETTINGS, streaming=streaming, self_condition=self_condition), 7)
    return made.eval()


def writing_network(self_condition: bool = False) -> ConformerCTC:
    """One that writes letters and pauses."""
    made = streaming_recognizer(self_condition=self_condition).network
    assert isinstance(made, ConformerCTC)
    return made


def random_schedule(rng: random.Random, n_frames: int) -> ChunkSchedule:
    """Chunks and subsets of three blocks, all drawn anew for each chunk."""
    frames: list[int] = []
    while sum(frames) < n_frames:
        frames.append(rng.choice([1, 2, 4, 8, 30]))
    subsets = [BlockSubset.random(N_BLOCKS, rng.randint(1, N_BLOCKS), rng) for _ in frames]
    return ChunkSchedule(tuple(frames), tuple(subsets))


def save_streaming(folder: Path, made: ConformerCTC) -> Path:
    """A model folder of a network, whose tokens are letters."""
    from layerdial.models.checkpoint import save_model
    from layerdial.text.tokenizer import build_tokenizer

    save_model(folder, made, build_tokenizer("char", LETTERS), {"commit": "0123abc"})
    return folder


@pytest.fixture(scope="session")
def streaming_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The model folder of a variant, and what `layerdial export --streaming` makes of it. They are shared."""

    def folders(variant: str) -> tuple[Path, Path]:
        from layerdial.export.export import export_model
        from layerdial.export.streaming import Streaming

        def make(folder: Path) -> None:
            model = save_streaming(folder / "model", writing_network(variant == "self_condition"))
            export_model(model, folder / "edge", streaming=Streaming())

        folder = made_once(tmp_path_factory, f"streaming-{variant}", make)
        return folder / "model", folder / "edge"

    return folders


@pytest.fixture(scope="session")
def streaming_edge(streaming_folders: Callable[[str], tuple[Path, Path]]) -> Path:
    """The exported folder of the plain variant. Copy it before changing anything in it."""
    return streaming_folders("plain")[1]


@pytest.fixture(scope="session")
def streaming_traced(streaming_folders: Callable[[str], tuple[Path, Path]]) -> Traced:
    """What its export worked on between tracing and writing."""
    from tiny_export import traced_again

    return traced_again(*streaming_folders("plain"))


def load_session(folder: Path) -> StreamingSession:
    from layerdial.runtime.manifest import Manifest
    from layerdial.runtime.streaming_session import StreamingSession

    return StreamingSession(folder, Manifest.load(folder), 1)


@pytest.fixture(scope="session")
def streaming_session(streaming_edge: Path) -> StreamingSession:
    """It, loaded."""
    return load_session(streaming_edge)
