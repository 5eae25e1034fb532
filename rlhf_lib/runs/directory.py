"""A run's directory: what is in it, and writing so that a kill at any moment leaves whole files."""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf_lib.args import InputError, RunArgs, comparable, from_file, require, to_json
from rlhf_lib.args.types import shown
from rlhf_lib.files import append_whole, claim, write_atomically
from rlhf_lib.runs import checkpoints

RESUMABLE = (  # where and how a run is computed and watched: another one changes no number
    "output_dir",
    "resume",
    "device",
    "sampler_memory",
    "sampler_url",
    "sampler_directory",
    "sampler_timeout",
    "save_every",
    "save_model_every",
    "log_samples_every",
    "micro_batch_size",
    "checkpoint_activations",
    "tracker",
    "use_wandb",
    "wandb_entity",
    "wandb_project_name",
)
CHANGEABLE = (  # what a run may go on with differently; each change is kept in changes.jsonl
    "total_phases",
    "epochs",
    "budget",
    "base_lr",
    "head_lr",
    "lr",
    "final_scale",
    "lr_decay",
    "shard",
    "eval_every",
    "keep_best",
)
OF_EVERY_PHASE = ("step", "samples", "seconds")
RESTORE = "restore the file from a copy, or take that line out"
Changes = dict[str, list[Any]]
"""What a resumed run does differently, by name: [was, is]."""


class RunDirectory:
    """args.json, metrics.jsonl, samples.jsonl, checkpoint.pt, curves.png, summary.json, and the model's own directory.

    Args:
        path: the directory; created if missing, and locked against other processes until `release`.
        args: the run's arguments; `write_args` writes them.
        resume: continue what is there; otherwise a directory that holds a run is refused.
        is_owner: whether this process writes here; of several only the first does.

    Raises:
        InputError: not writable, being written by another process, holding another run, or on resume one with other
            arguments or none at all.
    """

    def __init__(self, path: str | os.PathLike, args: RunArgs, resume: bool = False, *, is_owner: bool = True):
        self.path = Path(path)
        self.args_file = self.path / "args.json"
        self.metrics_file = self.path / "metrics.jsonl"  # one JSON object a phase
        self.samples_file = self.path / "samples.jsonl"  # one JSON object a completion
        self.checkpoint_file = self.path / checkpoints.NAME  # all that --resume needs
        self.changes_file = self.path / "changes.jsonl"  # what it was resumed with
        self.model_dir = self.path / "model"  # an adapter in PEFT's format, or a Hugging Face directory
        self.summary_file = self.path / "summary.json"
        self.curves_file = self.path / "curves.png"
        self.args, self.lock = args, None
        self.changes: Changes = {}
        if is_owner:
            self.lock = claim(self.path)
            try:
                self.changes = self.require_usable(resume)
            except BaseException:
                self.release()
                raise

    def require_usable(self, resume: bool) -> Changes:
        """What is different from the run that is there; raise where none can be written."""
        path = str(self.path)
        if self.args_file.exists():
            require(resume, f"output_dir={path!r} holds a run already; add --resume to continue it, or choose another")
            return check_same_run(self.args_file, self.args)
        require(not resume, f"output_dir={path!r} holds no run to resume; leave out --resume to start one")
        require(
            not self.metrics_file.exists(),
            f"output_dir={path!r} holds metrics.jsonl of a run whose args.json is missing; restore that, or choose another",
        )
        for left in (checkpoints.NAME, checkpoints.PREVIOUS):  # of a start that was killed before there was a run
            (self.path / left).unlink(missing_ok=True)
        return {}

    def write_args(self, phase: int = 0) -> None:
        """Write args.json, which makes the directory hold a run; what changed after so many phases is kept as well."""
        if self.changes:
            append_json_lines(self.changes_file, [{"phase": phase, **self.changes}])
        write_atomically(self.args_file, to_json(self.args))

    def release(self) -> None:
        """Let other processes write here."""
        if self.lock is not None:
            self.lock.release()


def check_same_run(args_file: Path, args: RunArgs) -> Changes:
    """What a run is resumed with that it was not started with, by name: [was, is].

    Raises:
        InputError: a run of another algorithm, or a change of what cannot change.
    """
    earlier = from_file(type(args), args_file)
    ours, theirs = comparable(args), comparable(earlier)
    changed = {name: [theirs[name], ours[name]] for name in ours if ours[name] != theirs[name] and name not in RESUMABLE}
    refused = ", ".join(f"{name}={new!r} (was {old!r})" for name, (old, new) in changed.items() if name not in CHANGEABLE)
    allowed = ", ".join(name for name in CHANGEABLE if name in ours)
    require(
        not refused,
        f"--resume with other arguments: {refused}; a run goes on with its own, of which {allowed} may change, or starts anew "
        "elsewhere",
    )
    return changed


def new_run_path(name: str, root: str = "runs") -> Path:
    """A new, empty directory, named for the run and the time; of several processes that ask at once each gets its own."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, count = Path(root) / f"{name}-{stamp}", 2
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            path, count = Path(root) / f"{name}-{stamp}-{count}", count + 1
        except OSError as error:
            raise InputError(f"{root}/ cannot be written ({error.strerror}); give another place with --output-dir") from None


def append_json_lines(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add one line a record: all of them, or where the disk refuses none."""
    append_whole(file, "".join(json.dumps(record) + "\n" for record in records))


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """All lines of a file, each an object; a missing file is empty.

    A last line that a kill has cut, which is one without a line end, is left out.

    Raises:
        InputError: any other line is not what was written; the message has its number.
    """
    *whole, last = file.read_bytes().split(b"\n") if file.exists() else [b""]
    records = [read_line(line, f"{file}, line {number}") for number, line in enumerate(whole, start=1)]
    with suppress(InputError):
        records += [read_line(last, str(file))] if last else []
    return records


def read_line(line: bytes, where: str) -> dict[str, Any]:
    """The object that a line is; `where` names it in errors."""
    try:
        record = json.loads(line)
        found = None if isinstance(record, dict) else "no JSON object"
    except (ValueError, RecursionError):  # the first is also of bytes that are no text
        found = "no JSON"
    require(found is None, f"{where} is {found}; nothing was changed; {RESTORE}")
    return record


def keep_phases_below(file: Path, phase: int, write: bool = True) -> list[dict[str, Any]]:
    """Drop the lines of phases that a resumed run is about to repeat, in the file too if `write`; returns what stays.

    Raises:
        InputError: a line is not what was written, or is of no phase; nothing is dropped then.
    """
    records = read_json_lines(file)
    for number, record in enumerate(records, start=1):
        its = record.get("phase")
        require(
            checkpoints.is_count(its),
            f"{file}, line {number} has phase={shown(its)}, which must be a whole number; nothing was changed; {RESTORE}",
        )
    kept = [record for record in records if record["phase"] < phase]
    if write:
        write_atomically(file, "".join(json.dumps(record) + "\n" for record in kept))
    return kept


def read_metrics(file: Path, phase: int) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl below a phase, whose values are numbers, or null where a phase has none.

    Raises:
        InputError: see keep_phases_below; or a value of another kind.
    """
    records = keep_phases_below(file, phase, write=False)
    for number, record in enumerate(records, start=1):
        strange = [name for name, value in record.items() if value is not None and type(value) not in (int, float)]
        strange += [name for name in OF_EVERY_PHASE if record.get(name) is None]
        require(
            not strange,
            f"{file}, line {number} has no number for {', '.join(strange[:3])}; nothing was changed; {RESTORE}",
        )
    return records
