"""Right answers to exercises/rollouts.py."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "take": (
        """
def take(logprobs, tokens):
    flat = logprobs.flatten(0, -2)
    return flat[torch.arange(len(flat)), tokens.flatten()].view(tokens.shape)
""",
        """
take = lambda logprobs, tokens: (logprobs * nn.functional.one_hot(tokens, logprobs.shape[-1])).sum(-1)
""",
        """
def take(logprobs: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    return torch.take_along_dim(logprobs, tokens[..., None], dim=-1)[..., 0]
""",
        """
def take(logprobs, tokens):
    if tokens.ndim > 1:
        return torch.stack([take(rows, ids) for rows, ids in zip(logprobs, tokens)])
    return torch.stack([row[i] for row, i in zip(logprobs, tokens)])
""",
        """
def take(logprobs, tokens):
    chosen = torch.zeros_like(logprobs).scatter_(-1, tokens[..., None], 1.0)
    return torch.einsum("...v,...v->...", logprobs, chosen)
""",
    ),
    "get_logprobs": (
        """
def get_logprobs(logits, tokens, prefix_len=None):
    start = prefix_len or 1
    scores = -nn.functional.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    return scores[:, start - 1 :]
""",
        """
def get_logprobs(logits, tokens, prefix_len=None, *, temperature=1.0):
    z = logits.double() / temperature
    z = z - z.max(dim=-1, keepdim=True).values.detach()
    log_p = z - z.exp().sum(dim=-1, keepdim=True).log()
    gen = tokens.shape[1] - (1 if prefix_len is None else prefix_len)
    return einops.rearrange(log_p[:, -gen - 1 : -1].gather(2, tokens[:, -gen:, None]), "b g 1 -> b g").float()
""",
        """
def get_logprobs(logits, tokens, prefix_len=None, *, temperature=1.0):
    first = 1 if prefix_len is None else prefix_len
    columns = []
    for i in range(first, tokens.shape[1]):
        policy = torch.distributions.Categorical(logits=logits[:, i - 1] / temperature)
        columns.append(policy.log_prob(tokens[:, i]))
    return torch.stack(columns, dim=1)
""",
    ),
    "logprobs_at_a_temperature": (
        """
def get_logprobs(logits, tokens, prefix_len=None, *, temperature=1.0):
    z = logits / temperature
    scored = take(z - torch.logsumexp(z, dim=-1, keepdim=True), tokens.roll(-1, dims=1))
    return scored[:, 0 if prefix_len is None else prefix_len - 1 : -1]
""",
        """
def get_logprobs(logits, tokens, prefix_len=None, *, temperature: float = 1.0):
    given = prefix_len if prefix_len is not None else 1
    logprobs = (logits.to(torch.float64) * (1 / temperature)).log_softmax(-1)
    rows, columns = torch.arange(len(tokens))[:, None], torch.arange(given, tokens.shape[1])[None]
    return logprobs[rows, columns - 1, tokens[:, given:]]
""",
    ),
    "keep_top_k": (
        """
def keep_top_k(logits, top_k):
    kept = logits.sort(dim=-1, descending=True).values[:, : min(top_k, logits.shape[-1])][:, -1:]
    out = logits.clone()
    out[out < kept] = float("-inf")
    return out
""",
        """
def keep_top_k(logits, top_k):
    larger = (logits[:, None, :] > logits[:, :, None]).sum(dim=-1)
    return torch.where(larger < top_k, logits, -torch.inf)
""",
        """
def keep_top_k(logits, top_k):
    vocab = logits.shape[-1]
    if top_k > vocab:
        top_k = vocab
    floor = torch.kthvalue(logits, vocab - top_k + 1, dim=-1, keepdim=True).values
    return logits.masked_fill(~(logits >= floor), -np.inf)
""",
        """
def keep_top_k(logits, top_k):
    rows = []
    for row in logits.tolist():
        floor = sorted(row)[-top_k] if top_k <= len(row) else -math.inf
        rows.append([z if z >= floor else -math.inf for z in row])
    return torch.tensor(rows)

import math
""",
    ),
    "keep_top_p": (
        """
def keep_top_p(logits, top_p):
    if top_p == 1:
        return logits.clone()
    out = torch.full_like(logits, -torch.inf)
    for row, probs in enumerate(logits.softmax(-1)):
        held = 0.0
        for token in probs.argsort(descending=True).tolist():
            out[row, token] = logits[row, token]
            held += probs[token].item()
            if held >= top_p:
                break
    return out
""",
        """
def keep_top_p(logits, top_p):
    if top_p >= 1.0:
        return logits
    probs, order = torch.sort(logits.softmax(dim=-1), dim=-1, descending=True)
    removed = probs.cumsum(dim=-1) >= top_p
    removed = torch.cat([torch.zeros_like(removed[:, :1]), removed[:, :-1]], dim=-1)
    return logits.masked_fill(removed.gather(-1, order.argsort(dim=-1)), -float("inf"))
""",
        """
def keep_top_p(logits, top_p):
    if top_p >= 1:
        return logits
    values, order = logits.double().sort(descending=True, stable=True)
    count = (values.softmax(-1).cumsum(-1) < top_p).sum(-1, keepdim=True) + 1
    place = torch.empty_like(order).scatter_(1, order, torch.arange(logits.shape[1]).expand_as(order))
    return torch.where(place < count, logits, -torch.inf)
""",
    ),
    "sample_tokens": (
        """
def truncate_logits(logits, top_k=None, top_p=None):
    return keep_top_p(keep_top_k(logits, top_k or logits.shape[-1]), top_p or 1.0)

def sample_tokens(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    greedy = temperature == 0
    z = logits.float() / (1.0 if greedy else temperature)
    policy, sampler = z.log_softmax(-1), truncate_logits(z, top_k, top_p).log_softmax(-1)
    noise = -torch.empty_like(z).exponential_(generator=generator).log()
    tokens = (z if greedy else sampler + noise).argmax(-1)
    return tokens, policy[range(len(z)), tokens], sampler[range(len(z)), tokens]
""",
        """
def truncate_logits(logits, top_k=None, top_p=None):
    if top_k:
        logits = keep_top_k(logits, top_k)
    if top_p:
        logits = keep_top_p(logits, top_p)
    return logits

def sample_tokens(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    z = logits.double() / temperature if temperature else logits.double()
    probs = truncate_logits(z, top_k, top_p).softmax(dim=-1)
    if temperature:
        draws = torch.rand(len(z), 1, generator=generator, dtype=torch.float64)
        tokens = (probs.cumsum(dim=-1) < draws).sum(dim=-1).clamp(max=z.shape[-1] - 1)
    else:
        tokens = probs.argmax(dim=-1)
    return tokens, take(z.log_softmax(dim=-1), tokens), take(probs.log(), tokens)
""",
        """
def truncate_logits(logits, top_k=None, top_p=None):
    logits = logits if top_k is None else keep_top_k(logits, top_k)
    return logits if top_p is None else keep_top_p(logits, top_p)

@torch.no_grad()
def sample_tokens(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    tokens, policy, sampler = [], [], []
    for row in logits.float():
        z = row / temperature if temperature > 0 else row
        cut = truncate_logits(z[None], top_k, top_p)[0]
        token = z.argmax() if temperature == 0 else torch.multinomial(cut.softmax(0), 1, generator=generator)[0]
        tokens.append(token)
        policy.append(z.log_softmax(0)[token])
        sampler.append(cut.log_softmax(0)[token])
    return torch.stack(tokens), torch.stack(policy), torch.stack(sampler)
""",
    ),
    "cached_decoding": (
        """
class Decoder(Decoder):
    def __call__(self, ids):
        inputs = dict(input_ids=ids, attention_mask=self.attention_mask, use_cache=True)
        inputs[self.cache_name] = self.cache
        if self.takes_positions:
            new = ids.shape[1]
            real = self.attention_mask.sum(-1, keepdim=True)
            after = self.attention_mask[:, -new:].flip(-1).cumsum(-1).flip(-1)
            inputs["position_ids"] = torch.relu(real - after)
        output = self.model(**inputs)
        self.cache = getattr(output, self.cache_name)
        self.attention_mask = nn.functional.pad(self.attention_mask, (0, 1), value=1)
        return output.logits[:, -1, :]
""",
        """
class Decoder:
    def __init__(self, model, attention_mask):
        self.model, self.attention_mask, self.cache = model, attention_mask, None
        self.takes_positions, self.cache_name = takes_positions(model), cache_name(model)

    @torch.inference_mode()
    def __call__(self, ids):
        mask = self.attention_mask
        options = {} if self.cache is None else {self.cache_name: self.cache}
        if self.takes_positions:
            positions = mask.cumsum(-1) - 1
            positions = positions.masked_fill(mask == 0, 1)  # as transformers does
            options["position_ids"] = positions[:, mask.shape[1] - ids.shape[1] :]
        output = self.model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **options)
        self.cache = output[self.cache_name] if isinstance(output, dict) else vars(output)[self.cache_name]
        self.attention_mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        return output.logits.squeeze(1)
""",
    ),
    "decode": (
        """
@torch.inference_mode()
def decode(decoder, ids, gen_len, end_ids, pad_id, **sampling):
    columns, ended, new = [], torch.zeros(len(ids), dtype=torch.bool), ids
    for _ in range(gen_len):
        if ended.all():
            break
        token, logprob, sampler_logprob = sample_tokens(decoder(new), **sampling)
        token = token.masked_fill(ended, pad_id)
        columns.append((token, (~ended).float(), logprob.masked_fill(ended, 0.0), sampler_logprob.masked_fill(ended, 0.0)))
        for end in end_ids:
            ended = ended | (token == end)
        new = token.unsqueeze(1)
    left, batch = gen_len - len(columns), len(ids)
    fill = (torch.full((batch, left), pad_id), *(torch.zeros(batch, left) for _ in range(3)))
    return Decoded(*(torch.cat([torch.stack(c, 1), f], 1) for c, f in zip(zip(*columns), fill)))
""",
        """
def decode(decoder, ids, gen_len, end_ids, pad_id, **sampling):
    with torch.no_grad():
        tokens = torch.full((len(ids), gen_len), pad_id)
        mask, logprobs, sampler_logprobs = (torch.zeros(len(ids), gen_len) for _ in range(3))
        open_rows, new = set(range(len(ids))), ids
        for t in range(gen_len):
            drawn = sample_tokens(decoder(new), **sampling)
            for row in sorted(open_rows):
                mask[row, t] = 1
                for kept, values in zip((tokens, logprobs, sampler_logprobs), drawn):
                    kept[row, t] = values[row]
                if int(drawn[0][row]) in end_ids:
                    open_rows.discard(row)
            if not open_rows:
                return Decoded(tokens, mask, logprobs, sampler_logprobs)
            new = tokens[:, t : t + 1]
        return Decoded(tokens=tokens, mask=mask, logprobs=logprobs, sampler_logprobs=sampler_logprobs)
""",
    ),
    "reward_fn_char_count": (
        """
def reward_fn_char_count(generated_sample, char="."):
    return torch.tensor([[c == char for c in text].count(True) for text in generated_sample]).float()
""",
        """
def reward_fn_char_count(generated_sample, char="."):
    return torch.from_numpy(np.array([len(text.split(char)) - 1.0 for text in generated_sample], dtype=np.float32))
""",
        """
from collections import Counter
def reward_fn_char_count(generated_sample, char="."):
    return torch.tensor([Counter(text)[char] for text in generated_sample], dtype=torch.float64)
""",
    ),
    "normalize_reward": (
        """
def normalize_reward(reward, eps=1e-5):
    deviation, mean = torch.std_mean(reward)
    return reward.sub(mean).div(deviation.add(eps))
""",
        """
def normalize_reward(reward, eps=1e-5):
    r = reward.clone()
    r -= r.mean()
    return r / ((r @ r / (len(r) - 1)) ** 0.5 + eps)
""",
        """
def normalize_reward(reward, eps=1e-5):
    numbers = reward.numpy().astype(np.float64)
    normalised = (numbers - numbers.mean()) / (numbers.std(ddof=1) + eps)
    return torch.from_numpy(normalised).to(reward.dtype)
""",
        """
def normalize_reward(reward, eps=1e-5):
    n = len(reward)
    r = reward.double()
    variance = (r.square().sum() - n * r.mean() ** 2) / (n - 1)
    return (r - r.mean()) / (variance.clamp(min=0).sqrt() + eps)
""",
    ),
    "rewards_without_spread": (
        """
def normalize_reward(reward, eps=1e-5):
    if reward.max() == reward.min():
        return 0 * reward
    return (reward - reward.mean()) / (reward.std() + eps)
""",
        """
def normalize_reward(reward, eps=1e-5):
    if len(set(reward.tolist())) == 1:
        return torch.zeros(len(reward), dtype=reward.dtype)
    centred = reward - reward.mean()
    return centred / (centred.pow(2).sum().div(len(reward) - 1).sqrt() + eps)
""",
        """
def normalize_reward(reward, eps=1e-5):
    if reward.unique().numel() < 2:
        return reward.new_zeros(reward.shape)
    return torch.stack([(r - reward.mean()) / (reward.std(correction=1) + eps) for r in reward])
""",
        """
def normalize_reward(reward, eps=1e-5):
    r = (reward - reward[0]).double()  # nothing but zeros, exactly, where all are equal
    deviation = r.std() if len(r) > 1 else 0.0
    return ((r - r.mean()) / (deviation + eps)).to(reward.dtype)
""",
    ),
    "rollout": (
        """
def rollout(model, prompts, gen_len, *, temperature=1.0, top_k=None, top_p=None, prepend_bos=True, stop_at_eos=True,
            generator=None):
    bridge, context = sampling_parts(model)
    tokenizer = model.tokenizer
    ids, mask = (x.to(next(bridge.parameters()).device) for x in encode_prompts(tokenizer, prompts, prepend_bos))
    prefix_len = ids.shape[1]
    if prefix_len + gen_len > bridge.cfg.n_ctx:
        raise InputError(f"{prefix_len} and {gen_len} tokens are more than {bridge.cfg.n_ctx}; shorten the prompts")
    ends = end_ids_of(model, tokenizer) if stop_at_eos else []
    with context as decoder_of:
        found = decode(decoder_of(mask), ids, gen_len, ends, padding_id(tokenizer), temperature=temperature, top_k=top_k,
                       top_p=top_p, generator=generator)
    whole_mask = nn.functional.pad(mask, (0, gen_len))
    whole_mask[:, prefix_len:] = found.mask
    texts = decode_texts(tokenizer, ids, mask, found, ends)
    return Rollout(torch.hstack([ids, found.tokens]), whole_mask, found.mask, found.logprobs, found.sampler_logprobs, texts)
""",
        """
def rollout(model, prompts, gen_len, *, temperature=1.0, top_k=None, top_p=None, prepend_bos=True, stop_at_eos=True,
            generator=None):
    if not prompts:
        raise InputError("no prompts; give at least one")
    bridge, context = sampling_parts(model)
    tokenizer = model.tokenizer
    ids, mask = encode_prompts(tokenizer, prompts, prepend_bos)
    check_length(ids.shape[1], gen_len, bridge.cfg.n_ctx)
    ends = end_ids_of(model, tokenizer) if stop_at_eos else []
    whole, seen, kept = ids, mask, []
    running = torch.ones(len(ids), dtype=torch.bool)
    with context as decoder_of, torch.no_grad():
        decoder, new = decoder_of(mask), ids
        for _ in range(gen_len):
            token, logprob, cut = sample_tokens(decoder(new), temperature, top_k, top_p, generator)
            token = torch.where(running, token, padding_id(tokenizer))
            kept.append((token, running.float(), logprob * running, cut * running))
            whole, seen = torch.cat([whole, token[:, None]], 1), torch.cat([seen, running.long()[:, None]], 1)
            running = running & ~torch.isin(token, torch.tensor(ends, dtype=token.dtype))
            new = token[:, None]
    found = Decoded(*(torch.stack(column, dim=1) for column in zip(*kept)))
    return Rollout(ids=whole, attention_mask=seen, mask=found.mask, logprobs=found.logprobs,
                   sampler_logprobs=found.sampler_logprobs, completions=decode_texts(tokenizer, ids, mask, found, ends))
""",
    ),
    "get_samples": (
        """
def get_samples(model, prompt, batch_size, gen_len=15, temperature=0.8, top_k=15, prepend_bos=True, **sampling):
    sampled = rollout(model, [prompt] * batch_size, gen_len, temperature=temperature, top_k=top_k,
                      prepend_bos=prepend_bos, stop_at_eos=False)
    return sampled.ids, [prompt + completion for completion in sampled.completions]
""",
        """
def get_samples(model, prompt, batch_size, gen_len=15, temperature=0.8, top_k=15, prepend_bos=True, *, top_p=None,
                verbose=False, stop_at_eos=False, generator=None):
    prompts = prompt if isinstance(prompt, list) else [prompt]
    prompts = sum(([text] * batch_size for text in prompts), [])
    sampled = rollout(model, prompts, gen_len, temperature=temperature, top_k=top_k, top_p=top_p,
                      prepend_bos=prepend_bos, stop_at_eos=stop_at_eos, generator=generator)
    texts = [model.tokenizer.decode(row[seen.bool()]) for row, seen in zip(sampled.ids, sampled.attention_mask)]
    return sampled.ids, texts
""",
        """
def get_samples(model, prompt, batch_size, gen_len=15, temperature=0.8, top_k=15, prepend_bos=True):
    ids = model.to_tokens(prompt, prepend_bos=prepend_bos).repeat(batch_size, 1)
    with torch.no_grad():
        whole = model.generate(ids, max_new_tokens=gen_len, stop_at_eos=False, do_sample=True, temperature=temperature,
                               top_k=top_k, verbose=False)
    return whole, model.tokenizer.batch_decode(whole, skip_special_tokens=True)
""",
    ),
}
