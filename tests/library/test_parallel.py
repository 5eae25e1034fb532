"""Two processes are one: the same gradients, the same numbers, one run directory, and an end when one of them dies."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from rlhf_lib import cli, parallel
from rlhf_lib.args import GrpoArgs, InputError
from rlhf_lib.layout import chosen_at
from rlhf_lib.models import load_policy
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.runs import policy_of_run
from rlhf_lib.runs.checkpoints import load_checkpoint
from rlhf_lib.runs.shares import fault_in, is_told, sum_of
from rlhf_lib.trainers import TRAINERS

from . import two_processes


def start_two(model, out, *more):
    """What two processes say; their files are in `out`."""
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    (out / "mine.py").write_text(two_processes.OWN_REWARD)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", two_processes.__file__]
    done = subprocess.run(
        [sys.executable, *words, str(model), str(out), *more],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert (out / "code").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def job(model_dirs, tmp_path_factory):
    """What two processes left, and what they said."""
    out = tmp_path_factory.mktemp("two")
    return out, start_two(model_dirs["llama"], out)


@pytest.fixture(scope="module")
def one_process(model_dirs):
    """A phase of one process, by the algorithm's name."""
    return cache(lambda kind: two_processes.one_phase(two_processes.trainer_of(kind, model_dirs["llama"])))


@pytest.mark.parametrize("shard", two_processes.SHARDS, ids=["copies", "shares"][: len(two_processes.SHARDS)])
@pytest.mark.parametrize("kind", two_processes.KINDS)
class TestAPhase:
    def test_is_that_of_one_process(self, kind, shard, job, one_process):
        """The same tokens; numbers a token, objective, metrics and updated weights within rounding."""
        theirs, ours = torch.load(job[0] / f"{kind}-{shard}-0.pt", weights_only=False), one_process(kind)
        assert all(torch.equal(theirs["tokens"][name], found) for name, found in ours["tokens"].items())
        real = ours["tokens"]["mask"].bool()
        for name, found in ours["columns"].items():
            a, b = (chosen_at(values, 10) if name == "values" else values for values in (theirs["columns"][name], found))
            torch.testing.assert_close(a[real], b[real], atol=1e-5, rtol=0)
        assert ours["objective"] == pytest.approx(theirs["objective"], abs=1e-5)
        assert ours["metrics"] == pytest.approx(theirs["metrics"], abs=1e-4)
        for a, b in zip(ours["trained"], theirs["trained"], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)

    def test_changes_what_is_trained(self, kind, shard, job, model_dirs):
        theirs = torch.load(job[0] / f"{kind}-{shard}-0.pt", weights_only=False)
        before = list(two_processes.trainer_of(kind, model_dirs["llama"]).model.trainable_state().values())
        assert max(float((a - b).abs().max()) for a, b in zip(before, theirs["trained"], strict=True)) > 1e-4

    def test_ends_with_the_same_weights_on_both(self, kind, shard, job):
        both = (torch.load(job[0] / f"{kind}-{shard}-{i}.pt", weights_only=False)["trained"] for i in range(2))
        assert all(torch.equal(a, b) for a, b in zip(*both, strict=True))


@pytest.mark.parametrize("kind", two_processes.SUPERVISED)
def test_supervised_training_is_that_of_one_process(kind, job, model_dirs, tmp_path):
    assert two_processes.supervised(kind, model_dirs["llama"], tmp_path) == 0
    theirs, ours = (
        [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        for directory in (job[0] / kind, tmp_path)
    )
    assert json.loads((job[0] / kind / "summary.json").read_text())["processes"] == 2
    for a, b in zip(theirs, ours, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


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


@pytest.fixture(scope="module")
def spread(model_dirs, tmp_path_factory):
    """The same of runs whose weights are spread, those of a model with fused maps."""
    if not two_processes.CAN_SHARD:
        pytest.skip("this torch cannot shard on a CPU")
    out = tmp_path_factory.mktemp("spread")
    return out, start_two(model_dirs["gpt2"], out, "spread")


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [("job", "llama", ()), pytest.param("spread", "gpt2", ("--lora-rank", "None"), marks=pytest.mark.slow)],
)
def test_runs_are_those_of_one_process(name, kind, more, request, model_dirs):
    """Of three phases, of the last two after a stop, when one process goes on alone; and the model that is saved."""
    out, said = request.getfixturevalue(name)
    assert bool(list((out / "killed").glob("checkpoint-shares-*"))) is (name == "spread")
    assert (out / "code").read_text() == "2"
    assert "lost another process of this run" in said
    assert "--resume" in said
    assert cli.main(["train", "grpo", "--resume", "--output-dir", str(out / "killed")]) == 2
    own = ["--rewards", "correctness", f"{out / 'mine.py'}:length=0.5"]
    assert cli.main(["train", "grpo", "--resume", "--output-dir", str(out / "killed"), *own]) == 0
    assert two_processes.command(model_dirs[kind], out / "alone", "--warmup-steps", "0", *more) == 0
    assert not list((out / "killed").glob("checkpoint-shares-*"))
    runs = [out / name for name in ("run", "killed", "alone")]
    assert [json.loads((run / "summary.json").read_text())["processes"] for run in runs] == [2, 1, 1]
    each = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    for records in zip(*each, strict=True):
        found = [[record[name] for name in ("reward", "kl", "grad_norm", "entropy")] for record in records]
        assert found[0] == pytest.approx(found[2], abs=1e-4)
        assert found[1] == pytest.approx(found[2], abs=1e-4)
    ids = torch.arange(40).view(2, 20)
    logits = [load_policy(run / "model", "cpu").forward_with_value_head(ids)[0] * 1 for run in runs]
    for other in logits[:2]:  # not weights: no logit depends on GPT-2's key bias, whose gradient is rounding alone
        torch.testing.assert_close(other, logits[2], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_altered_shares_are_noticed(spread, tmp_path):
    """A changed byte in a checkpoint's shares is an error that says how to go on from the one before."""
    run = shutil.copytree(spread[0] / "run", tmp_path / "run")
    shares = max(run.glob("checkpoint-shares-*"))
    file = next(shares.glob("*.distcp"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"altered after it was written.*checkpoint\.previous\.pt"):
        load_checkpoint(run / "checkpoint.pt")
    shutil.rmtree(shares)
    with pytest.raises(InputError, match=rf"{shares.name} does not exist"):
        load_checkpoint(run / "checkpoint.pt")


@pytest.mark.slow
def test_a_run_under_way_gives_its_policy_from_shares(spread, tmp_path):
    run = shutil.copytree(spread[0] / "run", tmp_path / "run")
    saved = load_policy(run / "model", "cpu").state_dict()
    shutil.rmtree(run / "model")
    found, said = policy_of_run(str(run), device="cpu")
    assert "after phase 3" in said
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, saved[name])


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


class Calls:
    """What runs code of its own when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("called",))


def test_a_description_of_shares_runs_no_code(tmp_path, monkeypatch):
    """Whoever wrote it, and whatever its checksum says."""
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "checkpoint-shares-0001-000004"
    directory.mkdir()
    file = directory / ".metadata"
    file.write_bytes(pickle.dumps(Calls()))
    found = fault_in({"directory": directory.name, "sums": {file.name: sum_of(file)}}, tmp_path)
    assert "describes no tensors (it names posix.mkdir)" in found.replace("nt.mkdir", "posix.mkdir")
    assert not Path("called").exists()


@pytest.mark.parametrize(
    "told", [3, {}, {"directory": "../x", "sums": {".metadata": ""}}, {"directory": "checkpoint-shares-0-0"}]
)
def test_shares_lie_beside_their_checkpoint(told):
    assert not is_told(told)
