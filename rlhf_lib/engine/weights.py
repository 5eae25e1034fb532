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
Adapters = dict[str, nn.Module]


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
        out = F.linear(x, self.weight, self.module.bias)
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

    def project(self, x: Float[Tensor, "tokens width"], adapters: Adapters) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, heads side by side."""
        return self.q(x, adapters), self.k(x, adapters), self.v(x, adapters)

    def mlp(self, x: Float[Tensor, "tokens width"], adapters: Adapters) -> Float[Tensor, "tokens width"]:
        """The MLP, gated or not."""
        up = self.up(x, adapters)
        inner = self.activation(up) if self.gate is None else self.activation(self.gate(x, adapters)) * up
        return self.down(inner, adapters)


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
        self.unembedding = bare(hf.lm_head)
        self.blocks = [block_of(i, module) for i, module in enumerate(getattr(trunk, blocks))]
        linear = [m for b in self.blocks for m in (b.q, b.k, b.v, b.o, b.up, b.gate, b.down) if m is not None]
        if any(type(m.module).__name__ not in ("Linear", "Conv1D") for m in linear):
            raise ValueError("quantised weights")

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
            return Rotation(None, None)
        angles = positions[:, None, None].float() * self.rotary.inv_freq.float()
        scaling = self.rotary.attention_scaling
        return Rotation((angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype))

    def unembed(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocab"]:
        """Logits in float32."""
        return F.linear(hidden, self.unembedding.weight, self.unembedding.bias).float()

    def run_block(
        self,
        block: Block,
        x: Float[Tensor, "tokens width"],
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        rotation: "Rotation",
        adapters: Adapters,
    ) -> Float[Tensor, "tokens width"]:
        """One layer on tokens in any order; `attend` knows which belong together."""
        q, k, v = block.project(block.before_attention(x), adapters)
        q, k, v = (part.unflatten(-1, (-1, self.head_width)) for part in (q, k, v))
        attended = block.o(attend(rotation(q), rotation(k), v).flatten(-2), adapters)
        if self.is_parallel:
            return x + attended + block.mlp(block.before_mlp(x), adapters)
        x = x + attended
        return x + block.mlp(block.before_mlp(x), adapters)


@dataclass(frozen=True)
class Rotation:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + half) of the first entries of every head are rotated."""

    cos: Float[Tensor, "tokens 1 half"] | None
    sin: Float[Tensor, "tokens 1 half"] | None

    def __call__(self, x: Float[Tensor, "tokens heads d_head"]) -> Float[Tensor, "tokens heads d_head"]:
        """Queries or keys, rotated by their positions."""
        if self.cos is None:
            return x
        half = self.cos.shape[-1]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        turned = [first * self.cos - second * self.sin, second * self.cos + first * self.sin]
        return torch.cat([*turned, rest] if rest.shape[-1] else turned, dim=-1)


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
