"""The commonest check: an answer's values and gradients are those of a formula, on given inputs."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_lib.course import expect
from rlhf_lib.course.student import Student


def agree(
    student: Student,
    name: str,
    formula: Callable,
    *args: Any,
    wrt: tuple[int | str, ...] = (),
    no_gradient_to: tuple[int | str, ...] = (),
    rtol: float = 1e-5,
    atol: float = 1e-6,
    **kwargs: Any,
) -> None:
    """The value of a call is the formula's, its gradient with respect to `wrt` too, and no gradient reaches the others."""
    if not wrt and not no_gradient_to:
        expect.close(student.call(name, *args, **kwargs), formula(*args, **kwargs), rtol=rtol, atol=atol)
        return
    inputs = [value.clone().requires_grad_() if i in wrt else value for i, value in enumerate(args)]
    options = {key: value.clone().requires_grad_() if key in wrt else value for key, value in kwargs.items()}
    expected = formula(*inputs, **options)
    weights = None if expected.ndim == 0 else student.randn(*expected.shape).to(expected.dtype)
    got, grads = student.value_and_grad(name, *args, wrt=(*wrt, *no_gradient_to), weights=weights, **kwargs)
    expect.close(got, expected.detach(), rtol=rtol, atol=atol)
    leaves = [inputs[item] if isinstance(item, int) else options[item] for item in wrt]
    scalar = expected if weights is None else (expected * weights).sum()
    for item, gradient in zip(wrt, torch.autograd.grad(scalar, leaves) if leaves else (), strict=True):
        require_gradient(grads[item], gradient, argument_name(formula, item), rtol, atol)
    for item in no_gradient_to:
        refuse_gradient(grads[item], argument_name(formula, item))


def require_defaults(student: Student, name: str, **defaults: Any) -> None:
    """The arguments that a call may leave out mean what the signature says.

    An answer may lack an argument, want it, or have None for it, which may stand for anything.
    """
    for parameter, expected in defaults.items():
        got = student.default(name, parameter)
        if got not in (inspect.Parameter.empty, None, expected):
            raise expect.Wrong(("expected", f"{parameter}={expected!r} where {name} is called without it"), ("got", repr(got)))


def argument_name(formula: Callable, item: int | str) -> str:
    """An argument's name for messages."""
    code = getattr(formula, "__wrapped__", formula).__code__
    return code.co_varnames[item] if isinstance(item, int) and item < len(code.co_varnames) else str(item)


def require_gradient(got: Tensor | None, expected: Tensor, name: str, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """The gradient with respect to an input."""
    if got is None:
        raise expect.Wrong(
            ("expected", f"a gradient with respect to {name}"),
            ("got", "none: the result is cut off from it (no_grad, inference_mode, detach, item or a new tensor)"),
        )
    expect.close(got, expected, f"gradient with respect to {name}", rtol=rtol, atol=atol)


def refuse_gradient(got: Tensor | None, name: str) -> None:
    """No gradient may reach an input that is data."""
    if got is not None and got.abs().max() > 0:
        raise expect.Wrong(("expected", f"no gradient with respect to {name}: it is data, not trained"), ("got", "one"))
