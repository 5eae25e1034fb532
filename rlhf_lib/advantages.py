"""From rewards to advantages. A reward is what a completion earned; an advantage says how much better than expected that was.

Values come as [batch seq], as the model gives them: the value of generated token t stands one position earlier, where the
token was chosen, so the generated values are values[:, prefix_len - 1 : -1]. A completion's reward is paid at its last real
token; past the end of a sequence the value is 0. Tokens that were put into a completion from outside are skipped.
"""

from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.args import InputError
from rlhf_lib.layout import skipping_holes
from rlhf_lib.objectives import Mask, hide

Deviation = Literal["unbiased", "population", "none"]


def normalize_reward(reward: Float[Tensor, " batch"], eps: float = 1e-5) -> Float[Tensor, " batch"]:
    """Rewards with mean 0 and (unbiased) deviation 1 over the batch: (reward - mean) / (deviation + eps).

    One element, or no spread, gives exact zeros: there is nothing to compare.
    """
    if (reward == reward[:1]).all():
        return torch.zeros_like(reward)
    return (reward - reward.mean()) / (reward.std() + eps)


def real_tokens(values: Float[Tensor, "batch seq"], prefix_len: int, mask: Mask) -> Float[Tensor, "batch gen"]:
    """The mask, or all ones over the generated positions when there is none."""
    if not 1 <= prefix_len < values.shape[1]:
        raise InputError(
            f"prefix_len={prefix_len} must be at least 1 and below the sequence length {values.shape[1]}; "
            "it counts the prompt's tokens, beginning-of-sequence included"
        )
    generated = values[:, prefix_len:]
    return torch.ones_like(generated) if mask is None else mask.to(values.dtype)


def last_real_token(mask: Float[Tensor, "batch gen"]) -> Float[Tensor, "batch gen"]:
    """1 at the last real token of each sequence, 0 elsewhere."""
    left = mask.flip(1).cumsum(dim=1).flip(1)  # real tokens from here on
    return mask * (left == 1)


@skipping_holes()
def compute_advantages(
    values: Float[Tensor, "batch seq"], rewards: Float[Tensor, " batch"], prefix_len: int, *, mask: Mask = None
) -> Float[Tensor, "batch gen"]:
    """One-step temporal difference: V_{t+1} - V_t, and at the last real token reward - V_t (Sutton & Barto 2018, eq. 6.5).

    The value V_t of the generated token at position t is values[:, t - 1], given where that token was chosen: the first
    generated token, at position prefix_len, has values[:, prefix_len - 1]. Positions after the last real token get 0.
    """
    mask = real_tokens(values, prefix_len, mask)
    last = last_real_token(mask)
    next_values = torch.where(last == 1, rewards[:, None], values[:, prefix_len:])
    return hide(next_values - values[:, prefix_len - 1 : -1], mask)


def compute_token_rewards(
    scores: Float[Tensor, " batch"],
    logprobs: Float[Tensor, "batch gen"],
    ref_logprobs: Float[Tensor, "batch gen"],
    kl_coef: float,
    *,
    mask: Mask = None,
) -> Float[Tensor, "batch gen"]:
    """ReFT's reward of every token: -kl_coef (logprob - ref_logprob), and at the last real token the score on top of that.

    The difference of log-probabilities is the k1 estimate of KL(policy || reference) at one token (Trung et al. 2024,
    section 3.2; Stiennon et al. 2020). No gradient passes through rewards. Positions after the last real token get 0, whatever
    stands there, infinities included.
    """
    mask = torch.ones_like(logprobs) if mask is None else mask.to(logprobs.dtype)
    penalty = hide(logprobs.detach() - ref_logprobs.detach(), mask)
    return last_real_token(mask) * scores[:, None] - kl_coef * penalty


@skipping_holes()
def compute_gae(
    values: Float[Tensor, "batch seq"],
    rewards: Float[Tensor, " batch"] | Float[Tensor, "batch gen"],
    prefix_len: int,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    dones: Float[Tensor, "batch gen"] | None = None,
    group_ids: Int[Tensor, " batch"] | None = None,
    mask: Mask = None,
) -> Float[Tensor, "batch gen"]:
    """Generalised advantage estimation, A_t = delta_t + gamma lambda A_{t+1} (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t, and V_t is values[:, t - 1], as in `compute_advantages`. `rewards` is one number a
    completion, paid at its last real token, or one a token. `dones` is 1 on tokens after which an episode is over, so that
    neither V nor A reaches back across them; the last real token always is one. Positions after it get 0, whatever values and
    rewards stand there, infinities included. With gae_lambda 0 and gamma 1 this is `compute_advantages`. `group_ids` names
    each completion's prompt: advantages are then centred over the group's real tokens.
    """
    mask = real_tokens(values, prefix_len, mask)
    last = last_real_token(mask)
    ends = last if dones is None else torch.maximum(last, dones.to(mask.dtype))
    token_rewards = last * rewards[:, None] if rewards.ndim == 1 else hide(rewards, mask)
    generated = hide(values[:, prefix_len - 1 : -1], mask)
    next_values = torch.where(ends == 1, 0.0, hide(values[:, prefix_len:], mask))
    deltas = token_rewards + gamma * next_values - generated
    advantages = torch.zeros_like(deltas)
    running = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * gae_lambda * (1 - ends[:, t]) * running
        advantages[:, t] = running
    advantages = hide(advantages, mask)
    return advantages if group_ids is None else centre_per_group(advantages, group_ids, mask)


def centre_per_group(
    advantages: Float[Tensor, "batch gen"], group_ids: Int[Tensor, " batch"], mask: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """Advantages minus their mean over all real tokens of the same group."""
    _, index = group_ids.unique(return_inverse=True)
    sums = advantages.new_zeros(int(index.max()) + 1)
    totals = sums.index_add(0, index, hide(advantages, mask).sum(dim=1))
    counts = sums.index_add(0, index, mask.sum(dim=1))
    return hide(advantages - (totals / counts.clamp(min=1))[index, None], mask)


def split_groups(rewards: Float[Tensor, " batch"], group_size: int) -> Float[Tensor, "groups group"]:
    """Rewards of consecutive completions, one row a prompt."""
    if group_size < 2 or len(rewards) % group_size:
        raise InputError(
            f"group_size={group_size} with {len(rewards)} rewards: a group needs at least 2 completions and the batch must "
            "be a multiple of it; choose a divisor of the batch"
        )
    return rearrange(rewards, "(groups group) -> groups group", group=group_size)


def compute_group_advantages(
    rewards: Float[Tensor, " batch"], group_size: int, *, std: Deviation = "unbiased", eps: float = 1e-4
) -> Float[Tensor, " batch"]:
    """Group-relative advantage (r - mean) / (std + eps) within each prompt's completions (Shao et al. 2024, section 4.1.2).

    Completions of one prompt are consecutive. `std` is the deviation with n - 1 in its denominator (unbiased), with n
    (population), or none, which only centres (Liu et al. 2025). A group without spread gives exact zeros: it has nothing to
    teach.
    """
    groups = split_groups(rewards, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if std != "none":
        advantages = advantages / (groups.std(dim=1, keepdim=True, unbiased=is_unbiased(std)) + eps)
    without_spread = (groups == groups[:, :1]).all(dim=1, keepdim=True)  # their mean may be off by rounding
    return rearrange(advantages.masked_fill(without_spread, 0.0), "groups group -> (groups group)")


def is_unbiased(std: Deviation) -> bool:
    """Whether a deviation is the unbiased one (n - 1), else the population's (n)."""
    if std not in ("unbiased", "population"):
        raise InputError(f"std={std!r} is not a deviation; use unbiased, population or none")
    return std == "unbiased"


def normalize_rows(
    rows: Float[Tensor, "rows columns"], mask: Float[Tensor, "rows columns"], std: Deviation, eps: float
) -> Float[Tensor, "rows columns"]:
    """Each row centred over its masked-in entries and divided by their deviation plus eps; a row without spread is zero."""
    counts = mask.sum(dim=1, keepdim=True)
    top = rows.masked_fill(mask == 0, -float("inf")).amax(dim=1, keepdim=True)
    constant = ((rows == top) | (mask == 0)).all(dim=1, keepdim=True)
    rows = hide(rows, mask)
    centred = hide(rows - rows.sum(dim=1, keepdim=True) / counts.clamp(min=1), mask).masked_fill(constant, 0.0)
    if std == "none":
        return centred
    freedom = counts - 1 if is_unbiased(std) else counts
    return centred / ((centred.square().sum(dim=1, keepdim=True) / freedom.clamp(min=1)).sqrt() + eps)


def compute_process_advantages(
    step_rewards: Float[Tensor, "batch steps"],
    step_ends: Int[Tensor, "batch steps"],
    gen_len: int,
    group_size: int,
    *,
    std: Deviation = "unbiased",
    eps: float = 1e-4,
) -> Float[Tensor, "batch gen"]:
    """Process supervision (Shao et al. 2024, section 4.1.3): A_t sums the normalised rewards of steps that end at or after t.

    `step_ends` holds the generated position (0 first) of each step's last token, and -1 where a completion has fewer steps.
    Each step's reward is normalised over all steps of its group.
    """
    present = (step_ends >= 0).to(step_rewards.dtype)
    groups = rearrange(step_rewards, "(groups group) steps -> groups (group steps)", group=group_size)
    in_group = rearrange(present, "(groups group) steps -> groups (group steps)", group=group_size)
    normalised = normalize_rows(groups, in_group, std, eps).reshape(step_rewards.shape)
    positions = torch.arange(gen_len, device=step_ends.device)
    still_to_end = (step_ends[:, :, None] >= positions).to(step_rewards.dtype)
    return (normalised[:, :, None] * still_to_end).sum(dim=1)


def compute_leave_one_out(rewards: Float[Tensor, " batch"], group_size: int) -> Float[Tensor, " batch"]:
    """RLOO: each reward minus the mean of the other completions of its prompt (Ahmadian et al. 2024)."""
    groups = split_groups(rewards, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return rearrange(groups - others, "groups group -> (groups group)")


def compute_over_mean(rewards: Float[Tensor, " batch"], group_size: int) -> Float[Tensor, " batch"]:
    """MaxRL: (r - mean) / mean within each group; zeros where the mean is not above 0 (Tajwar et al. 2026, section 4).

    With rewards of 0 and 1 its expectation is the gradient of a truncated expansion of log P(right), in place of P(right).
    """
    groups = split_groups(rewards, group_size)
    mean = groups.mean(dim=1, keepdim=True)
    return rearrange(torch.where(mean > 0, groups / mean.clamp(min=1e-12) - 1, 0.0), "groups group -> (groups group)")


def compute_kl_to_go(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"], mask: Mask = None
) -> Float[Tensor, "batch gen"]:
    """The k1 estimate of KL(policy || reference) of each token and all later ones; what comes before a token is not its doing.

    At the first token it is that of the whole sequence. Without gradient.
    """
    each = hide(logprobs.detach() - ref_logprobs.detach(), mask)
    return hide(each.flip(1).cumsum(dim=1).flip(1), mask)


def spread_over_tokens(advantages: Float[Tensor, " batch"], gen_len: int) -> Float[Tensor, "batch gen"]:
    """The same advantage for every token of a completion."""
    return repeat(advantages, "batch -> batch gen", gen=gen_len)
