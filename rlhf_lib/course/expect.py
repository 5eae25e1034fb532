"""What a checker expects of an answer. Each function raises Wrong with the first difference."""

import re
from typing import Any

import torch
from torch import Tensor

from rlhf_lib.course.differences import difference

ADDRESS = re.compile(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>")


class Wrong(AssertionError):
    """An answer differs from what is expected; the message's lines are (label, text) pairs."""

    def __init__(self, *lines: tuple[str, str]):
        super().__init__("\n".join(f"{label}: {text}" for label, text in lines))
        self.lines = lines


def show(value: Any) -> str:
    """A value in a few characters: numbers in full, large tensors by kind and shape."""
    if isinstance(value, Tensor):
        if value.numel() == 1:
            return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = ADDRESS.sub(r"a \1 object", repr(value)[:200])
    return text if len(text) <= 100 else f"{text[:97]}..."


def close(got: Any, expected: Any, what: str = "result", *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """A tensor (or number) of the expected shape, dtype and values; where float32 is expected float64 will do."""
    if expected is None or got is None:
        if got is not expected:
            raise Wrong((f"expected {what}", show(expected)), ("got", show(got)))
        return
    expected = torch.as_tensor(expected)
    if not isinstance(got, Tensor):
        if not isinstance(got, (int, float)):
            raise Wrong((f"expected {what}", show(expected)), ("got", f"{type(got).__name__} {show(got)}"))
        got = torch.as_tensor(got, dtype=expected.dtype)
    if got.shape != expected.shape:
        shapes = (f"expected {what}", f"shape {list(expected.shape)}"), ("got", f"shape {list(got.shape)}")
        raise Wrong(*shapes, *told(difference(got, expected, rtol, atol)))
    if got.dtype != expected.dtype and (got.dtype, expected.dtype) != (torch.float64, torch.float32):
        raise Wrong((f"expected {what}", f"dtype {expected.dtype}"), ("got", f"dtype {got.dtype}"))
    same = torch.isclose(got.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True)
    if not same.all():
        index = [] if got.ndim == 0 else (~same).nonzero()[0].tolist()
        place = f" at index {index}, the first of {int((~same).sum())} differences in {list(got.shape)}" if index else ""
        first = (f"expected {what}", f"{show(expected[tuple(index)])}{place}"), ("got", show(got[tuple(index)]))
        raise Wrong(*first, *told(difference(got, expected, rtol, atol)))


def told(difference: str) -> list[tuple[str, str]]:
    """A difference as a line of a message; no line where there is nothing to say."""
    return [("difference", difference)] if difference else []


def equal(got: Any, expected: Any, what: str = "result") -> None:
    """Exactly the expected value; tensors to the last bit."""
    if isinstance(expected, Tensor):
        close(got, expected, what, rtol=0.0, atol=0.0)
    elif type(got) is not type(expected) or got != expected:
        raise Wrong((f"expected {what}", show(expected)), ("got", show(got)))


def true(condition: bool, expected: str, got: str) -> None:
    """A property, told in words."""
    if not condition:
        raise Wrong(("expected", expected), ("got", got))
