"""Rewards that look at more than right or wrong: ReFT's, length-aware, and language consistency. All are TRL's kind."""

import unicodedata
from collections import defaultdict
from typing import Any

from rlhf_lib.rewards.answers import answers_match, extract_answer, is_option
from rlhf_lib.rewards.formats import text_of

LONGEST_LOOKED_AT = 20_000  # characters of a completion in which letters are counted


def reft_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """1 for the right answer, 0.1 for a wrong one that can be extracted, 0 for none (Trung et al. 2024, section 3.2)."""
    rewards = []
    for text, right in zip([text_of(completion) for completion in completions], answer, strict=True):
        answered = extract_answer(text, "letter" if is_option(right) else "any")
        rewards.append(1.0 if answers_match(text, right) else 0.1 if answered else 0.0)
    return rewards


def length_aware_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """Among completions of one prompt, short right ones earn most (Kimi team 2025, section 2.3.3).

    With s = 0.5 - (length - shortest) / (longest - shortest) over the prompt's completions, a right one earns s and a wrong
    one min(0, s): from 0.5 down to -0.5, and a wrong answer never gains by being short. Equal lengths give s = 0. Lengths are
    in tokens where the column completion_ids is given, else in characters. To be added to a reward of correctness.
    """
    texts = [text_of(completion) for completion in completions]
    lengths = [len(ids) for ids in columns.get("completion_ids") or texts]
    groups = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[str(prompt)].append(i)
    rewards = [0.0] * len(texts)
    for members in groups.values():
        shortest, longest = min(lengths[i] for i in members), max(lengths[i] for i in members)
        for i in members if longest > shortest else []:
            share = 0.5 - (lengths[i] - shortest) / (longest - shortest)
            rewards[i] = share if answers_match(texts[i], answer[i]) else min(0.0, share)
    return rewards


def language_consistency_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """Share of a completion's letters that are Latin ones, in [0, 1]; 0 without letters.

    The idea is DeepSeek-AI's (2025, section 2.3.2): reasoning trained for correctness alone mixes languages. This one sees
    scripts, not languages: it tells English from Chinese, not from French.
    """
    return [latin_share(text_of(completion)[:LONGEST_LOOKED_AT]) for completion in completions]


def latin_share(text: str) -> float:
    """Share of the letters of a text that are Latin; 0 without letters."""
    letters = [character for character in text if character.isalpha()]
    latin = sum(character.isascii() or unicodedata.name(character, "").startswith("LATIN") for character in letters)
    return latin / len(letters) if letters else 0.0
