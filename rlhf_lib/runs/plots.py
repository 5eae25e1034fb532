"""A figure of a run's metrics that a person can read."""

from pathlib import Path
from typing import Any

PANELS: list[tuple[str, str, list[str]]] = [
    ("Loss", "nats per token, or of the reward model", ["loss"]),
    ("Reward", "reward per completion", ["reward"]),
    ("Held out", "share right", ["held_out_accuracy", "held_out_judged"]),
    ("How answers are given", "share of samples", ["share_reasoning", "share_bare", "share_sentence"]),
    ("Distance from the reference", "KL per token (nats)", ["kl"]),
    ("Entropy", "nats per token", ["entropy"]),
    ("Completion length", "tokens", ["length"]),
    ("Update size", "share of tokens clipped", ["clip_low", "clip_high"]),
    ("Correction of the sampler", "mean weight, share capped", ["sampler_weight", "sampler_capped"]),
    ("Gradient", "norm before clipping", ["grad_norm"]),
    ("Critic", "explained variance", ["explained_variance"]),
    ("Groups without spread", "share of groups", ["groups_all_right", "groups_all_wrong"]),
]


def plot_curves(history: list[dict[str, Any]], file: Path, title: str) -> None:
    """One panel for every metric that the run has, over phases; each axis says what it measures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [panel for panel in PANELS if any(name in record for record in history for name in panel[2])]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    for axis, (heading, unit, names) in zip(axes.flat, panels, strict=False):
        for name in names:
            points = [(record["phase"] + 1, record[name]) for record in history if record.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=label_of(name))
        axis.set(title=heading, xlabel="phase", ylabel=unit)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend(fontsize="small")
        if unit in ("share of samples", "share of groups"):
            axis.set_ylim(-0.03, 1.03)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_accuracies(figures: list[tuple[str, dict[str, float]]], file: Path) -> None:
    """A point for every run and measure; `figures` has (method, share by measure) of every run, a line a method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods, measures = list(dict.fromkeys(method for method, _ in figures)), list(figures[0][1])
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(methods) + 1.6), layout="constrained")
    for j, measure in enumerate(measures):
        offset = 0.13 * (j - (len(measures) - 1) / 2)
        points = [(100 * shares[measure], methods.index(method) + offset) for method, shares in figures]
        axis.plot(*zip(*points, strict=True), linestyle="", marker="os^Dv"[j % 5], markersize=5, alpha=0.8, label=measure)
    axis.set(yticks=range(len(methods)), yticklabels=methods, xlabel="percent of held-out problems", xlim=(-2, 102))
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(file, dpi=130)
    plt.close(figure)


def plot_learning(runs: list[tuple[str, list[dict[str, Any]]]], file: Path, target: float) -> None:
    """Validation accuracy over seconds of training, a line a run, a colour a method; a dashed line at the target."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
    methods = list(dict.fromkeys(method for method, _ in runs))
    for method, history in runs:
        points = [(r["seconds"], 100 * r["held_out_accuracy"]) for r in history if r.get("held_out_accuracy") is not None]
        labelled = method in [text.get_label() for text in axis.lines]
        if points:
            color = f"C{methods.index(method)}"
            axis.plot(*zip(*points, strict=True), color=color, alpha=0.75, label="_" if labelled else method)
    axis.axhline(100 * target, color="grey", linestyle="--", linewidth=1)
    axis.set(xlabel="seconds of training", ylabel="percent right, sampled", ylim=(-2, 102))
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize="small")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def label_of(name: str) -> str:
    """A metric's name in a legend."""
    return name.removeprefix("share_").removeprefix("groups_").removeprefix("clip_").replace("_", " ")
