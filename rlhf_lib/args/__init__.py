"""What a run is told: plain keyword-only dataclasses that validate themselves. No torch here.

Every field's comment is also its help on the command line. An instance is never assigned to after construction; derived
values are properties. Fields that only one algorithm needs live in that algorithm's class.
"""

from rlhf_lib.args.code import CodeInFile
from rlhf_lib.args.commands import CompareArgs, EvalArgs, MergeArgs, ModelArgs, SampleArgs
from rlhf_lib.args.policy_gradients import FAMILY, PolicyGradientArgs
from rlhf_lib.args.reinforcement import CriticArgs, GrpoArgs, LoraArgs, ReftArgs, RLArgs, RLHFArgs, SamplerArgs
from rlhf_lib.args.rules import InputError, default_of, require
from rlhf_lib.args.saved import comparable, from_file, from_json, read_object, read_text, require_no_saved_code, to_json
from rlhf_lib.args.supervised import PretrainArgs, RewardModelArgs, SftArgs
from rlhf_lib.args.training import (
    GEN_LEN,
    LORA_MAPS,
    AdapterArgs,
    CommonArgs,
    PromptArgs,
    RunArgs,
    TaskArgs,
    TrainingArgs,
)

__all__ = [
    "FAMILY",
    "GEN_LEN",
    "LORA_MAPS",
    "AdapterArgs",
    "CodeInFile",
    "CommonArgs",
    "CompareArgs",
    "CriticArgs",
    "EvalArgs",
    "GrpoArgs",
    "InputError",
    "LoraArgs",
    "MergeArgs",
    "ModelArgs",
    "PolicyGradientArgs",
    "PretrainArgs",
    "PromptArgs",
    "RLArgs",
    "RLHFArgs",
    "ReftArgs",
    "RewardModelArgs",
    "RunArgs",
    "SampleArgs",
    "SamplerArgs",
    "SftArgs",
    "TaskArgs",
    "TrainingArgs",
    "comparable",
    "default_of",
    "from_file",
    "from_json",
    "read_object",
    "read_text",
    "require",
    "require_no_saved_code",
    "to_json",
]
