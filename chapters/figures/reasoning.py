"""Figures of chapter 6: fine-tuning on few problems for many epochs, ReFT on the same, and the comparison of all methods.

    python chapters/figures/reasoning.py

Fine-tunes the bundled model on the same 32 worked solutions at two learning rates, and trains it on these problems by ReFT
(about ten minutes on 2 CPU cores). Keeps the figures in reasoning-sft.json, prints them, and draws from that file when it is
there. The comparison's figure is that of `rlhf compare`, from benchmarks/results/comparison/.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from tabulate import tabulate

HERE = Path(__file__).parent
DATA = HERE / "reasoning-sft.json"
PROBLEMS, EPOCHS, EVERY = 32, 30, 5
COUNTS = (1, 4, 16)


def measure_policy(model: Any, step: int) -> dict[str, float]:
    """Greedy accuracy on the training problems and on 100 held-out ones, and pass@k there."""
    from rlhf_lib.evaluate import evaluate, evaluate_samples
    from rlhf_lib.tasks import PocketTask

    task = PocketTask()
    held_out = task.held_out(100)
    sampled = evaluate_samples(model, task, held_out, max(COUNTS), gen_len=48)
    greedy = {"gen_len": 48, "temperature": 0.0}
    return {
        "step": step,
        "train": evaluate(model, task, task.worked(PROBLEMS), **greedy).accuracy.value,
        "held_out": evaluate(model, task, held_out, **greedy).accuracy.value,
        **{f"pass@{k}": sampled.pass_at(k).value for k in COUNTS},
    }


def fine_tune(lr: float) -> list[dict[str, float]]:
    """SFT at a learning rate that stays the same, measured every few epochs."""
    from rlhf_lib.args import SftArgs
    from rlhf_lib.trainers import SftTrainer

    trainer = SftTrainer(SftArgs(problems=PROBLEMS, epochs=1000, lr=lr, warmup_share=0.0, gen_len=48, device="cpu"))
    found = [measure_policy(trainer.model, 0)]
    for trainer.phase in range(EPOCHS):
        trainer.learning_phase()
        trainer.metrics.take()
        if (trainer.phase + 1) % EVERY == 0:
            found.append(measure_policy(trainer.model, trainer.phase + 1))
    return found


def reinforce() -> list[dict[str, float]]:
    """ReFT whose prompts are the same few problems, four samples of each a phase."""
    from rlhf_lib.args import ReftArgs
    from rlhf_lib.recipes import recipe
    from rlhf_lib.tasks import PocketTask, Prompts, Task
    from rlhf_lib.trainers import ReftTrainer

    class FewProblems(PocketTask):
        """The word problems, but training draws from the first few alone."""

        def draw(self, count: int, seed: int, phase: int) -> Prompts:
            """Each problem equally often, in an order that the phase fixes."""
            prompts = self.worked(PROBLEMS).repeat(count // PROBLEMS)
            order = random.Random(f"{seed}-{phase}").sample(range(count), count)
            columns = {name: [values[i] for i in order] for name, values in prompts.columns.items()}
            return Prompts([prompts.prompts[i] for i in order], columns)

    class OnFewProblems(ReftTrainer):
        """ReFT on them."""

        def make_task(self) -> Task:
            """The few problems, rewarded as ReFT does."""
            task, usual = FewProblems(), super().make_task()
            task.reward_fns = usual.reward_fns
            return task

    with tempfile.TemporaryDirectory() as folder:
        changes = {"warmup_problems": PROBLEMS, "device": "cpu", "output_dir": f"{folder}/run", "total_phases": EPOCHS}
        trainer = OnFewProblems(ReftArgs(**{**vars(recipe(ReftArgs, "reft-pocket")), **changes}))
        found = [measure_policy(trainer.model, 0)]
        for trainer.phase in range(EPOCHS):
            trainer.learning_phase(trainer.rollout_phase())
            trainer.metrics.take()
            if (trainer.phase + 1) % EVERY == 0:
                found.append(measure_policy(trainer.model, trainer.phase + 1))
    return found


def draw(found: dict[str, list[dict[str, float]]]) -> None:
    """Left: training and held-out accuracy. Right: pass@k of the two fine-tuned models."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.7), layout="constrained")
    for color, (name, records) in zip(("tab:red", "tab:blue", "tab:green"), found.items(), strict=True):
        steps = [record["step"] for record in records]
        axes[0].plot(steps, [100 * r["train"] for r in records], color=color, linestyle=":", label=f"{name}, training")
        axes[0].plot(steps, [100 * r["held_out"] for r in records], color=color, marker=".", label=f"{name}, held out")
    for color, name in zip(("tab:red", "tab:blue"), list(found)[:2], strict=True):
        for style, k in zip((":", "--", "-"), COUNTS, strict=True):
            records = found[name]
            values = [100 * record[f"pass@{k}"] for record in records]
            axes[1].plot([r["step"] for r in records], values, color=color, linestyle=style, label=f"{name}, pass@{k}")
    axes[0].set(title="Greedy accuracy", xlabel="epochs (ReFT: phases of 128 samples)", ylabel="percent right")
    axes[1].set(title="Right among k samples, held out", xlabel="epochs", ylabel="percent")
    for axis in axes:
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7.5, frameon=False)
    figure.savefig(HERE / "reasoning-sft.png", dpi=130)


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """The numbers as a table."""
    rows = [(name, *(round(value, 3) for value in record.values())) for name, records in found.items() for record in records]
    print(tabulate(rows, ("method", "epoch", "training", "held out", *(f"pass@{k}" for k in COUNTS))))


if __name__ == "__main__":
    if not DATA.exists():
        curves = {"SFT, rate 1e-3": fine_tune(1e-3), "SFT, rate 1e-4": fine_tune(1e-4), "ReFT": reinforce()}
        DATA.write_text(json.dumps(curves, indent=1) + "\n")
    result = json.loads(DATA.read_text())
    show(result)
    draw(result)
