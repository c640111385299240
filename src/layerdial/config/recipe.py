"""Recipes: what a training run is, as strict frozen models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from layerdial.config.network import NETWORKS, AnyNetwork, ConformerConfig
from layerdial.config.objective import OBJECTIVES, AnyObjective, ObjectiveConfig
from layerdial.config.old_keys import refuse_old_recipe, upgraded
from layerdial.config.plugins import with_plugins
from layerdial.config.policies import POLICIES, AnyPolicy
from layerdial.config.registry import Registry
from layerdial.config.strict import Strict, parse, read_yaml

RECIPE_VERSION = 2
READ_TIMEOUT = 600.0  # seconds; what a network disk may be away for
_Decibels = Annotated[float, Field(ge=-120, le=120)]


def _check_range(name: str, found: tuple[float, float] | None) -> None:
    if found is not None and found[0] > found[1]:
        raise ValueError(f"{name} is {list(found)}; give the lower number first")


class TokenizerConfig(Strict):
    """`kind` and `size` build one from the training text; `path` takes that of a model folder."""

    kind: Literal["word", "char", "bpe"] | None = None
    size: int | None = Field(default=None, ge=2, le=1_000_000)
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


class PausesConfig(Strict):
    """Pauses in training examples: digital silence, or noise, coloured or white, that may go on under the speech.

    `share` of the batches have pauses around utterances, of up to `seconds` on each side. In `joined` of them two or
    more utterances are joined, with up to `seconds` between. `alone` of them have an example without words besides.
    `noise_db`: how far the noise lies below the speech. A batch gets at most twice as long as without pauses; where
    long ones leave no room for some of its utterances, these are left out.
    Epochs before `from_epoch` (0 is the first) have none: from scratch, CTC learns sooner from tight speech.
    """

    share: float = Field(default=0.5, ge=0, le=1)
    seconds: float = Field(default=2.0, gt=0, le=60)
    joined: float = Field(default=0.1, ge=0, le=1)
    alone: float = Field(default=0.25, ge=0, le=1)
    noise_db: tuple[_Decibels, _Decibels] = (10.0, 60.0)
    from_epoch: int = Field(default=0, ge=0, le=10**9)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range("noise_db", self.noise_db)
        if not (self.share or self.joined or self.alone):
            raise ValueError("share, joined and alone are 0, so there would be no pauses; leave the group out")
        return self


class DataConfig(Strict):
    """Where the cuts are and how they become batches.

    `cache_mb`: memory of each worker for features that later epochs use again; for small corpora. Where `pauses` or
    `gain_db` change the samples, it holds samples, which are twice as large.
    `gain_db`: the range from which each example's change of level is drawn, for networks to which the level matters.
    `read_timeout`: seconds after which a run ends whose workers wait for files that cannot be read; 0 for never.
    `posteriors`: folder for those of the reference, with `objective.distil.teacher: cached`; by default beside `train`.
    """

    train: Path
    dev: Path
    batch_seconds: float = Field(default=30.0, gt=0)
    max_seconds: float = Field(default=30.0, gt=0)
    buckets: int = Field(default=10, ge=2, le=10_000)
    workers: int = Field(default=1, ge=0, le=1000)
    cache_mb: int = Field(default=0, ge=0, le=100_000_000)
    read_timeout: float = Field(default=READ_TIMEOUT, ge=0)
    speeds: tuple[Annotated[float, Field(ge=0.1, le=10)], ...] = (0.9, 1.0, 1.1)
    pauses: PausesConfig | None = None
    gain_db: tuple[_Decibels, _Decibels] | None = None
    posteriors: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range("gain_db", self.gain_db)
        return self


class SpecAugmentConfig(Strict):
    """SpecAugment (Park et al., arXiv 1904.08779): masked mel bands and stretches of time, filled with the mean.

    Widths are in bins and in frames of 10 ms. `freq_masks` is 2 if left out, and 0 for networks that take samples,
    which have no bands.
    """

    freq_masks: int | None = Field(default=None, ge=0, le=1000)
    freq_width: int = Field(default=27, ge=0, le=1_000_000)
    time_masks: int = Field(default=5, ge=0, le=1000)
    time_width: int = Field(default=40, ge=0, le=1_000_000)
    time_share: float = Field(default=0.15, ge=0, le=1)


class OptimConfig(Strict):
    """AdamW. "noam" takes `lr` as its peak, reached at `warmup_steps`; "cosine" ends at a hundredth of `lr`.

    `head_lr` is the peak for the last layer, `lr` if left out: a new head on a pre-trained encoder needs more.
    """

    lr: float = Field(default=1e-3, gt=0)
    head_lr: float | None = Field(default=None, gt=0)
    schedule: Literal["noam", "cosine"] = "cosine"
    warmup_steps: int = Field(default=200, ge=1, le=10**12)
    weight_decay: float = Field(default=1e-2, ge=0)
    clip: float = Field(default=1.0, gt=0)


class TrainConfig(Strict):
    """Length, precision, evaluation and checkpoints of a run. A step is one update of the weights.

    `threads` is for CPUs (default: torch's, all cores). Small networks gain little from a second thread, and on a
    machine that does something else as well they lose much.
    `depth_per_chunk` is for streaming networks: the share of the steps in which depth changes within utterances, from
    chunk to chunk. Such a step has no exits.
    """

    steps: int = Field(ge=1, le=10**12)
    seed: int = Field(default=0, ge=-(2**63), lt=2**63)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int | None = Field(default=None, ge=1, le=4096)
    accumulate: int = Field(default=1, ge=1, le=1_000_000)
    log_every: int = Field(default=20, ge=1)
    eval_every: int = Field(default=500, ge=1)
    eval_depths: tuple[int, ...] | None = None
    select_by: Literal["wer", "cer"] = "wer"
    average_best: int = Field(default=1, ge=1, le=1_000_000)
    depth_per_chunk: float = Field(default=0.0, ge=0, le=1)


class Recipe(Strict):
    """A training run. `reference` is a model folder; `init` is "scratch", "reference" or a model folder.

    Both folders can be Hugging Face CTC models, also by their hub id. `plugins` are Python files that register
    policies, objectives or network families.
    """

    recipe: Literal[2]
    out: Path
    plugins: tuple[Path, ...] = ()
    model: AnyNetwork | None = None
    tokenizer: TokenizerConfig | None = None
    reference: Path | None = None
    init: str = "scratch"
    data: DataConfig
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    policy: AnyPolicy
    objective: AnyObjective = ObjectiveConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        asked = self.objective.asks_reference()
        if asked is not None and self.reference is None:
            raise ValueError(f"{self.objective.part('distil')} is set but there is no reference to learn from")
        if self.data.posteriors is not None and (asked is None or asked.inputs != "cached"):
            raise ValueError("data.posteriors is for stored posteriors, which needs objective.distil.teacher: cached")
        if self.objective.asks_full_pass() and not (self.policy.drops and self.policy.last_is_full):
            what = self.objective.part("in_place")
            raise ValueError(f"{what} needs a full-depth pass in every step: policy sandwich, not {self.policy.name}")
        if self.policy.needs() == "ladder" and self.init == "scratch":
            raise ValueError(f"{self.policy.needing()} but a run from scratch starts from no model that has one")
        if self.policy.needs() == "selector" and self.objective.exits_at(2):
            what = self.objective.part("exits")
            raise ValueError(f"{what} is for subsets that are known, but {self.policy.needing()}")
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
        if model.selector and self.init == "scratch" and self.policy.needs() != "selector":
            raise ValueError("model.selector would never be asked, and so never trained; set policy.subsets: chosen")
        untrained = self.init == "scratch" and not self.policy.drops and not self.objective.exits_at(2)
        if model.exit_heads and untrained:
            raise ValueError("model.exit_heads below full depth would never be trained; set objective.exits.at: all")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply `a.b=value` overrides (values are YAML too) and load the plugins that it names."""
    data = read_yaml(path, "recipe", RECIPE_VERSION, "recipes/digits-fsdd/dld.yaml", overrides, refuse_old_recipe)
    return parse(Recipe, with_plugins(data), f"recipe {path}")


def with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored recipe with the keys that layerdial has now; those that it lacks are at their defaults.

    The files in its `plugins` are not executed: what they register is known where the user's own recipe named them.
    """
    recipe = upgraded(stored)
    if isinstance(policy := recipe.get("policy"), dict):  # earlier versions wrote down what a policy does not take
        recipe["policy"] = {key: value for key, value in policy.items() if value is not None}
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValueError:  # a recipe that is refused by now; what differs will be named
        return recipe


def own_code(recipe: Recipe) -> dict[str, str]:
    """Return what a recipe uses that is not layerdial's, such as "policy first_block", with a hash or version of it."""
    named: list[tuple[Registry[Any], str]] = [(POLICIES, recipe.policy.name), (OBJECTIVES, recipe.objective.name)]
    if recipe.model is not None:
        named.append((NETWORKS, recipe.model.family))
    return {f"{kind.kind} {name}": kind.source(name).version for kind, name in named if not kind.is_built_in(name)}
