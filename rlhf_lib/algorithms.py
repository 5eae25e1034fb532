"""What the names in the table of algorithms stand for: `python -m rlhf_lib.algorithms` prints it, as in the README.

Four axes tell policy gradients apart: the baseline that rewards are compared with, the normaliser that they are divided by, the
importance of what was sampled earlier, and the aggregation of tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from tabulate import tabulate
from torch import Tensor

from rlhf_lib.advantages import compute_group_advantages, compute_leave_one_out, compute_over_mean
from rlhf_lib.args import FAMILY, GrpoArgs, InputError
from rlhf_lib.args.algorithms import ALGORITHMS, Algorithm
from rlhf_lib.surrogates import (
    clipped,
    clipped_weight,
    gamma_weight,
    log_likelihood,
    sequence_ratio,
    soft_gate,
    token_ratio,
)

Rewards = Float[Tensor, " batch"]


@dataclass(frozen=True)
class Choice:
    """A function that a row may name, with what the table says of it."""

    function: Callable
    baseline: str = ""
    normaliser: str = ""


def as_rewarded(rewards: Rewards, group_size: int) -> Rewards:
    """The rewards themselves."""
    return rewards


def all_ones(rewards: Rewards, group_size: int) -> Rewards:
    """1 for every completion: which of them count is for `rows` to say."""
    return torch.ones_like(rewards)


def centre_on_batch(rewards: Rewards, group_size: int) -> Rewards:
    """Rewards minus the batch's mean: the expected gradient is (n - 1) / n of the true one for n completions."""
    return rewards - rewards.mean()


def centre_on_group(rewards: Rewards, group_size: int) -> Rewards:
    """Rewards minus the mean of their group: (G - 1) / G of leave-one-out (Liu et al. 2025)."""
    return compute_group_advantages(rewards, group_size, std="none")


ADVANTAGES = {
    "one": Choice(all_ones, "none", "none"),
    "reward": Choice(as_rewarded, "none", "none"),
    "batch-centred": Choice(centre_on_batch, "batch mean", "none"),
    "leave-one-out": Choice(compute_leave_one_out, "mean of the others", "none"),
    "group-centred": Choice(centre_on_group, "group mean", "none"),
    "group-whitened": Choice(compute_group_advantages, "group mean", "group deviation"),
    "over-mean": Choice(compute_over_mean, "group mean", "group mean"),
}
RATIOS: dict[str, Callable] = {"token": token_ratio, "sequence": sequence_ratio}
SURROGATES: dict[str, Callable] = {
    "log-likelihood": log_likelihood,
    "clipped": clipped,
    "clipped-weight": clipped_weight,
    "soft-gate": soft_gate,
    "gamma-weight": gamma_weight,
}


def all_rows(rewarded: Any, group_size: int) -> Rewards:
    """Every completion."""
    return torch.ones_like(rewarded.rewards)


def right_rows(rewarded: Any, group_size: int) -> Rewards:
    """The right completions."""
    return torch.tensor(rewarded.correct, dtype=rewarded.rewards.dtype, device=rewarded.rewards.device)


def best_rows(rewarded: Any, group_size: int) -> Rewards:
    """Of each group the first with the highest reward, if it is right."""
    groups = rewarded.rewards.reshape(-1, group_size)
    best = torch.zeros_like(groups).scatter(1, groups.argmax(dim=1, keepdim=True), 1.0)
    return best.flatten() * right_rows(rewarded, group_size)


ROWS: dict[str, Callable] = {"all": all_rows, "right": right_rows, "best": best_rows}


def chosen(choice: str | Callable, among: dict[str, Any]) -> Callable:
    """The function that a row of the table names, or has in its place.

    Raises:
        InputError: no such name.
    """
    if callable(choice):
        return choice
    if choice not in among:
        raise InputError(f"{choice!r} is none of {', '.join(among)}; use one of them, or a function")
    found = among[choice]
    return found.function if isinstance(found, Choice) else found


def described(algorithm: Algorithm, args: Any) -> tuple[str, ...]:
    """A row of the printed table."""
    how = ADVANTAGES.get(algorithm.advantage, Choice(as_rewarded, "own", "own"))
    normaliser = f"batch deviation, by {algorithm.whiten[:-1]}" if algorithm.whiten else how.normaliser
    if algorithm.each_reward:
        normaliser = f"{how.normaliser} of each reward, {normaliser}"
    low, high = args.clip_range
    clip = {"clipped": f"{low:g} to {high:g}", "clipped-weight": f"up to {high:g}"}.get(algorithm.surrogate, "")
    importance = "none" if algorithm.surrogate == "log-likelihood" else f"{algorithm.ratio}"
    aggregation = "tokens of the batch" if getattr(args, "weigh_by_tokens", False) else args.reduction
    kl = "none" if args.kl_coef == 0 else {"loss": f"loss, {args.kl_estimator}"}.get(algorithm.kl_in, algorithm.kl_in)
    baseline = "batch mean" if algorithm.whiten and how.baseline == "none" else how.baseline
    return baseline, normaliser, importance, f"{algorithm.surrogate} {clip}".strip(), aggregation, kl, f"{algorithm.rows}"


def table() -> str:
    """All algorithms on their axes, as Markdown."""
    rows = [
        (f"`{name}`", *described(row, GrpoArgs() if name == "grpo" else FAMILY[name]())) for name, row in ALGORITHMS.items()
    ]
    headers = ("`rlhf train`", "baseline", "normaliser", "importance", "surrogate", "aggregation", "KL", "rows")
    return tabulate(rows, headers, tablefmt="github")


if __name__ == "__main__":
    print(table())
