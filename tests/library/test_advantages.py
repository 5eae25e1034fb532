"""Advantages: closed forms by hand, equivalences, exact bias of the baselines, masks."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.advantages import (
    compute_advantages,
    compute_gae,
    compute_group_advantages,
    compute_leave_one_out,
    compute_process_advantages,
    last_real_token,
    normalize_reward,
)
from rlhf_lib.args import InputError
from rlhf_lib.oracle import TabularPolicy


def test_normalize_reward():
    reward = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(normalize_reward(reward), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4, rtol=0)
    assert torch.equal(normalize_reward(torch.tensor([5.0])), torch.zeros(1))
    assert torch.equal(normalize_reward(torch.full((7,), 0.1)), torch.zeros(7))


def test_one_step_td_by_hand():
    values = torch.tensor([[9.0, 1.0, 2.0, 3.0, 9.0]])  # prefix of 2, three generated tokens
    got = compute_advantages(values, torch.tensor([10.0]), 2)
    torch.testing.assert_close(got, torch.tensor([[2.0 - 1, 3 - 2, 10 - 3]]))


def test_one_step_td_pays_at_the_last_real_token():
    values = torch.tensor([[9.0, 1.0, 2.0, 3.0, 9.0]])
    got = compute_advantages(values, torch.tensor([10.0]), 2, mask=torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[2.0 - 1, 10 - 2, 0]]))


def test_gae_by_hand():
    values = torch.tensor([[1.0, 2.0, 9.0]], dtype=torch.float64)
    gamma, lam, reward = 0.9, 0.8, 3.0
    last = reward - 2
    first = 0.9 * 2 - 1 + gamma * lam * last
    got = compute_gae(values, torch.tensor([reward], dtype=torch.float64), 1, gamma=gamma, gae_lambda=lam)
    torch.testing.assert_close(got, torch.tensor([[first, last]], dtype=torch.float64))


def test_gae_limits():
    values, rewards = torch.randn(4, 7), torch.randn(4)
    torch.testing.assert_close(compute_gae(values, rewards, 3, gae_lambda=0.0), compute_advantages(values, rewards, 3))
    monte_carlo = rewards[:, None] - values[:, 2:-1]
    torch.testing.assert_close(compute_gae(values, rewards, 3, gae_lambda=1.0), monte_carlo, atol=1e-5, rtol=1e-5)


def test_gae_dones_cut_the_past_off():
    values, rewards = torch.randn(1, 6, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    dones = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    whole = compute_gae(values, rewards, 1, gamma=0.9, gae_lambda=0.7, dones=dones)
    first = compute_gae(values[:, :3], rewards[:, :2], 1, gamma=0.9, gae_lambda=0.7)
    second = compute_gae(values[:, 2:], rewards[:, 2:], 1, gamma=0.9, gae_lambda=0.7)
    torch.testing.assert_close(whole, torch.cat([first, second], dim=1))


def test_gae_centred_per_group():
    values, rewards, ids = torch.randn(4, 5), torch.randn(4), torch.tensor([7, 7, 3, 3])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    got = compute_gae(values, rewards, 2, group_ids=ids, mask=mask)
    plain = compute_gae(values, rewards, 2, mask=mask)
    for rows in (slice(0, 2), slice(2, 4)):
        expected = (plain[rows] - plain[rows].sum() / mask[rows].sum()) * mask[rows]
        torch.testing.assert_close(got[rows], expected)


@settings(deadline=None, max_examples=40)
@given(noise=st.sampled_from([float("nan"), float("inf"), 1e30]), seed=st.integers(0, 100))
def test_values_past_the_end_never_matter(noise, seed):
    torch.manual_seed(seed)
    values, rewards = torch.randn(3, 7), torch.randn(3)
    mask = (torch.arange(5) < torch.randint(1, 6, (3, 1))).float()
    after = torch.cat([torch.zeros(3, 2), 1 - mask], dim=1) == 1
    noisy = values.masked_fill(after, noise)
    for fn in (compute_advantages, compute_gae):
        torch.testing.assert_close(fn(values, rewards, 2, mask=mask), fn(noisy, rewards, 2, mask=mask))


@pytest.mark.parametrize("prefix_len", [0, 5, 9])
def test_prefix_len_out_of_range(prefix_len):
    with pytest.raises(InputError, match=f"prefix_len={prefix_len}"):
        compute_advantages(torch.zeros(1, 5), torch.zeros(1), prefix_len)


# Groups


@pytest.mark.parametrize(("std", "ddof"), [("unbiased", 1), ("population", 0)])
def test_group_advantages_by_hand(std, ddof):
    rewards = torch.tensor([1.0, 0, 0, 0, 5, 3, 3, 1], dtype=torch.float64)
    groups = rewards.reshape(2, 4)
    expected = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, correction=ddof, keepdim=True) + 1e-4)
    torch.testing.assert_close(compute_group_advantages(rewards, 4, std=std), expected.flatten())


def test_group_advantages_without_deviation_are_centred():
    rewards = torch.tensor([1.0, 0, 5, 3])
    torch.testing.assert_close(compute_group_advantages(rewards, 2, std="none"), torch.tensor([0.5, -0.5, 1, -1]))


@pytest.mark.parametrize("std", ["unbiased", "population", "none"])
def test_a_group_without_spread_contributes_exactly_nothing(std):
    rewards = torch.cat([torch.full((3,), 0.1), torch.tensor([0.0, 1.0, 0.0])])
    got = compute_group_advantages(rewards, 3, std=std)
    assert torch.equal(got[:3], torch.zeros(3))
    assert got[3:].abs().sum() > 0


@pytest.mark.parametrize(("count", "size"), [(6, 4), (4, 1)])
def test_bad_group_sizes(count, size):
    with pytest.raises(InputError, match=f"group_size={size}"):
        compute_group_advantages(torch.zeros(count), size)


def test_process_supervision_by_hand():
    step_rewards = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    step_ends = torch.tensor([[1, 3], [0, -1]])  # the second completion has one step; its second entry is no step
    steps = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    high, low = ((x - steps.mean()) / (steps.std() + 1e-4) for x in (1.0, 0.0))
    got = compute_process_advantages(step_rewards, step_ends, 4, 2)
    expected = torch.stack([torch.stack([high + low, high + low, low, low]), torch.stack([high, *[high * 0] * 3])])
    torch.testing.assert_close(got, expected)


def test_process_supervision_with_one_step_is_outcome_supervision():
    rewards = torch.randn(8)
    ends = torch.full((8, 1), 4)
    process = compute_process_advantages(rewards[:, None], ends, 5, 4)
    torch.testing.assert_close(process, compute_group_advantages(rewards, 4)[:, None].expand(8, 5))


def expected_group_gradient(policy, rewards, advantages_of):
    """Exact expectation, over all pairs of sequences, of the group's policy gradient."""
    weights, s = policy.probabilities().detach(), policy.sequences
    total = 0.0
    for i, j in itertools.product(range(len(s)), repeat=2):
        advantages = advantages_of(rewards[[i, j]])
        total = total + weights[i] * weights[j] * (advantages * policy.logprobs(s[[i, j]]).sum(dim=1)).mean()
    return policy.gradient(total)


def test_bias_of_group_baselines():
    """Leave-one-out is unbiased; a mean with oneself in it shrinks by (G-1)/G; dividing by the deviation is biased."""
    policy = TabularPolicy(vocab=2, length=2, seed=3)
    rewards = torch.tensor([0.0, 1.0, 0.3, 2.0], dtype=torch.float64)
    exact = policy.gradient(policy.expected(rewards))
    loo = expected_group_gradient(policy, rewards, lambda r: compute_leave_one_out(r, 2))
    centred = expected_group_gradient(policy, rewards, lambda r: compute_group_advantages(r, 2, std="none"))
    divided = expected_group_gradient(policy, rewards, lambda r: compute_group_advantages(r, 2))
    torch.testing.assert_close(loo, exact, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(centred, exact / 2, atol=1e-12, rtol=1e-9)
    cosine = torch.nn.functional.cosine_similarity(divided.flatten(), exact.flatten(), dim=0)
    assert 0 < cosine < 0.99


def test_inputs_are_left_alone():
    values, rewards = torch.randn(4, 6), torch.randn(4)
    before = values.clone(), rewards.clone()
    compute_gae(values, rewards, 2)
    compute_advantages(values, rewards, 2)
    compute_group_advantages(rewards, 2)
    normalize_reward(rewards)
    assert torch.equal(values, before[0])
    assert torch.equal(rewards, before[1])


@pytest.mark.parametrize("by_token", [False, True], ids=["one reward", "a reward a token"])
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    prefix_len=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    with_dones=st.booleans(),
)
def test_what_is_put_in_from_outside_is_skipped(by_token, lengths, prefix_len, seed, with_dones):
    """A completion with other tokens between its own has the advantages of the same one without them, and 0 there."""
    random = torch.Generator().manual_seed(seed)
    gen_len = 9
    values = torch.randn(len(lengths), prefix_len + gen_len, generator=random)
    mask, closed = torch.zeros(2, len(lengths), gen_len)
    columns, dones = torch.randn(2, len(lengths), gen_len, generator=random)
    rewards, dones = columns if by_token else columns[:, 0], (dones > 1).float()
    places = [torch.randperm(gen_len, generator=random)[:length].sort().values for length in lengths]
    short = torch.zeros(len(lengths), 1 + gen_len)
    short_rewards, short_dones = torch.zeros(2, len(lengths), gen_len)
    for i, place in enumerate(places):
        mask[i, place], closed[i, : len(place)] = 1, 1
        short[i, : len(place)] = values[i, prefix_len - 1 + place]
        short_rewards[i, : len(place)], short_dones[i, : len(place)] = columns[i, place], dones[i, place]
    given_rewards = (rewards, short_rewards if by_token else rewards)
    options = {"gamma": 0.9, "gae_lambda": 0.8}
    found, expected = (
        compute_gae(v, r, prefix, mask=m, dones=d if with_dones else None, **options)
        for v, r, prefix, m, d in (
            (values, given_rewards[0], prefix_len, mask, dones),
            (short, given_rewards[1], 1, closed, short_dones),
        )
    )
    for i, place in enumerate(places):
        torch.testing.assert_close(found[i, place], expected[i, : len(place)])
    assert (found[mask == 0] == 0).all()
    if not by_token:
        one_step = compute_advantages(values, rewards, prefix_len, mask=mask)
        torch.testing.assert_close(one_step, compute_gae(values, rewards, prefix_len, gae_lambda=0.0, mask=mask))


def test_the_last_real_token_stands_behind_holes():
    mask = torch.tensor([[1.0, 0, 0, 1, 1], [0, 1, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    expected = torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert torch.equal(last_real_token(mask), expected)
