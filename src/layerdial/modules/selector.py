"""Networks that select blocks: the number that may run is given, the choice of blocks is learned.

Shapes: B batch, T frames, D width, N blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InputSelector(nn.Module):
    """A scorer of the blocks by the front end's output: mean over time, one hidden layer, a score a block.

    After I3D's global gate predictor (Peng et al., arXiv 2303.07624) and input-conditioned layer dropping (Hannan et
    al., arXiv 2507.07954). The budget is an input too, so the ranking of the blocks may differ between budgets.
    """

    def __init__(self, width: int, n_blocks: int, hidden: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.budget = nn.Embedding(n_blocks, hidden)
        self.score = nn.Linear(hidden, n_blocks)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor, depth: int) -> Tensor:
        """Return gates (B, N); see `top_gates`."""
        real_BT1 = mask_BT.unsqueeze(2).to(x_BTD.dtype)
        mean_BD = (x_BTD * real_BT1).sum(1) / real_BT1.sum(1).clamp(min=1.0)
        hidden_BH = torch.tanh(self.expand(self.norm(mean_BD)) + self.budget.weight[depth - 1])
        return top_gates(self.score(hidden_BH).float(), depth, explore=self.training)


class LearnedScores(nn.Module):
    """A score a block, the same for every input, learned with the weights (after arXiv 2407.18930, Simple-Top-k)."""

    def __init__(self, n_blocks: int) -> None:
        super().__init__()
        self.score_N = nn.Parameter(torch.zeros(n_blocks))

    def forward(self, x_BTD: Tensor, mask_BT: Tensor, depth: int) -> Tensor:
        """Return gates (1, N), the same for every utterance; see `top_gates`."""
        return top_gates(self.score_N.unsqueeze(0), depth, explore=self.training)


def top_gates(scores_BN: Tensor, depth: int, explore: bool) -> Tensor:
    """Return 1 for the `depth` blocks of the highest score, 0 for the rest: (B, N).

    The gradient is that of a softmax (straight-through). It reaches the scores through the blocks that run, since the
    others are not computed. To try other blocks, training adds Gumbel noise to the scores: Gumbel top-k draws without
    replacement (Kool et al., arXiv 1903.06059).
    """
    if explore:
        uniform = torch.rand(scores_BN.shape).clamp(1e-6, 1 - 1e-6)  # the CPU's generator: the same on every device
        scores_BN = scores_BN - torch.log(-torch.log(uniform)).to(scores_BN.device)
    chosen_BN = torch.zeros_like(scores_BN).scatter(1, scores_BN.topk(depth, dim=1).indices, 1.0)
    if not scores_BN.requires_grad:
        return chosen_BN
    soft_BN = scores_BN.softmax(dim=1)
    return chosen_BN + soft_BN - soft_BN.detach()
