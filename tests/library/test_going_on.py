"""Training goes on from an adapter: where it starts, which reference the KL holds on to, resume bit for bit, wrong inputs."""

import json
from contextlib import nullcontext

import pytest
import torch

from rlhf_lib.args import InputError, LoraArgs, SftArgs
from rlhf_lib.engine import plain_formulas
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHeadLora
from rlhf_lib.objectives import token_kl
from rlhf_lib.trainers import TRAINERS

from .conftest import ARGS_OF, SMALL_RUN

IDS = torch.tensor([[1, 5, 9, 300, 7, 44], [1, 8, 8, 20, 400, 3]])


@pytest.fixture
def adapter(model_dirs, tmp_path):
    """An adapter with ranks of its own on two kinds of maps, far from its base model."""
    torch.manual_seed(2)
    model = TransformerWithValueHeadLora(model_dirs["llama"], 6.0, 3, maps=("attn.q", "mlp.out"), device="cpu")
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.save_pretrained(tmp_path / "adapter")


def trainer_of(name, adapter, tmp_path, **options):
    given = {
        "adapter": str(adapter),
        "output_dir": str(tmp_path / "run"),
        "total_phases": 2,
        "warmup_steps": 0,
        **SMALL_RUN,
        **options,
    }
    return TRAINERS[name](ARGS_OF[name](**given))


@pytest.mark.parametrize("name", ["grpo", "ppo-lora"])
@pytest.mark.parametrize("plain", [False, True])
def test_the_reference_is_the_one_that_was_named(name, plain, adapter, tmp_path):
    with plain_formulas() if plain else nullcontext():
        check_references(name, adapter, tmp_path)


def check_references(name, adapter, tmp_path):
    """What is called for the reference's logits is the adapter as it was, or its base model."""
    before = TransformerWithLora.from_adapter(adapter, device="cpu")
    with torch.no_grad():
        policy, base = before.forward_with_value_head(IDS)[0] * 1, before(IDS) * 1
    for reference, expected in (("adapter", policy), ("base", base)):
        trainer = trainer_of(name, adapter, tmp_path, reference=reference)
        with torch.no_grad():
            torch.testing.assert_close(trainer.model.forward_with_value_head(IDS)[0] * 1, policy, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(trainer.ref_model(IDS) * 1, expected, atol=1e-5, rtol=1e-5)
            kl = token_kl(policy, expected).mean()
        memory = trainer.rollout_phase()
        logged = trainer.metrics.take()["kl"]
        assert (logged < 1e-6) == (reference == "adapter") == (kl < 1e-6)
        trainer.learning_phase(memory)
        with torch.no_grad():
            assert (trainer.model.forward_with_value_head(IDS)[0] - policy).abs().max() > 1e-6, "nothing was trained"
            torch.testing.assert_close(trainer.ref_model(IDS) * 1, expected, atol=1e-5, rtol=1e-5)


def test_ranks_scales_maps_and_head_are_the_adapters(adapter, tmp_path):
    trainer = trainer_of("ppo-lora", adapter, tmp_path, lora_rank=7, lora_alpha=1.0)
    assert {m.map_name for m in trainer.model.lora.maps} == {"attn.q", "mlp.out"}
    assert {(a.rank, a.alpha) for a in trainer.model.lora.adapters.values()} == {(3, 6.0)}
    before = TransformerWithValueHeadLora.from_adapter(adapter, device="cpu")
    before.load_value_head(adapter)
    for ours, theirs in zip(trainer.model.get_value_head_params(), before.get_value_head_params(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["grpo", "self-training"])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(name, adapter, tmp_path):
    options = {"task": "pocket", "prefix": LoraArgs.prefix} if name == "self-training" else {}
    whole = trainer_of(name, adapter, tmp_path / "whole", total_phases=3, **options)
    whole.train()
    part = trainer_of(name, adapter, tmp_path / "part", total_phases=3, **options)
    phases = part.learning_phase

    def stop_after_one(memory):
        found = phases(memory)
        part.run.is_stopping = True
        return found

    part.learning_phase = stop_after_one
    part.train()
    again = trainer_of(name, adapter, tmp_path / "part", total_phases=3, resume=True, **options)
    again.train()
    for ours, theirs in zip(again.model.lora_params(), whole.model.lora_params(), strict=True):
        assert torch.equal(ours, theirs)


def test_fine_tuning_goes_on_too(adapter, tmp_path):
    args = SftArgs(adapter=str(adapter), problems=8, epochs=1, eval_problems=0, device="cpu", output_dir=str(tmp_path / "sft"))
    trainer = TRAINERS["sft"](args)
    before = [p.detach().clone() for p in trainer.model.lora_params()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.lora_params(), strict=True))
    saved = json.loads((tmp_path / "sft" / "model" / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"]) == (3, 6.0)
    assert (tmp_path / "sft" / "merged" / "model.safetensors").is_file()


class TestWrongInputs:
    def test_no_such_directory(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no adapter_config\.json"):
            trainer_of("grpo", tmp_path / "nowhere", tmp_path)

    def test_another_base_model(self, adapter, model_dirs, tmp_path):
        with pytest.raises(InputError, match=r"base_model=.*gpt2.* was made for .*llama; leave base_model out"):
            trainer_of("grpo", adapter, tmp_path, base_model=str(model_dirs["gpt2"]))

    def test_its_own_base_model_may_be_named(self, adapter, model_dirs, tmp_path):
        trainer_of("grpo", adapter, tmp_path, base_model=str(model_dirs["llama"]))

    def test_inside_merged_the_reference_is_refused_too(self, adapter, tmp_path):
        trainer = trainer_of("grpo", adapter, tmp_path)
        with trainer.model.merged(), pytest.raises(RuntimeError, match="merged"):
            trainer.ref_model(IDS)
