"""Weights that are numbers: NaN and infinity are found, and named."""

from collections.abc import Iterable

import torch
from torch import Tensor

from rlhf_lib.args import InputError

SHOWN = 3  # names in an error
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity; one pass over each, and one wait for the device."""
    named = [(name, tensor) for name, tensor in tensors if tensor.dtype in KINDS]
    if not named:
        return []
    device = named[0][1].device
    found = torch.stack([tensor.isfinite().all().to(device) for _, tensor in named]).tolist()
    return [name for (name, _), is_finite in zip(named, found, strict=True) if not is_finite]


def require_finite(tensors: Iterable[tuple[str, Tensor]], what: str, remedy: str) -> None:
    """Raise where a weight is NaN or infinite.

    Raises:
        InputError: `what` holds them, in so many tensors, of which the first are named; then the remedy.
    """
    named = list(tensors)
    bad = not_finite(named)
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise InputError(
            f"{what} holds NaN or infinity in {len(bad)} of {len(named)} tensors ({', '.join(bad[:SHOWN])}{more}); {remedy}"
        )
