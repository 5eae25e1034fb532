"""The command line: help that teaches, and bad input answered with value, rule and remedy, exit code 2, no traceback."""

import ast
import inspect
import json
import subprocess
import sys
from dataclasses import fields

import pytest

from rlhf_lib import cli
from rlhf_lib.args import (
    CompareArgs,
    EvalArgs,
    MergeArgs,
    PretrainArgs,
    RLArgs,
    SampleArgs,
    commands,
    policy_gradients,
    reinforcement,
    supervised,
    training,
)
from rlhf_lib.args.help import GROUPS, beginning, overview
from rlhf_lib.cli import TRAINABLE

TINY = [
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--num-minibatches",
    "2",
    "--gen-len",
    "6",
    "--total-phases",
    "2",
    "--eval-problems",
    "10",
    "--warmup-steps",
    "0",
    "--log-samples-every",
    "0",
]


@pytest.fixture
def run(capsys):
    def call(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # --help ends like this
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


@pytest.mark.parametrize("algorithm", ["ppo", "ppo-lora", "grpo"])
def test_train_sample_and_eval(algorithm, run, tmp_path):
    directory = tmp_path / "run"
    more = ["--group-size", "4"] if algorithm == "grpo" else []
    code, out = run("train", algorithm, "--task", "pocket", "--output-dir", directory, *TINY, *more)
    assert code == 0, out
    assert "Accuracy" in out
    assert f"rlhf sample --run {directory}" in out
    code, out = run("sample", "--run", directory, "--count", 2, "--device", "cpu")
    assert code == 0, out
    assert out.count("Question:") == 2
    assert "trained" in out
    output = tmp_path / "judged"
    code, out = run("eval", "--run", directory, "--problems", 10, "--device", "cpu", "--output-dir", output)
    assert code == 0, out
    assert "greedy" in out
    assert len([json.loads(line) for line in (output / "problems.jsonl").read_text().splitlines()]) == 10


def test_fixed_prefix(run, tmp_path, model_dirs):
    code, out = run(
        "train", "grpo", "--base-model", model_dirs["gpt2"], "--prefix", "Ben", "--output-dir", tmp_path / "r", *TINY
    )
    assert code == 0, out
    assert "Mean reward" in out
    code, out = run("train", "grpo", "--output-dir", tmp_path / "r", "--resume")
    assert code == 0, out


def test_a_runs_arguments_are_a_recipe(run, tmp_path):
    assert run("train", "grpo", "--output-dir", tmp_path / "a", *TINY, "--lora-rank", 2)[0] == 0
    code, out = run("train", "grpo", "--recipe", tmp_path / "a" / "args.json", "--output-dir", tmp_path / "b", "--seed", 5)
    assert code == 0, out
    args = json.loads((tmp_path / "b" / "args.json").read_text())
    assert (args["lora_rank"], args["seed"], args["gen_len"]) == (2, 5, 6)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train"],
        ["train", "grpo"],
        ["train", "ppo"],
        ["train", "sft"],
        ["train", "reft"],
        ["train", "reward-model"],
        ["train", "self-training"],
        ["sample"],
        ["eval"],
        ["compare"],
        ["merge"],
        ["pretrain"],
    ],
)
def test_help(words, run):
    code, out = run(*words, "--help")
    assert code == 0
    assert "usage" in out


@pytest.mark.parametrize("kind", [*TRAINABLE.values(), SampleArgs, EvalArgs, CompareArgs, MergeArgs, PretrainArgs])
def test_help_is_two_screens_of_options_in_groups(kind, monkeypatch):
    """Every field that is read, once, with a meaning, on lines that fit a terminal; no group names a field that is not."""
    monkeypatch.setenv("COLUMNS", "100")
    lines = overview(kind, "rlhf", {}).splitlines()
    assert len(lines) <= 112
    assert max(map(len, lines)) <= 120
    for f in fields(kind):
        own = [line.split(maxsplit=2) for line in lines if line.startswith(f"  --{f.name.replace('_', '-')} ")]
        assert len(own) == (f.name != "prompts" and f.name not in kind.unread), f.name
        assert all(len(parts) == 3 and len(parts[2]) > 10 for parts in own), own


def test_every_group_of_the_help_is_of_fields():
    known = {f.name for kind in [*TRAINABLE.values(), EvalArgs, CompareArgs] for f in fields(kind)}
    named = [name for names in GROUPS.values() for name in names]
    assert set(named) <= known
    assert len(named) == len(set(named))
    common = {f.name for f in fields(RLArgs)} - {"prompts"}
    assert common <= set(named)


def test_help_of_an_option_is_all_of_it(run):
    code, out = run("train", "grpo", "--task", "pocket", "--help", "clip-coef", "dtype", "prepend_bos")
    assert code == 0
    assert "--clip-coef X    (starts from 0.2)\n    The policy ratio's gain stops below 1 - this and above 1 + this." in out
    assert "--dtype float32|bfloat16|4bit    (starts from float32)" in out
    assert 'needs pip install "rlhf_lib[quantized]".' in out
    assert "--prepend-bos, --no-prepend-bos    (starts from on)" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "rloo", "--help", "batch-sise"], "did you mean --batch-size"),
        (["train", "rloo", "--help", "gamma"], "it needs a critic"),
        (["train", "reinforce", "--help", "group-size"], "compares no completions"),
        (["merge", "--help", "nonsense"], "rlhf merge --help lists all"),
    ],
)
def test_help_of_what_is_no_option(words, said, run):
    code, out = run(*words)
    assert code == 2
    assert said in out


def test_a_text_begins_with_a_whole_clause_where_one_fits():
    assert beginning("Short.", 20) == "Short."
    assert beginning("One clause; and another that is long.", 20) == "One clause."
    assert beginning("As in Yu et al. 2025, which goes on.", 30) == "As in Yu et al. 2025, which…"
    assert beginning("Needs more (see a. and b; c) than fits here.", 30) == "Needs more (see a. and b; c)…"


def test_every_field_has_a_docstring():
    nodes = [
        node
        for module in (commands, supervised, training, reinforcement, policy_gradients)
        for node in ast.parse(inspect.getsource(module)).body
    ]
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            body = node.body
            for field, after in zip(body, [*body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field.annotation):
                    assert isinstance(after, ast.Expr), f"{node.name}.{field.target.id} says nothing"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "not a command"),
        (["train", "dpo"], "usage: rlhf train"),
        (["train", "grpo", "--task", "chess"], "task='chess' does not exist"),
        (["train", "grpo", "--base-model", "/no/such/dir"], "not a model directory"),
        (["train", "grpo", "--base-model", "no-such/model"], "neither bundled"),
        (["train", "grpo", "--device", "quantum"], "not a device"),
        (["train", "grpo", "--batch-size", "10"], "multiple of num_minibatches"),
        (["train", "grpo", "--group-size", "1"], "at least 2"),
        (["train", "grpo", "--group-size", "3"], "does not divide"),
        (["train", "grpo", "--lora-rank", "0"], "above 0"),
        (["train", "grpo", "--lora-rank", "500"], "rank=500 does not fit"),
        (["train", "grpo", "--gen-len", "600"], "context of 512"),
        (["train", "grpo", "--resume"], "add --output-dir"),
        (["train", "grpo", "--recipe", "/no/such.json"], "not a file"),
        (["train", "grpo", "--no-such-option"], "no-such-option"),
        (["sample", "--run", "/no/such"], "holds no trained model"),
        (["sample", "--adapter", "/no/such"], "adapter_config.json"),
        (["eval", "--few-shot", "40", "--problems", "2"], "context of 512"),
        (["eval", "--task", "char-count"], "no right answers"),
        (["eval", "--task", "gsm8k", "--data", "/no/such.jsonl"], "is not there"),
        (["eval", "--task", "pocket", "--prompt-style", "xml"], "has no data sets and prompt styles"),
        (["eval", "--reward-model", "/no/such", "--samples", "2", "--problems", "2"], "reward model='/no/such'"),
        (["train", "grpo", "--task", "pocket", "--rewards", "niceness"], "rewards='niceness' is unknown"),
        (["train", "grpo", "--task", "pocket", "--rewards", "correctness=much"], "no number after '='"),
        (["train", "ppo", "--dtype", "4bit"], "weights cannot be trained"),
        (["train", "sft", "--task", "char-count"], "no worked solutions"),
        (["train", "sft", "--no-keep-solutions"], "leaves nothing to train on"),
        (["train", "reft", "--task", "char-count"], "no worked solutions"),
        (["train", "self-training", "--task", "char-count"], "no right answers"),
        (["train", "reward-model", "--comparisons", "/no/such"], "is not a file"),
        (["train", "reward-model", "--kind", "verifier", "--margin", "1"], "leave them out"),
        (["train", "grpo", "--budget", "0"], "must be above 0"),
        (["eval", "--output-dir", "/dev/null/x", "--problems", "2"], "cannot be written"),
        (["train", "grpo", "--critic-phases", "1"], "needs a critic"),
        (["train", "grpo", "--rewards", "correctness"], "need right answers"),
        (["train", "ppo", "--dtype", "bfloat16"], "would train nothing"),
        (["train", "self-training", "--clip-coef", "0.1"], "clips nothing"),
        (["train", "reward-model", "--rewards", "correctness"], "are for kind regression"),
        (["train", "grpo", "--task", "pocket", "--reward-model", "pocket"], "has no trained head"),
        (["train", "grpo", "--task", "pocket", "--few-shot", "2"], "trains without examples"),
        (["compare", "--methods", "sft,magic"], "must name at least one of"),
        (["merge", "--adapter", "/no/such", "--output-dir", "x"], "adapter_config.json"),
    ],
)
def test_bad_input(words, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out = run(*words)
    assert code == 2, out
    flat = " ".join(out.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in out


def test_as_a_process(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "rlhf_lib", "train", "grpo", "--base-model", str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "config.json" in result.stderr
    assert "Traceback" not in result.stderr
