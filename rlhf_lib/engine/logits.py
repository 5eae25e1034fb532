"""Logits that are computed when they are asked for, and no more of them at a time than fit.

A language model's logits [batch kept vocab] are the largest tensor of a training step, and nothing of them is needed but a
few numbers a token: a log-probability, an entropy, a divergence. `DeferredLogits` stands in their place. It holds the vectors
that the unembedding reads, and computes such numbers either from logits of the real tokens alone, where those are small, or
in chunks over tokens, forward and backward, so that the peak no longer grows with batch x gen x vocab. The plain formulas
run on it as they are written: slicing, dividing by a temperature, log_softmax and gather are deferred too. Whatever
else is asked of it gets ordinary logits; positions without a token are 0 in them.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.engine.weights import Weights
from rlhf_lib.sharding import make_whole

DENSE_NUMBERS = 2**23  # logits up to this many (32 MB) are computed at once and kept for the backward pass
CHUNK_NUMBERS = {"cpu": 2**22, "cuda": 2**26}  # how many logits a chunk has beyond that


@dataclass
class Source:
    """Vectors that a model's unembedding turns into logits; views of the same logits share what was computed of them."""

    weights: Weights
    hidden: Float[Tensor, "tokens width"]
    complete: Callable[[], "View"] | None = None
    """Where some positions' vectors are not there yet: computes all of them."""
    trained: tuple[Tensor, ...] = ()
    """Parameters whose gradients are to be summed over processes."""
    autocast: bool = False
    """Whether logits are computed in bfloat16."""
    is_data: bool = False
    """Whether no gradient reaches these logits."""
    is_shared: bool = False
    """Whether every process has all vectors; otherwise each has those of its own rows."""
    dense: dict[tuple[float, bool, bool, bool], Float[Tensor, "tokens vocab"]] = field(default_factory=dict)
    version: int | None = None
    """How often the unembedding had been written to when these logits were asked for."""

    def __post_init__(self) -> None:
        """Remember the state of the unembedding."""
        if self.version is None:
            self.version = self.weights.version

    @property
    def vocab(self) -> int:
        """Size of the vocabulary."""
        return self.weights.unembedding.weight.shape[0]

    @property
    def is_small(self) -> bool:
        """Whether all logits may exist at once."""
        return len(self.hidden) * self.vocab <= DENSE_NUMBERS

    def unembed(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocab"]:
        """Logits in float32."""
        if self.weights.version != self.version:
            raise RuntimeError("the weights have changed since these logits were asked for; use them before the update")
        product = torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.autocast)
        with product, torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_data):
            return self.weights.unembed(hidden)

    def at_once(self, temperature: float, normalised: bool) -> Float[Tensor, "tokens vocab"]:
        """All logits / temperature, or their log-softmax; computed once."""
        key = (temperature, normalised, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if key not in self.dense:
            if normalised:
                self.dense[key] = self.at_once(temperature, False).log_softmax(dim=-1)
            elif temperature != 1:
                self.dense[key] = self.at_once(1.0, False) / temperature
            else:
                self.dense[key] = self.unembed(self.hidden)
        return self.dense[key]


@dataclass(frozen=True)
class View:
    """Some positions of a source's logits, divided by a temperature, perhaps normalised."""

    source: Source
    index: Int[Tensor, "batch kept"]
    """Each position's vector; -1 where there is no token; -2 - i where it is not there yet, being the i-th of `complete`."""
    temperature: float = 1.0
    normalised: bool = False

    def completed(self) -> "View":
        """The same with every vector there, and the unembedding whole."""
        make_whole(self.source.weights.hf)
        missing = self.index <= -2
        if self.source.complete is None or not missing.any():
            return self
        full, count = self.source.complete(), len(self.source.hidden)
        index = self.index.masked_scatter(missing, count + full.index.flatten()[-2 - self.index[missing]])
        hidden = torch.cat([self.source.hidden, full.source.hidden])
        return replace(self, index=index, source=replace(self.source, hidden=hidden, complete=None, dense={}))

    def rows(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocab"]:
        """The values of some vectors."""
        logits = self.source.unembed(hidden) / self.temperature
        return logits.log_softmax(dim=-1) if self.normalised else logits


class DeferredLogits(Tensor):
    """A tensor [batch kept vocab] of logits, or of their log-softmax, that is not there until something needs it."""

    view_: View

    @staticmethod
    def __new__(cls, view: View) -> "DeferredLogits":
        """A tensor without storage."""
        shape = (*view.index.shape, view.source.vocab)
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32, device=view.index.device)
        made.view_ = view
        return made

    def __init__(self, view: View):
        pass

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), options: dict[str, Any] | None = None) -> Any:
        """What is known to defer is deferred; metadata are read off; all else gets ordinary tensors."""
        options = options or {}
        name = getattr(function, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or "out" in options:
            raise RuntimeError(f"{name} would change logits in place that are not there yet; call .clone() first")
        if function in DEFERRED and isinstance(args[0], DeferredLogits):
            result = DEFERRED[function](*args, **options)
            if result is not NotImplemented:
                return result
        if function in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **options)
        return function(*ordinary(args), **dict(zip(options, ordinary(options.values()), strict=True)))

    @classmethod
    def __torch_dispatch__(cls, function: Callable, types: Any, args: tuple = (), options: dict[str, Any] | None = None) -> Any:
        """What reaches torch's own code gets ordinary logits."""
        return function(*ordinary(args), **dict(zip(options or {}, ordinary((options or {}).values()), strict=True)))

    def __repr__(self) -> str:
        return f"DeferredLogits(shape={tuple(self.shape)})"

    def materialised(self) -> Float[Tensor, "batch kept vocab"]:
        """Ordinary logits, 0 at positions without a token."""
        view = self.view_.completed()
        real = view.index >= 0
        values = view.rows(view.source.hidden[view.index[real]])
        nothing = -math.log(view.source.vocab) if view.normalised else 0.0
        out = values.new_full((*view.index.shape, view.source.vocab), nothing)
        out[real] = values
        if view.source.is_shared or parallel.count() == 1:
            return out
        return parallel.sum_of_parts(out - nothing, view.source.trained) + nothing

    def __getitem__(self, item: Any) -> Tensor:
        """Rows and positions are chosen without computing anything."""
        parts = item if isinstance(item, tuple) else (item,)
        if len(parts) > 2 or not all(isinstance(part, (slice, Tensor)) for part in parts):
            return self.materialised()[item]
        index = self.view_.index[item]
        return DeferredLogits(replace(self.view_, index=index)) if index.ndim == 2 else self.materialised()[item]

    def __truediv__(self, other: Any) -> Tensor:
        """Logits at a temperature."""
        if self.view_.normalised or not isinstance(other, (int, float)):
            return self.materialised() / other
        return DeferredLogits(replace(self.view_, temperature=self.view_.temperature * other))

    @property
    def requires_grad(self) -> bool:
        """Whether gradients reach the vectors."""
        return self.view_.source.hidden.requires_grad

    def float(self) -> "DeferredLogits":
        """Logits are float32 already."""
        return self

    def detach(self) -> "DeferredLogits":
        """The same without gradients."""
        source = self.view_.source
        dense = {key: values.detach() for key, values in source.dense.items()}
        cut = replace(source, hidden=source.hidden.detach(), dense=dense, is_data=True)
        return DeferredLogits(replace(self.view_, source=cut))

    def to(self, *args: Any, **options: Any) -> Tensor:
        """Where they are, they stay as they are; elsewhere ordinary logits."""
        if args == (self.view_.index.device,) and not options:
            return self
        return self.materialised().to(*args, **options)

    def log_softmax(self, dim: int = -1, dtype: torch.dtype | None = None) -> Tensor:
        """Log-probabilities, deferred likewise."""
        if dim not in (-1, 2) or dtype not in (None, torch.float32):
            return self.materialised().log_softmax(dim=dim, dtype=dtype)
        return DeferredLogits(replace(self.view_, normalised=True))

    def gather(self, dim: int, index: Int[Tensor, "batch kept picked"]) -> Float[Tensor, "batch kept picked"]:
        """The entry of one token id a position."""
        if dim not in (-1, 2) or index.shape[-1] != 1:
            return self.materialised().gather(dim, index)
        return picked(self.view_, index[..., 0]).unsqueeze(-1)


def ordinary(parts: Iterable[Any]) -> list[Any]:
    """The same with ordinary logits in place of deferred ones, those in lists included."""
    return [
        part.materialised()
        if isinstance(part, DeferredLogits)
        else type(part)(ordinary(part))
        if isinstance(part, (list, tuple))
        else part
        for part in parts
    ]


def log_softmax(logits: DeferredLogits, dim: int | None = None, *more: Any, **options: Any) -> Any:
    """torch's functions of that name."""
    return NotImplemented if dim is None or more or set(options) - {"_stacklevel"} else logits.log_softmax(dim)


def gather(logits: DeferredLogits, dim: int, index: Tensor, **options: Any) -> Any:
    """torch.gather."""
    return NotImplemented if options else logits.gather(dim, index)


def divide(logits: DeferredLogits, other: Any, **options: Any) -> Any:
    """torch.div."""
    return NotImplemented if options else logits / other


DEFERRED: dict[Any, Callable] = {
    torch.log_softmax: log_softmax,
    torch.nn.functional.log_softmax: log_softmax,
    torch.gather: gather,
    torch.div: divide,
}
METADATA = {
    Tensor.shape.__get__,
    Tensor.dtype.__get__,
    Tensor.device.__get__,
    Tensor.ndim.__get__,
    Tensor.layout.__get__,
    Tensor.is_cuda.__get__,
    Tensor.size,
    Tensor.dim,
    Tensor.__len__,
    Tensor.numel,
    Tensor.is_floating_point,
}


def picked(view: View, tokens: Int[Tensor, "batch kept"]) -> Float[Tensor, "batch kept"]:
    """One entry of every position; 0 at positions without a token."""
    view = view.completed()
    real = own_share(view.index >= 0, view.source.is_shared)
    rows, ids = view.index[real], tokens[real]
    if view.source.is_small:
        values = view.source.at_once(view.temperature, view.normalised)[rows, ids]
    else:
        values = chunked(lambda chunk, places: chunk.gather(1, ids[places, None])[:, 0], view, rows)
    return spread(values, real, view.source)


def expected_logprobs(logprobs: Tensor, other_logprobs: Tensor) -> Any:
    """Expectation of log q under p for deferred log-probabilities of both; NotImplemented for anything else."""
    if not (isinstance(logprobs, DeferredLogits) and isinstance(other_logprobs, DeferredLogits)):
        return NotImplemented
    view, other = logprobs.view_.completed(), other_logprobs.view_.completed()
    if not (view.normalised and other.normalised):
        return NotImplemented
    if logprobs is other_logprobs:
        real = own_share(view.index >= 0, view.source.is_shared)
        return spread(expected_itself(view, view.index[real]), real, view.source)
    if other.source.hidden.requires_grad or (view.source.is_shared and not other.source.is_shared):
        return NotImplemented
    real = own_share((view.index >= 0) & (other.index >= 0), view.source.is_shared)
    return spread(expected_other(view, other, real), real, view.source)


def expected_itself(view: View, rows: Int[Tensor, " real"]) -> Float[Tensor, " real"]:
    """Expectation of log p under p."""
    if view.source.is_small:
        logprobs = view.source.at_once(view.temperature, True)
        return expectation(logprobs, logprobs)[rows]
    return chunked(lambda chunk, places: expectation(chunk, chunk), view, rows)


def expected_other(view: View, other: View, real: Bool[Tensor, "batch kept"]) -> Float[Tensor, " real"]:
    """Expectation of another model's log q under p."""
    rows, other_rows = view.index[real], other.index[real]
    if view.source.is_small and other.source.is_small:
        logprobs, others = (v.source.at_once(v.temperature, True) for v in (view, other))
        return expectation(logprobs[rows], others[other_rows])
    theirs = other.source.hidden[other_rows]

    def against_other(chunk: Float[Tensor, "rows vocab"], places: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
        with torch.no_grad():
            logprobs = other.rows(theirs[places])
        return expectation(chunk, logprobs)

    return chunked(against_other, view, rows)


def expectation(logprobs: Float[Tensor, "rows vocab"], other: Float[Tensor, "rows vocab"]) -> Float[Tensor, " rows"]:
    """Sum of p log q over the vocabulary; what has probability 0 counts 0, whatever log q is."""
    probs = logprobs.exp()
    return (probs * other.masked_fill(probs == 0, 0.0)).sum(dim=-1)


def own_share(real: Bool[Tensor, "batch kept"], is_shared: bool) -> Bool[Tensor, "batch kept"]:
    """Of positions that every process could compute, the ones that this process does."""
    if not is_shared or parallel.count() == 1:
        return real
    mine = torch.zeros_like(real).flatten()
    mine[real.flatten().nonzero()[parallel.number() :: parallel.count(), 0]] = True
    return mine.view_as(real)


def spread(values: Float[Tensor, " real"], real: Bool[Tensor, "batch kept"], source: Source) -> Float[Tensor, "batch kept"]:
    """Values at the real positions, 0 elsewhere; those of all processes together."""
    out = values.new_zeros(real.shape)
    out[real] = values
    return parallel.sum_of_parts(out, source.trained)


def chunked(
    function: Callable[[Float[Tensor, "chunk vocab"], Int[Tensor, " chunk"]], Float[Tensor, " chunk"]],
    view: View,
    rows: Int[Tensor, " real"],
) -> Float[Tensor, " real"]:
    """function(values of a chunk of `rows`, the places of those rows) for all of them, never more than a chunk at a time."""
    unembedding = view.source.weights.unembedding
    with torch.set_grad_enabled(torch.is_grad_enabled() and not view.source.is_data):
        return InChunks.apply(function, view, view.source.hidden[rows], unembedding.weight, unembedding.bias)


class InChunks(torch.autograd.Function):
    """Numbers from chunks of logits, which the backward pass computes once more."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable,
        view: View,
        hidden: Float[Tensor, "real width"],
        weight: Float[Tensor, "vocab width"],
        bias: Float[Tensor, " vocab"] | None,
    ) -> Float[Tensor, " real"]:
        """One number a row."""
        ctx.function, ctx.view = function, view
        ctx.save_for_backward(hidden, weight, bias)
        return torch.cat([function(view.rows(hidden[places]), places) for places in chunks(view, hidden)])

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, " real"]) -> tuple[Any, ...]:
        """Gradients of vectors and unembedding, chunk by chunk."""
        hidden, weight, bias = ctx.saved_tensors
        leaves = [t for t, needed in zip((hidden, weight, bias), ctx.needs_input_grad[2:], strict=True) if needed]
        sums = {id(leaf): torch.zeros_like(leaf) for leaf in leaves}
        for places in chunks(ctx.view, hidden) if grad.any() else ():
            with torch.enable_grad():
                part = hidden[places].detach().requires_grad_(ctx.needs_input_grad[2])
                wanted = [part if leaf is hidden else leaf for leaf in leaves]
                found = torch.autograd.grad(ctx.function(ctx.view.rows(part), places), wanted, grad[places])
            for leaf, value in zip(leaves, found, strict=True):
                if leaf is hidden:
                    sums[id(leaf)][places] = value
                else:
                    sums[id(leaf)] += value
        return None, None, *(sums.get(id(t)) for t in (hidden, weight, bias))


def chunks(view: View, hidden: Float[Tensor, "real width"]) -> list[Int[Tensor, " chunk"]]:
    """Places of all rows, in chunks whose logits fit."""
    numbers = CHUNK_NUMBERS.get(hidden.device.type, CHUNK_NUMBERS["cpu"])
    size = max(1, numbers // view.source.vocab)
    return list(torch.arange(len(hidden), device=hidden.device).split(size))
