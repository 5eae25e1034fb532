"""TRL's GRPOTrainer doing the same work as this library's: its settings, and its phases on command.

Settings that make the work the same: loss_type bnpo is the mean over a minibatch's tokens; use_bias_correction_kl off leaves
the plain k3 estimate; scale_rewards group divides by the unbiased deviation plus 1e-4; steps_per_generation minibatches,
num_iterations passes over them. Settings that make it as fast as it gets on so small a model: no gradient checkpointing, no
loader processes, no logging, saving or reporting, float32 on the CPU. A static cache and the unfused AdamW were tried and are
no faster. TRL scores the policy before it learns since there are several steps a generation, as this library does.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from record import Port, import_baseline_mb, memory_mb
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rlhf_lib.args import GrpoArgs
from rlhf_lib.evaluate import evaluate
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.optim import learning_rate_scale
from rlhf_lib.rewards import correctness_reward
from rlhf_lib.tasks import PocketTask

LINEAR_MAPS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DIFFERENCES = (
    "TRL cuts a phase's completions into minibatches once and goes through these in every pass; this library cuts anew",
    "TRL samples with adapters as extra matrix products, this library with adapters merged into the weights meanwhile",
    "without a KL penalty TRL makes no pass of the reference policy; this library makes it and reports the KL",
    "optimiser: torch's AdamW in both, in TRL in its fused form (the default of transformers)",
    "the random numbers: initial adapters and samples are not the same, though their distributions are",
)


def configuration(args: GrpoArgs, directory: str) -> GRPOConfig:
    """The arguments of this library's trainer in TRL's words."""
    return GRPOConfig(
        output_dir=directory,
        seed=args.seed,
        max_steps=args.total_phases * args.num_minibatches * args.batches_per_learning_phase,
        per_device_train_batch_size=args.minibatch_size,
        steps_per_generation=args.num_minibatches,
        num_iterations=args.batches_per_learning_phase,
        num_generations=args.resolved_group_size,
        max_completion_length=args.gen_len,
        temperature=args.temperature,
        top_k=0,
        top_p=1.0,
        beta=args.kl_coef,
        use_bias_correction_kl=False,
        epsilon=args.clip_coef,
        entropy_coef=args.ent_coef,
        loss_type="bnpo",
        scale_rewards="group",
        learning_rate=args.base_lr,
        weight_decay=args.weight_decay,
        adam_beta1=args.adam_beta1,
        adam_beta2=args.adam_beta2,
        max_grad_norm=args.max_grad_norm,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class PhaseTrainer(GRPOTrainer):
    """GRPOTrainer that tells a phase's stages apart: the seconds of `generate`, and when the first loss was computed."""

    generate_s = 0.0
    learning_since: float | None = None

    def watch_generate(self) -> None:
        """Count the seconds of the model's generate from now on."""
        generate = self.model.generate

        def timed(*inputs: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = generate(*inputs, **options)
            self.generate_s += time.perf_counter() - started
            return result

        self.model.generate = timed

    def compute_loss(self, *inputs: Any, **options: Any) -> Any:
        """TRL's loss; the first of a phase marks where learning begins."""
        if self.learning_since is None:
            self.learning_since = time.perf_counter()
        return super().compute_loss(*inputs, **options)


class PhaseOnCommand(TrainerCallback):
    """Waits for a command before every phase, and answers when its last update is done."""

    def __init__(
        self,
        port: Port,
        steps: int,
        describe: Callable[[], dict[str, Any]],
        measure: Callable[[], dict[str, Any]] | None = None,
    ):
        """`steps` are the updates of a phase; `describe` gives what else the answer tells, not timed.

        The command "measure", where it comes in place of a phase, is answered by `measure`.
        """
        self.port, self.steps, self.describe, self.measure = port, steps, describe, measure
        self.trainer: PhaseTrainer | None = None
        self.started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Sampling happens within a phase's first step, so that a phase begins here."""
        if state.global_step % self.steps == 0:
            while self.port.receive() == "measure":
                self.port.report(self.measure())
            self.trainer.generate_s, self.trainer.learning_since = 0.0, None
            self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """After the optimiser's and the schedule's step."""
        if state.global_step % self.steps == 0:
            ended, trainer = time.perf_counter(), self.trainer
            stages = {
                "seconds": ended - self.started,
                "generate_s": trainer.generate_s,
                "score_s": trainer.learning_since - self.started - trainer.generate_s,
                "learn_s": ended - trainer.learning_since,
            }
            self.port.report({**stages, **self.describe()})

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """After the last phase only measuring is left."""
        for _ in self.port.commands():
            self.port.report(self.measure())


class LastReward:
    """The task's reward, which keeps the last phase's mean length and reward."""

    __name__ = "correctness_reward"

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}

    def __call__(self, prompts: list, completions: list, answer: list[str], completion_ids: list, **others: Any) -> list[float]:
        """TRL's way to call a reward function."""
        rewards = correctness_reward(prompts, completions, answer)
        lengths = [len(ids) for ids in completion_ids]
        self.figures = {"length": sum(lengths) / len(lengths), "reward": sum(rewards) / len(rewards)}
        return rewards


def dataset_of(args: GrpoArgs, bos: str) -> Dataset:
    """The prompts that this library's trainer draws in its phases, in the same order."""
    prompts, answers = [], []
    for phase in range(args.total_phases):
        drawn = PocketTask().draw(args.batch_size // args.resolved_group_size, args.seed, phase)
        prompts += [bos + prompt for prompt in drawn.prompts]
        answers += drawn.columns["answer"]
    return Dataset.from_dict({"prompt": prompts, "answer": answers})


def build(args: GrpoArgs, directory: str, reward: Callable, callback: PhaseOnCommand) -> PhaseTrainer:
    """TRL's trainer with new adapters on the bundled model, and this library's schedule of the learning rate."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["pocket"])
    trainer = PhaseTrainer(
        model=str(BUNDLED["pocket"]),
        reward_funcs=[reward],
        args=configuration(args, directory),
        train_dataset=dataset_of(args, tokenizer.bos_token),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=args.lora_rank, lora_alpha=args.lora_alpha, lora_dropout=0.0, target_modules=LINEAR_MAPS, task_type="CAUSAL_LM"
        ),
        callbacks=[callback],
    )
    optimizer = trainer.create_optimizer()
    trainer.lr_scheduler = LambdaLR(optimizer, lambda step: learning_rate_scale(step // callback.steps, args))
    trainer.watch_generate()
    callback.trainer = trainer
    return trainer


def work(port: Port, args: GrpoArgs) -> None:
    """A worker: one phase for every command, `args.total_phases` of them at most."""
    baseline = import_baseline_mb()
    reward = LastReward()
    steps = args.num_minibatches * args.batches_per_learning_phase

    def describe() -> dict[str, float]:
        return {**reward.figures, "peak_mb": memory_mb("VmHWM") - baseline, "baseline_mb": baseline}

    with tempfile.TemporaryDirectory() as directory:
        build(args, directory, reward, PhaseOnCommand(port, steps, describe)).train()


def work_and_measure(port: Port, args: GrpoArgs, problems: int) -> None:
    """A worker: a phase for every command but "measure", which is answered with held-out accuracy.

    That is measured by this library's code: the adapters go through a file in PEFT's format into a model of its own.
    """
    steps, task = args.num_minibatches * args.batches_per_learning_phase, PocketTask()
    judge = TransformerWithLora(args.base_model, args.lora_alpha, args.lora_rank, device=args.device)
    with tempfile.TemporaryDirectory() as directory:
        adapter = Path(directory) / "adapter"

        def measure() -> dict[str, float]:
            callback.trainer.model.save_pretrained(adapter)
            judge.load_adapter(adapter)
            return {"accuracy": evaluate(judge, task, task.held_out(problems), gen_len=args.gen_len).accuracy.value}

        callback = PhaseOnCommand(port, steps, dict, measure)
        build(args, directory, LastReward(), callback).train()
