# Rendered by `rlhf course render`; fingerprint effff52b7bc3
"""Solutions of chapters/5_reward_models.md; run them with `python -m solutions.reward_models`.

A reward model of right and wrong answers, and what choosing by it is worth.
"""

import math
import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from tabulate import tabulate
from torch import Tensor, nn

from rlhf_lib.args import InputError, RewardModelArgs
from rlhf_lib.course.demos.reward_models import PROBLEMS, SAMPLES
from rlhf_lib.finite import require_finite
from rlhf_lib.models import BridgedTransformer, loading
from rlhf_lib.models.lengths import last_tokens
from rlhf_lib.models.reward_model import DEFAULT, read_classifier
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rollouts import rollout
from rlhf_lib.trainers.reward_model import RewardModelTrainer


def calc_preference_loss(
    chosen: Float[Tensor, " pairs"],
    rejected: Float[Tensor, " pairs"],
    margin: Float[Tensor, " pairs"] | float = 0.0,
    centring_coef: float = 0.0,
) -> Float[Tensor, ""]:
    """Bradley-Terry loss: mean of -log sigmoid(chosen - rejected - margin) + centring_coef (chosen + rejected)^2, in nats.

    Args:
        chosen, rejected: scores of the better and the worse text of each pair.
        margin: how much better the chosen one is to be, one number or one a pair (Touvron et al. 2023, eq. 2).
        centring_coef: weight of the squared sum, which fixes the scores' zero: differences alone leave it open
            (Eisenstein et al. 2023, section 2).

    Finite, with a finite gradient, however far apart the scores are.
    """
    comparison = -torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()
    return comparison + centring_coef * (chosen + rejected).square().mean()


def calc_regression_loss(scores: Float[Tensor, " batch"], targets: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean squared difference of scores and target rewards, which are data: no gradient reaches them."""
    return (scores - targets.detach()).square().mean()


def calc_verifier_loss(scores: Float[Tensor, " batch"], correct: Bool[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of sigmoid(scores) as the chance that a solution is right.

    Computed from the scores themselves (log sigmoid), so that a confident score gives no infinity.
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, correct.to(scores.dtype))


def pool_last_real_token(
    values: Float[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
) -> Float[Tensor, " batch"]:
    """Each row's value at its last real token, where a causal model has read the whole text for the first time.

    `attention_mask` is 1 on real tokens and 0 on padding, which may stand on either side or on both. Token ids are not
    looked at, since padding and end of sequence share an id in many tokenizers.

    Raises:
        InputError: a row without a real token.
    """
    real = attention_mask.bool()
    if not real.any(dim=1).all():
        row = int((~real.any(dim=1)).nonzero()[0])
        raise InputError(f"row {row} of the attention mask has no real token; a text needs at least one to be scored at")
    positions = torch.arange(values.shape[1], device=values.device)
    last = (positions * real).amax(dim=1)
    return values.gather(1, last[:, None]).squeeze(1)


class RewardModel(nn.Module):
    """A Hugging Face sequence classifier with one output, read as a score.

    An encoder (RoBERTa) reads question and completion as a pair and scores with its own head. A causal model (Llama, GPT-Neo)
    reads them in a row, ended by the end-of-sequence token, and is scored at its last real token by the attention mask;
    transformers would look for padding ids instead, which GPT-2 shares with the end of sequence.

    Args:
        name_or_path: "pocket", a name on the hub, or a local directory; without a trained head it begins with a random one.
        device: auto, cpu, cuda, cuda:N or mps.
        longest: most tokens, unless the model was saved with a limit; longer texts lose the beginning of the question.

    Raises:
        InputError: no such model, one that has no classifier in transformers, or one whose weights are not all there.
    """

    def __init__(self, name_or_path: str | os.PathLike = DEFAULT, *, device: str = "auto", longest: int = 512):
        super().__init__()
        where, name = loading.resolve_device(device), loading.resolve_name(name_or_path, "reward model")
        self.model, self.tokenizer, self.is_trained = read_classifier(name, f"reward model {str(name_or_path)!r}")
        self.model.to(where)
        self.is_causal = hasattr(self.model, "score")
        positions = getattr(self.model.config, "max_position_embeddings", longest)
        saved = getattr(self.model.config, "reward_longest", None)
        self.longest = min(longest if saved is None else saved, positions - 2)  # RoBERTa's positions begin at 2
        self.model.config.reward_longest = self.longest
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def kind(self) -> str:
        """What it was trained as: bradley-terry, regression or verifier."""
        return getattr(self.model.config, "reward_kind", "bradley-terry")

    def forward(self, ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]) -> Float[Tensor, " batch"]:
        """One score a row, in float32; padding is on the right and masked.

        A causal model's `score` head turns the trunk's last hidden state at every position into a number, of which the one at
        the last real token counts; an encoder's classifier gives the number itself.
        """
        if self.is_causal:
            hidden = self.model.base_model(input_ids=ids, attention_mask=attention_mask).last_hidden_state
            values = self.model.score(hidden).squeeze(-1).float()
            return pool_last_real_token(values, attention_mask)
        return self.model(input_ids=ids, attention_mask=attention_mask).logits.squeeze(-1).float()

    def encode(self, questions: list[str], completions: list[str]) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
        """Token ids and attention mask of each question with its completion, padded on the right."""
        rows = [self.encode_one(*pair) for pair in zip(questions, completions, strict=True)]
        if not rows:
            raise InputError("there is no text to score; give at least one question with its completion")
        pad, longest = loading.padding_id(self.tokenizer), max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    def encode_one(self, question: str, completion: str) -> list[int]:
        """Tokens of one text; of a long one the question's beginning is cut, then the completion's."""
        tokenizer = self.tokenizer
        if self.is_causal:
            front, middle, end = [tokenizer.bos_token_id], [], [tokenizer.eos_token_id]
        else:
            front, middle, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id], [tokenizer.sep_token_id]
        front, middle, end = ([i for i in part if i is not None] for part in (front, middle, end))
        room = self.longest - len(front) - len(middle) - len(end)
        told = last_tokens(tokenizer, completion, room)
        asked = last_tokens(tokenizer, question, room - len(told)) if room > len(told) else []
        return front + asked + middle + told + end

    @torch.no_grad()
    def score(self, questions: list[str], completions: list[str], batch_size: int = 64) -> Float[Tensor, " batch"]:
        """Scores, without gradients, on the CPU; texts of similar length go through the model together."""
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]) + len(completions[i]))
        scores = torch.zeros(len(questions))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            part = self.forward(*self.encode([questions[i] for i in rows], [completions[i] for i in rows]))
            scores[rows] = part.cpu()
        return scores

    def probability(self, questions: list[str], completions: list[str]) -> Float[Tensor, " batch"]:
        """Sigmoid of the scores: of a verifier, the chance that the completion is right."""
        return self.score(questions, completions).sigmoid()

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write a Hugging Face directory; its configuration's reward_kind says what the model was trained as.

        Raises:
            InputError: weights that are NaN or infinite; nothing is written.
        """
        remedy = "it is not saved; train with a lower learning rate"
        require_finite(self.model.named_parameters(), "the reward model to save", remedy)
        with loading.quiet_transformers():
            self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        return Path(directory)

    @classmethod
    def trained(cls, name_or_path: str | os.PathLike, *, device: str = "auto") -> "RewardModel":
        """A reward model that has been trained: what may judge. An error where the head would be a random one."""
        model = cls(name_or_path, device=device)
        if not model.is_trained:
            raise InputError(
                f"reward model={str(name_or_path)!r} has no trained head, so its scores mean nothing; train one with `rlhf "
                "train reward-model` and give the run's model/"
            )
        return model

    # what a Run needs of a model

    is_sharded = False
    """Its weights are whole on every process."""

    def trainable_state(self) -> dict[str, Any]:
        """All tensors that training changes."""
        return self.model.state_dict()

    def load_trainable_state(self, state: dict[str, Any]) -> None:
        """Put back what `trainable_state` gave."""
        self.model.load_state_dict(state)


def make_comparisons(correct: list[bool], group_size: int, most: int = 4) -> list[tuple[int, int]]:
    """Pairs (index of a right completion, index of a wrong one) of the same prompt, at most `most` a prompt.

    Completions of one prompt are consecutive, `group_size` of them. Right ones are paired with wrong ones in turn: the i-th
    pair has the i-th right one and the i-th wrong one, each list beginning anew when it ends, until every completion of the
    longer list was used once. A prompt whose completions are all right or all wrong gives none.

    Raises:
        InputError: the completions are not whole groups of at least 2.
    """
    if group_size < 2 or len(correct) % group_size:
        raise InputError(
            f"group_size={group_size} with {len(correct)} completions: comparisons need whole groups of at least 2; choose a "
            "divisor of the number of completions"
        )
    pairs = []
    for start in range(0, len(correct), group_size):
        group = range(start, start + group_size)
        right, wrong = [i for i in group if correct[i]], [i for i in group if not correct[i]]
        if right and wrong:
            count = min(most, max(len(right), len(wrong)))
            pairs += [(right[i % len(right)], wrong[i % len(wrong)]) for i in range(count)]
    return pairs


def pairwise_accuracy(chosen: Float[Tensor, " pairs"], rejected: Float[Tensor, " pairs"]) -> float:
    """Share of pairs whose chosen text has the higher score; a tie counts half, so that one half is guessing."""
    return float(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())


def calibration_bins(
    probabilities: Float[Tensor, " batch"], outcomes: Bool[Tensor, " batch"], bins: int = 10
) -> list[tuple[float, float, int]]:
    """(mean predicted probability, share that came true, count) of every bin of equal width that is not empty.

    The lowest bin comes first. Each includes its lower edge, and the last one 1 as well.
    """
    index = (probabilities * bins).long().clamp(max=bins - 1)
    found = []
    for i in range(bins):
        inside = index == i
        if inside.any():
            count = int(inside.sum())
            found.append((float(probabilities[inside].mean()), float(outcomes[inside].float().mean()), count))
    return found


def expected_calibration_error(
    probabilities: Float[Tensor, " batch"], outcomes: Bool[Tensor, " batch"], bins: int = 10
) -> float:
    """Mean of |predicted - came true| over `calibration_bins`, weighted by their counts (Guo et al. 2017, eq. 3); 0 is best."""
    parts = calibration_bins(probabilities, outcomes, bins)
    return sum(count * abs(predicted - true) for predicted, true, count in parts) / len(probabilities)


def best_of_n_value(proxy: Float[Tensor, " samples"], gold: Float[Tensor, " samples"], n: int) -> Float[Tensor, ""]:
    """Expected gold reward of the best of n by proxy reward, from any number of samples; unbiased.

    Averages over all ways to pick n of the samples. Sorted by proxy, the i-th smallest (from 1) is the best of
    C(i - 1, n - 1) of the C(samples, n) picks (Nakano et al. 2021, appendix I). Of samples with equal proxy the later one
    counts as the better.

    Raises:
        InputError: n is not between 1 and the number of samples.
    """
    samples = len(proxy)
    if not 1 <= n <= samples:
        raise InputError(f"n={n} must be between 1 and the number of samples, {samples}; sample more, or lower n")
    weights = [math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)]
    order = proxy.argsort(stable=True)
    return (gold[order] * torch.tensor(weights, dtype=gold.dtype, device=gold.device)).sum()


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n policy || sampling policy) in nats, log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3).

    Exact where no two completions score the same; otherwise an upper bound (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def main() -> None:
    """Train a reward model on the bundled model's own answers, then let it choose the best of more and more of them.

    Options are those of RewardModelArgs (--help).
    """
    args = script_args(RewardModelArgs, "reward_models", recipe(RewardModelArgs, "reward-model-pocket"))
    trainer = RewardModelTrainer(args)
    trainer.train()

    problems = trainer.task.held_out(PROBLEMS).repeat(SAMPLES)
    policy = BridgedTransformer(args.base_model, device=args.device)
    generator = torch.Generator(policy.device).manual_seed(args.seed)
    sampled = rollout(policy, problems.prompts, args.gen_len, generator=generator)
    proxy = trainer.model.score(problems.columns["question"], sampled.completions).reshape(PROBLEMS, SAMPLES)
    right = torch.tensor(trainer.task.is_correct(problems, sampled.completions)).float().reshape(PROBLEMS, SAMPLES)
    rows = []
    for n in (1, 2, 4, 8, 16):
        chosen = [
            [float(best_of_n_value(p, value, n)) for p, value in zip(proxy, values, strict=True)] for values in (proxy, right)
        ]
        rows.append((n, best_of_n_kl(n), *(sum(values) / PROBLEMS for values in chosen)))
    print(tabulate(rows, ("best of", "KL, nats", "reward model's score", "share right"), floatfmt=("", ".2f", ".2f", ".1%")))


if __name__ == "__main__":
    main()
