"""The weights of a bridged Hugging Face model, read as one kind of transformer whatever the architecture.

Architectures differ in where their parts are, in their norms and where these stand, in how positions are told, in windows, caps
and scales. All of that is read off the model here; what reads it knows no architecture.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlhf_lib import parallel
from rlhf_lib.engine.blocks import Block, FusedBlock, block_of
from rlhf_lib.engine.parts import Norm, Reading, Rotation, bare, linear
from rlhf_lib.sharding import is_sharded, shard

FIXED_ROTATIONS = ("default", "linear", "llama3")  # rotary embeddings whose angles do not depend on the sequence's length
FUSED_NUMBERS = 2**25  # numbers of a model whose weights may be copied for a rollout


@dataclass(frozen=True)
class Family:
    """Where an architecture has its parts, and what its configuration does not say."""

    trunk: str = "model"
    blocks: str = "layers"
    norm: str = "norm"
    tokens: str = "embed_tokens"
    positions: str | None = None
    norm_offset: float = 0.0
    """What norms add to their weights."""
    is_windowed: bool = False
    """Whether every layer has the configuration's window, which lists no layer types."""


LLAMA, GEMMA = Family(), Family(norm_offset=1.0)
FAMILIES = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "mistral": Family(is_windowed=True),
    "ministral3": LLAMA,
    "phi3": Family(is_windowed=True),
    "olmo2": LLAMA,
    "olmo3": LLAMA,
    "smollm3": LLAMA,
    "granite": LLAMA,
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gpt2": Family("transformer", "h", "ln_f", "wte", "wpe"),
    "gpt_neox": Family("gpt_neox", "layers", "final_layer_norm", "embed_in"),
}


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
        family = FAMILIES[config.model_type]
        trunk = getattr(hf, family.trunk)
        self.hf = hf
        self.width = config.hidden_size
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.head_width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.embedding = bare(getattr(trunk, family.tokens))
        self.embedding_scale = embedding_scale(self.embedding, config)
        self.positions = None if family.positions is None else bare(getattr(trunk, family.positions))
        self.rotary = bare(trunk.rotary_emb) if hasattr(trunk, "rotary_emb") else None
        self.last_norm = Norm(bare(getattr(trunk, family.norm)), family.norm_offset)
        self.unembedding = bare(hf.get_output_embeddings())
        self.counted: Tensor | None = None  # what stands for the unembedding's weight where that is gathered
        self.logit_divisor = getattr(config, "logits_scaling", None) or 1.0
        self.logit_cap = getattr(config, "final_logit_softcapping", None)
        self.layers = list(getattr(trunk, family.blocks))
        self.blocks = [
            block_of(i, module, family.norm_offset, **variant_of(i, module, config, family))
            for i, module in enumerate(self.layers)
        ]
        maps = [m for b in self.blocks for m in (b.q, b.k, b.v, b.o, b.up, b.gate, b.down) if m is not None]
        if any(type(m.module).__name__ not in ("Linear", "Conv1D") for m in maps):
            raise ValueError("quantised weights")

    @property
    def version(self) -> int:
        """How often the unembedding has been written to."""
        return (self.unembedding.weight if self.counted is None else self.counted)._version

    def shard(self) -> None:
        """Spread the weights over processes."""
        shard(self.hf, self.layers)
        self.counted = self.unembedding.weight

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over processes, so that all must pass through the layers equally often."""
        return is_sharded(self.hf)

    def any_needs_layers(self, mine: bool) -> bool:
        """Whether this process has more to pass through the layers, or must pass along since another one has."""
        return parallel.agree(mine) if self.is_sharded else mine

    def no_vectors(self) -> Float[Tensor, "none width"]:
        """The vectors of no token."""
        weight = self.embedding.weight
        return torch.empty(0, self.width, dtype=weight.dtype, device=weight.device)

    @property
    def windows(self) -> set[int]:
        """The windows of its layers."""
        return {block.reading.window for block in self.blocks} - {None}

    def blocks_for_sampling(self) -> list[Block]:
        """The layers as a rollout runs them, adapters merged: of a small model on a CPU with fused copies of the weights."""
        numbers = sum(p.numel() for p in self.hf.parameters())
        is_worth_it = self.embedding.weight.device.type == "cpu" and numbers <= FUSED_NUMBERS and not self.is_sharded
        return [FusedBlock.of(block) for block in self.blocks] if is_worth_it else self.blocks

    def embed(
        self, ids: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, "tokens width"], dict[str | None, Rotation]]:
        """Token vectors, and the rotations of queries and keys at these positions."""
        x = F.embedding(ids, self.embedding.weight, self.embedding.padding_idx)
        if self.embedding_scale is not None:
            x = x * self.embedding_scale.to(x.device, x.dtype)
        if self.positions is not None:
            x = x + F.embedding(positions, self.positions.weight)
        used = {block.rotation for block in self.blocks}
        return x, {name: self.rotation(name, positions, x.dtype) for name in used}

    def rotation(self, name: str | None, positions: Int[Tensor, " tokens"], dtype: torch.dtype) -> Rotation:
        """Cosine and sine of every position's angles; nothing where positions are embedded, or not told."""
        if self.rotary is None or name is None:
            return Rotation(self.head_width)
        prefix = "" if name == "all" else f"{name}_"
        angles = positions[:, None, None].float() * getattr(self.rotary, f"{prefix}inv_freq").float()
        scale = getattr(self.rotary, f"{prefix}attention_scaling")
        cos, sin = (part * scale for part in (angles.cos(), angles.sin()))
        turn, swap = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        return Rotation(self.head_width, turn.to(dtype), swap.to(dtype))

    def unembed(self, hidden: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocab"]:
        """Logits in float32."""
        logits = linear(hidden, self.unembedding.weight, self.unembedding.bias)
        if self.logit_divisor != 1:
            logits = logits / self.logit_divisor
        if self.logit_cap is not None:
            logits = (logits / self.logit_cap).tanh() * self.logit_cap
        return logits.float()


def embedding_scale(embedding: nn.Module, config: Any) -> Tensor | None:
    """What token vectors are multiplied by: Gemma's module holds it, Granite's configuration."""
    held = getattr(embedding, "embed_scale", None)
    if held is not None:
        return torch.as_tensor(held)
    scale = getattr(config, "embedding_multiplier", None)
    return None if scale is None else torch.tensor(float(scale))


def variant_of(number: int, module: Any, config: Any, family: Family) -> dict[str, Any]:
    """What a layer's configuration says: how its queries read, which rotation turns them, scales."""
    attention = bare(module.attn)
    kinds = getattr(config, "layer_types", None)
    is_windowed = family.is_windowed if kinds is None else kinds[number] == "sliding_attention"
    rotation = kinds[number] if has_rotations_by_layer(config) else "all"
    return {
        "reading": Reading(
            scale=getattr(attention, "scaling", None),
            cap=getattr(attention, "attn_logit_softcapping", None),
            window=config.sliding_window if is_windowed else None,
        ),
        "rotation": rotation if getattr(attention, "use_rope", True) else None,
        "is_parallel": config.model_type == "gpt_neox" and config.use_parallel_residual,
        "branch_scale": getattr(config, "residual_multiplier", None) or 1.0,
    }


def has_rotations_by_layer(config: Any) -> bool:
    """Whether layers of different types have different rotary embeddings (Gemma 3, OLMo 3)."""
    return any(isinstance(value, dict) for value in (getattr(config, "rope_parameters", None) or {}).values())


def refuse_unknown(config: Any) -> None:
    """Raise ValueError for an architecture or a variant of one whose formulas are not these."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise ValueError(f"architecture {kind}")
    strange = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if strange:
        raise ValueError(f"{kind} with layers of type {', '.join(sorted(strange))}")
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in rope.values() if has_rotations_by_layer(config) else [rope]:
        found = (parameters or {}).get("rope_type", "default")
        if found not in FIXED_ROTATIONS:
            raise ValueError(f"{kind} with rotary embedding {found}")
        if "llama_4_scaling_beta" in (parameters or {}):
            raise ValueError(f"{kind} with queries scaled by their position")
    if kind == "gpt2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        raise ValueError("gpt2 with another scale of attention")
    if getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True):
        raise ValueError(f"{kind} with attention to later tokens")
