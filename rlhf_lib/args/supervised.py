"""Arguments of training without reinforcement: fine-tuning on solutions, reward models, and the bundled model from nothing."""

from dataclasses import dataclass
from typing import Literal

from rlhf_lib.args.rules import require, require_not_negative, require_positive, require_share
from rlhf_lib.args.training import LORA_MAPS, PromptArgs, RunArgs, TaskArgs, TrainingArgs


@dataclass(kw_only=True)
class SftArgs(PromptArgs, TrainingArgs):
    """Supervised fine-tuning on worked solutions, or on the model's own right ones; the loss is on the answer alone."""

    algorithm = "sft"

    task: str | None = "pocket"
    """Where problems and their worked solutions are from: pocket, gsm8k, svamp or mathqa."""
    epochs: int = 2
    """Passes over the training problems."""
    save_every: int = 1
    """Epochs between checkpoints."""
    problems: int = 1000
    """Training problems, the first of the training split; a smaller split is taken whole."""
    batch_size: int = 16
    """Worked solutions per optimiser step."""
    lr: float = 1e-4
    """Peak learning rate; adapters want about ten times that of full fine-tuning."""
    warmup_share: float = 0.1
    """Part of the steps in which the learning rate rises; it falls to zero in the rest."""
    longest: int = 512
    """Examples with more tokens (prompt and solution) are left out; the run says how many."""
    lora_rank: int | None = None
    """Rank of the adapters; left out, every weight is trained."""
    lora_alpha: float = 32.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_maps: tuple[str, ...] = LORA_MAPS
    """Linear maps that get an adapter."""
    adapter: str | None = None
    """Directory of an adapter in PEFT's format to go on from, on its own base model, with its own ranks, alphas and maps."""
    self_samples: int = 0
    """Offline self-training: sample so many solutions of every problem from the first model and add the right ones, each
    different one once; 0: the data set's own solutions alone."""
    keep_solutions: bool = True
    """With self_samples: keep the data set's own solutions beside the sampled ones."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        PromptArgs.__post_init__(self)
        TrainingArgs.__post_init__(self)
        require_positive(self, "epochs", "problems", "batch_size", "lr", "longest", "lora_alpha")
        require_not_negative(self, "self_samples")
        require_share(self, "warmup_share")
        require(
            self.lora_rank is None or self.lora_rank > 0,
            f"lora_rank={self.lora_rank} must be above 0; leave it out to train every weight",
        )
        require(
            self.task not in (None, "char-count"),
            f"task={self.task!r} has no worked solutions; use pocket, gsm8k, svamp or mathqa",
        )
        require(
            self.keep_solutions or self.self_samples > 0,
            "keep_solutions=False without self_samples leaves nothing to train on; set self_samples, such as 8",
        )

    @property
    def total_phases(self) -> int:
        """A phase is an epoch."""
        return self.epochs


@dataclass(kw_only=True)
class RewardModelArgs(TaskArgs, TrainingArgs):
    """A reward model: trained on comparisons, on numbers, or as a verifier of solutions sampled from the policy."""

    algorithm = "reward-model"

    task: str | None = "pocket"
    """Whose problems the policy answers, and by what its answers are judged: pocket, gsm8k, svamp or mathqa."""
    kind: Literal["bradley-terry", "regression", "verifier"] = "bradley-terry"
    """bradley-terry: which of two is better. regression: the reward itself. verifier: the chance that a solution is right."""
    reward_base: str = "distilroberta-base"
    """Model that becomes the reward model: a name on the hub or a directory, of an encoder or of a causal model; "pocket"."""
    comparisons: str | None = None
    """File of rows prompt, chosen, rejected (bradley-terry), or prompt, completion, score (the others), .jsonl or .parquet;
    left out, completions are sampled from base_model and judged by the task."""
    problems: int = 200
    """Training problems that completions are sampled of; a fifth of them is held out for measuring."""
    samples: int = 8
    """Completions sampled per problem."""
    with_solutions: bool = False
    """Add the data set's own solution of every problem as a right completion: for policies that are seldom right."""
    epochs: int = 2
    """Passes over the rows."""
    save_every: int = 1
    """Epochs between checkpoints."""
    batch_size: int = 16
    """Rows (of bradley-terry: pairs) per optimiser step."""
    lr: float = 3e-5
    """Peak learning rate."""
    warmup_share: float = 0.1
    """Part of the steps in which the learning rate rises; it falls to zero in the rest."""
    longest: int = 512
    """Most tokens of prompt and completion together; longer ones lose the beginning of the prompt."""
    margin: float = 0.0
    """Bradley-Terry: how much better than the rejected one the chosen one is to be."""
    centring_coef: float = 0.0
    """Bradley-Terry: weight of the squared sum of both rewards, which keeps them around zero."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        TaskArgs.__post_init__(self)
        TrainingArgs.__post_init__(self)
        require_positive(self, "problems", "samples", "epochs", "batch_size", "lr", "longest")
        require_not_negative(self, "margin", "centring_coef")
        require_share(self, "warmup_share")
        require(
            self.kind == "bradley-terry" or self.margin == self.centring_coef == 0,
            f"margin={self.margin} and centring_coef={self.centring_coef} are of kind bradley-terry; leave them out",
        )
        require(
            self.kind == "regression" or (not self.rewards and self.reward_model is None),
            f"rewards and reward_model are for kind regression; kind={self.kind} learns right and wrong, leave them out",
        )
        require(
            self.comparisons is not None or self.task not in (None, "char-count"),
            f"task={self.task!r} cannot judge completions; use pocket, gsm8k, svamp or mathqa, or give comparisons",
        )

    @property
    def total_phases(self) -> int:
        """A phase is an epoch."""
        return self.epochs

    @property
    def trains_base_model(self) -> bool:
        """The base model only writes what is judged."""
        return False


@dataclass(kw_only=True)
class PretrainArgs(RunArgs):
    """The bundled model from nothing; the defaults reproduce the shipped weights' recipe."""

    algorithm = "pretrain"

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
