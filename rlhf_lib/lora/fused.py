"""Linear maps that a Hugging Face model holds as one and TransformerLens as several: q, k, v, or gate and up.

Each architecture puts the parts together in its own order: GPT-2 one after the other, GPT-NeoX head by head, Phi-3 with fewer
keys than queries. What tells them apart is which outputs of the fused map are a part's own, and that is asked of
TransformerLens' own split: it is given a weight whose rows are numbered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlhf_lib.args import InputError

PARTS = {"attn": ("q", "k", "v"), "mlp": ("gate", "in")}


@dataclass(frozen=True)
class FusedMap:
    """One linear map of the Hugging Face model that is several of the bridge's."""

    block: int
    path: str
    """The Hugging Face module, such as "transformer.h.0.attn.c_attn"."""
    rows: dict[str, Int[Tensor, " part"]]
    """For each of our maps, such as "attn.q", its outputs among those of the fused map."""
    is_transposed: bool
    """True for GPT-2's Conv1D, which stores [d_in d_out]."""

    @property
    def d_out(self) -> int:
        """Outputs of the fused map."""
        return sum(map(len, self.rows.values()))

    def put_together(self, parts: dict[str, Tensor]) -> Tensor:
        """The fused weight, or bias, of its parts', in the layout that Hugging Face stores."""
        first = next(iter(parts.values()))
        fused = first.new_empty(self.d_out, *first.shape[1:])
        for name, rows in self.rows.items():
            fused[rows.to(fused.device)] = parts[name]
        return fused.T.contiguous() if self.is_transposed and fused.ndim == 2 else fused


def live(bridge: nn.Module, block: int, map_name: str) -> Any:
    """The linear module that computes a map, or None where the block has no such map."""
    part, _, leaf = map_name.partition(".")
    found = getattr(getattr(bridge.blocks[block], part, None), leaf, None)
    return getattr(found, "original_component", None)


def find_fused_maps(bridge: nn.Module, parameters: dict[str, nn.Parameter]) -> list[FusedMap]:
    """Every fused map of a bridge that has just been built; `parameters` are the Hugging Face model's, by its own names.

    Raises:
        InputError: TransformerLens' parts of a fused map are not its rows; neither saving nor adapters could be right.
    """
    return [fused for block in range(len(bridge.blocks)) for fused in fused_maps_of(bridge, block, parameters)]


def fused_maps_of(bridge: nn.Module, block: int, parameters: dict[str, nn.Parameter]) -> Iterator[FusedMap]:
    """The fused maps of one block."""
    paths = {id(parameter): name.removesuffix(".weight") for name, parameter in parameters.items()}
    for part, leaves in PARTS.items():
        modules = {f"{part}.{leaf}": live(bridge, block, f"{part}.{leaf}") for leaf in leaves}
        if not all(isinstance(m, nn.Linear) and id(m.weight) not in paths for m in modules.values()):
            continue
        component = getattr(bridge.blocks[block], part)
        beside = live(bridge, block, "attn.o" if part == "attn" else "mlp.out")
        name = component.qkv.name if part == "attn" else component.fused_attr
        path = f"{paths[id(beside.weight)].rpartition('.')[0]}.{name}"
        split = component.split_qkv_matrix if part == "attn" else component.split_gate_up_matrix
        weight = parameters[f"{path}.weight"]
        d_out, d_in = sum(m.out_features for m in modules.values()), modules[f"{part}.{leaves[0]}"].in_features
        is_transposed = tuple(weight.shape) != (d_out, d_in)
        rows = numbered_rows(split, name, weight.T if is_transposed else weight, is_transposed)
        fused = FusedMap(block, path, dict(zip(modules, rows, strict=True)), is_transposed)
        check_rows(fused, modules, parameters)
        yield fused


def numbered_rows(
    split: Any, name: str, weight: Float[Tensor, "d_out d_in"], is_transposed: bool
) -> list[Int[Tensor, " part"]]:
    """Which rows of the fused weight `split` gives to each part."""
    numbers = torch.arange(len(weight), dtype=torch.float32)  # exact below 2^24
    table = numbers[:, None].expand(weight.shape)
    stand_in = SimpleNamespace(weight=table.T if is_transposed else table, bias=numbers)
    return [part.weight[:, 0].detach().long() for part in split(SimpleNamespace(**{name: stand_in}))]


def check_rows(fused: FusedMap, modules: dict[str, nn.Linear], parameters: dict[str, nn.Parameter]) -> None:
    """The parts, put together, must be the weight and the bias that were loaded."""
    for kind in ("weight", "bias"):
        loaded = parameters.get(f"{fused.path}.{kind}")
        parts = {name: getattr(module, kind) for name, module in modules.items()}
        if loaded is None or any(part is None for part in parts.values()):
            continue
        with torch.no_grad():
            if not torch.equal(fused.put_together(parts), loaded):
                raise InputError(
                    f"TransformerLens splits {fused.path} in a way that cannot be undone, so that this model could be neither "
                    "saved nor adapted; use a model whose queries, keys and values are maps of their own, such as Llama or Qwen"
                )
