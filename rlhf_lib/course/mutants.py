"""Mutants of a solution: every small edit of its syntax tree that a slip of the pen might be. Most are wrong answers."""

import ast
import copy
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

from rlhf_lib.course import source
from rlhf_lib.course.assemble import Implementation
from rlhf_lib.course.manifest import Exercise

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
SIBLINGS = (  # functions and methods that are taken for each other
    ("max", "min"),
    ("amax", "amin"),
    ("argmax", "argmin"),
    ("maximum", "minimum"),
    ("sum", "mean"),
    ("any", "all"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("exp", "log"),
    ("log_softmax", "softmax"),
    ("square", "abs"),
    ("floor", "ceil"),
    ("append", "extend"),
    ("rsplit", "split"),
    ("startswith", "endswith"),
    ("lower", "upper"),
    ("lstrip", "rstrip"),
    ("search", "match"),
)
SIBLING = {a: b for pair in SIBLINGS for a, b in (pair, pair[::-1])}
NO_GRADIENT = ("no_grad", "inference_mode")
MODULES = ("torch", "math", "re", "os", "nn", "parallel", "json")
Edits = Iterator[tuple[str, ast.AST]]


@dataclass(frozen=True)
class Mutant:
    """One edit of one definition.

    Attributes:
        operator: what kind of slip it is.
        target: the definition's name in the topic's file.
        before: the statement that holds the edit, as it is in the solution.
        after: the same statement with the edit.
        place: how many statements of the definition stand before it, since two may be alike.
        answer: the topic's solutions with the edit.
    """

    operator: str
    target: str
    before: str
    after: str
    place: int
    answer: Implementation

    def is_made_by(self, old: str, new: str) -> bool:
        """Whether it puts `new` in the place of one `old` in its statement."""
        places = [i for i in range(len(self.before)) if self.before.startswith(old, i)]
        return any(self.before[:i] + new + self.before[i + len(old) :] == self.after for i in places)


def mutants_of(exercise: Exercise, solution: Implementation) -> list[Mutant]:
    """All mutants of an exercise's targets, each once."""
    found = {}
    for target in exercise.local_targets:
        for mutant in mutants_of_definition(solution, target):
            found.setdefault(mutant.answer.text, mutant)
    return list(found.values())


def mutants_of_definition(solution: Implementation, target: str) -> Iterator[Mutant]:
    """All mutants of one function or method."""
    node, lines = source.find(solution.tree(), target), solution.text.split("\n")
    first, last = source.first_line(node) - 1, node.end_lineno
    for i, holder in enumerate([node, *statements_of(node)]):
        for j, part in enumerate(own_parts(holder)):
            for k, (operator, _) in enumerate(edits_of(part)):
                root = copy.deepcopy(node)
                place = [root, *statements_of(root)][i]
                old = own_parts(place)[j]
                new = list(edits_of(old))[k][1]
                root = new if old is root else put_in_place(root, old, new)
                after = new if old is place else place
                if ast.dump(root) != ast.dump(node):
                    own = textwrap.indent(ast.unparse(root), " " * node.col_offset).split("\n")
                    answer = Implementation("\n".join([*lines[:first], *own, *lines[last:]]), solution.file)
                    yield Mutant(operator, target, heading(holder), heading(after), i, answer)


def statements_of(node: ast.FunctionDef) -> Iterator[ast.stmt]:
    """A definition's statements at every depth, docstrings left out."""
    for part in ast.walk(node):
        if isinstance(part, ast.stmt) and part is not node and not is_docstring(part):
            yield part


def is_docstring(node: ast.stmt) -> bool:
    """Whether a statement is a bare constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def own_parts(statement: ast.stmt) -> list[ast.AST]:
    """The statement and what it holds itself: no statements within it, no annotations, no error's message."""
    parts, waiting = [statement], children(statement)
    while waiting:
        part = waiting.pop(0)
        parts.append(part)
        waiting.extend(children(part))
    return parts


def children(node: ast.AST) -> list[ast.AST]:
    """The parts of a node that are edited apart from it."""
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.AnnAssign)):
        return [node.value] if isinstance(node, ast.AnnAssign) and node.value is not None else []
    if isinstance(node, ast.FunctionDef):
        return [*node.args.defaults, *[d for d in node.args.kw_defaults if d is not None]]
    kept = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
    return [child for child in kept if not isinstance(child, (ast.expr_context, ast.operator, ast.cmpop, ast.boolop))]


def put_in_place(tree: ast.AST, old: ast.AST, new: ast.AST) -> ast.AST:
    """The tree, with a node within it replaced."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is old for item in value):
                at = next(i for i, item in enumerate(value) if item is old)
                value[at] = new
    return tree


def heading(statement: ast.stmt) -> str:
    """A statement's own text on one line: of a compound one what stands before the colon."""
    if isinstance(statement, ast.FunctionDef):
        marks = "".join(f"@{ast.unparse(d)} " for d in statement.decorator_list)
        return f"{marks}def {statement.name}({ast.unparse(statement.args)})"
    if hasattr(statement, "body"):
        bare = copy.copy(statement)
        bare.body, bare.orelse = [ast.Pass()], []
        return ast.unparse(bare).splitlines()[0].removesuffix(":")
    return " ".join(ast.unparse(statement).split())


@singledispatch
def edits_of(node: ast.AST) -> Edits:
    """(operator, new node) for all edits of one node; none for a kind of node that has no rule here."""
    return iter(())


@edits_of.register
def edits_of_definition(node: ast.FunctionDef) -> Edits:
    """Without the decorators that keep gradients away."""
    for i, mark in enumerate(node.decorator_list):
        if any(name in ast.unparse(mark) for name in NO_GRADIENT):
            yield "no_grad left out", changed(node, decorator_list=without(node.decorator_list, i))


@edits_of.register
def edits_of_return(node: ast.Return) -> Edits:
    """The value computed but not returned."""
    if node.value is not None:
        yield "return forgotten", ast.Expr(node.value)


@edits_of.register(ast.Assign)
@edits_of.register(ast.Expr)
@edits_of.register(ast.Raise)
@edits_of.register(ast.Continue)
def edits_of_simple_statement(node: ast.stmt) -> Edits:
    """The statement left out, or another way to go on with a loop."""
    yield "statement left out", ast.Pass()
    if isinstance(node, ast.Continue):
        yield "break for continue", ast.Break()


@edits_of.register
def edits_of_break(node: ast.Break) -> Edits:
    """Another way to go on with a loop; without any it might not end."""
    yield "continue for break", ast.Continue()


@edits_of.register
def edits_of_augmented_assignment(node: ast.AugAssign) -> Edits:
    """Left out, replaced instead of added to, another operator."""
    yield "statement left out", ast.Pass()
    yield "assigned, not added", ast.Assign([node.target], node.value, lineno=node.lineno)
    if type(node.op) in ARITHMETIC:
        yield "arithmetic", changed(node, op=ARITHMETIC[type(node.op)]())


@edits_of.register(ast.If)
@edits_of.register(ast.While)
def edits_of_condition(node: ast.If | ast.While) -> Edits:
    """A condition that never holds, or always."""
    yield "condition never holds", changed(node, test=ast.Constant(False))
    if isinstance(node, ast.If):
        yield "condition always holds", changed(node, test=ast.Constant(True))


@edits_of.register
def edits_of_with(node: ast.With) -> Edits:
    """The block without its `with`."""
    yield "with left out", ast.If(ast.Constant(True), node.body, [])


@edits_of.register
def edits_of_comparison(node: ast.Compare) -> Edits:
    """Each operator's opposite, or its neighbour with or without equality."""
    for i, operator in enumerate(node.ops):
        if type(operator) in COMPARISONS:
            yield "comparison", changed(node, ops=[*node.ops[:i], COMPARISONS[type(operator)](), *node.ops[i + 1 :]])


@edits_of.register
def edits_of_arithmetic(node: ast.BinOp) -> Edits:
    """Another operator, one operand alone, both the other way round."""
    if type(node.op) in ARITHMETIC:
        yield "arithmetic", changed(node, op=ARITHMETIC[type(node.op)]())
    yield "right operand left out", node.left
    yield "left operand left out", node.right
    if isinstance(node.op, (ast.Sub, ast.Div)):
        yield "operands swapped", changed(node, left=node.right, right=node.left)


@edits_of.register
def edits_of_and_or(node: ast.BoolOp) -> Edits:
    """The other one of `and` and `or`; each condition left out."""
    yield "and, or", changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for i in range(len(node.values)):
        kept = without(node.values, i)
        yield "condition left out", kept[0] if len(kept) == 1 else changed(node, values=kept)


@edits_of.register
def edits_of_sign(node: ast.UnaryOp) -> Edits:
    """Without a sign or `not`; numbers have edits of their own."""
    if not isinstance(node.operand, ast.Constant):
        yield "sign left out", node.operand


@edits_of.register
def edits_of_choice(node: ast.IfExp) -> Edits:
    """One of the two values alone."""
    yield "condition always holds", node.body
    yield "condition never holds", node.orelse


@edits_of.register
def edits_of_slice(node: ast.Slice) -> Edits:
    """Without one of its bounds."""
    for bound in ("lower", "upper"):
        if getattr(node, bound) is not None:
            yield "slice bound left out", changed(node, **{bound: None})


@edits_of.register
def edits_of_constant(node: ast.Constant) -> Edits:
    """Numbers one off, doubled or zero, the other truth value, another text."""
    value = node.value
    if isinstance(value, bool):
        yield "other truth value", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
        yield "constant", ast.Constant(value - 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(2 * value if value else 1.0)
        if value:
            yield "constant", ast.Constant(0.0)
    elif isinstance(value, str) and value:
        yield "text", ast.Constant(value + "x")


@edits_of.register
def edits_of_call(node: ast.Call) -> Edits:
    """The call left out, arguments left out or swapped."""
    if isinstance(node.func, ast.Attribute) and not is_module(node.func.value):
        yield "call left out", node.func.value
    elif node.args and not isinstance(node.args[0], ast.Starred):
        yield "call left out", node.args[0]
    for i in range(len(node.keywords)):
        yield "keyword left out", changed(node, keywords=without(node.keywords, i))
    if len(node.args) > 1:
        yield "last argument left out", changed(node, args=node.args[:-1])
    for i in range(len(node.args) - 1):
        first, second = node.args[i : i + 2]
        yield "arguments swapped", changed(node, args=[*node.args[:i], second, first, *node.args[i + 2 :]])


@edits_of.register
def edits_of_attribute(node: ast.Attribute) -> Edits:
    """A method that is taken for this one."""
    if node.attr in SIBLING:
        yield "sibling function", changed(node, attr=SIBLING[node.attr])


@edits_of.register
def edits_of_name(node: ast.Name) -> Edits:
    """A function that is taken for this one."""
    if node.id in SIBLING and isinstance(node.ctx, ast.Load):
        yield "sibling function", changed(node, id=SIBLING[node.id])


def is_module(node: ast.expr) -> bool:
    """Whether what stands before the dot is a module or class, of which no value is left when the call is."""
    return isinstance(node, ast.Name) and (node.id in MODULES or node.id[0].isupper())


def without(items: list, place: int) -> list:
    """A list without the item at a place."""
    return items[:place] + items[place + 1 :]


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
