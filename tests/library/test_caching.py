"""Cached steps are those of a pass without a cache, whatever transformers calls the cache; otherwise nothing is sampled."""

import copy
import inspect

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache

from rlhf_lib import engine
from rlhf_lib.args import InputError
from rlhf_lib.models import BridgedTransformer, TransformerWithLora, TransformerWithValueHead, caching
from rlhf_lib.rollouts import Decoder, get_samples, rollout

from .conftest import ARCHITECTURES

PROMPTS = ["Anna has 12 apples.", "Ben"]


def uncached_greedy(path, ids, mask, steps):
    """What plain Hugging Face takes as the next tokens, the whole sequence read anew for each."""
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    for _ in range(steps):
        positions = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if takes_positions else {}
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **positions).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids


@pytest.fixture
def blind(monkeypatch):
    """Every attention that TransformerLens computes loses its cache, as with a name that it does not know."""

    def drop_cache(module, inputs, options):
        return inputs, {name: value for name, value in options.items() if not isinstance(value, Cache)}

    drop_cache.changes_no_values = True
    monkeypatch.setattr(caching, "give_cache_its_name", drop_cache)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("bare", [True, False], ids=["bridge", "policy"])
@torch.no_grad()
def test_greedy_tokens_are_those_of_hugging_face_without_a_cache(kind, fast, bare, model_dirs):
    path = model_dirs[kind]
    model = BridgedTransformer(path, device="cpu")
    ids, mask = model.encode(PROMPTS)
    if bare:
        tokenizer = AutoTokenizer.from_pretrained(path)
        hf = AutoModelForCausalLM.from_pretrained(path)
        model = TransformerBridge.boot_transformers(str(path), hf_model=hf, tokenizer=tokenizer, device="cpu")
    with engine.plain_formulas() if not fast else torch.no_grad():
        got = rollout(model, PROMPTS, 6, temperature=0.0, stop_at_eos=False)
    assert torch.equal(got.ids, uncached_greedy(path, ids, mask, 6))


def test_the_decoder_takes_the_name_off_the_model(model_dirs):
    model = BridgedTransformer(model_dirs["llama"], device="cpu").base_model.original_model
    decoder = Decoder(model, torch.ones(1, 3, dtype=torch.long))
    decoder(torch.tensor([[1, 5, 9]]))
    assert decoder.cache_name in inspect.signature(model.forward).parameters
    assert decoder.cache.get_seq_length() == 3


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_cache_that_stays_empty_is_an_error(kind, model_dirs, blind):
    model = TransformerWithLora(model_dirs[kind], device="cpu")
    with engine.plain_formulas():
        for sample in (
            lambda: rollout(model, PROMPTS, 3),
            lambda: get_samples(model, "Anna", 2, top_k=None),
            lambda: model.generate(model.to_tokens("Anna"), max_new_tokens=3),
        ):
            with pytest.raises(InputError, match=r"cache holds 0 tokens.*transformers \d.*transformer_lens \d.*install"):
                sample()
    rollout(model, PROMPTS, 3)  # the engine has a cache of its own


def test_a_copy_is_another_model(model_dirs, blind):
    """A reference copied from a model that passed is checked anew: its hooks, or its weights, may be others."""
    model = TransformerWithValueHead(model_dirs["llama"], device="cpu")
    with engine.plain_formulas(), pytest.raises(InputError, match="cache holds"):
        rollout(model.frozen_copy(), PROMPTS, 3)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_steps_that_differ_are_an_error(fast, model_dirs, monkeypatch):
    """The cache has its tokens, and the steps are wrong all the same: positions one too high in every later step."""
    model = TransformerWithLora(model_dirs["gpt2"], device="cpu")
    if fast:
        read = engine.decoding.Reader.read_tokens
        monkeypatch.setattr(engine.decoding.Reader, "read_tokens", lambda *args: read(*args[:2], args[2] + 1, args[3]))
    else:
        forward = model.base_model.original_model.forward

        def late(input_ids, position_ids, **options):
            return forward(input_ids=input_ids, position_ids=position_ids + (input_ids.shape[1] == 1), **options)

        late.__signature__ = inspect.signature(forward)
        monkeypatch.setattr(model.base_model.original_model, "forward", late)
    with (
        torch.no_grad() if fast else engine.plain_formulas(),
        pytest.raises(InputError, match=r"logits with the cache differ by"),
    ):
        rollout(model, PROMPTS, 3)


def test_it_is_done_once_for_each_model_and_way(model_dirs, monkeypatch):
    calls = []
    for name in ("check_engine", "check_cached_steps"):
        check = getattr(caching, name)
        monkeypatch.setattr(caching, name, lambda *args, name=name, check=check: (calls.append(name), check(*args)))
    model = TransformerWithLora(model_dirs["llama"], device="cpu")
    for _ in range(2):
        rollout(model, PROMPTS, 2)
        with engine.plain_formulas():
            rollout(model, PROMPTS, 2)
    assert calls == ["check_engine", "check_cached_steps"]


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_models_pass_and_nothing_else_changes(kind, dtype, model_dirs):
    """Neither the random numbers nor what is sampled depend on whether the check was made."""
    model = TransformerWithLora(model_dirs[kind], device="cpu", dtype=dtype)
    for context in (torch.no_grad, engine.plain_formulas):
        with context():
            found = []
            for _ in range(2):
                torch.manual_seed(3)
                found.append(rollout(model, PROMPTS, 5))
        assert torch.equal(found[0].ids, found[1].ids)
        assert torch.equal(found[0].logprobs, found[1].logprobs)


def test_the_name_is_given_once_and_copied_with_the_model(model_dirs):
    model = BridgedTransformer(model_dirs["llama"], device="cpu")
    caching.pass_cache_by_any_name(model.base_model)
    for bridge in (model.base_model, copy.deepcopy(model.base_model)):
        hooks = list(bridge.blocks[0].attn._forward_pre_hooks.values())
        assert hooks.count(caching.give_cache_its_name) == 1


def test_a_model_without_a_cache_is_refused():
    with pytest.raises(InputError, match=r"Linear takes no key-value cache .* use a model with attention"):
        caching.cache_name(torch.nn.Linear(1, 1))
