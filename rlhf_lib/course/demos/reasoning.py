"""Reading answers, rewarding them, fine-tuning on worked solutions, and choosing among many."""

import sys

from rlhf_lib.args import ReftArgs
from rlhf_lib.recipes import parse, recipe
from rlhf_lib.trainers.reft import ReftTrainer


def main() -> None:
    """Warm the bundled model up on worked solutions, then train it by ReFT; options are those of ReftArgs (--help)."""
    args = parse(ReftArgs, sys.argv[1:], "python -m solutions.reasoning", recipe(ReftArgs, "reft-pocket"))
    ReftTrainer(args).train()
