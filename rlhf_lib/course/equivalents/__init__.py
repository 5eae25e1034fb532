"""Mutants that are right answers too, by topic and exercise, each with the reason.

An entry is a reason and the edits that it holds for: (text in a statement of the solution, text in its place).
"""

from importlib import import_module

from rlhf_lib.course.manifest import Exercise
from rlhf_lib.course.mutants import Mutant

Reason = tuple[str, tuple[tuple[str, str], ...]]


def equivalent(reason: str, *edits: tuple[str, str]) -> Reason:
    """A reason with its edits."""
    return reason, edits


def equivalents_of(exercise: Exercise) -> tuple[Reason, ...]:
    """The entries of an exercise."""
    return tuple(import_module(f"{__name__}.{exercise.topic}").EQUIVALENT.get(exercise.name, ()))


def reason_for(exercise: Exercise, mutant: Mutant) -> str | None:
    """Why a mutant of an exercise is no wrong answer; None where nothing is written down."""
    reasons = (reason for reason, edits in equivalents_of(exercise) if any(mutant.is_made_by(*edit) for edit in edits))
    return next(reasons, None)
