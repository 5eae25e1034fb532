"""Supervised fine-tuning on worked solutions, and offline self-training, which adds the model's own right ones."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from rlhf_lib import parallel
from rlhf_lib.args import InputError, SftArgs
from rlhf_lib.files import whole_files
from rlhf_lib.models import BridgedTransformer, TransformerWithLora
from rlhf_lib.models.lengths import is_far_too_long
from rlhf_lib.models.loading import padding_id
from rlhf_lib.optim import get_supervised_optimizer, warmup_then_decay
from rlhf_lib.rollouts import end_ids_of, rollout
from rlhf_lib.runs import Run
from rlhf_lib.supervised import SupervisedBatch, calc_sft_loss, collate_examples, encode_example
from rlhf_lib.tasks import Prompts, Task, task_of
from rlhf_lib.terminal import visible
from rlhf_lib.trainers.trainer import Trainer, go_on_from

Example = tuple[list[int], list[int]]


def encode_solutions(model: Any, prompts: Prompts, longest: int, prepend_bos: bool) -> tuple[list[Example], int]:
    """Examples from prompts with a column "solution", and how many were left out because they are too long."""
    end_ids, eos = end_ids_of(model, model.tokenizer), model.tokenizer.eos_token_id
    end_id = end_ids[-1] if eos is None else eos
    pairs, room = list(zip(prompts.prompts, prompts.columns["solution"], strict=True)), min(longest, model.cfg.n_ctx)
    encoded = [
        encode_example(model.tokenizer, prompt, solution, end_id, prepend_bos)
        for prompt, solution in pairs
        if not is_far_too_long(prompt + solution, room)
    ]
    kept = [example for example in encoded if len(example[0]) <= room]
    if not kept:
        raise InputError(f"all {len(pairs)} examples have more than longest={longest} tokens; raise longest or lower few_shot")
    return kept, len(pairs) - len(kept)


def minibatches(examples: list[Example], size: int, pad_id: int, seed: int) -> Iterator[SupervisedBatch]:
    """Every example once in a random order that the seed fixes; the last minibatch may be smaller."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    for start in range(0, len(order), size):
        yield collate_examples([examples[i] for i in order[start : start + size]], pad_id)


def supervised_step(
    model: Any, batch: SupervisedBatch, optimizer: Any, max_grad_norm: float, check: Callable[[Tensor, Tensor], None]
) -> tuple[Tensor, Tensor]:
    """One update that lowers the loss of a batch; returns loss and gradient norm. `check` may stop before the update."""
    batch = batch.to(model.device)
    logits, _ = model.forward_with_value_head(batch.ids, batch.attention_mask)
    loss = calc_sft_loss(logits, batch.ids, batch.loss_mask)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_grad_norm)
    check(loss, norm)
    optimizer.step()
    return loss.detach(), norm


class SftTrainer(Trainer):
    """A phase is an epoch over prompts with solutions; the loss is on the solutions alone."""

    name = "sft"
    args: SftArgs

    def __init__(self, args: SftArgs):
        torch.manual_seed(args.seed)
        self.args = args
        self.check_directory()
        self.model = self.build_model()
        self.run_name = f"{self.name}-{self.task.name}-seed{args.seed}"
        started = time.perf_counter()
        prompts = self.training_prompts()
        self.seconds_before_run = time.perf_counter() - started
        self.examples, left_out = encode_solutions(self.model, prompts, args.longest, args.prepend_bos)
        self.findings.update(examples=len(self.examples), examples_left_out=left_out)
        steps = args.epochs * -(-len(self.examples) // args.batch_size)
        self.optimizer = get_supervised_optimizer(
            self.model.get_base_model_trainable_params(), args.lr, args.weight_decay, args.optimizer
        )
        self.scheduler = LambdaLR(self.optimizer, lambda step: warmup_then_decay(step, steps, args.warmup_share))

    def build_model(self) -> BridgedTransformer:
        """The policy: with adapters if args.lora_rank or args.adapter is given, else with every weight trained."""
        args = self.args
        where: dict[str, Any] = {"device": args.device, "dtype": args.dtype}
        if args.adapter is not None:
            return go_on_from(TransformerWithLora, args, **where)
        if args.lora_rank is None:
            return BridgedTransformer(args.base_model, **where)
        return TransformerWithLora(args.base_model, args.lora_alpha, args.lora_rank, maps=args.lora_maps, **where)

    def make_task(self) -> Task:
        """Prompts and worked solutions."""
        return task_of(self.args, self.model, self.args.gen_len)

    @property
    def samples_per_phase(self) -> int:
        """Examples of an epoch."""
        return len(self.examples)

    def samples_after(self, phase: int) -> int:
        """Examples that the run has learned from, of a cut epoch the updates that it had."""
        return self.examples_after(phase, self.args.batch_size)

    def training_prompts(self) -> Prompts:
        """The first training problems with the solutions to learn."""
        args = self.args
        prompts = self.task.worked(args.problems)
        return prompts if not args.self_samples else self.with_own_solutions(prompts)

    def with_own_solutions(self, prompts: Prompts) -> Prompts:
        """Offline self-training: the first model's own right solutions of every prompt, each different one once."""
        args, found, sampled_count = self.args, [], 0
        repeated = prompts.repeat(args.self_samples)
        for start in self.within_budget("self_sampled_batches", range(0, len(repeated), 128)):
            part = repeated.slice(start, start + 128)
            sampled = rollout(
                self.model, part.prompts, args.gen_len, temperature=args.temperature, prepend_bos=args.prepend_bos
            )
            right = self.task.is_correct(part, sampled.completions)
            sampled_count += len(part)
            rows = zip(part.prompts, sampled.completions, right, strict=True)
            found += [(prompt, self.task.cut(completion)) for prompt, completion, is_right in rows if is_right]
        own = list(dict.fromkeys(found))
        self.findings.update(own_solutions=len(own), own_right_share=len(found) / sampled_count)
        given = list(zip(prompts.prompts, prompts.columns["solution"], strict=True)) if args.keep_solutions else []
        rows = given + own
        if not rows:
            raise InputError(
                f"none of {sampled_count} sampled solutions is right, so there is nothing to train on; set keep_solutions, or "
                "sample more"
            )
        return Prompts([prompt for prompt, _ in rows], {"solution": [solution for _, solution in rows]})

    def learning_phase(self) -> None:
        """One epoch, or what the budget has left of it."""
        args, pad = self.args, padding_id(self.model.tokenizer)
        batches = minibatches(self.examples, args.batch_size, pad, seed=1000 * args.seed + self.phase)
        with self.metrics.timed("train"):
            for batch in self.rest_of_epoch(batches, -(-len(self.examples) // args.batch_size)):
                loss, norm = supervised_step(self.model, batch, self.optimizer, args.max_grad_norm, self.stop_if_diverged)
                self.scheduler.step()
                self.step += 1
                self.log(loss=loss, grad_norm=norm)

    def train(self) -> dict[str, Any]:
        """Run all epochs; with adapters the merged model is saved too, in merged/: what RL is to start from.

        4-bit weights cannot take in adapters; `rlhf merge` then does it in bfloat16 or float32.
        """
        self.run = run = Run(self)
        if self.findings["examples_left_out"]:
            run.say(f"{self.findings['examples_left_out']} examples left out: longer than longest or the model's context")
        for self.phase in run.phases():
            self.learning_phase()
        has_merged = isinstance(self.model, TransformerWithLora) and self.args.dtype != "4bit" and parallel.is_first()
        if has_merged:
            with whole_files(run.directory.path / "merged") as new:
                self.model.save_merged(new)
        summary = run.finish()
        if has_merged:
            print(visible(f"Merged with its base model, for --base-model: {run.directory.path / 'merged'}"))
        return summary
