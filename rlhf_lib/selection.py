"""Several completions of one prompt: how often one is right (pass@k), and choosing one by vote, by score, or by both."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.args import InputError


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of k completions is right, from `correct` right ones among `samples`; unbiased.

    1 - C(samples - correct, k) / C(samples, k): of all ways to pick k of the samples, those with a right one (Chen et al.
    2021, eq. 1). The plain guess 1 - (1 - correct / samples)^k is too low on average.

    Raises:
        InputError: k is not between 1 and samples, or correct not between 0 and samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise InputError(
            f"pass@{k} of {samples} samples with {correct} right cannot be estimated; k must be between 1 and the number of "
            "samples, and no more can be right than were sampled"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_vote(answers: Sequence[Hashable | None]) -> int | None:
    """Index of the first completion that gives the most frequent answer; None if no completion has an answer.

    `answers` are keys (rewards.answer_key), so that equal numbers are one answer; None is a completion without answer, which
    does not vote. Of equally frequent answers the one seen first wins.
    """
    return weighted_vote(answers, [1.0] * len(answers))


def weighted_vote(answers: Sequence[Hashable | None], weights: Sequence[float]) -> int | None:
    """Index of the first completion that gives the answer with the largest sum of weights; None if none has an answer.

    With weights of 1 this is the majority; with a verifier's probabilities each completion votes as loudly as it is trusted
    (Li et al. 2023). Ties go to the answer seen first.
    """
    totals: dict[Hashable, float] = defaultdict(float)
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] += weight
    if not totals:
        return None
    best = max(totals, key=lambda answer: totals[answer])  # the first of equals: dictionaries keep their order
    return list(answers).index(best)


def rerank(scores: Sequence[float]) -> int:
    """Index of the completion with the highest score, the first of equals (Cobbe et al. 2021, section 4).

    Raises:
        InputError: no scores.
    """
    if not scores:
        raise InputError("there is no completion to choose from; give at least one score")
    return max(range(len(scores)), key=lambda i: scores[i])


def best_of_n_value(proxy: Float[Tensor, " samples"], gold: Float[Tensor, " samples"], n: int) -> Float[Tensor, ""]:
    """Expected gold reward of the best of n by proxy reward, from any number of samples; unbiased.

    Averages over all ways to pick n of the samples. Sorted by proxy, the i-th smallest (from 1) is the best of
    C(i - 1, n - 1) of the C(samples, n) picks (Nakano et al. 2021, appendix I). Of samples with equal proxy the later one
    counts as the better.

    Raises:
        InputError: n is not between 1 and the number of samples.
    """
    samples = len(proxy)
    if not 1 <= n <= samples:
        raise InputError(f"n={n} must be between 1 and the number of samples, {samples}; sample more, or lower n")
    weights = [math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)]
    order = proxy.argsort(stable=True)
    return (gold[order] * torch.tensor(weights, dtype=gold.dtype, device=gold.device)).sum()


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n policy || sampling policy) in nats, log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3).

    Exact where no two completions score the same; otherwise an upper bound (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n
