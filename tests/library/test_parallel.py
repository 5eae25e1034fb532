"""Two processes are one: the same gradients, the same numbers, one run directory, and an end when one of them dies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf_lib import cli, parallel
from rlhf_lib.args import GrpoArgs, InputError
from rlhf_lib.layout import chosen_at
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.trainers import TRAINERS

from . import two_processes


@pytest.fixture(scope="module")
def job(model_dirs, tmp_path_factory):
    """What two processes left, and what they said."""
    out = tmp_path_factory.mktemp("two")
    (out / "mine.py").write_text(two_processes.OWN_REWARD)
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", two_processes.__file__]
    done = subprocess.run(
        [sys.executable, *words, str(model_dirs["llama"]), str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert (out / "grpo.pt").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return out, done.stdout + done.stderr


@pytest.mark.parametrize("name", two_processes.KINDS)
class TestLearning:
    def test_one_process_does_the_same(self, name, job, model_dirs):
        """Objective, metrics and updated parameters, from the memory that two processes filled."""
        theirs = torch.load(job[0] / f"{name}.pt", weights_only=False)
        trainer = two_processes.trainer_of(name, model_dirs["llama"])
        ids, columns = theirs["rollout"].pop("ids"), theirs["columns"]
        memory = ReplayMemory(
            trainer.args,
            ids,
            columns["logprobs"],
            columns["advantages"],
            columns["values"],
            theirs["ref_logits"],
            ref_logprobs=columns["ref_logprobs"],
            **theirs["rollout"],
        )
        ours = two_processes.learn(trainer, memory)
        assert ours["objective"] == pytest.approx(theirs["objective"], abs=1e-5)
        assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-4)
        for a, b in zip(ours["trained"], theirs["trained"], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)

    def test_scores_are_those_of_one_process(self, name, job, model_dirs):
        """Log-probabilities, values and advantages of the memory are what one process computes for the same tokens."""
        theirs = torch.load(job[0] / f"{name}.pt", weights_only=False)
        trainer = two_processes.trainer_of(name, model_dirs["llama"])
        ids, attention = theirs["rollout"]["ids"], theirs["rollout"]["attention_mask"]
        with torch.no_grad():
            logits, values = trainer.model.forward_with_value_head(ids, attention, logits_to_keep=11)
        logprobs = (logits[:, :-1] / 0.9).log_softmax(-1).gather(-1, ids[:, -10:, None])[..., 0]
        real = theirs["rollout"]["mask"].bool()
        torch.testing.assert_close(theirs["columns"]["logprobs"][real], logprobs[real], atol=1e-5, rtol=0)
        if values is not None:
            theirs, ours = (chosen_at(found, 10)[real] for found in (theirs["columns"]["values"], values))
            torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)

    def test_both_end_with_the_same_weights(self, name, job):
        first, second = (torch.load(job[0] / f"{name}-{i}.pt") for i in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_process_without_rows_takes_part(job, model_dirs):
    """One row on two processes; its gradient, passed back twice, is twice that of one process."""
    theirs = [torch.load(job[0] / f"row-{i}.pt") for i in range(2)]
    ids = theirs[0]["ids"]
    assert torch.equal(ids, theirs[1]["ids"])
    model = two_processes.trainer_of("ppo-lora", model_dirs["llama"]).model
    logits, values = model.forward_with_value_head(ids, torch.ones_like(ids), logits_to_keep=6)
    (get_logprobs(logits, ids[:, -6:]).sum() + values.sum()).backward()
    for parameter, first, second in zip(model.lora_params(), theirs[0]["gradients"], theirs[1]["gradients"], strict=True):
        torch.testing.assert_close(first, 2 * parameter.grad, atol=1e-5, rtol=1e-4)
        assert torch.equal(first, second)


def test_the_processes_sample_different_completions(job):
    ids = torch.load(job[0] / "grpo.pt", weights_only=False)["rollout"]["ids"]
    assert ids.shape[0] == 12
    assert not torch.equal(ids[:4, -10:], ids[4:8, -10:])


def test_a_run_has_one_directory_and_one_voice(job):
    out, said = job
    summary = json.loads((out / "run" / "summary.json").read_text())
    assert (summary["processes"], summary["phases"]) == (2, 3)
    records = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["phase"] for record in records] == [0, 1, 2]
    samples = [json.loads(line) for line in (out / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * 8
    for record in records:
        lengths = [len(sample["completion"]) for sample in samples if sample["phase"] == record["phase"]]
        assert record["reward_length"] == pytest.approx(sum(lengths) / 8, abs=1e-6)
        assert record["reward"] == pytest.approx(record["reward_correctness_reward"] + record["reward_length"] / 2, abs=1e-5)
    assert said.count(f"files in {out / 'run'}") == 1


def test_it_goes_on_with_another_number_of_processes(job, tmp_path):
    """The run whose second process died in phase 2 is finished by one."""
    out, said = job
    assert (out / "code").read_text() == "2"
    assert "lost another process of this run" in said
    assert "--resume" in said
    assert cli.main(["train", "grpo", "--resume", "--output-dir", str(out / "killed")]) == 2
    own = ["--rewards", "correctness", f"{out / 'mine.py'}:length=0.5"]
    assert cli.main(["train", "grpo", "--resume", "--output-dir", str(out / "killed"), *own]) == 0
    summary = json.loads((out / "killed" / "summary.json").read_text())
    assert (summary["processes"], summary["phases"]) == (1, 3)


class TestShares:
    @pytest.fixture(params=[(0, 2), (1, 2), (2, 3)], ids=str)
    def place(self, request, monkeypatch):
        monkeypatch.setattr(parallel, "number", lambda: request.param[0])
        monkeypatch.setattr(parallel, "count", lambda: request.param[1])
        return request.param

    def test_groups_are_never_split(self, place):
        _number, count = place
        prompts = [text for text in "abcdefg" for _ in range(4)]
        own = prompts[parallel.own_rows(prompts)]
        assert all(own.count(text) in (0, 4) for text in prompts)
        ids = torch.tensor([[ord(text), 0] for text in prompts])
        assert parallel.own_rows(ids) == parallel.own_rows(prompts)
        assert abs(len(own) - len(prompts) / count) < 4

    def test_one_prompt_is_split_after_all(self, place):
        _number, count = place
        assert len(range(12)[parallel.own_rows(["a"] * 12)]) == 12 // count

    def test_together_they_are_everything(self, monkeypatch):
        prompts, seen = list("aabbbcdddd"), []
        monkeypatch.setattr(parallel, "count", lambda: 3)
        for number in range(3):
            monkeypatch.setattr(parallel, "number", lambda number=number: number)
            seen += range(10)[parallel.own_rows(prompts)]
        assert seen == list(range(10))


def test_supervised_training_says_that_it_is_for_one_process(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["train", "sft", "--task", "pocket"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_an_uncovered_model_is_refused(model_dirs, monkeypatch):
    trainer = TRAINERS["grpo"](GrpoArgs(base_model=str(model_dirs["gpt_neo"]), device="cpu", eval_problems=0))
    monkeypatch.setattr(parallel, "count", lambda: 2)
    with pytest.raises(InputError, match="2 processes can only train together by the fast passes"):
        trainer.model(torch.ones(2, 4, dtype=torch.long))


def test_without_torchrun_there_is_one(tmp_path):
    assert (parallel.count(), parallel.number(), parallel.is_first()) == (1, 0, True)
    assert parallel.start("cpu") == "cpu"
    rows = torch.ones(3)
    assert parallel.gather_rows(rows) is rows
    assert parallel.sum_over(rows) is rows
    assert Path(two_processes.__file__).exists()
