"""What a run is told: plain keyword-only dataclasses that validate themselves. No torch here.

Every field's comment is also its help on the command line. An instance is never assigned to after construction; derived
values are properties. Fields that only one algorithm needs live in that algorithm's class.
"""

import importlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar


class InputError(ValueError):
    """Something the user gave cannot work; the message gives the value, the rule and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise InputError(message) unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_positive(args: Any, *names: str) -> None:
    """Every named field of `args` must be a number above zero."""
    for name in names:
        value = getattr(args, name)
        require(value > 0, f"{name}={value} must be above 0; leave it out for the default {default_of(args, name)}")


def require_not_negative(args: Any, *names: str) -> None:
    """Every named field of `args` must be zero or more."""
    for name in names:
        value = getattr(args, name)
        require(value >= 0, f"{name}={value} must not be negative; 0 switches it off")


def require_share(args: Any, *names: str) -> None:
    """Every named field of `args` must lie in [0, 1]."""
    for name in names:
        value = getattr(args, name)
        require(0 <= value <= 1, f"{name}={value} must lie between 0 and 1; the default is {default_of(args, name)}")


def default_of(args: Any, name: str) -> Any:
    """The default of a dataclass field."""
    return next(f.default for f in fields(args) if f.name == name)


@dataclass(kw_only=True)
class CommonArgs:
    """What every command takes."""

    seed: int = 0
    """Seed of everything random: initialisation, prompts, sampling, minibatches."""
    device: str = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the first of cuda, mps, cpu that is there."""


@dataclass(kw_only=True)
class RunArgs(CommonArgs):
    """What every kind of run shares: it leaves a directory."""

    output_dir: str | None = None
    """Directory for the run's files; left out, a new one under runs/."""


@dataclass(kw_only=True)
class RLHFArgs(RunArgs):
    """PPO with a value head. Phases alternate: a rollout of `batch_size` completions, then updates on it."""

    # what is trained, on what
    base_model: str = "pocket"
    """Model to start from: "pocket" (bundled), a Hugging Face name, or a local directory in that format."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the base model's weights and activations; adapters and value head stay float32."""
    task: str | None = None
    """Prompts and rewards: "pocket" (word problems) or "char-count" (full stops after a fixed prefix, the default)."""
    prefix: str = "Question: Anna has"
    """The fixed prompt of the char-count task."""
    prepend_bos: bool = True
    """Put the tokenizer's beginning-of-sequence token before every prompt, where it has one."""
    reward_fn: Callable | None = None
    """Reward of the fixed prefix, fn(list[str]) -> float tensor [batch]; None counts full stops. Not a CLI flag."""
    normalize_reward: bool = True
    """PPO: whiten the rewards of each phase over the batch (mean 0, standard deviation 1)."""

    # how much
    total_phases: int = 30
    """Number of rollout-and-learning phases."""
    batch_size: int = 128
    """Completions per rollout phase."""
    num_minibatches: int = 4
    """Optimiser steps per pass over the phase's completions."""
    batches_per_learning_phase: int = 2
    """Passes over the phase's completions."""

    # sampling
    gen_len: int = 24
    """Most tokens generated per completion."""
    temperature: float = 1.0
    """Softmax temperature of sampling, and of the log-probabilities that are trained."""
    top_k: int | None = None
    """Sample among the k likeliest tokens only; makes the sampler differ from the trained policy (see sampler_gap)."""
    top_p: float | None = None
    """Sample among the likeliest tokens that hold this probability; makes the sampler differ likewise."""

    # optimiser
    base_lr: float = 3e-4
    """Peak learning rate of the model, or of its adapters."""
    head_lr: float = 1e-3
    """Peak learning rate of the value head."""
    adam_beta1: float = 0.9
    """AdamW's decay of the gradient's running mean."""
    adam_beta2: float = 0.999
    """AdamW's decay of the squared gradient's running mean."""
    weight_decay: float = 0.01
    """AdamW's weight decay (torch's default)."""
    max_grad_norm: float = 1.0
    """Gradients longer than this (L2, over everything trained) are scaled down to it."""
    warmup_steps: int = 2
    """Phases of linear warm-up; the first phase never has learning rate 0. 0: none."""
    final_scale: float = 0.1
    """Learning rate of the last phase as a share of the peak."""
    lr_decay: Literal["linear", "cosine"] = "linear"
    """Shape of the decay after the warm-up."""

    # objective
    clip_coef: float = 0.2
    """The policy ratio's gain stops below 1 - this and above 1 + this."""
    clip_coef_high: float | None = None
    """The upper bound when it differs (clip-higher, Yu et al. 2025: 0.28)."""
    vf_coef: float = 0.5
    """Weight of the value function's loss."""
    clip_value: float | None = None
    """Clip the value's change per phase to this; left out, no value clipping."""
    ent_coef: float = 0.001
    """Weight of the entropy bonus, per nat."""
    kl_coef: float = 0.1
    """Weight of the KL divergence from the reference policy, per nat and token."""
    reduction: Literal["token", "sequence", "constant"] = "token"
    """How losses average: over all tokens, over sequences of token means, or sum / (batch x gen_len) (Dr. GRPO)."""
    gamma: float = 1.0
    """PPO: discount per token."""
    gae_lambda: float = 0.95
    """PPO: lambda of generalised advantage estimation; 0 is one-step TD, 1 is Monte Carlo minus the value."""

    # run
    eval_problems: int = 500
    """Held-out problems that accuracy before and after is measured on (tasks that have them)."""
    save_every: int = 10
    """Phases between checkpoints."""
    log_samples_every: int = 5
    """Phases between printed tables of sample completions (all are in samples.jsonl); 0: none."""
    resume: bool = False
    """Continue the run in output_dir from its last checkpoint."""
    use_wandb: bool = False
    """Also send metrics to Weights & Biases (pip install wandb)."""
    wandb_project_name: str = "rlhf_lib"
    """Weights & Biases project."""
    wandb_entity: str | None = None
    """Weights & Biases entity."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        require_positive(self, "total_phases", "batch_size", "num_minibatches", "batches_per_learning_phase", "gen_len")
        require_positive(self, "temperature", "base_lr", "head_lr", "max_grad_norm", "save_every")
        require_not_negative(self, "warmup_steps", "vf_coef", "ent_coef", "kl_coef", "weight_decay", "log_samples_every")
        require_not_negative(self, "clip_coef", "eval_problems")
        require_share(self, "adam_beta1", "adam_beta2", "final_scale", "gamma", "gae_lambda")
        require(
            self.batch_size % self.num_minibatches == 0,
            f"batch_size={self.batch_size} is not a multiple of num_minibatches={self.num_minibatches}; "
            f"try batch_size={self.batch_size + -self.batch_size % self.num_minibatches}",
        )
        require(self.top_k is None or self.top_k >= 1, f"top_k={self.top_k} must be at least 1; leave it out for all tokens")
        require(
            self.top_p is None or 0 < self.top_p <= 1,
            f"top_p={self.top_p} must be above 0 and at most 1; leave it out for all tokens",
        )
        require(
            self.warmup_steps < self.total_phases or self.warmup_steps == 0,
            f"warmup_steps={self.warmup_steps} must be below total_phases={self.total_phases}, or the learning rate never "
            f"peaks; try warmup_steps={self.total_phases // 10}",
        )
        require(
            self.task is None or self.reward_fn is None,
            f"task={self.task!r} brings its own rewards; leave out reward_fn, or leave out task for the fixed prefix",
        )

    @property
    def minibatch_size(self) -> int:
        """Completions per optimiser step."""
        return self.batch_size // self.num_minibatches

    @property
    def clip_range(self) -> tuple[float, float]:
        """Lower and upper bound of the policy ratio."""
        high = self.clip_coef if self.clip_coef_high is None else self.clip_coef_high
        return 1 - self.clip_coef, 1 + high


LORA_MAPS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.gate", "mlp.out")


@dataclass(kw_only=True)
class LoraArgs(RLHFArgs):
    """PPO with a value head, on low-rank adapters: the reference policy is the model without them."""

    lora_rank: int = 4
    """Rank of every adapter."""
    lora_alpha: float = 32.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_maps: tuple[str, ...] = LORA_MAPS
    """Linear maps that get an adapter; maps that a model lacks (GPT-2 has no mlp.gate) are passed over."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        require_positive(self, "lora_rank", "lora_alpha")
        unknown = [name for name in self.lora_maps if name not in LORA_MAPS]
        require(
            not unknown and len(self.lora_maps) > 0,
            f"lora_maps={self.lora_maps} must name at least one of {' '.join(LORA_MAPS)} and nothing else",
        )


@dataclass(kw_only=True)
class GrpoArgs(LoraArgs):
    """GRPO: no critic; a completion's advantage is its reward relative to the group of its prompt."""

    group_size: int | None = None
    """Completions per prompt (G); left out, the whole batch is one group."""
    advantage_std: Literal["unbiased", "population", "none"] = "unbiased"
    """Deviation that the group's rewards are divided by; none: only centred (Dr. GRPO)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL term in the loss, from log-probabilities of the sampled tokens."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        size = self.resolved_group_size
        whole = math.lcm(size, self.num_minibatches)
        require(size >= 2, f"group_size={size} leaves nothing to compare with; use at least 2")
        require(
            self.batch_size % size == 0,
            f"group_size={size} does not divide batch_size={self.batch_size}; "
            f"try batch_size={self.batch_size + -self.batch_size % whole}",
        )

    @property
    def resolved_group_size(self) -> int:
        """Completions per prompt, as a number."""
        return self.batch_size if self.group_size is None else self.group_size


@dataclass(kw_only=True)
class PretrainArgs(RunArgs):
    """The bundled model from nothing; the defaults reproduce the shipped weights' recipe."""

    steps: int = 1800
    """Optimiser steps."""
    batch_size: int = 64
    """Documents per step."""
    micro_batches: int = 3
    """Parts of similar length that a step's documents are computed in; changes speed only."""
    lr: float = 2e-3
    """Peak learning rate of AdamW on a one-cycle schedule."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    layers: int = 4
    """Transformer blocks."""
    width: int = 128
    """Residual stream width d_model; the MLP is three times as wide."""
    heads: int = 4
    """Attention heads."""
    context: int = 512
    """Longest sequence in tokens."""
    equation_share: float = 0.2
    """Share of documents that are bare equations."""
    early_part: float = 0.85
    """Part of the steps in which reasoning is common."""
    early_reasoning_share: float = 0.8
    """Share of story documents that reason, in the early part."""
    late_reasoning_share: float = 0.14
    """Share of story documents that reason, afterwards."""
    question_weight: float = 0.03
    """Loss weight of a question's tokens; answers and equations weigh 1."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        require_positive(self, "steps", "batch_size", "micro_batches", "lr", "layers", "width", "heads", "context")
        require_share(self, "equation_share", "early_part", "early_reasoning_share", "late_reasoning_share")
        require_not_negative(self, "question_weight", "weight_decay")
        require(
            self.width % (2 * self.heads) == 0,
            f"width={self.width} is not a multiple of twice heads={self.heads} (rotary positions come in pairs); "
            f"try width={self.width + -self.width % (2 * self.heads)}",
        )


@dataclass(kw_only=True)
class ModelArgs(CommonArgs):
    """Which model a command loads, and how it samples."""

    base_model: str = "pocket"
    """"pocket" (bundled), a Hugging Face name, or a local directory in that format."""
    adapter: str | None = None
    """Directory of an adapter in PEFT's format, to put on the base model."""
    run: str | None = None
    """Directory of a training run: its model, in place of --base-model and --adapter."""
    task: str = "pocket"
    """Where prompts come from."""
    temperature: float = 1.0
    """Softmax temperature; 0 takes the likeliest token."""
    gen_len: int = 48
    """Most tokens generated per completion."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the base model."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        require_positive(self, "gen_len")
        require_not_negative(self, "temperature")
        require(
            self.run is None or self.adapter is None,
            f"run={self.run!r} brings its own adapter; leave out adapter={self.adapter!r}",
        )


@dataclass(kw_only=True)
class SampleArgs(ModelArgs):
    """Print completions, of the trained model beside its base model's."""

    prompt: str | None = None
    """A prompt of your own; left out, held-out problems of the task."""
    count: int = 4
    """Completions to print."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        require_positive(self, "count")


@dataclass(kw_only=True)
class EvalArgs(ModelArgs):
    """Measure accuracy on held-out problems, with its 95% interval."""

    problems: int = 500
    """Held-out problems."""
    few_shot: int = 0
    """Worked examples before each question."""
    style: Literal["reasoning", "bare", "sentence"] = "reasoning"
    """Style of the worked examples (task pocket)."""
    output: str | None = None
    """File for the completions and verdicts, one JSON object a line."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        require_positive(self, "problems")
        require_not_negative(self, "few_shot")


Args = TypeVar("Args", bound=RunArgs)


def to_json(args: RunArgs) -> str:
    """All fields as JSON; a reward function is saved as module:qualname."""
    values = {f.name: getattr(args, f.name) for f in fields(args)}
    if callable(values.get("reward_fn")):
        values["reward_fn"] = f"{args.reward_fn.__module__}:{args.reward_fn.__qualname__}"
    return json.dumps(values, indent=2)


def from_json(kind: type[Args], text: str, source: str = "arguments") -> Args:
    """Arguments of class `kind` from JSON; `source` names the file in errors."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{source} is not JSON ({error}); delete it or restore it from a copy") from None
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    require(not unknown, f"{source} has fields that {kind.__name__} lacks: {', '.join(unknown)}; remove them")
    if values.get("reward_fn"):
        module, _, name = values["reward_fn"].partition(":")
        values["reward_fn"] = getattr(importlib.import_module(module), name)
    if "lora_maps" in values:
        values["lora_maps"] = tuple(values["lora_maps"])
    return kind(**values)
