"""The student's command line, the checkers under pytest, and one's own code at work."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from rlhf_lib import selection
from rlhf_lib.advantages import normalize_reward
from rlhf_lib.args import InputError
from rlhf_lib.course import commands, own
from rlhf_lib.course.manifest import all_exercises, find_exercise, load_course
from rlhf_lib.course.progress import FILE, Progress
from rlhf_lib.evaluate import judging
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.trainers import RLHFTrainer

from .course_answers import DIVIDED, RIGHT, ROOT, fill

NAMES = [exercise.name for exercise in all_exercises(ROOT)]


class TestCommands:
    def test_status(self, checkout, capsys):
        assert commands.main(["status"]) == 1
        text = capsys.readouterr().out
        assert f"Next: {NAMES[0]}" in text
        assert all(name in text for name in NAMES)

    def test_status_on_a_narrow_terminal(self, checkout, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "50")
        commands.main(["status"])
        assert max(len(line) for line in capsys.readouterr().out.splitlines() if "Next" not in line) <= 50

    def test_check_todo_wrong_passed(self, checkout, capsys):
        assert commands.main(["check", "spread_over_tokens"]) == 1
        assert "todo" in capsys.readouterr().out
        fill(checkout, "grpo", "spread_over_tokens", DIVIDED)
        assert commands.main(["check", "spread_over_tokens"]) == 1
        assert "divided among the tokens" in capsys.readouterr().out
        fill(checkout, "grpo", "spread_over_tokens", RIGHT)
        assert commands.main(["check", "4.2"]) == 0
        assert Progress.load(checkout).state(find_exercise(checkout, "spread_over_tokens")) == "passed"
        fill(checkout, "grpo", "spread_over_tokens", DIVIDED)
        assert Progress.load(checkout).state(find_exercise(checkout, "spread_over_tokens")) == "unchecked"

    def test_hints_come_one_by_one(self, checkout, capsys):
        exercise = find_exercise(checkout, "compute_group_advantages")
        for shown in range(1, len(exercise.hints) + 1):
            assert commands.main(["hint", exercise.name]) == 0
            text = capsys.readouterr().out
            assert all((f"Hint {k + 1} " in text) == (k < shown) for k in range(len(exercise.hints)))
        assert "--give-up" in text

    def test_the_solution_is_locked(self, checkout, capsys):
        assert commands.main(["solution", "spread_over_tokens"]) == 1
        assert "repeat(" not in capsys.readouterr().out
        assert commands.main(["solution", "spread_over_tokens", "--give-up"]) == 0
        assert '+    return repeat(advantages, "batch -> batch gen", gen=gen_len)' in capsys.readouterr().out

    def test_reset_keeps_a_backup(self, checkout, capsys):
        fresh = (checkout / "exercises" / "grpo.py").read_text()
        fill(checkout, "grpo", "spread_over_tokens", DIVIDED)
        mine = (checkout / "exercises" / "grpo.py").read_text()
        assert commands.main(["reset", "spread_over_tokens"]) == 0
        assert (checkout / "exercises" / "grpo.py").read_text() == fresh
        (backup,) = (checkout / "exercises").glob("grpo.*.bak")
        assert backup.read_text() == mine
        assert backup.name in capsys.readouterr().out

    def test_reset_leaves_other_answers(self, checkout):
        fill(checkout, "grpo", "spread_over_tokens", RIGHT)
        fill(checkout, "grpo", "estimate_kl_k3", "def estimate_kl_k3(logprobs, ref_logprobs):\n    return 1")
        commands.main(["reset", "estimate_kl_k3"])
        text = (checkout / "exercises" / "grpo.py").read_text()
        assert RIGHT in text
        assert 'raise NotAttempted("estimate_kl_k3"' in text

    @pytest.mark.parametrize("damage", ["", "not json", "[1]", '{"take": {"state": 1, "unknown": 2}}'])
    def test_a_damaged_state_file_is_an_empty_one(self, checkout, damage):
        (checkout / FILE).write_text(damage)
        assert commands.main(["status"]) == 1
        assert commands.main(["hint", "take"]) == 0
        assert json.loads((checkout / FILE).read_text())["take"]["hints"] == 1

    def test_validate_counts(self, checkout, capsys):
        assert commands.main(["validate", "spread_over_tokens", "--json"]) == 0
        counts = json.loads(capsys.readouterr().out)
        assert counts == {
            "exercises": 1, "checks": 1, "stubs_todo": 1, "solutions_passed": 1, "mistakes": 4, "rejected": 4, "named": 4,
        }  # fmt: skip

    @pytest.mark.parametrize("words", [["nonsense"], ["check", "nonsense"], ["hint", "nonsense"], ["validate", "nonsense"]])
    def test_wrong_words(self, checkout, words):
        with pytest.raises(InputError, match=r"nonsense"):
            commands.main(words)

    def test_outside_a_checkout(self, tmp_path, monkeypatch, capsys):
        """The library's own checkout is the course then."""
        monkeypatch.chdir(tmp_path)
        assert commands.checkout_root() == ROOT

    @pytest.mark.slow
    def test_watch_checks_on_every_save(self, checkout):
        words = [sys.executable, "-m", "rlhf_lib", "course", "check", "spread_over_tokens", "--watch"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(checkout)})
        lines = iter(process.stdout.readline, "")
        try:
            assert any("0 of 1 points" in line for line in lines)
            fill(checkout, "grpo", "spread_over_tokens", DIVIDED)
            assert any("divided among the tokens" in line for line in lines)
            fill(checkout, "grpo", "spread_over_tokens", RIGHT)
            assert any("1 of 1 points" in line for line in lines)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.stdout.close()


# Under pytest


def run_pytest(checkout, *words):
    command = [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider"]
    return subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(checkout)}
    )


def test_pytest_on_stubs_wrong_and_right_answers(checkout):
    fill(checkout, "grpo", "spread_over_tokens", RIGHT)
    fill(checkout, "grpo", "estimate_kl_k3", "def estimate_kl_k3(logprobs, ref_logprobs):\n    return logprobs - ref_logprobs")
    done = run_pytest(checkout, "tests/test_grpo.py", "-k", "spread_over_tokens or estimate_kl_k3 or group_metrics")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert "it is k1: only the log-ratio" in done.stdout
    rows = {row.split()[1]: row.split()[3] for row in done.stdout.splitlines() if re.match(r"4\.\d+ +\w+ +\d+ ", row)}
    assert rows == {"spread_over_tokens": "passed", "estimate_kl_k3": "wrong", "group_metrics": "todo"}
    progress = Progress.load(checkout)
    assert [progress.state(find_exercise(checkout, name)) for name in rows] == ["passed", "wrong", "todo"]


@pytest.mark.slow
def test_pytest_on_solutions_and_on_a_blank_exercise(checkout):
    solved = run_pytest(checkout, "tests/test_grpo.py", "--impl", "solutions", "-k", "spread_over_tokens")
    assert solved.returncode == 0, solved.stdout
    blank = run_pytest(checkout, "tests/test_grpo.py", "-k", "spread_over_tokens")
    assert blank.returncode == 1
    assert "1 todo" in blank.stdout
    assert "failed" not in blank.stdout


# One's own code at work


def test_running_a_blank_topic_says_what_is_missing(checkout):
    done = subprocess.run(
        [sys.executable, "-m", "exercises.grpo"], cwd=checkout, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(checkout)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "GrpoTrainer.compute_token_advantages" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def own_modules(checkout, monkeypatch):
    """The checkout's exercises can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(checkout))
    for name in [name for name in sys.modules if name.split(".")[0] == "exercises"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "exercises"]:
        del sys.modules[name]


def test_own_answers_of_other_chapters_are_used(checkout, own_modules):
    code = """def normalize_reward(reward, eps=1e-5):
    return reward * 0 + 42"""
    fill(checkout, "rollouts", "normalize_reward", code)
    names = {"__name__": "exercises.ppo", "normalize_reward": normalize_reward, "get_logprobs": get_logprobs}
    mine, library = own.use_own_answers(checkout, "ppo", names)
    assert mine == ["normalize_reward"]
    assert "get_logprobs" in library
    assert float(names["normalize_reward"](torch.zeros(1))) == 42
    assert names["get_logprobs"] is get_logprobs


def test_a_class_that_defines_a_method_keeps_it(checkout, own_modules):
    """What a class of this chapter overrides is not replaced by another chapter's method; what it inherits is."""
    right = "def rollout_phase(self):\n        return 'own rollout of chapter 2'"
    wrong = "def compute_rlhf_objective(self, minibatch):\n        return 'own objective of chapter 2'"
    for name, code in (("RLHFTrainer.rollout_phase", right), ("RLHFTrainer.compute_rlhf_objective", wrong)):
        fill(checkout, "ppo", name, f"    {code}")
    progress = Progress.load(checkout)
    for exercise in load_course(checkout)["ppo"]:
        progress.note(exercise, "passed")

    class GrpoTrainer(RLHFTrainer):
        def compute_rlhf_objective(self, minibatch):
            return "objective of chapter 4"

    GrpoTrainer.__module__ = "exercises.grpo"
    own.use_own_answers(checkout, "grpo", {"__name__": "exercises.grpo", "GrpoTrainer": GrpoTrainer})
    assert GrpoTrainer.compute_rlhf_objective(None, None) == "objective of chapter 4"
    assert GrpoTrainer.rollout_phase(None) == "own rollout of chapter 2"


def test_a_method_that_is_not_passed_stays_at_home(checkout, own_modules):
    fill(checkout, "ppo", "RLHFTrainer.rollout_phase", "    def rollout_phase(self):\n        return 'wrong'")
    progress = Progress.load(checkout)
    for exercise in load_course(checkout)["ppo"]:
        progress.note(exercise, "wrong" if exercise.name == "ppo_many_prompts" else "passed")

    class GrpoTrainer(RLHFTrainer):
        pass

    GrpoTrainer.__module__ = "exercises.grpo"
    mine, library = own.use_own_answers(checkout, "grpo", {"__name__": "exercises.grpo", "GrpoTrainer": GrpoTrainer})
    assert "RLHFTrainer.rollout_phase" in library
    assert "RLHFTrainer.rollout_phase" not in mine
    assert "rollout_phase" not in vars(GrpoTrainer)


def test_a_function_is_called_where_it_fits():
    def own_one(x, scale=1):
        return "own", x * scale

    def library(x, scale=1, *, mask=None):
        return "library", x

    chosen = own.where_it_fits(own_one, library)
    assert chosen(2, scale=3) == ("own", 6)
    assert chosen(2, mask=1) == ("library", 2)
    assert own.where_it_fits(library, library) is library
    for takes_all in (lambda *args, **options: 1, lambda x, scale, mask: 1):
        assert own.where_it_fits(takes_all, library) is takes_all


def test_own_answers_work_in_the_librarys_place(checkout, monkeypatch):
    """What the student has written is what the library calls; what is still a stub stays the library's."""
    fill(checkout, "reasoning", "pass_at_k", "def pass_at_k(samples, correct, k):\n    return 42.0")
    tree = own.answer_tree(checkout, "reasoning")
    for module in (selection, judging):  # so that they are put back
        monkeypatch.setattr(module, "pass_at_k", selection.pass_at_k)
    library = judging.majority_vote
    lent = own.lend_to_library(checkout, "reasoning", {"pass_at_k": lambda samples, correct, k: 42.0}, tree)
    assert lent == ["pass_at_k"]
    assert judging.pass_at_k(4, 2, 1) == selection.pass_at_k(4, 2, 1) == 42.0
    assert judging.majority_vote is library
