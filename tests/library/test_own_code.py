"""Code of the user's own: what they type is run, what a file of arguments names never is."""

import json
import shutil
import sys

import pytest
import torch

from rlhf_lib import cli
from rlhf_lib.args import (
    CodeInFile,
    CompareArgs,
    EvalArgs,
    GrpoArgs,
    InputError,
    ReftArgs,
    RewardModelArgs,
    RLHFArgs,
    SftArgs,
    comparable,
    from_json,
    to_json,
)
from rlhf_lib.recipes import parse
from rlhf_lib.rewards import choose_rewards
from rlhf_lib.tasks import Gsm8kTask, Task, make_task, task_of

PAYLOAD = """
from pathlib import Path
ran = Path(__file__).with_name("ran")
ran.write_text("imported")

def earn(*given, **columns):
    ran.write_text("called")
    return [0.0] * len(columns.get("completions", given[:1]))

class Earn:
    def __init__(self, *given):
        ran.write_text("made")
"""
PLACES = ("evil.py:earn", "evil:earn", "./evil.py:earn", "evil.py:Earn", "evil.PY:earn", "evil.py", "evil.py:")
COMMANDS = ("subprocess:getoutput", "os:system", "builtins:exec", "subprocess.py:getoutput", "rlhf_lib.files:write_atomically")
TOUCH = "touch ran"
SMALL = ["--device", "cpu", "--batch-size", "4", "--num-minibatches", "1", "--gen-len", "4", "--eval-problems", "0"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory in which a payload lies that Python could import, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "evil.py").write_text(PAYLOAD)
    yield tmp_path
    for name in [name for name in sys.modules if name == "evil" or name.startswith("rlhf_file_")]:
        del sys.modules[name]


@pytest.fixture
def run(capsys):
    def call(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return call


def named(field, code):
    """A file of arguments that names code in a field."""
    return {field: [code] if field == "rewards" else code, **({"task": "pocket"} if field == "rewards" else {"prefix": TOUCH})}


@pytest.mark.parametrize("code", [*PLACES, *COMMANDS])
@pytest.mark.parametrize("field", ["rewards", "task", "reward_fn"])
class TestDataNeverNamesCode:
    def test_in_a_recipe(self, field, code, folder, run):
        (folder / "recipe.json").write_text(json.dumps(named(field, code)))
        status, said = run("train", "grpo", "--recipe", "recipe.json", "--output-dir", "out", *SMALL)
        self.refused(folder, status, said)

    def test_in_a_run_that_is_resumed(self, field, code, folder, run):
        (folder / "out").mkdir()
        (folder / "out" / "args.json").write_text(json.dumps(named(field, code)))
        status, said = run("train", "grpo", "--resume", "--output-dir", "out")
        self.refused(folder, status, said)

    def test_in_python(self, field, code, folder):
        args = from_json(GrpoArgs, json.dumps(named(field, code)))
        with pytest.raises(InputError):
            task_of(args, None, 4, args.prefix, args.reward_fn)
        assert not (folder / "ran").exists()

    @staticmethod
    def refused(folder, status, said):
        assert status == 2
        assert said.startswith("rlhf: ")
        assert said.count("\n") == 1
        assert not (folder / "ran").exists()


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_a_run_that_is_looked_at_names_no_code(command, folder, run):
    (folder / "out" / "model").mkdir(parents=True)
    (folder / "out" / "args.json").write_text(json.dumps({"task": "evil.py:Earn"}))
    status, said = run(command, "--run", "out")
    assert status == 2
    assert "--task evil.py:Earn" in said
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("kind", [GrpoArgs, ReftArgs, SftArgs, RewardModelArgs, EvalArgs])
def test_texts_in_python_are_data_too(kind, folder):
    with pytest.raises(InputError, match="names code"):
        task_of(kind(task="evil.py:Earn"))
    assert not (folder / "ran").exists()


def test_a_comparison_types_nothing_for_the_user(folder):
    from rlhf_lib.compare.runs import common_options

    with pytest.raises(InputError, match="names code"):
        common_options(CompareArgs(task="evil.py:Earn"))
    with pytest.raises(InputError, match="CodeInFile"):
        common_options(CompareArgs(task=Gsm8kTask))
    assert "evil.py:Earn" in common_options(CompareArgs(task=CodeInFile("evil.py:Earn")))


def test_a_texts_letters_do_not_make_it_code(folder):
    """What runs is the type that typing makes, and no way through JSON or text operations leads to it."""
    typed = CodeInFile("evil.py:earn")
    for text in (json.loads(json.dumps(typed)), str(typed), f"{typed}", typed.strip(), typed + "", typed[:], typed.lower()):
        assert text == typed
        with pytest.raises(InputError, match="unknown"):
            choose_rewards([text])
    assert not (folder / "ran").exists()
    assert choose_rewards([typed])[0][0].__name__ == "earn"
    assert (folder / "ran").read_text() == "imported"


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_models_configuration_names_no_kernel_of_the_hub(field, model_dirs, tmp_path):
    from rlhf_lib.models.checkpoint import read_config

    settings = json.loads((model_dirs["llama"] / "config.json").read_text())

    def found(value):
        (tmp_path / "config.json").write_text(json.dumps({**settings, field: value}))
        return read_config(str(tmp_path), "base_model='x'")

    assert "/" not in f"{found('eager')._attn_implementation}"
    for value in ("someone/kernel", "someone/kernel@main:f"):
        with pytest.raises(InputError, match="a kernel from the hub, which is code"):
            found(value)


def test_the_words_to_paste_are_all_that_is_missing():
    saved = {"task": "my task.py:Puzzles", "rewards": ["a b.py:one=0.5", "correctness"]}
    args = from_json(GrpoArgs, json.dumps(saved))
    with pytest.raises(InputError, match=r"--task 'my task.py:Puzzles'$"):
        parse(GrpoArgs, [], "rlhf", args)
    with pytest.raises(InputError, match=r"--rewards 'a b.py:one=0.5' correctness$"):
        parse(GrpoArgs, ["--task", "my task.py:Puzzles"], "rlhf", args)
    whole = parse(GrpoArgs, ["--task", "my task.py:Puzzles", "--rewards", "a b.py:one=0.5", "correctness"], "rlhf", args)
    assert to_json(whole) == to_json(args)
    assert isinstance(whole.task, CodeInFile)
    assert [type(entry) for entry in whole.rewards] == [CodeInFile, str]


def count_a(samples):
    return torch.tensor([float(sample.count("a")) for sample in samples])


def test_a_function_from_python_is_kept_by_name(folder):
    args = RLHFArgs(reward_fn=count_a)
    saved = json.loads(to_json(args))["reward_fn"]
    assert saved.endswith("test_own_code:count_a")
    back = from_json(RLHFArgs, to_json(args))
    assert back.reward_fn == saved
    assert comparable(back) == comparable(args) == comparable(RLHFArgs(reward_fn=CodeInFile("elsewhere/mine.py:count_a")))
    with pytest.raises(InputError, match=r"--reward-fn FILE.py:count_a$"):
        parse(RLHFArgs, [], "rlhf", back)


def double(prompts, completions):
    return [2.0] * len(completions)


def test_runs_are_compared_by_the_names_of_their_code():
    def of(*rewards, task="pocket"):
        return comparable(GrpoArgs(rewards=rewards, task=task))

    assert of(CodeInFile("a.py:double=0.5")) == of(CodeInFile("b/a.py:double=0.5")) == of((double, 0.5))
    assert of(CodeInFile("a.py:double")) == of(double) != of(CodeInFile("a.py:double=0.5"))
    assert of(CodeInFile("a.py:double")) != of(CodeInFile("a.py:triple"))
    assert of("correctness") != of(CodeInFile("a.py:correctness"))
    assert of(task=Gsm8kTask) == of(task=CodeInFile("x.py:Gsm8kTask")) != of(task="gsm8k")


# what the command line reads


@pytest.mark.parametrize(
    ("word", "file", "weight"),
    [
        ("mine.py:earn", "mine.py", 1.0),
        ("mine.py:earn=0.25", "mine.py", 0.25),
        ("a=b/mine.py:earn=-2", "a=b/mine.py", -2.0),
        ("a=1:b/mine.py:earn", "a=1:b/mine.py", 1.0),
        ("x.py:y/mine.py:earn=1e-3", "x.py:y/mine.py", 1e-3),
        ("with space/mine.py:earn=3", "with space/mine.py", 3.0),
    ],
)
def test_files_names_and_weights(word, file, weight, folder):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "evil.py", folder / file)
    args = parse(GrpoArgs, ["--rewards", "correctness=2", word], "rlhf")
    functions, weights = choose_rewards(args.rewards)
    assert weights == (2.0, weight)
    assert functions[1].__name__ == "earn"
    assert functions[1].__code__.co_filename == str(folder / file)


def test_a_drive_letter_is_no_name_of_a_function():
    parts = parse(GrpoArgs, ["--rewards", r"C:\work=1\mine.py:earn=0.5"], "rlhf").rewards
    with pytest.raises(InputError, match=r"^C:\\work=1\\mine.py cannot be read"):
        choose_rewards(parts)


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf", "1e999", "x", "", "0x1", "½"])
@pytest.mark.parametrize("name", ["correctness", "mine.py:earn"])
def test_weights_are_finite_numbers(name, weight):
    with pytest.raises(InputError, match=r"rewards=.*(finite number|no number)"):
        GrpoArgs(task="pocket", rewards=(CodeInFile(f"{name}={weight}") if ".py" in name else f"{name}={weight}",))


def test_the_command_line_refuses_weights_that_are_not_finite(run):
    assert run("train", "grpo", "--task", "pocket", "--rewards", "correctness=nan")[0] == 2


@pytest.mark.parametrize(
    "entry", [(double, float("nan")), ("correctness", None), (double, "much"), (1.0, double), 3, [double], None]
)
def test_weights_from_python(entry):
    with pytest.raises(InputError, match="rewards"):
        GrpoArgs(task="pocket", rewards=[entry])


def test_weights_of_functions():
    args = GrpoArgs(task="pocket", rewards=[double, (double, 0.5), ("correctness", 2), "soft_format=3"])
    assert choose_rewards(args.rewards)[1] == (1.0, 0.5, 2.0, 3.0)


def test_none_is_a_word():
    args = parse(GrpoArgs, ["--task", "None", "--reward-fn", "None"], "rlhf", GrpoArgs(task="pocket"))
    assert args.task is args.reward_fn is None
    assert parse(GrpoArgs, [], "rlhf", GrpoArgs(task="pocket")).task == "pocket"


# files that cannot be used


FAULTS = {
    "def earn(:\n": r"SyntaxError.*line 1",
    "import no_such_package\ndef earn(): pass": r"ModuleNotFoundError: No module named 'no_such_package' \(.*mine.py, line 1",
    "x = 1\ny = x / 0\ndef earn(): pass": r"ZeroDivisionError.*line 2, in <module>: y = x / 0",
    "raise SystemExit(0)": "SystemExit: 0",
    "def earned(): pass": "has no earn; did you mean earned",
    "def other(): pass\nfrom os import system": "has no earn; it has other$",
    "": "has no earn; it has no function or class",
    "earn = 3": "is int 3, not a function",
    "class earn:\n    def __call__(self, completions): return [0]": "is a class",
    b"\xff\xfe\x00": "SyntaxError|ValueError",
    b"x = '\0'": "(SyntaxError|ValueError).*null bytes",
}


@pytest.mark.parametrize("text", FAULTS, ids=str)
def test_files_that_hold_no_reward(text, folder):
    (folder / "mine.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=FAULTS[text]) as caught:
        choose_rewards([CodeInFile("mine.py:earn")])
    assert "mine.py" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("absent.py:earn", "absent.py cannot be read"),
        (".:earn", "is not FILE.py:NAME"),
        ("folder.py:earn", "folder.py cannot be read"),
        ("mine.py", "must be FILE.py:NAME"),
        ("mine.py:", "must be FILE.py:NAME"),
        ("mine.py:two words", "must be FILE.py:NAME"),
        ("mine.py:a.b", "must be FILE.py:NAME"),
        ("mine.py=2", "must be FILE.py:NAME"),
    ],
)
def test_words_that_name_no_function(word, message, folder):
    (folder / "folder.py").mkdir()
    with pytest.raises(InputError, match=message):
        choose_rewards(parse(GrpoArgs, ["--rewards", word], "rlhf").rewards)


@pytest.mark.parametrize(
    "words",
    [
        *(["train", "grpo", f"--{field}", "no.py:f"] for field in ("rewards", "task", "reward-fn")),
        *([command, "--task", "no.py:f"] for command in ("sample", "eval", "compare")),
    ],
    ids=" ".join,
)
def test_a_file_is_looked_at_before_the_model_is(words, folder, run):
    status, said = run(*words, "--base-model", "/no/such/model")
    assert status == 2
    assert said.startswith("rlhf: no.py cannot be read")


def test_a_file_imports_its_neighbours_now_and_later(folder):
    place = folder / "deeper"
    place.mkdir()
    (place / "near_one.py").write_text("WORTH = 3.0")
    (place / "near_two.py").write_text("WORTH = 4.0")
    (place / "random.py").write_text("raise ImportError('this is no package')")
    (place / "mine.py").write_text(
        "import near_one\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Judge:\n    worth: float\n    def __call__(self, completions):\n        import near_two, random\n"
        "        return [self.worth + near_two.WORTH + 0 * random.random() for _ in completions]\n"
        "judge = Judge(near_one.WORTH)\n"
    )
    before = list(sys.path)
    (judge,), _ = choose_rewards([CodeInFile("deeper/mine.py:judge")])
    assert judge.__name__ == "judge"
    assert judge(completions=["a", "b"]) == [7.0, 7.0]
    assert sys.path == [*before, str(place)]


def test_a_file_is_imported_once_until_it_changes(folder):
    count = "from pathlib import Path\np = Path('count')\np.write_text(str(int(p.read_text()) + 1))\n"
    (folder / "count").write_text("0")
    (folder / "mine.py").write_text(count + "def one(completions): return [1.0]\ndef two(completions): return [2.0]\n")
    for _ in range(2):
        one, two = choose_rewards([CodeInFile("mine.py:one"), CodeInFile(str(folder / "mine.py:two"))])[0]
        assert (one([""]), two([""])) == ([1.0], [2.0])
    assert (folder / "count").read_text() == "1"
    (folder / "mine.py").write_text(count + "def one(completions): return [3.0]\n")
    assert choose_rewards([CodeInFile("mine.py:one")])[0][0]([""]) == [3.0]
    assert (folder / "count").read_text() == "2"


# tasks


TASK = """
import random
from rlhf_lib import Task, answers_match, correctness_reward
from rlhf_lib.tasks import Prompts, WordProblemTask
from rlhf_lib.tasks.prompting import WordProblem

PAIRS = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Peru", "Lima")]

def asked(pairs):
    return Prompts([f"Capital of {c}? " for c, _ in pairs], {"answer": [a for _, a in pairs]})

class Capitals(Task):
    reward_fns = (correctness_reward,)

    def draw(self, count, seed, phase):
        return asked(random.Random(f"{seed}-{phase}").choices(PAIRS[:3], k=count))

    def held_out(self, count, few_shot=0, style=None, split="test"):
        return asked(PAIRS[3:][:count])

    def is_correct(self, prompts, completions):
        return [a in c for c, a in zip(completions, prompts.columns["answer"])]

class Puzzles(WordProblemTask):
    name = "puzzles"
    hub_name = "nobody/puzzles"

    def read(self, row):
        return WordProblem(row["question"], row["answer"], row["answer"].split("####")[-1].strip())

class Half(Task):
    pass

class Broken(Capitals):
    def __init__(self):
        self.table = {}["capitals"]

class Failing(Capitals):
    def draw(self, count, seed, phase):
        return 1 / 0

class Forgetful(Capitals):
    def draw(self, count, seed, phase):
        return asked([("X", "Y")])

class Restless(Capitals):
    drawn = 0

    def draw(self, count, seed, phase):
        self.drawn += 1
        return Prompts([f"{self.drawn}?"] * count)

class Listing(Capitals):
    def draw(self, count, seed, phase):
        return ["a"] * count

class Uneven(Capitals):
    def draw(self, count, seed, phase):
        return Prompts(["a", "b"], {"answer": ["c"]})

class Unread(Capitals):
    def held_out(self, count, few_shot=0, style=None, split="test"):
        return open("no such file").read()

class Unjudged(Capitals):
    def held_out(self, count, few_shot=0, style=None, split="test"):
        return asked([])

class Unrewarded(Capitals):
    reward_fns = ()

one = Capitals()
def function(): pass
"""


@pytest.fixture
def own_task(folder):
    (folder / "mine.py").write_text(TASK)
    return folder


def test_a_task_in_a_file(own_task, gsm8k_dir):
    task = task_of(GrpoArgs(task=CodeInFile("mine.py:Capitals")))
    assert isinstance(task, Task)
    assert task.name == "Capitals"
    assert len(task.draw(5, 0, 0)) == 5
    puzzles = task_of(SftArgs(task=CodeInFile("mine.py:Puzzles"), data=str(gsm8k_dir), prompt_style="xml"))
    assert puzzles.worked(3).columns["answer"] == ["13", "22", "14"]
    assert type(make_task(type(task))) is type(task)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Half", "lacks draw; define"),
        ("one", "no subclass of Task"),
        ("function", "no subclass of Task"),
        ("PAIRS", "no subclass of Task"),
        ("Capital", "did you mean Capitals"),
        ("Broken", r"cannot be made: KeyError: 'capitals' \(.*mine.py, line \d+, in __init__: self.table"),
    ],
)
def test_tasks_that_are_none(name, message, own_task):
    with pytest.raises(InputError, match=message):
        task_of(GrpoArgs(task=CodeInFile(f"mine.py:{name}")))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_training_and_judging_a_task_in_a_file(algorithm, own_task, run, model_dirs):
    model = ["--base-model", str(model_dirs["llama"])]
    status, said = run("train", algorithm, "--task", "mine.py:Capitals", "--output-dir", "out", "--total-phases", 2,
                       "--warmup-steps", 0, *model, *SMALL)  # fmt: skip
    assert status == 0, said
    assert json.loads((own_task / "out" / "args.json").read_text())["task"] == "mine.py:Capitals"
    assert json.loads((own_task / "out" / "summary.json").read_text())["run"] == f"{algorithm}-Capitals-seed0"
    looked = ["eval", "--run", "out", "--problems", 1, "--gen-len", 4, "--device", "cpu"]
    status, said = run(*looked)
    assert status == 2
    assert said.endswith("--task mine.py:Capitals\n")
    assert run(*looked, "--task", "mine.py:Capitals")[0] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Failing", r"ZeroDivisionError: division by zero \(.*mine.py, line \d+, in draw: return 1 / 0\)"),
        ("Uneven", "column answer has 1 values for 2 prompts"),
        ("Forgetful", r"Forgetful drew Prompts\(.*returns Prompts of 2 texts"),
        ("Listing", r"Listing drew \['a', 'a'\]; draw"),
        ("Restless", "draws other prompts for the same numbers"),
        ("Unrewarded", "has no reward_fns"),
    ],
)
def test_tasks_that_fail_while_training(name, message, own_task, run, model_dirs):
    import re

    words = ["--base-model", model_dirs["llama"], "--group-size", 2, "--output-dir", "out", *SMALL]
    status, said = run("train", "grpo", "--task", f"mine.py:{name}", *words)
    assert status == 2
    assert re.search(message, said)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unread", "FileNotFoundError.*mine.py, line [0-9]+, in held_out: return open"),
        ("Unjudged", "task=Unjudged has no right answers"),
        ("Half", "lacks draw"),
    ],
)
def test_tasks_that_fail_while_judging(name, message, own_task, run, model_dirs):
    import re

    status, said = run("eval", "--task", f"mine.py:{name}", "--base-model", model_dirs["llama"], "--gen-len", 4)
    assert status == 2
    assert re.search(message, said)
    assert said.count("\n") == 1


# runs


REWARDS = """
import torch
def letters(prompts, completions, **columns):
    return [float(len(text)) for text in completions]
def other(completions):
    return [0.0 for _ in completions]
def whole(samples):
    return torch.tensor([float(len(sample)) for sample in samples])
"""


@pytest.mark.parametrize(
    ("words", "named", "again"),
    [
        (["--rewards", "mine.py:letters=0.5"], {"rewards": ["mine.py:letters=0.5"]}, ["--rewards", "mine.py:other=0.5"]),
        (["--reward-fn", "mine.py:whole"], {"reward_fn": "mine.py:whole"}, ["--reward-fn", "mine.py:letters"]),
    ],
)
@pytest.mark.slow
def test_a_run_goes_on_with_code_that_is_typed_again(words, named, again, folder, run, model_dirs):
    (folder / "mine.py").write_text(REWARDS)
    once = ["--total-phases", 2, "--warmup-steps", 0, "--prefix", "Anna", *SMALL]
    start = ["train", "grpo", "--base-model", model_dirs["llama"], "--output-dir", "out", *once]
    status, said = run(*start, *words)
    assert status == 0, said
    saved = json.loads((folder / "out" / "args.json").read_text())
    assert named.items() <= saved.items()
    resumed = ["train", "grpo", "--resume", "--output-dir", "out"]
    status, said = run(*resumed)
    assert status == 2
    assert said.rstrip().endswith(" ".join(words))
    status, said = run(*resumed, *again)
    assert status == 2
    assert again[1].partition(":")[2] in said
    assert "--resume with other arguments" in said
    status, said = run(*resumed, *words)
    assert status == 0, said
    (folder / "moved").mkdir()
    shutil.move(folder / "mine.py", folder / "moved" / "mine.py")
    status, said = run(*resumed, words[0], words[1].replace("mine.py", "moved/mine.py"))
    assert status == 0, said
