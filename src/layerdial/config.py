"""Recipes: what a training run is, as strict frozen models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from layerdial.network_config import ConformerConfig, ModelConfig
from layerdial.strict import Strict, parse, read_yaml

RECIPE_VERSION = 1


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
    `posteriors`: folder for those of the reference, with `objective.teacher: cached`; if left out, beside `train`.
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

    Widths are in bins and in frames of 10 ms. `freq_masks` is 2 if left out, and 0 for networks that hear samples,
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
    that the network's selector chooses ("chosen"). `end_share` is the chance that the depth is one of the ends, all
    of them alike (1, 2, … up to a quarter of the blocks, and all blocks), instead of any.
    """

    name: Literal["none", "bernoulli", "uniform_count", "stochastic_depth", "prefix", "sandwich"]
    keep_prob: float | None = Field(default=None, gt=0, le=1)
    subsets: Literal["random", "prefix", "even", "ladder", "chosen"] | None = None
    end_share: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        takes = self.name in ("bernoulli", "stochastic_depth")
        if takes and self.keep_prob is None:
            raise ValueError(f"policy {self.name} needs keep_prob, for example 0.5")
        if not takes and self.keep_prob is not None:
            raise ValueError(f"policy {self.name} takes no keep_prob")
        for key in ("subsets", "end_share"):
            if getattr(self, key) is not None and self.name not in ("uniform_count", "sandwich"):
                raise ValueError(f"policy {self.name} takes no {key}; uniform_count and sandwich do")
        return self


class ObjectiveConfig(Strict):
    """loss = CTC(student, text) + distil_weight * KL(reference || student), see `modules/losses.py`.

    `teacher` says what the reference hears: "augmented" (if left out), what the student hears, in every step; "clean",
    the same without SpecAugment; "cached", that too, but computed once, before the first step, and kept on disk: the
    `top_k` (16 if left out) most probable tokens of each frame, and what is left for the others together.
    `distil_growth` g multiplies the weight by 1 + g (1 - n/N) where n of N blocks run. `align_weight` adds the distance
    of hidden states: after each block that runs, from the reference's at the same relative depth.

    `exits` adds outputs within a pass, after all blocks that run but the last ("all") or after half of them ("middle",
    intermediate CTC). Each has the losses of the pass's own output, and `exit_distil_weight` times the KL from that
    output. All that an output after n of N blocks has counts (N/n)^`exit_power` times, so that a power above 0 favours
    the shallow ones, and that of an exit `exit_weight` times besides; the total is divided by the sum of these weights,
    so that gradients keep their size.

    With the sandwich, `in_place_weight` adds to the other passes the divergence from the step's full-depth posteriors:
    "kl", or "alpha", AlphaNet's (arXiv 2102.07954). `in_place_ctc` is the weight of their CTC loss, 0 in TODM.
    """

    distil_weight: float = Field(default=0.0, ge=0)
    distil_growth: float = Field(default=0.0, ge=0)
    align_weight: float = Field(default=0.0, ge=0)
    exits: Literal["none", "middle", "all"] = "none"
    exit_weight: float = Field(default=1.0, gt=0)
    exit_power: float = Field(default=0.0, ge=0)
    exit_distil_weight: float = Field(default=0.0, ge=0)
    in_place_weight: float = Field(default=0.0, ge=0)
    in_place_divergence: Literal["kl", "alpha"] = "kl"
    in_place_ctc: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    blank: Literal["keep", "skip_blank_frames", "without_blank"] = "keep"
    teacher: Literal["augmented", "clean", "cached"] | None = None
    top_k: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.teacher is not None and not self.asks_reference:
            raise ValueError(
                f"teacher is {self.teacher!r} but distil_weight and align_weight are 0: nothing is asked of it; set "
                "objective.teacher=null"
            )
        if self.align_weight and self.teacher == "cached":
            raise ValueError(
                "align_weight needs the reference in every step, for hidden states are not stored; set teacher: clean"
            )
        if self.distil_growth and not self.distil_weight:
            raise ValueError("distil_growth is for the KL from the reference; set distil_weight")
        kl = (
            self.distil_weight or self.exit_distil_weight or (self.in_place_weight and self.in_place_divergence == "kl")
        )
        if not kl and (self.temperature != 1.0 or self.blank != "keep"):
            raise ValueError("temperature and blank say how a KL is taken, but there is none; set distil_weight")
        if self.exits == "none" and (self.exit_weight != 1.0 or self.exit_power or self.exit_distil_weight):
            raise ValueError("exit_weight, exit_power and exit_distil_weight are for passes with exits; set exits")
        if not self.in_place_weight and (self.in_place_divergence != "kl" or self.in_place_ctc != 1.0):
            raise ValueError("in_place_divergence and in_place_ctc say how passes are taught; set in_place_weight")
        if self.top_k is not None and self.teacher != "cached":
            raise ValueError("top_k says how much of the posteriors is stored, which needs teacher: cached")
        return self

    @property
    def asks_reference(self) -> bool:
        """Whether the reference teaches; else it gives its vocabulary, and its weights where the run starts there."""
        return self.distil_weight > 0 or self.align_weight > 0


class OptimConfig(Strict):
    """AdamW. "noam" takes `lr` as its peak, reached at `warmup_steps`; "cosine" ends at `final_lr_share` of `lr`.

    `head_lr` is the peak for the last layer, `lr` if left out: a new head on a pre-trained encoder wants more.
    """

    lr: float = Field(default=1e-3, gt=0)
    head_lr: float | None = Field(default=None, gt=0)
    schedule: Literal["noam", "cosine"] = "cosine"
    warmup_steps: int = Field(default=200, ge=1)
    final_lr_share: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=1e-2, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    clip: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "noam" and self.final_lr_share != 0.01:
            raise ValueError("final_lr_share is where schedule cosine ends; noam has no end")
        return self


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

    recipe: Literal[1]
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
        if self.objective.asks_reference and self.reference is None:
            asked = "distil_weight" if self.objective.distil_weight else "align_weight"
            raise ValueError(f"objective.{asked} is above 0 but there is no reference to learn from")
        if self.data.posteriors is not None and self.objective.teacher != "cached":
            raise ValueError("data.posteriors is a place for stored posteriors, which needs objective.teacher: cached")
        if self.objective.in_place_weight and self.policy.name != "sandwich":
            raise ValueError(
                "objective.in_place_weight needs a full-depth pass in every step: policy sandwich, not "
                f"{self.policy.name}"
            )
        if self.policy.subsets == "ladder" and self.init == "scratch":
            raise ValueError("policy.subsets is 'ladder' but a run from scratch starts from no model that has one")
        if self.policy.subsets == "chosen" and self.objective.exits != "none":
            raise ValueError("objective.exits is for subsets that are known; policy.subsets 'chosen' has none")
        if self.policy.subsets == "chosen" and self.objective.align_weight:
            raise ValueError("objective.align_weight is for subsets that are known; policy.subsets 'chosen' has none")
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
        if model.selector_width != 32 and model.selector != "input":
            raise ValueError("model.selector_width is that of a selector that looks at the input; set selector: input")
        untrained = self.init == "scratch" and self.policy.name == "none" and self.objective.exits == "none"
        if model.exit_heads and untrained:
            raise ValueError("model.exit_heads below full depth would never be trained; set objective.exits: all")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `a.b=value` overrides (values are YAML too)."""
    data = read_yaml(path, "recipe", RECIPE_VERSION, "recipes/digits-fsdd/dld.yaml", overrides)
    return parse(Recipe, data, f"recipe {path}")
