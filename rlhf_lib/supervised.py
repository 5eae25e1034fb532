"""Supervised fine-tuning: prompt and solution as one sequence, with the loss on the solution alone."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.args import InputError


@dataclass
class SupervisedBatch:
    """Whole sequences, padded on the left like prompts everywhere."""

    ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    """0 on padding."""
    loss_mask: Float[Tensor, "batch seq"]
    """1 on the tokens to be learned: the solution's, its end of sequence included."""

    def to(self, device: torch.device) -> "SupervisedBatch":
        """The same on a device."""
        return SupervisedBatch(self.ids.to(device), self.attention_mask.to(device), self.loss_mask.to(device))


def encode_example(
    tokenizer: Any, prompt: str, solution: str, end_id: int | None, prepend_bos: bool = True
) -> tuple[list[int], list[int]]:
    """(token ids, loss mask) of one example: beginning of sequence, prompt, solution, end of sequence.

    Prompt and solution are tokenised apart, as they are when a completion is sampled, and without special tokens. The
    beginning-of-sequence token goes in front if `prepend_bos` and the tokenizer has one, unless the prompt begins with it
    already. `end_id` goes last, unless it is None. The mask is 1 on the solution and the end, which is learned too, or the
    model would never stop; it is 0 on all before. Both lists have one entry a token.

    Raises:
        InputError: a solution without tokens.
    """
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    learned = tokenizer(solution, add_special_tokens=False)["input_ids"]
    if not learned:
        raise InputError(f"the solution of {prompt!r} is empty; every example needs at least one token to learn")
    bos = tokenizer.bos_token_id
    if prepend_bos and bos is not None and before[:1] != [bos]:
        before = [bos, *before]
    if end_id is not None:
        learned = [*learned, end_id]
    return before + learned, [0] * len(before) + [1] * len(learned)


def collate_examples(examples: list[tuple[list[int], list[int]]], pad_id: int) -> SupervisedBatch:
    """Examples of `encode_example` as one batch, padded on the left with `pad_id`; padding is masked in both masks."""
    longest = max(len(ids) for ids, _ in examples)
    ids = [[pad_id] * (longest - len(row)) + row for row, _ in examples]
    attention = [[0] * (longest - len(row)) + [1] * len(row) for row, _ in examples]
    loss = [[0] * (longest - len(row)) + mask for row, mask in examples]
    return SupervisedBatch(torch.tensor(ids), torch.tensor(attention), torch.tensor(loss, dtype=torch.float32))


def calc_sft_loss(
    logits: Float[Tensor, "batch seq vocab"], ids: Int[Tensor, "batch seq"], loss_mask: Float[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean negative log-probability, in nats, of the tokens whose loss mask is 1, each given what stands before it.

    The logits, made float32 first, predict the next token each, so the first is never scored. The mean is over tokens, not over
    sequences; without any the loss is 0.
    """
    logprobs = logits[:, :-1].float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    mask = loss_mask[:, 1:]
    return -(logprobs.masked_fill(mask == 0, 0.0)).sum() / mask.sum().clamp(min=1)
