"""What the GSM8K recipes take on one GPU, and GRPO on many: memory and time by arithmetic. Nothing here is measured.

    python benchmarks/sizing.py
    python benchmarks/sizing.py --gpu H100 --teraflops 989 --terabytes-per-second 3.35 --nvlink 450 --network 50

The first writes benchmarks/results/recipes.md and, from arithmetic.py, benchmarks/results/sizing.md; the second prints the
latter for another GPU. The recipes share the formulas of arithmetic.py and its GPUs: an A100 with 80 GB, 2 TB/s, 312 TFLOP/s
in bfloat16 and 19.5 in float32, and an RTX 4090 with 24 GB, 1 TB/s, 165 and 82.6, of which 35% are taken to be reached. Models
without fast path have formulas of their own.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arithmetic import MODELS, REACHED, RTX4090, SMOLLM2_1_7B, Gpu, Job, Sizing, page
from tabulate import tabulate

from rlhf_lib.args import FAMILY, GrpoArgs, LoraArgs, ReftArgs, RewardModelArgs, RLHFArgs, SftArgs
from rlhf_lib.recipes import FAMILY_RECIPE, RECIPES, recipe

RESULTS = Path(__file__).parent / "results"
A100 = Gpu()
SOLUTION = 130  # tokens of a worked solution
SAMPLING_ROWS = 128  # completions that a reward model's data are sampled with at a time
STEP_OVERHEAD = 0.03  # seconds that launching the kernels of one decoding step of transformers takes, whatever the batch
KINDS: dict[str, Any] = {
    "sft": SftArgs,
    "reward-model": RewardModelArgs,
    "ppo": RLHFArgs,
    "ppo-lora": LoraArgs,
    "grpo": GrpoArgs,
    "reft": ReftArgs,
    "self-training": FAMILY["self-training"],
}
ENGINE = {model.hub: model for model in (*MODELS, SMOLLM2_1_7B)}
PROMPT = {  # tokens of a GSM8K prompt in the recipe's style
    "Qwen/Qwen2.5-0.5B-Instruct": 140,
    "Qwen/Qwen3-0.6B": 140,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 275,
    "EleutherAI/gpt-neo-1.3B": 700,
}


@dataclass(frozen=True)
class Shape:
    """The size of a model without fast path, from its published configuration."""

    parameters: float
    layers: int
    width: int
    heads: int
    vocab: int


PLAIN = {
    "EleutherAI/gpt-neo-1.3B": Shape(1.316e9, 24, 2048, 16, 50_257),
    "distilroberta-base": Shape(0.082e9, 6, 768, 12, 50_265),
}


def job_of(args: Any, **changes: Any) -> Job:
    """A recipe's phase; completions that all run to the cap, so that nothing larger comes."""
    group = getattr(args, "group_size", None) or 1
    values = {
        "prompts": args.batch_size // group,
        "group": group,
        "prompt": PROMPT[args.base_model],
        "gen_len": args.gen_len,
        "mean": args.gen_len,
        "rank": getattr(args, "lora_rank", None),
    }
    return Job(**{**values, **changes})


def phase_of(args: Any, gpu: Gpu) -> tuple[float, float]:
    """Memory, and seconds a phase, by the engine."""
    full = getattr(args, "lora_rank", None) is None
    steps = {"num_minibatches": args.num_minibatches, "passes": args.batches_per_learning_phase}
    job = job_of(args, evaluations=5 if full else 2, frozen_copy=full, **steps)
    case = Sizing(ENGINE[args.base_model], 1, job, gpu)
    parts = (case.rollout_memory, case.scoring_memory(case.rows), case.learning_memory(case.minibatch))
    return max(parts), case.rollout + case.scoring + case.learning()


def sft_of(args: Any, gpu: Gpu) -> tuple[float, float]:
    """Memory, and seconds an epoch: no rollouts, one evaluation of the logits."""
    tokens = PROMPT[args.base_model] + SOLUTION
    once = {"num_minibatches": 1, "passes": 1, "evaluations": 1}
    case = Sizing(ENGINE[args.base_model], 1, job_of(args, prompt=0, gen_len=tokens, mean=tokens, **once), gpu)
    return case.states + case.learned(args.batch_size), case.learning() * args.problems / args.batch_size


def activation_bytes(shape: Shape, rows: int, tokens: int, number: int) -> float:
    """Without fast path: rows x tokens x width x (34 + 5 heads tokens / width) bytes a layer.

    Korthikanti et al. 2022, equation 2, with 2-byte numbers (scaled for `number` bytes) and attention matrices held whole, as
    eager attention does.
    """
    return number / 2 * shape.layers * rows * tokens * shape.width * (34 + 5 * shape.heads * tokens / shape.width)


def plain_phase_of(args: Any, gpu: Gpu) -> tuple[float, float]:
    """Memory, and seconds a phase, of adapters on a model without fast path: padding is computed, logits are whole.

    Weights are bfloat16; adapters, about 2.5 rank x width numbers in each of a layer's 6 maps, are float32, and with them
    gradient and moments.
    Logits are float32: six copies of the whole phase in scoring (policy, reference, their KL), four of a minibatch in learning.
    """
    shape, tokens = PLAIN[args.base_model], PROMPT[args.base_model] + args.gen_len
    state = 2 * shape.parameters + 16 * shape.layers * 6 * args.lora_rank * 2.5 * shape.width
    logits = 4 * (args.gen_len + 1) * shape.vocab
    learning = activation_bytes(shape, args.minibatch_size, tokens, 2) + 4 * args.minibatch_size * logits
    cache = args.batch_size * (tokens - args.gen_len / 2) * shape.layers * 2 * shape.width * 2
    seconds = args.gen_len * (STEP_OVERHEAD + (2 * shape.parameters + cache) / gpu.bandwidth)
    operations = (2 * 2 + 4 * args.batches_per_learning_phase) * shape.parameters * args.batch_size * tokens
    return state + max(6 * args.batch_size * logits, learning), seconds + operations / (gpu.flops * REACHED)


def reward_model_of(args: Any, gpu: Gpu) -> tuple[float, float]:
    """Memory, and seconds in all: sampling by the engine, then training the verifier in float32 without fast path."""
    head, rows = PLAIN[args.reward_base], args.problems * args.samples
    changes = {"prompts": SAMPLING_ROWS // args.samples, "group": args.samples}
    case = Sizing(ENGINE[args.base_model], 1, job_of(args, rank=16, **changes), gpu)
    memory = case.weights + max(
        case.kept + case.draw + 2 * case.sampled,
        case.kept + 16 * head.parameters + activation_bytes(head, args.batch_size, 400, 4),
    )
    tokens = args.epochs * rows * (case.job.prompt + args.gen_len)
    return memory, case.rollout * rows / SAMPLING_ROWS + 6 * head.parameters * tokens / (gpu.float32 * REACHED)


def size(name: str, gpu: Gpu) -> tuple[str, str, str, str]:
    """What a recipe takes: models, GB of memory, seconds a phase, hours in all."""
    algorithm = name.partition("-gsm8k")[0]
    args = recipe(KINDS[algorithm], name)
    if algorithm == "reward-model":
        memory, seconds = reward_model_of(args, gpu)
        return f"{args.base_model}, {args.reward_base}", f"{memory / 1e9:.0f}", "", f"{seconds / 3600:.1f}"
    if algorithm == "sft":
        memory, seconds = sft_of(args, gpu)
        return args.base_model, f"{memory / 1e9:.0f}", f"{seconds:.0f} (an epoch)", f"{args.epochs * seconds / 3600:.1f}"
    memory, seconds = (phase_of if args.base_model in ENGINE else plain_phase_of)(args, gpu)
    return args.base_model, f"{memory / 1e9:.0f}", f"{seconds:.0f}", f"{args.total_phases * seconds / 3600:.1f}"


def recipes_page() -> str:
    """All recipes, on either GPU."""
    names = sorted(file.stem for file in RECIPES.glob("*-gsm8k*.json") if not file.stem.startswith(FAMILY_RECIPE))
    rows = [(name, *size(name, A100), *size(name, RTX4090)[2:]) for name in names]
    times = [f"{gpu.memory / 1e9:.0f} GB: {what}" for gpu in (A100, RTX4090) for what in ("seconds a phase", "hours in all")]
    table = tabulate(rows, ("recipe", "models", "GB needed", *times), tablefmt="github", disable_numparse=True)
    about = "Computed for one A100 with 80 GB and one RTX 4090 with 24 GB, not measured"
    return f"{about} (`python benchmarks/sizing.py` has the formulas):\n\n{table}\n"


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
        (RESULTS / "recipes.md").write_text(recipes_page())
        print(recipes_page())
        (RESULTS / "sizing.md").write_text(page(gpu))
    print(page(gpu))


if __name__ == "__main__":
    main()
