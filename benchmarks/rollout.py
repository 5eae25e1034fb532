r"""Tokens a second: this library's sampling against transformers' generate, with its dynamic and with its static cache.

    python benchmarks/rollout.py [--models pocket gpt2-small ...] [--batches 1 16 128 512] [--gen-lens 16 48 128 512]
    python benchmarks/rollout.py --models qwen3-0.6b-8-layers olmo2-1b-4-layers --batches 1 --gen-lens 16 --rounds 2 \
        --output benchmarks/results/rollout-shapes-cpu.json
    python benchmarks/rollout.py --device cuda --dtype bfloat16                                  (written for it, not measured)

Prompts are 32 random token ids, nothing ends early, and temperature is 1 with no truncation: all three sample batch x gen_len
tokens. More rows are what training samples, 16 prompts of the pocket task x 8: on the bundled model with natural ends and at
full length, on the others of GROUPED at full length. transformers' side is a model freshly loaded by AutoModelForCausalLM.
All but the bundled model have the shapes of published models, with fewer layers where the name says so, and random weights.
In a cell the three take turns, one round uncounted; its figure is the median of the others, of which short cells have more. A
cell that would not fit the context, or would take longer than --cell-limit seconds in all by the estimate from short runs, is
listed as skipped. With --device cuda the time in which the device could at best read the weights and the cache, or do the
arithmetic, is given beside.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, made_with, median, ratio, write_result
from tabulate import tabulate
from torch import Tensor

from rlhf_lib.models import BridgedTransformer, encode_prompts, padding_id
from rlhf_lib.models.loading import BUNDLED, quiet_transformers
from rlhf_lib.rollouts import PolicyDecoder, decode
from rlhf_lib.tasks import PocketTask

PROMPT_LEN = 32
MOST_ROUNDS, SHORT = 25, 10.0  # of a cell whose rounds are short, and the seconds that they may take
SYSTEMS = ("ours", "dynamic", "static")
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {  # model_type and configuration
    "gpt2-small": ("gpt2", {}),
    "qwen2.5-0.5b": (
        "qwen2",
        {
            "hidden_size": 896,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "intermediate_size": 4864,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-0.6b-8-layers": (
        "qwen3",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 8,  # of 28
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2-1b-4-layers": (
        "olmo2",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 4,  # of 16
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 8192,
            "vocab_size": 100_352,
            "pad_token_id": 100_277,
            "eos_token_id": 100_257,
        },
    ),
}
MODELS = ("pocket", *SHAPES)
QUICK = MODELS[:3]  # the others take minutes a cell
GROUPED = {"pocket": 48, "qwen3-0.6b-8-layers": 16, "olmo2-1b-4-layers": 16}  # models with groups of prompts: tokens sampled


def random_model_config(name: str) -> Any:
    """The shape of a published model."""
    from transformers import AutoConfig

    kind, changes = SHAPES[name]
    return AutoConfig.for_model(kind, **changes)


@contextmanager
def model_directory(name: str) -> Iterator[Path]:
    """A Hugging Face directory: the bundled model, or a temporary one with random weights and the bundled tokenizer."""
    from transformers import AutoModelForCausalLM

    if name in BUNDLED:
        yield BUNDLED[name]
        return
    with tempfile.TemporaryDirectory() as directory:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(random_model_config(name)).save_pretrained(directory)
        for file in BUNDLED["pocket"].glob("tokenizer*"):
            shutil.copy(file, directory)
        yield Path(directory)


@dataclass
class Contest:
    """Both sides of a model, loaded: this library's, and a plain one."""

    ours: BridgedTransformer
    theirs: Any

    @classmethod
    def of(cls, directory: Path, device: str, dtype: str) -> "Contest":
        """Load the two, each from the directory."""
        from transformers import AutoModelForCausalLM

        with quiet_transformers():
            ours = BridgedTransformer(directory, device=device, dtype=dtype)
            theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).to(device).eval()
        return cls(ours, theirs)

    def sampler(self, system: str, ids: Tensor, mask: Tensor, gen_len: int, end_ids: list[int]) -> Callable[[], Tensor]:
        """A call that samples a batch once and gives the generated tokens [batch gen]."""
        pad = padding_id(self.ours.tokenizer)
        if system == "ours":
            passes = self.ours.base.passes
            if passes.fast is None:
                raise SystemExit(f"{self.theirs.config.model_type} has no fast passes, which are what is measured")
            return lambda: decode(PolicyDecoder(passes, mask), ids, gen_len, end_ids, pad).tokens
        self.theirs.generation_config.eos_token_id = None  # the option below counts only if this is unset
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": gen_len}
        ends = {"eos_token_id": end_ids or None, "pad_token_id": pad}
        cache = {"cache_implementation": "static"} if system == "static" else {}
        return lambda: self.theirs.generate(ids, attention_mask=mask, **options, **ends, **cache)[:, ids.shape[1] :]


def timed(call: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    """Seconds of a call, and what it gave; a GPU's work is waited for before either reading of the clock."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    started = time.perf_counter()
    result = call()
    wait()
    return time.perf_counter() - started, result


def take_turns(samplers: dict[str, Callable[[], Tensor]], device: str, rounds: int) -> dict[str, list[tuple[float, Tensor]]]:
    """Seconds and tokens of every sampler, one call a round from the same random seed; the first round is left out.

    There are at least `rounds`, and up to MOST_ROUNDS as long as they take under SHORT seconds: what lasts a tenth of a second
    is soon disturbed.
    """
    found: dict[str, list[tuple[float, Tensor]]] = {system: [] for system in samplers}
    started, i = time.perf_counter(), 0
    while i <= rounds or (i <= MOST_ROUNDS and time.perf_counter() - started < SHORT):
        for system, sampler in samplers.items():
            torch.manual_seed(i)
            result = timed(sampler, device)
            if i:
                found[system].append(result)
        i += 1
    return found


@dataclass(frozen=True)
class Probe:
    """What sampling costs at a batch size, measured on a few tokens with transformers' dynamic cache."""

    batch: int
    first: float
    """Seconds of the first token, prompt included."""
    step: float
    """Seconds of each further token."""

    def estimate(self, gen_len: int, runs: int) -> float:
        """Seconds of so many runs of gen_len tokens."""
        return runs * (self.first + (gen_len - 1) * self.step)

    def at(self, batch: int) -> "Probe":
        """What to expect of a larger batch before it is probed: the prompt takes in proportion, a step no less than here."""
        return Probe(batch, self.first * batch / self.batch, self.step)


def probe(contest: Contest, ids: Tensor, device: str) -> Probe:
    """Time 1 token and 5."""
    mask = torch.ones_like(ids)
    seconds = {n: timed(contest.sampler("dynamic", ids, mask, n, []), device)[0] for n in (5, 1, 5)}  # the second 5 counts
    return Probe(len(ids), seconds[1], max(1e-6, (seconds[5] - seconds[1]) / 4))


def why_skipped(gen_len: int, context: int, expected: Probe, runs: int, limit: float) -> str | None:
    """The reason to leave a cell out, or None."""
    if PROMPT_LEN + gen_len > context:
        return f"the model's context is {context}"
    seconds = expected.estimate(gen_len, runs)
    return f"estimated {seconds:.0f} s, over the limit of {limit:.0f}" if seconds > limit else None


@dataclass(frozen=True)
class Device:
    """What a device can do at best."""

    bandwidth: float
    flops: float


def floor_seconds(
    config: Any, parameters: int, number_bytes: int, batch: int, gen_len: int, device: Device
) -> dict[str, float]:
    """The least time for a cell: reading all weights and the cache once a step, and the products of weights and attention.

    The embedding is read as the output map (too much where the two are not tied), which only a step's last position meets. The
    larger of reading and computing counts in each step.
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    heads = config.num_attention_heads
    kv_width = getattr(config, "num_key_value_heads", heads) * (getattr(config, "head_dim", None) or width // heads)
    output_map = config.vocab_size * width
    reading, computing, best = 0.0, 0.0, 0.0
    for t in range(gen_len):
        new, seen = (PROMPT_LEN, PROMPT_LEN / 2) if t == 0 else (1, PROMPT_LEN + t)
        read = number_bytes * (parameters + batch * (PROMPT_LEN + t) * layers * 2 * kv_width) / device.bandwidth
        products = new * (2 * (parameters - output_map) + 4 * layers * width * seen) + 2 * output_map
        computed = batch * products / device.flops
        reading, computing, best = reading + read, computing + computed, best + max(read, computed)
    return {"bandwidth_floor_s": reading, "arithmetic_floor_s": computing, "floor_s": best}


def count_tokens(tokens: Tensor, end_ids: list[int]) -> int:
    """Generated tokens up to and including each row's first end."""
    if not end_ids:
        return tokens.numel()
    ended = torch.isin(tokens, torch.tensor(end_ids, device=tokens.device))
    return int((ended.cumsum(dim=1) - ended.long() == 0).sum())


def measure(contest: Contest, ids: Tensor, mask: Tensor, gen_len: int, end_ids: list[int], given: Any) -> dict[str, Any]:
    """A cell: median seconds and tokens a second of the three, and this library's over each of the others'."""
    samplers = {system: contest.sampler(system, ids, mask, gen_len, end_ids) for system in SYSTEMS}
    found = take_turns(samplers, given.device, given.rounds)
    speeds = {}
    cell: dict[str, Any] = {"batch": len(ids), "gen_len": gen_len, "ends": "natural" if end_ids else "none"}
    for system, results in found.items():
        counts = [count_tokens(tokens, end_ids) for _, tokens in results]
        speeds[system] = median((n / seconds for n, (seconds, _) in zip(counts, results, strict=True)), 1)
        cell[f"{system}_s"] = median(seconds for seconds, _ in results)
        cell[f"{system}_tokens_per_s"] = speeds[system]
        if end_ids:
            cell[f"{system}_mean_length"] = round(sum(counts) / len(counts) / len(ids), 2)
    return {
        **cell,
        "ours_over_dynamic": ratio(speeds["ours"], speeds["dynamic"]),
        "ours_over_static": ratio(speeds["ours"], speeds["static"]),
    }


def device_of(given: Any) -> Device:
    """What the GPU can do at best, as given on the command line or known by its name."""
    if given.bandwidth and given.flops:
        return Device(given.bandwidth, given.flops)
    name = torch.cuda.get_device_name(given.device)
    if "H200" not in name:
        raise SystemExit(f"what {name} can do at best is not known here; give --bandwidth and --flops from its data sheet")
    return Device(4.8e12, 989e12)


def with_floor(cell: dict[str, Any], contest: Contest, given: Any) -> dict[str, Any]:
    """A cell with the device's floor, and the share of it that each system reaches."""
    parameters = sum(p.numel() for p in contest.theirs.parameters())
    size = torch.finfo(contest.theirs.dtype).bits // 8
    device = device_of(given)
    floor = floor_seconds(contest.theirs.config, parameters, size, cell["batch"], cell["gen_len"], device)
    shares = {f"{system}_share_of_floor": ratio(floor["floor_s"], cell[f"{system}_s"]) for system in SYSTEMS}
    return {**cell, **{name: round(seconds, 6) for name, seconds in floor.items()}, **shares}


def grid(contest: Contest, context: int, given: Any) -> Iterator[dict[str, Any]]:
    """All cells of a model at fixed length, measured or skipped, each printed when it is done."""
    vocab, runs, last = contest.theirs.config.vocab_size, len(SYSTEMS) * (given.rounds + 1), Probe(1, 0.0, 0.0)
    for batch in sorted(given.batches):
        ids = torch.randint(0, vocab, (batch, PROMPT_LEN), generator=torch.Generator().manual_seed(0)).to(given.device)
        last = last.at(batch)
        fitting = [n for n in given.gen_lens if why_skipped(n, context, last, runs, given.cell_limit) is None]
        if fitting:
            last = probe(contest, ids, given.device)
        for gen_len in sorted(given.gen_lens):
            if reason := why_skipped(gen_len, context, last, runs, given.cell_limit):
                yield {"batch": batch, "gen_len": gen_len, "skipped": reason}
                continue
            cell = measure(contest, ids, torch.ones_like(ids), gen_len, [], given)
            yield with_floor(cell, contest, given) if given.device.startswith("cuda") else cell


def grouped(contest: Contest, name: str, given: Any) -> list[dict[str, Any]]:
    """What training samples: prompts of the pocket task x 8, at full length, and by the bundled model with natural ends too."""
    prompts = PocketTask().draw(max(1, given.grouped_batch // 8), 0, 0).repeat(8).prompts
    ids, mask = (part.to(given.device) for part in encode_prompts(contest.ours.tokenizer, prompts))
    ends = (contest.ours.end_ids, []) if name in BUNDLED else ([],)
    return [{**measure(contest, ids, mask, GROUPED[name], e, given), "prompts": f"{len(ids) // 8} x 8"} for e in ends]


def table_of(cells: list[dict[str, Any]]) -> str:
    """Cells as a markdown table, the lowest ratio of either kind in bold, and the skipped ones listed below."""
    measured = [cell for cell in cells if "skipped" not in cell]
    lowest = {name: min((c[name] for c in measured), default=None) for name in ("ours_over_dynamic", "ours_over_static")}
    rows = []
    for cell in measured:
        shown = [f"**{cell[name]:.2f}**" if cell[name] == least else f"{cell[name]:.2f}" for name, least in lowest.items()]
        speeds = [f"{cell[f'{system}_tokens_per_s']:.0f}" for system in SYSTEMS]
        shares = [f"{cell['ours_share_of_floor']:.1%}"] if "floor_s" in cell else []
        prompts = cell.get("prompts", "distinct")
        rows.append((cell["model"], prompts, cell["batch"], cell["gen_len"], cell["ends"], *speeds, *shown, *shares))
    heads = ["model", "prompts", "batch", "gen_len", "ends", "ours", "dynamic", "static", "ours/dynamic", "ours/static"]
    heads += ["share of floor"] if any("floor_s" in cell for cell in measured) else []
    skipped = [f"- {c['model']}, batch {c['batch']}, gen_len {c['gen_len']}: {c['skipped']}" for c in cells if "skipped" in c]
    text = "Tokens a second; ratios above 1: this library is faster. In bold the lowest ratio.\n\n"
    text += tabulate(rows, heads, tablefmt="github", disable_numparse=True)
    return text + ("\n\nSkipped:\n\n" + "\n".join(skipped) if skipped else "") + "\n"


def parse(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(QUICK))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 128, 512])
    parser.add_argument("--gen-lens", nargs="+", type=int, default=[16, 48, 128, 512])
    parser.add_argument(
        "--grouped-batch", type=int, default=128, help="completions of the rows with groups of prompts; 0: none"
    )
    parser.add_argument("--rounds", type=int, default=3, help="least rounds of a cell; short ones have more")
    parser.add_argument("--cell-limit", type=float, default=60.0, help="seconds that a cell may take, all rounds together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--bandwidth", type=float, help="bytes a second that the GPU reads at best; known of an H200")
    parser.add_argument("--flops", type=float, help="operations a second at best, bfloat16 dense; known of an H200")
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it (default: in benchmarks/results)")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Measure, print the table, write table and JSON."""
    given = parse(words)
    torch.set_num_threads(given.threads)
    cells = []
    for name in given.models:
        with model_directory(name) as directory:
            contest = Contest.of(directory, given.device, given.dtype)
            found = list(grid(contest, contest.ours.cfg.n_ctx, given))
            found += grouped(contest, name, given) if name in GROUPED and given.grouped_batch else []
            cells += [{"model": name, **cell} for cell in found]
            del contest
    measured = [cell for cell in cells if "skipped" not in cell]
    kinds = ("ours_over_dynamic", "ours_over_static")
    result = {
        "benchmark": "rollout",
        **{f"lowest_{kind}": min((cell[kind] for cell in measured), default=None) for kind in kinds},
        "cells": cells,
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items() if k not in ("output", "threads")},
        "floor_device": asdict(device_of(given)) if given.device.startswith("cuda") else None,
        **made_with(given.threads, given.device),
    }
    output = given.output or RESULTS / f"rollout-{given.device.split(':')[0]}.json"
    write_result(result, output)  # makes the directory too
    output.with_suffix(".md").write_text(table_of(cells))
    print(table_of(cells))


if __name__ == "__main__":
    main()
