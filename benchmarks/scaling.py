"""How the seconds and the memory of a phase's stages grow with batch, group, gen_len, vocabulary, width and layers.

    python benchmarks/scaling.py [--variables batch group gen_len vocab width layers]

Each point is a GrpoTrainer on a tiny random Llama, in a process of its own: one phase uncounted, then the median of --phases.
A phase generates gen_len tokens for every prompt (nothing ends early), scores them, and learns in one pass of four updates.
Memory is each stage's highest resident size above that after imports. Exponents are least squares in logarithms over the upper
half of a range: 1 is proportional growth. Figure, table and JSON go to benchmarks/results/.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

from ours import save_random_llama, work
from record import RESULTS, Worker, made_with, median, write_result
from tabulate import tabulate

from rlhf_lib.args import GrpoArgs

STAGES = ("generate", "score", "learn")
BASE = {"batch": 64, "group": 8, "gen_len": 32, "vocab": 512, "width": 64, "layers": 2}
RANGES: dict[str, tuple[list[int], dict[str, int]]] = {  # values, and where the rest of the base point differs
    "batch": ([8, 16, 32, 64, 128, 256], {}),
    "group": ([2, 4, 8, 16, 32, 64], {}),
    "gen_len": ([16, 32, 64, 128, 256], {"batch": 16}),
    "vocab": ([512, 2048, 8192, 32768, 151_936], {"batch": 8, "gen_len": 16}),
    "width": ([32, 64, 128, 256, 512], {"batch": 16}),
    "layers": ([1, 2, 4, 8, 16], {"batch": 16}),
}


def fit_exponent(xs: list[float], ys: list[float]) -> float | None:
    """The slope of log y over log x by least squares, over the upper half of the range; None where some y is not above 0."""
    pairs = sorted(zip(xs, ys, strict=True))
    upper = pairs[len(pairs) // 2 :] if len(pairs) > 2 else pairs
    if len(upper) < 2 or any(y <= 0 for _, y in upper):
        return None
    logs = [(math.log(x), math.log(y)) for x, y in upper]
    return round(statistics.linear_regression(*zip(*logs, strict=True)).slope, 3)


def measure(point: dict[str, int], phases: int, threads: int) -> dict[str, float]:
    """One point in a process of its own: median seconds and highest memory of each stage."""
    with tempfile.TemporaryDirectory() as directory:
        save_random_llama(directory, point["vocab"], point["width"], point["layers"])
        args = GrpoArgs(
            task="pocket",
            base_model=directory,
            device="cpu",
            batch_size=point["batch"],
            group_size=point["group"],
            gen_len=point["gen_len"],
            batches_per_learning_phase=1,
        )
        with Worker(threads, work, args, True, False) as worker:
            answers = [worker.ask() for _ in range(phases + 1)][1:]
    seconds = {f"{stage}_s": median(answer[f"{stage}_s"] for answer in answers) for stage in STAGES}
    memory = {f"{stage}_mb": round(answers[-1][f"{stage}_mb"], 1) for stage in STAGES}
    return {**seconds, **memory}


def measure_variable(name: str, given: argparse.Namespace, deadline: float) -> list[dict[str, float]]:
    """The points of a variable's range that begin before the deadline."""
    values, differs = RANGES[name]
    found = []
    for value in values[: given.points]:
        if time.perf_counter() > deadline:
            print(f"skipped: {name} {value}, over --time-limit", flush=True)
            continue
        point = {**BASE, **differs, name: value}
        found.append({name: value, **measure(point, given.phases, given.threads)})
        print(found[-1], flush=True)
    return found


def exponents_of(name: str, points: list[dict[str, float]]) -> dict[str, float | None]:
    """Fitted exponents of a variable, for every stage's seconds and memory."""
    keys = [f"{stage}_{unit}" for unit in ("s", "mb") for stage in STAGES]
    return {key: fit_exponent([p[name] for p in points], [p[key] for p in points]) for key in keys}


def plot(found: dict[str, list[dict[str, float]]], file: Path) -> None:
    """A column a variable: seconds above, memory below, a line a stage, logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure, axes = plt.subplots(
        2, len(found), figsize=(2.6 * len(found) + 1, 5.2), layout="constrained", squeeze=False, sharey="row"
    )
    for column, (name, points) in enumerate(found.items()):
        for row, (unit, title) in enumerate((("s", "seconds"), ("mb", "MB above imports"))):
            axis = axes[row][column]
            for stage, color in zip(STAGES, ("tab:blue", "tab:orange", "tab:green"), strict=True):
                values = [p[f"{stage}_{unit}"] for p in points]
                axis.plot([p[name] for p in points], values, marker="o", markersize=3, color=color, label=stage)
            axis.set(xscale="log", yscale="log", xlabel=name if row else "", ylabel=title if column == 0 else "")
            axis.set_xticks([p[name] for p in points], [f"{p[name]:,}" for p in points], rotation=45, fontsize=7)
            axis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.align_xlabels()
    figure.savefig(file, dpi=130)
    plt.close(figure)


def table_of(exponents: dict[str, dict[str, float | None]], found: dict[str, list[dict[str, float]]]) -> str:
    """Exponents by variable, as a markdown table."""
    keys = [f"{stage}_{unit}" for unit in ("s", "mb") for stage in STAGES]
    heads = ["variable", "range", *[f"{stage}, {unit}" for unit in ("seconds", "memory") for stage in STAGES]]
    rows = []
    for name, fitted in exponents.items():
        values = [point[name] for point in found[name]]
        shown = ["" if fitted[key] is None else f"{fitted[key]:.2f}" for key in keys]
        rows.append((name, f"{min(values):,} to {max(values):,}", *shown))
    return "Exponents over the upper half of each range.\n\n" + tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def main(words: list[str] | None = None) -> None:
    """Measure all points; write figure, table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variables", nargs="+", choices=RANGES, default=list(RANGES))
    parser.add_argument("--points", type=int, default=None, help="only the first so many points of every range")
    parser.add_argument("--phases", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=540, help="seconds after which no more points begin")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json", help="table and figure go beside it")
    given = parser.parse_args(words)
    deadline = time.perf_counter() + given.time_limit
    measured = {name: measure_variable(name, given, deadline) for name in given.variables}
    found = {name: points for name, points in measured.items() if points}
    skipped = [f"{n} {v}" for n, points in measured.items() for v in RANGES[n][0][len(points) : given.points]]
    exponents = {name: exponents_of(name, points) for name, points in found.items()}
    result = {
        "benchmark": "scaling",
        "exponents": exponents,
        "points": found,
        "base": BASE,
        "phases": given.phases,
        "skipped": skipped,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    if found:
        plot(found, given.output.with_suffix(".png"))
    given.output.with_suffix(".md").write_text(table_of(exponents, found) + "\n")
    print(table_of(exponents, found))
    write_result({**result, **made_with(given.threads)}, given.output)


if __name__ == "__main__":
    main()
