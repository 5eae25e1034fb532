"""What the student reads after checking."""

from pathlib import Path

from tabulate import tabulate

from rlhf_lib.course.manifest import Exercise, load_course
from rlhf_lib.course.outcomes import Outcome, state_of
from rlhf_lib.course.progress import Progress

Outcomes = dict[Exercise, list[Outcome]]


def wrong_answers(outcomes: Outcomes) -> str:
    """What is wrong in each wrong exercise."""
    return "\n".join(wrong_answer(exercise, told) for exercise, told in outcomes.items() if state_of(told) == "wrong")


def wrong_answer(exercise: Exercise, told: list[Outcome]) -> str:
    """An exercise's first wrong check, and how many more there are."""
    wrong = [outcome for outcome in told if outcome.state == "wrong"]
    more = f"\n  and {len(wrong) - 1} more of its {len(told)} checks" if len(wrong) > 1 else ""
    return f"\n{exercise.number} {exercise.name} is not right yet\n{wrong[0].text()}{more}"


def next_step(exercise: Exercise, state: str) -> str:
    """The command that helps most now."""
    if state == "passed":
        return ""
    return f"rlhf course hint {exercise.name}" if state == "wrong" else f"read {exercise.where}"


def summary_table(outcomes: Outcomes, width: int = 100) -> str:
    """Exercise, points, state and next step, and the points in all.

    Where the terminal is too narrow for the last column, the first exercise's next step stands beneath the table.
    """
    states = {exercise: state_of(told) for exercise, told in outcomes.items()}
    rows = [(e.number, e.name, e.points, state, next_step(e, state)) for e, state in states.items()]
    headers = ("", "exercise", "points", "state", "next")
    points = f"{sum(row[2] for row in rows if row[3] == 'passed')} of {sum(row[2] for row in rows)} points"
    table = plain_table(rows, headers)
    if max(map(len, table.splitlines())) <= width:
        return f"{table}\n{points}"
    following = next((f"\nNext: {row[4]}" for row in rows if row[4]), "")
    return f"{plain_table([row[:4] for row in rows], headers[:4])}\n{points}{following}"


def plain_table(rows: list[tuple], headers: tuple[str, ...]) -> str:
    """A table with everything to the left."""
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left",) * len(headers))


def status_table(root: Path, progress: Progress, width: int = 100) -> str:
    """A bar and a table for every chapter, and the next exercise."""
    parts, total, earned = [], 0, 0
    for exercises in load_course(root).values():
        rows = [(e.number, e.name, e.points, e.minutes, progress.state(e)) for e in exercises]
        done = sum(row[2] for row in rows if row[4] == "passed")
        points = sum(row[2] for row in rows)
        total, earned = total + points, earned + done
        rows = rows if width >= 70 else [(row[0], row[1], row[4]) for row in rows]
        headers = ("", "exercise", "points", "minutes", "state") if width >= 70 else ("", "exercise", "state")
        table = tabulate(rows, headers=headers, disable_numparse=True, tablefmt="plain")
        parts.append(f"{exercises[0].chapter.removesuffix('.md')}  {bar(done, points)} {done}/{points}\n{table}\n")
    following = progress.next_exercise()
    end = f"{earned} of {total} points (unchecked: changed since it was last checked). "
    if following is None:
        return "\n".join(parts) + f"\n{end}Everything is passed."
    return "\n".join(parts) + f"\n{end}Next: {following.name} ({following.where});\nthen: rlhf course check {following.name}"


def bar(done: int, total: int, width: int = 20) -> str:
    """A progress bar in plain characters."""
    filled = width * done // max(1, total)
    return f"[{'#' * filled}{'.' * (width - filled)}]"
