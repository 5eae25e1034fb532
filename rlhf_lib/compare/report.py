"""The report of a comparison: tables over seeds, two figures, and one row a run as CSV and JSON."""

import csv
import json
import shlex
import statistics
import time
from collections.abc import Callable
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path

from tabulate import tabulate

from rlhf_lib.args import CompareArgs, read_object, require, to_json
from rlhf_lib.compare.runs import MEASURES, READINGS, STABILITY, TRAINED, Outcome, require_parts, run_all
from rlhf_lib.files import write_atomically, writing, writing_in
from rlhf_lib.models.loading import resolve_device
from rlhf_lib.runs.directory import new_run_path
from rlhf_lib.runs.plots import plot_accuracies, plot_learning
from rlhf_lib.runs.run import WATCHED_PROBLEMS
from rlhf_lib.runs.summary import describe_device


def mean_and_range(values: list[float | int], form: str = "{:.1f}") -> str:
    """The mean over seeds, with the smallest and the largest where they differ."""
    mean, low, high = (form.format(value) for value in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def over_seeds(outcomes: list[Outcome], value: Callable[[Outcome], float | int | None], form: str = "{:.1f}") -> str:
    """A figure of each seed as one cell; how many seeds have it where not all do, a dash where none does."""
    found = [value(outcome) for outcome in outcomes]
    present = [figure for figure in found if figure is not None]
    if len(present) < len(found):
        return f"{mean_and_range(present, form)}, {len(present)} of {len(found)} seeds" if present else "–"
    return mean_and_range(present, form)


def measure_names(args: CompareArgs) -> list[str]:
    """The measures with their number of samples: pass@8 for pass@k."""
    return [name.replace("@k", f"@{args.samples}") for name in MEASURES]


def tables(outcomes: list[Outcome], args: CompareArgs) -> dict[str, str]:
    """The report's tables, each over seeds: accuracy, efficiency and memory, stability."""
    methods = {method: [o for o in outcomes if o.method == method] for method in args.methods}
    accuracy = [
        (method, *(over_seeds(group, lambda o, name=name: 100 * o.accuracies[name].value) for name in MEASURES))
        for method, group in methods.items()
    ]
    trained = {method: group for method, group in methods.items() if method in TRAINED}
    efficiency = [
        (
            method,
            *(over_seeds(group, lambda o, name=name: o.at_target(name), "{:.0f}") for name in ("step", "samples", "seconds")),
            over_seeds(group, lambda o: o.seconds, "{:.0f}"),
            over_seeds(group, lambda o: o.peak_memory_mb, "{:.0f}"),
        )
        for method, group in trained.items()
    ]
    stability = [
        (
            method,
            f"{100 * statistics.pstdev([o.accuracies['pass@1'].value for o in group]):.2f}",
            *(stability_cell(group, name) for name in STABILITY),
        )
        for method, group in trained.items()
    ]
    target = f"{args.target:.0%}"
    heads = {
        "accuracy": ("method", *(f"{name}, %" for name in measure_names(args))),
        "efficiency": ("method", f"steps to {target}", f"samples to {target}", f"seconds to {target}", "seconds", "peak MB"),
        "stability": ("method", "deviation of pass@1 over seeds, points", *STABILITY.values()),
    }
    rows = {"accuracy": accuracy, "efficiency": efficiency, "stability": stability}
    return {name: tabulate(rows[name], heads[name], tablefmt="github", disable_numparse=True) for name in rows}


def stability_cell(outcomes: list[Outcome], name: str) -> str:
    """Mean of a metric over phases and seeds, and its deviation over phases."""
    found = [spread for spread in (outcome.spread(name) for outcome in outcomes) if spread is not None]
    if not found:
        return "–"
    mean, deviation = (statistics.mean(values) for values in zip(*found, strict=True))
    return f"{mean:.3g} ± {deviation:.2g}"


REPORT = """# Comparison on {task}

{methods} methods, {seeds} seeds each, at most {budget:.0f} seconds of training, then {problems} held-out problems: one greedy
answer and {samples} samples at temperature 1 for each. Base model `{base_model}`. Cells are means over seeds, with the range;
{device}; {minutes:.0f} minutes in all. Made by

    {command}

## Accuracy

{accuracy}

strict counts greedy answers that are right where the format wants them, lenient also those whose last number is right. pass@1
is the accuracy of a sample. One seed's figure near 50% has a 95% interval of about ± {half:.0f} points (`results.csv`
has all intervals). few-shot has {few_shot} worked examples in the prompt. rerank chooses by {verifier}.

![Accuracy by method](accuracy.png)

## Efficiency and memory

Accuracy on {watched} validation problems, sampled, is measured after every phase, which does not count as training. It reached
the target at:

{efficiency}

![Validation accuracy over seconds of training](learning.png)

## Stability

{stability}

KL per update is that between the policy that sampled and the one being trained, in nats a token, over a phase's minibatches;
ratio spread is the deviation of their probability ratio over tokens. Both and the gradient norm are means over phases ±
deviations over phases. Supervised methods have neither.
"""


def command_of(args: CompareArgs) -> str:
    """The command line that repeats the comparison."""
    words = ["rlhf", "compare"]
    for field in fields(args):
        value = getattr(args, field.name)
        if field.name != "output_dir" and value != field.default:
            words += [
                f"--{field.name.replace('_', '-')}",
                *([str(v) for v in value] if isinstance(value, tuple) else [str(value)]),
            ]
    return shlex.join(words)


def keep_arguments(root: Path, args: CompareArgs) -> None:
    """Write the comparison's arguments, or refuse a directory that holds another comparison."""
    file, ours = root / "args.json", json.loads(to_json(replace(args, output_dir=None)))
    if file.exists():
        found = read_object(file)
        algorithm = found.get("algorithm")
        require(
            algorithm == args.algorithm,
            f"output_dir={str(root)!r} holds a run of {algorithm} and no comparison; choose another, or leave it out for a new "
            "one",
        )
        theirs = {**json.loads(to_json(CompareArgs())), **found}
        changed = ", ".join(f"{name}={ours[name]!r} (was {theirs[name]!r})" for name in ours if ours[name] != theirs[name])
        require(not changed, f"output_dir={str(root)!r} holds a comparison with other arguments: {changed}; choose another")
    write_atomically(file, json.dumps(ours, indent=2) + "\n")


def compare(args: CompareArgs) -> str:
    """Run the comparison and write report.md, results.csv, results.json, accuracy.png and learning.png; returns the report.

    Raises:
        InputError: the directory cannot be written, is written by another process, or holds another comparison; a run failed.
        CannotWrite: the disk is full; the runs so far stay, and are not repeated when the comparison is started again.
    """
    require_parts(args)
    with writing_in(args.output_dir or new_run_path(f"compare-{str(args.task).rpartition(':')[2]}")) as root:
        keep_arguments(root, args)
        return write_comparison(args, root)


def write_comparison(args: CompareArgs, root: Path) -> str:
    """Run every method with every seed and write what came of it."""
    started = time.perf_counter()
    outcomes = run_all(args, root)
    rows = [outcome.as_row() for outcome in outcomes]
    text = StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(root / "results.csv", text.getvalue())
    names = measure_names(args)
    named = [(o.method, dict(zip(names, o.accuracies.values(), strict=True))) for o in outcomes]
    shares = [(method, {name: a.value for name, a in figures.items() if name not in READINGS}) for method, figures in named]
    with writing(root / "accuracy.png"):
        plot_accuracies(shares, root / "accuracy.png")
    with writing(root / "learning.png"):
        plot_learning([(o.method, o.history) for o in outcomes if o.history], root / "learning.png", args.target)
    report = REPORT.format(
        task=args.task,
        methods=len(args.methods),
        seeds=args.seeds,
        budget=args.budget,
        problems=args.problems,
        samples=args.samples,
        few_shot=args.few_shot,
        base_model=args.base_model,
        device=describe_device(resolve_device(args.device)),
        watched=WATCHED_PROBLEMS,
        minutes=(time.perf_counter() - started) / 60,
        command=command_of(args),
        verifier="a verifier that was trained on the base model's own samples"
        if args.verifier is None
        else f"`{args.verifier}`",
        half=98 / args.problems**0.5,
        **tables(outcomes, args),
    )
    write_atomically(root / "report.md", report)
    write_atomically(root / "results.json", json.dumps({"arguments": vars(args), "rows": rows}, indent=2) + "\n")
    return f"{report}\nFiles: {root}/ (report.md, results.csv, results.json, accuracy.png, learning.png)"
