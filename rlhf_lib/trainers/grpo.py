"""Group relative policy optimisation (Shao et al. 2024): PPO without the critic.

What differs from PPO: each prompt has a group of completions, whose mean reward takes the critic's place as baseline; and
KL enters the loss as an estimate from the sampled tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import compute_group_advantages, spread_over_tokens
from rlhf_lib.args import GrpoArgs
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.objectives import calc_clipped_surrogate_objective, calc_entropy_bonus, calc_kl_estimate_penalty
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.runs import group_metrics
from rlhf_lib.trainers.ppo import LoraTrainer


class GrpoTrainer(LoraTrainer):
    """GRPO on low-rank adapters; a fixed prefix is one group, a task of many prompts has `group_size` completions each."""

    name = "grpo"
    args: GrpoArgs
    use_value_head = False

    @property
    def completions_per_prompt(self) -> int:
        """The group size."""
        return self.args.resolved_group_size

    def rollout_phase(self) -> ReplayMemory:
        """Sample groups of completions and compare their rewards within each group."""
        args = self.args
        sampled, rewards = self.sample_and_score()
        with torch.no_grad(), self.metrics.timed("score"):
            inputs = {"attention_mask": sampled.attention_mask, "logits_to_keep": args.gen_len + 1}
            generated = sampled.ids[:, -args.gen_len - 1 :]
            logits, _ = self.model.forward_with_value_head(sampled.ids, **inputs)
            logprobs = get_logprobs(logits, generated, temperature=args.temperature)
            ref_logits = self.ref_model(sampled.ids, **inputs)
            ref_logprobs = get_logprobs(ref_logits, generated, temperature=args.temperature)
        advantages = compute_group_advantages(rewards, self.completions_per_prompt, std=args.advantage_std)
        self.log_scores(sampled, logits, ref_logits, logprobs)
        self.log(**group_metrics(rewards, self.completions_per_prompt))
        return ReplayMemory(
            args,
            sampled.ids,
            logprobs,
            spread_over_tokens(advantages, args.gen_len),
            None,
            None,
            mask=sampled.mask,
            attention_mask=sampled.attention_mask,
            ref_logprobs=ref_logprobs,
        )

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Clipped surrogate + entropy bonus - estimated KL penalty, to be maximised; advantages are not whitened again."""
        args, mask = self.args, minibatch.mask
        shared = {"gen_len": args.gen_len, "mask": mask, "reduction": args.reduction}
        logits, _ = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=args.gen_len + 1
        )
        logprobs = get_logprobs(logits, minibatch.sample_ids[:, -args.gen_len - 1 :], temperature=args.temperature)
        surrogate = calc_clipped_surrogate_objective(
            logprobs, minibatch.logprobs, minibatch.advantages, args.clip_coef, clip_coef_high=args.clip_coef_high, **shared
        )
        policy_logits = logits[:, :-1] / args.temperature
        entropy_bonus = calc_entropy_bonus(policy_logits, args.ent_coef, **shared)
        kl_penalty = calc_kl_estimate_penalty(
            logprobs, minibatch.ref_logprobs, args.kl_coef, estimator=args.kl_estimator, **shared
        )
        self.log_update(logprobs, minibatch)
        self.log(kl_penalty=kl_penalty)
        return surrogate + entropy_bonus - kl_penalty
