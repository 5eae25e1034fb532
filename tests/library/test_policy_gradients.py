"""The family of policy gradients: expectations on a policy that can be enumerated, and what must be equal to what."""

import dataclasses
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.advantages import (
    compute_gae,
    compute_group_advantages,
    compute_kl_to_go,
    compute_leave_one_out,
    compute_over_mean,
    compute_process_advantages,
    spread_over_tokens,
)
from rlhf_lib.algorithms import SURROGATES, chosen
from rlhf_lib.args import InputError
from rlhf_lib.correction import sampler_weights
from rlhf_lib.objectives import calc_clipped_surrogate_objective, estimate_kl_k3, reduce_tokens
from rlhf_lib.rollouts import TokenScores
from rlhf_lib.runs import ratio_metrics
from rlhf_lib.surrogates import sequence_ratio, token_ratio

CLIP = (0.8, 1.28)
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # the trainers compute in float32


@pytest.fixture
def estimators(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("estimators")


def expected(estimators, name, group=2, rewards=None, **options):
    """The expected gradient of an algorithm, and the exact one of the expected reward."""
    policy, given_rewards = estimators.example()
    one = estimators.Enumeration(name, policy, given_rewards if rewards is None else rewards, group, **options)
    return one.moments()[0], one.exact()


class TestExpectation:
    """Reduction "constant" divides by gen_len, which is 2 here."""

    @pytest.mark.parametrize(
        ("name", "share"), [("reinforce", 1.0), ("rloo", 1.0), ("reinforce-baseline", 1 / 2), ("dr-grpo", 1 / 2)]
    )
    def test_the_true_gradient_or_a_known_part_of_it(self, estimators, name, share):
        mean, exact = expected(estimators, name)
        torch.testing.assert_close(2 * mean, share * exact, **EXACT)

    @pytest.mark.slow
    @pytest.mark.parametrize(("name", "share"), [("rloo", 1.0), ("reinforce-baseline", 2 / 3), ("dr-grpo", 2 / 3)])
    def test_in_groups_of_three(self, estimators, name, share):
        mean, exact = expected(estimators, name, group=3)
        torch.testing.assert_close(2 * mean, share * exact, **EXACT)

    @pytest.mark.parametrize("name", ["grpo", "gspo", "gdpo", "reinforce++", "self-training"])
    def test_a_deviation_or_a_length_in_the_denominator_turns_it(self, estimators, name):
        mean, exact = expected(estimators, name)
        assert torch.nn.functional.cosine_similarity(mean.flatten(), exact.flatten(), dim=0) < 0.9

    def test_kl_in_the_reward_is_the_gradient_of_the_divergence(self, estimators):
        """RLOO with a reference: reward minus kl_coef times KL(policy || reference) of whole completions."""
        policy, rewards = estimators.example()
        reference = estimators.TabularPolicy(vocab=3, length=2, seed=5)
        options = {"reference": reference, "options": {"kl_coef": 0.3}}
        mean = estimators.Enumeration("rloo", policy, rewards, 2, **options).moments()[0]
        ended = (policy.sequences == 0).int()
        mask = ended.cumsum(1) - ended == 0
        ratio = ((policy.logprobs(policy.sequences) - reference.logprobs(policy.sequences)) * mask).sum(1)
        value = policy.expected(rewards.sum(0).double()) - 0.3 * policy.expected(ratio)
        torch.testing.assert_close(2 * mean, policy.gradient(value), **EXACT)

    @pytest.mark.parametrize("group", [2, 3])
    def test_maxrl_climbs_a_truncated_log_likelihood(self, estimators, group):
        """With rewards of 0 and 1: the gradient of -sum over k < G of (1 - p)^k / k, Taylor's log p with G - 1 terms."""
        policy, rewards = estimators.example()
        right = rewards[:1]
        options = {"reduction": "constant"}
        mean = estimators.Enumeration("maxrl", policy, right, group, options=options).moments()[0]
        p = policy.expected(right[0].double())
        value = -sum((1 - p) ** k / k for k in range(1, group))
        torch.testing.assert_close(2 * mean, policy.gradient(value), **EXACT)

    def test_the_lower_the_baseline_error_the_lower_the_noise(self, estimators):
        policy, rewards = estimators.example()
        noise = {name: estimators.Enumeration(name, policy, rewards).moments()[1] for name in ("reinforce", "rloo")}
        assert noise["rloo"] < noise["reinforce"]


def tokens(seed, rows=4, columns=5):
    """Log-probabilities now and earlier, advantages and a mask."""
    generator = torch.Generator().manual_seed(seed)
    logprobs, advantages = -torch.rand(rows, columns, generator=generator), torch.randn(rows, columns, generator=generator)
    mask = (torch.arange(columns) < torch.randint(1, columns + 1, (rows, 1), generator=generator)).float()
    return logprobs.requires_grad_(), advantages, mask


class TestEquivalences:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(2, 6), st.integers(0, 10**6))
    def test_rloo_is_a_multiple_of_dr_grpo(self, group, seed):
        rewards = torch.randn(3 * group, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        centred = compute_group_advantages(rewards, group, std="none")
        torch.testing.assert_close(compute_leave_one_out(rewards, group), group / (group - 1) * centred)

    def test_one_token_makes_gspo_grpo(self):
        logprobs, advantages, _ = tokens(0, columns=1)
        old, mask = logprobs.detach() + 0.3 * torch.randn(4, 1), torch.ones(4, 1)
        found = []
        for ratio in (token_ratio, sequence_ratio):
            each = chosen("clipped", SURROGATES)(ratio(logprobs - old, mask), advantages, logprobs, mask, CLIP)
            value = reduce_tokens(each, 1, mask, "sequence")
            found.append((value.detach(), *torch.autograd.grad(value, logprobs)))
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("surrogate", SURROGATES)
    def test_at_ratio_one_all_surrogates_have_one_gradient(self, surrogate):
        """The clip does nothing in the first inner step."""
        logprobs, advantages, mask = tokens(1)
        ratio = token_ratio(logprobs - logprobs.detach(), mask)
        each = SURROGATES[surrogate](ratio, advantages, logprobs, mask, CLIP)
        (gradient,) = torch.autograd.grad(reduce_tokens(each, 5, mask, "constant"), logprobs)
        torch.testing.assert_close(gradient, advantages * mask / 20, atol=1e-7, rtol=1e-5)

    def test_lambda_one_and_gamma_one_are_returns_minus_values(self):
        values, rewards = torch.randn(3, 9), torch.randn(3)
        mask = (torch.arange(4) < torch.tensor([[4], [2], [1]])).float()
        found = compute_gae(values, rewards, 5, gamma=1.0, gae_lambda=1.0, mask=mask)
        torch.testing.assert_close(found, (rewards[:, None] - values[:, 4:-1]) * mask, atol=1e-5, rtol=1e-5)

    def test_one_step_at_the_end_is_the_outcome(self):
        rewards = torch.randn(8)
        ends = torch.full((8, 1), 5)
        process = compute_process_advantages(rewards[:, None], ends, 6, 4)
        outcome = spread_over_tokens(compute_group_advantages(rewards, 4), 6)
        torch.testing.assert_close(process, outcome, atol=1e-5, rtol=1e-5)

    def test_the_surrogate_of_the_course_is_the_tables(self):
        logprobs, advantages, mask = tokens(2)
        old = logprobs.detach() + 0.4 * torch.randn(4, 5)
        ours = reduce_tokens(
            SURROGATES["clipped"](token_ratio(logprobs - old, mask), advantages, logprobs, mask, CLIP), 5, mask
        )
        course = calc_clipped_surrogate_objective(logprobs, old, advantages, 0.2, 5, clip_coef_high=0.28, mask=mask)
        torch.testing.assert_close(ours, course)
        torch.testing.assert_close(*(torch.autograd.grad(value, logprobs)[0] for value in (ours, course)))

    def test_grpo_of_the_table_is_grpo_of_the_course(self, make):
        """Advantages, objective and gradient on the same memory."""
        changes = {"group_size": 4, "batch_size": 8, "num_minibatches": 1, "kl_coef": 0.3, "ent_coef": 0.1, "clip_coef": 0.1}
        course, table = make("grpo", **changes), make("dr-grpo", **changes, kl_estimator="k2", reduction="token")
        table.algorithm = dataclasses.replace(table.algorithm, advantage="group-whitened")
        course.args.kl_estimator = "k2"
        torch.manual_seed(3)
        memory = course.rollout_phase()
        logits = torch.zeros(8, 7, 4)
        scores = TokenScores(logits, logits, memory.logprobs, memory.ref_logprobs)
        rewards = course.rewarded.rewards
        assert torch.equal(memory.advantages, table.compute_token_advantages(rewards, scores, course.sampled))
        minibatch = memory.get_minibatches()[0]
        minibatch.logprobs = minibatch.logprobs + 0.2 * torch.randn_like(minibatch.logprobs)
        found = []
        for trainer in (course, table):
            value = trainer.compute_rlhf_objective(minibatch)
            found.append((value.detach(), *torch.autograd.grad(value, trainer.model.lora_params(), allow_unused=True)))
        for a, b in zip(*found, strict=True):
            assert (a is None and b is None) or torch.allclose(a, b, atol=1e-7, rtol=1e-5)


class TestFormulas:
    def test_over_the_mean_by_hand(self):
        rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
        assert compute_over_mean(rewards, 4).tolist() == [1.0, -1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        assert compute_over_mean(torch.tensor([-1.0, -3.0]), 2).tolist() == [0.0, 0.0]

    def test_kl_to_go_by_hand(self):
        logprobs = torch.tensor([[-1.0, -2.0, -3.0, float("inf")]])
        mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
        found = compute_kl_to_go(logprobs, torch.tensor([[-1.5, -1.0, -5.0, 0.0]]), mask)
        assert found.tolist() == [[1.5, 1.0, 2.0, 0.0]]

    def test_no_such_name(self):
        with pytest.raises(InputError, match="'clip' is none of log-likelihood, clipped"):
            chosen("clip", SURROGATES)

    @pytest.mark.parametrize("nats", [25.0, 100.0, 1e4, -1e4])
    def test_any_log_ratio_gives_finite_numbers(self, nats):
        """e^89 is infinite in float32; a policy may move further than that."""
        logprobs, advantages, mask = tokens(3)
        old = logprobs.detach() - nats
        for ratio in (token_ratio, sequence_ratio):
            for surrogate in SURROGATES.values():
                each = surrogate(ratio(logprobs - old, mask), advantages, logprobs, mask, CLIP)
                (gradient,) = torch.autograd.grad(each.sum(), logprobs)
                assert each.isfinite().all()
                assert gradient.isfinite().all()
        assert calc_clipped_surrogate_objective(logprobs, old, advantages, 0.2, 5, mask=mask).isfinite()
        assert estimate_kl_k3(logprobs, old).isfinite().all()
        assert estimate_kl_k3(old, logprobs).isfinite().all()
        for kind in ("token", "token-mask", "sequence", "sequence-mask"):
            assert sampler_weights(logprobs, old, 2.0, mask, kind).isfinite().all()
        assert all(torch.isfinite(torch.as_tensor(v)) for v in ratio_metrics(logprobs, old, advantages, CLIP, mask).values())
