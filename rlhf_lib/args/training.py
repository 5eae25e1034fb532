"""Arguments of everything that trains."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from rlhf_lib.args.code import typed
from rlhf_lib.args.rules import require
from rlhf_lib.args.types import (
    CheckedArgs,
    Count,
    CountFromZero,
    Examples,
    Name,
    NotNegative,
    Positive,
    Seed,
    Size,
    SizeFromZero,
    Temperature,
)
from rlhf_lib.args.weights import Reward, require_rewards

LORA_MAPS = ("attn.q", "attn.k", "attn.v", "attn.o", "mlp.in", "mlp.gate", "mlp.out")
Dtype = Literal["float32", "bfloat16", "4bit"]
PromptStyle = Literal["plain", "chat", "xml"]
TaskName = Annotated[Name | type | None, typed("{None}|TASK|FILE.py:CLASS", or_none=True)]
GEN_LEN = {"pocket": 48, "gsm8k": 256, "svamp": 128, "mathqa": 256}  # tokens that most answers of a task fit into


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
class AdapterArgs(CheckedArgs):
    """Low-rank adapters, where they are what learns."""

    lora_rank: Size | None = None
    """Rank of every adapter; None trains every weight."""
    lora_alpha: Positive = 32.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_maps: tuple[str, ...] = LORA_MAPS
    """Linear maps that get an adapter; maps that a model lacks (GPT-2 has no mlp.gate) are passed over."""
    adapter: Name | None = None
    """Directory of an adapter in PEFT's format to go on from, in place of a new one: on its own base model, with its own ranks,
    alphas and maps, whatever lora_rank, lora_alpha and lora_maps say."""

    def __post_init__(self) -> None:
        """Check the maps' names."""
        super().__post_init__()
        unknown = [name for name in self.lora_maps if name not in LORA_MAPS]
        require(
            not unknown and len(self.lora_maps) > 0,
            f"lora_maps={self.lora_maps} must name at least one of {' '.join(LORA_MAPS)} and nothing else",
        )

    @property
    def has_adapters(self) -> bool:
        """Whether what learns are low-rank adapters."""
        return self.lora_rank is not None or self.adapter is not None


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

    @property
    def has_adapters(self) -> bool:
        """Whether what learns are low-rank adapters."""
        return False

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
        can_learn = self.has_adapters or not self.trains_base_model
        require(
            self.dtype != "bfloat16" or can_learn,
            "dtype='bfloat16' without adapters would train nothing: steps of a usual learning rate are lost in rounding; use "
            "float32, or adapters (lora_rank, such as 16)",
        )
        require(
            self.dtype != "4bit" or can_learn,
            "dtype='4bit' weights cannot be trained; use adapters (lora_rank, such as 16)",
        )
