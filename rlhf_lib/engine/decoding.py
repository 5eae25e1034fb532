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

    def __init__(self, weights: Weights, rows: int, slots: int):
        shape = (rows, weights.kv_heads, slots, weights.head_width)
        like = weights.embedding.weight
        self.keys, self.values = (
            [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in weights.blocks] for _ in range(2)
        )

    def begin(self, prompt_of: Int[Tensor, " rows"], lengths: Int[Tensor, " prompts"]) -> None:
        """Take in prompts of these lengths, each for the rows that have it."""
        self.prompt_of, self.widest = prompt_of, int(lengths.max())
        slot = torch.arange(self.keys[0].shape[2], device=lengths.device)
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
    weights: Weights, tokens: Int[Tensor, " rows"], positions: Int[Tensor, " rows"], attend: Callable[..., Tensor]
) -> Float[Tensor, "rows width"]:
    """The vectors that choose the next token, after one more token a row."""
    x, rotation = weights.embed(tokens, positions)
    for block in weights.blocks:
        x = weights.run_block(block, x, attend, rotation, {})
    return weights.last_norm(x)


class Reader:
    """Reads prompts, then token after token, and remembers keys and values."""

    rows_leave = True
    """Whether rows that have ended may leave the batch."""

    def __init__(self, weights: Weights):
        self.weights = weights

    def read_prompts(
        self, packing: Packing, prompt_of: Int[Tensor, " rows"], lengths: Int[Tensor, " prompts"], gen_len: int
    ) -> Float[Tensor, "prompts width"]:
        """The vectors that choose the first generated token, one a prompt."""
        self.cache = self.cache_for(len(prompt_of), packing.prompts.length + gen_len)
        self.cache.begin(prompt_of, lengths)
        ends = torch.arange(len(lengths), device=lengths.device) * packing.prompts.length + lengths - 1
        return read_prompts(self.weights, packing, self.cache)[ends]

    def cache_for(self, rows: int, slots: int) -> Cache:
        """An empty cache."""
        return Cache(self.weights, rows, slots)

    def read_tokens(
        self, tokens: Int[Tensor, " rows"], positions: Int[Tensor, " rows"], step: int
    ) -> Float[Tensor, "rows width"]:
        """The vectors that choose the next token, after the tokens generated at `step`."""
        return read_token(self.weights, tokens, positions, ReadCache(self.cache, step))

    def keep(self, rows: Int[Tensor, " kept"], step: int) -> None:
        """Only these rows from now on; tokens up to `step` have been generated, the last of them not yet read."""
        self.cache.keep(rows, self.cache.widest + step)


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


class Drawn:
    """Columns [batch gen] that fill up step by step, and the vectors that their tokens were drawn from."""

    def __init__(self, ids: Int[Tensor, "batch prefix"], gen_len: int, pad_id: int):
        self.pad_id = pad_id
        self.tokens = ids.new_full((len(ids), gen_len), pad_id)
        self.mask, self.logprobs, self.sampler_logprobs = torch.zeros(3, len(ids), gen_len, device=ids.device)
        self.index = torch.full_like(self.tokens, -1)
        self.vectors: list[Float[Tensor, "drawn width"]] = []
        self.count = 0

    def add(
        self,
        step: int,
        rows: Int[Tensor, " rows"],
        running: Bool[Tensor, " rows"] | None,
        drawn: tuple[Tensor, Tensor, Tensor],
        hidden: Float[Tensor, "drawn width"],
        vector_of: Int[Tensor, " rows"],
    ) -> Int[Tensor, " rows"]:
        """Enter a step's tokens (None: all rows run) with their log-probabilities and vectors; ended rows get padding."""
        columns = (self.tokens, self.logprobs, self.sampler_logprobs, self.index, self.mask)
        values = (*drawn, self.count + vector_of, torch.ones_like(drawn[1]))
        for column, value, nothing in zip(columns, values, (self.pad_id, 0.0, 0.0, -1, 0.0), strict=True):
            column[rows, step] = value if running is None else torch.where(running, value, nothing)
        self.vectors.append(hidden)
        self.count += len(hidden)
        return self.tokens[rows, step]


@torch.no_grad()
def sample(
    reader: Reader,
    ids: Int[Tensor, "batch prefix"],
    attention_mask: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    sampler: Sampler,
) -> tuple[Drawn, Sampled] | None:
    """Columns of tokens, mask and log-probabilities, and what they were drawn from; None: prompts that are not covered."""
    packing = pack(ids, attention_mask, 0)
    if packing is None:
        return None
    lengths, widest = attention_mask.sum(dim=1), packing.prompts.length
    vector_of = torch.div(packing.index[:, -1], widest, rounding_mode="floor")  # each row's prompt
    prompt_lengths = lengths.new_zeros(packing.prompts.rows).scatter(0, vector_of, lengths)
    hidden = reader.read_prompts(packing, vector_of, prompt_lengths, gen_len)
    drawn, ends = Drawn(ids, gen_len, pad_id), torch.tensor(end_ids, device=ids.device, dtype=ids.dtype)
    rows, running = torch.arange(len(ids), device=ids.device), None
    for step in range(gen_len):
        shared = vector_of if step == 0 else None
        tokens = drawn.add(
            step, rows, running, sampler(reader.weights.unembed(hidden), rows, shared), hidden, vector_of[: len(rows)]
        )
        if step + 1 == gen_len:
            break
        if end_ids:
            going = ~torch.isin(tokens, ends)
            running = going if running is None else running & going
            left = int(running.sum())
            if left == 0:
                break
            if reader.rows_leave and left < LEAVE_BELOW * len(rows):
                stay = running.nonzero()[:, 0]
                reader.keep(stay, step)
                rows, tokens, running = rows[stay], tokens[stay], None
            elif left == len(rows):
                running = None
        hidden = reader.read_tokens(tokens, lengths[rows] + step, step)
        vector_of = torch.arange(len(rows), device=ids.device) if step == 0 else vector_of
    return drawn, Sampled(torch.cat([ids, drawn.tokens], dim=1), torch.cat(drawn.vectors), drawn.index)
