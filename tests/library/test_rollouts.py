"""Sampling: log-probabilities that agree with the scorer, truncation, ends and masks, seeds, the cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.args import InputError
from rlhf_lib.models import BridgedTransformer, TransformerWithLora, TransformerWithValueHead
from rlhf_lib.oracle import TabularPolicy
from rlhf_lib.rollouts import decode, get_logprobs, get_samples, rollout, sample_tokens, truncate_logits

from .conftest import ARCHITECTURES

PROMPTS = ["Question: Anna has 12 apples.", "Ben", "Question: Grace gives 3 keys to Jack."]


@pytest.fixture(params=ARCHITECTURES)
def policy(request, model_dirs):
    model = TransformerWithLora(model_dirs[request.param], rank=3, device="cpu")
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def rescored(model, sampled, temperature):
    with torch.no_grad():
        logits, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask)
    return get_logprobs(logits, sampled.ids, sampled.prefix_len, temperature=temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_scorer_agrees_with_the_sampler(policy, temperature):
    """With cache, padding, merged adapters and temperature, the log-probabilities are those of one hooked pass."""
    sampled = rollout(policy, PROMPTS, 20, temperature=temperature)
    torch.testing.assert_close(rescored(policy, sampled, temperature) * sampled.mask, sampled.logprobs, atol=1e-4, rtol=1e-4)
    assert torch.equal(sampled.logprobs, sampled.sampler_logprobs)


def test_truncation_opens_a_gap(policy):
    sampled = rollout(policy, PROMPTS, 20, top_k=3)
    torch.testing.assert_close(rescored(policy, sampled, 1.0) * sampled.mask, sampled.logprobs, atol=1e-4, rtol=1e-4)
    assert ((sampled.sampler_logprobs - sampled.logprobs) * sampled.mask).sum() > 0.1


def test_prompts_do_not_influence_each_other(policy):
    together = rollout(policy, PROMPTS, 12, temperature=0.0)
    alone = [rollout(policy, [prompt], 12, temperature=0.0) for prompt in PROMPTS]
    assert together.completions == [one.completions[0] for one in alone]


def test_greedy_equals_one_token_at_a_time(policy):
    """The key-value cache changes nothing."""
    ids, mask = policy.encode(PROMPTS)
    with torch.no_grad():
        for _ in range(8):
            logits, _ = policy.forward_with_value_head(ids, mask)
            ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    assert torch.equal(rollout(policy, PROMPTS, 8, temperature=0.0, stop_at_eos=False).ids, ids)


def test_adapters_are_sampled_and_unmerged(model_dirs):
    model = TransformerWithLora(model_dirs["llama"], device="cpu")
    plain = rollout(model, PROMPTS, 10, temperature=0.0).completions
    before = model(model.to_tokens("Anna"))
    for parameter in model.lora_params():
        torch.nn.init.normal_(parameter, std=0.5)
    assert rollout(model, PROMPTS, 10, temperature=0.0).completions != plain
    assert torch.equal(model(model.to_tokens("Anna")), before)


def test_seeds_reproduce(policy):
    def draw(seed):
        return rollout(policy, PROMPTS, 10, generator=torch.Generator().manual_seed(seed)).ids

    state = torch.get_rng_state()
    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert torch.equal(torch.get_rng_state(), state), "a generator of one's own leaves the global one alone"
    torch.manual_seed(5)
    first = rollout(policy, PROMPTS, 10).ids
    torch.manual_seed(5)
    assert torch.equal(rollout(policy, PROMPTS, 10).ids, first)


def scripted(tokens, vocab=6):
    """A decoder that makes `sample_tokens` give these tokens, whatever the temperature."""
    steps = iter(torch.tensor(tokens).T)
    return lambda ids: torch.nn.functional.one_hot(next(steps), vocab).float() * 1e4


def test_ends_masks_and_padding():
    prompts = torch.zeros(3, 2, dtype=torch.long)
    script = [[4, 2, 5, 5, 5], [4, 4, 4, 2, 5], [2, 4, 4, 4, 4]]
    got = decode(scripted(script), prompts, 5, end_ids=[2], pad_id=0)
    assert got.tokens.tolist() == [[4, 2, 0, 0, 0], [4, 4, 4, 2, 0], [2, 0, 0, 0, 0]]
    assert got.mask.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]
    assert (got.logprobs[got.mask == 0] == 0).all()


def test_the_loop_stops_when_all_have_ended():
    steps = []
    script = scripted([[4, 2, 5, 5], [2, 5, 5, 5]])
    decode(lambda ids: (steps.append(1), script(ids))[1], torch.zeros(2, 1, dtype=torch.long), 4, end_ids=[2], pad_id=0)
    assert len(steps) == 2


def test_end_pad_and_bos_may_coincide():
    """As in GPT-2: the mask says what is real, never the ids."""
    got = decode(scripted([[4, 0, 5], [0, 5, 5]]), torch.zeros(2, 1, dtype=torch.long), 3, end_ids=[0], pad_id=0)
    assert got.mask.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_without_ends_everything_is_real():
    got = decode(scripted([[2, 2, 5]]), torch.zeros(1, 1, dtype=torch.long), 3, end_ids=[], pad_id=0)
    assert got.tokens.tolist() == [[2, 2, 5]]
    assert got.mask.tolist() == [[1, 1, 1]]


def test_sampling_frequencies_are_the_policys():
    """Chi-squared against exact probabilities, temperature included; 20,000 draws, p about 1e-6 at the bound."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    tokens, logprobs, _ = sample_tokens(logits.expand(20_000, 4), 0.7)
    expected = (logits / 0.7).softmax(-1) * 20_000
    counts = torch.bincount(tokens, minlength=4)
    assert ((counts - expected) ** 2 / expected).sum() < 31
    torch.testing.assert_close(logprobs, (logits / 0.7).log_softmax(-1)[tokens])


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7), p=st.floats(0.05, 1.0))
def test_truncation_keeps_just_the_likeliest(seed, k, p):
    torch.manual_seed(seed)
    logits = torch.randn(3, 7)
    probs = logits.softmax(-1)
    kept = truncate_logits(logits, top_k=k) > -float("inf")
    assert (kept.sum(-1) == k).all()
    kept = truncate_logits(logits, top_p=p) > -float("inf")
    for row in range(3):
        inside, outside = probs[row][kept[row]], probs[row][~kept[row]]
        assert inside.sum() >= p - 1e-6
        assert inside.sum() - inside.min() < p + 1e-6, "one token too many"
        assert len(outside) == 0 or inside.min() >= outside.max()


def test_get_logprobs_by_hand():
    policy = TabularPolicy(vocab=4, length=3)
    s = policy.sequences
    with_prefix = torch.cat([torch.zeros(len(s), 1, dtype=torch.long), s], dim=1)
    logits = torch.cat([policy.logits(s), torch.randn(len(s), 1, 4)], dim=1).float()
    for prefix_len, skip in ((None, 0), (1, 0), (2, 1), (3, 2)):
        got = get_logprobs(logits, with_prefix, prefix_len)
        torch.testing.assert_close(got, policy.logprobs(s)[:, skip:].float())
    hot = get_logprobs(logits, with_prefix, temperature=2.0)
    torch.testing.assert_close(hot, (policy.logits(s).float() / 2).log_softmax(-1).gather(-1, s[..., None]).squeeze(-1))


def test_get_samples_is_the_classic_call(model_dirs):
    model = TransformerWithValueHead(model_dirs["gpt2"], device="cpu")
    ids, texts = get_samples(model, "Anna has", 5, gen_len=7)
    prefix = model.to_tokens("Anna has")
    assert ids.shape == (5, prefix.shape[1] + 7)
    assert torch.equal(ids[:, : prefix.shape[1]], prefix.expand(5, -1))
    assert all(text.startswith("Anna has") for text in texts)
    ids, texts = get_samples(model, ["Anna has 12", "Ben"], 2, gen_len=3)
    assert [text[:3] for text in texts] == ["Ann", "Ann", "Ben", "Ben"]
    ids, _ = get_samples(model.base_model, "Anna has", 2, gen_len=3, prepend_bos=False)
    assert ids.shape == (2, prefix.shape[1] - 1 + 3)


def test_merging_keeps_sampling_cheap(model_dirs):
    """Sampling runs on merged weights: no adapter is evaluated, however many tokens are drawn."""
    model = TransformerWithLora(model_dirs["llama"], device="cpu")
    calls = []
    for adapter in model.lora.adapters.values():
        adapter.register_forward_hook(lambda *_: calls.append(1))
    rollout(model, PROMPTS, 10)
    assert calls == []


class TestBadInput:
    @pytest.fixture
    def model(self, model_dirs):
        return BridgedTransformer(model_dirs["llama"], device="cpu")

    def test_no_prompts(self, model):
        with pytest.raises(InputError, match="empty"):
            rollout(model, [], 5)

    def test_prompt_longer_than_the_context(self, model):
        with pytest.raises(InputError, match=r"context of 64 together; shorten"):
            rollout(model, ["Anna " * 80], 5)

    def test_gen_len_over_the_context(self, model):
        with pytest.raises(InputError, match=r"gen_len=100.*use gen_len of at most 61"):
            rollout(model, ["Anna has"], 100)

    def test_no_end_token(self, model):
        model.end_ids = []
        with pytest.raises(InputError, match="end-of-sequence"):
            rollout(model, ["Anna has"], 5)
        assert rollout(model, ["Anna has"], 5, stop_at_eos=False).mask.sum() == 5

    def test_a_missing_pad_token_is_normal(self, model):
        model.tokenizer.pad_token = None
        assert len(rollout(model, PROMPTS, 5).completions) == 3
