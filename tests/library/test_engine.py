"""Every fast path gives what the plain formula gives: rollouts, passes, gradients, full-vocabulary numbers."""

import copy
import gc
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from transformers import AutoConfig

from rlhf_lib.engine import PassOptions, cache, decoding, is_fast, logits, plain_formulas, sped_up_by
from rlhf_lib.engine.graphs import GraphedReader
from rlhf_lib.engine.packing import pack
from rlhf_lib.engine.weights import refuse_unknown
from rlhf_lib.layout import chosen_at
from rlhf_lib.models import BridgedTransformer, TransformerWithLora, TransformerWithValueHead, TransformerWithValueHeadLora
from rlhf_lib.objectives import calc_kl_penalty, token_entropy, token_kl
from rlhf_lib.rollouts import get_logprobs, rollout

from .conftest import tiny_config
from .supported_models import Case

CAPPED = ("gemma2",) if Version(transformers.__version__) >= Version("5.21") else ()  # before, TransformerLens had it wrong
VARIANTS = ("qwen3", *CAPPED, "gemma3_text", "phi3, grouped", "olmo3")  # windows, norms, caps; the rest: supported_models
COVERED = ("llama", "llama_ungrouped", "gpt2", "gpt_neox", "qwen2", *VARIANTS)
PROMPTS = ["Question: Anna has 3 apples.", "2+2=", "Question: Ben has"] * 2 + ["2+2=", "2+2="]
GEN = 10


@pytest.fixture(scope="module")
def directories(model_dirs, tokenizer, tmp_path_factory):
    """The architectures, and a Llama in which every head has keys of its own; windows are shorter than prompts."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(9)
    own, config = tmp_path_factory.mktemp("llama_ungrouped"), tiny_config("llama")
    config.num_key_value_heads = config.num_attention_heads
    AutoModelForCausalLM.from_config(config).save_pretrained(own)
    tokenizer.save_pretrained(own)
    root = tmp_path_factory.mktemp("variants")
    return {**model_dirs, "llama_ungrouped": own, **{name: Case.make(name, root).directory for name in (*VARIANTS, "granite")}}


@pytest.fixture(params=COVERED)
def policy(request, directories):
    """Adapters that do something, and a value head."""
    torch.manual_seed(1)
    model = TransformerWithValueHeadLora.from_pretrained(directories[request.param], rank=3, device="cpu")
    for adapter in model.lora.adapters.values():
        torch.nn.init.normal_(adapter.B, std=0.05)
    return model


@pytest.fixture
def chunky(monkeypatch):
    """Logits never all at once, and chunks of three rows."""
    monkeypatch.setattr(logits, "DENSE_NUMBERS", 0)
    monkeypatch.setattr(logits, "CHUNK_NUMBERS", {"cpu": 3 * 512})


def sampled_with(model, seed=0, **options):
    torch.manual_seed(seed)
    return rollout(model, PROMPTS, GEN, stop_at_eos=False, **options)


def shortened(sampled):
    """A rollout's ids and masks as if completions had ended at various lengths."""
    lengths = torch.tensor([10, 3, 1, 7, 10, 2, 5, 1])
    mask = (torch.arange(GEN) < lengths[:, None]).float()
    attention = torch.cat([sampled.attention_mask[:, :-GEN], mask.long()], dim=1)
    return sampled.ids, attention, mask


class TestRollouts:
    @pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.8}], ids=str)
    def test_same_tokens_from_the_same_seed(self, policy, options):
        fast = sampled_with(policy, **options)
        with plain_formulas():
            plain = sampled_with(policy, **options)
        assert torch.equal(fast.ids, plain.ids)
        torch.testing.assert_close(fast.logprobs, plain.logprobs, atol=1e-4, rtol=0)
        torch.testing.assert_close(fast.sampler_logprobs, plain.sampler_logprobs, atol=1e-4, rtol=0)

    def test_rows_that_end_leave_the_batch_and_change_nothing(self, policy):
        ends = sampled_with(policy).ids[:, -GEN:].flatten().unique()[:60].tolist()  # tokens that do come up
        policy.end_ids = ends
        found = []
        for run in range(2):
            torch.manual_seed(3)
            if run:
                found.append(rollout(policy, PROMPTS * 4, GEN))
            else:
                with plain_formulas():
                    found.append(rollout(policy, PROMPTS * 4, GEN))
        plain, fast = found
        assert fast.mask.sum(dim=1).unique().numel() > 2
        assert torch.equal(fast.ids, plain.ids)
        assert torch.equal(fast.mask, plain.mask)
        torch.testing.assert_close(fast.logprobs, plain.logprobs, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("repeats", [1, 4], ids=["distinct prompts", "prompts that rows share"])
    def test_slots_are_made_as_they_are_needed(self, policy, monkeypatch, repeats):
        """With 3 at a time, of which the last is used up thrice, the tokens are those of one pass after the other."""
        prompts = list(dict.fromkeys(PROMPTS)) * repeats
        for module in (cache, decoding):
            monkeypatch.setattr(module, "MORE_SLOTS", 3)
        torch.manual_seed(5)
        fast = rollout(policy, prompts, GEN, stop_at_eos=False)
        torch.manual_seed(5)
        with plain_formulas():
            plain = rollout(policy, prompts, GEN, stop_at_eos=False)
        assert torch.equal(fast.ids, plain.ids)
        torch.testing.assert_close(fast.logprobs, plain.logprobs, atol=1e-4, rtol=0)

    def test_steps_on_the_same_memory_give_the_same(self, policy, monkeypatch):
        """What CUDA graphs replay, without capturing it; the second rollout runs on the first one's cache."""
        plain = [sampled_with(policy, seed) for seed in (0, 1)]
        engine = policy.base.passes.fast
        reader = GraphedReader(engine.weights, capture=lambda step: step)
        monkeypatch.setattr(engine, "reader", reader)
        fast = [sampled_with(policy, seed) for seed in (0, 1)]
        for a, b in zip(fast, plain, strict=True):
            assert torch.equal(a.ids, b.ids)
            torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-4, rtol=0)
        assert list(reader.steps) == [(64, False)]
        kept = reader.kept
        policy.end_ids = fast[0].ids[:, -GEN:].flatten().unique()[:60].tolist()
        ended = rollout(policy, PROMPTS, GEN)
        assert (reader.kept is kept, ended.mask.min()) == (True, 0)

    def test_another_architecture_is_sampled_by_its_own_passes_and_says_so_once(self, model_dirs):
        model = BridgedTransformer(model_dirs["gpt_neo"], device="cpu")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                rollout(model, PROMPTS, 3, stop_at_eos=False)
        assert [str(w.message)[:38] for w in told] == ["no fast path for architecture gpt_neo:"]

    def test_a_hook_on_the_bridge_is_not_passed_over(self, model_dirs):
        model = BridgedTransformer(model_dirs["llama"], device="cpu")
        with model.base_model.hooks(fwd_hooks=[("blocks.0.hook_out", lambda x, hook: x * 0)]):
            assert model.base.passes.fast is None
            hooked = sampled_with(model, temperature=0.0)
        assert model.base.passes.fast is not None
        assert not torch.equal(hooked.ids, sampled_with(model, temperature=0.0).ids)


class TestPasses:
    def both(self, policy, ids, attention, keep):
        found = {}
        for name in ("fast", "plain"):
            policy.zero_grad()
            with plain_formulas() if name == "plain" else torch.enable_grad():
                given, values = policy.forward_with_value_head(ids, attention, logits_to_keep=keep)
                reference = policy(ids, attention, logits_to_keep=keep)
                real = attention[:, -given.shape[1] :].bool()
                logprobs = given.log_softmax(-1)
                loss = (logprobs.exp() * given).sum(-1)[real].mean() + values[attention.bool()].square().mean()
                loss.backward()
            gradients = [p.grad for p in [*policy.lora_params(), *policy.get_value_head_params()]]
            found[name] = (torch.as_tensor(given)[real], torch.as_tensor(reference)[real], values[attention.bool()], *gradients)
        return found

    @pytest.mark.parametrize("keep", [None, 1, GEN + 1])
    def test_logits_values_and_gradients(self, policy, keep):
        ids, attention, _ = shortened(sampled_with(policy))
        found = self.both(policy, ids, attention, keep) if keep else self.both(policy, ids[:, :-GEN], attention[:, :-GEN], None)
        for fast, plain in zip(found["fast"], found["plain"], strict=True):
            torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)

    def test_full_fine_tuning_has_the_same_gradients(self, directories):
        for kind in COVERED:
            model = TransformerWithValueHead(directories[kind], device="cpu")
            ids, attention, mask = shortened(sampled_with(model))
            found = []
            for way in (torch.enable_grad, plain_formulas):
                model.zero_grad()
                with way():
                    given, _values = model.forward_with_value_head(ids, attention, logits_to_keep=GEN + 1)
                    (get_logprobs(given, ids[:, -GEN - 1 :]) * mask).sum().backward()
                found.append({n: p.grad for n, p in model.base_model.named_parameters() if p.grad is not None})
            assert found[0].keys() == found[1].keys()
            for name, gradient in found[0].items():
                torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-3)

    @pytest.mark.parametrize(
        "options", [PassOptions(micro_batch_size=3), PassOptions(checkpoint_activations=True), PassOptions(3, True)], ids=str
    )
    def test_what_saves_memory_changes_nothing(self, policy, options):
        ids, attention, _ = shortened(sampled_with(policy))
        policy.pass_options = options
        found = self.both(policy, ids, attention, GEN + 1)
        for saving, plain in zip(found["fast"], found["plain"], strict=True):
            torch.testing.assert_close(saving, plain, atol=1e-4, rtol=1e-4)

    def test_autocast_rounds_products_and_keeps_float32_around_them(self, policy):
        ids, attention, _ = shortened(sampled_with(policy))
        policy.pass_options = PassOptions(autocast=True)
        found = self.both(policy, ids, attention, GEN + 1)
        logits_, _reference, _values, *gradients = found["fast"]
        assert logits_.dtype == gradients[0].dtype == torch.float32
        greedy = sampled_with(policy, temperature=0.0)
        assert not greedy.logprobs.isnan().any()
        assert 1e-5 < (logits_ - found["plain"][0]).abs().max() < 0.1 * found["plain"][0].abs().max()

    def test_one_logit_of_rows_that_ended(self, policy):
        """What the critic's pretraining asks for: all values, hardly any logits."""
        ids, attention, _ = shortened(sampled_with(policy))
        given, values = policy.forward_with_value_head(ids, attention, logits_to_keep=1)
        assert isinstance(given, logits.DeferredLogits)
        with plain_formulas():
            plain, plain_values = policy.forward_with_value_head(ids, attention, logits_to_keep=1)
        real = attention.bool()
        torch.testing.assert_close(values[real], plain_values[real], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close((given * 1)[real[:, -1:]], plain[real[:, -1:]], atol=1e-4, rtol=1e-4)

    def test_padding_of_another_kind_takes_the_plain_pass(self, policy):
        ids = torch.randint(3, 400, (2, 6))
        attention = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
        fast = policy(ids, attention)
        assert type(fast) is torch.Tensor


class TestScoringWhatWasSampled:
    def scored(self, model, sampled):
        with torch.no_grad():
            given, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=GEN + 1)
        return given

    @pytest.fixture
    def adapted(self, directories):
        model = TransformerWithLora.from_pretrained(directories["llama"], rank=3, device="cpu")
        for adapter in model.lora.adapters.values():
            torch.nn.init.normal_(adapter.B, std=0.05)
        return model

    def test_costs_no_pass_and_gives_the_same(self, adapted, monkeypatch):
        sampled = sampled_with(adapted)
        engine = adapted.base.passes.fast
        monkeypatch.setattr(engine, "run", None)  # no pass may be made
        fast = self.scored(adapted, sampled)
        logprobs = get_logprobs(fast, sampled.ids[:, -GEN - 1 :])
        torch.testing.assert_close(logprobs, sampled.logprobs, atol=1e-5, rtol=0)
        monkeypatch.undo()
        with plain_formulas():
            plain = self.scored(adapted, sampled)
        torch.testing.assert_close(torch.as_tensor(fast * 1), plain, atol=1e-4, rtol=1e-4)  # the last position included

    @pytest.mark.parametrize("kind", [TransformerWithValueHead, TransformerWithValueHeadLora])
    def test_values_come_of_the_same_vectors(self, directories, monkeypatch, kind):
        """No pass for a critic either: its values are right wherever a token was chosen."""
        model = kind.from_pretrained(directories["llama"], device="cpu")
        model.end_ids = sampled_with(model).ids[:, -GEN:].flatten().unique()[:60].tolist()
        sampled = rollout(model, PROMPTS, GEN)
        monkeypatch.setattr(model.base.passes.fast, "run", None)
        inputs = {"attention_mask": sampled.attention_mask, "logits_to_keep": GEN + 1}
        with torch.no_grad():
            _, fast = model.forward_with_value_head(sampled.ids, **inputs)
            with plain_formulas():
                _, plain = model.forward_with_value_head(sampled.ids, **inputs)
        fast, plain = (chosen_at(values, GEN) * sampled.mask for values in (fast, plain))
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)
        assert plain.abs().max() > 0.1

    def test_not_once_the_policy_has_changed(self, adapted):
        sampled = sampled_with(adapted)
        with torch.no_grad():
            next(iter(adapted.lora.adapters.values())).B.mul_(2)
        fast = self.scored(adapted, sampled)
        with plain_formulas():
            plain = self.scored(adapted, sampled)
        torch.testing.assert_close(fast * 1, plain, atol=1e-4, rtol=1e-4)

    def test_not_with_another_mask(self, adapted):
        adapted.end_ids = sampled_with(adapted).ids[:, -GEN:].flatten().unique()[:60].tolist()
        sampled = rollout(adapted, PROMPTS, GEN)
        whole = torch.cat([sampled.attention_mask[:, :-GEN], torch.ones_like(sampled.ids[:, -GEN:])], dim=1)
        with torch.no_grad():
            fast, _ = adapted.forward_with_value_head(sampled.ids, whole, logits_to_keep=GEN + 1)
            with plain_formulas():
                plain, _ = adapted.forward_with_value_head(sampled.ids, whole, logits_to_keep=GEN + 1)
        torch.testing.assert_close(fast * 1, plain, atol=1e-4, rtol=1e-4)

    def test_the_reference_is_not_taken_for_the_policy(self, adapted):
        sampled = sampled_with(adapted)
        with torch.no_grad():
            fast = adapted(sampled.ids, sampled.attention_mask, logits_to_keep=GEN + 1)
        with plain_formulas(), torch.no_grad():
            plain = adapted(sampled.ids, sampled.attention_mask, logits_to_keep=GEN + 1)
        torch.testing.assert_close(fast * 1, plain, atol=1e-4, rtol=1e-4)


class TestNumbersOverTheVocabulary:
    """Log-probability, entropy, KL of deferred logits, at once and in chunks, against the plain formulas on ordinary ones."""

    @pytest.fixture(params=["llama", *CAPPED, "granite"])  # the last two cap logits, or divide them
    def case(self, request, directories):
        model = TransformerWithLora.from_pretrained(directories[request.param], rank=3, device="cpu")
        ids, attention, mask = shortened(sampled_with(model))
        for adapter in model.lora.adapters.values():
            torch.nn.init.normal_(adapter.B, std=0.05)
        return model, ids, attention, mask

    def figures(self, case, temperature):
        model, ids, attention, mask = case
        model.zero_grad()
        given, _ = model.forward_with_value_head(ids, attention, logits_to_keep=GEN + 1)
        with torch.no_grad():
            reference = model(ids, attention, logits_to_keep=GEN + 1)
        policy, reference = given[:, :-1] / temperature, reference[:, :-1] / temperature
        logprobs = get_logprobs(given, ids[:, -GEN - 1 :], temperature=temperature)
        entropy, kl = token_entropy(policy), token_kl(policy, reference)
        penalty = calc_kl_penalty(policy, reference, 0.3, GEN, mask=mask)
        ((logprobs + 2 * entropy - kl).masked_fill(mask == 0, 0.0).sum() + penalty).backward()
        real = mask.bool()
        return [logprobs[real], entropy[real], kl[real], penalty, *(p.grad.clone() for p in model.lora_params())]

    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_at_once(self, case, temperature):
        fast = self.figures(case, temperature)
        with plain_formulas():
            plain = self.figures(case, temperature)
        for a, b in zip(fast, plain, strict=True):
            torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)

    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    def test_in_chunks(self, case, chunky, temperature):
        fast = self.figures(case, temperature)
        with plain_formulas():
            plain = self.figures(case, temperature)
        for a, b in zip(fast, plain, strict=True):
            torch.testing.assert_close(a, b, atol=5e-5, rtol=1e-4)

    def test_chunks_reach_a_trained_unembedding(self, directories, chunky):
        model = TransformerWithValueHead(directories["gpt_neox"], device="cpu")
        ids, attention, mask = shortened(sampled_with(model))
        found = []
        for plain in (False, True):
            model.zero_grad()
            with plain_formulas() if plain else torch.enable_grad():
                given, _ = model.forward_with_value_head(ids, attention, logits_to_keep=GEN + 1)
                (token_entropy(given[:, :-1]) * mask).sum().backward()
            found.append(model.base_model.unembed.original_component.weight.grad.clone())
        torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)

    def test_no_tensor_of_the_whole_vocabulary_is_made(self, case, chunky, monkeypatch):
        largest = []
        unembed = logits.Weights.unembed
        monkeypatch.setattr(logits.Weights, "unembed", lambda self, h: largest.append(len(h)) or unembed(self, h))
        self.figures(case, 1.0)
        assert max(largest) == 3

    def test_looking_without_gradients_takes_none_away(self, case):
        model, ids, attention, mask = case
        given, _ = model.forward_with_value_head(ids, attention, logits_to_keep=GEN + 1)
        with torch.no_grad():
            token_entropy(given[:, :-1])
        (get_logprobs(given, ids[:, -GEN - 1 :]) * mask).sum().backward()
        assert all(p.grad is not None for p in model.lora_params())

    def test_what_cannot_be_deferred_is_an_error(self, directories, case):
        model, ids, attention, _ = case
        given = model(ids, attention, logits_to_keep=GEN + 1)
        with pytest.raises(RuntimeError, match="in place"):
            given[..., 0] = -1e9
        with pytest.raises(RuntimeError, match="in place"):
            given.masked_fill_(torch.ones(1, 1, 512, dtype=torch.bool), 0.0)
        assert type(given.clone()) is torch.Tensor
        whole = TransformerWithValueHead(directories["gpt2"], device="cpu")
        before, _ = whole.forward_with_value_head(ids)
        with torch.no_grad():
            whole.base_model.unembed.original_component.weight.mul_(2)
        with pytest.raises(RuntimeError, match="weights have changed"):
            token_entropy(before)

    def test_whatever_else_is_asked_gets_ordinary_logits(self, case):
        model, ids, attention, _ = case
        given = model(ids, attention, logits_to_keep=GEN + 1)
        assert isinstance(given, logits.DeferredLogits)
        assert (len(given), given.ndim, given.dtype) == (len(ids), 3, torch.float32)
        ordinary = given * 1
        assert type(ordinary) is torch.Tensor
        assert torch.log_softmax(given, -1, dtype=torch.float64).dtype == torch.float64
        for ask in (torch.softmax, torch.argmax, torch.logsumexp, torch.log_softmax):
            assert torch.equal(ask(given, -1) * 1, ask(ordinary, -1))
        assert torch.equal(torch.stack([given, given])[1], ordinary)
        assert torch.equal(given[0], ordinary[0])
        assert torch.equal(given[:, 1, 5], ordinary[:, 1, 5])


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=12), st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_packing_keeps_every_token_once(rows, alphabet):
    """Each real token is found at its place, with the position it has in its own sequence; prompts are not repeated."""
    widest = max(prompt for prompt, _ in rows)
    ids, attention = torch.zeros(len(rows), widest + 5, dtype=torch.long), torch.zeros(len(rows), widest + 5, dtype=torch.long)
    for i, (prompt, length) in enumerate(rows):
        ids[i, widest - prompt : widest] = torch.arange(prompt) + alphabet * (i % 2) + 1
        ids[i, widest : widest + length] = 100 + 10 * i + torch.arange(length)
        attention[i, widest - prompt : widest + length] = 1
    packing = pack(ids, attention, 5)
    real = attention.bool()
    assert (packing.index >= 0).equal(real)
    assert torch.equal(packing.ids[packing.index[real]], ids[real])
    assert torch.equal(packing.positions[packing.index[real]], (attention.cumsum(1) - 1)[real])
    prompts = {tuple(row[row > 0].tolist()) for row in ids[:, :widest]}
    assert packing.prompts.rows == len(prompts)


def test_a_model_and_its_fast_passes_go_together(model_dirs):
    model = BridgedTransformer(model_dirs["llama"], device="cpu")
    rollout(model, PROMPTS, 2, stop_at_eos=False)
    seen = weakref.ref(model.base_model.original_model)
    copied = copy.deepcopy(model.base.passes)
    assert copied.fast is not model.base.passes.fast
    assert copied.fast.modules[0] is copied.hf is not model.base.passes.hf
    del model
    gc.collect()
    assert seen() is None


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("lfm2", {}, "architecture lfm2"),
        ("qwen3_moe", {}, "architecture qwen3_moe"),
        ("qwen3", {"rope_parameters": YARN}, "qwen3 with rotary embedding yarn"),
        ("gemma3_text", {"rope_parameters": {"full_attention": YARN}}, "gemma3_text with rotary embedding yarn"),
        ("mistral", {"rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1}}, "scaled by their position"),
        ("llama", {"layer_types": ["chunked_attention"] * 2, "num_hidden_layers": 2}, "layers of type chunked_attention"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "attention to later tokens"),
        ("llama", {"is_causal": False}, "attention to later tokens"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "another scale of attention"),
    ],
)
def test_variants_with_other_formulas_are_turned_away(kind, changes, reason):
    config = SimpleNamespace(**{**vars(AutoConfig.for_model(kind)), "model_type": kind, **changes})
    with pytest.raises(ValueError, match=reason):
        refuse_unknown(config)


def test_the_switch():
    @sped_up_by(lambda x: "fast" if x else NotImplemented)
    def formula(x):
        return "plain"

    assert is_fast()
    assert (formula(1), formula(0)) == ("fast", "plain")
    with plain_formulas():
        assert formula(1) == "plain"
    assert formula(1) == "fast"
