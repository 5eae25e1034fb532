"""A figure of a run's metrics that a person can read."""

from pathlib import Path
from typing import Any

PANELS: list[tuple[str, str, list[str]]] = [
    ("Reward", "reward per completion", ["reward"]),
    ("How answers are given", "share of samples", ["share_reasoning", "share_bare", "share_sentence"]),
    ("Distance from the reference", "KL per token (nats)", ["kl"]),
    ("Entropy", "nats per token", ["entropy"]),
    ("Completion length", "tokens", ["length"]),
    ("Update size", "share of tokens clipped", ["clip_low", "clip_high"]),
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


def label_of(name: str) -> str:
    """A metric's name in a legend."""
    return name.removeprefix("share_").removeprefix("groups_").removeprefix("clip_").replace("_", " ")
