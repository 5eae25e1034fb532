"""Policies on TransformerBridge: `loading` gets and saves base models, `policies` adds adapters and value heads."""

from rlhf_lib.models.loading import encode_prompts, end_token_ids, load_base, padding_id, resolve_device
from rlhf_lib.models.policies import (
    BridgedTransformer,
    FrozenPolicy,
    TransformerWithLora,
    TransformerWithValueHead,
    TransformerWithValueHeadLora,
    base_of_adapter,
    load_policy,
)

__all__ = [
    "BridgedTransformer",
    "FrozenPolicy",
    "TransformerWithLora",
    "TransformerWithValueHead",
    "TransformerWithValueHeadLora",
    "base_of_adapter",
    "encode_prompts",
    "end_token_ids",
    "load_base",
    "load_policy",
    "padding_id",
    "resolve_device",
]
