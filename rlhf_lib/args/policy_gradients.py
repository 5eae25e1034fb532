"""Arguments of the family of policy gradients: one class, and of it one for each row of the table of algorithms."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import ClassVar

from rlhf_lib.args.algorithms import ALGORITHMS, Algorithm
from rlhf_lib.args.given import column_names
from rlhf_lib.args.reinforcement import WITHOUT_CRITIC, Estimator, RLArgs, require_groups
from rlhf_lib.args.rules import require
from rlhf_lib.args.training import TaskName
from rlhf_lib.args.types import CountFromZero, Share, Size

JUDGED = ("self-training", "expert-iteration", "latro")
"""Algorithms that learn from right answers, whatever is rewarded."""


@dataclass(kw_only=True)
class PolicyGradientArgs(RLArgs):
    """A policy gradient without critic, as the table of algorithms composes it."""

    algorithm = "grpo"
    elsewhere: ClassVar[Mapping[str, str]] = WITHOUT_CRITIC

    lora_rank: Size | None = 4
    """Rank of every adapter; None trains every weight."""
    group_size: Size | None = None
    """Completions per prompt (G); left out, the whole batch is one group."""
    kl_estimator: Estimator = "k3"
    """Estimator of the KL term in the loss, from log-probabilities of the sampled tokens."""
    weigh_by_tokens: bool = False
    """With reduction token: a minibatch counts by its number of tokens, so that the mean is over the whole batch's (DAPO)."""
    refill_draws: CountFromZero = 0
    """Most draws of other prompts in place of groups without spread, which teach nothing (DAPO's dynamic sampling); 0: none."""
    overlong_share: Share = 0.0
    """Last part of gen_len in which a completion's reward falls, to 1 less where it is cut (DAPO's soft penalty); 0: none."""
    mask_truncated: bool = False
    """Learn nothing from completions that were cut at gen_len."""

    def __post_init__(self) -> None:
        """Check what fields say together."""
        super().__post_init__()
        if self.composition.is_grouped:
            require_groups(self)
        require(
            self.reduction == "token" or not self.weigh_by_tokens,
            f"weigh_by_tokens=True is of reduction='token', and reduction={self.reduction!r}; leave one out",
        )
        if self.algorithm in JUDGED:
            self.require_answers()

    def require_answers(self) -> None:
        """The task knows what is right."""
        require(
            self.task not in (None, "char-count") or self.prompts is not None,
            f"task={self.task!r} has no right answers; use pocket, gsm8k, svamp or mathqa",
        )
        require(
            self.prompts is None or "answer" in column_names(self.prompts, self.columns),
            f"{self.algorithm} learns from what is right; give the prompts a column answer, or use grpo",
        )

    @property
    def composition(self) -> Algorithm:
        """The row of the table of algorithms."""
        return ALGORITHMS[self.algorithm]

    @property
    def resolved_group_size(self) -> int:
        """Completions per prompt, as a number."""
        if not self.composition.is_grouped:
            return 1
        return self.batch_size if self.group_size is None else self.group_size


def without_effect(name: str, algorithm: Algorithm) -> dict[str, str]:
    """The arguments that a row of the table does not read, with the reason."""
    found = {}
    if algorithm.surrogate != "clipped":
        found["clip_coef"] = f"{name} clips nothing from below"
    if algorithm.surrogate not in ("clipped", "clipped-weight"):
        found["clip_coef_high"] = f"{name} clips nothing"
    if algorithm.kl_in != "loss":
        found["kl_estimator"] = f"{name} pays the KL out of the reward, where its estimate is k1"
    if not algorithm.is_grouped:
        found["group_size"] = f"{name} compares no completions of a prompt with each other"
        found["refill_draws"] = f"{name} has no groups, whose spread could be missing"
    if algorithm.each_reward:
        found["overlong_share"] = (
            f"{name} learns from each reward function on its own, which a penalty on their sum would not reach"
        )
    if name in JUDGED:
        found |= dict.fromkeys(("rewards", "reward_model"), f"{name} learns from right answers, whatever is rewarded; use grpo")
        found["overlong_share"] = f"{name} knows right and wrong only"
    if name == "latro":
        found |= dict.fromkeys(("refill_draws", "mask_truncated"), "every reasoning is followed by the right answer")
    return found


def class_of(name: str, algorithm: Algorithm) -> type[PolicyGradientArgs]:
    """The arguments of one algorithm: PolicyGradientArgs with the row's defaults."""
    kinds = {f.name: f.type for f in fields(PolicyGradientArgs)}
    options = {**({"task": "pocket"} if name in JUDGED else {}), **algorithm.options}
    kinds["task"] = TaskName
    changed = [(option, kinds[option], field(default=value)) for option, value in options.items()]
    title = "".join(part[:1].upper() + part[1:] for part in name.replace("++", "PlusPlus").split("-"))
    own = {"algorithm": name, "unread": without_effect(name, algorithm), "__doc__": algorithm.summary, "__module__": __name__}
    return make_dataclass(f"{title}Args", changed, bases=(PolicyGradientArgs,), kw_only=True, namespace=own)


FAMILY: dict[str, type[PolicyGradientArgs]] = {name: class_of(name, row) for name, row in ALGORITHMS.items() if name != "grpo"}
"""The arguments of every algorithm of the table, by its name; GRPO's own are GrpoArgs."""
