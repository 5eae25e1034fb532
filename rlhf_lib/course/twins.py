"""For checking trainers: the library's own model with the same weights, and expectations without sampling noise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rlhf_lib.course import expect
from rlhf_lib.course.student import Handle, Student


def disturb(student: Student, trainer: Handle, suffix: str, size: float = 0.1) -> dict[str, Tensor]:
    """Add noise to those tensors of a trainer's model whose names end so, as training would; returns all its tensors."""
    found = student.tensors(trainer)
    chosen = {name: tensor for name, tensor in found.items() if name.startswith("model.") and name.endswith(suffix)}
    expect.true(bool(chosen), f"a model with tensors that end in {suffix}", f"only {len(found)} others")
    moved = {name: tensor + size * student.randn(*tensor.shape) for name, tensor in chosen.items()}
    return {**found, **student.tensors(trainer, moved)}


def twin_of(model: Any, tensors: dict[str, Tensor]) -> Any:
    """The library's model, filled with a trainer's tensors under "model."."""
    with torch.no_grad():
        for name, own in model.named_parameters():
            own.copy_(tensors[f"model.{name}"])
    return model


def token_rewards(tokenizer: Any, prefix: str, reward_fn: Callable[[list[str]], Tensor]) -> Tensor:
    """The reward of the prefix with each single token after it [vocab]."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
    return reward_fn([prefix + text for text in texts])


@torch.no_grad()
def expected_reward(model: Any, prefix: str, reward_fn: Callable[[list[str]], Tensor]) -> float:
    """Exact expectation of the reward of one generated token: a policy that can be enumerated."""
    logits, _ = model.forward_with_value_head(model.to_tokens(prefix))
    probs = logits[0, -1].softmax(-1)
    rewards = token_rewards(model.tokenizer, prefix, reward_fn)
    return float((probs[: len(rewards)] * rewards).sum() / probs[: len(rewards)].sum())
