"""The models that are trained: a bridge, plus a value head, plus low-rank adapters.

All share one interface. `model(ids)` is the plain base model. `forward_with_value_head(ids)` is the policy being trained,
with values where there is a head. With adapters the plain call is therefore the reference policy, at no cost; in full
fine-tuning both are the same and the reference is a `frozen_copy()`.
"""

import copy
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_lib import parallel
from rlhf_lib.args import LORA_MAPS, InputError
from rlhf_lib.engine import Batch, DeferredLogits, PassOptions, Policy, plain_formulas, sped_up_by
from rlhf_lib.finite import require_finite
from rlhf_lib.layout import chosen_at
from rlhf_lib.lora.adapter import LoraHooks, find_maps
from rlhf_lib.lora.elsewhere import SavedAdapter, load_adapter, read_adapter, read_adapter_config
from rlhf_lib.lora.peft_format import PeftNames, save_adapter
from rlhf_lib.models import checkpoint, loading
from rlhf_lib.models.caching import check_sampling
from rlhf_lib.sharding import for_first, is_sharded, parameters_of, shard

HEAD_FILE = "value_head.safetensors"
GIVE_HOOKS = ("fwd_hooks", "lora_fwd_hooks", "value_head_hook")
"""What of a policy's class says which hooks make the policy."""


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
    options = {} if logits_to_keep is None else {"logits_to_keep": logits_to_keep}
    with bridge.hooks(fwd_hooks=fwd_hooks):
        return bridge(ids, attention_mask=attention_mask, **options).float()


def fast_base_pass(
    model: "BridgedTransformer",
    ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | None = None,
    *,
    logits_to_keep: int | None = None,
) -> Any:
    """`BridgedTransformer.forward` by the engine, where it covers it."""
    model.refuse_if_merged("the plain call")
    trained = tuple(model.get_base_model_trainable_params()) if getattr(model, "lora", None) is None else ()
    found = fast_pass(model, Policy({}, trained), None, ids, attention_mask, logits_to_keep)
    return NotImplemented if found is NotImplemented else found[0]


def fast_policy_pass(
    model: "BridgedTransformer",
    ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | None = None,
    *,
    logits_to_keep: int | None = None,
) -> Any:
    """`BridgedTransformer.forward_with_value_head` by the engine, where it covers it."""
    model.refuse_if_merged("forward_with_value_head")
    if not model.has_only_own_hooks:
        model.refuse_what_only_fast_passes_can("has hooks of your own")
        return NotImplemented
    sampled, head = model.sampled_policy, getattr(model, "value_head", None)
    policy = Policy(sampled.adapters, (*sampled.trained, *model.get_value_head_params()))
    return fast_pass(model, policy, head, ids, attention_mask, logits_to_keep)


def fast_pass(
    model: "BridgedTransformer",
    policy: Policy,
    head: nn.Module | None,
    ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | None,
    logits_to_keep: int | None,
) -> Any:
    """Logits and the head's values of one pass by the engine; NotImplemented where it does not cover it."""
    fast = model.base.passes.fast
    if fast is None:
        model.refuse_what_only_fast_passes_can("is not covered by them, or has hooks of your own")
        return NotImplemented
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    batch = Batch(ids, mask, ids.shape[1] if logits_to_keep is None else min(logits_to_keep, ids.shape[1]))
    sampler = model.sampled_policy if policy.trained else policy
    sampled = fast.logits_of_rollout(batch, replace(sampler, adapters=policy.adapters), model.pass_options)
    if sampled is not None:
        return sampled, None if head is None else values_of_rollout(head, sampled, ids)
    found = fast.run(batch, policy, model.pass_options, everything=head is not None)
    if found is None:
        model.refuse_what_only_fast_passes_can("was given rows whose tokens are not one stretch between padding")
        return NotImplemented
    if head is None:
        return found.logits, None
    values = found.everywhere(head(found.source.hidden.float())[:, 0])
    model.value_head_output = values.unsqueeze(-1)  # where the hook leaves it
    return found.logits, values


def values_of_rollout(head: nn.Module, sampled: DeferredLogits, ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """The head's values where the tokens of a rollout were chosen, from the vectors that chose them; elsewhere 0."""
    view = sampled.view_
    index = view.index[:, :-1]
    values = torch.zeros(ids.shape, device=ids.device)
    chosen = chosen_at(values, index.shape[1])
    chosen[index >= 0] = head(view.source.hidden.float())[:, 0][index[index >= 0]]
    return values


class BridgedTransformer(nn.Module):
    """What every policy shares: a TransformerBridge, its tokenizer, and forward passes with hooks.

    Args:
        base_model: "pocket", a Hugging Face name, or a local directory.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: float32 or bfloat16, of the base model; adapters and value head are float32.
    """

    def __init__(self, base_model: str | os.PathLike = "pocket", *, device: str = "auto", dtype: str = "float32"):
        super().__init__()
        self.base = loading.load_base(base_model, device=device, dtype=dtype)
        self.pass_options = PassOptions()
        self.base_model = self.base.bridge
        self.tokenizer = self.base.tokenizer
        self.end_ids = loading.end_token_ids(self.base)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike = "pocket", *args: Any, **options: Any) -> "BridgedTransformer":
        """The same as the constructor, under the name that Hugging Face users expect."""
        return cls(name_or_path, *args, **options)

    @property
    def cfg(self) -> Any:
        """TransformerLens' configuration: d_model, n_layers, n_ctx, d_vocab, ..."""
        return self.base_model.cfg

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.base_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the base model's weights."""
        return next(self.base_model.parameters()).dtype

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The hooks that turn the base model into the policy."""
        return []

    def to(self, *args: Any, **options: Any) -> "BridgedTransformer":
        """Move or cast the base model, and move (never cast) what is trained beside it."""
        self.base_model.to(*args, print_details=False, **options)
        for name, child in self.named_children():
            if name != "base_model":
                child.to(self.device)
        return self

    @sped_up_by(fast_base_pass)
    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        *,
        logits_to_keep: int | None = None,
    ) -> Float[Tensor, "batch kept vocab"]:
        """Logits of the plain base model in float32; `logits_to_keep` asks for the last so many positions only."""
        self.refuse_if_merged("the plain call")
        return forward_with_hooks(self.base_model, [], ids, attention_mask, logits_to_keep=logits_to_keep)

    @sped_up_by(fast_policy_pass)
    def forward_with_value_head(
        self,
        ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        *,
        logits_to_keep: int | None = None,
    ) -> tuple[Float[Tensor, "batch kept vocab"], Float[Tensor, "batch seq"] | None]:
        """Logits of the policy and the value of every position (None without a head), from one pass; no hook remains.

        Of a rollout that the policy, unchanged, has just sampled, values are given where its tokens were chosen, elsewhere 0.
        """
        self.refuse_if_merged("forward_with_value_head")
        logits = forward_with_hooks(self.base_model, self.fwd_hooks, ids, attention_mask, logits_to_keep=logits_to_keep)
        return logits, self.values_of_pass()

    def refuse_what_only_fast_passes_can(self, why: str) -> None:
        """Raise where several processes train together; say once that options about memory do nothing here."""
        name = f"base_model={self.base.name!r} ({self.base_model.original_model.config.model_type})"
        if parallel.count() > 1:
            raise InputError(
                f"{parallel.count()} processes can only train together by the fast passes, and {name} {why}; start one process"
            )
        if self.pass_options != PassOptions():
            told = f"micro_batch_size, checkpoint_activations and autocast only work in the fast passes, and {name} {why}"
            warnings.warn(told, stacklevel=4)

    @property
    def has_only_own_hooks(self) -> bool:
        """Whether the hooks are those of the library's classes, which the engine computes without hooks."""
        own = (BridgedTransformer, WithValueHead, TransformerWithLora)
        givers = (next((kind for kind in type(self).__mro__ if name in vars(kind)), own[0]) for name in GIVE_HOOKS)
        return all(giver in own for giver in givers) and type(getattr(self, "lora", None)) in (LoraHooks, type(None))

    def values_of_pass(self) -> Float[Tensor, "batch seq"] | None:
        """The values that the last pass with hooks gave; None without a head."""
        return None

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the base model is the policy itself; sampling uses this. Nothing to do without adapters."""
        yield

    def refuse_if_merged(self, what: str) -> None:
        """Raise if adapters are merged, when `what` would silently use the wrong weights."""

    def get_base_model_trainable_params(self) -> list[nn.Parameter]:
        """What is trained apart from the value head."""
        return [parameter for parameter in self.base_model_params() if parameter.requires_grad]

    def base_model_params(self) -> list[nn.Parameter]:
        """All parameters of the base model, trained or not."""
        return parameters_of(self.base_model.original_model) if self.is_sharded else list(self.base_model.parameters())

    @property
    def sampled_policy(self) -> Policy:
        """What the engine samples from: the base model with the adapters, and which parameters training changes."""
        lora = getattr(self, "lora", None)
        return Policy({} if lora is None else dict(lora.adapters), tuple(self.get_base_model_trainable_params()))

    @property
    def is_sharded(self) -> bool:
        """Whether the base model's weights are spread over processes."""
        return self.base.is_sharded

    def shard(self) -> None:
        """Spread the base model's weights over the processes that torchrun has started; adapters stay whole on each.

        Where all weights are trained, a value head's are spread too. A `frozen_copy` must be made before.

        Raises:
            InputError: a model that the fast passes do not cover.
        """
        if not self.is_sharded:  # of a model that shares its base, they may be
            self.base.shard()
        for name, child in self.named_children():
            if name != "base_model":
                child.to(self.device)

    def get_value_head_params(self) -> list[nn.Parameter]:
        """The value head's parameters; empty without one."""
        return []

    def trained_parts(self) -> dict[str, nn.Module]:
        """All modules that training changes, by name."""
        return {"base_model": self.base_model}

    def trainable_state(self) -> dict[str, Tensor]:
        """All tensors that training changes, by name; `load_trainable_state` puts them back."""
        return {
            f"{part}.{name}": tensor
            for part, module in self.trained_parts().items()
            for name, tensor in module.state_dict().items()
        }

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `trainable_state` gave, exactly."""
        for part, module in self.trained_parts().items():
            module.load_state_dict({n.removeprefix(f"{part}."): t for n, t in state.items() if n.startswith(f"{part}.")})

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write the policy: a Hugging Face directory, or with adapters one in PEFT's format; value head beside it."""
        self.refuse_if_merged("saving")
        return loading.save_base(self.base, directory)

    def to_tokens(self, prompt: str | list[str], prepend_bos: bool = True) -> Int[Tensor, "batch prefix"]:
        """Token ids, padded on the left; for several prompts of unequal length also take `encode`'s mask."""
        return self.encode([prompt] if isinstance(prompt, str) else prompt, prepend_bos)[0]

    def encode(
        self, prompts: list[str], prepend_bos: bool = True
    ) -> tuple[Int[Tensor, "batch prefix"], Int[Tensor, "batch prefix"]]:
        """Token ids and attention mask on the model's device, padded on the left."""
        ids, mask = loading.encode_prompts(self.tokenizer, prompts, prepend_bos)
        return ids.to(self.device), mask.to(self.device)

    def to_string(self, ids: Int[Tensor, "*batch seq"]) -> str | list[str]:
        """Text of token ids, special tokens included; a list for a batch."""
        return self.tokenizer.batch_decode(ids) if ids.ndim == 2 else self.tokenizer.decode(ids)

    def to_str_tokens(self, prompt: str, prepend_bos: bool = True) -> list[str]:
        """The text of each token of a prompt."""
        return [self.tokenizer.decode([i]) for i in self.to_tokens(prompt, prepend_bos)[0].tolist()]

    def generate(
        self, ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None = None, **options: Any
    ) -> Any:
        """TransformerBridge's generate, on the policy (adapters included); options are passed on."""
        with plain_formulas():  # it samples with Hugging Face's cache
            check_sampling(self.base_model, self.base.passes)
        with self.merged(), torch.no_grad():
            return self.base_model.generate(ids, attention_mask=attention_mask, **{"verbose": False, **options})


class WithValueHead(BridgedTransformer):
    """Adds a value head: an MLP read by a hook off the final norm's output, so that logits and values come of one pass."""

    value_head_output: Tensor | None = None

    def add_value_head(self) -> None:
        """Make `self.value_head`: an nn.Sequential of a linear map d_model -> 4 d_model, a ReLU, and a linear map to 1.

        Its weights are float32, whatever the base model's dtype, and live on the base model's device.
        """
        width = self.cfg.d_model
        self.value_head = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 1)).to(self.device)

    @property
    def value_head_hook(self) -> tuple[str, Callable]:
        """The pair (hook name, hook function) that reads the values off a forward pass.

        The hook's place is the final norm's output, ln_final.hook_out [batch seq d_model]: what the unembedding reads too.
        The function stores the head's output [batch seq 1] in `self.value_head_output`. The activation enters the head in
        float32 and with its graph, so that the value loss trains the trunk as well. The function returns None, since
        whatever else a hook returns takes the activation's place.
        """

        def read_values(resid: Float[Tensor, "batch seq d_model"], hook: Any) -> None:
            self.value_head_output = self.value_head(resid.float())

        return "ln_final.hook_out", read_values

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The policy's hooks, and the value head's."""
        return [*super().fwd_hooks, *([self.value_head_hook] if self.value_head is not None else [])]

    def values_of_pass(self) -> Float[Tensor, "batch seq"] | None:
        """The values that the last pass with hooks gave; None without a head."""
        return None if self.value_head is None else self.value_head_output.squeeze(-1)

    def get_value_head_params(self) -> list[nn.Parameter]:
        """The value head's parameters; empty without one."""
        return [] if self.value_head is None else parameters_of(self.value_head)

    def trained_parts(self) -> dict[str, nn.Module]:
        """All modules that training changes, the head included."""
        head = {} if self.value_head is None else {"value_head": self.value_head}
        return {**super().trained_parts(), **head}

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write the policy, and the value head beside it."""
        directory = super().save_pretrained(directory)
        if self.value_head is not None:
            head = {name: for_first(tensor).contiguous() for name, tensor in self.value_head.state_dict().items()}
            if not self.is_sharded or parallel.is_first():
                save_file(head, directory / HEAD_FILE)
        return directory

    def load_value_head(self, directory: str | os.PathLike) -> None:
        """Fill the value head from a directory that save_pretrained wrote."""
        file = Path(directory) / HEAD_FILE
        with checkpoint.sound(str(file), "save the model again"):
            found, own = load_file(file), self.value_head.state_dict()
        both = found.keys() & own.keys()
        mismatched = [(n, found[n].shape, own[n].shape) for n in sorted(both) if found[n].shape != own[n].shape]
        checkpoint.require_all(str(file), own.keys() - both, found.keys() - both, mismatched)
        require_finite(found.items(), str(file), "save the model again")
        self.value_head.load_state_dict(found)


class TransformerWithValueHead(WithValueHead):
    """Full fine-tuning with a value head: every weight is trained, and the reference policy is a `frozen_copy()`."""

    def __init__(
        self,
        base_model: str | os.PathLike = "pocket",
        *,
        use_value_head: bool = True,
        device: str = "auto",
        dtype: str = "float32",
    ):
        """Load the base model as every policy does, then add the value head; without one, `self.value_head` is None."""
        super().__init__(base_model, device=device, dtype=dtype)
        self.value_head = None
        if use_value_head:
            self.add_value_head()

    def shard(self) -> None:
        """Spread the weights of base model and value head."""
        super().shard()
        if self.value_head is not None and not is_sharded(self.value_head):
            shard(self.value_head)

    def frozen_copy(self) -> "TransformerWithValueHead":
        """The model as it is now, in eval mode and without gradients: the reference policy."""
        with torch.no_grad():
            self.base_model(torch.zeros(1, 1, dtype=torch.long, device=self.device))  # settles views that deepcopy refuses
        self.value_head_output = None
        return copy.deepcopy(self).requires_grad_(False).eval()


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
        super().__init__(base_model, device=device, dtype=dtype)
        self.base_model.requires_grad_(False)
        self.lora = LoraHooks(self.base_model, rank, lora_alpha, maps)

    @property
    def lora_fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The adapters' hooks alone."""
        return self.lora.fwd_hooks

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The hooks that turn the base model into the policy: those of the class above, and the adapters'."""
        return [*super().fwd_hooks, *self.lora_fwd_hooks]

    def lora_params(self) -> list[nn.Parameter]:
        """The adapters' parameters."""
        return list(self.lora.parameters())

    def get_base_model_trainable_params(self) -> list[nn.Parameter]:
        """What is trained apart from the value head: the adapters' parameters."""
        return self.lora_params()

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


class FrozenPolicy(TransformerWithLora):
    """A policy as it was, whose adapters are copied and whose base model is shared; its plain call is that policy."""

    def __init__(self, policy: TransformerWithLora):
        nn.Module.__init__(self)
        self.base, self.base_model, self.tokenizer = policy.base, policy.base_model, policy.tokenizer
        self.end_ids, self.pass_options = policy.end_ids, policy.pass_options
        own = {m.bridge_name: (policy.lora.adapters[m.key].rank, policy.lora.adapters[m.key].alpha) for m in policy.lora.maps}
        self.lora = LoraHooks(self.base_model, policy.lora.rank, policy.lora.alpha, own=own)
        self.lora.load_state_dict(policy.lora.state_dict())
        self.lora.requires_grad_(False)
        self.shares_with = (policy,)  # in a tuple, so that it is no module of this one

    def forward(
        self,
        ids: Int[Tensor, "batch seq"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        *,
        logits_to_keep: int | None = None,
    ) -> Float[Tensor, "batch kept vocab"]:
        """Logits of the frozen policy in float32."""
        return self.forward_with_value_head(ids, attention_mask, logits_to_keep=logits_to_keep)[0]

    def refuse_if_merged(self, what: str) -> None:
        """Raise if adapters are merged into the base model, its own or those of the policy that shares it."""
        super().refuse_if_merged(what)
        self.shares_with[0].refuse_if_merged(what)


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
        super().__init__(base_model, lora_alpha, rank, maps=maps, device=device, dtype=dtype)
        self.value_head = None
        if use_value_head:
            self.add_value_head()


def base_of_adapter(directory: str | os.PathLike) -> str:
    """The base model that an adapter names; the bundled one by its name, wherever it lay when the adapter was saved."""
    name = str(read_adapter_config(Path(directory)).get("base_model_name_or_path") or "")
    if not name:
        raise InputError(f"{directory} does not say what its base model is; give base_model")
    is_bundled = not Path(name).is_dir() and Path(name).name in loading.BUNDLED
    return Path(name).name if is_bundled or Path(name) in loading.BUNDLED.values() else name


def load_policy(directory: str | os.PathLike, device: str = "auto", dtype: str = "float32") -> BridgedTransformer:
    """The policy that a run saved: an adapter on its base model, or a whole model."""
    if "reward_kind" in checkpoint.read_settings(Path(directory) / "config.json", str(directory)):
        raise InputError(f"{directory} is a reward model, which writes no answers; give it as --reward-model {directory}")
    if (Path(directory) / "adapter_config.json").is_file():
        return TransformerWithLora.from_adapter(directory, device=device, dtype=dtype)
    return BridgedTransformer(directory, device=device, dtype=dtype)
