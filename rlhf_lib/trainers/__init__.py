"""Trainers by the name that the command line knows them by."""

from rlhf_lib.trainers.grpo import GrpoTrainer
from rlhf_lib.trainers.ppo import LoraTrainer, RLHFTrainer
from rlhf_lib.trainers.reft import ReftTrainer
from rlhf_lib.trainers.reward_model import RewardModelTrainer
from rlhf_lib.trainers.self_training import SelfTrainer
from rlhf_lib.trainers.sft import SftTrainer
from rlhf_lib.trainers.trainer import Trainer, TrainingDiverged

TRAINERS: dict[str, type[Trainer]] = {
    trainer.name: trainer
    for trainer in (SftTrainer, RewardModelTrainer, RLHFTrainer, LoraTrainer, GrpoTrainer, ReftTrainer, SelfTrainer)
}

__all__ = [
    "TRAINERS",
    "GrpoTrainer",
    "LoraTrainer",
    "RLHFTrainer",
    "ReftTrainer",
    "RewardModelTrainer",
    "SelfTrainer",
    "SftTrainer",
    "Trainer",
    "TrainingDiverged",
]
