"""Who samples: what a trainer holds, and the library's own decode loop as one of them."""

from typing import Any, Protocol, runtime_checkable

from rlhf_lib.rollouts import Rollout, rollout


@runtime_checkable
class Sampler(Protocol):
    """Anything that gives a Rollout of a policy."""

    def rollout(self, model: Any, prompts: list[str], gen_len: int, **sampling: Any) -> Rollout:
        """One completion of every prompt; the arguments are those of rlhf_lib.rollouts.rollout."""


class OwnSampler:
    """The library's decode loop, in the trainer's process and on its own weights."""

    def rollout(self, model: Any, prompts: list[str], gen_len: int, **sampling: Any) -> Rollout:
        """`rlhf_lib.rollouts.rollout`."""
        return rollout(model, prompts, gen_len, **sampling)
