"""Objectives: what a network minimises. Here are their settings and what they ask for; `training` has the losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from layerdial.config.registry import Registry
from layerdial.config.strict import Strict

ReferenceInputs = Literal["augmented", "clean", "cached"]


@dataclass(frozen=True)
class ReferenceUse:
    """Which inputs the reference gets, as in `DistilConfig.teacher`; of "cached", how many tokens a frame are kept."""

    inputs: ReferenceInputs = "augmented"
    top_k: int = 16


class ObjectiveSettings(Strict):
    """What every objective has: a name, settings, and what it asks for. One of one's own derives from `Objective`."""

    name: str

    def asks_reference(self) -> ReferenceUse | None:
        """Return how the reference is asked for its posteriors; none if it is not."""
        return None

    def exits_at(self, depth: int) -> tuple[int, ...]:
        """Return after how many of the `depth` blocks of a pass there is an output besides the last, in (0, depth)."""
        return ()

    def asks_full_pass(self) -> bool:
        """Whether the other passes of a step learn from that of all blocks, which the policy must then have."""
        return False

    def part(self, group: str) -> str:
        """Return what messages call what it asks for; `group` is the one of the built-in objective that asks for it."""
        return f"objective {self.name}"

    def trains_every_depth(self, n_blocks: int) -> bool:
        """Whether a pass of all blocks has an output after each of them."""
        return n_blocks > 1 and tuple(self.exits_at(n_blocks)) == tuple(range(1, n_blocks))


OBJECTIVES = Registry(
    "objective", "layerdial.objectives", ObjectiveSettings, name_of=lambda data: data.get("name", "ctc")
)
register_objective = OBJECTIVES.register
AnyObjective = Annotated[SerializeAsAny[ObjectiveSettings], OBJECTIVES]


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


@register_objective("ctc")
class ObjectiveConfig(ObjectiveSettings):
    """What is added to the CTC loss of a pass. A group that is left out adds nothing. The objective without a name."""

    name: str = "ctc"
    distil: DistilConfig | None = None
    exits: ExitsConfig | None = None
    in_place: InPlaceConfig | None = None

    def asks_reference(self) -> ReferenceUse | None:
        return None if self.distil is None else ReferenceUse(self.distil.teacher, self.distil.top_k)

    def exits_at(self, depth: int) -> tuple[int, ...]:
        if self.exits is None:
            return ()
        if self.exits.at == "all":
            return tuple(range(1, depth))
        return (depth // 2,) if depth > 1 else ()

    def asks_full_pass(self) -> bool:
        return self.in_place is not None

    def part(self, group: str) -> str:
        return f"objective.{group}"
