"""Answers in the manner of the field's best-known exercise course: one prefix, no masks, its signatures and its imports.

They are text that a student brings along; each must pass the exercises of the same name as it is.
"""

ROLLOUTS = """
def get_logprobs(logits: Float[Tensor, "batch seq vocab"], tokens: Int[Tensor, "batch seq"], prefix_len: int | None = None):
    prefix_len = prefix_len or 1
    logprobs = logits[:, prefix_len - 1 : -1].log_softmax(-1)
    return einops.rearrange(
        logprobs.gather(-1, tokens[:, prefix_len:].unsqueeze(-1)), "batch gen 1 -> batch gen"
    )


def reward_fn_char_count(generated_sample: list[str], char: str = ".") -> Float[Tensor, " batch"]:
    return t.tensor([item.count(char) for item in generated_sample], dtype=t.float)


def normalize_reward(reward: Float[Tensor, " batch_size"], eps=1e-5) -> Float[Tensor, " batch_size"]:
    spread = reward.std() if len(reward) > 1 else t.tensor(0.0)
    return (reward - reward.mean()) / (spread + eps)


@t.no_grad()
def get_samples(base_model, prompt, batch_size, gen_len=15, temperature=0.8, top_k=15, prepend_bos=True, **kwargs):
    input_ids = base_model.to_tokens(prompt, prepend_bos=prepend_bos).squeeze(0)
    input_ids = einops.repeat(input_ids, "seq -> batch seq", batch=batch_size)
    output_ids = base_model.generate(
        input_ids, max_new_tokens=gen_len, stop_at_eos=False, temperature=temperature, top_k=top_k, verbose=False
    )
    samples = base_model.to_string(output_ids)
    return output_ids.clone(), samples
"""

PPO = """
@t.no_grad()
def compute_advantages(values: Float[Tensor, "minibatch seq"], rewards: Float[Tensor, " minibatch"], prefix_len: int):
    one_step = t.cat([values[:, prefix_len:-1], rewards[:, None]], dim=-1)
    zero_step = values[:, prefix_len - 1 : -1]
    return one_step - zero_step


def calc_clipped_surrogate_objective(logprobs, mb_logprobs, mb_advantages, clip_coef, gen_len, eps=1e-8):
    if eps is not None:
        mb_advantages = (mb_advantages - mb_advantages.mean()) / (mb_advantages.std() + eps)
    r_theta = t.exp(logprobs - mb_logprobs)
    clipped = t.clip(r_theta, 1 - clip_coef, 1 + clip_coef)
    return t.minimum(r_theta * mb_advantages, clipped * mb_advantages).mean()


def calc_value_function_loss(values, mb_returns, vf_coef: float, gen_len: int):
    return 0.5 * vf_coef * (values - mb_returns).pow(2).mean()


def calc_entropy_bonus(logits, ent_coef: float, gen_len: int):
    logprobs = logits.log_softmax(dim=-1)
    return -ent_coef * (logprobs.exp() * logprobs).sum(dim=-1).mean()


def calc_kl_penalty(logits, ref_logits, kl_coef: float, gen_len: int):
    ref_logprobs = ref_logits.log_softmax(-1).detach()
    logprobs = logits.log_softmax(-1)
    return kl_coef * (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1).mean()


def get_optimizer(model, base_lr: float, head_lr: float) -> t.optim.Optimizer:
    return t.optim.AdamW(
        [
            {"params": model.get_base_model_trainable_params(), "lr": base_lr},
            {"params": model.get_value_head_params(), "lr": head_lr},
        ],
        maximize=True,
    )


class RLHFTrainer:
    step = phase = 0

    def __init__(self, args):
        t.manual_seed(args.seed)
        self.args = args
        self.run_name = f"rlhf--{args.seed}"
        self.model = TransformerWithValueHead.from_pretrained(args.base_model, device=args.device).train()
        self.ref_model = self.model.frozen_copy()
        self.optimizer, self.scheduler = get_optimizer_and_scheduler(self.args, self.model)
        self.prefix_len = len(self.model.to_str_tokens(self.args.prefix, prepend_bos=self.args.prepend_bos))

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch):
        gen_len_slice = slice(-self.args.gen_len - 1, -1)
        logits, values = self.model.forward_with_value_head(minibatch.sample_ids)
        logprobs = get_logprobs(logits, minibatch.sample_ids, self.prefix_len)
        clipped = calc_clipped_surrogate_objective(
            logprobs, minibatch.logprobs, minibatch.advantages, self.args.clip_coef, self.args.gen_len, 1e-8
        )
        value_loss = calc_value_function_loss(
            values[:, gen_len_slice], minibatch.returns, self.args.vf_coef, self.args.gen_len
        )
        entropy = calc_entropy_bonus(logits[:, gen_len_slice], self.args.ent_coef, self.args.gen_len)
        kl = calc_kl_penalty(
            logits[:, gen_len_slice], minibatch.ref_logits[:, gen_len_slice], self.args.kl_coef, self.args.gen_len
        )
        return clipped - value_loss + entropy - kl

    def rollout_phase(self):
        sample_ids, samples = get_samples(
            self.model.base_model,
            prompt=self.args.prefix,
            batch_size=self.args.batch_size,
            gen_len=self.args.gen_len,
            temperature=self.args.temperature,
            top_k=self.args.top_k,
            prepend_bos=self.args.prepend_bos,
        )
        with t.inference_mode():
            logits, values = self.model.forward_with_value_head(sample_ids)
            ref_logits = self.ref_model(sample_ids)
        logprobs = get_logprobs(logits, sample_ids, self.prefix_len)
        rewards = self.args.reward_fn(samples)
        if self.args.normalize_reward:
            rewards = normalize_reward(rewards)
        advantages = compute_advantages(values, rewards, self.prefix_len)
        return ReplayMemory(self.args, sample_ids, logprobs, advantages, values, ref_logits)

    def learning_phase(self, memory):
        for minibatch in memory.get_minibatches():
            self.optimizer.zero_grad()
            total = self.compute_rlhf_objective(minibatch)
            total.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=self.args.max_grad_norm)
            self.optimizer.step()
            self.step += 1
        self.scheduler.step()
"""

GRPO = """
class GrpoTrainer(RLHFTrainer):
    def __init__(self, args):
        t.manual_seed(args.seed)
        self.args = args
        self.run_name = f"grpo--{args.seed}"
        self.model = TransformerWithValueHeadLora.from_pretrained(
            args.base_model, args.lora_alpha, args.lora_rank, use_value_head=False
        ).to(device)
        self.ref_model = self.model
        self.optimizer, self.scheduler = get_optimizer_and_scheduler(self.args, self.model)
        self.prefix_len = len(self.model.to_str_tokens(self.args.prefix, prepend_bos=self.args.prepend_bos))

    def compute_rlhf_objective(self, minibatch: ReplayMinibatch):
        gen_len_slice = slice(-self.args.gen_len - 1, -1)
        logits, _ = self.model.forward_with_value_head(minibatch.sample_ids)
        logprobs = get_logprobs(logits, minibatch.sample_ids, self.prefix_len)
        clipped = calc_clipped_surrogate_objective(
            logprobs, minibatch.logprobs, minibatch.advantages, self.args.clip_coef, self.args.gen_len
        )
        entropy = calc_entropy_bonus(logits[:, gen_len_slice], self.args.ent_coef, self.args.gen_len)
        kl = calc_kl_penalty(
            logits[:, gen_len_slice], minibatch.ref_logits[:, gen_len_slice], self.args.kl_coef, self.args.gen_len
        )
        with t.inference_mode():
            if self.args.use_wandb:
                wandb.log({"objective": (clipped + entropy - kl).item()}, step=self.step)
        return clipped + entropy - kl

    def rollout_phase(self):
        sample_ids, samples = get_samples(
            self.model,
            prompt=self.args.prefix,
            batch_size=self.args.batch_size,
            gen_len=self.args.gen_len,
            temperature=self.args.temperature,
            top_k=self.args.top_k,
            prepend_bos=self.args.prepend_bos,
        )
        with t.inference_mode():
            logits, _ = self.model.forward_with_value_head(sample_ids)
            ref_logits = self.ref_model(sample_ids)
        logprobs = get_logprobs(logits, sample_ids, self.prefix_len)
        rewards = self.args.reward_fn(samples)
        advantages = einops.repeat(normalize_reward(rewards), "batch -> batch gen", gen=self.args.gen_len)
        return ReplayMemory(self.args, sample_ids, logprobs, advantages, None, ref_logits)
"""

ANSWERS = {"rollouts": ROLLOUTS, "ppo": PPO, "grpo": GRPO}
PASSES = {
    "rollouts": ("get_logprobs", "reward_fn_char_count", "normalize_reward", "get_samples"),
    "ppo": (
        "compute_advantages",
        "calc_clipped_surrogate_objective",
        "calc_value_function_loss",
        "calc_entropy_bonus",
        "calc_kl_penalty",
        "get_optimizer",
        "ppo_rollout_phase",
        "ppo_objective",
        "ppo_learning_phase",
    ),
    "grpo": ("GrpoTrainer",),
}
