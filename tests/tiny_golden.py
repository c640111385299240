"""What this package computes on tiny inputs, for `golden/`: losses of training, sweeps, an exported graph, transcripts.

`golden/record.py` writes it down, `test_golden.py` compares. What layerdial's modules and the keys of its recipes are
called is said here alone: the imports just below, and `KEYS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import soundfile
import yaml

from layerdial.config.recipe import load_recipe
from layerdial.data.manifest import write_cuts
from layerdial.evaluation.latency import Timing
from layerdial.evaluation.run import sweep_model
from layerdial.export.export import export_model
from layerdial.training.loop import train
from tiny import command, sentences, speak, write_corpus, write_cut
from tiny_hf import save_tiny

MODEL = Path(__file__).parent / "old_artefacts" / "model"  # 3 blocks, self-conditioned, with a ladder
RECIPE_VERSION = 2

# ------------------------------------------------------------------------------------------------------------ training

# the name of each setting in this file -> its key in a recipe
KEYS = {
    # the network
    "family": "model.family",
    "config": "model.config",
    "n_blocks": "model.n_blocks",
    "width": "model.width",
    "heads": "model.heads",
    "ffn_width": "model.ffn_width",
    "kernel": "model.kernel",
    "dropout": "model.dropout",
    "block_norm": "model.block_norm",
    "skip": "model.skip",
    "exit_heads": "model.exit_heads",
    "self_condition": "model.self_condition",
    "selector": "model.selector",
    "freeze_front_end": "model.freeze_front_end",
    # where it begins and what it learns from
    "tokenizer": "tokenizer.kind",
    "reference": "reference",
    "init": "init",
    # data
    "train": "data.train",
    "dev": "data.dev",
    "batch_seconds": "data.batch_seconds",
    "buckets": "data.buckets",
    "workers": "data.workers",
    "speeds": "data.speeds",
    "posteriors": "data.posteriors",
    "freq_masks": "spec_augment.freq_masks",
    "time_masks": "spec_augment.time_masks",
    # which blocks run
    "policy": "policy.name",
    "keep_prob": "policy.keep_prob",
    "subsets": "policy.subsets",
    # the objective
    "distil_weight": "objective.distil.weight",
    "teacher": "objective.distil.teacher",
    "top_k": "objective.distil.top_k",
    "exits": "objective.exits.at",
    "exit_weight": "objective.exits.weight",
    "exit_power": "objective.exits.power",
    "exit_distil_weight": "objective.exits.distil_weight",
    "in_place_weight": "objective.in_place.weight",
    "in_place_divergence": "objective.in_place.divergence",
    "in_place_ctc": "objective.in_place.ctc_weight",
    # the updates
    "lr": "optim.lr",
    "head_lr": "optim.head_lr",
    "weight_decay": "optim.weight_decay",
    "clip": "optim.clip",
    "schedule": "optim.schedule",
    "warmup_steps": "optim.warmup_steps",
    "out": "out",
    "steps": "train.steps",
    "log_every": "train.log_every",
    "eval_every": "train.eval_every",
    "threads": "train.threads",
    "seed": "train.seed",
    "accumulate": "train.accumulate",
}

EVERY_RUN: dict[str, Any] = {
    "batch_seconds": 6,
    "buckets": 2,
    "workers": 0,
    "speeds": [],
    "freq_masks": 0,
    "time_masks": 0,
    "lr": 3e-3,
    "warmup_steps": 10,
    "steps": 20,
    "log_every": 1,
    "eval_every": 20,
    "threads": 1,
}
CONFORMER = {"n_blocks": 4, "width": 16, "heads": 2, "ffn_width": 32, "kernel": 5, "dropout": 0.0}
WAVLM = {
    "model_type": "wavlm",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
}

NONE, LD = {"policy": "none"}, {"policy": "uniform_count"}
DLD = {**LD, "reference": "@conformer", "distil_weight": 1.0, "freq_masks": 1, "time_masks": 1}
WEIGHTED_EXITS = {**NONE, "exits": "all", "exit_power": 2.0}
IN_PLACE = {"policy": "sandwich", "in_place_weight": 1.0}


def hugging_face(variant: str, **changes: Any) -> dict[str, Any]:
    """The settings of a run that goes on from a tiny checkpoint, which is its reference too."""
    return {"family": "hf", "reference": f"@{variant}", "init": "reference", **changes}


# what differs from EVERY_RUN and CONFORMER; "@NAME" stands for the folder of a model
RUNS: dict[str, dict[str, Any]] = {
    "ctc": NONE,
    "ld": LD,
    "ld_bernoulli": {"policy": "bernoulli", "keep_prob": 0.5},
    "stochastic_depth": {"policy": "stochastic_depth", "keep_prob": 0.5},
    "prefix": {"policy": "prefix"},
    "subsets_even": {**LD, "subsets": "even"},
    "subsets_prefix": {**LD, "subsets": "prefix"},
    "subsets_ladder": {**LD, "subsets": "ladder", "reference": "@laddered", "init": "reference"},
    "subsets_chosen_input": {**LD, "subsets": "chosen", "selector": "input"},
    "subsets_chosen_scores": {**LD, "subsets": "chosen", "selector": "scores"},
    "sandwich": {"policy": "sandwich"},
    "sandwich_even": {"policy": "sandwich", "subsets": "even"},
    "sandwich_in_place_kl": IN_PLACE,
    "sandwich_in_place_alpha": {**IN_PLACE, "in_place_divergence": "alpha", "in_place_ctc": 0.0},
    "sandwich_in_place_dld": {**IN_PLACE, "in_place_ctc": 0.5, "reference": "@conformer", "distil_weight": 0.5},
    "dld_augmented": {**DLD, "teacher": "augmented"},
    "dld_clean": {**DLD, "teacher": "clean"},
    "dld_cached": {**DLD, "teacher": "cached", "top_k": 2},
    "dld_bernoulli": {**DLD, "policy": "bernoulli", "keep_prob": 0.5, "init": "reference"},
    "ld_from_reference": {**LD, "reference": "@conformer", "init": "reference"},
    "dld_from_reference": {**DLD, "init": "reference"},
    "dld_from_stored": {**DLD, "n_blocks": 3, "self_condition": True, "reference": "@stored", "init": "reference"},
    "sc_exits": {**WEIGHTED_EXITS, "self_condition": True},
    "sc_exits_from_reference": {
        **WEIGHTED_EXITS,
        "self_condition": True,
        "reference": "@conformer",
        "init": "reference",
    },
    "weighted_exits": WEIGHTED_EXITS,
    "early_exit_own_heads": {**NONE, "exits": "all", "exit_heads": True},
    "exits_middle": {**NONE, "exits": "middle", "exit_weight": 0.5},
    "exits_learn_from_the_last": {**WEIGHTED_EXITS, "exit_distil_weight": 0.5},
    "exits_dld": {**WEIGHTED_EXITS, "reference": "@conformer", "distil_weight": 0.5},
    "exits_sandwich": {**IN_PLACE, "exits": "all", "exit_weight": 0.5},
    "block_norm": {**LD, "block_norm": True},
    "skip_norm": {**LD, "block_norm": True, "skip": "norm"},
    "other_updates": {**LD, "schedule": "noam", "head_lr": 1e-2, "weight_decay": 1.0, "clip": 5.0},
    "augmented": {**LD, "freq_masks": 2, "time_masks": 2, "speeds": [0.9, 1.0, 1.1], "accumulate": 2, "seed": 1},
    "dropout": {**LD, "dropout": 0.1},
    "wavlm_ld": hugging_face("wavlm-large", **LD),
    "wavlm_exits": hugging_face("wavlm-large", **WEIGHTED_EXITS),
    "wavlm_dld": hugging_face("wavlm-large", **LD, distil_weight=1.0, teacher="clean", time_masks=1),
    "wavlm_from_scratch": {**LD, "family": "hf", "config": WAVLM, "tokenizer": "char", "freeze_front_end": False},
    "wav2vec2_ld": hugging_face("wav2vec2-base", **LD),
    "wav2vec2_exits": hugging_face("wav2vec2-base", **WEIGHTED_EXITS),
    "hubert_ld": hugging_face("hubert-base", **LD),
    "hubert_exits": hugging_face("hubert-base", **WEIGHTED_EXITS),
    "parakeet_ld": hugging_face("parakeet", **LD),
    "parakeet_exits": hugging_face("parakeet", **WEIGHTED_EXITS),
}


class Workshop:
    """A folder with a corpus of tones and the models that runs begin from, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train = write_corpus(folder / "train.cuts.jsonl.gz", sentences(24, seed=0))
        self.dev = write_corpus(folder / "dev.cuts.jsonl.gz", sentences(2, seed=1, words=(2, 2)))
        self._models: dict[str, Path] = {}

    def losses(self, name: str) -> dict[str, list[Any]]:
        """Loss, its CTC and its KL, and the mean depth, at each step of a run of `RUNS`; then its ladder's subsets."""
        out = self.folder / "runs" / name
        if not out.exists():
            train(load_recipe(self._recipe(out, **RUNS[name])))
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        names = ("loss", "ctc", "kl", "depth")
        found = {name: [float(f"{row[name]:.7g}") for row in rows if "loss" in row] for name in names}
        ladder = out / "model" / "ladder.json"  # where training alone says which blocks a depth has
        rungs = json.loads(ladder.read_text())["rungs"] if ladder.is_file() else []
        return {**found, "ladder": [rung["subset"] for rung in rungs]}

    def _recipe(self, out: Path, **changes: Any) -> Path:
        """The recipe file of a run that differs from `EVERY_RUN` by `changes`."""
        settings = {**EVERY_RUN, "out": out, "train": self.train, "dev": self.dev}
        settings |= {} if "family" in changes else CONFORMER
        settings |= {} if "reference" in changes else {"tokenizer": "word"}
        if changes.get("teacher") == "cached":
            settings["posteriors"] = self.folder / "posteriors"
        recipe: dict[str, Any] = {"recipe": RECIPE_VERSION}
        for name, value in (settings | changes).items():
            *groups, key = KEYS[name].split(".")
            place = recipe
            for group in groups:
                place = place.setdefault(group, {})
            place[key] = self._plain(value)
        file = out.with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(recipe))
        return file

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            value = self.model(value.removeprefix("@"))
        return str(value) if isinstance(value, Path) else value

    def model(self, name: str) -> Path:
        """A model folder: `MODEL`, the Conformer of the run `ctc`, that with a ladder, or a Hugging Face checkpoint."""
        if name not in self._models:
            self._models[name] = self._make_model(name)
        return self._models[name]

    def _make_model(self, name: str) -> Path:
        if name == "stored":
            return MODEL
        if name == "conformer":
            self.losses("ctc")
            return self.folder / "runs" / "ctc" / "model"
        if name == "laddered":
            return self._laddered()
        return save_tiny(self.folder / name, name, num_hidden_layers=3)

    def _laddered(self) -> Path:
        """The Conformer with subsets that neither prefix nor even spacing would choose."""
        folder = self.folder / "laddered"
        folder.mkdir()
        for file in self.model("conformer").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        subsets = ("0100", "0101", "0111", "1111")
        rungs = [
            {"depth": i, "subset": subset, "loss": 1.0 / i, "wer": 1.0 / i, "errors": 12 // i, "words": 12}
            for i, subset in enumerate(subsets, 1)
        ]
        ladder = {"format": 1, "n_blocks": 4, "metric": "loss", "cuts": "dev", "utterances": 2, "rungs": rungs}
        (folder / "ladder.json").write_text(json.dumps(ladder))
        return folder


# --------------------------------------------------------------------------------------- sweep, export, transcripts


def noisy(text: str, seed: int, level: float = 0.1) -> np.ndarray:
    """Tones in so much noise that a tiny network makes mistakes: samples (S,) at 16 kHz."""
    samples = speak(text, seed)
    return samples + level * np.random.default_rng(1000 + seed).standard_normal(len(samples)).astype(np.float32)


def write_noisy(folder: Path) -> Path:
    """A manifest of twelve noisy sentences."""
    path = folder / "noisy.cuts.jsonl.gz"
    cuts = (
        write_cut(folder / "audio", f"noisy-{i}", noisy(text, i), text) for i, text in enumerate(sentences(12, seed=2))
    )
    write_cuts(cuts, path)
    return path


SWEEP_FIELDS = (
    "select",
    "subset",
    "depth",
    "wer",
    "errors",
    "words",
    "substitutions",
    "deletions",
    "insertions",
    "cer",
    "char_errors",
    "chars",
    "utterances",
    "audio_seconds",
    "macs_per_second",
    "parameters",
)


def sweep_rows(model: Path, cuts: Path, rules: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of all depths by each selection rule, without times and what they belong to."""
    timing = Timing(seconds=0.2, warmup=0, repeats=1, budget_s=0.01)
    return [
        {name: row[name] for name in SWEEP_FIELDS}
        for rule in rules
        for row in sweep_model(model, cuts, None, rule, None, workers=0, threads=1, timing=timing)
    ]


@dataclass(frozen=True)
class Export:
    """An exported folder, and the versions that decide about the bytes of its graph."""

    folder: Path

    @classmethod
    def of(cls, model: Path, folder: Path) -> Export:
        export_model(model, folder, name="tones", licence="CC0-1.0")
        return cls(folder)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnx_ir")}

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the graph alone, without the metadata that the package writes into it, and of its file."""
        graph = onnx.load(self.folder / "model.onnx")
        del graph.metadata_props[:]
        alone = graph.SerializeToString(deterministic=True)
        whole = (self.folder / "model.onnx").read_bytes()
        return {"graph": hashlib.sha256(alone).hexdigest(), "file": hashlib.sha256(whole).hexdigest()}

    def manifest(self) -> dict[str, Any]:
        """The manifest without what another commit or another processor changes."""
        stored = json.loads((self.folder / "manifest.json").read_text())
        return {
            key: value for key, value in stored.items() if key not in ("parity", "trained_with", "sha256", "checksum")
        }

    def log_probabilities(self, subsets: Iterable[str]) -> dict[str, Any]:
        """Of two utterances of random features, padding left out, by subset: (T', V) rounded to 4 decimals."""
        session = onnxruntime.InferenceSession(str(self.folder / "model.onnx"), providers=["CPUExecutionProvider"])
        rng = np.random.default_rng(0)
        lengths_B = np.array([61, 40])
        inputs_BTF = rng.standard_normal((2, 61, 80)).astype(np.float32)
        inputs_BTF[1, 40:] = 0.0
        found = {}
        for subset in subsets:
            gates_N = np.array([gate == "1" for gate in subset])
            feed = dict(zip((i.name for i in session.get_inputs()), (inputs_BTF, lengths_B, gates_N), strict=True))
            logp_BTV, frames_B = session.run(None, feed)
            found[subset] = [
                logp_BTV[i, :n].round(4).astype(float).round(4).tolist() for i, n in enumerate(frames_B.tolist())
            ]
        return found


def words(count: int) -> str:
    """So many of the three words of the corpus."""
    (text,) = sentences(1, seed=count, words=(count, count))
    return text


SUBSETS = ("100", "010", "101", "111")


def write_audio(folder: Path) -> list[Path]:
    """A clip at 16 kHz, one in stereo at 8 kHz, and one of two windows of 30 s, of which the second is noisy."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = {
        "clip.wav": (speak("low high middle high low low", 77), 16000),
        "stereo.wav": (np.stack([speak("middle low high", 78, 8000)] * 2, axis=1), 8000),
        "long.wav": (np.concatenate([speak(words(95), 79), noisy(words(30), 80)]), 16000),
    }
    for name, (samples, rate) in clips.items():
        soundfile.write(folder / name, samples, rate)
    return [folder / name for name in clips]


# how the exported model is asked, the torch model by the first two
TRANSCRIBE = {
    "all blocks": (),
    "depth 2": ("--depth", "2"),
    "confidence": ("--confidence", "0.9"),
    "deadline that any depth keeps": ("--deadline-ms", "1e7"),
    "limit that no depth keeps": ("--max-cpu", "1e-9"),
}
FOR_TORCH = ("all blocks", "depth 2")


def transcripts(model: Path, audio: Sequence[Path], asked: Iterable[str]) -> dict[str, Any]:
    """What `layerdial transcribe --json` prints, without times and reasons, and with names of files for paths."""
    return {name: _transcribe(model, audio, TRANSCRIBE[name]) for name in asked}


def _transcribe(model: Path, audio: Sequence[Path], options: Sequence[str]) -> list[dict[str, Any]]:
    ended = command("transcribe", model, *audio, "--json", "--threads", "1", *options)
    assert ended.code == 0, ended.err
    rows = [json.loads(line) for line in ended.out.splitlines()]
    return [_without_reasons({**row, "file": Path(row["file"]).name}) for row in rows]


def _without_reasons(row: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key not in ("rtf", "reason", "audio_seconds", "seconds_taken")}
    if "chunks" in kept:
        kept["chunks"] = [_without_reasons(chunk) for chunk in kept["chunks"]]
    return kept
