"""Rewards: `answers` extracts and compares, `functions` turns that into numbers."""

from rlhf_lib.rewards.answers import answers_match, extract_answer, parse_number, same_answer
from rlhf_lib.rewards.functions import correctness_reward, reward_fn_char_count, score

__all__ = [
    "answers_match",
    "correctness_reward",
    "extract_answer",
    "parse_number",
    "reward_fn_char_count",
    "same_answer",
    "score",
]
