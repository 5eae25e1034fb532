"""A real instruct model end to end: SmolLM2-135M-Instruct learns the XML format and SVAMP's problems by GRPO, on CPU cores.

    python benchmarks/smollm2.py --base-model HuggingFaceTB/SmolLM2-135M-Instruct --threads 2

Three plain `rlhf` commands, printed before they start: `rlhf eval` of the model as it is, `rlhf train grpo` with the five XML
rewards on adapters, `rlhf eval` of what came out. Then peft puts the adapter on plain Hugging Face, whose greedy completions
are compared with ours. What is there already is not run again, and a run that was killed goes on from its last checkpoint.
Writes benchmarks/results/smollm2.json, .md and .png.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from learning import percent
from record import RESULTS, made_with
from tabulate import tabulate

TASK = {"task": "svamp", "prompt-style": "xml", "few-shot": 2}
TRAINING = {
    "dtype": "bfloat16",
    "gen-len": 64,
    "temperature": 0.8,
    "batch-size": 32,
    "group-size": 8,
    "num-minibatches": 2,
    "batches-per-learning-phase": 1,
    "lora-rank": 16,
    "lora-alpha": 32,
    "base-lr": 4e-4,
    "adam-beta2": 0.99,
    "warmup-steps": 3,
    "kl-coef": 0.02,
    "eval-problems": 0,
    "save-every": 5,
}
JUDGING = {"gen-len": 128, "dtype": "bfloat16", "batch-size": 100}
REWARDS = {
    "reward_xml_correctness_reward": "right answer in its tags (2)",
    "reward_integer_reward": "whole number in its tags (0.5)",
    "reward_strict_format_reward": "strict format (0.5)",
    "reward_soft_format_reward": "soft format (0.5)",
    "reward_xml_count_reward": "tags that stand once (0.5)",
}
MEASURES = {
    "greedy, strict": "right, strict: well-formed, and right in its tags",
    "greedy, lenient": "right, lenient: or its last number is right",
    "greedy, well-formed": "well-formed",
}
ALLOCATION = {  # of glibc: keep freed memory, since logits over 49,152 tokens make pages that cost as much as the arithmetic
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}
LOCAL = ("base_model", "data", "output_dir")  # arguments that may be paths of one machine
COMPARED = 10  # prompts whose greedy completions are compared with peft's


def rlhf(command: str, options: dict[str, Any], flags: tuple[str, ...] = (), *, threads: int) -> None:
    """Run one `rlhf` command; what it prints goes to standard error."""
    words = [*command.split(), *(word for name, value in options.items() for word in (f"--{name}", str(value))), *flags]
    print("rlhf", *words, flush=True)
    environment = {**os.environ, **ALLOCATION, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "rlhf_lib", *words], check=True, stdout=sys.stderr, env=environment)


def lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def begun_with(given: argparse.Namespace) -> dict[str, Any]:
    """What the runs were begun with: kept beside them, so that a later call writes the same."""
    file = given.runs / "about.json"
    if not file.exists():
        given.runs.mkdir(parents=True, exist_ok=True)
        about = {"note": given.note, "started": time.strftime("%H:%M"), **made_with(given.threads)}
        file.write_text(json.dumps(about, indent=1) + "\n")
    return json.loads(file.read_text())


def judge(which: dict[str, Any], directory: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Accuracy, strict and lenient, and the share of well-formed answers, by `rlhf eval` of greedy completions."""
    if not (directory / "results.json").exists():
        options = {**which, **TASK, **given.source, **JUDGING, "problems": given.problems, "output-dir": directory}
        rlhf("eval", options, threads=given.threads)
    return json.loads((directory / "results.json").read_text())["results"]


def train(directory: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The training run, begun or continued; its summary with its curves."""
    if not (directory / "summary.json").exists():
        begun = (directory / "checkpoint.pt").exists()
        options = {"base-model": given.base_model, **TASK, **given.source, **TRAINING, "seed": given.seed}
        options |= {"total-phases": given.phases, "output-dir": directory}
        rlhf("train grpo", options, ("--resume",) if begun else (), threads=given.threads)
    return {**json.loads((directory / "summary.json").read_text()), "curves": lines(directory / "metrics.jsonl")}


def compare_with_peft(adapter: Path, base_model: str, prompts: list[str], gen_len: int) -> dict[str, Any]:
    """Greedy completions of the adapter under peft, on Hugging Face's own model, and under this library; both in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_lib.models import TransformerWithLora
    from rlhf_lib.rollouts import rollout

    ours = rollout(TransformerWithLora.from_adapter(adapter, base_model, device="cpu"), prompts, gen_len, temperature=0.0)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32), adapter).eval()
    completions = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        found = theirs.generate(**inputs, max_new_tokens=gen_len, do_sample=False)
        completions.append(tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    pairs = [{"ours": a, "peft": b} for a, b in zip(ours.completions, completions, strict=True)]
    return {"prompts": len(prompts), "equal": sum(pair["ours"] == pair["peft"] for pair in pairs), "completions": pairs}


def plot(curves: list[dict[str, Any]], before: dict[str, Any], after: dict[str, Any], title: str) -> None:
    """Reward of each kind by phase; accuracy and share of well-formed answers before and after, with 95% intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), layout="constrained", width_ratios=(3, 2))
    for name, label in REWARDS.items():
        left.plot([record["phase"] + 1 for record in curves], [record[name] for record in curves], label=label)
    left.set(title="reward of each kind", xlabel="phase", ylabel="mean over the phase's completions")
    left.legend(fontsize="small")
    left.grid(alpha=0.3)
    for offset, when, figures, color in ((-0.2, "before", before, "tab:gray"), (0.2, "after", after, "tab:blue")):
        shares = [figures[name] for name in MEASURES]
        heights = [100 * share["value"] for share in shares]
        reach = [[100 * abs(share["value"] - share[end]) for share in shares] for end in ("low", "high")]
        bars = right.bar(
            [i + offset for i in range(len(shares))], heights, 0.38, yerr=reach, capsize=4, color=color, label=when
        )
        right.bar_label(bars, fmt="%.1f", padding=2, fontsize="small")
    right.set_xticks(range(len(MEASURES)), [name.removeprefix("greedy, ") for name in MEASURES])
    right.set(title="greedy answers to held-out problems", ylabel="percent, 95% intervals", ylim=(0, 112))
    right.legend()
    figure.suptitle(title)
    figure.savefig(RESULTS / "smollm2.png", dpi=130)


def table_of(before: dict[str, Any], after: dict[str, Any], curves: list[dict[str, Any]]) -> str:
    """Both tables, as markdown: held-out figures, and the reward of each kind in the first and the last five phases."""
    rows = [(label, percent(before[name]), percent(after[name])) for name, label in MEASURES.items()]
    held_out = tabulate(rows, ("greedy answers, percent [95% interval]", "before", "after"), tablefmt="github")

    def mean(records: list[dict[str, Any]], name: str) -> str:
        return f"{sum(record[name] for record in records) / len(records):.3f}"

    kinds = {**REWARDS, "reward": "all together (4)", "kl": "KL from the model as it was, nats per token", "length": "tokens"}
    rows = [(label, mean(curves[:5], name), mean(curves[-5:], name)) for name, label in kinds.items()]
    heads = ("mean over completions (most possible)", "first five phases", "last five phases")
    return f"{held_out}\n\n{tabulate(rows, heads, tablefmt='github', disable_numparse=True)}"


def main(words: list[str] | None = None) -> None:
    """Run what is missing, compare with peft, write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--data", help="local SVAMP in place of the hub's")
    parser.add_argument("--runs", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--phases", type=int, default=50)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="", help="what else is to be known of model and machine, for the record")
    given = parser.parse_args(words)
    given.source = {"data": given.data} if given.data else {}
    about = begun_with(given)
    before = judge({"base-model": given.base_model}, given.runs / "before", given)
    summary = train(given.runs / "grpo", given)
    after = judge({"run": given.runs / "grpo"}, given.runs / "after", given)
    prompts = [row["prompt"] for row in lines(given.runs / "after" / "problems.jsonl")[:COMPARED]]
    peft = compare_with_peft(given.runs / "grpo" / "model", given.base_model, prompts, TRAINING["gen-len"])
    kept = ("phase", "samples", "seconds", "reward", *REWARDS, "correct", "kl", "entropy", "length", "sampler_gap")
    result = {
        "benchmark": "smollm2",
        "held_out_problems": given.problems,
        "before": before,
        "after": after,
        "peft": peft,
        **{name: summary[name] for name in ("phases", "samples", "seconds", "interrupted")},
        "arguments": {name: value for name, value in summary["arguments"].items() if name not in LOCAL},
        "curves": [{name: record[name] for name in kept} for record in summary["curves"]],
        **about,
    }
    (RESULTS / "smollm2.json").write_text(json.dumps(result, indent=1) + "\n")
    minutes = summary["seconds"] / 60
    name = Path(given.base_model).name
    title = f"{name}, GRPO on SVAMP: {summary['samples']:,} completions in {minutes:.0f} minutes on {given.threads} CPU cores"
    plot(summary["curves"], before, after, title)
    equal = f"Under peft {peft['equal']} of {peft['prompts']} greedy completions equal ours, to the letter."
    stopped = f"Stopped by Ctrl-C after {summary['phases']} of {given.phases} phases." if summary["interrupted"] else ""
    last = " ".join(filter(None, (equal, stopped, about["note"])))
    text = "\n\n".join((title, table_of(before, after, summary["curves"]), last)) + "\n"
    (RESULTS / "smollm2.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
