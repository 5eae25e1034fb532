"""Policies on TransformerBridge: `loading` gets and saves base models, `policies` adds adapters and value heads."""

from rlhf_lib.models.loading import encode_prompts, end_token_ids, load_base, padding_id, resolve_device
from rlhf_lib.models.policies import (
    BridgedTransformer,
    TransformerWithLora,
    TransformerWithValueHead,
    TransformerWithValueHeadLora,
    load_policy,
)

__all__ = [
    "BridgedTransformer",
    "TransformerWithLora",
    "TransformerWithValueHead",
    "TransformerWithValueHeadLora",
    "encode_prompts",
    "end_token_ids",
    "load_base",
    "load_policy",
    "padding_id",
    "resolve_device",
]
