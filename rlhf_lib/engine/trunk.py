"""One pass over a packed batch: every distinct prompt once, completions without their padding."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf_lib.engine.blocks import Attend, Block
from rlhf_lib.engine.packing import Packing, Rectangle
from rlhf_lib.engine.parts import Adapters, Reading
from rlhf_lib.engine.weights import Weights
from rlhf_lib.sharding import with_whole

Heads = Float[Tensor, "rows heads length d_head"]


@dataclass(frozen=True)
class PackedAttention:
    """Attention rectangle by rectangle; the prompts' keys and values serve all of their completions."""

    packing: Packing

    def __call__(
        self,
        q: Float[Tensor, "tokens heads d_head"],
        k: Float[Tensor, "tokens kv_heads d_head"],
        v: Float[Tensor, "tokens kv_heads d_head"],
        reading: Reading,
    ) -> Float[Tensor, "tokens heads d_head"]:
        """What each token's query reads."""
        prompts, window = self.packing.prompts, reading.window
        prompt_k, prompt_v = in_rows(k, prompts), in_rows(v, prompts)
        read = [attention(in_rows(q, prompts), prompt_k, prompt_v, prompts.mask_within(window, q.device), reading)]
        for part in self.packing.rectangles[1:]:
            keys = torch.cat([prompt_k.index_select(0, part.prompt_of), in_rows(k, part)], dim=2)
            values = torch.cat([prompt_v.index_select(0, part.prompt_of), in_rows(v, part)], dim=2)
            read.append(attention(in_rows(q, part), keys, values, part.mask_within(window, q.device), reading))
        return torch.cat([part.transpose(1, 2).flatten(0, 1) for part in read])


def in_rows(x: Float[Tensor, "tokens heads d_head"], part: Rectangle) -> Heads:
    """A rectangle's tokens as rows, heads first."""
    return x[part.start : part.stop].unflatten(0, (part.rows, part.length)).transpose(1, 2)


def attention(
    q: Heads,
    k: Float[Tensor, "rows kv_heads keys d_head"],
    v: Float[Tensor, "rows kv_heads keys d_head"],
    mask: Bool[Tensor, "rows 1 length keys"] | None,
    reading: Reading,
) -> Heads:
    """Attention of tokens over keys; heads that share keys and values stand below each other as more queries."""
    rows, heads, length, width = q.shape
    group = heads // k.shape[1]
    if group == 1:
        return reading(q, k, v, mask, is_causal=mask is None)
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()[None, None]
    folded = q.reshape(rows, k.shape[1], group * length, width)
    return reading(folded, k, v, mask.repeat(1, 1, group, 1)).reshape(rows, heads, length, width)


def run_trunk(
    weights: Weights, packing: Packing, adapters: Adapters, checkpoint_layers: bool = False
) -> Float[Tensor, "tokens width"]:
    """Every token's vector after the last norm, in the packing's order."""
    again = checkpoint_layers and torch.is_grad_enabled()
    inputs = (weights, weights.blocks, packing.ids, packing.positions, PackedAttention(packing), adapters, again)
    return with_whole(weights.hf, through_layers, *inputs)


def through_layers(
    weights: Weights,
    blocks: list[Block],
    ids: Int[Tensor, " tokens"],
    positions: Int[Tensor, " tokens"],
    attend: Attend,
    adapters: Adapters,
    again: bool = False,
) -> Float[Tensor, "tokens width"]:
    """Every token's vector after the last norm; with `again` layers are computed anew in the backward pass."""
    x, rotations = weights.embed(ids, positions)
    for block in blocks:
        inputs = (block.holder, block, x, attend, rotations, adapters)
        x = checkpoint(with_whole, *inputs, use_reentrant=False) if again else with_whole(*inputs)
    return weights.last_norm(x)
