"""Right answers to exercises/grpo.py."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "compute_group_advantages": (
        """
def compute_group_advantages(rewards, group_size, *, std="unbiased", eps=1e-4):
    out = torch.empty_like(rewards)
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        if bool((group == group[0]).all()):
            out[start : start + group_size] = 0
            continue
        scale = 1 if std == "none" else group.std(unbiased=std == "unbiased") + eps
        out[start : start + group_size] = (group - group.mean()) / scale
    return out
""",
        """
def compute_group_advantages(rewards, group_size, *, std="unbiased", eps=1e-4):
    groups = rewards.double().view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    if std != "none":
        freedom = group_size - 1 if std == "unbiased" else group_size
        centred = centred / ((centred**2).sum(1, keepdim=True).div(freedom).sqrt() + eps)
    spread = groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)
    return torch.where(spread > 0, centred, torch.zeros_like(centred)).flatten()
""",
        """
def per_group(group, std, eps):
    values = group.tolist()
    if len(set(values)) == 1:
        return [0.0] * len(values)
    mean = sum(values) / len(values)
    if std == "none":
        return [v - mean for v in values]
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - (1 if std == "unbiased" else 0))
    return [(v - mean) / (variance**0.5 + eps) for v in values]


def compute_group_advantages(rewards, group_size, std="unbiased", eps=1e-4):
    return t.tensor([a for group in rewards.split(group_size) for a in per_group(group, std, eps)])
""",
    ),
    "spread_over_tokens": (
        """
spread_over_tokens = lambda advantages, gen_len: advantages.unsqueeze(-1).expand(-1, gen_len)
""",
        """
def spread_over_tokens(advantages, gen_len):
    return torch.outer(advantages, torch.ones(gen_len))
""",
        """
def spread_over_tokens(advantages, gen_len):
    with torch.no_grad():
        return torch.stack([advantages] * gen_len, dim=1)
""",
    ),
    "compute_leave_one_out": (
        """
def compute_leave_one_out(rewards, group_size):
    groups = rearrange(rewards, "(prompts group) -> prompts group", group=group_size)
    centred = groups - einops.reduce(groups, "prompts group -> prompts 1", "mean")
    return (centred * group_size / (group_size - 1)).reshape(len(rewards))
""",
        """
def compute_leave_one_out(rewards, group_size):
    others = (1 - torch.eye(group_size)) / (group_size - 1)
    groups = rewards.reshape(-1, group_size)
    return (groups - torch.einsum("pj,ij->pi", groups, others)).flatten()
""",
        """
def compute_leave_one_out(rewards, group_size):
    values = rewards.numpy().astype(np.float64).reshape(-1, group_size)
    return t.from_numpy((values - (values.sum(1, keepdims=True) - values) / (group_size - 1)).ravel())
""",
    ),
    "compute_process_advantages": (
        """
def compute_process_advantages(step_rewards, step_ends, gen_len, group_size, *, std="unbiased", eps=1e-4):
    present = step_ends >= 0
    normalised = torch.zeros_like(step_rewards)
    for start in range(0, len(step_rewards), group_size):
        rows = slice(start, start + group_size)
        values = step_rewards[rows][present[rows]]
        values = values - values.mean()
        if std != "none":
            values = values / (values.std(unbiased=std == "unbiased") + eps)
        normalised[rows] = normalised[rows].masked_scatter(present[rows], values)
    out = torch.zeros(len(step_rewards), gen_len)
    for row in range(len(step_rewards)):
        for step in range(step_rewards.shape[1]):
            if present[row, step]:
                out[row, : step_ends[row, step] + 1] += normalised[row, step]
    return out
""",
        """
def compute_process_advantages(step_rewards, step_ends, gen_len, group_size, *, std="unbiased", eps=1e-4):
    present = (step_ends >= 0).float()
    rows = (step_rewards.reshape(-1, group_size * step_rewards.shape[1]), present.reshape(-1, group_size * present.shape[1]))
    normalised = normalize_rows(*rows, std, eps).reshape(step_rewards.shape)
    at_ends = torch.zeros(len(step_rewards), gen_len + 1).scatter_add(1, step_ends % (gen_len + 1), normalised)
    return at_ends[:, :gen_len].flip(1).cumsum(1).flip(1)
""",
        """
def compute_process_advantages(step_rewards, step_ends, gen_len, group_size, *, std="unbiased", eps=1e-4):
    steps = step_rewards.shape[1]
    given = [x.reshape(-1, group_size * steps) for x in (step_rewards, (step_ends > -1).to(step_rewards))]
    normalised = normalize_rows(*given, std=std, eps=eps).reshape(-1, steps)
    counts = step_ends.unsqueeze(1) >= torch.arange(gen_len)[None, :, None]
    return torch.einsum("bks,bs->bk", counts.double(), normalised.double())
""",
    ),
    "estimate_kl_k1_k2": (
        """
def estimate_kl_k1(logprobs, ref_logprobs):
    return -(ref_logprobs.double() - logprobs.double())


def estimate_kl_k2(logprobs, ref_logprobs):
    return 0.5 * estimate_kl_k1(logprobs, ref_logprobs) ** 2
""",
        """
estimate_kl_k1 = torch.sub
estimate_kl_k2 = lambda logprobs, ref_logprobs: torch.pow(ref_logprobs - logprobs, 2).div(2)
""",
    ),
    "estimate_kl_k3": (
        """
def estimate_kl_k3(logprobs, ref_logprobs):
    q = torch.clamp(ref_logprobs - logprobs, max=20)
    return q.exp() - q - 1
""",
        """
def estimate_kl_k3(logprobs, ref_logprobs):
    q = (ref_logprobs - logprobs).double()
    return torch.exp(torch.minimum(q, torch.full_like(q, LARGEST_LOG_RATIO))) - q - 1
""",
        """
def estimate_kl_k3(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    log_ratio = torch.where(log_ratio < -LARGEST_LOG_RATIO, torch.full_like(log_ratio, -LARGEST_LOG_RATIO), log_ratio)
    return log_ratio + torch.expm1(-log_ratio)
""",
    ),
    "calc_kl_estimate_penalty": (
        """
def calc_kl_estimate_penalty(
    logprobs, ref_logprobs, kl_coef, gen_len, *, estimator="k3", mask=None, reduction="token"
):
    keep = torch.ones_like(logprobs) if mask is None else mask
    q = torch.where(keep > 0, ref_logprobs.detach(), torch.zeros(())) - torch.where(keep > 0, logprobs, torch.zeros(()))
    if estimator == "k1":
        each = -q
    elif estimator == "k2":
        each = q * q / 2
    else:
        each = torch.expm1(q) - q
    if reduction == "token":
        mean = each.sum() / keep.sum()
    elif reduction == "sequence":
        mean = (each.sum(1) / keep.sum(1)).mean()
    else:
        mean = each.sum() / (gen_len * len(each))
    return kl_coef * mean
""",
        """
def calc_kl_estimate_penalty(logprobs, ref_logprobs, kl_coef, gen_len, **options):
    with torch.no_grad():
        reference = ref_logprobs.clone()
    estimate = KL_ESTIMATORS[options.pop("estimator", "k3")]
    mask = options.get("mask")
    return reduce_tokens(estimate(hide(logprobs, mask), hide(reference, mask)), gen_len, **options).mul(kl_coef)
""",
        """
def calc_kl_estimate_penalty(logprobs, ref_logprobs, kl_coef, gen_len, *, estimator="k3", mask=None, reduction="token"):
    real = logprobs == logprobs if mask is None else mask.bool()
    lengths = real.sum(dim=1, keepdim=True)
    weight = {"token": 1 / real.sum(), "sequence": 1 / (lengths * len(real)), "constant": torch.tensor(1 / gen_len / len(real))}
    each = KL_ESTIMATORS[estimator](logprobs[real][None], ref_logprobs[real][None].detach())[0]
    return kl_coef * (each * weight[reduction].expand(real.shape)[real]).sum()
""",
    ),
    "group_metrics": (
        """
def group_metrics(rewards, group_size, best=None):
    groups = [group.tolist() for group in rewards.split(group_size)]
    best = max(max(group) for group in groups) if best is None else best
    flat = [group[0] for group in groups if min(group) == max(group)]
    right = sum(reward >= best and reward > 0 for reward in flat)
    shares = (len(flat), right, len(flat) - right)
    return dict(
        zip(("groups_without_spread", "groups_all_right", "groups_all_wrong"), (n / len(groups) for n in shares), strict=True)
    )
""",
        """
def group_metrics(rewards, group_size, best=None):
    groups = rewards.numpy().reshape(-1, group_size)
    flat = np.ptp(groups, axis=1) == 0
    right = np.logical_and(flat, groups.min(1) >= (groups.max() if best is None else best)) & (groups.min(1) > 0)
    return {
        "groups_all_wrong": np.mean(flat & ~right),
        "groups_all_right": np.mean(right),
        "groups_without_spread": np.mean(flat),
    }
""",
    ),
    "GrpoTrainer": (
        """
class GrpoTrainer(RLHFTrainer):
    use_value_head = False

    def compute_token_advantages(self, rewards, scores, sampled):
        groups = rewards.reshape(-1, self.args.resolved_group_size)
        deviation = groups.std(dim=1, keepdim=True)
        centred = (groups - groups.mean(dim=1, keepdim=True)) / (deviation + 1e-4)
        return torch.where(deviation > 0, centred, 0.0).reshape(-1, 1).repeat(1, self.args.gen_len)

    def compute_rlhf_objective(self, minibatch):
        n = self.args.gen_len
        logits = self.model.forward_with_value_head(minibatch.sample_ids, minibatch.attention_mask)[0]
        every = logits[:, -n - 1 : -1].log_softmax(dim=-1)
        logprobs = every.gather(-1, minibatch.sample_ids[:, -n:, None])[..., 0]
        ratio = (logprobs - minibatch.logprobs).exp()
        low, high = 1 - self.args.clip_coef, 1 + self.args.clip_coef
        surrogate = torch.min(ratio * minibatch.advantages, ratio.clip(low, high) * minibatch.advantages)
        entropy = -(every.exp() * every).sum(dim=-1)
        q = minibatch.ref_logprobs - logprobs
        each = surrogate + self.args.ent_coef * entropy - self.args.kl_coef * (q.exp() - 1 - q)
        return each.mean()
""",
        """
class GrpoTrainer(RLHFTrainer):
    use_value_head = False

    @torch.no_grad()
    def rollout_phase(self):
        args = self.args
        ids, texts = get_samples(
            self.model, args.prefix, args.batch_size, args.gen_len, args.temperature, args.top_k, args.prepend_bos
        )
        prefix_len = ids.shape[1] - args.gen_len
        ref_logits = self.ref_model(ids)
        advantages = self.compute_token_advantages(args.reward_fn(texts), None, None)
        logprobs = get_logprobs(self.model.forward_with_value_head(ids)[0], ids, prefix_len)
        return ReplayMemory(args, ids, logprobs, advantages, None, ref_logits)

    def compute_token_advantages(self, rewards, scores, sampled):
        return normalize_reward(rewards)[:, None].expand(-1, self.args.gen_len)

    def compute_rlhf_objective(self, minibatch):
        args = self.args
        logits, _ = self.model.forward_with_value_head(minibatch.sample_ids, logits_to_keep=args.gen_len + 1)
        logprobs = get_logprobs(logits, minibatch.sample_ids[:, -args.gen_len - 1 :])
        terms = (
            calc_clipped_surrogate_objective(
                logprobs, minibatch.logprobs, minibatch.advantages, args.clip_coef, args.gen_len
            ),
            calc_entropy_bonus(logits[:, :-1], args.ent_coef, args.gen_len),
            -calc_kl_penalty(
                logits[:, :-1], minibatch.ref_logits[:, -args.gen_len - 1 : -1], args.kl_coef, args.gen_len
            ),
        )
        return sum(terms)
""",
    ),
    "grpo_many_prompts": (
        """
def tokens_mean(each, mask, reduction):
    mask = torch.ones_like(each) if mask is None else mask
    kept = each.where(mask.bool(), torch.zeros(()))
    if reduction == "sequence":
        return (kept.sum(1) / mask.sum(1)).mean()
    return kept.sum() / (mask.sum() if reduction == "token" else kept.numel())


class GrpoTrainer(RLHFTrainer):
    use_value_head = False
    needs_ref_logits = False

    completions_per_prompt = property(lambda self: self.args.group_size or self.args.batch_size)

    def compute_token_advantages(self, rewards, scores, sampled):
        each = compute_group_advantages(rewards, self.completions_per_prompt, std=self.args.advantage_std)
        return each[:, None] * torch.ones_like(sampled.mask)

    def compute_rlhf_objective(self, minibatch):
        args, n = self.args, self.args.gen_len
        logits, _ = self.model.forward_with_value_head(minibatch.sample_ids, minibatch.attention_mask)
        every = torch.log_softmax(logits[:, -n - 1 : -1] / args.temperature, dim=-1)
        logprobs = torch.gather(every, -1, minibatch.sample_ids[:, -n:].unsqueeze(-1)).squeeze(-1)
        ratio = torch.exp(logprobs - minibatch.logprobs)
        high = args.clip_coef if args.clip_coef_high is None else args.clip_coef_high
        clipped = ratio.clamp(1 - args.clip_coef, 1 + high)
        surrogate = torch.minimum(ratio * minibatch.advantages, clipped * minibatch.advantages)
        entropy = torch.distributions.Categorical(logits=every).entropy()
        q = minibatch.ref_logprobs - logprobs
        penalty = {"k1": -q, "k2": q.square() / 2, "k3": torch.expm1(q) - q}[args.kl_estimator]
        each = surrogate + args.ent_coef * entropy - args.kl_coef * penalty
        return tokens_mean(each, minibatch.mask, args.reduction)
""",
    ),
}
