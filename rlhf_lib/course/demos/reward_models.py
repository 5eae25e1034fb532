"""A reward model of right and wrong answers, and what choosing by it is worth."""

import torch
from tabulate import tabulate

from rlhf_lib.args import RewardModelArgs
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rollouts import rollout
from rlhf_lib.selection import best_of_n_kl, best_of_n_value
from rlhf_lib.trainers.reward_model import RewardModelTrainer

PROBLEMS = 40
SAMPLES = 32  # completions of each problem


def main() -> None:
    """Train a reward model on the bundled model's own answers, then let it choose the best of more and more of them.

    Options are those of RewardModelArgs (--help).
    """
    args = script_args(RewardModelArgs, "reward_models", recipe(RewardModelArgs, "reward-model-pocket"))
    trainer = RewardModelTrainer(args)
    trainer.train()

    problems = trainer.task.held_out(PROBLEMS).repeat(SAMPLES)
    policy = BridgedTransformer(args.base_model, device=args.device)
    generator = torch.Generator(policy.device).manual_seed(args.seed)
    sampled = rollout(policy, problems.prompts, args.gen_len, generator=generator)
    proxy = trainer.model.score(problems.columns["question"], sampled.completions).reshape(PROBLEMS, SAMPLES)
    right = torch.tensor(trainer.task.is_correct(problems, sampled.completions)).float().reshape(PROBLEMS, SAMPLES)
    rows = []
    for n in (1, 2, 4, 8, 16):
        chosen = [
            [float(best_of_n_value(p, value, n)) for p, value in zip(proxy, values, strict=True)] for values in (proxy, right)
        ]
        rows.append((n, best_of_n_kl(n), *(sum(values) / PROBLEMS for values in chosen)))
    print(tabulate(rows, ("best of", "KL, nats", "reward model's score", "share right"), floatfmt=("", ".2f", ".2f", ".1%")))
