"""Reward functions of anybody's: called as TRL calls them, whatever they are and return; faults are told with their line."""

import asyncio
import functools
import itertools
import json
import math
import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lib import cli
from rlhf_lib.args import GrpoArgs, InputError
from rlhf_lib.rewards import RewardError, choose_rewards, total_rewards
from rlhf_lib.tasks import FixedPrefixTask, Gsm8kTask, Prompts, task_of
from rlhf_lib.tasks.prompting import XML_SYSTEM

PROMPTS, COMPLETIONS = ["p", "q"], ["a", "bc"]
COLUMNS = {"answer": ["1", "2"], "completion_ids": [[5], [6, 7]]}


def scored(*functions, columns=COLUMNS, prompts=PROMPTS, completions=COMPLETIONS):
    return total_rewards(functions, [1.0] * len(functions), prompts, completions, columns)


# how they are called


def first_two(prompts, completions):
    return [float(len(p + c)) for p, c in zip(prompts, completions, strict=True)]


def second_alone(completions):
    return [float(len(c)) for c in completions]


def second_and_more(completions, **kwargs):
    assert set(kwargs) == {"prompts", "answer", "completion_ids"}
    return [float(len(c)) for c in completions]


def columns_alone(answer, completion_ids):
    return [float(a) * len(ids) for a, ids in zip(answer, completion_ids, strict=True)]


def only_keywords(*, completions, **kwargs):
    return [float(len(c)) for c in completions]


def everything(**kwargs):
    return [float(len(c)) for c in kwargs["completions"]]


def by_position(completions, /, **kwargs):
    return [float(len(c)) for c in completions]


def with_defaults(completions, weight=2.0, answer=None):
    return [weight * float(a) for a in answer]


def never_given(completions, *more, strange=1.0):
    return [strange] * len(completions)


@pytest.mark.parametrize(
    ("function", "rewards"),
    [
        (first_two, [2, 3]), (second_alone, [1, 2]), (second_and_more, [1, 2]), (columns_alone, [1, 4]),
        (only_keywords, [1, 2]), (everything, [1, 2]), (by_position, [1, 2]), (with_defaults, [2, 4]), (never_given, [1, 1]),
        (functools.partial(with_defaults, weight=3.0), [3, 6]), (functools.partial(with_defaults, answer=[7, 8]), [14, 16]),
        (functools.partial(first_two, ["xxx", "yyy"]), [4, 5]),
    ],
)  # fmt: skip
def test_what_a_function_names_it_gets(function, rewards):
    assert scored(function)[0].tolist() == rewards


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (lambda completions, target: [0.0], "target"),
        (lambda ps, cs: [0.0], "ps, cs"),
        (lambda *, solution, **columns: [0.0], "solution"),
        (functools.partial(lambda completions, a, b: [0.0], b=1), "a"),
    ],
)
def test_an_argument_that_there_is_not(function, missing):
    with pytest.raises(InputError, match=f"needs {missing}, and there are prompts, completions, answer, completion_ids"):
        scored(function)


class Judge:
    def __init__(self, worth):
        self.worth = worth

    def __call__(self, completions, **kwargs):
        return [self.worth] * len(completions)

    def method(self, completions):
        return [self.worth] * len(completions)

    @staticmethod
    def static(completions):
        return [1.0] * len(completions)


class Network(torch.nn.Module):
    def forward(self, completions, **kwargs):
        return torch.ones(len(completions), requires_grad=True)


async def later(completions, **kwargs):
    await asyncio.sleep(0)
    return [float(len(c)) for c in completions]


class AsyncJudge:
    async def __call__(self, completions, **kwargs):
        return [2.0] * len(completions)


def test_names_are_readable_and_all_different():
    def later_2(completions):
        return [1.0] * len(completions)

    functions = (
        *(later, later, later_2, Judge(2.0), Judge(3.0), Judge(1.0).method, Judge.static, lambda completions: [1.0] * 2),
        *(functools.partial(second_alone), functools.partial(Judge(1.0)), Network(), AsyncJudge()),
    )
    each = scored(*functions)[1]
    assert list(each) == ["later", "later_2", "later_2_2", "Judge", "Judge_2", "method", "static", "lambda", "second_alone",
                          "Judge_3", "Network", "AsyncJudge"]  # fmt: skip
    assert each["Judge_2"] == [3.0, 3.0]
    assert each["AsyncJudge"] == [2.0, 2.0]


def test_functions_may_change_what_they_get():
    def destroys(prompts, completions, answer, **kwargs):
        for held in (prompts, completions, answer):
            held.clear()
        return [1.0, 1.0]

    def rewrites(prompts, completions, **kwargs):
        prompts[0][-1]["content"] = completions[0][0]["content"] = "gone"
        return [1.0, 1.0]

    assert scored(destroys, first_two)[1]["first_two"] == [2.0, 3.0]
    talks = [[{"role": "user", "content": "p"}] for _ in range(2)]
    said = [[{"role": "assistant", "content": "c"}] for _ in range(2)]
    seen = scored(rewrites, lambda prompts, completions: [float(len(str(prompts) + str(completions)))] * 2, prompts=talks,
                  completions=said)  # fmt: skip
    assert seen[1]["lambda"] == [float(len(str(talks) + str(said)))] * 2


# what they return

NUMBERS = [
    [1.0, 2.0], (1, 2), [True, 2], [np.float32(1), np.int64(2)], np.array([1.0, 2.0]), np.array([1, 2], dtype=object),
    np.array([1, 2], dtype=np.float16), torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([1, 2]),
    torch.tensor([1.0, 2.0], dtype=torch.bfloat16), [torch.tensor(1.0), torch.tensor(2)], [Decimal(1), Fraction(2)],
    [np.array(1.0), np.bool_(True) + 1],
]  # fmt: skip


@pytest.mark.parametrize("returned", NUMBERS, ids=repr)
def test_numbers_of_every_kind(returned):
    total, each = scored(lambda completions: returned)
    assert total.tolist() == [1.0, 2.0]
    assert [type(value) for value in each["lambda"]] == [float, float]


@pytest.mark.parametrize("returned", [[True, False], np.array([True, False]), torch.tensor([True, False])], ids=repr)
def test_truth_values(returned):
    assert scored(lambda completions: returned)[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("returned", [[None, 2.0], np.array([None, 2.0], dtype=object), (None, 2)], ids=repr)
def test_abstaining_from_some(returned):
    total, each = scored(lambda completions: returned, lambda completions: [5.0, 5.0])
    assert total.tolist() == [5.0, 7.0]
    assert each["lambda"] == [None, 2.0]


STRANGE = {
    "column": (torch.ones(2, 1), r"returned shape \[2, 1\].*squeeze"),
    "matrix": (np.ones((2, 3)), r"returned shape \[2, 3\]"),
    "no dimension": (np.float64(3.0), "a single value"),
    "one number": (3, "returned 3, a single value"),
    "truth": (True, "a single value"),
    "text": ("12", "returned '12', a single value"),
    "dict": ({0: 1.0, 1: 2.0}, "returned 'dict'"),
    "generator": ((x for x in (1.0, 2.0)), "returned 'generator'"),
    "set": ({1.0, 2.0}, "returned 'set'"),
    "too many": ([1.0] * 3, "returned 3 values for 2"),
    "none at all": ([], "returned 0 values for 2"),
    "nested": ([[1.0], [2.0]], r"returned \[1.0\] for completion 0"),
    "vectors": ([torch.ones(1), torch.ones(1)], "for completion 0"),
    "texts": (["1.0", "2.0"], "returned '1.0' for completion 0"),
    "bytes": ([b"1", b"2"], "for completion 0"),
    "nan": (np.array([1.0, math.nan]), "returned nan for completion 1"),
    "infinity": (torch.tensor([1.0, -math.inf]), "returned -inf for completion 1"),
    "past every float": ([1.0, 10**400], "for completion 1"),
    "decimal nan": ([Decimal("NaN"), 1.0], "for completion 0"),
    "complex": ([1j, 1.0], "for completion 0"),
    "objects": ([object(), 1.0], "for completion 0"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_no_list_of_numbers(case):
    returned, message = STRANGE[case]
    with pytest.raises(InputError, match=message) as caught:
        scored(lambda completions: returned)
    assert "\n" not in str(caught.value)


def test_sums_that_float32_does_not_hold():
    with pytest.raises(InputError, match=r"completion 1 add up to 1e\+39"):
        scored(lambda completions: [1.0, 1e39])


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats())), max_size=3))
def test_a_list_becomes_numbers_or_one_sentence(returned):
    try:
        each = scored(lambda completions: returned, lambda completions: [0.0, 0.0])[1]["lambda"]
    except InputError:
        fine = [v is None or (isinstance(v, (bool, int, float)) and abs(v) < 3e38) for v in returned]
        assert len(returned) != 2 or not all(fine)
    else:
        assert each == [None if value is None else float(value) for value in returned]


# faults


def helper(value):
    return value / 0


def divides(completions, **kwargs):
    return [helper(len(c)) for c in completions]


def parses(completions, **kwargs):
    return [json.loads(c) for c in completions]


def leaves(completions, **kwargs):
    raise SystemExit(0)


async def fails_later(completions, **kwargs):
    await asyncio.sleep(0)
    raise KeyError("missing")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (divides, r"divides raised ZeroDivisionError: division by zero \(.*test_reward_functions.py, line \d+, in helper: "),
        (parses, r"parses raised JSONDecodeError: .*test_reward_functions.py, line \d+, in <listcomp>|parses: return \[json"),
        (leaves, r"leaves raised SystemExit: 0 \(.*test_reward_functions.py, line \d+, in leaves: raise SystemExit\(0\)\)"),
        (fails_later, r"fails_later raised KeyError: 'missing' \(.*test_reward_functions.py, line \d+, in fails_later"),
        (functools.partial(divides), "divides raised ZeroDivisionError"),
    ],
)
def test_a_fault_is_told_with_the_users_line(function, told):
    with pytest.raises(RewardError, match=told) as caught:
        scored(function)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_lack_of_memory_is_not_the_functions_fault():
    def greedy(completions):
        raise MemoryError

    with pytest.raises(MemoryError):
        scored(greedy)


# async


def test_async_functions_run_at_once():
    """Each waits until the other has begun, which one after the other they never would."""
    begun = {name: [] for name in "ab"}

    def meets(own, other):
        async def waits(completions, **kwargs):
            begun[own].append(True)
            while not begun[other]:
                await asyncio.sleep(0)
            return [1.0] * len(completions)

        return waits

    total, each = scored(meets("a", "b"), meets("b", "a"), second_alone)
    assert total.tolist() == [3.0, 4.0]
    assert list(each) == ["waits", "waits_2", "second_alone"]


def test_async_functions_within_a_running_loop():
    async def cell():
        return scored(later, AsyncJudge())[0].tolist()

    assert asyncio.run(cell()) == [3.0, 4.0]


@pytest.mark.filterwarnings("error")
def test_nothing_is_left_to_await_after_a_fault():
    with pytest.raises(RewardError):
        scored(later, divides)


# the fixed prefix


@pytest.mark.parametrize(
    "function",
    [
        lambda samples: torch.tensor([float(len(s)) for s in samples]),
        lambda samples: np.array([len(s) for s in samples]),
        lambda samples: [len(s) for s in samples],
        functools.partial(lambda unit, samples: [unit * len(s) for s in samples], 1),
    ],
)
def test_the_plain_convention(function):
    task = FixedPrefixTask("pre", function)
    total, each = task.reward(Prompts(["pre", "pre"]), ["", "xx"], [[], [1]])
    assert total.tolist() == [3.0, 5.0]
    assert list(each) == ["lambda"]


def test_the_plain_convention_async():
    async def counts(samples):
        return [float(len(s)) for s in samples]

    assert FixedPrefixTask("pre", counts).reward(Prompts(["pre"]), ["x"], [[1]])[1] == {"counts": [4.0]}


def test_a_fault_in_the_plain_convention():
    with pytest.raises(RewardError, match="reward function divides raised ZeroDivisionError"):
        FixedPrefixTask("pre", divides).reward(Prompts(["pre"]), ["x"], [[1]])


def test_own_rewards_of_the_fixed_prefix():
    task = task_of(GrpoArgs(rewards=[second_alone]), prefix="pre")
    assert task.reward(Prompts(["pre"]), ["xyz"], [[1]])[0].tolist() == [3.0]
    with pytest.raises(InputError, match="correctness need right answers"):
        task_of(GrpoArgs(rewards=["correctness"]))


# conversations


def test_prompt_styles_of_conversations_reach_functions_as_messages(gsm8k_dir):
    seen = {}

    def looks(prompts, completions, answer, question, **kwargs):
        seen.update(prompts=prompts, completions=completions, answer=answer, question=question)
        return [0.0] * len(completions)

    for style, told in (("plain", None), ("xml", XML_SYSTEM)):
        args = GrpoArgs(task="gsm8k", data=str(gsm8k_dir), prompt_style=style, rewards=[looks, "soft_format"])
        task = task_of(args)
        prompts = task.draw(2, 0, 0).repeat(2)
        task.reward(prompts, ["w", "x", "y", "z"], [[1]] * 4)
        assert seen["answer"] == prompts.columns["answer"]
        if told is None:
            assert (seen["prompts"], seen["completions"]) == (prompts.prompts, ["w", "x", "y", "z"])
            continue
        assert seen["completions"] == [[{"role": "assistant", "content": text}] for text in "wxyz"]
        assert seen["prompts"] == [
            [{"role": "system", "content": told}, {"role": "user", "content": question}] for question in seen["question"]
        ]


def test_a_system_text_of_ones_own_and_none(gsm8k_dir):
    for told, roles in (("Be brief.", ["system", "user"]), ("", ["user"])):
        task = Gsm8kTask(GrpoArgs(task="gsm8k", data=str(gsm8k_dir), prompt_style="xml", system_prompt=told))
        for messages in task.held_out(2).messages:
            assert [message["role"] for message in messages] == roles
            assert told in messages[0]["content"]


LIKE_EVERYBODYS = """
import re


def between(text, opening="<answer>", closing="</answer>"):
    return text.split(opening)[-1].split(closing)[0].strip()


def correctness_reward_func(prompts, completions, answer, **kwargs) -> list[float]:
    responses = [completion[0]["content"] for completion in completions]
    question = prompts[0][-1]["content"]
    found = [between(response) for response in responses]
    print("=" * 12, "asked:", question, "expected:", answer[0], "written:", responses[0], "found:", found[0], sep="\\n")
    return [2.0 if mine == right else 0.0 for mine, right in zip(found, answer)]


def int_reward_func(completions, **kwargs) -> list[float]:
    return [0.5 if between(completion[0]["content"]).isdigit() else 0.0 for completion in completions]


def strict_format_reward_func(completions, **kwargs) -> list[float]:
    shape = r"^<reasoning>\\n.*?\\n</reasoning>\\n<answer>\\n.*?\\n</answer>\\n$"
    return [0.5 if re.match(shape, completion[0]["content"]) else 0.0 for completion in completions]


def soft_format_reward_func(completions, **kwargs) -> list[float]:
    shape = r"<reasoning>.*?</reasoning>\\s*<answer>.*?</answer>"
    return [0.5 if re.match(shape, completion[0]["content"], re.DOTALL) else 0.0 for completion in completions]


def tags_of(text) -> float:
    each = [text.count(tag) == 1 for tag in ("<reasoning>\\n", "\\n</reasoning>\\n", "\\n<answer>\\n", "\\n</answer>")]
    trailing = len(text.split("\\n</answer>\\n")[-1]) if each[2] else 0
    return 0.125 * sum(each) - 0.001 * trailing - 0.001 * (len(text.split("\\n</answer>")[-1]) - 1) * each[3]


def xmlcount_reward_func(completions, **kwargs) -> list[float]:
    contents = [completion[0]["content"] for completion in completions]
    return [tags_of(content) for content in contents]
"""
FIVE = ("correctness", "int", "strict_format", "soft_format", "xmlcount")


@pytest.fixture
def pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(LIKE_EVERYBODYS)
    return [f"mine.py:{name}_reward_func" for name in FIVE]


def test_the_five_functions_that_everybody_pastes(pasted, gsm8k_dir, neo_dir, capsys):
    """They run as they are, and what they pay is logged each by its name."""
    words = ["--base-model", neo_dir, "--data", gsm8k_dir, "--output-dir", "out", "--device", "cpu", "--batch-size", 8,
             "--group-size", 4, "--num-minibatches", 2, "--gen-len", 8, "--total-phases", 1, "--eval-problems", 0,
             "--warmup-steps", 0]  # fmt: skip
    code = cli.main(["train", "grpo", "--task", "gsm8k", "--prompt-style", "xml", *map(str, words), "--rewards", *pasted])
    out = capsys.readouterr().out
    assert code == 0
    assert re.search(r"asked:\nAnna\d has .*\nexpected:\n\d+\nwritten:\n", out)
    with open("out/metrics.jsonl") as file:
        record = json.loads(file.readline())
    assert [record[f"reward_{name}_reward_func"] for name in FIVE[:1]] == [0.0]
    assert all(f"reward_{name}_reward_func" in record for name in FIVE)
    with open("out/args.json") as file:
        assert json.load(file)["rewards"] == pasted


WRITTEN = {
    "whole": "<reasoning>\n1+1\n</reasoning>\n<answer>\n42\n</answer>\n",
    "wrong": "<reasoning>\n1+1\n</reasoning>\n<answer>\n7\n</answer>\n",
    "a word": "<reasoning>\n1+1\n</reasoning>\n<answer>\nmany\n</answer>\n",
    "on one line": "<reasoning>1+1</reasoning> <answer>42</answer>",
    "with more behind it": "<reasoning>\n1+1\n</reasoning>\n<answer>\n42\n</answer>\nAnd so on.",
    "none": "forty-two",
}


@pytest.mark.parametrize("case", WRITTEN)
def test_the_pasted_five_pay_what_the_librarys_five_pay(case, pasted, gsm8k_dir, capsys):
    """As strings of the library's own, and as the messages of the pasted: the same amounts, seen from both sides."""
    args = GrpoArgs(task="gsm8k", data=str(gsm8k_dir), prompt_style="xml")
    task = task_of(args)
    talk = [[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]]
    prompts = Prompts(["q"], {"answer": ["42"]}, talk)
    own = task.reward(prompts, [WRITTEN[case]], [[1]])[1]
    functions, weights = choose_rewards([*map(rewards_of, pasted)])
    total, theirs = total_rewards(
        functions, weights, talk, [[{"role": "assistant", "content": WRITTEN[case]}]], prompts.columns
    )
    assert [*itertools.chain(*theirs.values())] == pytest.approx([*itertools.chain(*own.values())], abs=1e-12)
    assert total.item() == pytest.approx(sum(value[0] for value in theirs.values()), abs=1e-6)


def rewards_of(word):
    from rlhf_lib.args import CodeInFile

    return CodeInFile(word)
