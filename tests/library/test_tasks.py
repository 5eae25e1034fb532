"""Word problems: exact, disjoint, reproducible; the fixed prefix."""

import itertools
import re

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.evaluate import Accuracy
from rlhf_lib.tasks import PocketTask, Prompts, make_task, pocket_text


def drawn(split, seed, count=3000):
    return list(itertools.islice(pocket_text.draw_problems(split, seed), count))


@pytest.mark.slow
def test_splits_are_disjoint_by_construction():
    """A program's split is a function of the program alone, so no two splits can share one, whatever the seeds."""
    programs = {split: {p.program for seed in (0, 1) for p in drawn(split, seed, 1000)} for split in pocket_text.SPLITS}
    for split, found in programs.items():
        assert len(found) > 500
        assert {p.split for p in drawn(split, 5, 500)} == {split}
    for one, other in itertools.combinations(programs.values(), 2):
        assert not one & other


def test_renamed_stories_stay_in_their_split():
    for problem in drawn("test", 0, 200):
        renamed = pocket_text.Problem(
            "Zoe", "drums", problem.start, tuple((op, n, "other words") for op, n, _ in problem.steps)
        )
        assert renamed.split == "test"


def test_answers_are_exact():
    for problem in drawn("train", 3, 500):
        value = problem.start
        for (op, n, sentence), equation in zip(problem.steps, problem.equations, strict=True):
            left, result = equation.split("=")
            assert left == f"{value}{op}{n}"
            assert str(n) in re.findall(r"\d+", sentence)
            value = {"+": value + n, "-": value - n, "*": value * n}[op]
            assert int(result) == value
            assert 2 <= value <= pocket_text.MAX_VALUE
        assert problem.answer == value
        assert 1 <= len(problem.steps) <= 4


def test_every_operation_and_length_occurs():
    problems = drawn("train", 0)
    assert {op for p in problems for op, _, _ in p.steps} == set("+-*")
    assert {len(p.steps) for p in problems} == {1, 2, 3, 4}


def test_equation_documents_are_exact():
    import random

    for line in pocket_text.draw_equations(random.Random(0), 200)[0].text.splitlines():
        a, op, b, result = re.fullmatch(r"(\d+)([-+*])(\d+)=(\d+)", line).groups()
        assert pocket_text.apply(op, int(a), int(b)) == int(result)


def test_fixed_problems_are_fixed_and_distinct():
    first, again = pocket_text.fixed_problems("test", 500), pocket_text.fixed_problems("test", 500)
    assert first == again
    assert len({p.question for p in first}) == 500


def test_phases_reproduce_and_differ():
    task = PocketTask()
    assert task.draw(5, seed=1, phase=3) == task.draw(5, seed=1, phase=3)
    assert task.draw(5, seed=1, phase=3) != task.draw(5, seed=1, phase=4)
    assert task.draw(5, seed=2, phase=3) != task.draw(5, seed=1, phase=3)


def test_groups_are_consecutive():
    prompts = PocketTask().draw(2, 0, 0).repeat(3)
    assert prompts.prompts[0] == prompts.prompts[2] != prompts.prompts[3]
    assert prompts.columns["answer"][0] == prompts.columns["answer"][2]


@pytest.mark.parametrize("style", pocket_text.STYLES)
def test_every_style_is_recognised_and_right(style):
    task = PocketTask()
    problems = pocket_text.fixed_problems("test", 50)
    completions = [pocket_text.answer_text(p, style) for p in problems]
    assert all(task.is_correct(task.held_out(50), completions))
    assert {task.style_of(c) for c in completions} == {style}


def test_few_shot_examples_come_from_the_training_split():
    prompts = PocketTask().held_out(20, few_shot=2, style="reasoning")
    plain = PocketTask().held_out(20)
    assert prompts.columns == plain.columns
    for long, short in zip(prompts.prompts, plain.prompts, strict=True):
        assert long.endswith(short)
        assert long.count("<reasoning>") == 2
    held_out = {p.question for p in pocket_text.fixed_problems("test", 500)}
    assert not any(q.strip() in held_out for p in prompts.prompts for q in re.findall(r"Question: (.*)", p)[:-1])


def test_unknown_names():
    with pytest.raises(InputError, match="task='chess'"):
        make_task("chess")
    with pytest.raises(InputError, match="split='dev'"):
        next(pocket_text.draw_problems("dev", 0))


def test_fixed_prefix_rewards_whole_samples():
    task = make_task(None, "Hi. ", None)
    assert task.draw(3, 0, 0).prompts == ["Hi. "] * 3
    assert task.reward_fns[0](["Hi. "] * 2, ["a.", "b"]).tolist() == [2.0, 1.0]
    task = make_task(None, "x", lambda samples: torch.tensor([float(len(s)) for s in samples]))
    assert task.reward_fns[0](["x"], ["abc"]).tolist() == [4.0]


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)]
)
def test_wilson_interval(correct, count, low, high):
    """Against the values in Brown, Cai and DasGupta (2001) style tables, computed independently."""
    got = Accuracy.of(correct, count)
    assert got.value == correct / count
    assert got.low == pytest.approx(low, abs=1e-4)
    assert got.high == pytest.approx(high, abs=1e-4)


def test_readings_of_pocket():
    completions = [
        "<answer>7</answer>",
        "<reasoning>3+4=7</reasoning><answer>8</answer>\nSo it is 7",
        "Anna has 7.",
        "",
        "7 <answer>8</answer>",
    ]
    readings = PocketTask().readings(Prompts(["?"] * 5, {"answer": ["7"] * 5}), completions)
    assert readings == {
        "strict": [True, False, False, False, False],
        "lenient": [True, True, True, False, False],
        "well-formed": [True, True, False, False, True],
    }
