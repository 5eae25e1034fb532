"""Failure signatures: what a run's metrics look like when it goes wrong, said in one plain sentence each."""

from collections.abc import Callable

Record = dict[str, float | int]


def level(history: list[Record], name: str, last: int = 1) -> float | None:
    """Mean of a metric over the last so many phases; None if it was not logged in all of them."""
    values = [record.get(name) for record in history[-last:]]
    return None if len(values) < last or None in values else sum(values) / last


def flat_groups(history: list[Record]) -> bool:
    """Nearly every group of the last three phases is without reward spread, and they are not solved."""
    share, wrong = level(history, "groups_without_spread", 3), level(history, "groups_all_wrong", 3)
    return share is not None and wrong is not None and share > 0.9 and wrong > 0.5


def reference_differs(history: list[Record]) -> bool:
    """The policy is not the reference before the first update."""
    first = history[0].get("kl")
    return len(history) == 1 and first is not None and first > 1e-3


def kl_runaway(history: list[Record]) -> bool:
    """The policy is very far from the reference."""
    kl = level(history, "kl")
    return kl is not None and kl > 5


def entropy_collapse(history: list[Record]) -> bool:
    """Entropy has fallen below a tenth of its first value within a third of what has run, while reward is not at its best."""
    now, first, reward = level(history, "entropy"), history[0].get("entropy"), level(history, "reward")
    best = max(record.get("reward", 0.0) for record in history)
    return len(history) >= 4 and None not in (now, first, reward) and now < 0.1 * first and reward < 0.5 * best


def frozen(history: list[Record]) -> bool:
    """No gradient, although rewards differ."""
    norm, spread, flat = level(history, "grad_norm"), level(history, "reward_std"), level(history, "groups_without_spread")
    return norm is not None and spread is not None and norm < 1e-9 and spread > 0 and (flat or 0) < 1


def truncated(history: list[Record]) -> bool:
    """Most completions hit the length cap."""
    share = level(history, "full_length_share", 3)
    return share is not None and share > 0.5


def sampler_gap(history: list[Record]) -> bool:
    """The sampler's log-probabilities are not the trainer's (where nothing explains it, the trainer has stopped already)."""
    gap = level(history, "sampler_gap")
    return gap is not None and abs(gap) > 0.05


def useless_critic(history: list[Record]) -> bool:
    """The value function explains nothing after ten phases, and not because all completions are good by now."""
    explained, reward = level(history, "explained_variance", 5), level(history, "reward", 5)
    if len(history) < 10 or explained is None or reward is None:
        return False
    return explained <= 0 and reward - history[0]["reward"] < history[0].get("reward_std", 0.0)


def nothing_learned(history: list[Record]) -> bool:
    """Ten phases on, the reward is where it was although it varies."""
    if len(history) < 10:
        return False
    now, then, spread = level(history, "reward", 3), level(history[:3], "reward", 3), level(history, "reward_std", 3)
    return None not in (now, then, spread) and spread > 0 and now - then < 0.05 * spread


SIGNATURES: list[tuple[Callable[[list[Record]], bool], str]] = [
    (reference_differs, "KL is above 0 before the first update: the reference is wrong or dropout is active."),
    (frozen, "The gradient is zero while rewards differ: adapters are frozen or the graph is detached."),
    (flat_groups, "Nearly all groups have equal, wrong rewards, so nothing is learned: use easier prompts or larger groups."),
    (
        kl_runaway,
        "KL from the reference is above 5 nats a token: the policy is collapsing, lower the learning rate or raise kl_coef.",
    ),
    (entropy_collapse, "Entropy has collapsed and the reward with it: lower the learning rate or raise ent_coef."),
    (truncated, "Most completions hit gen_len before ending, which may cut off their answers: raise gen_len."),
    (
        sampler_gap,
        "Sampler and trainer disagree on log-probabilities, by truncation, another sampler or rounding: try correct_sampler.",
    ),
    (useless_critic, "The critic explains none of the returns: raise vf_coef or head_lr, or train it longer."),
    (nothing_learned, "The reward has not risen in ten phases although it varies: raise the learning rate or the batch."),
]


def failure_signatures(history: list[Record]) -> list[str]:
    """The sentences of all signatures that the history so far shows."""
    return [sentence for shows, sentence in SIGNATURES if history and shows(history)]
