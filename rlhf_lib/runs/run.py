"""Everything around the training loop: directory, resume, progress, tables, checkpoints, warnings, summary.

A trainer's loop stays the algorithm; it opens a Run, walks through its phases, and tells it when one has ended.
"""

import json
import os
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from rlhf_lib import parallel
from rlhf_lib.args import InputError, require, to_json
from rlhf_lib.files import write_atomically, writing
from rlhf_lib.runs import checkpoints, directory, kept, shares
from rlhf_lib.runs.divergence import fault_of, stop_if_not_finite
from rlhf_lib.runs.metrics import peak_memory_mb
from rlhf_lib.runs.plots import plot_curves
from rlhf_lib.runs.summary import describe_device, first_and_last, headline, sample_table, versions
from rlhf_lib.runs.trackers import start_tracker
from rlhf_lib.runs.warnings import failure_signatures
from rlhf_lib.signals import ending_by
from rlhf_lib.terminal import visible

ON_BAR = ("reward", "kl", "entropy", "grad_norm", "loss")
WATCHED_PROBLEMS = 100


class Run:
    """One training run of a Trainer. Of several processes (torchrun) the first one writes and speaks, and all stop together.

    The directory is this process's alone from the start, before the first evaluation, to `finish` or an error.

    Args:
        trainer: what is trained; on resume its weights, optimiser, schedule, randomness and counters are put back.

    Raises:
        InputError: see RunDirectory; a tracker that is not installed; a best model to keep where nothing is right or wrong.
    """

    def __init__(self, trainer: Any):
        self.trainer, args = trainer, trainer.args
        self.writes = parallel.is_first()
        path = args.output_dir or (directory.new_run_path(trainer.run_name) if self.writes else trainer.run_name)
        self.directory = directory.RunDirectory(path, args, args.resume, is_owner=self.writes)
        try:
            self.start()
        except BaseException:
            self.directory.release()
            raise

    def start(self) -> None:
        """Restore or begin: measure what there is before training, save it, and write args.json."""
        trainer, args = self.trainer, self.trainer.args
        self.tracker: Any = None
        self.history: list[dict[str, Any]] = []
        self.before: dict[str, Any] | None = None
        self.first_phase, self.earlier_seconds, self.paused, self.warned = 0, trainer.seconds_before_run, 0.0, set()
        self.interrupted = self.is_stopping = False
        self.best = -1.0
        if args.resume:
            self.restore()
        if self.writes:
            self.tracker = start_tracker(args, trainer.run_name, self.directory.path, self.first_phase)
        options = {"unit": "phase", "dynamic_ncols": True, "disable": not self.writes}
        self.bar = tqdm(total=args.total_phases, initial=self.first_phase, **options)
        others = f" and {parallel.count() - 1} more" if parallel.count() > 1 else ""
        self.say(f"{trainer.run_name} on {trainer.model.device}{others}, files in {self.directory.path}")
        for name, (was, now) in self.directory.changes.items():
            self.say(f"From phase {self.first_phase + 1} on {name}={now!r} (was {was!r})")
        if args.keep_best:
            self.best = self.best_so_far()
        if self.before is None:
            self.before = self.measure("before")
            self.checkpoint(next_phase=0)
        parallel.wait_for_all()
        if self.writes:
            self.directory.write_args(self.first_phase)
        self.started = time.perf_counter()

    def phases(self) -> Iterator[int]:
        """The phases still to run; ends early, after a whole phase, once Ctrl-C was pressed or SIGTERM has come."""
        try:
            with ending_by(self.on_interrupt):
                yield from self.phases_left()
        except BaseException:  # a phase's own errors come here as GeneratorExit, when nothing refers to the loop any more
            self.directory.release()
            raise
        finally:
            self.bar.close()

    def phases_left(self) -> Iterator[int]:
        """The phases from the first one on, each followed by its files, until all are done or the run is to stop."""
        for phase in range(self.first_phase, self.trainer.args.total_phases):
            if self.trainer.step and parallel.agree(self.budget_is_spent):
                break
            yield phase
            self.interrupted = parallel.agree(self.interrupted)
            self.is_stopping = self.interrupted or parallel.agree(self.budget_is_spent)
            self.end_phase(phase)
            if self.is_stopping:
                break

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """First Ctrl-C or SIGTERM: stop after this phase. Second: at once."""
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if self.writes:  # past Python's own files, which may be in the middle of a write
            os.write(2, b"\nStopping after this phase, with all files written; press Ctrl-C again to stop at once.\n")

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
            self.bar.write(visible(text))

    def end_phase(self, phase: int) -> None:
        """Write the phase's metrics and samples, show them, warn, and save models and a checkpoint where they are due.

        Raises:
            TrainingDiverged: the phase has made the model NaN or infinite; nothing of it is written.
            CannotWrite: the disk is full; what was there before is whole.
        """
        trainer, args = self.trainer, self.trainer.args
        stop_if_not_finite(trainer, phase)
        record = {
            "phase": phase,
            "step": trainer.step,
            "samples": trainer.samples_after(phase),
            **trainer.metrics.take(),
            "learning_rate": trainer.optimizer.param_groups[0]["lr"],
            "peak_memory_mb": peak_memory_mb(),
            "seconds": self.seconds,
            **self.watch(phase),
        }
        if self.history and self.history[-1]["phase"] == phase:  # a phase that was cut, and gone on with
            self.history = directory.keep_phases_below(self.directory.metrics_file, phase, self.writes)
        self.history.append(record)
        if self.writes:
            directory.append_json_lines(self.directory.metrics_file, [record])
            samples = ({"phase": phase, **sample} for sample in trainer.samples)
            directory.append_json_lines(self.directory.samples_file, samples)
        self.tell_tracker(record, phase)
        self.bar.set_postfix({name: f"{record[name]:.3g}" for name in ON_BAR if name in record}, refresh=False)
        self.bar.update()
        for sentence in failure_signatures(self.history):
            if sentence not in self.warned:
                self.warned.add(sentence)
                self.say(f"Warning, phase {phase + 1}: {sentence}")
        if args.log_samples_every and phase % args.log_samples_every == 0 and trainer.samples:
            self.say(sample_table(trainer.samples, phase))
        self.keep_models(phase, record)
        last = self.is_stopping or phase + 1 == args.total_phases
        if last or (phase + 1) % args.save_every == 0:
            self.checkpoint(next_phase=phase if trainer.updates_of_cut_phase else phase + 1)

    def tell_tracker(self, record: dict[str, Any], phase: int) -> None:
        """Feed the tracker; one that fails is said once and left alone, since the run's own files have it all."""
        try:
            if self.tracker is not None:
                self.tracker.log(record, phase)
        except Exception as error:
            name, self.tracker = self.trainer.args.chosen_tracker, None
            self.say(f"Warning: {name} failed ({type(error).__name__}: {error}); the run goes on without it")

    def keep_models(self, phase: int, record: dict[str, Any]) -> None:
        """Save the model of this phase where args.save_model_every or args.keep_best ask for it."""
        args, measured = self.trainer.args, record.get("held_out_accuracy")
        if args.save_model_every and (phase + 1) % args.save_model_every == 0:
            self.save_model(kept.phase_directory(phase + 1), phase + 1, measured)
        if args.keep_best and measured is not None and measured > self.best:
            self.best = measured
            self.save_model(kept.BEST, phase + 1, measured)

    def save_model(self, name: str, phases: int, measured: float | None = None) -> None:
        """Save the model as it is after so many phases, with what it was measured at."""
        model = self.trainer.model
        if self.writes:
            found = {} if measured is None else {"held_out_accuracy": measured}
            about = {"phase": phases, "of": self.trainer.args.total_phases, **found}
            kept.keep_model(model, self.directory.path / name, about)
        elif model.is_sharded:  # the first process needs this one's shares
            with TemporaryDirectory() as elsewhere:
                model.save_pretrained(elsewhere)

    def best_so_far(self) -> float:
        """Validation accuracy of the best model that the run keeps, -1 before the first.

        Raises:
            InputError: the task has no right answers, so that no model is the best.
        """
        measurable = self.trainer.accuracy(1, 1.0, split="validation") is not None
        require(measurable, "keep_best needs a task with right answers, such as pocket or gsm8k; leave it out")
        about = kept.about_model(self.directory.path / kept.BEST)
        return -1.0 if about is None else about.get("held_out_accuracy", -1.0)

    def checkpoint(self, next_phase: int) -> None:
        """Save all that a resumed run needs to go on bit for bit."""
        trainer, path = self.trainer, self.directory.path
        if not self.writes and not trainer.model.is_sharded:
            return
        state = {
            "next_phase": next_phase,
            "updates_of_cut_phase": trainer.updates_of_cut_phase,
            "step": trainer.step,
            "model": trainer.model.trainable_state(),
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": {"last_epoch": trainer.scheduler.last_epoch},
            "rng": torch.get_rng_state(),
            "cuda_rng": [torch.cuda.get_rng_state(trainer.model.device)] if trainer.model.device.type == "cuda" else [],
            "before": json.dumps(self.before),
            "seconds": self.seconds if next_phase or trainer.updates_of_cut_phase else self.earlier_seconds,
        }
        state = shares.take_out(state, path)
        if self.writes:
            checkpoints.save_checkpoint(self.directory.checkpoint_file, state, prepared=trainer.prepared)
            shares.forget_others(path, *checkpoints.named_shares(path))

    def restore(self) -> None:
        """Put the trainer back to the last checkpoint, and drop what was logged after it."""
        trainer, parameters = self.trainer, [p for group in self.trainer.optimizer.param_groups for p in group["params"]]
        state = checkpoints.load_checkpoint(self.directory.checkpoint_file)
        state = shares.put_back(state, self.directory.path, trainer.model.trainable_state(), parameters)
        trainer.model.load_trainable_state(state["model"])
        self.restore_optimizer(state)
        torch.set_rng_state(state["rng"])
        if trainer.model.device.type == "cuda" and state["cuda_rng"]:
            torch.cuda.set_rng_state(state["cuda_rng"][0], trainer.model.device)
        trainer.step, self.first_phase = state["step"], state["next_phase"]
        trainer.updates_of_cut_phase = state.get("updates_of_cut_phase", 0)
        total = trainer.args.total_phases
        if total < self.first_phase:
            raise InputError(
                f"total_phases={total} is below the {self.first_phase} phases that the run has had; give more, or as many"
            )
        broken = fault_of(trainer)
        require(
            broken is None,
            f"{self.directory.checkpoint_file}: {broken}, so the run had diverged; start anew with a lower learning rate",
        )
        self.before, self.earlier_seconds = json.loads(state["before"]), state["seconds"]
        begun = self.first_phase + bool(trainer.updates_of_cut_phase)
        self.history = directory.read_metrics(self.directory.metrics_file, begun)
        directory.keep_phases_below(self.directory.samples_file, begun, write=False)
        parallel.wait_for_all()  # until every process has read them
        if self.writes:
            for file in (self.directory.metrics_file, self.directory.samples_file):
                directory.keep_phases_below(file, begun)

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Put back the optimiser and the schedule's place; rates are those that the present arguments give at that place.

        With the arguments of before they are the same numbers. A longer run, or another rate, thus goes on as one that was
        planned like that, from here.
        """
        optimizer, scheduler = self.trainer.optimizer, self.trainer.scheduler
        planned = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        scheduler.last_epoch = state["scheduler"]["last_epoch"]
        shares = getattr(scheduler, "lr_lambdas", None)
        if shares is not None:
            for group, peak, share in zip(optimizer.param_groups, planned, shares, strict=True):
                group["initial_lr"], group["lr"] = peak, peak * share(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]

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
        try:
            return self.write_results()
        finally:
            self.directory.release()

    def write_results(self) -> dict[str, Any]:
        """What `finish` does while the directory is still the run's."""
        seconds = self.seconds
        self.save_model(kept.LAST, len(self.history))
        if self.history and self.writes:
            with writing(self.directory.curves_file):
                plot_curves(self.history, self.directory.curves_file, self.trainer.run_name)
        unmeasured = {f"{name.removesuffix('before')}after": None for name in self.before}
        after = unmeasured if self.interrupted else self.measure("after")
        summary = self.summary(seconds, after)
        if self.writes:
            write_atomically(self.directory.summary_file, json.dumps(summary, indent=2) + "\n")
            print(visible(headline(summary, self.directory.path)))
        if self.tracker is not None:
            self.tracker.finish()
        return summary

    def summary(self, seconds: float, after: dict[str, Any]) -> dict[str, Any]:
        """What is left of a run in one object."""
        trainer, args = self.trainer, self.trainer.args
        return {
            "run": trainer.run_name,
            **self.before,
            **after,
            **first_and_last(self.history),
            **trainer.findings,
            "held_out_problems": args.eval_problems,
            "seconds": round(seconds, 2),
            "samples": self.history[-1]["samples"] if self.history else 0,
            "phases": len(self.history),
            "interrupted": self.interrupted,
            "changes": directory.read_json_lines(self.directory.changes_file),
            "seed": args.seed,
            "device": describe_device(trainer.model.device),
            "processes": parallel.count(),
            "arguments": json.loads(to_json(args)),
            "versions": versions(),
        }
