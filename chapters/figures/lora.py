"""Figures of chapter 3: what the rank does to a GRPO run, and what it costs.

    python chapters/figures/lora.py

Trains the bundled model on word problems for 8 phases with adapters of rank 1, 4 and 16 (recipe grpo-pocket otherwise, seed 0;
two to three minutes on one CPU core). Rewards, and the singular values of what rank 16 learned, are kept beside the figures in
lora-ranks.json; the figures are drawn from that file when it is already there.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from rlhf_lib.args import LORA_MAPS
from rlhf_lib.lora import lora_parameter_count, training_bytes
from rlhf_lib.recipes import RECIPES

HERE = Path(__file__).parent
DATA = HERE / "lora-ranks.json"
RANKS = (1, 4, 16)
LLAMA_7B = (4096, 11008, 32, 6_738_415_616)  # width, MLP width, blocks, parameters of Llama 2 7B


def train(rank: int) -> tuple[Any, list[dict[str, float]]]:
    """The trained model, and reward, share of reasoning and KL of every phase."""
    from rlhf_lib.args import GrpoArgs, from_json
    from rlhf_lib.trainers import GrpoTrainer

    values = json.loads((RECIPES / "grpo-pocket.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"eval_problems": 0, "log_samples_every": 0, "output_dir": f"{folder}/run", "device": "cpu"}
        trainer = GrpoTrainer(from_json(GrpoArgs, json.dumps({**values, **quiet, "lora_rank": rank, "total_phases": 8})))
        trainer.train()
        records = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    kept = ("phase", "reward", "share_reasoning", "kl")
    return trainer.model, [{name: round(record[name], 5) for name in kept} for record in records]


def spectrum(model: Any) -> list[float]:
    """Share of the squared size of what was learned that the first k directions hold, averaged over all maps."""
    shares = []
    for adapter in model.lora.adapters.values():
        squares = adapter.delta().detach().svd().S[: adapter.rank].square()
        shares.append((squares.cumsum(0) / squares.sum()).tolist())
    return [round(sum(column) / len(column), 4) for column in zip(*shares, strict=True)]


def measure() -> dict[str, Any]:
    """All that the figures show."""
    runs, found = {}, {}
    for rank in RANKS:
        model, runs[str(rank)] = train(rank)
        found.setdefault("parameters", sum(p.numel() for p in model.base_model_params()))
        found.setdefault("shapes", [list(m.shape) for m in model.lora.maps])
    return {**found, "maps": LORA_MAPS, "runs": runs, "spectrum_rank_16": spectrum(model)}


def draw_runs(data: dict[str, Any]) -> None:
    """Reward and share of reasoning over phases, one line a rank; and how concentrated the learned change is."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
    styles = dict(zip(map(str, RANKS), ((":", "tab:orange"), ("--", "tab:blue"), ("-", "black")), strict=True))
    for rank, records in data["runs"].items():
        line, colour = styles[rank]
        count = lora_parameter_count(map(tuple, data["shapes"]), int(rank))
        for axis, name in ((axes[0], "reward"), (axes[1], "share_reasoning")):
            phases = [record["phase"] + 1 for record in records]
            axis.plot(phases, [r[name] for r in records], line, color=colour, label=f"rank {rank}: {count:,} numbers")
    axes[0].set_title("Mean reward (share right)")
    axes[1].set_title("Share that reasons")
    for axis in axes[:2]:
        axis.set(xlabel="phase (128 completions each)", ylim=(0, 1.02))
    axes[0].legend(fontsize=8, frameon=False)
    shares = data["spectrum_rank_16"]
    axes[2].bar(range(1, len(shares) + 1), shares, color="0.6")
    axes[2].set_title("Rank 16: share in first k directions")
    axes[2].set(xlabel="k", ylim=(0, 1.02), xticks=(1, 4, 8, 12, 16))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "lora-ranks.png", dpi=130)


def draw_memory(data: dict[str, Any]) -> None:
    """Bytes held from step to step, full fine-tuning beside LoRA by rank, for the bundled model and for 7 billion."""
    width, mlp, blocks, parameters = LLAMA_7B
    large = blocks * [*[(width, width)] * 4, *[(width, mlp)] * 2, (mlp, width)]
    small = list(map(tuple, data["shapes"]))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    panels = (
        (axes[0], "pocket, float32", data["parameters"], small, 4, 1e6, "MB", (1, 4, 16, 64)),
        (axes[1], "Llama 2 7B, bfloat16", parameters, large, 2, 1e9, "GB", (1, 4, 16, 64)),
    )
    for axis, title, count, shapes, size, unit, name, ranks in panels:
        held = [training_bytes(count, bytes_per_number=size) / unit]
        held += [training_bytes(count, lora_parameter_count(shapes, rank), bytes_per_number=size) / unit for rank in ranks]
        labels = ["everything\ntrained", *(f"rank {rank}" for rank in ranks)]
        axis.bar(labels, held, color=["0.35", *["tab:blue"] * len(ranks)])
        axis.axhline(count * size / unit, color="black", linewidth=0.8, linestyle=":")
        for place, value in enumerate(held):
            axis.annotate(f"{value:.1f}", (place, value), ha="center", va="bottom", fontsize=8)
        axis.set(title=title, ylabel=f"{name} held from step to step")
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "lora-memory.png", dpi=130)


if __name__ == "__main__":
    if not DATA.exists():
        DATA.write_text(json.dumps(measure(), indent=1) + "\n")
    measured = json.loads(DATA.read_text())
    draw_runs(measured)
    draw_memory(measured)
