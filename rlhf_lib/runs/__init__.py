"""What surrounds training: the run's directory, its metrics, its figures, its warnings."""

from rlhf_lib.runs.checkpoints import about_checkpoint
from rlhf_lib.runs.directory import RunDirectory, new_run_path
from rlhf_lib.runs.divergence import TrainingDiverged
from rlhf_lib.runs.kept import policy_of_run
from rlhf_lib.runs.metrics import (
    PhaseMetrics,
    explained_variance,
    first_reaching,
    group_metrics,
    ratio_metrics,
    rollout_metrics,
)
from rlhf_lib.runs.run import Run
from rlhf_lib.runs.trackers import require_tracker

__all__ = [
    "PhaseMetrics",
    "Run",
    "RunDirectory",
    "TrainingDiverged",
    "about_checkpoint",
    "explained_variance",
    "first_reaching",
    "group_metrics",
    "new_run_path",
    "policy_of_run",
    "ratio_metrics",
    "require_tracker",
    "rollout_metrics",
]
