"""Where a run's metrics can be watched besides its own files: one class for each tracker, all told the same."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rlhf_lib.args import InputError, TrainingArgs, to_json

Record = dict[str, Any]


@runtime_checkable
class Tracker(Protocol):
    """What a run tells its tracker: the metrics of each phase, and that it has ended."""

    def log(self, record: Record, phase: int) -> None:
        """The metrics of a phase."""

    def finish(self) -> None:
        """The run has ended."""


class Wandb:
    """Weights & Biases."""

    def __init__(self, args: TrainingArgs, name: str, directory: Path, first_phase: int):
        import wandb

        self.run = wandb.init(project=args.wandb_project_name, entity=args.wandb_entity, name=name, config=settings(args))

    def log(self, record: Record, phase: int) -> None:
        """The metrics of a phase."""
        self.run.log(record, step=phase)

    def finish(self) -> None:
        """Send what is left."""
        self.run.finish()


class TensorBoard:
    """TensorBoard's event files, in the run's own directory: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, args: TrainingArgs, name: str, directory: Path, first_phase: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"), purge_step=first_phase or None)
        self.writer.add_text("arguments", "\n".join(f"    {line}" for line in to_json(args).splitlines()))

    def log(self, record: Record, phase: int) -> None:
        """The metrics of a phase."""
        for metric, value in numbers(record).items():
            self.writer.add_scalar(metric, value, phase)
        self.writer.flush()

    def finish(self) -> None:
        """Close the files."""
        self.writer.close()


class Trackio:
    """trackio, which keeps its figures on this machine and has Weights & Biases' interface."""

    def __init__(self, args: TrainingArgs, name: str, directory: Path, first_phase: int):
        import trackio

        self.trackio = trackio
        trackio.init(project=args.wandb_project_name, name=name, config=settings(args))

    def log(self, record: Record, phase: int) -> None:
        """The metrics of a phase."""
        self.trackio.log(numbers(record), step=phase)

    def finish(self) -> None:
        """Write what is left."""
        self.trackio.finish()


class Mlflow:
    """MLflow, at the address that MLFLOW_TRACKING_URI names, otherwise on this machine."""

    def __init__(self, args: TrainingArgs, name: str, directory: Path, first_phase: int):
        import mlflow

        self.mlflow = mlflow
        mlflow.set_experiment(args.wandb_project_name)
        mlflow.start_run(run_name=name)
        mlflow.log_params({key: str(value)[:500] for key, value in settings(args).items()})

    def log(self, record: Record, phase: int) -> None:
        """The metrics of a phase."""
        self.mlflow.log_metrics(numbers(record), step=phase)

    def finish(self) -> None:
        """Close the run."""
        self.mlflow.end_run()


TRACKERS: dict[str, tuple[Callable[..., Tracker], tuple[str, ...]]] = {  # the packages that each needs
    "wandb": (Wandb, ("wandb",)),
    "tensorboard": (TensorBoard, ("tensorboard",)),
    "trackio": (Trackio, ("trackio",)),
    "mlflow": (Mlflow, ("mlflow",)),
}


def settings(args: TrainingArgs) -> dict[str, Any]:
    """The run's arguments as plain values."""
    return json.loads(to_json(args))


def numbers(record: Record) -> dict[str, float]:
    """The metrics that are numbers."""
    return {name: float(value) for name, value in record.items() if isinstance(value, (int, float))}


def require_tracker(args: TrainingArgs) -> None:
    """Raise where the package of the tracker that is asked for is not installed."""
    name = args.chosen_tracker
    missing = [package for package in TRACKERS[name][1] if not is_installed(package)] if name else []
    if missing:
        raise InputError(f'tracker={name!r} needs the package {missing[0]}; pip install "rlhf_lib[{name}]", or leave it out')


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a specification
        return True


def start_tracker(args: TrainingArgs, run_name: str, directory: Path, first_phase: int = 0) -> Tracker | None:
    """The tracker that the arguments ask for, told of the run; None where they ask for none.

    Raises:
        InputError: its package is not installed, or does not start.
    """
    name = args.chosen_tracker
    if name is None:
        return None
    require_tracker(args)
    try:
        return TRACKERS[name][0](args, run_name, directory, first_phase)
    except Exception as error:  # each has its own kinds: not signed in, no network, no room
        told = " ".join(str(error).split())[:200]
        raise InputError(
            f"tracker={name!r} does not start ({type(error).__name__}: {told}); mend that, or leave it out"
        ) from error
