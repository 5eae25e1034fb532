"""Save and load adapters in PEFT's format, so that peft, transformers and vLLM take them as they are.

PEFT names an adapter by the Hugging Face module that it adapts. Where that model fuses q, k and v into one map (GPT-2,
GPT-NeoX), our three adapters of rank r are one of rank 3r there: the A side by side, the B on the diagonal of a block
matrix. The scale must stay alpha / r, so the fused map's alpha is written as 3 alpha.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_lib.args import InputError
from rlhf_lib.lora.adapter import AdaptedMap, LoraHooks

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FUSED = ("attn.q", "attn.k", "attn.v")


class PeftNames:
    """Translates our maps to Hugging Face module paths.

    Args:
        bridge: the TransformerBridge.
        parameters: the Hugging Face model's named parameters, taken before the bridge was built on it.
    """

    def __init__(self, bridge: nn.Module, parameters: dict[str, nn.Parameter]):
        self.bridge = bridge
        self.paths = {id(parameter): name.removesuffix(".weight") for name, parameter in parameters.items()}

    def is_fused(self, adapted: AdaptedMap) -> bool:
        """Whether the Hugging Face model has this map only as part of a fused one."""
        return id(adapted.weight) not in self.paths

    def path(self, adapted: AdaptedMap) -> str:
        """The Hugging Face module path of a map, or of the fused map that it is part of."""
        if not self.is_fused(adapted):
            return self.paths[id(adapted.weight)]
        attention = self.bridge.blocks[adapted.block].attn
        beside = self.paths[id(attention.o.original_component.weight)]
        return f"{beside.rpartition('.')[0]}.{attention.qkv.name}"

    def interleaves(self, adapted: AdaptedMap) -> bool:
        """Whether the fused map orders its outputs [heads 3 d_head] (GPT-NeoX) and not [3 heads d_head] (GPT-2)."""
        return type(self.bridge.blocks[adapted.block].attn.qkv.original_component).__name__ != "Conv1D"


def target_name(path: str) -> str:
    """The end of a path that tells maps apart: "attn.c_proj" and "mlp.c_proj" are two."""
    return ".".join(path.split(".")[-2:])


def fuse(adapters: nn.ModuleDict, adapted: AdaptedMap, names: PeftNames) -> tuple[Tensor, Tensor]:
    """A [d_in 3r] and B [3r 3 d_out] of the fused map that a map is part of; q, k or v without adapter contributes zeros."""
    (d_in, d_out), rank = adapted.shape, adapters[adapted.key].rank
    blank = torch.zeros(d_in, rank), torch.zeros(rank, d_out)
    keys = [replace(adapted, map_name=name).key for name in FUSED]
    pairs = [(adapters[key].A, adapters[key].B) if key in adapters else blank for key in keys]
    A = torch.cat([a.detach().cpu() for a, _ in pairs], dim=1)
    B = torch.block_diag(*[b.detach().cpu() for _, b in pairs])
    if names.interleaves(adapted):
        B = rearrange(B, "r (three heads d_head) -> r (heads three d_head)", three=3, d_head=names.bridge.cfg.d_head)
    return A, B


def split(A: Tensor, B: Tensor, interleaved: bool, d_head: int, source: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The three adapters of a fused one that `fuse` made."""
    if interleaved:
        B = rearrange(B, "r (heads three d_head) -> r (three heads d_head)", three=3, d_head=d_head)
    rank, d_out = A.shape[1] // 3, B.shape[1] // 3
    blocks = [B[i * rank : (i + 1) * rank, i * d_out : (i + 1) * d_out] for i in range(3)]
    if A.shape[1] % 3 or not torch.equal(torch.block_diag(*blocks), B):
        raise InputError(
            f"{source}: its fused q, k, v adapter mixes the three, which rlhf_lib's separate adapters cannot hold; "
            "merge it into the base model with peft (merge_and_unload) and start from the merged directory"
        )
    return {name: (A[:, i * rank : (i + 1) * rank], blocks[i]) for i, name in enumerate(FUSED)}


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
    """What adapter_config.json holds: rank, alpha and the adapted maps, with rank and alpha times 3 for fused ones."""
    fused_targets = sorted({target_name(names.path(m)) for m in hooks.maps if names.is_fused(m)})
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
        "fan_in_fan_out": any(m.is_transposed or (names.is_fused(m) and not names.interleaves(m)) for m in hooks.maps),
        "rank_pattern": {name: 3 * hooks.rank for name in fused_targets},
        "alpha_pattern": {name: 3 * hooks.alpha for name in fused_targets},
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
    d_head = names.bridge.cfg.d_head
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
        if names.is_fused(m):
            A, B = split(A, B, names.interleaves(m), d_head, directory)[m.map_name]
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
