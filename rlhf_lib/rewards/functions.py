"""Reward functions, and how several make one reward.

Two conventions. A task's follow TRL: fn(prompts, completions, **columns) -> one float a completion, None where the reward
does not apply. A fixed prefix has the plain one: fn(list of whole samples) -> tensor [batch].
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.args import InputError
from rlhf_lib.rewards.answers import answers_match
from rlhf_lib.rewards.formats import text_of


def reward_fn_char_count(generated_sample: list[str], char: str = ".") -> Float[Tensor, " batch"]:
    """How often the character `char` occurs in each sample, as a float: one reward a sample, in their order."""
    return torch.tensor([float(sample.count(char)) for sample in generated_sample])


def correctness_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """1 for the right answer, wherever the completion gives it, else 0."""
    return [float(answers_match(text_of(c), a)) for c, a in zip(completions, answer, strict=True)]


def checked_rewards(name: str, rewards: Any, count: int) -> list[float | None]:
    """A reward function's result as a list of `count` floats or Nones; anything else is an error that says what came back.

    A None in place of the list means that the reward applies to no completion.
    """
    if rewards is None:
        return [None] * count
    if isinstance(rewards, Tensor):
        rewards = rewards.detach().cpu().tolist()
    if isinstance(rewards, str) or not isinstance(rewards, Sequence):
        raise InputError(
            f"reward function {name} returned {rewards!r}, a single value; return {count} floats, one a completion"
        )
    if len(rewards) != count:
        raise InputError(f"reward function {name} returned {len(rewards)} values for {count} completions; return one each")
    for i, reward in enumerate(rewards):
        if reward is None:
            continue
        if isinstance(reward, (list, tuple, str)) or not math.isfinite(reward):
            raise InputError(
                f"reward function {name} returned {reward!r} for completion {i}; return a finite number, or None to abstain"
            )
    return [None if reward is None else float(reward) for reward in rewards]


def score(
    functions: Sequence[Callable],
    weights: Sequence[float],
    prompts: list[str],
    completions: list[str],
    columns: dict[str, list],
) -> tuple[Float[Tensor, " batch"], dict[str, list[float | None]]]:
    """The weighted sum of all rewards that apply, and each reward on its own by its function's name.

    Of several processes each asks the functions about its own prompts.

    Raises:
        InputError: a function returns something else than one finite number (or None) a completion, or no reward applies.
    """
    count, own = len(completions), parallel.own_rows(prompts)
    own_columns = {name: column[own] for name, column in columns.items()} if parallel.count() > 1 else columns
    each: dict[str, list[float | None]] = {}
    for i, fn in enumerate(functions):
        name = fn.__name__ if fn.__name__ not in each else f"{fn.__name__}_{i + 1}"
        with torch.random.fork_rng(devices=[], enabled=parallel.count() > 1):  # what one process draws must not set it apart
            given = checked_rewards(name, fn(prompts[own], completions[own], **own_columns), len(completions[own]))
        each[name] = parallel.gather_lists(given)
    totals = []
    for i in range(count):
        applying = [w * values[i] for w, values in zip(weights, each.values(), strict=True) if values[i] is not None]
        if not applying:
            raise InputError(
                f"no reward function applies to completion {i}: all of {', '.join(each)} returned None; let one give 0"
            )
        totals.append(sum(applying))
    return torch.tensor(totals), each
