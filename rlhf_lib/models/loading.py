"""From a name or directory to a TransformerBridge with its tokenizer, and from a bridge back to a Hugging Face directory."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from rlhf_lib import parallel
from rlhf_lib.args import InputError
from rlhf_lib.engine import Passes
from rlhf_lib.finite import require_finite
from rlhf_lib.lora.fused import FusedMap, find_fused_maps, live
from rlhf_lib.models import checkpoint
from rlhf_lib.models.bridging import build_bridge
from rlhf_lib.sharding import for_first

ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = {"pocket": ASSETS / "pocket"}


def resolve_device(name: str = "auto") -> torch.device:
    """The torch device of that name; "auto" takes the first of cuda, mps and cpu that is there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps") or (device.type != "cuda" and device.index):
        raise InputError(f"device={name!r} is not a device; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device={name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use --device auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device='mps' is not there; use --device auto")
    return device


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or advice from transformers inside."""
    verbosity = transformers.utils.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
        if bars:
            transformers.utils.logging.enable_progress_bar()


@dataclass
class LoadedBase:
    """A base model and what is known about it only at load.

    `parameters` are the Hugging Face model's, by its own names: the bridge renames modules, so this is the map back.
    `dropout` holds the configuration's dropout values, which loading sets to zero and saving puts back. `fused` are the linear
    maps that Hugging Face holds as one and the bridge as several. `passes` are how its passes are made.
    """

    name: str
    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase
    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    dropout: dict[str, float]
    fused: list[FusedMap]
    passes: Passes

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over processes."""
        return self.passes.is_sharded

    def shard(self) -> None:
        """Spread the weights over the processes that torchrun has started, each of which keeps a share of every tensor.

        Raises:
            InputError: a model that the fast passes do not cover.
        """
        modules = list(self.bridge.modules())
        places = {id(own): (m, name) for m in modules for name, own in m.named_parameters(recurse=False)}
        named = {name: places.get(id(parameter)) for name, parameter in self.parameters.items()}
        copies = [  # a bridge's norms remember their weights, which would keep the whole model in memory
            (vars(module), name, places[id(value)])
            for module in modules
            for name, value in vars(module).items()
            if isinstance(value, nn.Parameter) and id(value) in places
        ]
        self.passes.shard()
        self.parameters |= {name: getattr(*place) for name, place in named.items() if place is not None}
        for attributes, name, place in copies:
            attributes[name] = getattr(*place)


def resolve_name(name_or_path: str | os.PathLike, what: str = "base_model") -> str:
    """The bundled model's directory for its name; other names and paths as they are, checked as far as possible.

    `what` names the argument in errors.
    """
    name = str(name_or_path)
    if name in BUNDLED:
        return str(BUNDLED[name])
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            merged = path.parent / "merged"
            remedy = f"use {merged}" if merged.is_dir() else f"merge it: rlhf merge --adapter {name} --output-dir DIRECTORY"
            raise InputError(f"{what}={name!r} is an adapter, and a new one goes on a whole model; {remedy}")
        if not (path / "config.json").is_file():
            raise InputError(
                f"{what}={name!r} is a directory without config.json; give a Hugging Face model directory, "
                "such as one that save_pretrained wrote"
            )
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or path.exists():
        raise InputError(f"{what}={name!r} is not a model directory; check the path, or use pocket")
    return name


def read_config(name: str, what: str) -> Any:
    """The model's configuration, checked to be a causal language model that TransformerBridge supports."""
    config = checkpoint.read_config(name, what)
    named = getattr(config, "architectures", None)
    architectures = [str(one) for one in named] if isinstance(named, list) else []
    if not any((a in SUPPORTED_ARCHITECTURES and "CausalLM" in a) or a == "GPT2LMHeadModel" for a in architectures):
        raise InputError(
            f"{what} has architecture {', '.join(architectures) or 'unknown'}; needed is a causal language model "
            f"that TransformerBridge supports ({len(SUPPORTED_ARCHITECTURES)} architectures, among them LlamaForCausalLM, "
            "GPT2LMHeadModel, GPTNeoForCausalLM, GPTNeoXForCausalLM and Qwen2ForCausalLM)"
        )
    return config


def remove_dropout(config: Any) -> dict[str, float]:
    """Set every dropout of a configuration to zero, since dropout makes ratio and KL wrong at step 0; returns what was."""
    found = {
        key: value
        for key, value in vars(config).items()
        if "drop" in key and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for key in found:
        setattr(config, key, 0.0)
    return found


def number_format(dtype: str, device: torch.device) -> dict[str, Any]:
    """What from_pretrained is told: a torch dtype, or for "4bit" NF4 weights (Dettmers et al. 2023), computing in bfloat16."""
    if dtype != "4bit":
        return {"dtype": getattr(torch, dtype)}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError('dtype="4bit" needs the package bitsandbytes; pip install "rlhf_lib[quantized]", or use bfloat16')
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16, bnb_4bit_use_double_quant=True
    )
    return {"quantization_config": quantization, "dtype": torch.bfloat16, "device_map": {"": str(device)}}


def load_base(name_or_path: str | os.PathLike = "pocket", *, device: str = "auto", dtype: str = "float32") -> LoadedBase:
    """Load a causal language model by bundled name, hub name or local directory, and build a bridge on it.

    Raises:
        InputError: no such model, not supported by TransformerBridge, damaged, with weights missing or too many, a tokenizer
            that does not fit, code of its own, or no such device.
    """
    where, what = resolve_device(device), f"base_model={str(name_or_path)!r}"
    name = resolve_name(name_or_path)
    with quiet_transformers():
        config = read_config(name, what)
        dropout, numbers = remove_dropout(config), number_format(dtype, where)
        hf, _ = checkpoint.read_model(AutoModelForCausalLM, name, what, config, **numbers)
        tokenizer, own = (checkpoint.read_tokenizer(name, what) for _ in range(2))  # a bridge changes the one it is given
        rows = hf.get_input_embeddings().weight.shape[0]
        checkpoint.require_fitting_tokens(own, rows, what)
        checkpoint.require_end_ids(hf.generation_config.eos_token_id, rows, what)
        parameters, saved = dict(hf.named_parameters()), hf.state_dict()
        require_finite(parameters.items(), f"{what}: its checkpoint", "get the model again")
        buffers = {name: buffer for name, buffer in hf.named_buffers() if name in saved}
        bridge = build_bridge(name, hf, tokenizer, where)
        fused = find_fused_maps(bridge, parameters)
        if dtype != "4bit":  # quantised weights are where they are to be
            bridge.to(where, print_details=False)
    return LoadedBase(str(name_or_path), bridge, own, parameters, buffers, dropout, fused, Passes(bridge.original_model))


def end_token_ids(base: LoadedBase) -> list[int]:
    """Every token that ends a sequence: the tokenizer's, and those of the model's generation settings. Empty if none."""
    listed = getattr(base.bridge.original_model.generation_config, "eos_token_id", None)
    ids = listed if isinstance(listed, list) else [listed]
    return sorted({i for i in [*ids, base.tokenizer.eos_token_id] if i is not None})


@torch.no_grad()
def save_base(base: LoadedBase, directory: str | os.PathLike) -> Path:
    """Write a Hugging Face directory (weights, configuration, tokenizer) of the bridge's current weights.

    Where they are spread over processes, all must call this, and the first one writes.

    Raises:
        InputError: weights that are NaN or infinite; nothing is written.
    """
    directory = Path(directory)
    state = {name: for_first(tensor) for name, tensor in (base.parameters | base.buffers).items()}
    is_writer = parallel.is_first() or not base.is_sharded
    for fused in base.fused:
        for kind in ("weight", "bias"):
            if f"{fused.path}.{kind}" in state:
                parts = {name: for_first(getattr(live(base.bridge, fused.block, name), kind)) for name in fused.rows}
                if is_writer:
                    state[f"{fused.path}.{kind}"] = fused.put_together(parts)
    if not is_writer:
        return directory
    remedy = "it is not saved; start from weights that are whole, with a lower learning rate or a smaller alpha"
    require_finite(((name, state[name]) for name in base.parameters), "the model to save", remedy)
    hf = base.bridge.original_model
    for key, value in base.dropout.items():
        setattr(hf.config, key, value)
    with quiet_transformers():
        hf.save_pretrained(directory, state_dict=state)
    remove_dropout(hf.config)
    base.tokenizer.save_pretrained(directory)
    return directory


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], prepend_bos: bool = True
) -> tuple[Int[Tensor, "batch prefix"], Int[Tensor, "batch prefix"]]:
    """Token ids and attention mask, padded on the LEFT; padding is masked, so any id serves and EOS does where no pad is.

    The beginning-of-sequence token goes in front where the tokenizer has one, unless the prompt begins with it already.
    """
    if not prompts:
        raise InputError("the list of prompts is empty; give at least one")
    rows = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if prepend_bos and bos is not None:
        rows = [row if row[:1] == [bos] else [bos, *row] for row in rows]
    if not all(rows):
        raise InputError("a prompt is empty and the tokenizer has no beginning-of-sequence token; give it at least one token")
    pad = padding_id(tokenizer)
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills masked positions."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    return 0
