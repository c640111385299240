"""An objective: CTC with a confidence penalty (Pereyra et al., arXiv 1701.06548), after all blocks and after half."""

from pydantic import Field
from torch import Tensor

from layerdial import register_objective
from layerdial.models.network import EncoderOutput
from layerdial.modules.losses import LossTerms
from layerdial.modules.subsampling import frame_mask
from layerdial.training.objective import Objective, Pass


@register_objective("confidence_penalty")
class ConfidencePenalty(Objective):
    """The loss of an output is its CTC loss less `weight` times the mean entropy of its frames."""

    weight: float = Field(default=0.1, ge=0)

    def exits_at(self, depth: int) -> tuple[int, ...]:
        return (depth // 2,) if depth > 1 else ()

    def loss(self, output: EncoderOutput, passed: Pass) -> LossTerms:
        last, *exits = [self.of_output(logp_BTV, passed) for logp_BTV in (output.log_probs_BTV, *output.exits_BTV)]
        ctc = passed.ctc(output.log_probs_BTV).detach()
        return LossTerms(total=sum(exits, last) / (1 + len(exits)), ctc=ctc, distil=0 * ctc)

    def of_output(self, logp_BTV: Tensor, passed: Pass) -> Tensor:
        valid_BT = frame_mask(passed.frames_B.to(logp_BTV.device), logp_BTV.shape[1])
        entropy_BT = -(logp_BTV.exp() * logp_BTV).sum(dim=-1)
        return passed.ctc(logp_BTV) - self.weight * entropy_BT[valid_BT].mean()
