"""What each policy gradient estimates: its expected gradient and its noise, exactly, on a policy small enough to enumerate.

    python benchmarks/estimators.py

Every group of completions that the policy can sample is gone through, weighted by its probability, and the trainer's own
advantages and objective are differentiated on each. The table has, for each algorithm, the cosine of its expected gradient with
that of the expected reward, its length relative to it, and its noise: the standard deviation over the length of the mean.
Averages per token and deviations in denominators change the length, which an optimiser like Adam takes out; the cosine is the
bias.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from tabulate import tabulate
from torch import Tensor

from rlhf_lib.algorithms import ROWS, chosen
from rlhf_lib.args import FAMILY, PolicyGradientArgs
from rlhf_lib.args.algorithms import ALGORITHMS
from rlhf_lib.memory import ReplayMinibatch
from rlhf_lib.oracle import TabularPolicy
from rlhf_lib.rollouts import Rollout, TokenScores
from rlhf_lib.trainers.policy_gradient import PolicyGradientTrainer
from rlhf_lib.trainers.rl import Rewarded

RESULTS = Path(__file__).parent / "results"
END = 0  # the token that ends a completion
NAMES = [name for name in ALGORITHMS if name != "latro"]  # whose reward is no function of the completion


class TabularModel:
    """A TabularPolicy as the trainers call a model: ids begin with one token of prompt."""

    def __init__(self, policy: TabularPolicy):
        self.policy = policy

    def forward_with_value_head(self, ids: Tensor, attention_mask: Any = None, **options: Any) -> tuple[Tensor, None]:
        """Logits at every position, the last of which chooses nothing."""
        logits = self.policy.logits(ids[:, 1:])
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1), None


@dataclass
class Enumeration:
    """An algorithm on a policy: all groups that it may see.

    Args:
        name: of the algorithm.
        policy: its table is what is differentiated; `reference` is what a KL is from.
        rewards: one for each of policy.sequences; reward functions of GDPO are given as several rows.
        group: completions of a group, which is the whole batch.
        options: arguments beside the algorithm's own.
    """

    name: str
    policy: TabularPolicy
    rewards: Float[Tensor, "functions sequences"]
    group: int = 2
    reference: TabularPolicy | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        kind = FAMILY.get(self.name, PolicyGradientArgs)
        given = {"gen_len": self.policy.length, "batch_size": self.group, "num_minibatches": 1, "ent_coef": 0.0, "kl_coef": 0.0}
        self.args = kind(**{**given, "task": "pocket", **(self.options or {})})
        self.trainer = object.__new__(PolicyGradientTrainer)
        self.trainer.args, self.trainer.algorithm = self.args, self.args.composition
        self.trainer.model = TabularModel(self.policy)

    def mask(self, rows: list[int]) -> Float[Tensor, "group length"]:
        """1 up to and including the first end."""
        ended = (self.policy.sequences[rows] == END).int()
        return (ended.cumsum(1) - ended == 0).float()

    def objective(self, rows: list[int]) -> Float[Tensor, ""]:
        """The trainer's objective on one group, which was sampled by the policy as it is."""
        trainer, sequences = self.trainer, self.policy.sequences[rows]
        ids = torch.cat([torch.ones_like(sequences[:, :1]), sequences], dim=1)
        mask, rewards = self.mask(rows), self.rewards[:, rows].sum(dim=0)
        logprobs = self.policy.logprobs(sequences).detach().float()
        ref_logprobs = (self.reference or self.policy).logprobs(sequences).detach().float()
        sampled = Rollout(ids, torch.ones_like(ids), mask, logprobs, logprobs, [""] * len(rows))
        logits = self.policy.logits(sequences).detach().float()
        scores = TokenScores(logits, logits, logprobs, ref_logprobs)
        each = {str(i): values[rows].tolist() for i, values in enumerate(self.rewards)}
        trainer.rewarded = Rewarded(rewards, each, (1.0,) * len(each), (rewards > 0).tolist())
        keep = chosen(trainer.algorithm.rows, ROWS)(trainer.rewarded, trainer.completions_per_prompt)
        mask = mask * keep[:, None]
        trainer.tokens_per_minibatch = float(mask.sum())
        advantages = trainer.compute_token_advantages(rewards, scores, sampled)
        minibatch = ReplayMinibatch(ids, logprobs, advantages, mask=mask, ref_logprobs=ref_logprobs)
        return trainer.compute_rlhf_objective(minibatch)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The expected gradient with respect to the table, and the expected squared distance from it."""
        table, chances = self.policy.table, self.policy.probabilities().detach()
        mean, square = torch.zeros_like(table), torch.zeros((), dtype=table.dtype)
        for rows in itertools.product(range(len(chances)), repeat=self.group):
            weight = chances[list(rows)].prod()
            gradient = self.policy.gradient(self.objective(list(rows)))
            mean, square = mean + weight * gradient, square + weight * gradient.square().sum()
        return mean, square - mean.square().sum()

    def exact(self) -> Tensor:
        """The gradient of the expected reward."""
        return self.policy.gradient(self.policy.expected(self.rewards.sum(dim=0).double()))


def example(seed: int = 0) -> tuple[TabularPolicy, Float[Tensor, "functions sequences"]]:
    """Three tokens, completions of one or two of them; two reward functions, one of 0 and 1 and one of shares."""
    policy = TabularPolicy(vocab=3, length=2, seed=seed)
    first, second = policy.sequences.T
    completion = first * 3 + torch.where(first == END, END, second)  # what comes after the end earns nothing
    generator = torch.Generator().manual_seed(seed + 1)
    right, share = (torch.rand(9, generator=generator) > 0.5).float(), torch.rand(9, generator=generator)
    return policy, torch.stack([right[completion], share[completion]])


def table(group: int = 3) -> str:
    """All algorithms, as Markdown."""
    policy, rewards = example()
    rows = []
    for name in NAMES:
        one = Enumeration(name, policy, rewards, group)
        (mean, variance), exact = one.moments(), one.exact()
        length = mean.norm() / exact.norm()
        cosine = (mean * exact).sum() / (mean.norm() * exact.norm())
        rows.append((f"`{name}`", f"{cosine:.4f}", f"{length:.3f}", f"{variance.sqrt() / mean.norm():.2f}"))
    return tabulate(rows, ("algorithm", "cosine", "length", "noise"), tablefmt="github", disable_numparse=True)


def main() -> None:
    """Print the table and keep it."""
    text = table()
    (RESULTS / "estimators.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
