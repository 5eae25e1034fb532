"""Rewards as arguments name them: functions or names of functions, each with a weight."""

import math
import re
from collections.abc import Callable
from typing import Any

from rlhf_lib.args.code import CodeInFile, saved_name
from rlhf_lib.args.rules import InputError, require

Reward = str | Callable | tuple[str | Callable, float | int]
"""NAME, NAME=WEIGHT, FILE.py:NAME, FILE.py:NAME=WEIGHT, a function, or a function and its weight."""
FILE_AND_WEIGHT = re.compile(r"(?P<what>.+\.py:\w*)(=(?P<weight>.*))?", re.IGNORECASE | re.DOTALL)  # a path may hold = and :
NAME_AND_WEIGHT = re.compile(r"(?P<what>[^=:]*)(=(?P<weight>.*))?", re.DOTALL)


def split_weight(entry: Any) -> tuple[str | Callable, float]:
    """A reward and its weight, 1 where none is given.

    Raises:
        InputError: neither of Reward's forms, or a weight that is no finite number.
    """
    what, weight = entry, 1.0
    if isinstance(entry, str):
        parts = FILE_AND_WEIGHT.fullmatch(entry) or NAME_AND_WEIGHT.fullmatch(entry)
        if parts is not None and parts["weight"] is not None:
            what, weight = type(entry)(parts["what"]), parts["weight"]
    elif isinstance(entry, (tuple, list)) and len(entry) == 2:
        what, weight = entry
    require(
        isinstance(what, str) or callable(what),
        f"rewards={entry!r} must be a name, a function, or a pair of either with its weight",
    )
    try:
        weight = float(weight)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"rewards={reward_text(entry)} has no number after '='; write for example {reward_text(what)}=0.5"
        ) from None
    require(
        math.isfinite(weight),
        f"rewards={reward_text(entry)}: a weight must be a finite number, not {weight}; leave it out for 1",
    )
    return what, weight


def reward_text(entry: Any) -> str:
    """A reward as errors and args.json write it."""
    if isinstance(entry, (tuple, list)) and len(entry) == 2:
        what, weight = entry
        return f"{saved_name(what)}={weight:g}" if isinstance(weight, (int, float)) else f"{saved_name(what)}={weight}"
    return saved_name(entry)


def require_rewards(rewards: Any) -> None:
    """Raise unless `rewards` is a list or tuple of Reward."""
    require(
        isinstance(rewards, (list, tuple)),
        f"rewards={rewards!r} must be a list of names and functions; write rewards=[{reward_text(rewards)}]",
    )
    for entry in rewards:
        split_weight(entry)


def load_code(args: Any) -> None:
    """Import the files of code that arguments name, so that what is wrong with them is told at once.

    Raises:
        InputError: see CodeInFile.load.
    """
    rewards = [split_weight(entry)[0] for entry in getattr(args, "rewards", ())]
    for value in (getattr(args, "task", None), getattr(args, "reward_fn", None), *rewards):
        if isinstance(value, CodeInFile):
            value.load()


__all__ = ["CodeInFile", "Reward", "load_code", "require_rewards", "reward_text", "split_weight"]
