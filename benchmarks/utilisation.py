"""What share of the arithmetic that a device can do the learning phase uses (model-FLOP utilisation).

    python benchmarks/utilisation.py [--model gpt2-small] [--batch 32] [--gen-len 64] [--device cpu] [--dtype float32]
    python benchmarks/utilisation.py --model qwen2.5-0.5b --batch 128 --device cuda --dtype bfloat16          (not measured)

One GRPO learning phase on LoRA adapters (rank 16, all maps), random weights in the shape of a published model, completions that
never end. Counted is what the model's formulas need for the batch as a reader sees it, recomputing and padding left out: 2
operations a weight and token forward, 2 backward (frozen weights need no gradient of their own), every prompt token of every
completion included. Sharing prompts therefore counts as utilisation; `computed` counts each distinct prompt of a minibatch
once. The ceiling is measured in the same run: the best of several large matrix products. Prints one JSON object last.
"""

import argparse
import time
from pathlib import Path

import torch
from record import made_with, median, write_result
from rollout import MODELS, model_directory

from rlhf_lib.args import GrpoArgs
from rlhf_lib.engine.packing import pack
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.trainers import GrpoTrainer


def ceiling(device: str, dtype: torch.dtype, size: int = 4096, rounds: int = 5) -> float:
    """Operations a second of a large matrix product, the best of a few."""
    size = size if device.startswith("cuda") else size // 4
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    seconds = []
    for _ in range(rounds + 1):
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def wait(device: str) -> None:
    """Until a GPU has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def operations(trainer: GrpoTrainer, memory: ReplayMemory) -> tuple[float, float]:
    """Operations of a learning phase: for every token of every row, and with distinct prompts counted once a minibatch."""
    blocks = sum(m.module.original_component.weight.numel() for m in trainer.model.lora.maps)
    unembedding = trainer.model.base_model.unembed.original_component.weight.numel()
    passes, generated = trainer.args.batches_per_learning_phase, memory.mask.sum().item()
    every = 4 * blocks * memory.attention_mask.sum().item() + 4 * unembedding * generated
    once = 0.0
    minibatches = memory.get_minibatches()
    for minibatch in minibatches:
        packing = pack(minibatch.sample_ids, minibatch.attention_mask, trainer.args.gen_len)
        once += 4 * blocks * len(packing.index[packing.index >= 0].unique()) + 4 * unembedding * minibatch.mask.sum().item()
    return passes * every, once


def main(words: list[str] | None = None) -> None:
    """Measure a phase or more and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="gpt2-small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    for name, default in {"batch": 32, "gen-len": 64, "phases": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    shape = {"batch_size": given.batch, "group_size": 8, "gen_len": given.gen_len, "lora_rank": 16}
    with model_directory(given.model) as directory:
        place = {"base_model": str(directory), "device": given.device, "dtype": given.dtype}
        trainer = GrpoTrainer(GrpoArgs(task="pocket", **shape, **place))
    trainer.task.stop_at_eos = False
    memory, seconds = trainer.rollout_phase(), []
    for _ in range(given.phases + 1):
        wait(given.device)
        started = time.perf_counter()
        trainer.learning_phase(memory)
        wait(given.device)
        seconds.append(time.perf_counter() - started)
    every, once = operations(trainer, memory)
    best, learn = ceiling(given.device, getattr(torch, given.dtype)), median(seconds[1:])
    result = {
        "benchmark": "utilisation",
        "learn_s": learn,
        "utilisation": round(every / learn / best, 3),
        "utilisation_computed": round(once / learn / best, 3),
        "teraflops_needed": round(every / 1e12, 4),
        "teraflops_computed": round(once / 1e12, 4),
        "ceiling_teraflops_per_s": round(best / 1e12, 3),
        "model": given.model,
        "sizes": shape,
        "dtype": given.dtype,
    }
    write_result({**result, **made_with(given.threads, given.device)}, given.output)


if __name__ == "__main__":
    main()
