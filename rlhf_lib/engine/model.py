"""A bridged model's fast passes: whether they apply, and what the last rollout left for scoring."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf_lib import parallel
from rlhf_lib.args import require
from rlhf_lib.engine.decoding import Draws, Sampled, sample
from rlhf_lib.engine.graphs import reader_for
from rlhf_lib.engine.logits import DeferredLogits, Source, View
from rlhf_lib.engine.packing import Packing, pack, together
from rlhf_lib.engine.parts import Adapters
from rlhf_lib.engine.switch import is_fast
from rlhf_lib.engine.trunk import run_trunk
from rlhf_lib.engine.weights import Weights
from rlhf_lib.sharding import is_sharded

HARMLESS_HOOKS = ("transformer_lens", "torch.distributed")  # a bridge's on its norms, and FSDP2's that gather weights
State = list[tuple[Tensor, int]]  # parameters, and how often each had been written to


@dataclass(frozen=True)
class PassOptions:
    """How passes trade time for memory; the results are the same, but for autocast's rounding."""

    micro_batch_size: int | None = None
    """Rows that pass through the model at once; their activations are computed again in the backward pass."""
    checkpoint_activations: bool = False
    """Keep only what goes from layer to layer for the backward pass, and compute the rest again."""
    autocast: bool = False
    """Compute matrix products in bfloat16, whatever the weights are kept in."""


@dataclass(frozen=True)
class Batch:
    """What goes into one pass."""

    ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    kept: int
    """How many of the last positions' logits are wanted."""

    @cached_property
    def gen_len(self) -> int:
        """How many of the last columns are completions: all whose logits are wanted but for one, and all with padding."""
        padding = self.attention_mask.flip(1).long().argmax(dim=1).max() if len(self.ids) else 0
        return max(self.kept - 1 if self.kept < self.ids.shape[1] else 0, int(padding))

    @property
    def own_rows(self) -> slice:
        """The rows that this process passes through the model."""
        return parallel.own_rows(self.ids[:, : self.ids.shape[1] - self.gen_len])


@dataclass(frozen=True)
class Policy:
    """Whose pass it is: the base model with these adapters, on which these parameters are trained."""

    adapters: Adapters = field(default_factory=dict)
    trained: tuple[Tensor, ...] = ()


@dataclass
class Pass:
    """What one pass over a batch gives."""

    source: Source
    index: Int[Tensor, "batch seq"]
    """Each position's vector in the source; -1 where there is no token, or where another process has it."""
    kept: int
    """How many of the last positions' logits are wanted."""

    @property
    def logits(self) -> DeferredLogits:
        """Logits of the last positions."""
        vectors, index = needed_vectors(self.source.hidden, self.index, self.kept)
        source = self.source if vectors is self.source.hidden else replace(self.source, hidden=vectors, dense={})
        return DeferredLogits(View(source, index[:, -self.kept :]))

    def everywhere(self, values: Float[Tensor, " tokens"]) -> Float[Tensor, "batch seq"]:
        """One number a vector as one a position; 0 where there is no token."""
        found = values.new_zeros(self.index.shape)
        real = self.index >= 0
        found[real] = values[self.index[real]]
        return found if self.source.is_shared else parallel.sum_of_parts(found, self.source.trained)


class FastModel:
    """Fast passes of one Hugging Face model under a bridge."""

    def __init__(self, hf: nn.Module):
        self.weights = Weights(hf)
        self.reader = reader_for(self.weights)
        self.modules = list(hf.modules())
        self.policy: State | None = None
        self.options = PassOptions()
        self.sampled: tuple[Sampled, State] | None = None

    @property
    def is_as_loaded(self) -> bool:
        """Whether a pass is the weights and nothing else: no hook anywhere, no dropout."""
        return not any(is_hooked(m) or (isinstance(m, nn.Dropout) and m.p > 0 and m.training) for m in self.modules)

    def run(self, batch: Batch, policy: Policy, options: PassOptions, everything: bool = False) -> Pass | None:
        """One pass over this process's rows; None where the padding is of another kind than a left-padded rollout's.

        It gives the vectors whose logits are wanted, or `everything`. Without gradients every process gets the others' too.
        """
        if torch.is_grad_enabled():
            self.sampled = None  # the policy is about to change, perhaps by an optimiser that writes past torch's counters
        rows = batch.own_rows
        ids, attention_mask = batch.ids[rows], batch.attention_mask[rows]
        order = together(ids[:, : ids.shape[1] - batch.gen_len]) if options.micro_batch_size else torch.arange(len(ids))
        micro_batches = order.to(ids.device).split(options.micro_batch_size or len(ids)) if len(ids) else ()
        along = (parallel.most(len(micro_batches)) if self.weights.is_sharded else len(micro_batches)) - len(micro_batches)
        hidden = [self.weights.no_vectors()]
        index = torch.full_like(ids, -1)
        for some in micro_batches:
            packing = pack(ids[some], attention_mask[some], batch.gen_len)
            if packing is None:
                return None
            index[some] = torch.where(packing.index >= 0, packing.index + sum(map(len, hidden)), -1)
            hidden.append(self.through_trunk(packing, policy, options))
        hidden += self.along_with_others(along, batch, policy, options)
        vectors = torch.cat(hidden)
        if not everything:
            vectors, index = needed_vectors(vectors, index, batch.kept)
        is_data = not torch.is_grad_enabled()
        source = Source(self.weights, vectors, trained=policy.trained, autocast=options.autocast, is_data=is_data)
        if parallel.count() == 1:
            return Pass(source, index, batch.kept)
        if not torch.is_grad_enabled():
            return Pass(*shared_with_all(source, index), batch.kept)
        everywhere = torch.full_like(batch.ids, -1)
        everywhere[rows] = index
        return Pass(source, everywhere, batch.kept)

    def through_trunk(self, packing: Packing, policy: Policy, options: PassOptions) -> Float[Tensor, "tokens width"]:
        """Every token's vector; of a micro-batch they are computed anew in the backward pass."""
        again = options.micro_batch_size is not None and torch.is_grad_enabled()
        inputs = (self.weights, packing, policy.adapters, options.checkpoint_activations)
        with self.precision(options):
            return checkpoint(run_trunk, *inputs, use_reentrant=False) if again else run_trunk(*inputs)

    def along_with_others(
        self, count: int, batch: Batch, policy: Policy, options: PassOptions
    ) -> Iterator[Float[Tensor, "none width"]]:
        """No vectors, from as many passes of a row that does not count.

        Where weights are spread over processes, nobody's layers are whole unless all pass through them, forward and backward.
        """
        for _ in range(count):
            yield self.through_trunk(pack(batch.ids[:1], batch.attention_mask[:1], batch.gen_len), policy, options)[:0]

    def precision(self, options: PassOptions) -> Any:
        """The context in which matrix products have the number format asked for.

        Casts of weights are not kept: a rollout's merged weights change in place, and graphs replay what they captured.
        """
        device = self.weights.embedding.weight.device.type
        return torch.autocast(device, torch.bfloat16, enabled=options.autocast, cache_enabled=False)

    def logits_of_rollout(self, batch: Batch, policy: Policy, options: PassOptions) -> DeferredLogits | None:
        """The logits that the last rollout was sampled from, if these are its tokens and the policy is what it was then.

        Their vectors are kept, so that scoring a rollout costs no pass. In float32 only: elsewhere merged weights are rounded,
        and the trained policy's own logits differ.
        """
        rows = batch.own_rows
        if parallel.agree(not self.is_sampled(batch.ids[rows], batch.attention_mask[rows], batch.kept, policy, options)):
            return None
        sampled, state = self.sampled

        @torch.no_grad()
        def whole_pass() -> View:
            if not same_state(state_of(policy.trained), state):
                raise RuntimeError("the policy has changed since these logits were asked for; use them before the update")
            return self.run(batch, policy, options).logits.view_

        source = Source(self.weights, sampled.hidden, whole_pass, trained=policy.trained, is_data=True)
        index = sampled.index
        if parallel.count() > 1:
            source, index = shared_with_all(source, index)
        last = -2 - (torch.arange(len(batch.ids), device=index.device) * batch.kept + batch.kept - 1)
        last = torch.where(batch.attention_mask[:, -1] > 0, last, -1)  # not there yet: nothing was sampled after it
        return DeferredLogits(View(source, torch.cat([index, last[:, None]], dim=1)))

    def is_sampled(
        self,
        ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"],
        kept: int,
        policy: Policy,
        options: PassOptions,
    ) -> bool:
        """Whether these are the last rollout's tokens, of a policy that has not changed since."""
        if self.sampled is None or not policy.trained or torch.is_grad_enabled() or options.autocast:
            return False
        sampled, state = self.sampled
        return (
            sampled.index.shape[1] == kept - 1
            and same_state(state_of(policy.trained), state)
            and torch.equal(ids, sampled.ids)
            and torch.equal(attention_mask.bool(), sampled.attention_mask.bool())
        )


def needed_vectors(
    vectors: Float[Tensor, "tokens width"], index: Int[Tensor, "rows seq"], kept: int
) -> tuple[Float[Tensor, "needed width"], Int[Tensor, "rows seq"]]:
    """The vectors of the last `kept` positions alone, and where they are now."""
    wanted = index[:, -kept:]
    rows = wanted[wanted >= 0].unique()
    if len(rows) == len(vectors):
        return vectors, index
    place = index.new_full((len(vectors) + 1,), -1)  # the last entry stands for -1
    place[rows] = torch.arange(len(rows), device=index.device)
    return vectors.index_select(0, rows), place[index]


def shared_with_all(source: Source, index: Int[Tensor, "rows kept"]) -> tuple[Source, Int[Tensor, "batch kept"]]:
    """Every process's vectors, and where they are now."""
    counts = parallel.gather_rows(torch.tensor([len(source.hidden)], device=index.device))
    offset = int(counts[: parallel.number()].sum())
    index = parallel.gather_rows(torch.where(index >= 0, index + offset, index))
    return replace(source, hidden=parallel.gather_rows(source.hidden), is_shared=True, dense={}), index


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook runs at this module that may change values."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if type(module).__name__ == "HookPoint":
        return bool(hooks)
    own = (hook for hook in hooks if not getattr(hook, "changes_no_values", False))
    return any(not getattr(hook, "__module__", "").startswith(HARMLESS_HOOKS) for hook in own)


def state_of(parameters: Iterable[Tensor]) -> State:
    """What tells whether parameters have changed."""
    return [(parameter, parameter._version) for parameter in parameters]


def same_state(now: State, then: State) -> bool:
    """Whether both are of the same parameters, not written to in between."""
    return len(now) == len(then) and all(a is b and i == j for (a, i), (b, j) in zip(now, then, strict=True))


class Passes:
    """The passes of one Hugging Face model under a bridge, chosen when they are first needed: fast ones where they cover it."""

    def __init__(self, hf: nn.Module):
        self.hf = hf

    def __deepcopy__(self, memo: dict) -> "Passes":
        """A copy of the model gets passes of its own."""
        return Passes(deepcopy(self.hf, memo))

    @cached_property
    def covering(self) -> FastModel | None:
        """The fast passes; None where the model is not covered, which is said."""
        try:
            return FastModel(self.hf)
        except ValueError as reason:
            warnings.warn(f"no fast path for {reason}: the bridge's own passes are used, which are slower", stacklevel=2)
            return None

    @property
    def fast(self) -> FastModel | None:
        """The fast passes as things are now: None also inside plain_formulas, and while the model has hooks or dropout."""
        found = self.covering if is_fast() else None
        return found if found is not None and found.is_as_loaded else None

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over processes."""
        return is_sharded(self.hf)

    def shard(self) -> None:
        """Spread the weights over the processes.

        Raises:
            InputError: a model that is not covered.
        """
        require(self.covering is not None, "shard needs the fast passes, which do not cover this model; leave shard out")
        self.covering.weights.shard()
        self.covering.reader = reader_for(self.covering.weights)

    @contextmanager
    def sampling_from(self, policy: Policy, options: PassOptions) -> Iterator[None]:
        """Inside, what is sampled is this policy; its adapters are merged, but for weights that are spread over processes."""
        model = self.fast
        if model is None:
            yield
            return
        model.policy, model.options = state_of(policy.trained), options
        model.reader.adapters = policy.adapters if self.is_sharded else {}
        try:
            yield
        finally:
            model.policy, model.options, model.reader.adapters = None, PassOptions(), {}

    def decode(
        self,
        ids: Int[Tensor, "batch prefix"],
        attention_mask: Int[Tensor, "batch prefix"],
        gen_len: int,
        end_ids: list[int],
        pad_id: int,
        make_draws: Callable[[int, int], Draws],
    ) -> list[Tensor] | None:
        """The sampling loop of `rlhf_lib.rollouts.decode`; None where it is not covered.

        Of several processes each samples its own rows: the tokens that one process would, but for what rounding decides.
        `make_draws` is called with the number of all rows and where this process's begin.
        """
        model = self.fast
        if model is None:
            return None
        model.sampled = None
        rows = parallel.own_rows(ids)
        count = len(ids[rows])
        if self.is_sharded and not count:
            rows = slice(0, 1)  # to pass along with the others
        if model.reader.device != ids.device:
            model.reader = reader_for(model.weights)
        draws = make_draws(len(ids), rows.start)
        with model.precision(model.options):
            result = sample(model.reader, ids[rows], attention_mask[rows], gen_len, end_ids, pad_id, draws)
        if result is None:
            return None
        draws.catch_up(ids.device)
        drawn, sampled = result
        if model.policy is not None and sampled.hidden.dtype == torch.float32 and not model.options.autocast:
            model.sampled = (sampled, model.policy)
        columns = (drawn.tokens, drawn.mask, drawn.logprobs, drawn.sampler_logprobs)
        return [parallel.gather_rows(column[:count]) for column in columns]
