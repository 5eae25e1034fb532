"""Figures of chapter 2: the clipped surrogate, and PPO on full stops without and with a KL penalty.

    python chapters/figures/ppo.py

Trains the bundled model to write full stops for 30 phases with kl_coef 0 and 2.5 (all else at its default, seed 0; two to
three minutes on one CPU core). The phases' metrics and a few samples are kept beside the figure in ppo-full-stops.json, and
the figure is drawn from that file when it is already there.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

from rlhf_lib.objectives import calc_clipped_surrogate_objective

HERE = Path(__file__).parent
DATA = HERE / "ppo-full-stops.json"
COEFFICIENTS = (0.0, 2.5)
KEPT = ("phase", "reward", "kl", "entropy", "explained_variance", "ratio", "clip_low", "clip_high", "grad_norm", "objective")


def train(kl_coef: float) -> dict[str, Any]:
    """One run: its phases' metrics, and two samples of the first and the last phase."""
    from rlhf_lib.args import RLHFArgs
    from rlhf_lib.trainers import RLHFTrainer

    with tempfile.TemporaryDirectory() as folder:
        args = RLHFArgs(kl_coef=kl_coef, log_samples_every=0, device="cpu", output_dir=f"{folder}/run")
        RLHFTrainer(args).train()
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in Path(folder, "run", "samples.jsonl").read_text().splitlines()]
    records = [{name: round(record[name], 5) for name in KEPT if name in record} for record in map(json.loads, lines)]
    last = args.total_phases - 1
    shown = {
        when: [s["completion"] for s in samples if s["phase"] == phase][:2] for when, phase in (("first", 0), ("last", last))
    }
    return {"kl_coef": kl_coef, "records": records, "samples": shown}


def draw_runs(runs: list[dict[str, Any]]) -> None:
    """Reward, KL and entropy over phases, a line a coefficient."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    panels = (
        ("reward", "Full stops a sample"),
        ("kl", "KL from the first model, nats a token"),
        ("entropy", "Entropy, nats a token"),
    )
    for axis, (name, title) in zip(axes, panels, strict=True):
        for run, style in zip(runs, ("-", "--"), strict=True):
            phases = [record["phase"] + 1 for record in run["records"]]
            axis.plot(phases, [record[name] for record in run["records"]], style, label=f"kl_coef {run['kl_coef']:g}")
        axis.set(title=title, xlabel="phase", ylim=(-0.03 * max(r[name] for run in runs for r in run["records"]), None))
        axis.grid(alpha=0.3)
    axes[0].legend(loc="upper left")
    figure.savefig(HERE / "ppo-full-stops.png", dpi=130)


def draw_surrogate() -> None:
    """What one token adds to the objective, over its ratio, for a good and a bad token; computed by the library."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    ratios = torch.linspace(0.4, 1.6, 241)
    for axis, advantage in zip(axes, (1.0, -1.0), strict=True):
        one = torch.full((1, 1), advantage)
        clipped = [calc_clipped_surrogate_objective(r.log().reshape(1, 1), torch.zeros(1, 1), one, 0.2, 1) for r in ratios]
        axis.plot(ratios, ratios * advantage, color="gray", linestyle=":", label="ratio times advantage")
        axis.plot(ratios, clipped, color="tab:blue", linewidth=2, label="clipped surrogate")
        for edge in (0.8, 1.2):
            axis.axvline(edge, color="black", linewidth=0.6, alpha=0.5)
        axis.set(title=f"Advantage {advantage:+g}", xlabel="ratio", xticks=(0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6))
        axis.grid(alpha=0.3)
        axis.legend(loc="upper left" if advantage > 0 else "upper right")
    figure.savefig(HERE / "ppo-surrogate.png", dpi=130)


def main() -> None:
    """Draw both figures; train first if there are no kept metrics."""
    draw_surrogate()
    if not DATA.exists():
        DATA.write_text(json.dumps([train(kl_coef) for kl_coef in COEFFICIENTS], indent=1) + "\n")
    draw_runs(json.loads(DATA.read_text()))


if __name__ == "__main__":
    main()
