"""Low-rank adapters and a value head on a frozen model: trained, merged, saved and loaded again."""

import tempfile
from dataclasses import replace
from typing import Any

import torch
from tabulate import tabulate

from rlhf_lib.args import LoraArgs
from rlhf_lib.lora.peft_format import peft_tensors
from rlhf_lib.lora.sizing import lora_parameter_count, training_bytes
from rlhf_lib.models.policies import TransformerWithValueHeadLora, forward_with_hooks
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rollouts import rollout
from rlhf_lib.trainers.ppo import RLHFTrainer


def main() -> None:
    """Train adapters by PPO on word problems for a few phases, and look at what came of it; --help lists the options."""
    short = replace(recipe(LoraArgs, "ppo-lora-pocket"), total_phases=8, warmup_steps=1, eval_problems=0, log_samples_every=0)
    args = script_args(LoraArgs, "lora", short)

    options = {"maps": args.lora_maps, "device": args.device, "dtype": args.dtype}

    class OwnModelTrainer(RLHFTrainer):
        """The library's trainer with this file's model."""

        def build_models(self) -> tuple[Any, Any]:
            build = TransformerWithValueHeadLora.from_pretrained
            model = build(args.base_model, args.lora_alpha, args.lora_rank, **options)
            return model, model

    trainer = OwnModelTrainer(args)
    model, shapes = trainer.model, [m.shape for m in trainer.model.lora.maps]
    numbers, size = sum(p.numel() for p in model.base_model_params()), 2 if args.dtype == "bfloat16" else 4
    rows = [("everything", numbers, training_bytes(numbers, bytes_per_number=size) / 1e6)]
    for rank in (1, 4, 16):
        count = lora_parameter_count(shapes, rank)
        rows.append((f"adapters of rank {rank}", count, training_bytes(numbers, count, bytes_per_number=size) / 1e6))
    print(tabulate(rows, headers=("trained", "numbers", "MB held from step to step"), floatfmt=".1f", intfmt=","), "\n")

    trainer.train()

    prompts = trainer.task.draw(2, args.seed, args.total_phases).prompts
    ids, mask = model.encode(prompts, args.prepend_bos)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        hooked, _ = model.forward_with_value_head(ids, mask)
        with model.merged():
            merged = forward_with_hooks(model.base_model, [], ids, mask)
        model.save_pretrained(folder)
        loaded, _ = TransformerWithValueHeadLora.from_adapter(folder, **options).forward_with_value_head(ids, mask)
        for name, other in (("the base model", model(ids, mask)), ("merged weights", merged), ("saved and loaded", loaded)):
            print(f"largest difference between the policy's logits and those of {name:17} {(hooked - other).abs().max():.1e}")
    name, tensor = next(iter(peft_tensors(model.lora, model.peft_names).items()))
    print(f"first of PEFT's tensors: {name} {list(tensor.shape)}")
    for title, sampler in (("without adapters", model.base_model), ("with adapters", model)):
        print(f"\n{title}, at temperature 0:")
        for prompt, completion in zip(prompts, rollout(sampler, prompts, args.gen_len, temperature=0).completions, strict=True):
            print(f"  {prompt!r}\n    {completion!r}")
