"""Checkpoints whose damage is noticed: what torch.save writes, then one line of JSON about it with a checksum of all before.

The last two are kept, checkpoint.pt and checkpoint.previous.pt. torch.load reads the file too, and passes over the line.
"""

import hashlib
import json
import os
import pickle
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from rlhf_lib.args import InputError
from rlhf_lib.files import whole_file, writing
from rlhf_lib.runs.shares import fault_in, is_told

NAME, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
FORMAT = 2
"""Checkpoints before the second had no checksum."""
LONGEST_LINE = 1 << 16


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0."""
    return type(value) is int and value >= 0


def is_of_tensors(value: Any) -> bool:
    """Whether a value is tensors by name, some at least."""
    return isinstance(value, dict) and bool(value) and all(isinstance(one, torch.Tensor) for one in value.values())


def is_optimizer(value: Any) -> bool:
    """Whether a value is what an optimiser's state_dict gives."""
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    return isinstance(groups, list) and all(isinstance(group, dict) and "params" in group for group in groups)


def is_generator_state(value: Any) -> bool:
    """Whether a value is the state of torch's generator of random numbers."""
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8 and value.shape == torch.get_rng_state().shape


def is_json_object(value: Any) -> bool:
    """Whether a value is a JSON object, as text."""
    try:
        return isinstance(json.loads(value), dict)
    except (ValueError, TypeError, RecursionError):
        return False


CONTENTS: dict[str, Callable[[Any], bool]] = {
    "next_phase": is_count,
    "step": is_count,
    "model": is_of_tensors,
    "optimizer": is_optimizer,
    "scheduler": lambda value: isinstance(value, dict) and is_count(value.get("last_epoch")),
    "rng": is_generator_state,
    "before": is_json_object,
    "seconds": lambda value: type(value) in (int, float),
}
"""What a checkpoint holds at least, and how to tell it."""


class Damaged(InputError):
    """A checkpoint that is missing or not what was written."""


class Summed:
    """A file to write to, with the SHA-256 of what was written."""

    def __init__(self, handle: IO[bytes]):
        self.handle, self.sum = handle, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write, and add to the sum."""
        self.sum.update(data)
        return self.handle.write(data)

    def flush(self) -> None:
        """For torch."""
        self.handle.flush()


def closing_line(about: dict[str, Any], summed: Any) -> bytes:
    """The line that ends a checkpoint; `summed` has seen all before it."""
    summed = summed.copy()
    summed.update(json.dumps(about).encode())
    return b"\n" + json.dumps({**about, "sha256": summed.hexdigest()}).encode() + b"\n"


def save_checkpoint(file: Path, state: dict[str, Any], **about: Any) -> None:
    """Write a checkpoint that is always whole; the one that was there becomes the one before.

    `about` is what can be read without the tensors, by `about_checkpoint`; next_phase always can.

    Raises:
        CannotWrite: the disk is full or refuses; both checkpoints stay.
    """
    about = {"format": FORMAT, "next_phase": state["next_phase"], **about}
    if "shares" in state:
        about["shares"] = state["shares"]["directory"]
    with whole_file(file) as handle:
        summed = Summed(handle)
        torch.save({**state, "format": FORMAT}, summed)
        handle.write(closing_line(about, summed.sum))
        handle.flush()
        os.fsync(handle.fileno())
        keep_previous(file)


def keep_previous(file: Path) -> None:
    """Give the checkpoint a second name, so that at no moment there is none under the first."""
    if not file.exists():
        return
    previous = file.with_name(PREVIOUS)
    temporary = file.with_name(f".{PREVIOUS}.tmp")
    with writing(previous):
        temporary.unlink(missing_ok=True)
        try:
            os.link(file, temporary)
        except OSError:  # a file system without second names
            shutil.copyfile(file, temporary)
        os.replace(temporary, previous)
        temporary.unlink(missing_ok=True)  # renaming does nothing where both names are of one file


def read_line(handle: IO[bytes]) -> tuple[dict[str, Any] | None, int]:
    """What the closing line says, without the checksum, and where it begins; None and the file's size without one."""
    size = handle.seek(0, os.SEEK_END)
    handle.seek(max(0, size - LONGEST_LINE))
    end = handle.read()
    start = end[:-1].rfind(b"\n")
    try:
        about = dict(json.loads(end[start + 1 :]))
        about.pop("sha256")
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, size
    return about, size - len(end) + start


def about_checkpoint(run: Path) -> dict[str, Any]:
    """What a run's last checkpoint says of itself, unchecked and without its tensors; empty where it cannot be read."""
    try:
        with open(run / NAME, "rb") as handle:
            about = read_line(handle)[0] or {}
    except OSError:
        return {}
    prepared = about.get("prepared", {})
    counts = [about.get("next_phase"), *(prepared.values() if isinstance(prepared, dict) else [None])]
    return about if all(map(is_count, counts)) else {}


def named_shares(run: Path) -> list[str | None]:
    """The directories of shares (see `shares`) that a run's last two checkpoints name."""
    found = []
    for name in (NAME, PREVIOUS):
        with suppress(OSError), open(run / name, "rb") as handle:
            found.append((read_line(handle)[0] or {}).get("shares"))
    return found


def is_as_written(handle: IO[bytes], about: dict[str, Any], length: int) -> bool:
    """Whether every byte of an open checkpoint, its closing line included, is as it was written."""
    summed, left = hashlib.sha256(), length
    handle.seek(0)
    while left:
        block = handle.read(min(left, 1 << 20))
        if not block:
            return False
        summed.update(block)
        left -= len(block)
    return handle.read() == closing_line(about, summed)


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The state in one file.

    Raises:
        Damaged: it is missing, empty, cut, altered or of something else.
    """
    try:
        with open(file, "rb") as handle:
            about, length = read_line(handle)
            if length == 0 and about is None:
                raise Damaged(f"{file} is empty")
            if about is not None and not is_as_written(handle, about, length):
                raise Damaged(f"{file} was altered after it was written: its checksum is not that of its bytes")
            handle.seek(0)
            state = torch.load(handle, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Damaged(f"{file} does not exist") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if isinstance(error, Damaged):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:80]
        raise Damaged(f"{file} is truncated or no checkpoint ({reason})") from None
    require_contents(state, file)
    if about is None:
        if "format" in state:
            raise Damaged(f"{file} was altered or cut: its last line, with the checksum, is not there")
        print(f"rlhf: {file} is of a version without checksums, so that damage to it would go unnoticed", file=sys.stderr)
    return state


def require_contents(state: Any, file: Path) -> None:
    """Raise Damaged unless a state is what a run writes, the shares that it names included."""
    if not isinstance(state, dict) or "next_phase" not in state:
        raise Damaged(f"{file} is not a checkpoint of rlhf_lib")
    is_spread = "shares" in state  # perhaps the whole model
    wrong = [name for name, fits in CONTENTS.items() if not fits(state.get(name)) and not (is_spread and name == "model")]
    if wrong:
        raise Damaged(f"{file} is not a checkpoint of rlhf_lib: it has no {' and no '.join(wrong)} such as a run writes")
    if is_spread and not is_told(state["shares"]):
        raise Damaged(f"{file} is not a checkpoint of rlhf_lib: it names no shares such as a run writes")
    fault = fault_in(state["shares"], file.parent) if is_spread else None
    if fault is not None:
        raise Damaged(fault)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """The state in a checkpoint; only tensors and plain values are accepted.

    Raises:
        Damaged: it is not what was written; where the one before is whole, the message says how to go on from that.
    """
    try:
        return read_checkpoint(file)
    except Damaged as damage:
        previous = file.with_name(PREVIOUS)
        with suppress(Damaged):
            phase = read_checkpoint(previous)["next_phase"]
            move = shlex.join(["mv", str(previous), str(file)])
            raise InputError(
                f"{damage}; the checkpoint before it, after phase {phase}, is whole: to go on from that, `{move}` and start "
                "again with --resume"
            ) from None
        others = sorted(one.name for one in file.parent.glob("model-*"))
        kept = f"go on from a model that it kept ({', '.join(others)}) with --adapter or --base-model" if others else ""
        raise InputError(
            f"{damage}, and there is no whole one before it; {kept or 'restore it from a copy'}, or start anew elsewhere"
        ) from None
