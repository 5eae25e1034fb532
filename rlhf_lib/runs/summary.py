"""What a person reads of a run: the table of samples, the headline at the end, and what the run was made with."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from rlhf_lib.evaluate import Accuracy

HEADLINES = {"accuracy": "Accuracy, sampled", "accuracy_greedy": "Accuracy, greedy", "judged": "Judged rightly"}


def first_and_last(history: list[dict[str, Any]]) -> dict[str, float]:
    """Reward and KL of the first and the last phase."""
    if not history:
        return {}
    ends = (("first", history[0]), ("last", history[-1]))
    return {f"{name}_{when}": round(r[name], 5) for when, r in ends for name in ("reward", "kl") if name in r}


def describe_device(device: torch.device) -> str:
    """The processor's or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """What the run was made with."""
    packages = ("torch", "transformers", "transformer_lens", "rlhf_lib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def sample_table(samples: list[dict[str, Any]], phase: int, count: int = 4) -> str:
    """The best, the worst and some other completions with their rewards."""
    ordered = sorted(samples, key=lambda sample: -sample["reward"])
    picked = [ordered[i * (len(ordered) - 1) // max(1, count - 1)] for i in range(min(count, len(ordered)))]
    rows = [
        (f"{sample['reward']:.2f}", one_line(sample["prompt"], 60, keep_end=True), one_line(sample["completion"], 70))
        for sample in picked
    ]
    return f"\nPhase {phase + 1}\n" + tabulate(rows, headers=("reward", "prompt", "completion"), disable_numparse=True) + "\n"


def one_line(text: str, width: int, keep_end: bool = False) -> str:
    """Text on one line, cut to a width."""
    text = text.replace("\n", "⏎")
    if len(text) <= width:
        return text
    return "…" + text[1 - width :] if keep_end else text[: width - 1] + "…"


def headline(summary: dict[str, Any], run: Path) -> str:
    """What a person wants to read at the end of a run."""
    lines = [""]
    for name, label in HEADLINES.items():
        before, after = summary.get(f"{name}_before"), summary.get(f"{name}_after")
        if before and after:
            count = summary.get("held_out_rows", summary["held_out_problems"])
            figures = f"before {Accuracy(**before)}   after {Accuracy(**after)}"
            lines.append(f"{label:18} {figures}   ({count} held out, 95% intervals)")
    if "reward_first" in summary:
        lines.append(f"Mean reward: first phase {summary['reward_first']:.3f}, last phase {summary['reward_last']:.3f}")
    lines.append(f"{summary['samples']} samples in {summary['seconds']:.0f} s of training on {summary['device']}")
    lines.append(f"Files: {run}/ (summary.json, curves.png, metrics.jsonl, samples.jsonl, model/)")
    if summary["interrupted"]:
        lines.append(f"Stopped early. Continue with: the same command plus --resume --output-dir {run}")
    elif summary.get("accuracy_after"):
        lines.append(f"Next, look at what it writes now:  rlhf sample --run {run}")
    return "\n".join(lines)
