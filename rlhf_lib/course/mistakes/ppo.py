"""Named mistakes of chapter 2."""

from rlhf_lib.course.bank import Mistake, mistake

REDUCE = "reduce_tokens({}, gen_len, mask, reduction)"
ENTROPY, KL = REDUCE.format("token_entropy(logits)"), REDUCE.format("token_kl(logits, ref_logits.detach())")
LOSS, SURROGATE = REDUCE.format("loss"), REDUCE.format("(ratio * advantages).minimum(clipped)")
OBJECTIVE = "surrogate - value_loss + entropy_bonus - kl_penalty"
WHITEN = "advantages = whiten(advantages, eps, mask)"
NEXT = "torch.where(last == 1, rewards[:, None], values[:, prefix_len:])"
CHOSEN = "values[:, prefix_len - 1 : -1]"
PASS = "logits, values = model.forward_with_value_head(sampled.ids, **inputs)"
SCORED = "scores = score_tokens(self.model, self.ref_model, sampled, self.args.temperature)"
SEES_ALL = "type(sampled)(**{**vars(sampled), 'attention_mask': unpadded}),"
ADVANTAGES = "self.compute_token_advantages(rewards, scores, sampled),"
ALL_LOGPROBS = "plogq(logprobs, logprobs) - plogq(logprobs, ref_logprobs)"
PASSES = "        for _ in range(self.args.batches_per_learning_phase):\n"
ORDER = "order = self.random_order()\n"
ROWS = "            for rows in order.reshape(self.args.num_minibatches, -1):\n"
STEP = "                self.optimizer.step()\n                self.step += 1\n"
LOG_STEP = (
    "                objectives.append(objective.item())\n                self.log(objective=objective, grad_norm=norm)\n"
)

BANK: dict[str, list[Mistake]] = {
    "value_head": [
        mistake(
            "the hook function takes the activation alone, though it is called with the hook as well",
            (", hook: Any) -> None", ") -> None"),
        ),
        mistake("there is a head even with use_value_head=False", ("if use_value_head:", "if True:")),
        mistake("the head is 128 wide, whichever the base model", ("self.cfg.d_model", "128")),
        mistake("`base_model` is ignored", ("super().__init__(base_model, ", 'super().__init__("pocket", ')),
        mistake("`dtype` is ignored", ("device=device, dtype=dtype)", "device=device)")),
        mistake("`device` is ignored", ("device=device, dtype=dtype)", "dtype=dtype)")),
        mistake("the head has no ReLU, so that its two linear maps are only one", ("nn.ReLU(), ", "")),
        mistake("the head's non-linearity is tanh, not ReLU", ("nn.ReLU()", "nn.Tanh()")),
        mistake(
            "a ReLU stands at the end too, so that no value is ever negative",
            ("nn.Linear(4 * width, 1))", "nn.Linear(4 * width, 1), nn.ReLU())"),
        ),
        mistake(
            "the hidden layer is as wide as the residual stream, not four times as wide",
            (
                "nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 1)",
                "nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)",
            ),
        ),
        mistake("the last layer has no bias", ("nn.Linear(4 * width, 1)", "nn.Linear(4 * width, 1, bias=False)")),
        mistake(
            "the activation is detached before the head, so that values do not train the trunk",
            ("resid.float()", "resid.detach().float()"),
        ),
        mistake(
            "the values are detached, so that the value loss trains nothing",
            ("self.value_head(resid.float())", "self.value_head(resid.float()).detach()"),
        ),
        mistake(
            "the hook sits on the last block's output, before the final norm",
            ('"ln_final.hook_out"', 'f"blocks.{self.cfg.n_layers - 1}.hook_out"'),
        ),
        mistake(
            "the hook sits inside the final norm, before its learned scale",
            ('"ln_final.hook_out"', '"ln_final.hook_normalized"'),
        ),
        mistake("the hook sits on the embedding, before any block", ('"ln_final.hook_out"', '"embed.hook_out"')),
        mistake(
            "the head takes over the base model's dtype",
            (".to(self.device)", ".to(self.device, self.dtype)"),
            ("resid.float()", "resid"),
        ),
        mistake("the activation enters the float32 head in the base model's dtype", ("resid.float()", "resid")),
        mistake(
            "the hook function returns the values, which then take the activation's place",
            (
                "            self.value_head_output = self.value_head(resid.float())",
                "            self.value_head_output = self.value_head(resid.float())\n"
                "            return self.value_head_output",
            ),
        ),
        mistake(
            "the hook is also added for good, and once more with every pass",
            (
                '        return "ln_final.hook_out", read_values',
                '        self.base_model.add_hook("ln_final.hook_out", read_values)\n'
                '        return "ln_final.hook_out", read_values',
            ),
        ),
    ],
    "compute_advantages": [
        mistake("`return` is forgotten, so that the result is None", ("return hide(next_values", "hide(next_values")),
        mistake(
            "the reward is added to the next value at every token, the last one's included",
            (NEXT, "values[:, prefix_len:] + rewards[:, None]"),
        ),
        mistake(
            "V_t is read where the token stands, not one position earlier, where it was chosen",
            (CHOSEN, "values[:, prefix_len:]"),
        ),
        mistake(
            "V_t and V_{t+1} are both read one position too early",
            ("values[:, prefix_len:])", "values[:, prefix_len - 1 : -1])"),
            (f"next_values - {CHOSEN}", "next_values - values[:, max(prefix_len - 2, 0) : -2]"),
        ),
        mistake("the sign is flipped: V_t - V_{t+1}", (f"next_values - {CHOSEN}", f"{CHOSEN} - next_values")),
        mistake(
            "the final reward stands in V_{t+1}'s place at every token: Monte Carlo, lambda 1",
            (NEXT, "rewards[:, None].expand_as(values[:, prefix_len:])"),
        ),
        mistake(
            "at the last token the reward is added to the value after it, which is past the end",
            (NEXT, "values[:, prefix_len:] + last * rewards[:, None]"),
        ),
        mistake(
            "the reward is paid at every token",
            (NEXT, "torch.where(last == 1, 0.0, values[:, prefix_len:]) + rewards[:, None]"),
        ),
        mistake("the reward is paid nowhere", (NEXT, "torch.where(last == 1, 0.0, values[:, prefix_len:])")),
        mistake(
            "the next value is left out: only the last token looks ahead, to the reward",
            (NEXT, "last * rewards[:, None]"),
        ),
        mistake(
            "the reward is paid at the first token", ("last = last_real_token(mask)", "last = last_real_token(mask).flip(1)")
        ),
        mistake("the prefix length is fixed at 4", ("mask = real_tokens", "prefix_len = 4\n    mask = real_tokens")),
        mistake(
            "the value at the token itself is subtracted from the final reward alone, and the rest is 0",
            (NEXT, "torch.where(last == 1, rewards[:, None], values[:, prefix_len - 1 : -1])"),
        ),
        mistake("the next value is discounted by 0.99", (NEXT, f"{NEXT} * torch.where(last == 1, 1.0, 0.99)")),
        mistake(
            "the advantages are whitened here already",
            (
                f"return hide(next_values - {CHOSEN}, mask)",
                f"found = hide(next_values - {CHOSEN}, mask)\n    return (found - found.mean()) / (found.std() + 1e-8)",
            ),
        ),
        mistake(
            "the reward is written into the values in place",
            ("    last = last_real_token(mask)\n", "    last = last_real_token(mask)\n    values[:, -1] = rewards\n"),
        ),
    ],
    "compute_gae": [
        mistake("`return` is forgotten, so that the result is None", ("return advantages if", "advantages if")),
        mistake(
            "what stands after the end is hidden only after the loop, when an infinity there has become nan before it",
            ("else hide(rewards, mask)", "else rewards"),
            ("hide(values[:, prefix_len - 1 : -1], mask)", "values[:, prefix_len - 1 : -1]"),
            ("hide(values[:, prefix_len:], mask)", "values[:, prefix_len:]"),
        ),
        mistake(
            "`dones` acts one token late",
            ("dones.to(mask.dtype)", "torch.nn.functional.pad(dones, (1, -1)).to(mask.dtype)"),
        ),
        mistake(
            "`dones` is taken to mark the first token of an episode, not the last",
            ("dones.to(mask.dtype)", "torch.nn.functional.pad(dones, (-1, 1)).to(mask.dtype)"),
        ),
        mistake("gamma is 0.99 where it is left out", ("gamma: float = 1.0", "gamma: float = 0.99")),
        mistake("lambda is 1 where it is left out", ("gae_lambda: float = 0.95", "gae_lambda: float = 1.0")),
        mistake("gamma is missing in delta", ("gamma * next_values", "next_values")),
        mistake(
            "gamma is missing in the recursion: only lambda carries the advantage back",
            ("gamma * gae_lambda * (1", "gae_lambda * (1"),
        ),
        mistake("lambda is missing in the recursion", ("gamma * gae_lambda * (1", "gamma * (1")),
        mistake("the recursion carries 1 - lambda", ("gamma * gae_lambda * (1", "gamma * (1 - gae_lambda) * (1")),
        mistake(
            "the recursion runs forwards, from the first token to the last",
            ("reversed(range(deltas.shape[1]))", "range(deltas.shape[1])"),
        ),
        mistake("only delta is returned: nothing is carried back", (" * running\n", " * 0 * running\n")),
        mistake(
            "returns are given in place of advantages: the value is added again",
            ("hide(advantages, mask)", "hide(advantages + generated, mask)"),
        ),
        mistake(
            "the value after the last token is used, where the episode is over and it is 0",
            ("torch.where(ends == 1, 0.0, hide(values[:, prefix_len:], mask))", "values[:, prefix_len:]"),
        ),
        mistake("a completion's reward is paid at every token", ("last * rewards[:, None]", "mask * rewards[:, None]")),
        mistake(
            "the reward is paid in the last column, be it real or not",
            ("last * rewards[:, None] if", "last_real_token(torch.ones_like(mask)) * rewards[:, None] if"),
        ),
        mistake(
            "the mask is ignored",
            ("mask = real_tokens(values, prefix_len, mask)", "mask = real_tokens(values, prefix_len, None)"),
        ),
        mistake("`dones` is ignored", ("last if dones is None else torch.maximum(last, dones.to(mask.dtype))", "last")),
        mistake(
            "the advantage is carried back across the end of an episode",
            ("gamma * gae_lambda * (1 - ends[:, t]) * running", "gamma * gae_lambda * running"),
        ),
        mistake(
            "an episode's end cuts the advantage, but the next episode's value is still used",
            (
                "torch.where(ends == 1, 0.0, hide(values[:, prefix_len:], mask))",
                "torch.where(last == 1, 0.0, hide(values[:, prefix_len:], mask))",
            ),
        ),
        mistake("V_t and V_{t+1} are swapped", ("gamma * next_values - generated", "gamma * generated - next_values")),
        mistake(
            "V_t is read where the token stands, so that delta is the reward alone",
            ("hide(values[:, prefix_len - 1 : -1], mask)", "hide(values[:, prefix_len:], mask)"),
        ),
        mistake(
            "rewards of each token are summed and paid at the end",
            ("else hide(rewards, mask)", "else last * hide(rewards, mask).sum(dim=1, keepdim=True)"),
        ),
    ],
    "returns": [
        mistake(
            "`return` is forgotten, so that there are never any returns",
            ("return None if self.values is None else self.advantages", "None if self.values is None else self.advantages"),
        ),
        mistake(
            "a return is the advantage where there are no values",
            ("return None if self.values is None else self.adv", "return self.advantages if self.values is None else self.adv"),
        ),
        mistake(
            "values are taken for granted, and a memory without them fails",
            ("return None if self.values is None else chosen_at", "return chosen_at"),
        ),
        mistake(
            "a return is the value minus the advantage",
            ("self.advantages + self.generated_values", "self.generated_values - self.advantages"),
        ),
        mistake("a return is the advantage alone", ("self.advantages + self.generated_values", "self.advantages.clone()")),
        mistake(
            "values are read where the tokens stand, one position late",
            ("chosen_at(self.values, self.gen_len)", "self.values[:, -self.gen_len :]"),
        ),
        mistake(
            "values are read from the start of the sequence, where the prefix is",
            ("chosen_at(self.values, self.gen_len)", "self.values[:, : self.gen_len]"),
        ),
        mistake(
            "a return is the mean of advantage and value",
            ("self.advantages + self.generated_values", "(self.advantages + self.generated_values) / 2"),
        ),
    ],
    "get_minibatches": [
        mistake("`return` is forgotten, so that the result is None", ("return minibatches", "minibatches")),
        mistake(
            "completions are shuffled without random_order, so that args.keep_prompts_together does nothing",
            ("self.random_order()", "torch.randperm(self.args.batch_size)"),
        ),
        mistake("completions are not shuffled", ("self.random_order()", "torch.arange(self.args.batch_size)")),
        mistake(
            "the order is drawn once and used in every pass",
            (
                f"{PASSES}            {ORDER}",
                f"        {ORDER}{PASSES}",
            ),
        ),
        mistake(
            "completions are drawn with replacement, so that some are missed and others come twice",
            ("self.random_order()", "torch.randint(self.args.batch_size, (self.args.batch_size,))"),
        ),
        mistake(
            "all passes are shuffled together, so that a completion may come twice in one",
            (
                f"{PASSES}            {ORDER}{ROWS}",
                "        passes, batch = self.args.batches_per_learning_phase, self.args.batch_size\n"
                "        for order in [torch.randperm(batch * passes) % batch]:\n"
                "            for rows in order.reshape(self.args.num_minibatches * passes, -1):\n",
            ),
        ),
        mistake(
            "there is one pass, whatever batches_per_learning_phase says",
            ("range(self.args.batches_per_learning_phase)", "range(1)"),
        ),
        mistake(
            "each field is shuffled by itself, so that rows do not belong together",
            (
                "None if column is None else column[rows] for",
                "None if column is None else column[torch.randperm(len(column))[: len(rows)]] for",
            ),
        ),
        mistake(
            "minibatches have num_minibatches rows: the reshape is (-1, num_minibatches)",
            ("order.reshape(self.args.num_minibatches, -1)", "order.reshape(-1, self.args.num_minibatches)"),
        ),
        mistake("the field `returns` holds the advantages", ('"returns": self.returns', '"returns": self.advantages')),
        mistake("the field `returns` holds the values", ('"returns": self.returns', '"returns": self.generated_values')),
        mistake(
            "returns are advantages plus the values one position late",
            ('"returns": self.returns', '"returns": self.advantages + self.values[:, -self.gen_len :]'),
        ),
        mistake(
            "the last minibatch of each pass is dropped",
            ("order.reshape(self.args.num_minibatches, -1)", "order.reshape(self.args.num_minibatches, -1)[:-1]"),
        ),
        mistake(
            "every minibatch holds the whole batch",
            (
                "for rows in order.reshape(self.args.num_minibatches, -1)",
                "for rows in order.expand(self.args.num_minibatches, -1)",
            ),
        ),
        mistake(
            "the reference's logits are not taken by the same rows",
            (
                "column[rows] for name, column in columns.items()",
                'column[rows.sort().values if name == "ref_logits" else rows] for name, column in columns.items()',
            ),
        ),
    ],
    "calc_clipped_surrogate_objective": [
        mistake("`return` is forgotten, so that the result is None", (f"return {SURROGATE}", SURROGATE)),
        mistake("eps 0 is taken for None, so that nothing is whitened", ("if eps is not None:", "if eps:")),
        mistake(
            "whitening adds eps to the variance, inside the root",
            (WHITEN, "advantages = (advantages - advantages.mean()) / (advantages.var() + eps).sqrt()"),
        ),
        mistake("the larger of the two products counts: max in place of min", (".minimum(clipped)", ".maximum(clipped)")),
        mistake(
            "the ratio is reversed: the sampling policy over the current one",
            ("hide(logprobs - mb_logprobs.detach(), mask)", "hide(mb_logprobs.detach() - logprobs, mask)"),
        ),
        mistake("nothing is clipped", ("(ratio * advantages).minimum(clipped)", "ratio * advantages")),
        mistake("only the clipped product counts, without the min", ("(ratio * advantages).minimum(clipped)", "clipped")),
        mistake(
            "the product is clipped, not the ratio",
            ("ratio.clamp(1 - clip_coef, 1 + high) * advantages", "(ratio * advantages).clamp(1 - clip_coef, 1 + high)"),
        ),
        mistake(
            "log-probabilities are divided, not subtracted",
            (
                "hide(logprobs - mb_logprobs.detach(), mask).clamp(max=LARGEST_LOG_RATIO).exp()",
                "logprobs / mb_logprobs.detach()",
            ),
        ),
        mistake("the log-ratio is not exponentiated", (".exp()", "")),
        mistake(
            "the ratio is clipped to [-c, c], not to [1 - c, 1 + c]",
            ("clamp(1 - clip_coef, 1 + high)", "clamp(-clip_coef, high)"),
        ),
        mistake("whitening adds the mean back", (WHITEN, "advantages = whiten(advantages, eps, mask) + advantages.mean()")),
        mistake(
            "whitening divides by the variance",
            (WHITEN, "advantages = (advantages - advantages.mean()) / (advantages.var() + eps)"),
        ),
        mistake(
            "whitening divides without subtracting the mean", (WHITEN, "advantages = advantages / (advantages.std() + eps)")
        ),
        mistake("whitening subtracts the mean without dividing", (WHITEN, "advantages = advantages - advantages.mean()")),
        mistake(
            "whitening takes the population's deviation (n, not n - 1)",
            (WHITEN, "advantages = (advantages - advantages.mean()) / (advantages.std(unbiased=False) + eps)"),
        ),
        mistake(
            "whitening is done within each completion, not over the minibatch",
            (
                WHITEN,
                "mean, std = advantages.mean(dim=1, keepdim=True), advantages.std(dim=1, keepdim=True)\n"
                "        advantages = (advantages - mean) / (std + eps)",
            ),
        ),
        mistake("`eps` is ignored and advantages are never whitened", (WHITEN, "pass")),
        mistake(
            "`eps` only switches whitening on, its size is ignored",
            ("whiten(advantages, eps, mask)", "whiten(advantages, 1e-8, mask)"),
        ),
        mistake(
            "advantages are whitened with eps None too",
            (
                "    if eps is not None:\n        advantages = whiten(advantages, eps, mask)",
                "    advantages = whiten(advantages, 1e-8 if eps is None else eps, mask)",
            ),
        ),
        mistake("tokens are summed, not averaged", (SURROGATE, "(ratio * advantages).minimum(clipped).sum()")),
        mistake(
            "tokens are summed within each completion and only completions are averaged",
            (SURROGATE, "(ratio * advantages).minimum(clipped).sum(dim=1).mean()"),
        ),
        mistake("the sign is that of a loss", (f"return {SURROGATE}", f"return -{SURROGATE}")),
        mistake(
            "the current log-probabilities are detached, so that nothing trains",
            ("hide(logprobs - mb_logprobs.detach(), mask)", "hide(logprobs.detach() - mb_logprobs, mask)"),
        ),
    ],
    "calc_value_function_loss": [
        mistake("`return` is forgotten, so that the result is None", ("return vf_coef", "vf_coef")),
        mistake("the sum is divided by gen_len only, not by the batch", (LOSS, "loss.sum() / gen_len")),
        mistake("the half is missing", ("vf_coef * 0.5 * ", "vf_coef * ")),
        mistake("the sign is flipped: a loss is subtracted later, by the objective", ("return vf_coef", "return -vf_coef")),
        mistake("vf_coef is left out", ("vf_coef * 0.5 * ", "0.5 * ")),
        mistake("tokens are summed, not averaged", (LOSS, "loss.sum()")),
        mistake("tokens are summed within each completion and only completions are averaged", (LOSS, "loss.sum(dim=1).mean()")),
        mistake("the mean is divided by the length once more", (LOSS, f"{LOSS} / gen_len")),
        mistake(
            "the error is not squared but taken without its sign",
            ("loss = (values - returns).square()", "loss = (values - returns).abs()"),
        ),
        mistake("the root is taken of the mean square", (LOSS, f"{LOSS}.sqrt()")),
        mistake(
            "the error is neither squared nor taken without its sign",
            ("loss = (values - returns).square()", "loss = values - returns"),
        ),
        mistake("values are detached, so that the head does not train", ("hide(values, mask)", "hide(values.detach(), mask)")),
        mistake(
            "the mean error is squared, not the error of each token", (LOSS, REDUCE.format("values - returns") + ".square()")
        ),
        mistake(
            "large errors count linearly (Huber loss)",
            (
                "loss = (values - returns).square()",
                "error = (values - returns).abs()\n    loss = torch.where(error < 1, error.square(), 2 * error - 1)",
            ),
            ("    values, returns =", "    import torch\n\n    values, returns ="),
        ),
    ],
    "calc_entropy_bonus": [
        mistake("`return` is forgotten, so that the result is None", (f"return ent_coef * {ENTROPY}", f"ent_coef * {ENTROPY}")),
        mistake(
            "entropy is the negative log-probability of one sampled token, not the sum over the vocabulary",
            (
                "return -plogq(logprobs, logprobs)",
                "drawn = logprobs.exp().flatten(0, 1).multinomial(1).reshape(*logprobs.shape[:2], 1)\n"
                "    return -logprobs.gather(-1, drawn).squeeze(-1)",
            ),
        ),
        mistake(
            "entropy is the negative log-probability of the likeliest token",
            ("return -plogq(logprobs, logprobs)", "return -logprobs.amax(dim=-1)"),
        ),
        mistake(
            "entropy is that of the uniform distribution, whatever the logits",
            (
                "return -plogq(logprobs, logprobs)",
                "return 0 * plogq(logprobs, logprobs) + torch.tensor(float(logits.shape[-1])).log()",
            ),
            ("    logprobs =", "    import torch\n\n    logprobs ="),
        ),
        mistake(
            "softmax(...).log() is taken, which is -inf where a probability rounds to 0",
            ("logits.log_softmax(dim=-1)", "logits.softmax(dim=-1).log()"),
            ("-plogq(logprobs, logprobs)", "-(logprobs.exp() * logprobs).sum(dim=-1)"),
        ),
        mistake("the sign is flipped: the sum of p log p is negative", ("return -plogq", "return plogq")),
        mistake(
            "entropy is in bits, not in nats",
            ("return -plogq(logprobs, logprobs)", "return -plogq(logprobs, logprobs) / 0.6931471805599453"),
        ),
        mistake(
            "entropy is a share of the largest possible one: divided by log(vocab)",
            (
                "return -plogq(logprobs, logprobs)",
                "import math\n\n    return -plogq(logprobs, logprobs) / math.log(logits.shape[-1])",
            ),
        ),
        mistake(
            "the sum over the vocabulary is a mean",
            ("return -plogq(logprobs, logprobs)", "return -plogq(logprobs, logprobs) / logits.shape[-1]"),
        ),
        mistake(
            "the exponential of the entropy is returned: the perplexity",
            ("return -plogq(logprobs, logprobs)", "return (-plogq(logprobs, logprobs)).exp()"),
        ),
        mistake("tokens are summed, not averaged", (ENTROPY, "token_entropy(logits).sum()")),
        mistake("the mean is divided by the number of tokens once more", (ENTROPY, f"{ENTROPY} / (len(logits) * gen_len)")),
        mistake(
            "the sum over the batch's tokens is divided by gen_len only", (ENTROPY, "token_entropy(logits).sum() / gen_len")
        ),
        mistake("ent_coef is left out", (f"ent_coef * {ENTROPY}", ENTROPY)),
        mistake(
            "logits are detached, so that the bonus trains nothing", ("token_entropy(logits)", "token_entropy(logits.detach())")
        ),
        mistake(
            "the weights p are detached, which takes the whole gradient away",
            ("-plogq(logprobs, logprobs)", "-plogq(logprobs.detach(), logprobs)"),
        ),
        mistake("the softmax runs over the positions, not the vocabulary", ("log_softmax(dim=-1)", "log_softmax(dim=1)")),
    ],
    "calc_kl_penalty": [
        mistake("`return` is forgotten, so that the result is None", (f"return kl_coef * {KL}", f"kl_coef * {KL}")),
        mistake(
            "it is KL(reference || policy), which F.kl_div(policy.log(), reference) gives too",
            (
                ALL_LOGPROBS,
                "plogq(ref_logprobs, ref_logprobs) - plogq(ref_logprobs, logprobs)",
            ),
        ),
        mistake(
            "the log-ratio is weighted by the reference's probabilities, not by the policy's",
            (
                ALL_LOGPROBS,
                "plogq(ref_logprobs, logprobs) - plogq(ref_logprobs, ref_logprobs)",
            ),
        ),
        mistake(
            "the log-ratio is reversed: log(reference / policy) weighted by the policy, which is never positive",
            (
                ALL_LOGPROBS,
                "plogq(logprobs, ref_logprobs) - plogq(logprobs, logprobs)",
            ),
        ),
        mistake(
            "the policy's own log-probability is left out: cross-entropy",
            (ALL_LOGPROBS, "-plogq(logprobs, ref_logprobs)"),
        ),
        mistake(
            "the log-ratio is not weighted at all but averaged over the vocabulary",
            (ALL_LOGPROBS, "(logprobs - ref_logprobs).mean(dim=-1)"),
        ),
        mistake(
            "the sum over the vocabulary is a mean, as F.kl_div's default reduction takes it",
            (
                ALL_LOGPROBS,
                "(plogq(logprobs, logprobs) - plogq(logprobs, ref_logprobs)) / logits.shape[-1]",
            ),
        ),
        mistake(
            "softmax(...).log() is taken, which is -inf where a probability rounds to 0",
            (
                "logits.log_softmax(dim=-1), ref_logits.log_softmax(dim=-1)",
                "logits.softmax(dim=-1).log(), ref_logits.softmax(dim=-1).log()",
            ),
            (
                ALL_LOGPROBS,
                "(logprobs.exp() * (logprobs - ref_logprobs)).sum(dim=-1)",
            ),
        ),
        mistake(
            "raw logits stand in the place of log-probabilities",
            (
                ALL_LOGPROBS,
                "plogq(logprobs, logits) - plogq(logprobs, ref_logits)",
            ),
        ),
        mistake("tokens are summed, not averaged", (KL, "token_kl(logits, ref_logits.detach()).sum()")),
        mistake(
            "the sum is divided by the batch only, as reduction batchmean does",
            (KL, "token_kl(logits, ref_logits.detach()).sum() / len(logits)"),
        ),
        mistake("kl_coef is left out", (f"kl_coef * {KL}", KL)),
        mistake(
            "the sign is flipped: a penalty is subtracted later, by the objective",
            (f"return kl_coef * {KL}", f"return -kl_coef * {KL}"),
        ),
        mistake(
            "the policy is detached in place of the reference, so that the penalty holds nothing back",
            ("token_kl(logits, ref_logits.detach())", "token_kl(logits.detach(), ref_logits)"),
        ),
        mistake(
            "the weights are detached, which takes the whole gradient away",
            (
                ALL_LOGPROBS,
                "plogq(logprobs.detach(), logprobs) - plogq(logprobs.detach(), ref_logprobs)",
            ),
        ),
    ],
    "reduce_tokens": [
        mistake("a reduction that does not exist is taken for constant", ('if reduction == "constant":', "if True:")),
        mistake(
            "without a mask the number of columns is not compared with gen_len",
            ("if mask is None and values.shape[1] != gen_len:", "if False:"),
        ),
        mistake(
            "sequence is the reduction where none is named",
            ('reduction: Reduction = "token"', 'reduction: Reduction = "sequence"'),
        ),
        mistake(
            "tokens up to the completion's number of real ones count, wherever the mask has its zeros",
            (
                "    values = hide(values, mask)\n",
                "    if mask is not None:\n"
                "        mask = mask.sort(dim=1, descending=True).values\n"
                "    values = hide(values, mask)\n",
            ),
        ),
        mistake(
            "masked positions are hidden, but the mean is over all columns",
            ("return values.sum() / counts.sum().clamp(min=1)", "return values.mean()"),
        ),
        mistake(
            "the mask multiplies, so that infinities turn into nan",
            ("hide(values, mask)", "values if mask is None else values * mask"),
        ),
        mistake(
            "the mask is ignored in the sum",
            ("values = hide(values, mask)", "values = values if mask is None else values.nan_to_num(posinf=0.0)"),
        ),
        mistake(
            "the mask is upside down",
            ("hide(values, mask)", "hide(values, None if mask is None else 1 - mask)"),
            ("else mask.sum(dim=1)", "else (1 - mask).sum(dim=1)"),
        ),
        mistake("`reduction` is ignored: always token", ('if reduction == "token":', "if True:")),
        mistake(
            "sequence divides each completion's sum by gen_len, not by its length",
            ("values.sum(dim=1) / counts.clamp(min=1)", "values.sum(dim=1) / gen_len"),
        ),
        mistake(
            "token and sequence are swapped",
            ('if reduction == "token":', 'if reduction == "sequence":'),
            ('    if reduction == "sequence":\n        return (values', '    if reduction == "token":\n        return (values'),
        ),
        mistake(
            "constant divides by the number of columns, not by the cap gen_len", ("(batch * gen_len)", "(batch * columns)")
        ),
        mistake("constant divides by gen_len only, not by the batch", ("(batch * gen_len)", "gen_len")),
        mistake("tokens are summed for reduction token", ("values.sum() / counts.sum().clamp(min=1)", "values.sum()")),
        mistake(
            "a completion without real tokens divides 0 by 0",
            ("(values.sum(dim=1) / counts.clamp(min=1)).mean()", "(values.sum(dim=1) / counts).mean()"),
        ),
        mistake(
            "a batch without real tokens divides 0 by 0",
            ("values.sum() / counts.sum().clamp(min=1)", "values.sum() / counts.sum()"),
        ),
        mistake(
            "completions without real tokens are left out of the mean over completions",
            (
                "(values.sum(dim=1) / counts.clamp(min=1)).mean()",
                "(values.sum(dim=1) / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)",
            ),
        ),
        mistake("the values are detached, so that no term trains", ("hide(values, mask)", "hide(values.detach(), mask)")),
    ],
    "terms_with_masks": [
        mistake("the surrogate's mean counts the masked tokens", (SURROGATE, "(ratio * advantages).minimum(clipped).mean()")),
        mistake(
            "advantages are whitened over all columns, masked ones included",
            (WHITEN, "advantages = hide(whiten(advantages, eps), mask)"),
        ),
        mistake(
            "ratio and advantages are multiplied by the mask, so that infinities turn into nan",
            ("hide(mb_advantages.detach(), mask)", "mb_advantages.detach() * (1 if mask is None else mask)"),
            (
                "hide(logprobs - mb_logprobs.detach(), mask).clamp(max=LARGEST_LOG_RATIO)",
                "((logprobs - mb_logprobs.detach()) * (1 if mask is None else mask))",
            ),
        ),
        mistake(
            "the ratio is hidden after exp, not the difference before it, so that infinities make gradients nan",
            (
                "hide(logprobs - mb_logprobs.detach(), mask).clamp(max=LARGEST_LOG_RATIO).exp()",
                "hide((logprobs - mb_logprobs.detach()).exp(), mask)",
            ),
        ),
        mistake(
            "the surrogate is averaged by reduction token, whatever is asked for",
            (SURROGATE, "reduce_tokens((ratio * advantages).minimum(clipped), gen_len, mask)"),
        ),
        mistake(
            "gradient flows into the log-probabilities at sampling time",
            ("logprobs - mb_logprobs.detach()", "logprobs - mb_logprobs"),
        ),
        mistake("gradient flows into the advantages", ("hide(mb_advantages.detach(), mask)", "hide(mb_advantages, mask)")),
        mistake(
            "the upper bound of the ratio is ignored", ("clip_coef if clip_coef_high is None else clip_coef_high", "clip_coef")
        ),
        mistake(
            "clip_coef_high sets the lower bound, clip_coef the upper",
            ("ratio.clamp(1 - clip_coef, 1 + high)", "ratio.clamp(1 - high, 1 + clip_coef)"),
        ),
        mistake(
            "the value loss ignores the mask",
            ("values, returns = hide(values, mask), hide(mb_returns.detach(), mask)", "returns = mb_returns.detach()"),
            (LOSS, "loss.mean()"),
        ),
        mistake(
            "the squared error is multiplied by the mask, so that infinities turn into nan",
            ("values, returns = hide(values, mask), hide(mb_returns.detach(), mask)", "returns = mb_returns.detach()"),
            (LOSS, REDUCE.format("loss * (1 if mask is None else mask)")),
        ),
        mistake(
            "the value loss is averaged by reduction token, whatever is asked for",
            (LOSS, "reduce_tokens(loss, gen_len, mask)"),
        ),
        mistake("gradient flows into the returns", ("hide(mb_returns.detach(), mask)", "hide(mb_returns, mask)")),
        mistake("gradient flows into the values at sampling time", ("hide(mb_values.detach(), mask)", "hide(mb_values, mask)")),
        mistake(
            "value clipping holds the value near 0, not near the old value",
            ("old + (values - old).clamp(-clip_value, clip_value)", "values.clamp(-clip_value, clip_value)"),
        ),
        mistake("value clipping takes the smaller of the two losses", ("loss.maximum(", "loss.minimum(")),
        mistake(
            "value clipping replaces the loss by that at the held value",
            ("loss.maximum((held - returns).square())", "(held - returns).square()"),
        ),
        mistake("entropy is averaged over the masked tokens too: padding drags it", (ENTROPY, "token_entropy(logits).mean()")),
        mistake(
            "entropy is averaged by reduction token, whatever is asked for",
            (ENTROPY, "reduce_tokens(token_entropy(logits), gen_len, mask)"),
        ),
        mistake(
            "the KL of masked tokens is set to 0, but they still count in the mean",
            (KL, "hide(token_kl(logits, ref_logits.detach()), mask).mean()"),
        ),
        mistake(
            "the KL penalty is averaged by reduction token, whatever is asked for",
            (KL, "reduce_tokens(token_kl(logits, ref_logits.detach()), gen_len, mask)"),
        ),
        mistake("gradient flows into the reference", ("token_kl(logits, ref_logits.detach())", "token_kl(logits, ref_logits)")),
        mistake(
            "the reward is paid in the last column, be it real or not",
            ("last = last_real_token(mask)", "last = last_real_token(torch.ones_like(mask))"),
        ),
        mistake("tokens after the end keep an advantage", (f"hide(next_values - {CHOSEN}, mask)", f"next_values - {CHOSEN}")),
        mistake("minibatches lack the mask", ('            "mask": self.mask,\n', "")),
        mistake("minibatches lack the attention mask", ('            "attention_mask": self.attention_mask,\n', "")),
        mistake("minibatches lack the reference's log-probabilities", ('            "ref_logprobs": self.ref_logprobs,\n', "")),
        mistake("minibatches lack the values", ('            "values": self.generated_values,\n', "")),
        mistake(
            "minibatches hold the values of all positions, not the generated ones",
            ('"values": self.generated_values', '"values": self.values'),
        ),
        mistake(
            "minibatches hold the mask of the memory's first rows, not of their own",
            ("column[rows] for name", 'column[torch.arange(len(rows)) if name == "mask" else rows] for name'),
        ),
    ],
    "get_optimizer": [
        mistake(
            "it is SGD, not AdamW",
            (
                "torch.optim.AdamW(groups, betas=betas, weight_decay=weight_decay, maximize=True)",
                "torch.optim.SGD(groups, weight_decay=weight_decay, maximize=True)",
            ),
        ),
        mistake("it is Adam, whose weight decay is another", ("torch.optim.AdamW(", "torch.optim.Adam(")),
        mistake("it minimises", (", maximize=True", "")),
        mistake(
            "the learning rates are swapped",
            ('"lr": base_lr', '"lr": head_lr'),
            ('"lr": head_lr},\n    ]', '"lr": base_lr},\n    ]'),
        ),
        mistake(
            "the head's group comes first",
            (
                '{"params": model.get_base_model_trainable_params(), "lr": base_lr},\n'
                '        {"params": model.get_value_head_params(), "lr": head_lr},',
                '{"params": model.get_value_head_params(), "lr": head_lr},\n'
                '        {"params": model.get_base_model_trainable_params(), "lr": base_lr},',
            ),
        ),
        mistake("the argument weight_decay is not handed on", ("weight_decay=weight_decay, ", "")),
        mistake("the argument betas is not handed on", ("betas=betas, ", "")),
        mistake("the optimiser is made but not returned", ("return torch.optim.AdamW", "torch.optim.AdamW")),
        mistake("both groups have base_lr", ('"lr": head_lr', '"lr": base_lr')),
        mistake("both groups have head_lr", ('"lr": base_lr', '"lr": head_lr')),
        mistake("weight decay is switched off", ("weight_decay=weight_decay", "weight_decay=0.0")),
        mistake("weight decay is 0.1, as in pretraining", ("weight_decay=weight_decay", "weight_decay=0.1")),
        mistake("betas are (0.9, 0.95), as in pretraining", ("betas=betas", "betas=(0.9, 0.95)")),
        mistake("the value head is not trained", ("AdamW(groups,", "AdamW(groups[:1],")),
        mistake("the base model is not trained", ("AdamW(groups,", "AdamW(groups[1:],")),
        mistake(
            "the head's parameters are in both groups",
            ("model.get_base_model_trainable_params()", "list(model.parameters())"),
        ),
    ],
    "learning_rate_scale": [
        mistake(
            "the warm-up begins at 0: the first phase trains nothing",
            ("return (phase + 1) / (args.warmup_steps + 1)", "return phase / args.warmup_steps"),
        ),
        mistake(
            "the warm-up reaches 1 one phase early",
            ("(phase + 1) / (args.warmup_steps + 1)", "(phase + 1) / args.warmup_steps"),
        ),
        mistake("there is no warm-up", ("return (phase + 1) / (args.warmup_steps + 1)", "return 1.0")),
        mistake(
            "the warm-up begins at final_scale",
            (
                "return (phase + 1) / (args.warmup_steps + 1)",
                "return args.final_scale + (1 - args.final_scale) * phase / args.warmup_steps",
            ),
        ),
        mistake("there is no decay", ("return args.final_scale + (1 - args.final_scale) * left", "return 1.0")),
        mistake("the decay ends at 0, not at final_scale", ("args.final_scale + (1 - args.final_scale) * left", "left")),
        mistake(
            "the decay ends one phase after the last",
            ("args.total_phases - 1 - args.warmup_steps", "args.total_phases - args.warmup_steps"),
        ),
        mistake(
            "the decay is counted from phase 0, so that it jumps after the warm-up",
            ("(phase - args.warmup_steps) / decay_phases", "phase / max(1, args.total_phases - 1)"),
        ),
        mistake(
            "the decay is cut off at final_scale, not stretched to it",
            ("args.final_scale + (1 - args.final_scale) * left", "max(left, args.final_scale)"),
        ),
        mistake(
            "the decay goes on below final_scale after the last phase",
            ("min(1.0, (phase - args.warmup_steps) / decay_phases)", "(phase - args.warmup_steps) / decay_phases"),
        ),
        mistake(
            "lr_decay is ignored: always linear",
            ('1 - done if args.lr_decay == "linear" else (1 + math.cos(math.pi * done)) / 2', "1 - done"),
        ),
        mistake(
            "the decay is exponential",
            ('1 - done if args.lr_decay == "linear" else (1 + math.cos(math.pi * done)) / 2', "math.exp(-5 * done)"),
        ),
        mistake(
            "a run without warm-up, or of one phase only, divides by 0",
            ("max(1, args.total_phases - 1 - args.warmup_steps)", "args.total_phases - 1 - args.warmup_steps"),
        ),
    ],
    "score_tokens": [
        mistake(
            "the log-probabilities of the policy are the reference's",
            ("get_logprobs(logits, tokens", "get_logprobs(ref_logits, tokens"),
        ),
        mistake(
            "the log-probabilities of the reference are the policy's, so that every KL is 0",
            ("get_logprobs(ref_logits, tokens", "get_logprobs(logits, tokens"),
        ),
        mistake(
            "the reference's logits are the policy's own",
            ("ref_model(sampled.ids, **inputs)", "model.forward_with_value_head(sampled.ids, **inputs)[0]"),
        ),
        mistake(
            "the policy's model is asked for the reference's logits: only without its adapters is it the reference",
            ("ref_model(sampled.ids, **inputs)", "model(sampled.ids, **inputs)"),
        ),
        mistake(
            "the policy is called without its adapters: model(...) is the base model, forward_with_value_head the policy",
            (PASS, "logits, values = model(sampled.ids, **inputs), model.forward_with_value_head(sampled.ids, **inputs)[1]"),
        ),
        mistake(
            "policy and reference are exchanged",
            (
                "TokenScores(logits, ref_logits, logprobs, ref_logprobs",
                "TokenScores(ref_logits, logits, ref_logprobs, logprobs",
            ),
        ),
        mistake(
            "the policy is scored at temperature 1",
            (
                "    logprobs = get_logprobs(logits, tokens, temperature=temperature)\n    ref",
                "    logprobs = get_logprobs(logits, tokens)\n    ref",
            ),
        ),
        mistake(
            "the reference is scored at temperature 1, the policy at the temperature of sampling",
            ("get_logprobs(ref_logits, tokens, temperature=temperature)", "get_logprobs(ref_logits, tokens)"),
        ),
        mistake(
            "logits are multiplied by the temperature, not divided",
            (
                "get_logprobs(logits, tokens, temperature=temperature)",
                "get_logprobs(logits, tokens, temperature=1 / temperature)",
            ),
            (
                "get_logprobs(ref_logits, tokens, temperature=temperature)",
                "get_logprobs(ref_logits, tokens, temperature=1 / temperature)",
            ),
        ),
        mistake(
            "the attention mask reaches neither model, so that padding is read as text",
            ('"attention_mask": sampled.attention_mask', '"attention_mask": None'),
        ),
        mistake(
            "the attention mask does not reach the reference",
            ("ref_model(sampled.ids, **inputs)", "ref_model(sampled.ids, logits_to_keep=gen_len + 1)"),
        ),
        mistake(
            "the attention mask does not reach the policy",
            (PASS, PASS.replace("**inputs", "logits_to_keep=gen_len + 1")),
        ),
        mistake(
            "logits and tokens are out of step by one: each token is scored by the logits after it",
            (PASS, PASS + "\n    logits = logits.roll(-1, dims=1)"),
        ),
        mistake(
            "each token is scored as if it were the one before it",
            ("with_last_of_prompt(sampled.ids, gen_len)", "sampled.ids[:, -gen_len - 2 : -1]"),
        ),
        mistake(
            "values come from the reference's head",
            (
                "ref_logits = ref_model(",
                "_, values = ref_model.forward_with_value_head(sampled.ids, **inputs)\n    ref_logits = ref_model(",
            ),
        ),
        mistake("the passes run with gradients, so that what is kept drags their graphs along", ("@torch.no_grad()\n", "")),
        mistake(
            "logits are kept divided by the temperature, and the objective divides once more",
            ("return TokenScores(logits, ref_logits,", "return TokenScores(logits / temperature, ref_logits / temperature,"),
        ),
    ],
    "ppo_rollout_phase": [
        mistake("the memory is made but not returned", ("return ReplayMemory(", "ReplayMemory(")),
        mistake("rewards are not whitened", ("if args.normalize_reward:", "if False:")),
        mistake("rewards are whitened even with normalize_reward False", ("if args.normalize_reward:", "if True:")),
        mistake(
            "rewards are whitened without care for equal ones",
            ("rewards = normalize_reward(rewards)", "rewards = (rewards - rewards.mean()) / rewards.std()"),
        ),
        mistake("rewards are only centred", ("rewards = normalize_reward(rewards)", "rewards = rewards - rewards.mean()")),
        mistake(
            "the reference is sampled, not the policy",
            (
                "sampled, rewards = self.sample_and_reward()",
                "policy, self.model = self.model, self.ref_model\n"
                "        sampled, rewards = self.sample_and_reward()\n"
                "        self.model = policy",
            ),
        ),
        mistake(
            "the log-probabilities kept in the memory are the reference's, not the sampling policy's",
            ("            scores.logprobs,", "            scores.ref_logprobs,"),
        ),
        mistake(
            "the reference's logits are the policy's own, so that KL is always 0",
            ("scores.ref_logits if", "scores.logits if"),
        ),
        mistake(
            "values come from the reference's head",
            (
                "        self.log_scores(sampled, scores)\n",
                "        headed = self.ref_model.forward_with_value_head(sampled.ids, sampled.attention_mask)\n"
                "        scores.values = headed[1].detach()\n",
            ),
        ),
        mistake(
            "logits and tokens are out of step by one: each token is scored by the logits after it",
            (
                "            scores.logprobs,",
                "            get_logprobs(scores.logits.roll(-1, dims=1), sampled.ids[:, -self.args.gen_len - 1 :]),",
            ),
        ),
        mistake(
            "the whitened reward stands at every token in place of advantages",
            ("compute_gae(scores.values", "compute_gae(torch.zeros_like(scores.values)"),
            ('"gae_lambda": args.gae_lambda', '"gae_lambda": 1.0'),
        ),
        mistake("lambda is fixed at 0.95, whatever gae_lambda says", ('"gae_lambda": args.gae_lambda', '"gae_lambda": 0.95')),
        mistake(
            "values are read one position late when advantages are made",
            ("compute_gae(scores.values", "compute_gae(scores.values.roll(-1, dims=1)"),
        ),
        mistake("the sign of the advantages is flipped", (f"            {ADVANTAGES}", f"            -{ADVANTAGES}")),
        mistake(
            "advantages are whitened over the batch when they are stored",
            (f"            {ADVANTAGES}", f"            (lambda a: (a - a.mean()) / a.std())({ADVANTAGES[:-1]}),"),
        ),
        mistake(
            "returns are kept in place of values",
            (
                "            scores.values,",
                "            scores.values\n"
                f"            + torch.nn.functional.pad({ADVANTAGES[:-1]}, (sampled.prefix_len - 1, 1)),",
            ),
        ),
        mistake(
            "the tokens are scored with gradients, so that the memory drags their graphs along",
            ("scores = score_tokens(", "scores = score_tokens.__wrapped__("),
        ),
    ],
    "ppo_objective": [
        mistake(
            "the KL penalty is added, which rewards divergence",
            (OBJECTIVE, "surrogate - value_loss + entropy_bonus + kl_penalty"),
        ),
        mistake(
            "the value loss is added, which trains the head to be wrong",
            (OBJECTIVE, "surrogate + value_loss + entropy_bonus - kl_penalty"),
        ),
        mistake("the entropy bonus is subtracted", (OBJECTIVE, "surrogate - value_loss - entropy_bonus - kl_penalty")),
        mistake(
            "the whole is negated, as a loss would be: the optimiser maximises",
            (f"return {OBJECTIVE}", f"return -({OBJECTIVE})"),
        ),
        mistake("the value loss is left out", (OBJECTIVE, "surrogate + entropy_bonus - kl_penalty")),
        mistake("the entropy bonus is left out", (OBJECTIVE, "surrogate - value_loss - kl_penalty")),
        mistake("the KL penalty is left out", (OBJECTIVE, "surrogate - value_loss + entropy_bonus")),
        mistake(
            "policy and reference are swapped in the KL",
            (
                "calc_kl_penalty(policy_logits, ref_logits, args.kl_coef",
                "calc_kl_penalty(ref_logits, policy_logits, args.kl_coef",
            ),
        ),
        mistake(
            "kl_coef and ent_coef are swapped",
            ("policy_logits, args.ent_coef", "policy_logits, args.kl_coef"),
            ("ref_logits, args.kl_coef", "ref_logits, args.ent_coef"),
        ),
        mistake(
            "values are read where the tokens stand, one position late",
            ("chosen_at(values, gen_len)", "values[:, -gen_len:]"),
        ),
        mistake(
            "the head is compared with advantages, not with returns",
            ("minibatch.returns, args", "minibatch.advantages, args"),
        ),
        mistake(
            "values are detached, so that the head does not train",
            ("chosen_at(values, gen_len)", "chosen_at(values, gen_len).detach()"),
        ),
        mistake(
            "the reference's logits are one position late",
            ("chosen_at(minibatch.ref_logits, gen_len)", "minibatch.ref_logits[:, -gen_len:]"),
        ),
        mistake("the sum is computed but not returned", (f"return {OBJECTIVE}", OBJECTIVE)),
        mistake("advantages are whitened with eps 0, so that equal ones divide 0 by 0", ("eps=1e-8", "eps=0.0")),
        mistake(
            "entropy is of the logits one position late",
            ("calc_entropy_bonus(policy_logits,", "calc_entropy_bonus(logits[:, -gen_len:] / args.temperature,"),
        ),
        mistake(
            "KL is of the logits one position late, the policy's and the reference's",
            ("calc_kl_penalty(policy_logits, ref_logits,", "calc_kl_penalty(logits[:, -gen_len:] / args.temperature, late,"),
            (
                "kl_penalty = calc_kl_penalty(",
                "late = minibatch.ref_logits[:, -gen_len:] / args.temperature\n        kl_penalty = calc_kl_penalty(",
            ),
        ),
        mistake(
            "entropy and KL are of the logits one position late",
            ("policy_logits = chosen_at(logits, gen_len)", "policy_logits = logits[:, -gen_len:]"),
        ),
        mistake(
            "logits and tokens are out of step by one: each token is scored by the logits after it",
            ("get_logprobs(logits, with", "get_logprobs(logits.roll(-1, dims=1), with"),
        ),
        mistake(
            "returns stand in the surrogate in place of advantages",
            ("minibatch.advantages, eps", "minibatch.returns, eps"),
        ),
        mistake(
            "the ratio is of the sampling policy to itself, always 1",
            ("            logprobs, minibatch.logprobs,", "            logprobs, logprobs.detach(),"),
        ),
        mistake(
            "the current log-probabilities are detached, so that the surrogate trains nothing",
            (
                "            logprobs, minibatch.logprobs,",
                "            logprobs.detach(), minibatch.logprobs,",
            ),
        ),
        mistake("clip_coef is a fixed 0.2", ('"clip_coef": args.clip_coef', '"clip_coef": 0.2')),
        mistake(
            "the reference model computes the pass, so that nothing trains",
            ("self.model.forward_with_value_head", "self.ref_model.forward_with_value_head"),
        ),
    ],
    "ppo_learning_phase": [
        mistake(
            "gradients are never cleared, so that each update adds the earlier ones",
            ("                self.optimizer.zero_grad()\n", ""),
        ),
        mistake(
            "gradients are cleared after backward, so that nothing is trained",
            ("                self.optimizer.zero_grad()\n", ""),
            ("objective.backward()\n", "objective.backward()\n                self.optimizer.zero_grad(set_to_none=False)\n"),
        ),
        mistake("the objective is minimised", ("objective.backward()", "(-objective).backward()")),
        mistake(
            "gradients are not clipped, or only after the step, when it is too late",
            ("self.args.max_grad_norm)", 'float("inf"))'),
        ),
        mistake(
            "each number of the gradient is clipped, not its length",
            (
                "                self.stop_if_diverged",
                "                torch.nn.utils.clip_grad_value_(parameters, self.args.max_grad_norm)\n"
                "                self.stop_if_diverged",
            ),
            ("clip_grad_norm_(parameters, self.args.max_grad_norm)", 'clip_grad_norm_(parameters, float("inf"))'),
        ),
        mistake(
            "each tensor's gradient is clipped by itself",
            (
                "                norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm)\n",
                "                longest = self.args.max_grad_norm\n"
                "                norm = sum(torch.nn.utils.clip_grad_norm_([p], longest) for p in parameters)\n",
            ),
        ),
        mistake("max_grad_norm is a fixed 1", ("self.args.max_grad_norm)", "1.0)")),
        mistake(
            "only the base model's gradient is clipped, not the head's",
            ("for group in self.optimizer.param_groups for p", "for group in self.optimizer.param_groups[:1] for p"),
        ),
        mistake(
            "the schedule moves on after every step",
            (STEP, STEP + "                self.scheduler.step()\n"),
            ("        self.scheduler.step()\n        return", "        return"),
        ),
        mistake("the schedule never moves on", ("        self.scheduler.step()\n", "")),
        mistake("only the first minibatch is used", (LOG_STEP, LOG_STEP + "                break\n")),
        mistake(
            "the gradients of all minibatches are added up for one step at the end",
            ("                self.optimizer.zero_grad()\n", ""),
            (STEP, ""),
            (
                "        self.scheduler.step()\n",
                "        self.optimizer.step()\n        self.step += 1\n        self.scheduler.step()\n",
            ),
        ),
        mistake(
            "only one pass is made over the memory, its second half left",
            ("in memory.get_minibatches():", "in memory.get_minibatches()[: self.args.num_minibatches]:"),
        ),
        mistake("steps are not counted in self.step", ("                self.step += 1\n", "")),
        mistake(
            "the sum of the objectives is returned, not their mean", ("sum(objectives) / len(objectives)", "sum(objectives)")
        ),
        mistake("the last objective is returned, not the mean of all", ("sum(objectives) / len(objectives)", "objectives[-1]")),
    ],
    "ppo_many_prompts": [
        mistake(
            "the mask is not kept in the memory, so that what follows the end is trained",
            ("            mask=sampled.mask,\n            attention_mask", "            attention_mask"),
        ),
        mistake(
            "the attention mask is not kept in the memory, so that padding is read as text",
            ("            attention_mask=sampled.attention_mask,\n", ""),
        ),
        mistake(
            "the reference's log-probabilities are not kept in the memory",
            ("            ref_logprobs=scores.ref_logprobs,\n", ""),
        ),
        mistake(
            "the attention mask is left out when the rollout is scored",
            (SCORED, f"unpadded = torch.ones_like(sampled.attention_mask)\n            {SCORED.replace('sampled,', SEES_ALL)}"),
        ),
        mistake(
            "the policy that sampled is scored at temperature 1",
            ("sampled, self.args.temperature)", "sampled)"),
        ),
        mistake(
            "the reward is paid in the last column, be it real or not",
            ('"gae_lambda": args.gae_lambda, "mask": sampled.mask', '"gae_lambda": args.gae_lambda'),
        ),
        mistake(
            "advantages are those of one-step TD, whatever gae_lambda says",
            ('"gae_lambda": args.gae_lambda', '"gae_lambda": 0.0'),
        ),
        mistake("gamma is ignored", ('"gamma": args.gamma, ', "")),
        mistake("the mask does not reach the objective's terms", ('"mask": minibatch.mask', '"mask": None')),
        mistake("reduction does not reach the objective's terms", ('"reduction": args.reduction', '"reduction": "token"')),
        mistake(
            "the attention mask does not reach the model, so that padding is read as text",
            ("minibatch.sample_ids, minibatch.attention_mask, logits_to_keep", "minibatch.sample_ids, None, logits_to_keep"),
        ),
        mistake(
            "the objective scores at temperature 1 what was sampled at another",
            (
                "with_last_of_prompt(minibatch.sample_ids, gen_len), temperature=args.temperature",
                "with_last_of_prompt(minibatch.sample_ids, gen_len)",
            ),
        ),
        mistake(
            "entropy and KL are of the logits before they are divided by the temperature",
            ("policy_logits = chosen_at(logits, gen_len) / args.temperature", "policy_logits = chosen_at(logits, gen_len)"),
            ("chosen_at(minibatch.ref_logits, gen_len) / args.temperature", "chosen_at(minibatch.ref_logits, gen_len)"),
        ),
        mistake(
            "the policy's logits are divided by the temperature, the reference's are not",
            ("chosen_at(minibatch.ref_logits, gen_len) / args.temperature", "chosen_at(minibatch.ref_logits, gen_len)"),
        ),
        mistake("the upper clip bound is ignored", (', "clip_coef_high": args.clip_coef_high', "")),
        mistake("clip_value is ignored", (', "clip_value": args.clip_value', "")),
    ],
}
