"""The parts of a layer, read off a bridged Hugging Face model: linear maps, norms, rotations, and how its queries read.

Nothing is copied: every pass reads the live weights, trained or merged.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

FEW_TOKENS, LARGE_MATRIX = 256, 2**18
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
    """A LayerNorm, or the root-mean-square norm that has no bias; Gemma's multiplies by 1 + weight."""

    module: nn.Module
    offset: float = 0.0

    def __call__(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        """Each vector, normalised."""
        module = self.module
        if isinstance(module, nn.LayerNorm):
            return F.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
        weight = module.weight if self.offset == 0 else self.offset + module.weight.float()
        eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        if x.dtype == torch.float32:
            return F.rms_norm(x, weight.shape, weight, eps)
        scaled = x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + eps)
        return weight * scaled.to(x.dtype) if self.offset == 0 else (weight * scaled).to(x.dtype)


@dataclass(frozen=True)
class Reading:
    """How a layer's queries read keys: the scale of their products, a cap on them, and how far back they see."""

    scale: float | None = None
    """What products of queries and keys are multiplied by; None: d_head^-0.5."""
    cap: float | None = None
    """Scores are kept within this, by cap x tanh(score / cap) (Gemma 2)."""
    window: int | None = None
    """A token sees itself and the window - 1 tokens before it; None: all before it."""

    def __call__(
        self,
        q: Float[Tensor, "rows heads queries d_head"],
        k: Float[Tensor, "rows heads keys d_head"],
        v: Float[Tensor, "rows heads keys d_head"],
        mask: Bool[Tensor, "..."] | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "rows heads queries d_head"]:
        """What each query reads of the values whose keys `mask` lets it see."""
        if self.cap is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal, scale=self.scale)
        scores = self.scores(q, k)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, -float("inf"))
        return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v

    def scores(
        self, q: Float[Tensor, "rows heads queries d_head"], k: Float[Tensor, "rows heads keys d_head"]
    ) -> Float[Tensor, "rows heads queries keys"]:
        """Products of queries and keys, scaled and capped."""
        scores = (q * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)) @ k.transpose(2, 3)
        return scores if self.cap is None else self.cap * (scores / self.cap).tanh()


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
