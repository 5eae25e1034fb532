"""Where a GRPO phase's time goes: generate, score, train, with peak memory; and what adapters cost in sampling.

    python benchmarks/parts.py [--device auto] [--phases 5] [--output benchmarks/results/parts-cpu.json]

Prints one JSON object last. Sampling with and without adapters alternates within the run, so their ratio is sound on a noisy
machine even where the seconds are not.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch

from rlhf_lib.args import GrpoArgs
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.rollouts import rollout
from rlhf_lib.runs.metrics import peak_memory_mb
from rlhf_lib.runs.run import describe_device
from rlhf_lib.trainers import GrpoTrainer

PARTS = ("generate", "reward", "score", "train")


def time_parts(trainer: GrpoTrainer, phases: int) -> dict[str, float]:
    """Median seconds of each part over some phases, after one that is not counted."""
    records = []
    for trainer.phase in range(phases + 1):
        trainer.learning_phase(trainer.rollout_phase())
        records.append(trainer.metrics.take())
    return {part: round(statistics.median(r[f"seconds_{part}"] for r in records[1:]), 4) for part in PARTS}


def time_sampling(trainer: GrpoTrainer, rounds: int = 5) -> dict[str, float]:
    """Median seconds to sample one batch from the adapted and from the bare model, alternating, at full length."""
    bare = BridgedTransformer(trainer.args.base_model, device=trainer.args.device)
    prompts = trainer.task.draw(trainer.args.batch_size, 0, 0).prompts
    seconds: dict[str, list[float]] = {"adapted": [], "bare": []}
    for _ in range(rounds + 1):
        for name, model in (("adapted", trainer.model), ("bare", bare)):
            started = time.perf_counter()
            rollout(model, prompts, trainer.args.gen_len, stop_at_eos=False)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: round(statistics.median(values[1:]), 4) for name, values in seconds.items()}
    return {**medians, "ratio": round(medians["adapted"] / medians["bare"], 3)}


def main() -> None:
    """Run both measurements and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--phases", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    args = GrpoArgs(task="pocket", gen_len=48, group_size=8, lora_rank=16, base_lr=5e-4, device=given.device)
    trainer = GrpoTrainer(args)
    result = {
        "benchmark": "parts",
        "seconds": time_parts(trainer, given.phases),
        "peak_memory_mb": round(peak_memory_mb()),
        "sampling": time_sampling(trainer),
        "completions_per_phase": args.batch_size,
        "gen_len": args.gen_len,
        "device": describe_device(trainer.model.device),
        "cpu_count": os.cpu_count(),
        "torch": version("torch"),
        "transformer_lens": version("transformer_lens"),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=2)
    if given.output:
        given.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
