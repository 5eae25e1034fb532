"""Which tokens a pass computes: every distinct prompt once, and of the completions little but real tokens.

A batch [batch seq] holds the prompts of a group many times over, padding on the left, and padding after each completion's end.
Its tokens are laid out anew as one list: the distinct prompts, then the completions sorted by length in a few rectangles. All
maps run over that list; attention runs rectangle by rectangle, completions seeing their prompt's keys and values.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

MAX_RECTANGLES, MIN_ROWS = 4, 8


@dataclass(frozen=True)
class Rectangle:
    """Rows of similar length, aligned on the left, padding on the right: `rows` x `length` tokens of the list from `start`."""

    start: int
    rows: int
    length: int
    prompt_of: Int[Tensor, " rows"] | None
    """The prompt that each row continues; None for the prompts themselves."""
    mask: Bool[Tensor, "rows 1 length keys"] | None
    """Which keys a query sees, prompt keys first; None: all up to its own position."""
    prompt_lengths: Int[Tensor, " rows"] | None = None
    """How many tokens each row's prompt has; None for the prompts themselves."""

    @property
    def stop(self) -> int:
        """The end in the list of tokens."""
        return self.start + self.rows * self.length

    def mask_within(self, window: int | None, device: torch.device) -> Bool[Tensor, "rows 1 length keys"] | None:
        """The mask of a layer whose tokens see no further back than a window (None: all before them)."""
        if window is None:
            return self.mask
        if window not in self.masks:
            self.masks[window] = self.windowed(window, device)
        return self.masks[window]

    @cached_property
    def masks(self) -> dict[int, Bool[Tensor, "rows 1 length keys"] | None]:
        """The masks of the windows asked for so far."""
        return {}

    def windowed(self, window: int, device: torch.device) -> Bool[Tensor, "rows 1 length keys"] | None:
        """`mask` without the keys that lie `window` or more tokens back."""
        column = torch.arange(self.length, device=device)
        back = column[:, None] - column  # how far back each own token lies
        if self.prompt_lengths is None:
            seen = (back >= 0) & (back < window)
            return None if window >= self.length else seen.expand(self.rows, 1, -1, -1)
        prompt = torch.arange(self.mask.shape[-1] - self.length, device=device)
        to_prompt = (self.prompt_lengths[:, None] + column)[:, :, None] - prompt
        back = torch.cat([to_prompt, back.expand(self.rows, -1, -1)], dim=2)
        return self.mask & (back < window)[:, None]


@dataclass(frozen=True)
class Packing:
    """A batch's tokens as one list of rectangles, the first of which holds the prompts."""

    ids: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    rectangles: list[Rectangle]
    index: Int[Tensor, "batch seq"]
    """Where each token of the batch is in the list; -1 where attention_mask is 0."""

    @cached_property
    def prompts(self) -> Rectangle:
        """The rectangle of distinct prompts."""
        return self.rectangles[0]


def pack(ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"], gen_len: int) -> Packing | None:
    """The packing of left-padded prompts and their completions, which are the last `gen_len` columns (0: no completions).

    None where a row's real tokens are not one stretch, or a prompt has none.
    """
    split = ids.shape[1] - gen_len
    prompt_lengths, lengths = attention_mask[:, :split].sum(dim=1), attention_mask[:, split:].sum(dim=1)
    if not is_one_stretch(attention_mask, split, prompt_lengths, lengths):
        return None
    prompts, prompt_of = distinct(ids[:, :split] * attention_mask[:, :split], prompt_lengths)
    widest = int(prompt_lengths.max())
    own = prompt_lengths[prompts]
    column = torch.arange(widest, device=ids.device)
    first = (split - own)[:, None]
    prompt_ids = ids[prompts][:, :split].gather(1, (first + column).clamp(max=split - 1))
    flat_ids, flat_positions = [prompt_ids.flatten()], [column.repeat(len(prompts))]
    index = torch.full_like(ids, -1)
    shifted = torch.arange(split, device=ids.device) - (split - prompt_lengths)[:, None]
    index[:, :split] = torch.where(shifted >= 0, prompt_of[:, None] * widest + shifted, -1)
    rectangles = [Rectangle(0, len(prompts), widest, None, None)]
    for rows, length in rows_by_length(lengths):
        start = rectangles[-1].stop
        column = torch.arange(length, device=ids.device)
        flat_ids.append(ids[rows][:, split : split + length].flatten())
        flat_positions.append((prompt_lengths[rows][:, None] + column).flatten())
        places = start + torch.arange(len(rows), device=ids.device)[:, None] * length + column
        index[rows[:, None], split + column] = torch.where(column < lengths[rows][:, None], places, -1)
        mask = completion_mask(own[prompt_of[rows]], widest, length)
        rectangles.append(Rectangle(start, len(rows), length, prompt_of[rows], mask, own[prompt_of[rows]]))
    return Packing(torch.cat(flat_ids), torch.cat(flat_positions), rectangles, index)


def is_one_stretch(
    attention_mask: Int[Tensor, "batch seq"], split: int, prompt_lengths: Tensor, lengths: Int[Tensor, " batch"]
) -> bool:
    """Whether every row is left padding, at least one prompt token, completion, padding."""
    column = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    real = (column >= (split - prompt_lengths)[:, None]) & (column < (split + lengths)[:, None])
    return bool((real == attention_mask.bool()).all() & (prompt_lengths > 0).all())


def distinct(
    prompts: Int[Tensor, "batch prefix"], lengths: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, " prompts"], Int[Tensor, " batch"]]:
    """One row of each distinct prompt, and which of them every row has."""
    seen: dict[tuple[int, ...], int] = {}
    rows, which = [], []
    for row, (prompt, length) in enumerate(zip(prompts.tolist(), lengths.tolist(), strict=True)):
        key = (length, *prompt)
        if key not in seen:
            seen[key] = len(rows)
            rows.append(row)
        which.append(seen[key])
    return torch.tensor(rows, device=prompts.device), torch.tensor(which, device=prompts.device)


def together(prompts: Int[Tensor, "batch prefix"]) -> Int[Tensor, " batch"]:
    """All rows in an order in which those of the same prompt follow each other."""
    places: dict[tuple[int, ...], int] = {}
    return torch.tensor(
        [places.setdefault(tuple(prompt), len(places)) for prompt in prompts.tolist()], dtype=torch.long
    ).argsort(stable=True)


def rows_by_length(lengths: Int[Tensor, " batch"]) -> list[tuple[Int[Tensor, " rows"], int]]:
    """Rows in a few groups of similar length, each with its longest; rows without tokens are left out."""
    ordered, order = lengths.sort(descending=True, stable=True)
    count = int((ordered > 0).sum())
    size = max(MIN_ROWS, -(-count // MAX_RECTANGLES))
    return [(order[at : min(at + size, count)], int(ordered[at])) for at in range(0, count, size)]


def completion_mask(prompt_lengths: Int[Tensor, " rows"], widest: int, length: int) -> Bool[Tensor, "rows 1 length keys"]:
    """A completion's token sees its prompt's real tokens, and the completion up to itself."""
    device = prompt_lengths.device
    prompt = torch.arange(widest, device=device) < prompt_lengths[:, None]
    own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    rows = len(prompt_lengths)
    return torch.cat([prompt[:, None].expand(rows, length, widest), own.expand(rows, length, length)], dim=2)[:, None]
