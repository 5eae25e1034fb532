"""Run a topic on all of the student's own code: what `python -m exercises.grpo` does."""

import ast
import functools
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rlhf_lib.args import InputError
from rlhf_lib.course import NotAttempted, source
from rlhf_lib.course.manifest import checkout_root, load_course, local_name
from rlhf_lib.course.source import is_attempted


def run_own(topic: str, names: dict[str, Any]) -> None:
    """Run a topic's `main` on the student's code; what it needs and is still a stub is named beforehand."""
    root = checkout_root()
    tree = answer_tree(root, topic)
    missing = stubs_needed(tree, "main")
    if missing:
        sys.exit(f"python -m exercises.{topic} needs what is still to be written: {', '.join(missing)}; rlhf course status")
    own, library = use_own_answers(root, topic, names)
    complete_classes(root, topic, names)
    lent = lend_to_library(root, topic, names, tree)
    print(f"Your own code of this chapter at work: {', '.join(lent) or 'none yet'}")
    print(f"Your own code from other chapters: {', '.join(own) or 'none yet'}")
    print(f"The library's in place of what is not written or not passed: {', '.join(library) or 'nothing'}\n")
    from rlhf_lib.engine import use_plain_formulas

    use_plain_formulas()  # so that what runs is what is written
    try:
        names["main"]()
    except (NotAttempted, InputError) as error:
        sys.exit(f"python -m exercises.{topic}: {error}")


def answer_tree(root: Path, topic: str) -> ast.Module:
    """The syntax tree of a topic's exercises file."""
    return ast.parse(source.read(root / "exercises" / f"{topic}.py"))


def stubs_needed(tree: ast.Module, start: str) -> list[str]:
    """Functions and methods that a definition reaches by name within its file, and that are still stubs."""
    reached, waiting, missing = set(), [start], []
    while waiting:
        name = waiting.pop()
        node = source.find(tree, name)
        if name in reached or node is None:
            continue
        reached.add(name)
        methods = (
            [part for part in node.body if isinstance(part, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else [node]
        )
        for part in methods:
            local = name if part is node else f"{name}.{part.name}"
            if not is_attempted(tree, local):
                missing.append(local)
        waiting.extend(source.names_used(node))
    return sorted(missing)


def use_own_answers(root: Path, topic: str, names: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Bind, in a topic's namespace, what the student has written for other topics; returns the names that are whose.

    Functions take the place of the library's. Methods take the place of those that a class here inherits from the library, once
    they have passed every exercise that asks for them: they meet tasks here that the first of those may not have asked for.
    """
    own, library = [], []
    for other in load_course(root):
        if other == topic or not (root / "exercises" / f"{other}.py").is_file():
            continue
        tree = answer_tree(root, other)
        for name in targets_of(root, other):
            head, _, method = name.partition(".")
            heirs = inheriting(names, head, method) if method else []
            if not heirs and name not in names:
                continue
            if not is_attempted(tree, name) or (method and not is_movable(root, other, name, tree)):
                library.append(name)
                continue
            theirs = vars(import_module(f"exercises.{other}"))
            for heir in heirs:
                setattr(heir, method, vars(theirs[head])[method])
            if not method:
                names[name] = where_it_fits(theirs[name], names[name])
            own.append(name)
    return own, library


def targets_of(root: Path, topic: str) -> list[str]:
    """The local names of all that a topic's exercises ask for, each once."""
    return list(dict.fromkeys(name for exercise in load_course(root)[topic] for name in exercise.local_targets))


def calls_super(tree: ast.Module, name: str) -> bool:
    """Whether a method calls super(), which only works in its own class."""
    return "super()" in ast.unparse(source.find(tree, name))


def is_movable(root: Path, topic: str, name: str, tree: ast.Module) -> bool:
    """Whether a method works in another chapter's class: it needs no super(), and has passed all that is asked of it."""
    return not calls_super(tree, name) and is_passed(root, topic, name)


def is_passed(root: Path, topic: str, name: str) -> bool:
    """Whether an answer has passed all exercises that ask for it; those not checked since it changed are checked now."""
    from rlhf_lib.course.assemble import answers
    from rlhf_lib.course.checks import run_exercise
    from rlhf_lib.course.outcomes import state_of
    from rlhf_lib.course.progress import Progress

    progress = Progress.load(root)
    for exercise in [e for e in load_course(root)[topic] if name in e.local_targets]:
        if progress.state(exercise) == "unchecked":
            progress.note(exercise, state_of(run_exercise(root, exercise, answers(root, topic), seed=0)))
        if progress.state(exercise) != "passed":
            return False
    return True


def where_it_fits(own: Callable, library: Callable) -> Callable:
    """The student's function for every call whose keywords it takes, the library's for all others."""
    parameters = inspect.signature(own).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if takes_all or set(inspect.signature(library).parameters) <= set(parameters):
        return own

    @functools.wraps(own)
    def chosen(*args: Any, **options: Any) -> Any:
        return own(*args, **options) if set(options) <= set(parameters) else library(*args, **options)

    return chosen


def complete_classes(root: Path, topic: str, names: dict[str, Any]) -> None:
    """Give a class that an answer defines without bases those methods of the library's class that it lacks."""
    for exercise in load_course(root)[topic]:
        for target in exercise.targets:
            head, _, method = local_name(target).partition(".")
            if method and names[head].__bases__ == (object,):
                library = getattr(import_module(target.removesuffix(f".{head}.{method}")), head)
                if library.__bases__ != (object,):
                    names[head] = type(head, (names[head], library), {"__module__": names["__name__"]})


def lend_to_library(root: Path, topic: str, names: dict[str, Any], tree: ast.Module) -> list[str]:
    """Put what the student has written of this topic in the library's place, wherever the library calls it; returns the names.

    A function is bound in every loaded module that has the library's; a method goes to the library's class, unless `main` uses
    the student's class itself or the method calls super().
    """
    lent, used_by_main = [], source.names_used(source.find(tree, "main"))
    for target in dict.fromkeys(target for exercise in load_course(root)[topic] for target in exercise.targets):
        name = local_name(target)
        head, _, method = name.partition(".")
        if not is_attempted(tree, name):
            continue
        library = getattr(import_module(target.removesuffix(f".{name}")), head)
        if not method:
            own = where_it_fits(names[head], library)
            for other in [module for key, module in sys.modules.items() if key.startswith("rlhf_lib.")]:
                if vars(other).get(head) is library:
                    setattr(other, head, own)
        elif head not in used_by_main:
            if calls_super(tree, name):
                continue
            setattr(library, method, inspect.getattr_static(names[head], method))
        lent.append(name)
    return lent


def inheriting(names: dict[str, Any], base: str, method: str) -> list[type]:
    """Classes made in a namespace that inherit a method from the library's class of a name, and define none of their own."""
    made_here = [kind for kind in names.values() if inspect.isclass(kind) and kind.__module__ == names["__name__"]]
    return [kind for kind in made_here if is_library_class(owner_of(kind, method), base)]


def owner_of(kind: type, method: str) -> type | None:
    """The class in a class's line that defines a method."""
    return next((parent for parent in kind.__mro__ if method in vars(parent)), None)


def is_library_class(kind: type | None, name: str) -> bool:
    """Whether a class is the library's of that name."""
    return kind is not None and kind.__name__ == name and kind.__module__.startswith("rlhf_lib.")
