"""Where the time goes when 128 distinct prompts are sampled: this library beside transformers' generate, by kind of operation.

    python benchmarks/distinct.py [--gen-lens 16 48 128] [--output benchmarks/results/distinct.md]

The cells of benchmarks/rollout.py with 128 distinct prompts of 32 tokens on the bundled model. Both sides run in turn, one
round uncounted; seconds are medians without the profiler, shares are of torch.profiler's self CPU time in one run more. The
last row is what reading all keys and values once a step takes, as fast as this machine adds up a tensor of that size.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from record import RESULTS, made_with, median
from rollout import PROMPT_LEN, Contest, take_turns
from tabulate import tabulate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from rlhf_lib.models.loading import BUNDLED

BATCH = 128
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "moving keys, values and rows": ("aten::cat", "aten::copy_", "aten::index_select", "aten::index", "aten::index_put_"),
    "random numbers": ("aten::exponential_", "aten::uniform_", "aten::log_", "aten::neg_"),
}


def shares_of(call: Callable[[], Tensor]) -> Counter[str]:
    """Seconds of each kind of operation in one call; all others are "the rest"."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        found[kind_of.get(event.key, "the rest")] += event.self_cpu_time_total / 1e6
    return found


def reading_seconds(config: object, gen_len: int) -> float:
    """Seconds for reading every key and value once a step, as fast as a sum over as many numbers."""
    heads = config.num_key_value_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    store = torch.ones(2 * BATCH * (PROMPT_LEN + gen_len) * width * config.num_hidden_layers)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        store.sum()
        seconds.append(time.perf_counter() - started)
    filled = sum(PROMPT_LEN + t for t in range(1, gen_len)) / (PROMPT_LEN + gen_len)
    return median(seconds[1:], 9) * filled


def cell(contest: Contest, gen_len: int) -> list[tuple[str, ...]]:
    """The rows of a length: seconds in all, by kind, and at least."""
    ids = torch.randint(0, contest.theirs.config.vocab_size, (BATCH, PROMPT_LEN), generator=torch.Generator().manual_seed(0))
    calls = {name: contest.sampler(name, ids, torch.ones_like(ids), gen_len, []) for name in ("ours", "dynamic")}
    whole = {name: median(seconds for seconds, _ in found) for name, found in take_turns(calls, "cpu", 3).items()}
    parts = {name: shares_of(call) for name, call in calls.items()}
    scaled = {name: {k: whole[name] * v / sum(part.values()) for k, v in part.items()} for name, part in parts.items()}
    rows = [(gen_len, "in all", *whole.values(), whole["dynamic"] / whole["ours"])]
    for kind in (*KINDS, "the rest"):
        rows.append((gen_len, kind, *(one.get(kind, 0.0) for one in scaled.values()), None))
    floor = reading_seconds(contest.theirs.config, gen_len)
    return [*rows, (gen_len, "reading keys and values, at least", floor, floor, None)]


def main(words: list[str] | None = None) -> None:
    """Profile, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gen-lens", nargs="+", type=int, default=[16, 48, 128])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "distinct.md")
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    contest = Contest.of(BUNDLED["pocket"], "cpu", "float32")
    rows = [row for gen_len in given.gen_lens for row in cell(contest, gen_len)]
    heads = ("gen_len", "seconds", "ours", "generate", "generate / ours")
    about = made_with(given.threads)
    text = tabulate(rows, heads, tablefmt="github", floatfmt=".3f", missingval="")
    text += f"\n\n{about['hardware']['cpu']}, {given.threads} threads, commit {about['commit']}, {about['date']}\n"
    given.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
