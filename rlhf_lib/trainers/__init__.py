"""Trainers by the name that the command line knows them by."""

from rlhf_lib.args import FAMILY
from rlhf_lib.trainers.grpo import GrpoTrainer
from rlhf_lib.trainers.latro import LatroTrainer
from rlhf_lib.trainers.policy_gradient import PolicyGradientTrainer
from rlhf_lib.trainers.ppo import RLHFTrainer
from rlhf_lib.trainers.reft import ReftTrainer
from rlhf_lib.trainers.reward_model import RewardModelTrainer
from rlhf_lib.trainers.rl import RLTrainer
from rlhf_lib.trainers.sft import SftTrainer
from rlhf_lib.trainers.trainer import Trainer, TrainingDiverged

TRAINERS: dict[str, type[Trainer]] = {
    "sft": SftTrainer,
    "reward-model": RewardModelTrainer,
    "ppo": RLHFTrainer,
    "ppo-lora": RLHFTrainer,
    "grpo": GrpoTrainer,
    "reft": ReftTrainer,
    **dict.fromkeys(FAMILY, PolicyGradientTrainer),
    "latro": LatroTrainer,
}

__all__ = [
    "TRAINERS",
    "GrpoTrainer",
    "LatroTrainer",
    "PolicyGradientTrainer",
    "RLHFTrainer",
    "RLTrainer",
    "ReftTrainer",
    "RewardModelTrainer",
    "SftTrainer",
    "Trainer",
    "TrainingDiverged",
]
