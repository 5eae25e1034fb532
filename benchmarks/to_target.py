"""Seconds of training, and samples, until held-out accuracy on the pocket task reaches a target: this library and TRL.

    python benchmarks/to_target.py [--seeds 0 1 2] [--target 0.8]

Both start from the recipe grpo-pocket and see the same prompts in the same order; TRL gets the same optimiser, schedule,
clipping, advantages and loss as far as it has them, and what differs is printed. Every 2 phases accuracy is measured, by the
same code: one completion of each of 200 held-out problems, sampled at temperature 1 with a fixed seed. Neither measuring nor
loading is training time. Every run has a process of its own, and which system goes first alternates by seed. Table and JSON go
to benchmarks/results/.
"""

import argparse
import dataclasses
import importlib
from pathlib import Path
from typing import Any

from record import RESULTS, Worker, made_with, median, missing_packages, ratio, write_result
from tabulate import tabulate

from rlhf_lib.args import GrpoArgs
from rlhf_lib.recipes import recipe

MODULES = {"ours": "ours", "trl": "trl_side"}


def run_system(port: Any, system: str, args: GrpoArgs, problems: int) -> None:
    """A worker of this script: imports only its own system."""
    importlib.import_module(MODULES[system]).work_and_measure(port, args, problems)


def run(worker: Worker, args: GrpoArgs, target: float, every: int) -> dict[str, Any]:
    """Phases until a measurement reaches the target, or there are no more; the curve holds every measurement."""
    seconds, curve = 0.0, []
    for phase in range(args.total_phases):
        seconds += worker.ask("phase")["seconds"]
        if (phase + 1) % every and phase + 1 < args.total_phases:
            continue
        accuracy = worker.ask("measure")["accuracy"]
        samples = (phase + 1) * args.batch_size
        curve.append({"phases": phase + 1, "seconds": round(seconds, 2), "samples": samples, "accuracy": round(accuracy, 4)})
        if accuracy >= target:
            break
    return {"reached": curve[-1]["accuracy"] >= target, **curve[-1], "curve": curve}


def order_of(seed_index: int, systems: list[str]) -> list[str]:
    """Which system goes first: the first named at the first seed, then in turn."""
    turn = seed_index % len(systems)
    return [*systems[turn:], *systems[:turn]]


def run_all(given: argparse.Namespace, start: GrpoArgs) -> list[dict[str, Any]]:
    """Every seed in every system."""
    rows = []
    for i, seed in enumerate(given.seeds):
        args = dataclasses.replace(start, seed=seed)
        for system in order_of(i, given.systems):
            with Worker(given.threads, run_system, system, args, given.problems) as worker:
                rows.append({"system": system, "seed": seed, **run(worker, args, given.target, given.measure_every)})
            print({name: value for name, value in rows[-1].items() if name != "curve"}, flush=True)
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds of seconds and samples to the target; None for a system where a seed did not reach it."""
    found: dict[str, Any] = {}
    for system in MODULES:
        runs = [row for row in rows if row["system"] == system]
        reached = bool(runs) and all(row["reached"] for row in runs)
        found[f"{system}_s"] = median((row["seconds"] for row in runs), 2) if reached else None
        found[f"{system}_samples"] = median((row["samples"] for row in runs), 0) if reached else None
    return {
        **found,
        "ratio_time": ratio(found["ours_s"], found["trl_s"]),
        "ratio_samples": ratio(found["ours_samples"], found["trl_samples"]),
    }


def table_of(rows: list[dict[str, Any]], target: float) -> str:
    """One row a run, as a markdown table."""
    heads = ("seed", "system", f"reached {target:.0%}", "accuracy", "phases", "samples", "seconds")
    ordered = sorted(rows, key=lambda row: (row["seed"], row["system"]))
    names = ("seed", "system", "reached", "accuracy", "phases", "samples", "seconds")
    shown = [[{True: "yes", False: "no"}[row[n]] if n == "reached" else row[n] for n in names] for row in ordered]
    return tabulate(shown, heads, tablefmt="github")


def main(words: list[str] | None = None) -> None:
    """Run all seeds, print what differs between the systems and the table, write table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--systems", nargs="+", choices=MODULES, default=list(MODULES))
    parser.add_argument("--phases", type=int, help="phases at most, over which the learning rate falls (default: the recipe's)")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--measure-every", type=int, default=2)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "to-target.json", help="the table goes beside it")
    given = parser.parse_args(words)
    if missing := missing_packages(given.systems):
        parser.error(missing)
    start = recipe(GrpoArgs, "grpo-pocket")
    changed = {"total_phases": given.phases or start.total_phases, "batch_size": given.prompts * start.group_size}
    start = dataclasses.replace(start, device="cpu", **changed)
    differences = list(importlib.import_module("trl_side").DIFFERENCES) if "trl" in given.systems else []
    rows = run_all(given, start)
    result = {"benchmark": "to_target", **summarise(rows), "target": given.target, "problems": given.problems, "runs": rows}
    print(*[f"Differs: {sentence}." for sentence in differences], sep="\n")
    table = table_of(rows, given.target)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.with_suffix(".md").write_text(table + "\n")
    print(table)
    write_result({**result, "differs": differences, **made_with(given.threads, "cpu", given.systems)}, given.output)


if __name__ == "__main__":
    main()
