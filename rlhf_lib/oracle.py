"""A policy small enough to enumerate: every expectation, gradient, KL and entropy is computed exactly.

An estimator is tested by its exact bias: weigh it over all sequences by their probability and compare, with no sampling
noise and so with no generous tolerance.
"""

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class TabularPolicy(nn.Module):
    """Logits for every prefix of sequences of `length` tokens out of `vocab`; row 0 is the empty prefix.

    All sequences are in `sequences` [count length], in float64 so that tests can be strict.
    """

    def __init__(self, vocab: int = 3, length: int = 2, seed: int = 0, scale: float = 1.0):
        super().__init__()
        self.vocab, self.length = vocab, length
        prefixes = [p for n in range(length) for p in itertools.product(range(vocab), repeat=n)]
        self.row = {prefix: i for i, prefix in enumerate(prefixes)}
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(scale * torch.randn(len(prefixes), vocab, generator=generator, dtype=torch.float64))
        self.sequences: Int[Tensor, "count length"] = torch.tensor(list(itertools.product(range(vocab), repeat=length)))

    def logits(self, sequences: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Next-token logits before each token of the sequences."""
        rows = [[self.row[tuple(s[:t])] for t in range(self.length)] for s in sequences.tolist()]
        return self.table[torch.tensor(rows)]

    def logprobs(self, sequences: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """Log-probability of each token of the sequences."""
        return self.logits(sequences).log_softmax(dim=-1).gather(-1, sequences[..., None]).squeeze(-1)

    def probabilities(self) -> Float[Tensor, " count"]:
        """Probability of every sequence."""
        return self.logprobs(self.sequences).sum(dim=1).exp()

    def expected(self, values: Float[Tensor, " count"]) -> Float[Tensor, ""]:
        """Exact expectation of a number per sequence; differentiable, the probabilities included."""
        return (self.probabilities() * values).sum()

    def sequence_kl(self, reference: "TabularPolicy") -> Float[Tensor, ""]:
        """Exact KL(policy || reference) of whole sequences, in nats."""
        ratio = self.logprobs(self.sequences).sum(dim=1) - reference.logprobs(self.sequences).sum(dim=1)
        return self.expected(ratio)

    def sequence_entropy(self) -> Float[Tensor, ""]:
        """Exact entropy of whole sequences, in nats."""
        return self.expected(-self.logprobs(self.sequences).sum(dim=1))

    def gradient(self, value: Float[Tensor, ""]) -> Float[Tensor, "rows vocab"]:
        """Gradient of a value with respect to the table."""
        return torch.autograd.grad(value, self.table, retain_graph=True)[0]

    def average_over(self, estimator: Callable[[Int[Tensor, "one length"]], Tensor]) -> Tensor:
        """Sum over sequences of (probability, held fixed) x (estimator of that one sequence): what sampling converges to."""
        weights = self.probabilities().detach()
        return sum(w * estimator(s[None]) for w, s in zip(weights, self.sequences, strict=True))
