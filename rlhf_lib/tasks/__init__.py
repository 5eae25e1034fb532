"""Tasks by name."""

from collections.abc import Callable

from rlhf_lib.args import InputError
from rlhf_lib.tasks.char_count import FixedPrefixTask
from rlhf_lib.tasks.pocket import PocketTask
from rlhf_lib.tasks.task import Prompts, Task

TASKS: dict[str, Callable[[], Task]] = {"pocket": PocketTask}

__all__ = ["TASKS", "FixedPrefixTask", "PocketTask", "Prompts", "Task", "make_task"]


def make_task(name: str | None, prefix: str = "", reward_fn: Callable | None = None) -> Task:
    """The task of that name; None or "char-count" is the fixed prefix with its reward function."""
    if name in (None, FixedPrefixTask.name):
        return FixedPrefixTask(prefix, reward_fn)
    if name not in TASKS:
        raise InputError(f"task={name!r} does not exist; use {', '.join([*TASKS, FixedPrefixTask.name])}")
    return TASKS[name]()
