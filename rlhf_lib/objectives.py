"""The terms of the objective that is MAXIMISED: add *_objective and *_bonus, subtract *_penalty and *_loss.

All functions are pure. `mask` [batch gen] is 1 on real tokens (up to and including the first end-of-sequence) and 0 after;
what stands in masked positions never matters, not even infinities. Every average takes a `reduction`:

    token      sum over real tokens / number of real tokens                (BNPO; DAPO when the batch is the global one)
    sequence   mean over sequences of each sequence's token mean           (GRPO as in DeepSeekMath)
    constant   sum over real tokens / (batch x gen_len)                    (Dr. GRPO; gen_len is the length cap)
"""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from rlhf_lib.args import InputError
from rlhf_lib.engine import expected_logprobs, sped_up_by

Reduction = Literal["token", "sequence", "constant"]
Mask = Float[Tensor, "batch gen"] | None
LARGEST_LOG_RATIO = 20.0
"""Nats over which a log-ratio is taken for this many: e^20 is far beyond any clip, and e^89 would be infinite in float32."""


def hide(values: Float[Tensor, "batch gen"], mask: Mask) -> Float[Tensor, "batch gen"]:
    """`values` with 0 in masked positions; safe for infinities and for gradients, which a product with the mask is not."""
    return values if mask is None else values.masked_fill(mask == 0, 0.0)


def reduce_tokens(
    values: Float[Tensor, "batch gen"], gen_len: int, mask: Mask = None, reduction: Reduction = "token"
) -> Float[Tensor, ""]:
    """One number from per-token values, by one of three averages.

        token      sum over real tokens / number of real tokens
        sequence   mean over sequences of each sequence's token mean
        constant   sum over real tokens / (batch x gen_len)

    `mask` [batch gen] is 1 on real tokens; None: all are. Masked positions never matter, in value or gradient, whatever
    stands there, infinities included: they are hidden, not multiplied by 0. Without real tokens a mean is 0. `gen_len` is
    the cap on generated tokens; without a mask it must be the number of columns.

    Raises:
        InputError: no mask and another number of columns than gen_len, or an unknown reduction.
    """
    if mask is None and values.shape[1] != gen_len:
        raise InputError(
            f"got {values.shape[1]} positions a sequence but gen_len={gen_len}; "
            "pass the generated positions only: logits[:, -gen_len - 1 : -1]"
        )
    batch, columns = values.shape
    values = hide(values, mask)
    counts = values.new_full((batch,), columns) if mask is None else mask.sum(dim=1)
    if reduction == "token":
        return values.sum() / counts.sum().clamp(min=1)
    if reduction == "sequence":
        return (values.sum(dim=1) / counts.clamp(min=1)).mean()
    if reduction == "constant":
        return values.sum() / (batch * gen_len)
    raise InputError(f"reduction={reduction!r} does not exist; use token, sequence or constant")


def calc_clipped_surrogate_objective(
    logprobs: Float[Tensor, "batch gen"],
    mb_logprobs: Float[Tensor, "batch gen"],
    mb_advantages: Float[Tensor, "batch gen"],
    clip_coef: float,
    gen_len: int,
    eps: float | None = None,
    *,
    clip_coef_high: float | None = None,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate, mean of min(rho A, clip(rho, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).

    rho = exp(logprobs - mb_logprobs) for each sampled token: the current policy over the one that sampled. With `eps` None the
    advantages count as they are; a number whitens them over the whole minibatch first: (A - mean) / (deviation + eps), with
    the unbiased deviation. The lower bound's low is clip_coef; the upper bound's high is clip_coef_high, or clip_coef too if
    that is None. What the memory holds, mb_logprobs and mb_advantages, is data: no gradient reaches it.
    """
    advantages = hide(mb_advantages.detach(), mask)
    if eps is not None:
        advantages = whiten(advantages, eps, mask)
    high = clip_coef if clip_coef_high is None else clip_coef_high
    ratio = hide(logprobs - mb_logprobs.detach(), mask).clamp(max=LARGEST_LOG_RATIO).exp()
    clipped = ratio.clamp(1 - clip_coef, 1 + high) * advantages
    return reduce_tokens((ratio * advantages).minimum(clipped), gen_len, mask, reduction)


def whiten(values: Float[Tensor, "batch gen"], eps: float = 1e-8, mask: Mask = None) -> Float[Tensor, "batch gen"]:
    """Mean 0 and (unbiased) deviation 1 over all real tokens; one token, or no spread, gives zeros. Masked positions: 0."""
    count = values.numel() if mask is None else mask.sum()
    if count < 2:
        return values.new_zeros(values.shape)
    values = hide(values, mask)
    centred = hide(values - values.sum() / count, mask)
    deviation = (centred.square().sum() / (count - 1)).sqrt()
    return centred / (deviation + eps)


def calc_value_function_loss(
    values: Float[Tensor, "batch gen"],
    mb_returns: Float[Tensor, "batch gen"],
    vf_coef: float,
    gen_len: int,
    *,
    mb_values: Float[Tensor, "batch gen"] | None = None,
    clip_value: float | None = None,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`vf_coef` times the mean of (values - returns)^2 / 2 (Schulman et al. 2017, eq. 9).

    `values` are the current ones at the positions where the generated tokens were chosen. What the memory holds, mb_returns
    and mb_values, is data: no gradient reaches it. With `clip_value` the larger of two losses counts for each token: at the
    value, and at the value held within clip_value of `mb_values`, the one at sampling time (as in the PPO authors' code).
    """
    values, returns = hide(values, mask), hide(mb_returns.detach(), mask)
    loss = (values - returns).square()
    if clip_value is not None:
        if mb_values is None:
            raise InputError(f"clip_value={clip_value} needs mb_values, the values at sampling time; pass mb_values=...")
        old = hide(mb_values.detach(), mask)
        held = old + (values - old).clamp(-clip_value, clip_value)
        loss = loss.maximum((held - returns).square())
    return vf_coef * 0.5 * reduce_tokens(loss, gen_len, mask, reduction)


def token_entropy(logits: Float[Tensor, "batch gen vocab"]) -> Float[Tensor, "batch gen"]:
    """Entropy of each next-token distribution over the vocabulary, -sum of p log p, in nats."""
    logprobs = logits.log_softmax(dim=-1)
    return -plogq(logprobs, logprobs)


def token_kl(
    logits: Float[Tensor, "batch gen vocab"], ref_logits: Float[Tensor, "batch gen vocab"]
) -> Float[Tensor, "batch gen"]:
    """Exact KL(policy || reference) of each next-token distribution, sum of p (log p - log p_ref), in nats."""
    logprobs, ref_logprobs = logits.log_softmax(dim=-1), ref_logits.log_softmax(dim=-1)
    return plogq(logprobs, logprobs) - plogq(logprobs, ref_logprobs)


@sped_up_by(expected_logprobs)
def plogq(
    logprobs: Float[Tensor, "batch gen vocab"], other_logprobs: Float[Tensor, "batch gen vocab"]
) -> Float[Tensor, "batch gen"]:
    """Expectation of log q under p for each position; tokens that both rule out (-inf logits) contribute 0."""
    impossible = (logprobs == -float("inf")) & (other_logprobs == -float("inf"))
    probs = logprobs.exp().masked_fill(impossible, 0.0)
    return (probs * other_logprobs.masked_fill(impossible, 0.0)).sum(dim=-1)


def calc_entropy_bonus(
    logits: Float[Tensor, "batch gen vocab"],
    ent_coef: float,
    gen_len: int,
    *,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`ent_coef` times the mean entropy of the policy per generated token, in nats.

    `logits` are those that chose the generated tokens. The entropy of a position is that of its whole next-token
    distribution, not the negative log-probability of the token that was sampled.
    """
    return ent_coef * reduce_tokens(token_entropy(logits), gen_len, mask, reduction)


def calc_kl_penalty(
    logits: Float[Tensor, "batch gen vocab"],
    ref_logits: Float[Tensor, "batch gen vocab"],
    kl_coef: float,
    gen_len: int,
    *,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`kl_coef` times the mean exact KL(policy || reference) per generated token, in nats (Ziegler et al. 2019, eq. 2).

    The sum over the vocabulary is weighted by the policy's probabilities. ref_logits is data: no gradient reaches it.
    """
    return kl_coef * reduce_tokens(token_kl(logits, ref_logits.detach()), gen_len, mask, reduction)


def estimate_kl_k1(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """log(policy / reference) of the sampled tokens; can be negative.

    On samples of the policy itself it is unbiased, and as a loss its expected gradient is zero.
    """
    return logprobs - ref_logprobs


def estimate_kl_k2(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """Half the squared log-ratio: biased, with little noise.

    On samples of the policy itself, its expected gradient as a loss is that of KL(policy || reference).
    """
    return (logprobs - ref_logprobs).square() / 2


def estimate_kl_k3(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """exp(q) - q - 1 with q = log(reference / policy), never negative (Schulman 2020; GRPO's choice).

    On samples of the policy itself it is unbiased, and as a loss its expected gradient is that of KL(reference || policy).
    Beyond LARGEST_LOG_RATIO q counts as no more than that: the exponential stays finite.
    """
    log_ratio = (ref_logprobs - logprobs).clamp(max=LARGEST_LOG_RATIO)
    return log_ratio.expm1() - log_ratio


KL_ESTIMATORS: dict[str, Callable] = {"k1": estimate_kl_k1, "k2": estimate_kl_k2, "k3": estimate_kl_k3}


def calc_kl_estimate_penalty(
    logprobs: Float[Tensor, "batch gen"],
    ref_logprobs: Float[Tensor, "batch gen"],
    kl_coef: float,
    gen_len: int,
    *,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`kl_coef` times the mean estimated KL per generated token, from the sampled tokens' log-probabilities, in nats.

    ref_logprobs is data: no gradient reaches it. Where the mask is 0 nothing counts, whatever stands there.
    """
    estimate = KL_ESTIMATORS[estimator](hide(logprobs, mask), hide(ref_logprobs.detach(), mask))
    return kl_coef * reduce_tokens(estimate, gen_len, mask, reduction)
