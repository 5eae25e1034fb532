"""Where the tokens of a rollout lie: prompts on the left, completions in the last gen columns of [batch seq].

Two prompts, of two tokens and of four, with gen_len 3; `-` is padding. A token's logits and value stand one column to its left,
where it was chosen. The second completion ends at once:

    column            0   1   2   3   4   5   6
    ids               -   -  Tom has  5 toys end
                     The sum of   5  end  -   -
    attention_mask    0   0   1   1   1   1   1       what a token may look at
                      1   1   1   1   1   0   0
    mask                              1   1   1       what is trained on, [batch gen]
                                      1   0   0
    generated                         4   5   6       columns of the generated tokens
    chosen_at                     3   4   5           columns of the logits and values that chose them

`mask` and `attention_mask` are two things: a token that was put into a completion from outside is seen (1) but not trained (0).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

Whole = TypeVar("Whole")  # a tensor of [batch seq ...], or logits that are not yet computed


def generated(whole: Whole, gen_len: int) -> Whole:
    """The columns of the generated tokens, the last gen_len: [batch seq ...] -> [batch gen ...]."""
    return whole[:, -gen_len:]


def chosen_at(whole: Whole, gen_len: int) -> Whole:
    """The columns at which the generated tokens were chosen, one to the left of each: [batch seq ...] -> [batch gen ...].

    Logits and values of a pass are read here. It is all the same whether `whole` has all columns or the last gen_len + 1.
    """
    return whole[:, -gen_len - 1 : -1]


def with_last_of_prompt(whole: Whole, gen_len: int) -> Whole:
    """The column of the prompt's last token and the generated ones, gen_len + 1 in all, as a pass with logits_to_keep has."""
    return whole[:, -gen_len - 1 :]


def skipping_holes() -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """A decorator for function(values, rewards, prefix_len, *, mask, ...) that goes from token to token: it skips holes.

    A hole is what was put into a completion from outside, mask 0 between ones. The function sees the trained tokens alone,
    each followed by the next one, as if nothing stood between them; at holes the result is 0.
    """

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(function)
        def call(values: Tensor, rewards: Tensor, prefix_len: int, **options: Any) -> Tensor:
            mask = options.get("mask")
            if mask is None or not has_holes(mask):
                return function(values, rewards, prefix_len, **options)
            order = (mask == 0).long().argsort(dim=1, stable=True)  # trained tokens first, in their order

            def closed_up(columns: Tensor | None) -> Tensor | None:
                is_by_token = columns is not None and columns.shape == mask.shape
                return columns.gather(1, order) if is_by_token else columns

            given = {name: closed_up(option) if isinstance(option, Tensor) else option for name, option in options.items()}
            chosen = nn.functional.pad(closed_up(values[:, prefix_len - 1 : -1]), (0, 1))
            found = function(chosen, closed_up(rewards), 1, **given)
            return torch.zeros_like(found).scatter(1, order, found)

        return call

    return decorate


def has_holes(mask: Float[Tensor, "batch gen"]) -> bool:
    """Whether a 0 stands before a 1 in any row."""
    return bool((mask[:, 1:] > mask[:, :-1]).any())
