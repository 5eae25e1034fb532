"""pass@k, votes and best-of-n against enumeration of every possible pick."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lib.args import InputError
from rlhf_lib.selection import best_of_n_kl, best_of_n_value, majority_vote, pass_at_k, rerank, weighted_vote


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_counts_every_pick(right, data):
    k = data.draw(st.integers(1, len(right)))
    picks = list(itertools.combinations(right, k))
    assert pass_at_k(len(right), sum(right), k) == pytest.approx(sum(map(any, picks)) / len(picks))


def test_pass_at_k_is_unbiased():
    """Averaged over all outcomes of 6 samples with chance p, it is exactly 1 - (1 - p)^k; the plain guess is not."""
    p, n, k = 0.3, 6, 4
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(chances)) == pytest.approx(1 - (1 - p) ** k)
    assert sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(chances)) < 1 - (1 - p) ** k - 0.03


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 2)])
def test_impossible_pass_at_k(samples, correct, k):
    with pytest.raises(InputError, match="cannot be estimated"):
        pass_at_k(samples, correct, k)


def test_votes():
    half = Fraction(1, 2)
    assert majority_vote([None, 3, half, half, 3, 7]) == 1  # a tie goes to the first seen
    assert majority_vote([7, half, half]) == 1
    assert majority_vote([None, None]) is None
    assert majority_vote([]) is None
    assert weighted_vote([3, half, half], [0.9, 0.3, 0.3]) == 0
    assert weighted_vote([None, half], [9.0, 0.1]) == 1
    assert rerank([0.1, 0.5, 0.5]) == 1
    with pytest.raises(InputError, match="at least one score"):
        rerank([])


@given(st.lists(st.integers(0, 5), min_size=2, max_size=7), st.data())
def test_best_of_n_counts_every_pick(gold, data):
    n = data.draw(st.integers(1, len(gold)))
    proxy = data.draw(st.permutations(range(len(gold))))
    picks = [gold[max(pick, key=lambda i: proxy[i])] for pick in itertools.combinations(range(len(gold)), n)]
    got = best_of_n_value(torch.tensor(proxy, dtype=torch.float64), torch.tensor(gold, dtype=torch.float64), n)
    assert float(got) == pytest.approx(sum(picks) / len(picks))


def test_kl_of_best_of_n():
    """For a uniform continuous score the best of n has density n u^(n-1), whose KL from uniform is log n - (n - 1) / n."""
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for n in (1, 2, 7, 64):
        density = n * grid ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float((density * density.log()).nan_to_num().mean()), abs=1e-4)
