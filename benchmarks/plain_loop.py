"""GRPO as a short loop on transformers' generate and peft: what one would write without any library for it.

It does the same work as GrpoTrainer in a phase (see `work`), with nothing logged and nothing checked.
"""

import time

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from record import Port, import_baseline_mb, memory_mb
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_lib.args import GrpoArgs
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.rewards import correctness_reward
from rlhf_lib.tasks import PocketTask

LINEAR_MAPS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def logprobs_of(model: PeftModel, ids: Tensor, attention_mask: Tensor, gen_len: int, temperature: float) -> Tensor:
    """Log-probabilities of the last gen_len tokens [batch gen]."""
    logits = model(input_ids=ids, attention_mask=attention_mask, logits_to_keep=gen_len + 1).logits[:, :-1]
    return (logits / temperature).log_softmax(-1).gather(-1, ids[:, -gen_len:, None]).squeeze(-1)


class PlainLoop:
    """Model, optimiser and the two halves of a phase."""

    def __init__(self, args: GrpoArgs):
        torch.manual_seed(args.seed)
        self.args, self.task = args, PocketTask()
        self.tokenizer = AutoTokenizer.from_pretrained(BUNDLED["pocket"])
        base = AutoModelForCausalLM.from_pretrained(BUNDLED["pocket"], dtype=torch.float32)
        config = LoraConfig(r=args.lora_rank, lora_alpha=args.lora_alpha, target_modules=LINEAR_MAPS, task_type="CAUSAL_LM")
        self.model = get_peft_model(base, config)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.base_lr, weight_decay=args.weight_decay)

    def sample(self, phase: int) -> dict:
        """Prompts, and a completion for each of a prompt's group."""
        args = self.args
        drawn = self.task.draw(args.batch_size // args.resolved_group_size, args.seed, phase).repeat(args.resolved_group_size)
        texts = [self.tokenizer.bos_token + prompt for prompt in drawn.prompts]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True)
        options = {"do_sample": True, "temperature": args.temperature, "top_k": 0, "top_p": 1.0, "max_new_tokens": args.gen_len}
        ids = self.model.generate(**inputs, **options)
        generated = ids[:, inputs["input_ids"].shape[1] :]
        ended = (generated == self.tokenizer.eos_token_id).cumsum(1)
        mask = ((ended == 0) | ((ended == 1) & (generated == self.tokenizer.eos_token_id))).float()
        attention_mask = torch.cat([inputs["attention_mask"], mask.long()], dim=1)
        return {"drawn": drawn, "ids": ids, "attention_mask": attention_mask, "mask": mask, "generated": generated}

    @torch.no_grad()
    def score(self, sampled: dict) -> dict[str, Tensor]:
        """Rewards, group-relative advantages, and log-probabilities under policy and reference."""
        args, drawn = self.args, sampled["drawn"]
        texts = self.tokenizer.batch_decode(sampled["generated"], skip_special_tokens=True)
        rewards = torch.tensor(correctness_reward(drawn.prompts, texts, drawn.columns["answer"]))
        groups = rewards.reshape(-1, args.resolved_group_size)
        advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        inputs = (sampled["ids"], sampled["attention_mask"], sampled["mask"].shape[1], args.temperature)
        old = logprobs_of(self.model, *inputs)
        with self.model.disable_adapter():
            reference = logprobs_of(self.model, *inputs)
        scored = {"rewards": rewards, "advantages": advantages.reshape(-1, 1), "old": old, "reference": reference}
        return {**scored, **{name: sampled[name] for name in ("ids", "attention_mask", "mask")}}

    def loss(self, b: dict[str, Tensor]) -> Tensor:
        """Of a minibatch: minus the clipped surrogate, plus k3, averaged over its tokens."""
        args = self.args
        logprobs = logprobs_of(self.model, b["ids"], b["attention_mask"], b["mask"].shape[1], args.temperature)
        rho = (logprobs - b["old"]).exp()
        gain = torch.min(rho * b["advantages"], rho.clamp(1 - args.clip_coef, 1 + args.clip_coef) * b["advantages"])
        q = b["reference"] - logprobs
        return -((gain - args.kl_coef * (q.exp() - q - 1)) * b["mask"]).sum() / b["mask"].sum()

    def learn(self, memory: dict[str, Tensor]) -> None:
        """Some passes of minibatch updates."""
        for _ in range(self.args.batches_per_learning_phase):
            for rows in torch.randperm(self.args.batch_size).reshape(self.args.num_minibatches, -1):
                loss = self.loss({name: values[rows] for name, values in memory.items()})
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
                self.optimizer.step()


def work(port: Port, args: GrpoArgs) -> None:
    """A worker: one phase (sample, score, learn) for every command."""
    baseline = import_baseline_mb()
    loop = PlainLoop(args)
    for phase, _ in enumerate(port.commands()):
        times = [time.perf_counter()]
        sampled = loop.sample(phase)
        times.append(time.perf_counter())
        memory = loop.score(sampled)
        times.append(time.perf_counter())
        loop.learn(memory)
        times.append(time.perf_counter())
        stages = {f"{name}_s": times[i + 1] - times[i] for i, name in enumerate(("generate", "score", "learn"))}
        figures = {"length": float(memory["mask"].sum(1).mean()), "reward": float(memory["rewards"].mean())}
        peak = {"peak_mb": memory_mb("VmHWM") - baseline, "baseline_mb": baseline}
        port.report({"seconds": times[-1] - times[0], **stages, **figures, **peak})
