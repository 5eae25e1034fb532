"""Proximal policy optimisation of a language model (Schulman et al. 2017; Ziegler et al. 2019; Stiennon et al. 2020)."""

import time

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import compute_gae, normalize_reward
from rlhf_lib.args import RLHFArgs
from rlhf_lib.layout import chosen_at, with_last_of_prompt
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_penalty,
    calc_value_function_loss,
)
from rlhf_lib.rollouts import Rollout, TokenScores, get_logprobs, score_tokens
from rlhf_lib.runs import explained_variance
from rlhf_lib.trainers.rl import RLTrainer


class RLHFTrainer(RLTrainer):
    """PPO with a value head. One phase: `rollout_phase` fills a memory, `learning_phase` makes minibatch updates on it."""

    name = "ppo"
    args: RLHFArgs
    use_value_head = True
    needs_ref_logits = True
    """Whether the objective takes KL exactly, over the vocabulary, and not from the sampled tokens alone."""

    def rollout_phase(self) -> ReplayMemory:
        """Sample and reward completions, score their tokens, turn rewards into advantages, and keep what learning needs.

        `sample_and_reward` gives the completions and one reward each, `score_tokens` what policy and reference make of every
        token at args.temperature, `compute_token_advantages` an advantage a token. The memory keeps the rollout's masks and the
        reference's log-probabilities; its logits only where `needs_ref_logits`. `log_scores(sampled, scores)` is optional.
        """
        sampled, rewards = self.sample_and_reward()
        with self.metrics.timed("score"):
            scores = score_tokens(self.model, self.ref_model, sampled, self.args.temperature)
        self.log_scores(sampled, scores)
        return ReplayMemory(
            self.args,
            sampled.ids,
            scores.logprobs,
            self.compute_token_advantages(rewards, scores, sampled),
            scores.values,
            scores.ref_logits if self.needs_ref_logits else None,
            mask=sampled.mask,
            attention_mask=sampled.attention_mask,
            ref_logprobs=scores.ref_logprobs,
        )

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """`compute_gae` of rewards and values, with args.gamma and args.gae_lambda, where sampled.mask is 1.

        Rewards are first whitened over the batch if args.normalize_reward.
        """
        args = self.args
        if args.normalize_reward:
            rewards = normalize_reward(rewards)
        options = {"gamma": args.gamma, "gae_lambda": args.gae_lambda, "mask": sampled.mask}
        return compute_gae(scores.values, rewards, sampled.prefix_len, **options)

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Clipped surrogate - value loss + entropy bonus - KL penalty, to be maximised.

        One pass gives the current logits and values; entropy and KL are of softmax(logits / args.temperature).
        """
        args, gen_len = self.args, self.args.gen_len
        shared = {"gen_len": gen_len, "mask": minibatch.mask, "reduction": args.reduction}
        logits, values = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=gen_len + 1
        )
        logprobs = get_logprobs(logits, with_last_of_prompt(minibatch.sample_ids, gen_len), temperature=args.temperature)
        clip = {"clip_coef": args.clip_coef, "clip_coef_high": args.clip_coef_high}
        surrogate = calc_clipped_surrogate_objective(
            logprobs, minibatch.logprobs, minibatch.advantages, eps=1e-8, **clip, **shared
        )
        old = {"mb_values": minibatch.values, "clip_value": args.clip_value}
        value_loss = calc_value_function_loss(chosen_at(values, gen_len), minibatch.returns, args.vf_coef, **old, **shared)
        policy_logits = chosen_at(logits, gen_len) / args.temperature
        ref_logits = chosen_at(minibatch.ref_logits, gen_len) / args.temperature
        entropy_bonus = calc_entropy_bonus(policy_logits, args.ent_coef, **shared)
        kl_penalty = calc_kl_penalty(policy_logits, ref_logits, args.kl_coef, **shared)
        self.log_update(logprobs, minibatch)
        self.log(value_loss=value_loss, kl_penalty=kl_penalty)
        return surrogate - value_loss + entropy_bonus - kl_penalty

    def learning_phase(self, memory: ReplayMemory) -> float:
        """One update for every minibatch of the memory, then one step of the schedule; returns the mean objective.

        An update: clear the gradients, compute the objective and its gradient, scale the gradient down to args.max_grad_norm
        (L2 over everything trained) where it is longer, let the optimiser step uphill, and count it in `self.step`.
        """
        objectives = []
        with self.metrics.timed("train"):
            for minibatch in memory.get_minibatches():
                self.optimizer.zero_grad()
                objective = self.compute_rlhf_objective(minibatch)
                objective.backward()
                parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
                norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm)
                self.stop_if_diverged(objective, norm)
                self.optimizer.step()
                self.step += 1
                objectives.append(objective.item())
                self.log(objective=objective, grad_norm=norm)
        self.scheduler.step()
        return sum(objectives) / len(objectives)

    def pretrain_critic(self) -> None:
        """`critic_phases` rollouts of the policy as it is, from which the value head alone learns to predict returns.

        The learning rate is head_lr throughout; the metrics end up in the first phase's record, as critic_loss and
        critic_explained_variance of the last rollout. The budget may end it early.
        """
        args, phases = self.args, getattr(self.args, "critic_phases", 0)  # arguments without a critic have none
        if not phases:
            return
        head = torch.optim.AdamW(self.model.get_value_head_params(), lr=args.head_lr, weight_decay=args.weight_decay)
        started = time.perf_counter()
        for i in range(phases):
            if self.is_out_of_time(started):
                break
            self.phase = -1 - i  # prompts of its own
            memory = self.rollout_phase()
            explained = explained_variance(memory.generated_values, memory.returns, memory.mask)
            self.metrics.take()
            for minibatch in memory.get_minibatches():
                loss = self.critic_update(minibatch, head)
            self.log(critic_loss=loss, critic_explained_variance=explained)
        self.phase = 0

    def critic_update(self, minibatch: ReplayMinibatch, head: torch.optim.Optimizer) -> Float[Tensor, ""]:
        """One step of the value head alone towards a minibatch's returns; the loss before it."""
        args, parameters = self.args, self.model.get_value_head_params()
        _, values = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=args.gen_len + 1
        )
        shared = {"mask": minibatch.mask, "reduction": args.reduction}
        loss = calc_value_function_loss(
            chosen_at(values, args.gen_len), minibatch.returns, args.vf_coef, args.gen_len, **shared
        )
        head.zero_grad()
        loss.backward(inputs=None if self.model.is_sharded else parameters)  # shares get theirs on the way through all
        norm = torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        self.stop_if_diverged(loss, norm)
        head.step()
        return loss
