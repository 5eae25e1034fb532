"""The checkers under pytest: --impl, the `student` fixture, three results, and a table that says what to do next.

The library is imported inside the functions only: tests check its shapes by an import hook, which must come first.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """--impl and --input-seed."""
    group = parser.getgroup("course")
    group.addoption("--impl", default="exercises", help="folder of the answers to check: exercises (default), solutions, ...")
    group.addoption("--input-seed", type=int, default=None, help="seed of the checkers' random inputs; by default a fresh one")


def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed of the session, which the report repeats."""
    import secrets

    config.addinivalue_line("markers", "exercise(name): a check of that exercise; select one with -k NAME")
    given = config.getoption("--input-seed")
    config.course_seed = secrets.randbelow(10_000) if given is None else given
    config.course_outcomes = {}


def course_root(config: pytest.Config) -> Path:
    """The checkout that pytest runs in."""
    from rlhf_lib.course.manifest import checkout_root

    return checkout_root(config.rootpath)


def is_checker(item: pytest.Item) -> bool:
    """Whether a test is a checker of an exercise."""
    return "student" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every checker with its exercise, so that -k and -m find it."""
    from rlhf_lib.course.checks import exercise_of

    for item in filter(is_checker, items):
        item.add_marker(pytest.mark.exercise(exercise_of(item.originalname)))


@pytest.fixture
def student(request: pytest.FixtureRequest) -> Any:
    """The door to the answers under check."""
    from rlhf_lib.args import InputError
    from rlhf_lib.course.assemble import answers
    from rlhf_lib.course.checks import exercise_of, make_student
    from rlhf_lib.course.manifest import find_exercise

    root = course_root(request.config)
    exercise = find_exercise(root, exercise_of(request.node.originalname))
    answer = answers(root, exercise.topic, request.config.getoption("--impl"))
    if not answer.text:
        raise InputError(f"{answer.file} is missing; `rlhf course render` writes it, --impl names another folder")
    request.node.course = (root, exercise, answer)
    return make_student(root, exercise, answer, request.config.course_seed)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[Any]:
    """Run checks as `rlhf course check` does."""
    from rlhf_lib.course.checks import conditions, hung_before, not_begun
    from rlhf_lib.course.expect import Wrong

    if not is_checker(item):
        return (yield)
    hung = hung_before(item.config.course_outcomes.get(item.course[1], []))
    if hung is not None:
        raise Wrong(*not_begun(item.function, hung).lines[1:])
    with conditions():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[Any]:
    """Replace a checker's traceback by what the student needs to read."""
    report = yield
    if call.when != "call" or not hasattr(item, "course"):
        return report
    from rlhf_lib.course.checks import outcome_of, with_diagnosis

    root, exercise, answer = item.course
    error = call.excinfo.value if call.excinfo else None
    outcome = outcome_of(item.function, item.funcargs["student"], error, report.capstdout)
    told = item.config.course_outcomes.setdefault(exercise, [])
    if not any(earlier.state == "wrong" for earlier in told):
        with_diagnosis(root, exercise, answer, outcome, item.config.course_seed, {earlier.check: earlier for earlier in told})
    told.append(outcome)
    report.course_state = outcome.state
    if outcome.state != "passed":
        report.longrepr = outcome.text()
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Checkers are passed, wrong or todo."""
    state = getattr(report, "course_state", None)
    letters = {"passed": ".", "wrong": "w", "todo": "t"}
    return (state, letters[state], state.upper()) if state and report.when == "call" else None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was wrong, then the table of exercises with what to do next."""
    outcomes = config.course_outcomes
    if not outcomes:
        return
    from rlhf_lib.course.report import summary_table, wrong_answers

    if config.getoption("--impl") == "exercises":
        keep_states(course_root(config), outcomes)
    write = terminalreporter.write_line
    for line in wrong_answers(outcomes).splitlines():
        write(line)
    write("")
    for line in summary_table(outcomes, terminalreporter._tw.fullwidth).splitlines():
        write(line)
    states = [outcome.state for told in outcomes.values() for outcome in told]
    if "wrong" in states:
        write(f"Inputs are random; the same ones again: --input-seed {config.course_seed}")


def keep_states(root: Path, outcomes: dict[Any, list[Any]]) -> None:
    """Write into the student's progress what is known now; an exercise of which only some checks ran is not passed by them."""
    from rlhf_lib.course.checks import checks_of
    from rlhf_lib.course.outcomes import state_of
    from rlhf_lib.course.progress import Progress

    progress = Progress.load(root)
    for exercise, told in outcomes.items():
        if state_of(told) != "passed" or len(told) == len(checks_of(root, exercise)):
            progress.note(exercise, state_of(told))
