"""Answers and rewards."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.args import InputError
from rlhf_lib.rewards import answers_match, extract_answer, parse_number, reward_fn_char_count, total_rewards


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", 18), ("18.0", 18), ("18.", 18), ("$18.00", 18), ("1,000", 1000), ("-3", -3), ("1/2", 0.5), ("50%", 50),
        ("18 dollars", 18), ("1e3", 1000), ("1.5e-1", 0.15), (".5", 0.5), ("-$4", -4), ("+7", 7), ("1,234,567.5", 1234567.5),
    ],
)  # fmt: skip
def test_numbers_in_every_dress(text, value):
    assert parse_number(text) == Fraction(str(value))


@pytest.mark.parametrize("text", ["", "none", "1/0", "1e999", "٣", "²", "9" * 300, "__import__('os')", "$", "-"])
def test_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<reasoning>\n3+4=7\n</reasoning>\n<answer>\n7\n</answer>\n", "7"),
        ("<answer>1</answer> no: <answer>2</answer> <answer>3", "2"),
        ("so 3 #### 5\n9", "5"),
        (r"thus \boxed{\frac{1}{2}} and 9", "1/2"),
        (r"thus \boxed{1{,}000}", "1,000"),
        ("The answer is 12, I think, not 13", "12"),
        ("The answer is: $1,200.", "$1,200."),
        ("Anna has 14 apples now.", "14"),
        ("<answer>4</answer> #### 5", "4"),
        ("no number at all", None),
    ],
)
def test_extraction_in_order(completion, answer):
    assert extract_answer(completion) == answer


def test_matching():
    assert answers_match("Anna has 14 apples now.", "14")
    assert answers_match("<answer>\n$1,000.00\n</answer>", "He pays 1000.\n#### 1,000")
    assert not answers_match("<answer>14", "15")
    assert not answers_match("", "14")
    assert not answers_match("7 apples", "14", "xml")
    assert answers_match("<answer>B</answer>", "b")


def test_every_gsm8k_reference_matches_itself(shared):
    import json

    for split in ("train", "test"):
        for line in (shared / "data" / "gsm8k" / f"{split}.jsonl").read_text().splitlines():
            answer = json.loads(line)["answer"]
            assert answers_match(answer, answer), answer
            assert parse_number(extract_answer(answer)) is not None


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=300))
def test_no_text_raises(text):
    answers_match(text, "3")
    answers_match("3", text)


@given(st.integers(-(10**9), 10**9))
def test_integers_match_themselves_in_any_dress(number):
    for text in (str(number), f"{number:,}", f"{number}.0", f"{number}.", f"${number}", f"the answer is {number}"):
        assert answers_match(text, str(number)), text
        assert not answers_match(text, str(number + 1)), text


@pytest.mark.parametrize(
    "text", ["9" * 10**6, "1/" * 10**5, "<answer>" * 10**5, "\\boxed{" * 10**5, "#### " * 10**5, "1,000" * 10**5]
)
def test_hostile_lengths_are_answered(text):
    """Quadratic work on them would take minutes; benchmarks/answers.py prints what they cost."""
    assert answers_match(text, "3") is False


def test_char_count():
    assert torch.equal(reward_fn_char_count(["a.b.", "", "..."]), torch.tensor([2.0, 0.0, 3.0]))
    assert torch.equal(reward_fn_char_count(["aa", "b"], char="a"), torch.tensor([2.0, 0.0]))


def constant(value):
    def some_reward(prompts, completions, **columns):
        return value

    return some_reward


def test_weights_and_abstention():
    def abstains(prompts, completions, **columns):
        return [None, 1.0]

    total, each = total_rewards([constant([1.0, 2.0]), abstains], [2.0, 10.0], ["p", "p"], ["a", "b"], {})
    assert total.tolist() == [2.0, 14.0]
    assert each["abstains"] == [None, 1.0]
    total, _ = total_rewards([constant([1.0, 2.0]), constant(None)], [1.0, 1.0], ["p", "p"], ["a", "b"], {})
    assert total.tolist() == [1.0, 2.0]


def test_functions_of_one_name_are_kept_apart():
    total, each = total_rewards([constant([1.0]), constant([2.0])], [1.0, 1.0], ["p"], ["a"], {})
    assert total.tolist() == [3.0]
    assert each == {"some_reward": [1.0], "some_reward_2": [2.0]}


def test_columns_reach_the_function():
    def uses_answer(prompts, completions, answer, **columns):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    total, _ = total_rewards([uses_answer], [1.0], ["p", "p"], ["1", "2"], {"answer": ["1", "1"], "other": [0, 0]})
    assert total.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 values for 2"),
        (3.0, "a single value"),
        (torch.tensor(3.0), "a single value"),
        ([1.0, float("nan")], "nan for completion 1"),
        (torch.tensor([1.0, float("inf")]), "inf for completion 1"),
        (torch.ones(2, 2), r"returned shape \[2, 2\]"),
        ("no", "a single value"),
        (None, "no reward function applies"),
        ([None, None], "no reward function applies to completion 0"),
    ],
)
def test_bad_reward_functions(returned, message):
    with pytest.raises(InputError, match=message):
        total_rewards([constant(returned)], [1.0], ["p", "p"], ["a", "b"], {})
