"""Figures of chapter 1: one next-token distribution, what temperature does to accuracy, and what the key-value cache saves.

    python chapters/figures/rollouts.py

Samples the bundled model on held-out word problems (8 completions each of 100 problems at 8 temperatures, seed 0) and times
single decoding steps, in processor seconds on one thread; under three minutes. Keeps all numbers beside the figures in
rollouts.json, and draws from that file when it is already there.
"""

import json
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

HERE = Path(__file__).parent
DATA = HERE / "rollouts.json"
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
LENGTHS = (16, 32, 64, 128, 256, 448)
PROBLEMS, GROUP, GEN_LEN, SHOWN = 100, 8, 48, 14
CUTS = {
    "temperature 0.5": (0.5, {}),
    "temperature 1": (1.0, {}),
    "temperature 2": (2.0, {}),
    "top-k, k = 2": (1.0, {"top_k": 2}),
    "top-p, p = 0.7": (1.0, {"top_p": 0.7}),
}


@torch.no_grad()
def first_token(policy: Any, prompt: str) -> dict[str, Any]:
    """Probabilities of the likeliest first tokens of an answer, after each way of cutting; 0 where a token is removed."""
    from rlhf_lib.rollouts import truncate_logits

    logits = policy(policy.to_tokens(prompt))[:, -1]
    order = logits[0].argsort(descending=True)[:SHOWN]
    found = {}
    for name, (temperature, cut) in CUTS.items():
        probs = truncate_logits(logits / temperature, **cut).softmax(dim=-1)[0]
        found[name] = {"shown": [round(p, 4) for p in probs[order].tolist()], "rest": round(float(1 - probs[order].sum()), 4)}
    return {"prompt": prompt, "tokens": [policy.tokenizer.decode([i]) for i in order.tolist()], "probabilities": found}


@torch.no_grad()
def at_temperature(policy: Any, temperature: float) -> dict[str, float]:
    """Accuracy, best of a group, share of reasoning, length and entropy of samples at one temperature.

    The interval is that of a mean over problems, since completions of one problem are not independent.
    """
    from rlhf_lib.rollouts import rollout
    from rlhf_lib.tasks import PocketTask

    task, generator = PocketTask(), torch.Generator().manual_seed(0)
    problems = task.held_out(PROBLEMS).repeat(GROUP)
    sampled = rollout(policy, problems.prompts, GEN_LEN, temperature=temperature, generator=generator)
    right = torch.tensor(task.is_correct(problems, sampled.completions)).float().reshape(PROBLEMS, GROUP)
    reasons = [task.style_of(completion) == "reasoning" for completion in sampled.completions]
    logits, _ = policy.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=GEN_LEN + 1)
    logprobs = (logits[:, :-1] / (temperature or 1.0)).log_softmax(dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1) if temperature else torch.zeros_like(sampled.mask)
    half = 1.96 * right.mean(dim=1).std() / PROBLEMS**0.5
    found = {
        "right": right.mean(),
        "low": right.mean() - half,
        "high": right.mean() + half,
        "best_of_group": right.max(dim=1).values.mean(),
        "reasoning": sum(reasons) / len(reasons),
        "tokens": sampled.lengths.mean(),
        "entropy": (entropy * sampled.mask).sum() / sampled.mask.sum(),
    }
    return {"temperature": temperature, **{name: round(float(value), 4) for name, value in found.items()}}


@torch.no_grad()
def step_seconds(policy: Any, length: int, repeats: int = 5) -> dict[str, float]:
    """Least processor time of one decoding step for 8 sequences of some length, with and without the cache."""
    from rlhf_lib.rollouts import Decoder

    model = policy.base_model.original_model
    ids = torch.randint(3, 400, (8, length), generator=torch.Generator().manual_seed(0))

    def least(step: Any) -> float:
        found = []
        for _ in range(repeats):
            start = time.process_time()
            step()
            found.append(time.process_time() - start)
        return round(min(found), 5)

    decoder = Decoder(model, torch.ones_like(ids))
    decoder(ids)
    whole = least(lambda: Decoder(model, torch.ones_like(ids))(ids))
    return {"length": length, "cached": least(lambda: decoder(ids[:, -1:])), "whole": whole}


def measure() -> dict[str, Any]:
    """All that the figures show."""
    from rlhf_lib.models import BridgedTransformer
    from rlhf_lib.tasks import PocketTask

    torch.set_num_threads(1)
    policy = BridgedTransformer("pocket", device="cpu")
    return {
        "first_token": first_token(policy, PocketTask().held_out(1).prompts[0]),
        "temperatures": [at_temperature(policy, temperature) for temperature in TEMPERATURES],
        "steps": [step_seconds(policy, length) for length in LENGTHS],
    }


def draw_first_token(found: dict[str, Any]) -> None:
    """One panel for each way of cutting; a removed token has no bar."""
    figure, axes = plt.subplots(1, len(CUTS), figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, (name, probs) in zip(axes, found["probabilities"].items(), strict=True):
        colours = ["tab:orange", "tab:green", *["tab:blue"] * (SHOWN - 2)]
        axis.bar(range(SHOWN), probs["shown"], color=colours)
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(SHOWN), found["tokens"], rotation=90, fontsize=8)
        for spine in ("top", "right"):
            axis.spines[spine].set_visible(False)
        for place, probability in enumerate(probs["shown"][:2]):
            axis.text(place - 0.4, probability + 0.012, f"{probability:.2f}", ha="left", fontsize=8)
    axes[0].set_ylabel("probability of the first token")
    figure.savefig(HERE / "rollouts-next-token.png", dpi=140)


def draw_temperatures(records: list[dict[str, float]]) -> None:
    """What is right, and how spread out the samples are, over temperature."""
    x = [record["temperature"] for record in records]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")

    def line(axis: plt.Axes, name: str, label: str, **style: str) -> None:
        axis.plot(x, [record[name] for record in records], label=label, marker="o", markersize=3, **style)

    line(axes[0], "right", "one sample right (95% interval)", color="black")
    axes[0].fill_between(x, [r["low"] for r in records], [r["high"] for r in records], color="black", alpha=0.15, linewidth=0)
    line(axes[0], "best_of_group", f"any of {GROUP} samples right", color="tab:purple", linestyle="--")
    line(axes[0], "reasoning", "share that reasons", color="tab:green", linestyle=":")
    axes[0].set_ylabel("share")
    axes[0].set_ylim(0, 1)
    axes[0].legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    line(axes[1], "entropy", "entropy", color="tab:brown")
    axes[1].set_ylabel("entropy, nats a token")
    axes[1].set_ylim(0)
    for axis in axes:
        axis.set_xlabel("temperature")
    figure.savefig(HERE / "rollouts-temperature.png", dpi=140)


def draw_steps(records: list[dict[str, float]]) -> None:
    """Seconds of one decoding step over the tokens so far."""
    x = [record["length"] for record in records]
    figure, axis = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    axis.plot(x, [1000 * r["whole"] for r in records], marker="o", color="tab:red", label="whole sequence again")
    axis.plot(x, [1000 * r["cached"] for r in records], marker="o", color="tab:blue", label="newest token, with the cache")
    axis.set_xlabel("tokens so far, in each of 8 sequences")
    axis.set_ylabel("milliseconds for one step")
    axis.set_ylim(0)
    axis.legend(fontsize=8)
    figure.savefig(HERE / "rollouts-cache.png", dpi=140)


if __name__ == "__main__":
    if not DATA.exists():
        DATA.write_text(json.dumps(measure(), indent=1) + "\n")
    data = json.loads(DATA.read_text())
    draw_first_token(data["first_token"])
    draw_temperatures(data["temperatures"])
    draw_steps(data["steps"])
