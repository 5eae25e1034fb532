"""A bridged model's fast passes: whether they apply, and what the last rollout left for scoring."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlhf_lib.engine.decoding import Sampled, Sampler, sample
from rlhf_lib.engine.logits import DeferredLogits, Source, View
from rlhf_lib.engine.packing import pack
from rlhf_lib.engine.switch import is_fast, tell_once
from rlhf_lib.engine.trunk import run_trunk
from rlhf_lib.engine.weights import Adapters, Weights

KNOWN: "WeakKeyDictionary[nn.Module, FastModel | None]" = WeakKeyDictionary()


@dataclass
class Pass:
    """What one pass over a batch gives."""

    logits: DeferredLogits
    hidden: Float[Tensor, "tokens width"]
    index: Int[Tensor, "batch seq"]
    """Each position's vector among `hidden`; -1 where there is no token."""

    def everywhere(self, values: Float[Tensor, " tokens"]) -> Float[Tensor, "batch seq"]:
        """One number a vector as one a position; 0 where there is no token."""
        return values[self.index.clamp(min=0)].masked_fill(self.index < 0, 0.0)


class FastModel:
    """Fast passes of one Hugging Face model under a bridge."""

    def __init__(self, hf: nn.Module):
        self.weights = Weights(hf)
        self.modules = list(hf.modules())
        self.sampled: tuple[Sampled, tuple[int, ...]] | None = None

    @property
    def is_as_loaded(self) -> bool:
        """Whether a pass is the weights and nothing else: no hook anywhere, no dropout."""
        return not any(
            m._forward_hooks or m._forward_pre_hooks or (isinstance(m, nn.Dropout) and m.p > 0 and m.training)
            for m in self.modules
        )

    def run(
        self,
        ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None,
        logits_to_keep: int | None,
        adapters: Adapters,
    ) -> Pass | None:
        """One pass; None where the padding is of another kind than a left-padded rollout's."""
        if attention_mask is None:
            attention_mask = torch.ones_like(ids)
        kept = ids.shape[1] if logits_to_keep is None else min(logits_to_keep, ids.shape[1])
        packing = pack(ids, attention_mask, 0 if logits_to_keep is None else kept - 1)
        if packing is None:
            return None
        hidden = run_trunk(self.weights, packing, adapters)
        source = Source(self.weights, hidden)
        return Pass(DeferredLogits(View(source, packing.index[:, -kept:])), hidden, packing.index)


def fast_model(hf: nn.Module) -> FastModel | None:
    """The fast passes of a bridged model; None where they are off, or do not cover it (which is said once)."""
    if not is_fast():
        return None
    if hf not in KNOWN:
        try:
            KNOWN[hf] = FastModel(hf)
        except ValueError as reason:
            KNOWN[hf] = None
            tell_once(f"no fast path for {reason}: the bridge's own passes are used, which are slower")
    found = KNOWN[hf]
    return found if found is not None and found.is_as_loaded else None


def decode(
    hf: nn.Module,
    ids: Int[Tensor, "batch prefix"],
    attention_mask: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    sampler: Sampler,
) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """The sampling loop of `rlhf_lib.rollouts.decode`; None where it is not covered."""
    model = fast_model(hf)
    result = None if model is None else sample(model.weights, ids, attention_mask, gen_len, end_ids, pad_id, sampler)
    if result is None:
        return None
    columns, model.sampled = result[0], result[1]
    return columns
