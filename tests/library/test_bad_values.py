"""Every command with every kind of bad value: one sentence and exit code 2, 1 where the machine failed; never a traceback."""

import errno
import gzip
import json
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import torch

from rlhf_lib import cli
from rlhf_lib.args import CompareArgs, EvalArgs, MergeArgs, PretrainArgs, SampleArgs
from rlhf_lib.args.types import annotations_of

from .test_fields import numbers, plain

COMMANDS = {
    **{f"train {name}": kind for name, kind in cli.TRAINABLE.items()},
    "sample": SampleArgs,
    "eval": EvalArgs,
    "compare": CompareArgs,
    "merge": MergeArgs,
    "pretrain": PretrainArgs,
}


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # --help ends like this
            code = stop.code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, " ".join((captured.out + captured.err).replace("│", " ").split())

    return call


@pytest.mark.slow  # test_fields has every field of every class
@pytest.mark.parametrize("command", COMMANDS)
def test_every_numeric_option_of_every_command(command, run):
    needed = ["--adapter", "a", "--output-dir", "b"] if command == "merge" else []
    for f in numbers(COMMANDS[command]):
        option = f"--{f.name.replace('_', '-')}"
        bad = "-1" if plain(annotations_of(COMMANDS[command])[f.name]) is int else "nan"
        code, out = run(*command.split(), *needed, f"{option}={bad}")
        assert code == 2, f"{command} {option} {bad}: {out}"
        assert f.name in out or option in out


@pytest.mark.parametrize(
    "value", ["inf", "-inf", "1e308", "1e999", "99999999999999999999999", "-0.5", "x", "", "None", "0x10", "true"]
)
def test_every_kind_of_bad_number(value, run):
    for option in ("--base-lr", "--total-phases", "--clip-coef", "--seed", "--temperature", "--adam-beta1"):
        code, out = run("train", "grpo", f"{option}={value}")
        assert code == 2, f"{option} {value}: {out}"


@pytest.mark.slow  # test_fields has every field of every class
@pytest.mark.parametrize("command", COMMANDS)
def test_every_choice_of_every_command(command, run):
    needed = ["--adapter", "a", "--output-dir", "b"] if command == "merge" else []
    for f in fields(COMMANDS[command]):
        choices = get_args(annotations_of(COMMANDS[command])[f.name])
        if choices and all(isinstance(choice, str) for choice in choices):
            code, out = run(*command.split(), *needed, f"--{f.name.replace('_', '-')}", choices[0].title())
            assert code == 2, out


ROWS = '{"question": "1+1?", "answer": "#### 2"}\n' * 3
FILES = {
    "file": b"hello",
    "empty": b"",
    "binary": b"\xff\xfe\x00\x01",
    "list.json": b"[1]",
    "null.json": b"null",
    "deep.json": b"[" * 100_000,
    "utf16.json": '{"seed": 1}'.encode("utf-16"),
    "typed.json": b'{"gen_len": "48"}',
    "unread.json": b'{"gae_lambda": 0.5}',
    "null.jsonl": ROWS.encode() + b'{"question": "q", "answer": null}\n',
    "surrogate.jsonl": b'{"question": "a \\ud800 b", "answer": "#### 1"}\n',
    "broken.jsonl": (ROWS * 14)[: len(ROWS) * 40 // 3].encode() + b'{"question"\n',
    "unmarked.csv": b"question,answer\nq,seven apples\n",
    "cut.jsonl.gz": gzip.compress(ROWS.encode())[:-4],
    "numbers.jsonl": b"3\n",
    "pairs.jsonl": b'{"prompt": null, "chosen": "a", "rejected": "b"}\n',
    "scores.jsonl": b'{"prompt": "q", "completion": "c", "score": NaN}\n',
}
GSM8K = ["--task", "gsm8k", "--base-model", "pocket", "--gen-len", "20"]
BAD = [
    (["sample", "--task", "char-count"], "no held-out problems"),
    (["sample", "--prompt", "half \udc80"], "is not UTF-8"),
    (["sample", "--prompt", ""], "prompt='' must not be empty"),
    (["train", "grpo", "--prefix", "\ud800"], "is not UTF-8"),
    (["train", "grpo", "--output-dir", "file"], "output_dir='file'"),
    (["train", "grpo", "--recipe", "list.json"], "list.json holds [1] and no JSON object"),
    (["train", "grpo", "--recipe", "null.json"], "null.json holds None"),
    (["train", "grpo", "--recipe", "deep.json"], "deep.json is not JSON (it is nested too deeply)"),
    (["train", "grpo", "--recipe", "utf16.json"], "utf16.json is not UTF-8"),
    (["train", "grpo", "--recipe", "binary"], "binary is not UTF-8"),
    (["train", "grpo", "--recipe", "empty"], "empty is not JSON"),
    (["train", "grpo", "--recipe", "typed.json"], "typed.json: gen_len='48' must be a whole number"),
    (
        ["train", "grpo", "--recipe", "unread.json"],
        "GrpoArgs lacks: gae_lambda (it needs a critic, which ppo, ppo-lora and reft have)",
    ),
    (["train", "grpo", "--recipe", "folder"], "is not a file"),
    (["train", "grpo", "--recipe", "a" * 5000], "File name too long"),
    (["train", "grpo", "--gae-lambda", "0.5"], "ppo, ppo-lora and reft have"),
    (["train", "self-training", "--rewards", "correctness"], "use grpo"),
    (["compare", "--seed", "3"], "as many as seeds says"),
    (["compare", "--methods", "zero-shot", "--output-dir", "runs/list"], "args.json holds [1]"),
    (["merge", "--seed", "3", "--adapter", "a", "--output-dir", "b"], "draws nothing at random"),
    (["train", "grpo", "--sampler-url", "http://[::1"], "sampler_url="),
    (["train", "grpo", "--sampler-url", "http://a:99999"], "sampler_url="),
    (["train", "grpo", "--columns", "question"], "OURS=THEIRS"),
    (["train", "grpo", "--task", "pocket", "--columns", "question=problem"], "leave out data, columns"),
    (["eval", "--run", "runs/list"], "args.json holds [1]"),
    (["eval", "--run", "runs/typed"], "gen_len='48' must be a whole number"),
    (["sample", "--run", "runs/folder"], "no trained model"),
    (["train", "grpo", "--resume", "--output-dir", "runs/list"], "args.json holds [1]"),
    (["eval", *GSM8K, "--data", "null.jsonl"], "line 4 of null.jsonl: answer is null"),
    (["eval", *GSM8K, "--data", "surrogate.jsonl"], "line 1 of surrogate.jsonl"),
    (["eval", *GSM8K, "--data", "broken.jsonl"], "line 41 of broken.jsonl: it is not JSON"),
    (["eval", *GSM8K, "--data", "unmarked.csv"], "line 2 of unmarked.csv: answer has no line '#### ANSWER'"),
    (["eval", *GSM8K, "--data", "cut.jsonl.gz"], "cut.jsonl.gz cannot be read"),
    (["eval", *GSM8K, "--data", "numbers.jsonl"], "line 1 of numbers.jsonl: 3 is no row"),
    (["eval", *GSM8K, "--data", "file"], "is no data file"),
    (["train", "reward-model", "--comparisons", "numbers.jsonl"], "line 1 of numbers.jsonl: 3 is no row"),
    (["train", "reward-model", "--comparisons", "pairs.jsonl"], "line 1 of pairs.jsonl: prompt is null"),
    (
        ["train", "reward-model", "--kind", "regression", "--comparisons", "scores.jsonl"],
        "line 1 of scores.jsonl: score is NaN",
    ),
    (["train", "reward-model", "--comparisons", "folder"], "is not a file"),
]


@pytest.fixture
def files(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    for name, text in {"list": "[1]", "typed": '{"gen_len": "48"}', "folder": "{}"}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "args.json").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda part: " ".join(part)[:60] if isinstance(part, list) else "")
def test_bad_values(words, message, run, files):
    code, out = run(*words, *([] if words[0] in ("pretrain",) else ["--device", "cpu"]))
    assert code == 2, out
    assert message in out


def test_bad_rows_can_be_left_out(run, files):
    code, out = run("eval", *GSM8K, "--data", "null.jsonl", "--skip-bad-rows", "--problems", 3, "--device", "cpu")
    assert code == 0, out
    assert "1 of 4 rows left out; the first: line 4 of null.jsonl: answer is null" in out


def test_a_byte_order_mark_is_no_mistake(run, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({"gen_len": "x"}), encoding="utf-8-sig")
    assert "mine.json: gen_len='x' must be a whole number" in run("train", "grpo", "--recipe", "mine.json")[1]


# The machine


def cpu_without_memory():
    torch.empty(2**50)


def raising(error):
    def command():
        raise error

    return command


NO_ROOM = "Error while serializing: I/O error: No space left on device (os error 28)"
FAULTS = [
    (
        raising(OSError(errno.ENOSPC, "No space left on device", "runs/a/metrics.jsonl")),
        1,
        "runs/a/metrics.jsonl: No space left",
    ),
    (raising(OSError(errno.ENOSPC, "No space left on device")), 1, "free some space"),
    (raising(OSError(errno.EDQUOT, "Disk quota exceeded", "a")), 1, "a: Disk quota exceeded; free some space"),
    (raising(PermissionError(errno.EACCES, "Permission denied", "a")), 1, "a: Permission denied; change its permissions"),
    (raising(OSError(errno.EROFS, "Read-only file system", "a")), 1, "write elsewhere"),
    (raising(OSError(errno.EMFILE, "Too many open files", "a")), 1, "ulimit -n"),
    (raising(OSError(errno.EIO, "Input/output error", "a")), 1, "a: Input/output error"),
    (raising(OSError("nothing but words")), 1, "nothing but words"),
    (
        raising(FileNotFoundError(errno.ENOENT, "No such file or directory", "a")),
        2,
        "a: No such file or directory; check the path",
    ),
    (raising(IsADirectoryError(errno.EISDIR, "Is a directory", "a")), 2, "a: Is a directory; check the path"),
    (raising(FileNotFoundError(errno.ENOENT, "No such file", "red \x1b[31m")), 2, "red \\x1b[31m: No such file"),
    (raising(RuntimeError(NO_ROOM)), 1, "No space left on device"),
    (raising(MemoryError()), 1, "out of memory (MemoryError); train with a smaller --micro-batch-size"),
    (raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")), 1, "--micro-batch-size"),
    (cpu_without_memory, 1, "--micro-batch-size"),
]


@pytest.mark.parametrize(("command", "code", "message"), FAULTS)
def test_what_the_machine_cannot_do_is_a_sentence(command, code, message, run, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "eval", lambda words: command())
    got, out = run("eval")
    assert (got, message in out) == (code, True), out
    assert out.startswith("rlhf: ")


@pytest.mark.parametrize(
    "error", [KeyError("a"), RuntimeError("shapes differ"), TypeError("x"), AssertionError("y"), IndexError("z")]
)
def test_mistakes_of_the_program_stay_visible(error, run, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "eval", lambda words: raising(error)())
    with pytest.raises(type(error)):
        run("eval")


def test_a_reader_that_has_gone_is_no_fault(run, monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "eval", lambda words: raising(BrokenPipeError(errno.EPIPE, "Broken pipe"))())
    assert run("eval") == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device(run, monkeypatch):
    def write():
        with open("/dev/full", "w") as handle:
            handle.write("a" * 100_000)

    monkeypatch.setitem(cli.COMMANDS, "eval", lambda words: write())
    assert run("eval")[0] == 1


def test_a_comparisons_runs_read_the_same_rows():
    from rlhf_lib.compare.runs import common_options

    args = CompareArgs(task="gsm8k", data="x.csv", columns=("question=problem", "answer=target"), skip_bad_rows=True)
    words = common_options(args)
    for algorithm in ("grpo", "sft", "reward-model"):
        told = cli.parse(cli.TRAINABLE[algorithm], words, "rlhf")
        assert (told.columns, told.skip_bad_rows, told.data) == (args.columns, True, "x.csv")


def test_a_runs_columns_are_those_of_its_evaluation(tmp_path):
    kept = {"task": "gsm8k", "data": "x.csv", "columns": ["question=problem"], "skip_bad_rows": True}
    (tmp_path / "args.json").write_text(json.dumps(kept))
    args = cli.from_run(EvalArgs, ["--run", str(tmp_path)])
    assert (args.columns, args.skip_bad_rows) == (("question=problem",), True)
    (tmp_path / "args.json").write_text(json.dumps({**kept, "prompts": {"count": 2, "sha256": "a"}, "columns": ["answer"]}))
    assert cli.from_run(EvalArgs, ["--run", str(tmp_path)]).columns == ()
