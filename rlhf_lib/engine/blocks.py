"""One layer of a transformer, whatever the architecture: its maps, its norms, and what stands where."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.engine.parts import Adapters, LinearMap, Norm, Reading, Rotation, bare, linear

Attend = Callable[[Tensor, Tensor, Tensor, Reading], Tensor]
Queries = Float[Tensor, "tokens heads d_head"]
Keys = Float[Tensor, "tokens kv_heads d_head"]
Vectors = Float[Tensor, "tokens width"]


@dataclass(frozen=True)
class Block:
    """One layer: attention maps, MLP maps, norms (None: not there)."""

    q: LinearMap
    k: LinearMap
    v: LinearMap
    o: LinearMap
    up: LinearMap
    gate: LinearMap | None
    down: LinearMap
    activation: Callable[[Tensor], Tensor]
    before_attention: Norm | None
    before_mlp: Norm | None
    after_attention: Norm | None = None
    after_mlp: Norm | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    reading: Reading = field(default_factory=Reading)
    rotation: str | None = "all"
    """Which of the model's rotations turns its queries and keys; None: no position is told."""
    is_parallel: bool = False
    """Whether attention and MLP run side by side."""
    branch_scale: float = 1.0
    """What attention and MLP are multiplied by before they are added (Granite)."""
    holder: Any = None
    """The module that has its weights."""

    def __call__(
        self, x: Vectors, attend: Attend, rotations: dict[str | None, Rotation], adapters: Adapters
    ) -> Float[Tensor, "tokens width"]:
        """The layer on tokens in any order; `attend` knows which belong together."""
        q, k, v = self.project(normed(self.before_attention, x), rotations[self.rotation], adapters)
        attended = normed(self.after_attention, self.o(attend(q, k, v, self.reading).flatten(-2), adapters))
        if self.is_parallel:
            return x + attended + self.mlp(normed(self.before_mlp, x), adapters)
        x = x + attended * self.branch_scale if self.branch_scale != 1 else x + attended
        inner = normed(self.after_mlp, self.mlp(normed(self.before_mlp, x), adapters))
        return x + inner * self.branch_scale if self.branch_scale != 1 else x + inner

    def project(self, x: Vectors, rotation: Rotation, adapters: Adapters) -> tuple[Queries, Keys, Keys]:
        """Queries and keys, normed and rotated, and values, by heads."""
        q, k, v = (part(x, adapters) for part in (self.q, self.k, self.v))
        q, k = (in_heads(part, norm, rotation.head_width) for part, norm in ((q, self.q_norm), (k, self.k_norm)))
        return rotation(q), rotation(k), v.unflatten(-1, (-1, rotation.head_width))

    def mlp(self, x: Vectors, adapters: Adapters) -> Float[Tensor, "tokens width"]:
        """The MLP, gated or not."""
        up = self.up(x, adapters)
        inner = self.activation(up) if self.gate is None else self.activation(self.gate(x, adapters)) * up
        return self.down(inner, adapters)


@dataclass(frozen=True)
class FusedBlock(Block):
    """A layer without adapters whose maps with the same input are one product: fewer, larger ones, on copies of the weights."""

    qkv: tuple[Tensor, Tensor | None] = field(kw_only=True)
    up_gate: tuple[Tensor, Tensor | None] = field(kw_only=True)

    @classmethod
    def of(cls, block: Block) -> "FusedBlock":
        """The layer with its weights as they are now."""
        mlp = [block.up] if block.gate is None else [block.up, block.gate]
        return cls(**vars(block), qkv=stacked([block.q, block.k, block.v]), up_gate=stacked(mlp))

    def project(self, x: Vectors, rotation: Rotation, adapters: Adapters) -> tuple[Queries, Keys, Keys]:
        """Queries and keys, normed and rotated, and values, by heads."""
        width = rotation.head_width
        out, queries, keys = linear(x, *self.qkv), len(self.q.weight), len(self.k.weight)
        v = out[:, queries + keys :].unflatten(-1, (-1, width))
        if self.q_norm is not None:
            q = in_heads(out[:, :queries], self.q_norm, width)
            k = in_heads(out[:, queries : queries + keys], self.k_norm, width)
            return rotation(q), rotation(k), v
        turned = rotation(out[:, : queries + keys].unflatten(-1, (-1, width)))
        return turned[:, : queries // width], turned[:, queries // width :], v

    def mlp(self, x: Vectors, adapters: Adapters) -> Float[Tensor, "tokens width"]:
        """The MLP, gated or not."""
        inner = linear(x, *self.up_gate)
        if self.gate is None:
            return self.down(self.activation(inner), adapters)
        up, gate = inner.chunk(2, dim=-1)
        return self.down(self.activation(gate) * up, adapters)


def normed(norm: Norm | None, x: Vectors) -> Float[Tensor, "tokens width"]:
    """The norm's result, or the vectors as they are where there is none."""
    return x if norm is None else norm(x)


def in_heads(x: Vectors, norm: Norm | None, head_width: int) -> Float[Tensor, "tokens heads d_head"]:
    """Queries or keys by heads, normed head by head (Qwen3, Gemma 3) or over all heads together (OLMo 2)."""
    if norm is not None and len(norm.module.weight) != head_width:
        x, norm = norm(x), None
    heads = x.unflatten(-1, (-1, head_width))
    return heads if norm is None else norm(heads)


def stacked(maps: list[LinearMap]) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of maps below each other."""
    biases = [part.module.bias for part in maps]
    weight = torch.cat([part.weight for part in maps])
    if all(bias is None for bias in biases):
        return weight, None
    zeros = [torch.zeros_like(part.weight[:, 0]) if bias is None else bias for part, bias in zip(maps, biases, strict=True)]
    return weight, torch.cat(zeros)


def block_of(number: int, module: Any, offset: float, **variant: Any) -> Block:
    """A layer's parts off the bridge's component; `offset` is that of its norms, `variant` what the configuration tells."""
    attention, mlp = module.attn, module.mlp

    def linear_map(part: Any, leaf: str, kind: str) -> LinearMap | None:
        found = getattr(part, leaf, None)
        return None if found is None else LinearMap(f"blocks_{number}_{kind}_{leaf}", bare(found))

    def norm(part: Any, leaf: str) -> Norm | None:
        found = getattr(part, leaf, None)
        return None if found is None else Norm(bare(found), offset)

    inner = bare(mlp)
    activations = (getattr(inner, name, None) for name in ("act_fn", "activation_fn", "act"))
    return Block(
        *(linear_map(attention, leaf, "attn") for leaf in "qkvo"),
        up=linear_map(mlp, "in", "mlp"),
        gate=linear_map(mlp, "gate", "mlp"),
        down=linear_map(mlp, "out", "mlp"),
        activation=next(found for found in activations if found is not None),
        before_attention=norm(module, "ln1"),
        before_mlp=norm(module, "ln2"),
        after_attention=norm(module, "ln1_post"),
        after_mlp=norm(module, "ln2_post"),
        q_norm=norm(attention, "q_norm"),
        k_norm=norm(attention, "k_norm"),
        holder=module,
        **variant,
    )
