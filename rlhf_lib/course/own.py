"""Run a topic on all of the student's own code: what `python -m exercises.grpo` does."""

import ast
import inspect
import sys
from importlib import import_module
from typing import Any

from rlhf_lib.args import InputError
from rlhf_lib.course import NotAttempted, source
from rlhf_lib.course.manifest import checkout_root, load_course, local_name
from rlhf_lib.engine import use_plain_formulas


def is_attempted(tree: ast.Module, name: str) -> bool:
    """Whether a function or method of an exercises file is more than its stub."""
    node = source.find(tree, name)
    raised = [part.exc for part in ast.walk(node) if isinstance(part, ast.Raise) and part.exc] if node is not None else []
    return node is not None and not any("NotAttempted" in ast.unparse(exception) for exception in raised)


def run_own(topic: str, names: dict[str, Any]) -> None:
    """Run a topic's `main` on the student's code; what it needs and is still a stub is named beforehand."""
    tree = ast.parse((checkout_root() / "exercises" / f"{topic}.py").read_text())
    missing = stubs_needed(tree, "main")
    if missing:
        sys.exit(f"python -m exercises.{topic} needs what is still to be written: {', '.join(missing)}; rlhf course status")
    use_own_answers(topic, names)
    lend_to_library(topic, names, tree)
    use_plain_formulas()  # so that what runs is what is written
    try:
        names["main"]()
    except (NotAttempted, InputError) as error:
        sys.exit(f"python -m exercises.{topic}: {error}")


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


def use_own_answers(topic: str, names: dict[str, Any]) -> None:
    """Bind, in a topic's namespace, every name of another topic that the student has written; say what is whose.

    Functions take the place of the library's. Methods take the place of those that a class here inherits from the library.
    """
    root = checkout_root()
    own, library = [], []
    for other, exercises in load_course(root).items():
        if other == topic or not (root / "exercises" / f"{other}.py").is_file():
            continue
        tree = ast.parse((root / "exercises" / f"{other}.py").read_text())
        for name in dict.fromkeys(local_name(target) for exercise in exercises for target in exercise.targets):
            head, _, method = name.partition(".")
            users = inheriting(names, head) if method else [name] if name in names else []
            if not users:
                continue
            if not is_attempted(tree, name):
                library.append(name)
                continue
            theirs = vars(import_module(f"exercises.{other}"))
            for user in users:
                if method:
                    setattr(user, method, vars(theirs[head])[method])
                else:
                    names[name] = theirs[name]
            own.append(name)
    print(f"Your own code from other chapters: {', '.join(own) or 'none yet'}")
    print(f"The library's in place of what you have not written: {', '.join(library) or 'nothing'}\n")


def lend_to_library(topic: str, names: dict[str, Any], tree: ast.Module) -> None:
    """Put what the student has written of this topic in the library's place, wherever the library calls it.

    A function is bound in every loaded module that has the library's; a method goes to the library's class, unless `main` uses
    the student's class itself or the method calls super(), which only works in its own class.
    """
    lent, used_by_main = [], source.names_used(source.find(tree, "main"))
    for exercise in load_course(checkout_root())[topic]:
        for target in exercise.targets:
            name = local_name(target)
            head, _, method = name.partition(".")
            if not is_attempted(tree, name):
                continue
            module = import_module(target.removesuffix(f".{name}"))
            library = getattr(module, head)
            if not method:
                for other in [m for key, m in sys.modules.items() if key.startswith("rlhf_lib.")]:
                    if vars(other).get(head) is library:
                        setattr(other, head, names[head])
            elif head not in used_by_main and "super()" not in ast.unparse(source.find(tree, name)):
                setattr(library, method, vars(names[head])[method])
            elif head not in used_by_main:
                continue
            lent.append(name)
    print(f"Your own code of this chapter at work: {', '.join(lent) or 'none yet'}\n")


def inheriting(names: dict[str, Any], base: str) -> list[type]:
    """Classes made in a namespace that inherit from the library's class of a name."""
    return [
        kind
        for kind in names.values()
        if inspect.isclass(kind)
        and kind.__module__ == names["__name__"]
        and any(parent.__name__ == base and parent.__module__.startswith("rlhf_lib") for parent in kind.__mro__[1:])
    ]
