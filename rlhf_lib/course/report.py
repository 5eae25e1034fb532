"""What the student reads after checking."""

from tabulate import tabulate

from rlhf_lib.course.checks import Outcome, state_of
from rlhf_lib.course.manifest import Exercise

Outcomes = dict[Exercise, list[Outcome]]


def wrong_answers(outcomes: Outcomes) -> str:
    """Each wrong exercise's first wrong check, and how many more there are."""
    blocks = []
    for exercise, told in outcomes.items():
        wrong = [outcome for outcome in told if outcome.state == "wrong"]
        if wrong:
            more = f"\n  and {len(wrong) - 1} more of its {len(told)} checks" if len(wrong) > 1 else ""
            blocks.append(f"\n{exercise.number} {exercise.name} is not right yet\n{wrong[0].text()}{more}")
    return "\n".join(blocks)


def next_step(exercise: Exercise, state: str) -> str:
    """The command that helps most now."""
    if state == "passed":
        return ""
    return f"rlhf course hint {exercise.name}" if state == "wrong" else f"read {exercise.where}"


def summary_table(outcomes: Outcomes, width: int = 100) -> str:
    """Exercise, points, state, next step, and the points in all; without the last column on a narrow terminal."""
    rows = []
    for exercise, told in outcomes.items():
        state = state_of(told)
        rows.append((exercise.number, exercise.name, exercise.points, state, next_step(exercise, state)))
    if width < 90:
        rows = [row[:4] for row in rows]
    headers = ("", "exercise", "points", "state", "next")[: len(rows[0])]
    earned = sum(row[2] for row in rows if row[3] == "passed")
    table = tabulate(rows, headers=headers, disable_numparse=True, colalign=("left",) * len(headers))
    return f"{table}\n{earned} of {sum(row[2] for row in rows)} points"
