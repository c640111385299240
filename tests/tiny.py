"""The smallest things of each kind: a network, a corpus of spoken tones, a recipe.

Every word of the corpus is a tone of its own pitch, so a network of a few thousand weights learns it in seconds.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import numpy as np
import pytest
import soundfile
import torch
import yaml
from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment
from safetensors.torch import load_file
from torch import Tensor

from layerdial.cli.app import command_line, main
from layerdial.config.network import ConformerConfig
from layerdial.config.recipe import Recipe, load_recipe
from layerdial.data.manifest import write_cuts
from layerdial.models.conformer_ctc import ConformerCTC
from layerdial.training.reference import Reference
from layerdial.utils.rows import read_rows

HERTZ = {"low": 300.0, "middle": 900.0, "high": 2700.0}
WORD_SECONDS, GAP_SECONDS = 0.2, 0.12
VOCABULARY = 7
_ENCODING = "utf-8"  # of what children print
LOG_MEL = ConformerCTC.features

# everything random that a step can have
RANDOM = (
    "model.dropout=0.1",
    "spec_augment={freq_masks: 1, time_masks: 1}",
    "data.speeds=[0.9, 1.0, 1.1]",
    "train.accumulate=2",
    "train.steps=9",
    "train.eval_every=3",
)


def tiny_config(**changes: Any) -> ConformerConfig:
    """Four blocks of width 8, without dropout."""
    numbers = {"n_blocks": 4, "width": 8, "heads": 2, "ffn_width": 16, "kernel": 5, "dropout": 0.0}
    return ConformerConfig.model_validate({**numbers, **changes})


def tiny_network(seed: int = 0, **changes: Any) -> ConformerCTC:
    """Random weights, also for the norms, in `eval()`."""
    torch.manual_seed(seed)
    network = ConformerCTC(tiny_config(**changes), VOCABULARY)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
    return network.eval()


def noise(lengths: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A zero-padded batch of noise: inputs (B, T, 80) and lengths (B,)."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(length, 80, generator=generator) for length in lengths]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths)


def speak(text: str, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """`text`, made of the words low, middle and high, as tones in noise: samples (S,)."""
    rng = np.random.default_rng(seed)
    gap = np.zeros(round(GAP_SECONDS * rate))
    time = np.arange(round(WORD_SECONDS * rate)) / rate
    parts = [gap]
    for word in text.split():
        parts += [0.3 * np.sin(2 * np.pi * HERTZ[word] * time), gap]
    samples = np.concatenate(parts)
    return (samples + 0.003 * rng.standard_normal(len(samples))).astype(np.float32)


def sentences(count: int, seed: int = 0, words: tuple[int, int] = (2, 5)) -> list[str]:
    """Random texts of the three words."""
    random = Random(seed)
    return [" ".join(random.choices(list(HERTZ), k=random.randint(*words))) for _ in range(count)]


def write_cut(folder: Path, name: str, samples: np.ndarray, text: str, rate: int = 16000) -> MonoCut:
    """Samples as a WAV file and the cut that covers it."""
    path = folder / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    seconds = len(samples) / rate
    recording = Recording(name, [AudioSource("file", [0], str(path))], rate, len(samples), seconds)
    segment = SupervisionSegment(name, name, 0.0, seconds, text=text, speaker=name)
    return MonoCut(name, 0.0, seconds, 0, supervisions=[segment], recording=recording)


def write_hour(path: Path) -> Path:
    """An hour of noise as a file of 8 kHz and 8 bits, written in moments."""
    minute = (0.1 * np.random.default_rng(0).standard_normal(60 * 8000)).astype(np.float32)
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_U8") as file:
        for _ in range(60):
            file.write(minute)
    return path


def write_corpus(path: Path, texts: Sequence[str]) -> Path:
    """Each text spoken once; the manifest `path` lists them."""
    cuts = (write_cut(path.parent / "audio", f"{path.stem}-{i}", speak(text, i), text) for i, text in enumerate(texts))
    write_cuts(cuts, path)
    return path


def tiny_recipe(out: Path, train: Path, dev: Path, *changes: str) -> Recipe:
    """Layer dropping from scratch, 20 steps; `changes` are as for --set."""
    return load_recipe(write_recipe(out.with_suffix(".yaml"), out, train, dev), changes)


def write_recipe(file: Path, out: Path, train: Path, dev: Path) -> Path:
    """The recipe of `tiny_recipe` as a file."""
    recipe: dict[str, Any] = {
        "recipe": 2,
        "out": str(out),
        "model": tiny_config(n_blocks=3, width=32, ffn_width=64).model_dump(exclude_none=True),
        "tokenizer": {"kind": "word"},
        "data": {"train": str(train), "dev": str(dev), "batch_seconds": 6, "buckets": 2, "workers": 0, "speeds": []},
        "spec_augment": {"freq_masks": 0, "time_masks": 0},
        "policy": {"name": "uniform_count"},
        "optim": {"lr": 3e-3, "warmup_steps": 10},
        "train": {"steps": 20, "log_every": 1, "eval_every": 10},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(recipe))
    return file


def losses(run: Path) -> dict[int, tuple[float, ...]]:
    """Loss, gradient norm and rate of each step, from a run's metrics."""
    names = ("loss", "ctc", "kl", "gradient_norm", "learning_rate", "depth", "epoch", "audio_seconds")
    return {row["step"]: tuple(row[n] for n in names) for row in read_rows(run / "metrics.jsonl") if "loss" in row}


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def remember_references(monkeypatch: pytest.MonkeyPatch) -> list[Reference]:
    """The references that are loaded from now on."""
    loaded: list[Reference] = []
    load = Reference.load

    def load_and_remember(*arguments: Any) -> Reference:
        loaded.append(load(*arguments))
        return loaded[-1]

    monkeypatch.setattr(Reference, "load", load_and_remember)
    return loaded


@dataclass(frozen=True)
class Ended:
    """How a child process ended: its exit code (negative: killed by that signal) and what it printed."""

    code: int
    out: str
    err: str


def in_child(action: Callable[[], object]) -> Ended:
    """Run `action` in a fork of this process: really killed, really out of disk, and no second import of torch."""
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = os.pipe(), os.pipe()  # a file could not grow where the test limits the size of files
    child = os.fork()
    if child == 0:
        _become_child(action, *(into for _, into in pipes))
    for _, into in pipes:
        os.close(into)
    with ThreadPoolExecutor(2) as pool:
        out, err = pool.map(_read_all, (source for source, _ in pipes))
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out, err)


def _read_all(source: int) -> str:
    with os.fdopen(source, encoding="utf-8") as file:
        return file.read()


def _become_child(action: Callable[[], object], out: int, err: int) -> NoReturn:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False, encoding=_ENCODING)  # noqa: SIM115 - lives as long as the child
        sys.stderr = open(2, "w", buffering=1, closefd=False, encoding=_ENCODING)  # noqa: SIM115
        action()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def command(*arguments: object) -> Ended:
    """`layerdial ARGUMENTS` in a child process."""
    _prepare_commands(export=arguments[:1] == ("export",))

    def run() -> None:
        sys.argv = ["layerdial", *map(str, arguments)]
        main()

    return in_child(run)


@cache
def _prepare_commands(export: bool) -> None:
    """Do here, once, what else every child would do: put the command line together, and import what it needs."""
    needed = ["matplotlib.pyplot", "PIL.PngImagePlugin", "rich.markdown", "rich.progress"]
    needed += ["layerdial.evaluation.run", "layerdial.models.torch_recognizer", "layerdial.registry.words"]
    if export:
        needed += ["layerdial.export.export", "onnxruntime.quantization", "torch._dynamo"]
    for name in needed:
        import_module(name)
    command_line()
    gc.collect()
    gc.freeze()  # memory that the collector of a child leaves alone is not copied
