"""Word problems with exact answers, and the documents that the bundled model is pretrained on.

A problem is a story about one quantity: a start and one to four steps of + - *. Its *program* (the numbers and operations,
without names) decides its split, so train, validation and test are disjoint by construction: whatever the seed, no program
of one split is ever drawn in another.

Left out on purpose: distractors, fractions, and steps that refer back. They would make the arithmetic harder without
making the lesson, that reasoning pays, any clearer.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_lib.args import InputError

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry", "Iris", "Jack", "Lena", "Omar")
THINGS = ("apples", "books", "cards", "coins", "cups", "eggs", "keys", "marbles", "pens", "shells", "stamps", "toys")
SENTENCES = {
    "+": ("{name} buys {n} more.", "{name} finds {n} more.", "{friend} gives {name} {n} more."),
    "-": ("{name} loses {n}.", "{name} sells {n}.", "{name} gives {n} to {friend}."),
    "*": ("Then {name} has {n} times as many.",),
}
STYLES = ("reasoning", "bare", "sentence")
SPLITS = ("train", "validation", "test")
STEP_WEIGHTS = {1: 1, 2: 2, 3: 3, 4: 3}  # how often a problem has so many steps
PAIR_WEIGHTS = {1: 16, 2: 3, 3: 1}  # how often a document has so many question-answer pairs
MAX_NUMBER = 20  # largest number in a story
MAX_VALUE = 99  # largest intermediate result


@dataclass(frozen=True)
class Problem:
    """One story; `steps` holds (operation, number, sentence) in order."""

    name: str
    thing: str
    start: int
    steps: tuple[tuple[str, int, str], ...]

    @property
    def program(self) -> tuple:
        """What is computed, without the words: (start, (operation, number), ...)."""
        return (self.start, *((op, n) for op, n, _ in self.steps))

    @property
    def split(self) -> str:
        """The split that this program belongs to: a tenth each for validation and test."""
        bucket = zlib.crc32(repr(self.program).encode()) % 10
        return {0: "test", 1: "validation"}.get(bucket, "train")

    @property
    def equations(self) -> list[str]:
        """The worked steps, such as ["3+4=7", "7*2=14"]."""
        lines, value = [], self.start
        for op, n, _ in self.steps:
            result = apply(op, value, n)
            lines.append(f"{value}{op}{n}={result}")
            value = result
        return lines

    @property
    def answer(self) -> int:
        """The value after the last step."""
        return int(self.equations[-1].split("=")[1])

    @property
    def question(self) -> str:
        """The story and the question, one line."""
        story = [f"{self.name} has {self.start} {self.thing}.", *(sentence for _, _, sentence in self.steps)]
        return " ".join(story) + f" How many {self.thing} does {self.name} have now?"


def apply(op: str, value: int, n: int) -> int:
    """`value op n` for op in + - *."""
    return {"+": value + n, "-": value - n, "*": value * n}[op]


def prompt_text(question: str) -> str:
    """The question as the model sees it; every answer style follows directly."""
    return f"Question: {question}\nAnswer:\n"


def answer_text(problem: Problem, style: str) -> str:
    """The answer of a problem in one of STYLES, without the end-of-sequence token."""
    if style == "reasoning":
        steps = "".join(f"{equation}\n" for equation in problem.equations)
        return f"<reasoning>\n{steps}</reasoning>\n<answer>\n{problem.answer}\n</answer>\n"
    if style == "bare":
        return f"<answer>\n{problem.answer}\n</answer>\n"
    if style == "sentence":
        return f"{problem.name} has {problem.answer} {problem.thing} now."
    raise InputError(f"style={style!r} is not an answer style; use one of {', '.join(STYLES)}")


def draw_problem(rng: random.Random) -> Problem:
    """One problem of any split; every intermediate value lies between 2 and MAX_VALUE."""
    name, friend = rng.sample(NAMES, 2)
    start = value = rng.randint(2, MAX_NUMBER)
    count = rng.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))[0]
    steps = []
    while len(steps) < count:
        op = rng.choice("+-*")
        n = rng.randint(2, 5 if op == "*" else MAX_NUMBER)
        if not 2 <= apply(op, value, n) <= MAX_VALUE:
            continue
        value = apply(op, value, n)
        steps.append((op, n, rng.choice(SENTENCES[op]).format(name=name, friend=friend, n=n)))
    return Problem(name, rng.choice(THINGS), start, tuple(steps))


def draw_problems(split: str, seed: int) -> Iterator[Problem]:
    """Endless problems of one split, reproducible from the seed."""
    if split not in SPLITS:
        raise InputError(f"split={split!r} does not exist; use one of {', '.join(SPLITS)}")
    rng = random.Random(f"{split}-{seed}")
    while True:
        problem = draw_problem(rng)
        if problem.split == split:
            yield problem


def fixed_problems(split: str, count: int, seed: int = 0) -> list[Problem]:
    """`count` problems of a split with pairwise different questions."""
    distinct = {}
    for problem in draw_problems(split, seed):
        distinct.setdefault(problem.question, problem)
        if len(distinct) == count:
            return list(distinct.values())
    raise AssertionError("draw_problems is endless")


@dataclass(frozen=True)
class Segment:
    """A piece of a document, tokenised on its own; `ends` says that the end-of-sequence token follows."""

    text: str
    loss_weight: float
    ends: bool = False


def draw_equations(rng: random.Random, count: int = 18) -> list[Segment]:
    """A document of bare equations: without these the arithmetic stays unlearned."""
    lines = []
    while len(lines) < count:
        op = rng.choice("+-*")
        value, n = rng.randint(2, MAX_VALUE), rng.randint(2, 5 if op == "*" else MAX_NUMBER)
        if 2 <= apply(op, value, n) <= MAX_VALUE:
            lines.append(f"{value}{op}{n}={apply(op, value, n)}\n")
    return [Segment("".join(lines), 1.0, ends=True)]


def draw_document(
    rng: random.Random, problems: Iterator[Problem], reasoning_share: float, equation_share: float, question_weight: float
) -> list[Segment]:
    """One pretraining document: bare equations, or one to three problems answered in ONE style."""
    if rng.random() < equation_share:
        return draw_equations(rng)
    style = "reasoning" if rng.random() < reasoning_share else rng.choice(("bare", "sentence"))
    segments = []
    for _ in range(rng.choices(list(PAIR_WEIGHTS), list(PAIR_WEIGHTS.values()))[0]):
        problem = next(problems)
        segments.append(Segment(prompt_text(problem.question), question_weight))
        segments.append(Segment(answer_text(problem, style), 1.0, ends=True))
    return segments
