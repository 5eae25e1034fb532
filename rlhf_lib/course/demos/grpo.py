"""GRPO on word problems: reasoning emerges while one watches."""

import sys

from rlhf_lib.args import GrpoArgs
from rlhf_lib.recipes import parse, recipe
from rlhf_lib.trainers.grpo import GrpoTrainer


def main() -> None:
    """Train the bundled model on word problems, and show accuracy before and after; --help lists the options."""
    args = parse(GrpoArgs, sys.argv[1:], "python -m solutions.grpo", recipe(GrpoArgs, "grpo-pocket"))
    GrpoTrainer(args).train()
