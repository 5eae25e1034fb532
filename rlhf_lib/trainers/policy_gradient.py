"""The family of policy gradients: whatever the table of algorithms composes, on GRPO's loop."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import compute_kl_to_go, normalize_reward, spread_over_tokens
from rlhf_lib.algorithms import ADVANTAGES, RATIOS, ROWS, SURROGATES, chosen
from rlhf_lib.args import PolicyGradientArgs
from rlhf_lib.args.algorithms import Algorithm
from rlhf_lib.layout import chosen_at, with_last_of_prompt
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.objectives import calc_entropy_bonus, calc_kl_estimate_penalty, reduce_tokens, whiten
from rlhf_lib.rollouts import Rollout, TokenScores, get_logprobs
from rlhf_lib.trainers.grpo import GrpoTrainer
from rlhf_lib.trainers.refill import Drawn, refilled


class PolicyGradientTrainer(GrpoTrainer):
    """One algorithm of the table; a subclass may set `algorithm` to another composition."""

    args: PolicyGradientArgs
    algorithm: Algorithm | None = None
    """The composition; None: the row that the arguments name."""
    tokens_per_minibatch: float = 1.0
    """Mean number of the phase's tokens that are learned from."""

    def __init__(self, args: PolicyGradientArgs):
        self.algorithm = self.algorithm or args.composition
        super().__init__(args)

    def sample_and_reward(self) -> tuple[Rollout, Float[Tensor, " batch"]]:
        """As of every algorithm; groups without spread are drawn anew where args.refill_draws allows it."""
        super().sample_and_reward()
        args = self.args
        if args.refill_draws:
            first = Drawn(self.sampled, self.rewarded)
            drawn, figures = refilled(first, self.draw_more, self.completions_per_prompt, args.refill_draws)
            self.sampled, self.rewarded = drawn.sampled, drawn.rewarded
            self.log(**figures)
        rewards = self.rewarded.rewards
        if args.overlong_share:
            penalty = overlong_penalty(self.sampled.lengths, args.gen_len, args.overlong_share).to(rewards.device)
            self.log(overlong_penalty=penalty.mean())
            rewards = rewards - penalty
        return self.sampled, rewards

    def draw_more(self, draw: int) -> Drawn:
        """Another batch of prompts of this phase, sampled and rewarded."""
        args, group = self.args, self.completions_per_prompt
        phase = self.phase + draw * DRAWS_APART
        prompts = self.task.draw(args.batch_size // group, args.seed, phase).repeat(group)
        sampled = self.sample(prompts)
        return Drawn(sampled, self.reward(prompts, sampled))

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """The row's advantage of rewards, the same for every token; KL is paid before or behind, where the row says so."""
        algorithm, args, group = self.algorithm, self.args, self.completions_per_prompt
        advantage = chosen(algorithm.advantage, ADVANTAGES)
        kl = compute_kl_to_go(scores.logprobs, scores.ref_logprobs, sampled.mask)
        if algorithm.kl_in == "reward":
            rewards = rewards - args.kl_coef * kl[:, 0]
        advantages = self.sum_over_rewards(advantage) if algorithm.each_reward else advantage(rewards, group)
        if algorithm.whiten == "sequences":
            advantages = normalize_reward(advantages)
        tokens = spread_over_tokens(advantages, args.gen_len)
        if algorithm.kl_in == "token-reward":
            tokens = tokens - args.kl_coef * kl
        return whiten(tokens, mask=sampled.mask) if algorithm.whiten == "tokens" else tokens

    def sum_over_rewards(self, advantage: Callable) -> Float[Tensor, " batch"]:
        """The weighted sum of what `advantage` makes of each reward function; what abstained has 0."""
        rewarded = self.rewarded
        total = torch.zeros_like(rewarded.rewards)
        for weight, values in zip(rewarded.weights * len(rewarded.each), rewarded.each.values(), strict=False):
            given = torch.tensor([value is not None for value in values], device=total.device)
            numbers = total.new_tensor([0.0 if value is None else value for value in values])
            total += weight * advantage(numbers, self.completions_per_prompt) * given
        return total

    def rollout_phase(self) -> ReplayMemory:
        """As of every algorithm; the mask leaves out the completions that are not learned from."""
        memory = super().rollout_phase()
        keep = chosen(self.algorithm.rows, ROWS)(self.rewarded, self.completions_per_prompt)
        if self.args.mask_truncated and self.task.stop_at_eos:
            keep = keep * torch.tensor(self.sampled.ended, dtype=keep.dtype, device=keep.device)
        memory.mask = memory.mask * keep[:, None].to(memory.mask)
        self.tokens_per_minibatch = float(memory.mask.sum()) / self.args.num_minibatches
        self.log(learned_share=keep.mean())
        return memory

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """The row's surrogate + entropy bonus - KL penalty, to be maximised; the KL penalty only where it is in the loss."""
        args, algorithm, gen_len, mask = self.args, self.algorithm, self.args.gen_len, minibatch.mask
        shared = {"gen_len": gen_len, "mask": mask, "reduction": args.reduction}
        logits, _ = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=gen_len + 1
        )
        logprobs = get_logprobs(logits, with_last_of_prompt(minibatch.sample_ids, gen_len), temperature=args.temperature)
        ratio = chosen(algorithm.ratio, RATIOS)(logprobs - minibatch.logprobs, mask)
        surrogate = chosen(algorithm.surrogate, SURROGATES)
        each = surrogate(ratio, minibatch.advantages, logprobs, mask, args.clip_range)
        objective = reduce_tokens(each, gen_len, mask, args.reduction)
        objective = objective + calc_entropy_bonus(chosen_at(logits, gen_len) / args.temperature, args.ent_coef, **shared)
        if algorithm.kl_in == "loss" and args.kl_coef:
            estimator = {"estimator": args.kl_estimator}
            penalty = calc_kl_estimate_penalty(logprobs, minibatch.ref_logprobs, args.kl_coef, **estimator, **shared)
            self.log(kl_penalty=penalty)
            objective = objective - penalty
        self.log_update(logprobs, minibatch)
        return objective * self.share_of_tokens(mask) if args.weigh_by_tokens else objective

    def share_of_tokens(self, mask: Float[Tensor, "minibatch gen"]) -> Float[Tensor, ""]:
        """A minibatch's tokens over the mean of the phase's minibatches: with it their mean is that over the whole batch."""
        return mask.sum() / max(1.0, self.tokens_per_minibatch)


DRAWS_APART = 1_000_000
"""What the prompts of another draw have in the phase's place: more phases than there are."""


def overlong_penalty(lengths: Float[Tensor, " batch"], gen_len: int, share: float) -> Float[Tensor, " batch"]:
    """0 up to (1 - share) gen_len tokens, from there in a straight line up to 1 at gen_len (Yu et al. 2025, eq. 13)."""
    return ((lengths - (1 - share) * gen_len) / (share * gen_len)).clamp(min=0)
