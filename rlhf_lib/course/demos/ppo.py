"""Proximal policy optimisation of a language model, from the value head to the training loop."""

from dataclasses import replace

import torch

from rlhf_lib.args import RLHFArgs
from rlhf_lib.recipes import script_args
from rlhf_lib.rewards import reward_fn_char_count
from rlhf_lib.rollouts import get_samples
from rlhf_lib.trainers.ppo import RLHFTrainer


def main() -> None:
    """Reward every full stop after a fixed prefix, and show what the model writes before and after; --help lists options."""
    default = RLHFArgs(total_phases=12, kl_coef=0.1, log_samples_every=0)
    args = script_args(RLHFArgs, "ppo", default)
    if args.task is None:
        args = replace(args, reward_fn=args.reward_fn or reward_fn_char_count)
    trainer = RLHFTrainer(args)
    torch.manual_seed(args.seed)
    _, before = get_samples(trainer.model, args.prefix, 4, args.gen_len, args.temperature, args.top_k, args.prepend_bos)
    trainer.train()
    _, after = get_samples(trainer.model, args.prefix, 4, args.gen_len, args.temperature, args.top_k, args.prepend_bos)
    for title, samples in (("before", before), ("after", after)):
        print(f"\n{title}:", *(repr(sample) for sample in samples), sep="\n  ")
