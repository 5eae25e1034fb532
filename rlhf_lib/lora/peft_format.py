"""Save adapters in PEFT's format, so that peft, transformers and vLLM take them as they are.

PEFT names an adapter by the Hugging Face module that it adapts. Where that model fuses q, k and v into one map (GPT-2,
GPT-NeoX), our three adapters of rank r are one of rank 3r there: the A side by side, each B in rows of its own and in the
columns of its part. The scale must stay alpha / r, so the fused map's alpha is written as 3 alpha.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf_lib.finite import require_finite
from rlhf_lib.lora.adapter import AdaptedMap, LoraHooks
from rlhf_lib.lora.fused import FusedMap

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class PeftNames:
    """Translates our maps to Hugging Face module paths.

    Args:
        parameters: the Hugging Face model's named parameters, taken before the bridge was built on it.
        fused: its linear maps that are several of ours.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], fused: list[FusedMap]):
        self.paths = {id(parameter): name.removesuffix(".weight") for name, parameter in parameters.items()}
        self.fused = {(one.block, map_name): one for one in fused for map_name in one.rows}

    def fused_map(self, adapted: AdaptedMap) -> FusedMap | None:
        """The fused map that a map is part of; None where Hugging Face holds it by itself."""
        return self.fused.get((adapted.block, adapted.map_name))

    def is_fused(self, adapted: AdaptedMap) -> bool:
        """Whether the Hugging Face model has this map only as part of a fused one."""
        return self.fused_map(adapted) is not None

    def path(self, adapted: AdaptedMap) -> str:
        """The Hugging Face module path of a map, or of the fused map that it is part of."""
        fused = self.fused_map(adapted)
        return self.paths[id(adapted.weight)] if fused is None else fused.path


def target_name(path: str) -> str:
    """The end of a path that tells maps apart: "attn.c_proj" and "mlp.c_proj" are two."""
    return ".".join(path.split(".")[-2:])


def fuse(adapters: nn.ModuleDict, adapted: AdaptedMap, names: PeftNames) -> tuple[Tensor, Tensor]:
    """A [d_in n r] and B [n r d_out] of the map of n parts that a map is one of, r being the largest of their ranks.

    Parts without adapter, and directions that one of smaller rank lacks, are zeros. The fused map has one scale, the first
    part's; a part with another has it in its B.
    """
    fused, (d_in, _) = names.fused_map(adapted), adapted.shape
    parts = parts_of(adapters, adapted, fused)
    rank = max(part.rank for part in parts.values())
    scale = next(iter(parts.values())).scale
    A, B = torch.zeros(d_in, len(fused.rows) * rank), torch.zeros(len(fused.rows) * rank, fused.d_out)
    for i, (map_name, rows) in enumerate(fused.rows.items()):
        if map_name in parts:
            part = parts[map_name]
            own = slice(i * rank, i * rank + part.rank)
            A[:, own] = part.A.detach().cpu()
            B[own, rows] = part.B.detach().cpu() * (part.scale / scale)
    return A, B


def parts_of(adapters: nn.ModuleDict, adapted: AdaptedMap, fused: FusedMap) -> dict[str, nn.Module]:
    """The adapters of a fused map's parts, by the names of our maps: of `Lora`, or of an exercise's class in its place."""
    keys = {name: replace(adapted, map_name=name).key for name in fused.rows}
    return {name: adapters[key] for name, key in keys.items() if key in adapters}


def rank_and_alpha(hooks: LoraHooks, adapted: AdaptedMap, names: PeftNames) -> tuple[int, float]:
    """Of the adapter that PEFT sees at a map's path; a fused one has its parts' rank and alpha, times their number."""
    fused = names.fused_map(adapted)
    if fused is None:
        adapter = hooks.adapters[adapted.key]
        return adapter.rank, adapter.alpha
    parts = list(parts_of(hooks.adapters, adapted, fused).values())
    rank, first = max(part.rank for part in parts), parts[0]
    return len(fused.rows) * rank, len(fused.rows) * (first.alpha if first.rank == rank else first.scale * rank)


@torch.no_grad()
def peft_tensors(hooks: LoraHooks, names: PeftNames) -> dict[str, Tensor]:
    """All adapters by PEFT's names, as PEFT stores them: contiguous, on the CPU, without the scale.

    The map at Hugging Face path P (`names.path(m)`) has two tensors: base_model.model.P.lora_A.weight = A^T [rank d_in] and
    base_model.model.P.lora_B.weight = B^T [d_out rank]. Where `names.is_fused(m)`, A and B are those of the fused map that m
    is part of, which `fuse(hooks.adapters, m, names)` gives. The scale alpha / rank stands in PEFT's configuration instead.
    """
    tensors = {}
    for m in hooks.maps:
        adapter = hooks.adapters[m.key]
        A, B = fuse(hooks.adapters, m, names) if names.is_fused(m) else (adapter.A, adapter.B)
        tensors[f"base_model.model.{names.path(m)}.lora_A.weight"] = A.T.cpu().contiguous()
        tensors[f"base_model.model.{names.path(m)}.lora_B.weight"] = B.T.cpu().contiguous()
    return tensors


def peft_config(hooks: LoraHooks, names: PeftNames, base_model: str) -> dict[str, Any]:
    """What adapter_config.json holds: rank, alpha, the adapted maps, and patterns for maps whose rank or alpha are others."""
    found = {names.path(m): rank_and_alpha(hooks, m, names) for m in hooks.maps}
    patterns: dict[str, tuple[int, float]] = {}
    for target in sorted({target_name(path) for path in found}):
        mine = {path: both for path, both in found.items() if target_name(path) == target}
        alike = (
            {target: next(iter(mine.values()))} if len(set(mine.values())) == 1 else {re.escape(p): v for p, v in mine.items()}
        )
        patterns |= {name: both for name, both in alike.items() if both != (hooks.rank, hooks.alpha)}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": hooks.rank,
        "lora_alpha": hooks.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets(list(found), names),
        "fan_in_fan_out": any(fused.is_transposed if (fused := names.fused_map(m)) else m.is_transposed for m in hooks.maps),
        "rank_pattern": {name: rank for name, (rank, _) in patterns.items()},
        "alpha_pattern": {name: alpha for name, (_, alpha) in patterns.items()},
    }


def targets(paths: list[str], names: PeftNames) -> list[str]:
    """What PEFT is to adapt: the ends of the paths where these name nothing else in the model, otherwise the paths."""
    ends = {target_name(path) for path in paths}
    others = set(names.paths.values()) - set(paths)
    is_exact = not any(other.endswith(f".{end}") for other in others for end in ends)
    return sorted(ends) if is_exact else sorted(paths)


def save_adapter(hooks: LoraHooks, names: PeftNames, directory: Path, base_model: str) -> Path:
    """Write adapter_model.safetensors and adapter_config.json; returns the directory.

    Raises:
        InputError: adapters that are NaN or infinite; nothing is written.
    """
    directory, tensors = Path(directory), peft_tensors(hooks, names)
    require_finite(
        tensors.items(), "the adapter to save", "it is not saved; go back to an earlier one, or train with a lower rate"
    )
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(peft_config(hooks, names, base_model), indent=2) + "\n")
    return directory
