"""Reward functions, and how several make one reward.

Two conventions. A task's follow TRL: fn(prompts, completions, **columns) -> one number a completion, None where the reward does
not apply. A fixed prefix has the plain one: fn(list of whole samples) -> tensor [batch]. How TRL's kind is called: see calling.
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
from rlhf_lib.rewards.calling import ask_all, names_of
from rlhf_lib.rewards.formats import text_of


def reward_fn_char_count(generated_sample: list[str], char: str = ".") -> Float[Tensor, " batch"]:
    """How often the character `char` occurs in each sample, as a float: one reward a sample, in their order."""
    return torch.tensor([float(sample.count(char)) for sample in generated_sample])


def correctness_reward(prompts: list, completions: list, answer: list, **columns: Any) -> list[float]:
    """1 for the right answer, wherever the completion gives it, else 0."""
    return [float(answers_match(text_of(c), str(a))) for c, a in zip(completions, answer, strict=True)]


def checked_rewards(name: str, rewards: Any, count: int) -> list[float | None]:
    """A reward function's result as a list of `count` floats or Nones; anything else is an error that says what came back.

    It may be a list, a tuple, or what has tolist (tensors, arrays, series), of numbers of any kind or truth values. A None in
    place of the list means that the reward applies to no completion.
    """
    if rewards is None:
        return [None] * count
    shape = getattr(rewards, "shape", None)
    if shape is not None and len(shape) > 1:
        raise InputError(
            f"reward function {name} returned shape {list(shape)}; return one number a completion, shape [{count}], such as "
            "by .squeeze(-1)"
        )
    if hasattr(rewards, "tolist"):
        rewards = rewards.tolist()
    if isinstance(rewards, str) or not isinstance(rewards, Sequence):
        shown = rewards if isinstance(rewards, (str, int, float)) else type(rewards).__name__
        raise InputError(
            f"reward function {name} returned {shown!r}, a single value; return a list of {count} numbers, one a completion"
        )
    if len(rewards) != count:
        raise InputError(f"reward function {name} returned {len(rewards)} values for {count} completions; return one each")
    return [None if reward is None else checked_number(name, i, reward) for i, reward in enumerate(rewards)]


def checked_number(name: str, i: int, reward: Any) -> float:
    """A reward as a float: any kind of real number, a truth value, or a tensor or array of one element without dimensions."""
    try:
        number = math.nan if isinstance(reward, (str, bytes)) or getattr(reward, "shape", ()) != () else float(reward)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"reward function {name} returned {reward!r:.60} for completion {i}; return a finite number, or None to abstain"
        )
    return number


def total_rewards(
    functions: Sequence[Callable],
    weights: Sequence[float],
    prompts: list,
    completions: list,
    columns: dict[str, list],
) -> tuple[Float[Tensor, " batch"], dict[str, list[float | None]]]:
    """The weighted sum of all rewards that apply, and each reward on its own by its function's name.

    Prompts and completions are texts, or lists of messages. Of several processes each asks the functions about its own prompts.

    Raises:
        InputError: a function returns something else than one finite number (or None) a completion, no reward applies, or
            they add up to more than float32 holds.
        RewardError: a function raises.
    """
    count, own = len(completions), parallel.own_rows(prompts)
    names, asked = names_of(functions), len(completions[own])
    own_columns = {name: column[own] for name, column in columns.items()} if parallel.count() > 1 else columns
    with torch.random.fork_rng(devices=[], enabled=parallel.count() > 1):  # what one process draws must not set it apart
        given = ask_all(functions, names, prompts[own], completions[own], own_columns) if asked else [[]] * len(names)
    each = {
        name: parallel.gather_lists(checked_rewards(name, rewards, asked)) for name, rewards in zip(names, given, strict=True)
    }
    totals = []
    for i in range(count):
        applying = [w * values[i] for w, values in zip(weights, each.values(), strict=True) if values[i] is not None]
        if not applying:
            raise InputError(
                f"no reward function applies to completion {i}: all of {', '.join(each)} returned None; let one give 0"
            )
        totals.append(sum(applying))
    total = torch.tensor(totals)
    for i in (~total.isfinite()).nonzero()[:1, 0].tolist():
        raise InputError(f"the rewards of completion {i} add up to {totals[i]}, which float32 does not hold; scale them down")
    return total, each
