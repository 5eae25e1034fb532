"""SFT, ReFT, self-training, and what stands before PPO: critic pretraining and a merged reference."""

import json

import pytest
import torch

from rlhf_lib.advantages import compute_gae, compute_token_rewards
from rlhf_lib.args import GrpoArgs, InputError, SftArgs
from rlhf_lib.models import BridgedTransformer, TransformerWithLora, load_policy
from rlhf_lib.optim import adamw, warmup_then_decay
from rlhf_lib.runs.directory import read_json_lines
from rlhf_lib.trainers import GrpoTrainer, SftTrainer


@pytest.fixture
def word_problems(neo_dir, gsm8k_dir):
    return {"task": "gsm8k", "data": str(gsm8k_dir), "base_model": str(neo_dir)}


def sft(tmp_path, **changes):
    given = {"device": "cpu", "eval_problems": 0, "log_samples_every": 0, "output_dir": str(tmp_path / "run"), "batch_size": 8}
    return SftTrainer(SftArgs(**{**given, **changes}))


# Supervised


def test_sft_raises_only_the_solutions_probability(word_problems, tmp_path):
    trainer = sft(tmp_path, **word_problems, epochs=3, lr=1e-2)
    trainer.train()
    losses = [record["loss"] for record in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.5
    assert trainer.step == 9


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_what_sft_may_change(lora_rank, word_problems, tmp_path):
    trainer = sft(tmp_path, **word_problems, epochs=1, lr=1e-3, lora_rank=lora_rank)
    base = [p.detach().clone() for p in trainer.model.base_model_params()]
    trainer.train()
    same = [torch.equal(a, b) for a, b in zip(base, trainer.model.base_model_params(), strict=True)]
    assert all(same) if lora_rank else sum(same) < len(same) / 4
    assert (tmp_path / "run" / "merged" / "config.json").exists() == bool(lora_rank)


def test_rl_after_sft_with_adapters_has_the_sft_policy_as_reference(word_problems, tmp_path):
    """Merged, the fine-tuned model is the base that the new adapters start from: KL is 0 at step 0, and SFT is not lost."""
    fine_tuned = sft(tmp_path, **word_problems, epochs=2, lr=1e-2, lora_rank=4)
    fine_tuned.train()
    with pytest.raises(InputError, match=r"is an adapter, .*; use .*merged"):
        BridgedTransformer(tmp_path / "run" / "model", device="cpu")
    given = {**word_problems, "base_model": str(tmp_path / "run" / "merged"), "group_size": 4, "lora_rank": 4, "gen_len": 6}
    given |= {"batch_size": 8, "num_minibatches": 2, "device": "cpu"}
    trainer = GrpoTrainer(GrpoArgs(**given))
    trainer.rollout_phase()
    assert trainer.metrics.take()["kl"] == pytest.approx(0, abs=1e-6)
    ids = torch.tensor([[1, 5, 9, 12, 40]])
    expected, _ = fine_tuned.model.forward_with_value_head(ids)
    torch.testing.assert_close(trainer.ref_model(ids), expected, atol=1e-4, rtol=1e-4)
    assert (fine_tuned.model(ids) - expected).abs().max() > 1e-2


def test_adapters_on_some_maps_come_back(word_problems, tmp_path):
    trainer = sft(tmp_path, **word_problems, epochs=1, lr=1e-2, lora_rank=4, lora_maps=("attn.q", "attn.v"))
    trainer.train()
    ids = torch.tensor([[1, 5, 9, 12, 40]])
    again = load_policy(tmp_path / "run" / "model", "cpu")
    torch.testing.assert_close(again.forward_with_value_head(ids)[0], trainer.model.forward_with_value_head(ids)[0])


def test_the_saved_adapter_is_the_policy(word_problems, tmp_path):
    trainer = sft(tmp_path, **word_problems, epochs=1, lr=1e-2, lora_rank=4)
    trainer.train()
    ids = torch.tensor([[1, 5, 9, 12, 40]])
    again = TransformerWithLora.from_adapter(tmp_path / "run" / "model", device="cpu")
    torch.testing.assert_close(again.forward_with_value_head(ids)[0], trainer.model.forward_with_value_head(ids)[0])


def test_sft_resumes_bit_for_bit(word_problems, tmp_path):
    whole = sft(tmp_path, **word_problems, epochs=4, save_every=1, output_dir=str(tmp_path / "whole"))
    whole.train()
    parted = sft(tmp_path, **word_problems, epochs=4, save_every=1, output_dir=str(tmp_path / "parted"))
    original = parted.learning_phase

    def dies():
        if parted.phase == 2:
            raise KeyError
        original()

    parted.learning_phase = dies
    with pytest.raises(KeyError):
        parted.train()
    resumed = sft(tmp_path, **word_problems, epochs=4, save_every=1, output_dir=str(tmp_path / "parted"), resume=True)
    resumed.train()
    pairs = zip(resumed.model.trainable_state().values(), whole.model.trainable_state().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_long_examples_are_left_out_and_counted(word_problems, tmp_path):
    lengths = sorted(len(ids) for ids, _ in sft(tmp_path, **word_problems).examples)
    trainer = sft(tmp_path, **word_problems, longest=lengths[5])
    assert len(trainer.examples) == sum(n <= lengths[5] for n in lengths)
    assert trainer.findings["examples_left_out"] == 24 - len(trainer.examples)
    with pytest.raises(InputError, match="raise longest"):
        sft(tmp_path, **word_problems, longest=3)


def test_offline_self_training_keeps_right_ones_once(tmp_path):
    trainer = sft(tmp_path, problems=24, self_samples=6, keep_solutions=False, gen_len=40)
    prompts = trainer.training_prompts()
    rows = list(zip(prompts.prompts, prompts.columns["solution"], strict=True))
    assert len(rows) == len(set(rows)) == trainer.findings["own_solutions"]
    answers = dict(zip(trainer.task.worked(24).prompts, trainer.task.worked(24).columns["answer"], strict=True))
    assert all(answers[prompt] in solution for prompt, solution in rows)
    both = sft(tmp_path, problems=24, self_samples=2, gen_len=40).training_prompts()
    assert len(both) > 24


def test_learning_rate_of_supervised_training():
    shares = [warmup_then_decay(step, 10, 0.2) for step in range(11)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0])
    assert warmup_then_decay(0, 1, 0.0) == 1.0


# ReFT


def test_the_warmed_up_model_is_the_reference(make, word_problems):
    cold = make("reft", **word_problems, warmup_epochs=0)
    warm = make("reft", **word_problems, warmup_epochs=2, warmup_lr=1e-2, warmup_problems=8)
    ids = torch.tensor([[1, 5, 9, 12, 40]])
    assert (warm.model(ids) - cold.model(ids)).abs().max() > 1e-2
    torch.testing.assert_close(warm.ref_model(ids), warm.model(ids))
    assert warm.seconds_before_run > cold.seconds_before_run


def test_reft_pays_kl_by_the_token_and_the_score_at_the_end(make, word_problems):
    trainer = make("reft", **word_problems, warmup_epochs=0, kl_reward_coef=0.5)
    with torch.no_grad():
        for parameter in trainer.model.base_model_params():
            parameter.add_(0.02 * torch.randn_like(parameter))
    memory = trainer.rollout_phase()
    scores = torch.tensor([sample["reward"] for sample in trainer.samples])
    prefix = memory.sample_ids.shape[1] - memory.gen_len
    logits = memory.ref_logits[:, :-1].log_softmax(-1)
    ref_logprobs = logits.gather(-1, memory.sample_ids[:, prefix:, None]).squeeze(-1)
    rewards = compute_token_rewards(scores, memory.logprobs, ref_logprobs, 0.5, mask=memory.mask)
    expected = compute_gae(memory.values, rewards, prefix, gae_lambda=0.95, mask=memory.mask)
    torch.testing.assert_close(memory.advantages, expected)
    assert (memory.logprobs - ref_logprobs)[memory.mask.bool()].abs().max() > 1e-3


def test_reft_learns_and_resumes(make, word_problems, tmp_path):
    common = {**word_problems, "warmup_epochs": 1, "warmup_problems": 8, "total_phases": 3, "save_every": 1}
    whole = make("reft", **common, output_dir=str(tmp_path / "whole"))
    whole.train()
    parted = make("reft", **common, output_dir=str(tmp_path / "parted"))
    original = parted.learning_phase

    def dies(memory):
        original(memory)
        if parted.phase == 1:
            raise KeyError

    parted.learning_phase = dies
    with pytest.raises(KeyError):
        parted.train()
    resumed = make("reft", **common, output_dir=str(tmp_path / "parted"), resume=True)
    resumed.train()
    pairs = zip(resumed.model.trainable_state().values(), whole.model.trainable_state().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# Self-training and the critic


def test_self_training_learns_from_right_completions_alone(make):
    trainer = make("self-training", base_model="pocket", gen_len=30, batch_size=16)
    memory = trainer.rollout_phase()
    right = torch.tensor(trainer.rewarded.correct)
    assert 0 < right.sum() < 16
    assert torch.equal(memory.mask.any(dim=1), right)
    minibatch = memory.get_minibatches()[0]
    objective = trainer.compute_rlhf_objective(minibatch)
    torch.testing.assert_close(objective.detach(), minibatch.logprobs[minibatch.mask.bool()].mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_critic_pretraining_changes_the_head_alone_and_helps_it(make, tmp_path):
    trainer = make(
        "ppo", task="pocket", base_model="pocket", gen_len=30, batch_size=48, critic_phases=3, total_phases=1, warmup_steps=0
    )
    base = [p.detach().clone() for p in trainer.model.base_model_params()]
    head = [p.detach().clone() for p in trainer.model.get_value_head_params()]
    untrained = trainer.rollout_phase()
    trainer.metrics.take()
    trainer.pretrain_critic()
    assert all(torch.equal(a, b) for a, b in zip(base, trainer.model.base_model_params(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(head, trainer.model.get_value_head_params(), strict=True))
    errors = []
    for memory in (untrained, trainer.rollout_phase()):
        errors.append(float((memory.returns - memory.generated_values).square()[memory.mask.bool()].mean()))
    assert errors[1] < errors[0]
    trainer.train()
    first = read_json_lines(tmp_path / "run" / "metrics.jsonl")[0]
    assert {"critic_loss", "critic_explained_variance"} <= set(first)


# The budget and what is watched


def test_a_budget_ends_a_run_and_watching_does_not_count(make, tmp_path):
    trainer = make("grpo", task="pocket", base_model="pocket", total_phases=50, budget=0.1, eval_every=1)
    summary = trainer.train()
    assert summary["phases"] == 1
    (record,) = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert 0 <= record["held_out_accuracy"] <= 1
    parts = ("generate", "reward", "score", "train")
    assert record["seconds"] < 1.5 * sum(record[f"seconds_{part}"] for part in parts) + 0.5
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["interrupted"] is False


def test_a_budget_ends_an_epoch_and_what_comes_before_it(tmp_path):
    trainer = sft(tmp_path, problems=200, epochs=3, budget=0.05)
    assert trainer.train()["phases"] == 1
    assert trainer.step == 1
    resumed = sft(tmp_path, problems=200, epochs=3, budget=0.05, resume=True)
    resumed.train()
    assert resumed.step == 1
    sampled = sft(tmp_path, problems=400, self_samples=8, budget=0.01, gen_len=8, output_dir=str(tmp_path / "other"))
    assert sampled.prepared == {"self_sampled_batches": 1}


def test_a_used_directory_is_refused_before_any_work(word_problems, tmp_path, monkeypatch):
    sft(tmp_path, **word_problems, epochs=1).train()
    monkeypatch.setattr(SftTrainer, "build_model", lambda self: pytest.fail("began to work"))
    with pytest.raises(InputError, match="holds a run already"):
        sft(tmp_path, **word_problems, epochs=1, self_samples=100)


def test_four_bits(make):
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    trainer = make("grpo", base_model="pocket", dtype="4bit")
    trainer.rollout_phase()
    assert abs(trainer.metrics.take()["sampler_gap"]) < 1e-3
    with pytest.raises(InputError, match="cannot take in an adapter"):
        trainer.model.save_merged("x")


def test_the_eight_bit_optimiser_climbs():
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    parameter = torch.nn.Parameter(torch.ones(5000))
    optimizer = adamw("adamw8bit", [{"params": [parameter], "lr": 1e-2}], maximize=True, weight_decay=0.0)
    parameter.sum().backward()
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((5000,), 1.01))
