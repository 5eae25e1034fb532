"""For checking forward passes: models small enough to load in a moment, and hooks that anyone can follow."""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from rlhf_lib.course.expect import Wrong
from rlhf_lib.models.checkpoint import read_tokenizer
from rlhf_lib.models.loading import BUNDLED, quiet_transformers

VOCAB = 418  # the bundled tokenizer's
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    # separate maps, fewer key-value heads than query heads
    "llama": LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        **ENDS,
    ),
    # fused q, k, v; Conv1D, which stores its weights the other way round
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=12, n_layer=2, n_head=3, n_positions=32, **ENDS),
}
FOLDERS: list[tempfile.TemporaryDirectory] = []  # kept until the process ends


@cache
def tiny_model(kind: str) -> str:
    """A directory with an untrained "llama" or "gpt2" of two blocks; the weights are the same every time."""
    folder = tempfile.TemporaryDirectory(prefix=f"tiny-{kind}-")
    FOLDERS.append(folder)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[kind])
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)  # so that attention attends, and what is wrong with it shows
        model.save_pretrained(Path(folder.name))
    read_tokenizer(str(BUNDLED["pocket"]), "pocket").save_pretrained(folder.name)
    return folder.name


def double(activation: Tensor, hook: Any) -> Tensor:
    """A hook that replaces an activation."""
    return 2 * activation


def add_one(activation: Tensor, hook: Any) -> Tensor:
    """Another, which does not commute with `double`."""
    return activation + 1


@dataclass(frozen=True)
class Require:
    """A hook that looks whether an activation is as it must be, in number of positions or dtype."""

    width: int | None = None
    dtype: torch.dtype | None = None
    __name__ = "require"  # TransformerLens asks for it

    def __call__(self, activation: Tensor, hook: Any) -> None:
        """Raise where the activation is another."""
        if self.width not in (None, activation.shape[1]):
            expected = f"a pass that computes the logits of {self.width} positions"
            raise Wrong(("expected", expected), ("got", "all computed, and then cut"))
        if self.dtype not in (None, activation.dtype):
            raise Wrong(("expected", f"an activation in {self.dtype}"), ("got", str(activation.dtype)))


def fail(activation: Tensor, hook: Any) -> NoReturn:
    """A hook that stops the pass half-way."""
    raise RuntimeError("this hook fails on purpose")
