"""LaTRO (Chen et al. 2024): no verifier; reasoning is as good as the right answer is likely after it.

The sampled reasoning goes up to the mark with which the model begins its answer, and the right one is put there in place of its
own; where it makes no mark, that is put there too. The answer's log-probability is the reward of the reasoning before it, which
learns by leave-one-out; the answer's own tokens learn by plain maximum likelihood, the second term of the same gradient. What
was put in besides is seen, and teaches nothing.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.args import InputError
from rlhf_lib.layout import generated
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.models import padding_id
from rlhf_lib.rollouts import Rollout, TokenScores, end_ids_of
from rlhf_lib.tasks import Prompts
from rlhf_lib.trainers.policy_gradient import PolicyGradientTrainer


class LatroTrainer(PolicyGradientTrainer):
    """The advantage of a reasoning's tokens is its row's, of an answer's tokens 1; both count for the loss."""

    name = "latro"
    answer_mask: Float[Tensor, "batch gen"] | None = None
    """1 on the tokens of the right answers; the rollout's own mask is 1 on those of the reasoning."""

    def sample(self, prompts: Prompts) -> Rollout:
        """Sampled completions up to the mark of their answer, with the right answer behind."""
        sampled = super().sample(prompts)
        reasoning, added, untaught = [], [], []
        for ids, answer in zip(sampled.completion_ids, prompts.columns["answer"], strict=True):
            own, put, between = self.with_answer(ids, str(answer))
            reasoning.append(own)
            added.append(put)
            untaught.append(between)
        answered, self.answer_mask = with_answers(sampled, reasoning, added, untaught, padding_id(self.model.tokenizer))
        return answered

    def with_answer(self, ids: list[int], answer: str) -> tuple[int, list[int], int]:
        """How many tokens of a completion are kept, what follows them, and how many of that are not the answer yet.

        Raises:
            InputError: the answer leaves no room in gen_len.
        """
        tokenizer, form, ends = self.model.tokenizer, self.task.answer_form, end_ids_of(self.model, self.model.tokenizer)
        head, own = form.partition("{}")[0], [i for i in ids if i not in ends]
        whole = [*tokenizer.encode(form.format(answer), add_special_tokens=False), *ends[:1]]
        room = self.args.gen_len - len(whole)
        if room < 1:
            raise InputError(
                f"gen_len={self.args.gen_len} leaves no room for reasoning before the answer {answer!r}, which has "
                f"{len(whole)} tokens; raise it"
            )
        untaught = sum(len(tokenizer.decode(whole[:count])) <= len(head) for count in range(1, len(whole)))
        kept = self.tokens_up_to(own, head.strip())
        if kept is None or kept > room:
            return min(len(own), room), whole, untaught
        begun = self.tokens_up_to(whole, head.strip())
        return kept, whole[begun:], untaught - begun

    def tokens_up_to(self, ids: list[int], mark: str) -> int | None:
        """How many tokens it takes to write the mark; None where they do not write it."""
        decode = self.model.tokenizer.decode
        return next((count for count in range(1, len(ids) + 1) if mark in decode(ids[:count])), None)

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """The row's advantage of the answers' log-likelihoods for the reasoning, 1 for the answers."""
        likelihood = (scores.logprobs * self.answer_mask).sum(dim=1)
        self.log(answer_logprob=likelihood.mean())
        advantages = super().compute_token_advantages(likelihood, scores, sampled)
        return torch.where(self.answer_mask == 1, 1.0, advantages)

    def rollout_phase(self) -> ReplayMemory:
        """As of every algorithm; answers count too."""
        memory = super().rollout_phase()
        memory.mask = memory.mask + self.answer_mask
        return memory


def with_answers(
    sampled: Rollout, reasoning: list[int], added: list[list[int]], untaught: list[int], pad_id: int
) -> tuple[Rollout, Float[Tensor, "batch gen"]]:
    """A rollout in which `added` tokens follow the first `reasoning` ones of a completion; and the mask of the answers.

    The first `untaught` tokens of those added are in neither mask.
    """
    gen_len, prefix_len = sampled.mask.shape[1], sampled.prefix_len
    ids: Int[Tensor, "batch gen"] = torch.full_like(generated(sampled.ids, gen_len), pad_id)
    mask, answer_mask, seen = torch.zeros_like(sampled.mask), torch.zeros_like(sampled.mask), torch.zeros_like(ids)
    for row, (own, put, between) in enumerate(zip(reasoning, added, untaught, strict=True)):
        end = own + len(put)
        ids[row, :own] = generated(sampled.ids, gen_len)[row, :own]
        ids[row, own:end] = torch.tensor(put, device=ids.device)
        mask[row, :own], answer_mask[row, own + between : end], seen[row, :end] = 1, 1, 1
    answered = Rollout(
        ids=torch.cat([sampled.ids[:, :prefix_len], ids], dim=1),
        attention_mask=torch.cat([sampled.attention_mask[:, :prefix_len], seen.to(sampled.attention_mask)], dim=1),
        mask=mask,
        logprobs=sampled.logprobs * mask,
        sampler_logprobs=sampled.sampler_logprobs * mask,
        completions=sampled.completions,
    )
    return answered, answer_mask
