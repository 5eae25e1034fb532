"""One GRPO phase of the same work in three systems: this library, TRL, and a plain loop on transformers and peft.

    python benchmarks/phase.py [--rounds 5] [--systems ours trl plain] [--output benchmarks/results/phase-cpu.json]
    python benchmarks/phase.py --profile

A phase: 16 prompts of the pocket task x 8 completions of at most 48 tokens from the bundled model, ended by its end-of-sequence
token; log-probabilities of policy and reference; two passes of four AdamW steps on LoRA adapters of rank 16. All train on from
the bundled weights, at a learning rate so small (1e-6) that completions stay alike; their mean length is reported.

Each system lives in a process of its own and the systems take turns, so that a noisy machine is noisy for all. The first round
does not count. Memory is the process's highest resident size up to its last phase, minus its resident size when all imports
were done and no model was loaded. Prints one JSON object last.
"""

import argparse
import dataclasses
import importlib
from pathlib import Path
from typing import Any

from record import Worker, made_with, median, missing_packages, ratio, write_result

from rlhf_lib.args import GrpoArgs
from rlhf_lib.recipes import recipe

MODULES = {"ours": "ours", "trl": "trl_side", "plain": "plain_loop"}
FIGURES = ("generate_s", "score_s", "learn_s", "length", "reward")


def work_of(system: str) -> Any:
    """A system's worker function; other systems' packages are not imported."""
    return importlib.import_module(MODULES[system]).work


def run_system(port: Any, system: str, args: GrpoArgs) -> None:
    """A worker of this script: imports only its own system."""
    work_of(system)(port, args)


def phase_args(given: argparse.Namespace) -> GrpoArgs:
    """The work of a phase, the same for all systems: the recipe with a KL penalty, no entropy bonus, a constant small rate."""
    return dataclasses.replace(
        recipe(GrpoArgs, "grpo-pocket"),
        device="cpu",
        batch_size=given.prompts * given.group,
        group_size=given.group,
        gen_len=given.gen_len,
        base_lr=1e-6,
        warmup_steps=0,
        final_scale=1.0,
        kl_coef=0.05,
        ent_coef=0.0,
        keep_prompts_together=given.keep_prompts_together,
        total_phases=given.rounds + 1,
    )


def take_turns(workers: dict[str, Worker], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every system's answers, one a round; the first round warms up and is left out."""
    answers: dict[str, list[dict[str, float]]] = {system: [] for system in workers}
    for i in range(rounds + 1):
        for system, worker in workers.items():
            answer = worker.ask()
            if i:
                answers[system].append(answer)
    return answers


def summarise(answers: list[dict[str, float]], batch: int) -> dict[str, float]:
    """A system's medians over rounds, its highest memory, and all its seconds."""
    seconds = median(answer["seconds"] for answer in answers)
    return {
        "seconds": seconds,
        **{name: median(answer[name] for answer in answers) for name in FIGURES},
        "samples_per_s": round(batch / seconds, 1),
        "peak_memory_mb": round(max(answer["peak_mb"] for answer in answers), 1),
        "import_baseline_mb": round(answers[-1]["baseline_mb"], 1),
        "all_seconds": [round(answer["seconds"], 4) for answer in answers],
    }


def compare(systems: dict[str, dict[str, float]]) -> dict[str, float | None]:
    """The headline: median seconds of a whole phase, and ours over TRL's in time and memory."""
    seconds = {system: systems[system]["seconds"] if system in systems else None for system in MODULES}
    memory = {system: systems[system]["peak_memory_mb"] if system in systems else None for system in MODULES}
    return {
        **{f"{system}_s": value for system, value in seconds.items()},
        "ratio_time": ratio(seconds["ours"], seconds["trl"]),
        "ratio_memory": ratio(memory["ours"], memory["trl"]),
        "ratio_time_plain": ratio(seconds["ours"], seconds["plain"]),
        "ratio_memory_plain": ratio(memory["ours"], memory["plain"]),
    }


def profile(args: GrpoArgs, threads: int, rows: int) -> None:
    """Run this library's phase twice, the second time under torch's profiler, and print the top of its table."""
    import torch
    from ours import run_phase

    from rlhf_lib.trainers import GrpoTrainer

    torch.set_num_threads(threads)
    trainer = GrpoTrainer(args)
    run_phase(trainer, 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        figures = run_phase(trainer, 1)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows, max_name_column_width=40))
    print({name: round(value, 4) for name, value in figures.items()}, "(seconds are longer under the profiler)")


def main(words: list[str] | None = None) -> None:
    """Run what is asked for and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--gen-len", type=int, default=48)
    parser.add_argument("--keep-prompts-together", action="store_true", help="with this library's option of that name")
    parser.add_argument("--profile", action="store_true", help="profile one of this library's phases instead")
    parser.add_argument("--profile-rows", type=int, default=25)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(words)
    args = phase_args(given)
    if given.profile:
        return profile(args, given.threads, given.profile_rows)
    if missing := missing_packages(given.systems):
        parser.error(missing)
    workers = {system: Worker(given.threads, run_system, system, args) for system in given.systems}
    try:
        answers = take_turns(workers, given.rounds)
    finally:
        for worker in workers.values():
            worker.close()
    systems = {system: summarise(found, args.batch_size) for system, found in answers.items()}
    result = {
        "benchmark": "phase",
        **compare(systems),
        "systems": systems,
        "rounds": given.rounds,
        "work": {
            name: getattr(args, name) for name in ("batch_size", "group_size", "gen_len", "lora_rank", "base_lr", "kl_coef")
        },
        "steps": args.num_minibatches * args.batches_per_learning_phase,
        **made_with(given.threads, "cpu", given.systems),
    }
    write_result(result, given.output)


if __name__ == "__main__":
    main()
