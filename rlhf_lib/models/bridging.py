"""From a Hugging Face model to a TransformerBridge on it, and the proof that both compute the same.

TransformerLens computes attention itself, from what it knows of an architecture. Before the bridge is built, the untouched
model is asked for the logits of two short sequences; the bridge must give them too, or the model is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from rlhf_lib.args import InputError
from rlhf_lib.models.caching import gap_between, one_pass, pass_cache_by_any_name, probe

INSTEAD = "use a model of the table in rlhf_lib/models/README.md, such as Llama, Qwen or GPT-2"


def build_bridge(name: str, hf: nn.Module, tokenizer: Any, device: torch.device) -> TransformerBridge:
    """A bridge on `hf`, which it changes in place, with a cache that works and logits that are the model's own.

    Raises:
        InputError: TransformerLens cannot build it, or computes something else.
    """
    ids, attention_mask = probe(hf)
    with torch.no_grad():
        expected = one_pass(hf, ids, attention_mask, use_cache=False).logits
    try:
        with biases_for_splitting(hf):
            bridge = TransformerBridge.boot_transformers(name, hf_model=hf, tokenizer=tokenizer, device=str(device))
        let_copies_be_copies(hf)
        pass_cache_by_any_name(bridge)
        with torch.no_grad():
            got = bridge(ids.to(device), attention_mask=attention_mask.to(device))
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{described(hf)} cannot be bridged by {versions()} ({first}); {INSTEAD}") from None
    kept, got, expected = attention_mask.bool().cpu(), got.cpu(), expected.cpu()
    gap, allowed = gap_between(hf, got[kept], expected[kept], expected.abs().max())
    if not gap <= allowed:
        raise InputError(
            f"{described(hf)} is not what {versions()} compute for it: logits differ by {gap:.2g}, which may be {allowed:.2g}; "
            f"{INSTEAD}"
        )
    return bridge


def described(hf: nn.Module) -> str:
    """The model in an error's words."""
    return f"a model of architecture {type(hf).__name__}"


def versions() -> str:
    """What computes the model."""
    return f"TransformerLens {version('transformer_lens')} on transformers {version('transformers')}"


@contextmanager
def biases_for_splitting(hf: nn.Module) -> Iterator[None]:
    """A zero bias, inside, for every fused map of GPT-NeoX without one: TransformerLens takes for granted that it has one."""
    bare = [
        module.query_key_value
        for module in (hf.modules() if hf.config.model_type == "gpt_neox" else ())
        if getattr(getattr(module, "query_key_value", None), "bias", 0) is None
    ]
    for linear in bare:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.weight.shape[0]))
    yield
    for linear in bare:
        linear.bias = None
    for module in hf.modules() if bare else ():
        for part in ("q", "k", "v"):
            linear = getattr(getattr(module, part, None), "original_component", None)
            if isinstance(linear, nn.Linear):
                linear.bias = None


def let_copies_be_copies(hf: nn.Module) -> None:
    """Take off the forward pass that TransformerLens ties to each of Falcon's maps: a copy would read the first's weight."""
    for module in hf.modules():
        if type(module).__name__ == "FalconLinear":
            vars(module).pop("forward", None)
