"""Group relative policy optimisation (Shao et al. 2024): PPO without the critic.

What differs from PPO: each prompt has a group of completions, whose mean reward takes the critic's place as baseline; and
KL enters the loss as an estimate from the sampled tokens.
"""

from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import compute_group_advantages, spread_over_tokens
from rlhf_lib.args import GrpoArgs
from rlhf_lib.layout import chosen_at, with_last_of_prompt
from rlhf_lib.memory import ReplayMinibatch
from rlhf_lib.objectives import calc_clipped_surrogate_objective, calc_entropy_bonus, calc_kl_estimate_penalty
from rlhf_lib.rollouts import Rollout, TokenScores, get_logprobs
from rlhf_lib.trainers.ppo import RLHFTrainer


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
