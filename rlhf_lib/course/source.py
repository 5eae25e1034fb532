"""Text of functions and methods, with their comments: found in the library's files, cut out, stripped, replaced."""

import ast
import builtins
import textwrap
import tokenize
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlhf_lib.args import InputError

PACKAGE = Path(__file__).parents[1]
Definition = ast.FunctionDef | ast.ClassDef
SHORTCUTS = ("sped_up_by", "skipping_holes")


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name, text and syntax tree."""

    name: str
    text: str
    tree: ast.Module

    def definition(self, name: str) -> Definition:
        """The function or class of that name, or a class's method by "Class.method"."""
        node = find(self.tree, name)
        if node is None:
            raise InputError(f"{self.name} defines no {name}; correct the chapter's line of figures")
        return node


def read(file: Path) -> str:
    """A Python file's text, decoded as Python itself would: a mark at its beginning and a coding line are heeded."""
    try:
        with tokenize.open(file) as opened:
            return opened.read()
    except (SyntaxError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not text in UTF-8 ({error}); save it in that encoding") from None


@cache
def library_module(name: str) -> Module:
    """A module of the library by dotted name."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise InputError(f"{name} is not a module of the library; correct the chapter's line of figures")
    return Module(name, file.read_text(), ast.parse(file.read_text()))


def locate(target: str) -> tuple[Module, str]:
    """The module and local name of a dotted target such as rlhf_lib.trainers.ppo.RLHFTrainer.rollout_phase."""
    parts = target.split(".")
    keep = 2 if parts[-2][0].isupper() else 1
    return library_module(".".join(parts[:-keep])), ".".join(parts[-keep:])


def find(tree: ast.AST, name: str) -> Definition | None:
    """The definition that a name has in the end: the last of several, as Python would have it."""
    head, _, rest = name.partition(".")
    found = None
    for node in getattr(tree, "body", []):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == head:
            found = node
    return find(found, rest) if rest and found is not None else found


def is_attempted(tree: ast.Module, name: str) -> bool:
    """Whether a function or method of an exercises file is more than its stub: another body, or another value for its name."""
    if any(isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets) for node in tree.body):
        return True
    node = find(tree, name)
    raised = [part.exc for part in ast.walk(node) if isinstance(part, ast.Raise) and part.exc] if node is not None else []
    return node is not None and not any("NotAttempted" in ast.unparse(exception) for exception in raised)


def first_line(node: Definition) -> int:
    """The line that a definition begins on, decorators included (1 is the first)."""
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def shortcuts(node: ast.AST) -> list[ast.expr]:
    """The decorators of a faster way underneath, and of what is not taught: no part of what is studied."""
    decorators = [d for part in ast.walk(node) for d in getattr(part, "decorator_list", [])]
    return [d for d in decorators if isinstance(d, ast.Call) and ast.unparse(d.func) in SHORTCUTS]


def text_of(text: str, node: Definition) -> str:
    """The definition's lines, without its shortcuts."""
    left_out = {line for d in shortcuts(node) for line in range(d.lineno, d.end_lineno + 1)}
    lines = enumerate(text.split("\n")[: node.end_lineno], start=1)
    return "\n".join(line for number, line in lines if number >= first_line(node) and number not in left_out)


def body_start(node: ast.FunctionDef) -> int:
    """The first line after signature and docstring."""
    has_docstring = ast.get_docstring(node) is not None
    return node.body[0].end_lineno + 1 if has_docstring else node.body[0].lineno


def strip_bodies(text: str, bodies: dict[str, str]) -> str:
    """The text with the body of every named function or method replaced by one statement; docstrings stay."""
    tree, lines = ast.parse(text), text.split("\n")
    found = [(find(tree, name), statement) for name, statement in bodies.items()]
    for node, statement in sorted(found, key=lambda pair: -pair[0].lineno):
        indent = " " * node.body[0].col_offset
        lines[body_start(node) - 1 : node.end_lineno] = [indent + statement]
    return "\n".join(lines)


def is_property(node: Definition) -> bool:
    """Whether a method is decorated as a property."""
    return any(isinstance(d, ast.Name) and d.id in ("property", "cached_property") for d in node.decorator_list)


def names_used(tree: ast.AST) -> set[str]:
    """All names that code reads, builtins left out."""
    left_out = {id(name) for decorator in shortcuts(tree) for name in ast.walk(decorator)}
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in left_out)
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return {name for name in used if not hasattr(builtins, name)}


def names_bound(tree: ast.Module) -> set[str]:
    """What a module's top level defines or assigns, imports left out."""
    bound = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    return bound


def origin_of(module: Module, name: str) -> tuple[str, str, str] | None:
    """How a module binds a name: (module to import from or "", name there, name here); None where a function binds it."""
    for node in module.tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) == name:
                    return "", alias.name, name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module or "", alias.name, name
    return (module.name, name, name) if name in names_bound(module.tree) else None


def dedented(text: str) -> str:
    """Text moved to the left margin."""
    return textwrap.dedent(text)
