"""The classic first exercise: one fixed prefix, and a reward that anyone can read off the sample."""

from collections.abc import Callable
from functools import partial
from typing import Any

from rlhf_lib.args.code import name_of
from rlhf_lib.rewards import reward_fn_char_count
from rlhf_lib.tasks.task import Prompts, Task


class FixedPrefixTask(Task):
    """Always the same prompt; `reward_fn` sees whole samples, prefix included. None counts full stops."""

    name = "char-count"
    stop_at_eos = False

    def __init__(self, prefix: str, reward_fn: Callable | None = None):
        self.prefix = prefix
        self.reward_fn = reward_fn_char_count if reward_fn is None else reward_fn
        known = partial(self.whole_sample_reward)
        known.__name__ = name_of(self.reward_fn)
        self.reward_fns = (known,)

    def whole_sample_reward(self, prompts: list[str], completions: list[str], **columns: Any) -> Any:
        """The plain reward function, in TRL's convention."""
        return self.reward_fn([prompt + completion for prompt, completion in zip(prompts, completions, strict=True)])

    def draw(self, count: int, seed: int, phase: int) -> Prompts:
        """The prefix, `count` times."""
        return Prompts([self.prefix] * count)
