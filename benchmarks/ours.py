"""This library's GRPO phase for the benchmarks: seconds and peak memory of its three stages.

A phase is cut the same way for every system: generate is sampling alone, learn is from the first update to the last, and score
is all that lies between and before: drawing prompts, rewards, log-probabilities of policy and reference, advantages.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from record import Port, forget_peak, import_baseline_mb, memory_mb

from rlhf_lib.args import GrpoArgs
from rlhf_lib.evaluate import evaluate
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.runs import PhaseMetrics
from rlhf_lib.trainers import GrpoTrainer


class StageMetrics(PhaseMetrics):
    """A trainer's metrics that also keep the peak memory of each stage: generate, score, learn.

    With `watch_memory`, a stage's peak is the most that the process held during it.
    """

    def __init__(self, watch_memory: bool = False):
        super().__init__()
        self.watch_memory = watch_memory
        self.peaks: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Seconds as ever, and a new stage's peak where one begins or ends."""
        before, during = {"generate": ("between", "generate"), "train": ("score", "learn")}.get(part, (None, None))
        self.end_stage(before)
        with super().timed(part):
            yield
        self.end_stage(during)

    def end_stage(self, stage: str | None) -> None:
        """Keep the peak since the last stage ended; None: no stage ends here."""
        if self.watch_memory and stage is not None:
            self.peaks[stage] = max(self.peaks.get(stage, 0.0), memory_mb("VmHWM"))
            forget_peak()


def run_phase(trainer: GrpoTrainer, phase: int) -> dict[str, float]:
    """One phase of a trainer: seconds in all and of each stage, mean completion length, mean reward."""
    started = time.perf_counter()
    trainer.phase = phase
    trainer.learning_phase(trainer.rollout_phase())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    figures = trainer.metrics.take()
    generate, learn = figures["seconds_generate"], figures["seconds_train"]
    return {
        "seconds": seconds,
        "generate_s": generate,
        "score_s": seconds - generate - learn,
        "learn_s": learn,
        "length": figures["length"],
        "reward": figures["reward"],
    }


def work(port: Port, args: GrpoArgs, watch_stages: bool = False, stop_at_eos: bool = True) -> None:
    """A worker: one phase for every command. With `watch_stages` it tells the peak of each stage as well."""
    baseline = import_baseline_mb()
    trainer = GrpoTrainer(args)
    trainer.task.stop_at_eos = stop_at_eos
    trainer.metrics = metrics = StageMetrics(watch_stages)
    highest = 0.0
    for phase, _ in enumerate(port.commands()):
        answer: dict[str, Any] = run_phase(trainer, phase)
        highest = max(highest, memory_mb("VmHWM"), *metrics.peaks.values())
        stages = {f"{stage}_mb": peak - baseline for stage, peak in metrics.peaks.items() if stage != "between"}
        port.report({**answer, **stages, "peak_mb": highest - baseline, "baseline_mb": baseline})


def work_and_measure(port: Port, args: GrpoArgs, problems: int) -> None:
    """A worker: a phase for every command but "measure", which is answered with held-out accuracy."""
    trainer, phase = GrpoTrainer(args), 0
    for command in port.commands():
        if command == "measure":
            prompts = trainer.task.held_out(problems)
            judged = evaluate(trainer.model, trainer.task, prompts, gen_len=args.gen_len)
            port.report({"accuracy": judged.accuracy.value})
        else:
            port.report(run_phase(trainer, phase))
            phase += 1


def save_random_llama(directory: str | Path, vocab: int, width: int, layers: int) -> None:
    """A Hugging Face directory of a Llama with random weights and 4 heads, and the bundled tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    for file in BUNDLED["pocket"].glob("tokenizer*"):
        shutil.copy(file, directory)
