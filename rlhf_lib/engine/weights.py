"""The weights of a bridged Hugging Face model, read as one kind of transformer whatever the architecture.

Llama, Qwen2, GPT-2 and GPT-NeoX differ in their norm, their positions, their MLP's gate, and in whether attention and MLP run
side by side. Nothing is copied: every pass reads the live weights, trained or merged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

NAMES = {  # where the parts are in Hugging Face's modules: trunk, blocks, last norm, token embedding, position embedding
    "llama": ("model", "layers", "norm", "embed_tokens", None),
    "qwen2": ("model", "layers", "norm", "embed_tokens", None),
    "gpt2": ("transformer", "h", "ln_f", "wte", "wpe"),
    "gpt_neox": ("gpt_neox", "layers", "final_layer_norm", "embed_in", None),
}
FIXED_ROTATIONS = ("default", "linear", "llama3")  # rotary embeddings whose angles do not depend on the sequence's length
FEW_TOKENS, LARGE_MATRIX = 256, 2**18
FUSED_NUMBERS = 2**25  # numbers of a model whose weights may be copied for a rollout
Adapters = dict[str, nn.Module]


def linear(
    x: Float[Tensor, "*tokens d_in"], weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None
) -> Float[Tensor, "*tokens d_out"]:
    """x W^T + b; on a CPU few tokens meet a large matrix as (W x^T)^T, which there takes a quarter to a third less time."""
    is_few = x.ndim == 2 and 1 < len(x) <= FEW_TOKENS and weight.numel() >= LARGE_MATRIX
    if not is_few or x.device.type != "cpu" or torch.is_grad_enabled() or x.dtype != weight.dtype:
        return F.linear(x, weight, bias)
    out = (weight @ x.T).T.contiguous()
    return out if bias is None else out.add_(bias)


@dataclass(frozen=True)
class LinearMap:
    """A linear map of a block, by its name among adapters, such as "blocks_0_attn_q"."""

    name: str
    module: nn.Module

    @property
    def weight(self) -> Float[Tensor, "d_out d_in"]:
        """The live weight; GPT-2's Conv1D stores it transposed."""
        weight = self.module.weight
        return weight.T if type(self.module).__name__ == "Conv1D" else weight

    def __call__(self, x: Float[Tensor, "tokens d_in"], adapters: Adapters) -> Float[Tensor, "tokens d_out"]:
        """The map, plus its adapter's contribution where it has one."""
        out = linear(x, self.weight, self.module.bias)
        adapter = adapters.get(self.name)
        return out if adapter is None else out + adapter(x)


@dataclass(frozen=True)
class Norm:
    """A LayerNorm, or the root-mean-square norm that has no bias."""

    module: nn.Module

    def __call__(self, x: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """Each token's vector, normalised."""
        module = self.module
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
        if x.dtype == torch.float32:
            return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)
        scale = torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + module.variance_epsilon)
        return module.weight * (x.float() * scale).to(x.dtype)


@dataclass(frozen=True)
class Block:
    """One layer: attention maps, MLP maps, norms."""

    q: LinearMap
    k: LinearMap
    v: LinearMap
    o: LinearMap
    up: LinearMap
    gate: LinearMap | None
    down: LinearMap
    activation: Callable[[Tensor], Tensor]
    before_attention: Norm
    before_mlp: Norm

    def project(
        self, x: Float[Tensor, "tokens width"], rotation: "Rotation", adapters: Adapters
    ) -> tuple[Float[Tensor, "tokens heads d_head"], ...]:
        """Queries and keys, rotated, and values, by heads."""
        q, k, v = (part(x, adapters).unflatten(-1, (-1, rotation.head_width)) for part in (self.q, self.k, self.v))
        return rotation(q), rotation(k), v

    def mlp(self, x: Float[Tensor, "tokens width"], adapters: Adapters) -> Float[Tensor, "tokens width"]:
        """The MLP, gated or not."""
        up = self.up(x, adapters)
        inner = self.activation(up) if self.gate is None else self.activation(self.gate(x, adapters)) * up
        return self.down(inner, adapters)


@dataclass(frozen=True)
class FusedBlock(Block):
    """A layer without adapters whose maps with the same input are one product: fewer, larger ones, on copies of the weights."""

    qkv: tuple[Tensor, Tensor | None]
    up_gate: tuple[Tensor, Tensor | None]

    @classmethod
    def of(cls, block: Block) -> "FusedBlock":
        """The layer with its weights as they are now."""
        mlp = [block.up] if block.gate is None else [block.up, block.gate]
        return cls(**vars(block), qkv=stacked([block.q, block.k, block.v]), up_gate=stacked(mlp))

    def project(
        self, x: Float[Tensor, "tokens width"], rotation: "Rotation", adapters: Adapters
    ) -> tuple[Float[Tensor, "tokens heads d_head"], ...]:
        """Queries and keys, rotated, and values, by heads."""
        heads = linear(x, *self.qkv).unflatten(-1, (-1, rotation.head_width))
        queries, keys = (len(part.weight) // rotation.head_width for part in (self.q, self.k))
        turned = rotation(heads[:, : queries + keys])
        return turned[:, :queries], turned[:, queries:], heads[:, queries + keys :]

    def mlp(self, x: Float[Tensor, "tokens width"], adapters: Adapters) -> Float[Tensor, "tokens width"]:
        """The MLP, gated or not."""
        inner = linear(x, *self.up_gate)
        if self.gate is None:
            return self.down(self.activation(inner), adapters)
        up, gate = inner.chunk(2, dim=-1)
        return self.down(self.activation(gate) * up, adapters)


def stacked(maps: list[LinearMap]) -> tuple[Tensor, Tensor | None]:
    """Weights and biases of maps below each other."""
    biases = [part.module.bias for part in maps]
    weight = torch.cat([part.weight for part in maps])
    if all(bias is None for bias in biases):
        return weight, None
    zeros = [torch.zeros_like(part.weight[:, 0]) if bias is None else bias for part, bias in zip(maps, biases, strict=True)]
    return weight, torch.cat(zeros)


class Weights:
    """The parts of a model, and the operations on tokens that need no other token.

    Args:
        hf: the Hugging Face model under a TransformerBridge.

    Raises:
        ValueError: an architecture or a variant that is not covered; the message says which.
    """

    def __init__(self, hf: nn.Module):
        config = hf.config
        refuse_unknown(config)
        trunk_name, blocks, norm, tokens, positions = NAMES[config.model_type]
        trunk = getattr(hf, trunk_name)
        self.hf = hf
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.is_parallel = config.model_type == "gpt_neox" and config.use_parallel_residual
        self.embedding = bare(getattr(trunk, tokens))
        self.positions = None if positions is None else bare(getattr(trunk, positions))
        self.rotary = bare(trunk.rotary_emb) if hasattr(trunk, "rotary_emb") else None
        self.last_norm = Norm(bare(getattr(trunk, norm)))
        self.unembedding = bare(hf.get_output_embeddings())
        self.blocks: list[Block] = [block_of(i, module) for i, module in enumerate(getattr(trunk, blocks))]
        linear = [m for b in self.blocks for m in (b.q, b.k, b.v, b.o, b.up, b.gate, b.down) if m is not None]
        if any(type(m.module).__name__ not in ("Linear", "Conv1D") for m in linear):
            raise ValueError("quantised weights")

    def blocks_for_sampling(self) -> list[Block]:
        """The layers as a rollout runs them, adapters merged: of a small model on a CPU with fused copies of the weights."""
        numbers = sum(p.numel() for p in self.hf.parameters())
        is_worth_it = self.embedding.weight.device.type == "cpu" and numbers <= FUSED_NUMBERS
        return [FusedBlock.of(block) for block in self.blocks] if is_worth_it else self.blocks

    def embed(
        self, ids: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "tokens width"], "Rotation"]:
        """Token vectors, and the rotation of queries and keys at these positions."""
        x = F.embedding(ids, self.embedding.weight, self.embedding.padding_idx)
        if self.positions is not None:
            x = x + F.embedding(positions, self.positions.weight)
        return x, self.rotation(positions, x.dtype)

    def rotation(self, positions: Int[Tensor, " tokens"], dtype: torch.dtype) -> "Rotation":
        """Cosine and sine of every position's angles; nothing where positions are embedded."""
        if self.rotary is None:
            return Rotation(self.head_width)
        angles = positions[:, None, None].float() * self.rotary.inv_freq.float()
        cos, sin = (part * self.rotary.attention_scaling for part in (angles.cos(), angles.sin()))
        turn, swap = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        return Rotation(self.head_width, turn.to(dtype), swap.to(dtype))

    def unembed(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocab"]:
        """Logits in float32."""
        return linear(hidden, self.unembedding.weight, self.unembedding.bias).float()

    def run_block(
        self,
        block: Block,
        x: Float[Tensor, "tokens width"],
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        rotation: "Rotation",
        adapters: Adapters,
    ) -> Float[Tensor, "tokens width"]:
        """One layer on tokens in any order; `attend` knows which belong together."""
        q, k, v = block.project(block.before_attention(x), rotation, adapters)
        attended = block.o(attend(q, k, v).flatten(-2), adapters)
        if self.is_parallel:
            return x + attended + block.mlp(block.before_mlp(x), adapters)
        x = x + attended
        return x + block.mlp(block.before_mlp(x), adapters)


@dataclass(frozen=True)
class Rotation:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + half) of the first entries of every head are rotated."""

    head_width: int
    cos: Float[Tensor, "tokens 1 rotated"] | None = None
    """Of every entry's angle; None: positions are embedded."""
    sin: Float[Tensor, "tokens 1 rotated"] | None = None
    """The factor of the pair's other entry: minus the sine in the first half."""

    def __call__(self, x: Float[Tensor, "tokens heads d_head"]) -> Float[Tensor, "tokens heads d_head"]:
        """Queries or keys, rotated by their positions."""
        if self.cos is None:
            return x
        width = self.cos.shape[-1]
        turned = x[..., :width]
        turned = turned * self.cos + turned.roll(width // 2, dims=-1) * self.sin
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], dim=-1)


def bare(module: Any) -> nn.Module:
    """What a bridge's component wraps."""
    return getattr(module, "original_component", module)


def block_of(number: int, module: Any) -> Block:
    """A layer's parts off the bridge's component."""
    attention, mlp = module.attn, module.mlp

    def linear(part: Any, leaf: str, kind: str) -> LinearMap | None:
        found = getattr(part, leaf, None)
        return None if found is None else LinearMap(f"blocks_{number}_{kind}_{leaf}", bare(found))

    inner = bare(mlp)
    return Block(
        *(linear(attention, leaf, "attn") for leaf in "qkvo"),
        up=linear(mlp, "in", "mlp"),
        gate=linear(mlp, "gate", "mlp"),
        down=linear(mlp, "out", "mlp"),
        activation=getattr(inner, "act_fn", None) or inner.act,
        before_attention=Norm(bare(module.ln1)),
        before_mlp=Norm(bare(module.ln2)),
    )


def refuse_unknown(config: Any) -> None:
    """Raise ValueError for an architecture or a variant of one whose formulas are not these."""
    kind = config.model_type
    if kind not in NAMES:
        raise ValueError(f"architecture {kind}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or []):
        raise ValueError(f"{kind} with sliding-window attention")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in FIXED_ROTATIONS:
        raise ValueError(f"{kind} with rotary embedding {rope}")
    if kind == "gpt2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        raise ValueError("gpt2 with another scale of attention")
