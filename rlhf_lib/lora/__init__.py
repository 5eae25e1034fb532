"""Low-rank adapters: `adapter` has the mathematics and the hooks, `peft_format` the files, `sizing` the memory arithmetic."""

from rlhf_lib.lora.adapter import AdaptedMap, Lora, LoraHooks, find_maps
from rlhf_lib.lora.peft_format import PeftNames, load_adapter, read_adapter_config, save_adapter
from rlhf_lib.lora.sizing import lora_parameter_count, training_bytes

__all__ = [
    "AdaptedMap",
    "Lora",
    "LoraHooks",
    "PeftNames",
    "find_maps",
    "load_adapter",
    "lora_parameter_count",
    "read_adapter_config",
    "save_adapter",
    "training_bytes",
]
