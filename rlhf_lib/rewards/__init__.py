"""Rewards: `answers` extracts and compares, the others turn that into numbers; `functions` adds several up.

REWARDS has all functions that a command line may name.
"""

from collections.abc import Callable

from rlhf_lib.args import InputError
from rlhf_lib.rewards.answers import answer_key, answers_match, extract_answer, parse_number, same_answer
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
from rlhf_lib.rewards.functions import correctness_reward, reward_fn_char_count, score
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
    "answer_key",
    "answers_match",
    "choose_rewards",
    "correctness_reward",
    "extract_answer",
    "parse_number",
    "reward_fn_char_count",
    "same_answer",
    "score",
    "symbolic_correctness_reward",
    "symbolic_match",
    "text_of",
]


def choose_rewards(names: tuple[str, ...]) -> tuple[tuple[Callable, ...], tuple[float, ...]]:
    """Functions and weights of a list such as ("xml_correctness", "soft_format=0.5"); without "=" the weight is 1."""
    functions, weights, known = [], [], {**REWARDS, SYMBOLIC: symbolic_correctness_reward}
    for entry in names:
        name, _, weight = entry.partition("=")
        if name not in known:
            raise InputError(f"rewards={entry!r} is unknown; use NAME or NAME=WEIGHT with a name of {', '.join(known)}")
        if name == SYMBOLIC:
            require_math_verify()
        try:
            weights.append(float(weight or 1))
        except ValueError:
            raise InputError(f"rewards={entry!r} has no number after '='; write for example {name}=0.5") from None
        functions.append(known[name])
    return tuple(functions), tuple(weights)
