"""Reading LoRA adapters in PEFT's format, whoever made them: equal to peft, or refused with what works instead.

What an adapter adapts is what its file holds: the paths of Hugging Face's modules, with A and B. The configuration tells the
scale of each (`lora_alpha`, `alpha_pattern`, `use_rslora`), and features that a low-rank product beside a linear map does not
have. A setting that is not known here and not empty is taken for such a feature.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rlhf_lib.args import InputError
from rlhf_lib.args.types import shown
from rlhf_lib.finite import require_finite
from rlhf_lib.lora.adapter import AdaptedMap, LoraHooks
from rlhf_lib.lora.fused import FusedMap
from rlhf_lib.lora.peft_format import CONFIG, WEIGHTS, PeftNames

MERGE = (
    "merge it into the base model with peft (PeftModel.from_pretrained(...).merge_and_unload(), then save_pretrained) and use "
    "that directory as base_model"
)
HARMLESS = {  # settings that say nothing about what a loaded adapter computes, or are read here
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias", "init_lora_weights"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "lora_dropout"),
    *("runtime_config", "megatron_core", "megatron_config", "eva_config", "loftq_config", "qalora_group_size"),
    *("ensure_weight_tying",),
}
REPEATED_GROUP = re.compile(r"\)[*+{]")  # in a regex: what can take time that doubles with every character
REPEAT = re.compile(r"[*+{]|(?<![(*+}])\?")
MOST_REPEATS = 5  # of a regex; each lets its time grow with one more power of a path's length
LARGEST_SCALE = 1e6
PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")  # those that leave the base model's weights alone


@dataclass(frozen=True)
class SavedMap:
    """A linear map's adapter from a file: x -> (alpha / rank) x A B."""

    alpha: float
    A: Float[Tensor, "d_in rank"]
    B: Float[Tensor, "rank d_out"]

    @property
    def rank(self) -> int:
        """Its rank."""
        return self.A.shape[1]


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter directory: rank and alpha that its configuration names, and every adapted map by the bridge's name."""

    rank: int
    alpha: float
    maps: dict[str, SavedMap]


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The adapter's configuration, checked for what a low-rank product beside a linear map can honour."""
    file = Path(directory) / CONFIG
    if not file.is_file():
        raise InputError(f"{directory} holds no {CONFIG}; give a directory that save_pretrained, of peft or of a policy, wrote")
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}); it may be truncated, restore it from a copy") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} holds {type(config).__name__}, not an object with settings; restore it from a copy")
    if config.get("peft_type") != "LORA":
        raise InputError(f"{file} has peft_type={config.get('peft_type')!r}; only LORA adapters can be loaded; {MERGE}")
    check_numbers(file, config)
    check_patterns(file, config)
    started = config.get("init_lora_weights", True)
    if not (started in PLAIN_INITIALISATIONS if isinstance(started, (str, bool)) else started is None):
        raise InputError(
            f"{file} has init_lora_weights={started!r}, which changes the base model's weights; save it again from peft with "
            f"path_initial_model_for_weight_conversion where peft offers that, or {MERGE}"
        )
    if config.get("bias", "none") != "none":
        raise InputError(f"{file} has bias={config['bias']!r}, and biases are not adapted here; {MERGE}")
    strange = sorted(key for key, value in config.items() if key not in HARMLESS and value not in (None, False, {}, []))
    if strange:
        raise InputError(f"{file} uses {strange[0]}={config[strange[0]]!r}, which adapters here do not have; {MERGE}")
    return config


def check_numbers(file: Path, config: dict[str, Any]) -> None:
    """Ranks must be whole numbers from 1, alphas numbers, neither beyond reason, and patterns objects of such."""

    def is_number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_SCALE

    def is_rank(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SCALE

    for key, pattern, fits, rule in (
        ("r", "rank_pattern", is_rank, f"a whole number from 1 to {LARGEST_SCALE:g}"),
        ("lora_alpha", "alpha_pattern", is_number, f"a number of at most {LARGEST_SCALE:g}"),
    ):
        values = config.get(pattern)
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise InputError(f"{file} has {pattern}={shown(values)}, which must be an object of numbers by module; correct it")
        for name, value in ((key, config.get(key)), *((f"{pattern}[{one!r}]", value) for one, value in values.items())):
            if not fits(value):
                raise InputError(
                    f"{file} has {name}={shown(value)}, which must be {rule}; restore the file from a copy, or correct it"
                )


def check_patterns(file: Path, config: dict[str, Any]) -> None:
    """What names modules must be texts, or regexes that are whole and cannot take forever."""
    for key in ("target_modules", "exclude_modules"):
        value = config.get(key)
        if isinstance(value, str):
            check_regex(file, key, value)
        elif value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise InputError(f"{file} has {key}={shown(value)}, which must be a text or a list of texts; correct it")
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(key) or {}:
            check_regex(file, key, pattern)


def check_regex(file: Path, key: str, pattern: str) -> None:
    """A regex of a file's must compile, and its time be bounded by a power of a path's length."""
    try:
        re.compile(f"(.*\\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{file} has {key} {shown(pattern)}, which is no regular expression ({error}); correct it") from None
    refers_back = re.search(r"\\[1-9]|\(\?P=", pattern)
    if refers_back or REPEATED_GROUP.search(pattern) or len(REPEAT.findall(pattern)) > MOST_REPEATS:
        raise InputError(
            f"{file} has {key} {shown(pattern)}, which repeats a group, refers back or has over {MOST_REPEATS} repeats: "
            "it could take forever to match; list the modules by name"
        )


def read_adapter_weights(directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A^T [rank d_in] and B^T [d_out rank] by the path of the Hugging Face module."""
    file = Path(directory) / WEIGHTS
    if not file.is_file() and file.with_suffix(".bin").is_file():
        raise InputError(
            f"{file.with_suffix('.bin')} is a pickle, which could run code and is not read here; load it with peft and save it "
            "again (PeftModel.save_pretrained writes safetensors)"
        )
    try:
        tensors = load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise InputError(f"{file} cannot be read ({error}); it is missing or truncated, save the adapter again") from None
    require_finite(tensors.items(), str(file), "save the adapter again, or take an earlier one")
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        if match is None or tensor.ndim != 2:
            raise InputError(f"{file} holds {name}, which is no low-rank adapter of a linear map; {MERGE}")
        found.setdefault(match[1], {})[match[2]] = tensor
    for path, sides in found.items():
        if len(sides) < 2 or sides["A"].shape[0] != sides["B"].shape[1]:
            shapes = ", ".join(f"{side} {tuple(tensor.shape)}" for side, tensor in sorted(sides.items()))
            raise InputError(f"{file} holds {shapes} for {path}, which do not make one adapter; save it again")
    if not found:
        raise InputError(f"{file} holds no adapters; save it again")
    return {path: (sides["A"], sides["B"]) for path, sides in found.items()}


def of_pattern(patterns: dict[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first pattern that the end of a path matches, as peft reads rank_pattern and alpha_pattern."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def is_targeted(config: dict[str, Any], path: str) -> bool:
    """Whether the configuration names a module, so that peft would load its adapter."""

    def names(listed: Any) -> bool:
        if isinstance(listed, str):
            return listed == "all-linear" or re.fullmatch(listed, path) is not None
        return any(path == one or path.endswith(f".{one}") for one in listed)

    excluded = config.get("exclude_modules")
    return names(config.get("target_modules") or "all-linear") and not (excluded and names(excluded))


def read_adapter(directory: Path, maps: list[AdaptedMap], names: PeftNames) -> SavedAdapter:
    """The adapter in a directory, for a model whose linear maps are `maps`.

    Raises:
        InputError: it is not there, damaged, made for another model, or does what a low-rank product beside a map cannot.
    """
    directory = Path(directory)
    config, tensors = read_adapter_config(directory), read_adapter_weights(directory)
    at_path: dict[str, list[AdaptedMap]] = {}
    for m in maps:
        at_path.setdefault(names.path(m), []).append(m)
    if not at_path.keys() & tensors.keys():
        raise InputError(
            f"{directory} adapts {next(iter(tensors))} and others, none of which this base model has; it was made for another "
            f"model ({config.get('base_model_name_or_path')})"
        )
    found: dict[str, SavedMap] = {}
    for path, (A, B) in tensors.items():
        if path not in at_path:
            raise InputError(f"{directory} adapts {path}, which is none of the linear maps that adapters go on here; {MERGE}")
        if not is_targeted(config, path):
            raise InputError(f"{directory} holds an adapter of {path}, which its target_modules leave out; save it again")
        rank = of_pattern(config.get("rank_pattern"), path, config["r"])
        if len(A) != rank:
            raise InputError(f"{directory}: {path} has rank {len(A)}, and its {CONFIG} says {rank}; save it again")
        alpha = of_pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
        alpha = float(alpha * math.sqrt(rank) if config.get("use_rslora") else alpha)
        is_own = of_pattern(config.get("rank_pattern"), path, None) is not None
        require_finite(
            [(path, (alpha / rank) * A.abs().amax() * B.abs().amax() * rank)], str(directory), "lower its lora_alpha"
        )
        for m in at_path[path]:
            one = part_of(SavedMap(alpha, A.T, B.T), names.fused_map(m), m.map_name, is_own)
            if one is not None:
                found[m.bridge_name] = one
                check_shape(directory, m, one)
    alpha = float(config["lora_alpha"]) * (math.sqrt(config["r"]) if config.get("use_rslora") else 1.0)
    return SavedAdapter(config["r"], alpha, found)


def part_of(whole: SavedMap, fused: FusedMap | None, map_name: str, is_own: bool) -> SavedMap | None:
    """What of a module's adapter is one map's; None: nothing, as `peft_format.fuse` writes it for maps without one.

    An adapter that peft trained on a fused map shares A among its parts, so each takes all of it, and its own outputs of B. One
    that `fuse` made comes apart into what it was made of: `is_own` says that its rank has a pattern, as it always has there.
    """
    if fused is None:
        return whole
    rank, number = whole.rank // len(fused.rows), list(fused.rows).index(map_name)
    own = slice(number * rank, (number + 1) * rank)
    outside = whole.B[:, fused.rows[map_name]].clone()
    if not is_own or whole.rank % len(fused.rows):
        return SavedMap(whole.alpha, whole.A, outside)
    B = outside[own].clone()
    outside[own] = 0
    if outside.any():
        return SavedMap(whole.alpha, whole.A, whole.B[:, fused.rows[map_name]])
    A = whole.A[:, own]
    return None if not A.any() and not B.any() else SavedMap(whole.alpha * rank / whole.rank, A, B)


def check_shape(directory: Path, m: AdaptedMap, saved: SavedMap) -> None:
    """An adapter must fit its map."""
    d_in, d_out = m.shape
    if (len(saved.A), saved.B.shape[1]) != (d_in, d_out):
        raise InputError(
            f"{directory}: the adapter of {m.bridge_name} is for a map of {len(saved.A)} x {saved.B.shape[1]}, and this "
            f"model's is {d_in} x {d_out}; it was made for another model, give its own base_model"
        )
    if not 1 <= saved.rank <= min(d_in, d_out):
        raise InputError(f"{directory}: {m.bridge_name} has rank {saved.rank}, over its {min(d_in, d_out)} directions; {MERGE}")


@torch.no_grad()
def load_adapter(hooks: LoraHooks, saved: SavedAdapter, directory: Path) -> None:
    """Fill the adapters of a model; nothing is changed unless every one fits.

    Raises:
        InputError: other maps, ranks or scales than these adapters have.
    """
    remedy = "from_adapter makes a policy that fits it"
    own = {m.bridge_name: hooks.adapters[m.key] for m in hooks.maps}
    if own.keys() != saved.maps.keys():
        name = min(own.keys() ^ saved.maps.keys())
        who = "has no adapter for" if name in own else "also adapts"
        raise InputError(
            f"{directory} {who} {name}; it has other maps than this policy, or was made for another model; {remedy}"
        )
    for name, adapter in own.items():
        one = saved.maps[name]
        if (one.rank, one.alpha) != (adapter.rank, adapter.alpha):
            raise InputError(
                f"{directory}: {name} has rank={one.rank} and alpha={one.alpha:g}, and this policy's rank={adapter.rank} and "
                f"alpha={adapter.alpha:g}; {remedy}"
            )
    for name, adapter in own.items():
        adapter.A.copy_(saved.maps[name].A)
        adapter.B.copy_(saved.maps[name].B)
