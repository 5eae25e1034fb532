"""Checkers of chapters/2_ppo.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import math
from functools import cache, wraps

import torch

from rlhf_lib.args import LoraArgs, RLHFArgs
from rlhf_lib.course import NotAttempted, expect
from rlhf_lib.course.agree import agree, refuse_gradient, require_defaults, require_gradient
from rlhf_lib.course.rewards import always_seven, count_digits, count_vowels
from rlhf_lib.course.scripted import tiny_gpt2
from rlhf_lib.course.student import Crash, Handle
from rlhf_lib.course.twins import disturb, expected_reward, twin_of
from rlhf_lib.memory import ReplayMinibatch
from rlhf_lib.models import TransformerWithValueHead, TransformerWithValueHeadLora
from rlhf_lib.rollouts import get_logprobs, rollout
from rlhf_lib.tasks import make_task

# The value head


def headed_model(student, **options):
    """A student's model with random weights in its head, and the library's with the same weights."""
    model = student.call("TransformerWithValueHead", "pocket", device="cpu", **options)
    found = student.tensors(model)
    fill = {name: student.randn(*t.shape) / t.shape[-1] ** 0.5 for name, t in found.items() if name.startswith("value_head")}
    twin = TransformerWithValueHead("pocket", device="cpu", **options)
    for name in (name for name, _ in twin.value_head.named_parameters(prefix="value_head")):
        expect.true(name in fill, f"a model with a tensor {name}", f"value head tensors {', '.join(fill) or 'none'}")
    return model, twin_of(twin, {f"model.{name}": t for name, t in student.tensors(model, fill).items()})


def ids_for(student, *shape):
    return student.integers(1, 400, *shape)


def values_by_hand(twin, ids):
    """The head's two maps on the final norm's output."""
    seen = []
    with twin.base_model.hooks(fwd_hooks=[("ln_final.hook_out", lambda resid, hook: seen.append(resid))]):
        twin(ids)
    first, _, last = twin.value_head
    return ((seen[0].float() @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias)[..., 0]


def test_value_head__layers(student):
    """The head is d_model -> 4 d_model -> 1, with biases, in float32, whichever the base model."""
    for base, width, options in (("pocket", 128, {}), ("pocket", 128, {"dtype": "bfloat16"}), (tiny_gpt2(), 32, {})):
        model = student.call("TransformerWithValueHead", base, device="cpu", **options)
        found = student.tensors(model)
        called = student.called
        got = student.call("cfg.d_model", on=model)
        student.called = called
        expect.equal(got, width, "width of the base model, cfg.d_model")
        shapes = {"0.weight": [4 * width, width], "0.bias": [4 * width], "2.weight": [1, 4 * width], "2.bias": [1]}
        for name, shape in shapes.items():
            tensor = found.get(f"value_head.{name}")
            have = ", ".join(n for n in found if n.startswith("value_head")) or "no value head"
            expect.true(tensor is not None, f"value_head.{name} {shape}", have)
            expect.true(list(tensor.shape) == shape, f"value_head.{name} {shape}", str(list(tensor.shape)))
            expect.true(tensor.dtype == torch.float32, "a head in float32", f"{tensor.dtype}, base model {options}")


def test_value_head__left_out(student):
    """With use_value_head=False there is no head, and a pass gives logits without values; when it is left out there is one."""
    model, ids = student.call("TransformerWithValueHead", "pocket", use_value_head=False, device="cpu"), ids_for(student, 2, 6)
    head = [name for name in student.tensors(model) if name.startswith("value_head")]
    expect.true(not head, "no value head", ", ".join(head))
    logits, values = student.call("forward_with_value_head", ids, on=model)
    expect.equal(values, None, "values")
    with torch.no_grad():
        plain = TransformerWithValueHead("pocket", device="cpu")(ids)
    expect.close(logits, plain, "logits", rtol=1e-5, atol=1e-4)
    defaults = {"base_model": "pocket", "use_value_head": True, "device": "auto", "dtype": "float32"}
    require_defaults(student, "TransformerWithValueHead", **defaults)


def test_value_head__device(student):
    """The device reaches the base model: one that does not exist is refused, as every policy refuses it."""
    must_refuse(student, "an unknown device", "TransformerWithValueHead", "pocket", device="abacus")


def test_value_head__values(student):
    """The value of every position is the head's output on the final norm's output there; positive or negative."""
    for shape in ((3, 7), (1, 4)):
        model, twin = headed_model(student)
        ids = ids_for(student, *shape)
        for sign in (1, -1):
            last = {f"value_head.2.{kind}": getattr(twin.value_head[2], kind).detach() * sign for kind in ("weight", "bias")}
            student.tensors(model, last)
            _, values = student.call("forward_with_value_head", ids, on=model)
            expect.close(values, sign * values_by_hand(twin, ids).detach(), "values", rtol=1e-4, atol=1e-5)


def test_value_head__gradients(student):
    """A value trains the head and, through the hook, the whole trunk."""
    model, twin = headed_model(student)
    ids = ids_for(student, 2, 5)
    student.call("forward_with_value_head", ids, on=model)
    weights = student.randn(2, 5)
    _, grads = student.value_and_grad("values_of_pass", on=model, wrt=(model,), weights=weights)
    names, parameters = zip(*twin.named_parameters(), strict=True)
    expected = torch.autograd.grad((values_by_hand(twin, ids) * weights).sum(), parameters)
    for name, gradient in reversed(list(zip(names, expected, strict=True))):
        require_gradient(grads.get(name), gradient, name, rtol=1e-4, atol=2e-5 * float(gradient.abs().max()))


def test_value_head__logits_stay(student):
    """Reading values changes no logits, the first time or the third."""
    model, twin = headed_model(student)
    ids = ids_for(student, 2, 6)
    with torch.no_grad():
        plain = twin(ids)
    for _ in range(3):
        logits, _ = student.call("forward_with_value_head", ids, on=model)
        expect.close(logits, plain, "logits", rtol=1e-4, atol=1e-4)


def test_value_head__no_hook_remains(student):
    """A plain call of the model afterwards reads no values."""
    model, _ = headed_model(student)
    ids = ids_for(student, 2, 6)
    _, values = student.call("forward_with_value_head", ids, on=model)
    student.call("forward", ids.flip(1), on=model)
    expect.equal(student.call("values_of_pass", on=model), values, "values, those of the last pass with hooks")


def test_value_head__bfloat16(student):
    """With a base model in bfloat16 the head still computes in float32."""
    model, twin = headed_model(student, dtype="bfloat16")
    ids = ids_for(student, 2, 6)
    _, values = student.call("forward_with_value_head", ids, on=model)
    expect.close(values, values_by_hand(twin, ids).detach(), "values", rtol=1e-4, atol=1e-5)


# Advantages


def one_step_td(values, rewards, prefix_len, mask=None):
    batch, seq = values.shape
    out = values.new_zeros(batch, seq - prefix_len)
    for i in range(batch):
        length = seq - prefix_len if mask is None else int(mask[i].sum())
        for t in range(length):
            after = rewards[i] if t == length - 1 else values[i, prefix_len + t]
            out[i, t] = after - values[i, prefix_len + t - 1]
    return out


def test_compute_advantages__values(student):
    """V_{t+1} - V_t, and at the last token reward - V_t; V_t stands where the token was chosen, one position earlier."""
    for batch, prefix_len, gen_len in ((3, 4, 5), (1, 5, 2), (4, 2, 1), (2, 1, 6)):
        values, rewards = 1 + 2 * student.randn(batch, prefix_len + gen_len), 3 + 2 * student.randn(batch)
        agree(student, "compute_advantages", one_step_td, values, rewards, prefix_len)


def test_compute_advantages__dtype(student):
    """Values in float64 give advantages in float64."""
    values, rewards = student.randn(2, 7).double(), student.randn(2).double()
    agree(student, "compute_advantages", one_step_td, values, rewards, 3)


def gae(values, rewards, prefix_len, *, gamma=1.0, gae_lambda=0.95, dones=None, mask=None):
    """By the definition as a sum: A_t = sum over l of (gamma lambda)^l delta_{t+l}, up to the end of the episode."""
    batch, gen_len = len(values), values.shape[1] - prefix_len
    out = torch.zeros(batch, gen_len, dtype=values.dtype)
    for i in range(batch):
        length = gen_len if mask is None else int(mask[i].sum())
        ends = [t == length - 1 or (dones is not None and bool(dones[i, t])) for t in range(length)]
        for t in range(length):
            for k in range(t, length):
                paid = (rewards[i] if k == length - 1 else 0.0) if rewards.ndim == 1 else rewards[i, k]
                after = 0.0 if ends[k] else values[i, prefix_len + k]
                delta = paid + gamma * after - values[i, prefix_len + k - 1]
                out[i, t] += (gamma * gae_lambda) ** (k - t) * delta
                if ends[k]:
                    break
    return out


AFTER_THE_END = torch.tensor([[0.0], [float("inf")], [1000.0], [float("nan")]])


def values_and_rewards(student, batch, prefix_len, gen_len):
    return 1 + 2 * student.randn(batch, prefix_len + gen_len), 3 + 2 * student.randn(batch)


def test_compute_gae__reward_at_the_end(student):
    """A_t = delta_t + gamma lambda A_{t+1}, with the reward paid at the last token, for several gamma and lambda."""
    for gamma, gae_lambda in ((0.9, 0.7), (1.0, 0.95), (0.95, 1.0), (0.8, 0.0), (1.0, 0.0)):
        agree(
            student, "compute_gae", gae, *values_and_rewards(student, 3, 4, 5), 4, gamma=gamma, gae_lambda=gae_lambda,
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip


def test_compute_gae__one_completion_and_one_token(student):
    """A batch of one, and a single generated token, with gamma 1 and lambda 0.95 when they are left out."""
    for batch, prefix_len, gen_len in ((1, 1, 4), (3, 2, 1)):
        values, rewards = values_and_rewards(student, batch, prefix_len, gen_len)
        agree(student, "compute_gae", gae, values, rewards, prefix_len, rtol=1e-5, atol=1e-5)


def test_compute_gae__masks(student):
    """The reward is paid at the last real token; the value after it is 0, and what stands there, even inf, never matters."""
    values, rewards = values_and_rewards(student, 4, 2, 5)
    mask = mask_of_lengths(5, 5, 1, 3, 4)
    values[:, 2:] = torch.where(mask == 1, values[:, 2:], AFTER_THE_END)
    agree(student, "compute_gae", gae, values, rewards, 2, gamma=0.9, gae_lambda=0.8, mask=mask, rtol=1e-5, atol=1e-5)


def test_compute_gae__reward_for_every_token(student):
    """Rewards [batch gen] are paid token by token; those after the end are not, even if they are inf."""
    values, _ = values_and_rewards(student, 3, 2, 4)
    rewards = 2 + student.randn(3, 4)
    agree(student, "compute_gae", gae, values, rewards, 2, gamma=0.9, gae_lambda=0.8, rtol=1e-5, atol=1e-5)
    mask = mask_of_lengths(4, 4, 1, 2)
    rewards = torch.where(mask == 1, rewards, AFTER_THE_END[:3])
    agree(student, "compute_gae", gae, values, rewards, 2, gamma=0.9, gae_lambda=0.8, mask=mask, rtol=1e-5, atol=1e-5)


def test_compute_gae__episodes_end_at_dones(student):
    """Neither value nor advantage reaches back across a token at which an episode is over, with a mask or without."""
    values, last = values_and_rewards(student, 3, 2, 6)
    options = {"gamma": 0.9, "gae_lambda": 0.8, "rtol": 1e-5, "atol": 1e-5}
    dones = torch.zeros(3, 6)
    dones[torch.arange(3), student.integers(1, 4, 3)] = 1
    agree(student, "compute_gae", gae, values, 2 + student.randn(3, 6), 2, dones=dones, **options)
    dones[0, :2] = 1
    for rewards in (2 + student.randn(3, 6), last):
        agree(student, "compute_gae", gae, values, rewards, 2, dones=dones, mask=mask_of_lengths(6, 6, 2, 4), **options)


def test_compute_gae__group_ids(student):
    """With group_ids advantages are centred over the real tokens of each prompt's completions; or it is left alone."""
    values, rewards = values_and_rewards(student, 5, 2, 4)
    mask, group_ids = mask_of_lengths(4, 4, 1, 3, 2, 4), torch.tensor([7, 3, 7, 7, 3])
    expected = gae(values, rewards, 2, mask=mask)
    agree(student, "compute_gae", gae, values, rewards, 2, mask=mask, rtol=1e-5, atol=1e-5)
    if not student.has_parameter("compute_gae", "group_ids"):
        return
    got = student.call("compute_gae", values, rewards, 2, mask=mask, group_ids=group_ids)
    if isinstance(got, torch.Tensor) and got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-4, atol=1e-4):
        return  # left alone, as the chapter allows
    for group in (3, 7):
        real = mask * (group_ids == group)[:, None]
        expected -= real * (expected * real).sum() / real.sum()
    expect.close(got, expected, rtol=1e-5, atol=1e-5)


# The memory


def memory_args(student, batch, num_minibatches, passes, gen_len, **more):
    sizes = {"batch_size": batch, "num_minibatches": num_minibatches, "batches_per_learning_phase": passes}
    return RLHFArgs(**sizes, gen_len=gen_len, device="cpu", **more)


def columns(student, batch, prefix_len, gen_len):
    """What a memory is made of; the first number of every row of sample_ids is the row's own."""
    ids = student.integers(100, 200, batch, prefix_len + gen_len)
    ids[:, 0] = torch.arange(batch)
    return {
        "sample_ids": ids,
        "logprobs": -student.rand(batch, gen_len),
        "advantages": student.randn(batch, gen_len),
        "values": student.randn(batch, prefix_len + gen_len),
        "ref_logits": student.randn(batch, prefix_len + gen_len, 7),
    }


def generated(values, gen_len):
    """The values at the positions where the generated tokens were chosen."""
    seq = values.shape[1]
    return torch.stack([values[:, t - 1] for t in range(seq - gen_len, seq)], dim=1)


def of_memory(student, name, memory):
    """One of a memory's properties; messages name it as one."""
    try:
        return student.call(name, on=memory)
    finally:
        student.called = f"memory.{name}"


def test_returns__generated_values(student):
    """The value of a generated token stands one position before it."""
    for prefix_len, gen_len in ((4, 3), (1, 5), (2, 1)):
        given = columns(student, 4, prefix_len, gen_len)
        memory = student.call("ReplayMemory", memory_args(student, 4, 2, 1, gen_len), *given.values())
        got = of_memory(student, "generated_values", memory)
        expect.close(got, generated(given["values"], gen_len), "generated_values")


def test_returns__returns(student):
    """A return is the advantage plus the value."""
    for prefix_len, gen_len in ((4, 3), (1, 5), (2, 1)):
        given = columns(student, 4, prefix_len, gen_len)
        memory = student.call("ReplayMemory", memory_args(student, 4, 2, 1, gen_len), *given.values())
        got = of_memory(student, "returns", memory)
        expect.close(got, given["advantages"] + generated(given["values"], gen_len), "returns")


def test_returns__without_values(student):
    """Both are None where the memory has no values."""
    args, given = memory_args(student, 4, 2, 1, 3), columns(student, 4, 2, 3)
    memory = student.call("ReplayMemory", args, *[given[n] for n in ("sample_ids", "logprobs", "advantages")], None, None)
    for name in ("generated_values", "returns"):
        expect.equal(of_memory(student, name, memory), None, name)


def minibatches_of(student, batch=32, num_minibatches=4, passes=3, prefix_len=2, gen_len=3, **more):
    """A memory's columns, and the tensors of each of its minibatches."""
    given = columns(student, batch, prefix_len, gen_len)
    args = memory_args(student, batch, num_minibatches, passes, gen_len)
    memory = student.call("ReplayMemory", args, *given.values(), **more)
    got = student.call("get_minibatches", on=memory)
    kinds = {getattr(m, "kind", type(m).__name__) for m in got} if isinstance(got, list) else None
    expect.true(kinds == {"ReplayMinibatch"}, "a list of ReplayMinibatch", expect.show(got))
    return given, [student.tensors(m) for m in got]


def rows_of(minibatch):
    return minibatch["sample_ids"][:, 0]


def test_get_minibatches__every_completion_once_a_pass(student):
    """num_minibatches minibatches of equal size a pass, and in each of the passes every completion once."""
    for batch, count, passes in ((12, 4, 2), (10, 2, 1), (6, 1, 3), (4, 4, 1)):
        _, got = minibatches_of(student, batch, count, passes)
        expect.equal(len(got), count * passes, "number of minibatches")
        for minibatch in got:
            expect.equal(len(minibatch["sample_ids"]), batch // count, "rows of a minibatch")
        for i in range(passes):
            seen = torch.cat([rows_of(m) for m in got[i * count : (i + 1) * count]])
            expect.equal(seen.sort().values, torch.arange(batch), f"rows of pass {i + 1}, put in order")


def test_get_minibatches__a_fresh_order_each_pass(student):
    """The order is random, and each pass has another."""
    _, got = minibatches_of(student)
    orders = [torch.cat([rows_of(m) for m in got[4 * i : 4 * i + 4]]).tolist() for i in range(3)]
    expect.true(orders[0] != list(range(32)), "rows in random order", "rows in the memory's order")
    expect.true(orders[0] != orders[1] and orders[1] != orders[2], "another order each pass", "the same")


def test_get_minibatches__rows_stay_together(student):
    """All fields of a minibatch are of the same completions, returns included."""
    given, got = minibatches_of(student, gen_len=4)
    expected = {**given, "returns": given["advantages"] + generated(given["values"], 4)}
    for minibatch in got:
        rows = rows_of(minibatch)
        for name in ("sample_ids", "logprobs", "advantages", "returns", "ref_logits"):
            expect.true(name in minibatch, f"a minibatch with {name}", f"one with {', '.join(minibatch)}")
            expect.close(minibatch[name], expected[name][rows], f"{name} of the rows that sample_ids are of")


def test_get_minibatches__ready_for_training(student):
    """What was computed in inference mode can enter autograd: rows are taken by index."""
    with torch.inference_mode():
        given = columns(student, 8, 2, 3)
        memory = student.call("ReplayMemory", memory_args(student, 8, 2, 1, 3), *given.values())
    for minibatch in student.call("get_minibatches", on=memory):
        called = student.called
        for name in ("logprobs", "advantages", "returns", "ref_logits"):
            frozen = student.call(f"{name}.is_inference", on=minibatch)
            student.called = called
            expect.true(not frozen, f"{name} that a backward pass may save", "an inference tensor: a slice, not an index")


def test_get_minibatches__prompts_together(student):
    """The order is that of random_order: with args.keep_prompts_together a prompt's completions come together."""
    given = columns(student, 16, 2, 3)
    given["sample_ids"][:, :2] = torch.randperm(16, generator=student.inputs)[:, None] // 4  # 4 prompts of 4 completions
    args = memory_args(student, 16, 4, 2, 3, keep_prompts_together=True)
    memory = student.call("ReplayMemory", args, *given.values())
    for minibatch in student.call("get_minibatches", on=memory):
        prompts = student.tensors(minibatch)["sample_ids"][:, 0].unique().tolist()
        expect.true(len(prompts) == 1, "4 completions of one prompt in a minibatch", f"of {len(prompts)} prompts")


# The terms of the objective


def surrogate(logprobs, mb_logprobs, mb_advantages, clip_coef, gen_len, eps=None, *, high=None, mask=None):
    """For each real token min(rho A, clip(rho) A)."""
    real = torch.ones_like(logprobs) if mask is None else mask
    kept = mb_advantages[real == 1]
    if eps is not None:
        kept = (kept - kept.mean()) / (((kept - kept.mean()) ** 2).sum() / (len(kept) - 1)).sqrt().add(eps)
    ratio = (logprobs[real == 1] - mb_logprobs[real == 1]).exp()
    clipped = torch.clip(ratio, 1 - clip_coef, 1 + (clip_coef if high is None else high))
    each = torch.where(ratio * kept < clipped * kept, ratio * kept, clipped * kept)
    return torch.zeros_like(logprobs).masked_scatter(real == 1, each)


def surrogate_inputs(student, batch, gen_len):
    """Log-probabilities that have moved by 0.05 to 0.8 either way, and advantages with mean and spread of their own."""
    old = -3 * student.rand(batch, gen_len) - 1
    moved = (0.05 + 0.75 * student.rand(batch, gen_len)) * student.randn(batch, gen_len).sign()
    return old + moved, old, 0.7 + 1.5 * student.randn(batch, gen_len)


def mean_surrogate(*args, **options):
    return surrogate(*args, **options).mean()


def test_calc_clipped_surrogate_objective__values_and_gradients(student):
    """The mean of min(rho A, clip(rho) A) with whitened A, and its gradient to the current log-probabilities."""
    for (batch, gen_len), clip_coef in (((5, 7), 0.2), ((1, 9), 0.1), ((8, 3), 0.3)):
        given = surrogate_inputs(student, batch, gen_len)
        agree(
            student, "calc_clipped_surrogate_objective", mean_surrogate, *given, clip_coef, gen_len, eps=1e-8, wrt=(0,)
        )  # fmt: skip


def test_calc_clipped_surrogate_objective__eps_is_added(student):
    """eps is added to the deviation that the centred advantages are divided by; 0 is a number too, and whitens."""
    given = surrogate_inputs(student, 4, 6)
    for eps in (0.5, 2.0, 0.0):
        agree(student, "calc_clipped_surrogate_objective", mean_surrogate, *given, 0.2, 6, eps=eps, wrt=(0,))


def test_calc_clipped_surrogate_objective__without_eps(student):
    """Without eps the advantages count as they are."""
    given = surrogate_inputs(student, 4, 6)
    name, plain = "calc_clipped_surrogate_objective", mean_surrogate(*given, 0.2, 6)
    got = student.call(name, *given, 0.2, 6)
    if isinstance(got, torch.Tensor) and torch.allclose(got.float(), mean_surrogate(*given, 0.2, 6, 1e-8), rtol=1e-4):
        try:
            got = student.call(name, *given, 0.2, 6, eps=None)
        except Crash:
            return  # the classic signature: eps is always a number, 1e-8 when it is left out
    expect.close(got, plain)


def test_calc_clipped_surrogate_objective__one_kind_of_advantage(student):
    """Gains stop at the clip; losses do not: for good tokens the upper bound acts, for bad ones the lower."""
    logprobs, old, advantages = surrogate_inputs(student, 3, 5)
    for sign in (1, -1):
        given = (logprobs, old, sign * (0.1 + advantages.abs()))
        agree(student, "calc_clipped_surrogate_objective", mean_surrogate, *given, 0.2, 5, eps=1e-8, wrt=(0,), rtol=1e-4)


def value_loss(values, mb_returns, vf_coef, gen_len, *, mb_values=None, clip_value=None):
    each = (values - mb_returns) ** 2
    if clip_value is not None:
        held = torch.min(torch.max(values, mb_values - clip_value), mb_values + clip_value)
        each = torch.max(each, (held - mb_returns) ** 2)
    return 0.5 * vf_coef * each


def mean_value_loss(*args, **options):
    return value_loss(*args, **options).mean()


def test_calc_value_function_loss__values_and_gradients(student):
    """vf_coef times the mean of (values - returns)^2 / 2, and its gradient to the values."""
    for (batch, gen_len), vf_coef in (((3, 5), 0.3), ((1, 4), 1.7), ((6, 2), 0.5)):
        values, returns = 1 + 3 * student.randn(batch, gen_len), 2 * student.randn(batch, gen_len)
        agree(student, "calc_value_function_loss", mean_value_loss, values, returns, vf_coef, gen_len, wrt=(0,))


def entropy(logits):
    logprobs = logits - logits.logsumexp(dim=-1, keepdim=True)
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def mean_entropy(logits, ent_coef, gen_len):
    return ent_coef * entropy(logits).sum() / (len(logits) * gen_len)


def test_calc_entropy_bonus__values_and_gradients(student):
    """ent_coef times the mean entropy per token in nats, and its gradient to the logits."""
    for (batch, gen_len, vocab), ent_coef in (((3, 4, 9), 0.3), ((1, 5, 7), 1.3), ((4, 2, 31), 0.01)):
        logits = 2 * student.randn(batch, gen_len, vocab)
        agree(student, "calc_entropy_bonus", mean_entropy, logits, ent_coef, gen_len, wrt=(0,), rtol=1e-4, atol=1e-7)


def test_calc_entropy_bonus__large_logits(student):
    """Logits of several hundred, whose least probabilities are 0 in float32, give numbers, in the gradient too."""
    logits = 200 * student.rand(3, 4, 9).sub(0.5).sign() + student.randn(3, 4, 9)
    agree(student, "calc_entropy_bonus", mean_entropy, logits, 0.7, 4, wrt=(0,), rtol=1e-4)


def test_calc_entropy_bonus__each_position(student):
    """token_entropy is the entropy of each position."""
    student.call("calc_entropy_bonus", student.randn(1, 2, 3), 1.0, 2)
    try:
        agree(student, "token_entropy", entropy, 2 * student.randn(2, 3, 8), wrt=(0,))
    except NotAttempted:
        return  # an answer may do without it


def kl(logits, ref_logits):
    policy, reference = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (policy.exp() * (policy - reference)).sum(dim=-1)


def mean_kl(logits, ref_logits, kl_coef, gen_len):
    return kl_coef * kl(logits, ref_logits).sum() / (len(logits) * gen_len)


def test_calc_kl_penalty__values_and_gradients(student):
    """kl_coef times the mean of KL(policy || reference) per token, and its gradient to the policy's logits."""
    for (batch, gen_len, vocab), kl_coef in (((3, 4, 9), 0.3), ((1, 5, 7), 1.3), ((4, 2, 31), 0.05)):
        logits, reference = 2 * student.randn(batch, gen_len, vocab), 1.5 * student.randn(batch, gen_len, vocab)
        agree(student, "calc_kl_penalty", mean_kl, logits, reference, kl_coef, gen_len, wrt=(0,), rtol=1e-4, atol=1e-7)


def test_calc_kl_penalty__equal_policies(student):
    """The divergence of a policy from itself is 0."""
    logits = 2 * student.randn(2, 3, 8)
    expect.close(student.call("calc_kl_penalty", logits, logits.clone(), 1.0, 3), torch.tensor(0.0))


def test_calc_kl_penalty__large_logits(student):
    """Logits of several hundred, whose least probabilities are 0 in float32, give numbers, in the gradient too."""
    signs = [200 * student.rand(3, 4, 9).sub(0.5).sign() + student.randn(3, 4, 9) for _ in range(2)]
    agree(student, "calc_kl_penalty", mean_kl, *signs, 0.7, 4, wrt=(0,), rtol=1e-4, atol=1e-5)


def test_calc_kl_penalty__each_position(student):
    """token_kl is the divergence at each position."""
    student.call("calc_kl_penalty", student.randn(1, 2, 3), student.randn(1, 2, 3), 1.0, 2)
    try:
        agree(student, "token_kl", kl, 2 * student.randn(2, 3, 8), student.randn(2, 3, 8), wrt=(0,), rtol=1e-4)
    except NotAttempted:
        return  # an answer may do without it


# Averages and masks

REDUCTIONS = ("token", "sequence", "constant")


def average(values, gen_len, mask=None, reduction="token"):
    """By going through the sequences one by one."""
    rows = list(values) if mask is None else [row[kept == 1] for row, kept in zip(values, mask, strict=True)]
    sums, lengths = [row.sum() for row in rows], [len(row) for row in rows]
    if reduction == "token":
        return sum(sums) / max(sum(lengths), 1)
    if reduction == "sequence":
        return sum(s / max(n, 1) for s, n in zip(sums, lengths, strict=True)) / len(sums)
    return sum(sums) / (len(sums) * gen_len)


def mask_of_lengths(gen_len, *lengths):
    return (torch.arange(gen_len) < torch.tensor(lengths)[:, None]).float()


def test_reduce_tokens__no_mask(student):
    """Without a mask every token counts, whichever the reduction."""
    for batch, gen_len in ((3, 5), (1, 4)):
        agree(student, "reduce_tokens", average, 2 + student.randn(batch, gen_len), gen_len, wrt=(0,))
        for reduction in REDUCTIONS:
            values = 2 + student.randn(batch, gen_len)
            agree(student, "reduce_tokens", average, values, gen_len, reduction=reduction, wrt=(0,))


def test_reduce_tokens__three_reductions(student):
    """token, sequence and constant, with a mask; token when none is named."""
    mask = mask_of_lengths(6, 6, 1, 3, 4)
    agree(student, "reduce_tokens", average, 2 + student.randn(4, 6), 6, mask=mask, wrt=(0,))
    for reduction in REDUCTIONS:
        values = 2 + student.randn(4, 6)
        agree(student, "reduce_tokens", average, values, 6, mask=mask, reduction=reduction, wrt=(0,))


def test_reduce_tokens__gen_len_is_the_cap(student):
    """constant divides by the cap on tokens, though a batch of short completions has fewer columns."""
    mask = mask_of_lengths(4, 4, 2, 3)
    for reduction in ("constant", "token", "sequence"):
        agree(student, "reduce_tokens", average, 2 + student.randn(3, 4), 9, mask=mask, reduction=reduction, wrt=(0,))


def test_reduce_tokens__masked_positions_never_matter(student):
    """Infinities and nan where the mask is 0 reach neither the average nor its gradient, be they at the end or between."""
    mask = torch.tensor([[1.0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 1, 0]])
    for reduction in REDUCTIONS:
        values = 2 + student.randn(3, 5)
        values[0, 2:] = float("inf")
        values[2, (1, 2, 4)] = float("nan")
        agree(student, "reduce_tokens", average, values, 5, mask=mask, reduction=reduction, wrt=(0,))


def test_reduce_tokens__no_real_tokens(student):
    """A completion without real tokens counts as 0; a batch without any has mean 0, and a gradient of 0 if it has one."""
    for reduction in REDUCTIONS:
        values = 2 + student.randn(3, 4)
        for lengths in ((3, 0, 2), (0, 1, 0)):
            mask = mask_of_lengths(4, *lengths)
            agree(student, "reduce_tokens", average, values, 4, mask=mask, reduction=reduction, wrt=(0,))
        got, grads = student.value_and_grad("reduce_tokens", values, 4, mask=torch.zeros(3, 4), reduction=reduction)
        expect.close(got, torch.tensor(0.0))
        expect.close(torch.zeros(3, 4) if grads[0] is None else grads[0], torch.zeros(3, 4), "gradient")


def test_reduce_tokens__refusals(student):
    """InputError without a mask if the columns are not gen_len, and for an unknown reduction, with or without a mask."""
    values = 2 + student.randn(3, 5)
    for gen_len in (4, 6):
        must_refuse(student, f"5 columns and gen_len={gen_len} without a mask", "reduce_tokens", values, gen_len)
    for mask in (None, mask_of_lengths(5, 2, 5, 3)):
        must_refuse(student, "an unknown reduction", "reduce_tokens", values, 5, mask=mask, reduction="median")


def must_refuse(student, what, name, *args, **options):
    """A call that must raise InputError."""
    try:
        got = student.call(name, *args, **options)
    except Crash as error:
        raised = error.lines[0][1]
        expect.true(raised.split(":")[0] == "InputError", f"an InputError: {what}", raised)
    else:
        expect.true(False, f"an InputError: {what}", expect.show(got))


def masked_inputs(student, *shape, garbage=float("inf")):
    """Random numbers with garbage where MASK is 0."""
    values = student.randn(*shape)
    hidden = (MASK == 0).reshape(*MASK.shape, *([1] * (len(shape) - 2))).expand(shape)
    return values.masked_fill(hidden, garbage)


MASK = mask_of_lengths(6, 6, 2, 4, 1)


def masked_formula(term):
    """The masked average of a term."""

    def hidden(value):
        return value.masked_fill(MASK == 0, 0.0) if getattr(value, "shape", None) == MASK.shape else value

    @wraps(term)
    def formula(*args, mask, reduction="token", **options):
        options = {name: hidden(option) for name, option in options.items()}
        return average(term(*map(hidden, args), **options), 6, mask, reduction)

    return formula


REDUCED = ({}, *({"reduction": reduction} for reduction in REDUCTIONS))


def test_terms_with_masks__surrogate(student):
    """The surrogate over real tokens, in three reductions; infinities elsewhere never matter, and data gets no gradient."""
    logprobs, old, advantages = surrogate_inputs(student, 4, 6)
    advantages = advantages.masked_fill(MASK == 0, float("inf"))
    before, now = (each.masked_fill(MASK == 0, -float("inf")) for each in (old, logprobs))  # together they have no ratio

    def formula(logprobs, old, advantages, clip_coef, gen_len, eps=None, *, mask, reduction="token"):
        return average(surrogate(logprobs, old, advantages, clip_coef, gen_len, eps, mask=mask), 6, mask, reduction)

    for new, past, options in ((logprobs, old, {}), (logprobs, before, {}), *((now, before, options) for options in REDUCED)):
        agree(
            student, "calc_clipped_surrogate_objective", formula, new, past, advantages, 0.2, 6,
            mask=MASK, **options, wrt=(0,), no_gradient_to=(1, 2), rtol=1e-4,
        )  # fmt: skip


def test_terms_with_masks__whitening(student):
    """Advantages are whitened over real tokens only, whatever stands elsewhere."""
    logprobs, old, advantages = surrogate_inputs(student, 4, 6)

    def formula(logprobs, old, advantages, clip_coef, gen_len, eps=None, *, mask):
        return average(surrogate(logprobs, old, advantages, clip_coef, gen_len, eps, mask=mask), 6, mask)

    for given in (advantages + 50 * (1 - MASK), advantages.masked_fill(MASK == 0, float("inf"))):
        agree(
            student, "calc_clipped_surrogate_objective", formula, logprobs, old, given, 0.2, 6, 1e-8,
            mask=MASK, wrt=(0,), no_gradient_to=(1, 2), rtol=1e-4,
        )  # fmt: skip


def test_terms_with_masks__two_bounds(student):
    """clip_coef_high sets the upper bound of the ratio apart from the lower; eps is left out, so advantages stay."""
    given = surrogate_inputs(student, 4, 6)

    def formula(logprobs, old, advantages, clip_coef, gen_len, *, clip_coef_high):
        return surrogate(logprobs, old, advantages, clip_coef, gen_len, high=clip_coef_high).mean()

    for low, high in ((0.1, 0.4), (0.4, 0.1)):
        agree(
            student, "calc_clipped_surrogate_objective", formula, *given, low, 6, clip_coef_high=high, wrt=(0,), rtol=1e-4
        )  # fmt: skip


def test_terms_with_masks__value_loss(student):
    """The value loss over real tokens, in three reductions; returns get no gradient."""
    for options in REDUCED:
        agree(
            student, "calc_value_function_loss", masked_formula(value_loss), masked_inputs(student, 4, 6),
            masked_inputs(student, 4, 6), 0.7, 6, mask=MASK, **options, wrt=(0,), no_gradient_to=(1,),
        )  # fmt: skip


def test_terms_with_masks__value_clipping(student):
    """With clip_value the larger of two losses counts: that at the value, and that at the value held near the old one."""
    clip = {"clip_value": 0.3, "wrt": (0,), "no_gradient_to": (1, "mb_values")}
    old, returns = student.randn(5, 6), 2 * student.randn(5, 6)
    values = old + 2 * student.randn(5, 6)
    agree(student, "calc_value_function_loss", mean_value_loss, values, returns, 0.7, 6, mb_values=old, **clip)
    for options in REDUCED:
        values, returns, old = (masked_inputs(student, 4, 6) for _ in range(3))
        agree(
            student, "calc_value_function_loss", masked_formula(value_loss), values, returns, 0.7, 6,
            mb_values=old, mask=MASK, **options, **clip,
        )  # fmt: skip


def test_terms_with_masks__entropy(student):
    """Entropy over real tokens, in three reductions: padding does not drag it down."""
    for options in REDUCED:
        logits = 2 * student.randn(4, 6, 9) + 30 * (1 - MASK[..., None]) * student.randn(4, 6, 9)
        agree(
            student, "calc_entropy_bonus", masked_formula(lambda logits, coef, n: coef * entropy(logits)), logits, 0.4, 6,
            mask=MASK, **options, wrt=(0,),
        )  # fmt: skip


def test_terms_with_masks__kl(student):
    """KL over real tokens, in three reductions; the reference gets no gradient."""
    for options in REDUCED:
        logits, reference = 2 * student.randn(4, 6, 9), 2 * student.randn(4, 6, 9)
        agree(
            student, "calc_kl_penalty", masked_formula(lambda logits, ref_logits, coef, n: coef * kl(logits, ref_logits)),
            logits, reference, 0.4, 6, mask=MASK, **options, wrt=(0,), no_gradient_to=(1,), rtol=1e-4,
        )  # fmt: skip


def test_terms_with_masks__advantages(student):
    """The reward is paid at the last real token, and tokens after it have advantage 0, whatever their values."""
    values, rewards = values_and_rewards(student, 4, 3, 6)
    values[:, 3:] += 1000 * (1 - MASK)
    agree(student, "compute_advantages", one_step_td, values, rewards, 3, mask=MASK)


def test_terms_with_masks__minibatches(student):
    """Masks and the generated values are those of the rows; what a memory lacks is None."""
    mask = mask_of_lengths(3, *student.integers(1, 4, 32).tolist())
    attention_mask = student.integers(0, 2, 32, 5)
    given, got = minibatches_of(student, mask=mask, attention_mask=attention_mask)
    expected = {"mask": mask, "attention_mask": attention_mask, "values": generated(given["values"], 3)}
    for minibatch in got:
        for name, column in expected.items():
            expect.true(name in minibatch, f"a minibatch with {name}", f"one with {', '.join(minibatch)}")
            expect.close(minibatch[name], column[rows_of(minibatch)], f"{name} of the rows that sample_ids are of")
    given = columns(student, 8, 2, 3)
    memory = student.call(
        "ReplayMemory", memory_args(student, 8, 2, 1, 3), given["sample_ids"], given["logprobs"], given["advantages"], None,
        None, ref_logprobs=given["logprobs"] - 1,
    )  # fmt: skip
    for minibatch in map(student.tensors, student.call("get_minibatches", on=memory)):
        made = [name for name in ("returns", "values", "ref_logits", "mask", "attention_mask") if name in minibatch]
        expect.true(not made, "None for what the memory lacks", f"a tensor for {', '.join(made)}")
        expect.true("ref_logprobs" in minibatch, "a minibatch with ref_logprobs", f"one with {', '.join(minibatch)}")
        expect.close(minibatch["ref_logprobs"], minibatch["logprobs"] - 1, "ref_logprobs of the same rows")


# Optimiser and schedule


def look(student, name, *args, on, **options):
    """What an object of the student's says or does; messages go on naming the student's own call."""
    called = student.called
    try:
        return student.call(name, *args, on=on, **options)
    finally:
        student.called = called


def told_kind(found):
    """The class of what came, in words."""
    return f"an object of class {found.kind}" if isinstance(found, Handle) else expect.show(found)


def groups_of(student, optimizer):
    """The optimiser's groups of parameters, with their settings."""
    expect.true(isinstance(optimizer, Handle), "an optimiser", expect.show(optimizer))
    return look(student, "state_dict", on=optimizer)["param_groups"]


def optimizer_of(student):
    """A model, its optimiser, and the two learning rates, which differ each time."""
    base_lr, head_lr = 1e-3 * (1 + float(student.rand(1))), 1e-2 * (1 + float(student.rand(1)))
    model = student.call("TransformerWithValueHead", "pocket", device="cpu")
    return model, student.call("get_optimizer", model, base_lr, head_lr), base_lr, head_lr


def test_get_optimizer__kind(student):
    """It is AdamW, with torch's defaults but for maximize."""
    _, optimizer, _, _ = optimizer_of(student)
    expect.equal(getattr(optimizer, "kind", type(optimizer).__name__), "AdamW", "kind of optimiser")
    for group in groups_of(student, optimizer):
        expect.true(group["maximize"] is True, "maximize=True", expect.show(group["maximize"]))
        expect.true(tuple(group["betas"]) == (0.9, 0.999), "betas of (0.9, 0.999)", expect.show(group["betas"]))
        for name, value in (("weight_decay", 0.01), ("eps", 1e-8), ("amsgrad", False)):
            expect.true(group[name] == value, f"{name}={value}", expect.show(group[name]))


def test_get_optimizer__betas_and_weight_decay(student):
    """An answer with the arguments betas and weight_decay hands them on to AdamW."""
    given = {"betas": (0.8, 0.95), "weight_decay": 0.3}
    options = {name: value for name, value in given.items() if student.has_parameter("get_optimizer", name)}
    model = student.call("TransformerWithValueHead", "pocket", device="cpu")
    for group in groups_of(student, student.call("get_optimizer", model, 1e-3, 1e-2, **options)):
        for name, value in options.items():
            got = tuple(group[name]) if name == "betas" else group[name]
            expect.true(got == value, f"{name}={value}, as given", expect.show(got))


def test_get_optimizer__two_groups(student):
    """First the base model's tensors at base_lr, then the head's at head_lr: four of them, or none without a head."""
    for heads in (4, 0):
        base_lr, head_lr = 1e-3 * (1 + float(student.rand(1))), 1e-2 * (1 + float(student.rand(1)))
        model = student.call("TransformerWithValueHead", "pocket", device="cpu", use_value_head=heads > 0)
        optimizer = student.call("get_optimizer", model, base_lr, head_lr)
        got = [(float(group["lr"]), len(group["params"])) for group in groups_of(student, optimizer)]
        expected = [(base_lr, len(list(fresh_model().base_model.parameters()))), (head_lr, heads)]
        show = "; ".join(f"{count} tensors at {lr:.3g}" for lr, count in expected)
        expect.true(got == expected, show, "; ".join(f"{count} tensors at {lr:.3g}" for lr, count in got))


@cache
def fresh_model():
    """The bundled model as it is loaded; never changed."""
    return TransformerWithValueHead("pocket", device="cpu")


@cache
def spare_model():
    """Another, to be filled with a trainer's weights."""
    return TransformerWithValueHead("pocket", device="cpu")


def test_get_optimizer__a_step(student):
    """A step moves every tensor uphill by its own learning rate, and decays it."""
    model, optimizer, base_lr, head_lr = optimizer_of(student)
    before = student.tensors(model)
    look(student, "forward_with_value_head", ids_for(student, 4, 6), on=model)
    look(student, "value_head_output.backward", student.randn(4, 6, 1), on=model)
    look(student, "step", on=optimizer)
    after = student.tensors(model)
    for name in reversed(list(before)):
        gradient = look(student, f"{name}.grad", on=model)
        if gradient is None:
            continue
        lr = head_lr if name.startswith("value_head") else base_lr
        expected = lr * gradient / (gradient.abs() + 1e-8) - lr * 0.01 * before[name]
        got = after[name] - before[name]
        error = float((got - expected).norm() / expected.norm())
        expect.true(error < 1e-3, f"{name} moved by {show_move(expected)}", f"moved by {show_move(got)}")


def show_move(change):
    """A change as its size, and whether a number that stands for its direction."""
    return f"{change.abs().mean():.4g} on average, its first number by {change.flatten()[0]:.4g}"


def scale(phase, args):
    if phase < args.warmup_steps:
        return (phase + 1) / (args.warmup_steps + 1)
    last = args.total_phases - 1
    if phase >= last:
        return args.final_scale if phase > args.warmup_steps else 1.0
    share = (phase - args.warmup_steps) / (last - args.warmup_steps)
    if args.lr_decay == "cosine":
        share = 0.5 - 0.5 * math.cos(math.pi * share)
    return (1 - share) * 1.0 + share * args.final_scale


def compare_scales(student, phases=None, **fields):
    args = RLHFArgs(**fields)
    given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
    for phase in range(args.total_phases) if phases is None else phases:
        try:
            got = student.call("learning_rate_scale", phase, args)
        finally:
            student.called = f"learning_rate_scale({phase}, RLHFArgs({given}))"
        expect.close(got, scale(phase, args), "share")


def test_learning_rate_scale__warm_up_and_decay(student):
    """Up in equal steps from above 0 to 1 in phase warmup_steps, then down to final_scale in the last phase."""
    for warmup, total, final in ((3, 9, 0.1), (1, 6, 0.4), (5, 7, 0.0)):
        compare_scales(student, warmup_steps=warmup, total_phases=total, final_scale=final)


def test_learning_rate_scale__no_warm_up(student):
    """With warmup_steps 0 the first phase has the whole learning rate."""
    compare_scales(student, warmup_steps=0, total_phases=5, final_scale=0.2)
    compare_scales(student, warmup_steps=0, total_phases=1, final_scale=0.2)


def test_learning_rate_scale__after_the_end(student):
    """The scheduler asks once more after the last phase: the share is final_scale, and stays there."""
    for lr_decay in ("linear", "cosine"):
        compare_scales(student, (8, 9, 12), warmup_steps=2, total_phases=8, final_scale=0.3, lr_decay=lr_decay)
        compare_scales(student, (1, 2), warmup_steps=0, total_phases=1, final_scale=0.2, lr_decay=lr_decay)


def test_learning_rate_scale__cosine(student):
    """With lr_decay cosine the fall is half a cosine wave, between the same ends."""
    for warmup, total, final in ((2, 9, 0.1), (0, 6, 0.4), (0, 1, 0.2)):
        compare_scales(student, warmup_steps=warmup, total_phases=total, final_scale=final, lr_decay="cosine")


# Scoring a rollout


def scored(student, args, ended=False):
    """A rollout of prompts of several lengths, the student's scores of it, and the passes that they are measured by."""
    n, prompts = args.gen_len, ["Question: Anna has", "Tom", "Question: Max has 4 pears and"]
    trainer = student.call("RLHFTrainer", args)
    if args.has_adapters:
        twin = twin_of(adapted_model(), disturb(student, trainer, ".B", 0.05))
    else:
        twin = twin_of(spare_model(), disturb(student, trainer, TRUNK, 0.05))
    sampled = rollout(twin, prompts, n, temperature=args.temperature, stop_at_eos=False, generator=student.inputs)
    if ended:
        mask = mask_of_lengths(n, 6, 2, 4)
        sampled.attention_mask = torch.cat([sampled.attention_mask[:, :-n], mask.long()], dim=1)
        sampled.mask = mask
    models = [student.call(name, on=trainer) for name in ("model", "ref_model")]
    scores = student.call("score_tokens", *models, sampled, args.temperature)
    expect.true(getattr(scores, "kind", "") == "TokenScores", "a TokenScores", told_kind(scores))
    with torch.no_grad():
        logits, values = twin.forward_with_value_head(sampled.ids, sampled.attention_mask)
        ref_logits = fresh_model()(sampled.ids, sampled.attention_mask)
    return sampled, scores, logits[:, -n - 1 : -1], values[:, -n - 1 : -1], ref_logits[:, -n - 1 : -1]


@cache
def adapted_model():
    """The library's adapted model, to be filled with a trainer's weights."""
    return TransformerWithValueHeadLora.from_pretrained("pocket", device="cpu")


def scoring_args(kind=RLHFArgs, **changes):
    return kind(base_model="pocket", device="cpu", gen_len=6, batch_size=4, **changes)


FIELDS = ("logprobs", "ref_logprobs", "logits", "ref_logits", "values")


def compare_scores(student, found, temperature):
    """Every field is that of the definition, where there are real tokens; of logits and values the chosen columns count."""
    sampled, scores, logits, values, ref_logits = found
    n, mask = sampled.mask.shape[1], sampled.mask
    got = {name: look(student, name, on=scores) for name in FIELDS}
    for name, tensor in got.items():
        expect.true(isinstance(tensor, torch.Tensor), f"{name} as a tensor", expect.show(tensor))
    taken = sampled.ids[:, -n:, None]
    for name, given in (("logprobs", logits), ("ref_logprobs", ref_logits)):
        expected = (given / temperature).log_softmax(-1).gather(-1, taken).squeeze(-1)
        expect.close(got[name] * mask, expected * mask, f"{name} of real tokens", rtol=1e-4, atol=1e-4)
    real = mask[..., None]
    for name, given in (("logits", logits), ("ref_logits", ref_logits)):
        expect.true(got[name].shape[1] > n, f"{name} of gen_len + 1 positions at least", f"{got[name].shape[1]}")
        expect.close(got[name][:, -n - 1 : -1] * real, given * real, name, rtol=1e-4, atol=1e-4)
    expect.close(got["values"][:, -n - 1 : -1] * mask, values * mask, "values", rtol=1e-4, atol=1e-4)


def test_score_tokens__of_a_model_that_moved(student):
    """Log-probabilities, logits and values of the policy, and the reference's, padding hidden."""
    compare_scores(student, scored(student, scoring_args()), 1.0)


def test_score_tokens__at_the_temperature(student):
    """Log-probabilities are of softmax(logits / temperature); logits are kept as they are; completions end."""
    compare_scores(student, scored(student, scoring_args(temperature=0.7), ended=True), 0.7)


def test_score_tokens__of_adapters(student):
    """The policy is what forward_with_value_head computes, adapters included."""
    compare_scores(student, scored(student, scoring_args(LoraArgs, temperature=1.3), ended=True), 1.3)


def test_score_tokens__is_data(student):
    """Nothing that is kept has a graph."""
    _, scores, *_ = scored(student, scoring_args())
    for name in FIELDS:
        attached = look(student, f"{name}.requires_grad", on=scores)
        expect.true(not attached, f"{name} as data, without a graph", "a tensor that requires a gradient")


def test_score_tokens__without_a_head(student):
    """A model without a value head has None for values; temperature is 1 where it is left out."""
    require_defaults(student, "score_tokens", temperature=1.0)
    model = student.call("TransformerWithValueHead", "pocket", device="cpu", use_value_head=False)
    sampled = rollout(fresh_model(), ["Tom", "Question: Anna has"], 3, generator=student.inputs)
    scores = student.call("score_tokens", model, model, sampled, 1.0)
    expect.true(getattr(scores, "kind", "") == "TokenScores", "a TokenScores", told_kind(scores))
    values = look(student, "values", on=scores)
    expect.true(values is None, "None for values", expect.show(values))


# The trainer, for real

PREFIXES = ("Question: Anna has", "The", "Question: Tom buys 7 apples and")
TRUNK = "down_proj._original_component.weight"


def one_prefix_args(student, **changes):
    """The classic conditions: one fixed prefix, temperature 1, no truncation, one-step TD; sizes differ each time."""
    given = {
        "base_model": "pocket",
        "device": "cpu",
        "prefix": PREFIXES[int(student.integers(0, len(PREFIXES), 1))],
        "gen_len": int(student.integers(5, 9, 1)),
        "batch_size": 16,
        "num_minibatches": 4,
        "reward_fn": count_vowels,
        "gae_lambda": 0.0,
        "kl_coef": 0.3,
        "ent_coef": 0.2,
        "vf_coef": 0.7,
        "clip_coef": 0.1,
        **changes,
    }
    return RLHFArgs(**given)


def trainer_and_twin(student, args, size):
    """A trainer whose policy has moved from the reference, and the library's model with the same weights."""
    trainer = student.call("RLHFTrainer", args)
    tensors = disturb(student, trainer, TRUNK, size)
    return trainer, twin_of(spare_model(), tensors)


def memory_and_twin(student, args, size=0.05):
    """One rollout of such a trainer: the memory's tensors, and the twin."""
    trainer, twin = trainer_and_twin(student, args, size)
    memory = student.call("rollout_phase", on=trainer)
    expect.true(getattr(memory, "kind", "") == "ReplayMemory", "a ReplayMemory from rollout_phase", told_kind(memory))
    return student.tensors(memory), twin


def expect_tensor(found, name, shape):
    expect.true(name in found, f"a memory with {name}", f"one with {', '.join(found)}")
    expect.true(list(found[name].shape) == shape, f"{name} of shape {shape}", f"shape {list(found[name].shape)}")
    return found[name]


def rewards_of(args, twin, ids):
    """The reward of each completion, read off its text."""
    texts = twin.tokenizer.batch_decode(ids[:, -args.gen_len :], skip_special_tokens=True)
    return args.reward_fn([args.prefix + text for text in texts])


def test_ppo_rollout_phase__samples_the_policy(student):
    """The memory holds gen_len tokens after the prefix, sampled from the policy as it is now, each row its own."""
    args = one_prefix_args(student, batch_size=64)
    memory, twin = memory_and_twin(student, args, size=0.1)
    prompt = twin.to_tokens(args.prefix)
    p = prompt.shape[1]
    ids = expect_tensor(memory, "sample_ids", [64, p + args.gen_len])
    expect.equal(ids[:, :p], prompt.expand(64, -1), "the prefix at the start of every sequence")
    expect.true(len(ids.unique(dim=0)) > 8, "completions that differ", f"{len(ids.unique(dim=0))} different ones of 64")
    with torch.no_grad():
        gap = (get_logprobs(twin(ids), ids, p) - get_logprobs(fresh_model()(ids), ids, p)).sum(dim=1).mean().item()
    expect.true(gap > 0, "samples that are likelier under the policy than under the reference", f"log-ratio {gap:.3g}")


def test_ppo_rollout_phase__scores_the_policy(student):
    """logprobs are those of the sampled tokens under the policy, values its head's, at every position."""
    args = one_prefix_args(student)
    memory, twin = memory_and_twin(student, args)
    ids = memory["sample_ids"]
    with torch.no_grad():
        logits, values = twin.forward_with_value_head(ids)
    expected = get_logprobs(logits, ids, ids.shape[1] - args.gen_len)
    expect.close(expect_tensor(memory, "logprobs", [16, args.gen_len]), expected, "logprobs", rtol=1e-4, atol=1e-4)
    expect.close(expect_tensor(memory, "values", list(ids.shape)), values, "values", rtol=1e-4, atol=1e-4)


def test_ppo_rollout_phase__keeps_the_reference(student):
    """ref_logits are those of the model that training began with, where the generated tokens were chosen."""
    args = one_prefix_args(student)
    memory, _ = memory_and_twin(student, args)
    ids, n = memory["sample_ids"], args.gen_len
    with torch.no_grad():
        expected = fresh_model()(ids)[:, -n - 1 : -1]
    found = memory.get("ref_logits", ids)
    kept = expect_tensor(memory, "ref_logits", [16, max(n + 1, found.shape[1]), *expected.shape[2:]])
    expect.close(kept[:, -n - 1 : -1], expected, "ref_logits", rtol=1e-4, atol=1e-4)


def expected_advantages(args, twin, ids, normalize):
    rewards = rewards_of(args, twin, ids)
    if normalize:
        centred = rewards - rewards.mean()
        rewards = centred / ((centred.square().sum() / (len(rewards) - 1)).sqrt() + 1e-5)
    with torch.no_grad():
        _, values = twin.forward_with_value_head(ids)
    return one_step_td(values, rewards, ids.shape[1] - args.gen_len)


def test_ppo_rollout_phase__advantages(student):
    """Advantages are those of one-step TD (gae_lambda 0) on the rewards of the samples, whitened over the batch."""
    for reward_fn in (count_vowels, count_digits):
        args = one_prefix_args(student, reward_fn=reward_fn)
        memory, twin = memory_and_twin(student, args)
        expected = expected_advantages(args, twin, memory["sample_ids"], normalize=True)
        expect.close(expect_tensor(memory, "advantages", [16, args.gen_len]), expected, "advantages", rtol=1e-3, atol=1e-3)


def test_ppo_rollout_phase__plain_rewards(student):
    """With normalize_reward False the rewards are taken as they are; equal rewards make no infinities otherwise."""
    args = one_prefix_args(student, normalize_reward=False)
    memory, twin = memory_and_twin(student, args)
    expected = expected_advantages(args, twin, memory["sample_ids"], normalize=False)
    expect.close(memory["advantages"], expected, "advantages", rtol=1e-3, atol=1e-3)
    memory, twin = memory_and_twin(student, one_prefix_args(student, reward_fn=always_seven))
    ids, advantages = memory["sample_ids"], memory["advantages"]
    with torch.no_grad():
        _, values = twin.forward_with_value_head(ids)
    expected = one_step_td(values, torch.zeros(16), ids.shape[1] - advantages.shape[1])
    expect.close(advantages, expected, "advantages of equal rewards, whitened to 0", rtol=1e-3, atol=1e-3)


def test_ppo_rollout_phase__is_data(student):
    """What the memory holds has no graph, and a rollout changes no weight."""
    args = one_prefix_args(student)
    trainer = student.call("RLHFTrainer", args)
    before = student.tensors(trainer)
    memory = student.call("rollout_phase", on=trainer)
    for name in ("logprobs", "advantages", "values", "ref_logits"):
        attached = look(student, f"{name}.requires_grad", on=memory)
        expect.true(not attached, f"{name} as data, without a graph", "a tensor that requires a gradient")
    after = student.tensors(trainer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    expect.true(not changed, "all weights unchanged", f"{len(changed)} changed, first {changed[:1]}")


def minibatch_for(student, args, twin, prompts, mask=None):
    """Completions with log-probabilities off the current ones, so that clipping matters, and advantages already white."""
    sampled = rollout(twin, prompts, args.gen_len, stop_at_eos=False, generator=student.inputs)
    ids, attention_mask, n = sampled.ids, sampled.attention_mask, args.gen_len
    if mask is not None:
        attention_mask = torch.cat([attention_mask[:, :-n], mask.long()], dim=1)
    real = torch.ones(len(ids), n) if mask is None else mask
    with torch.no_grad():
        logits, values = twin.forward_with_value_head(ids, attention_mask)
        reference = fresh_model()(ids, attention_mask)
    moved = (0.02 + 0.3 * student.rand(len(ids), n)) * student.randn(len(ids), n).sign()
    advantages = student.randn(len(ids), n)
    kept = advantages[real == 1]
    return ReplayMinibatch(
        sample_ids=ids,
        logprobs=get_logprobs(logits, ids, ids.shape[1] - n, temperature=args.temperature) + moved,
        advantages=(advantages - kept.mean()) / kept.std(),
        returns=values[:, -n - 1 : -1] + 0.5 + student.randn(len(ids), n),
        ref_logits=reference,
        mask=mask,
        attention_mask=None if mask is None else attention_mask,
        values=values[:, -n - 1 : -1],
    )


def ppo_objective(args, minibatch, model):
    """The objective from its definition, by hand."""
    logits, values = model.forward_with_value_head(minibatch.sample_ids, minibatch.attention_mask)
    chosen, ids = slice(-args.gen_len - 1, -1), minibatch.sample_ids[:, -args.gen_len :, None]
    values = values[:, chosen]
    policy = (logits[:, chosen] / args.temperature).log_softmax(-1)
    reference = (minibatch.ref_logits[:, chosen] / args.temperature).log_softmax(-1)
    logprobs = policy.gather(-1, ids).squeeze(-1)
    high = args.clip_coef if args.clip_coef_high is None else args.clip_coef_high
    each = (
        surrogate(logprobs, minibatch.logprobs, minibatch.advantages, args.clip_coef, 0, 1e-8, high=high, mask=minibatch.mask)
        - value_loss(values, minibatch.returns, args.vf_coef, 0, mb_values=minibatch.values, clip_value=args.clip_value)
        - args.ent_coef * (policy.exp() * policy).sum(-1)
        - args.kl_coef * (policy.exp() * (policy - reference)).sum(-1)
    )
    return average(each, args.gen_len, minibatch.mask, args.reduction)


def compare_objective(student, args, trainer, minibatch, twin):
    """Value and gradient are those of the definition; nothing reaches the reference."""
    got, grads = student.value_and_grad("compute_rlhf_objective", minibatch, on=trainer, wrt=(trainer,))
    expected = ppo_objective(args, minibatch, twin)
    expect.close(got, expected.detach(), "objective", rtol=1e-4, atol=1e-5)
    names, parameters = zip(*twin.named_parameters(), strict=True)
    gradients = torch.autograd.grad(expected, parameters)
    for name, gradient in reversed(list(zip(names, gradients, strict=True))):
        atol = 1e-3 * float(gradient.abs().max()) + 1e-7
        require_gradient(grads.get(f"model.{name}"), gradient, name, rtol=1e-3, atol=atol)
    for name in grads:
        if name.startswith("ref_model"):
            refuse_gradient(grads[name], name)


def test_ppo_objective__value_and_gradient(student):
    """Clipped surrogate - value loss + entropy bonus - KL penalty, and its gradient with respect to every weight."""
    args = one_prefix_args(student)
    trainer, twin = trainer_and_twin(student, args, 0.05)
    compare_objective(student, args, trainer, minibatch_for(student, args, twin, [args.prefix] * 4), twin)


def test_ppo_objective__one_completion(student):
    """A minibatch may be a single completion; the clip is args.clip_coef, here a narrow one."""
    args = one_prefix_args(student, clip_coef=0.03, gen_len=12)
    trainer, twin = trainer_and_twin(student, args, 0.05)
    compare_objective(student, args, trainer, minibatch_for(student, args, twin, [args.prefix]), twin)


def test_ppo_objective__advantages_without_spread(student):
    """Where all advantages are 0 the surrogate is 0, and the other terms still count."""
    args = one_prefix_args(student)
    trainer, twin = trainer_and_twin(student, args, 0.05)
    minibatch = minibatch_for(student, args, twin, [args.prefix] * 2)
    minibatch.advantages.zero_()
    compare_objective(student, args, trainer, minibatch, twin)


def memory_of(student, args, twin, alike):
    """A memory by hand, all completions the same if `alike`; and a minibatch like those that are drawn from it."""
    count = 1 if alike else args.batch_size
    one = minibatch_for(student, args, twin, [args.prefix] * count)
    values = torch.zeros(one.sample_ids.shape)
    values[:, -args.gen_len - 1 : -1] = one.returns - one.advantages
    columns = (one.sample_ids, one.logprobs, one.advantages, values, one.ref_logits)
    rows = [column.repeat(args.batch_size // count, *[1] * (column.ndim - 1)) for column in columns]
    memory = student.call("ReplayMemory", args, *rows)
    returns = one.returns.repeat(args.batch_size // count, 1)
    like = [column[: args.minibatch_size] for column in (*rows[:3], returns, rows[4])]
    return memory, ReplayMinibatch(*like)


def learn_by_hand(args, twin, minibatch, steps):
    """So many updates on one minibatch, by the twin: the mean objective, and torch's optimiser."""
    groups = [
        {"params": list(twin.base_model.parameters()), "lr": args.base_lr},
        {"params": list(twin.value_head.parameters()), "lr": args.head_lr},
    ]
    optimizer, objectives = torch.optim.AdamW(groups, maximize=True), []
    for _ in range(steps):
        twin.zero_grad()
        objective = ppo_objective(args, minibatch, twin)
        objective.backward()
        norm = sum(p.grad.square().sum() for p in twin.parameters()).sqrt()
        for parameter in twin.parameters():
            parameter.grad.mul_(min(1.0, args.max_grad_norm / float(norm)))
        optimizer.step()
        objectives.append(objective.item())
    return sum(objectives) / steps, optimizer


def compare_learning(student, args, steps, alike):
    """Weights and the optimiser's mean gradient after the first phase, without warm-up, are those of the definition."""
    trainer, twin = trainer_and_twin(student, args, 0.05)
    memory, whole = memory_of(student, args, twin, alike)
    before = student.tensors(trainer)
    got = student.call("learning_phase", memory, on=trainer)
    after = student.tensors(trainer)
    expected, optimizer = learn_by_hand(args, twin, whole, steps)
    expect.equal(look(student, "step", on=trainer), steps, "steps counted in trainer.step")
    state = look(student, "state_dict", on=look(student, "optimizer", on=trainer))["state"]
    taken = {float(each["step"]) for each in state.values()}
    expect.true(taken == {float(steps)}, f"{steps} steps of the optimiser", f"{sorted(taken)}")
    ours = [optimizer.state[p]["exp_avg"] for group in optimizer.param_groups for p in group["params"]]
    theirs = [state[i]["exp_avg"] for i in sorted(state)]
    compare_directions(theirs, ours, "the optimiser's running mean of the gradient")
    names = [name for name, _ in twin.named_parameters()]
    moved = [after[f"model.{name}"] - before[f"model.{name}"] for name in names]
    by_hand = [p.detach() - before[f"model.{name}"] for name, p in twin.named_parameters()]
    compare_directions(moved, by_hand, "the change of the weights")
    changed = [n for n in before if n.startswith("ref_model") and not torch.equal(before[n], after[n])]
    expect.true(not changed, "the reference unchanged", f"{len(changed)} tensors changed")
    if got is not None:
        expect.close(got, expected, "mean objective", rtol=1e-3, atol=1e-3)


def compare_directions(got, expected, what):
    """Two lists of tensors, as one long vector each, agree in length and direction to a hundredth."""
    ours, theirs = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (expected, got))
    expect.true(ours.shape == theirs.shape, f"{what}: {len(expected)} tensors", f"{len(got)}")
    cosine = float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0))
    expect.true(
        float((ours - theirs).norm()) < 0.01 * float(ours.norm()),
        f"{what}: length {ours.norm():.4g}",
        f"length {theirs.norm():.4g}, with cosine {cosine:.4g} to what is expected",
    )


def test_ppo_learning_phase__one_update(student):
    """One minibatch, one update uphill, the gradient within max_grad_norm as it is."""
    args = one_prefix_args(
        student, batch_size=4, num_minibatches=1, batches_per_learning_phase=1, max_grad_norm=1e6, warmup_steps=0
    )
    compare_learning(student, args, steps=1, alike=False)


def test_ppo_learning_phase__several_updates(student):
    """An update for every minibatch of every pass, each with its own gradient alone."""
    args = one_prefix_args(
        student, batch_size=4, num_minibatches=2, batches_per_learning_phase=2, max_grad_norm=1e6, warmup_steps=0
    )
    compare_learning(student, args, steps=4, alike=True)


def test_ppo_learning_phase__gradient_clipping(student):
    """A gradient longer than max_grad_norm, over all weights together, is scaled down to it before the step."""
    args = one_prefix_args(
        student, batch_size=4, num_minibatches=1, batches_per_learning_phase=2, max_grad_norm=0.05, warmup_steps=0
    )  # fmt: skip
    compare_learning(student, args, steps=2, alike=False)


def test_ppo_learning_phase__schedule(student):
    """The learning rate moves on once a phase, not once a step."""
    args = one_prefix_args(
        student, batch_size=4, num_minibatches=2, batches_per_learning_phase=2, warmup_steps=3, total_phases=9
    )  # fmt: skip
    trainer, twin = trainer_and_twin(student, args, 0.05)
    memory, _ = memory_of(student, args, twin, alike=False)
    for phase in range(1, 3):
        student.call("learning_phase", memory, on=trainer)
        groups = groups_of(student, look(student, "optimizer", on=trainer))
        for group, peak in zip(groups, (args.base_lr, args.head_lr), strict=True):
            expect.close(group["lr"], peak * scale(phase, args), f"learning rate after phase {phase}")


def test_ppo_learning_phase__learns_the_enumerable_task(student):
    """With one generated token the expected reward is an exact sum over the vocabulary; two phases must raise it."""
    args = RLHFArgs(
        base_model="pocket", device="cpu", prefix="The", gen_len=1, batch_size=128, num_minibatches=2, reward_fn=count_vowels,
        kl_coef=0.0, ent_coef=0.0, base_lr=1e-4, warmup_steps=0, final_scale=1.0, total_phases=2, gae_lambda=0.0,
    )  # fmt: skip
    trainer = student.call("RLHFTrainer", args)
    before = expected_reward(fresh_model(), args.prefix, count_vowels)
    for _ in range(args.total_phases):
        memory = student.call("rollout_phase", on=trainer)
        student.call("learning_phase", memory, on=trainer)
    after = expected_reward(twin_of(spare_model(), student.tensors(trainer)), args.prefix, count_vowels)
    expect.true(after > before + 0.5, f"an expected reward above {before + 0.5:.3f}, from {before:.3f}", f"{after:.3f}")


# Many prompts


def many_prompts_args(**changes):
    """A task of many prompts of several lengths, completions that end, another temperature, lambda above 0."""
    given = {
        "base_model": "pocket",
        "device": "cpu",
        "task": "pocket",
        "gen_len": 24,
        "batch_size": 24,
        "num_minibatches": 2,
        "temperature": 0.7,
        "gamma": 0.98,
        "gae_lambda": 0.9,
        "kl_coef": 0.3,
        "ent_coef": 0.2,
        "vf_coef": 0.7,
        "clip_coef": 0.1,
        **changes,
    }
    return RLHFArgs(**given)


def scored_by_hand(args, memory, twin):
    """Logits of policy and reference, and values, with padding hidden."""
    ids, attention_mask = memory["sample_ids"], memory["attention_mask"]
    with torch.no_grad():
        logits, values = twin.forward_with_value_head(ids, attention_mask)
        return logits, values, fresh_model()(ids, attention_mask)


def test_ppo_many_prompts__prompts_and_masks(student):
    """batch_size prompts padded on the left; mask is 1 up to and including the first end of sequence."""
    args = many_prompts_args(seed=int(student.integers(0, 1000, 1)))
    memory, twin = memory_and_twin(student, args, size=0.02)
    ids, attention_mask = twin.encode(make_task("pocket").draw(24, args.seed, 0).prompts)
    got = expect_tensor(memory, "sample_ids", [24, ids.shape[1] + 24])
    expect.equal(got[:, :-24], ids, "the prompts, padded on the left")
    given = expect_tensor(memory, "attention_mask", [24, ids.shape[1] + 24])
    expect.equal(given[:, :-24], attention_mask, "attention_mask of the prompts")
    ended = (got[:, -24:] == twin.tokenizer.eos_token_id).int()
    mask = (ended.cumsum(1) - ended == 0).float()
    expect.equal(expect_tensor(memory, "mask", [24, 24]), mask, "mask")


def test_ppo_many_prompts__scores_at_the_temperature(student):
    """Log-probabilities are of softmax(logits / temperature); padding is hidden from policy, head and reference."""
    args = many_prompts_args()
    memory, twin = memory_and_twin(student, args, size=0.02)
    expect_tensor(memory, "attention_mask", list(memory["sample_ids"].shape))
    logits, values, reference = scored_by_hand(args, memory, twin)
    ids, mask = memory["sample_ids"], expect_tensor(memory, "mask", [24, 24])
    for name, given in (("logprobs", logits), ("ref_logprobs", reference)):
        expected = get_logprobs(given, ids, ids.shape[1] - 24, temperature=0.7)
        got = expect_tensor(memory, name, [24, 24])
        expect.close(got * mask, expected * mask, f"{name} of real tokens", rtol=1e-4, atol=1e-4)
    got, right = (v[:, -25:-1] * mask for v in (expect_tensor(memory, "values", list(ids.shape)), values))
    expect.close(got, right, "values of real tokens", rtol=1e-4, atol=1e-4)
    got, right = (r[:, -25:-1] * mask[..., None] for r in (memory["ref_logits"], reference))
    expect.close(got, right, "ref_logits of real tokens", rtol=1e-4, atol=1e-4)


def test_ppo_many_prompts__advantages(student):
    """Generalised advantages with args.gamma and args.gae_lambda; the whitened reward is paid at the last real token."""
    args = many_prompts_args(batch_size=48, gen_len=40, temperature=1.0)
    memory, twin = memory_and_twin(student, args, size=0.01)
    expect_tensor(memory, "attention_mask", list(memory["sample_ids"].shape))
    ids, mask = memory["sample_ids"], expect_tensor(memory, "mask", [48, 40])
    task = make_task("pocket")
    real = [row[kept == 1] for row, kept in zip(ids[:, -40:], mask, strict=True)]
    right = task.is_correct(task.draw(48, args.seed, 0), twin.tokenizer.batch_decode(real, skip_special_tokens=True))
    rewards = torch.tensor(right).float()
    spread = float(rewards.std())
    rewards = (rewards - rewards.mean()) / (spread + 1e-5) if spread > 0 else torch.zeros(48)
    _, values, _ = scored_by_hand(args, memory, twin)
    expected = gae(values, rewards, ids.shape[1] - 40, gamma=0.98, gae_lambda=0.9, mask=mask)
    expect.close(memory["advantages"], expected, "advantages", rtol=1e-3, atol=1e-3)


PROMPTS = ["Question: Anna has", "Tom", "Question: Max has 4 pears and", "The end"]


def test_ppo_many_prompts__objective(student):
    """Mask, attention mask, temperature and reduction reach every term of the objective, in value and gradient."""
    for reduction in ("token", "sequence"):
        args = many_prompts_args(gen_len=6, reduction=reduction)
        trainer, twin = trainer_and_twin(student, args, 0.05)
        minibatch = minibatch_for(student, args, twin, PROMPTS, mask_of_lengths(6, 6, 2, 4, 1))
        compare_objective(student, args, trainer, minibatch, twin)


def test_ppo_many_prompts__upper_bound(student):
    """clip_coef_high sets the upper bound of the ratio alone."""
    args = many_prompts_args(gen_len=6, clip_coef=0.02, clip_coef_high=0.2)
    trainer, twin = trainer_and_twin(student, args, 0.05)
    minibatch = minibatch_for(student, args, twin, PROMPTS, torch.ones(4, 6))
    compare_objective(student, args, trainer, minibatch, twin)


def test_ppo_many_prompts__value_clipping(student):
    """args.clip_value bounds how far a value may move from the minibatch's `values`; left out, nothing does."""
    args = many_prompts_args(gen_len=6, clip_value=0.1)
    trainer, twin = trainer_and_twin(student, args, 0.05)
    minibatch = minibatch_for(student, args, twin, PROMPTS, mask_of_lengths(6, 6, 2, 4, 1))
    minibatch.values += 0.5 * student.randn(4, 6)
    compare_objective(student, args, trainer, minibatch, twin)
