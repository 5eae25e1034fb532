"""Decode steps on CUDA: one captured graph each, since launching hundreds of small kernels takes longer than they run.

A graph replays the same kernels on the same memory, so whatever changes from step to step is a tensor: the tokens, their
positions, the slot that they fill, and which slots may be seen. Attention runs over the filled part rounded up to a multiple of
64 slots, with a graph for each such length. Cache and graphs are kept from rollout to rollout for as long as batches have the
same number of rows and fit; an evaluation with another number makes new ones. Merging adapters writes weights in place, so the
graphs stay valid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_lib.engine.cache import Cache
from rlhf_lib.engine.decoding import Reader
from rlhf_lib.engine.parts import Reading
from rlhf_lib.engine.weights import Weights

LENGTH_STEP = 64
WARM_UPS = 2  # runs before a capture, in which libraries allocate what they keep


def round_up(length: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


@dataclass
class ReadSlots:
    """Attention of one new token a row over a fixed number of slots, of which `seen` tells, by window, those that it sees."""

    cache: Cache
    seen: dict[int | None, Bool[Tensor, "rows slots"]]
    slot: Int[Tensor, " 1"]
    length: int
    layer: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, reading: Reading) -> Float[Tensor, "rows heads d_head"]:
        """What each row's query reads."""
        keys, values = self.cache.keys[self.layer], self.cache.values[self.layer]
        keys.index_copy_(2, self.slot, k[:, :, None].to(keys.dtype))
        values.index_copy_(2, self.slot, v[:, :, None].to(values.dtype))
        self.layer += 1
        folded = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        some = slice(0, self.length)
        mask = self.seen[reading.window][:, None, None, some]
        return reading(folded, keys[:, :, some], values[:, :, some], mask).reshape(q.shape)


class GraphedReader(Reader):
    """A Reader whose steps are the same kernels on the same memory every time; rows that have ended therefore stay.

    Args:
        capture: turns a step into what replays it; the tests replace it, to try the steps without a GPU.
    """

    rows_leave = False

    def __init__(self, weights: Weights, capture: Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None = None):
        super().__init__(weights)
        self.capture = capture or captured
        self.steps: dict[tuple[int, bool], Callable[[], Tensor]] = {}
        self.kept: Cache | None = None
        self.addresses: list[int] = []  # of the weights, which a graph reads where they were

    def cache_for(self, rows: int, prompts: int, widest: int, gen_len: int) -> Cache:
        """The cache of the last rollout where it fits, with its graphs."""
        slots, self.cache = widest + gen_len, None
        kept, addresses = self.kept, [parameter.data_ptr() for parameter in self.weights.hf.parameters()]
        fits = kept is not None and kept.keys[0].shape[0] == rows and kept.keys[0].shape[2] >= slots
        if not fits or addresses != self.addresses:
            self.steps.clear()
            self.addresses = addresses
            self.kept = None  # freed before its successor is made
            with torch.inference_mode(False):  # or later rollouts could not write to it
                self.allocate(rows, round_up(slots))
        return self.kept

    def allocate(self, rows: int, slots: int) -> None:
        """Memory that graphs read and write."""
        self.kept = Cache(self.weights, rows, slots)
        for store in (*self.kept.keys, *self.kept.values):
            store.zero_()  # slots that are not seen yet must hold numbers all the same
        self.tokens, self.positions = torch.zeros(2, rows, dtype=torch.long, device=self.device)
        self.slot = torch.zeros(1, dtype=torch.long, device=self.device)
        windows = (None, *sorted(self.weights.windows))
        self.seen = {window: torch.zeros(rows, slots, dtype=torch.bool, device=self.device) for window in windows}

    def read_tokens(
        self, tokens: Int[Tensor, " rows"], positions: Int[Tensor, " rows"], step: int
    ) -> Float[Tensor, "rows width"]:
        """The vectors that choose the next token, after the tokens generated at `step`."""
        slot = self.cache.widest + step
        everything = self.seen[None]
        if step == 0:
            everything.copy_(self.cache.seen)
            everything[:, slot:] = False
        everything[:, slot] = True
        for window, seen in self.seen.items():
            if window is not None:
                seen.copy_(everything & self.cache.within(window, positions))
        self.tokens.copy_(tokens)
        self.positions.copy_(positions)
        self.slot.fill_(slot)
        length = round_up(slot + 1)
        key = (length, torch.is_autocast_enabled(tokens.device.type))
        if key not in self.steps:
            self.steps[key] = self.capture(
                lambda: self.read(self.tokens, self.positions, ReadSlots(self.cache, self.seen, self.slot, length))
            )
        return self.steps[key]().clone()


def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def reader_for(weights: Weights) -> Reader:
    """The Reader for the device that the weights are on; a graph could not gather weights that are spread."""
    is_graphed = weights.embedding.weight.device.type == "cuda" and not weights.is_sharded
    return GraphedReader(weights) if is_graphed else Reader(weights)
