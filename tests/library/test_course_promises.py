"""Every sentence of a stub is checked, or there is a reason; whatever the stub leaves open passes."""

import ast
import re
from importlib import import_module

import pytest

from rlhf_lib.course import source
from rlhf_lib.course.assemble import Implementation, solutions
from rlhf_lib.course.checks import load_checks, run_exercise
from rlhf_lib.course.equivalents import equivalents_of
from rlhf_lib.course.manifest import all_exercises, find_exercise, load_course
from rlhf_lib.course.mutants import mutants_of
from rlhf_lib.course.outcomes import state_of

from .course_answers import ROOT, stubs

NAMES = [exercise.name for exercise in all_exercises(ROOT)]
SECTION = re.compile(r"^(?:Args|Attributes|Returns|Raises):$")
END = re.compile(r'(?<=[.?!])(?<!al\.)(?<!eqs\.)(?<!eq\.)\s+(?=[A-Z`"(\d\[])')


def sentences(exercise):
    """The sentences of all docstrings of an exercise's stubs; an entry of a list such as Args is one."""
    tree = stubs(exercise.topic).tree()
    for target in exercise.local_targets:
        entries, in_list = [], False
        for line in (ast.get_docstring(source.find(tree, target)) or "").splitlines():
            in_list = bool(line) and (in_list or bool(SECTION.match(line)))
            if not line or SECTION.match(line) or (in_list and re.match(r" {4}\S", line)):
                entries.append("" if SECTION.match(line) else line)
            else:
                entries[-1:] = [f"{entries[-1]} {line.strip()}" if entries else line]
        for entry in filter(None, entries):
            yield from [entry.strip()] if entry.startswith("    ") else END.split(entry.strip())


def table(kind, topic):
    module = import_module(f"tests.library.{kind}.{topic}")
    return getattr(module, kind.upper())


@pytest.mark.parametrize("name", NAMES)
def test_every_sentence_has_its_check_or_a_reason(name):
    exercise = find_exercise(ROOT, name)
    told = table("sentences", exercise.topic).get(name, {})
    assert list(dict.fromkeys(sentences(exercise))) == list(told)
    known = {check.__name__ for checks in load_checks(ROOT, exercise.topic).values() for check in checks}
    for proof in told.values():
        checks = [proof] if isinstance(proof, str) else proof
        assert all(check in known for check in checks if check.startswith("test_")), proof
        assert all(check.startswith("test_") or " " in check for check in checks), "a check's name or a reason"


RIGHT = [  # of each exercise one answer is tried every time
    pytest.param(name, number, code, id=f"{name}-{number}", marks=[pytest.mark.slow] if number else [])
    for topic in load_course(ROOT)
    for name, codes in table("alternatives", topic).items()
    for number, code in enumerate(codes)
]


@pytest.mark.parametrize(("name", "number", "code"), RIGHT)
def test_an_alternative_passes(name, number, code):
    """Answers as a student would paste them: below the stubs, above the main guard."""
    exercise = find_exercise(ROOT, name)
    text = stubs(exercise.topic).text.replace('if __name__ == "__main__":', f'{code}\n\nif __name__ == "__main__":')
    outcomes = run_exercise(ROOT, exercise, Implementation(text, f"exercises/{exercise.topic}.py"), seed=4)
    assert state_of(outcomes) == "passed", "\n".join(outcome.text() for outcome in outcomes)


def test_there_are_a_hundred_alternatives():
    assert len(RIGHT) >= 100


@pytest.mark.parametrize("name", NAMES)
def test_every_equivalent_is_still_a_mutant(name):
    exercise = find_exercise(ROOT, name)
    entries = [edit for _, edits in equivalents_of(exercise) for edit in edits]
    mutants = mutants_of(exercise, solutions(ROOT, exercise.topic)) if entries else []
    for edit in entries:
        assert any(mutant.is_made_by(*edit) for mutant in mutants), edit
