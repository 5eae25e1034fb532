"""Arguments of the commands that look at models and compare them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from rlhf_lib.args.rules import require
from rlhf_lib.args.training import CommonArgs, Dtype, PromptArgs, RunArgs, TaskName
from rlhf_lib.args.types import (
    Count,
    Examples,
    Name,
    Positive,
    Share,
    Size,
    SizeFromZero,
    TemperatureOrGreedy,
)

METHODS = ("zero-shot", "few-shot", "sft", "self-offline", "self-online", "ppo", "grpo", "reft")


@dataclass(kw_only=True)
class ModelArgs(PromptArgs, CommonArgs):
    """Which model a command loads, and how it samples."""

    base_model: Name = "pocket"
    """"pocket" (bundled), a Hugging Face name, or a local directory in that format."""
    adapter: Name | None = None
    """Directory of an adapter in PEFT's format, to put on the base model."""
    run: Name | None = None
    """Directory of a training run, ended or not: its model, in place of --base-model and --adapter."""
    which: Name = "last"
    """Which model of the run: last (of one that was killed or still trains, its last checkpoint), best (--keep-best), or
    phase-N (--save-model-every)."""
    task: TaskName = "pocket"
    """Where prompts come from: pocket, gsm8k, svamp or mathqa."""
    prepend_bos: bool = True
    """Put the tokenizer's beginning-of-sequence token before every prompt, where it has one."""
    temperature: TemperatureOrGreedy = 1.0
    """Softmax temperature; 0 takes the likeliest token."""
    gen_len: Size = 48
    """Most tokens generated per completion."""
    dtype: Dtype = "float32"
    """Number format of the base model."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        require(
            self.run is None or self.adapter is None,
            f"run={self.run!r} brings its own adapter; leave out adapter={self.adapter!r}",
        )
        require(
            re.fullmatch(r"last|best|phase-\d{1,9}", self.which) is not None,
            f"which={self.which!r} must be last, best or phase-N with the number of a phase, such as phase-10",
        )
        require(self.which == "last" or self.run is not None, f"which={self.which!r} is of a run; add --run DIRECTORY")


@dataclass(kw_only=True)
class SampleArgs(ModelArgs):
    """Print completions, of the trained model beside its base model's."""

    prompt: Name | None = None
    """A prompt of your own; left out, held-out problems of the task."""
    count: Size = 4
    """Completions to print."""


@dataclass(kw_only=True)
class EvalArgs(ModelArgs):
    """Measure accuracy on held-out problems: greedy, and of several samples pass@k, majority and reranking."""

    problems: Size = 500
    """Held-out problems."""
    samples: SizeFromZero = 0
    """Completions sampled per problem for pass@k, maj@k and rerank@k, k = 1, 2, 4, ... up to it; 0: none."""
    style: Literal["reasoning", "bare", "sentence"] = "reasoning"
    """Style of the worked examples (task pocket)."""
    reward_model: Name | None = None
    """Directory of a trained reward model or verifier to rerank the samples with."""
    batch_size: Size = 128
    """Completions generated at once."""
    output_dir: Name | None = None
    """Directory for results.json, the table, problems.jsonl (all completions and verdicts) and samples.html to browse."""


@dataclass(kw_only=True)
class MergeArgs(CommonArgs):
    """Add an adapter to its base model's weights and save the whole: what RL is to start from, and be compared with."""

    unread: ClassVar[Mapping[str, str]] = {"seed": "merging draws nothing at random"}

    adapter: Name
    """Directory of an adapter in PEFT's format."""
    output_dir: Name
    """Directory for the merged model, in Hugging Face's format."""
    base_model: Name | None = None
    """The adapter's base model, where it is not where the adapter says."""
    dtype: Dtype = "float32"
    """Number format of the merged weights."""


@dataclass(kw_only=True)
class CompareArgs(PromptArgs, RunArgs):
    """Every method and seed under one budget of training, in one report."""

    algorithm = "compare"

    unread: ClassVar[Mapping[str, str]] = {"seed": "the seeds are 0, 1, 2, ..., as many as seeds says"}

    task: TaskName = "pocket"
    """Word problems: pocket, gsm8k, svamp or mathqa."""
    base_model: Name = "pocket"
    """The model that every method starts from."""
    methods: tuple[str, ...] = METHODS
    """Which methods, of zero-shot few-shot sft self-offline self-online ppo grpo reft."""
    seeds: Count = 3
    """How many seeds: 0, 1, 2, ..."""
    budget: Positive = 60.0
    """Seconds of training that each method has for each seed."""
    few_shot: Examples = 3
    """Worked examples of the few-shot row."""
    problems: Size = 100
    """Held-out problems that every method and seed is measured on."""
    samples: Size = 8
    """Samples per problem for pass@k, maj@k and rerank@k."""
    gen_len: Size = 48
    """Most tokens generated per completion."""
    target: Share = 0.8
    """Held-out accuracy to which steps, samples and seconds are counted."""
    verifier: Name | None = None
    """Directory of a reward model to rerank with; left out, one is trained on the base model's samples first."""
    reward_base: Name = "distilroberta-base"
    """What that verifier starts from; for task pocket it is the bundled model."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        unknown = [method for method in self.methods if method not in METHODS]
        require(
            not unknown and len(self.methods) > 0,
            f"methods={' '.join(self.methods)} must name at least one of {' '.join(METHODS)} and nothing else",
        )
