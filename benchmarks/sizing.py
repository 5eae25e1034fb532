"""What the GSM8K recipes take on one GPU, and GRPO on many: memory and time by arithmetic. Nothing here is measured.

    python benchmarks/sizing.py
    python benchmarks/sizing.py --gpu H100 --teraflops 989 --terabytes-per-second 3.35 --nvlink 450 --network 50

The first writes benchmarks/results/recipes.md and, from arithmetic.py, benchmarks/results/sizing.md; the second prints the latter
for another GPU. The formulas stand beside the numbers they give; the GPU of the recipes is an A100 with 80 GB: 312 TFLOP/s in
bfloat16 and 156 in float32 (TF32), of which 35% are taken to be reached, and 2 TB/s.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arithmetic import Gpu, page
from tabulate import tabulate

from rlhf_lib.args import GrpoArgs, LoraArgs, ReftArgs, RewardModelArgs, RLHFArgs, SelfTrainingArgs, SftArgs
from rlhf_lib.recipes import RECIPES, recipe

FLOPS, REACHED, BANDWIDTH = 312e12, 0.35, 2e12
RESULTS = Path(__file__).parent / "results"
STEP_OVERHEAD = 0.03  # seconds that launching the kernels of one decoding step takes, whatever the batch
KINDS: dict[str, Any] = {
    "sft": SftArgs,
    "reward-model": RewardModelArgs,
    "ppo": RLHFArgs,
    "ppo-lora": LoraArgs,
    "grpo": GrpoArgs,
    "reft": ReftArgs,
    "self-training": SelfTrainingArgs,
}


@dataclass(frozen=True)
class Shape:
    """A model's size, from its published configuration."""

    parameters: float
    layers: int
    width: int
    heads: int
    kv_width: int
    vocab: int
    prompt: int
    """Tokens of a GSM8K prompt in the recipe's style, roughly."""


MODELS = {
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(0.494e9, 24, 896, 14, 128, 151_936, 140),
    "EleutherAI/gpt-neo-1.3B": Shape(1.316e9, 24, 2048, 16, 2048, 50_257, 700),
    "distilroberta-base": Shape(0.082e9, 6, 768, 12, 768, 50_265, 140),
}


def state_bytes(shape: Shape, rank: int | None, frozen_copy: bool) -> float:
    """Trained in full, in float32: weights, gradient and AdamW's two moments, 4 bytes each, and the frozen reference.

    Under adapters the weights are bfloat16. The adapters, in float32 with gradient and moments, have about 2.5 rank x width
    numbers in each of a layer's 7 maps.
    """
    if rank is None:
        return 4 * shape.parameters * (4 + frozen_copy)
    return shape.parameters * 2 + 16 * shape.layers * 7 * rank * 2.5 * shape.width


def activation_bytes(shape: Shape, rows: int, tokens: int, number: int = 2) -> float:
    """Activations kept for the backward pass, rows x tokens x width x (34 + 5 heads tokens / width) bytes a layer.

    Korthikanti et al. 2022, equation 2, with 2-byte numbers (scaled for `number` bytes) and attention matrices held whole, as
    eager attention does.
    """
    return number / 2 * shape.layers * rows * tokens * shape.width * (34 + 5 * shape.heads * tokens / shape.width)


def logit_bytes(shape: Shape, rows: int, tokens: int) -> float:
    """Full-vocabulary logits in float32, about four copies of them at the peak: logits, log-softmax, and their gradients."""
    return 4 * 4 * rows * tokens * shape.vocab


def rollout_seconds(shape: Shape, rows: int, gen_len: int, prompt: int) -> float:
    """A step of decoding reads all weights and the cache once, and takes at least STEP_OVERHEAD."""
    cache = rows * (prompt + gen_len / 2) * shape.layers * 2 * shape.kv_width * 2
    return gen_len * (STEP_OVERHEAD + (2 * shape.parameters + cache) / BANDWIDTH)


def training_seconds(shape: Shape, tokens: float, adapters: bool) -> float:
    """2 floating-point operations a parameter and token forward, 4 backward (2 with adapters: no gradient of the weights).

    Full fine-tuning is in float32, which takes twice as long.
    """
    return (4 if adapters else 6 * 2) * shape.parameters * tokens / (FLOPS * REACHED)


def size(name: str) -> tuple:
    """A recipe's row."""
    algorithm = name.removesuffix("-gsm8k")
    args = recipe(KINDS[algorithm], name)
    shape, rank = MODELS[args.base_model], getattr(args, "lora_rank", None)
    if algorithm == "reward-model":
        head = MODELS[args.reward_base]
        rows = args.problems * args.samples
        sampling = rollout_seconds(shape, 128, args.gen_len, shape.prompt) * rows / 128
        training = training_seconds(head, args.epochs * rows * (shape.prompt + args.gen_len), adapters=False)
        memory = 2 * shape.parameters + state_bytes(head, None, False) + activation_bytes(head, args.batch_size, 400, 4)
        return (
            name,
            f"{args.base_model}, {args.reward_base}",
            f"{memory / 1e9:.0f}",
            "",
            f"{(sampling + training) / 3600:.1f}",
        )
    tokens = shape.prompt + args.gen_len
    if algorithm == "sft":
        tokens = shape.prompt + 130  # a worked solution
        memory = state_bytes(shape, rank, False) + activation_bytes(shape, args.batch_size, tokens, 4 if rank is None else 2)
        memory += logit_bytes(shape, args.batch_size, tokens)
        seconds = training_seconds(shape, args.problems * tokens, rank is not None)
        return (
            name,
            args.base_model,
            f"{memory / 1e9:.0f}",
            f"{seconds:.0f} (an epoch)",
            f"{args.epochs * seconds / 3600:.1f}",
        )
    rows, number = args.minibatch_size, 4 if rank is None else 2
    # policy, reference and their KL: six copies, of the phase at once
    scoring = 1.5 * logit_bytes(shape, args.batch_size, args.gen_len + 1)
    learning = activation_bytes(shape, rows, tokens, number) + logit_bytes(shape, rows, args.gen_len + 1)
    memory = state_bytes(shape, rank, rank is None) + max(scoring, learning)
    seconds = rollout_seconds(shape, args.batch_size, args.gen_len, shape.prompt)
    seconds += 2 * 2 * shape.parameters * args.batch_size * tokens / (FLOPS * REACHED)
    seconds += args.batches_per_learning_phase * training_seconds(shape, args.batch_size * tokens, rank is not None)
    return (name, args.base_model, f"{memory / 1e9:.0f}", f"{seconds:.0f}", f"{args.total_phases * seconds / 3600:.1f}")


def write_recipes() -> None:
    """Print the recipes' table and write it."""
    names = sorted(file.stem for file in RECIPES.glob("*-gsm8k.json"))
    heads = ("recipe", "models", "GB of GPU memory", "seconds a phase", "hours in all")
    table = tabulate([size(name) for name in names], heads, tablefmt="github", disable_numparse=True)
    text = f"Computed for one A100 with 80 GB, not measured (`python benchmarks/sizing.py` has the formulas):\n\n{table}\n"
    (RESULTS / "recipes.md").write_text(text)
    print(text)


def main() -> None:
    """Write both pages; for another GPU print the one on scaling."""
    usual = Gpu()
    parser = argparse.ArgumentParser(description="Memory and time by arithmetic; see the header of this file.")
    parser.add_argument("--gpu", default=usual.name, help="name of a GPU to print the page for")
    parser.add_argument("--gigabytes", type=float, default=usual.memory / 1e9, help="its memory")
    parser.add_argument("--teraflops", type=float, default=usual.flops / 1e12, help="dense, in bfloat16")
    parser.add_argument("--terabytes-per-second", type=float, default=usual.bandwidth / 1e12, help="of its memory")
    parser.add_argument("--nvlink", type=float, default=usual.nvlink / 1e9, help="GB/s each way between GPUs of a machine")
    parser.add_argument("--network", type=float, default=usual.network / 1e9, help="GB/s a GPU between machines")
    given = parser.parse_args()
    speeds = (given.teraflops * 1e12, given.terabytes_per_second * 1e12, given.nvlink * 1e9, given.network * 1e9)
    gpu = Gpu(given.gpu, given.gigabytes * 1e9, *speeds)
    if gpu == usual:
        write_recipes()
        (RESULTS / "sizing.md").write_text(page(gpu))
    print(page(gpu))


if __name__ == "__main__":
    main()
