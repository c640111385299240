"""DLD with a teacher whose posteriors come some frames later: the teacher sees the future, the student does not.

    python experiments/streaming/delayed_teacher.py FRAMES RECIPE.yaml [--set KEY=VALUE]

trains a recipe as `layerdial train` does, but the student's frame t learns from the teacher's frame t - FRAMES, and the
first FRAMES of them from the teacher's first.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from layerdial.modules.losses import distillation
from layerdial.training.objective import Pass


def delay_teachers(frames: int) -> None:
    """Let every distillation of this process have its teacher delayed."""

    def delayed(passed: Pass, teacher_BTV: Tensor, logp_BTV: Tensor) -> Tensor:
        count = min(frames, teacher_BTV.shape[1])
        before_BTV = teacher_BTV[:, :1].expand(-1, count, -1)
        late_BTV = torch.cat([before_BTV, teacher_BTV[:, : teacher_BTV.shape[1] - count]], dim=1)
        return distillation(late_BTV, logp_BTV, passed.frames_B)

    Pass.distillation = delayed  # type: ignore[method-assign]


if __name__ == "__main__":
    from layerdial.cli.app import main

    delay_teachers(int(sys.argv.pop(1)))
    sys.argv.insert(1, "train")
    main()
