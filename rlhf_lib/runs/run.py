"""Everything around the training loop: directory, resume, progress, tables, checkpoints, warnings, summary.

A trainer's loop stays the algorithm; it opens a Run, walks through its phases, and tells it when one has ended.
"""

import json
import platform
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from types import FrameType
from typing import Any

import torch
from tabulate import tabulate
from tqdm import tqdm

from rlhf_lib import parallel
from rlhf_lib.args import InputError, to_json
from rlhf_lib.evaluate import Accuracy
from rlhf_lib.files import write_atomically
from rlhf_lib.runs import directory
from rlhf_lib.runs.metrics import peak_memory_mb
from rlhf_lib.runs.plots import plot_curves
from rlhf_lib.runs.warnings import failure_signatures

ON_BAR = ("reward", "kl", "entropy", "grad_norm", "loss")
WATCHED_PROBLEMS = 100
HEADLINES = {"accuracy": "Accuracy, sampled", "accuracy_greedy": "Accuracy, greedy", "judged": "Judged rightly"}


class Run:
    """One training run of a Trainer. Of several processes (torchrun) the first one writes and speaks, and all stop together.

    Args:
        trainer: what is trained; on resume its weights, optimiser, schedule, randomness and counters are put back.

    Raises:
        InputError: see RunDirectory; and when Weights & Biases is asked for but not installed.
    """

    def __init__(self, trainer: Any):
        self.trainer, args = trainer, trainer.args
        path = args.output_dir or directory.new_run_path(trainer.run_name)
        self.writes = parallel.is_first()
        self.directory = directory.RunDirectory(path, args, args.resume, is_owner=self.writes)
        self.wandb = start_wandb(args, trainer.run_name) if args.use_wandb and self.writes else None
        self.history: list[dict[str, Any]] = []
        self.before: dict[str, Any] | None = None
        self.first_phase, self.earlier_seconds, self.paused, self.warned = 0, trainer.seconds_before_run, 0.0, set()
        self.interrupted = self.is_stopping = False
        if args.resume:
            self.restore()
        options = {"unit": "phase", "dynamic_ncols": True, "disable": not self.writes}
        self.bar = tqdm(total=args.total_phases, initial=self.first_phase, **options)
        others = f" and {parallel.count() - 1} more" if parallel.count() > 1 else ""
        self.say(f"{trainer.run_name} on {trainer.model.device}{others}, files in {self.directory.path}")
        if self.before is None:
            self.before = self.measure("before")
            self.checkpoint(next_phase=0)
        parallel.wait_for_all()
        if self.writes:
            self.directory.claim()
        self.started = time.perf_counter()

    def phases(self) -> Iterator[int]:
        """The phases still to run; ends early, after a whole phase, once Ctrl-C was pressed."""
        previous = signal.getsignal(signal.SIGINT)
        try:
            signal.signal(signal.SIGINT, self.on_interrupt)
        except ValueError:
            previous = None  # not in the main thread: Ctrl-C does not arrive here
        try:
            for phase in range(self.first_phase, self.trainer.args.total_phases):
                if phase and parallel.agree(self.budget_is_spent):
                    break
                yield phase
                self.interrupted = parallel.agree(self.interrupted)
                self.is_stopping = self.interrupted or parallel.agree(self.budget_is_spent)
                self.end_phase(phase)
                if self.is_stopping:
                    break
        finally:
            self.bar.close()
            if previous is not None:
                signal.signal(signal.SIGINT, previous)

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """First Ctrl-C: stop after this phase. Second: at once."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self.say("Stopping after this phase, with all files written; press Ctrl-C again to stop at once.")

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.earlier_seconds + time.perf_counter() - self.started - self.paused

    @property
    def budget_is_spent(self) -> bool:
        """Whether the run has trained for as long as it may."""
        budget = self.trainer.args.budget
        return budget is not None and self.seconds >= budget

    def say(self, text: str) -> None:
        """Print without disturbing the progress bar."""
        if self.writes:
            self.bar.write(text)

    def end_phase(self, phase: int) -> None:
        """Write the phase's metrics and samples, show them, warn, and save a checkpoint when one is due."""
        trainer, args = self.trainer, self.trainer.args
        record = {
            "phase": phase,
            "step": trainer.step,
            "samples": (phase + 1) * trainer.samples_per_phase,
            **trainer.metrics.take(),
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "peak_memory_mb": peak_memory_mb(),
            "seconds": self.seconds,
            **self.watch(phase),
        }
        self.history.append(record)
        if self.writes:
            directory.append_json_lines(self.directory.metrics_file, [record])
            samples = ({"phase": phase, **sample} for sample in trainer.samples)
            directory.append_json_lines(self.directory.samples_file, samples)
        if self.wandb is not None:
            self.wandb.log(record, step=phase)
        self.bar.set_postfix({name: f"{record[name]:.3g}" for name in ON_BAR if name in record}, refresh=False)
        self.bar.update()
        for sentence in failure_signatures(self.history):
            if sentence not in self.warned:
                self.warned.add(sentence)
                self.say(f"Warning, phase {phase + 1}: {sentence}")
        if args.log_samples_every and phase % args.log_samples_every == 0 and trainer.samples:
            self.say(sample_table(trainer.samples, phase))
        last = self.is_stopping or phase + 1 == args.total_phases
        if last or (phase + 1) % args.save_every == 0:
            self.checkpoint(next_phase=phase + 1)

    def checkpoint(self, next_phase: int) -> None:
        """Save all that a resumed run needs to go on bit for bit."""
        if not self.writes:
            return
        trainer = self.trainer
        state = {
            "next_phase": next_phase,
            "step": trainer.step,
            "model": trainer.model.trainable_state(),
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": {"last_epoch": trainer.scheduler.last_epoch},
            "rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(trainer.model.device)] if trainer.model.device.type == "cuda" else [],
            "before": json.dumps(self.before),
            "seconds": self.seconds if next_phase else self.earlier_seconds,
        }
        directory.save_checkpoint(self.directory.checkpoint_file, state)

    def restore(self) -> None:
        """Put the trainer back to the last checkpoint, and drop what was logged after it."""
        state, trainer = directory.load_checkpoint(self.directory.checkpoint_file), self.trainer
        trainer.model.load_trainable_state(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        trainer.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        trainer.scheduler._last_lr = [group["lr"] for group in trainer.optimizer.param_groups]
        torch.set_rng_state(state["rng"])
        if trainer.model.device.type == "cuda" and state["cuda_rng"]:
            torch.cuda.set_rng_state(state["cuda_rng"][0], trainer.model.device)
        trainer.step, self.first_phase = state["step"], state["next_phase"]
        self.before, self.earlier_seconds = json.loads(state["before"]), state["seconds"]
        self.history = directory.keep_phases_below(self.directory.metrics_file, self.first_phase, write=False)
        parallel.wait_for_all()  # until every process has read them
        if self.writes:
            for file in (self.directory.metrics_file, self.directory.samples_file):
                directory.keep_phases_below(file, self.first_phase)

    def measure(self, when: str) -> dict[str, Any]:
        """The trainer's figures, as {value, low, high}, under names that end in _before or _after."""
        self.bar.set_description(f"evaluating {when}")
        found = self.trainer.measure()
        self.bar.set_description("")
        return {f"{name}_{when}": None if figure is None else figure.as_dict() for name, figure in found.items()}

    def watch(self, phase: int) -> dict[str, float]:
        """Accuracy on validation problems, when it is due; the time that takes is not training time."""
        every = self.trainer.args.eval_every
        if not every or (phase + 1) % every:
            return {}
        started = time.perf_counter()
        figure = self.trainer.accuracy(WATCHED_PROBLEMS, 1.0, split="validation")
        self.paused += time.perf_counter() - started
        return {} if figure is None else {"held_out_accuracy": figure.value}

    def finish(self) -> dict[str, Any]:
        """Save model, curves and summary; print the headline. Returns the summary."""
        trainer, args = self.trainer, self.trainer.args
        seconds = self.seconds
        if self.writes:
            trainer.model.save_pretrained(self.directory.model_dir)
        if self.history and self.writes:
            plot_curves(self.history, self.directory.curves_file, trainer.run_name)
        unmeasured = {f"{name.removesuffix('before')}after": None for name in self.before}
        after = unmeasured if self.interrupted else self.measure("after")
        summary = {
            "run": trainer.run_name,
            **self.before,
            **after,
            **first_and_last(self.history),
            **trainer.findings,
            "held_out_problems": args.eval_problems,
            "seconds": round(seconds, 2),
            "samples": len(self.history) * trainer.samples_per_phase,
            "phases": len(self.history),
            "interrupted": self.interrupted,
            "seed": args.seed,
            "device": describe_device(trainer.model.device),
            "processes": parallel.count(),
            "arguments": json.loads(to_json(args)),
            "versions": versions(),
        }
        if self.writes:
            write_atomically(self.directory.summary_file, json.dumps(summary, indent=2) + "\n")
            print(headline(summary, self.directory))
        if self.wandb is not None:
            self.wandb.finish()
        return summary


def start_wandb(args: Any, run_name: str) -> Any:
    """A Weights & Biases run."""
    try:
        import wandb
    except ImportError:
        raise InputError("use_wandb=True needs the package wandb; pip install wandb, or leave the flag out") from None
    return wandb.init(
        project=args.wandb_project_name, entity=args.wandb_entity, name=run_name, config=json.loads(to_json(args))
    )


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


def headline(summary: dict[str, Any], run: directory.RunDirectory) -> str:
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
    lines.append(f"Files: {run.path}/ (summary.json, curves.png, metrics.jsonl, samples.jsonl, model/)")
    if summary["interrupted"]:
        lines.append(f"Stopped early. Continue with: the same command plus --resume --output-dir {run.path}")
    elif summary.get("accuracy_after"):
        lines.append(f"Next, look at what it writes now:  rlhf sample --run {run.path}")
    return "\n".join(lines)
