"""What --shard does to the memory of each process, and whether several processes reproduce one.

    python benchmarks/shard.py [--output FILE]

Memory: a Llama of random weights learns for two phases, all weights by PPO and adapters by GRPO: alone, in two processes that
each hold a copy (torchrun), and in two that share the weights (--shard). A peak is the highest resident size of a process, from
a trainer that is built to the end of its second phase, minus the resident size after all imports; the largest over processes
counts. glibc is told to give back large blocks that are freed (MALLOC_MMAP_THRESHOLD_).
Equality: the bundled model learns with GRPO in the same three ways; every phase's reward and KL, and held-out accuracy.
Prints one JSON object last.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ours import save_random_llama
from record import forget_peak, import_baseline_mb, made_with, memory_mb, ratio, write_result

WAYS = {"one process": (1, False), "two, copies": (2, False), "two, shares": (2, True)}
TRAINED = {"ppo, all weights": ("ppo", None), "grpo, adapters": ("grpo", 4)}


def started(processes: int, words: list[str]) -> subprocess.CompletedProcess:
    """A program run by so many processes, one thread each."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # or glibc keeps what was freed, and counts it
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    done = subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), *words], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return done


def one_of_several(algorithm: str, shard: str, rank: str, model: str, out: str) -> None:
    """Two phases of a trainer in this process; its peak and the second phase's seconds go to a file."""
    from rlhf_lib import parallel
    from rlhf_lib.args import GrpoArgs, RLHFArgs
    from rlhf_lib.trainers import TRAINERS

    torch.set_num_threads(1)
    baseline = import_baseline_mb()
    parallel.start("cpu")
    shared = {"task": "pocket", "base_model": model, "device": "cpu", "batch_size": 8, "num_minibatches": 2, "gen_len": 16}
    shared |= {"shard": shard == "1", "lora_rank": int(rank) or None, "batches_per_learning_phase": 1}
    args = RLHFArgs(**shared) if algorithm == "ppo" else GrpoArgs(group_size=4, **shared)
    trainer = TRAINERS[algorithm](args)
    built = memory_mb("VmHWM") - baseline
    forget_peak()
    for trainer.phase in range(2):
        begun = time.perf_counter()
        trainer.learning_phase(trainer.rollout_phase())
        seconds = time.perf_counter() - begun
    found = {"built_mb": built, "trained_mb": memory_mb("VmHWM") - baseline, "seconds": seconds}
    Path(out, f"{parallel.number()}.json").write_text(json.dumps(found))


def memory(given: argparse.Namespace) -> dict[str, Any]:
    """Peaks of each way of training, and their ratios."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as model:
        save_random_llama(model, given.vocab, given.width, given.layers)
        for trained, (algorithm, rank) in TRAINED.items():
            found[trained] = {}
            for way, (processes, shard) in WAYS.items():
                with tempfile.TemporaryDirectory() as out:
                    started(processes, [__file__, "--child", algorithm, str(int(shard)), str(rank or 0), model, out])
                    each = [json.loads(file.read_text()) for file in Path(out).glob("*.json")]
                found[trained][way] = {name: round(max(one[name] for one in each), 2) for name in each[0]}
                print(trained, way, found[trained][way], file=sys.stderr, flush=True)
            peaks = {way: one["trained_mb"] for way, one in found[trained].items()}
            found[trained]["ratio_shares_to_one"] = ratio(peaks["two, shares"], peaks["one process"])
    return found


def equality(given: argparse.Namespace) -> dict[str, Any]:
    """Rewards of every phase and held-out accuracy after a run, for each way."""
    found = {}
    words = ["-m", "rlhf_lib", "train", "grpo", "--task", "pocket", "--device", "cpu", "--log-samples-every", "0"]
    words += ["--total-phases", str(given.phases), "--warmup-steps", "1"]
    for way, (processes, shard) in WAYS.items():
        with tempfile.TemporaryDirectory() as out:
            run = Path(out) / "run"
            started(processes, [*words, "--output-dir", str(run), *(["--shard"] if shard else [])])
            records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            summary = json.loads((run / "summary.json").read_text())
        found[way] = {
            "rewards": [round(record["reward"], 4) for record in records],
            "kl": [round(record["kl"], 5) for record in records],
            "accuracy_greedy_after": summary["accuracy_greedy_after"]["value"],
        }
        print(way, found[way], file=sys.stderr, flush=True)
    return found


def main(words: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"vocab": 32_000, "width": 768, "layers": 12, "phases": 6}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.child:
        one_of_several(*given.child)
        return
    sizes = {name: getattr(given, name) for name in ("vocab", "width", "layers", "phases")}
    result = {"benchmark": "shard", "memory": memory(given), "equality": equality(given), "sizes": sizes}
    write_result({**result, **made_with(1)}, given.output)


if __name__ == "__main__":
    main()
