"""DAPO's dynamic sampling (Yu et al. 2025, section 3.2): groups without spread teach nothing, and others take their place."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_lib.rollouts import Rollout, joined
from rlhf_lib.trainers.rl import Rewarded


@dataclass
class Drawn:
    """A batch of completions, and what they earned."""

    sampled: Rollout
    rewarded: Rewarded

    def spread(self, group_size: int) -> Tensor:
        """For each group, whether its rewards differ."""
        groups = self.rewarded.rewards.reshape(-1, group_size)
        return (groups != groups[:, :1]).any(dim=1)


def refilled(first: Drawn, draw_more: Callable[[int], Drawn], group_size: int, draws: int) -> tuple[Drawn, dict[str, float]]:
    """A batch of the size of `first` with as many groups with spread as at most `draws` more draws give.

    Those of `first` come first, in order; `draw_more(i)` is asked for the i-th more only while groups are missing. Where even
    the last leaves some missing, groups without spread of the first draw fill the batch: their advantages are 0.
    """
    drawn, wanted = [first], len(first.rewarded.rewards) // group_size
    while sum(int(one.spread(group_size).sum()) for one in drawn) < wanted and len(drawn) <= draws:
        drawn.append(draw_more(len(drawn)))
    spread = torch.cat([one.spread(group_size) for one in drawn])
    order = torch.cat([spread.nonzero()[:, 0], (~spread).nonzero()[:, 0]])[:wanted]
    rows = (order[:, None] * group_size + torch.arange(group_size, device=order.device)).flatten().tolist()
    sampled = joined([one.sampled for one in drawn]).take(rows)
    figures = {"draws": float(len(drawn)), "groups_refilled": float(spread[order].sum() - first.spread(group_size).sum())}
    return Drawn(sampled, taken([one.rewarded for one in drawn], rows)), figures


def taken(parts: list[Rewarded], rows: list[int]) -> Rewarded:
    """Some rows of several draws' rewards."""
    rewards = torch.cat([part.rewards for part in parts])[rows]
    each = {name: [value for part in parts for value in part.each[name]] for name in parts[0].each}
    correct = None if parts[0].correct is None else [right for part in parts for right in part.correct]
    return replace(
        parts[0],
        rewards=rewards,
        each={name: [values[i] for i in rows] for name, values in each.items()},
        correct=None if correct is None else [correct[i] for i in rows],
    )
