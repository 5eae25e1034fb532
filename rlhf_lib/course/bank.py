"""Named mistakes: wrong answers that students really write, kept as edits of the solution."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from rlhf_lib.args import InputError
from rlhf_lib.course import source
from rlhf_lib.course.assemble import Implementation, solutions, with_edits
from rlhf_lib.course.manifest import Exercise

Edit = tuple[str, str]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: its sentence completes "What you have is what one gets when ..."; its edits make it of the solution.

    An edit is a pair (text in the solution, text in its place), the first occurring exactly once among the exercise's targets.
    """

    when: str
    edits: tuple[Edit, ...]


def mistake(when: str, *edits: Edit) -> Mistake:
    """A mistake with its edits."""
    return Mistake(when, edits)


@cache
def bank_of(exercise: Exercise) -> tuple[Mistake, ...]:
    """The named mistakes of an exercise."""
    try:
        module = import_module(f"rlhf_lib.course.mistakes.{exercise.topic}")
    except ModuleNotFoundError:
        return ()
    return tuple(module.BANK.get(exercise.name, ()))


@cache
def implementation_of(root: Path, exercise: Exercise, wrong: Mistake) -> Implementation:
    """The solution of the exercise's topic with the mistake made in it."""
    made = solutions(root, exercise.topic)
    for before, after in wrong.edits:
        holders = []
        for name in exercise.local_targets:
            text = source.text_of(made.text, made_definition(made, name))
            holders += [(name, text)] * text.count(before)
        if len(holders) != 1:
            raise InputError(
                f"mistake of {exercise.name} ({wrong.when}): its edit must fit the solution in one place, but fits "
                f"{len(holders)}:\n{before}"
            )
        name, text = holders[0]
        made = with_edits(made, name, text.replace(before, after))
    return made


def made_definition(made: Implementation, name: str) -> source.Definition:
    """A definition of an implementation; the solution always has it."""
    return source.find(made.tree(), name)
