"""Runs the checkers: finds an exercise's checks, runs them on an answer, and tells which known mistake a wrong one is."""

import importlib.util
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
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
from rlhf_lib.course.output import as_lines, kept_output
from rlhf_lib.course.student import Crash, Handle, Observation, OutOfTime, Student, is_way_out
from rlhf_lib.engine import plain_formulas

Check = Callable[[Student], None]
TIME_LIMIT = 60.0  # seconds of the processor's time that a check may take before it counts as hanging


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
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in code that works longer than that, where signals allow it.

    The clock is this process's own work: neither a busy machine nor a pause in the debugger counts. Code that swallows the
    error gets it again every second.
    """
    if not hasattr(signal, "SIGPROF") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def too_long(number: int, frame: Any) -> None:
        raise OutOfTime(("got", f"no result in {seconds:g} seconds of work: an endless loop?"))

    previous = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


@contextmanager
def conditions(seconds: float | None = None) -> Iterator[None]:
    """How a check runs: not without end, and every formula as it is written."""
    with time_limit(TIME_LIMIT if seconds is None else seconds), plain_formulas():
        yield


def outcome_of(check: Check, student: Student, error: BaseException | None, printed: str = "") -> Outcome:
    """What a check's exception, or its absence, says; of a wrong answer also what it printed."""
    if error is None:
        return Outcome("passed", check.__name__, trace=student.trace)
    if isinstance(error, NotAttempted):
        lines = [("to do", f"exercise {error.exercise}, explained in {error.where}")]
        return Outcome("todo", check.__name__, lines, student.trace)
    lines = [("check", (inspect.getdoc(check) or check.__name__).splitlines()[0])]
    if student.called:
        lines.append(("called", student.called))
    if not isinstance(error, (Wrong, OutOfTime)):
        error = Wrong(("got", f"{type(error).__name__}: {error}"))
    how = {"crashed": isinstance(error, Crash), "out_of_time": isinstance(error, OutOfTime)}
    return Outcome("wrong", check.__name__, [*lines, *error.lines, *as_lines(printed)], student.trace, **how)


def run_check(check: Check, student: Student, seconds: float | None = None) -> Outcome:
    """Run one check to its end."""
    failed = None
    with kept_output() as kept:
        try:
            with conditions(seconds):
                check(student)
        except (Exception, OutOfTime) as error:
            if is_way_out(error):
                raise
            failed = error
    return outcome_of(check, student, failed, kept.getvalue())


def run_exercise(root: Path, exercise: Exercise, answer: Implementation, seed: int) -> list[Outcome]:
    """Run all checks of an exercise on an answer, each with fresh objects; after one that hangs no other is begun."""
    outcomes: list[Outcome] = []
    for check in checks_of(root, exercise):
        hung = hung_before(outcomes)
        outcomes.append(not_begun(check, hung) if hung else run_check(check, make_student(root, exercise, answer, seed)))
    return outcomes


def hung_before(outcomes: list[Outcome]) -> Outcome | None:
    """The outcome of a check that came to no end, if there is one."""
    return next((outcome for outcome in outcomes if outcome.out_of_time), None)


def not_begun(check: Check, hung: Outcome) -> Outcome:
    """What is said of a check that comes after one that hung."""
    lines = [("check", (inspect.getdoc(check) or check.__name__).splitlines()[0])]
    return Outcome("wrong", check.__name__, [*lines, ("not run", f"{hung.check} did not come to its end")])


@cache
def outcomes_of_mistake(root: Path, exercise: Exercise, wrong: Mistake, check: Check, seed: int) -> Outcome:
    """What a check says to a known mistake."""
    return run_check(check, make_student(root, exercise, implementation_of(root, exercise, wrong), seed))


def diagnose(
    root: Path, exercise: Exercise, answer: Implementation, failed: Outcome, seed: int, found: Mapping[str, Outcome]
) -> Mistake | None:
    """The one known mistake that behaves as the answer does in every check of the exercise; None without exactly one.

    Behaving alike means the same values, gradients and errors in every operation: a wrong name would be worse than none.

    Args:
        failed: a check's outcome, the first to be compared.
        found: outcomes of other checks by name; what is missing is run.
    """
    if failed.state != "wrong" or failed.out_of_time:
        return None
    candidates, known = list(bank_of(exercise)), {**found, failed.check: failed}
    for check in sorted(checks_of(root, exercise), key=lambda one: one.__name__ != failed.check):
        if not candidates:
            break
        ours = known.get(check.__name__) or run_check(check, make_student(root, exercise, answer, seed))
        candidates = behaving_like(root, exercise, ours.trace, candidates, check, seed)
    return candidates[0] if len(candidates) == 1 else None


def behaving_like(
    root: Path, exercise: Exercise, trace: list[Observation], candidates: list[Mistake], check: Check, seed: int
) -> list[Mistake]:
    """Those mistakes whose operations in a check had the same results."""
    return [m for m in candidates if same_trace(trace, outcomes_of_mistake(root, exercise, m, check, seed).trace)]


def with_diagnosis(
    root: Path, exercise: Exercise, answer: Implementation, failed: Outcome, seed: int, found: Mapping[str, Outcome]
) -> Outcome:
    """A failed outcome with one line more, if the mistake is a known one."""
    known = diagnose(root, exercise, answer, failed, seed, found)
    if known is not None:
        failed.lines.append(("diagnosis", f"this is what one gets when {known.when}"))
    return failed


def check_exercise(root: Path, exercise: Exercise, answer: Implementation, seed: int) -> list[Outcome]:
    """All outcomes of an exercise; the first wrong one says which known mistake it is, if it is one."""
    outcomes = run_exercise(root, exercise, answer, seed)
    first = next((outcome for outcome in outcomes if outcome.state == "wrong"), None)
    if first is not None:
        with_diagnosis(root, exercise, answer, first, seed, {outcome.check: outcome for outcome in outcomes})
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
