"""Rewards of the widespread GSM8K recipe: five functions that together teach a format and its answer, and hardened versions.

The format is <reasoning>, <answer> and their closing tags, each on a line of its own. The five and their amounts are those of
W. Brown's GRPO demo (2025): correctness 2, integer 0.5, strict format 0.5, soft format 0.5, tag count up to 0.5. Two differ:
correctness compares numbers, not strings, and the soft format lets reasoning have several lines, as most copies do by now.
All are TRL's kind of function: fn(prompts, completions, **columns) -> one float a completion, and take its conversational
completions too.
"""

import re
from typing import Any

from rlhf_lib.rewards.answers import answers_match, extract_tagged, parse_number

Completion = str | list[dict[str, str]]
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
STRICT = re.compile(r"<reasoning>\n.*\n</reasoning>\n<answer>\n.*\n</answer>\n")
# (?=(...))\1 takes the first place that fits and tries no other, which makes the work linear in the text: what follows could
# not fit behind a later place either
MULTILINE = re.compile(r"(?=(<reasoning>\n.*?\n</reasoning>\n<answer>\n))\1.*?\n</answer>\n?", re.DOTALL)
SOFT = re.compile(r"(?=(<reasoning>.*?</reasoning>\s*<answer>))\1.*?</answer>", re.DOTALL)
LEAST_REASONING = 8  # characters of reasoning below which the hardened format reward takes it for none


def text_of(completion: Completion) -> str:
    """A completion's text; of a conversation, what the assistant's messages say."""
    if isinstance(completion, str):
        return completion
    return "".join(message["content"] for message in completion if message.get("role", "assistant") == "assistant")


def tagged_answer(completion: Completion) -> str:
    """What stands in the last closed <answer>...</answer>, without surrounding space; "" if there is none."""
    return (extract_tagged(text_of(completion)) or "").strip()


def xml_correctness_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """2 where the last closed <answer> holds the right answer, else 0. A right answer without the tags earns nothing."""
    pairs = zip(completions, answer, strict=True)
    return [2.0 if answers_match(text_of(completion), right, "xml") else 0.0 for completion, right in pairs]


def integer_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """0.5 where the tagged answer is a whole number in digits alone, right or wrong, else 0."""
    return [0.5 if re.fullmatch("[0-9]+", tagged_answer(completion)) else 0.0 for completion in completions]


def strict_format_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    r"""0.5 where the whole completion is the format, line by line, else 0; reasoning and answer have ONE line each.

    That is what the widespread pattern accepts, since its dot matches no line break: reasoning of several lines earns nothing.
    The line break after </answer> must be there, and nothing after it. See multiline_format_reward.
    """
    return [0.5 if STRICT.fullmatch(text_of(completion)) else 0.0 for completion in completions]


def multiline_format_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """0.5 where the whole completion is the format, line by line, else 0; reasoning and answer may have several lines.

    The line break after </answer> may be missing, since decoding often strips it.
    """
    return [0.5 if MULTILINE.fullmatch(text_of(completion)) else 0.0 for completion in completions]


def is_well_formed(text: str) -> bool:
    """Whether a text is the format, from its first line to its last, with each of TAGS once: what evaluation reports."""
    return MULTILINE.fullmatch(text) is not None and all(text.count(tag) == 1 for tag in TAGS)


def soft_format_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """0.5 where the completion begins with reasoning and answer in their tags, whatever the lines, else 0; more may follow."""
    return [0.5 if SOFT.match(text_of(completion)) else 0.0 for completion in completions]


def xml_count_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    r"""0.125 for each of the four tags that stands exactly once, with its line breaks; less 0.001 a character of trailing text.

    What must stand once: "<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>". What follows the last
    "\n</answer>\n" costs 0.001 a character if "\n<answer>\n" counted, where that is missing the whole text follows; what
    follows the last "\n</answer>" costs 0.001 a character but one if "\n</answer>" counted. The sum may fall below 0.
    """
    return [count_tags(text_of(completion)) for completion in completions]


def count_tags(text: str) -> float:
    r"""The reward of `xml_count_reward` for one text: 0.125 a tag that stands exactly once, less 0.001 a trailing character.

    What must stand once: "<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>". If the third does, what follows
    the last "\n</answer>\n" is trailing, the whole text where there is none; if the fourth does, what follows the last
    "\n</answer>" is trailing too, less one character.
    """
    opened, closed = text.count("\n<answer>\n") == 1, text.count("\n</answer>") == 1
    found = (text.count("<reasoning>\n") == 1) + (text.count("\n</reasoning>\n") == 1) + opened + closed
    trailing = len(text.split("\n</answer>\n")[-1]) * opened + (len(text.split("\n</answer>")[-1]) - 1) * closed
    return 0.125 * found - 0.001 * trailing


def hardened_format_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """0.5 where the completion is the format and nothing else, honestly filled, else 0.

    The lines are those of multiline_format_reward; besides, every tag stands once, the reasoning has at least LEAST_REASONING
    characters without the space around it, and the answer states one number: no list of guesses.
    """
    return [0.5 if is_honest(text_of(completion)) else 0.0 for completion in completions]


def is_honest(text: str) -> bool:
    """Whether `hardened_format_reward` pays for a text.

    MULTILINE matches the whole of it, each of TAGS stands once, the reasoning has at least LEAST_REASONING characters without
    the space around it, and the tagged answer states one number (parse_number).
    """
    if not MULTILINE.fullmatch(text) or any(text.count(tag) != 1 for tag in TAGS):
        return False
    reasoning = text.split("</reasoning>")[0].removeprefix("<reasoning>").strip()
    return len(reasoning) >= LEAST_REASONING and parse_number(tagged_answer(text)) is not None


def hardened_correctness_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """2 where `hardened_format_reward` pays and the tagged answer is right, else 0: the format alone never pays."""
    texts = [text_of(completion) for completion in completions]
    pairs = zip(texts, answer, strict=True)
    return [2.0 if is_honest(text) and answers_match(text, right, "xml") else 0.0 for text, right in pairs]
