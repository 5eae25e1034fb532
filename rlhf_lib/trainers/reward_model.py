"""Train a reward model: on comparisons (Bradley-Terry), on numbers (regression), or as a verifier of sampled solutions."""

import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from rlhf_lib import parallel
from rlhf_lib.args import InputError, RewardModelArgs
from rlhf_lib.evaluate import Accuracy
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.models.reward_model import RewardModel, check_base
from rlhf_lib.optim import get_supervised_optimizer, warmup_then_decay
from rlhf_lib.preferences import (
    calc_preference_loss,
    calc_regression_loss,
    calc_verifier_loss,
    calibration_bins,
    expected_calibration_error,
    make_comparisons,
)
from rlhf_lib.rewards import text_of
from rlhf_lib.rewards.learned import last_message
from rlhf_lib.rollouts import rollout
from rlhf_lib.runs import Run
from rlhf_lib.tasks import Prompts, Task, task_of
from rlhf_lib.tasks.data_files import FORMATS, Reader, format_of, plain_text, read_file
from rlhf_lib.terminal import visible
from rlhf_lib.trainers.trainer import Trainer


@dataclass
class Judged:
    """A completion of a question with its score: 1 and 0 for right and wrong, or any number."""

    question: str
    completion: str
    score: float


Pair = tuple[Judged, Judged]
"""The better one, the worse one."""


def sample_judged(
    policy: Any, task: Task, prompts: Prompts, args: RewardModelArgs, within_budget: Callable[[Iterable[int]], Iterable[int]]
) -> list[Judged]:
    """`args.samples` completions of every prompt with their scores, and the data set's own solution if that is asked for.

    A score is right or wrong; of kind regression it is the task's reward. Completions of one prompt are consecutive. Where
    `within_budget` ends the sampling, prompts without all of their completions are left out.
    """
    repeated, completions, ids = prompts.repeat(args.samples), [], []
    at_once = max(128, args.samples)
    for start in within_budget(range(0, len(repeated), at_once)):
        part = repeated.slice(start, start + at_once)
        sampled = rollout(policy, part.prompts, args.gen_len, temperature=args.temperature, prepend_bos=args.prepend_bos)
        completions += [task.cut(completion) for completion in sampled.completions]
        ids += sampled.completion_ids
    prompts = prompts.slice(0, len(completions) // args.samples)
    repeated = prompts.repeat(args.samples)
    completions, ids = completions[: len(repeated)], ids[: len(repeated)]
    if args.with_solutions:
        size, solutions = args.samples, prompts.columns["solution"]
        groups = [[*completions[i * size : (i + 1) * size], solution] for i, solution in enumerate(solutions)]
        repeated, completions = prompts.repeat(size + 1), [text for group in groups for text in group]
        ids = policy.tokenizer(completions, add_special_tokens=False)["input_ids"]
    if args.kind == "regression":
        scores = task.reward(repeated, completions, ids)[0].tolist()
    else:
        scores = [float(right) for right in task.is_correct(repeated, completions)]
    questions = repeated.columns.get("question", repeated.prompts)
    return [Judged(*row) for row in zip(questions, completions, scores, strict=True)]


def pairs_of(judged: list[Judged], group_size: int) -> list[Pair]:
    """Pairs of a right and a wrong completion of the same question."""
    indices = make_comparisons([row.score > 0 for row in judged], group_size)
    return [(judged[better], judged[worse]) for better, worse in indices]


def read_comparisons(file: str, kind: str, reader: Reader | None = None) -> list[Pair] | list[Judged]:
    """Rows of a file: prompt, chosen, rejected for kind bradley-terry, prompt, completion, score for the others."""
    path, reader = Path(file).expanduser(), reader or Reader()
    if not path.is_file() or format_of(path) is None:
        raise InputError(f"comparisons={file!r} is not a file of rows prompt, chosen, rejected; give {', '.join(FORMATS)}")
    read, needed = read_judged, ("prompt", "completion", "score")
    if kind == "bradley-terry":
        read, needed = read_pair, ("prompt", "chosen", "rejected")
    found = []
    for row in read_file(path, reader):
        missing = [name for name in needed if name not in row]
        try:
            if missing:
                raise ValueError(f"lacks {', '.join(missing)}")
            found.append(read(row))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            rule = f"kind={kind} reads {', '.join(needed)}: texts or lists of messages, and scores as numbers"
            reader.refuse(row.origin, f"{f'a message lacks {error}' if isinstance(error, KeyError) else error}; {rule}")
    if reader.report is not None:
        print(visible(f"comparisons={file!r}: {reader.report}"), file=sys.stderr)
    return found


def said_in(row: Mapping[str, Any], column: str, read: Callable[[Any], str]) -> str:
    """What a column says, plain or conversational; a completion may say nothing."""
    text = read(row[column])
    if text or column == "prompt":
        plain_text(text, column)
    return text


def read_pair(row: Mapping[str, Any]) -> Pair:
    """The two sides of a comparison."""
    question = said_in(row, "prompt", last_message)
    return Judged(question, said_in(row, "chosen", text_of), 1.0), Judged(question, said_in(row, "rejected", text_of), 0.0)


def read_judged(row: Mapping[str, Any]) -> Judged:
    """A completion with its score."""
    score = row["score"]
    if isinstance(score, list) or not math.isfinite(float(score)):
        raise ValueError(f"score is {score!r}")
    return Judged(said_in(row, "prompt", last_message), said_in(row, "completion", text_of), float(score))


class RewardModelTrainer(Trainer):
    """A phase is an epoch. A fifth of the questions is held out, to measure accuracy and calibration on."""

    name = "reward-model"
    args: RewardModelArgs

    def __init__(self, args: RewardModelArgs):
        torch.manual_seed(args.seed)
        self.args = args
        self.check_directory()
        source = self.task.name if args.comparisons is None else Path(args.comparisons).stem
        self.run_name = f"{args.kind}-{source}-seed{args.seed}"
        started = time.perf_counter()
        self.train_rows, self.test_rows = self.rows()
        self.seconds_before_run = time.perf_counter() - started
        self.model = RewardModel(args.reward_base, device=args.device, longest=args.longest)
        steps = args.epochs * -(-len(self.train_rows) // args.batch_size)
        self.optimizer = get_supervised_optimizer(list(self.model.parameters()), args.lr, args.weight_decay, args.optimizer)
        self.scheduler = LambdaLR(self.optimizer, lambda step: warmup_then_decay(step, steps, args.warmup_share))

    def make_task(self) -> Task:
        """Where completions are sampled and judged."""
        return task_of(self.args, self.policy, self.args.gen_len)

    @property
    def policy(self) -> BridgedTransformer:
        """The model whose completions are judged; loaded once, and let go when the rows are there."""
        if not hasattr(self, "_policy"):
            self._policy = BridgedTransformer(self.args.base_model, device=self.args.device, dtype=self.args.dtype)
        return self._policy

    @property
    def samples_per_phase(self) -> int:
        """Rows of an epoch."""
        return len(self.train_rows)

    def samples_after(self, phase: int) -> int:
        """Rows that the run has learned from, of a cut epoch the updates that it had."""
        return self.examples_after(phase, self.args.batch_size)

    @torch.no_grad()
    def outputs_of_a_few_tokens(self) -> list[Tensor]:
        """The score of a short text."""
        return [self.model.score(["1"], ["1"])]

    def rows(self) -> tuple[list, list]:
        """Training and held-out rows, which share no question."""
        args = self.args
        if args.comparisons is not None:
            reader = Reader(args.skip_bad_rows, args.columns_of_data)
            found = read_comparisons(args.comparisons, args.kind, reader)
            questions = [question_of(row) for row in found]
        else:
            check_base(args.reward_base)  # sampling takes long
            prompts = self.task.worked(args.problems)
            judged = sample_judged(self.policy, self.task, prompts, args, partial(self.within_budget, "sampled_batches"))
            questions = [row.question for row in judged]
            group_size = args.samples + args.with_solutions
            found = pairs_of(judged, group_size) if args.kind == "bradley-terry" else judged
            del self._policy
        questions = list(dict.fromkeys(questions))
        random.Random(args.seed).shuffle(questions)
        held_out = set(questions[: len(questions) // 5])  # the same on resume, whatever is sampled then
        train = [row for row in found if question_of(row) not in held_out]
        test = [row for row in found if question_of(row) in held_out]
        if not train or not test:
            remedy = "take more problems or samples, so that some are right and some wrong, or set with_solutions"
            if args.comparisons is not None:
                remedy = f"comparisons={args.comparisons!r} needs usable rows of at least 5 different prompts; add more"
            raise InputError(
                f"there are {len(train)} rows to train on and {len(test)} to measure with, of {len(questions)} questions; both "
                f"are needed: {remedy}"
            )
        self.findings.update(rows=len(train), held_out_rows=len(test))
        return train, test

    def scores(self, rows: list[Judged]) -> Float[Tensor, " batch"]:
        """The model's scores, with gradients; of several processes each computes an even share."""
        own = slice(parallel.number(), None, parallel.count())
        scores = torch.zeros(len(rows), device=self.model.device)
        if mine := rows[own]:
            scores[own] = self.model(*self.model.encode([row.question for row in mine], [row.completion for row in mine]))
        return parallel.sum_of_parts(scores, self.model.parameters())

    def loss(self, rows: list) -> Float[Tensor, ""]:
        """The loss of args.kind on some rows."""
        args = self.args
        if args.kind == "bradley-terry":
            both = self.scores([better for better, _ in rows] + [worse for _, worse in rows])
            return calc_preference_loss(both[: len(rows)], both[len(rows) :], args.margin, args.centring_coef)
        targets = torch.tensor([row.score for row in rows], device=self.model.device)
        if args.kind == "regression":
            return calc_regression_loss(self.scores(rows), targets)
        return calc_verifier_loss(self.scores(rows), targets > 0)

    def learning_phase(self) -> None:
        """One epoch, or what the budget has left of it; dropout is at work, if the model has any."""
        args, order = self.args, list(range(len(self.train_rows)))
        random.Random(1000 * args.seed + self.phase).shuffle(order)
        starts = range(0, len(order), args.batch_size)
        self.model.train()
        with self.metrics.timed("train"):
            for start in self.rest_of_epoch(starts, len(starts)):
                loss = self.loss([self.train_rows[i] for i in order[start : start + args.batch_size]])
                self.optimizer.zero_grad()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), args.max_grad_norm)
                self.stop_if_diverged(loss, norm)
                self.optimizer.step()
                self.scheduler.step()
                self.step += 1
                self.log(loss=loss, grad_norm=norm)
        self.model.eval()
        judged = self.measure()["judged"]
        self.log(held_out_judged=None if judged is None else judged.value)

    def predictions(self) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
        """On held-out rows: the chance that the model gives to something, and whether that came true.

        Bradley-Terry and regression: that the first of two completions is better, in an order that ignores which was; of
        regression, neighbours in the list with different scores. Verifier: that a completion is right.
        """
        if self.args.kind == "verifier":
            chances = self.probabilities(self.test_rows).sigmoid()
            return chances, torch.tensor([row.score > 0 for row in self.test_rows])
        pairs = list(held_out_pairs(self.test_rows))
        if not pairs:
            return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
        first, second = self.probabilities([a for a, _ in pairs]), self.probabilities([b for _, b in pairs])
        return (first - second).sigmoid(), torch.tensor([a.score > b.score for a, b in pairs])

    def probabilities(self, rows: list[Judged]) -> Float[Tensor, " rows"]:
        """Scores of rows, without gradients."""
        return self.model.score([row.question for row in rows], [row.completion for row in rows])

    def accuracy(self, count: int, temperature: float, split: str = "test") -> Accuracy | None:
        """The share of held-out rows judged rightly, however many are asked for."""
        return self.measure()["judged"]

    def measure(self) -> dict[str, Accuracy | None]:
        """The share of held-out rows judged rightly; the calibration goes to the findings."""
        chances, outcomes = self.predictions()
        if not len(chances):
            return {"judged": None}  # no two held-out completions differ in score
        right = int(((chances > 0.5) == outcomes).sum())
        self.findings.update(
            calibration_error=round(expected_calibration_error(chances, outcomes), 4),
            calibration=[[round(p, 3), round(t, 3), n] for p, t, n in calibration_bins(chances, outcomes)],
            positive_share=round(float(outcomes.float().mean()), 4),
        )
        return {"judged": Accuracy.of(right, len(outcomes))}

    def train(self) -> dict[str, Any]:
        """Run all epochs and save the model, with what it was trained as in its configuration."""
        self.model.model.config.reward_kind = self.args.kind
        self.run = run = Run(self)
        for self.phase in run.phases():
            self.learning_phase()
        return run.finish()


def question_of(row: Any) -> str:
    """The question of a row, whichever kind it is."""
    return (row[0] if isinstance(row, tuple) else row).question


def held_out_pairs(rows: list) -> Iterator[Pair]:
    """Pairs to rank: given ones in alternating order, or neighbours with different scores."""
    if isinstance(rows[0], tuple):
        for i, (better, worse) in enumerate(rows):
            yield (better, worse) if i % 2 else (worse, better)
    else:
        for first, second in zip(rows[::2], rows[1::2], strict=False):
            if first.score != second.score:
                yield first, second
