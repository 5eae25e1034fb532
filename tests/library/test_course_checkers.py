"""Checkers accept what is right, classic answers included, and reject and name every mistake of the bank and no other."""

import pickle
import random
import re

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.course import source
from rlhf_lib.course.assemble import Implementation, solutions, with_edits
from rlhf_lib.course.bank import bank_of, implementation_of, mistake
from rlhf_lib.course.checks import check_exercise, checks_of, make_student, run_check, run_exercise
from rlhf_lib.course.expect import Wrong
from rlhf_lib.course.manifest import all_exercises, find_exercise
from rlhf_lib.course.outcomes import state_of
from rlhf_lib.course.student import Crash, Student
from rlhf_lib.course.validate import first_wrong, validate_exercise

from .classic_answers import ANSWERS, PASSES
from .course_answers import DIVIDED, RIGHT, ROOT, stubs

NAMES = [exercise.name for exercise in all_exercises(ROOT)]
OF_MODELS = {e.name for e in all_exercises(ROOT) if re.search(r"\.(trainers|models|lora|rollouts)\.", " ".join(e.targets))}


def filled(exercise, code):
    """The topic's stubs with the exercise's function written."""
    name = exercise.name if exercise.name in exercise.local_targets else exercise.local_targets[0]
    return with_edits(stubs(exercise.topic), name, code)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_solution_passes_stub_is_todo_and_every_mistake_is_named(name):
    exercise = find_exercise(ROOT, name)
    found = validate_exercise(ROOT, exercise, stubs(exercise.topic), seed=0)
    assert found.holds, "\n".join(found.faults)
    assert found.mistakes == found.rejected == found.named


@pytest.mark.parametrize("name", NAMES)
def test_stub_is_todo_and_a_mistake_is_rejected(name):
    """What the proof above does for the whole bank, for one of it; the solution passes in the test below."""
    exercise = find_exercise(ROOT, name)
    assert {outcome.state for outcome in run_exercise(ROOT, exercise, stubs(exercise.topic), 0)} == {"todo"}
    text = solutions(ROOT, exercise.topic).text
    known = random.Random(text).choice(bank_of(exercise))  # another whenever the topic changes
    check, _ = first_wrong(ROOT, exercise, known, 0)
    assert check, f"accepted although {known.when}"


@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_still_fits_the_solution(name):
    exercise = find_exercise(ROOT, name)
    for known in bank_of(exercise):
        compile(implementation_of(ROOT, exercise, known).text, name, "exec")


@pytest.mark.parametrize("name", NAMES)
def test_banks_are_large_enough(name):
    """Eight mistakes for a real exercise, three where the solution is a line or two."""
    exercise = find_exercise(ROOT, name)
    tree = solutions(ROOT, exercise.topic).tree()
    nodes = [source.find(tree, target) for target in exercise.local_targets]
    lines = sum(node.end_lineno - source.body_start(node) + 1 for node in nodes)
    assert len(bank_of(exercise)) >= (3 if lines <= 3 * len(nodes) and exercise.difficulty <= 2 and exercise.points <= 2 else 8)


OUTSIDERS = {  # parameters, and five wrong bodies each
    "spread_over_tokens": (
        "advantages, gen_len",
        "return advantages[:, None].expand(-1, gen_len) + 1",
        "return advantages[:, None].expand(-1, gen_len).abs()",
        "return advantages[:, None] * torch.arange(gen_len)",
        "return torch.zeros(len(advantages), gen_len)",
        "raise KeyError('advantages')",
    ),
    "estimate_kl_k3": (
        "logprobs, ref_logprobs",
        "return (ref_logprobs - logprobs).abs()",
        "return (ref_logprobs.exp() - logprobs.exp()) ** 2",
        "return torch.zeros_like(logprobs)",
        "return 2 * ((ref_logprobs - logprobs).expm1() - ref_logprobs + logprobs)",
        "return (ref_logprobs - logprobs).clamp(max=1).expm1() - ref_logprobs + logprobs",
    ),
    "compute_group_advantages": (
        "rewards, group_size, *, std='unbiased', eps=1e-4, g=lambda r, n: r.reshape(-1, n)",
        "return rewards",
        "return rewards.argsort().float()",
        "g = g(rewards, group_size)\n    return ((g - g.median(1, True)[0]) / (g.std(1, keepdim=True) + eps)).reshape(-1)",
        "g = g(rewards, group_size)\n    return ((g - g.mean(1, True)) / (g.abs().amax(1, True) + eps)).reshape(-1)",
        "return g(rewards, group_size)",
    ),
    "calc_entropy_bonus": (
        "logits, ent_coef, gen_len, **more",
        "return ent_coef * logits.std()",
        "return ent_coef * logits.softmax(-1).amax(-1).mean()",
        "return ent_coef * (1 - (logits.softmax(-1) ** 2).sum(-1)).mean()",
        "return -2 * ent_coef * (logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()",
        "return torch.tensor(ent_coef)",
    ),
}
OUTSIDE = [(name, f"def {name}({given}):\n    {body}") for name, (given, *bodies) in OUTSIDERS.items() for body in bodies]


@pytest.mark.parametrize(("name", "code"), OUTSIDE)
def test_a_mistake_outside_the_bank_is_rejected_and_gets_no_name(name, code):
    exercise = find_exercise(ROOT, name)
    outcomes = check_exercise(ROOT, exercise, filled(exercise, code), seed=3)
    assert state_of(outcomes) == "wrong"
    assert not any(label == "diagnosis" for outcome in outcomes for label, _ in outcome.lines)


CLASSIC = [
    pytest.param(topic, name, marks=[pytest.mark.slow] if name == "GrpoTrainer" else [])
    for topic, names in PASSES.items()
    for name in names
]


@pytest.mark.parametrize(("topic", "name"), CLASSIC)
def test_classic_answers_pass(topic, name):
    stub = stubs(topic)
    brought = Implementation(
        stub.text.replace('if __name__ == "__main__":', ANSWERS[topic] + '\nif __name__ == "__main__":'), "f"
    )
    outcomes = run_exercise(ROOT, find_exercise(ROOT, name), brought, seed=1)
    assert state_of(outcomes) == "passed", "\n".join(outcome.text() for outcome in outcomes)


class WiredStudent(Student):
    """All that goes in or out is pickled, as it would be between two processes."""

    def operate(self, name, args, kwargs, on, how):
        args, kwargs, on = pickle.loads(pickle.dumps((args, kwargs, on)))
        return pickle.loads(pickle.dumps(super().operate(name, args, kwargs, on, how)))

    def tensors(self, owner, new=None):
        return pickle.loads(pickle.dumps(super().tensors(*pickle.loads(pickle.dumps((owner, new))))))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in OF_MODELS else n for n in NAMES])
def test_solution_passes_as_if_from_another_process(name):
    exercise = find_exercise(ROOT, name)
    for check in checks_of(ROOT, exercise):
        door = make_student(ROOT, exercise, solutions(ROOT, exercise.topic), 2)
        outcome = run_check(check, WiredStudent(door.build, door.answer, door.seed))
        assert outcome.state == "passed", outcome.text()


def outcome_of_code(name, code, seed=0):
    exercise = find_exercise(ROOT, name)
    return next(o for o in check_exercise(ROOT, exercise, filled(exercise, code), seed) if o.state == "wrong")


class TestMessages:
    def test_what_was_called_where_it_differs_and_why(self):
        outcome = outcome_of_code("spread_over_tokens", DIVIDED)
        text = outcome.text()
        assert "spread_over_tokens(float32[4], 3)" in text
        assert "at index [0, 0]" in text
        assert "divided among the tokens" in text

    def test_a_crash_shows_the_students_own_lines_only(self):
        outcome = outcome_of_code(
            "spread_over_tokens",
            "def helper(x):\n    return x.reshape(3, 99)\n\n\n"
            "def spread_over_tokens(advantages, gen_len):\n    return helper(advantages)",
        )
        text = outcome.text()
        assert outcome.crashed
        assert "return helper(advantages)" in text
        assert "return x.reshape(3, 99)" in text
        assert "site-packages" not in text
        assert "Traceback" not in text

    def test_shapes_in_plain_words(self):
        signature = source.text_of(stubs("grpo").text, source.find(stubs("grpo").tree(), "spread_over_tokens"))
        code = signature.partition('"""')[0] + "return advantages"
        text = outcome_of_code("spread_over_tokens", code).text()
        assert "a float32 tensor [4]" in text
        assert "[batch gen]" in text

    def test_changed_inputs(self):
        body = "advantages.mul_(2)\n    return (advantages / 2)[:, None].expand(-1, gen_len)"
        code = f"def spread_over_tokens(advantages, gen_len):\n    {body}"
        assert "advantages was changed in place" in outcome_of_code("spread_over_tokens", code).text()

    def test_no_gradient(self):
        code = (
            "def estimate_kl_k3(logprobs, ref_logprobs):\n    q = (ref_logprobs - logprobs).detach()\n    return q.expm1() - q"
        )
        assert "a gradient with respect to logprobs" in outcome_of_code("estimate_kl_k3", code).text()

    def test_a_syntax_error(self):
        exercise = find_exercise(ROOT, "spread_over_tokens")
        broken = Implementation("def spread_over_tokens(advantages, gen_len)\n    return 1\n", "exercises/grpo.py")
        outcome = run_exercise(ROOT, exercise, broken, 0)[0]
        assert outcome.state == "wrong"
        assert "line 1" in outcome.text()

    def test_a_missing_definition(self):
        outcome = run_exercise(
            ROOT, find_exercise(ROOT, "spread_over_tokens"), Implementation("x = 1\n", "exercises/grpo.py"), 0
        )[0]
        assert "definition of spread_over_tokens" in outcome.text()

    def test_an_endless_loop(self, monkeypatch):
        monkeypatch.setattr("rlhf_lib.course.checks.TIME_LIMIT", 1.0)
        outcome = outcome_of_code(
            "spread_over_tokens", "def spread_over_tokens(advantages, gen_len):\n    while True:\n        pass"
        )
        assert "endless loop" in outcome.text()


def test_an_exercise_is_checked_alone():
    """Wrong or missing neighbours change nothing: only the answer under check is the student's."""
    text = stubs("grpo").text
    exercise = find_exercise(ROOT, "spread_over_tokens")
    right = with_edits(Implementation(text, "f"), "spread_over_tokens", RIGHT)
    sabotaged = with_edits(right, "compute_group_advantages", "def compute_group_advantages(*args, **kwargs):\n    return None")
    for answer in (right, sabotaged):
        assert state_of(run_exercise(ROOT, exercise, answer, 0)) == "passed"


def test_an_edit_that_no_longer_fits_is_an_error():
    exercise = find_exercise(ROOT, "spread_over_tokens")
    with pytest.raises(InputError, match="fits 0"):
        implementation_of(ROOT, exercise, mistake("something", ("no such text", "")))


def test_the_door_knows_handles_and_refuses_unknown_tensors():
    exercise = find_exercise(ROOT, "lora_forward")
    door = make_student(ROOT, exercise, solutions(ROOT, "lora"), 0)
    adapter = door.call("Lora", 6, 5, 2, 8.0)
    assert adapter.kind == "Lora"
    filled_in = door.tensors(adapter, {"B": torch.ones(2, 5)})
    assert torch.equal(filled_in["B"], torch.ones(2, 5))
    with pytest.raises(Wrong, match="C"):
        door.tensors(adapter, {"C": torch.ones(1)})
    with pytest.raises(Crash):
        door.call("Lora", 6, 5, 100, 8.0)
