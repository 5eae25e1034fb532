"""Sampling: distinct prompts are read once, keys and values go to memory allocated once, ended rows leave the batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.engine.blocks import Block
from rlhf_lib.engine.cache import MORE_SLOTS, Cache, GroupedCache, ReadCache, ReadPrompts
from rlhf_lib.engine.packing import Packing, pack
from rlhf_lib.engine.parts import Adapters
from rlhf_lib.engine.trunk import through_layers
from rlhf_lib.engine.weights import Weights
from rlhf_lib.sharding import with_whole

LEAVE_BELOW = 0.8  # share of rows still running at which the others leave the batch
GROUPED_FROM = 2  # rows a prompt, on average, from which prompts are kept once
NOISE_NUMBERS = 2**20  # random numbers drawn at a time
Truncate = Callable[[Float[Tensor, "rows vocab"]], Float[Tensor, "rows vocab"]]


@dataclass
class Sampled:
    """What a rollout leaves behind for scoring: the vectors that each token was sampled from."""

    ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    hidden: Float[Tensor, "vectors width"]
    index: Int[Tensor, "batch gen"]
    """Each generated token's vector; -1 after the end."""


class Reader:
    """Reads prompts, then token after token, and remembers keys and values."""

    rows_leave = True
    """Whether rows that have ended may leave the batch."""

    def __init__(self, weights: Weights):
        self.weights = weights
        self.device = weights.embedding.weight.device
        self.adapters: Adapters = {}  # those that are not merged
        self.forget()

    def forget(self) -> None:
        """Let go of what only the rollout under way needs."""
        self.cache: Cache | GroupedCache | None = None
        self.blocks: list[Block] = []

    def read_prompts(
        self, packing: Packing, prompt_of: Int[Tensor, " rows"], lengths: Int[Tensor, " prompts"], gen_len: int
    ) -> Float[Tensor, "prompts width"]:
        """The vectors that choose the first generated token, one a prompt."""
        self.cache = self.cache_for(len(prompt_of), len(lengths), packing.prompts.length, gen_len)
        self.cache.begin(prompt_of, lengths)
        self.blocks = self.weights.blocks_for_sampling()
        ends = torch.arange(len(lengths), device=lengths.device) * packing.prompts.length + lengths - 1
        return self.read(packing.ids, packing.positions, ReadPrompts(packing, self.cache))[ends]

    def cache_for(self, rows: int, prompts: int, widest: int, gen_len: int) -> Cache | GroupedCache:
        """An empty cache."""
        if rows >= GROUPED_FROM * prompts:
            return GroupedCache(self.weights, rows, gen_len)
        return Cache(self.weights, rows, widest + gen_len, at_first=widest + MORE_SLOTS)

    def read_tokens(
        self, tokens: Int[Tensor, " rows"], positions: Int[Tensor, " rows"], step: int
    ) -> Float[Tensor, "rows width"]:
        """The vectors that choose the next token, after the tokens generated at `step`."""
        return self.read(tokens, positions, ReadCache(self.cache, step))

    def read(
        self, ids: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"], attend: Callable[..., Tensor]
    ) -> Float[Tensor, "tokens width"]:
        """Every token's vector after the last norm."""
        inputs = (self.weights, self.blocks, ids, positions, attend, self.adapters)
        return with_whole(self.weights.hf, through_layers, *inputs)


class Draws:
    """Draws tokens as `rlhf_lib.rollouts.sample_tokens` does, with the same random numbers, whichever rows are left.

    Of several processes each draws the numbers of all rows and takes those of its own, so that a row's tokens do not depend on
    how many processes there are.
    """

    def __init__(
        self, batch: int, temperature: float, truncate: Truncate | None, generator: torch.Generator | None, first: int = 0
    ):
        """`batch` is how many rows there are in all, `first` where this process's begin among them."""
        self.batch, self.temperature, self.truncate, self.generator = batch, temperature, truncate, generator
        self.first = first
        self.wanted: list[int] | None = None  # rows that are left, as of the last draw
        self.vocab = self.draws = 0

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
            tokens = kept.exp().div_(self.noise(rows + self.first, logits.shape[-1])).argmax(dim=-1)
        taken = logprobs.gather(1, tokens[:, None])[:, 0]
        return tokens, taken, taken if self.truncate is None else kept.gather(1, tokens[:, None])[:, 0]

    def noise(self, rows: Int[Tensor, " rows"], vocab: int) -> Float[Tensor, "rows vocab"]:
        """Exponential random numbers for these rows of the batch: what torch.multinomial divides probabilities by."""
        self.vocab, self.draws = vocab, self.draws + 1
        if rows.device.type != "cpu":
            noise = torch.empty(self.batch, vocab, device=rows.device).exponential_(1, generator=self.generator)
            return noise if len(rows) == self.batch else noise[rows]
        if self.wanted is None or len(self.wanted) != len(rows):
            self.wanted = rows.tolist()
        noise, place = torch.empty(len(rows), vocab), 0
        size = max(1, NOISE_NUMBERS // vocab)
        for start in range(0, self.batch, size):  # numbers are drawn for ended rows too, so that the others get theirs
            stop = min(start + size, self.batch)
            uniform = torch.rand(stop - start, vocab, dtype=torch.float64, generator=self.generator)
            mine = [row - start for row in self.wanted[place : place + size] if row < stop]
            if mine:
                chosen = uniform if len(mine) == len(uniform) else uniform[mine]
                noise[place : place + len(mine)] = chosen.neg_().add_(1).log_().neg_()  # Tensor.exponential_, a third the time
                place += len(mine)
        return noise

    def catch_up(self, device: torch.device) -> None:
        """Draw what other processes have drawn since this one's rows had ended, so that all go on from the same state."""
        vocab, draws = parallel.most(self.vocab), parallel.most(self.draws)
        while self.draws < draws:
            self.noise(torch.arange(self.batch, device=device), vocab)


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

    def kept(
        self,
        ids: Int[Tensor, "batch prefix"],
        attention_mask: Int[Tensor, "batch prefix"],
        hidden: Float[Tensor, "drawn width"],
    ) -> Sampled:
        """What scoring can use."""
        mask = torch.cat([attention_mask, self.mask.to(attention_mask.dtype)], dim=1)
        return Sampled(torch.cat([ids, self.tokens], dim=1), mask, hidden, self.index)


@torch.no_grad()
def sample(
    reader: Reader,
    ids: Int[Tensor, "batch prefix"],
    attention_mask: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    draws: Draws,
) -> tuple[Drawn, Sampled] | None:
    """Columns of tokens, mask and log-probabilities, and what they were drawn from; None: prompts that are not covered."""
    drawn, ends = Drawn(ids, gen_len, pad_id), torch.tensor(end_ids, device=ids.device, dtype=ids.dtype)
    if not len(ids):
        return drawn, drawn.kept(ids, attention_mask, reader.weights.no_vectors())
    packing = pack(ids, attention_mask, 0)
    if packing is None:
        return None
    lengths, widest = attention_mask.sum(dim=1), packing.prompts.length
    vector_of = torch.div(packing.index[:, -1], widest, rounding_mode="floor")  # each row's prompt
    prompt_lengths = lengths.new_zeros(packing.prompts.rows).scatter(0, vector_of, lengths)
    hidden = reader.read_prompts(packing, vector_of, prompt_lengths, gen_len)
    rows, running = torch.arange(len(ids), device=ids.device), None
    for step in range(gen_len):
        shared = vector_of if step == 0 else None
        tokens = drawn.add(
            step, rows, running, draws(reader.weights.unembed(hidden), rows, shared), hidden, vector_of[: len(rows)]
        )
        if step + 1 == gen_len:
            break
        if end_ids:
            going = ~torch.isin(tokens, ends)
            running = going if running is None else running & going
            left = int(running.sum())
            if not reader.weights.any_needs_layers(left > 0):
                break
            if reader.rows_leave and 0 < left < LEAVE_BELOW * len(rows):
                stay = running.nonzero()[:, 0]
                reader.cache.keep(stay, step)
                rows, tokens, running = rows[stay], tokens[stay], None
            elif left == len(rows):
                running = None
        hidden = reader.read_tokens(tokens, lengths[rows] + step, step)
        vector_of = torch.arange(len(rows), device=ids.device) if step == 0 else vector_of
    reader.forget()
    return drawn, drawn.kept(ids, attention_mask, torch.cat(drawn.vectors))
