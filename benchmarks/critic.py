"""Does it pay to train the critic first? PPO on the bundled word problems with and without critic pretraining.

    python benchmarks/critic.py --seeds 0 1 2

Every run is a plain `rlhf train` command, printed before it starts. Prints the explained variance of the critic and validation
accuracy by phase, means over seeds with their range, and writes them to benchmarks/results/critic.json and critic.md.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from learning import RESULTS, train
from tabulate import tabulate

PHASES = 12
SHOWN = (1, 2, 4, 6, 8, 12)
METRICS = {"explained_variance": "explained variance", "held_out_accuracy": "validation accuracy"}


def cell(values: list[float]) -> str:
    """Mean over seeds and range."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Run what is missing, print the table, write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--critic-phases", nargs="+", type=int, default=[0, 4])
    parser.add_argument("--runs", type=Path, default=Path("runs/critic"))
    given = parser.parse_args()
    common = {"task": "pocket", "total-phases": PHASES, "eval-every": 1, "eval-problems": 0}
    results: list[dict[str, Any]] = []
    for count in given.critic_phases:
        for seed in given.seeds:
            summary = train("ppo", {**common, "critic-phases": count, "seed": seed}, given.runs / f"{count}-seed{seed}")
            curves = [{name: record.get(name) for name in ("phase", "seconds", *METRICS)} for record in summary["curves"]]
            results.append({"critic_phases": count, "seed": seed, "device": summary["device"], "curves": curves})
    rows = []
    for name, label in METRICS.items():
        for count in given.critic_phases:
            runs = [result["curves"] for result in results if result["critic_phases"] == count]
            rows.append((label, count, *(cell([run[phase - 1][name] for run in runs]) for phase in SHOWN)))
    table = tabulate(rows, ("metric", "critic phases", *(f"phase {phase}" for phase in SHOWN)), tablefmt="github")
    (RESULTS / "critic.json").write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "runs": results}, indent=1) + "\n")
    (RESULTS / "critic.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
