"""Calling reward functions of anybody's as TRL calls them: by keyword, with what they name; async ones in one event loop."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from rlhf_lib.args import InputError
from rlhf_lib.args.code import described, name_of


class RewardError(InputError):
    """A reward function raised; the message gives the exception and the line, the cause is the exception itself."""


def names_of(functions: Sequence[Callable]) -> list[str]:
    """A name for each function, all different: its own, numbered from the second of that name on."""
    names: list[str] = []
    for function in functions:
        own, number = name_of(function), 1
        name = own
        while name in names:
            number += 1
            name = f"{own}_{number}"
        names.append(name)
    return names


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Whatever is raised inside is the reward function's fault, also an exit; lack of memory is the machine's."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise RewardError(f"reward function {name} raised {described(error)}; correct it") from error


def arguments_for(function: Callable, name: str, given: dict[str, Any]) -> tuple[list, dict[str, Any]]:
    """Of what is `given`, the arguments that a function takes: all by keyword where it has **columns, else those it names.

    Raises:
        InputError: it needs an argument that is not given.
    """
    bound = function.keywords if isinstance(function, partial) else {}
    given = {key: value for key, value in given.items() if key not in bound}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C nothing is known
        return [], given
    first = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in given]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [p.name for p in needed if p.name not in given]
    if missing:
        raise InputError(
            f"reward function {name} needs {', '.join(missing)}, and there are {', '.join(given)}; name its parameters like "
            "these, as TRL does, or give columns of those names"
        )
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters}
    rest = {key: value for key, value in given.items() if key not in first and (takes_all or key in named)}
    return [given[key] for key in first], rest


def copied(rows: list) -> list:
    """A list that a function may change, down to the messages of conversations."""
    return [[dict(message) for message in row] if is_conversation(row) else row for row in rows]


def is_conversation(row: Any) -> bool:
    """Whether this is a list of messages."""
    return isinstance(row, list) and all(isinstance(message, dict) for message in row)


def ask_all(
    functions: Sequence[Callable], names: Sequence[str], prompts: list, completions: list, columns: dict[str, list]
) -> list[Any]:
    """What each function returns; what is to be awaited is awaited together. Each gets lists of its own.

    Raises:
        RewardError: a function raises.
    """
    results: list[Any] = []
    try:
        for function, name in zip(functions, names, strict=True):
            given = {"prompts": prompts, "completions": completions, **columns}
            taken, named = arguments_for(function, name, {key: copied(rows) for key, rows in given.items()})
            with blaming(name):
                results.append(function(*taken, **named))
    except BaseException:
        for result in results:
            if inspect.iscoroutine(result):
                result.close()
        raise
    waiting = {i: result for i, result in enumerate(results) if inspect.isawaitable(result)}
    for i, result in zip(waiting, run_together(list(waiting.values())), strict=True):
        with blaming(names[i]):
            if isinstance(result, BaseException):
                raise result
        results[i] = result
    return results


def run_together(waiting: list[Awaitable]) -> list[Any]:
    """The results of awaitables, or what they raised, run at once in an event loop of their own.

    Where a loop is running already, as in a notebook, theirs runs in another thread.
    """

    async def gathered() -> list[Any]:
        return await asyncio.gather(*waiting, return_exceptions=True)

    if not waiting:
        return []
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gathered())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(gathered())).result()
