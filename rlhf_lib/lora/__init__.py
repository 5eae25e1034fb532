"""Low-rank adapters: `adapter` has the mathematics and the hooks, `peft_format` the files."""

from rlhf_lib.lora.adapter import AdaptedMap, Lora, LoraHooks, find_maps
from rlhf_lib.lora.peft_format import PeftNames, load_adapter, read_adapter_config, save_adapter

__all__ = ["AdaptedMap", "Lora", "LoraHooks", "PeftNames", "find_maps", "load_adapter", "read_adapter_config", "save_adapter"]
