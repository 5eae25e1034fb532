# Rendered by `rlhf course render`; fingerprint a690e12f37b0
"""Solutions of chapters/4_grpo.md; run them with `python -m solutions.grpo`.

GRPO on word problems: reasoning emerges while one watches.
"""

from dataclasses import replace
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.advantages import Deviation, is_unbiased, normalize_rows, split_groups
from rlhf_lib.args import GrpoArgs
from rlhf_lib.layout import chosen_at, with_last_of_prompt
from rlhf_lib.memory import ReplayMinibatch
from rlhf_lib.objectives import (
    KL_ESTIMATORS,
    LARGEST_LOG_RATIO,
    Mask,
    Reduction,
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    hide,
    reduce_tokens,
)
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rewards import reward_fn_char_count
from rlhf_lib.rollouts import Rollout, TokenScores, get_logprobs
from rlhf_lib.trainers.ppo import RLHFTrainer


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


def spread_over_tokens(advantages: Float[Tensor, " batch"], gen_len: int) -> Float[Tensor, "batch gen"]:
    """The same advantage for every token of a completion."""
    return repeat(advantages, "batch -> batch gen", gen=gen_len)


def compute_leave_one_out(rewards: Float[Tensor, " batch"], group_size: int) -> Float[Tensor, " batch"]:
    """RLOO: each reward minus the mean of the other completions of its prompt (Ahmadian et al. 2024)."""
    groups = split_groups(rewards, group_size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)
    return rearrange(groups - others, "groups group -> (groups group)")


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


def group_metrics(rewards: Float[Tensor, " batch"], group_size: int, best: float | None = None) -> dict[str, float]:
    """Shares of all groups: groups_without_spread, and the two kinds of those, groups_all_right and groups_all_wrong.

    A flat group is all right if its reward is at least `best` (None: the highest of the phase) and above 0, else all wrong.
    """
    groups = rewards.reshape(-1, group_size)
    flat = (groups == groups[:, :1]).all(dim=1)
    top = rewards.max() if best is None else best
    all_right = flat & (groups[:, 0] >= top) & (groups[:, 0] > 0)
    return {
        "groups_without_spread": float(flat.float().mean()),
        "groups_all_right": float(all_right.float().mean()),
        "groups_all_wrong": float((flat & ~all_right).float().mean()),
    }


class GrpoTrainer(RLHFTrainer):
    """A fixed prefix is one group, a task of many prompts has `group_size` completions each; there is no value head."""

    name = "grpo"
    args: GrpoArgs
    use_value_head = False
    needs_ref_logits = False

    @property
    def completions_per_prompt(self) -> int:
        """The group size."""
        return self.args.resolved_group_size

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """Rewards compared within their groups, with args.advantage_std; the same advantage for every token of a completion."""
        advantages = compute_group_advantages(rewards, self.completions_per_prompt, std=self.args.advantage_std)
        return spread_over_tokens(advantages, self.args.gen_len)

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Clipped surrogate + entropy bonus - estimated KL penalty, to be maximised; advantages are not whitened again."""
        args, gen_len = self.args, self.args.gen_len
        shared = {"gen_len": gen_len, "mask": minibatch.mask, "reduction": args.reduction}
        logits, _ = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=gen_len + 1
        )
        logprobs = get_logprobs(logits, with_last_of_prompt(minibatch.sample_ids, gen_len), temperature=args.temperature)
        clip = {"clip_coef": args.clip_coef, "clip_coef_high": args.clip_coef_high, "eps": None}
        surrogate = calc_clipped_surrogate_objective(logprobs, minibatch.logprobs, minibatch.advantages, **clip, **shared)
        entropy_bonus = calc_entropy_bonus(chosen_at(logits, gen_len) / args.temperature, args.ent_coef, **shared)
        kl_penalty = calc_kl_estimate_penalty(
            logprobs, minibatch.ref_logprobs, args.kl_coef, estimator=args.kl_estimator, **shared
        )
        self.log_update(logprobs, minibatch)
        self.log(kl_penalty=kl_penalty)
        return surrogate + entropy_bonus - kl_penalty


def main() -> None:
    """Train the bundled model on word problems, and show accuracy before and after.

    Options are those of GrpoArgs (--help); with --task None the prompt is a fixed prefix and the reward counts full stops.
    """
    args = script_args(GrpoArgs, "grpo", recipe(GrpoArgs, "grpo-pocket"))
    if args.task is None:
        args = replace(args, reward_fn=reward_fn_char_count)
    GrpoTrainer(args).train()


if __name__ == "__main__":
    main()
