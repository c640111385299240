"""The cost of running a subset, as numbers that networks, exported folders and sweeps share."""

from __future__ import annotations

from dataclasses import dataclass

from layerdial.subset import BlockSubset


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a subset: parameters in use, and multiply-accumulates per second of audio."""

    parameters: int
    macs_per_second: float


@dataclass(frozen=True, slots=True)
class CostOfParts:
    """The costs of what always runs, and of each block (its part above what the skip rule leaves of it)."""

    parameters: int
    macs_per_second: float
    block_parameters: tuple[int, ...]
    block_macs_per_second: tuple[float, ...]

    def of(self, subset: BlockSubset) -> Cost:
        """Return the cost of the parts that run for `subset`."""
        return Cost(
            self.parameters + sum(self.block_parameters[i] for i in subset.kept),
            self.macs_per_second + sum(self.block_macs_per_second[i] for i in subset.kept),
        )
