"""Wrong shapes are errors in every function, and in the first of those that are defined again and again."""

import pytest
from beartype.roar import BeartypeCallHintParamViolation as Violation
from shape_checks import beartype_once


def make():
    @beartype_once
    def inner(x: int):
        return x

    return inner


def test_a_function_is_checked_always():
    def outer(x: int):
        return x

    outer.__qualname__ = "outer"
    for _ in range(2):
        with pytest.raises(Violation):
            beartype_once(outer)("no")


def test_a_function_inside_another_is_checked_the_first_time():
    with pytest.raises(Violation):
        make()("no")
    assert make()("no") == "no"


def test_the_library_is_checked():
    import torch

    from rlhf_lib.advantages import compute_group_advantages

    with pytest.raises(Exception, match="rewards"):
        compute_group_advantages(torch.zeros(2, 2), 2)
