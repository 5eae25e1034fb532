"""A run's directory: what is in it, and writing so that a kill at any moment leaves whole files."""

import json
import os
import pickle
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from rlhf_lib.args import InputError, RunArgs, comparable, from_json, to_json
from rlhf_lib.files import whole_file, write_atomically

RESUMABLE = (
    "output_dir",
    "resume",
    "device",
    "sampler_memory",
    "sampler_url",
    "sampler_directory",
    "sampler_timeout",
    "save_every",
    "log_samples_every",
    "micro_batch_size",
    "checkpoint_activations",
    "use_wandb",
    "wandb_entity",
    "wandb_project_name",
)


class RunDirectory:
    """args.json, metrics.jsonl, samples.jsonl, checkpoint.pt, curves.png, summary.json, and the model's own directory.

    Args:
        path: the directory; created if missing.
        args: the run's arguments; `claim` writes them.
        resume: continue what is there; otherwise a directory that holds a run is refused.
        is_owner: whether this process writes here; of several only the first does.

    Raises:
        InputError: not writable, holding another run, or on resume one with other arguments or none at all.
    """

    def __init__(self, path: str | os.PathLike, args: RunArgs, resume: bool = False, *, is_owner: bool = True):
        self.path = Path(path)
        self.args_file = self.path / "args.json"
        self.metrics_file = self.path / "metrics.jsonl"  # one JSON object a phase
        self.samples_file = self.path / "samples.jsonl"  # one JSON object a completion
        self.checkpoint_file = self.path / "checkpoint.pt"  # all that --resume needs
        self.model_dir = self.path / "model"  # an adapter in PEFT's format, or a Hugging Face directory
        self.summary_file = self.path / "summary.json"
        self.curves_file = self.path / "curves.png"
        self.args = args
        if is_owner:
            self.require_usable(resume)

    def require_usable(self, resume: bool) -> None:
        """Raise where the run cannot be written here."""
        path, args = str(self.path), self.args
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write-test-{os.getpid()}"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise InputError(f"output_dir={path!r} cannot be written ({error.strerror}); choose another --output-dir") from None
        if self.args_file.exists() and not resume:
            raise InputError(f"output_dir={path!r} holds a run already; add --resume to continue it, or choose another")
        if self.args_file.exists():
            check_same_run(self.args_file, args)
        elif resume:
            raise InputError(f"output_dir={path!r} holds no run to resume; leave out --resume to start one")

    def claim(self) -> None:
        """Write args.json, which makes the directory hold a run."""
        write_atomically(self.args_file, to_json(self.args))


def check_same_run(args_file: Path, args: RunArgs) -> None:
    """A run may only be resumed with the arguments it was started with."""
    earlier = from_json(type(args), args_file.read_text(), str(args_file))
    ours, theirs = comparable(args), comparable(earlier)
    changed = [name for name in ours if ours[name] != theirs[name] and name not in RESUMABLE]
    if changed:
        listed = ", ".join(f"{name}={ours[name]!r} (was {theirs[name]!r})" for name in changed)
        raise InputError(f"--resume with other arguments: {listed}; a run continues with its own, or starts anew elsewhere")


def new_run_path(name: str, root: str = "runs") -> Path:
    """A directory that does not exist yet, named for the run and the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, count = Path(root) / f"{name}-{stamp}", 2
    while path.exists():
        path, count = Path(root) / f"{name}-{stamp}-{count}", count + 1
    return path


def append_json_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add one line a record."""
    with open(file, "a") as handle:
        handle.writelines(json.dumps(record) + "\n" for record in records)


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """All whole lines of a file; a last line cut off by a kill is left out, and a missing file is empty."""
    records = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def keep_phases_below(file: Path, phase: int, write: bool = True) -> list[dict[str, Any]]:
    """Drop the lines of phases that a resumed run is about to repeat, in the file too if `write`; returns what stays."""
    kept = [record for record in read_json_lines(file) if record["phase"] < phase]
    if write:
        write_atomically(file, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint that is always whole."""
    with whole_file(file) as handle:
        torch.save(state, handle)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; the run was stopped before its first checkpoint, start it anew") from None
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{file} is truncated or no checkpoint ({str(error).splitlines()[0][:80]}); restore it from a copy"
        ) from None
    if not isinstance(state, dict) or "next_phase" not in state:
        raise InputError(f"{file} is not a checkpoint of rlhf_lib; give the output directory of a run")
    return state
