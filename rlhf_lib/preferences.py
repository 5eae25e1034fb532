"""Losses of reward models, MINIMISED, and the figures that say how good one is. All functions are pure.

A reward model gives one score a text. Three ways to train it: on comparisons (Bradley-Terry), on numbers (regression), and
on right or wrong (a verifier, whose sigmoid is then the chance of being right).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_lib.args import InputError


def calc_preference_loss(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    margin: Float[Tensor, " pairs"] | float = 0.0,
    centring_coef: float = 0.0,
) -> Float[Tensor, ""]:
    """Bradley-Terry loss: mean of -log sigmoid(chosen - rejected - margin) + centring_coef (chosen + rejected)^2, in nats.

    Args:
        chosen, rejected: scores of the better and the worse text of each pair.
        margin: how much better the chosen one is to be, one number or one a pair (Touvron et al. 2023, eq. 2).
        centring_coef: weight of the squared sum, which fixes the scores' zero: differences alone leave it open
            (Eisenstein et al. 2023, section 2).

    Finite, with a finite gradient, however far apart the scores are.
    """
    comparison = -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()
    return comparison + centring_coef * (chosen + rejected).square().mean()


def calc_regression_loss(scores: Float[Tensor, " batch"], targets: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean squared difference of scores and target rewards, which are data: no gradient reaches them."""
    return (scores - targets.detach()).square().mean()


def calc_verifier_loss(scores: Float[Tensor, " batch"], correct: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of sigmoid(scores) as the chance that a solution is right.

    Computed from the scores themselves (log sigmoid), so that a confident score gives no infinity.
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, correct.to(scores.dtype))


def pool_last_real_token(
    values: Float[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """Each row's value at its last real token, where a causal model has read the whole text for the first time.

    `attention_mask` is 1 on real tokens and 0 on padding, which may stand on either side or on both. Token ids are not
    looked at, since padding and end of sequence share an id in many tokenizers.

    Raises:
        InputError: a row without a real token.
    """
    real = attention_mask.bool()
    if not real.any(dim=1).all():
        row = int((~real.any(dim=1)).nonzero()[0])
        raise InputError(f"row {row} of the attention mask has no real token; a text needs at least one to be scored at")
    positions = torch.arange(values.shape[1], device=values.device)
    last = (positions * real).amax(dim=1)
    return values.gather(1, last[:, None]).squeeze(1)


def pairwise_accuracy(chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> float:
    """Share of pairs whose chosen text has the higher score; a tie counts half, so that one half is guessing."""
    return float(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())


def calibration_bins(
    probabilities: Float[Tensor, " batch"], outcomes: Bool[Tensor, " batch"], bins: int = 10
) -> list[tuple[float, float, int]]:
    """(mean predicted probability, share that came true, count) of every bin of equal width that is not empty.

    The lowest bin comes first. Each includes its lower edge, and the last one 1 as well.
    """
    index = (probabilities * bins).long().clamp(max=bins - 1)
    found = []
    for i in range(bins):
        inside = index == i
        if inside.any():
            count = int(inside.sum())
            found.append((float(probabilities[inside].mean()), float(outcomes[inside].float().mean()), count))
    return found


def expected_calibration_error(
    probabilities: Float[Tensor, " batch"], outcomes: Bool[Tensor, " batch"], bins: int = 10
) -> float:
    """Mean of |predicted - came true| over `calibration_bins`, weighted by their counts (Guo et al. 2017, eq. 3); 0 is best."""
    parts = calibration_bins(probabilities, outcomes, bins)
    return sum(count * abs(predicted - true) for predicted, true, count in parts) / len(probabilities)


def make_comparisons(correct: list[bool], group_size: int, most: int = 4) -> list[tuple[int, int]]:
    """Pairs (index of a right completion, index of a wrong one) of the same prompt, at most `most` a prompt.

    Completions of one prompt are consecutive, `group_size` of them. Right ones are paired with wrong ones in turn: the i-th
    pair has the i-th right one and the i-th wrong one, each list beginning anew when it ends, until every completion of the
    longer list was used once. A prompt whose completions are all right or all wrong gives none.

    Raises:
        InputError: the completions are not whole groups of at least 2.
    """
    if group_size < 2 or len(correct) % group_size:
        raise InputError(
            f"group_size={group_size} with {len(correct)} completions: comparisons need whole groups of at least 2; choose a "
            "divisor of the number of completions"
        )
    pairs = []
    for start in range(0, len(correct), group_size):
        group = range(start, start + group_size)
        right, wrong = [i for i in group if correct[i]], [i for i in group if not correct[i]]
        if right and wrong:
            count = min(most, max(len(right), len(wrong)))
            pairs += [(right[i % len(right)], wrong[i % len(wrong)]) for i in range(count)]
    return pairs
