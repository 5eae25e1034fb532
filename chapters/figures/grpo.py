"""Figure of chapter 4: one GRPO run on word problems, phase by phase.

    python chapters/figures/grpo.py

Trains with the recipe grpo-pocket and seed 0 (about two minutes on 2 CPU cores), keeps the phases' metrics beside the figure
in grpo-emergence.json, and draws from that file when it is already there.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

from rlhf_lib.recipes import RECIPES

HERE = Path(__file__).parent
DATA = HERE / "grpo-emergence.json"
KEPT = (
    "phase", "samples", "reward", "share_reasoning", "share_bare", "share_sentence", "groups_all_right", "groups_all_wrong",
    "groups_without_spread", "length", "entropy", "kl", "ratio", "clip_low", "clip_high", "grad_norm", "objective", "seconds",
)  # fmt: skip


def train() -> list[dict[str, float]]:
    """The run's metrics, one record a phase."""
    from rlhf_lib.args import GrpoArgs, from_json
    from rlhf_lib.trainers import GrpoTrainer

    values = json.loads((RECIPES / "grpo-pocket.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"eval_problems": 0, "log_samples_every": 0, "output_dir": f"{folder}/run", "device": "cpu"}
        trainer = GrpoTrainer(from_json(GrpoArgs, json.dumps({**values, **quiet})))
        trainer.train()
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
    return [{name: round(record[name], 5) for name in KEPT if name in record} for record in map(json.loads, lines)]


def draw(records: list[dict[str, float]]) -> None:
    """Three panels over phases: what is rewarded, who teaches, how far the policy has gone."""
    phases = [record["phase"] + 1 for record in records]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")

    def line(axis: plt.Axes, name: str, label: str, **style: str) -> None:
        axis.plot(phases, [record[name] for record in records], label=label, **style)

    line(axes[0], "reward", "mean reward (share right)", color="black")
    line(axes[0], "share_reasoning", "share that reasons", color="tab:green", linestyle="--")
    line(axes[0], "share_bare", "share of bare answers", color="tab:orange", linestyle=":")
    line(axes[0], "share_sentence", "share of sentences", color="tab:blue", linestyle="-.")
    axes[0].set_title("What pays")
    line(axes[1], "groups_all_wrong", "all 8 wrong", color="tab:red")
    line(axes[1], "groups_all_right", "all 8 right", color="tab:green", linestyle="--")
    mixed = [1 - record["groups_without_spread"] for record in records]
    axes[1].plot(phases, mixed, color="black", linestyle=":", label="mixed: these teach")
    axes[1].set_title("Groups")
    line(axes[2], "kl", "KL from the first model", color="tab:purple")
    line(axes[2], "entropy", "entropy", color="tab:brown", linestyle="--")
    axes[2].set_title("Policy, in nats a token")
    for axis in axes:
        axis.set_xlabel("phase (128 completions each)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "grpo-emergence.png", dpi=130)


if __name__ == "__main__":
    if not DATA.exists():
        DATA.write_text(json.dumps(train(), indent=1) + "\n")
    draw(json.loads(DATA.read_text()))
