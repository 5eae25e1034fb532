"""ReFT (Trung et al. 2024): supervised warm-up, then PPO with the right answer as reward and KL paid token by token."""

import random
import time
from typing import Any

import torch

from rlhf_lib.advantages import compute_gae, compute_token_rewards
from rlhf_lib.args import ReftArgs
from rlhf_lib.finite import require_finite
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.models import TransformerWithValueHead
from rlhf_lib.models.loading import padding_id
from rlhf_lib.optim import get_supervised_optimizer
from rlhf_lib.rewards.shaping import reft_reward
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.runs import explained_variance
from rlhf_lib.tasks import Task
from rlhf_lib.trainers.ppo import RLHFTrainer
from rlhf_lib.trainers.sft import encode_solutions, minibatches, supervised_step


class ReftTrainer(RLHFTrainer):
    """Every weight is trained, the value head shares the trunk, and the warmed-up model is the reference policy."""

    name = "reft"
    args: ReftArgs

    def build_models(self) -> tuple[Any, Any]:
        """The policy after the warm-up, and a frozen copy of it."""
        args = self.args
        self.check_directory()
        self.model = TransformerWithValueHead.from_pretrained(args.base_model, device=args.device, dtype=args.dtype)
        started = time.perf_counter()
        self.warm_up()
        self.seconds_before_run = time.perf_counter() - started
        return self.model, self.model.frozen_copy()

    def make_task(self) -> Task:
        """The task with ReFT's reward, unless the arguments ask for another."""
        task = super().make_task()
        if not self.args.rewards and self.args.reward_model is None:
            task.reward_fns, task.reward_weights = (reft_reward,), (1.0,)
        return task

    def warm_up(self) -> None:
        """Supervised epochs on worked solutions at a constant learning rate, the same for the same seed."""
        args, model = self.args, self.model
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

    def rollout_phase(self) -> ReplayMemory:
        """Sample and reward completions, pay the KL out of every token's reward, and turn that into advantages and returns.

        The scores of `sample_and_score` are taken as they are, not whitened. `compute_token_rewards` makes one reward a token
        of them with args.kl_reward_coef, `compute_gae` advantages with args.gamma and args.gae_lambda. The memory holds what
        RLHFTrainer's does, so that its objective serves unchanged. Logging is optional.
        """
        args = self.args
        sampled, scores = self.sample_and_score()
        with torch.no_grad(), self.metrics.timed("score"):
            inputs = {"attention_mask": sampled.attention_mask, "logits_to_keep": args.gen_len + 1}
            logits, values = self.model.forward_with_value_head(sampled.ids, **inputs)
            ref_logits = self.ref_model(sampled.ids, **inputs)
        generated = sampled.ids[:, -args.gen_len - 1 :]
        logprobs = get_logprobs(logits, generated, temperature=args.temperature)
        ref_logprobs = get_logprobs(ref_logits, generated, temperature=args.temperature)
        rewards = compute_token_rewards(scores, logprobs, ref_logprobs, args.kl_reward_coef, mask=sampled.mask)
        advantages = compute_gae(
            values, rewards, sampled.prefix_len, gamma=args.gamma, gae_lambda=args.gae_lambda, mask=sampled.mask
        )
        memory = ReplayMemory(
            args,
            sampled.ids,
            logprobs,
            advantages,
            values,
            ref_logits,
            mask=sampled.mask,
            attention_mask=sampled.attention_mask,
        )
        self.log_scores(sampled, logits, ref_logits, logprobs)
        self.log(explained_variance=explained_variance(memory.generated_values, memory.returns, sampled.mask))
        return memory
