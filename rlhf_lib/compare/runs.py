"""The runs of a comparison: every method with every seed, trained within the budget and measured the same way.

Each run is a plain `rlhf train` in a process of its own, so that its peak memory is its own; finished ones are not repeated
when the comparison is started again in the same directory.
"""

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf_lib.args import CompareArgs, InputError, read_object, require, require_no_saved_code
from rlhf_lib.evaluate import Accuracy, evaluate, evaluate_samples
from rlhf_lib.models import load_policy
from rlhf_lib.models.loading import resolve_device
from rlhf_lib.models.reward_model import RewardModel, check_base
from rlhf_lib.runs import first_reaching
from rlhf_lib.runs.directory import read_json_lines
from rlhf_lib.tasks import task_of

TRAINED = {  # method: algorithm of `rlhf train`, and options beyond its recipe
    "sft": ("sft", {}),
    "self-offline": ("sft", {"self-samples": 8, "no-keep-solutions": None}),
    "self-online": ("self-training", {}),
    "ppo": ("ppo", {}),
    "grpo": ("grpo", {}),
    "reft": ("reft", {}),
}
READINGS = ("strict", "lenient")
MEASURES = ("greedy", *READINGS, "pass@1", "pass@k", "maj@k", "rerank@k")
STABILITY = {"update_kl": "KL per update", "ratio_std": "ratio spread", "grad_norm": "gradient norm"}


@dataclass
class Outcome:
    """What one method with one seed came to."""

    method: str
    seed: int
    accuracies: dict[str, Accuracy]
    history: list[dict[str, Any]]
    """The run's metrics by phase; empty without training."""
    target: float

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return self.history[-1]["seconds"] if self.history else 0.0

    @property
    def peak_memory_mb(self) -> float | None:
        """Peak memory of the training process."""
        return self.history[-1]["peak_memory_mb"] if self.history else None

    def at_target(self, name: str) -> float | int | None:
        """Steps, samples or seconds when validation accuracy reached the target; None if never."""
        reached = first_reaching(self.history, "held_out_accuracy", self.target)
        return None if reached is None else self.history[reached][name]

    def spread(self, name: str) -> tuple[float, float] | None:
        """Mean and deviation over phases of a metric; None where the method has no such thing."""
        values = [record[name] for record in self.history if record.get(name) is not None]
        return (statistics.mean(values), statistics.pstdev(values)) if values else None

    def as_row(self) -> dict[str, Any]:
        """One line of results.csv."""
        row: dict[str, Any] = {"method": self.method, "seed": self.seed}
        for name, figure in self.accuracies.items():
            row.update(
                {name: round(figure.value, 4), f"{name}_low": round(figure.low, 4), f"{name}_high": round(figure.high, 4)}
            )
        row.update({f"{name}_to_target": self.at_target(name) for name in ("step", "samples", "seconds")})
        for name in STABILITY:
            mean, deviation = self.spread(name) or (None, None)
            row.update({f"{name}_mean": mean, f"{name}_deviation": deviation})
        return {**row, "seconds": round(self.seconds, 1), "peak_memory_mb": self.peak_memory_mb}


def require_parts(args: CompareArgs) -> None:
    """Raise where task, data or a model are not there, before anything is written, loaded or trained.

    Raises:
        InputError: see task_of, Task.held_out and check_base; or a task without held-out problems.
    """
    common_options(args)
    resolve_device(args.device)
    task_of(args)
    plain = {"few_shot": 0, "prompt_style": "plain", "system_prompt": None, "template_args": ()}  # there is no tokenizer yet
    prompts = task_of(replace(args, **plain)).held_out(1)
    require(bool(prompts), f"task={args.task!r} has no held-out problems; use pocket, gsm8k, svamp or mathqa")
    check_base(args.base_model, "base_model")
    if args.verifier is not None:
        check_base(args.verifier)
    elif args.task != "pocket":
        check_base(args.reward_base)


def common_options(args: CompareArgs) -> list[str]:
    """What every `rlhf train` of the comparison is told, as if the user had typed it."""
    require_no_saved_code(args)
    require(
        not isinstance(args.task, type),
        f"task={args.task!r} cannot be handed to the processes that train; give it as CodeInFile('FILE.py:CLASS')",
    )
    options = {"task": args.task, "prompt-style": args.prompt_style, "base-model": args.base_model, "gen-len": args.gen_len}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    words += [] if args.data is None else ["--data", args.data]
    words += [] if args.system_prompt is None else [f"--system-prompt={args.system_prompt}"]
    words += ["--template-args", *args.template_args] if args.template_args else []
    words += ["--columns", *args.columns] if args.columns else []
    words += ["--skip-bad-rows"] if args.skip_bad_rows else []
    return [*words, "--device", args.device, "--eval-problems", "0", "--log-samples-every", "0"]


def run_training(algorithm: str, words: list[str], directory: Path) -> list[dict[str, Any]]:
    """Run `rlhf train` in a process of its own, unless its directory holds the finished run; returns its metrics."""
    summary = directory / "summary.json"
    if not summary.exists() or read_object(summary).get("interrupted", True):
        command = ["-m", "rlhf_lib", "train", algorithm, "--output-dir", str(directory), *words]
        if (directory / "args.json").exists():
            command.append("--resume")
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ.copy())
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            told = " ".join(last).removeprefix("rlhf: ")
            raise InputError(f"rlhf train {algorithm} in {directory} failed: {told}; mend that and start again")
    return read_json_lines(directory / "metrics.jsonl")


def train_method(method: str, seed: int, args: CompareArgs, directory: Path) -> list[dict[str, Any]]:
    """The training run of a method with a seed, within the budget."""
    algorithm, more = TRAINED[method]
    words = [*common_options(args), "--seed", str(seed), "--budget", str(args.budget), "--eval-every", "1"]
    for name, value in more.items():
        words += [f"--{name}"] if value is None else [f"--{name}", str(value)]
    return run_training(algorithm, words, directory)


def train_verifier(args: CompareArgs, root: Path) -> RewardModel:
    """The verifier to rerank with: the one given, or one trained on the base model's samples."""
    if args.verifier is not None:
        return RewardModel.trained(args.verifier, device=args.device)
    base = args.base_model if args.task == "pocket" else args.reward_base
    words = [*common_options(args), "--kind", "verifier", "--reward-base", base]
    run_training("reward-model", words, root / "verifier")
    return RewardModel.trained(root / "verifier" / "model", device=args.device)


def measure(method: str, seed: int, args: CompareArgs, model: Any, verifier: RewardModel) -> dict[str, Accuracy]:
    """MEASURES on held-out problems: greedy accuracy, also read strictly and leniently, and that of several samples."""
    shots = args.few_shot if method == "few-shot" else 0
    task = task_of(replace(args, few_shot=shots), model, args.gen_len)
    prompts = task.held_out(args.problems, shots, "reasoning" if shots else None)
    greedy = evaluate(model, task, prompts, gen_len=args.gen_len, temperature=0.0)
    sampled = evaluate_samples(model, task, prompts, args.samples, gen_len=args.gen_len, seed=seed, reward_model=verifier)
    k = args.samples
    read = [Accuracy.of(sum(right), len(right)) for right in (greedy.readings[name] for name in READINGS)]
    figures = (greedy.accuracy, *read, sampled.pass_at(1), sampled.pass_at(k), sampled.majority_at(k), sampled.rerank_at(k))
    return dict(zip(MEASURES, figures, strict=True))


def run_all(args: CompareArgs, root: Path) -> list[Outcome]:
    """Train and measure every method with every seed; one line is printed as each is done."""
    verifier = train_verifier(args, root)
    outcomes = []
    for method in args.methods:
        for seed in range(args.seeds):
            directory, history = root / f"{method}-seed{seed}", []
            if method in TRAINED:
                history = train_method(method, seed, args, directory)
            model = load_policy(directory / "model" if history else args.base_model, args.device)
            outcome = Outcome(method, seed, measure(method, seed, args, model, verifier), history, args.target)
            outcomes.append(outcome)
            greedy = outcome.accuracies["greedy"]
            print(f"{method:13} seed {seed}: greedy {greedy}, {outcome.seconds:.0f} s of training", flush=True)
    return outcomes
