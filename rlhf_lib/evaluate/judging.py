"""Judging completions of held-out problems: one each, or several to vote and choose among."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from rlhf_lib.evaluate.accuracy import Accuracy
from rlhf_lib.samplers import OwnSampler, Sampler
from rlhf_lib.selection import majority_vote, pass_at_k, rerank, weighted_vote
from rlhf_lib.tasks import Prompts, Task


@dataclass(frozen=True)
class Evaluation:
    """Completions of held-out prompts, judged."""

    prompts: Prompts
    completions: list[str]
    correct: list[bool]
    styles: list[str | None]
    cut_share: float = 0.0
    """Share of completions that were cut at gen_len."""
    votes: list[Hashable | None] = field(default_factory=list)
    """What each completion answers; None where nothing can be read."""
    readings: dict[str, list[bool]] = field(default_factory=dict)
    """Stricter and more lenient verdicts by name, where the task has them."""

    @property
    def accuracy(self) -> Accuracy:
        """The share of right answers."""
        return Accuracy.of(sum(self.correct), len(self.correct))

    def table(self) -> list[tuple[str, Accuracy]]:
        """The accuracy, and the share of every reading."""
        shares = [(f"greedy, {name}", Accuracy.of(sum(right), len(right))) for name, right in self.readings.items()]
        return [("greedy", self.accuracy), *shares]

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
    sampler: Sampler | None = None,
) -> Evaluation:
    """Sample (temperature 0: greedily) one completion a prompt and judge it; torch's global randomness is left alone.

    `sampler` None is the library's own.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    completions: list[str] = []
    cut = 0
    for start in tqdm(range(0, len(prompts), batch_size), "evaluating", leave=False, delay=5, disable=None):
        part = prompts.slice(start, start + batch_size)
        options = {"temperature": temperature, "prepend_bos": prepend_bos, "generator": generator}
        sampled = (sampler or OwnSampler()).rollout(model, part.prompts, gen_len, **options)
        completions += sampled.completions
        cut += sum(not ended for ended in sampled.ended)
    correct, styles = task.is_correct(prompts, completions), [task.style_of(completion) for completion in completions]
    votes = [task.vote_of(completion) for completion in completions]
    readings = task.readings(prompts, completions)
    return Evaluation(prompts, completions, correct, styles, cut / len(completions), votes, readings)


@dataclass(frozen=True)
class SampledEvaluation:
    """Several completions of every held-out problem, judged; inner lists have one entry a sample."""

    prompts: Prompts
    """One a problem."""
    completions: list[list[str]]
    correct: list[list[bool]]
    votes: list[list[Hashable | None]]
    """What each completion answers, equal for equal answers."""
    scores: list[list[float]] | None = None
    """A reward model's score of each completion."""

    @property
    def samples(self) -> int:
        """Completions per problem."""
        return len(self.completions[0])

    def pass_at(self, k: int) -> Accuracy:
        """Chance that one of k samples is right, from all samples."""
        return Accuracy.mean([pass_at_k(len(right), sum(right), k) for right in self.correct])

    def chosen(self, picks: list[int | None]) -> Accuracy:
        """Accuracy of one chosen sample a problem; None is no answer, and wrong."""
        right = [pick is not None and correct[pick] for pick, correct in zip(picks, self.correct, strict=True)]
        return Accuracy.of(sum(right), len(right))

    def majority_at(self, k: int) -> Accuracy:
        """maj@k: the most frequent answer of the first k samples."""
        return self.chosen([majority_vote(votes[:k]) for votes in self.votes])

    def rerank_at(self, k: int) -> Accuracy | None:
        """rerank@k: the best-scored of the first k samples; None without scores."""
        return None if self.scores is None else self.chosen([rerank(scores[:k]) for scores in self.scores])

    def weighted_at(self, k: int) -> Accuracy | None:
        """Weighted vote of the first k samples, each with the sigmoid of its score; None without scores."""
        if self.scores is None:
            return None
        weights = [torch.tensor(scores[:k]).sigmoid().tolist() for scores in self.scores]
        return self.chosen([weighted_vote(votes[:k], w) for votes, w in zip(self.votes, weights, strict=True)])

    def table(self) -> list[tuple[str, Accuracy]]:
        """pass@k, maj@k and, with scores, rerank@k and weighted@k, for k = 1, 2, 4, ... and all samples."""
        counts = sorted({min(2**i, self.samples) for i in range(self.samples.bit_length() + 1)})
        kinds = (("pass", self.pass_at), ("maj", self.majority_at), ("rerank", self.rerank_at), ("weighted", self.weighted_at))
        rows = [(f"{name}@{k}", measure(k)) for name, measure in kinds for k in counts if k > 1 or name == "pass"]
        return [(name, figure) for name, figure in rows if figure is not None]


def evaluate_samples(
    model: Any,
    task: Task,
    prompts: Prompts,
    samples: int,
    *,
    gen_len: int,
    temperature: float = 1.0,
    prepend_bos: bool = True,
    batch_size: int = 128,
    seed: int = 0,
    reward_model: Any = None,
) -> SampledEvaluation:
    """Sample several completions a prompt and judge them; a RewardModel, where given, scores each for reranking."""
    repeated = prompts.repeat(samples)
    options: dict[str, Any] = {"gen_len": gen_len, "temperature": temperature, "prepend_bos": prepend_bos}
    judged = evaluate(model, task, repeated, batch_size=batch_size, seed=seed, **options)
    answers = [task.cut(completion) for completion in judged.completions]
    scores = None
    if reward_model is not None:
        questions = repeated.columns.get("question", repeated.prompts)
        scores = in_groups(reward_model.score(questions, answers).tolist(), samples)
    return SampledEvaluation(
        prompts,
        in_groups(judged.completions, samples),
        in_groups(judged.correct, samples),
        in_groups(judged.votes, samples),
        scores,
    )


def in_groups(values: list, size: int) -> list[list]:
    """Consecutive runs of `size` values."""
    return [values[start : start + size] for start in range(0, len(values), size)]
