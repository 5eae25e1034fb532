"""ReFT (Trung et al. 2024): supervised warm-up, then PPO with the right answer as reward and KL paid token by token."""

import random
import time

from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import compute_gae, compute_token_rewards
from rlhf_lib.args import ReftArgs
from rlhf_lib.finite import require_finite
from rlhf_lib.models.loading import padding_id
from rlhf_lib.optim import get_supervised_optimizer
from rlhf_lib.rewards.shaping import reft_reward
from rlhf_lib.rollouts import Rollout, TokenScores
from rlhf_lib.tasks import Task
from rlhf_lib.trainers.ppo import RLHFTrainer
from rlhf_lib.trainers.sft import encode_solutions, minibatches, supervised_step


class ReftTrainer(RLHFTrainer):
    """The value head shares the trunk, and the warmed-up model is the reference policy."""

    name = "reft"
    args: ReftArgs
    is_prepared = True

    def prepare_policy(self) -> None:
        """Supervised epochs on worked solutions at a constant learning rate, the same for the same seed."""
        args, model, started = self.args, self.model, time.perf_counter()
        if not args.warmup_epochs:
            return
        examples, _ = encode_solutions(model, self.task.worked(args.warmup_problems), model.cfg.n_ctx, args.prepend_bos)
        optimizer = get_supervised_optimizer(
            model.get_base_model_trainable_params(), args.warmup_lr, args.weight_decay, args.optimizer
        )
        seeds = [random.Random(f"{args.seed}-{epoch}").getrandbits(32) for epoch in range(args.warmup_epochs)]
        pad = padding_id(model.tokenizer)
        batches = (batch for seed in seeds for batch in minibatches(examples, args.warmup_batch_size, pad, seed))
        for batch in self.within_budget("warmup_updates", batches):
            supervised_step(model, batch, optimizer, args.max_grad_norm, self.stop_if_diverged)
        require_finite(model.named_parameters(), "the model after the warm-up", "lower warmup_lr, or set warmup_epochs to 0")
        self.seconds_before_run = time.perf_counter() - started

    def make_task(self) -> Task:
        """The task with ReFT's reward, unless the arguments ask for another."""
        task = super().make_task()
        if not self.args.rewards and self.args.reward_model is None:
            task.reward_fns, task.reward_weights = (reft_reward,), (1.0,)
        return task

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """The KL is paid out of every token's reward, and `compute_gae` makes advantages of that.

        Rewards are taken as they are, not whitened. `compute_token_rewards` makes one reward a token of them with
        args.kl_reward_coef and the log-probabilities in `scores`; args.gamma and args.gae_lambda are compute_gae's.
        """
        args, mask = self.args, sampled.mask
        token_rewards = compute_token_rewards(rewards, scores.logprobs, scores.ref_logprobs, args.kl_reward_coef, mask=mask)
        options = {"gamma": args.gamma, "gae_lambda": args.gae_lambda, "mask": mask}
        return compute_gae(scores.values, token_rewards, sampled.prefix_len, **options)
