"""Proximal policy optimisation of a language model (Schulman et al. 2017; Ziegler et al. 2019; Stiennon et al. 2020)."""

import time
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.advantages import compute_gae, normalize_reward
from rlhf_lib.args import LoraArgs, RLHFArgs
from rlhf_lib.correction import CorrectedMemory, sampler_weights
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.models import TransformerWithValueHead, TransformerWithValueHeadLora
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_penalty,
    calc_value_function_loss,
    reduce_tokens,
    token_entropy,
    token_kl,
)
from rlhf_lib.optim import get_optimizer_and_scheduler
from rlhf_lib.rollouts import Rollout, get_logprobs, rollout
from rlhf_lib.runs import Run, explained_variance, ratio_metrics, rollout_metrics
from rlhf_lib.samplers import sampler_of
from rlhf_lib.tasks import Prompts, Task, task_of
from rlhf_lib.trainers.trainer import Trainer, go_on_from


class RLHFTrainer(Trainer):
    """PPO with a value head, every weight trained; a frozen copy of the first model is the reference.

    One phase: `rollout_phase` samples completions and fills a memory, `learning_phase` makes minibatch updates on it.
    `train` repeats that and keeps the run's files. A subclass's __init__ needs to set only args, run_name, model,
    ref_model, optimizer, scheduler and prefix_len.
    """

    name = "ppo"
    args: RLHFArgs
    memory: ReplayMemory | None = None
    correct: list[bool] | None = None

    def __init__(self, args: RLHFArgs):
        torch.manual_seed(args.seed)
        self.args = args
        self.check_directory()
        self.model, self.ref_model = self.build_models()
        self.run_name = f"{self.name}-{self.task.name}-seed{args.seed}"
        self.optimizer, self.scheduler = get_optimizer_and_scheduler(args, self.model)
        self.prefix_len = self.model.to_tokens(args.prefix, args.prepend_bos).shape[1]

    def build_models(self) -> tuple[Any, Any]:
        """The policy, and what is called for the reference policy's logits."""
        args = self.args
        model = TransformerWithValueHead.from_pretrained(args.base_model, device=args.device, dtype=args.dtype)
        return model, model.frozen_copy()

    def make_task(self) -> Task:
        """Prompts and rewards."""
        args = self.args
        return task_of(args, self.model, args.gen_len, args.prefix, args.reward_fn)

    @property
    def samples_per_phase(self) -> int:
        """Completions of a phase."""
        return self.args.batch_size

    @property
    def completions_per_prompt(self) -> int:
        """How often each prompt of a phase is repeated."""
        return 1

    def sample_and_score(self) -> tuple[Rollout, Float[Tensor, " batch"]]:
        """Draw the phase's prompts, sample a completion for each, and reward it."""
        args, group = self.args, self.completions_per_prompt
        prompts = self.task.draw(args.batch_size // group, args.seed, self.phase).repeat(group)
        with self.metrics.timed("generate"):
            sampled = rollout(
                self.model,
                prompts.prompts,
                args.gen_len,
                temperature=args.temperature,
                top_k=args.top_k,
                top_p=args.top_p,
                prepend_bos=args.prepend_bos,
                stop_at_eos=self.task.stop_at_eos,
            )
        with self.metrics.timed("reward"):
            rewards = self.score(prompts, sampled)
        return sampled, rewards.to(sampled.ids.device)

    def score(self, prompts: Prompts, sampled: Rollout) -> Float[Tensor, " batch"]:
        """The weighted reward of every completion; each reward, the answers' styles and the samples are logged."""
        task = self.task
        completions = [task.cut(completion) for completion in sampled.completions]
        rewards, each = task.score(prompts, completions, sampled.completion_ids)
        self.log(**rollout_metrics(rewards, sampled.mask, task.stop_at_eos))
        for name, values in each.items():
            given = [value for value in values if value is not None]
            self.log(**{f"reward_{name}": sum(given) / len(given) if given else None})
        self.correct = task.verdicts(prompts, sampled.completions)
        self.log(correct=None if self.correct is None else sum(self.correct) / len(self.correct))
        styles = [task.style_of(completion) for completion in sampled.completions]
        for style in ("reasoning", "bare", "sentence") if any(styles) else ():
            self.log(**{f"share_{style}": styles.count(style) / len(styles)})
        self.samples[:] = [
            {"prompt": p, "completion": c, "reward": float(r)}
            for p, c, r in zip(prompts.prompts, sampled.completions, rewards, strict=True)
        ]
        return rewards

    def rollout_phase(self) -> ReplayMemory:
        """Sample completions, reward them, and turn that into a memory to learn from.

        Rewards are whitened over the batch if args.normalize_reward. One pass of the policy, without gradients, gives logits
        and values [batch seq], one of the reference its logits. Logits score the sampled tokens at args.temperature;
        `compute_gae` makes advantages of rewards and values. The memory keeps the rollout's masks. Logging is optional.
        """
        args = self.args
        sampled, rewards = self.sample_and_score()
        if args.normalize_reward:
            rewards = normalize_reward(rewards)
        with torch.no_grad(), self.metrics.timed("score"):
            inputs = {"attention_mask": sampled.attention_mask, "logits_to_keep": args.gen_len + 1}
            logits, values = self.model.forward_with_value_head(sampled.ids, **inputs)
            ref_logits = self.ref_model(sampled.ids, **inputs)
        logprobs = get_logprobs(logits, sampled.ids[:, -args.gen_len - 1 :], temperature=args.temperature)
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

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Clipped surrogate - value loss + entropy bonus - KL penalty, to be maximised.

        One pass gives the current logits and values; entropy and KL are of softmax(logits / args.temperature).
        """
        args = self.args
        shared = {"gen_len": args.gen_len, "mask": minibatch.mask, "reduction": args.reduction}
        generated = slice(-args.gen_len - 1, -1)
        logits, values = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=args.gen_len + 1
        )
        logprobs = get_logprobs(logits, minibatch.sample_ids[:, -args.gen_len - 1 :], temperature=args.temperature)
        surrogate = calc_clipped_surrogate_objective(
            logprobs,
            minibatch.logprobs,
            minibatch.advantages,
            args.clip_coef,
            eps=1e-8,
            clip_coef_high=args.clip_coef_high,
            **shared,
        )
        value_loss = calc_value_function_loss(
            values[:, generated],
            minibatch.returns,
            args.vf_coef,
            mb_values=minibatch.values,
            clip_value=args.clip_value,
            **shared,
        )
        policy_logits = logits[:, :-1] / args.temperature
        ref_logits = minibatch.ref_logits[:, generated] / args.temperature
        entropy_bonus = calc_entropy_bonus(policy_logits, args.ent_coef, **shared)
        kl_penalty = calc_kl_penalty(policy_logits, ref_logits, args.kl_coef, **shared)
        self.log_update(logprobs, minibatch)
        self.log(value_loss=value_loss, kl_penalty=kl_penalty)
        return surrogate - value_loss + entropy_bonus - kl_penalty

    @torch.no_grad()
    def log_scores(
        self,
        sampled: Rollout,
        logits: Float[Tensor, "batch kept vocab"],
        ref_logits: Float[Tensor, "batch kept vocab"],
        logprobs: Float[Tensor, "batch gen"],
    ) -> None:
        """Log the sampling policy's exact KL from the reference, its entropy, and the gap between sampler and trainer.

        Raises:
            InputError: that gap is large, and nothing that was asked for explains it.
        """
        gap = sampled.sampler_logprobs - logprobs
        self.stop_if_sampler_differs(gap, sampled.mask)
        policy, reference = logits[:, :-1] / self.args.temperature, ref_logits[:, :-1] / self.args.temperature
        figures = {"kl": token_kl(policy, reference), "entropy": token_entropy(policy), "sampler_gap": gap}
        self.log(**{name: reduce_tokens(values, self.args.gen_len, sampled.mask) for name, values in figures.items()})

    def log_update(self, logprobs: Float[Tensor, "minibatch gen"], minibatch: ReplayMinibatch) -> None:
        """Log ratio and clip fractions of one minibatch."""
        self.log(**ratio_metrics(logprobs, minibatch.logprobs, minibatch.advantages, self.args.clip_range, minibatch.mask))

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
        args = self.args
        if not args.critic_phases:
            return
        head = torch.optim.AdamW(self.model.get_value_head_params(), lr=args.head_lr, weight_decay=args.weight_decay)
        started = time.perf_counter()
        for i in range(args.critic_phases):
            if self.is_out_of_time(started):
                break
            self.phase = -1 - i  # prompts of its own
            memory = self.rollout_phase()
            explained = explained_variance(memory.generated_values, memory.returns, memory.mask)
            self.metrics.take()
            for minibatch in memory.get_minibatches():
                _, values = self.model.forward_with_value_head(minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=1)
                loss = calc_value_function_loss(
                    values[:, -args.gen_len - 1 : -1],
                    minibatch.returns,
                    args.vf_coef,
                    args.gen_len,
                    mask=minibatch.mask,
                    reduction=args.reduction,
                )
                head.zero_grad()
                loss.backward(inputs=self.model.get_value_head_params())
                norm = torch.nn.utils.clip_grad_norm_(self.model.get_value_head_params(), args.max_grad_norm)
                self.stop_if_diverged(loss, norm)
                head.step()
            self.log(critic_loss=loss, critic_explained_variance=explained)
        self.phase = 0

    def train(self) -> dict[str, Any]:
        """Run all phases; returns the summary that is also in the run's directory."""
        self.run = run = Run(self)
        if run.first_phase == 0:
            self.pretrain_critic()
        for self.phase in run.phases():
            self.memory = self.rollout_phase()
            self.learning_phase(self.memory)
        return run.finish()


class LoraTrainer(RLHFTrainer):
    """PPO on low-rank adapters: the reference is the same model without them, at no cost in memory.

    Completions may come of another sampler (args.sampler). Its probabilities, or those after top_k and top_p, are not the
    trainer's; where args.corrects_sampler, each phase learns from advantages that are weighted for that.
    """

    name = "ppo-lora"
    args: LoraArgs
    use_value_head = True
    sampled: Rollout | None = None
    """The completions that the phase learns from, with the sampler's log-probabilities."""

    def build_models(self) -> tuple[Any, Any]:
        """The adapted policy, and as reference its plain call, or the adapter that it goes on from."""
        args = self.args
        options = {"use_value_head": self.use_value_head, "device": args.device, "dtype": args.dtype}
        if args.adapter is None:
            model = TransformerWithValueHeadLora.from_pretrained(
                args.base_model, args.lora_alpha, args.lora_rank, maps=args.lora_maps, **options
            )
        else:
            model = go_on_from(TransformerWithValueHeadLora, args, **options)
        model.sampler = sampler_of(args, model)
        keeps_adapter = args.adapter is not None and args.reference == "adapter"
        return model, model.frozen_policy() if keeps_adapter else model

    def sample_and_score(self) -> tuple[Rollout, Float[Tensor, " batch"]]:
        """The same as of every trainer, and the rollout is kept."""
        self.sampled, rewards = super().sample_and_score()
        return self.sampled, rewards

    def learning_phase(self, memory: ReplayMemory) -> float:
        """The same as of every trainer, on advantages that are corrected for the sampler where the arguments ask for it."""
        return super().learning_phase(self.corrected(memory) if self.args.corrects_sampler else memory)

    def corrected(self, memory: ReplayMemory) -> ReplayMemory:
        """The phase's memory with weighted advantages; mean weight and share of capped weights are logged."""
        weights = sampler_weights(memory.logprobs, self.sampled.sampler_logprobs, self.args.sampler_cap, memory.mask)
        shares = {"sampler_weight": weights, "sampler_capped": (weights >= self.args.sampler_cap).float()}
        self.log(**{name: reduce_tokens(share, memory.gen_len, memory.mask) for name, share in shares.items()})
        return CorrectedMemory(memory, weights)
