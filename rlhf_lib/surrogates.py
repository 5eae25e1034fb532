"""What a policy gradient maximises for each token: the importance ratio, and what becomes of it, advantage and log-probability.

A ratio is of the current policy to the one that sampled, 1 as long as nothing was learned. All are pure, [batch gen] to
[batch gen]; averages over tokens are objectives.reduce_tokens'. At ratios of 1 every surrogate has the same gradient: the
advantage times that of the log-probability.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.objectives import LARGEST_LOG_RATIO, Mask, hide

Tokens = Float[Tensor, "batch gen"]
Clip = tuple[float, float]
GATE = (1.0, 1.05)
"""SAPO's temperatures of the gate, for advantages above 0 and for the others (Gao et al. 2025, section 5)."""
GAMMA = ((2.0, 3.0), (3.0, 2.0))
"""VESPO's shape k and rate lambda of the gamma density, for advantages from 0 up and for the others, as in TRL."""
LEAST_WEIGHT = 1e-8
"""Least ratio of a sequence that the gamma density is taken of, as in VESPO's own code."""


def token_ratio(log_ratio: Tokens, mask: Mask) -> Tokens:
    """exp(log_ratio) of each token: PPO's importance (Schulman et al. 2017). Log-ratios are held below LARGEST_LOG_RATIO."""
    return hide(log_ratio, mask).clamp(max=LARGEST_LOG_RATIO).exp()


def sequence_ratio(log_ratio: Tokens, mask: Mask) -> Tokens:
    """The geometric mean of a sequence's token ratios, the same for each of its tokens (Zheng et al. 2025, eq. 7)."""
    log_ratio = hide(log_ratio, mask)
    counts = log_ratio.new_full((len(log_ratio), 1), log_ratio.shape[1]) if mask is None else mask.sum(dim=1, keepdim=True)
    mean = log_ratio.sum(dim=1, keepdim=True) / counts.clamp(min=1)
    return mean.clamp(max=LARGEST_LOG_RATIO).exp().expand_as(log_ratio)


def log_likelihood(ratio: Tokens, advantages: Tokens, logprobs: Tokens, mask: Mask, clip: Clip) -> Tokens:
    """advantage x log-probability: REINFORCE (Williams 1992). The ratio plays no part."""
    return advantages * hide(logprobs, mask)


def clipped(ratio: Tokens, advantages: Tokens, logprobs: Tokens, mask: Mask, clip: Clip) -> Tokens:
    """min(ratio A, clip(ratio) A): no gain from moving the ratio past the clip range (Schulman et al. 2017, eq. 7)."""
    return (ratio * advantages).minimum(ratio.clamp(*clip) * advantages)


def clipped_weight(ratio: Tokens, advantages: Tokens, logprobs: Tokens, mask: Mask, clip: Clip) -> Tokens:
    """min(ratio, high) A log-probability, the weight without gradient, so that no token loses its own: CISPO (MiniMax 2025)."""
    return ratio.detach().clamp(max=clip[1]) * log_likelihood(ratio, advantages, logprobs, mask, clip)


def soft_gate(ratio: Tokens, advantages: Tokens, logprobs: Tokens, mask: Mask, clip: Clip) -> Tokens:
    """4 / tau sigmoid(tau (ratio - 1)) A: SAPO (Gao et al. 2025, eq. 5); its gradient fades, to both sides of ratio 1."""
    tau = torch.where(advantages > 0, *GATE)
    return 4 / tau * (tau * (ratio - 1)).sigmoid() * advantages


def gamma_weight(ratio: Tokens, advantages: Tokens, logprobs: Tokens, mask: Mask, clip: Clip) -> Tokens:
    """phi(w) A log-probability with w the product of a sequence's ratios and phi(w) = w^k e^(lambda (1 - w)), without gradient.

    VESPO (Shen et al. 2026). `ratio` is each token's.
    """
    log_w = hide(ratio.detach().log().clamp(min=-LARGEST_LOG_RATIO), mask).sum(dim=1, keepdim=True)
    log_w = log_w.clamp(torch.tensor(LEAST_WEIGHT, device=ratio.device).log().item(), LARGEST_LOG_RATIO)
    (k_up, rate_up), (k_down, rate_down) = GAMMA
    is_up = advantages >= 0
    k, rate = torch.where(is_up, k_up, k_down), torch.where(is_up, rate_up, rate_down)
    return (rate + k * log_w - rate * log_w.exp()).exp() * log_likelihood(ratio, advantages, logprobs, mask, clip)
