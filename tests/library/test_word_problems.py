"""Data sets from local files: reading, splits, prompts in every style, and staying within the context."""

import json

import pytest
from transformers import AutoTokenizer

from rlhf_lib.args import InputError, PromptArgs, RLHFArgs
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.rewards import XML_REWARDS
from rlhf_lib.tasks import Gsm8kTask, MathQaTask, Prompts, SvampTask, task_of
from rlhf_lib.tasks.data_files import load_splits, local_splits
from rlhf_lib.tasks.prompting import WordProblem, build_few_shot_prompt, build_prompt, cut_at_next_question, solution_text

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
)


def chat_tokenizer(template=TEMPLATE):
    found = AutoTokenizer.from_pretrained(BUNDLED["pocket"])
    found.chat_template = template
    return found


def gsm8k(gsm8k_dir, **options):
    more = {name: options.pop(name) for name in ("tokenizer", "room") if name in options}
    return Gsm8kTask(PromptArgs(task="gsm8k", data=str(gsm8k_dir), **options), **more)


# Reading


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_file_format(suffix, tmp_path):
    rows = [{"question": "a?", "answer": "x\n#### 1"}, {"question": "b?", "answer": "y\n#### 2"}]
    file = tmp_path / f"gsm-train{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        file.write_text(json.dumps({"rows": rows}))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    for source in (file, tmp_path):
        task = Gsm8kTask(PromptArgs(task="gsm8k", data=str(source)))
        assert task.problems("train") == [WordProblem("a?", "x", "1"), WordProblem("b?", "y", "2")]
        with pytest.raises(InputError, match="has no test split"):
            task.held_out(1)


def test_calculator_notes_are_taken_out(gsm8k_dir):
    problem = gsm8k(gsm8k_dir).problems("train")[0]
    assert problem.solution == "She buys 2*5=10 apples.\nNow she has 3+10=13 apples."
    assert problem.answer == "13"


def test_svamp_without_splits(tmp_path):
    row = {"Body": "Dan had $ 3 left", "Question": "How much?", "Equation": "( 4.0 - 3.0 )", "Answer": 1.0}
    (tmp_path / "SVAMP.json").write_text(json.dumps([{**row, "Body": f"Dan {i}"} for i in range(1000)]))
    task = SvampTask(PromptArgs(task="svamp", data=str(tmp_path)))
    assert (len(task.problems("train")), len(task.problems("test"))) == (700, 300)
    assert task.problems("test")[0] == WordProblem("Dan 700. How much?", "( 4.0 - 3.0 ) = 1", "1")


@pytest.mark.parametrize("hub", [False, True])
def test_mathqa(hub, tmp_path):
    ours = {"question": "q ?\na ) 38 , b ) 27", "answer_value": "b"}
    theirs = {"Problem": "q ?", "options": "a ) 38 , b ) 27", "Rationale": "because", "correct": "b"}
    (tmp_path / "test.json").write_text(json.dumps([theirs if hub else ours]))
    task = MathQaTask(PromptArgs(task="mathqa", data=str(tmp_path)))
    prompts = task.held_out(1).repeat(3)
    assert "a ) 38 , b ) 27\nAnswer:" in prompts.prompts[0]
    assert task.is_correct(prompts, ["<answer>b</answer>", "The answer is (b).", "27"]) == [True, True, False]
    assert [task.vote_of(text) for text in ("option B", "(a)", "27")] == ["b", "a", None]
    with pytest.raises(InputError, match="no train split"):
        task.draw(1, 0, 0)


def test_mistakes_in_data(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return Gsm8kTask(PromptArgs(task="gsm8k", data=str(tmp_path / name))).splits

    with pytest.raises(InputError, match=r"line 1 of .*broken\.jsonl: it is not JSON"):
        read("broken.jsonl", '{"question": ')
    with pytest.raises(InputError, match="no list of rows"):
        read("scalar.json", "3")
    with pytest.raises(InputError, match=r"line 1 of .*other\.jsonl: no column 'answer'"):
        read("other.jsonl", '{"question": "a"}')
    assert read("number.jsonl", '{"question": "a", "answer": 42}')["test"][0].answer == "42"
    assert read("separator.jsonl", '{"question": "a\u2028b", "answer": "#### 1"}')["test"][0].question == "a\u2028b"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no \.jsonl"):
        load_splits(str(tmp_path / "empty"), "x/y", None)
    with pytest.raises(InputError, match="is not there"):
        load_splits("./nowhere", "x/y", None)
    with pytest.raises(InputError, match="nor to be had from Hugging Face's hub"):
        load_splits("no-such/data-set", "x/y", None)


def test_split_names(tmp_path):
    row = json.dumps({"question": "q", "answer": "#### 1"}) + "\n"
    for name in ("train", "train_socratic", "test", "test_socratic", "latest"):
        (tmp_path / f"{name}.jsonl").write_text(row)
    assert {split: len(rows) for split, rows in local_splits(tmp_path).items()} == {"train": 1, "test": 1}
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(InputError, match=r"not clear which split latest\.jsonl is"):
        local_splits(tmp_path)
    shards = tmp_path / "shards"
    shards.mkdir()
    for i in range(2):
        (shards / f"train-0000{i}-of-00002.jsonl").write_text(row)
    assert len(local_splits(shards)["train"]) == 2


@pytest.mark.parametrize(("answer", "text"), [("1,000", "1000"), (1234567, "1234567"), (2.5, "2.5"), ("3.0", "3")])
def test_svamps_numbers_are_exact(answer, text):
    row = {"Body": "b", "Question": "q?", "Equation": "e", "Answer": answer}
    assert SvampTask().read(row).answer == text


# Splits


def test_training_never_sees_the_test_split(gsm8k_dir):
    task = gsm8k(gsm8k_dir, few_shot=3)
    held_out = {problem.question for problem in task.problems("test")}
    seen = [prompt for phase in range(4) for prompt in task.draw(8, 0, phase).prompts] + task.worked(100).prompts
    assert not any(question in prompt for question in held_out for prompt in seen)
    assert task.held_out(6, split="validation") is None


def test_a_watched_run_sets_training_problems_aside(tmp_path):
    rows = [{"question": f"{i}?", "answer": f"#### {i}"} for i in range(1000)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    watched = task_of(RLHFArgs(task="gsm8k", data=str(tmp_path), eval_every=1))
    validation = {problem.question for problem in watched.problems("validation")}
    assert len(validation) == 100
    assert len(watched.problems("train")) == 900
    assert not validation & {problem.question for problem in watched.problems("train")}
    unwatched = task_of(RLHFArgs(task="gsm8k", data=str(tmp_path)))
    assert len(unwatched.problems("train")) == 1000


def test_phases_reproduce_and_differ(gsm8k_dir):
    task = gsm8k(gsm8k_dir)
    assert task.draw(8, 1, 3) == task.draw(8, 1, 3) != task.draw(8, 1, 4)
    assert len(set(task.draw(24, 1, 3).prompts)) == 24


# Prompts


def test_few_shot_examples_fit_or_leave_from_the_front():
    examples = [("one?", "1"), ("two?", "2"), ("three?", "3")]
    full = build_few_shot_prompt("four?", examples, 1000, len)
    assert full == (
        "Question: one?\nAnswer:\n1\n\nQuestion: two?\nAnswer:\n2\n\nQuestion: three?\nAnswer:\n3\n\nQuestion: four?\nAnswer:\n"
    )
    assert build_few_shot_prompt("four?", examples, len(full) - 1, len) == full[full.index("Question: two") :]
    assert build_few_shot_prompt("four?", examples, 3, len) == "Question: four?\nAnswer:\n"


def test_chat_template_with_and_without_a_system_role():
    prompt = build_prompt("q?", [("one?", "1")], "chat", 1000, chat_tokenizer())
    assert prompt.startswith("[system]Solve the problem")
    assert prompt.endswith("[user]one?[end][assistant]1[end][user]q?[end][assistant]")
    prompt = build_prompt("q?", [], "xml", 1000, chat_tokenizer(NO_SYSTEM))
    assert prompt.startswith("[user]Respond in the following format:\n<reasoning>")
    assert prompt.endswith("q?")
    with pytest.raises(InputError, match="has none; use plain or xml"):
        build_prompt("q?", [], "chat", 1000, AutoTokenizer.from_pretrained(BUNDLED["pocket"]))


def test_chat_examples_leave_from_the_front():
    tokenizer = chat_tokenizer()
    examples = [(f"Question number {i}?", "a long answer " * 10) for i in range(6)]
    room = 300
    prompt = build_prompt("q?", examples, "chat", room, tokenizer)
    assert len(tokenizer(prompt)["input_ids"]) <= room
    assert "number 5" in prompt
    assert "number 0" not in prompt


def test_xml_prompts_bring_xml_rewards(gsm8k_dir):
    task = gsm8k(gsm8k_dir, prompt_style="xml", few_shot=1)
    assert task.reward_fns == XML_REWARDS
    prompts = task.worked(3)
    assert prompts.prompts[0].startswith("Respond in the following format")
    assert prompts.prompts[0].count("</answer>") == 2  # the format, and an example in it
    assert all(fn(prompts.prompts, prompts.columns["solution"], **prompts.columns) for fn in XML_REWARDS)
    assert task.is_correct(prompts, prompts.columns["solution"]) == [True] * 3


def test_worked_solutions_are_right_in_every_style(gsm8k_dir):
    problem = WordProblem("q?", "3+4=7", "7")
    assert solution_text(problem, "plain") == "3+4=7\n#### 7"
    assert solution_text(problem, "xml") == "<reasoning>\n3+4=7\n</reasoning>\n<answer>\n7\n</answer>\n"
    task = gsm8k(gsm8k_dir)
    prompts = task.worked(24)
    assert all(task.is_correct(prompts, prompts.columns["solution"]))


XML = "<reasoning>\n3+4={0}\n</reasoning>\n<answer>\n{0}\n</answer>"
READ = [  # a completion where 7 is right, and whether it is right strictly, right leniently, well-formed
    ("xml", XML.format(7), (True, True, True)),
    ("xml", XML.format(7) + "\n", (True, True, True)),
    ("xml", XML.format("7 apples"), (True, True, True)),
    ("xml", XML.format(8), (False, False, True)),
    ("xml", XML.format("7 of 12"), (True, True, True)),  # though 12 is its last number
    ("xml", f"Sure: {XML.format(7)}", (False, True, False)),
    ("xml", f"{XML.format(7)}\nI hope this helps", (False, True, False)),
    ("xml", XML.format(7).replace("\n", ""), (False, True, False)),
    ("xml", XML.format(7) + "\n" + XML.format(7), (False, True, False)),
    ("xml", f"{XML.format(7)}\nor 8", (False, False, False)),
    ("xml", XML.format("").replace("\n\n", "\n"), (False, False, False)),
    ("xml", XML.format(""), (False, False, True)),
    ("xml", "3+4 is 7.", (False, True, False)),
    ("xml", "7 is 3+4", (False, False, False)),
    ("xml", "", (False, False, False)),
    ("chat", "3+4=7\n#### 7", (True, True, True)),
    ("chat", "3+4=7\n#### 8", (False, False, True)),
    ("chat", "It is 7", (False, True, False)),
    ("plain", "3+4=7\n#### 7\n\nQuestion: another?\n#### 9", (True, True, True)),
]


@pytest.mark.parametrize(("style", "completion", "verdicts"), READ)
def test_readings(style, completion, verdicts, gsm8k_dir):
    task = gsm8k(gsm8k_dir, prompt_style=style, tokenizer=chat_tokenizer())
    readings = task.readings(Prompts(["3+4?"], {"answer": ["7"]}), [completion])
    assert {name: found for name, (found,) in readings.items()} == dict(
        zip(("strict", "lenient", "well-formed"), verdicts, strict=True)
    )


def test_readings_of_multiple_choice():
    task = MathQaTask(PromptArgs(task="mathqa", prompt_style="xml"))
    completions = [XML.format("b"), XML.format("b ) 27"), "it is (b)", XML.format("c")]
    readings = task.readings(Prompts(["q"] * 4, {"answer": ["b"] * 4}), completions)
    assert readings["strict"] == [True, True, False, False]
    assert readings["lenient"] == [True, True, True, False]
    assert readings["well-formed"] == [True, True, False, True]


def test_what_follows_the_answer_is_not_judged(gsm8k_dir):
    task = gsm8k(gsm8k_dir)
    right = task.held_out(1).columns["answer"][0]
    rambling = f"so\n#### {right}\n\nQuestion: another?\nAnswer:\n#### 999"
    assert task.is_correct(task.held_out(1), [rambling]) == [True]
    assert cut_at_next_question("no question") == "no question"


def test_prompts_stay_within_the_context(gsm8k_dir, tokenizer):
    question = max(len(tokenizer(p)["input_ids"]) for p in gsm8k(gsm8k_dir).held_out(6).prompts)
    for room in (question + 5, question - 10):
        task = gsm8k(gsm8k_dir, few_shot=4, tokenizer=tokenizer, room=room)
        prompts = task.held_out(6).prompts
        assert all(len(tokenizer(prompt)["input_ids"]) <= room for prompt in prompts)
        assert all(prompt.endswith("Answer:\n") for prompt in prompts)
    with pytest.raises(InputError, match="leave room for the completion"):
        gsm8k(gsm8k_dir, tokenizer=tokenizer, room=10).draw(2, 0, 0)


# Through the arguments


def test_task_of_arguments(gsm8k_dir):
    args = RLHFArgs(task="gsm8k", data=str(gsm8k_dir), rewards=("correctness", "reft=0.5"))
    task = task_of(args)
    assert [fn.__name__ for fn in task.reward_fns] == ["correctness_reward", "reft_reward"]
    assert task.reward_weights == (1.0, 0.5)
    with pytest.raises(InputError, match="no data sets and prompt styles"):
        task_of(RLHFArgs(task="pocket", data="x"))


# Real data


@pytest.mark.parametrize(("name", "kind", "sizes"), [("gsm8k", Gsm8kTask, (7473, 1319)), ("svamp", SvampTask, (700, 300))])
def test_real_data(name, kind, sizes, shared):
    task = kind(PromptArgs(task=name, data=str(shared / "data" / name)))
    assert (len(task.problems("train")), len(task.problems("test"))) == sizes
    prompts = task.worked(sizes[0])
    assert all(task.is_correct(prompts, prompts.columns["solution"]))


def test_real_mathqa(shared):
    task = MathQaTask(PromptArgs(task="mathqa", data=str(shared / "data" / "mathqa")))
    prompts = task.held_out(5000)
    assert set(prompts.columns["answer"]) == set("abcde")
    assert all(task.is_correct(prompts, [f"The answer is ({letter})." for letter in prompts.columns["answer"]]))
