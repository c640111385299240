"""What happened since the last log line. Losses stay on the device until the line is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layerdial.modules.losses import LossTerms


@dataclass(frozen=True)
class NotFinite:
    """A loss that is infinite or not a number: at which step, for which utterances."""

    step: int
    ids: tuple[str, ...]


@dataclass
class LogWindow:
    """Collect losses and times of the steps since the last log line; one entry a forward pass."""

    audio_seconds: float = 0.0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    _batches: list[NotFinite] = field(default_factory=list)
    _losses: list[Tensor] = field(default_factory=list)
    _depths: list[int] = field(default_factory=list)
    _norms: list[Tensor] = field(default_factory=list)
    _last_passes: list[NotFinite] = field(default_factory=list)  # of the updates that the norms are of

    def add(self, step: int, ids: tuple[str, ...], depth: int, terms: LossTerms) -> None:
        """Remember a forward pass, without a synchronisation."""
        self._batches.append(NotFinite(step, ids))
        self._losses.append(torch.stack([terms.total.detach(), terms.ctc, terms.distil]))
        self._depths.append(depth)

    def add_norm(self, norm: Tensor) -> None:
        """Remember the norm of the gradient that the passes since the last one made, without a synchronisation."""
        self._norms.append(norm)
        self._last_passes.append(self._batches[-1])

    def not_finite(self) -> list[NotFinite]:
        """The passes whose loss is not finite. Waits for the device."""
        bad = (~torch.stack(self._losses).isfinite()).any(dim=1)
        return [batch for batch, is_bad in zip(self._batches, bad.tolist(), strict=True) if is_bad]

    def gradient_not_finite(self) -> list[NotFinite]:
        """The last pass of each update whose gradient is not finite, though its loss may be. Waits for the device."""
        if not self._norms:
            return []
        bad = (~torch.stack(self._norms).isfinite()).tolist()
        return [batch for batch, is_bad in zip(self._last_passes, bad, strict=True) if is_bad]

    def __len__(self) -> int:
        """How many forward passes there were."""
        return len(self._losses)

    def mean_losses(self) -> Tensor:
        """(3,): total, CTC, KL."""
        return torch.stack(self._losses).mean(0)

    def seconds(self) -> float:
        """Since the window began, or since `began` was last put forward."""
        return time.perf_counter() - self.began

    def figures(self) -> dict[str, float | None]:
        """What a log line says besides the losses. Waits for the device."""
        seconds = self.seconds()
        return {
            "gradient_norm": float(self._norms[-1]) if self._norms else None,
            "depth": sum(self._depths) / len(self._depths),
            "audio_seconds_per_second": self.audio_seconds / seconds,
            "share_waiting_for_data": self.waited / seconds,
        }
