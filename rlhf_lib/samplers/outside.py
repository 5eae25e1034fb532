"""What every other sampler does in place of the library's decode loop: send prompts, get columns, prove that it is the policy.

A sampler has its own copy of the base model. The adapters travel to it through a directory in PEFT's format, anew for each
rollout; nothing is merged. It samples from softmax(logits / temperature) after top_k and top_p, but of its own logits: its
kernels, and adapters in its base model's number format, differ from the trainer's. `Rollout.sampler_logprobs` has its numbers;
the trainers report the gap and correct for it (rlhf_lib.correction).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.args import InputError
from rlhf_lib.lora.peft_format import peft_config
from rlhf_lib.models import TransformerWithLora, padding_id
from rlhf_lib.rollouts import Decoded, Rollout, check_length, decode_texts, end_ids_of, get_logprobs
from rlhf_lib.samplers.exchange import INSTEAD, Completion, Request, in_columns, in_requests, sampling_options, seeds_from

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM takes as max_lora_rank
PROBE_LEN, PROBE_TEMPERATURE, PROBES = 8, 0.5, ["1", "The", "A", "In"]
PROBE_GAP = 0.5  # mean nats a token: over what 16-bit formats and other kernels do, far below what another model does

Given = TypeVar("Given")


class OutsideSampler(ABC):
    """Rollouts of a policy by another program.

    A subclass says how the adapters get there (`adapter_of`) and how completions are asked for (`generate`).
    """

    context: int | None = None
    """Most tokens of prompt and completion that the other program takes; None: as many as the model."""

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
        """What rlhf_lib.rollouts.rollout gives, with the same arguments; of several processes each asks for its own rows.

        Equal prompts in a row are one request of many completions. A `generator` gives each request a seed, so that an
        evaluation can be repeated; None leaves it to the sampler, which is faster. Under top_k or top_p, `logprobs` take a
        pass of the trainer's model, since the sampler tells the log-probabilities after truncation only.
        """
        ids, attention_mask = model.encode(prompts, prepend_bos)
        check_length(ids.shape[1], gen_len, model.cfg.n_ctx)
        self.check_context(ids.shape[1], gen_len)
        end_ids = end_ids_of(model, model.tokenizer) if stop_at_eos else []
        own, seeds = parallel.own_rows(ids), seeds_from(generator, len(ids))
        requests = in_requests(ids[own], attention_mask[own], seeds[own], together=temperature > 0)
        options = sampling_options(gen_len, end_ids, temperature, top_k, top_p)
        form = (gen_len, end_ids, padding_id(model.tokenizer), ids.device)
        with self.adapter_of(model) as adapter:
            columns = agreed(lambda: in_columns(self.generate(adapter, requests, options), *form))
        decoded = Decoded(*[parallel.gather_rows(column) for column in vars(columns).values()])
        if (largest := int(decoded.tokens.max())) >= model.cfg.d_vocab:
            raise InputError(
                f"{self} gave token {largest}, but base_model={model.base.name!r} has {model.cfg.d_vocab} tokens: it holds "
                f"another model; start it on {model.base.name}; {INSTEAD}"
            )
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

    @abstractmethod
    def adapter_of(self, model: TransformerWithLora) -> AbstractContextManager[Any]:
        """Inside, the other program holds the adapters as they are now, under what this yields: a name that never comes again.

        vLLM keeps what it knows by the name of an adapter, keys and values of prompts too.
        """

    @abstractmethod
    def generate(self, adapter: Any, requests: list[Request], options: dict[str, Any]) -> list[Completion]:
        """All completions in the order of the requests; `options` are those of exchange.sampling_options."""

    def check_context(self, prefix_len: int, gen_len: int) -> None:
        """Prompt and completion must fit what the other program was started for."""
        if self.context is not None and prefix_len + gen_len > self.context:
            raise InputError(
                f"the longest prompt has {prefix_len} tokens and gen_len={gen_len}, together over the {self.context} that "
                f"{self} takes; start it with --max-model-len {prefix_len + gen_len} or more, or lower gen_len"
            )

    def check_agreement(self, model: TransformerWithLora) -> None:
        """Raise where a few tokens' log-probabilities are not those of the trainer's model: another model, or other numbers.

        At a temperature that is not 1, log-probabilities of the raw logits are told from those of what is sampled from.
        """
        gen_len = min(PROBE_LEN, model.cfg.n_ctx // 2)
        sampled = self.rollout(model, PROBES, gen_len, temperature=PROBE_TEMPERATURE, stop_at_eos=False)
        gap, raw_gap = ((sampled.logprobs - scored(model, sampled, t)).abs().mean().item() for t in (PROBE_TEMPERATURE, 1.0))
        if not min(gap, raw_gap) <= PROBE_GAP:
            raise InputError(
                f"{self} and base_model={model.base.name!r} differ by {gap:.2g} nats a token, over {PROBE_GAP}: it holds "
                f"another model, other weights or a coarse quantisation of them; start it on {model.base.name}; {INSTEAD}"
            )
        if gap > 0.05 and raw_gap < gap / 2:
            raise InputError(
                f"{self} gives log-probabilities of the raw logits, not of what it samples from; start it with "
                f"--logprobs-mode processed_logprobs; {INSTEAD}"
            )


def agreed(work: Callable[[], Given]) -> Given:
    """What `work` gives; where it fails in one of several processes, all of them raise its error, so that none waits for it."""
    given, failure = None, None
    try:
        given = work()
    except InputError as error:
        failure = error
    said = [text for text in parallel.gather_lists([failure and str(failure)]) if text is not None]
    if said:
        raise failure or InputError(said[0])
    return given


def refuse_unfit(model: TransformerWithLora, sampler: str) -> None:
    """Raise for adapters that vLLM does not take, before it has loaded the model."""
    names = model.peft_names
    if any(names.is_fused(adapted) for adapted in model.lora.maps):
        raise InputError(
            f"sampler={sampler!r} takes no adapters on {model.base.name}, which fuses several of the adapted maps into one; "
            f"use a model such as Llama or Qwen2, or go on without vLLM: {INSTEAD}"
        )
    if (rank := largest_rank(model)) > RANKS[-1]:
        raise InputError(f"lora_rank={rank} is over {RANKS[-1]}, the most that vLLM takes; lower it; {INSTEAD}")


def largest_rank(model: TransformerWithLora) -> int:
    """Of the adapters as they are saved; each map may have its own (rank_pattern), as well as its own alpha."""
    config = peft_config(model.lora, model.peft_names, model.base.name)
    return max([config["r"], *config["rank_pattern"].values()])


def max_lora_rank(model: TransformerWithLora) -> int:
    """The least max_lora_rank that vLLM has for a policy's adapters."""
    return next(rank for rank in RANKS if rank >= largest_rank(model))


@torch.no_grad()
def scored(model: TransformerWithLora, sampled: Rollout, temperature: float) -> Float[Tensor, "batch gen"]:
    """The trainer's log-probabilities of sampled tokens, before truncation; 0 in masked positions."""
    kept = sampled.mask.shape[1] + 1
    logits, _ = model.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=kept)
    logprobs = get_logprobs(logits, sampled.ids[:, -kept:], temperature=temperature or 1.0)
    return logprobs.masked_fill(sampled.mask == 0, 0.0)
