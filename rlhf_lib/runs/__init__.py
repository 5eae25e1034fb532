"""What surrounds training: the run's directory, its metrics, its figures, its warnings."""

from rlhf_lib.runs.directory import RunDirectory, new_run_path
from rlhf_lib.runs.metrics import (
    PhaseMetrics,
    explained_variance,
    first_reaching,
    group_metrics,
    ratio_metrics,
    rollout_metrics,
)
from rlhf_lib.runs.run import Run

__all__ = [
    "PhaseMetrics",
    "Run",
    "RunDirectory",
    "explained_variance",
    "first_reaching",
    "group_metrics",
    "new_run_path",
    "ratio_metrics",
    "rollout_metrics",
]
