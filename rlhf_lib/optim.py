"""The optimiser and its schedule."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from rlhf_lib.args import InputError, RLArgs


def get_optimizer(
    model: Any,
    base_lr: float,
    head_lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """AdamW that MAXIMISES, with one learning rate for the model (or its adapters) and one for the value head.

    Two parameter groups in this order: what the model trains apart from the head, at base_lr; the value head's parameters
    (none without a head), at head_lr. `betas` and `weight_decay` are AdamW's own, with torch's defaults.
    """
    groups = [
        {"params": model.get_base_model_trainable_params(), "lr": base_lr},
        {"params": model.get_value_head_params(), "lr": head_lr},
    ]
    return torch.optim.AdamW(groups, betas=betas, weight_decay=weight_decay, maximize=True)


def learning_rate_scale(phase: int, args: RLArgs) -> float:
    """Share of the peak learning rate in a phase (0 is the first): linear warm-up that starts above 0, then decay.

    Phase k of the warm-up has (k + 1) / (warmup_steps + 1). Phase `warmup_steps` has 1; from there the share falls linearly, or
    by half a cosine wave with `lr_decay` cosine. The last phase, total_phases - 1, has `final_scale`, or 1 where it is phase
    `warmup_steps`; any later phase has `final_scale`.
    """
    if phase < args.warmup_steps:
        return (phase + 1) / (args.warmup_steps + 1)
    decay_phases = max(1, args.total_phases - 1 - args.warmup_steps)
    done = min(1.0, (phase - args.warmup_steps) / decay_phases)
    left = 1 - done if args.lr_decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return args.final_scale + (1 - args.final_scale) * left


def get_optimizer_and_scheduler(args: RLArgs, model: Any) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """The optimiser, and the schedule that is to be stepped once a phase."""
    options = {"betas": (args.adam_beta1, args.adam_beta2), "weight_decay": args.weight_decay}
    head_lr = getattr(args, "head_lr", args.base_lr)  # of a head, where there is one
    optimizer: torch.optim.Optimizer = get_optimizer(model, args.base_lr, head_lr, **options)
    if args.optimizer != "adamw":
        optimizer = adamw(args.optimizer, optimizer.param_groups, maximize=True, **options)
    return optimizer, LambdaLR(optimizer, lambda phase: learning_rate_scale(phase, args))


def warmup_then_decay(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate in supervised training: up in a straight line, never from 0, then down to 0."""
    warmup = round(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0.0, (steps - step) / max(1, steps - warmup))


def adamw(kind: str, groups: Any, *, maximize: bool = False, **options: Any) -> torch.optim.Optimizer:
    """AdamW, or with kind "adamw8bit" bitsandbytes' version, whose two moments take 2 bytes a number in place of 8."""
    if kind == "adamw":
        return torch.optim.AdamW(groups, maximize=maximize, **options)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise InputError(
            'optimizer="adamw8bit" needs the package bitsandbytes; pip install "rlhf_lib[quantized]", or use adamw'
        ) from None
    optimizer = AdamW8bit(groups, **options)
    if maximize:  # it can only minimise
        optimizer.register_step_pre_hook(negate_gradients)
    return optimizer


def negate_gradients(optimizer: torch.optim.Optimizer, *step: Any) -> None:
    """Turn every gradient around, in place."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.neg_()


def get_supervised_optimizer(
    parameters: list[torch.nn.Parameter], lr: float, weight_decay: float, kind: str = "adamw"
) -> torch.optim.Optimizer:
    """AdamW that minimises a loss."""
    return adamw(kind, parameters, lr=lr, weight_decay=weight_decay)
