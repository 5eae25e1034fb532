"""The oracle itself, against brute force by sampling-free identities."""

import torch

from rlhf_lib.oracle import TabularPolicy


def test_probabilities_sum_to_one_and_entropy_is_bounded():
    policy = TabularPolicy(vocab=3, length=3)
    assert len(policy.sequences) == 27
    torch.testing.assert_close(policy.probabilities().sum().item(), 1.0)
    uniform = TabularPolicy(vocab=3, length=3, scale=0.0)
    torch.testing.assert_close(uniform.sequence_entropy(), 3 * torch.tensor(3.0, dtype=torch.float64).log())
    assert policy.sequence_entropy() < uniform.sequence_entropy()


def test_kl_is_zero_only_for_equals():
    policy, other = TabularPolicy(seed=0), TabularPolicy(seed=1)
    assert abs(policy.sequence_kl(policy)) < 1e-12
    assert policy.sequence_kl(other) > 0.01
    torch.testing.assert_close(
        policy.sequence_kl(TabularPolicy(scale=0.0)),
        2 * torch.tensor(3.0, dtype=torch.float64).log() - policy.sequence_entropy(),
    )


def test_the_score_function_has_mean_zero():
    policy = TabularPolicy()
    gradient = policy.gradient(policy.average_over(lambda s: policy.logprobs(s).sum()))
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def test_gradient_against_finite_differences():
    policy = TabularPolicy(vocab=2, length=2)
    rewards = torch.tensor([0.0, 1.0, 2.0, -1.0], dtype=torch.float64)
    exact = policy.gradient(policy.expected(rewards))
    with torch.no_grad():
        for index in ((0, 0), (1, 1), (2, 0)):
            policy.table[index] += 1e-6
            up = policy.expected(rewards)
            policy.table[index] -= 2e-6
            down = policy.expected(rewards)
            policy.table[index] += 1e-6
            torch.testing.assert_close((up - down) / 2e-6, exact[index], atol=1e-8, rtol=1e-6)
