"""Accuracy on held-out problems, with its uncertainty."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rlhf_lib.rollouts import rollout
from rlhf_lib.tasks import Prompts, Task


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95% interval (Wilson 1927), all in [0, 1]."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, count: int) -> "Accuracy":
        """From counts; Wilson's interval keeps its meaning near 0 and 1, where the plain one does not."""
        if count == 0:
            return cls(math.nan, 0.0, 1.0)
        z, share = 1.959964, correct / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        return cls(share, max(0.0, centre - half), min(1.0, centre + half))

    def as_dict(self) -> dict[str, float]:
        """For JSON, to four decimals."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True)
class Evaluation:
    """Completions of held-out prompts, judged."""

    prompts: Prompts
    completions: list[str]
    correct: list[bool]
    styles: list[str | None]

    @property
    def accuracy(self) -> Accuracy:
        """The share of right answers."""
        return Accuracy.of(sum(self.correct), len(self.correct))

    def by_style(self) -> dict[str, tuple[float, Accuracy]]:
        """Share of completions, and accuracy, of every style that occurs."""
        found = {}
        for style in sorted({style for style in self.styles if style is not None}):
            right = [c for c, s in zip(self.correct, self.styles, strict=True) if s == style]
            found[style] = (len(right) / len(self.styles), Accuracy.of(sum(right), len(right)))
        return found


def evaluate(
    model: Any,
    task: Task,
    prompts: Prompts,
    *,
    gen_len: int,
    temperature: float = 1.0,
    prepend_bos: bool = True,
    batch_size: int = 125,
    seed: int = 0,
) -> Evaluation:
    """Sample (temperature 0: greedily) one completion a prompt and judge it; torch's global randomness is left alone."""
    generator = torch.Generator(model.device).manual_seed(seed)
    completions: list[str] = []
    for start in range(0, len(prompts), batch_size):
        part = prompts.slice(start, start + batch_size)
        sampled = rollout(model, part.prompts, gen_len, temperature=temperature, prepend_bos=prepend_bos, generator=generator)
        completions += sampled.completions
    return Evaluation(prompts, completions, task.is_correct(prompts, completions), [task.style_of(c) for c in completions])
