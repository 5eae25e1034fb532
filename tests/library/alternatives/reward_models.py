"""Right answers to exercises/reward_models.py."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "calc_preference_loss": (
        """
def calc_preference_loss(chosen, rejected, margin=0.0, centring_coef=0.0):
    gap = rejected - chosen + margin
    each = torch.nn.functional.softplus(gap) + centring_coef * (chosen + rejected) ** 2
    return each.sum() / len(each)
""",
        """
def calc_preference_loss(chosen, rejected, margin=0, centring_coef=0):
    gap = (chosen - rejected - margin).double()
    worse = torch.stack([torch.zeros_like(gap), -gap])
    return worse.logsumexp(dim=0).mean() + centring_coef * (chosen + rejected).double().pow(2).mean()
""",
        """
def calc_preference_loss(chosen, rejected, margin=0.0, centring_coef=0.0):
    gap = chosen - rejected - margin
    loss = nn.functional.binary_cross_entropy_with_logits(gap, torch.ones_like(gap))
    return loss + torch.einsum("p,p->", chosen + rejected, chosen + rejected) * centring_coef / len(chosen)
""",
        """
def calc_preference_loss(chosen, rejected, margin=0.0, centring_coef=0.0):
    gap = chosen - rejected - margin
    each = torch.relu(-gap) + torch.log1p(torch.exp(-gap.abs()))
    return torch.mean(each + centring_coef * torch.square(chosen + rejected))
""",
    ),
    "other_losses": (
        """
def calc_regression_loss(scores, targets):
    return nn.functional.mse_loss(scores, targets.detach())


def calc_verifier_loss(scores, correct):
    return nn.functional.softplus(torch.where(correct, -scores, scores)).mean()
""",
        """
def calc_regression_loss(scores, targets):
    with torch.no_grad():
        targets = targets.clone()
    difference = scores - targets
    return difference @ difference / len(scores)


def calc_verifier_loss(scores, correct):
    sign = 2 * correct.double() - 1
    return -torch.nn.functional.logsigmoid(sign * scores).mean()
""",
        """
calc_regression_loss = lambda scores, targets: ((scores - targets.data) ** 2).mean()
calc_verifier_loss = lambda scores, correct: nn.BCEWithLogitsLoss()(scores, correct.float())
""",
    ),
    "pool_last_real_token": (
        """
def pool_last_real_token(values, attention_mask):
    picked = []
    for row, mask in zip(values, attention_mask):
        real = mask.nonzero()
        if len(real) == 0:
            raise InputError("a row without text")
        picked.append(row[real[-1, 0]])
    return torch.stack(picked)
""",
        """
def pool_last_real_token(values, attention_mask):
    if (attention_mask.sum(dim=1) == 0).any():
        raise InputError("nothing to score in one of the rows")
    from_behind = attention_mask.flip(1).argmax(dim=1)
    return values[torch.arange(len(values)), values.shape[1] - 1 - from_behind]
""",
        """
def pool_last_real_token(values, attention_mask):
    later = attention_mask.flip(1).cumsum(1).flip(1)
    is_last = (attention_mask == 1) & (later == 1)
    if not bool(is_last.any(1).all()):
        raise InputError("a row of padding")
    return (values * is_last).sum(1)
""",
    ),
    "reward_model_forward": (
        """
class RewardModel(nn.Module):
    def forward(self, ids, attention_mask):
        if not self.is_causal:
            return self.model(ids, attention_mask=attention_mask).logits[:, 0].to(torch.float32)
        states = self.model.base_model(ids, attention_mask=attention_mask)[0]
        last = attention_mask.sum(dim=1) - 1
        picked = states[torch.arange(len(ids)), last]
        return self.model.score(picked).float().flatten()
""",
        """
class RewardModel:
    def forward(self, ids, attention_mask):
        given = {"input_ids": ids, "attention_mask": attention_mask}
        if self.is_causal:
            hidden = self.model.base_model(**given).last_hidden_state
            values = einops.rearrange(self.model.score(hidden), "batch seq 1 -> batch seq")
            return pool_last_real_token(values, attention_mask).float()
        return einops.rearrange(self.model(**given).logits, "batch 1 -> batch").float()
""",
    ),
    "make_comparisons": (
        """
def make_comparisons(correct, group_size, most=4):
    if group_size < 2 or len(correct) % group_size != 0:
        raise InputError("whole groups of two or more, please")
    pairs = []
    for start in range(0, len(correct), group_size):
        right, wrong = [], []
        for i in range(start, start + group_size):
            (right if correct[i] else wrong).append(i)
        if not right or not wrong:
            continue
        a = b = made = 0
        while made < most and made < max(len(right), len(wrong)):
            pairs.append((right[a], wrong[b]))
            a, b, made = (a + 1) % len(right), (b + 1) % len(wrong), made + 1
    return pairs
""",
        """
def make_comparisons(correct, group_size, most=4):
    from itertools import cycle, islice

    if group_size in (0, 1) or len(correct) % group_size:
        raise InputError(f"{len(correct)} completions are no groups of {group_size}")
    found = []
    for group in np.arange(len(correct)).reshape(-1, group_size).tolist():
        sides = [[i for i in group if correct[i] is kind] for kind in (True, False)]
        if all(sides):
            found.extend(islice(zip(*map(cycle, sides)), min(most, max(map(len, sides)))))
    return found
""",
    ),
    "calibration": (
        """
def pairwise_accuracy(chosen, rejected):
    return ((torch.sign(chosen - rejected) + 1) / 2).mean().item()


def calibration_bins(probabilities, outcomes, bins=10):
    kept = {}
    for p, happened in zip(probabilities.tolist(), outcomes.tolist()):
        kept.setdefault(min(int(p * bins), bins - 1), []).append((p, float(happened)))
    return [
        (sum(p for p, _ in found) / len(found), sum(y for _, y in found) / len(found), len(found))
        for _, found in sorted(kept.items())
    ]


def expected_calibration_error(probabilities, outcomes, bins=10):
    total = 0.0
    for predicted, true, count in calibration_bins(probabilities, outcomes, bins):
        total += abs(predicted - true) * count / len(outcomes)
    return total
""",
        """
def pairwise_accuracy(chosen, rejected):
    wins, ties = int((chosen > rejected).sum()), int((chosen == rejected).sum())
    return (2 * wins + ties) / (2 * len(chosen))


def calibration_bins(probabilities, outcomes, bins=10):
    found = []
    for i in range(bins):
        inside = (probabilities >= i / bins) & ((probabilities < (i + 1) / bins) | torch.tensor(i == bins - 1))
        if count := inside.sum().item():
            found.append([probabilities[inside].double().mean().item(), outcomes[inside].double().mean().item(), count])
    return found


def expected_calibration_error(probabilities, outcomes, bins=10):
    index = torch.minimum((probabilities * bins).floor().long(), torch.tensor(bins - 1))
    gaps = torch.zeros(bins).index_add(0, index, probabilities - outcomes.float())
    return float(gaps.abs().sum() / len(probabilities))
""",
    ),
    "best_of_n_value": (
        """
def best_of_n_value(proxy, gold, n):
    if n < 1 or n > len(proxy):
        raise InputError("n must be between 1 and the number of samples")
    samples = len(proxy)
    order = sorted(range(samples), key=lambda i: (float(proxy[i]), i))
    total = sum(math.comb(place, n - 1) * float(gold[i]) / math.comb(samples, n) for place, i in enumerate(order))
    return torch.tensor(total, dtype=gold.dtype)
""",
        """
def best_of_n_value(proxy, gold, n):
    samples = proxy.numel()
    if n not in range(1, samples + 1):
        raise InputError("sample more")
    below = torch.arange(samples, dtype=torch.float64)
    log_weights = torch.lgamma(below + 1) - torch.lgamma((below - n + 2).clamp(min=1)) - math.lgamma(n)
    log_weights = log_weights - (math.lgamma(samples + 1) - math.lgamma(n + 1) - math.lgamma(samples - n + 1))
    weights = torch.where(below >= n - 1, log_weights.exp(), 0.0)
    ordered = gold[torch.sort(proxy, stable=True).indices]
    return torch.dot(weights, ordered.double())
""",
        """
def best_of_n_value(proxy, gold, n):
    if not 0 < n <= len(gold):
        raise InputError(f"{n} of {len(gold)}")
    left, value = 1.0, gold.new_zeros(())
    for taken, i in enumerate(proxy.argsort(stable=True).flip(0)):
        wins = left * min(n / (len(gold) - taken), 1)
        value, left = value + wins * gold[i], left - wins
    return value
""",
    ),
    "best_of_n_kl": (
        """
def best_of_n_kl(n):
    return float(np.log(n) - 1 + 1 / n)
""",
        """
best_of_n_kl = lambda n: (torch.tensor(n, dtype=torch.float64).log() + 1 / n - 1).item()
""",
    ),
}
