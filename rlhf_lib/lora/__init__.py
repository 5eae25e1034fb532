"""Low-rank adapters: `adapter` has mathematics and hooks, `peft_format` and `elsewhere` the files, `sizing` the memory."""

from rlhf_lib.lora.adapter import AdaptedMap, Lora, LoraHooks, find_maps
from rlhf_lib.lora.elsewhere import load_adapter, read_adapter, read_adapter_config
from rlhf_lib.lora.peft_format import PeftNames, save_adapter
from rlhf_lib.lora.sizing import lora_parameter_count, training_bytes

__all__ = [
    "AdaptedMap",
    "Lora",
    "LoraHooks",
    "PeftNames",
    "find_maps",
    "load_adapter",
    "lora_parameter_count",
    "read_adapter",
    "read_adapter_config",
    "save_adapter",
    "training_bytes",
]
