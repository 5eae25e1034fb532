"""Reward functions that checkers name: anyone can verify them by reading a sample."""

import torch
from torch import Tensor


def count_vowels(samples: list[str]) -> Tensor:
    """Vowels in each sample."""
    return torch.tensor([float(sum(letter in "aeiou" for letter in sample)) for sample in samples])


def count_digits(samples: list[str]) -> Tensor:
    """Digits in each sample."""
    return torch.tensor([float(sum(letter.isdigit() for letter in sample)) for sample in samples])


def always_seven(samples: list[str]) -> Tensor:
    """The same for every sample."""
    return torch.full((len(samples),), 7.0)
