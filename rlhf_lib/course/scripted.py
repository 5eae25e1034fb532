"""Models for checkers: decoders that follow a script, a model that tells what it was asked, and a tiny random GPT-2."""

import atexit
import shutil
import tempfile
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from rlhf_lib.course.expect import Wrong
from rlhf_lib.models.checkpoint import read_tokenizer
from rlhf_lib.models.loading import BUNDLED, quiet_transformers


class TableDecoder:
    """Next-token logits that depend on every token so far: row (sum of all ids modulo rows) of a table."""

    def __init__(self, table: Float[Tensor, "rows vocab"]):
        self.table, self.total = table, 0

    def __call__(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        """Logits after `ids`, which are what was not given before."""
        self.total = self.total + ids.sum(dim=1)
        return self.table[self.total % len(self.table)]


class ScriptedDecoder:
    """Logits whose likeliest token is the script's, call by call; a call past the script's end is Wrong."""

    def __init__(self, logits: Float[Tensor, "steps batch vocab"], script: Int[Tensor, "batch steps"]):
        lifted = logits.max() - logits.min() + 1
        self.logits = logits + lifted * nn.functional.one_hot(script.T, logits.shape[-1])
        self.calls = 0

    def __call__(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        """The next step's logits, whatever is given."""
        if self.calls == len(self.logits):
            calls = "one call" if self.calls == 1 else f"{self.calls} calls"
            raise Wrong(("expected", f"{calls} of the decoder: then every sequence has ended"), ("got", "a call more"))
        self.calls += 1
        return self.logits[self.calls - 1]


class Witness(nn.Module):
    """Stands in for a Hugging Face model; its six logits tell what the call was given.

    They are: new tokens in this call, tokens in the cache before it, columns of the attention mask, real tokens in the mask's
    row, the position of the token, and its id.
    """

    def forward(
        self,
        input_ids: Int[Tensor, "batch new"],
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        position_ids: Int[Tensor, "batch new"] | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **options: Any,
    ) -> SimpleNamespace:
        """Logits [batch kept 6] and the cache, as a Hugging Face model gives them, by its old name and its new one."""
        batch, new = input_ids.shape
        given = [one for one in (past_key_values, cache) if one is not None]
        cached = given[0] if given else DynamicCache()
        before = cached.get_seq_length()
        if use_cache is not False:
            cached.update(torch.zeros(batch, 1, new, 1), torch.zeros(batch, 1, new, 1), 0)
        mask = torch.zeros(batch, 0) if attention_mask is None else attention_mask
        positions = torch.full_like(input_ids, -1) if position_ids is None else position_ids.expand(batch, -1)
        same_for_all = torch.tensor([new, before, mask.shape[1]]).expand(batch, new, 3)
        real = mask.sum(dim=1)[:, None].expand(batch, new)
        logits = torch.cat([same_for_all, torch.stack([real, positions, input_ids], dim=-1)], dim=-1).float()
        cached = None if use_cache is False else cached
        return SimpleNamespace(logits=logits[:, -logits_to_keep:], past_key_values=cached, cache=cached)


@cache
def tiny_gpt2() -> str:
    """A directory, removed at exit, with a random GPT-2 whose learned positions matter, and the bundled tokenizer."""
    directory = tempfile.mkdtemp(prefix="tiny-gpt2-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    tokenizer = read_tokenizer(str(BUNDLED["pocket"]), "pocket")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, **ends))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory
