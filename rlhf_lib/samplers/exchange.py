"""What goes to another sampler and what comes back: token ids both ways, never text."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rlhf_lib.args import InputError
from rlhf_lib.rollouts import Decoded

VERSIONS = "vllm>=0.32,<0.33"
INSTEAD = "--sampler own runs everywhere"
CONTINUE = "a run that had begun goes on from its last checkpoint with --resume --output-dir DIRECTORY"


@dataclass(frozen=True)
class Request:
    """A prompt without padding, how many completions it gets, and the seed of their randomness; None: the sampler's own."""

    prompt_ids: list[int]
    count: int
    seed: int | None


@dataclass(frozen=True)
class Completion:
    """Generated tokens, the end token included, the log-probability of each in nats, and why there are no more of them."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str | None


def in_requests(
    ids: Int[Tensor, "batch prefix"], attention_mask: Int[Tensor, "batch prefix"], seeds: list[int | None], together: bool
) -> list[Request]:
    """Equal prompts in a row are one request, if `together`, with the seed of the first; vLLM reads such a prompt once."""
    rows = [row[kept.bool()].tolist() for row, kept in zip(ids, attention_mask, strict=True)]
    if not together:
        return [Request(row, 1, seed) for row, seed in zip(rows, seeds, strict=True)]
    groups = [list(group) for _, group in groupby(zip(rows, seeds, strict=True), key=lambda pair: pair[0])]
    return [Request(group[0][0], len(group), group[0][1]) for group in groups]


def seeds_from(generator: torch.Generator | None, count: int) -> list[int | None]:
    """A seed for each row; None without a generator, when the sampler's own randomness serves."""
    if generator is None:
        return [None] * count
    return torch.randint(2**31 - 1, (count,), generator=generator, device=generator.device).tolist()


def sampling_options(
    gen_len: int, end_ids: list[int], temperature: float, top_k: int | None, top_p: float | None
) -> dict[str, Any]:
    """How to sample, by the names that vLLM has for it, in Python as over HTTP.

    Completions end at `end_ids` and nowhere else. logprobs=0 asks for those of the sampled tokens alone.
    """
    return {
        "temperature": temperature,
        "top_k": -1 if top_k is None else top_k,
        "top_p": 1.0 if top_p is None else top_p,
        "max_tokens": gen_len,
        "stop_token_ids": end_ids,
        "ignore_eos": True,
        "logprobs": 0,
        "skip_special_tokens": False,
    }


def in_columns(completions: list[Completion], gen_len: int, end_ids: list[int], pad_id: int, device: torch.device) -> Decoded:
    """Completions as the decode loop leaves them: the end token is real, padding follows it."""
    tokens = torch.full((len(completions), gen_len), pad_id)
    mask, logprobs = torch.zeros(2, *tokens.shape)
    for i, completion in enumerate(completions):
        check_finished(completion, gen_len, end_ids)
        count = len(completion.token_ids)
        tokens[i, :count], mask[i, :count] = torch.tensor(completion.token_ids), 1.0
        logprobs[i, :count] = torch.tensor(completion.logprobs)
    tokens, mask, logprobs = tokens.to(device), mask.to(device), logprobs.to(device)
    return Decoded(tokens, mask, logprobs, logprobs)


def check_finished(completion: Completion, gen_len: int, end_ids: list[int]) -> None:
    """A completion stops at one of the end tokens, which is its last, or has all of its tokens; each has a log-probability."""
    count, reason = len(completion.token_ids), completion.finish_reason
    ended = count > 0 and completion.token_ids[-1] in end_ids
    whole = {"stop": ended, "length": count == gen_len}
    if not whole.get(reason, False) or len(completion.logprobs) != count:
        raise InputError(
            f"vLLM gave a completion of {count} tokens and {len(completion.logprobs)} log-probabilities (gen_len={gen_len}) "
            f"that finished by {reason!r} and {'ends' if ended else 'does not end'} in an end token; its version may not be "
            f"{VERSIONS}, or its context may be shorter than the model's; {INSTEAD}"
        )
