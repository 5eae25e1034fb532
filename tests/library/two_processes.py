"""What test_parallel.py has torchrun start twice: whole phases, supervised training, runs, and runs whose peer dies.

python -m torch.distributed.run --nproc-per-node 2 two_processes.py MODEL_DIRECTORY OUTPUT_DIRECTORY
"""

import os
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

from rlhf_lib import cli, parallel
from rlhf_lib.args import GrpoArgs, LoraArgs, RLHFArgs
from rlhf_lib.rollouts import get_logprobs, rollout
from rlhf_lib.sharding import like, whole
from rlhf_lib.trainers import TRAINERS

CAN_SHARD = hasattr(FSDPModule, "set_force_sum_reduction_for_comms")  # which older torch, on a CPU, cannot
SHARDS = (False, True) if CAN_SHARD else (False,)
KINDS = {
    "ppo": (RLHFArgs, {}),
    "ppo-lora": (LoraArgs, {}),
    "grpo": (GrpoArgs, {"group_size": 4}),
    "grpo of all weights": (GrpoArgs, {"group_size": 4, "lora_rank": None}),
    "ppo in micro-batches": (RLHFArgs, {"micro_batch_size": 2, "checkpoint_activations": True}),
}
COMMON = {"task": "pocket", "batch_size": 12, "num_minibatches": 2, "gen_len": 10, "device": "cpu", "kl_coef": 0.1}
COMMON |= {"ent_coef": 0.01, "eval_problems": 0, "log_samples_every": 0, "temperature": 0.9}
SUPERVISED = {
    "sft": ["sft", "--lora-rank", "2"],
    "sft of all weights": ["sft"],
    "reward-model": ["reward-model", "--reward-base", "pocket", "--samples", "2", "--with-solutions"],
}
SHORT = ["--task", "pocket", "--problems", "12", "--batch-size", "5", "--epochs", "2", "--gen-len", "6", "--device", "cpu"]
SHORT += ["--eval-problems", "4", "--log-samples-every", "0"]


def trainer_of(kind, model, shard=False):
    """A trainer whose policy is no longer the reference, so that every term counts."""
    args, options = KINDS[kind]
    trainer = TRAINERS[kind.split()[0]](args(base_model=str(model), shard=shard, **COMMON, **options))
    with torch.no_grad():
        for i, parameter in enumerate(trainer.model.get_base_model_trainable_params()):
            noise = 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
            parameter.add_(like(noise, parameter))
    return trainer


def one_phase(trainer):
    """A rollout and what is learned from it, as plain tensors and numbers."""
    torch.manual_seed(4)
    memory = trainer.rollout_phase()
    columns = {"logprobs", "ref_logprobs", "advantages", "values"}
    found = {name: getattr(memory, name) for name in columns if getattr(memory, name) is not None}
    objective = trainer.learning_phase(memory)
    metrics = {name: value for name, value in trainer.metrics.take().items() if not name.startswith("seconds")}
    tokens = {"ids": memory.sample_ids, "mask": memory.mask}
    trained = [whole(tensor) for tensor in trainer.model.trainable_state().values()]
    return {"tokens": tokens, "columns": found, "objective": objective, "metrics": metrics, "trained": trained}


def phases(model, out):
    """One phase of each algorithm, its weights on every process or spread, for a single process to repeat."""
    for kind in KINDS:
        for shard in SHARDS:
            torch.save(one_phase(trainer_of(kind, model, shard)), out / f"{kind}-{shard}-{parallel.number()}.pt")


def supervised(kind, model, directory):
    """A short run on examples."""
    words = ["train", *SUPERVISED[kind], *SHORT, "--base-model", str(model), "--output-dir", str(directory)]
    return cli.main(words)


def one_row(model, out):
    """Fewer rows than processes: one process has none, and all goes on; two backward passes add up."""
    trainer = trainer_of("ppo-lora", model)
    torch.manual_seed(3)
    sampled = rollout(trainer.model, ["2+2="], 5, stop_at_eos=False)
    for _ in range(2):
        logits, values = trainer.model.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=6)
        (get_logprobs(logits, sampled.ids[:, -6:]).sum() + values.sum()).backward()
    torch.save(
        {"ids": sampled.ids, "gradients": [p.grad for p in trainer.model.lora_params()]}, out / f"row-{parallel.number()}.pt"
    )


OWN_REWARD = """
def length(prompts, completions, answer):
    assert prompts[0] and len(prompts) == len(completions) == len(answer)
    return [len(completion) for completion in completions]
"""


def command(model, directory, *more):
    """A run of the command line, one of whose rewards is in a file of the user's own."""
    words = ["train", "grpo", "--task", "pocket", "--base-model", str(model), "--output-dir", str(directory), "--device", "cpu"]
    words += ["--total-phases", "3", "--batch-size", "8", "--group-size", "4", "--num-minibatches", "2", "--gen-len", "6"]
    words += ["--rewards", "correctness", f"{directory.parent / 'mine.py'}:length=0.5"]
    return cli.main([*words, "--eval-problems", "4", "--log-samples-every", "0", "--save-every", "1", *more])


def dying_in_phase_2(trainer):
    """The trainer's learning phase, in the second of which this process is gone."""
    begun, learning_phase = [], trainer.learning_phase

    def learn(self, memory):
        begun.append(1)
        if len(begun) == 2:
            os._exit(1)
        return learning_phase(self, memory)

    return learn


def main():
    """All of it; last a run whose second process dies. With "spread" only the runs, their weights spread."""
    torch.set_num_threads(1)
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    is_spread = "spread" in sys.argv
    parallel.start("cpu")
    more = ["--shard", "--lora-rank", "None"] if is_spread else []
    command(model, out / "run", "--warmup-steps", "0", *more)
    if not is_spread:
        phases(model, out)
        one_row(model, out)
        for kind in SUPERVISED:
            supervised(kind, model, out / kind)

    if parallel.number() == 1:
        TRAINERS["grpo"].learning_phase = dying_in_phase_2(TRAINERS["grpo"])
    code = command(model, out / "killed", "--warmup-steps", "0", *more)
    (out / "code").write_text(str(code))
    os._exit(0)


if __name__ == "__main__":
    main()
