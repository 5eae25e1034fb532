"""Online self-training: sample, keep the right completions, raise their log-probability. REINFORCE with rewards of 0 and 1.

It is what is left of PPO without a critic, a clip, and any lesson from what went wrong (ReFT's baseline, Trung et al. 2024).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import spread_over_tokens
from rlhf_lib.args import SelfTrainingArgs
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.objectives import reduce_tokens
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.trainers.ppo import LoraTrainer


class SelfTrainer(LoraTrainer):
    """Supervised updates on the policy's own right completions, sampled anew in every phase; on adapters."""

    name = "self-training"
    args: SelfTrainingArgs
    use_value_head = False

    def rollout_phase(self) -> ReplayMemory:
        """Sample completions; the memory's advantages are 1 on the right ones and 0 on the others."""
        args = self.args
        sampled, _ = self.sample_and_score()
        with torch.no_grad(), self.metrics.timed("score"):
            inputs = {"attention_mask": sampled.attention_mask, "logits_to_keep": args.gen_len + 1}
            logits, _ = self.model.forward_with_value_head(sampled.ids, **inputs)
            ref_logits = self.ref_model(sampled.ids, **inputs)
        logprobs = get_logprobs(logits, sampled.ids[:, -args.gen_len - 1 :], temperature=args.temperature)
        keep = torch.tensor(self.correct, dtype=logprobs.dtype, device=logprobs.device)
        self.log_scores(sampled, logits, ref_logits, logprobs)
        return ReplayMemory(
            args,
            sampled.ids,
            logprobs,
            spread_over_tokens(keep, args.gen_len),
            None,
            None,
            mask=sampled.mask,
            attention_mask=sampled.attention_mask,
        )

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Mean log-probability of the tokens of right completions, to be maximised; 0 where a minibatch has none.

        The advantages of right completions are 1, or the weights that correct for another sampler.
        """
        args, advantages = self.args, minibatch.advantages
        logits, _ = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=args.gen_len + 1
        )
        logprobs = get_logprobs(logits, minibatch.sample_ids[:, -args.gen_len - 1 :], temperature=args.temperature)
        self.log_update(logprobs, minibatch)
        right = minibatch.mask * (advantages > 0)
        return reduce_tokens(logprobs * advantages, args.gen_len, right, args.reduction)
