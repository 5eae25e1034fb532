"""Where a GRPO phase's time goes: generate, score, train, with peak memory; and what adapters cost in sampling.

    python benchmarks/parts.py [--device auto] [--phases 5] [--output benchmarks/results/parts-cpu.json]

Prints one JSON object last. Sampling with and without adapters alternates within the run, so their ratio is sound on a noisy
machine even where the seconds are not.
"""

import argparse
import time
from pathlib import Path

import torch
from record import made_with, median, write_result

from rlhf_lib.args import GrpoArgs
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.rollouts import rollout
from rlhf_lib.runs.metrics import peak_memory_mb
from rlhf_lib.trainers import GrpoTrainer

PARTS = ("generate", "reward", "score", "train")


def time_parts(trainer: GrpoTrainer, phases: int) -> dict[str, float]:
    """Median seconds of each part over some phases, after one that is not counted."""
    records = []
    for trainer.phase in range(phases + 1):
        trainer.learning_phase(trainer.rollout_phase())
        records.append(trainer.metrics.take())
    return {part: median(r[f"seconds_{part}"] for r in records[1:]) for part in PARTS}


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
    medians = {name: median(values[1:]) for name, values in seconds.items()}
    return {**medians, "ratio": round(medians["adapted"] / medians["bare"], 3)}


def main() -> None:
    """Run both measurements and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--phases", type=int, default=5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    args = GrpoArgs(task="pocket", gen_len=48, group_size=8, lora_rank=16, base_lr=5e-4, device=given.device)
    trainer = GrpoTrainer(args)
    result = {
        "benchmark": "parts",
        "seconds": time_parts(trainer, given.phases),
        "peak_memory_mb": round(peak_memory_mb()),
        "sampling": time_sampling(trainer),
        "completions_per_phase": args.batch_size,
        "gen_len": args.gen_len,
        **made_with(given.threads, str(trainer.model.device)),
    }
    write_result(result, given.output)


if __name__ == "__main__":
    main()
