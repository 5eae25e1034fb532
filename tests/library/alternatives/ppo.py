"""Right answers to exercises/ppo.py."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "value_head": (
        """
class WithValueHead(BridgedTransformer):
    value_head_output = None

    def add_value_head(self):
        d = self.cfg.d_model
        self.value_head = nn.Sequential(
            nn.Linear(d, d * 4, device=self.device, dtype=torch.float32),
            nn.ReLU(inplace=True),
            nn.Linear(d * 4, 1, device=self.device, dtype=torch.float32),
        )

    @property
    def value_head_hook(self):
        def store(activation, hook=None):
            setattr(self, "value_head_output", self.value_head(activation.to(torch.float32)))

        return ("ln_final.hook_out", store)


class TransformerWithValueHead(WithValueHead):
    def __init__(self, base_model="pocket", use_value_head=True, device="auto", dtype="float32"):
        super().__init__(base_model, device=device, dtype=dtype)
        if use_value_head:
            self.add_value_head()
        else:
            self.value_head = None
""",
        """
def read_values(model, resid, hook):
    model.value_head_output = model.value_head.forward(resid.type(torch.float32))


class WithValueHead(BridgedTransformer):
    def add_value_head(self):
        width, layers = self.base_model.cfg.d_model, OrderedDict()
        layers["0"], layers["1"], layers["2"] = nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 1)
        self.value_head = nn.Sequential(layers).float().to(self.device)

    @property
    def value_head_hook(self):
        return "ln_final.hook_out", functools.partial(read_values, self)


class TransformerWithValueHead(WithValueHead):
    def __init__(self, base_model="pocket", **options):
        with_head = options.pop("use_value_head", True)
        WithValueHead.__init__(self, base_model, **options)
        self.value_head = None
        self.add_value_head() if with_head else None


import functools
from collections import OrderedDict
""",
    ),
    "compute_advantages": (
        """
@torch.inference_mode()
def compute_advantages(values, rewards, prefix_len, mask=None):
    gen = values[:, prefix_len - 1 :].clone()
    gen[:, -1] = rewards
    return gen.diff(dim=1)
""",
        """
def compute_advantages(values, rewards, prefix_len, **options):
    out = torch.empty(len(values), values.shape[1] - prefix_len, dtype=torch.float64)
    for i, row in enumerate(values.double().tolist()):
        later = row[prefix_len:-1] + [float(rewards[i])]
        for t, after in enumerate(later):
            out[i, t] = after - row[prefix_len - 1 + t]
    return out
""",
        """
def compute_advantages(values, rewards, prefix_len, *, mask=None):
    before, after = values.numpy()[:, prefix_len - 1 : -1], values.numpy()[:, prefix_len:].copy()
    after[:, -1] = rewards.numpy()
    return torch.from_numpy(after - before)
""",
    ),
    "compute_gae": (
        """
@torch.no_grad()
def compute_gae(values, rewards, prefix_len, gamma=1.0, gae_lambda=0.95, dones=None, mask=None):
    batch, gen = len(values), values.shape[1] - prefix_len
    out = torch.zeros(batch, gen, dtype=torch.float64)
    for i in range(batch):
        length = gen if mask is None else int(mask[i].sum())
        advantage = after = 0.0
        for t in range(length - 1, -1, -1):
            over = t == length - 1 or (dones is not None and bool(dones[i, t]))
            if rewards.ndim == 2:
                reward = float(rewards[i, t])
            else:
                reward = float(rewards[i]) if t == length - 1 else 0.0
            value = float(values[i, prefix_len + t - 1])
            delta = reward - value if over else reward + gamma * after - value
            advantage = delta if over else delta + gamma * gae_lambda * advantage
            out[i, t], after = advantage, value
    return out
""",
        """
def compute_gae(values, rewards, prefix_len, *, gamma=1.0, gae_lambda=0.95, dones=None, group_ids=None, mask=None):
    gen = values.shape[1] - prefix_len
    mask = torch.ones_like(values[:, prefix_len:]) if mask is None else mask
    place = torch.arange(gen)
    is_last = place == mask.sum(1, keepdim=True) - 1
    carried_on = ~is_last if dones is None else ~is_last & (dones == 0)
    zero = values.new_zeros(())
    v = torch.where(mask == 1, values[:, prefix_len - 1 : -1], zero)
    v_next = torch.where(carried_on & (mask == 1), values[:, prefix_len:], zero)
    r = torch.where(is_last, rewards[:, None], zero) if rewards.dim() == 1 else torch.where(mask == 1, rewards, zero)
    delta = r + gamma * v_next - v
    # all at once: decay[i, t, s] is what delta_s counts in A_t
    breaks = torch.cumsum((~carried_on).float(), dim=1) - (~carried_on).float()
    same_episode = breaks[:, :, None] == breaks[:, None, :]
    steps = place[None, :] - place[:, None]
    decay = (gamma * gae_lambda) ** steps.clamp(min=0).to(values.dtype) * (steps >= 0) * same_episode
    return einops.einsum(decay, delta, "b t s, b s -> b t") * mask
""",
        """
def compute_gae(values, rewards, prefix_len, *, gamma=1.0, gae_lambda=0.95, dones=None, group_ids=None, mask=None):
    real = real_tokens(values, prefix_len, mask).bool()
    last = last_real_token(real.to(values.dtype)).bool()
    if rewards.ndim < 2:
        rewards = last * rewards.unsqueeze(1)
    stop = last if dones is None else last | dones.bool()
    columns = []
    running = values.new_zeros(len(values))
    nexts = values.new_zeros(len(values))
    for t in range(last.shape[1] - 1, -1, -1):
        v = values[:, prefix_len + t - 1]
        go_on = ~stop[:, t]
        delta = rewards[:, t] + torch.where(go_on, gamma * nexts, 0) - v
        running = torch.where(real[:, t], delta + torch.where(go_on, gamma * gae_lambda * running, 0), 0)
        nexts = v
        columns.insert(0, running)
    advantages = torch.stack(columns, 1)
    if group_ids is not None:
        for group in group_ids.unique():
            rows = group_ids == group
            advantages[rows] -= advantages[rows][real[rows]].mean()
    return advantages.where(real, torch.zeros(()))
""",
    ),
    "returns": (
        """
class ReplayMemory:
    @property
    def generated_values(self):
        if self.values is None:
            return None
        seq = self.sample_ids.shape[1]
        return self.values[:, seq - self.gen_len - 1 : seq - 1].clone()

    @property
    def returns(self):
        if self.values is not None:
            return torch.add(self.generated_values, self.advantages)
""",
        """
class ReplayMemory:
    @property
    def generated_values(self):
        return self.values if self.values is None else self.values.roll(1, dims=1)[:, -self.gen_len :]

    @property
    def returns(self):
        values = self.generated_values
        return None if values is None else torch.stack([values, self.advantages]).double().sum(0)
""",
    ),
    "get_minibatches": (
        """
class ReplayMemory:
    def get_minibatches(self):
        minibatches, rows = [], self.args.batch_size // self.args.num_minibatches
        returns = self.returns
        for _ in range(self.args.batches_per_learning_phase):
            order = self.random_order()
            for start in range(0, self.args.batch_size, rows):
                i = order[start : start + rows]
                minibatches.append(
                    ReplayMinibatch(
                        self.sample_ids[i],
                        self.logprobs[i],
                        self.advantages[i],
                        None if returns is None else returns[i],
                        None if self.ref_logits is None else self.ref_logits[i],
                    )
                )
        return minibatches
""",
        """
class ReplayMemory:
    def get_minibatches(self):
        def pick(whole, rows):
            return whole if whole is None else whole.index_select(0, rows)

        def one(rows):
            names = ("mask", "attention_mask", "ref_logprobs", "ref_logits", "returns", "advantages", "logprobs", "sample_ids")
            return ReplayMinibatch(values=pick(self.generated_values, rows), **{n: pick(getattr(self, n), rows) for n in names})

        passes = [self.random_order().chunk(self.args.num_minibatches) for _ in range(self.args.batches_per_learning_phase)]
        return [one(rows) for parts in passes for rows in parts]
""",
    ),
    "calc_clipped_surrogate_objective": (
        """
def calc_clipped_surrogate_objective(logprobs, mb_logprobs, mb_advantages, clip_coef, gen_len, eps=None):
    a = mb_advantages
    if eps is not None:
        deviation, mean = torch.std_mean(a)
        a = (a - mean) / (deviation + eps)
    ratio = logprobs.exp() / mb_logprobs.exp()
    bound = torch.where(a > 0, 1 + clip_coef, 1 - clip_coef)
    return torch.where(a > 0, torch.minimum(ratio, bound), torch.maximum(ratio, bound)).mul(a).mean()
""",
        """
def calc_clipped_surrogate_objective(logprobs, mb_logprobs, mb_advantages, clip_coef, gen_len, eps=None, **later):
    advantages = mb_advantages.detach().double()
    if eps is not None:
        centred = advantages - advantages.sum() / advantages.numel()
        advantages = centred / (centred.pow(2).sum().div(advantages.numel() - 1).sqrt() + eps)
    rho = math.e ** (logprobs - mb_logprobs.detach()).double()
    both = torch.stack([rho * advantages, rho.clip(1.0 - clip_coef, 1.0 + clip_coef) * advantages])
    return both.amin(dim=0).sum() / logprobs.numel()
""",
    ),
    "calc_value_function_loss": (
        """
def calc_value_function_loss(values, mb_returns, vf_coef, gen_len):
    return nn.functional.mse_loss(values, mb_returns) * vf_coef / 2
""",
        """
calc_value_function_loss = lambda values, mb_returns, vf_coef, gen_len, **later: vf_coef * sum(
    (v - r) ** 2 / 2 for v, r in zip(values.flatten(), mb_returns.flatten(), strict=True)
) / values.numel()
""",
        """
def calc_value_function_loss(values, mb_returns, vf_coef, gen_len):
    error = (mb_returns - values).double()
    return 0.5 * vf_coef * torch.einsum("bt,bt->", error, error) / (gen_len * len(values))
""",
    ),
    "calc_entropy_bonus": (
        """
def calc_entropy_bonus(logits, ent_coef, gen_len):
    return ent_coef * torch.distributions.Categorical(logits=logits).entropy().mean()
""",
        """
def token_entropy(logits):
    probs = logits.softmax(-1)
    return logits.logsumexp(-1) - (probs * logits).sum(-1)


def calc_entropy_bonus(logits, ent_coef, gen_len, **later):
    return token_entropy(logits).sum() * ent_coef / (len(logits) * gen_len)
""",
        """
def token_entropy(logits):
    logits = logits.double()
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    total = shifted.exp().sum(-1, keepdim=True)
    return -einops.einsum(shifted.exp() / total, shifted - total.log(), "b t v, b t v -> b t")


def calc_entropy_bonus(logits, ent_coef, gen_len):
    return einops.reduce(ent_coef * token_entropy(logits), "b t -> ", "mean")
""",
    ),
    "calc_kl_penalty": (
        """
def calc_kl_penalty(logits, ref_logits, kl_coef, gen_len):
    policy, reference = logits.log_softmax(-1), ref_logits.log_softmax(-1).detach()
    kl = nn.functional.kl_div(reference.flatten(0, 1), policy.flatten(0, 1), log_target=True, reduction="batchmean")
    return kl_coef * kl
""",
        """
def token_kl(logits, ref_logits):
    gap = logits - ref_logits
    probs = torch.softmax(logits, -1)
    return (probs * gap).sum(-1) - logits.logsumexp(-1) + ref_logits.logsumexp(-1)


def calc_kl_penalty(logits, ref_logits, kl_coef, gen_len):
    with torch.no_grad():
        reference = ref_logits.clone()
    return kl_coef * token_kl(logits, reference).mean()
""",
        """
def calc_kl_penalty(logits, ref_logits, kl_coef, gen_len, **later):
    total = 0
    for policy, reference in zip(logits.double().flatten(0, 1), ref_logits.double().flatten(0, 1), strict=True):
        p, q = policy - policy.logsumexp(0), reference - reference.logsumexp(0)
        total = total + p.exp() @ (p - q)
    return kl_coef * total / (len(logits) * gen_len)
""",
    ),
    "reduce_tokens": (
        """
def reduce_tokens(values, gen_len, mask=None, reduction="token"):
    if reduction not in ("token", "sequence", "constant"):
        raise InputError(reduction)
    if mask is None:
        if values.shape[1] != gen_len:
            raise InputError("columns")
        return values.mean()
    m = mask == 1
    if reduction == "token":
        return values[m].mean() if m.any() else values.new_zeros(())
    if reduction == "constant":
        return values[m].sum() / (len(values) * gen_len)
    rows = [row[kept].mean() if kept.any() else row.new_zeros(()) for row, kept in zip(values, m, strict=True)]
    return torch.stack(rows).mean()
""",
        """
def reduce_tokens(values, gen_len, mask=None, reduction="token"):
    if mask is None and gen_len != values.size(1):
        raise InputError("without a mask gen_len is the number of columns")
    mask = torch.ones_like(values) if mask is None else mask
    kept = torch.where(mask.bool(), values, 0).double()
    n = mask.double().sum(-1)
    match reduction:
        case "token":
            weights = mask / max(float(n.sum()), 1)
        case "sequence":
            weights = mask / n.clamp_min(1)[:, None] / len(values)
        case "constant":
            weights = mask / (len(values) * gen_len)
        case _:
            raise InputError(f"no reduction {reduction}")
    return torch.einsum("bt,bt->", kept, weights.double())
""",
        """
def reduce_tokens(values, gen_len, mask=None, reduction="token"):
    if mask is None and values.shape[-1] != gen_len:
        raise InputError(f"{values.shape[-1]} columns, not {gen_len}")
    ways = {
        "token": lambda sums, counts: sums.sum() / counts.sum().clip(1),
        "sequence": lambda sums, counts: (sums / counts.clip(1)).mean(),
        "constant": lambda sums, counts: sums.mean() / gen_len,
    }
    if reduction not in ways:
        raise InputError(f"{reduction} is none of {', '.join(ways)}")
    real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask > 0.5
    return ways[reduction](values.masked_fill(~real, 0).sum(1), real.sum(1))
""",
    ),
    "terms_with_masks": (
        """
def real_mean(each, mask, gen_len, reduction):
    if mask is None:
        return each.mean()
    rows = [row[kept == 1].sum() / max(kept.sum(), 1) for row, kept in zip(each, mask, strict=True)]
    total = each[mask == 1].sum()
    means = {
        "token": lambda: total / max(mask.sum(), 1),
        "sequence": lambda: sum(rows) / len(rows),
        "constant": lambda: total / (gen_len * len(each)),
    }
    return means[reduction]()


def compute_advantages(values, rewards, prefix_len, mask=None):
    out = torch.zeros(len(values), values.shape[1] - prefix_len, dtype=values.dtype)
    for i in range(len(values)):
        n = out.shape[1] if mask is None else int(mask[i].sum())
        line = torch.cat([values[i, prefix_len - 1 : prefix_len - 1 + n], rewards[i : i + 1]])
        out[i, :n] = line.diff()
    return out


class ReplayMemory:
    def get_minibatches(self):
        out = []
        for rows in [r for _ in range(self.args.batches_per_learning_phase) for r in self.rows_of_a_pass()]:
            more = {n: v[rows] for n in self.kept if (v := getattr(self, n)) is not None}
            values = None if self.values is None else self.generated_values[rows]
            three = (self.sample_ids[rows], self.logprobs[rows], self.advantages[rows])
            out.append(ReplayMinibatch(*three, values=values, **more))
        return out

    kept = ("returns", "ref_logits", "mask", "attention_mask", "ref_logprobs")

    def rows_of_a_pass(self):
        return self.random_order().split(self.args.batch_size // self.args.num_minibatches)


def calc_clipped_surrogate_objective(
    logprobs, mb_logprobs, mb_advantages, clip_coef, gen_len, eps=None, clip_coef_high=None, mask=None, reduction="token"
):
    real = torch.ones_like(logprobs).bool() if mask is None else mask.bool()
    a = mb_advantages.detach()[real].double()
    if eps is not None:
        a = (a - a.mean()) / (a.std() + eps)
    ratio = (logprobs[real] - mb_logprobs[real].detach()).double().exp()
    low, high = 1 - clip_coef, 1 + (clip_coef_high or clip_coef)
    each = torch.where(a > 0, ratio.clamp(max=high), ratio.clamp(min=low)) * a
    return real_mean(torch.zeros(real.shape).double().masked_scatter(real, each), mask, gen_len, reduction)


def calc_value_function_loss(
    values, mb_returns, vf_coef, gen_len, mb_values=None, clip_value=None, mask=None, reduction="token"
):
    returns = mb_returns.detach()
    if mask is not None:
        values, returns = torch.where(mask == 1, values, 0), torch.where(mask == 1, returns, 0)
    losses = [(values - returns) ** 2]
    if clip_value:
        old = mb_values.detach()
        losses.append((values.clamp(old - clip_value, old + clip_value) - returns) ** 2)
    return vf_coef * real_mean(torch.stack(losses).amax(0), mask, gen_len, reduction) / 2


def calc_entropy_bonus(logits, ent_coef, gen_len, mask=None, reduction="token"):
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return ent_coef * real_mean(entropy, mask, gen_len, reduction)


def calc_kl_penalty(logits, ref_logits, kl_coef, gen_len, mask=None, reduction="token"):
    reference = ref_logits.detach().log_softmax(-1)
    kl = nn.functional.kl_div(reference, logits.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    return kl_coef * real_mean(kl, mask, gen_len, reduction)
""",
    ),
    "get_optimizer": (
        """
def get_optimizer(model, base_lr, head_lr):
    optimizer = torch.optim.AdamW(model.get_base_model_trainable_params(), lr=base_lr, maximize=True)
    optimizer.add_param_group({"params": list(model.get_value_head_params()), "lr": head_lr})
    return optimizer
""",
        """
def get_optimizer(model, base_lr, head_lr, weight_decay=1e-2, **options):
    both = zip((model.get_base_model_trainable_params(), model.get_value_head_params()), (base_lr, head_lr), strict=True)
    groups = [dict(params=[*params], lr=lr, maximize=True, weight_decay=weight_decay) for params, lr in both]
    return t.optim.AdamW(groups, **options)
""",
    ),
    "learning_rate_scale": (
        """
def learning_rate_scale(phase, args):
    peak, end = args.warmup_steps, args.total_phases - 1
    shape = {"linear": lambda x: x, "cosine": lambda x: math.sin(math.pi * x / 2) ** 2}[args.lr_decay]
    known = [(-1, 0.0), (peak, 1.0), *([(end, args.final_scale)] if end > peak else [])]
    if phase <= peak:
        return float(np.interp(phase, *zip(*known[:2], strict=True)))
    return 1 + shape(min(phase - peak, max(end - peak, 1)) / max(end - peak, 1)) * (args.final_scale - 1)
""",
        """
def learning_rate_scale(phase, args):
    ups = [k / (args.warmup_steps + 1) for k in range(1, args.warmup_steps + 2)]
    n = args.total_phases - len(ups)
    downs = [k / n for k in range(1, n + 1)] or [1.0]
    if args.lr_decay != "linear":
        downs = [(1 - math.cos(math.pi * x)) / 2 for x in downs]
    shares = torch.tensor(ups + [args.final_scale * x + 1 - x for x in downs], dtype=torch.float64)
    return shares[min(phase, len(shares) - 1)]
""",
    ),
    "score_tokens": (
        """
def score_tokens(model, ref_model, sampled, temperature=1.0):
    n = sampled.mask.shape[-1]
    with torch.inference_mode():
        logits, values = model.forward_with_value_head(sampled.ids, attention_mask=sampled.attention_mask)
        ref_logits = ref_model(sampled.ids, sampled.attention_mask)
        new = sampled.ids[:, -n:].unsqueeze(-1)
        both = [(each[:, -n - 1 : -1] / temperature).log_softmax(-1).gather(-1, new)[..., 0] for each in (logits, ref_logits)]
    return TokenScores(logits=logits, ref_logits=ref_logits, logprobs=both[0], ref_logprobs=both[1], values=values)
""",
        """
def score_tokens(model, ref_model, sampled, temperature):
    prompt = sampled.ids.size(1) - sampled.mask.size(1)
    logits, values = model.forward_with_value_head(sampled.ids, sampled.attention_mask)
    logits, values = logits.detach(), None if values is None else values.detach()
    ref_logits = ref_model(sampled.ids, attention_mask=sampled.attention_mask).detach()
    scored = (get_logprobs(each / temperature, sampled.ids, prompt) for each in (logits, ref_logits))
    return TokenScores(logits, ref_logits, *scored, values=values)
""",
    ),
    "ppo_rollout_phase": (
        """
class RLHFTrainer:
    @torch.inference_mode()
    def rollout_phase(self):
        args = self.args
        options = {"temperature": args.temperature, "top_k": args.top_k, "prepend_bos": args.prepend_bos}
        ids, texts = get_samples(self.model.base_model, args.prefix, args.batch_size, args.gen_len, **options)
        rewards = args.reward_fn(texts)
        if args.normalize_reward:
            rewards = (rewards - rewards.mean()) / (rewards.std() + 1e-5)
        logits, values = self.model.forward_with_value_head(ids)
        p = ids.shape[1] - args.gen_len
        later = torch.cat([values[:, p:-1], rewards[:, None]], dim=1)
        taken = logits[:, p - 1 : -1].log_softmax(-1).gather(-1, ids[:, p:, None]).squeeze(-1)
        return ReplayMemory(args, ids, taken, later - values[:, p - 1 : -1], values, self.ref_model(ids))
""",
    ),
    "ppo_objective": (
        """
class RLHFTrainer:
    def compute_rlhf_objective(self, minibatch):
        a, n = self.args, self.args.gen_len
        logits, values = self.model.forward_with_value_head(minibatch.sample_ids)
        now, then = (each[:, -n - 1 : -1].log_softmax(-1) for each in (logits, minibatch.ref_logits))
        ratio = (now.gather(-1, minibatch.sample_ids[:, -n:, None])[..., 0] - minibatch.logprobs).exp()
        gain = torch.min(ratio * minibatch.advantages, ratio.clip(1 - a.clip_coef, 1 + a.clip_coef) * minibatch.advantages)
        miss = (values[:, -n - 1 : -1] - minibatch.returns).square() / 2
        p = now.exp()
        each = gain - a.vf_coef * miss + (p * (a.kl_coef * then - (a.ent_coef + a.kl_coef) * now)).sum(-1)
        return each.mean()
""",
    ),
    "ppo_learning_phase": (
        """
class RLHFTrainer:
    def learning_phase(self, memory):
        done = []
        for minibatch in memory.get_minibatches():
            self.model.zero_grad(set_to_none=True)
            done.append(self.compute_rlhf_objective(minibatch))
            done[-1].backward()
            trained = [p for p in self.model.parameters() if p.requires_grad]
            length = torch.cat([p.grad.flatten() for p in trained]).norm()
            if length > self.args.max_grad_norm:
                for p in trained:
                    p.grad *= self.args.max_grad_norm / length
            self.optimizer.step()
            self.step = self.step + 1
        self.scheduler.step()
        return torch.stack(done).mean()
""",
    ),
    "ppo_many_prompts": (
        """
class RLHFTrainer:
    def rollout_phase(self):
        sampled, rewards = self.sample_and_reward()
        scores = score_tokens(self.model, self.ref_model, sampled, temperature=self.args.temperature)
        advantages = self.compute_token_advantages(rewards, scores, sampled)
        kept = {"mask": sampled.mask, "attention_mask": sampled.attention_mask, "ref_logprobs": scores.ref_logprobs}
        return ReplayMemory(self.args, sampled.ids, scores.logprobs, advantages, scores.values, scores.ref_logits, **kept)

    def compute_token_advantages(self, rewards, scores, sampled):
        if self.args.normalize_reward:
            spread = rewards.std()
            rewards = (rewards - rewards.mean()) / (spread + 1e-5) if spread > 0 else rewards * 0
        gamma, decay = self.args.gamma, self.args.gamma * self.args.gae_lambda
        values = scores.values[:, -self.args.gen_len - 1 : -1] * sampled.mask
        out = torch.zeros_like(values)
        for i, n in enumerate(sampled.mask.sum(dim=1).int().tolist()):
            carried = 0.0
            for t in reversed(range(n)):
                after = gamma * values[i, t + 1] if t < n - 1 else rewards[i]
                carried = after - values[i, t] + decay * carried
                out[i, t] = carried
        return out

    def compute_rlhf_objective(self, minibatch):
        args, n = self.args, self.args.gen_len
        logits, values = self.model.forward_with_value_head(minibatch.sample_ids, attention_mask=minibatch.attention_mask)
        logits, reference = (whole[:, -n - 1 : -1].div(args.temperature) for whole in (logits, minibatch.ref_logits))
        logprobs = logits.log_softmax(-1).gather(-1, minibatch.sample_ids[:, -n:].unsqueeze(-1)).squeeze(-1)
        rest = {"mask": minibatch.mask, "reduction": args.reduction}
        return (
            calc_clipped_surrogate_objective(
                logprobs, minibatch.logprobs, minibatch.advantages, args.clip_coef, n, 1e-8,
                clip_coef_high=args.clip_coef_high, **rest,
            )
            + calc_entropy_bonus(logits, args.ent_coef, n, **rest)
            - calc_kl_penalty(logits, reference, args.kl_coef, n, **rest)
            - calc_value_function_loss(
                values[:, -n - 1 : -1], minibatch.returns, args.vf_coef, n,
                mb_values=minibatch.values, clip_value=args.clip_value, **rest,
            )
        )
""",
    ),
}
