"""Policies: what is trained, what is left alone, padding, dropout, hooks, saving, loading errors."""

import json
import shutil

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.models import (
    BridgedTransformer,
    TransformerWithLora,
    TransformerWithValueHead,
    TransformerWithValueHeadLora,
    encode_prompts,
    loading,
    resolve_device,
)
from rlhf_lib.objectives import token_kl

from .conftest import ARCHITECTURES, tiny_config

IDS = torch.tensor([[1, 5, 9, 300, 7, 44], [1, 8, 8, 20, 400, 3]])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_only_adapters_and_head_receive_gradient(kind, model_dirs):
    model = TransformerWithValueHeadLora(model_dirs[kind], device="cpu").train()
    for adapter in model.lora.adapters.values():
        torch.nn.init.normal_(adapter.B)
    logits, values = model.forward_with_value_head(IDS)
    (logits.logsumexp(-1).sum() + values.sum()).backward()
    assert all(not p.requires_grad and p.grad is None for p in model.base_model_params())
    trained = [*model.lora_params(), *model.get_value_head_params()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    everything = {id(p) for p in model.parameters() if p.requires_grad}
    assert everything == {id(p) for p in trained}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_full_fine_tuning_reaches_every_live_weight(kind, model_dirs):
    model = TransformerWithValueHead(model_dirs[kind], device="cpu").train()
    before = {name: p.detach().clone() for name, p in model.base_model.named_parameters()}
    logits, values = model.forward_with_value_head(IDS)
    (logits.logsumexp(-1).sum() + values.sum()).backward()
    for block in model.base_model.blocks:
        for part in (block.attn.q, block.attn.k, block.attn.v, block.attn.o, getattr(block.mlp, "in"), block.mlp.out):
            assert part.original_component.weight.grad.abs().sum() > 0
    torch.optim.SGD(model.get_base_model_trainable_params(), lr=0.1).step()
    changed = [name for name, p in model.base_model.named_parameters() if not torch.equal(before[name], p)]
    assert len(changed) > len(before) / 2


@pytest.mark.parametrize("cls", [TransformerWithValueHead, TransformerWithLora, TransformerWithValueHeadLora])
def test_always_a_pair_and_batch_of_one(cls, model_dirs):
    model = cls(model_dirs["llama"], device="cpu")
    for ids in (IDS, IDS[:1], IDS[:1, :1]):
        logits, values = model.forward_with_value_head(ids)
        assert logits.shape == (*ids.shape, 512)
        assert (values is None) == (cls is TransformerWithLora)
        assert values is None or values.shape == ids.shape


def test_value_head_can_be_left_out(model_dirs):
    model = TransformerWithValueHeadLora(model_dirs["llama"], use_value_head=False, device="cpu")
    assert model.forward_with_value_head(IDS)[1] is None
    assert model.get_value_head_params() == []


def test_value_head_is_an_mlp_on_the_final_norms_output(model_dirs):
    model = TransformerWithValueHead(model_dirs["gpt2"], device="cpu")
    assert [tuple(p.shape) for p in model.get_value_head_params()] == [(128, 32), (128,), (1, 128), (1,)]
    hidden = model.base_model.original_model.transformer(IDS).last_hidden_state
    torch.testing.assert_close(
        model.forward_with_value_head(IDS)[1], model.value_head(hidden).squeeze(-1), atol=1e-5, rtol=1e-5
    )
    assert model.value_head_output.shape == (2, 6, 1)


def test_values_move_the_trunk(model_dirs):
    model = TransformerWithValueHead(model_dirs["llama"], device="cpu")
    model.forward_with_value_head(IDS)[1].sum().backward()
    assert sum(p.grad.abs().sum() for p in model.base_model.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_plain_call_is_the_reference(kind, model_dirs):
    model = TransformerWithValueHeadLora(model_dirs[kind], device="cpu")
    before = model(IDS)
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter)
    assert torch.equal(model(IDS), before)
    assert (model.forward_with_value_head(IDS)[0] - before).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("adapted", [False, True])
def test_left_padding_changes_nothing(kind, adapted, model_dirs):
    model = TransformerWithValueHeadLora(model_dirs[kind], device="cpu")
    if adapted:
        for parameter in model.lora_params():
            torch.nn.init.normal_(parameter, std=0.2)
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), IDS], dim=1)
    mask = torch.cat([torch.zeros(2, 5, dtype=torch.long), torch.ones_like(IDS)], dim=1)
    for ours, theirs in zip(model.forward_with_value_head(IDS), model.forward_with_value_head(padded, mask), strict=True):
        torch.testing.assert_close(ours, theirs[:, 5:], atol=1e-4, rtol=1e-4)
    assert (model(padded)[:, 5:] - model(IDS)).abs().max() > 1e-2, "this test would not notice padding"


def test_logits_to_keep(model_dirs):
    model = TransformerWithValueHead(model_dirs["llama"], device="cpu")
    whole, values = model.forward_with_value_head(IDS)
    kept, same_values = model.forward_with_value_head(IDS, logits_to_keep=3)
    torch.testing.assert_close(kept, whole[:, -3:])
    torch.testing.assert_close(same_values, values)


@pytest.mark.parametrize("cls", [TransformerWithValueHead, TransformerWithValueHeadLora])
def test_no_dropout_in_train_mode(cls, model_dirs):
    """GPT-2's configuration asks for dropout 0.1; with it the ratio would not be 1 nor the KL 0 at step 0."""
    assert json.loads((model_dirs["gpt2"] / "config.json").read_text())["resid_pdrop"] == 0.1
    model = cls(model_dirs["gpt2"], device="cpu").train()
    first, second = model.forward_with_value_head(IDS)[0], model.forward_with_value_head(IDS)[0]
    assert torch.equal(first, second)
    reference = model.frozen_copy() if cls is TransformerWithValueHead else model
    assert token_kl(first, reference(IDS)).abs().max() < 1e-6


def test_no_hook_is_left_behind(model_dirs):
    model = TransformerWithValueHeadLora(model_dirs["gpt2"], device="cpu")
    points = list(model.base_model.hook_dict.values())

    def fail(values, hook):
        raise KeyError

    def left():
        return sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in points)

    assert left() == 0
    model.forward_with_value_head(IDS)
    assert left() == 0
    model.value_head.register_forward_hook(lambda *_: fail(None, None))
    with pytest.raises(KeyError):
        model.forward_with_value_head(IDS)
    assert left() == 0


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_frozen_copy_stays(kind, model_dirs):
    model = TransformerWithValueHead(model_dirs[kind], device="cpu")
    reference = model.frozen_copy()
    before = reference(IDS)
    torch.testing.assert_close(before, model(IDS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(reference(IDS), before)
    assert not any(p.requires_grad for p in reference.parameters())


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_full_fine_tuning_saves_and_reloads(kind, model_dirs, tmp_path):
    from transformers import AutoModelForCausalLM

    model = TransformerWithValueHead(model_dirs[kind], device="cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.forward_with_value_head(IDS)[0].logsumexp(-1).sum().backward()
    optimizer.step()
    expected = model(IDS).detach()
    original = BridgedTransformer(model_dirs[kind], device="cpu")
    assert (expected - original(IDS)).abs().max() > 1e-2
    model.save_pretrained(tmp_path)
    hf = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(hf(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(BridgedTransformer(tmp_path, device="cpu")(IDS), expected, atol=1e-5, rtol=1e-5)
    if kind == "gpt2":
        assert json.loads((tmp_path / "config.json").read_text())["resid_pdrop"] == 0.1


@pytest.mark.parametrize("cls", [TransformerWithValueHead, TransformerWithValueHeadLora])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_trainable_state_comes_back_exactly(cls, kind, model_dirs):
    model = cls(model_dirs[kind], device="cpu")
    with torch.no_grad():
        for parameter in [*model.get_base_model_trainable_params(), *model.get_value_head_params()]:
            parameter.add_(torch.randn_like(parameter))
    again = cls(model_dirs[kind], device="cpu")
    again.load_trainable_state(model.trainable_state())
    for ours, theirs in zip(model.forward_with_value_head(IDS), again.forward_with_value_head(IDS), strict=True):
        assert torch.equal(ours, theirs)


def test_bfloat16(model_dirs):
    model = TransformerWithValueHeadLora(model_dirs["gpt2"], device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert {p.dtype for p in [*model.lora_params(), *model.get_value_head_params()]} == {torch.float32}
    logits, values = model.forward_with_value_head(IDS)
    assert logits.dtype == values.dtype == torch.float32
    (logits.sum() + values.sum()).backward()
    exact = BridgedTransformer(model_dirs["gpt2"], device="cpu")(IDS)
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max()


def test_to_reaches_the_bridge(model_dirs):
    model = TransformerWithValueHeadLora(model_dirs["llama"], device="cpu").to(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.cfg.dtype == torch.bfloat16
    assert model.lora_params()[0].dtype == torch.float32
    model.forward_with_value_head(IDS)


def test_generate_samples_the_policy(model_dirs):
    model = TransformerWithLora(model_dirs["llama"], device="cpu")
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter, std=0.3)
    got = model.generate(IDS, max_new_tokens=1, do_sample=False)
    assert torch.equal(got[:, -1], model.forward_with_value_head(IDS)[0][:, -1].argmax(-1))


def test_tokens_and_strings(model_dirs):
    model = BridgedTransformer(model_dirs["llama"], device="cpu")
    assert model.to_tokens("Anna has 12").tolist()[0][0] == model.tokenizer.bos_token_id
    assert model.to_str_tokens("Anna has 12", prepend_bos=False)[-2:] == ["1", "2"]
    assert model.to_string(model.to_tokens("Anna has 12", prepend_bos=False)) == ["Anna has 12"]


def test_prompts_are_padded_on_the_left_and_begin_once(tokenizer):
    ids, mask = encode_prompts(tokenizer, ["Anna", "Anna has 12 apples", "<s>Anna"])
    assert mask[0].tolist() == [0] * (ids.shape[1] - 2) + [1, 1]
    assert (ids[:, -1] != tokenizer.pad_token_id).all()
    assert ids[0, -2:].tolist() == ids[2, -2:].tolist()
    with pytest.raises(InputError, match="empty"):
        encode_prompts(tokenizer, [])


class TestBadModels:
    def test_unknown_name(self):
        with pytest.raises(InputError, match=r"neither bundled.*check the spelling"):
            BridgedTransformer("no-such/model")

    def test_directory_without_config(self, tmp_path):
        with pytest.raises(InputError, match=r"without config\.json"):
            BridgedTransformer(tmp_path)

    def test_missing_path(self, tmp_path):
        with pytest.raises(InputError, match="not a model directory"):
            BridgedTransformer(tmp_path / "nowhere")

    def test_unsupported_architecture(self, tmp_path, tokenizer):
        from transformers import RobertaConfig, RobertaModel

        RobertaModel(RobertaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
            tmp_path
        )
        with pytest.raises(InputError, match="causal language model that TransformerBridge supports"):
            BridgedTransformer(tmp_path)

    def test_truncated_weights(self, model_dirs, tmp_path):
        shutil.copytree(model_dirs["llama"], tmp_path / "m")
        file = tmp_path / "m" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(InputError, match="damaged"):
            BridgedTransformer(tmp_path / "m")

    def test_no_tokenizer(self, tmp_path):
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_config(tiny_config("llama")).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="tokenizer"):
            BridgedTransformer(tmp_path)

    def test_cuda_asked_for_and_absent(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(InputError, match=r"device='cuda'.*0 CUDA devices"):
            resolve_device("cuda")

    def test_nonsense_device(self):
        with pytest.raises(InputError, match="not a device"):
            resolve_device("quantum")


def test_the_real_pretrained_model_loads(shared):
    model = BridgedTransformer(shared / "models" / "stories260K", device="cpu")
    text = model.to_string(model.generate(model.to_tokens("Once upon a time"), max_new_tokens=8, do_sample=False))
    assert "Once upon a time, there was a little" in text[0]


def test_a_missing_package_is_not_taken_for_a_damaged_model(monkeypatch):
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'^dtype="4bit" needs the package bitsandbytes'):
        loading.load_base("pocket", device="cpu", dtype="4bit")
