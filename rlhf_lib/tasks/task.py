"""What a task is: prompts, the answers that go with them, and reward functions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from rlhf_lib.args import InputError, require
from rlhf_lib.args.given import Conversation
from rlhf_lib.rewards import answers_match, symbolic_correctness_reward, symbolic_match, total_rewards


@dataclass(frozen=True)
class Prompts:
    """Prompts, and columns such as "answer" that reward functions receive by name; all lists have one entry a prompt."""

    prompts: list[str]
    columns: dict[str, list] = field(default_factory=dict)
    messages: list[Conversation] | None = None
    """What the prompts were made of where they are conversations: what reward functions receive in their place."""

    def __post_init__(self) -> None:
        """Check that all lists are as long as the prompts."""
        for name, values in {**self.columns, **({} if self.messages is None else {"messages": self.messages})}.items():
            require(
                len(values) == len(self.prompts),
                f"column {name} has {len(values)} values for {len(self.prompts)} prompts; give one each",
            )

    def __len__(self) -> int:
        return len(self.prompts)

    def repeat(self, count: int) -> "Prompts":
        """Every prompt `count` times in a row: the layout of groups."""
        return self.take([i for i in range(len(self)) for _ in range(count)])

    def slice(self, start: int, stop: int) -> "Prompts":
        """Some of the prompts with their columns."""
        return self.take(list(range(len(self)))[start:stop])

    def take(self, rows: list[int]) -> "Prompts":
        """The prompts of these numbers, in this order, with their columns."""
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        messages = None if self.messages is None else [self.messages[i] for i in rows]
        return Prompts([self.prompts[i] for i in rows], columns, messages)


class Task(ABC):
    """Subclass and fill these in; `--task FILE.py:CLASS` then is the task. CONTRIBUTING.md shows a whole one."""

    name: str
    """What runs are named for; left out, the class's name."""
    reward_fns: Sequence[Callable] = ()
    reward_weights: Sequence[float] = (1.0,)
    """One weight a function; left out, 1 each."""
    answer_form: str = "#### {}"
    """How a completion gives its answer, in place of {}."""
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

    @property
    def matches(self) -> Callable[..., bool]:
        """What judges an answer: symbolic_match where that is what is rewarded, so that evaluation sees what training sees."""
        return symbolic_match if symbolic_correctness_reward in self.reward_fns else answers_match

    def is_correct(self, prompts: Prompts, completions: list[str]) -> list[bool]:
        """Which completions give the right answer."""
        raise InputError(f"task={self.name} has no right answers to evaluate; use --task pocket")

    def verdicts(self, prompts: Prompts, completions: list[str]) -> list[bool] | None:
        """Which completions give the right answer; None where the task does not judge these."""
        can_judge = "answer" in prompts.columns and type(self).is_correct is not Task.is_correct
        return self.is_correct(prompts, completions) if can_judge else None

    def reward(
        self, prompts: Prompts, completions: list[str], completion_ids: list[list[int]]
    ) -> tuple[Float[Tensor, " batch"], dict[str, list[float | None]]]:
        """The weighted reward of every completion, already cut, and each reward on its own by its function's name.

        Where the prompts are conversations, the functions receive prompts and completions as lists of messages, as in TRL.

        Raises:
            InputError: see rewards.total_rewards; or there are no reward functions, or not as many as weights.
        """
        functions, weights = self.reward_fns, tuple(self.reward_weights)
        require(len(functions) > 0, f"task={self.name} has no reward_fns; set them, or give rewards")
        weights = (1.0,) * len(functions) if weights == (1.0,) else weights
        require(
            len(weights) == len(functions),
            f"task={self.name} has {len(functions)} reward_fns and {len(weights)} reward_weights; give one weight each",
        )
        asked: list = prompts.prompts
        written: list = completions
        if prompts.messages is not None:
            asked, written = prompts.messages, [[{"role": "assistant", "content": text}] for text in completions]
        return total_rewards(functions, weights, asked, written, {**prompts.columns, "completion_ids": completion_ids})

    def readings(self, prompts: Prompts, completions: list[str]) -> dict[str, list[bool]]:
        """Stricter and more lenient verdicts than `is_correct`, by name; none where the task knows of no such thing."""
        return {}

    def style_of(self, completion: str) -> str | None:
        """The manner of an answer, for reporting shares; None where the task knows of no such thing."""
        return None
