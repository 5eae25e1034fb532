# Rendered by `rlhf course render`; fingerprint 0b8764227089
"""Exercises of chapters/3_lora.md: fill in what raises NotAttempted.

Check your answers with `pytest tests/test_lora.py` (add -k NAME for one exercise), get a hint with
`rlhf course hint NAME`, and see your own code at work with `python -m exercises.lora`.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import einops
import numpy as np
import torch
import torch as t
from jaxtyping import Float, Int
from tabulate import tabulate
from torch import Tensor, nn

from rlhf_lib.advantages import (
    compute_advantages,
    compute_gae,
    compute_group_advantages,
    compute_leave_one_out,
    compute_process_advantages,
    normalize_reward,
)
from rlhf_lib.args import (
    FAMILY,
    LORA_MAPS,
    GrpoArgs,
    InputError,
    LoraArgs,
    PolicyGradientArgs,
    PretrainArgs,
    RLHFArgs,
    ReftArgs,
    RewardModelArgs,
    SftArgs,
)
from rlhf_lib.args.algorithms import ALGORITHMS, Algorithm
from rlhf_lib.course import NotAttempted
from rlhf_lib.evaluate import Accuracy, evaluate, evaluate_samples
from rlhf_lib.lora.adapter import AdaptedMap, find_maps, require_rank
from rlhf_lib.lora.elsewhere import SavedAdapter, load_adapter, read_adapter
from rlhf_lib.lora.peft_format import PeftNames, fuse, save_adapter
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.models import TransformerWithValueHead, loading
from rlhf_lib.models.policies import BridgedTransformer, FrozenPolicy, WithValueHead, base_of_adapter
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_estimate_penalty,
    calc_kl_penalty,
    calc_value_function_loss,
)
from rlhf_lib.optim import get_optimizer, get_optimizer_and_scheduler
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rewards import REWARDS, answers_match, correctness_reward, extract_answer, reward_fn_char_count
from rlhf_lib.rollouts import Rollout, get_logprobs, get_samples, rollout
from rlhf_lib.selection import majority_vote, pass_at_k, rerank, weighted_vote
from rlhf_lib.tasks import PocketTask, Task, WordProblemTask, make_task
from rlhf_lib.trainers import GrpoTrainer, LatroTrainer, PolicyGradientTrainer, ReftTrainer, RewardModelTrainer, SftTrainer
from rlhf_lib.trainers.ppo import RLHFTrainer

try:
    import wandb
except ImportError:
    wandb = None

device = t.device("cuda" if t.cuda.is_available() else "cpu")


class Lora(nn.Module):
    """One low-rank adapter, x -> (alpha / rank) x A B, for a linear map from d_in to d_out (Hu et al. 2021, section 4.1)."""

    def __init__(self, d_in: int, d_out: int, rank: int = 4, alpha: float = 32.0):
        """Make the trained parameters A [d_in rank] and B [rank d_out], and keep `rank` and `alpha` as attributes.

        A starts as the weight of torch's Linear(d_in, ...) does: Kaiming-uniform with a = sqrt(5) and fan-in d_in, which is
        uniform between -1/sqrt(d_in) and 1/sqrt(d_in). B starts at zero, so that a new adapter adds nothing.

        Raises:
            InputError: rank below 1 or above the smaller side of the map (`require_rank` does it).
        """
        raise NotAttempted("lora_init", "chapters/3_lora.md, exercise 3.1")

    @property
    def scale(self) -> float:
        """What the low-rank product is multiplied by: alpha / rank."""
        raise NotAttempted("lora_forward", "chapters/3_lora.md, exercise 3.2")

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The adapter's contribution, scale * (x A) B; without x itself and without the map's own output.

        It is computed in the adapter's dtype (float32), whatever x's is, and returned in x's dtype.
        """
        raise NotAttempted("lora_forward", "chapters/3_lora.md, exercise 3.2")

    def delta(self) -> Float[Tensor, "d_in d_out"]:
        """The matrix that merging adds to the map, for outputs computed as x @ weight; forward(x) equals x @ delta()."""
        raise NotAttempted("lora_delta", "chapters/3_lora.md, exercise 3.3")


def forward_with_hooks(
    bridge: nn.Module,
    fwd_hooks: list[tuple[str, Callable]],
    ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | None = None,
    *,
    logits_to_keep: int | None = None,
) -> Float[Tensor, "batch kept vocab"]:
    """Logits, in float32, of one pass of a TransformerBridge with hooks that last no longer than the pass, even if it fails.

    Args:
        bridge: called as bridge(ids, attention_mask=..., logits_to_keep=...); hooks that it has already stay as they are.
        fwd_hooks: pairs (hook name, function(activation, hook)).
        ids: token ids, padded on the left.
        attention_mask: 1 on tokens and 0 on padding; None where there is no padding.
        logits_to_keep: compute the logits of the last so many positions only; None: of all.
    """
    raise NotAttempted("forward_with_hooks", "chapters/3_lora.md, exercise 3.4")


def adapter_hooks(adapted: AdaptedMap, adapter: Lora) -> list[tuple[str, Callable]]:
    """The two hooks of one adapter as pairs (hook name, function): remember the map's input, add to the map's output.

    The names are `adapted.bridge_name` + ".hook_in" and ".hook_out". A function is called as function(activation, hook=...)
    in every forward pass; what it returns replaces the activation, unless that is None. Activations are [batch seq width],
    or split into heads [batch seq heads d_head], and keep their shape and dtype; the adapter sees and returns
    [batch seq width]. Nothing of a pass is kept after it.
    """
    raise NotAttempted("adapter_hooks", "chapters/3_lora.md, exercise 3.5")


class LoraHooks(nn.Module):
    """All adapters of a bridge, and the hooks that apply them.

    Args:
        bridge: the TransformerBridge to adapt; it is neither owned nor changed.
        rank, alpha: of every adapter; its output is scaled by alpha / rank.
        maps: which linear maps, of args.LORA_MAPS.
        own: rank and alpha of each map by its name in the bridge, in place of `rank`, `alpha` and `maps`.
    """

    def __init__(
        self,
        bridge: nn.Module,
        rank: int = 4,
        alpha: float = 32.0,
        maps: tuple[str, ...] = LORA_MAPS,
        own: dict[str, tuple[int, float]] | None = None,
    ):
        super().__init__()
        self.rank, self.alpha = rank, alpha
        found = find_maps(bridge, maps if own is None else LORA_MAPS)
        self.maps = found if own is None else [m for m in found if m.bridge_name in own]
        each = {m.bridge_name: (rank, alpha) for m in self.maps} if own is None else own
        self.adapters = nn.ModuleDict({m.key: Lora(*m.shape, *each[m.bridge_name]).to(m.weight.device) for m in self.maps})
        self.is_merged = False

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """Pairs (hook name, function) that add every adapter's contribution to a forward pass: two for each of `maps`.

        The adapter of a map `m` is `self.adapters[m.key]`; `adapter_hooks` makes the pairs of one.
        """
        raise NotAttempted("lora_fwd_hooks", "chapters/3_lora.md, exercise 3.6")

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the base weights include the adapters; afterwards they are as before, bit for bit, whatever happened.

        Adds `delta()` of every map's adapter to `m.weight`, in place and without a graph: as it is where `m.is_transposed`
        (GPT-2's Conv1D stores [d_in d_out]), otherwise transposed. `is_merged` is True inside and False outside. The adapters
        stay as they are. Inside, gradients are computed as ever.

        Raises:
            RuntimeError: the adapters are merged already.
        """
        raise NotAttempted("merged", "chapters/3_lora.md, exercise 3.7")


class TransformerWithLora(BridgedTransformer):
    """A frozen base model with trained low-rank adapters; `model(ids)` is the reference policy."""

    def __init__(
        self,
        base_model: str | os.PathLike = "pocket",
        lora_alpha: float = 32.0,
        rank: int = 4,
        *,
        maps: tuple[str, ...] = LORA_MAPS,
        device: str = "auto",
        dtype: str = "float32",
    ):
        """Load the base model, freeze all of its parameters, and make `self.lora`, the LoraHooks of its adapters.

        Args:
            base_model: "pocket", a Hugging Face name, or a local directory.
            lora_alpha, rank: of every adapter; its output is scaled by lora_alpha / rank.
            maps: which linear maps get one, of args.LORA_MAPS.
            device: auto, cpu, cuda, cuda:N or mps.
            dtype: float32 or bfloat16, of the base model; adapters are float32.
        """
        raise NotAttempted("lora_model", "chapters/3_lora.md, exercise 3.8")

    @property
    def lora_fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The adapters' hooks alone."""
        return self.lora.fwd_hooks

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The hooks that turn the base model into the policy: those of the class above, and the adapters'."""
        raise NotAttempted("lora_model", "chapters/3_lora.md, exercise 3.8")

    def lora_params(self) -> list[nn.Parameter]:
        """The adapters' parameters."""
        return list(self.lora.parameters())

    def get_base_model_trainable_params(self) -> list[nn.Parameter]:
        """What is trained apart from the value head: the adapters' parameters."""
        raise NotAttempted("lora_model", "chapters/3_lora.md, exercise 3.8")

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the adapters are added to the base weights, which come back bit for bit.

        4-bit weights cannot be added to: there the adapters' hooks stay on the base model instead, which samples the same
        policy, slower. Nor are weights that are spread over processes: the engine samples with the adapters beside them.
        """
        if any(m.is_quantised for m in self.lora.maps):
            with self.base_model.hooks(fwd_hooks=self.lora_fwd_hooks):
                yield
        elif self.is_sharded:
            yield
        else:
            with self.lora.merged():
                yield

    def refuse_if_merged(self, what: str) -> None:
        """Raise if adapters are merged, when `what` would silently use the wrong weights."""
        if self.lora.is_merged:
            raise RuntimeError(f"{what} inside `with model.merged():` would use the merged weights; leave the block first")

    def trained_parts(self) -> dict[str, nn.Module]:
        """All modules that training changes: the adapters."""
        return {"lora": self.lora}

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write the adapters in PEFT's format."""
        self.refuse_if_merged("saving")
        return save_adapter(self.lora, self.peft_names, Path(directory), loading.resolve_name(self.base.name))

    def save_merged(self, directory: str | os.PathLike) -> Path:
        """Write the base model with the adapters added to its weights, as a Hugging Face directory."""
        self.refuse_if_merged("saving")
        if any(m.is_quantised for m in self.lora.maps):
            raise InputError("4-bit weights cannot take in an adapter; load the base model in bfloat16 or float32 to merge")
        with self.merged():
            return loading.save_base(self.base, directory)

    def load_adapter(self, directory: str | os.PathLike) -> None:
        """Fill the adapters from a directory in PEFT's format; it must have the maps, ranks and scales of this policy."""
        load_adapter(self.lora, self.saved_adapter(directory), Path(directory))

    def saved_adapter(self, directory: str | os.PathLike) -> SavedAdapter:
        """The adapter in a directory, checked against this base model."""
        return read_adapter(Path(directory), find_maps(self.base_model, LORA_MAPS), self.peft_names)

    @classmethod
    def from_adapter(
        cls, directory: str | os.PathLike, base_model: str | os.PathLike | None = None, **options: Any
    ) -> "TransformerWithLora":
        """A model with the maps, ranks, scales and weights of a saved adapter, on the base model that the adapter names."""
        model = cls(base_model or base_of_adapter(directory), **options)
        saved = model.saved_adapter(directory)
        own = {name: (one.rank, one.alpha) for name, one in saved.maps.items()}
        model.lora = LoraHooks(model.base_model, saved.rank, saved.alpha, own=own)
        load_adapter(model.lora, saved, Path(directory))
        return model

    def frozen_policy(self) -> "FrozenPolicy":
        """The policy as it is now: a reference that stays, on the same base model."""
        return FrozenPolicy(self)

    @property
    def peft_names(self) -> PeftNames:
        """The translation between our maps and Hugging Face's module paths."""
        return PeftNames(self.base.parameters, self.base.fused)


class TransformerWithValueHeadLora(WithValueHead, TransformerWithLora):
    """Adapters and a value head on a frozen base model; `use_value_head=False` leaves the head out."""

    def __init__(
        self,
        base_model: str | os.PathLike = "pocket",
        lora_alpha: float = 32.0,
        rank: int = 4,
        *,
        use_value_head: bool = True,
        maps: tuple[str, ...] = LORA_MAPS,
        device: str = "auto",
        dtype: str = "float32",
    ):
        """The same as TransformerWithLora's, then `self.value_head`: made by `add_value_head`, or None if left out."""
        raise NotAttempted("value_head_lora", "chapters/3_lora.md, exercise 3.9")


def lora_parameter_count(shapes: Iterable[tuple[int, int]], rank: int) -> int:
    """Trained numbers of the adapters on linear maps of these shapes (d_in, d_out): the sum of rank x (d_in + d_out).

    A has d_in x rank numbers and B has rank x d_out (Hu et al. 2021, section 4.2).
    """
    raise NotAttempted("lora_parameter_count", "chapters/3_lora.md, exercise 3.10")


def training_bytes(base_parameters: int, adapter_parameters: int | None = None, *, bytes_per_number: int = 4) -> int:
    """Bytes held from step to step: weights, gradients, AdamW's two moments, and the reference policy's weights.

    What is trained is held four times, as weight, gradient and two moments, all of the weight's format. Adapters are
    float32: 4 bytes a number. The base model's numbers take `bytes_per_number` bytes (4 in float32, 2 in bfloat16).

    - Full fine-tuning (`adapter_parameters` None): everything is trained, and the reference is a frozen copy of the weights.
    - LoRA: the adapters are trained; the base model is only kept, and is the reference policy as it stands.
    """
    raise NotAttempted("training_bytes", "chapters/3_lora.md, exercise 3.11")


@torch.no_grad()
def peft_tensors(hooks: LoraHooks, names: PeftNames) -> dict[str, Tensor]:
    """All adapters by PEFT's names, as PEFT stores them: contiguous, on the CPU, without the scale.

    The map at Hugging Face path P (`names.path(m)`) has two tensors: base_model.model.P.lora_A.weight = A^T [rank d_in] and
    base_model.model.P.lora_B.weight = B^T [d_out rank]. Where `names.is_fused(m)`, A and B are those of the fused map that m
    is part of, which `fuse(hooks.adapters, m, names)` gives. The scale alpha / rank stands in PEFT's configuration instead.
    """
    raise NotAttempted("peft_tensors", "chapters/3_lora.md, exercise 3.12")


def main() -> None:
    """Train adapters by PPO on word problems for a few phases, and look at what came of it; --help lists the options."""
    short = replace(recipe(LoraArgs, "ppo-lora-pocket"), total_phases=8, warmup_steps=1, eval_problems=0, log_samples_every=0)
    args = script_args(LoraArgs, "lora", short)

    options = {"maps": args.lora_maps, "device": args.device, "dtype": args.dtype}

    class OwnModelTrainer(RLHFTrainer):
        """The library's trainer with this file's model."""

        def build_models(self) -> tuple[Any, Any]:
            build = TransformerWithValueHeadLora.from_pretrained
            model = build(args.base_model, args.lora_alpha, args.lora_rank, **options)
            return model, model

    trainer = OwnModelTrainer(args)
    model, shapes = trainer.model, [m.shape for m in trainer.model.lora.maps]
    numbers, size = sum(p.numel() for p in model.base_model_params()), 2 if args.dtype == "bfloat16" else 4
    rows = [("everything", numbers, training_bytes(numbers, bytes_per_number=size) / 1e6)]
    for rank in (1, 4, 16):
        count = lora_parameter_count(shapes, rank)
        rows.append((f"adapters of rank {rank}", count, training_bytes(numbers, count, bytes_per_number=size) / 1e6))
    print(tabulate(rows, headers=("trained", "numbers", "MB held from step to step"), floatfmt=".1f", intfmt=","), "\n")

    trainer.train()

    prompts = trainer.task.draw(2, args.seed, args.total_phases).prompts
    ids, mask = model.encode(prompts, args.prepend_bos)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        hooked, _ = model.forward_with_value_head(ids, mask)
        with model.merged():
            merged = forward_with_hooks(model.base_model, [], ids, mask)
        model.save_pretrained(folder)
        loaded, _ = TransformerWithValueHeadLora.from_adapter(folder, **options).forward_with_value_head(ids, mask)
        for name, other in (("the base model", model(ids, mask)), ("merged weights", merged), ("saved and loaded", loaded)):
            print(f"largest difference between the policy's logits and those of {name:17} {(hooked - other).abs().max():.1e}")
    name, tensor = next(iter(peft_tensors(model.lora, model.peft_names).items()))
    print(f"first of PEFT's tensors: {name} {list(tensor.shape)}")
    for title, sampler in (("without adapters", model.base_model), ("with adapters", model)):
        print(f"\n{title}, at temperature 0:")
        for prompt, completion in zip(prompts, rollout(sampler, prompts, args.gen_len, temperature=0).completions, strict=True):
            print(f"  {prompt!r}\n    {completion!r}")


if __name__ == "__main__":
    from rlhf_lib.course.own import run_own

    run_own("lora", globals())
