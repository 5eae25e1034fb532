"""Proof that the checkers hold: solutions pass, stubs are to do, and every named mistake is rejected and named."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from rlhf_lib.course.assemble import Implementation, solutions
from rlhf_lib.course.bank import Mistake, bank_of
from rlhf_lib.course.checks import Check, behaving_like, checks_of, outcomes_of_mistake, run_exercise
from rlhf_lib.course.manifest import Exercise, load_course
from rlhf_lib.course.outcomes import Outcome, state_of
from rlhf_lib.course.render import render_stubs


@dataclass
class Validation:
    """What was found for one exercise."""

    exercise: Exercise
    checks: int
    stub_is_todo: bool
    solution_passes: bool
    mistakes: int = 0
    rejected: int = 0
    named: int = 0
    crashed: int = 0
    """Mistakes that are rejected because they raise an error."""
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Everything as it must be."""
        return self.stub_is_todo and self.solution_passes and self.checks > 0 and not self.faults


def validate(root: Path, exercises: list[Exercise], seed: int = 0) -> Iterator[Validation]:
    """Validate some exercises."""
    for exercise in exercises:
        stubs = Implementation(
            render_stubs(exercise.topic, load_course(root)[exercise.topic]), f"exercises/{exercise.topic}.py"
        )
        yield validate_exercise(root, exercise, stubs, seed)


def validate_exercise(root: Path, exercise: Exercise, stubs: Implementation, seed: int) -> Validation:
    """Run solution, stub and every mistake of an exercise through its checks."""
    solved = run_exercise(root, exercise, solutions(root, exercise.topic), seed)
    blank = run_exercise(root, exercise, stubs, seed)
    found = Validation(
        exercise, len(solved), bool(blank) and all(o.state == "todo" for o in blank), state_of(solved) == "passed"
    )
    found.faults += [f"{o.check} fails the solution:\n{o.text()}" for o in solved if o.state != "passed"]
    firsts = {known: first_wrong(root, exercise, known, seed) for known in bank_of(exercise)}
    for known, (check, outcome) in firsts.items():
        found.mistakes += 1
        if check is None or outcome is None:
            found.faults.append(f"accepted although {known.when}")
            continue
        found.rejected += 1
        found.crashed += outcome.crashed
        beside = [other for other, (first, _) in firsts.items() if first is check and other is not known]
        equals = behaving_alike(root, exercise, known, beside, check, seed)
        if equals:
            found.faults.append(f"behave alike: {known.when} / " + " / ".join(other.when for other in equals))
        else:
            found.named += 1
    if 4 * found.crashed > found.mistakes:
        found.faults.append(f"{found.crashed} of {found.mistakes} mistakes fail by an error, more than a quarter")
    return found


def first_wrong(root: Path, exercise: Exercise, known: Mistake, seed: int) -> tuple[Check | None, Outcome | None]:
    """The first check that rejects a mistake."""
    for check in checks_of(root, exercise):
        outcome = outcomes_of_mistake(root, exercise, known, check, seed)
        if outcome.state == "wrong":
            return check, outcome
    return None, None


def behaving_alike(
    root: Path, exercise: Exercise, known: Mistake, others: list[Mistake], check: Check, seed: int
) -> list[Mistake]:
    """Those of some mistakes, rejected by the same first check, that no check tells from this one.

    Mistakes that another check rejects first need no comparison: one of the two passes where the other fails.
    """
    for each in sorted(checks_of(root, exercise), key=lambda one: one is not check):
        if others:
            ours = outcomes_of_mistake(root, exercise, known, each, seed).trace
            others = behaving_like(root, exercise, ours, others, each, seed)
    return others


def as_table(found: list[Validation]) -> str:
    """The table of exercises, with totals."""
    rows = [
        (
            v.exercise.number,
            v.exercise.name,
            v.checks,
            "todo" if v.stub_is_todo else "NOT TODO",
            "passes" if v.solution_passes else "FAILS",
            v.mistakes,
            v.rejected,
            v.named,
            v.crashed,
        )
        for v in found
    ]
    totals = ["", "total", *([sum(row[2] for row in rows)]), "", "", *(sum(row[i] for row in rows) for i in (5, 6, 7, 8))]
    headers = ("", "exercise", "checks", "stub", "solution", "mistakes", "rejected", "named", "by error")
    table = tabulate([*rows, totals], headers=headers, disable_numparse=[0])
    faults = "".join(f"\n{v.exercise.name}: {fault}" for v in found for fault in v.faults)
    return f"{table}\n{faults}".rstrip()


def as_counts(found: list[Validation]) -> dict[str, int]:
    """The totals by name."""
    return {
        "exercises": len(found),
        "checks": sum(v.checks for v in found),
        "stubs_todo": sum(v.stub_is_todo for v in found),
        "solutions_passed": sum(v.solution_passes for v in found),
        "mistakes": sum(v.mistakes for v in found),
        "rejected": sum(v.rejected for v in found),
        "named": sum(v.named for v in found),
    }
