"""Does it learn: the runs behind the README's figures, several seeds each, as one table and one JSON file.

    python benchmarks/learning.py pocket --seeds 0 1 2
    python benchmarks/learning.py family --seeds 0 1 2
    python benchmarks/learning.py prompts-together --seeds 0 1 2
    python benchmarks/learning.py full-stops --base-model ../shared/models/stories260K --prefix "Once upon a time"

Every run is a plain `rlhf train` command, printed before it starts; its directory stays under --runs. Results go to
benchmarks/results/.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from tabulate import tabulate

from rlhf_lib.args.algorithms import ALGORITHMS

RESULTS = Path(__file__).parent / "results"


def train(algorithm: str, options: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Run one `rlhf train` (unless its directory holds a finished run) and return its summary with its curves."""
    if not (directory / "summary.json").exists():
        words = ["train", algorithm, "--output-dir", str(directory), "--log-samples-every", "0"]
        words += [word for name, value in options.items() for word in (f"--{name}", *([] if value is True else [str(value)]))]
        print("rlhf", *words, flush=True)
        subprocess.run(
            [sys.executable, "-m", "rlhf_lib", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    summary = json.loads((directory / "summary.json").read_text())
    summary["curves"] = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return summary


def percent(figure: dict[str, float]) -> str:
    """An accuracy with its interval."""
    return f"{100 * figure['value']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def pocket(given: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Word problems: accuracy before and after, for each algorithm and seed."""
    rows, table = [], []
    for algorithm in given.algorithms:
        for seed in given.seeds:
            summary = train(algorithm, {"task": "pocket", "seed": seed}, given.runs / f"{algorithm}-pocket-seed{seed}")
            share = [record["share_reasoning"] for record in summary["curves"]]
            kept = [name for name in summary if name.startswith("accuracy")] + ["seed", "samples", "seconds", "device"]
            row = {name: summary[name] for name in kept}
            rows.append({"algorithm": algorithm, **row, "reasoning_share_first": share[0], "reasoning_share_last": share[-1]})
            shown = [percent(row[f"{kind}_{when}"]) for kind in ("accuracy", "accuracy_greedy") for when in ("before", "after")]
            reasoning = f"{share[0]:.0%} to {share[-1]:.0%}"
            table.append((algorithm, seed, *shown, reasoning, row["samples"], round(row["seconds"])))
    plot_emergence(given)
    headers = (
        "algorithm",
        "seed",
        "sampled before",
        "sampled after",
        "greedy before",
        "greedy after",
        "reasoning",
        "samples",
        "seconds",
    )
    return rows, tabulate(table, headers, tablefmt="github")


def plot_emergence(given: argparse.Namespace) -> None:
    """Reward and share of reasoning over completions, a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharex=True)
    panels = (("reward", "share of right answers"), ("share_reasoning", "share of answers that reason"))
    for color, algorithm in zip(("tab:blue", "tab:orange", "tab:green"), given.algorithms, strict=False):
        for i, seed in enumerate(given.seeds):
            lines = (given.runs / f"{algorithm}-pocket-seed{seed}" / "metrics.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            for axis, (name, _) in zip(axes, panels, strict=True):
                label = algorithm if i == 0 else None
                axis.plot([r["samples"] for r in records], [r[name] for r in records], color=color, alpha=0.75, label=label)
    for axis, (_, title) in zip(axes, panels, strict=True):
        axis.set(title=title, xlabel="completions sampled", ylim=(-0.03, 1.03))
        axis.grid(alpha=0.3)
    axes[1].legend(title=f"seeds {', '.join(map(str, given.seeds))}")
    figure.savefig(RESULTS / "emergence.png", dpi=130)


def family(given: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """Every algorithm on the word problems: greedy accuracy after the same number of completions, a column a seed."""
    rows, table = [], []
    for algorithm in given.algorithms:
        found = []
        for seed in given.seeds:
            options = {"task": "pocket", "seed": seed}
            summary = train(algorithm, options, given.runs / f"{algorithm}-pocket-seed{seed}")
            kept = ("seed", "samples", "seconds", "accuracy_after", "accuracy_greedy_before", "accuracy_greedy_after", "device")
            rows.append({"algorithm": algorithm, **{name: summary[name] for name in kept}})
            found.append(rows[-1])
        greedy = [percent(row["accuracy_greedy_after"]) for row in found]
        table.append((f"`{algorithm}`", *greedy, found[0]["samples"], round(median(row["seconds"] for row in found))))
        print(*table[-1], sep=" | ", flush=True)
    plot_family(given)
    headers = ("algorithm", *(f"greedy after, seed {seed}" for seed in given.seeds), "completions", "seconds")
    return rows, tabulate(table, headers, tablefmt="github")


def plot_family(given: argparse.Namespace) -> None:
    """The share of right answers over completions, a panel an algorithm and a line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 6
    count = -(-len(given.algorithms) // columns)
    size = {"figsize": (11, 1.75 * count + 0.3), "layout": "constrained"}
    figure, axes = plt.subplots(count, columns, sharex=True, sharey=True, squeeze=False, **size)
    for axis in axes.flat[len(given.algorithms) :]:
        axis.axis("off")
    for axis, algorithm in zip(axes.flat, given.algorithms, strict=False):
        for seed in given.seeds:
            lines = (given.runs / f"{algorithm}-pocket-seed{seed}" / "metrics.jsonl").read_text().splitlines()
            records = [json.loads(line) for line in lines]
            axis.plot([r["samples"] for r in records], [r["correct"] for r in records], color="tab:blue", alpha=0.7)
        axis.set_title(algorithm, fontsize=9)
        axis.set(ylim=(-0.03, 1.03), xticks=(0, 1000, 2000))
        axis.grid(alpha=0.3)
    figure.supxlabel("completions sampled", fontsize=9)
    figure.supylabel("share of right answers, sampled", fontsize=9)
    figure.savefig(RESULTS / "family.png", dpi=130)


def prompts_together(given: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """GRPO with minibatches drawn at random, and with those that keep a prompt's completions together."""
    rows, table = [], []
    for together in (False, True):
        for seed in given.seeds:
            name = f"grpo-pocket-seed{seed}{'-together' if together else ''}"
            options = {"task": "pocket", "seed": seed, **({"keep-prompts-together": True} if together else {})}
            summary = train("grpo", options, given.runs / name)
            records = [json.loads(line) for line in (given.runs / name / "metrics.jsonl").read_text().splitlines()]
            learning = sum(record["seconds_train"] for record in records)
            correct = [record["correct"] for record in records]
            reached = next((record["samples"] for record in records if record["correct"] >= 0.8), None)
            kept = {name: summary[name] for name in ("accuracy_greedy_after", "seconds")}
            rows.append({"together": together, "seed": seed, "learning": learning, "correct": correct, **kept})
            accuracy = percent(summary["accuracy_greedy_after"])
            table.append(
                ("yes" if together else "no", seed, accuracy, reached, round(learning, 1), round(summary["seconds"], 1))
            )
    headers = ("together", "seed", "greedy after", "completions to 80% sampled", "seconds of learning", "seconds in all")
    return rows, tabulate(table, headers, tablefmt="github")


def full_stops(given: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    """The classic first exercise: reward for full stops after a fixed prefix, without and with a KL penalty."""
    rows, table = [], []
    name = Path(given.base_model).name
    for algorithm in given.algorithms:
        for seed in given.seeds:
            kl = {}
            for kl_coef in (0.0, 2.5):
                options = {"base-model": given.base_model, "prefix": given.prefix, "kl-coef": kl_coef, "seed": seed}
                summary = train(algorithm, options, given.runs / f"{algorithm}-{name}-kl{kl_coef}-seed{seed}")
                kl[kl_coef] = summary["kl_last"]
                kept = ("seed", "phases", "reward_first", "reward_last", "kl_last", "seconds")
                row = {"algorithm": algorithm, "base_model": name, "kl_coef": kl_coef, **{k: summary[k] for k in kept}}
                rows.append(row)
                table.append((*list(row.values())[:5], *(round(v, 3) for v in list(row.values())[5:])))
            rows[-1]["kl_share"] = kl[2.5] / kl[0.0]
    headers = ("algorithm", "model", "kl_coef", "seed", "phases", "first reward", "last reward", "last KL", "seconds")
    return rows, tabulate(table, headers, tablefmt="github")


WHAT = {"pocket": pocket, "family": family, "prompts-together": prompts_together, "full-stops": full_stops}


def main() -> None:
    """Run what is asked for, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=tuple(WHAT))
    parser.add_argument("--algorithms", nargs="+", help="grpo and ppo-lora where left out; of family, all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--base-model", default="pocket")
    parser.add_argument("--prefix", default="Question: Anna has")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    given = parser.parse_args()
    everything = [*ALGORITHMS, "ppo", "ppo-lora", "reft"]
    given.algorithms = given.algorithms or (everything if given.what == "family" else ["grpo", "ppo-lora"])
    rows, table = WHAT[given.what](given)
    name = f"learning-{given.what}" + (f"-{Path(given.base_model).name}" if given.what == "full-stops" else "")
    (RESULTS / f"{name}.json").write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "runs": rows}, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
