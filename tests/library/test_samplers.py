"""Rollouts by vLLM, in the process and over HTTP: a stand-in takes its place and samples from the adapter that it is sent."""

import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from rlhf_lib.args import FAMILY, GrpoArgs, InputError, LoraArgs
from rlhf_lib.correction import CorrectedMemory, sampler_weights
from rlhf_lib.engine import plain_formulas
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.rollouts import get_logprobs
from rlhf_lib.rollouts import rollout as own
from rlhf_lib.samplers import VllmSampler, VllmServerSampler
from rlhf_lib.samplers.exchange import Completion, in_columns
from rlhf_lib.trainers.grpo import GrpoTrainer

PROMPTS = ["Anna has", "Anna has", "Question: Ben has 3 keys.", "Anna has"]


@pytest.fixture(params=["vllm", "vllm-server"])
def policy(model_dirs, calls, server, request):
    """Adapters that are not zero, sampled by each of the two."""
    model = TransformerWithLora(model_dirs["llama"], rank=3, device="cpu")
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter, std=0.2)
    if request.param == "vllm":
        model.sampler = VllmSampler(model, memory=0.4, seed=7)
    else:
        model.sampler = VllmServerSampler(model, server.url)
    calls.clear()
    return model


def rollout(model, *given, **sampling):
    """A rollout by the sampler that goes with the policy."""
    return model.sampler.rollout(model, *given, **sampling)


def rescored(model, sampled, temperature=1.0):
    with torch.no_grad():
        logits, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask)
    return get_logprobs(logits, sampled.ids, sampled.prefix_len, temperature=temperature) * sampled.mask


class TestWhatVllmIsTold:
    def test_the_engine(self, make, calls, model_dirs):
        make("grpo", sampler="vllm", sampler_memory=0.4, seed=7)
        assert calls.options == {
            "model": str(model_dirs["llama"]),
            "trust_remote_code": False,
            "dtype": "float32",
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": 8,
            "gpu_memory_utilization": 0.4,
            "logprobs_mode": "processed_logprobs",
            "seed": 7,
        }

    def test_the_largest_rank_of_any_map(self, calls, model_dirs, tmp_path):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        options = {
            "r": 4,
            "rank_pattern": {"q_proj": 9},
            "alpha_pattern": {"q_proj": 20},
            "target_modules": ["q_proj", "o_proj"],
        }
        whole = AutoModelForCausalLM.from_pretrained(model_dirs["llama"])
        get_peft_model(whole, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **options)).save_pretrained(tmp_path)
        VllmSampler(TransformerWithLora.from_adapter(tmp_path, model_dirs["llama"], device="cpu"))
        assert calls.options["max_lora_rank"] == 16

    def test_prompts_without_padding_and_equal_neighbours_once(self, policy, calls):
        rollout(policy, PROMPTS, 5, temperature=0.7, top_k=9)
        rows = [policy.to_tokens(prompt)[0].tolist() for prompt in PROMPTS]
        assert sorted(calls.prompts[0]) == sorted([rows[0], rows[2], rows[3]])
        assert sorted(given.n for given in calls.parameters[0]) == [1, 1, 2]
        first = calls.parameters[0][0]
        assert (first.temperature, first.top_k, first.top_p, first.max_tokens, first.seed) == (0.7, 9, 1.0, 5, None)
        assert first.stop_token_ids == policy.end_ids

    def test_greedy_takes_a_request_each(self, policy, calls):
        rollout(policy, PROMPTS, 5, temperature=0.0)
        assert [given.n for given in calls.parameters[0]] == [1, 1, 1, 1]

    def test_no_end_where_none_is_asked_for(self, policy, calls):
        sampled = rollout(policy, PROMPTS, 12, stop_at_eos=False)
        assert calls.parameters[0][0].stop_token_ids == []
        assert sampled.mask.all()

    def test_a_new_adapter_each_time_and_no_directory_left(self, policy, calls):
        rollout(policy, PROMPTS, 2)
        rollout(policy, PROMPTS, 2)
        first, second = calls.adapters
        assert first.lora_int_id < second.lora_int_id
        assert first.lora_name != second.lora_name
        assert not any(Path(request.lora_path).exists() for request in calls.adapters)

    def test_a_generator_makes_it_repeatable(self, policy, calls):
        seeded = [rollout(policy, PROMPTS, 6, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
        assert torch.equal(seeded[0].ids, seeded[1].ids)
        assert len({given.seed for given in calls.parameters[0]}) == 3


class TestTheRollout:
    def test_greedy_equals_our_own(self, policy):
        """Ids, masks, log-probabilities, padding and texts; the adapters arrive."""
        theirs, ours = rollout(policy, PROMPTS, 24, temperature=0.0), own(policy, PROMPTS, 24, temperature=0.0)
        for part in fields(theirs):
            a, b = getattr(theirs, part.name), getattr(ours, part.name)
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
            else:
                assert a == b

    def test_ends_and_padding(self, policy):
        """Over many samples some end early: the end is real, padding follows, and log-probabilities are of real tokens."""
        torch.manual_seed(3)
        policy.end_ids = list(range(0, 512, 8))
        sampled = rollout(policy, PROMPTS * 4, 10, temperature=0.8)
        assert sum(sampled.ended) > 0
        assert sampled.lengths.min() < 10
        for row, length in zip(sampled.ids[:, sampled.prefix_len :].tolist(), sampled.lengths.int().tolist(), strict=True):
            assert not any(token in policy.end_ids for token in row[: length - 1])
            assert length == 10 or row[length - 1] in policy.end_ids
        assert torch.equal(sampled.attention_mask[:, sampled.prefix_len :].float(), sampled.mask)
        torch.testing.assert_close(rescored(policy, sampled, 0.8), sampled.logprobs, atol=1e-4, rtol=1e-4)

    def test_truncation_keeps_both_log_probabilities(self, policy):
        sampled = rollout(policy, PROMPTS, 12, top_k=3)
        torch.testing.assert_close(rescored(policy, sampled), sampled.logprobs, atol=1e-4, rtol=1e-4)
        assert ((sampled.sampler_logprobs - sampled.logprobs) * sampled.mask).sum() > 0.1

    def test_used_whatever_the_switch_says(self, policy, calls):
        with plain_formulas():
            rollout(policy, PROMPTS, 2)
        assert len(calls.adapters) == 1

    def test_too_long_a_prompt_is_told_before(self, policy, calls):
        with pytest.raises(InputError, match="over the model's context of 64"):
            rollout(policy, PROMPTS, 64)
        assert not calls.prompts

    @pytest.mark.parametrize(
        ("tokens", "reason"), [([4, 5], "stop"), ([4, 2], "abort"), ([4, 5], "length"), ([], "stop"), ([4, 2], "length")]
    )
    def test_unexpected_ends_are_refused(self, tokens, reason):
        completion = Completion(tokens, [-1.0] * len(tokens), reason)
        with pytest.raises(InputError, match=f"finished by '{reason}'"):
            in_columns([completion], 3, [2], 0, torch.device("cpu"))


class TestCorrection:
    def test_weights_by_hand(self):
        """exp(0.1), exp(-0.5), capped at 2; infinities behind the mask do not matter."""
        logprobs = torch.tensor([[-1.0, -2.0, -0.5, -float("inf")]])
        sampler = torch.tensor([[-1.1, -1.5, -3.0, 0.0]])
        weights = sampler_weights(logprobs, sampler, 2.0, torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
        torch.testing.assert_close(weights, torch.tensor([[1.1051709, 0.6065307, 2.0, 0.0]]))

    def test_the_weight_makes_the_sampler_fair(self):
        """In expectation over the sampler, weighted rewards are the policy's, and the mean weight is 1."""
        policy, sampler = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
        rewards = torch.tensor([1.0, 5.0, -2.0])
        weights = sampler_weights(policy.log()[:, None], sampler.log()[:, None], 2.0, None)[:, 0]
        torch.testing.assert_close((sampler * weights * rewards).sum(), (policy * rewards).sum())
        torch.testing.assert_close((sampler * weights).sum(), torch.tensor(1.0))

    def test_a_critic_keeps_its_returns(self):
        args = LoraArgs(batch_size=2, num_minibatches=1)
        ids = torch.arange(10).reshape(2, 5)
        logprobs, advantages, values = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 5)
        memory = ReplayMemory(args, ids, logprobs, advantages, values, None, mask=torch.ones(2, 3))
        before = memory.advantages.clone()
        corrected = CorrectedMemory(memory, torch.full((2, 3), 0.5))
        assert torch.equal(corrected.advantages, 0.5 * before)
        assert torch.equal(memory.advantages, before)
        assert torch.equal(corrected.returns, memory.returns)
        minibatch = corrected.get_minibatches()[0]
        rows = (minibatch.sample_ids[:, 0] // 5).long()
        assert torch.equal(minibatch.returns, memory.returns[rows])
        assert torch.equal(minibatch.advantages, 0.5 * before[rows])


class TestTraining:
    def test_a_phase_of_grpo(self, make, calls):
        """vLLM's probabilities are too high by a known factor; all advantages shrink by it."""
        trainer = make("grpo", sampler="vllm", total_phases=1, warmup_steps=0, group_size=4, num_minibatches=1)
        calls.clear()
        calls.gap = 0.25
        seen = []
        trainer.compute_rlhf_objective = lambda minibatch: (
            seen.append(minibatch) or GrpoTrainer.compute_rlhf_objective(trainer, minibatch)
        )
        before = [parameter.clone() for parameter in trainer.model.lora_params()]
        summary = trainer.train()
        assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.lora_params(), strict=True))
        memory = trainer.memory
        for minibatch in seen:
            order = [memory.sample_ids.tolist().index(row) for row in minibatch.sample_ids.tolist()]
            torch.testing.assert_close(
                minibatch.advantages, memory.advantages[order] * torch.tensor(-0.25).exp(), atol=1e-4, rtol=1e-3
            )
        assert summary["phases"] == 1
        assert [request.n for request in calls.parameters[0]] == [8]
        record = trainer.run.history[0]
        assert record["sampler_gap"] == pytest.approx(0.25, abs=1e-3)
        assert record["sampler_weight"] == pytest.approx(0.7788, abs=1e-3)
        assert record["sampler_capped"] == 0.0

    @pytest.mark.parametrize("name", ["ppo-lora", "self-training"])
    def test_the_others_train_too(self, make, calls, name):
        changes = {"task": "pocket", "gen_len": 4} if name == "self-training" else {}
        trainer = make(name, sampler="vllm", total_phases=1, warmup_steps=0, **changes)
        trainer.train()
        assert trainer.run.history[0]["sampler_weight"] == pytest.approx(1.0, abs=1e-3)

    def test_the_cap(self, make, calls):
        trainer = make("grpo", sampler="vllm", sampler_cap=1.25)
        calls.gap = -0.45  # weights of 1.57
        corrected = trainer.corrected(memory := trainer.rollout_phase())
        torch.testing.assert_close(corrected.advantages, 1.25 * memory.advantages * memory.mask)
        assert trainer.metrics.take()["sampler_capped"] == 1.0

    def test_truncation_on_request(self, make):
        """Under top_k the policy's probabilities are smaller than the sampler's: the weight is what the k likeliest hold."""
        trainer = make("grpo", top_k=3, correct_sampler=True)
        corrected, sampled = trainer.corrected(memory := trainer.rollout_phase()), trainer.sampled
        held = (sampled.logprobs - sampled.sampler_logprobs).exp() * sampled.mask
        torch.testing.assert_close(corrected.advantages, memory.advantages * held, atol=1e-4, rtol=1e-3)
        assert (held[sampled.mask > 0] < 1).all()

    def test_nothing_changes_unasked(self, make, monkeypatch):
        trainer = make("grpo", top_k=3)
        monkeypatch.setattr(trainer, "corrected", None)
        trainer.learning_phase(trainer.rollout_phase())

    def test_self_training_weighs_right_completions(self, make):
        """Advantages of 1 give the plain mean; weights give the weighted sum over the number of right tokens, the mask's."""
        trainer = make("self-training", task="pocket", gen_len=4, batch_size=2, num_minibatches=1)
        ids = torch.randint(3, 500, (2, 9))
        logits, _ = trainer.model.forward_with_value_head(ids)
        logprobs = get_logprobs(logits, ids, 5)
        advantages = torch.tensor([[1.0, 0.5, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
        mask = torch.tensor([[1.0], [0.0]]).expand(2, 4)
        memory = ReplayMemory(trainer.args, ids, logprobs.detach(), advantages, None, None, mask=mask)
        found = trainer.compute_rlhf_objective(memory.get_minibatches()[0])
        torch.testing.assert_close(found, (logprobs[0] * advantages[0]).sum() / 4)


class TestRefusals:
    @pytest.mark.parametrize("trouble", [ImportError("No module named 'vllm'"), OSError("libcudart.so.12: cannot open")])
    def test_missing_or_broken(self, make, monkeypatch, trouble):
        class Finder:
            def find_spec(self, name, *rest):
                if name == "vllm":
                    raise trouble

        monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
        monkeypatch.delitem(sys.modules, "vllm", raising=False)
        with pytest.raises(InputError, match=r"cannot be imported \(.*pip install \"vllm>=0.32,<0.33\".*Linux.*--sampler own"):
            make("grpo", sampler="vllm")

    def test_an_engine_that_does_not_start(self, make, calls, monkeypatch):
        def fail(**options):
            raise RuntimeError("Engine core initialization failed")

        monkeypatch.setattr(sys.modules["vllm"], "LLM", fail)
        with pytest.raises(InputError, match=r"cannot start .*Engine core .*sampler_memory=0.3 .*--sampler own"):
            make("grpo", sampler="vllm")

    def test_fused_maps(self, make, calls):
        with pytest.raises(InputError, match=r"fuses several.*--sampler own"):
            make("grpo", kind="gpt2", sampler="vllm")

    def test_several_processes(self, make, calls, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="one of 2"):
            make("grpo", sampler="vllm")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"dtype": "4bit", "sampler": "vllm"}, "dtype='4bit'.*bfloat16"),
            ({"temperature": 3.0, "sampler": "vllm"}, "temperature=3.0.*0.01 to 2"),
            ({"sampler_memory": 1.0}, "sampler_memory=1.0"),
            ({"sampler_cap": 0.0}, "sampler_cap=0.0"),
        ],
    )
    def test_arguments(self, given, message):
        with pytest.raises(InputError, match=message):
            GrpoArgs(**given)

    def test_correction_comes_with_vllm_or_on_request(self):
        assert FAMILY["self-training"](sampler="vllm").corrects_sampler
        assert GrpoArgs(correct_sampler=True).corrects_sampler
        assert not GrpoArgs(top_k=5).corrects_sampler
