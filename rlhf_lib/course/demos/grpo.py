"""GRPO on word problems: reasoning emerges while one watches."""

from dataclasses import replace

from rlhf_lib.args import GrpoArgs
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rewards import reward_fn_char_count
from rlhf_lib.trainers.grpo import GrpoTrainer


def main() -> None:
    """Train the bundled model on word problems, and show accuracy before and after.

    Options are those of GrpoArgs (--help); with --task None the prompt is a fixed prefix and the reward counts full stops.
    """
    args = script_args(GrpoArgs, "grpo", recipe(GrpoArgs, "grpo-pocket"))
    if args.task is None:
        args = replace(args, reward_fn=reward_fn_char_count)
    GrpoTrainer(args).train()
