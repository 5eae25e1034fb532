"""Several processes that train as one (torchrun): the same program on each, the heavy work shared by rows.

Every process holds the whole phase: all prompts, tokens, rewards, advantages, in the same order, from the same seed. What is
dear is split: each process samples and passes through the model only its own rows, prompts of a group together, and the numbers
a token that come out are added up over processes, where all but one hold 0. The objective, its whitening, its averages over
real tokens, and every metric are thus computed on the whole minibatch, as one process would; the gradient that each process
gets is that of its own rows, and the sum over processes is the whole one.
"""

import atexit
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor

from rlhf_lib.args import InputError

TIMEOUT = timedelta(minutes=30)  # for a slow process; one that has died is noticed at once
WAITING: list[tuple[Tensor, Tensor | None]] = []  # parameters of the backward pass under way, with their gradients before it
STATE = {"joined": False}


class LostProcess(InputError):
    """Another process of the run is gone."""


def count() -> int:
    """Number of processes that train as one; 1 unless `start` has joined them."""
    return dist.get_world_size() if STATE["joined"] else 1


def number() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks."""
    return number() == 0


def device_type() -> str:
    """Where tensors must be that processes exchange: cuda or cpu."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def start(device: str) -> str:
    """Join the other processes if torchrun has started several; returns the device that is this process's.

    On CUDA each process takes the GPU of its local number, and NCCL connects them; elsewhere gloo does.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return device
    is_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if is_cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_cuda else "gloo", timeout=TIMEOUT)
    STATE["joined"] = True
    atexit.register(stop)
    return device


def stop() -> None:
    """Leave the other processes."""
    if STATE["joined"]:
        STATE["joined"] = False
        dist.destroy_process_group()


def noticing_loss(function: Callable) -> Callable:
    """Turn what a collective operation raises when a process has died into an error that says what to do."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LostProcess(
                f"process {number()} of {count()} lost another process of this run ({str(error).splitlines()[0][:120]}); the "
                "last checkpoint is whole: start it again with --resume --output-dir DIRECTORY, on any number of processes"
            ) from error

    return call


def own_rows(prompts: Int[Tensor, "batch prefix"] | list) -> slice:
    """The rows that are this process's: an even share, in which equal prompts that follow each other stay together.

    With fewer different prompts than processes a prompt's rows are split after all.
    """
    batch, shares = len(prompts), count()
    if shares == 1:
        return slice(0, batch)
    if isinstance(prompts, Tensor):
        starts = [0, *((prompts[1:] != prompts[:-1]).any(dim=1).nonzero()[:, 0] + 1).tolist()]
    else:
        starts = [i for i in range(batch) if i == 0 or prompts[i] != prompts[i - 1]]
    if len(starts) < shares:
        starts = list(range(batch))
    bounds = [*(starts[len(starts) * i // shares] for i in range(shares)), batch] if batch else [0] * (shares + 1)
    return slice(bounds[number()], bounds[number() + 1])


@noticing_loss
def sum_over(tensor: Tensor) -> Tensor:
    """The sum over processes, without gradients."""
    if count() > 1:
        tensor = tensor.contiguous().clone()
        dist.all_reduce(tensor)
    return tensor


@noticing_loss
def gather_rows(rows: Tensor) -> Tensor:
    """All processes' rows, in the order of their numbers; each may have another number of them. Without gradients."""
    if count() == 1:
        return rows
    counts = torch.zeros(count(), dtype=torch.long, device=rows.device)
    counts[number()] = len(rows)
    dist.all_reduce(counts)
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(count())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])


@noticing_loss
def gather_lists(values: list[Any]) -> list[Any]:
    """All processes' values in one list, in the order of their numbers."""
    if count() == 1:
        return values
    parts: list[Any] = [None] * count()
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


@noticing_loss
def agree(mine: bool) -> bool:
    """Whether any process says so."""
    if count() == 1:
        return mine
    votes = torch.tensor(float(mine), device=device_type())
    dist.all_reduce(votes)
    return bool(votes > 0)


@noticing_loss
def most(mine: int) -> int:
    """The largest of all processes' numbers."""
    if count() == 1:
        return mine
    numbers = torch.tensor(mine, device=device_type())
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return int(numbers)


@noticing_loss
def wait_for_all() -> None:
    """Go on when every process has come here."""
    if count() > 1:
        dist.barrier()


class SumOfParts(torch.autograd.Function):
    """A sum over processes of which this one contributes a part; backward, its own part's gradient, then all gradients' sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """The whole."""
        WAITING.clear()  # of a backward pass that failed
        ctx.parameters = parameters
        return sum_over(part)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """What every process computes from the whole, it computes alike: the part's gradient is there already."""
        if ctx.parameters and not WAITING:
            torch.autograd.Variable._execution_engine.queue_callback(sum_gradients)
        for parameter in ctx.parameters:
            if not any(parameter is other for other, _ in WAITING):
                WAITING.append((parameter, parameter.grad))
                parameter.grad = None  # what this pass adds is summed alone
        return gradient, None


def is_share(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes, so that each has a share of it."""
    return hasattr(tensor, "full_tensor")


def sum_of_parts(part: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """The sum over processes; the backward pass ends with gradients of `parameters` summed over processes.

    Those that are spread over processes look after themselves.
    """
    if count() == 1:
        return part
    parameters = tuple(parameter for parameter in parameters if not is_share(parameter))
    if torch.is_grad_enabled() and parameters and not part.requires_grad:
        part = part + 0 * parameters[0].sum()  # a process without rows takes part in the backward pass too
    return SumOfParts.apply(part, parameters)


@noticing_loss
def sum_gradients() -> None:
    """Sum the gradients of the pass that has ended, as one flat tensor, and add them to what was there before it."""
    waiting = list(WAITING)
    WAITING.clear()
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p, _ in waiting])
    dist.all_reduce(flat)
    for (parameter, before), part in zip(waiting, flat.split([p.numel() for p, _ in waiting]), strict=True):
        summed = part.view_as(parameter)
        parameter.grad = summed.clone() if before is None else before.add_(summed)
