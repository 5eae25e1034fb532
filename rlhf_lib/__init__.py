"""Reinforcement learning from human feedback and verifiable rewards, from scratch.

Names are imported on first use (PEP 562), so that `import rlhf_lib` and `rlhf --help` do not wait for torch.
"""

from importlib import import_module
from typing import Any

EXPORTS = {
    "rlhf_lib.args": (
        "FAMILY",
        "GrpoArgs",
        "InputError",
        "LoraArgs",
        "PolicyGradientArgs",
        "PretrainArgs",
        "RLHFArgs",
        "ReftArgs",
        "RewardModelArgs",
        "SftArgs",
    ),
    "rlhf_lib.objectives": (
        "calc_clipped_surrogate_objective",
        "calc_entropy_bonus",
        "calc_kl_estimate_penalty",
        "calc_kl_penalty",
        "calc_value_function_loss",
    ),
    "rlhf_lib.advantages": (
        "compute_advantages",
        "compute_gae",
        "compute_group_advantages",
        "compute_leave_one_out",
        "compute_process_advantages",
        "normalize_reward",
    ),
    "rlhf_lib.memory": ("ReplayMemory", "ReplayMinibatch"),
    "rlhf_lib.lora": ("Lora", "LoraHooks"),
    "rlhf_lib.models": ("TransformerWithLora", "TransformerWithValueHead", "TransformerWithValueHeadLora"),
    "rlhf_lib.models.reward_model": ("RewardModel",),
    "rlhf_lib.rollouts": ("Rollout", "get_logprobs", "get_samples", "rollout"),
    "rlhf_lib.rewards": ("REWARDS", "answers_match", "correctness_reward", "extract_answer", "reward_fn_char_count"),
    "rlhf_lib.selection": ("majority_vote", "pass_at_k", "rerank", "weighted_vote"),
    "rlhf_lib.tasks": ("PocketTask", "Task", "WordProblemTask", "make_task"),
    "rlhf_lib.evaluate": ("Accuracy", "evaluate", "evaluate_samples"),
    "rlhf_lib.args.algorithms": ("ALGORITHMS", "Algorithm"),
    "rlhf_lib.optim": ("get_optimizer", "get_optimizer_and_scheduler"),
    "rlhf_lib.trainers": (
        "GrpoTrainer",
        "LatroTrainer",
        "PolicyGradientTrainer",
        "RLHFTrainer",
        "ReftTrainer",
        "RewardModelTrainer",
        "SftTrainer",
    ),
}
MODULE_OF = {name: module for module, names in EXPORTS.items() for name in names}

__all__ = sorted(MODULE_OF)


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in MODULE_OF:
        raise AttributeError(f"module 'rlhf_lib' has no attribute {name!r}")
    return getattr(import_module(MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """All public names."""
    return __all__
