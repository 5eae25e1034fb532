"""What every algorithm of reinforcement learning shares: models, completions, rewards, figures, the run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.args import RLArgs
from rlhf_lib.correction import corrected
from rlhf_lib.engine import PassOptions
from rlhf_lib.layout import chosen_at
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.models import BridgedTransformer, TransformerWithValueHead, TransformerWithValueHeadLora
from rlhf_lib.objectives import reduce_tokens, token_entropy, token_kl
from rlhf_lib.optim import get_optimizer_and_scheduler
from rlhf_lib.rollouts import Rollout, TokenScores
from rlhf_lib.runs import Run, explained_variance, group_metrics, ratio_metrics, rollout_metrics
from rlhf_lib.samplers import sampler_of
from rlhf_lib.tasks import Prompts, Task, task_of
from rlhf_lib.trainers.trainer import Trainer, go_on_from


@dataclass
class Rewarded:
    """What the reward functions and the task say of a phase's completions."""

    rewards: Float[Tensor, " batch"]
    """The weighted sum of all reward functions."""
    each: Mapping[str, list[float | None]] = field(default_factory=dict)
    """What each of them gave, by its name; None where it abstained."""
    weights: tuple[float, ...] = ()
    """Their weights, in the same order."""
    correct: list[bool] | None = None
    """Which completions are right; None where the task does not judge them."""


class RLTrainer(Trainer):
    """A phase samples completions, rewards them and learns from them. Everything is trained, or adapters (args.lora_rank).

    A subclass gives rollout_phase and learning_phase. Its __init__ needs to set only args, run_name, model, ref_model,
    optimizer, scheduler and prefix_len.
    """

    args: RLArgs
    use_value_head = False
    is_prepared = False
    """Whether `prepare_policy` trains, so that the reference is not the base model."""
    memory: ReplayMemory | None = None
    sampled: Rollout | None = None
    """The completions that the phase learns from."""
    rewarded: Rewarded | None = None
    """What they earned."""

    def __init__(self, args: RLArgs):
        torch.manual_seed(args.seed)
        self.args = args
        self.check_directory()
        self.model, self.ref_model = self.build_models()
        self.use_memory_options()
        if self.is_to_shard:
            self.model.shard()
            self.ref_model.shard()
        self.run_name = f"{args.algorithm or self.name}-{self.task.name}-seed{args.seed}"
        self.optimizer, self.scheduler = get_optimizer_and_scheduler(args, self.model)
        self.prefix_len = self.model.to_tokens(args.prefix, args.prepend_bos).shape[1]

    def build_models(self) -> tuple[Any, Any]:
        """The policy, and what is called for the reference policy's logits.

        With adapters that is the same model without them, at no cost in memory, or the adapter that training goes on from;
        otherwise a frozen copy.
        """
        args = self.args
        options = {"device": "cpu" if self.is_to_shard else args.device, "dtype": args.dtype}
        if not args.has_adapters:
            self.model = TransformerWithValueHead.from_pretrained(
                args.base_model, use_value_head=self.use_value_head, **options
            )
            self.prepare_policy()
            return self.model, self.model.frozen_copy()
        options["use_value_head"] = self.use_value_head
        if args.adapter is None:
            made = (args.base_model, args.lora_alpha, args.lora_rank)
            self.model = TransformerWithValueHeadLora.from_pretrained(*made, maps=args.lora_maps, **options)
        else:
            self.model = go_on_from(TransformerWithValueHeadLora, args, **options)
        self.sampler = sampler_of(args, self.model)
        self.prepare_policy()
        keeps_adapter = args.reference == "adapter" and (args.adapter is not None or self.is_prepared)
        return self.model, self.model.frozen_policy() if keeps_adapter else self.model

    @property
    def is_to_shard(self) -> bool:
        """Whether the weights are to be spread over processes, so that none but the CPU need hold a whole model."""
        return self.args.shard and parallel.count() > 1

    def use_memory_options(self) -> None:
        """Tell policy and reference how their passes are to trade time for memory."""
        args = self.args
        for model in (self.model, self.ref_model):
            if isinstance(model, BridgedTransformer):
                model.pass_options = PassOptions(args.micro_batch_size, args.checkpoint_activations, args.autocast)

    def prepare_policy(self) -> None:
        """What is done to the policy before its reference is made."""

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

    def sample_and_reward(self) -> tuple[Rollout, Float[Tensor, " batch"]]:
        """Draw the phase's prompts, sample a completion for each, and reward it; both are also kept."""
        args, group = self.args, self.completions_per_prompt
        prompts = self.task.draw(args.batch_size // group, args.seed, self.phase).repeat(group)
        self.sampled = self.sample(prompts)
        self.rewarded = self.reward(prompts, self.sampled)
        self.log_rewards(prompts, self.sampled, self.rewarded)
        return self.sampled, self.rewarded.rewards

    def sample(self, prompts: Prompts) -> Rollout:
        """A completion of every prompt."""
        args = self.args
        options = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "prepend_bos": args.prepend_bos}
        with self.metrics.timed("generate"):
            return self.sampler.rollout(self.model, prompts.prompts, args.gen_len, stop_at_eos=self.task.stop_at_eos, **options)

    def reward(self, prompts: Prompts, sampled: Rollout) -> Rewarded:
        """What every completion earns, and whether it is right."""
        task = self.task
        completions = [task.cut(completion) for completion in sampled.completions]
        with self.metrics.timed("reward"):
            rewards, each = task.reward(prompts, completions, sampled.completion_ids)
            rewards = rewards.to(sampled.ids.device)
        return Rewarded(rewards, each, tuple(task.reward_weights), task.verdicts(prompts, sampled.completions))

    def log_rewards(self, prompts: Prompts, sampled: Rollout, rewarded: Rewarded) -> None:
        """Log the rewards, each function's, the answers' styles and the samples."""
        task, correct = self.task, rewarded.correct
        self.log(**rollout_metrics(rewarded.rewards, sampled.mask, task.stop_at_eos))
        if self.completions_per_prompt > 1:
            self.log(**group_metrics(rewarded.rewards, self.completions_per_prompt))
        for name, values in rewarded.each.items():
            given = [value for value in values if value is not None]
            self.log(**{f"reward_{name}": sum(given) / len(given) if given else None})
        self.log(correct=None if correct is None else sum(correct) / len(correct))
        styles = [task.style_of(completion) for completion in sampled.completions]
        for style in ("reasoning", "bare", "sentence") if any(styles) else ():
            self.log(**{f"share_{style}": styles.count(style) / len(styles)})
        self.samples[:] = [
            {"prompt": p, "completion": c, "reward": float(r)}
            for p, c, r in zip(prompts.prompts, sampled.completions, rewarded.rewards, strict=True)
        ]

    @torch.no_grad()
    def log_scores(self, sampled: Rollout, scores: TokenScores) -> None:
        """Log the sampling policy's exact KL from the reference, its entropy, and the gap between sampler and trainer.

        Raises:
            InputError: that gap is large, and nothing that was asked for explains it.
        """
        gen_len, temperature = self.args.gen_len, self.args.temperature
        gap = sampled.sampler_logprobs - scores.logprobs
        self.stop_if_sampler_differs(gap, sampled.mask)
        policy, reference = (chosen_at(logits, gen_len) / temperature for logits in (scores.logits, scores.ref_logits))
        figures = {"kl": token_kl(policy, reference), "entropy": token_entropy(policy), "sampler_gap": gap}
        self.log(**{name: reduce_tokens(values, gen_len, sampled.mask) for name, values in figures.items()})

    def log_critic(self, memory: ReplayMemory) -> None:
        """Log how much of the returns' variance the critic explains, where there is one."""
        if memory.values is not None:
            self.log(explained_variance=explained_variance(memory.generated_values, memory.returns, memory.mask))

    def log_update(self, logprobs: Float[Tensor, "minibatch gen"], minibatch: ReplayMinibatch) -> None:
        """Log ratio and clip fractions of one minibatch."""
        self.log(**ratio_metrics(logprobs, minibatch.logprobs, minibatch.advantages, self.args.clip_range, minibatch.mask))

    def corrected(self, memory: ReplayMemory) -> ReplayMemory:
        """The phase's memory, its advantages weighted for the sampler where the arguments ask for it; that is logged."""
        if not self.args.corrects_sampler:
            return memory
        memory, figures = corrected(memory, self.sampled.sampler_logprobs, self.sampled.mask, self.args)
        self.log(**figures)
        return memory

    def pretrain_critic(self) -> None:
        """What a critic learns before the first phase, where there is one."""

    def train(self) -> dict[str, Any]:
        """Run all phases; returns the summary that is also in the run's directory."""
        self.use_memory_options()  # also where a subclass has a constructor of its own
        self.run = run = Run(self)
        if run.first_phase == 0:
            self.pretrain_critic()
        for self.phase in run.phases():
            self.memory = self.rollout_phase()
            self.log_critic(self.memory)
            self.learning_phase(self.corrected(self.memory))
        return run.finish()
