"""Arguments of training without reinforcement: fine-tuning on solutions, reward models, and the bundled model from nothing."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlhf_lib.args.rules import require
from rlhf_lib.args.training import AdapterArgs, PromptArgs, RunArgs, TaskArgs, TaskName, TrainingArgs
from rlhf_lib.args.types import MOST, Between, Count, Name, NotNegative, Positive, Share, Size, SizeFromZero


@dataclass(kw_only=True)
class SftArgs(AdapterArgs, PromptArgs, TrainingArgs):
    """Supervised fine-tuning on worked solutions, or on the model's own right ones; the loss is on the answer alone."""

    algorithm = "sft"

    task: TaskName = "pocket"
    """Where problems and their worked solutions are from: pocket, gsm8k, svamp or mathqa."""
    epochs: Count = 2
    """Passes over the training problems."""
    save_every: Count = 1
    """Epochs between checkpoints."""
    problems: Size = 1000
    """Training problems, the first of the training split; a smaller split is taken whole."""
    batch_size: Size = 16
    """Worked solutions per optimiser step."""
    lr: Positive = 1e-4
    """Peak learning rate; adapters want about ten times that of full fine-tuning."""
    warmup_share: Share = 0.1
    """Part of the steps in which the learning rate rises; it falls to zero in the rest."""
    longest: Count = 512
    """Examples with more tokens (prompt and solution) are left out; the run says how many."""
    self_samples: SizeFromZero = 0
    """Offline self-training: sample so many solutions of every problem from the first model and add the right ones, each
    different one once; 0: the data set's own solutions alone."""
    keep_solutions: bool = True
    """With self_samples: keep the data set's own solutions beside the sampled ones."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
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

    task: TaskName = "pocket"
    """Whose problems the policy answers, and by what its answers are judged: pocket, gsm8k, svamp or mathqa."""
    kind: Literal["bradley-terry", "regression", "verifier"] = "bradley-terry"
    """bradley-terry: which of two is better. regression: the reward itself. verifier: the chance that a solution is right."""
    reward_base: Name = "distilroberta-base"
    """Model that becomes the reward model: a name on the hub or a directory, of an encoder or of a causal model; "pocket"."""
    comparisons: Name | None = None
    """File of rows prompt, chosen, rejected (bradley-terry), or prompt, completion, score (the others), in any format of data;
    left out, completions are sampled from base_model and judged by the task."""
    problems: Size = 200
    """Training problems that completions are sampled of; a fifth of them is held out for measuring."""
    samples: Size = 8
    """Completions sampled per problem."""
    with_solutions: bool = False
    """Add the data set's own solution of every problem as a right completion: for policies that are seldom right."""
    epochs: Count = 2
    """Passes over the rows."""
    save_every: Count = 1
    """Epochs between checkpoints."""
    batch_size: Size = 16
    """Rows (of bradley-terry: pairs) per optimiser step."""
    lr: Positive = 3e-5
    """Peak learning rate."""
    warmup_share: Share = 0.1
    """Part of the steps in which the learning rate rises; it falls to zero in the rest."""
    longest: Annotated[int, Between(8, MOST)] = 512
    """Most tokens of prompt and completion together; longer ones lose the beginning of the prompt."""
    margin: NotNegative = 0.0
    """Bradley-Terry: how much better than the rejected one the chosen one is to be."""
    centring_coef: NotNegative = 0.0
    """Bradley-Terry: weight of the squared sum of both rewards, which keeps them around zero."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
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

    steps: Count = 1800
    """Optimiser steps."""
    batch_size: Size = 64
    """Documents per step."""
    micro_batches: Size = 3
    """Parts of similar length that a step's documents are computed in; changes speed only."""
    lr: Positive = 2e-3
    """Peak learning rate of AdamW on a one-cycle schedule."""
    weight_decay: NotNegative = 0.01
    """AdamW's weight decay."""
    layers: Size = 4
    """Transformer blocks."""
    width: Size = 128
    """Residual stream width d_model; the MLP is three times as wide."""
    heads: Size = 4
    """Attention heads."""
    context: Annotated[int, Between(400, 10**6)] = 512
    """Longest sequence in tokens; the card's prompts with three examples need nearly 400."""
    equation_share: Share = 0.2
    """Share of documents that are bare equations."""
    early_part: Share = 0.85
    """Part of the steps in which reasoning is common."""
    early_reasoning_share: Share = 0.8
    """Share of story documents that reason, in the early part."""
    late_reasoning_share: Share = 0.14
    """Share of story documents that reason, afterwards."""
    question_weight: NotNegative = 0.03
    """Loss weight of a question's tokens; answers and equations weigh 1."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            self.width % (2 * self.heads) == 0,
            f"width={self.width} is not a multiple of twice heads={self.heads} (rotary positions come in pairs); "
            f"try width={self.width + -self.width % (2 * self.heads)}",
        )
