"""Options that only another option's value brings to bear: given without it on the command line, they are refused.

In recipes and in Python such values stand as they are, since there they may wait for the other.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rlhf_lib.args.commands import CompareArgs, EvalArgs, ModelArgs, SampleArgs
from rlhf_lib.args.policy_gradients import PolicyGradientArgs
from rlhf_lib.args.reinforcement import ReftArgs, RLArgs, SamplerArgs
from rlhf_lib.args.rules import InputError
from rlhf_lib.args.supervised import RewardModelArgs, SftArgs
from rlhf_lib.args.training import AdapterArgs, PromptArgs, TrainingArgs

PROMPTS = ("task", "data", "prompt_style", "system_prompt", "template_args", "few_shot")


@dataclass(frozen=True)
class Condition:
    """What has to hold of arguments of a class for some of their fields to have an effect."""

    kind: type
    fields: tuple[str, ...]
    holds: Callable[[Any], bool]
    reason: str
    """Why there is none, and what brings one about."""


def reads_files(args: Any) -> bool:
    """Whether the rows come from data, and not from the bundled generator of problems or a fixed prefix."""
    return args.task not in (None, "char-count", "pocket") or getattr(args, "comparisons", None) is not None


CONDITIONS = (
    Condition(
        AdapterArgs,
        ("lora_rank", "lora_alpha", "lora_maps"),
        lambda args: args.adapter is None,
        "adapter brings its own ranks, alphas and maps",
    ),
    Condition(
        AdapterArgs,
        ("lora_alpha", "lora_maps"),
        lambda args: args.lora_rank is not None,
        "they are of adapters; add --lora-rank",
    ),
    Condition(RLArgs, ("reference",), lambda args: args.adapter is not None, "it is of an adapter; add --adapter"),
    Condition(SamplerArgs, ("sampler_memory",), lambda args: args.sampler == "vllm", "it is vLLM's; add --sampler vllm"),
    Condition(
        SamplerArgs,
        ("sampler_url", "sampler_directory", "sampler_timeout"),
        lambda args: args.sampler == "vllm-server",
        "it is of a server; add --sampler vllm-server",
    ),
    Condition(
        SamplerArgs,
        ("sampler_cap", "sampler_correction"),
        lambda args: args.corrects_sampler,
        "nothing is weighted; add --correct-sampler, or another --sampler",
    ),
    Condition(
        PolicyGradientArgs, ("kl_estimator",), lambda args: args.kl_coef > 0, "no KL is estimated; set --kl-coef, such as 0.01"
    ),
    Condition(
        TrainingArgs,
        ("wandb_project_name",),
        lambda args: args.chosen_tracker in ("wandb", "trackio", "mlflow"),
        "no tracker has projects; add --tracker wandb, trackio or mlflow",
    ),
    Condition(
        TrainingArgs, ("wandb_entity",), lambda args: args.chosen_tracker == "wandb", "it is of wandb; add --tracker wandb"
    ),
    Condition(
        RLArgs,
        ("prefix",),
        lambda args: args.task in (None, "char-count"),
        "the task has prompts of its own; use --task char-count",
    ),
    Condition(
        ReftArgs,
        ("warmup_problems", "warmup_batch_size", "warmup_lr"),
        lambda args: args.warmup_epochs > 0,
        "there is no warm-up; set --warmup-epochs",
    ),
    Condition(SftArgs, ("temperature",), lambda args: args.self_samples > 0, "nothing is sampled; set --self-samples"),
    Condition(PromptArgs, ("skip_bad_rows",), reads_files, "no rows are read; give --task gsm8k, svamp or mathqa"),
    Condition(
        RewardModelArgs,
        (*PROMPTS, "base_model", "dtype", "gen_len", "prepend_bos", "problems", "samples", "temperature", "with_solutions"),
        lambda args: args.comparisons is None,
        "comparisons brings the completions",
    ),
    Condition(
        RewardModelArgs, ("rewards", "reward_model"), lambda args: args.comparisons is None, "comparisons brings the scores"
    ),
    Condition(ModelArgs, ("base_model",), lambda args: args.run is None, "run brings its own model"),
    Condition(SampleArgs, (*PROMPTS, "columns", "skip_bad_rows"), lambda args: args.prompt is None, "prompt is the one prompt"),
    Condition(
        EvalArgs,
        ("temperature", "reward_model"),
        lambda args: args.samples > 0,
        "it is of sampled completions; set --samples, such as 8",
    ),
    Condition(EvalArgs, ("style",), lambda args: args.few_shot > 0, "it is of worked examples; set --few-shot, such as 3"),
    Condition(
        CompareArgs, ("reward_base",), lambda args: args.verifier is None, "verifier takes the place of one that is trained"
    ),
    Condition(CompareArgs, ("reward_base",), lambda args: args.task != "pocket", "for task pocket it is the base model"),
    Condition(
        CompareArgs, ("few_shot",), lambda args: "few-shot" in args.methods, "no method has examples; add few-shot to --methods"
    ),
)


def require_effect(args: Any, given: Collection[str]) -> None:
    """Raise where a field was given on the command line that changes nothing beside the others.

    Raises:
        InputError: it says why, and what to add, or to leave the field out.
    """
    for condition in CONDITIONS:
        idle = [name for name in condition.fields if name in given]
        if idle and isinstance(args, condition.kind) and not condition.holds(args):
            option = f"--{idle[0].replace('_', '-')}"
            raise InputError(f"{option} would change nothing: {condition.reason}; else leave out {option}")
