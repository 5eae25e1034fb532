"""Adapters: initialisation, scale, hooks against merged weights, and the files that peft reads."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_lib.args import LORA_MAPS, InputError
from rlhf_lib.lora import Lora, lora_parameter_count, training_bytes
from rlhf_lib.models import BridgedTransformer, TransformerWithLora, TransformerWithValueHeadLora

from .conftest import ARCHITECTURES

IDS = torch.tensor([[1, 5, 9, 300, 7, 44]])


@pytest.fixture(params=ARCHITECTURES)
def adapted(request, model_dirs):
    """A model with adapters that do something."""
    return randomised(TransformerWithLora(model_dirs[request.param], 8.0, 3, device="cpu"))


def randomised(model):
    torch.manual_seed(1)
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def policy_logits(model, ids=IDS):
    with torch.no_grad():
        return model.forward_with_value_head(ids)[0]


def test_lora_initialisation():
    lora = Lora(64, 32, rank=8, alpha=4.0)
    assert lora.A.shape == (64, 8)
    assert lora.B.shape == (8, 32)
    assert torch.equal(lora.B, torch.zeros(8, 32))
    bound = 1 / math.sqrt(64)  # kaiming with a = sqrt(5) over a fan-in of 64
    assert lora.A.abs().max() <= bound
    assert lora.A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1.0), (4, 32.0), (8, 4.0)])
def test_lora_is_scaled_by_alpha_over_rank(rank, alpha):
    lora = Lora(16, 12, rank, alpha)
    torch.nn.init.normal_(lora.B)
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(lora(x), alpha / rank * (x @ lora.A) @ lora.B)
    torch.testing.assert_close(lora(x), x @ lora.delta(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_rank_must_fit(rank):
    with pytest.raises(InputError, match=f"rank={rank}.*from 1 to 12"):
        Lora(16, 12, rank)


def test_zero_initialised_lora_is_the_base(adapted):
    for adapter in adapted.lora.adapters.values():
        torch.nn.init.zeros_(adapter.B)
    assert torch.equal(policy_logits(adapted), adapted(IDS))


def test_rank_and_alpha_are_honoured(model_dirs):
    model = TransformerWithLora(model_dirs["llama"], 20.0, 5, device="cpu")
    assert {(a.rank, a.alpha, a.scale) for a in model.lora.adapters.values()} == {(5, 20.0, 4.0)}
    assert len(model.lora.adapters) == 2 * len(LORA_MAPS)


def test_each_map_alone_changes_the_policy(model_dirs):
    for name in LORA_MAPS:
        model = randomised(TransformerWithLora(model_dirs["llama"], maps=(name,), device="cpu"))
        assert len(model.lora.adapters) == 2
        assert (policy_logits(model) - model(IDS)).abs().max() > 1e-3, name


def test_hooks_equal_merged_weights(adapted):
    hooked = policy_logits(adapted)
    assert (hooked - adapted(IDS)).abs().max() > 1e-2
    with adapted.merged(), torch.no_grad():
        merged = adapted.base_model(IDS)
    torch.testing.assert_close(hooked, merged, atol=5e-5, rtol=1e-5)  # 1.5e-5 on torch 2.7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unmerging_is_exact_even_after_an_exception(model_dirs, dtype):
    model = randomised(TransformerWithLora(model_dirs["gpt2"], device="cpu", dtype=dtype))
    before = {name: tensor.clone() for name, tensor in model.base_model.state_dict().items()}
    with pytest.raises(KeyError), model.merged():
        assert any(not torch.equal(before[n], t) for n, t in model.base_model.state_dict().items())
        raise KeyError
    assert all(torch.equal(before[n], t) for n, t in model.base_model.state_dict().items())


def test_inside_merged_the_wrong_calls_are_refused(adapted, tmp_path):
    with adapted.merged():
        for call in (lambda: adapted(IDS), lambda: policy_logits(adapted), lambda: adapted.save_pretrained(tmp_path)):
            with pytest.raises(RuntimeError, match="merged"):
                call()
        with pytest.raises(RuntimeError, match="already"), adapted.merged():
            pass
    adapted(IDS)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_peft_gives_the_same_logits(kind, model_dirs, tmp_path):
    """The saved adapter, loaded by peft on the Hugging Face model, is our policy; so is the merged model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = randomised(TransformerWithLora(model_dirs[kind], 8.0, 3, device="cpu"))
    model.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(model_dirs[kind]).eval()
    peft_model = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(peft_model(IDS).logits, policy_logits(model), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(peft_model.merge_and_unload()(IDS).logits, policy_logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("maps", [("attn.q",), ("attn.q", "attn.v"), ("mlp.out", "attn.o")])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_peft_agrees_on_any_choice_of_maps(kind, maps, model_dirs, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = randomised(TransformerWithLora(model_dirs[kind], maps=maps, device="cpu"))
    model.save_pretrained(tmp_path)
    peft_model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dirs[kind]).eval(), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(peft_model(IDS).logits, policy_logits(model), atol=1e-4, rtol=1e-4)


def test_transformers_loads_the_adapter_itself(model_dirs, tmp_path):
    from transformers import AutoModelForCausalLM

    model = randomised(TransformerWithLora(model_dirs["llama"], device="cpu"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS).logits, policy_logits(model), atol=1e-4, rtol=1e-4)


def test_adapters_come_back_exactly(adapted, tmp_path):
    adapted.save_pretrained(tmp_path)
    again = TransformerWithLora.from_adapter(tmp_path, device="cpu")
    assert (again.lora.rank, again.lora.alpha) == (3, 8.0)
    assert torch.equal(policy_logits(again), policy_logits(adapted))


def test_an_adapter_of_the_bundled_model_travels(tmp_path):
    randomised(TransformerWithLora("pocket", rank=2, device="cpu")).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": "/elsewhere/rlhf_lib/assets/pocket"}))
    assert TransformerWithLora.from_adapter(tmp_path, device="cpu").lora.rank == 2


def test_an_adapter_that_peft_trained_loads(model_dirs, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dirs["llama"]), config).eval()
    peft_model.save_pretrained(tmp_path)
    model = TransformerWithLora.from_adapter(tmp_path, model_dirs["llama"], device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(peft_model(IDS).logits, policy_logits(model), atol=1e-4, rtol=1e-4)


class TestBadAdapters:
    @pytest.fixture
    def saved(self, model_dirs, tmp_path):
        self.model = TransformerWithLora(model_dirs["llama"], device="cpu")
        self.before = {n: p.clone() for n, p in self.model.lora.state_dict().items()}
        return randomised(TransformerWithLora(model_dirs["llama"], device="cpu")).save_pretrained(tmp_path)

    def refused(self, directory, match):
        with pytest.raises(InputError, match=match):
            self.model.load_adapter(directory)
        assert all(torch.equal(self.before[n], p) for n, p in self.model.lora.state_dict().items()), "half loaded"

    def test_truncated(self, saved):
        file = saved / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:200])
        self.refused(saved, "truncated")

    def test_missing(self, tmp_path, saved):
        self.refused(tmp_path / "nowhere", r"holds no adapter_config\.json")

    def test_other_architecture(self, model_dirs, tmp_path, saved):
        TransformerWithLora(model_dirs["gpt2"], device="cpu").save_pretrained(tmp_path / "gpt2")
        self.refused(tmp_path / "gpt2", "made for another model")

    def test_other_rank(self, model_dirs, tmp_path, saved):
        TransformerWithLora(model_dirs["llama"], rank=2, device="cpu").save_pretrained(tmp_path / "rank2")
        self.refused(tmp_path / "rank2", "rank=2")

    def test_last_tensor_wrong(self, saved):
        tensors = load_file(saved / "adapter_model.safetensors")
        last = sorted(tensors)[-1]
        tensors[last] = tensors[last][:, :-1].contiguous()
        save_file(tensors, saved / "adapter_model.safetensors")
        self.refused(saved, "do not make one adapter")

    @pytest.mark.parametrize(("key", "value"), [("peft_type", "IA3"), ("use_dora", True)])
    def test_features_we_lack(self, saved, key, value):
        config = json.loads((saved / "adapter_config.json").read_text())
        (saved / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        self.refused(saved, str(value) if key == "peft_type" else key)


def test_value_head_and_adapters_save_together(model_dirs, tmp_path):
    model = randomised(TransformerWithValueHeadLora(model_dirs["gpt2"], device="cpu"))
    model.save_pretrained(tmp_path)
    again = TransformerWithValueHeadLora.from_adapter(tmp_path, device="cpu")
    again.load_value_head(tmp_path)
    for ours, theirs in zip(model.forward_with_value_head(IDS), again.forward_with_value_head(IDS), strict=True):
        assert torch.equal(ours, theirs)


def bytes_held(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapted", [False, True])
def test_memory_arithmetic_is_what_training_holds(adapted, dtype, model_dirs):
    """Weights, gradients and AdamW's moments counted after a real step, and a copy of the weights as reference if all train."""
    model = (TransformerWithLora if adapted else BridgedTransformer)(model_dirs["llama"], device="cpu", dtype=dtype)
    trained = model.get_base_model_trainable_params()
    optimizer = torch.optim.AdamW(trained)
    model.forward_with_value_head(IDS)[0].sum().backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    base, adapters = bytes_held(model.base_model_params()), model.lora_params() if adapted else []
    held = base + bytes_held(adapters) + bytes_held([p.grad for p in trained]) + bytes_held(moments) + (0 if adapted else base)
    count = sum(p.numel() for p in model.base_model_params())
    size = {"float32": 4, "bfloat16": 2}[dtype]
    assert training_bytes(count, sum(p.numel() for p in adapters) if adapted else None, bytes_per_number=size) == held


@pytest.mark.parametrize("rank", [1, 5])
def test_lora_parameter_count_is_what_the_adapters_have(rank, adapted):
    model = TransformerWithLora(adapted.base.name, rank=rank, device="cpu")
    assert lora_parameter_count((m.shape for m in model.lora.maps), rank) == sum(p.numel() for p in model.lora_params())
