"""Correction for a sampler that is not the trainer: truncated importance sampling.

Completions are drawn from the sampler's distribution mu, but the gradient is taken of the trainer's policy pi. Same weights do
not make them equal: kernels, number formats, and top_k or top_p see to that. Weighting each token by pi / mu repairs the mean
of the gradient; capping the weight keeps rare tokens from dominating it, for a small bias (Yao et al. 2025, "Your Efficient RL
Framework Secretly Brings You Off-Policy RL Training"; Espeholt et al. 2018 cap likewise).

The weight does not pass through PPO's clip: that ratio is of the current policy to the policy at the phase's start, both the
trainer's. A weight is never negative, so weighting the advantage A is weighting the token's clipped surrogate:
w min(rho A, clip(rho) A) = min(rho w A, clip(rho) w A).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.args import SamplerArgs
from rlhf_lib.args.reinforcement import Correction
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.objectives import LARGEST_LOG_RATIO, Mask, hide, reduce_tokens


@torch.no_grad()
def sampler_weights(
    logprobs: Float[Tensor, "batch gen"],
    sampler_logprobs: Float[Tensor, "batch gen"],
    cap: float,
    mask: Mask,
    kind: Correction = "token",
) -> Float[Tensor, "batch gen"]:
    """min(pi / mu, cap) of every sampled token, 0 in masked positions; data, without gradient.

    `logprobs` are the trainer's at the phase's start, log pi; `sampler_logprobs` are of what was really sampled from, log mu.
    Without the cap the expected weight is 1, so a mean weight far from 1 tells that the cap, or a fault, is at work. `kind`:

        token            each token's own ratio, which forgets what came before it: biased, but never far from 1
        sequence         the product over the sequence, the same for all of its tokens: unbiased but for the cap
        token-mask       as token, but a ratio over the cap becomes 0, not the cap: what is too far off teaches nothing
        sequence-mask    as sequence, likewise
    """
    log_ratio = hide(logprobs - sampler_logprobs, mask)
    if kind.startswith("sequence"):
        log_ratio = log_ratio.sum(dim=1, keepdim=True).expand_as(log_ratio)
    ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
    weights = ratio.masked_fill(ratio > cap, 0.0) if kind.endswith("-mask") else ratio.clamp(max=cap)
    return hide(weights, mask)


def corrected(
    memory: ReplayMemory, sampler_logprobs: Float[Tensor, "batch gen"], mask: Mask, args: SamplerArgs
) -> tuple["CorrectedMemory", dict[str, Tensor]]:
    """The memory with advantages weighted as args.sampler_correction and args.sampler_cap say.

    The figures are the mean weight of the tokens that were sampled (`mask`), and the share whose ratio is over the cap.
    """
    inputs = (memory.logprobs, sampler_logprobs)
    weights = sampler_weights(*inputs, args.sampler_cap, mask, args.sampler_correction)
    capped = 0.0 if args.sampler_correction.endswith("-mask") else args.sampler_cap
    shares = {"sampler_weight": weights, "sampler_capped": (weights == capped).float()}
    figures = {name: reduce_tokens(share, memory.gen_len, mask) for name, share in shares.items()}
    return CorrectedMemory(memory, weights), figures


class CorrectedMemory(ReplayMemory):
    """A memory with weighted advantages; everything else, the returns of a critic included, is the original's.

    The critic's target stays the plain return: it is a regression, whose data need no weight to be right about each other.
    RLHFTrainer whitens advantages over the minibatch after the weighting, which rescales and recentres them; GRPO does not.
    """

    def __init__(self, memory: ReplayMemory, weights: Float[Tensor, "batch gen"]):
        super().__init__(
            memory.args,
            memory.sample_ids,
            memory.logprobs,
            memory.advantages * weights,
            memory.values,
            memory.ref_logits,
            mask=memory.mask,
            attention_mask=memory.attention_mask,
            ref_logprobs=memory.ref_logprobs,
        )
        self.uncorrected_returns = memory.returns

    @property
    def returns(self) -> Float[Tensor, "batch gen"] | None:
        """What the value function is to predict: advantage before weighting plus generated value."""
        return self.uncorrected_returns
