"""Runs the checkers: finds an exercise's checks, runs them on an answer, and tells which known mistake a wrong one is."""

import importlib.util
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_lib.course import NotAttempted
from rlhf_lib.course.assemble import Implementation, assemble
from rlhf_lib.course.bank import Mistake, bank_of, implementation_of
from rlhf_lib.course.expect import Wrong
from rlhf_lib.course.manifest import Exercise
from rlhf_lib.course.outcomes import Outcome
from rlhf_lib.course.student import Crash, Handle, Observation, Student
from rlhf_lib.engine import plain_formulas

Check = Callable[[Student], None]
TIME_LIMIT = 60  # seconds a check may take before it counts as hanging
MOST_DIAGNOSED = 3  # wrong checks of an exercise that are compared with the bank


def exercise_of(check_name: str) -> str:
    """The exercise that a checker test_<exercise>__<what> belongs to."""
    return check_name.removeprefix("test_").split("__")[0]


@cache
def load_checks(root: Path, topic: str) -> dict[str, list[Check]]:
    """The checks in tests/test_<topic>.py by exercise."""
    file = root / "tests" / f"test_{topic}.py"
    spec = importlib.util.spec_from_file_location(f"checkers_{topic}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: dict[str, list[Check]] = {}
    for name, function in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(function):
            found.setdefault(exercise_of(name), []).append(function)
    return found


def checks_of(root: Path, exercise: Exercise) -> list[Check]:
    """The checks of one exercise in order."""
    return load_checks(root, exercise.topic).get(exercise.name, [])


def make_student(root: Path, exercise: Exercise, answer: Implementation, seed: int) -> Student:
    """The door to one answer of one exercise, everything else being the library's."""
    return Student(lambda: assemble(root, exercise, answer), answer, seed)


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Crash in code that does not come to an end within TIME_LIMIT, where signals allow it."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def too_long(number: int, frame: Any) -> None:
        raise Crash(("got", f"no result in {TIME_LIMIT} seconds: an endless loop?"))

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def conditions() -> Iterator[None]:
    """How a check runs: not without end, and every formula as it is written."""
    with time_limit(), plain_formulas():
        yield


def outcome_of(check: Check, student: Student, error: BaseException | None) -> Outcome:
    """What a check's exception, or its absence, says."""
    if error is None:
        return Outcome("passed", check.__name__, trace=student.trace)
    if isinstance(error, NotAttempted):
        lines = [("to do", f"exercise {error.exercise}, explained in {error.where}")]
        return Outcome("todo", check.__name__, lines, student.trace)
    lines = [("check", (inspect.getdoc(check) or check.__name__).splitlines()[0])]
    if student.called:
        lines.append(("called", student.called))
    if not isinstance(error, Wrong):
        error = Wrong(("got", f"{type(error).__name__}: {error}"))
    return Outcome("wrong", check.__name__, [*lines, *error.lines], student.trace, isinstance(error, Crash))


def run_check(check: Check, student: Student) -> Outcome:
    """Run one check to its end."""
    try:
        with conditions():
            check(student)
    except Exception as error:
        return outcome_of(check, student, error)
    return outcome_of(check, student, None)


def run_exercise(root: Path, exercise: Exercise, answer: Implementation, seed: int) -> list[Outcome]:
    """Run all checks of an exercise on an answer, each with fresh objects."""
    return [run_check(check, make_student(root, exercise, answer, seed)) for check in checks_of(root, exercise)]


@cache
def outcomes_of_mistake(root: Path, exercise: Exercise, wrong: Mistake, check: Check, seed: int) -> Outcome:
    """What a check says to a known mistake."""
    return run_check(check, make_student(root, exercise, implementation_of(root, exercise, wrong), seed))


def diagnose(root: Path, exercise: Exercise, answer: Implementation, failed: Outcome, seed: int) -> Mistake | None:
    """The known mistake that behaves as the answer does in a failed check; None without exactly one.

    Nothing less than the same values, gradients and errors in every operation counts, since a wrong diagnosis would be
    worse than none. Where several mistakes do the same in this check, or the answer raises an error, all other checks decide.
    """
    check = next(check for check in checks_of(root, exercise) if check.__name__ == failed.check)
    candidates = behaving_like(root, exercise, failed.trace, list(bank_of(exercise)), check, seed)
    if len(candidates) == 1 and not failed.crashed:
        return candidates[0]
    for other in checks_of(root, exercise):
        if candidates and other is not check:
            ours = run_check(other, make_student(root, exercise, answer, seed)).trace
            candidates = behaving_like(root, exercise, ours, candidates, other, seed)
    return candidates[0] if len(candidates) == 1 else None


def behaving_like(
    root: Path, exercise: Exercise, trace: list[Observation], candidates: list[Mistake], check: Check, seed: int
) -> list[Mistake]:
    """Those mistakes whose operations in a check had the same results."""
    return [m for m in candidates if same_trace(trace, outcomes_of_mistake(root, exercise, m, check, seed).trace)]


def with_diagnosis(root: Path, exercise: Exercise, answer: Implementation, failed: Outcome, seed: int) -> Outcome:
    """A failed outcome with one line more, if the mistake is a known one."""
    known = diagnose(root, exercise, answer, failed, seed) if failed.state == "wrong" else None
    if known is not None:
        failed.lines.append(("diagnosis", f"this is what one gets when {known.when}"))
    return failed


def check_exercise(root: Path, exercise: Exercise, answer: Implementation, seed: int) -> list[Outcome]:
    """All outcomes of an exercise; the first wrong ones are diagnosed until one has a name."""
    outcomes = run_exercise(root, exercise, answer, seed)
    for wrong in [outcome for outcome in outcomes if outcome.state == "wrong"][:MOST_DIAGNOSED]:
        if with_diagnosis(root, exercise, answer, wrong, seed).is_diagnosed:
            break
    return outcomes


def same_trace(ours: list[Observation], theirs: list[Observation]) -> bool:
    """Whether two answers did the same in every operation."""
    return len(ours) == len(theirs) and all(map(same_observation, ours, theirs))


def same_observation(a: Observation, b: Observation) -> bool:
    """Same operation, same result, same error, same inputs changed."""
    if (a.operation, a.changed, a.raised is None) != (b.operation, b.changed, b.raised is None):
        return False
    return same_error(a.raised, b.raised) if a.raised is not None else same(a.result, b.result)


def same_error(a: str | None, b: str | None) -> bool:
    """Whether two errors say the same, the lines of code aside."""
    return [line for line in a.splitlines() if not line.startswith("line:")] == [
        line for line in b.splitlines() if not line.startswith("line:")
    ]


def same(a: Any, b: Any, rtol: float = 1e-4) -> bool:
    """Whether two results are equal, numbers up to rounding."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        scale = float(torch.nan_to_num(b.double(), 0, 0, 0).abs().max()) if b.numel() else 0.0
        return torch.allclose(a.double(), b.double(), rtol=rtol, atol=1e-5 * scale + 1e-9, equal_nan=True)
    if isinstance(a, float) and isinstance(b, float):
        return same(torch.tensor(a), torch.tensor(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Handle) and isinstance(b, Handle):
        return a.kind == b.kind
    return type(a) is type(b) and a == b
