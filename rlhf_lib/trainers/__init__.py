"""Trainers by the name that the command line knows them by."""

from rlhf_lib.trainers.grpo import GrpoTrainer
from rlhf_lib.trainers.ppo import LoraTrainer, RLHFTrainer, TrainingDiverged

TRAINERS = {trainer.name: trainer for trainer in (RLHFTrainer, LoraTrainer, GrpoTrainer)}

__all__ = ["TRAINERS", "GrpoTrainer", "LoraTrainer", "RLHFTrainer", "TrainingDiverged"]
