# Rendered by `rlhf course render`; fingerprint baa6529b2cd7
"""Exercises of chapters/1_rollouts.md: fill in what raises NotAttempted.

Check your answers with `pytest tests/test_rollouts.py` (add -k NAME for one exercise), get a hint with
`rlhf course hint NAME`, and see your own code at work with `python -m exercises.rollouts`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import einops
import numpy as np
import torch
import torch as t
from jaxtyping import Bool, Float, Int
from tabulate import tabulate
from torch import Tensor, nn

from rlhf_lib.advantages import (
    compute_advantages,
    compute_gae,
    compute_group_advantages,
    compute_leave_one_out,
    compute_process_advantages,
)
from rlhf_lib.args import (
    FAMILY,
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
from rlhf_lib.course.demos.rollouts import GEN_LEN, GROUP, PROBLEMS, SETTINGS
from rlhf_lib.evaluate import Accuracy, evaluate, evaluate_samples
from rlhf_lib.lora import Lora, LoraHooks
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.models import (
    TransformerWithLora,
    TransformerWithValueHead,
    TransformerWithValueHeadLora,
    encode_prompts,
    padding_id,
)
from rlhf_lib.models.caching import cache_name, takes_positions
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.objectives import (
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_estimate_penalty,
    calc_kl_penalty,
    calc_value_function_loss,
)
from rlhf_lib.optim import get_optimizer, get_optimizer_and_scheduler
from rlhf_lib.rewards import REWARDS, answers_match, correctness_reward, extract_answer
from rlhf_lib.rollouts import Decoded, Rollout, check_length, decode_texts, end_ids_of, sampling_parts
from rlhf_lib.selection import majority_vote, pass_at_k, rerank, weighted_vote
from rlhf_lib.tasks import PocketTask, Task, WordProblemTask, make_task
from rlhf_lib.trainers import (
    GrpoTrainer,
    LatroTrainer,
    PolicyGradientTrainer,
    RLHFTrainer,
    ReftTrainer,
    RewardModelTrainer,
    SftTrainer,
)

try:
    import wandb
except ImportError:
    wandb = None

device = t.device("cuda" if t.cuda.is_available() else "cpu")


def take(logprobs: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """For each token id, the entry of that id in the last axis: result[i, t] = logprobs[i, t, tokens[i, t]]."""
    raise NotAttempted("take", "chapters/1_rollouts.md, exercise 1.1")


def get_logprobs(
    logits: Float[Tensor, "batch seq vocab"],
    tokens: Int[Tensor, "batch seq"],
    prefix_len: int | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "batch gen"]:
    """Log-probabilities of tokens given what stands before them, in nats, under softmax(logits / temperature).

    The logits at one position predict the next, so token prefix_len is scored by the logits at prefix_len - 1, and the last
    position's logits score nothing. `prefix_len` is the number of tokens that are given, not scored: the result is
    [batch seq-prefix_len]. None scores every token but the first: [batch seq-1]. `temperature` must be the one of sampling.
    """
    raise NotAttempted("get_logprobs", "chapters/1_rollouts.md, exercise 1.2")


def keep_top_k(logits: Float[Tensor, "batch vocab"], top_k: int) -> Float[Tensor, "batch vocab"]:
    """Logits with -inf in place of all but the `top_k` largest of each row; the others as they are, not renormalised.

    A `top_k` of vocab or more keeps everything. Tokens tied with the last one that stays, stay too.
    """
    raise NotAttempted("keep_top_k", "chapters/1_rollouts.md, exercise 1.4")


def keep_top_p(logits: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Logits with -inf outside each row's nucleus: the smallest set of likeliest tokens that holds probability `top_p`.

    Probabilities are softmax(logits). The token with which the sum reaches `top_p` belongs to the set, so the likeliest token
    always stays. A `top_p` of 1 keeps everything (Holtzman et al. 2020, section 3.1).
    """
    raise NotAttempted("keep_top_p", "chapters/1_rollouts.md, exercise 1.5")


def truncate_logits(
    logits: Float[Tensor, "batch vocab"], top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "batch vocab"]:
    """Logits after keep_top_k and then keep_top_p, each where it is given; without both the logits as they are.

    Top-p thus takes its probabilities after top-k, as softmax of what that left.
    """
    raise NotAttempted("sample_tokens", "chapters/1_rollouts.md, exercise 1.6")


def sample_tokens(
    logits: Float[Tensor, "batch vocab"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """One token for each row: (tokens, their log-probabilities under the policy, and under what was sampled from).

    The policy is softmax(logits / temperature). `top_k` and `top_p`, where given, then cut that distribution (see
    truncate_logits) and what is left is renormalised; the token is drawn from the result, with `generator` as the source of
    randomness (None: torch's global one). Temperature 0 takes the likeliest token; its log-probabilities are then those at
    temperature 1. All is computed in float32.
    """
    raise NotAttempted("sample_tokens", "chapters/1_rollouts.md, exercise 1.6")


class Decoder:
    """Next-token logits of a Hugging Face model with a key-value cache, for left-padded prompts.

    The model is called beneath the bridge's own forward, which keeps hooks and merged weights but saves time; positions
    are then given, since GPT-2 and GPT-Neo would count padding.
    """

    def __init__(self, model: nn.Module, attention_mask: Int[Tensor, "batch prefix"]):
        """`model` is the Hugging Face model; `attention_mask` is 0 on the prompts' left padding, 1 elsewhere."""
        self.model, self.attention_mask, self.cache = model, attention_mask, None
        self.takes_positions, self.cache_name = takes_positions(model), cache_name(model)

    def __call__(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        """Logits of the token after the last of `ids`: the first call gets the prompts, each later one the newest tokens alone.

        `self.attention_mask` [batch, all tokens so far] covers `ids` when the call begins, and one token more when it ends;
        `self.cache` is None at first and then holds the model's keys and values of all tokens so far. A token's position is
        the number of real tokens before it in its row; padding may have any position that the model knows, such as 0.
        `position_ids` go to the model only where `self.takes_positions`. What the model calls its cache, as argument and in
        its output, is `self.cache_name`. The model is asked for its cache (`use_cache=True`), whatever its settings say.
        """
        raise NotAttempted("cached_decoding", "chapters/1_rollouts.md, exercise 1.7")


@torch.no_grad()
def decode(
    decoder: Callable[[Int[Tensor, "batch new"]], Float[Tensor, "batch vocab"]],
    ids: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    **sampling: Any,
) -> Decoded:
    """The sampling loop: `gen_len` tokens for every sequence, or fewer once it has met one of `end_ids`.

    `decoder(ids)` gives next-token logits: it is called with the prompts first, then with the newest tokens [batch 1] alone,
    and no more once every sequence has ended. `sampling` are the keyword arguments of sample_tokens. The end token itself is
    real: mask 1, its own log-probabilities. After it, tokens are `pad_id`, and mask and log-probabilities 0. End tokens within
    the prompts end nothing. No graph is kept.
    """
    raise NotAttempted("decode", "chapters/1_rollouts.md, exercise 1.8")


def reward_fn_char_count(generated_sample: list[str], char: str = ".") -> Float[Tensor, " batch"]:
    """How often the character `char` occurs in each sample, as a float: one reward a sample, in their order."""
    raise NotAttempted("reward_fn_char_count", "chapters/1_rollouts.md, exercise 1.9")


def normalize_reward(reward: Float[Tensor, " batch"], eps: float = 1e-5) -> Float[Tensor, " batch"]:
    """Rewards with mean 0 and (unbiased) deviation 1 over the batch: (reward - mean) / (deviation + eps).

    One element, or no spread, gives exact zeros: there is nothing to compare.
    """
    raise NotAttempted("normalize_reward", "chapters/1_rollouts.md, exercise 1.10")


def rollout(
    model: Any,
    prompts: list[str],
    gen_len: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prepend_bos: bool = True,
    stop_at_eos: bool = True,
    generator: torch.Generator | None = None,
) -> Rollout:
    """One completion of at most `gen_len` tokens for every prompt, sampled from the policy.

    Args:
        model: a policy of rlhf_lib.models, or a TransformerBridge.
        prompts: any number, of any lengths; they are padded on the left.
        temperature: 0 is greedy.
        stop_at_eos: end a completion at the tokenizer's end-of-sequence token; otherwise all have gen_len tokens.
        generator: source of randomness; None takes torch's global one.

    Raises:
        InputError: no prompts, a prompt too long for the context, or stop_at_eos with a model that has no such token.
    """
    raise NotAttempted("rollout", "chapters/1_rollouts.md, exercise 1.12")


def get_samples(
    model: Any,
    prompt: str | list[str],
    batch_size: int,
    gen_len: int = 15,
    temperature: float = 0.8,
    top_k: int | None = 15,
    prepend_bos: bool = True,
    *,
    top_p: float | None = None,
    verbose: bool = False,
    stop_at_eos: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch seq"], list[str]]:
    """`batch_size` continuations of a prompt: whole token sequences, and whole texts with the prompt included.

    `model` is a policy, which is sampled with its adapters, or a bare TransformerBridge. Exactly `gen_len` tokens each,
    whatever end-of-sequence says, unless `stop_at_eos`. The beginning-of-sequence token goes first if `prepend_bos`. Of a list,
    each prompt gets `batch_size` in a row; shorter ones are padded on the left. `verbose` prints the texts.
    """
    raise NotAttempted("get_samples", "chapters/1_rollouts.md, exercise 1.13")


def main() -> None:
    """Reward full stops after a prefix, then right answers to word problems under several ways of sampling."""
    policy = TransformerWithLora.from_pretrained("pocket", device="cpu")
    torch.manual_seed(0)
    _, texts = get_samples(policy, "Question: Anna has", 6, gen_len=36, temperature=1.0, top_k=None)
    rewards = reward_fn_char_count(texts)
    rows = zip(texts, rewards.tolist(), normalize_reward(rewards).tolist(), strict=True)
    print(tabulate(rows, ("sample", "full stops", "normalised"), floatfmt=("", ".0f", ".2f")), "\n")

    task = PocketTask()
    problems = task.held_out(PROBLEMS).repeat(GROUP)
    rows = []
    for name, sampling in SETTINGS.items():
        sampled = rollout(policy, problems.prompts, GEN_LEN, generator=torch.Generator().manual_seed(0), **sampling)
        right = torch.tensor(correctness_reward(problems.prompts, sampled.completions, **problems.columns))
        reasons = [task.style_of(completion) == "reasoning" for completion in sampled.completions]
        best_of_group = right.reshape(PROBLEMS, GROUP).max(dim=1).values
        with torch.no_grad():
            logits, _ = policy.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=GEN_LEN + 1)
        scored = get_logprobs(logits, sampled.ids[:, -GEN_LEN - 1 :], temperature=sampling["temperature"] or 1.0)
        tokens = sampled.mask.sum()
        rows.append(
            (
                name,
                f"{sum(reasons) / len(reasons):.0%}",
                f"{right.mean():.0%}",
                f"{best_of_group.mean():.0%}",
                float(tokens / len(right)),
                float((sampled.sampler_logprobs - sampled.logprobs).sum() / tokens),
                float(((scored - sampled.logprobs) * sampled.mask).abs().max()),
            )
        )
    headers = ("sampling", "reasons", "right", f"best of {GROUP}", "tokens", "gap of truncation", "scored again")
    print(tabulate(rows, headers, floatfmt=("", "", "", "", ".1f", ".3f", ".0e")))


if __name__ == "__main__":
    from rlhf_lib.course.own import run_own

    run_own("rollouts", globals())
