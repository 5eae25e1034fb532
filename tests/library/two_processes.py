"""What test_parallel.py has torchrun start twice: one learning phase from a common memory, a run, and a run whose peer dies.

python -m torch.distributed.run --nproc-per-node 2 two_processes.py MODEL_DIRECTORY OUTPUT_DIRECTORY
"""

import os
import sys
from pathlib import Path

import torch

from rlhf_lib import cli, parallel
from rlhf_lib.args import GrpoArgs, LoraArgs, RLHFArgs
from rlhf_lib.rollouts import get_logprobs, rollout
from rlhf_lib.trainers import TRAINERS

KINDS = {"ppo": RLHFArgs, "ppo-lora": LoraArgs, "grpo": GrpoArgs}
COMMON = {"task": "pocket", "batch_size": 12, "num_minibatches": 2, "gen_len": 10, "device": "cpu", "kl_coef": 0.1}
COMMON |= {"ent_coef": 0.01, "eval_problems": 0, "log_samples_every": 0, "temperature": 0.9}


def trainer_of(name, model):
    """A trainer whose policy is no longer the reference, so that every term counts."""
    options = {"group_size": 4} if name == "grpo" else {}
    trainer = TRAINERS[name](KINDS[name](base_model=str(model), **COMMON, **options))
    with torch.no_grad():
        for i, parameter in enumerate(trainer.model.get_base_model_trainable_params()):
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
    return trainer


def learn(trainer, memory):
    """One learning phase; the trained parameters after it, and the metrics."""
    torch.manual_seed(5)
    objective = trainer.learning_phase(memory)
    metrics = {name: value for name, value in trainer.metrics.take().items() if not name.startswith("seconds")}
    return {"objective": objective, "metrics": metrics, "trained": list(trainer.model.trainable_state().values())}


def rollout_of(trainer, memory):
    """What one process needs to make the same memory from."""
    return {"ids": memory.sample_ids, "mask": memory.mask, "attention_mask": memory.attention_mask}


def compare_learning(model, out):
    """One phase of each algorithm, for a single process to repeat."""
    for name in KINDS:
        trainer = trainer_of(name, model)
        with torch.no_grad():
            memory = trainer.rollout_phase()
        metrics = trainer.metrics.take()
        result = learn(trainer, memory)
        columns = {k: getattr(memory, k) for k in ("logprobs", "advantages", "values", "ref_logprobs")}
        ref_logits = None if memory.ref_logits is None else memory.ref_logits * 1
        state = {**result, "rollout": rollout_of(trainer, memory), "columns": columns, "ref_logits": ref_logits}
        if parallel.is_first():
            torch.save({**state, "rollout_metrics": metrics}, out / f"{name}.pt")
        torch.save(result["trained"], out / f"{name}-{parallel.number()}.pt")


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


def main():
    """All three, in this order."""
    torch.set_num_threads(1)
    model, out = Path(sys.argv[1]), Path(sys.argv[2])
    parallel.start("cpu")
    compare_learning(model, out)
    one_row(model, out)
    command(model, out / "run", "--warmup-steps", "0")

    if parallel.number() == 1:
        phases = []
        learning_phase = TRAINERS["grpo"].learning_phase

        def dying(self, memory):
            phases.append(1)
            if len(phases) == 2:
                os._exit(1)
            return learning_phase(self, memory)

        TRAINERS["grpo"].learning_phase = dying
    code = command(model, out / "killed", "--warmup-steps", "0")
    (out / "code").write_text(str(code))
    os._exit(0)


if __name__ == "__main__":
    main()
