"""The part of a checkpoint that is spread over processes (--shard): a directory of torch.distributed.checkpoint beside it.

Each process writes its shares, and another number of processes, one included, can read them. checkpoint.pt has the rest, the
directory's name, and the checksums of its files; a directory that neither of the last two checkpoints names is removed.
"""

import hashlib
import logging
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_lib import parallel
from rlhf_lib.files import writing
from rlhf_lib.parallel import is_share
from rlhf_lib.sharding import like

PREFIX = "checkpoint-shares-"
METADATA = "torch.distributed.checkpoint.metadata"
DESCRIBING = (
    *(f"{METADATA}.{name}" for name in ("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")),
    *(f"{METADATA}.{name}" for name in ("ChunkStorageMetadata", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")),
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    "torch.Size",
)
"""What the description of tensors is made of."""


def is_told(shares: Any) -> bool:
    """Whether a value is what a checkpoint says of its shares: a directory beside it, and the sum of every file."""
    if not isinstance(shares, dict) or not isinstance(shares.get("sums"), dict):
        return False
    return re.fullmatch(rf"{PREFIX}\d+-\d+", str(shares.get("directory"))) is not None and ".metadata" in shares["sums"]


class Description(pickle.Unpickler):
    """Reads the pickled description of a directory of shares (.metadata), which may name nothing but what describes tensors."""

    def find_class(self, module: str, name: str) -> Any:
        """What has that name; an error for all else, so that no file's code is ever run."""
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        is_path = module.split(".")[0] == "pathlib" and name.endswith("Path")
        if is_dtype or is_path or f"{module}.{name}" in DESCRIBING:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def take_out(state: dict[str, Any], run: Path) -> dict[str, Any]:
    """Write a state's shares, in a directory of their own under the run's; returns the state without them. For all processes.

    Without shares it is as it was.
    """
    rest, found = {**state, "model": {}, "optimizer": {**state["optimizer"], "state": {}}}, {}
    for name, tensor in state["model"].items():
        (found if is_share(tensor) else rest["model"])[f"model.{name}" if is_share(tensor) else name] = tensor
    for number, moments in state["optimizer"]["state"].items():
        rest["optimizer"]["state"][number] = {name: value for name, value in moments.items() if not is_share(value)}
        found |= {f"optimizer.{number}.{name}": value for name, value in moments.items() if is_share(value)}
    if not found:
        return state
    name = f"{PREFIX}{state['next_phase']:04d}-{state['step']:06d}"
    return {**rest, "shares": {"directory": name, "sums": save(found, run / name)}}


def save(tensors: dict[str, Tensor], directory: Path) -> dict[str, str]:
    """Write tensors of which each process has its share; returns the SHA-256 of every file by its name."""
    import torch.distributed.checkpoint as dcp

    if parallel.is_first():
        shutil.rmtree(directory, ignore_errors=True)  # of a run that was killed here
    parallel.wait_for_all()
    with writing(directory), quietly():
        dcp.save(tensors, checkpoint_id=directory)
    return dict(parallel.gather_lists([(file.name, sum_of(file)) for file in own_files(files_in(directory))]))


def files_in(directory: Path) -> list[Path]:
    """Its files, the description of the whole (.metadata) included."""
    return sorted(file for file in directory.iterdir() if file.is_file())


def own_files(files: list[Path]) -> list[Path]:
    """Those that this process sums up."""
    return files[parallel.number() :: parallel.count()]


def sum_of(file: Path) -> str:
    """The SHA-256 of a file."""
    summed = hashlib.sha256()
    with open(file, "rb") as handle:
        while block := handle.read(1 << 20):
            summed.update(block)
    return summed.hexdigest()


def fault_in(shares: dict[str, Any], run: Path) -> str | None:
    """What is wrong with the directory that a checkpoint names; None if it is as it was written. For all processes."""
    directory = run / shares["directory"]
    if not directory.is_dir():
        return f"{directory} does not exist"
    missing = [name for name in shares["sums"] if not (directory / name).is_file()]
    if missing:
        return f"{directory} lacks {', '.join(missing)}"
    altered = [name for file in own_files(files_in(directory)) if shares["sums"].get(name := file.name) != sum_of(file)]
    altered = parallel.gather_lists(altered)
    if altered:
        return f"{directory} was altered after it was written ({', '.join(altered)})"
    try:
        with open(directory / ".metadata", "rb") as handle:
            Description(handle).load()
    except Exception as error:  # what such a file leads to has no end of types
        return f"{directory / '.metadata'} describes no tensors ({str(error)[:80]})"
    return None


def put_back(state: dict[str, Any], run: Path, model: dict[str, Tensor], parameters: list[Tensor]) -> dict[str, Any]:
    """The whole of a state that may have shares elsewhere, every tensor spread as the run's now are. For all processes.

    Args:
        state: what a checkpoint has.
        run: the run's directory.
        model: what training changes, as it is now; of what is not there, all is read into one tensor.
        parameters: the optimiser's, in its order; empty leaves its moments out.
    """
    templates = read_templates(state, run, model, parameters)
    if templates:
        import torch.distributed.checkpoint as dcp

        with quietly():
            dcp.load(templates, checkpoint_id=run / state["shares"]["directory"], no_dist=parallel.count() == 1)
    whole = {**state, "model": dict(state["model"])}
    moments = {number: dict(found) for number, found in state["optimizer"]["state"].items()}
    for key, tensor in templates.items():
        part, _, name = key.partition(".")
        number, _, moment = name.partition(".")
        if part == "model":
            whole["model"][name] = tensor
        else:
            moments[int(number)][moment] = tensor
    whole["model"] = {name: like(tensor, model.get(name, tensor)) for name, tensor in whole["model"].items()}
    for number, found in moments.items() if parameters else ():
        own = parameters[number]
        moments[number] = {n: like(t, own) if getattr(t, "shape", None) == own.shape else t for n, t in found.items()}
    whole["optimizer"] = {**state["optimizer"], "state": moments}
    return whole


def read_templates(state: dict[str, Any], run: Path, model: dict[str, Tensor], parameters: list[Tensor]) -> dict[str, Tensor]:
    """A tensor to read each share into, spread as the run's now are."""
    if "shares" not in state:
        return {}
    from torch.distributed.checkpoint import FileSystemReader

    told = FileSystemReader(run / state["shares"]["directory"]).read_metadata().state_dict_metadata
    templates = {}
    for key, about in told.items():
        part, _, name = key.partition(".")
        now = model.get(name) if part == "model" else None
        if part == "optimizer" and parameters:
            now = parameters[int(name.partition(".")[0])]
        if part == "model" or parameters:
            fits = now is not None and now.shape == about.size
            templates[key] = torch.zeros_like(now.detach()) if fits else torch.zeros(about.size, dtype=about.properties.dtype)
    return templates


def forget_others(run: Path, *kept: str | None) -> None:
    """Remove the directories of shares that no checkpoint names any more."""
    for directory in run.glob(f"{PREFIX}*"):
        if directory.name not in kept:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def quietly() -> Iterator[None]:
    """Without torch.distributed.checkpoint's advice."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
