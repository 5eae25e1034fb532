"""The replay memory of one phase, and the minibatches drawn from it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.args import InputError, RLArgs
from rlhf_lib.layout import chosen_at


@dataclass
class ReplayMinibatch:
    """What one optimiser step sees: rows of the memory."""

    sample_ids: Int[Tensor, "minibatch seq"]
    logprobs: Float[Tensor, "minibatch gen"]
    advantages: Float[Tensor, "minibatch gen"]
    returns: Float[Tensor, "minibatch gen"] | None = None
    ref_logits: Float[Tensor, "minibatch kept vocab"] | None = None
    mask: Float[Tensor, "minibatch gen"] | None = None
    attention_mask: Int[Tensor, "minibatch seq"] | None = None
    ref_logprobs: Float[Tensor, "minibatch gen"] | None = None
    values: Float[Tensor, "minibatch gen"] | None = None


class ReplayMemory:
    """One rollout phase's completions with all that the learning phase needs; everything lives on sample_ids' device.

    Args:
        args: batch_size, num_minibatches and batches_per_learning_phase are read.
        sample_ids: whole sequences [batch seq].
        logprobs: log-probabilities of the generated tokens under the policy that sampled them [batch gen].
        advantages: [batch gen].
        values: of every position [batch seq]; None without a critic. Returns are advantages plus the generated values.
        ref_logits: the reference policy's [batch seq vocab], or its last gen + 1 positions; None with ref_logprobs instead.
        mask: 1 on real generated tokens [batch gen]; None counts every generated token.
        attention_mask: 0 on left padding [batch seq]; None: no padding.
        ref_logprobs: the reference policy's log-probabilities of the generated tokens [batch gen].

    Raises:
        InputError: a tensor has another number of rows than args.batch_size.
    """

    def __init__(
        self,
        args: RLArgs,
        sample_ids: Int[Tensor, "batch seq"],
        logprobs: Float[Tensor, "batch gen"],
        advantages: Float[Tensor, "batch gen"],
        values: Float[Tensor, "batch seq"] | None,
        ref_logits: Float[Tensor, "batch kept vocab"] | None,
        *,
        mask: Float[Tensor, "batch gen"] | None = None,
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        ref_logprobs: Float[Tensor, "batch gen"] | None = None,
    ):
        self.args = args
        self.sample_ids = sample_ids
        device = sample_ids.device
        tensors = {
            "logprobs": logprobs,
            "advantages": advantages,
            "values": values,
            "ref_logits": ref_logits,
            "mask": mask,
            "attention_mask": attention_mask,
            "ref_logprobs": ref_logprobs,
        }
        for name, tensor in {"sample_ids": sample_ids, **tensors}.items():
            if tensor is not None and len(tensor) != args.batch_size:
                raise InputError(
                    f"{name} has {len(tensor)} rows but batch_size={args.batch_size}; "
                    "a memory holds exactly the completions of one phase"
                )
            setattr(self, name, None if tensor is None else tensor.to(device))

    @property
    def gen_len(self) -> int:
        """Number of generated positions."""
        return self.logprobs.shape[1]

    @property
    def generated_values(self) -> Float[Tensor, "batch gen"] | None:
        """The values where the generated tokens were chosen: the last gen + 1, but for the very last; None without values."""
        return None if self.values is None else chosen_at(self.values, self.gen_len)

    @property
    def returns(self) -> Float[Tensor, "batch gen"] | None:
        """What the value function is to predict: advantage plus generated value; None without values."""
        return None if self.values is None else self.advantages + self.generated_values

    def random_order(self) -> Int[Tensor, " batch"]:
        """The numbers of all rows in random order; with args.keep_prompts_together the rows of a prompt follow each other."""
        order = torch.randperm(len(self.sample_ids)).to(self.sample_ids.device)
        if not getattr(self.args, "keep_prompts_together", False):
            return order
        prompts = self.sample_ids[:, : -self.gen_len].unique(dim=0, return_inverse=True)[1]
        place = torch.randperm(len(self.sample_ids)).to(order.device)  # of each prompt among the others
        return order[place[prompts[order]].argsort(stable=True)]

    def get_minibatches(self) -> list[ReplayMinibatch]:
        """Every completion once a pass, for `batches_per_learning_phase` passes, each in a fresh `random_order`.

        A pass has `num_minibatches` minibatches of equal size, so the list has their product. A row's entries stay together:
        all fields of a minibatch are of the same completions. `values` are the generated ones; what the memory lacks is None.
        Rows are taken by index, never sliced: a slice of an inference-mode tensor cannot enter autograd.
        """
        columns = {
            "sample_ids": self.sample_ids,
            "logprobs": self.logprobs,
            "advantages": self.advantages,
            "returns": self.returns,
            "ref_logits": self.ref_logits,
            "mask": self.mask,
            "attention_mask": self.attention_mask,
            "ref_logprobs": self.ref_logprobs,
            "values": self.generated_values,
        }
        minibatches = []
        for _ in range(self.args.batches_per_learning_phase):
            order = self.random_order()
            for rows in order.reshape(self.args.num_minibatches, -1):
                taken = {name: None if column is None else column[rows] for name, column in columns.items()}
                minibatches.append(ReplayMinibatch(**taken))
        return minibatches
