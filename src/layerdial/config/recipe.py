"""Recipes: what a training run is, as strict frozen models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from layerdial.config.network import ConformerConfig, ModelConfig
from layerdial.config.old_keys import refuse_old_recipe
from layerdial.config.strict import Strict, parse, read_yaml

RECIPE_VERSION = 2


class TokenizerConfig(Strict):
    """`kind` and `size` build one from the training text; `path` takes that of a model folder."""

    kind: Literal["word", "char", "bpe"] | None = None
    size: int | None = Field(default=None, ge=2)
    path: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind is None) == (self.path is None):
            raise ValueError("give either kind (word, char, bpe) or path (a model folder)")
        if self.kind == "bpe" and self.size is None:
            raise ValueError("kind bpe needs a size, for example 256")
        if self.kind != "bpe" and self.size is not None:
            raise ValueError(
                f"size is for kind bpe; {f'kind {self.kind}' if self.kind else 'path'} has the tokens that it finds. "
                f"Leave size out, as in tokenizer={{{f'kind: {self.kind}' if self.kind else 'path: FOLDER'}}}"
            )
        return self


class DataConfig(Strict):
    """Where the cuts are and how they become batches.

    `cache_mb`: memory of each worker for features that later epochs use again; for small corpora.
    `posteriors`: folder for those of the reference, with `objective.distil.teacher: cached`; by default beside `train`.
    """

    train: Path
    dev: Path
    batch_seconds: float = Field(default=30.0, gt=0)
    max_seconds: float = Field(default=30.0, gt=0)
    buckets: int = Field(default=10, ge=2)
    workers: int = Field(default=1, ge=0)
    cache_mb: int = Field(default=0, ge=0)
    speeds: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] = (0.9, 1.0, 1.1)
    posteriors: Path | None = None


class SpecAugmentConfig(Strict):
    """SpecAugment (Park et al., arXiv 1904.08779): masked mel bands and stretches of time, filled with the mean.

    Widths are in bins and in frames of 10 ms. `freq_masks` is 2 if left out, and 0 for networks that take samples,
    which have no bands.
    """

    freq_masks: int | None = Field(default=None, ge=0)
    freq_width: int = Field(default=27, ge=0)
    time_masks: int = Field(default=5, ge=0)
    time_width: int = Field(default=40, ge=0)
    time_share: float = Field(default=0.15, ge=0, le=1)


class PolicyConfig(Strict):
    """How the blocks of a step are drawn. `keep_prob` is the chance that a block runs, not that it is dropped.

    For uniform_count and sandwich, which draw a depth: `subsets` says which blocks that depth has ("random" if left
    out): any, the first ones, evenly spaced ones, those of the ladder of the model that the run starts from, or those
    that the network's selector chooses ("chosen").
    """

    name: Literal["none", "bernoulli", "uniform_count", "stochastic_depth", "prefix", "sandwich"]
    keep_prob: float | None = Field(default=None, gt=0, le=1)
    subsets: Literal["random", "prefix", "even", "ladder", "chosen"] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        takes = self.name in ("bernoulli", "stochastic_depth")
        if takes and self.keep_prob is None:
            raise ValueError(f"policy {self.name} needs keep_prob, for example 0.5")
        if not takes and self.keep_prob is not None:
            raise ValueError(f"policy {self.name} takes no keep_prob")
        if self.subsets is not None and self.name not in ("uniform_count", "sandwich"):
            raise ValueError(f"policy {self.name} takes no subsets; uniform_count and sandwich do")
        return self


class DistilConfig(Strict):
    """`weight` * KL(reference || student) at every output, see `modules/losses.py`.

    `teacher` says which inputs the reference gets: "augmented", those of the student, in every step; "clean", the same
    without SpecAugment; "cached", that too, but computed once, before the first step, and kept on disk: the `top_k`
    most probable tokens of each frame, and what is left for the others together.
    """

    weight: float = Field(default=1.0, gt=0)
    teacher: Literal["augmented", "clean", "cached"] = "augmented"
    top_k: int = Field(default=16, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_k != 16 and self.teacher != "cached":
            raise ValueError("top_k says how much of the posteriors is stored, which needs teacher: cached")
        return self


class ExitsConfig(Strict):
    """Outputs within a pass, after all blocks that run but the last ("all"), or after half of them ("middle").

    Each has the losses of the pass's own output, and `distil_weight` times the KL from that output. An output after n
    of N blocks counts (N/n)^`power` times, so that a power above 0 favours the shallow ones, and an exit `weight` times
    besides, relative to the last output. The sum is divided by the sum of these weights, so that gradients keep their
    size.
    """

    at: Literal["all", "middle"] = "all"
    weight: float = Field(default=1.0, gt=0)
    power: float = Field(default=0.0, ge=0)
    distil_weight: float = Field(default=0.0, ge=0)


class InPlaceConfig(Strict):
    """For the sandwich: the passes below full depth learn from the step's full-depth posteriors.

    Their loss is `ctc_weight` * CTC (0 in TODM) + `weight` * divergence: "kl", or "alpha", that of AlphaNet (arXiv
    2102.07954).
    """

    weight: float = Field(default=1.0, gt=0)
    divergence: Literal["kl", "alpha"] = "kl"
    ctc_weight: float = Field(default=1.0, ge=0)


class ObjectiveConfig(Strict):
    """What is added to the CTC loss of a pass. A group that is left out adds nothing."""

    distil: DistilConfig | None = None
    exits: ExitsConfig | None = None
    in_place: InPlaceConfig | None = None


class OptimConfig(Strict):
    """AdamW. "noam" takes `lr` as its peak, reached at `warmup_steps`; "cosine" ends at a hundredth of `lr`.

    `head_lr` is the peak for the last layer, `lr` if left out: a new head on a pre-trained encoder needs more.
    """

    lr: float = Field(default=1e-3, gt=0)
    head_lr: float | None = Field(default=None, gt=0)
    schedule: Literal["noam", "cosine"] = "cosine"
    warmup_steps: int = Field(default=200, ge=1)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=1.0, gt=0)


class TrainConfig(Strict):
    """Length, precision, evaluation and checkpoints of a run. A step is one update of the weights.

    `threads` is for CPUs (default: torch's, all cores). Small networks gain little from a second thread, and on a
    machine that does something else as well they lose much.
    """

    steps: int = Field(ge=1)
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int | None = Field(default=None, ge=1)
    accumulate: int = Field(default=1, ge=1)
    log_every: int = Field(default=20, ge=1)
    eval_every: int = Field(default=500, ge=1)
    eval_depths: tuple[int, ...] | None = None
    select_by: Literal["wer", "cer"] = "wer"
    average_best: int = Field(default=1, ge=1)


class Recipe(Strict):
    """A training run. `reference` is a model folder; `init` is "scratch", "reference" or a model folder.

    Both folders can be Hugging Face CTC models, also by their hub id.
    """

    recipe: Literal[2]
    out: Path
    model: ModelConfig | None = None
    tokenizer: TokenizerConfig | None = None
    reference: Path | None = None
    init: str = "scratch"
    data: DataConfig
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    policy: PolicyConfig
    objective: ObjectiveConfig = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        distil = self.objective.distil
        if distil is not None and self.reference is None:
            raise ValueError("objective.distil is set but there is no reference to learn from")
        if self.data.posteriors is not None and (distil is None or distil.teacher != "cached"):
            raise ValueError("data.posteriors is for stored posteriors, which needs objective.distil.teacher: cached")
        if self.objective.in_place is not None and self.policy.name != "sandwich":
            raise ValueError(
                f"objective.in_place needs a full-depth pass in every step: policy sandwich, not {self.policy.name}"
            )
        if self.policy.subsets == "ladder" and self.init == "scratch":
            raise ValueError("policy.subsets is 'ladder' but a run from scratch starts from no model that has one")
        if self.policy.subsets == "chosen" and self.objective.exits is not None:
            raise ValueError("objective.exits is for subsets that are known; policy.subsets 'chosen' has none")
        if isinstance(self.model, ConformerConfig):
            self._check_parts(self.model)
        if self.init == "reference" and self.reference is None:
            raise ValueError("init is 'reference' but there is no reference")
        if self.model is None and self.init == "scratch" and self.reference is None:
            raise ValueError("model is missing; for example model: {size: xs}")
        if self.tokenizer is None and self.reference is None and self.init == "scratch":
            raise ValueError("tokenizer is missing; for example tokenizer: {kind: bpe, size: 256}")
        return self

    def _check_parts(self, model: ConformerConfig) -> None:
        """No part of the network would be without effect. (Stored networks, which were pruned, may have such keys.)"""
        if model.selector and self.init == "scratch" and self.policy.subsets != "chosen":
            raise ValueError("model.selector would never be asked, and so never trained; set policy.subsets: chosen")
        untrained = self.init == "scratch" and self.policy.name == "none" and self.objective.exits is None
        if model.exit_heads and untrained:
            raise ValueError("model.exit_heads below full depth would never be trained; set objective.exits.at: all")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `a.b=value` overrides (values are YAML too)."""
    data = read_yaml(path, "recipe", RECIPE_VERSION, "recipes/digits-fsdd/dld.yaml", overrides, refuse_old_recipe)
    return parse(Recipe, data, f"recipe {path}")
