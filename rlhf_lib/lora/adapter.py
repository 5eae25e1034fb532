"""Low-rank adaptation by hooks (Hu et al. 2021): every chosen linear map gains x -> scale (x A) B beside its own output.

The base model is never touched, except inside `with hooks.merged():`, where the product is added to the weights so that
sampling costs what it costs without adapters; on leaving, the saved weights are put back bit for bit.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf_lib.args import LORA_MAPS, InputError


def require_rank(rank: int, d_in: int, d_out: int) -> None:
    """Raise InputError for a rank below 1 or above the smaller side of the map."""
    if not 1 <= rank <= min(d_in, d_out):
        raise InputError(f"lora rank={rank} does not fit a map of {d_in} x {d_out}; choose a rank from 1 to {min(d_in, d_out)}")


class Lora(nn.Module):
    """One low-rank adapter, x -> (alpha / rank) x A B, for a linear map from d_in to d_out (Hu et al. 2021, section 4.1)."""

    def __init__(self, d_in: int, d_out: int, rank: int = 4, alpha: float = 32.0):
        """Make the trained parameters A [d_in rank] and B [rank d_out], and keep `rank` and `alpha` as attributes.

        A starts as the weight of torch's Linear(d_in, ...) does: Kaiming-uniform with a = sqrt(5) and fan-in d_in, which is
        uniform between -1/sqrt(d_in) and 1/sqrt(d_in). B starts at zero, so that a new adapter adds nothing.

        Raises:
            InputError: rank below 1 or above the smaller side of the map (`require_rank` does it).
        """
        super().__init__()
        require_rank(rank, d_in, d_out)
        self.rank, self.alpha = rank, alpha
        self.A = nn.Parameter(torch.empty(d_in, rank))
        self.B = nn.Parameter(torch.zeros(rank, d_out))
        nn.init.kaiming_uniform_(self.A.T, a=math.sqrt(5))  # of the transpose: torch reads the fan-in off the last axis

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied by: alpha / rank."""
        return self.alpha / self.rank

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The adapter's contribution, scale * (x A) B; without x itself and without the map's own output.

        It is computed in the adapter's dtype (float32), whatever x's is, and returned in x's dtype.
        """
        return (self.scale * (x.to(self.A.dtype) @ self.A @ self.B)).to(x.dtype)

    def delta(self) -> Float[Tensor, "d_in d_out"]:
        """The matrix that merging adds to the map, for outputs computed as x @ weight; forward(x) equals x @ delta()."""
        return self.scale * (self.A @ self.B)


@dataclass(frozen=True)
class AdaptedMap:
    """Where an adapter sits: `bridge_name` such as "blocks.0.attn.q", and the bridge's module there."""

    block: int
    map_name: str
    module: Any

    @property
    def bridge_name(self) -> str:
        """The map's name in the bridge; its hooks are this + .hook_in and .hook_out."""
        return f"blocks.{self.block}.{self.map_name}"

    @property
    def key(self) -> str:
        """The adapter's name among torch modules, which may hold no dots."""
        return self.bridge_name.replace(".", "_")

    @property
    def weight(self) -> nn.Parameter:
        """The live weight, looked up anew each time since moving a model replaces it."""
        return self.module.original_component.weight

    @property
    def is_transposed(self) -> bool:
        """True for GPT-2's Conv1D, which stores [d_in d_out]; torch's Linear stores [d_out d_in]."""
        return type(self.module.original_component).__name__ == "Conv1D"

    @property
    def is_quantised(self) -> bool:
        """True for bitsandbytes' 4-bit weights, which are packed and cannot be added to."""
        return hasattr(self.weight, "quant_state")

    @property
    def shape(self) -> tuple[int, int]:
        """(d_in, d_out)."""
        if self.is_quantised:
            linear = self.module.original_component
            return linear.in_features, linear.out_features
        d_out, d_in = self.weight.shape
        return (d_out, d_in) if self.is_transposed else (d_in, d_out)


def is_linear(module: Any) -> bool:
    """Whether a module is a linear map: torch's Linear and what derives from it, or GPT-2's Conv1D."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def find_maps(bridge: nn.Module, names: tuple[str, ...]) -> list[AdaptedMap]:
    """Every map of that name in every block; names that the architecture lacks are passed over, unless all are."""
    found = []
    for block, module in enumerate(bridge.blocks):
        for name in names:
            part, _, leaf = name.partition(".")
            holder = getattr(module, part, None)
            linear = getattr(holder, leaf, None)
            is_router = name == "mlp.gate" and not hasattr(holder, "in")  # of a mixture of experts
            if is_linear(getattr(linear, "original_component", None)) and not is_router:
                found.append(AdaptedMap(block, name, linear))
    if not found:
        raise InputError(
            f"lora_maps={names}: this model has none of these linear maps; choose among {' '.join(LORA_MAPS)}, or train all "
            "weights (ppo, or sft without --lora-rank) where it has none of those either"
        )
    return found


class LoraHooks(nn.Module):
    """All adapters of a bridge, and the hooks that apply them.

    Args:
        bridge: the TransformerBridge to adapt; it is neither owned nor changed.
        rank, alpha: of every adapter; its output is scaled by alpha / rank.
        maps: which linear maps, of args.LORA_MAPS.
        own: rank and alpha of each map by its name in the bridge, in place of `rank`, `alpha` and `maps`.
    """

    def __init__(
        self,
        bridge: nn.Module,
        rank: int = 4,
        alpha: float = 32.0,
        maps: tuple[str, ...] = LORA_MAPS,
        own: dict[str, tuple[int, float]] | None = None,
    ):
        super().__init__()
        self.rank, self.alpha = rank, alpha
        found = find_maps(bridge, maps if own is None else LORA_MAPS)
        self.maps = found if own is None else [m for m in found if m.bridge_name in own]
        each = {m.bridge_name: (rank, alpha) for m in self.maps} if own is None else own
        self.adapters = nn.ModuleDict({m.key: Lora(*m.shape, *each[m.bridge_name]).to(m.weight.device) for m in self.maps})
        self.is_merged = False

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """Pairs (hook name, function) that add every adapter's contribution to a forward pass: two for each of `maps`.

        The adapter of a map `m` is `self.adapters[m.key]`; `adapter_hooks` makes the pairs of one.
        """
        return [hook for m in self.maps for hook in adapter_hooks(m, self.adapters[m.key])]

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the base weights include the adapters; afterwards they are as before, bit for bit, whatever happened.

        Adds `delta()` of every map's adapter to `m.weight`, in place and without a graph: as it is where `m.is_transposed`
        (GPT-2's Conv1D stores [d_in d_out]), otherwise transposed. `is_merged` is True inside and False outside. The adapters
        stay as they are. Inside, gradients are computed as ever.

        Raises:
            RuntimeError: the adapters are merged already.
        """
        if self.is_merged:
            raise RuntimeError("the adapters are merged already; leave the enclosing `with model.merged():` first")
        saved = [m.weight.detach().clone() for m in self.maps]
        try:
            self.is_merged = True
            with torch.no_grad():
                for m in self.maps:
                    delta = self.adapters[m.key].delta()
                    m.weight.add_((delta if m.is_transposed else delta.T).to(m.weight.dtype))
            yield
        finally:
            with torch.no_grad():
                for m, weight in zip(self.maps, saved, strict=True):
                    m.weight.copy_(weight)
            self.is_merged = False


def adapter_hooks(adapted: AdaptedMap, adapter: Lora) -> list[tuple[str, Callable]]:
    """The two hooks of one adapter as pairs (hook name, function): remember the map's input, add to the map's output.

    The names are `adapted.bridge_name` + ".hook_in" and ".hook_out". A function is called as function(activation, hook=...)
    in every forward pass; what it returns replaces the activation, unless that is None. Activations are [batch seq width],
    or split into heads [batch seq heads d_head], and keep their shape and dtype; the adapter sees and returns
    [batch seq width]. Nothing of a pass is kept after it.
    """
    seen = {}

    def remember_input(x: Tensor, hook: Any) -> None:
        seen["x"] = x

    def add_output(out: Tensor, hook: Any) -> Tensor:
        return out + adapter(seen.pop("x").flatten(2)).view_as(out)

    return [(f"{adapted.bridge_name}.hook_in", remember_input), (f"{adapted.bridge_name}.hook_out", add_output)]
