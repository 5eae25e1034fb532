"""Save and load adapters in PEFT's format, so that peft, transformers and vLLM take them as they are.

PEFT names an adapter by the Hugging Face module that it adapts. Where that model fuses q, k and v into one map (GPT-2,
GPT-NeoX), our three adapters of rank r are one of rank 3r there: the A side by side, each B in rows of its own and in the
columns of its part. The scale must stay alpha / r, so the fused map's alpha is written as 3 alpha.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_lib.args import InputError
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
    """A [d_in n r] and B [n r d_out] of the map of n parts that a map is one of; parts without adapter contribute zeros."""
    fused, (d_in, _), rank = names.fused_map(adapted), adapted.shape, adapters[adapted.key].rank
    A, B = torch.zeros(d_in, len(fused.rows) * rank), torch.zeros(len(fused.rows) * rank, fused.d_out)
    for i, (map_name, rows) in enumerate(fused.rows.items()):
        key, own = replace(adapted, map_name=map_name).key, slice(i * rank, (i + 1) * rank)
        if key in adapters:
            A[:, own] = adapters[key].A.detach().cpu()
            B[own, rows] = adapters[key].B.detach().cpu()
    return A, B


def split(
    A: Float[Tensor, "d_in rank"], B: Float[Tensor, "rank d_out"], fused: FusedMap, map_name: str
) -> tuple[Tensor, Tensor]:
    """The adapter of one part of a fused map: its outputs of B, and those directions of A that reach them.

    An adapter that peft trained on the fused map shares A among the parts, so each takes all of it. One that `fuse` made comes
    apart into what it was made of.
    """
    rank, own = A.shape[1] // len(fused.rows), list(fused.rows).index(map_name)
    mine = slice(own * rank, (own + 1) * rank)
    of_part = B[:, fused.rows[map_name]]
    others = torch.ones(len(B), dtype=torch.bool)
    others[mine] = False
    is_ours = A.shape[1] == rank * len(fused.rows) and not of_part[others].any()
    return (A[:, mine], of_part[mine]) if is_ours else (A, of_part)


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
    """What adapter_config.json holds: rank, alpha and the adapted maps; of fused ones, rank and alpha times their parts."""
    fused_maps = [fused for m in hooks.maps if (fused := names.fused_map(m))]
    parts_of = dict(sorted((target_name(fused.path), len(fused.rows)) for fused in fused_maps))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": hooks.rank,
        "lora_alpha": hooks.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({target_name(names.path(m)) for m in hooks.maps}),
        "fan_in_fan_out": any(fused.is_transposed if (fused := names.fused_map(m)) else m.is_transposed for m in hooks.maps),
        "rank_pattern": {name: parts * hooks.rank for name, parts in parts_of.items()},
        "alpha_pattern": {name: parts * hooks.alpha for name, parts in parts_of.items()},
    }


def save_adapter(hooks: LoraHooks, names: PeftNames, directory: Path, base_model: str) -> Path:
    """Write adapter_model.safetensors and adapter_config.json; returns the directory."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(peft_tensors(hooks, names), directory / WEIGHTS, metadata={"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(peft_config(hooks, names, base_model), indent=2) + "\n")
    return directory


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The adapter's configuration, checked for what hook-based LoRA can honour."""
    directory = Path(directory)
    file = directory / CONFIG
    if not file.is_file():
        raise InputError(f"{directory} holds no {CONFIG}; give a directory that save_adapter or peft wrote")
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON ({error}); it may be truncated, restore it from a copy") from None
    if config.get("peft_type") != "LORA":
        raise InputError(f"{file} has peft_type={config.get('peft_type')!r}; only LORA adapters can be loaded")
    for feature in ("use_dora", "use_rslora", "modules_to_save", "layers_to_transform"):
        if config.get(feature):
            raise InputError(f"{file} uses {feature}, which hook-based LoRA does not have; merge it with peft first")
    return config


def read_adapter_weights(directory: Path) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names."""
    file = Path(directory) / WEIGHTS
    try:
        return load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{file} cannot be read ({error}); it is missing or truncated, save the adapter again") from None


def adapted_maps(hooks: LoraHooks, names: PeftNames, directory: Path) -> tuple[str, ...]:
    """Which of the maps of `hooks` the adapter in a directory has."""
    tensors = read_adapter_weights(directory)
    return tuple(dict.fromkeys(m.map_name for m in hooks.maps if f"base_model.model.{names.path(m)}.lora_A.weight" in tensors))


@torch.no_grad()
def load_adapter(hooks: LoraHooks, names: PeftNames, directory: Path) -> None:
    """Fill the adapters from a directory; nothing is changed unless every tensor fits.

    Raises:
        InputError: no such adapter, truncated, or made for another model, rank or choice of maps.
    """
    directory = Path(directory)
    config, tensors = read_adapter_config(directory), read_adapter_weights(directory)
    planned, used = [], set()
    for m in hooks.maps:
        keys = [f"base_model.model.{names.path(m)}.lora_{side}.weight" for side in "AB"]
        if any(key not in tensors for key in keys):
            raise InputError(
                f"{directory} has no adapter for {m.bridge_name} ({keys[0]}); it was made for another model or other "
                f"maps (its target_modules: {config.get('target_modules')}); pass the same base_model and lora_maps"
            )
        used.update(keys)
        A, B = (tensors[key].T for key in keys)
        if fused := names.fused_map(m):
            A, B = split(A, B, fused, m.map_name)
        adapter = hooks.adapters[m.key]
        if A.shape != adapter.A.shape or B.shape != adapter.B.shape:
            raise InputError(
                f"{directory}: {m.bridge_name} has A {tuple(A.shape)} and B {tuple(B.shape)} but this model needs "
                f"{tuple(adapter.A.shape)} and {tuple(adapter.B.shape)}; load it with "
                f"rank={config.get('r')} and its own base_model"
            )
        planned.append((adapter, A, B))
    if unused := sorted(set(tensors) - used):
        raise InputError(f"{directory} also adapts {unused[0]}, which is not among lora_maps; add that map")
    if config["lora_alpha"] != hooks.alpha:
        raise InputError(
            f"{directory} has lora_alpha={config['lora_alpha']}, not {hooks.alpha}; pass lora_alpha={config['lora_alpha']}"
        )
    for adapter, A, B in planned:
        adapter.A.copy_(A)
        adapter.B.copy_(B)
