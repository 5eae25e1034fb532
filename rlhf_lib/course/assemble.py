"""Code under check: one exercise's answer, with the library's version of everything else in the same file.

Answers are cut and put together as syntax trees, so that a method under check lies in a whole class and a traceback still
points at the student's own lines.
"""

import ast
import copy
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_lib.course import source
from rlhf_lib.course.manifest import Exercise, load_course

FOREIGN = 1_000_000  # added to the line numbers of code that is not the student's


@dataclass(frozen=True)
class Implementation:
    """Code to be checked: a file's text, and what to call it in messages."""

    text: str
    file: str
    compiled: dict[str, types.CodeType] = field(default_factory=dict, compare=False)
    """Its code merged with the library's, by exercise."""

    def tree(self) -> ast.Module:
        """Its syntax tree; SyntaxError as Python gives it."""
        return ast.parse(self.text, self.file)


@cache
def solutions(root: Path, topic: str) -> Implementation:
    """The solutions of a topic, rendered from the library as it is now."""
    from rlhf_lib.course.render import render_solutions

    return Implementation(render_solutions(topic, load_course(root)[topic]), f"solutions/{topic}.py")


def answers(root: Path, topic: str, folder: str = "exercises") -> Implementation:
    """The answers in exercises/ (or another folder) as they stand on disk."""
    file = root / folder / f"{topic}.py"
    return Implementation(source.read(file) if file.is_file() else "", str(file))


def with_edits(base: Implementation, name: str, new_text: str) -> Implementation:
    """The implementation with one definition's lines replaced."""
    node = source.find(base.tree(), name)
    lines = base.text.split("\n")
    lines[source.first_line(node) - 1 : node.end_lineno] = new_text.split("\n")
    return Implementation("\n".join(lines), base.file)


def assemble(root: Path, exercise: Exercise, answer: Implementation) -> dict[str, Any]:
    """The names that checks of an exercise see: its targets from `answer`, all other definitions from the library."""
    if exercise.name not in answer.compiled:
        exercised = {name for other in load_course(root)[exercise.topic] for name in other.local_targets}
        merged = merge(answer.tree(), solutions(root, exercise.topic).tree(), set(exercise.local_targets), exercised)
        answer.compiled[exercise.name] = compile(merged, answer.file, "exec")
    return execute(answer, answer.compiled[exercise.name], exercise)


def merge(merged: ast.Module, library: ast.Module, targets: set[str], exercised: set[str]) -> ast.Module:
    """The answer's tree, changed to have the library's version of every definition that is not under check.

    Within the class under check, the library's methods take the place of other exercises' methods and of missing ones; what the
    answer's class has beyond that, such as its own constructor, stays. Without base classes of its own it gets the library's.
    """
    heads = {name.split(".")[0] for name in targets}
    merged.body = [node for node in merged.body if not is_main_guard(node)]
    for node in library.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name not in heads:
            replace(merged.body, node)
        elif isinstance(node, ast.ClassDef):
            own = source.find(merged, node.name)
            if own is not None and not own.bases:
                own.bases = node.bases
            for method in node.body if own is not None else []:
                name = f"{node.name}.{name_of(method)}"
                if name not in targets and (name in exercised or not defines(own, name_of(method))):
                    replace(own.body, method)
    start = next((i for i, node in enumerate(merged.body) if not must_stand_first(node)), len(merged.body))
    merged.body[start:start] = [foreign(node) for node in library.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return merged


def name_of(node: ast.stmt) -> str | None:
    """The one name that a statement binds; None where it binds none, several, or a part of something."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if len(targets) == 1 and isinstance(targets[0], ast.Name):
        return targets[0].id
    return node.name if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) else None


def defines(body: ast.ClassDef, name: str | None) -> bool:
    """Whether a class binds a name itself."""
    return name is None or any(name_of(node) == name for node in body.body)


def replace(body: list[ast.stmt], node: ast.stmt) -> None:
    """Put a definition in the place of the first one of its name, dropping later ones; at the end if there is none."""
    places = [i for i, other in enumerate(body) if name_of(other) == name_of(node)]
    body[slice(places[0], places[0] + 1) if places else slice(len(body), None)] = [foreign(node)]
    for i in reversed(places[1:]):
        del body[i]


def foreign(node: ast.stmt) -> ast.stmt:
    """A copy whose lines are marked as not the student's."""
    return ast.increment_lineno(copy.deepcopy(node), FOREIGN)


def must_stand_first(node: ast.stmt) -> bool:
    """Whether Python wants a statement before all others: a bare string, or an import from __future__."""
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_main_guard(node: ast.stmt) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


@contextmanager
def settings_kept() -> Iterator[None]:
    """Torch's settings afterwards are those before: a file may set its own at the top, its checks run with the usual ones."""
    import torch

    settings = (
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, torch.set_default_device),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    )
    before = [get() for get, _ in settings]
    try:
        yield
    finally:
        for (get, set_again), value in zip(settings, before, strict=True):
            if get() != value:
                set_again(value)


def execute(answer: Implementation, code: types.CodeType, exercise: Exercise) -> dict[str, Any]:
    """Run a file's code as a module of its own, with shapes checked on what the exercise asks for."""
    from rlhf_lib.course.shapes import check_shapes

    name = f"answers_{exercise.topic}"
    module = types.ModuleType(name)
    module.__file__ = answer.file
    sys.modules[name] = module  # dataclasses look their module up
    with settings_kept():
        exec(code, module.__dict__)
    for target in exercise.local_targets:
        check_shapes(module.__dict__, target)
    return module.__dict__
