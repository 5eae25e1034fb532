"""Chat templates: rendering what others wrote, within bounds, and seeing to it that nothing of the prompt gets lost.

A template is a program that comes with a model. It may know no system role, put the system text elsewhere or leave it out, add
one of its own, raise, or never end. What counts is what it renders, so that is what is looked at.
"""

import ctypes
import inspect
import re
import threading
from typing import Any

from rlhf_lib.args import InputError, require

SECONDS = 5.0  # for one prompt; a usual template takes a thousandth of one
LONGEST = 1_000_000  # characters of one prompt beyond those of its turns
INSTEAD = "use prompt_style plain, or repair chat_template.jinja (or tokenizer_config.json) of the model"
Turn = dict[str, str]


class EndlessTemplate(InputError):
    """A chat template that does not end; also raised within the thread that renders it, to stop it."""


def render_bounded(tokenizer: Any, turns: list[Turn], arguments: dict[str, Any]) -> str:
    """What the tokenizer's chat template makes of turns, with the head of the assistant's at the end.

    A template that loops without end is stopped after SECONDS. It renders in a thread of its own, since only there can an
    exception reach it that disturbs nothing else. One single operation that takes for ever cannot be stopped.

    Raises:
        InputError: the template raises, takes too long, or writes too much.
    """
    found: list[str | BaseException] = []

    def render() -> None:
        try:
            found.append(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(EndlessTemplate))
        raise EndlessTemplate(f"the model's chat template does not end within {SECONDS:g} seconds; {INSTEAD}")
    text = found[0]
    if isinstance(text, BaseException):
        told = " ".join(str(text).split())[:200]
        raise InputError(f"the model's chat template cannot be rendered ({type(text).__name__}: {told}); {INSTEAD}") from text
    most = LONGEST + sum(len(turn["content"]) for turn in turns)
    require(len(text) <= most, f"the model's chat template makes {len(text)} characters of one prompt, over {most}; {INSTEAD}")
    return text


def holds_in_order(text: str, parts: list[str]) -> bool:
    """Whether all parts stand in a text, one after another; white space may differ, since templates trim it."""
    text, place = " ".join(text.split()), 0
    for part in (" ".join(part.split()) for part in parts):
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


def render_chat(tokenizer: Any, turns: list[Turn], system: str, arguments: dict[str, Any]) -> str:
    """The chat template's text of turns that begin with the user's, under a system text.

    The system text goes into a turn of its own. Where a template refuses that (Gemma's), leaves it out, or puts it behind the
    first question (Mistral's), it goes to the head of the first user turn instead. "" is no system text at all, in which case
    many templates write one of their own.

    Raises:
        InputError: a template that cannot be rendered, or that leaves out part of the turns either way.
    """
    require_arguments(tokenizer, arguments)
    parts = [turn["content"] for turn in turns]
    first = {**turns[0], "content": f"{system}\n\n{parts[0]}"}
    ways = [[{"role": "system", "content": system}, *turns], [first, *turns[1:]]] if system else [turns]
    refusal: InputError | None = None
    for way in ways:
        try:
            text = render_bounded(tokenizer, way, arguments)
        except EndlessTemplate:
            raise
        except InputError as error:
            refusal = error
            continue
        if holds_in_order(text, [system, *parts]):
            return text
        refusal = None
    if refusal is not None:
        raise refusal
    raise InputError(
        f"the model's chat template leaves out part of the prompt (system text, {len(parts) // 2} worked examples and the "
        f"question), wherever the system text stands; use fewer examples, or {INSTEAD}"
    )


def require_arguments(tokenizer: Any, arguments: dict[str, Any]) -> None:
    """Arguments of a template are what the template reads, and not what apply_chat_template is told by us."""
    if not arguments:
        return
    template = str(tokenizer.chat_template)
    own = inspect.signature(tokenizer.apply_chat_template).parameters
    for name in arguments:
        require(
            name not in own and re.search(rf"\b{re.escape(name)}\b", template) is not None,
            f"template_args has {name}, which the model's chat template does not read; check the spelling, or leave it out",
        )
