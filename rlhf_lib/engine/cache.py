"""Keys and values of the tokens so far, and a new token's attention over them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_lib.engine.packing import Packing
from rlhf_lib.engine.parts import Reading
from rlhf_lib.engine.trunk import PackedAttention, in_rows
from rlhf_lib.engine.weights import Weights

Store = list[Float[Tensor, "rows kv_heads slots d_head"]]
MORE_SLOTS = 16  # that are made at a time: keys are read faster without much empty room between them


class Cache:
    """Keys and values of `rows` sequences, layer by layer, with room for `slots` tokens each.

    Prompts fill the first `widest` slots from the left; the token generated at step t has slot widest + t in every row.
    """

    def __init__(self, weights: Weights, rows: int, slots: int, at_first: int | None = None):
        """`at_first` slots are there in the beginning, the others as they are needed; None: all are."""
        self.slots = slots
        self.keys, self.values = (empty_store(weights, rows, min(slots, at_first or slots)) for _ in range(2))

    def begin(self, prompt_of: Int[Tensor, " rows"], lengths: Int[Tensor, " prompts"]) -> None:
        """Take in prompts of these lengths, each for the rows that have it."""
        self.prompt_of, self.widest = prompt_of, int(lengths.max())
        self.lengths, slot = lengths[prompt_of], torch.arange(self.slots, device=lengths.device)
        self.seen = (slot < self.lengths[:, None]) | (slot >= self.widest)
        self.place = slot - (self.widest - self.lengths[:, None]) * (slot >= self.widest)  # of a slot's token in its sequence
        self.has_gaps = bool((lengths != self.widest).any())

    def take_prompts(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep a layer's keys and values [prompts kv_heads widest d_head] for every row of each prompt."""
        self.keys[layer][:, :, : self.widest] = keys.index_select(0, self.prompt_of)
        self.values[layer][:, :, : self.widest] = values.index_select(0, self.prompt_of)

    def attend(
        self, layer: int, step: int, q: Tensor, k: Tensor, v: Tensor, reading: Reading
    ) -> Float[Tensor, "rows heads d_head"]:
        """What each row's query reads of the tokens so far, the one of `step` included, which joins them."""
        keys, values = (joined_by(store, layer, self.widest + step, new) for store, new in ((self.keys, k), (self.values, v)))
        folded = q.reshape(len(q), k.shape[1], -1, q.shape[-1])  # heads that share keys are more queries
        return reading(folded, keys, values, self.mask(step, reading.window)).reshape(q.shape)

    def mask(self, step: int, window: int | None) -> Bool[Tensor, "rows 1 1 slots"] | None:
        """Which slots a token generated at `step` sees; None: all that are filled."""
        stop = self.widest + step + 1
        if window is None or window >= stop:
            return self.seen[:, None, None, :stop] if self.has_gaps else None
        return self.within(window, self.lengths + step)[:, None, None, :stop]

    def within(self, window: int, positions: Int[Tensor, " rows"]) -> Bool[Tensor, "rows slots"]:
        """Which slots lie less than `window` tokens back, seen from these positions."""
        return self.seen & (self.place > (positions - window)[:, None])

    def keep(self, rows: Int[Tensor, " kept"], step: int) -> None:
        """Only these rows from now on; the token of `step` has not been read yet."""
        keep_rows(self, rows, self.widest + step)
        self.seen, self.place, self.lengths = self.seen[rows], self.place[rows], self.lengths[rows]


class GroupedCache:
    """The same for rows that share prompts: a prompt's keys and values are kept once, and read once for all of its rows.

    Rows have slots for their own tokens only. Queries of a prompt's rows stand in one matrix, so that reading the prompt is a
    product of matrices; its scores go back to the rows and into one softmax with those of the rows' own tokens.
    """

    def __init__(self, weights: Weights, rows: int, gen_len: int):
        self.keys, self.values = (empty_store(weights, rows, min(gen_len, MORE_SLOTS)) for _ in range(2))
        self.prompt_keys: Store = []
        self.prompt_values: Store = []

    def begin(self, prompt_of: Int[Tensor, " rows"], lengths: Int[Tensor, " prompts"]) -> None:
        """Take in prompts of these lengths, each for the rows that have it."""
        self.lengths, self.column = lengths, torch.arange(int(lengths.max()), device=lengths.device)
        self.unseen = (self.column >= lengths[:, None])[:, None, None]  # [prompts 1 1 widest]
        self.has_gaps = bool(self.unseen.any())
        self.group(prompt_of)

    def group(self, prompt_of: Int[Tensor, " rows"]) -> None:
        """Where rows stand among their prompt's: `place_of` [rows] in prompts x widest group, and `row_at` the other way."""
        counts = prompt_of.bincount(minlength=len(self.unseen))
        order = prompt_of.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        rank = torch.empty_like(prompt_of)
        rank[order] = torch.arange(len(prompt_of), device=prompt_of.device) - starts[prompt_of[order]]
        self.prompt_of, self.widest_group = prompt_of, int(counts.max())
        self.place_of = prompt_of * self.widest_group + rank
        self.row_at = prompt_of.new_zeros(len(counts) * self.widest_group).scatter(
            0, self.place_of, torch.arange(len(prompt_of), device=prompt_of.device)
        )

    def take_prompts(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep a layer's keys and values [prompts kv_heads widest d_head]."""
        self.prompt_keys.append(keys.contiguous())
        self.prompt_values.append(values.contiguous())

    def attend(
        self, layer: int, step: int, q: Tensor, k: Tensor, v: Tensor, reading: Reading
    ) -> Float[Tensor, "rows heads d_head"]:
        """What each row's query reads of the tokens so far, the one of `step` included, which joins them."""
        keys, values = (joined_by(store, layer, step, new) for store, new in ((self.keys, k), (self.values, v)))
        first = 0 if reading.window is None else max(0, step + 1 - reading.window)  # of the row's own tokens that are seen
        folded = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        scores = self.from_prompts(reading.scores(self.of_prompts(folded), self.prompt_keys[layer]))
        unseen = self.unseen_from(step, reading.window)
        if unseen is not None:
            scores = scores.masked_fill(unseen, -float("inf"))
        own = reading.scores(folded, keys[:, :, first:])
        weights = torch.cat([scores, own], dim=-1).softmax(dim=-1)
        of_prompt, of_own = weights.split([scores.shape[-1], step + 1 - first], dim=-1)
        read = self.from_prompts(self.of_prompts(of_prompt) @ self.prompt_values[layer])
        return (read + of_own @ values[:, :, first:]).reshape(q.shape)

    def unseen_from(self, step: int, window: int | None) -> Bool[Tensor, "rows 1 1 widest"] | None:
        """Which columns of its prompt a row's token of `step` does not see; None: it sees all."""
        gaps = self.unseen[self.prompt_of] if self.has_gaps else None
        if window is None or window > self.unseen.shape[-1] + step:
            return gaps
        too_far = self.column <= (self.lengths[self.prompt_of] + step - window)[:, None, None, None]
        return too_far if gaps is None else gaps | too_far

    def of_prompts(self, rows: Float[Tensor, "rows kv_heads shared width"]) -> Float[Tensor, "prompts kv_heads queries width"]:
        """Rows' queries, or weights, below each other by prompt."""
        placed = rows.index_select(0, self.row_at).unflatten(0, (-1, self.widest_group))
        return placed.transpose(1, 2).flatten(2, 3)

    def from_prompts(
        self, read: Float[Tensor, "prompts kv_heads queries width"]
    ) -> Float[Tensor, "rows kv_heads shared width"]:
        """Back to the rows."""
        placed = read.unflatten(2, (self.widest_group, -1)).transpose(1, 2)
        return placed.flatten(0, 1).index_select(0, self.place_of)

    def keep(self, rows: Int[Tensor, " kept"], step: int) -> None:
        """Only these rows from now on; the token of `step` has not been read yet."""
        keep_rows(self, rows, step)
        self.group(self.prompt_of[rows])


def empty_store(weights: Weights, rows: int, slots: int) -> Store:
    """Memory for every layer."""
    like, shape = weights.no_vectors(), (rows, weights.kv_heads, slots, weights.head_width)
    return [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in weights.blocks]


def joined_by(
    store: list[Tensor], layer: int, slot: int, new: Float[Tensor, "rows kv_heads d_head"]
) -> Float[Tensor, "rows kv_heads filled d_head"]:
    """A layer's filled slots, the last one with what is new; where there is no slot left, the layer gets more."""
    full = store[layer]
    if slot == full.shape[2]:
        store[layer] = full.new_empty(*full.shape[:2], slot + MORE_SLOTS, full.shape[3])
        store[layer][:, :, :slot] = full
        full = store[layer]
    full[:, :, slot] = new
    return full[:, :, : slot + 1]


def keep_rows(cache: Cache | GroupedCache, rows: Int[Tensor, " kept"], filled: int) -> None:
    """Some rows of a cache in place of all, with as many slots, of which the first `filled` are copied."""
    for store in (cache.keys, cache.values):
        for layer, full in enumerate(store):
            store[layer] = full.new_empty(len(rows), *full.shape[1:])
            store[layer][:, :, :filled] = full[:, :, :filled].index_select(0, rows)


@dataclass
class ReadPrompts:
    """Attention among the prompts' tokens that leaves keys and values in a cache, layer after layer."""

    packing: Packing
    cache: Cache | GroupedCache
    layer: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> Float[Tensor, "tokens heads d_head"]:
        """What each token's query reads."""
        prompts = self.packing.prompts
        self.cache.take_prompts(self.layer, in_rows(k, prompts), in_rows(v, prompts))
        self.layer += 1
        return PackedAttention(self.packing)(q, k, v, reading)


@dataclass
class ReadCache:
    """Attention of one new token a row over a cache, layer after layer."""

    cache: Cache | GroupedCache
    step: int
    layer: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> Float[Tensor, "rows heads d_head"]:
        """What each row's query reads."""
        self.layer += 1
        return self.cache.attend(self.layer - 1, self.step, q, k, v, reading)
