"""Prompts, columns and rewards from Python: GrpoArgs(prompts=[...], columns={...}, rewards=[fn, ...])."""

import copy
import json

import numpy as np
import pytest

from rlhf_lib.args import FAMILY, GrpoArgs, InputError, ReftArgs, RLHFArgs, from_json, to_json
from rlhf_lib.recipes import parse
from rlhf_lib.tasks import task_of

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}{% if add_generation_prompt %}[go]{% endif %}"
)
COUNTING = ["One, two,", "Two, three,", "Three, four,"]


def length(completions, **columns):
    return [float(len(str(completion))) for completion in completions]


@pytest.fixture
def talking(tokenizer):
    """What has the tokenizer of a model with a chat template, and its context."""
    from types import SimpleNamespace

    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    return SimpleNamespace(tokenizer=own, cfg=SimpleNamespace(n_ctx=64))


def test_every_prompt_comes_once_before_any_comes_again():
    task = task_of(GrpoArgs(prompts=COUNTING, columns={"number": [3, 4, 5]}, rewards=[length]))
    drawn = task.draw(7, 0, 0)
    assert [drawn.prompts.count(prompt) for prompt in COUNTING] == pytest.approx([7 / 3] * 3, abs=1)
    assert all(set(drawn.prompts[i : i + 3]) == set(COUNTING) for i in (0, 3))
    assert [COUNTING[number - 3] for number in drawn.columns["number"]] == drawn.prompts
    assert task.draw(7, 0, 0) == drawn
    assert task.draw(7, 0, 1).prompts != drawn.prompts
    assert task.held_out(3) is None


@pytest.mark.parametrize("column", [[3, 4, 5], (3, 4, 5), np.array([3, 4, 5])], ids=["list", "tuple", "array"])
@pytest.mark.parametrize("prompts", [COUNTING, tuple(COUNTING), np.array(COUNTING)], ids=["list", "tuple", "array"])
def test_prompts_and_columns_of_any_kind_of_list(prompts, column):
    args = GrpoArgs(prompts=prompts, columns={"number": column}, rewards=[length])
    assert task_of(args).draw(3, 0, 0) == task_of(
        GrpoArgs(prompts=COUNTING, columns={"number": [3, 4, 5]}, rewards=[length])
    ).draw(3, 0, 0)
    assert json.loads(to_json(args))["prompts"]["count"] == 3


def test_conversations_go_through_the_chat_template(talking):
    seen = {}

    def looks(prompts, completions):
        seen.update(prompts=prompts, completions=completions)
        return [1.0] * len(completions)

    talks = [TALK, [*TALK[1:], {"role": "assistant", "content": "Of what?"}, {"role": "user", "content": "Apples."}]]
    task = task_of(GrpoArgs(prompts=talks, rewards=[looks]), talking, 8)
    assert task.all.prompts == [
        "[system]Be brief.[end][user]How many?[end][go]",
        "[user]How many?[end][assistant]Of what?[end][user]Apples.[end][go]",
    ]
    task.reward(task.all, ["three", "four"], [[1], [2]])
    assert seen["prompts"] == talks
    assert seen["completions"] == [[{"role": "assistant", "content": "three"}], [{"role": "assistant", "content": "four"}]]


def test_conversations_need_a_template(talking):
    talking.tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"prompts\[0\] is a conversation.*no chat template"):
        task_of(GrpoArgs(prompts=[TALK], rewards=[length]), talking, 8)


def test_arguments_of_the_template(talking):
    talking.tokenizer.chat_template = TEMPLATE + "{% if loud %}!{% endif %}"
    args = GrpoArgs(prompts=[TALK], rewards=[length], prompt_style="chat", template_args=("loud=true",))
    assert task_of(args, talking, 8).all.prompts[0].endswith("[go]!")


def test_a_prompt_too_long_for_the_context(talking):
    with pytest.raises(InputError, match=r"prompts\[1\] has \d+ tokens, and gen_len leaves room for 55"):
        task_of(GrpoArgs(prompts=["short", "long " * 60], rewards=[length]), talking, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": []}, r"prompts=\[\] is empty"),
        ({"prompts": "text"}, "must be a list of texts"),
        ({"prompts": 3}, "must be a list of texts"),
        ({"prompts": {"a": "b"}}, "must be a list of texts"),
        ({"prompts": iter(["a"])}, "must be a list of texts"),
        ({"prompts": ["a", ""]}, r"prompts\[1\] is empty"),
        ({"prompts": ["a", TALK]}, "partly texts and partly conversations"),
        ({"prompts": [3]}, r"prompts\[0\]=3 must be a text"),
        ({"prompts": [None, "a"]}, "partly"),
        ({"prompts": [[]]}, r"prompts\[0\]=\[\] must be a text, or a list of messages"),
        ({"prompts": [["a"]]}, "has the message 'a'"),
        ({"prompts": [[{"role": "user"}]]}, "has the message"),
        ({"prompts": [[{"role": "user", "content": [{"type": "text", "text": "a"}]}]]}, "has the message"),
        ({"prompts": [[*TALK, {"role": "assistant", "content": "a"}]]}, "ends with the assistant's message"),
        ({"columns": {"a": [1]}}, "belong to prompts"),
        ({"prompts": ["a", "b"], "columns": {"a": [1]}}, r"columns\['a'\] must be a list with one value for each of the 2"),
        ({"prompts": ["a", "b"], "columns": {"a": "xy"}}, r"columns\['a'\] must be a list"),
        ({"prompts": ["a", "b"], "columns": {"a": 3}}, r"columns\['a'\] must be a list"),
        ({"prompts": ["a"], "columns": [1]}, "columns"),
        ({"prompts": ["a"], "columns": {3: [1]}}, "columns has 3"),
        ({"prompts": ["a"], "columns": {"completions": [1]}}, "columns has 'completions'"),
        ({"prompts": ["a"], "task": "pocket"}, "prompts take the place of a task"),
        ({"prompts": ["a"], "data": "x.jsonl"}, "prompts take the place of a task"),
        ({"prompts": ["a"], "few_shot": 2}, "prompts take the place of a task"),
        ({"prompts": ["a"], "rewards": ()}, "say nothing of what is rewarded"),
        ({"prompts": ["a"], "reward_fn": length}, "reward_fn is the one reward of the fixed prefix"),
        ({"rewards": length}, "must be a list"),
        ({"rewards": "correctness"}, "must be a list"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(InputError, match=message) as caught:
        GrpoArgs(**{"rewards": [length], **given})
    assert "\n" not in str(caught.value)


def test_algorithms_that_need_answers():
    with pytest.raises(InputError, match="column answer"):
        FAMILY["self-training"](prompts=["a"])
    with pytest.raises(InputError, match="column solution"):
        ReftArgs(prompts=["a"], columns={"answer": ["1"]})
    columns = {"answer": ["1"], "solution": ["#### 1"]}
    assert task_of(ReftArgs(prompts=["a"], columns=columns)).worked(5).columns == columns
    assert task_of(FAMILY["self-training"](prompts=["a"], columns={"answer": [1]})).all.columns == {"answer": [1]}


def test_answers_that_are_numbers_and_others():
    task = task_of(RLHFArgs(prompts=["a", "b"], columns={"answer": [3, 4.5]}))
    assert task.verdicts(task.all, ["It is 3.", "It is 5."]) == [True, False]
    assert task.reward(task.all, ["It is 3.", "It is 5."], [[1], [1]])[0].tolist() == [1.0, 0.0]
    task = task_of(RLHFArgs(prompts=["a"], columns={"answer": [{"tests": 3}]}, rewards=[length]))
    assert task.verdicts(task.all, ["3"]) is None
    task = task_of(RLHFArgs(prompts=["a"], rewards=[length]))
    assert task.verdicts(task.all, ["3"]) is None


# what a run keeps


def test_args_json_keeps_a_digest():
    def kept(**changes):
        given = {"prompts": COUNTING, "columns": {"number": [3, 4, 5], "x": ["a", None, 1.5]}, "rewards": [length], **changes}
        return json.loads(to_json(GrpoArgs(**given)))["prompts"]

    first = kept()
    assert first["count"] == 3
    assert first["columns"] == ["number", "x"]
    assert first == kept() == kept(columns={"x": ("a", None, 1.5), "number": np.array([3, 4, 5])})
    different = [
        kept(prompts=COUNTING[::-1]),
        kept(prompts=[*COUNTING[:2], "Three, four"]),
        kept(columns={"number": [3, 4, 6], "x": ["a", None, 1.5]}),
        kept(columns={"number": [3, 4, 5]}),
        kept(columns=None),
        kept(prompts=[TALK] * 3),
    ]
    assert len({json.dumps(digest) for digest in [first, *different]}) == 7


def test_a_digest_comes_back_and_is_no_prompt():
    args = GrpoArgs(prompts=COUNTING, columns={"answer": [3, 4, 5]}, rewards=[length])
    back = from_json(GrpoArgs, to_json(args))
    assert json.loads(to_json(back)) == json.loads(to_json(args))
    for use in (lambda: task_of(back), lambda: parse(GrpoArgs, ["--rewards", "correctness"], "rlhf", back)):
        with pytest.raises(InputError, match=r"args.json|prompts came from Python"):
            use()


@pytest.mark.parametrize("name", ["ppo", "ppo-lora", "grpo", "self-training", "reft"])
def test_training_and_going_on(name, make, tmp_path):
    """As from a task: a run in two parts ends where one ends, and other prompts are refused by name."""
    columns = {"answer": ["3", "4", "5"], "solution": ["3", "4", "5"]}
    given = {"prompts": COUNTING, "columns": columns, "total_phases": 2, "save_every": 1, "warmup_steps": 0}
    given |= {} if name == "self-training" else {"rewards": [length, (length, -0.5)]}
    given |= {"group_size": 4} if name == "grpo" else {}
    summary = make(name, **given).train()
    assert summary["run"] == f"{name}-prompts-seed0"
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    if name != "self-training":
        assert record["reward"] == pytest.approx(record["reward_length"] - 0.5 * record["reward_length_2"], abs=1e-4)
    assert "correct" in record
    with pytest.raises(InputError, match="prompts="):
        make(name, **{**given, "prompts": COUNTING[::-1]}, resume=True)
    make(name, **given, resume=True)
