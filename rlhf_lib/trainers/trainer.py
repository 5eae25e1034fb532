"""What every trainer shares: task, metrics, the accuracy of its policy, and a stop before a diverged update."""

import time
from abc import ABC, abstractmethod
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.args import InputError, RLHFArgs, TrainingArgs
from rlhf_lib.engine import PassOptions
from rlhf_lib.evaluate import Accuracy, evaluate
from rlhf_lib.models import base_of_adapter
from rlhf_lib.models.policies import HEAD_FILE
from rlhf_lib.runs import PhaseMetrics, Run, RunDirectory
from rlhf_lib.tasks import Task

SAMPLER_GAP = 0.02  # mean nats a token, in float32, over which sampler and trainer are not one model
COARSE_SAMPLER_GAP = 0.5  # in other number formats, where merged weights are rounded, and of other samplers


class TrainingDiverged(InputError):
    """The objective or its gradient is no longer a finite number; the last checkpoint is from before."""


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


class ModelInUse:
    """A trainer's attribute that holds a model; the model is told how it is to make its passes."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, trainer: Any, owner: type) -> Any:
        if trainer is None:
            return self
        if self.name not in vars(trainer):
            raise AttributeError(f"{type(trainer).__name__} has no {self.name} yet")
        return vars(trainer)[self.name]

    def __set__(self, trainer: Any, model: Any) -> None:
        vars(trainer)[self.name] = model
        args = getattr(trainer, "args", None)
        if isinstance(args, RLHFArgs) and hasattr(model, "pass_options"):
            model.pass_options = PassOptions(args.micro_batch_size, args.checkpoint_activations, args.autocast)


class Trainer(ABC):
    """A phase is a round of learning, after which a Run writes metrics, samples and checkpoints.

    A subclass sets args, run_name, model, optimizer and scheduler, and gives make_task, samples_per_phase and train.
    """

    name: str
    args: TrainingArgs
    model = ModelInUse()
    ref_model = ModelInUse()
    step = 0
    phase = 0
    run: Run | None = None
    """What surrounds the training, once it has begun."""
    seconds_before_run = 0.0
    """Seconds of training or sampling that building the trainer took: they count as training time."""

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
        options = {"gen_len": self.args.gen_len, "prepend_bos": self.args.prepend_bos}
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

    def check_directory(self) -> None:
        """Fail now, not after minutes of preparation, where the run's directory cannot be used."""
        if self.args.output_dir is not None and parallel.is_first():
            RunDirectory(self.args.output_dir, self.args, self.args.resume)

    def stop_if_diverged(self, objective: Tensor, norm: Tensor) -> None:
        """Raise before an update that would fill the weights with NaN."""
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
        is_exact = model.dtype == torch.float32 and not args.autocast and getattr(model, "sampler", None) is None
        allowed = SAMPLER_GAP if is_exact else COARSE_SAMPLER_GAP
        if not mean <= allowed:
            raise InputError(
                f"sampling and scoring disagree by {mean:.2g} nats a token in phase {self.phase + 1}, over {allowed}, without "
                "top_k or top_p: what was sampled from is not the policy that is trained. Look for a "
                "temperature, mask or position that one of them lacks; if the code is the library's own, install the tested "
                "versions, with `make` or in a fresh environment"
            )
