"""Trainers for real: right gradients, what may change, learning on tiny tasks, runs that survive."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from rlhf_lib.args import GrpoArgs, InputError, LoraArgs, RLHFArgs
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_penalty,
    calc_value_function_loss,
    token_kl,
)
from rlhf_lib.optim import get_optimizer_and_scheduler
from rlhf_lib.runs.directory import load_checkpoint, read_json_lines
from rlhf_lib.trainers import TRAINERS, GrpoTrainer, LoraTrainer, RLHFTrainer, TrainingDiverged

KINDS = {"ppo": RLHFArgs, "ppo-lora": LoraArgs, "grpo": GrpoArgs}
SMALL = {
    "device": "cpu",
    "prefix": "Anna has",
    "gen_len": 6,
    "batch_size": 8,
    "num_minibatches": 2,
    "eval_problems": 0,
    "log_samples_every": 0,
}


def contains_a(samples):
    """How often the letter a occurs."""
    return torch.tensor([float(s.count("a")) for s in samples])


@pytest.fixture
def make(model_dirs, tmp_path):
    def build(name, kind="llama", **changes):
        given = {
            "base_model": str(model_dirs[kind]),
            "output_dir": str(tmp_path / "run"),
            "total_phases": 4,
            **SMALL,
            **changes,
        }
        return TRAINERS[name](KINDS[name](**given))

    return build


# One update


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_at_step_0_the_policy_is_the_reference(name, kind, make):
    """In train mode, with dropout asked for by GPT-2's configuration: ratio 1, KL 0, no clipping, sampler equals trainer."""
    trainer = make(name, kind)
    trainer.model.train()
    memory = trainer.rollout_phase()
    trainer.compute_rlhf_objective(memory.get_minibatches()[0])
    figures = trainer.metrics.take()
    assert figures["ratio"] == pytest.approx(1, abs=1e-5)
    assert figures["kl"] == pytest.approx(0, abs=1e-6)
    assert figures["clip_low"] == figures["clip_high"] == 0
    assert figures["sampler_gap"] == pytest.approx(0, abs=1e-4)


def test_ppo_objective_is_the_sum_of_its_terms(make):
    trainer = make("ppo", kl_coef=0.3, ent_coef=0.2, vf_coef=0.7, temperature=0.8)
    minibatch = trainer.rollout_phase().get_minibatches()[0]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        objective = trainer.compute_rlhf_objective(minibatch)
        logits, values = trainer.model.forward_with_value_head(minibatch.sample_ids, minibatch.attention_mask)
        policy, ids = logits[:, -7:-1] / 0.8, minibatch.sample_ids[:, -6:]
        logprobs = policy.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
        expected = (
            calc_clipped_surrogate_objective(logprobs, minibatch.logprobs, minibatch.advantages, 0.2, 6, 1e-8)
            - calc_value_function_loss(values[:, -7:-1], minibatch.returns, 0.7, 6)
            + calc_entropy_bonus(policy, 0.2, 6)
            - calc_kl_penalty(policy, minibatch.ref_logits[:, -7:-1] / 0.8, 0.3, 6)
        )
    torch.testing.assert_close(objective, expected, atol=1e-5, rtol=1e-5)


def test_grpo_gradient_is_the_group_relative_policy_gradient(make):
    """At ratio 1 without KL: mean over tokens of advantage times the gradient of the log-probability."""
    trainer = make("grpo", kl_coef=0.0, num_minibatches=1, reward_fn=contains_a, gen_len=10)
    memory = trainer.rollout_phase()
    minibatch = memory.get_minibatches()[0]
    parameters = trainer.model.lora_params()
    got = torch.autograd.grad(trainer.compute_rlhf_objective(minibatch), parameters)
    logits, _ = trainer.model.forward_with_value_head(minibatch.sample_ids)
    logprobs = logits[:, -11:-1].log_softmax(-1).gather(-1, minibatch.sample_ids[:, -10:, None]).squeeze(-1)
    expected = torch.autograd.grad((logprobs * minibatch.advantages).mean(), parameters)
    assert sum(g.abs().sum() for g in got) > 0
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()


def test_grpo_advantages_are_within_groups(make):
    trainer = make("grpo", task="pocket", base_model="pocket", group_size=4, gen_len=12)
    memory = trainer.rollout_phase()
    rewards = torch.tensor([sample["reward"] for sample in trainer.samples]).reshape(2, 4)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(memory.advantages[:, 0].reshape(2, 4), expected)
    assert len({sample["prompt"] for sample in trainer.samples[:4]}) == 1
    assert len({sample["prompt"] for sample in trainer.samples}) == 2


@pytest.mark.parametrize("name", TRAINERS)
def test_an_update_changes_only_what_it_may(name, make):
    trainer = make(name, reward_fn=contains_a, kl_coef=0.1)
    reference = trainer.ref_model(torch.tensor([[1, 5, 9]])).clone()
    base = [p.detach().clone() for p in trainer.model.base_model_params()]
    trained = [*trainer.model.get_base_model_trainable_params(), *trainer.model.get_value_head_params()]
    before = [p.detach().clone() for p in trained]
    trainer.learning_phase(trainer.rollout_phase())
    trainer.learning_phase(trainer.rollout_phase())
    assert trainer.step == 2 * 2 * 2
    assert torch.equal(trainer.ref_model(torch.tensor([[1, 5, 9]])), reference)
    live = [(a, b) for a, b in zip(before, trained, strict=True) if b.grad is not None]
    assert sum(not torch.equal(a, b) for a, b in live) > 0.9 * len(live)
    if name != "ppo":
        assert len(live) == len(trained)
        assert all(torch.equal(a, b) for a, b in zip(base, trainer.model.base_model_params(), strict=True))


def test_accumulated_minibatches_equal_the_whole_batch(make):
    """The mean of equal minibatches' gradients is the gradient of the batch (no mask, so all weigh the same)."""
    trainer = make("grpo", reward_fn=contains_a)
    memory = trainer.rollout_phase()
    parts = memory.get_minibatches()[:2]
    parameters = trainer.model.lora_params()
    parted = [torch.autograd.grad(trainer.compute_rlhf_objective(m), parameters) for m in parts]
    memory.args = GrpoArgs(batch_size=8, num_minibatches=1)
    whole = torch.autograd.grad(trainer.compute_rlhf_objective(memory.get_minibatches()[0]), parameters)
    torch.testing.assert_close([(a + b) / 2 for a, b in zip(*parted, strict=True)], list(whole), atol=1e-6, rtol=1e-4)


def test_groups_without_spread_contribute_nothing_and_are_counted(make):
    trainer = make("grpo", reward_fn=lambda samples: torch.zeros(len(samples)), kl_coef=0.0, ent_coef=0.0, weight_decay=0.0)
    before = [p.detach().clone() for p in trainer.model.lora_params()]
    trainer.learning_phase(trainer.rollout_phase())
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.lora_params(), strict=True))
    figures = trainer.metrics.take()
    assert figures["groups_without_spread"] == figures["groups_all_wrong"] == 1
    assert figures["grad_norm"] == 0


def test_the_reference_survives_training(make):
    trainer = make("ppo-lora", reward_fn=contains_a, kl_coef=0.0, base_lr=1e-2)
    ids = torch.tensor([[1, 5, 9, 12]])
    assert token_kl(trainer.model.forward_with_value_head(ids)[0], trainer.ref_model(ids)).max() < 1e-6
    for _ in range(3):
        trainer.learning_phase(trainer.rollout_phase())
    assert token_kl(trainer.model.forward_with_value_head(ids)[0], trainer.ref_model(ids)).max() > 1e-3


# Learning


@pytest.mark.parametrize("name", TRAINERS)
def test_it_learns_and_kl_holds_it_back(name, make, tmp_path):
    """A token's letter is the reward. Free, the policy finds it; on a strong leash it stays near the reference."""
    ends = {}
    for kl_coef in (0.0, 20.0):
        trainer = make(
            name,
            base_model="pocket",
            reward_fn=contains_a,
            kl_coef=kl_coef,
            output_dir=str(tmp_path / str(kl_coef)),
            total_phases=15,
            batch_size=64,
            gen_len=10,
            base_lr=5e-4 if name == "ppo" else 3e-3,
            ent_coef=0.0,
            warmup_steps=0,
        )
        ends[kl_coef] = trainer.train()
    free, held = ends[0.0], ends[20.0]
    assert free["reward_last"] > free["reward_first"] + 0.5 > held["reward_last"]
    assert held["kl_last"] < free["kl_last"] / 4


def test_a_subclass_may_skip_the_constructor(model_dirs, tmp_path):
    """Students' trainers set the listed attributes and no others; train() creates the rest."""
    from rlhf_lib.advantages import compute_advantages, normalize_reward
    from rlhf_lib.models import TransformerWithValueHead
    from rlhf_lib.rollouts import get_logprobs, get_samples

    class Classic(RLHFTrainer):
        def __init__(self, args):
            self.args, self.run_name = args, "classic"
            self.model = TransformerWithValueHead.from_pretrained(args.base_model, device="cpu")
            self.ref_model = self.model.frozen_copy()
            self.optimizer, self.scheduler = get_optimizer_and_scheduler(args, self.model)
            self.prefix_len = len(self.model.to_str_tokens(args.prefix, prepend_bos=args.prepend_bos))

        def rollout_phase(self):
            args = self.args
            ids, samples = get_samples(
                self.model.base_model,
                args.prefix,
                args.batch_size,
                args.gen_len,
                args.temperature,
                args.top_k,
                args.prepend_bos,
            )
            with torch.inference_mode():
                logits, values = self.model.forward_with_value_head(ids)
                ref_logits = self.ref_model(ids)
            rewards = normalize_reward(args.reward_fn(samples))
            advantages = compute_advantages(values, rewards, self.prefix_len)
            logprobs = get_logprobs(logits, ids, self.prefix_len)
            return ReplayMemory(args, ids, logprobs, advantages, values, ref_logits)

    given = {"base_model": str(model_dirs["gpt2"]), "output_dir": str(tmp_path / "run"), "total_phases": 3, **SMALL}
    summary = Classic(RLHFArgs(reward_fn=contains_a, **given)).train()
    assert summary["phases"] == 3


def test_lambda_0_gives_the_classic_advantages(make):
    """gae_lambda 0 is one-step TD, which students write in chapter 2."""
    from rlhf_lib.advantages import compute_advantages, normalize_reward

    trainer = make("ppo", reward_fn=contains_a, gae_lambda=0.0)
    memory = trainer.rollout_phase()
    rewards = normalize_reward(torch.tensor([sample["reward"] for sample in trainer.samples]))
    torch.testing.assert_close(memory.advantages, compute_advantages(memory.values, rewards, trainer.prefix_len))


# Runs


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


@pytest.mark.parametrize("name", TRAINERS)
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
    for _ in range(600):
        if len(read_json_lines(run / "metrics.jsonl")) >= count:
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError("training did not begin")


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

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_not_writable(self, make, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot be written"):
            make("grpo", output_dir=str(tmp_path / "locked" / "run")).train()

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
        with pytest.raises(InputError, match=r"base_lr=0\.5 \(was"):
            make("grpo", base_lr=0.5, resume=True).train()

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


# The process-wide clip and the trainers' names


def test_gradient_clipping_is_honoured(make):
    trainer = make("grpo", reward_fn=contains_a, max_grad_norm=1e-3, gen_len=10)
    trainer.learning_phase(trainer.rollout_phase())
    norms = [p.grad.norm() for p in trainer.model.lora_params()]
    assert torch.stack(norms).norm() <= 1.01e-3
    assert trainer.metrics.take()["grad_norm"] > 1e-3


def test_names():
    for name, kind in (("ppo", RLHFTrainer), ("ppo-lora", LoraTrainer), ("grpo", GrpoTrainer)):
        assert TRAINERS[name] is kind
