"""Words of the command line: a mistake is one sentence with exit code 2, said before anything is loaded, trained or written."""

import copy
import json
from dataclasses import fields
from typing import get_args

import pytest

from rlhf_lib import cli
from rlhf_lib.args import CompareArgs, EvalArgs, GrpoArgs, InputError, RewardModelArgs, SampleArgs
from rlhf_lib.args.command_line import is_given, read_words, value_given, without
from rlhf_lib.args.effects import CONDITIONS
from rlhf_lib.args.types import annotations_of
from rlhf_lib.models.loading import resolve_device
from rlhf_lib.recipes import parse

from .test_bad_values import COMMANDS

ESCAPE = "x\x1b]0;PWNED\x07\x1b[2Jy\u202e"


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """A command's exit code and what it prints, in an empty directory that it may write nothing into."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        before = sorted(tmp_path.rglob("*"))
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        captured = capfd.readouterr()
        assert sorted(tmp_path.rglob("*")) == before
        return code, captured.out + captured.err

    return call


def refused(run, *words):
    """The one sentence that a command ends with."""
    code, out = run(*words)
    assert code == 2, out
    assert out.startswith("rlhf: ")
    assert out.count("\n") == 1
    return out


def takes_one_value(kind, name):
    annotation = annotations_of(kind)[name]
    return annotation is not bool and "tuple" not in str(annotation) and name != "prompts"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_that_is_forgotten(command, run):
    extra = ["recipe"] if command.startswith("train") else []
    names = [f.name for f in fields(COMMANDS[command]) if takes_one_value(COMMANDS[command], f.name)]
    assert "output_dir" in names or "prompt" in names
    for name in names + extra:
        option = f"--{name.replace('_', '-')}"
        for words in ([option], [option, "--device", "cpu"]):
            assert f"{option} has no value" in refused(run, *command.split(), *words)


SENTENCES = [
    ("train grpo --batch-size 0", "batch_size=0 must be above 0; leave it out for 128"),
    ("train grpo --batch-size x", "batch_size='x' must be a whole number"),
    ("train grpo --batch-size 1.5", "batch_size='1.5' must be a whole number"),
    ("train grpo --base-lr x", "base_lr='x' must be a number"),
    ("train grpo --base-lr -1", "base_lr=-1.0 must be above 0"),
    ("train grpo --base-lr nan", "base_lr=nan must be a number"),
    ("train grpo --lr-decay foo", "lr_decay='foo' must be 'linear' or 'cosine'"),
    ("train grpo --tracker foo", "tracker='foo' must be 'wandb' or"),
    ("train grpo --group-size x", "group_size='x' must be a whole number"),
    ("train grpo --batch-siz 8", "--batch-siz is not an option; did you mean --batch-size"),
    ("train grpo --batch_siz=8", "did you mean --batch-size"),
    ("train grpo --zzzz", "--zzzz is not an option; --help lists all"),
    ("train grpo --prompts a", "--prompts is not an option"),
    ("train grpo stray", "'stray' belongs to no option"),
    ("train grpo -n", "'-n' belongs to no option"),
    ("train grpo --seed 1 2", "--seed takes one value; leave out '2'"),
    ("train grpo --use-wandb=yes", "--use-wandb takes no value, not 'yes'; --no-use-wandb"),
    ("train grpo --use-wandb yes", "--use-wandb takes no value"),
    ("train grpo --no-batch-size", "--no-batch-size is not an option"),
    ("train grpo --lora-maps foo", "lora_maps=('foo',) must name"),
    ("train grpo --lora-maps", "lora_maps=() must name"),
    ("train grpo --recipe a b", "--recipe takes one value"),
    ("train grpo --resume --recipe grpo-gsm8k --output-dir r", "leave out --recipe"),
    ("merge", "needs --adapter and --output-dir"),
    ("merge --adapter a", "needs --output-dir"),
    ("eval --device quantum", "not a device"),
    ("eval --device cpu:99", "not a device"),
    ("eval --device meta", "not a device"),
    ("train grpo --task pocket --rewards mine:short", "--rewards 'mine:short' is not FILE.py:NAME"),
    ("train grpo --task pocket --rewards good.jsonl:f=2", "is not FILE.py:NAME"),
    ("train grpo --task mine:Task", "--task 'mine:Task' is not FILE.py:NAME"),
    ("train grpo --reward-fn short", "--reward-fn 'short' is not FILE.py:NAME"),
    ("eval --task mine:Task", "--task 'mine:Task' is not FILE.py:NAME"),
    ("compare --task nope", "rlhf: task='nope' does not exist"),
    ("compare --task char-count", "has no held-out problems"),
    ("compare --task gsm8k --data nope.jsonl", "is not there"),
    ("compare --base-model ./nope", "base_model='./nope' is not a model directory"),
    ("compare --verifier ./nope", "reward model='./nope' is not a model directory"),
    ("compare --device cpu:99", "not a device"),
    ("compare --methods sft,magic", "must name at least one of"),
    ("train reward-model --task pocket --reward-base ./nope", "reward model='./nope' is not a model directory"),
    ("course check --nope", "rlhf course check: unrecognized arguments: --nope"),
]


@pytest.mark.parametrize(("words", "sentence"), SENTENCES)
def test_one_sentence(words, sentence, run):
    assert sentence in refused(run, *words.split())


def test_the_base_of_a_reward_model_is_looked_at_before_anything_is_sampled(run, monkeypatch):
    monkeypatch.setattr("rlhf_lib.trainers.reward_model.sample_judged", lambda *given: pytest.fail("it sampled"))
    refused(run, "train", "reward-model", "--task", "pocket", "--reward-base", "./nope", "--device", "cpu")


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_devices_that_are_there(name):
    assert resolve_device(name).type == "cpu"


# What words mean


def test_values_as_their_fields_have_them():
    words = "--batch-size 8 --base_lr=-1 --no-prepend-bos --resume --lora-maps attn.q mlp.in --columns --budget None"
    assert read_words(GrpoArgs, [*words.split(), "--seed", "1", "--seed", "2"]) == {
        "batch_size": 8,
        "base_lr": -1.0,
        "prepend_bos": False,
        "resume": True,
        "lora_maps": ("attn.q", "mlp.in"),
        "columns": (),
        "budget": None,
        "seed": 2,
    }


def test_values_that_look_like_options():
    assert read_words(SampleArgs, ["--prompt", "-5 + 3 ="])["prompt"] == "-5 + 3 ="
    assert read_words(SampleArgs, ["--prompt", "--5 and so on"])["prompt"] == "--5 and so on"
    assert read_words(SampleArgs, ["--prompt=--seed"])["prompt"] == "--seed"


def test_looking_ahead():
    words = ["--recipe", "a", "--rewards", "b", "c", "--recipe=d", "--resume"]
    assert value_given(words, "recipe") == "d"
    assert value_given(words, "task") is None
    assert without(words, "recipe") == ["--rewards", "b", "c", "--resume"]
    assert is_given(words, "resume")
    assert not is_given(words, "recipe_")


def test_a_default_stays_as_it_is():
    start = GrpoArgs(base_lr=5e-4, budget=3.0)
    assert parse(GrpoArgs, ["--seed", "3"], "rlhf", start) == GrpoArgs(base_lr=5e-4, budget=3.0, seed=3)


@pytest.mark.parametrize(
    ("start", "words", "left_out"),
    [
        (None, ["--base-lr", "-1"], "leave it out for the default 0.0003"),
        (GrpoArgs(base_lr=5e-4), ["--base-lr", "-1"], "leave it out for 0.0005"),
        (GrpoArgs(budget=7.0), ["--budget", "-1"], "leave it out for 7.0"),
        (GrpoArgs(), ["--budget", "-1"], "leave it out"),
        (GrpoArgs(lr_decay="cosine"), ["--lr-decay", "x"], "leave it out for 'cosine'"),
    ],
)
def test_the_remedy_is_what_leaving_it_out_gives(start, words, left_out):
    with pytest.raises(InputError) as refusal:
        parse(GrpoArgs, words, "rlhf", start)
    assert str(refusal.value).endswith(left_out)
    if start is not None:
        assert getattr(parse(GrpoArgs, [], "rlhf", start), words[0][2:].replace("-", "_")) in (None, *vars(start).values())


def test_the_remedy_on_resume(run, tmp_path):
    (tmp_path / "args.json").write_text(json.dumps({"base_lr": 5e-4}))
    out = refused(run, "train", "grpo", "--output-dir", tmp_path, "--resume", "--base-lr", "-1")
    assert out.endswith("leave it out for 0.0005\n")


# What would change nothing

IDLE = {
    "train grpo": [
        "--adapter a --lora-rank 5",
        "--adapter a --lora-alpha 5",
        "--adapter a --lora-maps attn.q",
        "--reference base",
        "--sampler-memory 0.5",
        "--sampler-url http://a",
        "--sampler-directory a",
        "--sampler-timeout 5",
        "--sampler-cap 3",
        "--wandb-project-name a",
        "--tracker tensorboard --wandb-project-name a",
        "--tracker mlflow --wandb-entity a",
        "--task pocket --prefix a",
        "--task pocket --skip-bad-rows",
    ],
    "train sft": ["--adapter a --lora-rank 5", "--lora-alpha 5", "--lora-maps attn.q", "--temperature 0.5"],
    "train reft": ["--warmup-epochs 0 --warmup-lr 0.1", "--warmup-epochs 0 --warmup-problems 5"],
    "train reward-model": ["--comparisons a.jsonl --samples 5", "--comparisons a.jsonl --with-solutions"],
    "sample": ["--prompt a --data b", "--prompt a --few-shot 2", "--run a --base-model b"],
    "eval": ["--temperature 0.5", "--reward-model a", "--style bare", "--run a --base-model b"],
    "compare": ["--verifier a --reward-base b", "--reward-base b", "--methods sft --few-shot 2"],
}


@pytest.mark.parametrize(("command", "words"), [(command, words) for command in IDLE for words in IDLE[command]])
def test_an_option_without_effect_is_refused(command, words, run):
    assert "would change nothing: " in refused(run, *command.split(), *words.split())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GrpoArgs, "--lora-rank 5"),
        (GrpoArgs, "--adapter a --reference base"),
        (GrpoArgs, "--sampler vllm --sampler-memory 0.5 --sampler-cap 3"),
        (GrpoArgs, "--sampler vllm-server --sampler-url http://a --sampler-timeout 5"),
        (GrpoArgs, "--correct-sampler --sampler-cap 3"),
        (GrpoArgs, "--use-wandb --wandb-project-name a --wandb-entity b"),
        (GrpoArgs, "--prefix a"),
        (GrpoArgs, "--task gsm8k --skip-bad-rows"),
        (RewardModelArgs, "--comparisons a.jsonl --skip-bad-rows"),
        (EvalArgs, "--samples 2 --temperature 0.5 --reward-model a --few-shot 2 --style bare"),
        (CompareArgs, "--task gsm8k --reward-base b --few-shot 2"),
        (SampleArgs, "--base-model b"),
    ],
)
def test_an_option_with_effect_is_not(kind, words):
    parse(kind, words.split(), "rlhf")


def test_every_condition_is_about_fields():
    for condition in CONDITIONS:
        for kind in get_args(condition.kind) or (condition.kind,):
            assert set(condition.fields) <= {f.name for f in fields(kind)}


def test_a_recipe_with_ranks_is_no_mistake_beside_an_adapter():
    assert parse(GrpoArgs, ["--adapter", "a"], "rlhf", GrpoArgs(lora_rank=16)).adapter == "a"


# What is printed of files


@pytest.mark.parametrize("field", ["wandb_project_name", "task", "rewards", "columns", "lora_maps", "base_model"])
@pytest.mark.parametrize(
    "words", ["train grpo --recipe args.json", "train grpo --resume --output-dir .", "eval --run .", "sample --run ."]
)
def test_help_shows_what_a_file_says(words, field, run, tmp_path):
    value = ESCAPE if field != "columns" else f"{ESCAPE}={ESCAPE}"
    told = {field: [value] if field in ("rewards", "columns", "lora_maps") else value}
    (tmp_path / "args.json").write_text(json.dumps(told))
    code, out = run(*words.split(), "--help")
    assert code == (2 if field == "lora_maps" and "train" in words else 0)
    assert not set(out.replace("\n", "")) & {"\x1b", "\x07", "\u202e"}
    if code == 0 and field == "wandb_project_name" and "train" in words:
        code, out = run(*words.split(), "--help", "wandb-project-name")
        assert r"\x1b]0;PWNED" in out
        assert not set(out.replace("\n", "")) & {"\x1b", "\x07", "\u202e"}


@pytest.mark.parametrize("value", ["[/x]", "[bold]", "%s %(prog)s", "{a}"])
def test_help_takes_a_text_as_it_is(value, run, tmp_path):
    (tmp_path / "args.json").write_text(json.dumps({"wandb_project_name": value}))
    code, out = run("train", "grpo", "--recipe", "args.json", "--help")
    assert code == 0
    assert f"--wandb-project-name          {value[:9]}" in out
    code, out = run("train", "grpo", "--recipe", "args.json", "--help", "wandb-project-name")
    assert code == 0
    assert f"(starts from {value})" in out


def test_help_leaves_the_arguments_alone():
    start = GrpoArgs(wandb_project_name="a\x1b")
    kept = copy.copy(start)
    with pytest.raises(SystemExit):
        parse(GrpoArgs, ["--help"], "rlhf", start)
    assert start == kept


@pytest.mark.parametrize("words", [["-h"], ["--task", "pocket", "-h"], ["--help", "--seed", "1"]])
def test_ways_to_ask_for_help(words, run):
    code, out = run("train", "grpo", *words)
    assert code == 0
    assert "usage: rlhf train grpo" in out


# Rows


@pytest.mark.parametrize(("content", "more"), [("", []), ("\n\n", []), ('{"question": null}\n' * 3, ["--skip-bad-rows"])])
def test_data_without_a_row_that_can_be_used(content, more, run, tmp_path):
    (tmp_path / "rows.jsonl").write_text(content)
    for command in ("eval", "compare"):
        code, out = run(command, "--task", "gsm8k", "--data", "rows.jsonl", *more, "--device", "cpu", "--base-model", "pocket")
        assert code == 2
        assert "data='rows.jsonl' has no row that can be used" in out
        assert "it has )" not in out


@pytest.mark.parametrize("content", ["", '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'])
def test_too_few_comparisons(content, run, tmp_path):
    (tmp_path / "rows.jsonl").write_text(content)
    words = ["--comparisons", "rows.jsonl", "--reward-base", "pocket", "--device", "cpu"]
    out = refused(run, "train", "reward-model", *words)
    assert "comparisons='rows.jsonl' needs usable rows of at least 5 different prompts; add more" in out
    assert "with_solutions" not in out


@pytest.mark.parametrize("algorithm", ["grpo", "sft", None])
def test_a_directory_that_holds_no_comparison(algorithm, run, tmp_path):
    (tmp_path / "args.json").write_text(json.dumps({"algorithm": algorithm, "seed": 3} if algorithm else {}))
    code, out = run("compare", "--output-dir", tmp_path, "--device", "cpu")
    assert code == 2
    assert "and no comparison; choose another" in out
    assert "was" not in out
