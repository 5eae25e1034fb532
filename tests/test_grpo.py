"""Checkers of chapters/4_grpo.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import torch

from rlhf_lib.course import expect
from rlhf_lib.course.agree import agree


def rewards_of(student, groups, group_size):
    """Random rewards, whole numbers and others, in which every group has spread and its own level."""
    levels = 3 * student.randn(groups, 1)
    return (levels + student.randn(groups, group_size) * (1 + student.rand(groups, 1))).reshape(-1)


def group_relative(rewards, group_size, *, std="unbiased", eps=1e-4):
    out = []
    for group in rewards.split(group_size):
        centred = group - group.mean()
        if std == "none":
            out.append(centred)
        else:
            out.append(centred / ((centred.square().sum() / (len(group) - (std == "unbiased"))).sqrt() + eps))
    return torch.cat(out)


def test_compute_group_advantages__values(student):
    """Each reward relative to its own group: (r - mean) / (std + eps)."""
    for groups, size in ((1, 8), (3, 4), (5, 2)):
        agree(student, "compute_group_advantages", group_relative, rewards_of(student, groups, size), size)


def test_compute_group_advantages__kinds_of_deviation(student):
    """std is unbiased (n - 1), population (n) or none."""
    rewards = rewards_of(student, 3, 4)
    for std in ("population", "none", "unbiased"):
        agree(student, "compute_group_advantages", group_relative, rewards, 4, std=std)


def test_compute_group_advantages__eps_is_added(student):
    """eps is added to the deviation, which matters where rewards hardly differ."""
    agree(student, "compute_group_advantages", group_relative, 1e-3 * student.randn(8), 4, eps=0.1)


def test_compute_group_advantages__a_group_without_spread(student):
    """A group whose rewards are all the same has nothing to teach: exact zeros, beside a group that has."""
    flat = student.rand(1).expand(4) * 0.7
    rewards = torch.cat([flat, student.randn(4)])
    got = student.call("compute_group_advantages", rewards, 4)
    expect.equal(got[:4], torch.zeros(4), "the flat group's advantages")
    expect.close(got, torch.cat([torch.zeros(4), group_relative(rewards[4:], 4)]))


def test_spread_over_tokens__values(student):
    """Every token of a completion gets the completion's advantage."""
    for batch, gen_len in ((4, 3), (1, 5), (3, 1), (2, 2)):
        advantages = student.randn(batch)
        agree(student, "spread_over_tokens", lambda a, n: a[:, None].expand(-1, n), advantages, gen_len)


def leave_one_out(rewards, group_size):
    groups = rewards.split(group_size)
    return torch.stack([g[i] - (g.sum() - g[i]) / (len(g) - 1) for g in groups for i in range(len(g))])


def test_compute_leave_one_out__values(student):
    """Each reward minus the mean of the other completions of its prompt."""
    for groups, size in ((1, 6), (3, 4), (4, 2)):
        agree(student, "compute_leave_one_out", leave_one_out, rewards_of(student, groups, size), size)


def test_compute_leave_one_out__equal_rewards(student):
    """A group whose rewards are all the same gets zeros."""
    rewards = torch.cat([torch.full((4,), 3.0), student.randn(4)])
    agree(student, "compute_leave_one_out", leave_one_out, rewards, 4)


def process_advantages(step_rewards, step_ends, gen_len, group_size, *, std="unbiased", eps=1e-4):
    batch, steps = step_rewards.shape
    out = torch.zeros(batch, gen_len)
    for start in range(0, batch, group_size):
        rows = range(start, start + group_size)
        present = [(i, k) for i in rows for k in range(steps) if step_ends[i, k] >= 0]
        values = torch.stack([step_rewards[i, k] for i, k in present])
        centred = values - values.mean()
        if std != "none":
            centred = centred / ((centred.square().sum() / (len(values) - (std == "unbiased"))).sqrt() + eps)
        for (i, k), value in zip(present, centred, strict=True):
            out[i, : step_ends[i, k] + 1] += value
    return out


def steps_of(student, batch, steps, gen_len):
    """Random step rewards; ends rise within a completion, and some completions have fewer steps."""
    ends = torch.stack([torch.randperm(gen_len, generator=student.inputs)[:steps].sort().values for _ in range(batch)])
    counts = student.integers(1, steps + 1, batch, 1)
    counts[0], counts[1] = steps, 1
    return 2 + 3 * student.randn(batch, steps), ends.masked_fill(torch.arange(steps) >= counts, -1)


def test_compute_process_advantages__all_steps_present(student):
    """The normalised rewards of the steps that end at or after each token, summed."""
    rewards, _ = steps_of(student, 4, 3, 9)
    ends = torch.stack([torch.randperm(9, generator=student.inputs)[:3].sort().values for _ in range(4)])
    agree(student, "compute_process_advantages", process_advantages, rewards, ends, 9, 4)


def test_compute_process_advantages__fewer_steps(student):
    """Completions with fewer steps: an end of -1 is no step, in the sums and in the group's mean and deviation."""
    for batch, group in ((4, 4), (6, 2)):
        agree(student, "compute_process_advantages", process_advantages, *steps_of(student, batch, 3, 7), 7, group)


def test_compute_process_advantages__one_step(student):
    """With one step at the last token it is outcome supervision."""
    rewards = student.randn(6)
    got = student.call("compute_process_advantages", rewards[:, None], torch.full((6, 1), 4), 5, 3)
    expect.close(got, group_relative(rewards, 3)[:, None].expand(-1, 5), rtol=1e-4)


def logprob_pair(student, *shape):
    """Log-probabilities of a policy and of a reference that differs."""
    return -3 * student.rand(*shape), -3 * student.rand(*shape)


def test_estimate_kl_k1_k2__k1(student):
    """k1 is log(policy / reference), and trains."""
    for shape in ((3, 4), (1, 6)):
        agree(student, "estimate_kl_k1", lambda logprobs, ref: logprobs - ref, *logprob_pair(student, *shape), wrt=(0,))


def test_estimate_kl_k1_k2__k2(student):
    """k2 is half the squared log-ratio."""
    agree(student, "estimate_kl_k2", lambda logprobs, ref: 0.5 * (logprobs - ref) ** 2, *logprob_pair(student, 3, 4), wrt=(0,))


def k3(logprobs, ref_logprobs):
    q = ref_logprobs - logprobs
    return q.exp() - q - 1


def test_estimate_kl_k3__values_and_gradients(student):
    """exp(q) - q - 1 with q = log(reference / policy), for each token, and its gradient."""
    for shape in ((3, 4), (1, 6)):
        agree(student, "estimate_kl_k3", k3, *logprob_pair(student, *shape), wrt=(0,))


def test_estimate_kl_k3__equal_policies(student):
    """Where policy and reference agree it is 0, and it is never below."""
    logprobs, _ = logprob_pair(student, 2, 5)
    expect.close(student.call("estimate_kl_k3", logprobs, logprobs.clone()), torch.zeros(2, 5))
    policy, reference = logprob_pair(student, 2, 5)
    least = student.call("estimate_kl_k3", policy, reference).min().item()
    expect.true(least >= -1e-6, "nothing below 0", f"a least value of {least:.4g}")


def test_estimate_kl_k3__estimates_the_divergence(student):
    """Its mean over samples of the policy is KL(policy || reference), here over an enumerable policy."""
    policy, reference = (student.randn(1, 7).log_softmax(-1) for _ in range(2))
    estimate = (policy.exp() * student.call("estimate_kl_k3", policy, reference)).sum()
    expect.close(estimate, (policy.exp() * (policy - reference)).sum(), "expectation under the policy", rtol=1e-4)


def estimated_penalty(logprobs, ref_logprobs, kl_coef, gen_len, *, estimator="k3", mask=None, reduction="token"):
    q = ref_logprobs - logprobs
    per_token = {"k1": -q, "k2": q**2 / 2, "k3": q.exp() - q - 1}[estimator]
    if mask is None:
        return kl_coef * per_token.sum() / per_token.numel()
    kept = torch.where(mask == 1, per_token, torch.zeros(()))
    if reduction == "token":
        return kl_coef * kept.sum() / mask.sum()
    if reduction == "sequence":
        return kl_coef * (kept.sum(1) / mask.sum(1)).mean()
    return kl_coef * kept.sum() / (len(mask) * gen_len)


def test_calc_kl_estimate_penalty__values_and_gradients(student):
    """kl_coef times the mean estimate per token; gradient to the policy, none to the reference."""
    for estimator in ("k3", "k1", "k2"):
        pair = logprob_pair(student, 3, 4)
        agree(
            student, "calc_kl_estimate_penalty", estimated_penalty, *pair, 0.3, 4,
            estimator=estimator, wrt=(0,), no_gradient_to=(1,),
        )  # fmt: skip


def test_calc_kl_estimate_penalty__masks(student):
    """Tokens after the end count for nothing, in every reduction."""
    logprobs, reference = logprob_pair(student, 3, 5)
    mask = (torch.arange(5) < torch.tensor([[5], [2], [3]])).float()
    for reduction in ("token", "sequence", "constant"):
        agree(
            student, "calc_kl_estimate_penalty", estimated_penalty, logprobs, reference, 0.5, 5,
            mask=mask, reduction=reduction, wrt=(0,),
        )  # fmt: skip


def metrics_by_counting(rewards, group_size, best=None):
    groups = rewards.split(group_size)
    best = rewards.max() if best is None else best
    flat = [g for g in groups if len(set(g.tolist())) == 1]
    right = [g for g in flat if g[0] >= best and g[0] > 0]
    return {
        "groups_without_spread": len(flat) / len(groups),
        "groups_all_right": len(right) / len(groups),
        "groups_all_wrong": (len(flat) - len(right)) / len(groups),
    }


def compare_metrics(student, rewards, group_size):
    got = student.call("group_metrics", rewards, group_size)
    for name, value in metrics_by_counting(rewards, group_size).items():
        expect.true(isinstance(got, dict) and name in got, f"a dictionary with {name}", expect.show(got))
        expect.close(got[name], value, name)


def test_group_metrics__shares(student):
    """Of all groups: the share without spread, split into all right and all wrong."""
    groups = [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    order = torch.randperm(len(groups), generator=student.inputs)
    compare_metrics(student, torch.tensor(groups, dtype=torch.float)[order].reshape(-1), 3)


def test_group_metrics__nothing_right(student):
    """When no completion of the phase was right, no group is all right."""
    compare_metrics(student, torch.zeros(8), 4)


def test_group_metrics__one_group(student):
    """A single group with spread."""
    compare_metrics(student, torch.cat([torch.ones(1), student.integers(0, 1, 3)]), 4)
