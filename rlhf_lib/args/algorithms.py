"""The table of algorithms: each is a composition of a few choices, named by what rlhf_lib.algorithms holds under that name.

`python -m rlhf_lib.algorithms` prints it. A new algorithm is a new row, in which functions of its own may stand in place of
names: see CONTRIBUTING.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A policy gradient as a value. Where a field takes a function, the name is short for the library's own."""

    summary: str
    """What it is, and whose; also the first line of `rlhf train NAME --help`."""
    advantage: str | Callable = "group-whitened"
    """From rewards to advantages, (rewards [batch], group_size) -> [batch]: baseline and normaliser."""
    each_reward: bool = False
    """Whether `advantage` is of every reward function on its own, their weighted sum then being a completion's."""
    whiten: Literal["sequences", "tokens"] | None = None
    """Whether advantages are whitened over the whole batch afterwards, one number a sequence or one a token."""
    ratio: str | Callable = "token"
    """Importance of what was sampled earlier, (log-ratio [batch gen], mask) -> [batch gen]."""
    surrogate: str | Callable = "clipped"
    """What is maximised, (ratio, advantages, logprobs, mask, clip range) -> [batch gen]."""
    rows: str | Callable = "all"
    """Which completions are learned from, (Rewarded, group_size) -> [batch] of 0 and 1."""
    kl_in: Literal["loss", "reward", "token-reward"] = "loss"
    """Where the KL from the reference is paid: a term of the objective, the completion's reward, or each token's."""
    is_grouped: bool = True
    """Whether a prompt has several completions, which are compared."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of arguments where they are not GRPO's: aggregation (reduction), clip range, weight of the KL, passes."""


ONE_PASS = {"batches_per_learning_phase": 1}
PLAIN = {"reduction": "constant", "kl_coef": 0.0, **ONE_PASS}

ALGORITHMS: dict[str, Algorithm] = {
    "reinforce": Algorithm(
        summary="REINFORCE (Williams 1992): every token's log-probability, weighted by the completion's reward.",
        advantage="reward",
        surrogate="log-likelihood",
        is_grouped=False,
        options=PLAIN,
    ),
    "reinforce-baseline": Algorithm(
        summary="REINFORCE with a baseline (Williams 1992): the batch's mean reward is taken off first.",
        advantage="batch-centred",
        surrogate="log-likelihood",
        is_grouped=False,
        options=PLAIN,
    ),
    "rloo": Algorithm(
        summary="RLOO (Ahmadian et al. 2024): REINFORCE with the mean of a prompt's other completions as baseline.",
        advantage="leave-one-out",
        surrogate="log-likelihood",
        kl_in="reward",
        options={"reduction": "constant", "kl_coef": 0.03, **ONE_PASS},
    ),
    "reinforce++": Algorithm(
        summary="REINFORCE++ (Hu et al. 2025): KL in every token's reward, advantages whitened over the batch, PPO's clip.",
        advantage="reward",
        whiten="tokens",
        kl_in="token-reward",
        is_grouped=False,
        options={"kl_coef": 0.01},
    ),
    "reinforce++-baseline": Algorithm(
        summary="REINFORCE++ with the group's mean as baseline (Hu et al. 2025), whitened over the batch; KL (k2) in the loss.",
        advantage="group-centred",
        whiten="tokens",
        options={"kl_estimator": "k2", "kl_coef": 0.01},
    ),
    "grpo": Algorithm(summary="GRPO (Shao et al. 2024): a reward relative to its group's mean and deviation, and PPO's clip."),
    "dr-grpo": Algorithm(
        summary="Dr. GRPO (Liu et al. 2025): no deviation and no length in any denominator, which both bias.",
        advantage="group-centred",
        options={"reduction": "constant", "kl_coef": 0.0},
    ),
    "dapo": Algorithm(
        summary="DAPO (Yu et al. 2025): clip-higher, token mean, groups without spread drawn anew, long answers paid less.",
        options={
            "kl_coef": 0.0,
            "clip_coef_high": 0.28,
            "weigh_by_tokens": True,
            "refill_draws": 4,
            "overlong_share": 0.2,
            "mask_truncated": True,
        },
    ),
    "gspo": Algorithm(
        summary="GSPO (Zheng et al. 2025): one ratio a sequence, the geometric mean of its tokens', and a narrow clip.",
        ratio="sequence",
        options={"reduction": "sequence", "kl_coef": 0.0, "clip_coef": 3e-4, "clip_coef_high": 4e-4},
    ),
    "luspo": Algorithm(
        summary="LUSPO (Yang et al. 2026): GSPO in which a sequence counts by its length.",
        ratio="sequence",
        options={"reduction": "constant", "kl_coef": 0.0, "clip_coef": 3e-4, "clip_coef_high": 4e-4},
    ),
    "cispo": Algorithm(
        summary="CISPO (MiniMax 2025): the ratio is a weight without gradient, cut from above, so that no token is left out.",
        surrogate="clipped-weight",
        options={"kl_coef": 0.0, "clip_coef_high": 0.28, "weigh_by_tokens": True, **ONE_PASS},
    ),
    "sapo": Algorithm(
        summary="SAPO (Gao et al. 2025): a soft gate, the ratio through a sigmoid, in place of the clip.",
        surrogate="soft-gate",
        options={"reduction": "sequence", "kl_coef": 0.0},
    ),
    "vespo": Algorithm(
        summary="VESPO (Shen et al. 2026): log-probabilities weighted by a gamma density of the sequence's ratio.",
        surrogate="gamma-weight",
        options={"kl_coef": 0.0, "weigh_by_tokens": True},
    ),
    "maxrl": Algorithm(
        summary="MaxRL (Tajwar et al. 2026): a reward relative to its group's mean and over it, towards maximum likelihood.",
        advantage="over-mean",
        options={"kl_coef": 0.0},
    ),
    "gdpo": Algorithm(
        summary="GDPO (Liu et al. 2026): each reward normalised on its own within the group, their sum over the batch.",
        each_reward=True,
        whiten="sequences",
        options={"kl_coef": 0.01},
    ),
    "latro": Algorithm(
        summary="LaTRO (Chen et al. 2024): the reward is the log-likelihood of the right answer after the sampled reasoning.",
        advantage="leave-one-out",
        surrogate="log-likelihood",
        kl_in="reward",
        options={"reduction": "constant", "kl_coef": 0.03, **ONE_PASS},
    ),
    "expert-iteration": Algorithm(
        summary="Expert iteration (Anthony et al. 2017): supervised learning on each prompt's best completion.",
        advantage="one",
        surrogate="log-likelihood",
        rows="best",
        options={"kl_coef": 0.0, "ent_coef": 0.0},
    ),
    "self-training": Algorithm(
        summary="Online self-training (Trung et al. 2024): sample, keep what is right, raise its log-probability.",
        advantage="one",
        surrogate="log-likelihood",
        rows="right",
        is_grouped=False,
        options={"kl_coef": 0.0, "ent_coef": 0.0},
    ),
}
