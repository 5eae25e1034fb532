"""Answers judged as mathematics, in bounded time."""

import threading
from importlib.util import find_spec

import pytest

from rlhf_lib.args import InputError
from rlhf_lib.rewards import answers_match, choose_rewards, symbolic, symbolic_match
from rlhf_lib.tasks import Gsm8kTask, Prompts

needs_math_verify = pytest.mark.skipif(
    find_spec("math_verify") is None, reason='needs math-verify (pip install "rlhf_lib[symbolic]")'
)
STAND_IN = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    answer, reference = json.loads(line)
    time.sleep(60 if answer == "endless" else 0)
    print("equal" if sorted(answer) == sorted(reference) else "different", flush=True)
"""


@pytest.fixture
def judge(monkeypatch):
    judge = symbolic.Judge(STAND_IN)
    monkeypatch.setattr(symbolic, "JUDGE", judge)
    monkeypatch.setattr(symbolic, "require_math_verify", lambda: None)
    yield judge
    if judge.process is not None:
        judge.process.kill()
        judge.process.wait()
        judge.process.stdin.close()
        judge.process.stdout.close()


def test_only_what_is_no_number_is_asked(judge):
    assert symbolic_match("#### 18 eggs", "18")
    assert not symbolic_match("#### 81", "18")
    assert not symbolic_match("no idea", "18")
    assert not symbolic_match("#### b", "c")
    assert judge.process is None
    assert symbolic_match(r"\boxed{1+x}", "x+1")
    assert not symbolic_match(r"\boxed{1+x}", "x+2")
    assert not answers_match(r"\boxed{1+x}", "x+1")


def test_an_endless_comparison_ends(judge, monkeypatch):
    monkeypatch.setattr(symbolic, "LONGEST_WAIT", 0.2)
    assert not judge.equal("endless", "endless")
    monkeypatch.setattr(symbolic, "LONGEST_WAIT", 60.0)
    assert judge.equal("ab", "ba")


def test_a_judge_that_dies_is_replaced(judge):
    assert judge.equal("ab", "ba")
    judge.process.kill()
    judge.process.wait()
    assert judge.equal("ab", "ba")


def test_any_thread_may_ask(judge):
    verdicts = []
    threads = [threading.Thread(target=lambda: verdicts.append(judge.equal("ab", "ba"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 4


def test_a_judge_that_does_not_start():
    with pytest.raises(InputError, match="does not start"):
        symbolic.Judge("raise ImportError").equal("a", "b")


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(symbolic, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"rlhf_lib\[symbolic\]\""):
        choose_rewards(("symbolic_correctness=0.5",))
    with pytest.raises(InputError, match="needs the package math-verify"):
        symbolic_match(r"\boxed{1+x}", "x+1")


def test_evaluation_judges_as_the_reward_does(judge):
    task, prompts = Gsm8kTask(), Prompts(["?"], {"answer": ["x+1"]})
    assert task.is_correct(prompts, ["#### 1+x"]) == [False]
    task.reward_fns, _ = (
        choose_rewards(("symbolic_correctness",)) if find_spec("math_verify") else ((symbolic.symbolic_correctness_reward,), ())
    )
    assert task.is_correct(prompts, ["#### 1+x"]) == [True]
    assert task.readings(prompts, ["#### 1+x"])["strict"] == [True]
    assert task.reward_fns[0](["?"], ["#### 1+x"], answer=["x+1"]) == [1.0]


@needs_math_verify
@pytest.mark.parametrize(
    ("completion", "right", "wrong"),
    [
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}", "2"),
        (r"\boxed{2\times 10^3}", "2000", "2"),
        (r"\boxed{10^{-3}}", "0.001", "10"),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"\sqrt{3}/2", "2"),
        (r"\boxed{x+1}", "1+x", "x+2"),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", r"\{1,3\}"),
        (r"The answer is $2\sqrt{3}$.", r"\sqrt{12}", r"\sqrt{3}"),
    ],
)
def test_math_verify(completion, right, wrong):
    assert symbolic_match(completion, right)
    assert not symbolic_match(completion, wrong)


@needs_math_verify
def test_no_code_is_run(tmp_path):
    for code in (f"__import__('os').mkdir('{tmp_path}/a')", f"open('{tmp_path}/b','w')"):
        assert not symbolic_match(f"<answer>{code}</answer>", "x")
    assert not symbolic_match(r"\boxed{9^{9^{9^{9}}}}", "x")
    assert not list(tmp_path.iterdir())
