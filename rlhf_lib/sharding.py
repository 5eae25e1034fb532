"""A model whose weights are spread over processes (torchrun with --shard): FSDP2, a share of every tensor a process.

A layer is whole only while it computes: its weights are gathered before, and let go of after, forward and backward; its
gradient is summed over processes, and each keeps the share that goes with its weights. Optimiser and its moments see shares
alone. Every process must therefore pass through every layer equally often, and it is the engine that sees to that.
"""

from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rlhf_lib import parallel
from rlhf_lib.args import InputError
from rlhf_lib.parallel import is_share

Result = TypeVar("Result")


def shard(module: nn.Module, layers: Iterable[nn.Module] = ()) -> None:
    """Leave each process its share of a module's weights, in place; what is left of it without its layers is one unit more.

    Gradients come out summed over processes, not averaged.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # most of a second to import

    mesh = init_device_mesh(parallel.device_type(), (parallel.count(),))
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()  # what a bridge has split off a fused map is not
    for unit in (*layers, module):
        fully_shard(unit, mesh=mesh)
        sum_gradients(unit)
        unit.compute = MethodType(compute, unit)
        register_fsdp_forward_method(unit, "compute")
    module.shares = tuple(module.parameters())


def sum_gradients(unit: Any) -> None:
    """Add up processes' gradients, which FSDP2 averages unless told.

    Raises:
        InputError: gloo, which adds up and nothing else, with a torch that cannot tell FSDP2 so.
    """
    setting = getattr(unit, "set_gradient_divide_factor", None) or unit.set_reduce_scatter_divide_factor  # its older name
    setting(1.0)
    if hasattr(unit, "set_force_sum_reduction_for_comms"):
        unit.set_force_sum_reduction_for_comms(True)
    elif parallel.device_type() == "cpu":
        raise InputError(f"shard=True on a CPU needs a newer torch than {torch.__version__}; install one, or use CUDA")


def compute(unit: nn.Module, function: Callable[..., Result], *inputs: Any) -> Result:
    """What FSDP2 takes for the unit's forward pass."""
    return function(*inputs)


def with_whole(unit: nn.Module, function: Callable[..., Result], *inputs: Any) -> Result:
    """function(*inputs) while the weights of a module, where they are spread, are whole; those of its layers are not."""
    return unit.compute(function, *inputs) if is_sharded(unit) else function(*inputs)


def is_sharded(module: nn.Module) -> bool:
    """Whether its weights are spread."""
    return "compute" in vars(module)


def make_whole(module: nn.Module) -> None:
    """Make the weights of a module, where they are spread, whole until its next backward pass; those of its layers are not."""
    if is_sharded(module):
        module.unshard()


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """A module's parameters; of one that is spread the shares, also while its weights are gathered."""
    return list(module.shares if is_sharded(module) else module.parameters())


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if is_share(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that every process has; of one that is spread all of it, and all processes must ask."""
    return tensor.full_tensor() if is_share(tensor) else tensor


def for_first(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a tensor that is spread all of it, which all processes must ask for and only the first gets."""
    is_wanted = parallel.is_first() or not is_share(tensor)
    full = whole(tensor.detach())
    return full.cpu().clone() if is_wanted else full.new_empty(0)


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A tensor that every process has, spread as another is."""
    if not is_share(model):
        return tensor

    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
