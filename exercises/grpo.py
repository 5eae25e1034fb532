# Rendered by `rlhf course render`; fingerprint a82d44522ab2
"""Exercises of chapters/4_grpo.md: fill in what raises NotAttempted.

Check your answers with `pytest tests/test_grpo.py` (add -k NAME for one exercise), get a hint with
`rlhf course hint NAME`, and see your own code at work with `python -m exercises.grpo`.
"""

import time
from dataclasses import dataclass, replace
from typing import Literal

import einops
import numpy as np
import torch
import torch as t
from einops import rearrange, repeat
from jaxtyping import Float, Int
from tabulate import tabulate
from torch import Tensor, nn

from rlhf_lib.advantages import (
    Deviation,
    compute_advantages,
    compute_gae,
    is_unbiased,
    normalize_reward,
    normalize_rows,
    split_groups,
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
from rlhf_lib.evaluate import Accuracy, evaluate, evaluate_samples
from rlhf_lib.layout import chosen_at, with_last_of_prompt
from rlhf_lib.lora import Lora, LoraHooks
from rlhf_lib.memory import ReplayMemory, ReplayMinibatch
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHead, TransformerWithValueHeadLora
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.objectives import (
    KL_ESTIMATORS,
    LARGEST_LOG_RATIO,
    Mask,
    Reduction,
    calc_clipped_surrogate_objective,
    calc_entropy_bonus,
    calc_kl_penalty,
    calc_value_function_loss,
    hide,
    reduce_tokens,
)
from rlhf_lib.optim import get_optimizer, get_optimizer_and_scheduler
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rewards import REWARDS, answers_match, correctness_reward, extract_answer, reward_fn_char_count
from rlhf_lib.rollouts import Rollout, TokenScores, get_logprobs, get_samples, rollout
from rlhf_lib.selection import majority_vote, pass_at_k, rerank, weighted_vote
from rlhf_lib.tasks import PocketTask, Task, WordProblemTask, make_task
from rlhf_lib.trainers import LatroTrainer, PolicyGradientTrainer, ReftTrainer, RewardModelTrainer, SftTrainer
from rlhf_lib.trainers.ppo import RLHFTrainer

try:
    import wandb
except ImportError:
    wandb = None

device = t.device("cuda" if t.cuda.is_available() else "cpu")


def compute_group_advantages(
    rewards: Float[Tensor, " batch"], group_size: int, *, std: Deviation = "unbiased", eps: float = 1e-4
) -> Float[Tensor, " batch"]:
    """Group-relative advantage (r - mean) / (std + eps) within each prompt's completions (Shao et al. 2024, section 4.1.2).

    Completions of one prompt are consecutive. `std` is the deviation with n - 1 in its denominator (unbiased), with n
    (population), or none, which only centres (Liu et al. 2025). A group without spread gives exact zeros: it has nothing to
    teach.
    """
    raise NotAttempted("compute_group_advantages", "chapters/4_grpo.md, exercise 4.1")


def spread_over_tokens(advantages: Float[Tensor, " batch"], gen_len: int) -> Float[Tensor, "batch gen"]:
    """The same advantage for every token of a completion."""
    raise NotAttempted("spread_over_tokens", "chapters/4_grpo.md, exercise 4.2")


def compute_leave_one_out(rewards: Float[Tensor, " batch"], group_size: int) -> Float[Tensor, " batch"]:
    """RLOO: each reward minus the mean of the other completions of its prompt (Ahmadian et al. 2024)."""
    raise NotAttempted("compute_leave_one_out", "chapters/4_grpo.md, exercise 4.3")


def compute_process_advantages(
    step_rewards: Float[Tensor, "batch steps"],
    step_ends: Int[Tensor, "batch steps"],
    gen_len: int,
    group_size: int,
    *,
    std: Deviation = "unbiased",
    eps: float = 1e-4,
) -> Float[Tensor, "batch gen"]:
    """Process supervision (Shao et al. 2024, section 4.1.3): A_t sums the normalised rewards of steps that end at or after t.

    `step_ends` holds the generated position (0 first) of each step's last token, and -1 where a completion has fewer steps.
    Each step's reward is normalised over all steps of its group.
    """
    raise NotAttempted("compute_process_advantages", "chapters/4_grpo.md, exercise 4.4")


def estimate_kl_k1(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """log(policy / reference) of the sampled tokens; can be negative.

    On samples of the policy itself it is unbiased, and as a loss its expected gradient is zero.
    """
    raise NotAttempted("estimate_kl_k1_k2", "chapters/4_grpo.md, exercise 4.5")


def estimate_kl_k2(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """Half the squared log-ratio: biased, with little noise.

    On samples of the policy itself, its expected gradient as a loss is that of KL(policy || reference).
    """
    raise NotAttempted("estimate_kl_k1_k2", "chapters/4_grpo.md, exercise 4.5")


def estimate_kl_k3(
    logprobs: Float[Tensor, "batch gen"], ref_logprobs: Float[Tensor, "batch gen"]
) -> Float[Tensor, "batch gen"]:
    """exp(q) - q - 1 with q = log(reference / policy), never negative (Schulman 2020; GRPO's choice).

    On samples of the policy itself it is unbiased, and as a loss its expected gradient is that of KL(reference || policy).
    Beyond LARGEST_LOG_RATIO q counts as no more than that: the exponential stays finite.
    """
    raise NotAttempted("estimate_kl_k3", "chapters/4_grpo.md, exercise 4.6")


def calc_kl_estimate_penalty(
    logprobs: Float[Tensor, "batch gen"],
    ref_logprobs: Float[Tensor, "batch gen"],
    kl_coef: float,
    gen_len: int,
    *,
    estimator: Literal["k1", "k2", "k3"] = "k3",
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`kl_coef` times the mean estimated KL per generated token, from the sampled tokens' log-probabilities, in nats.

    ref_logprobs is data: no gradient reaches it. Where the mask is 0 nothing counts, whatever stands there.
    """
    raise NotAttempted("calc_kl_estimate_penalty", "chapters/4_grpo.md, exercise 4.7")


def group_metrics(rewards: Float[Tensor, " batch"], group_size: int, best: float | None = None) -> dict[str, float]:
    """Shares of all groups: groups_without_spread, and the two kinds of those, groups_all_right and groups_all_wrong.

    A flat group is all right if its reward is at least `best` (None: the highest of the phase) and above 0, else all wrong.
    """
    raise NotAttempted("group_metrics", "chapters/4_grpo.md, exercise 4.8")


class GrpoTrainer(RLHFTrainer):
    """A fixed prefix is one group, a task of many prompts has `group_size` completions each; there is no value head."""

    name = "grpo"
    args: GrpoArgs
    use_value_head = False
    needs_ref_logits = False

    @property
    def completions_per_prompt(self) -> int:
        """The group size."""
        raise NotAttempted("grpo_many_prompts", "chapters/4_grpo.md, exercise 4.10")

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """Rewards compared within their groups, with args.advantage_std; the same advantage for every token of a completion."""
        raise NotAttempted("GrpoTrainer", "chapters/4_grpo.md, exercise 4.9")

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Clipped surrogate + entropy bonus - estimated KL penalty, to be maximised; advantages are not whitened again."""
        raise NotAttempted("GrpoTrainer", "chapters/4_grpo.md, exercise 4.9")


def main() -> None:
    """Train the bundled model on word problems, and show accuracy before and after.

    Options are those of GrpoArgs (--help); with --task None the prompt is a fixed prefix and the reward counts full stops.
    """
    args = script_args(GrpoArgs, "grpo", recipe(GrpoArgs, "grpo-pocket"))
    if args.task is None:
        args = replace(args, reward_fn=reward_fn_char_count)
    GrpoTrainer(args).train()


if __name__ == "__main__":
    from rlhf_lib.course.own import run_own

    run_own("grpo", globals())
