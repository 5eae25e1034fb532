"""Shapes in signatures, checked while the student's code runs, and told in plain words."""

import re
import types
from collections.abc import Callable
from typing import Any

from jaxtyping import AbstractArray, TypeCheckError, jaxtyped


def has_shape(annotation: Any) -> bool:
    """Whether an annotation says anything of an array's shape."""
    parts = getattr(annotation, "__args__", ())
    return (isinstance(annotation, type) and issubclass(annotation, AbstractArray)) or any(map(has_shape, parts))


def with_shape_checks(function: Callable) -> Callable:
    """The function with its array annotations enforced; all other annotations are left alone."""
    from beartype import beartype

    copied = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__doc__, copied.__qualname__, copied.__module__ = function.__doc__, function.__qualname__, function.__module__
    copied.__annotations__ = {name: kind for name, kind in function.__annotations__.items() if has_shape(kind)}
    copied.__dict__.update(function.__dict__)
    return jaxtyped(copied, typechecker=beartype) if copied.__annotations__ else function


def check_shapes(namespace: dict[str, Any], target: str) -> None:
    """Put shape checks on a function, or a class's method by "Class.method", where it is plain Python."""
    head, _, method = target.partition(".")
    owner = namespace.get(head)
    if not method:
        if isinstance(owner, types.FunctionType):
            namespace[head] = with_shape_checks(owner)
        return
    found = vars(owner).get(method) if isinstance(owner, type) else None
    if isinstance(found, types.FunctionType):
        setattr(owner, method, with_shape_checks(found))
    elif isinstance(found, property):
        setattr(owner, method, property(with_shape_checks(found.fget)))


SIZES = re.compile(r"current values for each jaxtyping axis annotation are as follows\.\n(\{.*?\})", re.DOTALL)
ANNOTATED = re.compile(r"\b(Float|Int|Bool)\[(?:torch\.)?Tensor, ['\"] ?(.*?)['\"]\]")
ACTUAL = re.compile(r"\b([fib])(\d+)\[([\d,]*)\](?:\(torch\))?")
KINDS = {"f": "float", "i": "int", "b": "bool"}


def in_plain_words(error: TypeCheckError) -> str:
    """What a shape error means for the one who wrote the code."""
    text = str(error)
    where = "returned" if "return value" in text else "was given"
    actual = re.search(r"Actual value: (.*)", text)
    expected = re.search(r"Expected type: (.*)", text)
    sizes = SIZES.search(text)
    parts = [f"it {where} {plain(actual[1]) if actual else 'something of another shape'}"]
    if expected:
        parts.append(f"but its signature promises {plain(expected[1])}")
    if sizes:
        parts.append("where " + ", ".join(f"{name} = {size}" for name, size in re.findall(r"'(\w+)': (\d+)", sizes[1])))
    return ", ".join(parts)


def plain(text: str) -> str:
    """A shape as a beginner reads it: "a float tensor [batch gen]"."""
    text = re.sub(r"<class '(.*?)'>", r"\1", text.strip().rstrip("."))
    text = ANNOTATED.sub(lambda m: f"a {m[1].lower()} tensor [{m[2]}]", text)
    return ACTUAL.sub(lambda m: f"a {KINDS[m[1]]}{m[2]} tensor [{m[3].replace(',', ' ')}]", text)
