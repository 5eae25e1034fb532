"""What every trainer shares: task, metrics, the accuracy of its policy, and a stop before a diverged update."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.args import InputError, TrainingArgs
from rlhf_lib.evaluate import Accuracy, evaluate
from rlhf_lib.models import base_of_adapter
from rlhf_lib.models.policies import HEAD_FILE
from rlhf_lib.runs import PhaseMetrics, Run, RunDirectory, TrainingDiverged, about_checkpoint, require_tracker
from rlhf_lib.samplers import OwnSampler, Sampler
from rlhf_lib.sharding import whole
from rlhf_lib.tasks import Task

Step = TypeVar("Step")
SAMPLER_GAP = 0.02  # mean nats a token, in float32, over which sampler and trainer are not one model
COARSE_SAMPLER_GAP = 0.5  # in other number formats, where merged weights are rounded, and of other samplers


def go_on_from(cls: Any, args: Any, **options: Any) -> Any:
    """The policy of args.adapter, on the base model that the adapter names; the value head beside it too, where there is one.

    Raises:
        InputError: args.base_model is not left at its default, and another than that.
    """
    named, given = base_of_adapter(args.adapter), str(args.base_model)
    default = next(field.default for field in fields(args) if field.name == "base_model")
    if given not in (named, default) and Path(given).expanduser().resolve() != Path(named).expanduser().resolve():
        raise InputError(
            f"base_model={given!r}, and adapter={args.adapter!r} was made for {named}; leave base_model out, or give {named}"
        )
    model = cls.from_adapter(args.adapter, named, **options)
    if getattr(model, "value_head", None) is not None and (Path(args.adapter) / HEAD_FILE).is_file():
        model.load_value_head(args.adapter)
    return model


class Trainer(ABC):
    """A phase is a round of learning, after which a Run writes metrics, samples and checkpoints.

    A subclass sets args, run_name, model, optimizer and scheduler, and gives make_task, samples_per_phase and train.
    """

    name: str
    args: TrainingArgs
    model: Any
    sampler: Sampler = OwnSampler()
    """Who samples the policy."""
    step = 0
    phase = 0
    run: Run | None = None
    """What surrounds the training, once it has begun."""
    seconds_before_run = 0.0
    """Seconds of training or sampling that building the trainer took: they count as training time."""
    updates_of_cut_phase = 0
    """Updates that the budget left of the last phase, which a resumed run goes on behind; 0 after a whole phase."""
    directory: RunDirectory | None = None
    """The run's directory, where the arguments name one: this process's from here on."""

    @abstractmethod
    def make_task(self) -> Task:
        """Prompts and rewards."""

    @cached_property
    def task(self) -> Task:
        """Prompts and rewards, made when they are first needed."""
        return self.make_task()

    @cached_property
    def metrics(self) -> PhaseMetrics:
        """What this phase has logged so far."""
        return PhaseMetrics()

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Prompts, completions and rewards of this phase, for the run's files."""
        return []

    @cached_property
    def findings(self) -> dict[str, Any]:
        """What the run's summary is to tell besides."""
        return {}

    @cached_property
    def prepared(self) -> dict[str, int]:
        """How many steps each part of the preparation took, by name; on resume, those of the run that goes on."""
        return {}

    @property
    @abstractmethod
    def samples_per_phase(self) -> int:
        """Completions or examples that a phase learns from."""

    def log(self, **values: float | Tensor | None) -> None:
        """Log metrics of this phase by name; several observations of one are averaged."""
        self.metrics.log(**values)

    def accuracy(self, count: int, temperature: float, split: str = "test") -> Accuracy | None:
        """Share of right answers on held-out problems; None for tasks without right answers."""
        prompts = self.task.held_out(count, split=split) if count else None
        if not prompts:
            return None
        options = {"gen_len": self.args.gen_len, "prepend_bos": self.args.prepend_bos, "sampler": self.sampler}
        return evaluate(self.model, self.task, prompts, temperature=temperature, **options).accuracy

    def measure(self) -> dict[str, Accuracy | None]:
        """The figures of the run's headline, taken before and after training: accuracy sampled and greedy."""
        count = self.args.eval_problems
        return {"accuracy": self.accuracy(count, 1.0), "accuracy_greedy": self.accuracy(count, 0.0)}

    def is_out_of_time(self, started: float) -> bool:
        """Whether work that began at `started` (time.perf_counter), and what came before the run, has used up the budget."""
        budget = self.args.budget
        if budget is None:
            return False
        is_spent = self.run.budget_is_spent if self.run is not None else time.perf_counter() - started >= budget
        return parallel.agree(is_spent)

    def samples_after(self, phase: int) -> int:
        """Completions or examples that the run has learned from when a phase, counted from 0, has ended."""
        return (phase + 1) * self.samples_per_phase

    def within_budget(self, name: str, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps of a preparation for which there is time, at least one; on resume, as many as there were then.

        What they make is the same each time but for their number, which goes into the checkpoint.
        """
        started, had = time.perf_counter(), self.prepared.get(name)
        for count, step in enumerate(steps):
            if count and (count == had if had is not None else self.is_out_of_time(started)):
                return
            yield step
            self.prepared[name] = max(count + 1, had or 0)

    def rest_of_epoch(self, batches: Iterable[Step], count: int) -> Iterator[Step]:
        """The epoch's batches behind those that the run had before it was resumed, until the budget is spent.

        At least one; `count` is how many a whole epoch has.
        """
        had, self.updates_of_cut_phase = self.updates_of_cut_phase, 0
        for done, batch in enumerate(batches, start=1):
            if done <= had:
                continue
            yield batch
            if done < count and self.is_out_of_time(0.0):
                self.updates_of_cut_phase = done
                return

    def examples_after(self, phase: int, batch_size: int) -> int:
        """`samples_after` of trainers whose phase is an epoch of batches."""
        cut = self.updates_of_cut_phase
        return phase * self.samples_per_phase + (cut * batch_size if cut else self.samples_per_phase)

    def check_directory(self) -> None:
        """Fail now, not after minutes of preparation, where the run's directory or tracker cannot be used."""
        args = self.args
        require_tracker(args)
        if args.output_dir is not None and parallel.is_first():
            self.directory = RunDirectory(args.output_dir, args, args.resume)
        if args.output_dir is not None and args.resume:
            self.prepared.update(about_checkpoint(Path(args.output_dir)).get("prepared", {}))

    @torch.no_grad()
    def outputs_of_a_few_tokens(self) -> list[Tensor]:
        """What the model computes of some tokens, whichever: NaN or infinity there means that it is broken."""
        ids = torch.arange(8, device=self.model.device)[None]
        outputs = self.model.forward_with_value_head(ids)
        return [output for output in outputs if output is not None]

    def stop_if_diverged(self, objective: Tensor, norm: Tensor) -> None:
        """Raise before an update that would fill the weights with NaN."""
        norm = whole(norm)
        if not (objective.isfinite() and norm.isfinite()):
            raise TrainingDiverged(
                f"objective={objective.item()} with gradient norm {norm.item()} in phase {self.phase + 1}, step {self.step}: "
                "the run has diverged and was stopped before the update; its last checkpoint is from before, resume from it "
                "or start anew with a lower learning rate"
            )

    def stop_if_sampler_differs(self, gap: Float[Tensor, "batch gen"], mask: Float[Tensor, "batch gen"]) -> None:
        """Raise where what was sampled from is not what is trained, although nothing that was asked for explains it.

        `gap` is the sampler's log-probabilities minus the trainer's, in nats. top_k and top_p explain any; another sampler
        explains what number formats and kernels do, no more.
        """
        args, model = self.args, self.model
        if args.top_k or args.top_p:
            return
        mean = ((gap.abs() * mask).sum() / mask.sum().clamp(min=1)).item()
        is_exact = model.dtype == torch.float32 and not args.autocast and isinstance(self.sampler, OwnSampler)
        allowed = SAMPLER_GAP if is_exact else COARSE_SAMPLER_GAP
        if not mean <= allowed:
            raise InputError(
                f"sampling and scoring disagree by {mean:.2g} nats a token in phase {self.phase + 1}, over {allowed}, without "
                "top_k or top_p: what was sampled from is not the policy that is trained. Look for a "
                "temperature, mask or position that one of them lacks; if the code is the library's own, install the tested "
                "versions, with `make` or in a fresh environment"
            )
