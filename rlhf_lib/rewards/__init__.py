"""Rewards: `answers` extracts and compares, the others turn that into numbers; `functions` adds several up.

REWARDS has all functions that a command line may name.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rlhf_lib.args import CodeInFile, InputError, require
from rlhf_lib.args.code import name_of, names_code, saved_name
from rlhf_lib.args.weights import Reward, split_weight
from rlhf_lib.rewards.answers import answer_key, answers_match, extract_answer, parse_number, same_answer
from rlhf_lib.rewards.calling import RewardError
from rlhf_lib.rewards.formats import (
    hardened_correctness_reward,
    hardened_format_reward,
    integer_reward,
    multiline_format_reward,
    soft_format_reward,
    strict_format_reward,
    text_of,
    xml_correctness_reward,
    xml_count_reward,
)
from rlhf_lib.rewards.functions import correctness_reward, reward_fn_char_count, total_rewards
from rlhf_lib.rewards.shaping import language_consistency_reward, length_aware_reward, reft_reward
from rlhf_lib.rewards.symbolic import require_math_verify, symbolic_correctness_reward, symbolic_match

XML_REWARDS = (xml_correctness_reward, integer_reward, strict_format_reward, soft_format_reward, xml_count_reward)
REWARDS: dict[str, Callable] = {
    reward.__name__.removesuffix("_reward"): reward
    for reward in (
        correctness_reward,
        *XML_REWARDS,
        multiline_format_reward,
        hardened_format_reward,
        hardened_correctness_reward,
        reft_reward,
        length_aware_reward,
        language_consistency_reward,
    )
}
SYMBOLIC = "symbolic_correctness"  # not among REWARDS, since it needs the package math-verify

__all__ = [
    "REWARDS",
    "XML_REWARDS",
    "RewardError",
    "answer_key",
    "answers_match",
    "choose_rewards",
    "correctness_reward",
    "extract_answer",
    "function_in_file",
    "parse_number",
    "reward_fn_char_count",
    "same_answer",
    "symbolic_correctness_reward",
    "symbolic_match",
    "text_of",
    "total_rewards",
]


def choose_rewards(entries: Sequence[Reward]) -> tuple[tuple[Callable, ...], tuple[float, ...]]:
    """Functions and weights of a list such as ("xml_correctness", "soft_format=0.5", own_function, (another, 2.0)).

    A name is one of REWARDS, or a CodeInFile, whose file is imported. Without a weight it is 1.

    Raises:
        InputError: an unknown name, a weight that is no finite number, or a file that has no such function.
    """
    pairs = [split_weight(entry) for entry in entries]
    return tuple(reward_function(what) for what, _ in pairs), tuple(weight for _, weight in pairs)


def reward_function(what: str | Callable) -> Callable:
    """The function that is meant."""
    if isinstance(what, CodeInFile):
        return function_in_file(what)
    if not isinstance(what, str):
        return usable(what, saved_name(what))
    if what == SYMBOLIC:
        require_math_verify()
        return symbolic_correctness_reward
    if what not in REWARDS:
        is_code = names_code(what) or ":" in what
        own = "give the function itself, or CodeInFile(...)" if is_code else "or FILE.py:NAME, of your own"
        raise InputError(
            f"rewards={what!r} is unknown; use NAME or NAME=WEIGHT with a name of {', '.join([*REWARDS, SYMBOLIC])}; {own}"
        )
    return REWARDS[what]


def function_in_file(code: CodeInFile) -> Callable:
    """The function that a file has under a name; it is known by that name, whatever it calls itself."""
    function, name = usable(code.load(), code), code.rpartition(":")[2]
    if name_of(function) == name:
        return function
    known = partial(function)
    known.__name__ = name
    return known


def usable(function: Any, shown: str) -> Callable:
    """Raise unless this can be called with prompts and completions."""
    require(callable(function), f"{shown} is {type(function).__name__} {function!r:.60}, not a function; name a function")
    require(
        not isinstance(function, type),
        f"{shown} is a class; give a function, or an instance that can be called, such as one = {name_of(function)}()",
    )
    return function
