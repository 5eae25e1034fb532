"""Objective terms: closed forms, exact bias on an enumerable policy, gradients, masks, large logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.args import InputError
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_estimate_penalty,
    calc_kl_penalty,
    calc_value_function_loss,
    estimate_kl_k1,
    estimate_kl_k2,
    estimate_kl_k3,
    reduce_tokens,
    token_entropy,
    token_kl,
    whiten,
)
from rlhf_lib.oracle import TabularPolicy

TIGHT = {"atol": 1e-12, "rtol": 1e-10}


@pytest.fixture
def policies():
    return TabularPolicy(seed=0), TabularPolicy(seed=1).requires_grad_(False)


def masks(batch=3, gen=5):
    lengths = torch.randint(1, gen + 1, (batch,))
    return (torch.arange(gen) < lengths[:, None]).double()


# The clipped surrogate


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2)],
)
def test_surrogate_by_hand(ratio, advantage, expected):
    old = torch.tensor([[-1.0]], dtype=torch.float64)
    new = old + torch.tensor(ratio, dtype=torch.float64).log()
    got = calc_clipped_surrogate_objective(new, old, torch.full((1, 1), advantage).double(), 0.2, 1)
    torch.testing.assert_close(got.item(), expected, **TIGHT)


def test_surrogate_clips_higher_only_above():
    old, advantage = torch.zeros(1, 1), torch.ones(1, 1)
    high = calc_clipped_surrogate_objective(old + 1.0, old, advantage, 0.2, 1, clip_coef_high=0.28)
    low = calc_clipped_surrogate_objective(old - 1.0, old, -advantage, 0.2, 1, clip_coef_high=0.28)
    assert high.item() == pytest.approx(1.28)
    assert low.item() == pytest.approx(-0.8)


def test_surrogate_gradient_is_the_policy_gradient(policies):
    """At ratio 1 the surrogate's expected gradient is that of the expected reward, whatever the baseline."""
    policy, _ = policies
    rewards = torch.randn(len(policy.sequences), dtype=torch.float64)
    exact = policy.gradient(policy.expected(rewards))
    index = {tuple(s): i for i, s in enumerate(policy.sequences.tolist())}

    def estimator(sequence):
        logprobs = policy.logprobs(sequence)
        advantages = (rewards[index[tuple(sequence[0].tolist())]] - 0.7).expand(1, 2)
        return 2 * calc_clipped_surrogate_objective(logprobs, logprobs.detach(), advantages, 0.2, 2, reduction="constant")

    torch.testing.assert_close(policy.gradient(policy.average_over(estimator)), exact, **TIGHT)


def test_clipped_tokens_have_no_gradient():
    logprobs = torch.tensor([[1.0, 0.0]], requires_grad=True)
    calc_clipped_surrogate_objective(logprobs, torch.zeros(1, 2), torch.ones(1, 2), 0.2, 2).backward()
    assert logprobs.grad[0, 0] == 0
    assert logprobs.grad[0, 1] == pytest.approx(0.5)


def test_surrogate_whitens_only_when_asked():
    logprobs, advantages = torch.zeros(4, 3), torch.rand(4, 3) + 1
    assert calc_clipped_surrogate_objective(logprobs, logprobs, advantages, 0.2, 3).item() == pytest.approx(
        advantages.mean().item()
    )
    assert calc_clipped_surrogate_objective(logprobs, logprobs, advantages, 0.2, 3, eps=1e-8).item() == pytest.approx(
        0, abs=1e-6
    )


def test_whiten():
    values = torch.randn(6, 4, dtype=torch.float64) * 3 + 5
    white = whiten(values)
    assert abs(white.mean()) < 1e-12
    assert white.std().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(whiten(torch.ones(1, 1)), torch.zeros(1, 1))
    assert torch.equal(whiten(torch.ones(3, 2)), torch.zeros(3, 2))
    mask = masks(6, 4)
    assert whiten(values, mask=mask)[mask == 1].std().item() == pytest.approx(1, abs=1e-6)


# KL and entropy


def test_exact_kl_and_entropy_on_the_oracle(policies):
    """Per-token KL and entropy, summed along sequences and averaged, are those of whole sequences (the chain rule)."""
    policy, reference = policies
    s = policy.sequences
    kl = policy.expected(token_kl(policy.logits(s), reference.logits(s)).sum(dim=1))
    entropy = policy.expected(token_entropy(policy.logits(s)).sum(dim=1))
    torch.testing.assert_close(kl, policy.sequence_kl(reference), **TIGHT)
    torch.testing.assert_close(entropy, policy.sequence_entropy(), **TIGHT)


def test_penalty_and_bonus_are_means_times_coefficient(policies):
    policy, reference = policies
    logits, ref_logits = policy.logits(policy.sequences), reference.logits(policy.sequences)
    torch.testing.assert_close(calc_kl_penalty(logits, ref_logits, 0.3, 2), 0.3 * token_kl(logits, ref_logits).mean(), **TIGHT)
    torch.testing.assert_close(calc_entropy_bonus(logits, 0.3, 2), 0.3 * token_entropy(logits).mean(), **TIGHT)


def test_no_gradient_reaches_the_reference():
    logits, ref_logits = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    calc_kl_penalty(logits, ref_logits, 1.0, 3).backward()
    assert ref_logits.grad is None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(("estimate", "unbiased"), [(estimate_kl_k1, True), (estimate_kl_k2, False), (estimate_kl_k3, True)])
def test_kl_estimators_bias(policies, estimate, unbiased):
    policy, reference = policies
    mean = policy.average_over(lambda s: estimate(policy.logprobs(s), reference.logprobs(s)).sum())
    assert (abs(mean - policy.sequence_kl(reference)) < 1e-12) == unbiased


def test_gradients_of_kl_estimators_as_losses(policies):
    """k1: none. k2: KL(policy || reference). k3: KL(reference || policy). Per token, with the prefixes' distribution held."""
    policy, reference = policies
    s, weights = policy.sequences, policy.probabilities().detach()

    def gradient_of(per_token):
        return policy.gradient((weights[:, None] * per_token).sum())

    forward, backward = token_kl(policy.logits(s), reference.logits(s)), token_kl(reference.logits(s), policy.logits(s))
    k1, k2, k3 = (fn(policy.logprobs(s), reference.logprobs(s)) for fn in (estimate_kl_k1, estimate_kl_k2, estimate_kl_k3))
    torch.testing.assert_close(gradient_of(k1), torch.zeros_like(policy.table), atol=1e-12, rtol=0)
    torch.testing.assert_close(gradient_of(k2), gradient_of(forward), **TIGHT)
    torch.testing.assert_close(gradient_of(k3), gradient_of(backward), **TIGHT)


def test_k3_is_never_negative():
    a, b = torch.randn(50, 4), torch.randn(50, 4)
    assert (estimate_kl_k3(a, b) >= 0).all()


@pytest.mark.parametrize("scale", [1e3, 1e4, 1e30])
def test_large_logits_stay_finite(scale):
    logits = (scale * torch.randn(2, 3, 5)).requires_grad_()
    ref_logits = scale * torch.randn(2, 3, 5)
    for value in (calc_entropy_bonus(logits, 1.0, 3), calc_kl_penalty(logits, ref_logits, 1.0, 3)):
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all()


def test_tokens_ruled_out_by_both_contribute_nothing():
    logits = torch.tensor([[[0.0, 1.0, -float("inf")]]], requires_grad=True)
    cut = torch.tensor([[[0.0, 1.0]]])
    assert token_entropy(logits).item() == pytest.approx(token_entropy(cut).item())
    assert token_kl(logits, logits.detach()).item() == pytest.approx(0, abs=1e-7)
    token_entropy(logits).sum().backward()
    assert logits.grad.isfinite().all()


# The value loss


def test_value_loss_by_hand():
    values, returns = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert calc_value_function_loss(values, returns, 0.1, 2).item() == pytest.approx(0.1 * 0.5 * (1 + 4) / 2)


def test_value_clipping_takes_the_larger_loss():
    values, returns, old = torch.tensor([[1.0]]), torch.tensor([[1.0]]), torch.tensor([[0.0]])
    clipped = calc_value_function_loss(values, returns, 1.0, 1, mb_values=old, clip_value=0.2)
    assert clipped.item() == pytest.approx(0.5 * 0.8**2)
    with pytest.raises(InputError, match="mb_values"):
        calc_value_function_loss(values, returns, 1.0, 1, clip_value=0.2)


# Reductions and masks


def test_reductions_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert reduce_tokens(values, 3, mask, "token").item() == pytest.approx(16 / 4)
    assert reduce_tokens(values, 3, mask, "sequence").item() == pytest.approx((2 + 10) / 2)
    assert reduce_tokens(values, 3, mask, "constant").item() == pytest.approx(16 / 6)


def test_wrong_gen_len_without_mask_is_an_error():
    with pytest.raises(InputError, match="gen_len=4"):
        calc_entropy_bonus(torch.randn(2, 5, 3), 1.0, 4)


NOISE = st.sampled_from([1e30, -1e30, float("inf"), -float("inf"), float("nan"), 7.0])


@settings(deadline=None, max_examples=60)
@given(noise=NOISE, seed=st.integers(0, 1000), reduction=st.sampled_from(["token", "sequence", "constant"]))
def test_masked_positions_never_matter(noise, seed, reduction):
    """Filled with anything at all, masked positions change neither a value nor a gradient, in every term."""
    torch.manual_seed(seed)
    mask = masks()
    first, second, third = (torch.randn(3, 5, dtype=torch.float64) for _ in range(3))
    shared = {"mask": mask, "reduction": reduction}
    terms = [
        lambda a, b, c: calc_clipped_surrogate_objective(a, b, c, 0.2, 5, **shared),
        lambda a, b, c: calc_clipped_surrogate_objective(a, b, c, 0.2, 5, eps=1e-8, **shared),
        lambda a, b, c: calc_value_function_loss(a, b, 0.5, 5, mb_values=c, clip_value=0.1, **shared),
        *(lambda a, b, c, k=k: calc_kl_estimate_penalty(a, b, 0.5, 5, estimator=k, **shared) for k in ("k1", "k2", "k3")),
    ]
    for term in terms:
        clean, noisy = (
            [x.clone() if fill is None else x.masked_fill(mask == 0, fill) for x in (first, second, third)]
            for fill in (None, noise)
        )
        results = []
        for inputs in (clean, noisy):
            inputs[0].requires_grad_()
            value = term(*inputs)
            results.append((value.detach(), torch.autograd.grad(value, inputs[0])[0]))
        torch.testing.assert_close(results[0], results[1], **TIGHT)


@settings(deadline=None, max_examples=30)
@given(scale=st.sampled_from([1.0, 1e3, 1e30]), seed=st.integers(0, 1000))
def test_masked_logits_never_matter(scale, seed):
    torch.manual_seed(seed)
    mask = masks()
    logits, ref_logits, noise = (torch.randn(3, 5, 7, dtype=torch.float64) for _ in range(3))
    noisy = torch.where(mask[..., None] == 1, logits, scale * noise)
    for term in (
        lambda x: calc_entropy_bonus(x, 0.5, 5, mask=mask),
        lambda x: calc_kl_penalty(x, ref_logits, 0.5, 5, mask=mask),
    ):
        torch.testing.assert_close(term(logits), term(noisy), **TIGHT)


def test_inputs_are_left_alone():
    tensors = [torch.randn(3, 5) for _ in range(3)]
    copies = [tensor.clone() for tensor in tensors]
    calc_clipped_surrogate_objective(*tensors, 0.2, 5, eps=1e-8)
    calc_value_function_loss(tensors[0], tensors[1], 0.1, 5)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))
