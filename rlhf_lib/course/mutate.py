"""How tight the checkers are: every mutant of every solution against the checks of its exercise."""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tabulate import tabulate

from rlhf_lib.course.assemble import solutions
from rlhf_lib.course.checks import checks_of, diagnose, make_student, run_check
from rlhf_lib.course.equivalents import reason_for
from rlhf_lib.course.manifest import Exercise, all_exercises, find_exercise, load_course
from rlhf_lib.course.mutants import Mutant, mutants_of

SLOWER = 10  # times the solution's own time, and some seconds more, that a check of a mutant may take


@dataclass(frozen=True)
class Fate:
    """What became of one mutant.

    Attributes:
        check: the first check that rejects it; None if all accept it.
        message: what that check said.
        name: the known mistake that it was told to be; None without a name.
        reason: why it is no wrong answer; None where no such reason is written down.
    """

    exercise: str
    operator: str
    target: str
    before: str
    after: str
    check: str | None
    message: str
    name: str | None
    reason: str | None


def mutate(root: Path, exercises: list[Exercise], seed: int, jobs: int, kept: Path | None = None) -> Iterator[Fate]:
    """The fate of all mutants of some exercises.

    Args:
        jobs: processes at work.
        kept: a file of one JSON object a line; what it holds already is not tried again.
    """
    known = {fate.exercise: [] for fate in read(kept)}
    for fate in read(kept):
        known[fate.exercise].append(fate)
    yield from (fate for exercise in exercises for fate in known.get(exercise.name, []))
    waiting = [exercise.name for exercise in exercises if exercise.name not in known]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), set_up) as pool:
        for fates in pool.map(fates_of, [root] * len(waiting), waiting, [seed] * len(waiting)):
            if kept is not None:
                with kept.open("a") as file:
                    file.writelines(json.dumps(asdict(fate)) + "\n" for fate in fates)
            yield from fates


def set_up() -> None:
    """One thread a process: several processes share the machine."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def read(kept: Path | None) -> list[Fate]:
    """The fates in a file."""
    lines = kept.read_text().splitlines() if kept is not None and kept.exists() else []
    return [Fate(**json.loads(line)) for line in lines]


def fates_of(root: Path, name: str, seed: int) -> list[Fate]:
    """The fate of all mutants of one exercise."""
    exercise = find_exercise(root, name)
    limits = {}
    for check in checks_of(root, exercise):
        started = time.process_time()
        run_check(check, make_student(root, exercise, solutions(root, exercise.topic), seed))
        limits[check.__name__] = 3 + SLOWER * (time.process_time() - started)
    return [fate_of(root, exercise, mutant, seed, limits) for mutant in mutants_of(exercise, solutions(root, exercise.topic))]


def fate_of(root: Path, exercise: Exercise, mutant: Mutant, seed: int, limits: dict[str, float]) -> Fate:
    """Run an exercise's checks on a mutant until one rejects it; then look for its name."""
    found = {}
    told = (exercise.name, mutant.operator, mutant.target, mutant.before, mutant.after)
    for check in checks_of(root, exercise):
        outcome = run_check(check, make_student(root, exercise, mutant.answer, seed), limits[check.__name__])
        found[check.__name__] = outcome
        if outcome.state != "passed":
            known = diagnose(root, exercise, mutant.answer, outcome, seed, found)
            return Fate(*told, check.__name__, outcome.text(), known.when if known else None, None)
    return Fate(*told, None, "", None, reason_for(exercise, mutant) or asked_elsewhere(root, exercise, mutant, seed))


def asked_elsewhere(root: Path, exercise: Exercise, mutant: Mutant, seed: int) -> str | None:
    """Another exercise that has the same definition written and rejects the mutant; None without one."""
    for other in load_course(root)[exercise.topic]:
        if other.name != exercise.name and mutant.target in other.local_targets:
            for check in checks_of(root, other):
                if run_check(check, make_student(root, other, mutant.answer, seed)).state != "passed":
                    return f"exercise {other.number}, {other.name}, asks for it"
    return None


def as_table(fates: list[Fate], root: Path, style: str = "simple") -> str:
    """Counts by exercise, then what was accepted without a reason."""
    order = {exercise.name: exercise for exercise in all_exercises(root)}
    groups = {name: [fate for fate in fates if fate.exercise == name] for name in order}
    rows = [(order[name].number, name, *counts(group)) for name, group in groups.items() if group]
    headers = ("", "exercise", "mutants", "rejected", "named", "right too", "accepted")
    table = tabulate([*rows, ("", "total", *counts(fates))], headers, tablefmt=style, disable_numparse=[0])
    accepted = [f"- {fate.exercise}: `{fate.before}` -> `{fate.after}`" for fate in fates if is_accepted(fate)]
    return "\n".join([table, "", *accepted]).rstrip()


def as_page(fates: list[Fate], root: Path) -> str:
    """The table as a page, with what its columns mean."""
    rejected, wrong = sum(fate.check is not None for fate in fates), sum(fate.reason is None for fate in fates)
    return f"""# Mutants of the solutions

Every small edit of every solution against the checks of its exercise: how many are rejected, how many of those behave
as a known mistake in every check and get its name, how many are right answers too (`rlhf_lib/course/equivalents` says
why), and how many are wrong and accepted. Of those that are wrong {rejected / wrong:.2%} are rejected.

    rlhf course mutate --table FILE

{as_table(fates, root, "github")}
"""


def is_accepted(fate: Fate) -> bool:
    """Whether all checks accept a mutant of which nobody has said why it is right."""
    return fate.check is None and fate.reason is None


def counts(fates: list[Fate]) -> tuple[int, int, int, int, int]:
    """How many there are, were rejected, got a name, are no wrong answers, and were accepted all the same."""
    rejected = [fate for fate in fates if fate.check is not None]
    named = sum(fate.name is not None for fate in rejected)
    accepted = sum(map(is_accepted, fates))
    return len(fates), len(rejected), named, len(fates) - len(rejected) - accepted, accepted
