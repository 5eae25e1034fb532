"""Rollouts by vLLM (Kwon et al. 2023), for models whose own decode loop would be the longest part of a phase.

vLLM holds its own copy of the base model on the GPU. The adapters travel to it through a directory in PEFT's format, anew for
each rollout; nothing is merged. It is written against the source of vLLM 0.31 and was never run with it: the tests put a
stand-in in its place. Versions 0.28 to 0.32 take the torch and the transformers that this library takes.

What vLLM samples from is softmax(logits / temperature) after top_k and top_p, but of its own logits: its kernels, and adapters
in the base model's number format, differ from the trainer's. `Rollout.sampler_logprobs` has its numbers; the trainers report
the gap and correct for it (rlhf_lib.correction).
"""

import os
import tempfile
from itertools import groupby
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.args import InputError
from rlhf_lib.models import TransformerWithLora, padding_id
from rlhf_lib.models.loading import resolve_name
from rlhf_lib.rollouts import Decoded, Rollout, check_length, decode_texts, end_ids_of, get_logprobs

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM takes as max_lora_rank
VERSIONS = "vllm>=0.28,<0.33"
INSTEAD = "--sampler own runs everywhere"


class VllmSampler:
    """A policy's rollouts by vLLM, started once for a run.

    Args:
        model: a policy with adapters whose base model vLLM knows.
        memory: share of the GPU's memory that vLLM takes, for its copy of the base model and its key-value cache.
        seed: of vLLM's own randomness, which torch's generators do not reach. A resumed run starts it anew.

    Raises:
        InputError: vLLM is missing, cannot start on this machine or with this model, or this is one of several processes.
    """

    def __init__(self, model: TransformerWithLora, memory: float = 0.3, seed: int = 0):
        refuse_unfit(model)
        self.vllm = import_vllm()
        self.engine = start_engine(self.vllm, model, memory, seed)
        self.adapters_sent = 0

    def rollout(
        self,
        model: TransformerWithLora,
        prompts: list[str],
        gen_len: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        prepend_bos: bool = True,
        stop_at_eos: bool = True,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """What rlhf_lib.rollouts.rollout gives, with the same arguments.

        Equal prompts in a row are one request of many completions, which vLLM reads once. A `generator` gives each request a
        seed, so that an evaluation can be repeated; None leaves it to vLLM, which is faster. Under top_k or top_p, `logprobs`
        take a pass of the trainer's model, since vLLM tells the log-probabilities after truncation only.
        """
        ids, attention_mask = model.encode(prompts, prepend_bos)
        check_length(ids.shape[1], gen_len, model.cfg.n_ctx)
        end_ids = end_ids_of(model, model.tokenizer) if stop_at_eos else []
        requests = in_requests(ids, attention_mask, together=temperature > 0)
        shared = sampling_options(gen_len, end_ids, temperature, top_k, top_p)
        seeds = seeds_from(generator, len(requests))
        parameters = [
            self.vllm.SamplingParams(n=count, seed=seed, **shared) for (_, count), seed in zip(requests, seeds, strict=True)
        ]
        completions = self.generate(model, [{"prompt_token_ids": row} for row, _ in requests], parameters)
        decoded = in_columns(completions, gen_len, end_ids, padding_id(model.tokenizer), ids.device)
        sampled = Rollout(
            ids=torch.cat([ids, decoded.tokens], dim=1),
            attention_mask=torch.cat([attention_mask, decoded.mask.to(attention_mask.dtype)], dim=1),
            mask=decoded.mask,
            logprobs=decoded.logprobs,
            sampler_logprobs=decoded.sampler_logprobs,
            completions=decode_texts(model.tokenizer, ids, attention_mask, decoded, end_ids),
        )
        if top_k or top_p:
            sampled.logprobs = scored(model, sampled, temperature)
        return sampled

    def generate(self, model: TransformerWithLora, prompts: list[dict[str, list[int]]], parameters: list[Any]) -> list[Any]:
        """All completions in the order of the prompts, sampled with the adapters as they are now.

        Name and number of the adapter are new each time: vLLM keeps what it knows by them, keys and values of prompts too.
        """
        from vllm.lora.request import LoRARequest

        self.adapters_sent += 1
        with tempfile.TemporaryDirectory(prefix="rlhf-adapter-") as directory:
            model.save_pretrained(directory)
            adapter = LoRARequest(f"adapter-{self.adapters_sent}", self.adapters_sent, directory)
            answers = self.engine.generate(prompts, parameters, lora_request=adapter, use_tqdm=False)
        return [completion for answer in answers for completion in sorted(answer.outputs, key=lambda one: one.index)]


def import_vllm() -> ModuleType:
    """The package, or an error that says how to get it."""
    try:
        import vllm
        import vllm.lora.request
    except Exception as error:  # a build for another CUDA or torch fails in many ways
        raise InputError(
            f"sampler='vllm' needs the package vllm, which cannot be imported ({first_line(error)}); pip install "
            f'"{VERSIONS}" beside rlhf_lib in a fresh environment (Linux and CUDA; it brings torch 2.13), or go on without it: '
            f"{INSTEAD}"
        ) from None
    return vllm


def refuse_unfit(model: TransformerWithLora) -> None:
    """Raise for what vLLM would sample wrongly, or not at all, only after it has loaded the model."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise InputError(f"sampler='vllm' is for a run of one process, and this is one of {processes}; {INSTEAD}")
    names = model.peft_names
    if any(names.is_fused(adapted) for adapted in model.lora.maps):
        raise InputError(
            f"sampler='vllm' takes no adapters on {model.base.name}, whose queries, keys and values are one fused map; use a "
            f"model such as Llama or Qwen2, or go on without vLLM: {INSTEAD}"
        )
    if model.lora.rank > RANKS[-1]:
        raise InputError(f"lora_rank={model.lora.rank} is over {RANKS[-1]}, the most that vLLM takes; lower it; {INSTEAD}")


def start_engine(vllm: ModuleType, model: TransformerWithLora, memory: float, seed: int) -> Any:
    """vLLM on the model's base, with room for one adapter.

    logprobs_mode="processed_logprobs": log-probabilities of what is sampled from, after temperature, top_k and top_p. vLLM's
    own choice would be those of the raw logits, at temperature 1.
    """
    try:
        return vllm.LLM(
            model=resolve_name(model.base.name),
            trust_remote_code=False,
            dtype=str(model.dtype).removeprefix("torch."),
            enable_lora=True,
            max_loras=1,
            max_lora_rank=min(rank for rank in RANKS if rank >= model.lora.rank),
            gpu_memory_utilization=memory,
            logprobs_mode="processed_logprobs",
            seed=seed,
        )
    except Exception as error:  # of CUDA, of memory, of the model: vLLM's own text says which
        raise InputError(
            f"vLLM cannot start on {model.base.name} ({first_line(error)}); its log above says more. It needs {VERSIONS}, "
            f"a CUDA GPU, and sampler_memory={memory} of it free: raise or lower --sampler-memory, or go on without "
            f"it: {INSTEAD}"
        ) from error


def sampling_options(
    gen_len: int, end_ids: list[int], temperature: float, top_k: int | None, top_p: float | None
) -> dict[str, Any]:
    """vLLM's SamplingParams, apart from how many and from which seed.

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
        "detokenize": False,
        "skip_special_tokens": False,
    }


def seeds_from(generator: torch.Generator | None, count: int) -> list[int | None]:
    """A seed for each request; None without a generator, when vLLM's own randomness serves."""
    if generator is None:
        return [None] * count
    return torch.randint(2**31 - 1, (count,), generator=generator, device=generator.device).tolist()


def in_requests(
    ids: Int[Tensor, "batch prefix"], attention_mask: Int[Tensor, "batch prefix"], together: bool
) -> list[tuple[list[int], int]]:
    """Prompts without padding, each with how many completions it gets; greedily vLLM gives but one a request."""
    rows = [row[kept.bool()].tolist() for row, kept in zip(ids, attention_mask, strict=True)]
    return [(row, len(list(same))) for row, same in groupby(rows)] if together else [(row, 1) for row in rows]


def in_columns(completions: list[Any], gen_len: int, end_ids: list[int], pad_id: int, device: torch.device) -> Decoded:
    """vLLM's completions as the decode loop leaves them: the end token is real, padding follows it."""
    tokens = torch.full((len(completions), gen_len), pad_id)
    mask, logprobs = torch.zeros(2, *tokens.shape)
    for i, completion in enumerate(completions):
        check_finished(completion, gen_len, end_ids)
        count = len(completion.token_ids)
        tokens[i, :count], mask[i, :count] = torch.tensor(completion.token_ids), 1.0
        steps = zip(completion.logprobs, completion.token_ids, strict=True)
        logprobs[i, :count] = torch.tensor([step[token].logprob for step, token in steps])
    tokens, mask, logprobs = tokens.to(device), mask.to(device), logprobs.to(device)
    return Decoded(tokens, mask, logprobs, logprobs)


def check_finished(completion: Any, gen_len: int, end_ids: list[int]) -> None:
    """A completion stops at one of the end tokens, which is its last, or has all of its tokens."""
    ended = bool(completion.token_ids) and completion.token_ids[-1] in end_ids
    whole = {"stop": ended, "length": len(completion.token_ids) == gen_len}
    if not whole.get(completion.finish_reason, False):
        raise InputError(
            f"vLLM gave a completion of {len(completion.token_ids)} tokens (gen_len={gen_len}) that finished by "
            f"{completion.finish_reason!r} and {'ends' if ended else 'does not end'} in an end token; its version may "
            f"not be {VERSIONS}, or its context may be shorter than the model's; {INSTEAD}"
        )


@torch.no_grad()
def scored(model: TransformerWithLora, sampled: Rollout, temperature: float) -> Float[Tensor, "batch gen"]:
    """The trainer's log-probabilities of sampled tokens, before truncation; 0 in masked positions."""
    kept = sampled.mask.shape[1] + 1
    logits, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=kept)
    logprobs = get_logprobs(logits, sampled.ids[:, -kept:], temperature=temperature or 1.0)
    return logprobs.masked_fill(sampled.mask == 0, 0.0)


def first_line(error: Exception) -> str:
    """What an error says first."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
