"""Checkers of chapters/4_grpo.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import dataclasses

import torch

from rlhf_lib.args import GrpoArgs
from rlhf_lib.course import expect
from rlhf_lib.course.agree import agree, refuse_gradient, require_defaults, require_gradient
from rlhf_lib.course.rewards import always_seven, count_vowels
from rlhf_lib.course.twins import disturb, expected_reward, twin_of
from rlhf_lib.memory import ReplayMinibatch
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.rollouts import get_logprobs, rollout
from rlhf_lib.tasks import make_task


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
    agree(student, "compute_group_advantages", group_relative, 1e-3 * student.randn(8), 4, rtol=1e-4)
    require_defaults(student, "compute_group_advantages", std="unbiased", eps=1e-4)


def inexact(student, size):
    """A number whose mean over `size` copies is off by rounding."""
    while True:
        number = student.rand(1)
        if not torch.equal(number.expand(size).mean(), number[0]):
            return number


def test_compute_group_advantages__a_group_without_spread(student):
    """A group whose rewards are all the same has nothing to teach: exact zeros, beside a group that has."""
    flat = torch.cat([inexact(student, 7).expand(7), -inexact(student, 7).expand(7)])
    got = student.call("compute_group_advantages", flat, 7)
    expect.equal(got.float(), torch.zeros(14), "the advantages of two flat groups")
    for std in ("unbiased", "population", "none"):
        flat = inexact(student, 7).expand(7)
        rewards = torch.cat([flat, student.randn(7)])
        got = student.call("compute_group_advantages", rewards, 7, std=std)
        expect.close(got, torch.cat([torch.zeros(7), group_relative(rewards[7:], 7, std=std)]))
        expect.equal(got[:7].float(), torch.zeros(7), "the flat group's advantages")


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


def test_compute_process_advantages__a_step_of_one_token(student):
    """A step may end at the first token, position 0, and steps of a completion may stand in any column."""
    ends = torch.tensor([[0, 3, -1], [2, 0, 4], [-1, -1, 0], [4, -1, 1]])
    agree(student, "compute_process_advantages", process_advantages, 2 + 3 * student.randn(4, 3), ends, 5, 2)


def test_compute_process_advantages__deviation_and_eps(student):
    """std and eps mean what they mean for one reward a completion; left out they are "unbiased" and 1e-4."""
    rewards, ends = steps_of(student, 4, 3, 7)
    for std in ("population", "none"):
        agree(student, "compute_process_advantages", process_advantages, rewards, ends, 7, 2, std=std)
    agree(student, "compute_process_advantages", process_advantages, 1e-2 * rewards, ends, 7, 2, eps=0.1)
    require_defaults(student, "compute_process_advantages", std="unbiased", eps=1e-4)


def test_compute_process_advantages__one_step(student):
    """With one step at the last token it is outcome supervision."""
    rewards = student.randn(6)
    got = student.call("compute_process_advantages", rewards[:, None], torch.full((6, 1), 4), 5, 3)
    expect.close(got, group_relative(rewards, 3)[:, None].expand(-1, 5))


def logprob_pair(student, *shape):
    """Log-probabilities of a policy and of a reference that differs."""
    return -3 * student.rand(*shape), -3 * student.rand(*shape)


def test_estimate_kl_k1_k2__k1(student):
    """k1 is log(policy / reference), and trains."""
    for shape in ((3, 4), (1, 6)):
        agree(student, "estimate_kl_k1", lambda logprobs, ref: logprobs - ref, *logprob_pair(student, *shape), wrt=(0,))


def test_estimate_kl_k1_k2__k2(student):
    """k2 is half the squared log-ratio."""
    for shape in ((3, 4), (1, 6)):
        pair = logprob_pair(student, *shape)
        agree(student, "estimate_kl_k2", lambda logprobs, ref: 0.5 * (logprobs - ref) ** 2, *pair, wrt=(0,))


def gradient_of_mean(student, name, logits, reference):
    """The expected gradient of an estimate with respect to a policy's logits: its mean over all tokens, none sampled."""
    policy = logits.log_softmax(-1)
    value, grads = student.value_and_grad(name, policy, reference, weights=policy.exp())
    expect.true(isinstance(value, torch.Tensor) and value.shape == policy.shape, "one number a token", expect.show(value))
    if grads[0] is None:
        require_gradient(None, policy, "logprobs")
    return grads[0] - policy.exp() * grads[0].sum(-1, keepdim=True)


def gradient_of(logits, divergence):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(divergence(logits.log_softmax(-1)), logits)[0]


def test_estimate_kl_k1_k2__expected_gradients(student):
    """As losses: k1's expected gradient is zero, k2's is that of KL(policy || reference)."""
    logits, reference = student.randn(1, 7), student.randn(1, 7).log_softmax(-1)
    exact = gradient_of(logits, lambda policy: (policy.exp() * (policy - reference)).sum())
    got = gradient_of_mean(student, "estimate_kl_k1", logits, reference)
    expect.close(got, torch.zeros(1, 7), "expected gradient of k1 with respect to the policy's logits")
    got = gradient_of_mean(student, "estimate_kl_k2", logits, reference)
    expect.close(got, exact, "expected gradient of k2 with respect to the policy's logits", rtol=1e-4)


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


def test_estimate_kl_k3__far_from_the_reference(student):
    """Beyond LARGEST_LOG_RATIO, 20, the log-ratio counts as 20: neither the estimate nor its gradient is infinite."""
    reference = -student.rand(2, 4)
    policy = reference - torch.tensor([[19.0, 21.0, 60.0, 90.0], [100.0, 3.0, 500.0, 0.5]])
    weights = student.rand(2, 4)
    got, grads = student.value_and_grad("estimate_kl_k3", policy, reference, weights=weights)
    q = (reference - policy).double().clamp(max=20)
    expect.close(got, (q.exp() - q - 1).float(), rtol=1e-4)
    expect.true(grads[0] is None or bool(grads[0].isfinite().all()), "a finite gradient", expect.show(grads[0]))


def test_estimate_kl_k3__expected_gradient(student):
    """As a loss its expected gradient is that of KL(reference || policy): the divergence the other way round."""
    logits, reference = student.randn(1, 7), student.randn(1, 7).log_softmax(-1)
    forward = gradient_of(logits, lambda policy: (reference.exp() * (reference - policy)).sum())
    got = gradient_of_mean(student, "estimate_kl_k3", logits, reference)
    expect.close(got, forward, "expected gradient with respect to the policy's logits", rtol=1e-4)


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
            mask=mask, reduction=reduction, wrt=(0,), no_gradient_to=(1,),
        )  # fmt: skip
    agree(student, "calc_kl_estimate_penalty", estimated_penalty, logprobs, reference, 0.5, 5, mask=mask, wrt=(0,))


def test_calc_kl_estimate_penalty__infinities_in_padding(student):
    """What stands after the end never matters, not even an infinity, in value or gradient."""
    logprobs, reference = logprob_pair(student, 3, 5)
    mask = (torch.arange(5) < torch.tensor([[5], [2], [3]])).float()
    hidden = [values.masked_fill(mask == 0, 0.0) for values in (logprobs, reference)]
    padded, below = (values.masked_fill(mask == 0, -float("inf")) for values in (logprobs, reference))
    for estimator in ("k3", "k2", "k1"):
        expected = hidden[0].clone().requires_grad_()
        value = estimated_penalty(expected, hidden[1], 0.5, 5, mask=mask, estimator=estimator)
        options = {"mask": mask, "estimator": estimator}
        gradient = torch.autograd.grad(value, expected)[0]
        for pair in ((padded, reference), (logprobs, below), (padded, below), (-padded, reference)):
            given = [values.where(mask == 0, kept) for values, kept in zip(pair, (logprobs, reference), strict=True)]
            got, grads = student.value_and_grad("calc_kl_estimate_penalty", *given, 0.5, 5, **options)
            expect.close(got, value.detach())
            require_gradient(grads[0], gradient, "logprobs")
    require_defaults(student, "calc_kl_estimate_penalty", estimator="k3", mask=None, reduction="token")


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


def compare_metrics(student, rewards, group_size, *best):
    got = student.call("group_metrics", rewards, group_size, *best)
    for name, value in metrics_by_counting(rewards, group_size, *best).items():
        expect.true(isinstance(got, dict) and name in got, f"a dictionary with {name}", expect.show(got))
        expect.true(
            isinstance(got[name], (float, int)),
            f"a plain float under {name}",
            f"{type(got[name]).__name__} {expect.show(got[name])}",
        )
        expect.close(got[name], value, name)


def test_group_metrics__shares(student):
    """Of all groups: the share without spread, split into all right and all wrong."""
    groups = [[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]]
    order = torch.randperm(len(groups), generator=student.inputs)
    compare_metrics(student, torch.tensor(groups, dtype=torch.float)[order].reshape(-1), 3)


def test_group_metrics__nothing_right(student):
    """When no completion of the phase was right, no group is all right."""
    compare_metrics(student, torch.zeros(8), 4)
    compare_metrics(student, torch.tensor([-1.0, -1.0, -2.0, -2.0]), 2)


def test_group_metrics__best_is_missing_only_where_it_is_left_out(student):
    """Without `best` the highest reward of the phase is the best, even if it is earned in a group with spread."""
    require_defaults(student, "group_metrics", best=None)
    compare_metrics(student, torch.tensor([0.5, 0.5, 1.0, 0.0, 0.25, 0.25]), 2)
    compare_metrics(student, torch.tensor([0.5, 0.5, 0.5, 0.0, 0.25, 0.25]), 2)


def test_group_metrics__rewards_between(student):
    """A flat group below the best is all wrong, even if its reward is not 0; `best` may be given, and may be 0."""
    rewards = torch.tensor([0.5, 0.5, 1.0, 0.0, 1.0, 1.0, 0.25, 0.25])
    for best in ((), (2.0,), (0.0,), (0.5,)):
        compare_metrics(student, rewards, 2, *best)


def test_group_metrics__one_group(student):
    """A single group with spread."""
    compare_metrics(student, torch.cat([torch.ones(1), student.integers(0, 1, 3)]), 4)


# The trainer, for real


def one_prefix_args(student, **changes):
    """The classic conditions: one fixed prefix, temperature 1, no truncation, the default rank; sizes differ each time."""
    given = {
        "base_model": "pocket",
        "device": "cpu",
        "prefix": PREFIXES[int(student.integers(0, len(PREFIXES), 1))],
        "gen_len": int(student.integers(5, 9, 1)),
        "batch_size": 16,
        "num_minibatches": 4,
        "reward_fn": count_vowels,
        "kl_coef": 0.3,
        "ent_coef": 0.2,
        "clip_coef": 0.1,
        **changes,
    }
    return GrpoArgs(**given)


MOVED = 0.03  # noise on the adapters: the policy is clearly another, its tokens still likely under the reference
PREFIXES = ("Question: Anna has", "The", "Question: Tom buys 7 apples and")


def lora_twin(tensors, args):
    """The library's adapted model with a trainer's weights."""
    model = TransformerWithLora.from_pretrained(args.base_model, args.lora_alpha, args.lora_rank, device="cpu")
    return twin_of(model, tensors)


def rolled_out(student, args, size=0.3):
    """One rollout of a trainer whose adapters have moved, and the trainer's twin."""
    trainer = student.call("GrpoTrainer", args)
    tensors = disturb(student, trainer, ".B", size)
    memory = student.call("rollout_phase", on=trainer)
    kind = getattr(memory, "kind", type(memory).__name__)
    expect.true(kind == "ReplayMemory", "a ReplayMemory from rollout_phase", "None" if memory is None else f"a {kind}")
    return memory, lora_twin(tensors, args)


def memory_of(student, args, size=0.3):
    """The tensors of such a rollout's memory, and the twin."""
    memory, twin = rolled_out(student, args, size)
    return student.tensors(memory), twin


def expect_data(student, memory):
    """The tensors of a memory, none of which remembers how it was computed."""
    found, called = student.tensors(memory), student.called
    for name in found:
        keeps_graph = student.call(f"{name}.requires_grad", on=memory)
        student.called = called
        expect.true(not keeps_graph, f"{name} without a graph, computed under torch.no_grad()", "a tensor that requires grad")
    return found


def expect_tensor(found, name, shape):
    expect.true(name in found, f"a memory with {name}", f"one with {', '.join(found)}")
    expect.true(list(found[name].shape) == shape, f"{name} of shape {shape}", f"shape {list(found[name].shape)}")
    return found[name]


def test_GrpoTrainer__rollout_samples_the_adapted_policy(student):
    """The memory holds gen_len tokens after the prefix, sampled from the policy with its adapters, each row its own."""
    args = one_prefix_args(student, batch_size=64)
    memory, twin = memory_of(student, args, size=1.0)
    prompt = twin.to_tokens(args.prefix)
    ids = expect_tensor(memory, "sample_ids", [64, prompt.shape[1] + args.gen_len])
    expect.equal(ids[:, : prompt.shape[1]], prompt.expand(64, -1), "the prefix at the start of every sequence")
    expect.true(len(ids.unique(dim=0)) > 8, "completions that differ", f"{len(ids.unique(dim=0))} different ones of 64")
    with torch.no_grad():
        policy, base = twin.forward_with_value_head(ids)[0], twin(ids)
    p = prompt.shape[1]
    gap = (get_logprobs(policy, ids, p) - get_logprobs(base, ids, p)).sum(dim=1).mean().item()
    expect.true(
        gap > 0, "samples that are likelier under the policy than under the base model", f"log-ratio {gap:.3g} on average"
    )


def test_GrpoTrainer__rollout_scores_the_policy(student):
    """logprobs are those of the sampled tokens under the policy, with its adapters; the memory holds data, without a graph."""
    args = one_prefix_args(student)
    memory, twin = rolled_out(student, args)
    memory = expect_data(student, memory)
    ids = memory["sample_ids"]
    with torch.no_grad():
        expected = get_logprobs(twin.forward_with_value_head(ids)[0], ids, ids.shape[1] - args.gen_len)
    expect.close(expect_tensor(memory, "logprobs", [16, args.gen_len]), expected, "logprobs", rtol=1e-4, atol=1e-4)


def test_GrpoTrainer__rollout_keeps_the_reference(student):
    """The memory holds the reference policy's logits, or its log-probabilities of the sampled tokens: the base model's."""
    args = one_prefix_args(student)
    memory, twin = memory_of(student, args)
    ids = memory["sample_ids"]
    p = ids.shape[1] - args.gen_len
    with torch.no_grad():
        reference = twin(ids)
    if "ref_logprobs" in memory:
        expect.close(memory["ref_logprobs"], get_logprobs(reference, ids, p), "ref_logprobs", rtol=1e-4, atol=1e-4)
    else:
        kept = expect_tensor(memory, "ref_logits", list(memory.get("ref_logits", ids).shape))
        expect.close(kept[:, -args.gen_len - 1 : -1], reference[:, p - 1 : -1], "ref_logits", rtol=1e-4, atol=1e-4)


def test_GrpoTrainer__advantages_are_group_relative(student):
    """The reward of each completion relative to the group, the same for all its tokens."""
    args = one_prefix_args(student)
    memory, twin = memory_of(student, args)
    texts = twin.tokenizer.batch_decode(memory["sample_ids"][:, -args.gen_len :], skip_special_tokens=True)
    rewards = count_vowels([args.prefix + text for text in texts])
    expected = group_relative(rewards, args.batch_size)[:, None].expand(-1, args.gen_len)
    expect.close(expect_tensor(memory, "advantages", [16, args.gen_len]), expected, "advantages", rtol=1e-3, atol=1e-3)


def test_GrpoTrainer__equal_rewards_teach_nothing(student):
    """When all rewards are equal, the advantages are 0, not infinite."""
    args = one_prefix_args(student, reward_fn=always_seven)
    memory, _ = memory_of(student, args)
    expect.close(memory["advantages"], torch.zeros(16, args.gen_len), "advantages")


def minibatch_for(student, args, twin, prompts, mask=None):
    """Completions of the policy with log-probabilities off the current ones, so that clipping matters, and mixed advantages."""
    sampled = rollout(twin, prompts, args.gen_len, stop_at_eos=False, generator=student.inputs)
    ids, attention_mask = sampled.ids, sampled.attention_mask
    if mask is not None:
        attention_mask = torch.cat([attention_mask[:, : -args.gen_len], mask.long()], dim=1)
    p = ids.shape[1] - args.gen_len
    with torch.no_grad():
        policy, reference = twin.forward_with_value_head(ids, attention_mask)[0], twin(ids, attention_mask)
    moved = (0.02 + 0.3 * student.rand(len(ids), args.gen_len)) * student.randn(len(ids), args.gen_len).sign()
    return ReplayMinibatch(
        sample_ids=ids,
        logprobs=get_logprobs(policy, ids, p, temperature=args.temperature) + moved,
        advantages=student.randn(len(ids), args.gen_len),
        ref_logits=reference,
        ref_logprobs=get_logprobs(reference, ids, p, temperature=args.temperature),
        mask=mask,
        attention_mask=attention_mask if mask is not None else None,
    )


def average(each, mask, reduction):
    """The three averages over real tokens."""
    if reduction == "token":
        return (each * mask).sum() / mask.sum()
    if reduction == "sequence":
        return ((each * mask).sum(1) / mask.sum(1)).mean()
    return (each * mask).sum() / mask.numel()


def grpo_objective(args, minibatch, twin, exact_kl):
    """The objective from its definition, by hand."""
    logits, _ = twin.forward_with_value_head(minibatch.sample_ids, minibatch.attention_mask)
    n = args.gen_len
    all_logprobs = (logits[:, -n - 1 : -1] / args.temperature).log_softmax(-1)
    taken = minibatch.sample_ids[:, -n:, None]
    logprobs = all_logprobs.gather(-1, taken).squeeze(-1)
    ref = (minibatch.ref_logits[:, -n - 1 : -1] / args.temperature).log_softmax(-1)
    ratio = (logprobs - minibatch.logprobs).exp()
    surrogate = torch.minimum(
        ratio * minibatch.advantages, ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef) * minibatch.advantages
    )
    entropy = -(all_logprobs.exp() * all_logprobs).sum(-1)
    exact = (all_logprobs.exp() * (all_logprobs - ref)).sum(-1)
    q = ref.gather(-1, taken).squeeze(-1) - logprobs
    penalty = exact if exact_kl else {"k1": -q, "k2": q**2 / 2, "k3": q.exp() - q - 1}[args.kl_estimator]
    each = surrogate + args.ent_coef * entropy - args.kl_coef * penalty
    mask = torch.ones_like(each) if minibatch.mask is None else minibatch.mask
    return average(each, mask, args.reduction)


def minibatch_of_one_prefix(student, args, twin):
    """One in which it shows whether each position is read where its token was chosen: entropy is another at both ends."""
    while True:
        minibatch = minibatch_for(student, args, twin, [args.prefix] * 4)
        with torch.no_grad():
            logprobs = twin.forward_with_value_head(minibatch.sample_ids)[0][:, -args.gen_len - 1 :].log_softmax(-1)
        entropy = -(logprobs.exp() * logprobs).sum(-1).mean(0)
        if abs(entropy[0] - entropy[-1]) > 0.2:
            return minibatch


def kinds_of_kl(student, trainer):
    """What the KL can be that a trainer subtracts: exact only if its own memory keeps the reference's logits for it."""
    kept = student.tensors(student.call("rollout_phase", on=trainer))
    return ("exact", "estimated") if "ref_logits" in kept else ("estimated",)


def compare_objective(student, args, trainer, minibatch, twin, kinds=None):
    """Value and gradient are those of the definition, with KL of the kind that the trainer's memory is made for."""
    kinds = kinds_of_kl(student, trainer) if kinds is None else kinds
    got, grads = student.value_and_grad("compute_rlhf_objective", minibatch, on=trainer, wrt=(trainer,))
    expected = {kind: grpo_objective(args, minibatch, twin, kind == "exact") for kind in kinds}
    distance = {
        kind: abs(float(got) - float(value.detach())) for kind, value in expected.items() if isinstance(got, torch.Tensor)
    }
    kind = min(distance, key=distance.get) if distance else "estimated"
    expect.close(got, expected[kind].detach(), "objective", rtol=1e-4, atol=1e-5)
    names = [f"model.{name}" for name, p in twin.named_parameters() if p.requires_grad]
    expected_grads = torch.autograd.grad(expected[kind], [p for p in twin.parameters() if p.requires_grad])
    for name, gradient in zip(names, expected_grads, strict=True):
        require_gradient(grads.get(name), gradient, name, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()) + 1e-7)
    others = [name for name in grads if name not in names and not name.startswith("ref_model.lora")]
    for name in others:
        refuse_gradient(grads[name], name)


def test_GrpoTrainer__objective_and_its_gradient(student):
    """Clipped surrogate + entropy bonus - KL penalty, and its gradient with respect to every adapter."""
    args = one_prefix_args(student)
    trainer = student.call("GrpoTrainer", args)
    twin = lora_twin(disturb(student, trainer, ".B", MOVED), args)
    compare_objective(student, args, trainer, minibatch_of_one_prefix(student, args, twin), twin)


def test_GrpoTrainer__constant_advantages_stay(student):
    """Advantages are taken as they are: whitening them once more would turn a constant minibatch into noise."""
    args = one_prefix_args(student, kl_coef=0.0, ent_coef=0.0)
    trainer = student.call("GrpoTrainer", args)
    twin = lora_twin(disturb(student, trainer, ".B", MOVED), args)
    minibatch = minibatch_for(student, args, twin, [args.prefix] * 4)
    constant = dataclasses.replace(minibatch, advantages=torch.full_like(minibatch.advantages, 0.5))
    compare_objective(student, args, trainer, constant, twin)


def test_GrpoTrainer__an_update_changes_adapters_only(student):
    """After a phase the adapters have moved; the base model, and with it the reference, has not."""
    args = one_prefix_args(student)
    trainer = student.call("GrpoTrainer", args)
    before = student.tensors(trainer)
    memory = student.call("rollout_phase", on=trainer)
    student.call("learning_phase", memory, on=trainer)
    after = student.tensors(trainer)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    expect.true(any("lora" in name for name in moved), "adapters that have moved", "none")
    wrong = [name for name in moved if "lora" not in name]
    expect.true(not wrong, "everything but the adapters unchanged", f"{len(wrong)} changed, first {wrong[:1]}")


def test_GrpoTrainer__learns_the_enumerable_task(student):
    """With one generated token the expected reward is an exact sum over the vocabulary; ten phases must raise it."""
    args = GrpoArgs(
        base_model="pocket", device="cpu", prefix="The", gen_len=1, batch_size=64, num_minibatches=2, reward_fn=count_vowels,
        kl_coef=0.0, ent_coef=0.0, base_lr=3e-3, warmup_steps=0, total_phases=10,
    )  # fmt: skip
    trainer = student.call("GrpoTrainer", args)
    before = expected_reward(lora_twin(student.tensors(trainer), args), args.prefix, count_vowels)
    for _ in range(args.total_phases):
        memory = student.call("rollout_phase", on=trainer)
        student.call("learning_phase", memory, on=trainer)
    after = expected_reward(lora_twin(student.tensors(trainer), args), args.prefix, count_vowels)
    expect.true(after > before + 0.5, f"an expected reward above {before + 0.5:.3f}, from {before:.3f}", f"{after:.3f}")


# Many prompts


def many_prompts_args(**changes):
    """A task of many prompts of several lengths, completions that end, another temperature and another rank."""
    given = {
        "base_model": "pocket",
        "device": "cpu",
        "task": "pocket",
        "gen_len": 14,
        "batch_size": 24,
        "group_size": 4,
        "num_minibatches": 2,
        "temperature": 0.7,
        "lora_rank": 8,
        "kl_coef": 0.3,
        "ent_coef": 0.2,
        "clip_coef": 0.1,
        **changes,
    }
    return GrpoArgs(**given)


def mask_of(ids, gen_len, end):
    """1 up to and including the first end of sequence."""
    ended = (ids[:, -gen_len:] == end).int()
    return (ended.cumsum(1) - ended == 0).float()


def test_grpo_many_prompts__groups_share_a_prompt(student):
    """batch_size / group_size different prompts, each with group_size completions in a row."""
    args = many_prompts_args(seed=int(student.integers(0, 1000, 1)))
    trainer = student.call("GrpoTrainer", args)
    expect.equal(student.call("completions_per_prompt", on=trainer), 4, "completions_per_prompt")
    memory, twin = memory_of(student, args)
    prompts = make_task("pocket").draw(6, args.seed, 0).repeat(4).prompts
    ids, attention_mask = twin.encode(prompts)
    got = expect_tensor(memory, "sample_ids", [24, ids.shape[1] + 14])
    expect.equal(got[:, :-14], ids, "the prompts, padded on the left")
    given = expect_tensor(memory, "attention_mask", [24, ids.shape[1] + 14])
    expect.equal(given[:, :-14], attention_mask, "attention_mask of the prompts")


def test_grpo_many_prompts__masks_end_with_the_completion(student):
    """mask is 1 up to and including the first end of sequence, and stays with the memory."""
    args = many_prompts_args(gen_len=20)
    memory, twin = memory_of(student, args, size=0.03)
    mask = expect_tensor(memory, "mask", [24, 20])
    expect.equal(mask, mask_of(memory["sample_ids"], 20, twin.tokenizer.eos_token_id), "mask")


def test_grpo_many_prompts__scores_at_the_temperature(student):
    """logprobs and ref_logprobs are of softmax(logits / temperature), padding hidden, and data without a graph."""
    args = many_prompts_args()
    memory, twin = rolled_out(student, args)
    memory = expect_data(student, memory)
    ids, attention_mask = memory["sample_ids"], memory["attention_mask"]
    with torch.no_grad():
        policy, reference = twin.forward_with_value_head(ids, attention_mask)[0], twin(ids, attention_mask)
    p, mask = ids.shape[1] - 14, memory["mask"]
    for name, logits in (("logprobs", policy), ("ref_logprobs", reference)):
        expected = get_logprobs(logits, ids, p, temperature=0.7)
        got = expect_tensor(memory, name, [24, 14])
        expect.close(got * mask, expected * mask, f"{name} of real tokens", rtol=1e-4, atol=1e-4)


def test_grpo_many_prompts__advantages_within_groups(student):
    """Each completion is compared with its own prompt's, under the task's rewards."""
    args = many_prompts_args(gen_len=40, batch_size=48, temperature=1.0)
    memory, twin = memory_of(student, args, size=0.02)
    task = make_task("pocket")
    prompts = task.draw(12, args.seed, 0).repeat(4)
    real = [ids[mask == 1] for ids, mask in zip(memory["sample_ids"][:, -40:], memory["mask"], strict=True)]
    texts = twin.tokenizer.batch_decode(real, skip_special_tokens=True)
    rewards = torch.tensor([float(right) for right in task.is_correct(prompts, texts)])
    expected = torch.cat([group_relative(g, 4) if g.std() > 0 else torch.zeros(4) for g in rewards.split(4)])
    mask = memory["mask"]
    expect.close(memory["advantages"] * mask, expected[:, None] * mask, "advantages of real tokens", rtol=1e-3, atol=1e-3)


def test_grpo_many_prompts__objective_counts_real_tokens(student):
    """Masks, attention mask and temperature reach every term of the objective, in value and gradient."""
    args = many_prompts_args(gen_len=6, batch_size=8)
    trainer = student.call("GrpoTrainer", args)
    twin = lora_twin(disturb(student, trainer, ".B", MOVED), args)
    mask = (torch.arange(6) < torch.tensor([[6], [2], [4], [1]])).float()
    prompts = ["Question: Anna has", "Tom", "Question: Max has 4 pears and", "The end"]
    compare_objective(student, args, trainer, minibatch_for(student, args, twin, prompts, mask), twin)


def test_grpo_many_prompts__arguments_reach_the_objective(student):
    """kl_estimator and reduction do what they say."""
    for estimator, reduction in (("k2", "sequence"), ("k1", "constant")):
        args = many_prompts_args(gen_len=6, batch_size=8, kl_estimator=estimator, reduction=reduction)
        trainer = student.call("GrpoTrainer", args)
        twin = lora_twin(disturb(student, trainer, ".B", MOVED), args)
        mask = (torch.arange(6) < torch.tensor([[6], [2], [4], [1]])).float()
        prompts = ["Question: Anna has", "Tom", "Question: Max has 4 pears and", "The end"]
        minibatch = minibatch_for(student, args, twin, prompts, mask)
        compare_objective(student, args, trainer, minibatch, twin, kinds=("estimated",))


def test_grpo_many_prompts__advantages_without_deviation(student):
    """advantage_std none only centres the rewards of a group; with population the deviation divides by n."""
    for std in ("none", "population"):
        args = one_prefix_args(student, advantage_std=std, group_size=4)
        memory, twin = memory_of(student, args)
        texts = twin.tokenizer.batch_decode(memory["sample_ids"][:, -args.gen_len :], skip_special_tokens=True)
        rewards = count_vowels([args.prefix + text for text in texts])
        expected = group_relative(rewards, 4, std=std)[:, None].expand(-1, args.gen_len)
        expect.close(memory["advantages"], expected, "advantages", rtol=1e-3, atol=1e-4)


def test_grpo_many_prompts__a_small_clip_upwards(student):
    """clip_coef_high sets the upper bound alone."""
    args = many_prompts_args(
        gen_len=6, batch_size=8, kl_coef=0.0, ent_coef=0.0, clip_coef=0.02, clip_coef_high=0.5, temperature=1.0
    )
    trainer = student.call("GrpoTrainer", args)
    twin = lora_twin(disturb(student, trainer, ".B", MOVED), args)
    minibatch = minibatch_for(student, args, twin, ["The"] * 4)
    got, _ = student.value_and_grad("compute_rlhf_objective", minibatch, on=trainer, wrt=(trainer,))
    with torch.no_grad():
        logits, _ = twin.forward_with_value_head(minibatch.sample_ids)
        ratio = (get_logprobs(logits, minibatch.sample_ids, logits.shape[1] - 6) - minibatch.logprobs).exp()
        each = torch.minimum(ratio * minibatch.advantages, ratio.clamp(0.98, 1.5) * minibatch.advantages)
    expect.close(got, each.mean(), "objective", rtol=1e-4, atol=1e-5)
