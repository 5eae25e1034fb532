"""Losses of reward models against their formulas in plain Python, and the figures that judge them."""

import math

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.preferences import (
    calc_preference_loss,
    calc_regression_loss,
    calc_verifier_loss,
    calibration_bins,
    expected_calibration_error,
    make_comparisons,
    pairwise_accuracy,
    pool_last_real_token,
)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_bradley_terry():
    chosen, rejected = torch.tensor([1.0, 0.2]), torch.tensor([0.5, 1.0])
    expected = -sum(math.log(sigmoid(c - r - 0.3)) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)) / 2
    expected += 0.1 * sum((c + r) ** 2 for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)) / 2
    assert float(calc_preference_loss(chosen, rejected, 0.3, 0.1)) == pytest.approx(expected, rel=1e-6)
    margins = torch.tensor([0.3, 0.3])
    assert float(calc_preference_loss(chosen, rejected, margins, 0.1)) == pytest.approx(expected, rel=1e-6)


def test_bradley_terry_far_apart_is_finite():
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = calc_preference_loss(chosen, torch.tensor([1e4, -1e4]))
    loss.backward()
    assert loss.isfinite()
    torch.testing.assert_close(chosen.grad, torch.tensor([-0.5, 0.0]))


def test_verifier_and_regression():
    scores, correct = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([True, False, False])
    chances = [sigmoid(s) for s in scores.tolist()]
    expected = -(math.log(chances[0]) + math.log(1 - chances[1]) + math.log(1 - chances[2])) / 3
    assert float(calc_verifier_loss(scores, correct)) == pytest.approx(expected, rel=1e-6)
    assert calc_verifier_loss(torch.tensor([-1e5]), torch.tensor([True])).isfinite()
    assert float(calc_regression_loss(scores, torch.tensor([1.0, 1.0, 1.0]))) == pytest.approx((1 + 4 + 0.25) / 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_reads_the_mask_alone(side):
    values = torch.arange(12.0).reshape(3, 4)
    masks = {"right": [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], "left": [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]]}
    expected = {"right": [1.0, 7.0, 8.0], "left": [3.0, 7.0, 11.0]}
    assert pool_last_real_token(values, torch.tensor(masks[side])).tolist() == expected[side]


def test_pooling_needs_a_token():
    with pytest.raises(InputError, match="row 1"):
        pool_last_real_token(torch.zeros(2, 3), torch.tensor([[1, 0, 0], [0, 0, 0]]))


def test_accuracy_counts_ties_half():
    assert pairwise_accuracy(torch.tensor([1.0, 0.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, 1.0])) == 0.625


def test_calibration():
    probabilities = torch.tensor([0.05, 0.15, 0.15, 0.95, 1.0])
    outcomes = torch.tensor([False, True, False, True, True])
    assert [count for _, _, count in calibration_bins(probabilities, outcomes)] == [1, 2, 2]
    expected = (1 * 0.05 + 2 * 0.35 + 2 * 0.025) / 5
    assert expected_calibration_error(probabilities, outcomes) == pytest.approx(expected, abs=1e-6)


def test_a_calibrated_predictor_has_a_small_error():
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(20_000, generator=generator)
    outcomes = torch.rand(20_000, generator=generator) < chances
    assert expected_calibration_error(chances, outcomes) < 0.02
    assert expected_calibration_error(chances, ~outcomes) > 0.4


def test_comparisons_stay_within_a_question():
    correct = [True, False, False, False, True, True, True, True, False, False, True, True]
    pairs = make_comparisons(correct, 4)
    assert pairs == [(0, 1), (0, 2), (0, 3), (10, 8), (11, 9)]
    assert make_comparisons(correct, 4, most=1) == [(0, 1), (10, 8)]
    for size in (5, 1):
        with pytest.raises(InputError, match="whole groups"):
            make_comparisons(correct, size)
