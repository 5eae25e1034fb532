"""Checkers of chapters/3_lora.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import gc
import math
from contextlib import contextmanager
from functools import cache, partial

import torch

from rlhf_lib.args import LORA_MAPS
from rlhf_lib.course import expect
from rlhf_lib.course.agree import require_defaults, require_gradient
from rlhf_lib.course.bridges import Require, add_one, double, fail, tiny_model
from rlhf_lib.course.expect import Wrong
from rlhf_lib.course.student import Handle
from rlhf_lib.lora import find_maps
from rlhf_lib.models.policies import BridgedTransformer

VOCAB = 418  # the bundled tokenizer's
FINAL = "ln_final.hook_out"  # the logits are a linear function of what comes out here


# what messages say


@contextmanager
def told_as(student, call=None):
    """Messages name this call, or the one before, and not what a checker looks at on its way."""
    call = student.called if call is None else call
    try:
        yield
    finally:
        student.called = call


def field(student, owner, name):
    """An attribute; messages go on naming the call that gave its owner."""
    with told_as(student):
        return student.call(name, on=owner)


def kind_of(value):
    """What a thing is, in a few words."""
    kind = value.kind if isinstance(value, Handle) else type(value).__name__
    if isinstance(value, (list, tuple)):
        return f"a {kind} of {len(value)}, the first a {type(value[0]).__name__}" if value else f"an empty {kind}"
    return "None" if value is None else f"a {kind}"


def require_refusal(kind, what, attempt):
    """What is attempted ends by an error of this class."""
    try:
        attempt()
    except Wrong as error:
        raised = dict(error.lines).get("got", "").split(":")[0]
        if raised != kind:
            raise Wrong(("expected", f"{kind} for {what}"), *error.lines) from None
    else:
        expect.true(False, f"{kind} for {what}", "no error")


# one adapter


def new_lora(student, d_in, d_out, rank, alpha, size=1.0):
    """An adapter with random numbers in both matrices, so that nothing is hidden by B = 0."""
    lora = student.call("Lora", d_in, d_out, rank, alpha)
    numbers = {"A": size * student.randn(d_in, rank), "B": size * student.randn(rank, d_out)}
    student.tensors(lora, numbers)
    return lora, numbers


def require_lora_gradients(got, expected):
    """The gradients of a call with respect to an adapter."""
    for name, gradient in expected.items():
        require_gradient(got.get(name), gradient, name, rtol=1e-5, atol=1e-6 * float(expected[name].abs().max()))


def test_lora_init__shapes(student):
    """A is [d_in rank], B is [rank d_out], both float32, for every rank up to the smaller side of the map."""
    for d_in, d_out, rank in ((6, 8, 3), (10, 4, 1), (8, 8, 5), (6, 9, 6), (10, 6, 6)):
        tensors = student.tensors(student.call("Lora", d_in, d_out, rank, 6.0))
        missing = [name for name in "AB" if name not in tensors]
        expect.true(not missing, "an adapter with the parameters A and B", f"no {' and no '.join(missing)}")
        for name, shape in (("A", [d_in, rank]), ("B", [rank, d_out])):
            got = list(tensors[name].shape)
            expect.true(got == shape, f"{name} of shape {shape} for d_in={d_in}, d_out={d_out}, rank={rank}", f"shape {got}")
            expect.true(tensors[name].dtype == torch.float32, f"{name} of dtype float32", str(tensors[name].dtype))


def test_lora_init__starts_as_nothing(student):
    """B is zero, so that a new adapter adds nothing; A is not, or nothing would ever be learned."""
    tensors = student.tensors(student.call("Lora", 12, 6, 4, 8.0))
    expect.equal(tensors["B"], torch.zeros(4, 6), "B")
    expect.true(bool((tensors["A"] != 0).any()), "A with numbers other than zero", "zeros only")


def test_lora_init__spread_of_A(student):
    """A is uniform between -1/sqrt(d_in) and 1/sqrt(d_in), as torch's Linear(d_in, ...) starts."""
    for d_in, rank in ((300, 24), (64, 32)):
        A = student.tensors(student.call("Lora", d_in, 40, rank, 8.0))["A"]
        bound = 1 / math.sqrt(d_in)
        told = f"numbers that spread evenly between -{bound:.4f} and {bound:.4f} for d_in={d_in}, rank={rank}"
        got = f"numbers from {A.min():.4f} to {A.max():.4f} with standard deviation {A.std():.4f}"
        even = abs(A.std() / (bound / math.sqrt(3)) - 1) < 0.06 and abs(A.mean()) < 0.1 * bound
        expect.true(bool(even) and bool(0.95 * bound < A.abs().max() <= 1.0001 * bound), told, got)


def test_lora_init__every_number_on_its_own(student):
    """Each number of A is drawn on its own: no two columns go together, and no two adapters start alike."""
    first, second = (student.tensors(student.call("Lora", 300, 40, 12, 8.0))["A"] for _ in range(2))
    expect.true(not torch.equal(first, second), "other numbers in A of a second adapter", "the same")
    for columns in (first, torch.cat([first[:, :1], second[:, :1]], dim=1)):
        unit = torch.nn.functional.normalize(columns, dim=0)
        alike = float((unit.T @ unit).fill_diagonal_(0).abs().max())
        expect.true(alike < 0.5, "columns of A that have nothing in common", f"two columns with a cosine of {alike:.2f}")


def test_lora_init__keeps_rank_and_alpha(student):
    """rank and alpha are kept under their own names; where they are left out they are 4 and 32."""
    for rank, alpha in ((3, 7.0), (5, 2.5)):
        lora = student.call("Lora", 8, 6, rank, alpha)
        expect.equal(field(student, lora, "rank"), rank, "rank")
        expect.equal(field(student, lora, "alpha"), alpha, "alpha")
    require_defaults(student, "Lora", rank=4, alpha=32.0)


def test_lora_init__both_are_trained(student):
    """A and B are parameters, and the only ones: gradients reach both."""
    for rank, alpha in ((3, 6.0), (4, 2.0)):
        lora, numbers = new_lora(student, 10, 6, rank, alpha)
        x, weights = student.randn(2, 5, 10), student.randn(2, 5, 6)
        with told_as(student):
            _, grads = student.value_and_grad("forward", x, wrt=(lora,), weights=weights, on=lora)
        missing = [name for name in "AB" if name not in grads]
        expect.true(not missing, "A and B trained: parameters that require a gradient", f"none for {' and '.join(missing)}")
        more = sorted(set(grads) - {"A", "B"})
        expect.true(not more, "no trained parameters but A and B", f"{', '.join(more)} besides")
        require_lora_gradients(grads, lora_gradients(x, numbers, alpha / rank, weights))


def test_lora_init__a_rank_that_does_not_fit(student):
    """A rank below 1, or above the smaller side of the map, is refused with an InputError."""
    for d_in, d_out, rank in ((6, 4, 0), (6, 4, 5), (4, 8, 5), (5, 5, -1)):
        what = f"rank={rank} and a map of {d_in} x {d_out}"
        require_refusal("InputError", what, partial(student.call, "Lora", d_in, d_out, rank, 8.0))


def lora_output(x, A, B, scale):
    return scale * torch.einsum("...i,ir,ro->...o", x, A, B)


def lora_gradients(x, numbers, scale, weights):
    """Gradients of the weighted sum of an adapter's output with respect to A and B."""
    A, B = (numbers[name].clone().requires_grad_() for name in "AB")
    value = (lora_output(x, A, B, scale) * weights).sum()
    return dict(zip("AB", torch.autograd.grad(value, (A, B)), strict=True))


def compare_forward(student, shape, d_out, rank, alpha):
    """Value and all three gradients of an adapter's forward."""
    lora, numbers = new_lora(student, shape[-1], d_out, rank, alpha)
    x, weights = student.randn(*shape), student.randn(*shape[:-1], d_out)
    got, grads = student.value_and_grad("forward", x, wrt=(0, lora), weights=weights, on=lora)
    expected = lora_output(x, numbers["A"], numbers["B"], alpha / rank)
    expect.close(got, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    require_lora_gradients(grads, lora_gradients(x, numbers, alpha / rank, weights))
    through = alpha / rank * weights @ numbers["B"].T @ numbers["A"].T
    require_gradient(grads[0], through, "x", rtol=1e-5, atol=1e-6 * float(through.abs().max()))


def test_lora_forward__a_square_map(student):
    """scale * (x A) B and its gradients with respect to x, A and B."""
    compare_forward(student, (2, 5, 8), 8, 3, 10.0)


def test_lora_forward__other_shapes(student):
    """Maps that are not square, ranks from 1, a batch of one, and x without batch."""
    for shape, d_out, rank, alpha in (((3, 4, 6), 9, 4, 10.0), ((1, 1, 7), 3, 1, 2.0), ((5,), 8, 5, 2.0)):
        compare_forward(student, shape, d_out, rank, alpha)


def test_lora_forward__scale(student):
    """scale is alpha / rank."""
    for rank, alpha in ((4, 10.0), (1, 3.0), (5, 2.0)):
        lora = student.call("Lora", 8, 6, rank, alpha)
        with told_as(student, f"Lora(8, 6, {rank}, {alpha}).scale"):
            got = student.call("scale", on=lora)
        expect.close(got, alpha / rank, "scale")


def rounded_once(got, exact):
    """What is expected in a narrow format: `got` itself where it is a number next to the exact one, elsewhere the exact one."""
    digits = {torch.bfloat16: 8, torch.float16: 11}[got.dtype]
    half_a_step = 2.0 ** (exact.abs().log2().floor() - digits)
    near = (got.double() - exact).abs() <= half_a_step + 1e-6 * float(exact.abs().max())
    return torch.where(near, got.double(), exact)


def test_lora_forward__other_dtypes(student):
    """The output has the input's dtype; from bfloat16 it is computed in float32 and rounded once, at the end."""
    lora, numbers = new_lora(student, 24, 40, 6, 9.0)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        x = student.randn(3, 4, 24).to(dtype)
        got = student.call("forward", x, on=lora)
        expect.true(got.dtype == dtype, f"dtype {dtype}", f"dtype {got.dtype}")
        exact = lora_output(x.double(), numbers["A"].double(), numbers["B"].double(), 1.5)
        expected, what = exact, "result"
        if dtype != torch.float64:
            expect.true(got.shape == exact.shape, f"shape {list(exact.shape)}", f"shape {list(got.shape)}")
            expected, what = rounded_once(got, exact), f"{str(dtype).removeprefix('torch.')}"
        expect.close(got.double(), expected, what, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))


def compare_delta(student, d_in, d_out, rank, alpha):
    """The merged matrix."""
    lora, numbers = new_lora(student, d_in, d_out, rank, alpha)
    expected = lora_output(torch.eye(d_in), numbers["A"], numbers["B"], alpha / rank)
    expect.close(student.call("delta", on=lora), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_lora_delta__a_square_map(student):
    """scale * A B, so that x @ delta() is forward(x)."""
    compare_delta(student, 6, 6, 4, 10.0)


def test_lora_delta__other_shapes(student):
    """[d_in d_out] where the two differ, and rank 1."""
    compare_delta(student, 7, 4, 2, 5.0)
    compare_delta(student, 3, 8, 1, 4.0)


# forward passes with hooks


@cache
def twin(kind):
    """The library's plain model, for expectations."""
    return BridgedTransformer(tiny_model(kind), device="cpu")


@contextmanager
def twin_with(kind, numbers, scale):
    """The library's plain bridge with adapters added to its weights, and which maps have one."""
    bridge = twin(kind).base_model
    maps = [m for m in find_maps(bridge, LORA_MAPS) if f"adapters.{m.key}.A" in numbers]
    saved = [m.weight.detach().clone() for m in maps]
    try:
        with torch.no_grad():
            for m in maps:
                delta = scale * numbers[f"adapters.{m.key}.A"] @ numbers[f"adapters.{m.key}.B"]
                m.weight.add_(delta if m.is_transposed else delta.T)
        yield bridge, maps
    finally:
        with torch.no_grad():
            for m, weight in zip(maps, saved, strict=True):
                m.weight.copy_(weight)


def expected_logits(kind, ids, numbers=None, scale=1.0):
    """Logits of the plain model, or of one with adapters; `numbers` are named as LoraHooks names them."""
    with twin_with(kind, numbers or {}, scale) as (bridge, _), torch.no_grad():
        return bridge(ids)


def expected_gradients(kind, ids, numbers, scale, weights):
    """Gradients of the weighted sum of the logits with respect to adapters, by the chain rule, and to the embedding."""
    with twin_with(kind, numbers, scale) as (bridge, maps):
        embedding = next(p for name, p in bridge.named_parameters() if "embed_tokens" in name or "wte" in name)
        found = torch.autograd.grad((bridge(ids) * weights).sum(), [*(m.weight for m in maps), embedding])
    grads = {"embedding": found[-1]}
    for m, g in zip(maps, found[:-1], strict=True):
        A, B = (numbers[f"adapters.{m.key}.{side}"] for side in "AB")
        g = g if m.is_transposed else g.T
        grads[f"adapters.{m.key}.A"], grads[f"adapters.{m.key}.B"] = scale * g @ B.T, scale * A.T @ g
    return grads


def same_logits(got, expected, what="logits"):
    """Logits up to the rounding of a pass."""
    expect.close(got, expected, what, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def same_gradient(got, expected, name):
    """A gradient up to the rounding of a pass."""
    require_gradient(got, expected, name, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def new_bridge(student, kind="llama", **options):
    """A bare bridge on the student's side."""
    model = student.call("BridgedTransformer", tiny_model(kind), device="cpu", **options)
    return student.call("base_model", on=model)


def run_pass(student, bridge, hooks, *args, told=None, **options):
    """forward_with_hooks; messages name the hooks as they are written."""
    listed = ", ".join(f"({name!r}, {function.__name__})" for name, function in hooks) if told is None else ""
    more = ["mask" if isinstance(value, torch.Tensor) else repr(value) for value in args[1:]]
    more += [f"{name}={value!r}" for name, value in options.items() if name in ("attention_mask", "logits_to_keep")]
    with told_as(student, f"forward_with_hooks({', '.join(['bridge', told or f'[{listed}]', 'ids', *more])})"):
        if "wrt" in options:
            return student.value_and_grad("forward_with_hooks", bridge, hooks, *args, **options)
        return student.call("forward_with_hooks", bridge, hooks, *args, **options)


def unembedding_of_ones(student, bridge):
    """What an activation larger by 1 before the unembedding adds to the logits."""
    return student.tensors(bridge)["lm_head._original_component.weight"].sum(dim=1)


def test_forward_with_hooks__hooks_act(student):
    """Each hook's result replaces the activation, in the order of the list; without hooks it is the plain pass."""
    bridge, ids = new_bridge(student), student.integers(3, VOCAB, 2, 5)
    plain, one = expected_logits("llama", ids), unembedding_of_ones(student, bridge)
    same_logits(run_pass(student, bridge, [(FINAL, double), (FINAL, add_one)], ids), 2 * plain + one)
    same_logits(run_pass(student, bridge, [(FINAL, add_one), (FINAL, double)], ids), 2 * plain + 2 * one)
    same_logits(run_pass(student, bridge, [], ids), plain)


def test_forward_with_hooks__nothing_remains(student):
    """After the pass the model is as before; a second pass with hooks gives the same as the first."""
    bridge, ids = new_bridge(student), student.integers(3, VOCAB, 2, 4)
    plain = expected_logits("llama", ids)
    for factor, hooks in ((2, [(FINAL, double)]), (1, []), (2, [(FINAL, double)]), (1, [])):
        same_logits(run_pass(student, bridge, hooks, ids), factor * plain)


def fail_on_purpose(student, bridge, ids):
    """A pass in which the second of two hooks raises an error, which must come through."""
    hooks = [(FINAL, double), ("unembed.hook_out", fail)]
    require_refusal("RuntimeError", "a hook that raises one", lambda: run_pass(student, bridge, hooks, ids))


def test_forward_with_hooks__nothing_remains_of_a_pass_that_failed(student):
    """If a hook raises an error, it comes through, and still no hook remains."""
    bridge, ids = new_bridge(student), student.integers(3, VOCAB, 1, 4)
    fail_on_purpose(student, bridge, ids)
    same_logits(run_pass(student, bridge, [], ids), expected_logits("llama", ids), "logits after a pass that failed")


def test_forward_with_hooks__other_hooks_stay(student):
    """Hooks that somebody else has put on the model stay on it, also after a pass that failed."""
    bridge, ids = new_bridge(student), student.integers(3, VOCAB, 2, 3)
    plain, one = expected_logits("llama", ids), unembedding_of_ones(student, bridge)
    student.call("add_hook", FINAL, double, on=bridge)
    same_logits(run_pass(student, bridge, [(FINAL, add_one)], ids), 2 * plain + one)
    same_logits(run_pass(student, bridge, [], ids), 2 * plain, "logits with the other hook")
    fail_on_purpose(student, bridge, ids)
    same_logits(run_pass(student, bridge, [], ids), 2 * plain, "logits with the other hook, after a pass that failed,")


def test_forward_with_hooks__padding(student):
    """The attention mask is passed on: padding on the left changes nothing."""
    for kind in ("llama", "gpt2"):
        ids = student.integers(3, VOCAB, 2, 6)
        mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
        got = run_pass(student, new_bridge(student, kind), [], ids, mask)
        same_logits(got[0, 2:], expected_logits(kind, ids[:1, 2:])[0], "logits after the padding")
        same_logits(got[1:], expected_logits(kind, ids[1:]), "logits of the row without padding")


def test_forward_with_hooks__logits_to_keep(student):
    """When asked, the logits of the last positions only, and no others are computed."""
    bridge, ids = new_bridge(student), student.integers(3, VOCAB, 2, 6)
    plain = expected_logits("llama", ids)
    for keep in (1, 4):
        for looks in ([], [("unembed.hook_out", Require(width=keep))]):
            got = run_pass(student, bridge, [(FINAL, double), *looks], ids, None, logits_to_keep=keep)
            same_logits(got, 2 * plain[:, -keep:])


def test_forward_with_hooks__float32(student):
    """Logits are float32 even from a model in bfloat16, which stays in bfloat16."""
    bridge, ids = new_bridge(student, dtype="bfloat16"), student.integers(3, VOCAB, 1, 4)
    with torch.no_grad():
        plain = BridgedTransformer(tiny_model("llama"), device="cpu", dtype="bfloat16").base_model(ids).float()
    for factor, hooks in ((2, [(FINAL, double)]), (1, [])):
        got = run_pass(student, bridge, hooks, ids)
        expect.true(got.dtype == torch.float32, "dtype torch.float32", f"dtype {got.dtype}")
        expect.close(got, factor * plain, "logits of the model in bfloat16", rtol=0.02, atol=0.01 * float(plain.abs().max()))
    dtype = student.tensors(bridge)["lm_head._original_component.weight"].dtype
    expect.true(dtype == torch.bfloat16, "the model left in torch.bfloat16", f"a model in {dtype}")


def test_forward_with_hooks__gradients(student):
    """Gradients reach the model's weights, through the hooks."""
    bridge, ids, name = new_bridge(student), student.integers(3, VOCAB, 2, 4), "lm_head._original_component.weight"
    weights = student.randn(2, 4, VOCAB)
    _, grads = run_pass(student, bridge, [(FINAL, double)], ids, wrt=(bridge,), weights=weights)
    own = twin("llama").base_model
    expected = torch.autograd.grad((2 * own(ids) * weights).sum(), dict(own.named_parameters())[name])[0]
    same_gradient(grads.get(name), expected, "the unembedding's weight")


# adapters on a model


def new_adapter(student, bridge, key, rank=3, alpha=7.5):
    """A map of a bridge by the name of its adapter, and a random adapter for it; also the numbers and the scale."""
    block, part, leaf = key.removeprefix("blocks_").split("_")
    with told_as(student):
        found = student.call("find_maps", bridge, (f"{part}.{leaf}",))[int(block)]
        lora, numbers = new_lora(student, *student.call("shape", on=found), rank, alpha, 0.3)
    return found, lora, {f"adapters.{key}.{side}": numbers[side] for side in "AB"}, alpha / rank


def same_names(got, expected, what):
    """The same names, in any order and each once."""
    missing, more = [n for n in expected if n not in got], [n for n in got if n not in expected]
    told = f"{missing[0]} missing" if missing else f"{more[0]} besides" if more else f"{len(got)}: some are there twice"
    expect.true(sorted(got) == sorted(expected), f"{what}: {len(expected)} of them", told)


def named_pairs(hooks):
    """The names of hooks, after a look at what they are in."""
    right = isinstance(hooks, list) and all(isinstance(hook, tuple) and len(hook) == 2 for hook in hooks)
    expect.true(right, "a list of pairs (hook name, function)", kind_of(hooks))
    return [name for name, _ in hooks]


def map_name(key):
    """The map's name in the bridge, from its adapter's name."""
    return ".".join(key.split("_"))


def as_called(key):
    """The call that gives an adapter's hooks."""
    return f"adapter_hooks({map_name(key)}, adapter)"


def hooks_of(student, found, lora, key):
    """An adapter's hooks, after a look at their names."""
    with told_as(student, as_called(key)):
        hooks = student.call("adapter_hooks", found, lora)
    name = map_name(key)
    same_names(named_pairs(hooks), [f"{name}.hook_in", f"{name}.hook_out"], f"hooks on input and output of {name}")
    return hooks


def compare_hooked(student, kind, key, shape):
    """Logits and gradients of a model with one adapter's hooks, against the same adapter added to the weight."""
    bridge = new_bridge(student, kind)
    found, lora, numbers, scale = new_adapter(student, bridge, key)
    hooks = hooks_of(student, found, lora, key)
    ids, weights = student.integers(3, VOCAB, *shape), student.randn(*shape, VOCAB)
    got, grads = run_pass(student, bridge, hooks, ids, told=as_called(key), wrt=(lora, bridge), weights=weights)
    same_logits(got, expected_logits(kind, ids, numbers, scale))
    expected = expected_gradients(kind, ids, numbers, scale, weights)
    grads["embedding"] = next(g for name, g in grads.items() if "embed_tokens" in name or "wte" in name)
    for name, gradient in (("A", f"adapters.{key}.A"), ("B", f"adapters.{key}.B"), ("embedding", "embedding")):
        same_gradient(grads.get(name), expected[gradient], name)
    return bridge, hooks, numbers, scale


def test_adapter_hooks__names(student):
    """Two hooks: one on the map's input, one on its output."""
    bridge = new_bridge(student)
    for key in ("blocks_1_attn_v", "blocks_0_mlp_out"):
        found, lora, _, _ = new_adapter(student, bridge, key)
        hooks_of(student, found, lora, key)


def test_adapter_hooks__output_split_into_heads(student):
    """On a query map, whose output is split into heads: logits and gradients are those of W + scale A B."""
    compare_hooked(student, "llama", "blocks_1_attn_q", (2, 5))
    compare_hooked(student, "llama", "blocks_0_attn_q", (1, 4))


def test_adapter_hooks__input_split_into_heads(student):
    """On an output map, whose input is split into heads."""
    compare_hooked(student, "llama", "blocks_0_attn_o", (2, 4))


def test_adapter_hooks__maps_that_are_not_square(student):
    """On a value map with fewer heads, an MLP's two sides, and another architecture."""
    for kind, key in (("llama", "blocks_1_attn_v"), ("llama", "blocks_0_mlp_gate"), ("gpt2", "blocks_1_mlp_out")):
        compare_hooked(student, kind, key, (1, 5))


def test_adapter_hooks__each_pass_on_its_own(student):
    """Passes do not remember each other: other tokens, batches and lengths, in turn."""
    bridge, hooks, numbers, scale = compare_hooked(student, "gpt2", "blocks_0_attn_q", (2, 4))
    for shape in ((2, 4), (1, 4), (3, 6)):
        ids = student.integers(3, VOCAB, *shape)
        got = run_pass(student, bridge, hooks, ids, told=as_called("blocks_0_attn_q"))
        same_logits(got, expected_logits("gpt2", ids, numbers, scale))


def test_adapter_hooks__nothing_is_kept(student):
    """When a pass is over, the hooks hold on to no tensor of it."""
    bridge, (batch, seq) = new_bridge(student), (3, 7)
    for key in ("blocks_0_attn_q", "blocks_1_attn_o"):
        found, lora, _, _ = new_adapter(student, bridge, key)
        hooks = hooks_of(student, found, lora, key)
        run_pass(student, bridge, hooks, student.integers(3, VOCAB, batch, seq), told=as_called(key))
        tensors = [item for item in gc.get_objects() if type(item) is torch.Tensor and item.ndim > 2]
        kept = [list(item.shape) for item in tensors if item.shape[:2] == (batch, seq) and item.shape[-1] != VOCAB]
        expect.true(not kept, "no activation kept after the pass", f"one of shape {kept[0]}, still held" if kept else "")


def test_adapter_hooks__bfloat16(student):
    """In a model in bfloat16 the activation stays in bfloat16."""
    bridge, key = new_bridge(student, dtype="bfloat16"), "blocks_0_attn_q"
    look = ("blocks.0.attn.q.hook_out", Require(dtype=torch.bfloat16))
    found, lora, numbers, scale = new_adapter(student, bridge, key)
    hooks, ids = hooks_of(student, found, lora, key), student.integers(3, VOCAB, 2, 4)
    got = run_pass(student, bridge, [*hooks, look], ids, told=as_called(key))
    expected = expected_logits("llama", ids, numbers, scale)
    expect.close(got, expected, "logits", rtol=0.05, atol=0.05 * float(expected.abs().max()))


def fill(student, lora):
    """Random numbers in all adapters of a LoraHooks; returns them."""
    numbers = {name: 0.3 * student.randn(*tensor.shape) for name, tensor in student.tensors(lora).items()}
    student.tensors(lora, numbers)
    return numbers


def adapted(student, kind, alpha=7.5, rank=3, **options):
    """A TransformerWithLora, its LoraHooks, and the random numbers in them."""
    model = student.call("TransformerWithLora", tiny_model(kind), alpha, rank, device="cpu", **options)
    lora = field(student, model, "lora")
    return model, lora, fill(student, lora)


def map_names(kind, maps=LORA_MAPS):
    """The bridge's names of the maps that a tiny model has."""
    return [f"blocks.{b}.{name}" for b in (0, 1) for name in maps if kind == "llama" or name != "mlp.gate"]


def read_hooks(student, lora):
    """The hooks of all adapters."""
    with told_as(student, "lora.fwd_hooks"):
        return student.call("fwd_hooks", on=lora)


def test_lora_fwd_hooks__names(student):
    """One flat list of pairs, with the two hooks of every adapted map of every block."""
    for kind, maps in (("llama", LORA_MAPS), ("gpt2", ("attn.q", "mlp.out"))):
        _, lora, _ = adapted(student, kind, maps=maps)
        names = named_pairs(read_hooks(student, lora))
        both = [f"{name}.{end}" for name in map_names(kind, maps) for end in ("hook_in", "hook_out")]
        same_names(names, both, "hooks on inputs and outputs of all adapted maps")


def test_lora_fwd_hooks__logits(student):
    """A pass with them is a pass with every adapter added to its weight."""
    for kind, maps in (("llama", LORA_MAPS), ("gpt2", LORA_MAPS), ("llama", ("attn.k",))):
        model, lora, numbers = adapted(student, kind, maps=maps)
        hooks, ids = read_hooks(student, lora), student.integers(3, VOCAB, 2, 5)
        got = run_pass(student, field(student, model, "base_model"), hooks, ids, told="lora.fwd_hooks")
        same_logits(got, expected_logits(kind, ids, numbers, 2.5))


def map_weights(student, lora):
    """The weights of all adapted maps as they are now."""
    return {field(student, m, "key"): field(student, m, "weight") for m in field(student, lora, "maps")}


def enter(student, lora):
    """Go into `with lora.merged():`."""
    with told_as(student, "with lora.merged():"):
        context = student.call("merged", on=lora)
        student.call("__enter__", on=context)
    return context


def leave(student, context, error=None):
    """Leave it, with an error from inside or without; True if the error was swallowed."""
    kind = None if error is None else type(error)
    with told_as(student, "with lora.merged():"):
        return student.call("__exit__", kind, error, None, on=context)


def require_merged(student, lora, kind, before, numbers, scale):
    """Inside: every weight has its adapter added."""
    now = map_weights(student, lora)
    for m in find_maps(twin(kind).base_model, LORA_MAPS):
        if m.key in before:
            delta = scale * numbers[f"adapters.{m.key}.A"] @ numbers[f"adapters.{m.key}.B"]
            what = f"{m.bridge_name} ({'Conv1D' if m.is_transposed else 'Linear'})"
            student.called = "inside `with lora.merged():`"
            require_sum(now[m.key], before[m.key], delta if m.is_transposed else delta.T, what)


def require_sum(got, before, delta, what):
    """A weight with its adapter added, in the weight's own dtype."""
    step = torch.finfo(before.dtype).eps
    expected = (before.float() + delta).to(before.dtype)
    expect.close(got, expected, what, rtol=2 * step, atol=8 * step * float(delta.abs().max()))


def require_restored(student, lora, before, when="after `with lora.merged():`"):
    """Outside: every weight is bit for bit as before, and nothing counts as merged."""
    now = map_weights(student, lora)
    student.called = when
    for key, weight in before.items():
        changed, far = int((now[key] != weight).sum()), float((now[key] - weight).abs().max())
        told = f"{changed} of {weight.numel()} numbers changed, by up to {far:.1e}"
        expect.true(changed == 0, f"{map_name(key)} as before, to the last bit", told)
    expect.equal(field(student, lora, "is_merged"), False, "is_merged")


def test_merged__square_maps_of_both_kinds(student):
    """Inside, weight = before + delta: transposed for a Linear (q), as it is for a Conv1D (o); afterwards exactly as before."""
    _, lora, numbers = adapted(student, "gpt2", maps=("attn.q", "attn.o"))
    before = map_weights(student, lora)
    context = enter(student, lora)
    require_merged(student, lora, "gpt2", before, numbers, 2.5)
    expect.equal(field(student, lora, "is_merged"), True, "is_merged")
    leave(student, context)
    require_restored(student, lora, before)


def test_merged__all_maps(student):
    """Every map of two architectures, and the logits inside are those of the hooks outside."""
    for kind in ("llama", "gpt2"):
        model, lora, numbers = adapted(student, kind)
        bridge, ids = field(student, model, "base_model"), student.integers(3, VOCAB, 2, 4)
        before = map_weights(student, lora)
        context = enter(student, lora)
        require_merged(student, lora, kind, before, numbers, 2.5)
        with told_as(student):
            inside = student.call("forward_with_hooks", bridge, [], ids)
        same_logits(inside, expected_logits(kind, ids, numbers, 2.5), "logits inside")
        leave(student, context)
        require_restored(student, lora, before)


def test_merged__adapters_stay(student):
    """The adapters are the same inside and afterwards."""
    _, lora, numbers = adapted(student, "llama", maps=("attn.v",))
    context = enter(student, lora)
    inside = student.tensors(lora)
    leave(student, context)
    for when, tensors in (("inside", inside), ("afterwards", student.tensors(lora))):
        for name, number in numbers.items():
            expect.equal(tensors[name], number, f"{name} {when}")


def test_merged__in_place(student):
    """The weights stay the same parameters: others hold them too."""
    model, lora, _ = adapted(student, "llama", maps=("attn.q", "mlp.out"))
    names = field(student, model, "peft_names")  # knows the parameters that the model was loaded with
    context = enter(student, lora)
    for m in field(student, lora, "maps"):
        try:
            with told_as(student):
                student.call("path", m, on=names)
        except Wrong:
            expect.true(False, "the weights' own parameters, changed in place", "a new parameter in the place of one")
    leave(student, context)


def test_merged__bfloat16(student):
    """In bfloat16, where subtracting would lose digits, the weights come back exactly too."""
    _, lora, numbers = adapted(student, "llama", dtype="bfloat16")
    before = map_weights(student, lora)
    context = enter(student, lora)
    require_merged(student, lora, "llama", before, numbers, 2.5)
    leave(student, context)
    require_restored(student, lora, before)


def plain_name(name):
    """A tensor's name without what the bridge puts into it."""
    return name.replace("._original_component", "")


def trained_in_a_pass(student, bridge):
    """The names of a bridge's weights that require a gradient."""
    with told_as(student):
        _, grads = student.value_and_grad("forward_with_hooks", bridge, [], torch.tensor([[1, 5]]), wrt=(bridge,))
    return set(grads)


def test_merged__frozen_weights(student):
    """Frozen weights stay frozen inside and afterwards: no graph is kept, and gradients are computed inside as ever."""
    model, lora, numbers = adapted(student, "llama", maps=("attn.q", "mlp.out"))
    bridge, x, weights = field(student, model, "base_model"), student.randn(2, 16), student.randn(2, 16)
    context = enter(student, lora)
    try:
        with told_as(student):
            _, grads = student.value_and_grad("adapters.blocks_0_attn_q.forward", x, wrt=(0,), weights=weights, on=lora)
        A, B = (numbers[f"adapters.blocks_0_attn_q.{side}"] for side in "AB")
        require_gradient(grads[0], 2.5 * weights @ B.T @ A.T, "x", rtol=1e-4, atol=1e-5)
        names = trained_in_a_pass(student, bridge)
    finally:
        leave(student, context)
    for when, found in (("inside", names), ("afterwards", trained_in_a_pass(student, bridge))):
        expect.true(not found, f"frozen base weights {when}", f"{plain_name(min(found, default=''))} requires a gradient")


def test_merged__trained_weights(student):
    """Weights that are trained themselves can be merged too, and require their gradients afterwards as before."""
    bridge = new_bridge(student)
    lora = student.call("LoraHooks", bridge, 3, 7.5, ("attn.q", "attn.o"))
    numbers, names, before = fill(student, lora), trained_in_a_pass(student, bridge), map_weights(student, lora)
    context = enter(student, lora)
    require_merged(student, lora, "llama", before, numbers, 2.5)
    leave(student, context)
    require_restored(student, lora, before)
    lost = names - trained_in_a_pass(student, bridge)
    expect.true(not lost, "the same weights trained afterwards", f"{plain_name(min(lost, default=''))} requires no gradient")


def test_merged__an_error_inside(student):
    """An error inside the block comes through, and the weights come back all the same."""
    _, lora, numbers = adapted(student, "llama", maps=("attn.q", "mlp.out"))
    before = map_weights(student, lora)
    context, error = enter(student, lora), KeyError("something else went wrong inside")
    try:
        swallowed = leave(student, context, error)
    except Wrong as raised:
        swallowed = "something else" not in dict(raised.lines).get("got", "")
        if swallowed:
            raise
    expect.true(not swallowed, "the error inside the block to come through", "it was swallowed")
    require_restored(student, lora, before, "after an error inside `with lora.merged():`")
    again = enter(student, lora)
    require_merged(student, lora, "llama", before, numbers, 2.5)
    leave(student, again)


def test_merged__an_error_while_merging(student):
    """If the merging itself fails half-way, at the last adapter, the weights merged before it come back too."""
    _, lora, _ = adapted(student, "llama", maps=("attn.q", "mlp.out"))
    before = map_weights(student, lora)
    with told_as(student):
        student.call("adapters.blocks_1_mlp_out.__setattr__", "rank", 0, on=lora)  # its scale divides by zero
    try:
        leave(student, enter(student, lora))
    except Wrong as error:
        if not dict(error.lines).get("got", "").startswith("ZeroDivisionError"):
            raise
    require_restored(student, lora, before, "after a `with lora.merged():` that failed")


def test_merged__twice(student):
    """Merging what is merged is refused with a RuntimeError, and changes nothing."""
    _, lora, numbers = adapted(student, "llama", maps=("attn.k", "attn.o"))
    before = map_weights(student, lora)
    context = enter(student, lora)
    require_refusal("RuntimeError", "adapters merged within `merged()`", lambda: enter(student, lora))
    require_merged(student, lora, "llama", before, numbers, 2.5)
    expect.equal(field(student, lora, "is_merged"), True, "is_merged")
    leave(student, context)
    require_restored(student, lora, before)


# whole models


def trained_names(student, model):
    """The names of all tensors that require a gradient."""
    with told_as(student):
        _, grads = student.value_and_grad("forward_with_value_head", torch.tensor([[1, 5]]), wrt=(model,), on=model)
    return set(grads)


def require_only(names, kinds):
    """Exactly the tensors under these names are trained."""
    others = sorted(name for name in names if name.split(".")[0] not in kinds)
    expect.true(
        not others,
        f"only {' and '.join(kinds)} trained, the base model frozen",
        f"{plain_name(others[0] if others else '')} trained",
    )
    for kind in kinds:
        found = any(name.startswith(f"{kind}.") for name in names)
        expect.true(found, f"the parameters of {kind} trained", "none of them requires a gradient")


def require_adapters(student, model, kind, alpha, rank, maps=LORA_MAPS):
    """An adapter of this rank and scale on each of these maps."""
    shapes = {m.key: m.shape for m in find_maps(twin(kind).base_model, maps)}
    tensors = student.tensors(field(student, model, "lora"))
    same_names({map_name(name.split(".")[1]) for name in tensors}, list(map(map_name, shapes)), "adapted maps")
    for key, (d_in, d_out) in shapes.items():
        for side, shape in (("A", [d_in, rank]), ("B", [rank, d_out])):
            got = list(tensors[f"adapters.{key}.{side}"].shape)
            expect.true(got == shape, f"{side} of {map_name(key)} of shape {shape} for rank={rank}", f"shape {got}")
        expect.close(field(student, model, f"lora.adapters.{key}.scale"), alpha / rank, f"scale of {map_name(key)}")


def require_passes(student, model, kind, numbers, scale, shape=(2, 5)):
    """model(ids) is the base model; forward_with_value_head is the adapted one; returns the latter's values."""
    ids = student.integers(3, VOCAB, *shape)
    plain = expected_logits(kind, ids)
    same_logits(student.call("forward", ids, on=model), plain, "logits of model(ids), the reference")
    logits, values = student.call("forward_with_value_head", ids, on=model)
    same_logits(logits, expected_logits(kind, ids, numbers, scale), "logits of the policy")
    return values


OPTIONS = {"maps": LORA_MAPS, "device": "auto", "dtype": "float32"}


def compare_rank_and_alpha(student, name):
    """Rank and alpha given, and left out; what all arguments mean that are left out."""
    for alpha, rank in ((6, 3), (2, 5)):
        model = student.call(f"{name}.from_pretrained", tiny_model("llama"), alpha, rank, device="cpu")
        require_adapters(student, model, "llama", alpha, rank)
    model = student.call(f"{name}.from_pretrained", tiny_model("gpt2"), device="cpu")
    require_adapters(student, model, "gpt2", 32.0, 4)
    require_defaults(student, name, base_model="pocket", lora_alpha=32.0, rank=4, **OPTIONS)


def compare_maps(student, name):
    """Some maps of all, rank and alpha by keyword."""
    for maps in (("attn.q", "attn.v"), ("mlp.out",)):
        model = student.call(name, tiny_model("llama"), rank=2, lora_alpha=8.0, maps=maps, device="cpu")
        require_adapters(student, model, "llama", 8.0, 2, maps)


def compare_device(student, name):
    """A device that nobody has cannot be loaded on."""
    build = partial(student.call, name, tiny_model("llama"), 8.0, 2, device="nowhere")
    require_refusal("InputError", "device='nowhere', which the loading refuses if it is passed on", build)


def test_lora_model__rank_and_alpha(student):
    """from_pretrained(name, lora_alpha, rank): rank and alpha reach every adapter; the default is rank 4, alpha 32."""
    compare_rank_and_alpha(student, "TransformerWithLora")


def test_lora_model__maps(student):
    """Only the maps that are asked for are adapted."""
    compare_maps(student, "TransformerWithLora")


def test_lora_model__device(student):
    """The base model is loaded on the device that is given: one that does not exist is refused."""
    compare_device(student, "TransformerWithLora")


def test_lora_model__what_is_trained(student):
    """The adapters and nothing else."""
    for kind in ("llama", "gpt2"):
        model, _, _ = adapted(student, kind)
        require_only(trained_names(student, model), ("lora",))


def test_lora_model__the_trained_parameters(student):
    """get_base_model_trainable_params lists every parameter of the adapters once, in any order, for the optimiser."""
    model, _, numbers = adapted(student, "llama")
    got = student.call("get_base_model_trainable_params", on=model)
    right = isinstance(got, list) and all(isinstance(one, torch.Tensor) for one in got)
    expect.true(right, "a list of parameters", kind_of(got))
    expect.true(len(got) == len(numbers), f"{len(numbers)} parameters", f"{len(got)}")
    for name, number in numbers.items():
        found = any(torch.equal(one, number) for one in got)
        expect.true(found, f"{name} among the parameters", "another in its place")


def test_lora_model__reference_and_policy(student):
    """model(ids) is the base model, untouched; forward_with_value_head is the base model with all adapters, again and again."""
    for kind in ("llama", "gpt2"):
        model, _, numbers = adapted(student, kind)
        for shape in ((2, 5), (1, 3), (2, 5)):
            values = require_passes(student, model, kind, numbers, 2.5, shape)
            expect.true(values is None, "no values: there is no value head", expect.show(values))


def test_lora_model__gradients(student):
    """Gradients of the policy's logits reach every adapter."""
    model, lora, numbers = adapted(student, "llama")
    ids, weights = student.integers(3, VOCAB, 2, 4), student.randn(2, 4, VOCAB)
    bridge, hooks = field(student, model, "base_model"), field(student, model, "fwd_hooks")
    _, grads = run_pass(student, bridge, hooks, ids, told="model.fwd_hooks", wrt=(lora,), weights=weights)
    expected = expected_gradients("llama", ids, numbers, 2.5, weights)
    for name in numbers:
        same_gradient(grads.get(name), expected[name], name)


def test_lora_model__bfloat16(student):
    """dtype is the base model's; the adapters are float32."""
    model = student.call("TransformerWithLora", tiny_model("llama"), 8.0, 2, device="cpu", dtype="bfloat16")
    require_dtypes(student, model)


def require_dtypes(student, model):
    """The base model's weights in bfloat16, all that is trained in float32."""
    for name, tensor in student.tensors(model).items():
        if name.startswith("base_model") and name.endswith("weight"):
            expect.true(tensor.dtype == torch.bfloat16, f"{plain_name(name)} in torch.bfloat16", str(tensor.dtype))
        elif not name.startswith("base_model"):
            expect.true(tensor.dtype == torch.float32, f"{name} in torch.float32", str(tensor.dtype))


def head_model(student, kind, alpha=7.5, rank=3, **options):
    """A TransformerWithValueHeadLora and the random numbers in its adapters."""
    model = student.call("TransformerWithValueHeadLora", tiny_model(kind), alpha, rank, device="cpu", **options)
    return model, fill(student, field(student, model, "lora"))


def test_value_head_lora__rank_and_alpha(student):
    """from_pretrained(name, lora_alpha, rank): rank and alpha reach every adapter; the default is rank 4, alpha 32."""
    compare_rank_and_alpha(student, "TransformerWithValueHeadLora")
    require_defaults(student, "TransformerWithValueHeadLora", use_value_head=True)


def test_value_head_lora__maps(student):
    """Only the maps that are asked for are adapted."""
    compare_maps(student, "TransformerWithValueHeadLora")


def test_value_head_lora__device(student):
    """The base model is loaded on the device that is given: one that does not exist is refused."""
    compare_device(student, "TransformerWithValueHeadLora")


def test_value_head_lora__what_is_trained(student):
    """The adapters and the head; the base model is frozen."""
    for kind in ("llama", "gpt2"):
        model, _ = head_model(student, kind)
        require_only(trained_names(student, model), ("lora", "value_head"))


def test_value_head_lora__passes(student):
    """model(ids) is the reference; forward_with_value_head gives the policy's logits and one value a position."""
    for kind, shape in (("llama", (2, 5)), ("gpt2", (1, 3))):
        model, numbers = head_model(student, kind)
        values = require_passes(student, model, kind, numbers, 2.5, shape)
        got = f"shape {list(values.shape)}" if isinstance(values, torch.Tensor) else expect.show(values)
        expect.true(got == f"shape {list(shape)}", f"values of shape {list(shape)}", got)


def expected_values(kind, ids, numbers, scale, head):
    """What a head of two layers with a ReLU between them gives of the adapted model's last activation."""
    read = []
    with twin_with(kind, numbers, scale) as (bridge, _), torch.no_grad(), bridge.hooks(fwd_hooks=[(FINAL, keep_in(read))]):
        bridge(ids)
    first, first_bias, second, second_bias = head
    return ((read[0] @ first.T + first_bias).relu() @ second.T + second_bias)[..., 0]


def keep_in(read):
    """A hook that only looks."""

    def look(activation, hook):
        read.append(activation)

    return look


def test_value_head_lora__the_head(student):
    """The head is add_value_head's: two layers, d_model -> 4 d_model -> 1, with a ReLU between them."""
    model, numbers = head_model(student, "llama")
    with told_as(student):
        head = student.call("get_value_head_params", on=model)
    expect.equal([list(p.shape) for p in head], [[64, 16], [64], [1, 64], [1]], "shapes of the head's parameters")
    ids = student.integers(3, VOCAB, 2, 5)
    _, values = student.call("forward_with_value_head", ids, on=model)
    same_logits(values, expected_values("llama", ids, numbers, 2.5, head), "values")


def test_value_head_lora__left_out(student):
    """use_value_head=False: no head, no values, the rest as before."""
    model, numbers = head_model(student, "llama", use_value_head=False)
    head = field(student, model, "value_head")
    expect.true(head is None, "None for value_head", kind_of(head))
    values = require_passes(student, model, "llama", numbers, 2.5)
    expect.true(values is None, "no values", expect.show(values))
    require_only(trained_names(student, model), ("lora",))


def test_value_head_lora__bfloat16(student):
    """dtype is the base model's; adapters and head are float32."""
    model = student.call("TransformerWithValueHeadLora", tiny_model("llama"), 8.0, 2, device="cpu", dtype="bfloat16")
    require_dtypes(student, model)


# arithmetic and files


def some_shapes(student, count):
    """Sides of maps."""
    return [tuple(int(side) for side in pair) for pair in student.integers(8, 500, count, 2)]


def test_lora_parameter_count__counts(student):
    """d_in x rank numbers in A and rank x d_out in B, over all maps."""
    for count, rank in ((3, 4), (1, 1), (5, 16)):
        shapes = some_shapes(student, count)
        expected = 0
        for d_in, d_out in shapes:
            expected += torch.empty(d_in, rank).numel() + torch.empty(rank, d_out).numel()
        expect.equal(student.call("lora_parameter_count", shapes, rank), expected)


def test_lora_parameter_count__no_maps(student):
    """No maps, no numbers."""
    expect.equal(student.call("lora_parameter_count", [], 4), 0)


def some_count(student):
    """A number of parameters."""
    return int(student.integers(10_000, 90_000_000, 1))


def test_training_bytes__full_fine_tuning(student):
    """Weight, gradient, two moments, and the reference's copy of the weight: five times each number's bytes."""
    for size in (4, 2):
        count = some_count(student)
        expect.equal(student.call("training_bytes", count, bytes_per_number=size), 5 * size * count)


def test_training_bytes__lora(student):
    """The base model once, in its own format; the adapters four times in float32; nothing for the reference."""
    for size in (4, 2):
        base, adapters = some_count(student), some_count(student) // 50
        expect.equal(student.call("training_bytes", base, adapters, bytes_per_number=size), size * base + 16 * adapters)


def test_training_bytes__no_adapters(student):
    """0 adapters is not the same as None: nothing is trained and only the base model is kept."""
    base = some_count(student)
    expect.equal(student.call("training_bytes", base, 0), 4 * base)
    expect.equal(student.call("training_bytes", base), 20 * base)
    expect.equal(student.call("training_bytes", base, None), 20 * base)
    require_defaults(student, "training_bytes", bytes_per_number=4)


HF_PATHS = {
    "llama": {
        "attn.q": "model.layers.{}.self_attn.q_proj",
        "attn.k": "model.layers.{}.self_attn.k_proj",
        "attn.v": "model.layers.{}.self_attn.v_proj",
        "attn.o": "model.layers.{}.self_attn.o_proj",
        "mlp.in": "model.layers.{}.mlp.up_proj",
        "mlp.gate": "model.layers.{}.mlp.gate_proj",
        "mlp.out": "model.layers.{}.mlp.down_proj",
    },
    "gpt2": {
        "attn.o": "transformer.h.{}.attn.c_proj",
        "mlp.in": "transformer.h.{}.mlp.c_fc",
        "mlp.out": "transformer.h.{}.mlp.c_proj",
    },
}


def as_peft_has_it(kind, numbers):
    """PEFT's tensors from random adapters, by a table of Hugging Face's names."""
    expected = {}
    for block in (0, 1):
        sides = {}
        for name in LORA_MAPS:
            key = f"adapters.blocks_{block}_{name.replace('.', '_')}"
            if f"{key}.A" in numbers:
                sides[name] = numbers[f"{key}.A"], numbers[f"{key}.B"]
        places = {HF_PATHS[kind][name]: sides[name] for name in sides if name in HF_PATHS[kind]}
        parts = [sides.get(name) for name in ("attn.q", "attn.k", "attn.v")]
        if kind == "gpt2" and any(parts):
            nothing = tuple(torch.zeros_like(side) for side in next(filter(None, parts)))
            q, k, v = (part or nothing for part in parts)
            fused = torch.cat([q[0], k[0], v[0]], dim=1), torch.block_diag(q[1], k[1], v[1])
            places["transformer.h.{}.attn.c_attn"] = fused
        for path, (A, B) in places.items():
            expected[f"base_model.model.{path.format(block)}.lora_A.weight"] = A.T
            expected[f"base_model.model.{path.format(block)}.lora_B.weight"] = B.T
    return expected


def compare_peft(student, kind, **options):
    """Names, shapes, values, and that safetensors can write them."""
    model, lora, numbers = adapted(student, kind, **options)
    with told_as(student, "peft_tensors(lora, names)"):
        got = student.call("peft_tensors", lora, student.call("peft_names", on=model))
    right = isinstance(got, dict) and all(isinstance(tensor, torch.Tensor) for tensor in got.values())
    expect.true(right, "a dictionary of tensors", kind_of(got))
    expected = as_peft_has_it(kind, numbers)
    missing, more = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    told = f"no such name, but {more[0]}" if more else "no such name"
    expect.true(not missing, f"a tensor {missing[0] if missing else ''}", told)
    expect.true(not more, "no other tensors", more[0] if more else "")
    for name, tensor in expected.items():
        expect.equal(got[name], tensor, name)
    scattered = [name for name, tensor in got.items() if not tensor.is_contiguous()]
    told = f"a transposed view for {scattered[0]}" if scattered else ""
    expect.true(not scattered, "contiguous tensors, which safetensors can write", told)


def test_peft_tensors__square_maps(student):
    """A^T and B^T of every adapter under Hugging Face's path of its map."""
    compare_peft(student, "llama", alpha=6.0, rank=4, maps=("attn.q", "attn.o"))


def test_peft_tensors__all_maps(student):
    """All maps, and a rank as large as a map allows."""
    compare_peft(student, "llama", alpha=5.0, rank=2)
    compare_peft(student, "llama", alpha=8.0, rank=8, maps=("attn.v", "mlp.in"))


def test_peft_tensors__fused_maps(student):
    """Where the Hugging Face model fuses q, k and v, the three adapters are one of rank 3r, also where only two are there."""
    compare_peft(student, "gpt2", alpha=6.0, rank=3)
    compare_peft(student, "gpt2", alpha=6.0, rank=2, maps=("attn.q", "attn.v"))
