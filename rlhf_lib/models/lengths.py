"""Texts that are far too long: found out by their characters, since tokenising megabytes takes many seconds."""

from typing import Any

CHARACTERS = 100  # more than the tokens of any text have on average


def is_far_too_long(text: str, room: int) -> bool:
    """Whether a text has more than `room` tokens beyond doubt."""
    return len(text) > CHARACTERS * room


def token_count(tokenizer: Any, text: str, room: int) -> int:
    """The number of tokens of a text, without special ones; of one that is far too long for `room`, only more than that."""
    return room + 1 if is_far_too_long(text, room) else len(tokenizer(text, add_special_tokens=False)["input_ids"])


def last_tokens(tokenizer: Any, text: str, count: int) -> list[int]:
    """The last `count` tokens of a text, without special ones; all of a shorter one."""
    ids = tokenizer(text[-CHARACTERS * count :], add_special_tokens=False)["input_ids"]
    return ids[max(0, len(ids) - count) :]
