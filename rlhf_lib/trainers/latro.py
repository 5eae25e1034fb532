"""LaTRO (Chen et al. 2024): no verifier; reasoning is as good as the right answer is likely after it.

The sampled reasoning ends where the model would begin its answer, and the right one is put there in its place. The answer's
log-probability is the reward of the reasoning before it, which learns by leave-one-out; the answer's own tokens learn by plain
maximum likelihood, the second term of the same gradient.
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
        """Sampled completions, each cut where its answer begins, with the right answer behind."""
        sampled = super().sample(prompts)
        answers = [self.answer_ids(str(answer)) for answer in prompts.columns["answer"]]
        counts = [
            min(self.reasoning_length(ids), self.args.gen_len - len(answer))
            for ids, answer in zip(sampled.completion_ids, answers, strict=True)
        ]
        answered, self.answer_mask = with_answers(sampled, counts, answers, padding_id(self.model.tokenizer))
        return answered

    def answer_ids(self, answer: str) -> list[int]:
        """The tokens of a right answer in the task's form, the end of sequence included.

        Raises:
            InputError: they leave no room in gen_len.
        """
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(self.task.answer_form.format(answer), add_special_tokens=False)
        ids += end_ids_of(self.model, tokenizer)[:1]
        if len(ids) >= self.args.gen_len:
            raise InputError(
                f"gen_len={self.args.gen_len} leaves no room for reasoning before the answer {answer!r}, which has {len(ids)} "
                "tokens; raise it"
            )
        return ids

    def reasoning_length(self, ids: list[int]) -> int:
        """How many tokens of a completion stand before its answer; all but an end of sequence where it gives none."""
        mark, ends = self.task.answer_form.partition("{}")[0].strip(), end_ids_of(self.model, self.model.tokenizer)
        ids = [i for i in ids if i not in ends]
        if mark not in self.model.tokenizer.decode(ids):
            return len(ids)
        return next(count for count in range(len(ids)) if mark in self.model.tokenizer.decode(ids[: count + 1]))

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
    sampled: Rollout, counts: list[int], answers: list[list[int]], pad_id: int
) -> tuple[Rollout, Float[Tensor, "batch gen"]]:
    """A rollout whose completions are their first `counts` tokens and then an answer; and the mask of the answers' tokens."""
    gen_len, prefix_len = sampled.mask.shape[1], sampled.prefix_len
    ids: Int[Tensor, "batch gen"] = torch.full_like(generated(sampled.ids, gen_len), pad_id)
    mask, answer_mask = torch.zeros_like(sampled.mask), torch.zeros_like(sampled.mask)
    for row, (count, answer) in enumerate(zip(counts, answers, strict=True)):
        ids[row, :count] = generated(sampled.ids, gen_len)[row, :count]
        ids[row, count : count + len(answer)] = torch.tensor(answer, device=ids.device)
        mask[row, :count], answer_mask[row, count : count + len(answer)] = 1, 1
    seen = (mask + answer_mask).to(sampled.attention_mask)
    answered = Rollout(
        ids=torch.cat([sampled.ids[:, :prefix_len], ids], dim=1),
        attention_mask=torch.cat([sampled.attention_mask[:, :prefix_len], seen], dim=1),
        mask=mask,
        logprobs=sampled.logprobs * mask,
        sampler_logprobs=sampled.sampler_logprobs * mask,
        completions=sampled.completions,
    )
    return answered, answer_mask
