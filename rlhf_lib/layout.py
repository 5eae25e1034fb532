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

from typing import TypeVar

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
