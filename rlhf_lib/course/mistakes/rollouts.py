"""Named mistakes of chapter 1."""

from rlhf_lib.course.bank import Mistake, mistake

FORGOTTEN = "nothing is returned: the result is computed, but `return` is missing"

GATHERED = "logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)"

FIRST = "first = 1 if prefix_len is None else prefix_len"
DIVIDED = "float() / temperature"
SLICED = "logits[:, first - 1 : -1].float()"
SCORED = "take((logits[:, first - 1 : -1].float() / temperature).log_softmax(dim=-1), tokens[:, first:])"

KEPT_K = 'logits.masked_fill(logits < smallest_kept, -float("inf"))'
THRESHOLD = "logits.topk(top_k, dim=-1).values[:, -1:]"

BEFORE = "probs.cumsum(dim=-1) - probs"
OUTSIDE = "torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= top_p)"
KEPT_P = 'logits.masked_fill(outside, -float("inf"))'

DRAWN = "torch.multinomial(truncated.exp(), 1, generator=generator).squeeze(1)"
TRUNCATED = "truncate_logits(scaled, top_k, top_p).log_softmax(dim=-1) if top_k or top_p else logprobs"

POSITIONS = "(self.attention_mask.cumsum(dim=-1) - 1).clamp(min=0)"
EXTENDED = "torch.cat([self.attention_mask, torch.ones_like(self.attention_mask[:, :1])], dim=1)"

COUNTED = "float(sample.count(char))"

NORMALISED = "(reward - reward.mean()) / (reward.std() + eps)"
EQUAL = "if (reward == reward[:1]).all():"

ANSWERED = "return sampled.ids, texts"

TAKE = [
    mistake("the entry is that of the likeliest token, not of the one given", (GATHERED, "logprobs.max(dim=-1).values")),
    mistake("the sign is flipped, as in a loss", (GATHERED, f"-{GATHERED}")),
    mistake("probabilities are returned: the exponential does not belong here", (GATHERED, f"{GATHERED}.exp()")),
    mistake(
        "the entries are normalised first: log_softmax is the caller's business",
        (GATHERED, "logprobs.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)"),
    ),
    mistake(
        "squeeze() without an axis drops every axis of length 1, a batch of 1 with it",
        (".squeeze(-1)", ".squeeze()"),
    ),
    mistake(
        "the result is cut off from the graph (detach, no_grad or item), so that nothing can train",
        (GATHERED, f"{GATHERED}.detach()"),
    ),
]

GET_LOGPROBS = [
    mistake(
        "the logits are read at the token's own position; they predict the next token",
        (SLICED, "logits[:, first:].float()"),
    ),
    mistake(
        "the logits are read two positions before the token",
        (SLICED, "torch.cat([logits[:, :1], logits], dim=1)[:, first - 1 : -2].float()"),
    ),
    mistake("prefix_len is ignored and every token scored", (FIRST, "first = 1")),
    mistake(
        "the prefix length is written in as a number",
        (FIRST, "first = 1 if prefix_len is None else min(3, tokens.shape[1] - 1)"),
    ),
    mistake("the last token of the prefix is scored too", (FIRST, "first = max(1, prefix_len - 1) if prefix_len else 1")),
    mistake(
        "the first token after the prefix is left out",
        (SCORED, f"{SCORED}[:, (0 if prefix_len is None else 1):]"),
    ),
    mistake(
        "softmax is followed by log, which gives -inf where log_softmax gives a number",
        (".log_softmax(dim=-1)", ".softmax(dim=-1).log()"),
    ),
    mistake("the softmax runs over positions, not over the vocabulary", (".log_softmax(dim=-1)", ".log_softmax(dim=1)")),
    mistake("the logits are returned without a softmax", (".log_softmax(dim=-1)", "")),
    mistake("probabilities are returned, not their logarithms", (".log_softmax(dim=-1)", ".softmax(dim=-1)")),
    mistake(
        "the log-probability is that of the likeliest token, not of the one that stands there",
        (SCORED, "(logits[:, first - 1 : -1].float() / temperature).log_softmax(dim=-1).max(dim=-1).values"),
    ),
    mistake("the sign is flipped, as in a loss", (SCORED, f"-{SCORED}")),
    mistake(
        "it is computed without gradients (no_grad, inference_mode or detach), so that no objective can train",
        (SCORED, f"{SCORED}.detach()"),
    ),
    mistake(
        "squeeze() without an axis drops a batch of 1",
        (SCORED, f"{SCORED}.squeeze()"),
    ),
    mistake(FORGOTTEN, ("return take", "take")),
]

AT_A_TEMPERATURE = [
    mistake("the temperature is ignored", (DIVIDED, "float()")),
    mistake("the logits are multiplied by the temperature, not divided", (DIVIDED, "float() * temperature")),
    mistake(
        "the log-probabilities are divided after the softmax: they no longer belong to a distribution",
        (SCORED, "take(logits[:, first - 1 : -1].float().log_softmax(dim=-1) / temperature, tokens[:, first:])"),
    ),
    mistake("the logits are divided by the temperature twice", (DIVIDED, "float() / temperature**2")),
    mistake(
        "the temperature is only used when there is a prefix",
        (DIVIDED, "float() / (1.0 if prefix_len is None else temperature)"),
    ),
]

KEEP_TOP_K = [
    mistake(
        "removed logits become 0, which is a probability like any other",
        (KEPT_K, "logits.masked_fill(logits < smallest_kept, 0.0)"),
    ),
    mistake(
        "removed logits become a number that other logits can fall below, not -inf",
        (KEPT_K, "logits.masked_fill(logits < smallest_kept, -100.0)"),
    ),
    mistake("the k-th likeliest is removed too: <= in place of <", ("logits < smallest_kept", "logits <= smallest_kept")),
    mistake("k + 1 tokens are kept", (THRESHOLD, "logits.topk(top_k + 1, dim=-1).values[:, -1:]")),
    mistake(
        "the least likely tokens are kept",
        (KEPT_K, 'logits.masked_fill(logits > (-logits).topk(top_k).values[:, -1:].neg(), -float("inf"))'),
    ),
    mistake(
        "the k likeliest are removed and the others kept",
        ("logits < smallest_kept", "logits >= smallest_kept"),
    ),
    mistake(
        "the threshold is taken over the whole batch, not for each row",
        (THRESHOLD, "logits.flatten().topk(top_k).values[-1]"),
    ),
    mistake("the first row's threshold serves for every row", (THRESHOLD, "logits.topk(top_k, dim=-1).values[:1, -1:]")),
    mistake(
        "only the likeliest token is kept: the threshold is the first of the top k, not the last",
        (THRESHOLD, "logits.topk(top_k, dim=-1).values[:, :1]"),
    ),
    mistake(
        "the kept logits are lost: all tokens that stay become equally likely",
        (KEPT_K, 'torch.zeros_like(logits).masked_fill(logits < smallest_kept, -float("inf"))'),
    ),
    mistake("probabilities are returned in place of logits", (KEPT_K, f"{KEPT_K}.softmax(dim=-1)")),
    mistake(
        "the logits that are given are changed in place", (KEPT_K, 'logits.masked_fill_(logits < smallest_kept, -float("inf"))')
    ),
    mistake(
        "a k larger than the vocabulary is not provided for", ("if top_k >= logits.shape[-1]:", "if top_k == logits.shape[-1]:")
    ),
    mistake(
        "exactly k tokens stay: of those tied with the k-th some are removed",
        (
            KEPT_K,
            'torch.full_like(logits, -float("inf")).scatter(1, logits.topk(top_k, dim=-1).indices, logits.topk(top_k).values)',
        ),
    ),
    mistake("removed logits become +inf: only they can be drawn", ('-float("inf")', 'float("inf")')),
    mistake(FORGOTTEN, ("return logits.masked_fill", "logits.masked_fill")),
]

KEEP_TOP_P = [
    mistake("the token with which the sum reaches p is removed", (BEFORE, "probs.cumsum(dim=-1)")),
    mistake(
        "one token too many is kept: the sums are moved by one place twice",
        (BEFORE, "(probs.cumsum(dim=-1) - probs).roll(1, dims=-1).index_fill(1, torch.zeros(1, dtype=torch.long), 0.0)"),
    ),
    mistake(
        "the mask is left in sorted order: it hits tokens that merely stand in those places",
        (OUTSIDE, "before >= top_p"),
    ),
    mistake("the sort is ascending, so that the least likely tokens are kept", ("descending=True", "descending=False")),
    mistake(
        "the mask is put back with gather, not scatter: that sorts it a second time",
        (OUTSIDE, "(before >= top_p).gather(1, order)"),
    ),
    mistake("the sum runs over logits, not over probabilities", ("ordered.softmax(dim=-1)", "ordered")),
    mistake("the sum runs down the batch, not along the vocabulary", (BEFORE, "probs.cumsum(dim=0) - probs")),
    mistake("what lies beyond 1 - p is removed, not what lies beyond p", ("before >= top_p", "before >= 1 - top_p")),
    mistake(
        "each token's own probability is compared with p, not the sum",
        (OUTSIDE, "logits.softmax(dim=-1) < top_p"),
    ),
    mistake(
        "tokens are compared with a share of the largest probability (that is min-p)",
        (OUTSIDE, "logits.softmax(dim=-1) < (1 - top_p) * probs[:, :1]"),
    ),
    mistake("the first row's order serves for every row", ("scatter(1, order,", "scatter(1, order[:1].expand_as(order),")),
    mistake("removed logits become 0, which is a probability like any other", (KEPT_P, "logits.masked_fill(outside, 0.0)")),
    mistake("the nucleus is removed and the rest kept", (KEPT_P, 'logits.masked_fill(~outside, -float("inf"))')),
    mistake("probabilities are returned in place of logits", (KEPT_P, f"{KEPT_P}.softmax(dim=-1)")),
    mistake(
        "a p of 1 removes tokens, because the sum of probabilities reaches 1 before the last one",
        ("if top_p >= 1:", "if top_p > 1:"),
    ),
    mistake("the logits that are given are changed in place", (KEPT_P, 'logits.masked_fill_(outside, -float("inf"))')),
    mistake("a token more is kept where the sum is exactly p: > in place of >=", ("before >= top_p", "before > top_p")),
    mistake("removed logits become +inf: only they can be drawn", ('-float("inf")', 'float("inf")')),
    mistake(FORGOTTEN, ("return logits.masked_fill", "logits.masked_fill")),
]

SAMPLE_TOKENS = [
    mistake(
        "top-p comes before top-k, and counts tokens that top-k removes",
        (
            "    if top_k is not None:\n        logits = keep_top_k(logits, top_k)\n"
            "    if top_p is not None:\n        logits = keep_top_p(logits, top_p)\n",
            "    if top_p is not None:\n        logits = keep_top_p(logits, top_p)\n"
            "    if top_k is not None:\n        logits = keep_top_k(logits, top_k)\n",
        ),
    ),
    mistake(
        "the logits are multiplied by the temperature, not divided", ("logits / temperature if", "logits * temperature if")
    ),
    mistake(
        "tokens are drawn at the temperature but scored with the plain softmax",
        (
            "take(logprobs, tokens), take(truncated, tokens)",
            "take(logits.log_softmax(dim=-1), tokens), take(truncated, tokens)",
        ),
    ),
    mistake("the temperature is ignored", ("scaled = logits / temperature if temperature > 0 else logits", "scaled = logits")),
    mistake(
        "the policy's log-probabilities are taken after truncation",
        ("take(logprobs, tokens), take(truncated, tokens)", "take(truncated, tokens), take(truncated, tokens)"),
    ),
    mistake(
        "the log-probabilities after truncation are those of the policy: they are not renormalised over what is left",
        ("take(logprobs, tokens), take(truncated, tokens)", "take(logprobs, tokens), take(logprobs, tokens)"),
    ),
    mistake(
        "tokens are drawn from the whole distribution, and top-k and top-p only used to score them",
        ("multinomial(truncated.exp()", "multinomial(logprobs.exp()"),
    ),
    mistake("top_k is not used", ("truncate_logits(scaled, top_k, top_p)", "truncate_logits(scaled, None, top_p)")),
    mistake("top_p is not used", ("truncate_logits(scaled, top_k, top_p)", "truncate_logits(scaled, top_k, None)")),
    mistake(
        "top-p is applied before the temperature, which changes what the nucleus is",
        (TRUNCATED, "(truncate_logits(logits, top_k, top_p) / (temperature or 1.0)).log_softmax(dim=-1)"),
    ),
    mistake("temperature 0 divides by zero", (" if temperature > 0 else logits", "")),
    mistake("temperature 0 samples at temperature 1 in place of taking the likeliest", ("if temperature == 0:", "if False:")),
    mistake("the likeliest token is always taken: nothing is drawn", ("if temperature == 0:", "if True:")),
    mistake(
        "all tokens that are left are equally likely to be drawn",
        ("multinomial(truncated.exp()", "multinomial((truncated > -float('inf')).float()"),
    ),
    mistake(
        "one row is drawn for and its token given to every row",
        (DRAWN, "torch.multinomial(truncated[:1].exp(), 1, generator=generator).squeeze(1).expand(len(logits)).clone()"),
    ),
    mistake("the generator is not passed on", (", generator=generator)", ")")),
    mistake("the tokens keep the axis that multinomial adds: [batch 1]", (".squeeze(1)", "")),
    mistake(
        "log-probabilities are computed in the precision of the logits: bfloat16 keeps three digits",
        ("logits = logits.float()", "pass"),
    ),
    mistake(
        "only temperatures above 1 are divided by",
        ("logits / temperature if temperature > 0", "logits / temperature if temperature > 1"),
    ),
    mistake(
        "top-k and top-p are only used where both are given",
        ("if top_k or top_p else logprobs", "if top_k and top_p else logprobs"),
    ),
    mistake(FORGOTTEN, ("return tokens, take", "tokens, take")),
]

CACHED_DECODING = [
    mistake(
        "the cache that comes back is not kept, so each step sees the new token alone",
        ("self.cache = getattr(output, self.cache_name)", "pass"),
    ),
    mistake(
        "everything is computed again in each step: the values are right, but there is no cache",
        (
            "options = {self.cache_name: self.cache}",
            'self.seen = ids = torch.cat([getattr(self, "seen", ids[:, :0]), ids], dim=1)\n'
            "        options = {self.cache_name: self.cache}",
        ),
        ("self.cache = getattr(output, self.cache_name)", "pass"),
    ),
    mistake("the model is not told positions, and GPT-2 then counts the padding", ("if self.takes_positions:", "if False:")),
    mistake(
        "every later token is given position 0, because positions are counted from what this call brings",
        (POSITIONS, "(self.attention_mask[:, -ids.shape[1] :].cumsum(dim=-1) - 1).clamp(min=0)"),
    ),
    mistake("positions start at 1: the sum counts the token itself", (POSITIONS, "self.attention_mask.cumsum(dim=-1)")),
    mistake(
        "the first sequence's positions serve for all",
        (POSITIONS, "(self.attention_mask[:1].cumsum(dim=-1) - 1).clamp(min=0).expand(len(ids), -1)"),
    ),
    mistake(
        "positions are those of the last prompt token: the mask grows only after they are counted, and once too late",
        (POSITIONS, "(self.attention_mask.cumsum(dim=-1) - 1 - (self.cache is not None)).clamp(min=0)"),
    ),
    mistake(
        "the mask is not passed on, so that padding is attended to",
        ("attention_mask=self.attention_mask,", "attention_mask=torch.ones_like(self.attention_mask),"),
    ),
    mistake(
        "the mask is extended with zeros: generated tokens are hidden from later ones",
        (EXTENDED, EXTENDED.replace("ones_like", "zeros_like")),
    ),
    mistake("the mask is never extended: it covers the prompt only", (EXTENDED, "self.attention_mask")),
    mistake(
        "the logits are those after the first of the ids, not the last",
        ("logits_to_keep=1,", ""),
        ("output.logits[:, -1]", "output.logits[:, 0]"),
    ),
    mistake("probabilities are returned in place of logits", ("output.logits[:, -1]", "output.logits[:, -1].softmax(dim=-1)")),
    mistake(
        "the mask grows when a call begins, not when it ends: what is left for the next call is one token short",
        (f"self.attention_mask = {EXTENDED}", "pass"),
        (
            "options = {self.cache_name: self.cache}",
            "options = {self.cache_name: self.cache}\n"
            f"        if self.cache is not None:\n            self.attention_mask = {EXTENDED}",
        ),
    ),
    mistake("positions are given to a model that takes none", ("if self.takes_positions:", "if True:")),
    mistake("the cache is not asked for: use_cache=True is missing", ("use_cache=True,", "")),
    mistake(FORGOTTEN, ("return output.logits", "output.logits")),
]

DECODE = [
    mistake(
        "the mask leaves the end token out, so that the policy never learns to stop",
        ("running.float()", "(running & ~torch.isin(token, ends)).float()"),
    ),
    mistake("the mask is 1 everywhere, padding included", ("running.float()", "1.0")),
    mistake(
        "the mask is read off the ids: whatever equals the padding token counts as padding",
        ("running.float()", "(token != pad_id).float()"),
    ),
    mistake("what is drawn after the end is kept, where padding belongs", ("torch.where(running, token, pad_id)", "token")),
    mistake(
        "log-probabilities after the end are not set to 0",
        ("logprob * running, sampler_logprob * running", "logprob, sampler_logprob"),
    ),
    mistake(
        "an ended sequence comes to life again with the next token",
        ("running = running & ~torch.isin(token, ends)", "running = ~torch.isin(token, ends)"),
    ),
    mistake("decoding stops as soon as one sequence has ended", ("if not running.any():", "if not running.all():")),
    mistake("the decoder is called to the full length although all have ended", ("if not running.any():", "if False:")),
    mistake(
        "the whole sequence is given to the decoder in every step, though it keeps a cache",
        ("new = token[:, None]", "new = torch.cat([new, token[:, None]], dim=1)"),
    ),
    mistake("new tokens are never given to the decoder, which gets the prompts each time", ("new = token[:, None]", "pass")),
    mistake("only the first of several end tokens counts", ("torch.tensor(end_ids,", "torch.tensor(end_ids[:1],")),
    mistake(
        "the sampling options are not passed on",
        (
            "sample_tokens(decoder(new), **sampling)",
            'sample_tokens(decoder(new), temperature=min(1, sampling.get("temperature", 1)))',
        ),
    ),
    mistake(
        "the sampler's log-probabilities are not kept, the policy's stand in both places",
        ("logprob * running, sampler_logprob * running", "logprob * running, logprob * running"),
    ),
    mistake(
        "an end token within the prompt ends the sequence before it begins",
        ("torch.ones(batch, dtype=torch.bool, device=ids.device)", "~torch.isin(ids, ends).any(dim=1)"),
    ),
    mistake(
        "after the end comes 0, whatever the padding token is",
        ("torch.where(running, token, pad_id)", "torch.where(running, token, 0)"),
    ),
    mistake("a graph is kept: no_grad is missing", ("@torch.no_grad()\n", "")),
    mistake(
        "of the sampling options only temperature and top_k are passed on",
        (
            "**sampling)\n        token =",
            '**{k: sampling[k] for k in ("temperature", "top_k") if k in sampling})\n        token =',
        ),
    ),
    mistake(FORGOTTEN, ("return Decoded", "Decoded")),
]

CHAR_COUNT = [
    mistake("full stops are counted whatever `char` says", (COUNTED, 'float(sample.count("."))')),
    mistake("the reward is 1 if the character occurs at all", (COUNTED, "float(char in sample)")),
    mistake(
        "`char` is read as a regular expression, in which a full stop matches everything",
        (COUNTED, 'float(len(__import__("re").findall(char, sample)))'),
    ),
    mistake("the count is divided by the sample's length", (COUNTED, "sample.count(char) / len(sample)")),
    mistake("the reward is the length of the sample", (COUNTED, "float(len(sample))")),
    mistake("capitals and small letters are taken for the same", (COUNTED, "float(sample.lower().count(char.lower()))")),
    mistake("the rewards are whole numbers, not floats: their mean cannot be taken", (COUNTED, "sample.count(char)")),
    mistake(FORGOTTEN, ("return torch.tensor", "torch.tensor")),
]

NORMALIZE = [
    mistake("the sign is flipped: mean minus reward", ("(reward - reward.mean())", "(reward.mean() - reward)")),
    mistake("the order is lost", (NORMALISED, f"({NORMALISED}).sort().values")),
    mistake(
        "the deviation is the population's (n) where the sample's (n - 1) is meant",
        ("reward.std()", "reward.std(unbiased=False)"),
    ),
    mistake("eps is left out", ("(reward.std() + eps)", "reward.std()")),
    mistake("eps stands under the root, added to the variance", ("(reward.std() + eps)", "(reward.var() + eps).sqrt()")),
    mistake(
        "eps is a floor under the deviation (clamp), not added to it", ("(reward.std() + eps)", "reward.std().clamp(min=eps)")
    ),
    mistake("dividing by the variance", ("(reward.std() + eps)", "(reward.var() + eps)")),
    mistake("the mean is not subtracted", ("(reward - reward.mean())", "reward")),
    mistake("the deviation is not divided by", (" / (reward.std() + eps)", "")),
    mistake("the mean is added back after dividing", (NORMALISED, f"{NORMALISED} + reward.mean()")),
    mistake(
        "the rewards are divided by the mean's size, not by their deviation",
        ("(reward.std() + eps)", "(reward.mean().abs() + eps)"),
    ),
    mistake(
        "the rewards are moved to lie between 0 and 1",
        (NORMALISED, "(reward - reward.min()) / (reward.max() - reward.min() + eps)"),
    ),
    mistake("the rewards that are given are changed in place", ("(reward - reward.mean())", "reward.sub_(reward.mean())")),
    mistake("multiplying by the deviation", ("/ (reward.std() + eps)", "* (reward.std() + eps)")),
    mistake(
        "brackets are missing: eps is added to the quotient, not to the deviation",
        ("/ (reward.std() + eps)", "/ reward.std() + eps"),
    ),
    mistake(
        "brackets are missing: only the mean is divided by the deviation",
        (NORMALISED, "reward - reward.mean() / (reward.std() + eps)"),
    ),
    mistake(FORGOTTEN, ("return (reward - ", "(reward - ")),
]

WITHOUT_SPREAD = [
    mistake("no case is made for rewards without spread", (EQUAL, "if False:")),
    mistake(
        "a single reward is provided for, but equal rewards are left to rounding",
        (EQUAL, "if len(reward) == 1:"),
    ),
    mistake("rewards without spread are returned as they are", ("torch.zeros_like(reward)", "reward.clone()")),
    mistake(
        "one equal pair is enough to be called without spread",
        (EQUAL, "if len(reward) == 1 or (reward[1:] == reward[:-1]).any():"),
    ),
    mistake("rewards that differ little are called equal", (EQUAL, "if (reward - reward[:1]).abs().max() < 0.1:")),
    mistake(
        "rewards are compared with allclose, which takes small differences for none",
        (EQUAL, "if torch.allclose(reward, reward[:1]):"),
    ),
]

DECODED = "decode_texts(tokenizer, ids, attention_mask, decoded, end_ids)"
ROLLOUT = [
    mistake(
        "the base model is sampled: the adapters are not merged",
        ("with as_policy as decoder_of:", "decoder_of = lambda mask: Decoder(bridge.original_model, mask)\n    if True:"),
    ),
    mistake(
        "the decoder takes the padding for text: its mask is 1 everywhere",
        ("decoder_of(attention_mask)", "decoder_of(torch.ones_like(attention_mask))"),
    ),
    mistake(
        "the attention mask is 1 after the end as well",
        ("decoded.mask.to(attention_mask.dtype)", "torch.ones_like(decoded.tokens)"),
    ),
    mistake(
        "the attention mask is 1 on the prompts' padding",
        ("torch.cat([attention_mask, decoded", "torch.cat([torch.ones_like(attention_mask), decoded"),
    ),
    mistake(
        "the texts hold the prompt as well",
        (DECODED, f"[a + b for a, b in zip(prompts, {DECODED})]"),
    ),
    mistake(
        "the texts hold the end token and what follows it",
        (DECODED, "tokenizer.batch_decode(decoded.tokens)"),
    ),
    mistake(
        "the two log-probabilities are swapped",
        ("logprobs=decoded.logprobs", "logprobs=decoded.sampler_logprobs"),
        ("sampler_logprobs=decoded.sampler_logprobs", "sampler_logprobs=decoded.logprobs"),
    ),
    mistake("the temperature is not passed on", ('"temperature": temperature, "top_k"', '"temperature": 1.0, "top_k"')),
    mistake("top_k is not passed on", ('"top_k": top_k', '"top_k": None')),
    mistake("the generator is not passed on", ('"generator": generator', '"generator": None')),
    mistake("stop_at_eos is ignored: every completion ends at the end token", (" if stop_at_eos else []", "")),
    mistake("no completion ever ends", ("end_ids_of(model, tokenizer) if stop_at_eos else []", "[]")),
    mistake(
        "prepend_bos is ignored", ("encode_prompts(tokenizer, prompts, prepend_bos)", "encode_prompts(tokenizer, prompts)")
    ),
    mistake(
        "the end token fills up, though the tokenizer has one for padding", ("padding_id(tokenizer)", "tokenizer.eos_token_id")
    ),
    mistake("top_p is not passed on", ('"top_p": top_p', '"top_p": None')),
    mistake(
        "each completion is decoded without its prompt, and so loses the space that it begins with",
        (
            DECODED,
            "tokenizer.batch_decode([row[m > 0] for row, m in zip(decoded.tokens, decoded.mask)], skip_special_tokens=True)",
        ),
    ),
    mistake(
        "the tokenizer is the bridge's, which has added a beginning to the policy's own",
        ("bridge.tokenizer if model is bridge else model.tokenizer", "bridge.tokenizer"),
    ),
    mistake(
        "prompt and completion are not compared with the context",
        ("check_length(ids.shape[1], gen_len, bridge.cfg.n_ctx)", "pass"),
    ),
    mistake(
        "the length of the completion is not counted into what must fit the context",
        ("check_length(ids.shape[1], gen_len,", "check_length(ids.shape[1], 0,"),
    ),
    mistake(FORGOTTEN, ("return Rollout(", "Rollout(")),
]

GET_SAMPLES = [
    mistake("the prompt is missing from the ids", (ANSWERED, "return sampled.ids[:, sampled.prefix_len :], texts")),
    mistake("only the prompt is returned in the ids", (ANSWERED, "return sampled.ids[:, : sampled.prefix_len], texts")),
    mistake("the prompt is missing from the texts", (ANSWERED, "return sampled.ids, sampled.completions")),
    mistake("the texts are joined into one", (ANSWERED, 'return sampled.ids, "".join(texts)')),
    mistake(
        "a sequence stops at the end-of-sequence token, and padding follows", ("stop_at_eos=stop_at_eos,", "stop_at_eos=True,")
    ),
    mistake(
        "the base model is sampled, without the adapters",
        ("        model,\n        prompts,", '        getattr(model, "base_model", model),\n        prompts,'),
    ),
    mistake("the temperature is not passed on", ("temperature=temperature,", "temperature=1.0,")),
    mistake("the temperature's inverse is passed on", ("temperature=temperature,", "temperature=1.0 / temperature,")),
    mistake("top_k is not passed on", ("top_k=top_k,", "top_k=None,")),
    mistake(
        "prepend_bos is ignored and the beginning-of-sequence token always added",
        ("prepend_bos=prepend_bos,", "prepend_bos=True,"),
    ),
    mistake("gen_len counts one token too few", ("        gen_len,\n", "        gen_len - 1,\n")),
    mistake("the likeliest token is always taken", ("temperature=temperature,", "temperature=0.0,")),
    mistake(
        "one completion is drawn and copied for the whole batch",
        (ANSWERED, "return sampled.ids[:1].repeat(len(prompts), 1), texts[:1] * len(prompts)"),
    ),
    mistake(
        "the texts do not belong to the ids: each comes from a draw of its own",
        (
            "texts = [text + completion",
            "drawn = rollout(model, prompts, gen_len, temperature=temperature, prepend_bos=prepend_bos, stop_at_eos=False)\n"
            "    texts = [text + completion",
        ),
        ("zip(prompts, sampled.completions, strict=True)", "zip(prompts, drawn.completions, strict=True)"),
    ),
    mistake("top_p is not passed on", ("top_p=top_p,", "")),
    mistake("the generator is not passed on", ("generator=generator,", "")),
    mistake("stop_at_eos is ignored", ("stop_at_eos=stop_at_eos,", "stop_at_eos=False,")),
    mistake(
        "the continuations of a prompt do not stand together: the whole list is repeated",
        (
            "for text in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(batch_size)",
            "for _ in range(batch_size) for text in ([prompt] if isinstance(prompt, str) else prompt)",
        ),
    ),
    mistake(FORGOTTEN, (ANSWERED, "sampled.ids, texts")),
]

BANK: dict[str, list[Mistake]] = {
    "take": TAKE,
    "get_logprobs": GET_LOGPROBS,
    "logprobs_at_a_temperature": AT_A_TEMPERATURE,
    "keep_top_k": KEEP_TOP_K,
    "keep_top_p": KEEP_TOP_P,
    "sample_tokens": SAMPLE_TOKENS,
    "cached_decoding": CACHED_DECODING,
    "decode": DECODE,
    "reward_fn_char_count": CHAR_COUNT,
    "normalize_reward": NORMALIZE,
    "rewards_without_spread": WITHOUT_SPREAD,
    "rollout": ROLLOUT,
    "get_samples": GET_SAMPLES,
}
