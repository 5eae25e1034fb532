"""Sampling with a key-value cache that is allocated once: distinct prompts are read once, ended rows leave the batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_lib.engine.packing import Packing, pack
from rlhf_lib.engine.trunk import PackedAttention, in_rows
from rlhf_lib.engine.weights import Weights

LEAVE_BELOW = 0.8  # share of rows still running at which the others leave the batch
Truncate = Callable[[Float[Tensor, "rows vocab"]], Float[Tensor, "rows vocab"]]


@dataclass
class Sampled:
    """What a rollout leaves behind for scoring: the vectors that each token was sampled from."""

    ids: Int[Tensor, "batch seq"]
    hidden: Float[Tensor, "vectors width"]
    index: Int[Tensor, "batch gen"]
    """Each generated token's vector; -1 after the end."""


class Cache:
    """Keys and values of `rows` sequences, layer by layer, with room for `slots` tokens each.

    Prompts fill the first `widest` slots from the left; the token generated at step t has slot widest + t in every row.
    """

    def __init__(self, weights: Weights, prompt_of: Int[Tensor, " rows"], lengths: Int[Tensor, " prompts"], gen_len: int):
        self.prompt_of, self.widest = prompt_of, int(lengths.max())
        shape = (len(prompt_of), weights.kv_heads, self.widest + gen_len, weights.head_width)
        like = weights.embedding.weight
        layers = range(len(weights.blocks))
        self.keys = [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in layers]
        self.values = [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in layers]
        slot = torch.arange(shape[2], device=like.device)
        self.seen: Bool[Tensor, "rows slots"] = (slot < lengths[prompt_of][:, None]) | (slot >= self.widest)
        self.has_gaps = bool((lengths != self.widest).any())

    def keep(self, rows: Int[Tensor, " kept"], filled: int) -> None:
        """Only these rows from now on; the first `filled` slots matter."""
        for store in (self.keys, self.values):
            for layer, full in enumerate(store):
                store[layer] = full.new_empty(len(rows), *full.shape[1:])
                torch.index_select(full[:, :, :filled], 0, rows, out=store[layer][:, :, :filled])
        self.seen = self.seen[rows]


@dataclass
class ReadPrompts:
    """Attention among the prompts' tokens that leaves keys and values in the cache, for every row of each prompt."""

    packing: Packing
    cache: Cache
    layer: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "tokens heads d_head"]:
        """What each token's query reads."""
        cache, prompts = self.cache, self.packing.prompts
        for store, part in ((cache.keys, k), (cache.values, v)):
            rows = in_rows(part, prompts).index_select(0, cache.prompt_of)
            store[self.layer][:, :, : cache.widest] = rows
        self.layer += 1
        return PackedAttention(self.packing)(q, k, v)


@dataclass
class ReadCache:
    """Attention of one new token a row over the filled part of the cache, which it joins."""

    cache: Cache
    step: int
    layer: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "rows heads d_head"]:
        """What each row's query reads."""
        cache, slot = self.cache, self.cache.widest + self.step
        keys, values = cache.keys[self.layer], cache.values[self.layer]
        keys[:, :, slot], values[:, :, slot] = k, v
        self.layer += 1
        mask = cache.seen[:, None, None, : slot + 1] if cache.has_gaps else None
        folded = q.reshape(len(q), k.shape[1], -1, q.shape[-1])  # heads that share keys are more queries
        read = F.scaled_dot_product_attention(folded, keys[:, :, : slot + 1], values[:, :, : slot + 1], attn_mask=mask)
        return read.reshape(q.shape)


def read_prompts(weights: Weights, packing: Packing, cache: Cache) -> Float[Tensor, "prompts width"]:
    """The vectors that choose the first generated token, one a prompt; the cache is filled."""
    x, rotation = weights.embed(packing.ids, packing.positions)
    attend = ReadPrompts(packing, cache)
    for block in weights.blocks:
        x = weights.run_block(block, x, attend, rotation, {})
    return weights.last_norm(x)


def read_token(
    weights: Weights, tokens: Int[Tensor, " rows"], positions: Int[Tensor, " rows"], cache: Cache, step: int
) -> Float[Tensor, "rows width"]:
    """The vectors that choose the next token, after one more token a row, that of `step`."""
    x, rotation = weights.embed(tokens, positions)
    attend = ReadCache(cache, step)
    for block in weights.blocks:
        x = weights.run_block(block, x, attend, rotation, {})
    return weights.last_norm(x)


class Sampler:
    """Draws tokens as `rlhf_lib.rollouts.sample_tokens` does, with the same random numbers, whichever rows are left."""

    def __init__(self, batch: int, temperature: float, truncate: Truncate | None, generator: torch.Generator | None):
        self.batch, self.temperature, self.truncate, self.generator = batch, temperature, truncate, generator

    def __call__(
        self, logits: Float[Tensor, "vectors vocab"], rows: Int[Tensor, " rows"], vector_of: Int[Tensor, " rows"] | None
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Tokens and their log-probabilities, before and after truncation; `vector_of` where rows share logits."""
        scaled = logits / self.temperature if self.temperature not in (0, 1) else logits
        logprobs = scaled.log_softmax(dim=-1)
        kept = logprobs if self.truncate is None else self.truncate(scaled).log_softmax(dim=-1)
        if vector_of is not None:
            logprobs, kept = logprobs[vector_of], kept[vector_of]
        if self.temperature == 0:
            tokens = logits.argmax(dim=-1) if vector_of is None else logits.argmax(dim=-1)[vector_of]
        else:
            tokens = kept.exp().div_(self.noise(rows, logits.shape[-1])).argmax(dim=-1)
        taken = logprobs.gather(1, tokens[:, None])[:, 0]
        return tokens, taken, taken if self.truncate is None else kept.gather(1, tokens[:, None])[:, 0]

    def noise(self, rows: Int[Tensor, " rows"], vocab: int) -> Float[Tensor, "rows vocab"]:
        """Exponential random numbers for these rows of the batch: what torch.multinomial divides probabilities by."""
        drawn = torch.empty(self.batch, vocab, device=rows.device).exponential_(1, generator=self.generator)
        return drawn if len(rows) == self.batch else drawn[rows]


@torch.no_grad()
def sample(
    weights: Weights,
    ids: Int[Tensor, "batch prefix"],
    attention_mask: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    sampler: Sampler,
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Sampled] | None:
    """Tokens, mask, log-probabilities of policy and of sampler [batch gen], with their vectors; None: prompts not covered."""
    packing = pack(ids, attention_mask, 0)
    if packing is None:
        return None
    batch, device = len(ids), ids.device
    last = packing.index[:, -1]  # of each row's prompt
    lengths_of = attention_mask.sum(dim=1)
    widest = packing.prompts.length
    prompt_of = torch.div(last, widest, rounding_mode="floor")
    lengths = torch.zeros(packing.prompts.rows, dtype=torch.long, device=device).scatter(0, prompt_of, lengths_of)
    cache = Cache(weights, prompt_of, lengths, gen_len)
    prompt_ends = torch.arange(packing.prompts.rows, device=device) * widest + lengths - 1
    hidden = read_prompts(weights, packing, cache)[prompt_ends]
    tokens = ids.new_full((batch, gen_len), pad_id)
    mask, logprobs, sampler_logprobs = torch.zeros(3, batch, gen_len, device=device)
    index = torch.full_like(tokens, -1)
    ends = torch.tensor(end_ids, device=device, dtype=ids.dtype)
    rows, running, vectors, vector_of = torch.arange(batch, device=device), None, [hidden], prompt_of
    count = 0  # vectors of earlier steps
    for t in range(gen_len):
        token, logprob, sampler_logprob = sampler(weights.unembed(hidden), rows, vector_of)
        places = torch.arange(len(rows), device=device) if vector_of is None else vector_of
        if running is None:
            tokens[rows, t], mask[rows, t], index[rows, t] = token, 1.0, count + places
            logprobs[rows, t], sampler_logprobs[rows, t] = logprob, sampler_logprob
        else:
            token = torch.where(running, token, pad_id)
            tokens[rows, t], mask[rows, t] = token, running.float()
            index[rows, t] = torch.where(running, count + places, -1)
            logprobs[rows, t], sampler_logprobs[rows, t] = logprob * running, sampler_logprob * running
        count += len(hidden)
        if t + 1 == gen_len:
            break
        if end_ids:
            going = ~torch.isin(token, ends)
            running = going if running is None else running & going
            left = int(running.sum())
            if left == 0:
                break
            if left < LEAVE_BELOW * len(rows):
                stay = running.nonzero()[:, 0]
                cache.keep(stay, widest + t)
                rows, token, running = rows[stay], token[stay], None
            elif left == len(rows):
                running = None
        hidden = read_token(weights, token, lengths_of[rows] + t, cache, t)
        vectors.append(hidden)
        vector_of = None
    sampled = Sampled(torch.cat([ids, tokens], dim=1), torch.cat(vectors), index)
    return (tokens, mask, logprobs, sampler_logprobs), sampled
