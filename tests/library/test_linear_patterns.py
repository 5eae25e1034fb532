"""Patterns over completions of any length do work in proportion to the text: steps are counted, and no clock is read."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.rewards.answers import ANSWERING, HEADING
from rlhf_lib.rewards.formats import MULTILINE, SOFT, STRICT

from .pattern_steps import steps

WIDESPREAD_SOFT = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", re.DOTALL)
WIDESPREAD_MULTILINE = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n?", re.DOTALL)

PIECES = (
    "<reasoning>", "</reasoning>", "<answer>", "</answer>", "<reasoning>\n", "\n</reasoning>\n<answer>\n",
    "</reasoning><answer>", "</reasoning> ", "\n</answer>", "\n</answer>\n",
    "\n", " ", "a", "a\n", "answer ", "answer is", "\\boxed", "-",
)  # fmt: skip
HEADS = ("", "<reasoning>", "<reasoning>\n", "<reasoning>\n\n</reasoning>\n<answer>\n", "<reasoning></reasoning>", "answer")
USED = ((STRICT, "fullmatch"), (MULTILINE, "fullmatch"), (SOFT, "match"), (ANSWERING, "search"), (HEADING, "match"))


def growth(pattern, method, head, piece):
    """How many times the steps of a text twice as long are."""
    short, long = (steps(pattern, method, head + piece * count)[0] for count in (40, 80))
    return long / short


@pytest.mark.parametrize(("pattern", "method"), USED, ids=("strict", "multiline", "soft", "answering", "heading"))
def test_twice_the_text_takes_at_most_twice_the_steps(pattern, method):
    for head in HEADS:
        for piece in PIECES:
            assert growth(pattern, method, head, piece) < 2.1, (head, piece)


def test_the_widespread_patterns_are_quadratic():
    """So that the test above can fail."""
    assert growth(WIDESPREAD_SOFT, "match", "<reasoning>", "</reasoning><answer>") > 3
    assert growth(WIDESPREAD_MULTILINE, "fullmatch", "<reasoning>\n", "\n</reasoning>\n<answer>\n") > 3


texts = st.lists(st.sampled_from((*PIECES, "7", "x")), max_size=12).map("".join)


@settings(deadline=None, max_examples=400)
@given(texts | texts.map(lambda text: f"<reasoning>\n{text}\n</answer>"))
def test_they_accept_what_the_widespread_patterns_accept(text):
    assert (SOFT.match(text) is None) == (WIDESPREAD_SOFT.match(text) is None)
    assert (MULTILINE.fullmatch(text) is None) == (WIDESPREAD_MULTILINE.fullmatch(text) is None)
    both = SOFT.match(text), WIDESPREAD_SOFT.match(text)
    assert both[0] is None or both[0].group() == both[1].group()


@settings(deadline=None, max_examples=200)
@given(texts)
def test_counting_finds_what_re_finds(text):
    for pattern, method in ((STRICT, "fullmatch"), (MULTILINE, "fullmatch"), (SOFT, "match"), (WIDESPREAD_SOFT, "match")):
        assert steps(pattern, method, text)[1] == (getattr(pattern, method)(text) is not None)
