"""The same code on a CUDA device; skipped where there is none."""

import pytest
import torch

from rlhf_lib.args import FAMILY, GrpoArgs, LoraArgs, ReftArgs, RewardModelArgs, RLHFArgs, SftArgs
from rlhf_lib.engine import plain_formulas
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHeadLora
from rlhf_lib.rollouts import get_logprobs, rollout
from rlhf_lib.trainers import TRAINERS

from .conftest import ARCHITECTURES

pytestmark = pytest.mark.gpu
PROMPTS = ["Question: Anna has 12 apples.", "Ben"]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_sampler_and_scorer_agree(kind, model_dirs):
    model = TransformerWithLora(model_dirs[kind], device="cuda")
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter, std=0.2)
    sampled = rollout(model, PROMPTS, 20)
    with torch.no_grad():
        logits, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask)
    rescored = get_logprobs(logits, sampled.ids, sampled.prefix_len) * sampled.mask
    torch.testing.assert_close(rescored, sampled.logprobs, atol=1e-3, rtol=1e-3)
    assert sampled.ids.is_cuda


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_merging_is_undone_exactly_in_bfloat16(kind, model_dirs):
    model = TransformerWithLora(model_dirs[kind], device="cuda", dtype="bfloat16")
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter)
    before = [p.clone() for p in model.base_model_params()]
    with model.merged():
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, model.base_model_params(), strict=True))


def test_moving_reaches_everything(model_dirs):
    model = TransformerWithValueHeadLora(model_dirs["gpt2"], device="cpu").to("cuda")
    assert model.device.type == "cuda"
    assert torch.device(model.cfg.device).type == "cuda"
    assert all(p.is_cuda for p in model.parameters() if p.requires_grad)
    assert model.forward_with_value_head(model.to_tokens("Anna"))[0].is_cuda


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "kind"), [("ppo", RLHFArgs), ("ppo-lora", LoraArgs), ("grpo", GrpoArgs)])
def test_training_and_resume(name, kind, dtype, tmp_path):
    given = {"task": "pocket", "device": "cuda", "dtype": dtype, "batch_size": 16, "num_minibatches": 2, "gen_len": 16,
             "total_phases": 3, "eval_problems": 16, "output_dir": str(tmp_path / "r"), "log_samples_every": 0}  # fmt: skip
    if name == "ppo" and dtype == "bfloat16":
        pytest.skip("full fine-tuning is in float32")
    if name == "grpo":
        given["group_size"] = 4
    summary = TRAINERS[name](kind(**given)).train()
    assert summary["phases"] == 3
    assert "NVIDIA" in summary["device"]
    TRAINERS[name](kind(**given, resume=True)).train()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "kind"), [("reft", ReftArgs), ("self-training", FAMILY["self-training"])])
def test_reft_and_self_training(name, kind, dtype, tmp_path):
    given = {"task": "pocket", "device": "cuda", "dtype": dtype, "batch_size": 16, "num_minibatches": 2, "gen_len": 32,
             "total_phases": 2, "eval_problems": 16, "output_dir": str(tmp_path / "r"), "log_samples_every": 0}  # fmt: skip
    more = {"warmup_problems": 32} if name == "reft" else {}
    if name == "reft" and dtype == "bfloat16":
        pytest.skip("full fine-tuning is in float32")
    assert TRAINERS[name](kind(**given, **more)).train()["phases"] == 2


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_sft(lora_rank, tmp_path):
    given = {
        "device": "cuda",
        "dtype": "bfloat16" if lora_rank else "float32",
        "problems": 64,
        "epochs": 2,
        "eval_problems": 16,
        "gen_len": 32,
    }
    given |= {"output_dir": str(tmp_path / "r"), "lora_rank": lora_rank}
    assert TRAINERS["sft"](SftArgs(**given)).train()["phases"] == 2


@pytest.mark.parametrize("kind", ["bradley-terry", "verifier", "regression"])
def test_reward_models(kind, tmp_path):
    given = {"device": "cuda", "kind": kind, "reward_base": "pocket", "problems": 32, "gen_len": 40, "epochs": 1}
    summary = TRAINERS["reward-model"](RewardModelArgs(**given, output_dir=str(tmp_path / "r"))).train()
    assert summary["judged_after"] is not None


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_captured_steps_sample_what_the_plain_loop_samples(kind, model_dirs):
    """Greedy tokens and their log-probabilities, over several rollouts of other lengths and merged weights."""
    model = TransformerWithLora(model_dirs[kind], device="cuda")
    for round_, prompts in enumerate((PROMPTS, [*PROMPTS[::-1]], ["2+2=", "3+3="])):
        for parameter in model.lora_params():
            torch.nn.init.normal_(parameter, std=0.05)
        fast = rollout(model, prompts, 12 + round_, temperature=0.0, stop_at_eos=False)
        with plain_formulas():
            plain = rollout(model, prompts, 12 + round_, temperature=0.0, stop_at_eos=False)
        assert torch.equal(fast.ids, plain.ids)
        torch.testing.assert_close(fast.logprobs, plain.logprobs, atol=1e-3, rtol=1e-3)


def test_captured_steps_draw_anew(model_dirs):
    model = TransformerWithLora(model_dirs["llama"], device="cuda", dtype="bfloat16")
    first, second = (rollout(model, PROMPTS * 8, 16, stop_at_eos=False).ids for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "options", [{"micro_batch_size": 3}, {"checkpoint_activations": True}, {"autocast": True}], ids=lambda o: next(iter(o))
)
def test_what_saves_memory(options, tmp_path):
    given = {"task": "pocket", "device": "cuda", "batch_size": 16, "num_minibatches": 2, "gen_len": 16, "group_size": 4,
             "total_phases": 2, "eval_problems": 16, "output_dir": str(tmp_path / "r"), **options}  # fmt: skip
    assert TRAINERS["grpo"](GrpoArgs(**given)).train()["phases"] == 2


def test_four_bits(tmp_path):
    pytest.importorskip("bitsandbytes", reason="needs the extra 'quantized'")
    given = {"task": "pocket", "device": "cuda", "dtype": "4bit", "batch_size": 16, "num_minibatches": 2, "gen_len": 16,
             "group_size": 4, "total_phases": 2, "eval_problems": 16, "output_dir": str(tmp_path / "r")}  # fmt: skip
    assert TRAINERS["grpo"](GrpoArgs(**given, optimizer="adamw8bit")).train()["phases"] == 2
