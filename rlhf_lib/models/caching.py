"""The key-value cache, whatever a version calls it, and the proof that sampling with it samples the model.

transformers 5.24 calls `cache` what was `past_key_values`; TransformerLens 4.3 reads the old name alone. Where the names part,
the cache stays empty and every token after the first is sampled without its prompt, without an error. `pass_cache_by_any_name`
mends that, and `check_sampling`, which nothing switches off, catches whatever else makes cached steps differ from the model.
"""

import inspect
from importlib.metadata import version
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge.generalized_components import AttentionBridge, GatedDeltaNetBridge
from transformers import Cache

from rlhf_lib import engine
from rlhf_lib.args import InputError

NAMES = ("cache", "past_key_values")  # what transformers calls it from 5.24 on, and before
PROBE_TOKENS, PROBE_STEPS = 9, 4
ROUNDING = {torch.float32: 1e-3}  # how far cached logits may be off, relative to the largest; other formats:
COARSE_ROUNDING = 0.05
CHECKED: dict[str, WeakSet] = {"fast": WeakSet(), "plain": WeakSet()}


def cache_name(model: nn.Module) -> str:
    """What the Hugging Face model calls its cache, as an argument and in its output.

    Raises:
        InputError: it takes none, so that it cannot be sampled from token by token.
    """
    parameters = inspect.signature(model.forward).parameters
    for name in NAMES:
        if name in parameters:
            return name
    raise InputError(
        f"{type(model).__name__} takes no key-value cache ({' or '.join(NAMES)}) with transformers {version('transformers')}, "
        "and sampling needs one; use a model with attention, such as Llama, Qwen or GPT-2"
    )


def takes_positions(model: nn.Module) -> bool:
    """Whether the Hugging Face model takes `position_ids`."""
    return "position_ids" in inspect.signature(model.forward).parameters


def give_cache_its_name(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A forward pre-hook: the cache among the arguments, if any, under the name that TransformerLens reads too."""
    cache = next((value for value in options.values() if isinstance(value, Cache)), None)
    name = "cache_params" if isinstance(module, GatedDeltaNetBridge) else "past_key_values"
    return inputs, options if cache is None else {**options, name: cache}


give_cache_its_name.changes_no_values = True  # so that the engine does not take the model for one with hooks


def pass_cache_by_any_name(bridge: nn.Module) -> None:
    """Let every attention that TransformerLens computes itself find the cache; where Hugging Face computes it, it does."""
    for module in bridge.modules():
        is_attention = isinstance(module, AttentionBridge) and type(module).forward is not AttentionBridge.forward
        computes_itself = is_attention or isinstance(module, GatedDeltaNetBridge)
        if computes_itself and give_cache_its_name not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(give_cache_its_name, with_kwargs=True)


def check_sampling(bridge: nn.Module, passes: engine.Passes) -> None:
    """The first time that a process samples from a model, each way: cached steps must be those of a pass without a cache.

    Two short sequences, one padded on the left, are read token by token. The cache must hold every token, and the logits of a
    few cached steps must equal an uncached pass, to 1e-3 of the largest in float32 and 0.05 in other formats. Where the engine
    samples, its log-probabilities of a few greedy tokens must be those of an uncached pass. Random numbers are not touched.

    Raises:
        InputError: they differ; what would be sampled is not the model.
    """
    hf = bridge.original_model
    way = "plain" if passes.fast is None else "fast"
    if hf in CHECKED[way] or bridge.cfg.n_ctx < PROBE_TOKENS:
        return
    with torch.no_grad():
        if way == "plain":
            check_cached_steps(hf, *probe(hf))
        else:
            check_engine(passes, *probe(hf))
    CHECKED[way].add(hf)


def probe(hf: nn.Module) -> tuple[Int[Tensor, "2 tokens"], Int[Tensor, "2 tokens"]]:
    """Two sequences from all over the vocabulary, and their attention mask: the second begins with padding."""
    embedding = hf.get_input_embeddings().weight
    ids = (torch.arange(2 * PROBE_TOKENS, device=embedding.device) * 7919 + 3).remainder(embedding.shape[0]).view(2, -1)
    attention_mask = torch.ones_like(ids)
    attention_mask[1, 0] = 0
    return ids, attention_mask


def one_pass(hf: nn.Module, ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
    """The model's output for the newest `ids` of sequences that `attention_mask` covers whole."""
    if takes_positions(hf):
        options["position_ids"] = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return hf(input_ids=ids, attention_mask=attention_mask, **options)


def check_cached_steps(hf: nn.Module, ids: Int[Tensor, "2 tokens"], attention_mask: Int[Tensor, "2 tokens"]) -> None:
    """The model's own cached steps."""
    name, cache, first, steps = cache_name(hf), None, ids.shape[1] - PROBE_STEPS, []
    for start, stop in [(0, first), *((t, t + 1) for t in range(first, ids.shape[1]))]:
        output = one_pass(hf, ids[:, start:stop], attention_mask[:, :stop], use_cache=True, **{name: cache})
        cache = getattr(output, name)
        steps.append(output.logits[:, -1])
    held = cache.get_seq_length() if isinstance(cache, Cache) else 0
    if held != ids.shape[1]:
        raise wrong_sampling(hf, f"the cache holds {held} tokens after {ids.shape[1]} were read")
    whole = one_pass(hf, ids, attention_mask, use_cache=False).logits[:, first - 1 :]
    compare(hf, torch.stack(steps, dim=1), whole, whole.abs().max())


def check_engine(passes: engine.Passes, ids: Int[Tensor, "2 tokens"], attention_mask: Int[Tensor, "2 tokens"]) -> None:
    """The engine's steps, by the log-probabilities of the tokens that it takes greedily."""
    first = ids.shape[1] - PROBE_STEPS
    ids, attention_mask = ids[:, :first], attention_mask[:, :first]

    def greedy(batch: int, first: int) -> engine.Draws:
        return engine.Draws(batch, 0.0, None, None, first)

    hf = passes.hf
    columns = passes.decode(ids, attention_mask, PROBE_STEPS, [], 0, greedy)
    if columns is None:
        return
    tokens, _, logprobs, _ = columns
    ids, attention_mask = torch.cat([ids, tokens], dim=1), torch.cat([attention_mask, torch.ones_like(tokens)], dim=1)
    logits = one_pass(hf, ids, attention_mask, use_cache=False).logits[:, first - 1 : -1].float()
    compare(hf, logprobs[..., None], logits.log_softmax(dim=-1).gather(2, tokens[..., None]), logits.abs().max())


def gap_between(
    hf: nn.Module,
    got: Float[Tensor, "*positions numbers"],
    expected: Float[Tensor, "*positions numbers"],
    largest: Float[Tensor, ""],
) -> tuple[float, float]:
    """How far two ways of computing the same are apart, and how far rounding may take them, by the `largest` logit.

    In float32 the worst position counts. In other formats the median does: at single positions of a text that makes no sense,
    a model's logits in bfloat16 have nothing to do with its logits in float32.
    """
    gaps = (got.float() - expected.float()).abs().amax(dim=-1).flatten()
    gap = gaps.max() if hf.dtype == torch.float32 else gaps.median()
    return gap.item(), ROUNDING.get(hf.dtype, COARSE_ROUNDING) * largest.item()


def compare(
    hf: nn.Module,
    cached: Float[Tensor, "2 steps numbers"],
    whole: Float[Tensor, "2 steps numbers"],
    largest: Float[Tensor, ""],
) -> None:
    """Raise InputError where both differ by more than rounding."""
    gap, allowed = gap_between(hf, cached, whole, largest)
    if not gap <= allowed:  # nan too
        raise wrong_sampling(hf, f"logits with the cache differ by {gap:.2g} from those without it, which may be {allowed:.2g}")


def wrong_sampling(hf: nn.Module, finding: str) -> InputError:
    """The error, with the versions and the remedy."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("transformers", "transformer_lens", "torch"))
    return InputError(
        f"sampling from {type(hf).__name__} would ignore part of what was read: {finding}. These versions do not fit together "
        f'({versions}); install the tested ones, with `make` or pip install "rlhf_lib" in a fresh environment'
    )
