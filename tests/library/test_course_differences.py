"""What is said of wrong numbers is true of them."""

import pytest
import torch

from rlhf_lib.course.differences import difference, simple

A = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.5]])
B = torch.arange(1.0, 25.0).reshape(2, 3, 4)
C = torch.arange(1.0, 5.0)
NEGATED = "there every number has the other sign"
TWICE = "there every number is 2 times what is expected"
CASES = {
    "sign": (-A, A, "every number has the other sign"),
    "factor": (A / 3, A, "every number is 1/3 times what is expected"),
    "odd factor": (1.06904 * A, A, "every number is 1.06904 times what is expected"),
    "offset": (A + 0.25, A, "every number is 0.25 too large"),
    "offset below": (A - 2, A, "every number is 2 too small"),
    "zero": (0 * A, A, "every number is 0"),
    "constant": (0 * A + 7, A, "every number is 7"),
    "nan": (A * torch.nan, A, "every number is nan"),
    "transposed": (A.T, A, "rows and columns are swapped: the transpose is right"),
    "transposed square": (A[:, :2].T, A[:, :2], "rows and columns are swapped"),
    "another shape": (A.reshape(3, 2), A, "the numbers are right, only their shape is not"),
    "mean": (A.mean(), A, "it is the mean of what is expected"),
    "sum over an axis": (A.sum(1), A, "it is the sum of what is expected over axis 1"),
    "late": (A.roll(1, 1), A, "everything stands one place too late along axis 1"),
    "early": (A.roll(-1, 1), A, "everything stands one place too early along axis 1"),
    "reversed": (A.flip(1), A, "the order is reversed along axis 1"),
    "shuffled": (A.flatten()[[1, 5, 3, 0, 2, 4]], A.flatten(), "the numbers are right, only their order is not"),
    "last column": (A * torch.tensor([1, 1, 2]), A, f"differences only in column 2, the last; {TWICE}"),
    "one row": (A + torch.tensor([[0.0], [1.0]]), A, "differences only in row 1, the last; there every number is 1 too large"),
    "one place of three axes": (B + (torch.arange(4) == 1) * B, B, f"differences only in place 1 of axis 2; {TWICE}"),
    "a number": (torch.tensor(1.0), torch.tensor(-1.0), "every number has the other sign"),
    "another number": (torch.tensor(1.0), torch.tensor(1.7), ""),
    "nothing simple": (A.square() + A.exp(), A, ""),
    "some signs": (C * torch.tensor([1, -1, 1, -1]), C, f"differences only in places 1, 3; {NEGATED}"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_sentence(name):
    got, expected, told = CASES[name]
    assert difference(got, expected, 1e-5, 1e-6) == told


def test_an_exact_comparison_sees_all_its_differences():
    """Where the last bit counts, places are counted by the last bit."""
    expected = torch.linspace(1, 2, 40).reshape(4, 10)
    got = expected * (1 + 3e-7)
    got[:, 3] += 1
    assert "column" not in difference(got, expected, 0.0, 0.0)


@pytest.mark.parametrize("factor", [0.5, 2 / 3, -1.5, 12.0, 99.0])
def test_simple_factors(factor):
    top, _, bottom = simple(factor, 1e-6).partition("/")
    assert float(top) / float(bottom or 1) == pytest.approx(factor)


@pytest.mark.parametrize("factor", [1.0, 0.0, 3.14159, 101.0, 1 / 13])
def test_other_factors_are_shown_as_they_are(factor):
    assert simple(factor, 1e-6) == ""


def test_it_never_fails_on_odd_input():
    for got in (torch.zeros(0), torch.tensor([True, False]), torch.tensor([1, 2]), torch.tensor([float("inf"), 1.0])):
        for expected in (torch.zeros(0), torch.tensor([1.0, 2.0]), torch.tensor([3, 2]), torch.zeros(3, 0)):
            difference(got, expected, 1e-5, 1e-6)
