"""Trainers for real: right gradients, what may change, learning on tiny tasks."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from rlhf_lib.args import GrpoArgs, InputError, RLHFArgs
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_penalty,
    calc_value_function_loss,
    token_kl,
)
from rlhf_lib.optim import get_optimizer_and_scheduler
from rlhf_lib.trainers import TRAINERS, GrpoTrainer, RLHFTrainer

from .conftest import ON_A_PREFIX, SMALL_RUN


def contains_a(samples):
    """How often the letter a occurs."""
    return torch.tensor([float(s.count("a")) for s in samples])


# One update


@pytest.mark.parametrize("name", ON_A_PREFIX)
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


@pytest.mark.parametrize("name", ON_A_PREFIX)
@pytest.mark.parametrize(("options", "stops"), [({}, True), ({"top_k": 4}, False), ({"top_p": 0.5}, False)])
def test_sampling_from_another_model_than_is_trained_is_an_error(name, options, stops, make, monkeypatch):
    """A tenth of a nat a token is no rounding in float32; truncation that was asked for explains it."""
    trainer = make(name, **options)
    sample = trainer.sampler.rollout

    def off(*args, **sampling):
        sampled = sample(*args, **sampling)
        return replace(sampled, sampler_logprobs=sampled.sampler_logprobs + 0.1)

    monkeypatch.setattr(trainer.sampler, "rollout", off)
    with pytest.raises(InputError, match=r"disagree by 0\.1 nats a token in phase 1") if stops else nullcontext():
        trainer.rollout_phase()
    assert trainer.step == 0


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


@pytest.mark.parametrize("name", ON_A_PREFIX)
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


@pytest.mark.parametrize("name", [one if one == "grpo" else pytest.param(one, marks=pytest.mark.slow) for one in ON_A_PREFIX])
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
            seed=1,  # with seed 0 PPO on all weights finds the letter only after 15 phases
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

    given = {"base_model": str(model_dirs["gpt2"]), "output_dir": str(tmp_path / "run"), "total_phases": 3, **SMALL_RUN}
    summary = Classic(RLHFArgs(reward_fn=contains_a, **given)).train()
    assert summary["phases"] == 3


def test_lambda_0_gives_the_classic_advantages(make):
    """gae_lambda 0 is one-step TD, which students write in chapter 2."""
    from rlhf_lib.advantages import compute_advantages, normalize_reward

    trainer = make("ppo", reward_fn=contains_a, gae_lambda=0.0)
    memory = trainer.rollout_phase()
    rewards = normalize_reward(torch.tensor([sample["reward"] for sample in trainer.samples]))
    torch.testing.assert_close(memory.advantages, compute_advantages(memory.values, rewards, trainer.prefix_len))


def test_gradient_clipping_is_honoured(make):
    trainer = make("grpo", reward_fn=contains_a, max_grad_norm=1e-3, gen_len=10)
    trainer.learning_phase(trainer.rollout_phase())
    norms = [p.grad.norm() for p in trainer.model.lora_params()]
    assert torch.stack(norms).norm() <= 1.01e-3
    assert trainer.metrics.take()["grad_norm"] > 1e-3


def test_names():
    for name, kind in (("ppo", RLHFTrainer), ("ppo-lora", RLHFTrainer), ("grpo", GrpoTrainer)):
        assert TRAINERS[name] is kind
