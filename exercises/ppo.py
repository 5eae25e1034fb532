# Rendered by `rlhf course render`; fingerprint ae221b0c3126
"""Exercises of chapters/2_ppo.md: fill in what raises NotAttempted.

Check your answers with `pytest tests/test_ppo.py` (add -k NAME for one exercise), get a hint with
`rlhf course hint NAME`, and see your own code at work with `python -m exercises.ppo`.
"""

import copy
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import einops
import numpy as np
import torch
import torch as t
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from tabulate import tabulate
from torch import Tensor, nn

from rlhf_lib import parallel
from rlhf_lib.advantages import (
    centre_per_group,
    compute_group_advantages,
    compute_leave_one_out,
    compute_process_advantages,
    last_real_token,
    normalize_reward,
    real_tokens,
)
from rlhf_lib.args import (
    FAMILY,
    GrpoArgs,
    InputError,
    LoraArgs,
    PolicyGradientArgs,
    PretrainArgs,
    RLArgs,
    RLHFArgs,
    ReftArgs,
    RewardModelArgs,
    SftArgs,
)
from rlhf_lib.args.algorithms import ALGORITHMS, Algorithm
from rlhf_lib.course import NotAttempted
from rlhf_lib.evaluate import Accuracy, evaluate, evaluate_samples
from rlhf_lib.finite import require_finite
from rlhf_lib.layout import chosen_at, with_last_of_prompt
from rlhf_lib.lora import Lora, LoraHooks
from rlhf_lib.memory import ReplayMinibatch
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHeadLora, checkpoint
from rlhf_lib.models.policies import HEAD_FILE, BridgedTransformer
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.objectives import LARGEST_LOG_RATIO, Mask, Reduction, calc_kl_estimate_penalty, hide, plogq, whiten
from rlhf_lib.optim import get_optimizer_and_scheduler
from rlhf_lib.recipes import script_args
from rlhf_lib.rewards import REWARDS, answers_match, correctness_reward, extract_answer, reward_fn_char_count
from rlhf_lib.rollouts import Rollout, TokenScores, get_logprobs, get_samples, rollout
from rlhf_lib.runs import explained_variance
from rlhf_lib.selection import majority_vote, pass_at_k, rerank, weighted_vote
from rlhf_lib.sharding import for_first, is_sharded, parameters_of, shard
from rlhf_lib.tasks import PocketTask, Task, WordProblemTask, make_task
from rlhf_lib.trainers import GrpoTrainer, LatroTrainer, PolicyGradientTrainer, ReftTrainer, RewardModelTrainer, SftTrainer
from rlhf_lib.trainers.rl import RLTrainer

try:
    import wandb
except ImportError:
    wandb = None

device = t.device("cuda" if t.cuda.is_available() else "cpu")


class WithValueHead(BridgedTransformer):
    """Adds a value head: an MLP read by a hook off the final norm's output, so that logits and values come of one pass."""

    value_head_output: Tensor | None = None

    def add_value_head(self) -> None:
        """Make `self.value_head`: an nn.Sequential of a linear map d_model -> 4 d_model, a ReLU, and a linear map to 1.

        Its weights are float32, whatever the base model's dtype, and live on the base model's device.
        """
        raise NotAttempted("value_head", "chapters/2_ppo.md, exercise 2.1")

    @property
    def value_head_hook(self) -> tuple[str, Callable]:
        """The pair (hook name, hook function) that reads the values off a forward pass.

        The hook's place is the final norm's output, ln_final.hook_out [batch seq d_model]: what the unembedding reads too.
        The function stores the head's output [batch seq 1] in `self.value_head_output`. The activation enters the head in
        float32 and with its graph, so that the value loss trains the trunk as well. The function returns None, since
        whatever else a hook returns takes the activation's place.
        """
        raise NotAttempted("value_head", "chapters/2_ppo.md, exercise 2.1")

    @property
    def fwd_hooks(self) -> list[tuple[str, Callable]]:
        """The policy's hooks, and the value head's."""
        return [*super().fwd_hooks, *([self.value_head_hook] if self.value_head is not None else [])]

    def values_of_pass(self) -> Float[Tensor, "batch seq"] | None:
        """The values that the last pass with hooks gave; None without a head."""
        return None if self.value_head is None else self.value_head_output.squeeze(-1)

    def get_value_head_params(self) -> list[nn.Parameter]:
        """The value head's parameters; empty without one."""
        return [] if self.value_head is None else parameters_of(self.value_head)

    def trained_parts(self) -> dict[str, nn.Module]:
        """All modules that training changes, the head included."""
        head = {} if self.value_head is None else {"value_head": self.value_head}
        return {**super().trained_parts(), **head}

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write the policy, and the value head beside it."""
        directory = super().save_pretrained(directory)
        if self.value_head is not None:
            head = {name: for_first(tensor).contiguous() for name, tensor in self.value_head.state_dict().items()}
            if not self.is_sharded or parallel.is_first():
                save_file(head, directory / HEAD_FILE)
        return directory

    def load_value_head(self, directory: str | os.PathLike) -> None:
        """Fill the value head from a directory that save_pretrained wrote."""
        file = Path(directory) / HEAD_FILE
        with checkpoint.sound(str(file), "save the model again"):
            found, own = load_file(file), self.value_head.state_dict()
        both = found.keys() & own.keys()
        mismatched = [(n, found[n].shape, own[n].shape) for n in sorted(both) if found[n].shape != own[n].shape]
        checkpoint.require_all(str(file), own.keys() - both, found.keys() - both, mismatched)
        require_finite(found.items(), str(file), "save the model again")
        self.value_head.load_state_dict(found)


class TransformerWithValueHead(WithValueHead):
    """Full fine-tuning with a value head: every weight is trained, and the reference policy is a `frozen_copy()`."""

    def __init__(
        self,
        base_model: str | os.PathLike = "pocket",
        *,
        use_value_head: bool = True,
        device: str = "auto",
        dtype: str = "float32",
    ):
        """Load the base model as every policy does, then add the value head; without one, `self.value_head` is None."""
        raise NotAttempted("value_head", "chapters/2_ppo.md, exercise 2.1")

    def shard(self) -> None:
        """Spread the weights of base model and value head."""
        super().shard()
        if self.value_head is not None and not is_sharded(self.value_head):
            shard(self.value_head)

    def frozen_copy(self) -> "TransformerWithValueHead":
        """The model as it is now, in eval mode and without gradients: the reference policy."""
        with torch.no_grad():
            self.base_model(torch.zeros(1, 1, dtype=torch.long, device=self.device))  # settles views that deepcopy refuses
        self.value_head_output = None
        return copy.deepcopy(self).requires_grad_(False).eval()


def compute_advantages(
    values: Float[Tensor, "batch seq"], rewards: Float[Tensor, " batch"], prefix_len: int, *, mask: Mask = None
) -> Float[Tensor, "batch gen"]:
    """One-step temporal difference: V_{t+1} - V_t, and at the last real token reward - V_t (Sutton & Barto 2018, eq. 6.5).

    The value V_t of the generated token at position t is values[:, t - 1], given where that token was chosen: the first
    generated token, at position prefix_len, has values[:, prefix_len - 1]. Positions after the last real token get 0.
    """
    raise NotAttempted("compute_advantages", "chapters/2_ppo.md, exercise 2.2")


def compute_gae(
    values: Float[Tensor, "batch seq"],
    rewards: Float[Tensor, " batch"] | Float[Tensor, "batch gen"],
    prefix_len: int,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    dones: Float[Tensor, "batch gen"] | None = None,
    group_ids: Int[Tensor, " batch"] | None = None,
    mask: Mask = None,
) -> Float[Tensor, "batch gen"]:
    """Generalised advantage estimation, A_t = delta_t + gamma lambda A_{t+1} (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t, and V_t is values[:, t - 1], as in `compute_advantages`. `rewards` is one number a
    completion, paid at its last real token, or one a token. `dones` is 1 on tokens after which an episode is over, so that
    neither V nor A reaches back across them; the last real token always is one. Positions after it get 0, whatever values and
    rewards stand there, infinities included. With gae_lambda 0 and gamma 1 this is `compute_advantages`. `group_ids` names
    each completion's prompt: advantages are then centred over the group's real tokens.
    """
    raise NotAttempted("compute_gae", "chapters/2_ppo.md, exercise 2.3")


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
        raise NotAttempted("returns", "chapters/2_ppo.md, exercise 2.4")

    @property
    def returns(self) -> Float[Tensor, "batch gen"] | None:
        """What the value function is to predict: advantage plus generated value; None without values."""
        raise NotAttempted("returns", "chapters/2_ppo.md, exercise 2.4")

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
        raise NotAttempted("get_minibatches", "chapters/2_ppo.md, exercise 2.5")


def calc_clipped_surrogate_objective(
    logprobs: Float[Tensor, "batch gen"],
    mb_logprobs: Float[Tensor, "batch gen"],
    mb_advantages: Float[Tensor, "batch gen"],
    clip_coef: float,
    gen_len: int,
    eps: float | None = None,
    *,
    clip_coef_high: float | None = None,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate, mean of min(rho A, clip(rho, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).

    rho = exp(logprobs - mb_logprobs) for each sampled token: the current policy over the one that sampled. With `eps` None the
    advantages count as they are; a number whitens them over the whole minibatch first: (A - mean) / (deviation + eps), with
    the unbiased deviation. The lower bound's low is clip_coef; the upper bound's high is clip_coef_high, or clip_coef too if
    that is None. What the memory holds, mb_logprobs and mb_advantages, is data: no gradient reaches it.
    """
    raise NotAttempted("calc_clipped_surrogate_objective", "chapters/2_ppo.md, exercise 2.6")


def calc_value_function_loss(
    values: Float[Tensor, "batch gen"],
    mb_returns: Float[Tensor, "batch gen"],
    vf_coef: float,
    gen_len: int,
    *,
    mb_values: Float[Tensor, "batch gen"] | None = None,
    clip_value: float | None = None,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`vf_coef` times the mean of (values - returns)^2 / 2 (Schulman et al. 2017, eq. 9).

    `values` are the current ones at the positions where the generated tokens were chosen. What the memory holds, mb_returns
    and mb_values, is data: no gradient reaches it. With `clip_value` the larger of two losses counts for each token: at the
    value, and at the value held within clip_value of `mb_values`, the one at sampling time (as in the PPO authors' code).
    """
    raise NotAttempted("calc_value_function_loss", "chapters/2_ppo.md, exercise 2.7")


def token_entropy(logits: Float[Tensor, "batch gen vocab"]) -> Float[Tensor, "batch gen"]:
    """Entropy of each next-token distribution over the vocabulary, -sum of p log p, in nats."""
    raise NotAttempted("calc_entropy_bonus", "chapters/2_ppo.md, exercise 2.8")


def calc_entropy_bonus(
    logits: Float[Tensor, "batch gen vocab"],
    ent_coef: float,
    gen_len: int,
    *,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`ent_coef` times the mean entropy of the policy per generated token, in nats.

    `logits` are those that chose the generated tokens. The entropy of a position is that of its whole next-token
    distribution, not the negative log-probability of the token that was sampled.
    """
    raise NotAttempted("calc_entropy_bonus", "chapters/2_ppo.md, exercise 2.8")


def token_kl(
    logits: Float[Tensor, "batch gen vocab"], ref_logits: Float[Tensor, "batch gen vocab"]
) -> Float[Tensor, "batch gen"]:
    """Exact KL(policy || reference) of each next-token distribution, sum of p (log p - log p_ref), in nats."""
    raise NotAttempted("calc_kl_penalty", "chapters/2_ppo.md, exercise 2.9")


def calc_kl_penalty(
    logits: Float[Tensor, "batch gen vocab"],
    ref_logits: Float[Tensor, "batch gen vocab"],
    kl_coef: float,
    gen_len: int,
    *,
    mask: Mask = None,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """`kl_coef` times the mean exact KL(policy || reference) per generated token, in nats (Ziegler et al. 2019, eq. 2).

    The sum over the vocabulary is weighted by the policy's probabilities. ref_logits is data: no gradient reaches it.
    """
    raise NotAttempted("calc_kl_penalty", "chapters/2_ppo.md, exercise 2.9")


def reduce_tokens(
    values: Float[Tensor, "batch gen"], gen_len: int, mask: Mask = None, reduction: Reduction = "token"
) -> Float[Tensor, ""]:
    """One number from per-token values, by one of three averages.

        token      sum over real tokens / number of real tokens
        sequence   mean over sequences of each sequence's token mean
        constant   sum over real tokens / (batch x gen_len)

    `mask` [batch gen] is 1 on real tokens; None: all are. Masked positions never matter, in value or gradient, whatever
    stands there, infinities included: they are hidden, not multiplied by 0. Without real tokens a mean is 0. `gen_len` is
    the cap on generated tokens; without a mask it must be the number of columns.

    Raises:
        InputError: no mask and another number of columns than gen_len, or an unknown reduction.
    """
    raise NotAttempted("reduce_tokens", "chapters/2_ppo.md, exercise 2.10")


def get_optimizer(
    model: Any,
    base_lr: float,
    head_lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.01,
) -> torch.optim.AdamW:
    """AdamW that MAXIMISES, with one learning rate for the model (or its adapters) and one for the value head.

    Two parameter groups in this order: what the model trains apart from the head, at base_lr; the value head's parameters
    (none without a head), at head_lr. `betas` and `weight_decay` are AdamW's own, with torch's defaults.
    """
    raise NotAttempted("get_optimizer", "chapters/2_ppo.md, exercise 2.12")


def learning_rate_scale(phase: int, args: RLArgs) -> float:
    """Share of the peak learning rate in a phase (0 is the first): linear warm-up that starts above 0, then decay.

    Phase k of the warm-up has (k + 1) / (warmup_steps + 1). Phase `warmup_steps` has 1; from there the share falls linearly, or
    by half a cosine wave with `lr_decay` cosine. The last phase, total_phases - 1, has `final_scale`, or 1 where it is phase
    `warmup_steps`; any later phase has `final_scale`.
    """
    raise NotAttempted("learning_rate_scale", "chapters/2_ppo.md, exercise 2.13")


@torch.no_grad()
def score_tokens(model: Any, ref_model: Any, sampled: Rollout, temperature: float = 1.0) -> TokenScores:
    """One pass of the policy and one of the reference over a rollout, whose padding neither sees; no graph is kept.

    Args:
        model: its forward_with_value_head gives the policy's logits and, with a head, values.
        ref_model: called for the reference policy's logits.
        sampled: the completions; ids and attention_mask are read, and `mask` has gen_len columns.
        temperature: that of sampling.
    """
    raise NotAttempted("score_tokens", "chapters/2_ppo.md, exercise 2.14")


class RLHFTrainer(RLTrainer):
    """PPO with a value head. One phase: `rollout_phase` fills a memory, `learning_phase` makes minibatch updates on it."""

    name = "ppo"
    args: RLHFArgs
    use_value_head = True
    needs_ref_logits = True
    """Whether the objective takes KL exactly, over the vocabulary, and not from the sampled tokens alone."""

    def rollout_phase(self) -> ReplayMemory:
        """Sample and reward completions, score their tokens, turn rewards into advantages, and keep what learning needs.

        `sample_and_reward` gives the completions and one reward each, `score_tokens` what policy and reference make of every
        token at args.temperature, `compute_token_advantages` an advantage a token. The memory keeps the rollout's masks and the
        reference's log-probabilities; its logits only where `needs_ref_logits`. `log_scores(sampled, scores)` is optional.
        """
        raise NotAttempted("ppo_rollout_phase", "chapters/2_ppo.md, exercise 2.15")

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """`compute_gae` of rewards and values, with args.gamma and args.gae_lambda, where sampled.mask is 1.

        Rewards are first whitened over the batch if args.normalize_reward.
        """
        raise NotAttempted("ppo_rollout_phase", "chapters/2_ppo.md, exercise 2.15")

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch) -> Float[Tensor, ""]:
        """Clipped surrogate - value loss + entropy bonus - KL penalty, to be maximised.

        One pass gives the current logits and values; entropy and KL are of softmax(logits / args.temperature).
        """
        raise NotAttempted("ppo_objective", "chapters/2_ppo.md, exercise 2.16")

    def learning_phase(self, memory: ReplayMemory) -> float:
        """One update for every minibatch of the memory, then one step of the schedule; returns the mean objective.

        An update: clear the gradients, compute the objective and its gradient, scale the gradient down to args.max_grad_norm
        (L2 over everything trained) where it is longer, let the optimiser step uphill, and count it in `self.step`.
        """
        raise NotAttempted("ppo_learning_phase", "chapters/2_ppo.md, exercise 2.17")

    def pretrain_critic(self) -> None:
        """`critic_phases` rollouts of the policy as it is, from which the value head alone learns to predict returns.

        The learning rate is head_lr throughout; the metrics end up in the first phase's record, as critic_loss and
        critic_explained_variance of the last rollout. The budget may end it early.
        """
        args, phases = self.args, getattr(self.args, "critic_phases", 0)  # arguments without a critic have none
        if not phases:
            return
        head = torch.optim.AdamW(self.model.get_value_head_params(), lr=args.head_lr, weight_decay=args.weight_decay)
        started = time.perf_counter()
        for i in range(phases):
            if self.is_out_of_time(started):
                break
            self.phase = -1 - i  # prompts of its own
            memory = self.rollout_phase()
            explained = explained_variance(memory.generated_values, memory.returns, memory.mask)
            self.metrics.take()
            for minibatch in memory.get_minibatches():
                loss = self.critic_update(minibatch, head)
            self.log(critic_loss=loss, critic_explained_variance=explained)
        self.phase = 0

    def critic_update(self, minibatch: ReplayMinibatch, head: torch.optim.Optimizer) -> Float[Tensor, ""]:
        """One step of the value head alone towards a minibatch's returns; the loss before it."""
        args, parameters = self.args, self.model.get_value_head_params()
        _, values = self.model.forward_with_value_head(
            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=args.gen_len + 1
        )
        shared = {"mask": minibatch.mask, "reduction": args.reduction}
        loss = calc_value_function_loss(
            chosen_at(values, args.gen_len), minibatch.returns, args.vf_coef, args.gen_len, **shared
        )
        head.zero_grad()
        loss.backward(inputs=None if self.model.is_sharded else parameters)  # shares get theirs on the way through all
        norm = torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
        self.stop_if_diverged(loss, norm)
        head.step()
        return loss


def main() -> None:
    """Reward every full stop after a fixed prefix, and show what the model writes before and after; --help lists options."""
    default = RLHFArgs(total_phases=12, kl_coef=0.1, log_samples_every=0)
    args = script_args(RLHFArgs, "ppo", default)
    if args.task is None:
        args = replace(args, reward_fn=args.reward_fn or reward_fn_char_count)
    trainer = RLHFTrainer(args)
    torch.manual_seed(args.seed)
    _, before = get_samples(trainer.model, args.prefix, 4, args.gen_len, args.temperature, args.top_k, args.prepend_bos)
    trainer.train()
    _, after = get_samples(trainer.model, args.prefix, 4, args.gen_len, args.temperature, args.top_k, args.prepend_bos)
    for title, samples in (("before", before), ("after", after)):
        print(f"\n{title}:", *(repr(sample) for sample in samples), sep="\n  ")


if __name__ == "__main__":
    from rlhf_lib.course.own import run_own

    run_own("ppo", globals())
