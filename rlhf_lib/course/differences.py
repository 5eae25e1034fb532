"""In what way an answer's numbers differ from the expected ones, in words that are true of all of them."""

from fractions import Fraction

import torch
from torch import Tensor

MOST_NAMED = 4  # places that are listed one by one
AXES = ("row", "column")


def difference(got: Tensor, expected: Tensor, rtol: float, atol: float) -> str:
    """A sentence about two tensors that differ; empty where nothing simple is true."""
    got, expected = got.detach().double(), expected.detach().double()
    if got.shape != expected.shape:
        return of_shapes(got, expected, rtol, atol)
    wrong = ~torch.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    rtol = max(rtol, 1e-6)  # of what the wrong numbers have in common
    if got.numel() < 2:
        return relation(got.reshape(1), expected.reshape(1), rtol, atol) if got.numel() else ""
    whole = relation(got, expected, rtol, atol) or rearranged(got, expected, rtol, atol)
    if whole:
        return whole
    where, part = places(wrong), relation(got[wrong], expected[wrong], rtol, atol) if int(wrong.sum()) > 1 else ""
    if where and part:
        return f"{where}; there {part}"
    return f"where they differ, {part}" if part else where


def of_shapes(got: Tensor, expected: Tensor, rtol: float, atol: float) -> str:
    """How a tensor of another shape comes of the expected one."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)

    if expected.ndim == 2 and same(got, expected.T):
        return "rows and columns are swapped: the transpose is right"
    if got.numel() == expected.numel() and same(got.flatten(), expected.flatten()):
        return "the numbers are right, only their shape is not"
    for name, reduce in (("sum", torch.sum), ("mean", torch.mean)):
        if got.ndim == 0 and same(got, reduce(expected)):
            return f"it is the {name} of what is expected"
        for axis in range(expected.ndim) if got.ndim == expected.ndim - 1 else ():
            if same(got, reduce(expected, dim=axis)):
                return f"it is the {name} of what is expected over axis {axis}"
    return ""


def relation(got: Tensor, expected: Tensor, rtol: float, atol: float) -> str:
    """What all numbers have in common: sign, factor, offset, or one value."""

    def same(other: Tensor) -> bool:
        return torch.allclose(got, other, rtol=rtol, atol=atol)

    if got.isnan().all():
        return "every number is nan"
    if not (got.isfinite().all() and expected.isfinite().all()):
        return ""
    if same(torch.zeros_like(got)):
        return "every number is 0"
    if same(-expected):
        return "every number has the other sign"
    size = float(expected.square().sum())
    factor = float((got * expected).sum()) / size if size > 0 else 0.0
    told = simple(factor, rtol)
    if factor and same(factor * expected) and (told or got.numel() > 2):
        return f"every number is {told or f'{factor:.6g}'} times what is expected"
    offset = float((got - expected).mean())
    if got.numel() > 2 and same(expected + offset) and not same(expected):
        return f"every number is {abs(offset):.6g} too {'large' if offset > 0 else 'small'}"
    if got.numel() > 2 and same(torch.full_like(got, float(got.flatten()[0]))):
        return f"every number is {float(got.flatten()[0]):.6g}"
    return ""


def simple(factor: float, rtol: float) -> str:
    """A factor as a whole number or fraction of small numbers, if it is one."""
    near = Fraction(factor).limit_denominator(12)
    is_near = abs(float(near) - factor) <= max(rtol, 1e-6) * abs(factor)
    return str(near) if is_near and near not in (0, 1) and abs(near.numerator) <= 100 else ""


def rearranged(got: Tensor, expected: Tensor, rtol: float, atol: float) -> str:
    """The same numbers elsewhere: transposed, shifted by a step, turned round, in another order."""

    def same(a: Tensor, b: Tensor) -> bool:
        return a.numel() > 1 and torch.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)

    if got.ndim == 2 and got.shape[0] == got.shape[1] and same(got, expected.T):
        return "rows and columns are swapped"
    for axis in reversed(range(got.ndim)):
        length = got.shape[axis]
        if length < 2:
            continue
        along = f" along axis {axis}" if got.ndim > 1 else ""
        if same(got.narrow(axis, 1, length - 1), expected.narrow(axis, 0, length - 1)):
            return f"everything stands one place too late{along}"
        if same(got.narrow(axis, 0, length - 1), expected.narrow(axis, 1, length - 1)):
            return f"everything stands one place too early{along}"
        if same(got, expected.flip(axis)):
            return f"the order is reversed{along}"
    if same(got.flatten().sort().values, expected.flatten().sort().values):
        return "the numbers are right, only their order is not"
    return ""


def places(wrong: Tensor) -> str:
    """Where differences lie, if one row, one column or few of them hold all; empty where they are everywhere."""
    if wrong.all():
        return ""
    for axis in reversed(range(wrong.ndim)):
        others = [other for other in range(wrong.ndim) if other != axis]
        hit = wrong.any(dim=others) if others else wrong
        if int(hit.sum()) <= min(MOST_NAMED, len(hit) - 1):
            found = hit.nonzero().flatten().tolist()
            name = AXES[axis] if wrong.ndim == 2 else "place"
            along = f" of axis {axis}" if wrong.ndim > 2 else ""
            last = len(found) == 1 and found[0] == len(hit) - 1
            listed = ", ".join(map(str, found)) + (", the last" if last else "")
            return f"differences only in {name}{'s' * (len(found) > 1)} {listed}{along}"
    return ""
