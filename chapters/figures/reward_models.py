"""Figure of chapter 5: best of n by reward models that have seen little and much, and how calibrated a verifier is.

    python chapters/figures/reward_models.py

Trains four reward models on the bundled model's answers and scores 256 samples for each of 40 test problems (about six
minutes on 2 CPU cores). Keeps the figures in reward_models-best-of-n.json, prints them, and draws from that file where it is.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from tabulate import tabulate

HERE = Path(__file__).parent
DATA = HERE / "reward_models-best-of-n.json"
PROBLEMS, SAMPLES = 40, 256
COUNTS = [2**i for i in range(9)]
MODELS = {"8 problems": ("bradley-terry", 8), "30 problems": ("bradley-terry", 30), "200 problems": ("bradley-terry", 200)}


def train(kind: str, problems: int, folder: str) -> tuple[Any, dict[str, Any]]:
    """A reward model by the recipe, trained on so many problems, and what its run's summary says of it."""
    from rlhf_lib.args import RewardModelArgs
    from rlhf_lib.recipes import recipe
    from rlhf_lib.trainers import RewardModelTrainer

    quiet = {"output_dir": f"{folder}/{kind}-{problems}", "device": "cpu", "log_samples_every": 0}
    trainer = RewardModelTrainer(replace(recipe(RewardModelArgs, "reward-model-pocket"), kind=kind, problems=problems, **quiet))
    summary = trainer.train()
    kept = ("judged_before", "judged_after", "calibration_error", "calibration", "positive_share", "rows", "held_out_rows")
    return trainer.model, {name: summary[name] for name in kept}


def measure() -> dict[str, Any]:
    """Everything that the figure and the chapter's text need."""
    import torch

    from rlhf_lib.models import BridgedTransformer
    from rlhf_lib.rollouts import rollout
    from rlhf_lib.selection import best_of_n_kl, best_of_n_value
    from rlhf_lib.tasks import PocketTask

    task, policy = PocketTask(), BridgedTransformer("pocket", device="cpu")
    prompts, generator, completions = task.held_out(PROBLEMS).repeat(SAMPLES), torch.Generator().manual_seed(0), []
    for start in range(0, len(prompts), 128):
        part = prompts.slice(start, start + 128)
        completions += rollout(policy, part.prompts, 48, generator=generator).completions
    right = torch.tensor(task.is_correct(prompts, completions)).double().reshape(PROBLEMS, SAMPLES)

    def best(proxy: Any, values: Any) -> list[float]:
        return [sum(float(best_of_n_value(p, v, n)) for p, v in zip(proxy, values, strict=True)) / PROBLEMS for n in COUNTS]

    found: dict[str, Any] = {"n": COUNTS, "kl": [best_of_n_kl(n) for n in COUNTS], "oracle": best(right, right), "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, problems) in MODELS.items():
            model, about = train(kind, problems, folder)
            proxy = model.score(prompts.columns["question"], completions).double().reshape(PROBLEMS, SAMPLES)
            found["models"][name] = {**about, "proxy": best(proxy, proxy), "right": best(proxy, right)}
        found["verifier"] = train("verifier", 200, folder)[1]
    return json.loads(json.dumps(found), parse_float=lambda number: round(float(number), 4))


def draw(found: dict[str, Any]) -> None:
    """Three panels: what is chosen, what the reward model thinks of it, and the verifier's calibration."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for style, (name, about) in zip((":", "--", "-"), found["models"].items(), strict=True):
        label = f"trained on {name}"
        axes[0].plot(found["n"], [100 * share for share in about["right"]], style, marker=".", label=label)
        axes[1].plot(found["kl"], about["proxy"], style, marker=".", label=label)
    axes[0].plot(
        found["n"], [100 * share for share in found["oracle"]], color="black", linewidth=1, label="some sample is right"
    )
    axes[0].set_xscale("log", base=2)
    axes[0].set(title="True reward of the best of n", xlabel="n", ylabel="percent right", ylim=(0, 103))
    axes[1].set(title="Proxy reward of the same", xlabel="KL from the policy, nats", ylabel="score")
    bins = found["verifier"]["calibration"]
    axes[2].plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes[2].scatter([p for p, _, _ in bins], [t for _, t, _ in bins], s=[10 + count for _, _, count in bins], alpha=0.7)
    axes[2].set(title="Verifier's calibration", xlabel="predicted chance of being right", ylabel="share that was right")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    for axis in axes[:2]:
        axis.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(HERE / "reward_models-best-of-n.png", dpi=130)


def show(found: dict[str, Any]) -> None:
    """The numbers as tables."""
    models = found["models"]
    heads = ("n", "KL", *(f"{what}, {name}" for name in models for what in ("score", "right")), "oracle")
    cells = [[about[what] for about in models.values() for what in ("proxy", "right")]]
    rows = [(n, found["kl"][i], *(values[i] for values in cells[0]), found["oracle"][i]) for i, n in enumerate(found["n"])]
    print(tabulate(rows, heads, floatfmt=".3f"))
    for name, about in {**models, "verifier": found["verifier"]}.items():
        judged, count = about["judged_after"], about["held_out_rows"]
        print(f"{name}: judged rightly {judged} of {count} rows, calibration error {about['calibration_error']}")


if __name__ == "__main__":
    if not DATA.exists():
        DATA.write_text(json.dumps(measure(), indent=1) + "\n")
    result = json.loads(DATA.read_text())
    show(result)
    draw(result)
