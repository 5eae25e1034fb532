"""Runs that survive: their files, resuming, signals, divergence, directories."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.runs.checkpoints import load_checkpoint
from rlhf_lib.runs.directory import read_json_lines
from rlhf_lib.trainers import TrainingDiverged

from .conftest import ON_A_PREFIX


def contains_a(samples):
    """How often the letter a occurs."""
    return torch.tensor([float(s.count("a")) for s in samples])


def test_a_run_leaves_its_files(make, tmp_path):
    trainer = make("grpo", task="pocket", base_model="pocket", group_size=4, gen_len=12, eval_problems=20, log_samples_every=1)
    summary = trainer.train()
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text()) == summary
    for name in ("accuracy_before", "accuracy_after", "accuracy_greedy_before", "accuracy_greedy_after"):
        assert set(summary[name]) == {"value", "low", "high"}
        assert summary[name]["low"] <= summary[name]["value"] <= summary[name]["high"]
    for name in ("seconds", "samples", "seed", "arguments", "versions", "device", "held_out_problems"):
        assert name in summary
    assert summary["samples"] == 32
    records = read_json_lines(run / "metrics.jsonl")
    assert [record["phase"] for record in records] == [0, 1, 2, 3]
    wanted = {
        "reward", "reward_std", "reward_correctness_reward", "groups_without_spread", "groups_all_right", "groups_all_wrong",
        "full_length_share", "length", "entropy", "kl", "clip_low", "clip_high", "ratio", "grad_norm", "sampler_gap",
        "seconds_generate", "seconds_score", "seconds_train", "peak_memory_mb", "learning_rate", "share_reasoning",
    }  # fmt: skip
    assert wanted <= set(records[0])
    assert len(read_json_lines(run / "samples.jsonl")) == 32
    assert (run / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert (run / "model" / "adapter_config.json").exists()


def test_a_run_without_right_answers_says_so(make):
    summary = make("ppo").train()
    assert summary["accuracy_before"] is summary["accuracy_after"] is None
    assert summary["reward_first"] >= 0


@pytest.mark.parametrize("name", ON_A_PREFIX)
def test_resume_is_bit_for_bit(name, make, tmp_path):
    whole = make(name, reward_fn=contains_a, output_dir=str(tmp_path / "whole"), total_phases=5, save_every=2)
    whole.train()
    parted = make(name, reward_fn=contains_a, output_dir=str(tmp_path / "parted"), total_phases=5, save_every=2)
    original = parted.learning_phase

    def dies_in_phase_3(memory):
        original(memory)
        if parted.phase == 3:
            raise KeyError

    parted.learning_phase = dies_in_phase_3
    with pytest.raises(KeyError):
        parted.train()
    torch.manual_seed(99)
    resumed = make(name, reward_fn=contains_a, output_dir=str(tmp_path / "parted"), total_phases=5, save_every=2, resume=True)
    resumed.train()
    for ours, theirs in zip(resumed.model.trainable_state().items(), whole.model.trainable_state().items(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1]), ours[0]
    logs = [read_json_lines(tmp_path / run / "metrics.jsonl") for run in ("whole", "parted")]
    for a, b in zip(*logs, strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k and "memory" not in k} == {
            k: v for k, v in b.items() if "seconds" not in k and "memory" not in k
        }


def start_training(run, *more):
    words = [sys.executable, "-m", "rlhf_lib", "train", "grpo", "--output-dir", str(run), "--batch-size", "8", "--gen-len", "8",
             "--total-phases", "400", "--save-every", "1", "--device", "cpu", *more]  # fmt: skip
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_phases(run, count, process):
    for _ in range(1800):
        if len(read_json_lines(run / "metrics.jsonl")) >= count:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError("training did not begin")


@pytest.mark.slow
def test_sigkill_leaves_a_loadable_checkpoint(tmp_path):
    run = tmp_path / "run"
    process = start_training(run)
    wait_for_phases(run, 3, process)
    for _ in range(3):  # at three moments of its work
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = load_checkpoint(run / "checkpoint.pt")
        assert state["next_phase"] >= 2
        process = start_training(run, "--resume")
        wait_for_phases(run, state["next_phase"] + 2, process)
    process.kill()
    process.wait()
    process.stdout.close()


def test_ctrl_c_finishes_cleanly(tmp_path):
    run = tmp_path / "run"
    process = start_training(run)
    wait_for_phases(run, 2, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "--resume" in output
    summary = json.loads((run / "summary.json").read_text())
    assert summary["interrupted"]
    assert load_checkpoint(run / "checkpoint.pt")["next_phase"] == summary["phases"]
    assert (run / "curves.png").exists()


def test_nan_stops_the_run_with_the_last_good_checkpoint(make, tmp_path):
    trainer = make("grpo", reward_fn=contains_a, total_phases=6, save_every=1)
    original = trainer.rollout_phase

    def poisoned():
        memory = original()
        if trainer.phase == 3:
            memory.advantages = memory.advantages * float("nan")
        return memory

    trainer.rollout_phase = poisoned
    with pytest.raises(TrainingDiverged, match=r"phase 4.*lower learning rate"):
        trainer.train()
    state = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert state["next_phase"] == 3
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


class TestDirectories:
    def test_another_run_is_not_overwritten(self, make):
        make("grpo").train()
        with pytest.raises(InputError, match="holds a run already; add --resume"):
            make("grpo").train()

    def test_not_writable(self, make, monkeypatch):
        """The probe's write is refused, since a test run as root could write anywhere."""

        def refused(file, *words):
            raise PermissionError(13, "Permission denied", str(file))

        trainer = make("grpo")
        monkeypatch.setattr(Path, "write_text", refused)
        with pytest.raises(InputError, match="cannot be written"):
            trainer.train()

    def test_a_file_in_the_way(self, make, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(InputError, match="cannot be written"):
            make("grpo", output_dir=str(tmp_path / "file")).train()
        assert (tmp_path / "file").read_text() == "mine"

    def test_resume_needs_a_run_and_its_arguments(self, make):
        with pytest.raises(InputError, match="no run to resume"):
            make("grpo", resume=True).train()

    def test_resume_with_other_arguments(self, make):
        make("grpo").train()
        with pytest.raises(InputError, match=r"lora_rank=2 \(was 4\); a run goes on with its own"):
            make("grpo", lora_rank=2, resume=True).train()

    @pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
    def test_damaged_checkpoints(self, make, tmp_path, damage):
        make("grpo").train()
        file = tmp_path / "run" / "checkpoint.pt"
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:1000])
        elif damage == "foreign":
            torch.save({"weights": torch.zeros(3)}, file)
        else:
            file.unlink()
        with pytest.raises(InputError, match=r"truncated|not a checkpoint|does not exist"):
            make("grpo", resume=True).train()
