"""Prompts and columns that Python passes: the rules that they keep, and the digest by which a resumed run knows them again."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from rlhf_lib.args.rules import require

Conversation = Sequence[dict[str, str]]
"""Messages, each {"role": ..., "content": ...}; the last one is not the assistant's."""
RESERVED = ("prompts", "completions", "completion_ids")


def require_prompts(prompts: Any, columns: Any) -> None:
    """Raise unless prompts are texts or conversations, all of one kind, and columns are as long as they."""
    if is_digest(prompts):
        return
    require(
        not isinstance(prompts, (str, dict)) and hasattr(prompts, "__len__") and hasattr(prompts, "__getitem__"),
        f"prompts={prompts!r:.60} must be a list of texts, or of conversations",
    )
    require(len(prompts) > 0, "prompts=[] is empty; give at least one prompt")
    kinds = {isinstance(prompt, str) for prompt in prompts}
    require(len(kinds) == 1, "prompts are partly texts and partly conversations; make all of them one or the other")
    for i, prompt in enumerate(prompts):
        require_prompt(i, prompt)
    require(not columns or isinstance(columns, dict), f"columns={columns!r:.60} must be a dict of lists, by name")
    for name, column in (columns or {}).items():
        require(
            isinstance(name, str) and name not in RESERVED,
            f"columns has {name!r}, but a column is named by a text other than {', '.join(RESERVED)}; rename it",
        )
        require(
            not isinstance(column, str) and hasattr(column, "__len__") and len(column) == len(prompts),
            f"columns[{name!r}] must be a list with one value for each of the {len(prompts)} prompts, not "
            f"{len(column) if hasattr(column, '__len__') else repr(column)[:60]}",
        )


def require_prompt(i: int, prompt: Any) -> None:
    """Raise unless a prompt is a text that is not empty, or a conversation that the assistant is to go on with."""
    if isinstance(prompt, str):
        require(prompt != "", f"prompts[{i}] is empty; leave it out, or write what the model is to go on with")
        return
    is_list = isinstance(prompt, Sequence) and len(prompt) > 0
    require(is_list, f"prompts[{i}]={prompt!r:.60} must be a text, or a list of messages")
    for message in prompt:
        fits = isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        require(
            fits, f"prompts[{i}] has the message {message!r:.60}; a message is {{'role': 'user', 'content': '...'}}, both texts"
        )
    require(
        prompt[-1]["role"] != "assistant", f"prompts[{i}] ends with the assistant's message; leave it for the model to write"
    )


def is_digest(prompts: Any) -> bool:
    """Whether this is what args.json keeps of prompts and columns."""
    return isinstance(prompts, dict) and set(prompts) == {"count", "columns", "sha256"}


def column_names(prompts: Any, columns: Any) -> list[str]:
    """The names of the columns that prompts have."""
    return sorted(prompts["columns"] if is_digest(prompts) else columns or ())


def digest_of(prompts: Any, columns: Any) -> dict[str, Any]:
    """How many prompts there are, the names of their columns, and a SHA-256 over all of both; of such a digest itself."""
    if is_digest(prompts):
        return prompts
    held = [list(prompts), {name: list(column) for name, column in sorted((columns or {}).items())}]
    text = json.dumps(held, default=plain, skipkeys=True)
    return {
        "count": len(prompts),
        "columns": column_names(prompts, columns),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def plain(value: Any) -> Any:
    """A value that JSON does not know: numbers of numpy and torch as they are, of anything else what kind it is."""
    return value.tolist() if hasattr(value, "tolist") else type(value).__qualname__
