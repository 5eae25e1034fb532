"""Reading answers, rewarding them, fine-tuning on worked solutions, and choosing among many."""

from rlhf_lib.args import ReftArgs
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.trainers.reft import ReftTrainer


def main() -> None:
    """Warm the bundled model up on worked solutions, then train it by ReFT; options are those of ReftArgs (--help)."""
    args = script_args(ReftArgs, "reasoning", recipe(ReftArgs, "reft-pocket"))
    ReftTrainer(args).train()
