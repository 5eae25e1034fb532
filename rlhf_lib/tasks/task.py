"""What a task is: prompts, the answers that go with them, and reward functions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from rlhf_lib.args import InputError


@dataclass(frozen=True)
class Prompts:
    """Prompts, and columns such as "answer" that reward functions receive by name; all lists have one entry a prompt."""

    prompts: list[str]
    columns: dict[str, list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def repeat(self, count: int) -> "Prompts":
        """Every prompt `count` times in a row: the layout of groups."""
        columns = {name: [value for value in values for _ in range(count)] for name, values in self.columns.items()}
        return Prompts([prompt for prompt in self.prompts for _ in range(count)], columns)

    def slice(self, start: int, stop: int) -> "Prompts":
        """Some of the prompts with their columns."""
        return Prompts(self.prompts[start:stop], {name: values[start:stop] for name, values in self.columns.items()})


class Task(ABC):
    """Subclass, fill these in, and add the class to tasks.TASKS; CONTRIBUTING.md shows a whole one."""

    name: str
    reward_fns: Sequence[Callable]
    reward_weights: Sequence[float] = (1.0,)
    stop_at_eos = True
    """Whether a completion ends at the end-of-sequence token, or always has gen_len tokens."""

    @abstractmethod
    def draw(self, count: int, seed: int, phase: int) -> Prompts:
        """Training prompts of a phase; the same numbers always give the same prompts, so that a resumed run sees no other."""

    def held_out(self, count: int, few_shot: int = 0, style: str | None = None, split: str = "test") -> Prompts | None:
        """Prompts for evaluation, never drawn in training; None where the task has no right answers.

        `few_shot` worked examples from the training split, answered in `style`, go before each question. `split` is test, or
        validation for what is watched during training; None for a split that there is not.
        """
        return None

    def worked(self, count: int) -> Prompts:
        """Training problems for fine-tuning; their worked solutions are the column "solution"."""
        raise InputError(f"task={self.name} has no worked solutions; use pocket, gsm8k, svamp or mathqa")

    def cut(self, completion: str) -> str:
        """What of a completion is its answer; what follows is neither rewarded nor judged."""
        return completion

    def vote_of(self, completion: str) -> Hashable | None:
        """What the completion answers, equal for equal answers; None if nothing."""
        return None

    def is_correct(self, prompts: Prompts, completions: list[str]) -> list[bool]:
        """Which completions give the right answer."""
        raise InputError(f"task={self.name} has no right answers to evaluate; use --task pocket")

    def readings(self, prompts: Prompts, completions: list[str]) -> dict[str, list[bool]]:
        """Stricter and more lenient verdicts than `is_correct`, by name; none where the task knows of no such thing."""
        return {}

    def style_of(self, completion: str) -> str | None:
        """The manner of an answer, for reporting shares; None where the task knows of no such thing."""
        return None
