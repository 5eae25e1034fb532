"""Named mistakes of chapter 4."""

from rlhf_lib.course.bank import Mistake, mistake

CENTRE = "groups - groups.mean(dim=1, keepdim=True)"
DEVIATION = "(groups.std(dim=1, keepdim=True, unbiased=is_unbiased(std)) + eps)"

EXACT_KL = (  # the classic form of the penalty; most mistakes in the objective are made in both
    "calc_kl_estimate_penalty(\n"
    "            logprobs, minibatch.ref_logprobs, args.kl_coef, estimator=args.kl_estimator, **shared\n        )",
    "exact_kl_penalty(chosen_at(logits, gen_len) / args.temperature, "
    "chosen_at(minibatch.ref_logits, gen_len) / args.temperature, args.kl_coef, **shared)",
)
BEGUN = "args, gen_len = self.args, self.args.gen_len"
IMPORT_EXACT = (BEGUN, f"from rlhf_lib.objectives import calc_kl_penalty as exact_kl_penalty\n\n        {BEGUN}")
PASS = (
    "logits, _ = self.model.forward_with_value_head(\n"
    "            minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=gen_len + 1\n        )"
)
COMPARED = "compute_group_advantages(rewards, self.completions_per_prompt, std=self.args.advantage_std)"
SPREAD = "return spread_over_tokens(advantages, self.args.gen_len)"
WRITTEN_OUT = (  # the phase as a student writes it who does not use RLHFTrainer's
    f"        {SPREAD}\n\n"
    "    def rollout_phase(self):\n"
    "        from rlhf_lib.memory import ReplayMemory as Memory\n\n"
    "        args = self.args\n"
    "        sampled, rewards = self.sample_and_reward()\n"
    "        seen = {'attention_mask': sampled.attention_mask, 'logits_to_keep': args.gen_len + 1}\n"
    "        generated = sampled.ids[:, -args.gen_len - 1 :]\n"
    "        with torch.no_grad():\n"
    "            logits = self.model.forward_with_value_head(sampled.ids, **seen)[0]\n"
    "            ref_logits = self.ref_model(sampled.ids, **seen)\n"
    "        logprobs = get_logprobs(logits, generated, temperature=args.temperature)\n"
    "        ref_logprobs = get_logprobs(ref_logits, generated, temperature=args.temperature)\n"
    "        advantages = self.compute_token_advantages(rewards, None, sampled)\n"
    "        masks = {'mask': sampled.mask, 'attention_mask': sampled.attention_mask}\n"
    "        columns = (sampled.ids, logprobs, advantages, None, None)\n"
    "        return Memory(args, *columns, **masks, ref_logprobs=ref_logprobs)"
)
RETURNED = "return surrogate + entropy_bonus - kl_penalty"


def written_out(when: str, before: str, after: str) -> Mistake:
    """A mistake in a rollout phase of the student's own."""
    assert WRITTEN_OUT.count(before) == 1, before
    return mistake(when, (f"        {SPREAD}", WRITTEN_OUT.replace(before, after)))


def with_exact_kl(when: str, *edits: tuple[str, str]) -> Mistake:
    """A mistake in an objective whose KL is exact."""
    return mistake(when, EXACT_KL, IMPORT_EXACT, *edits)


UNBOUNDED = ("(ref_logprobs - logprobs).clamp(max=LARGEST_LOG_RATIO)", "ref_logprobs - logprobs")
BANK: dict[str, list[Mistake]] = {
    "compute_group_advantages": [
        mistake(
            "a group without spread keeps what rounding leaves of its mean, where exact zeros are asked for",
            ("advantages.masked_fill(without_spread, 0.0)", "advantages"),
        ),
        mistake("eps is left out", ("unbiased=is_unbiased(std)) + eps)", "unbiased=is_unbiased(std)))")),
        mistake(
            "dividing by the population's standard deviation (n) where the sample's (n - 1) is meant",
            ("is_unbiased(std)", "False"),
        ),
        mistake(
            "mean and deviation are taken over the whole batch, not within each group",
            (CENTRE, "groups - groups.mean()"),
            (DEVIATION, "(groups.std(unbiased=is_unbiased(std)) + eps)"),
        ),
        mistake(
            "the deviation is taken over the whole batch, the mean within each group",
            (DEVIATION, "(groups.std(unbiased=is_unbiased(std)) + eps)"),
        ),
        mistake(
            "consecutive completions are split over different groups: the reshape is (group, groups)",
            ("split_groups(rewards, group_size)", "rewards.reshape(group_size, -1).T"),
            (
                'rearrange(advantages.masked_fill(without_spread, 0.0), "groups group -> (groups group)")',
                "advantages.masked_fill(without_spread, 0.0).T.reshape(-1)",
            ),
        ),
        mistake("the sign is flipped: mean minus reward", (CENTRE, "groups.mean(dim=1, keepdim=True) - groups")),
        mistake("rewards are divided by their deviation without subtracting the mean first", (CENTRE, "groups")),
        mistake(
            "rewards are only centred, the division by the deviation is missing", ('if std != "none":', 'if std == "never":')
        ),
        mistake("`std` is ignored and the division always happens", ('if std != "none":', "if True:")),
        mistake("dividing by the variance", ("+ eps)\n", "+ eps) ** 2\n")),
        mistake(
            "eps stands under the root, or multiplies: the deviation is clamped, not added to",
            (DEVIATION, "groups.std(dim=1, keepdim=True, unbiased=is_unbiased(std)).clamp(min=1.0)"),
        ),
        mistake(
            "the mean is added back after dividing",
            ("advantages.masked_fill(without_spread, 0.0)", "advantages + groups.mean(dim=1, keepdim=True)"),
        ),
        mistake(
            "the order within the groups is lost",
            ("advantages.masked_fill(without_spread, 0.0)", "advantages.masked_fill(without_spread, 0.0).sort(dim=1).values"),
        ),
        mistake("the result is computed and never returned", ("return rearrange(", "rearrange(")),
        mistake(
            "the groups are never flattened, so that there is a row a prompt",
            (
                'return rearrange(advantages.masked_fill(without_spread, 0.0), "groups group -> (groups group)")',
                "return advantages.masked_fill(without_spread, 0.0)",
            ),
        ),
        mistake(
            "groups count as without spread only if all of them are: .all() without dim",
            ("(groups == groups[:, :1]).all(dim=1, keepdim=True)", "(groups == groups[:, :1]).all()"),
        ),
        mistake(
            "eps is fixed at its default, whatever is given",
            ("unbiased=is_unbiased(std)) + eps)", "unbiased=is_unbiased(std)) + 1e-4)"),
        ),
        mistake(
            "rewards are changed in place",
            (
                "advantages = groups - groups.mean(dim=1, keepdim=True)",
                "advantages = groups.sub_(groups.mean(dim=1, keepdim=True))",
            ),
        ),
    ],
    "spread_over_tokens": [
        mistake(
            "the advantage is divided among the tokens, so that long completions learn less",
            ("repeat(advantages, ", "repeat(advantages / gen_len, "),
        ),
        mistake(
            "only the last token gets the advantage",
            (
                'repeat(advantages, "batch -> batch gen", gen=gen_len)',
                "torch.nn.functional.pad(advantages[:, None], (gen_len - 1, 0))",
            ),
        ),
        mistake(
            "the axes are swapped and then reshaped: completions share each other's advantages",
            ('repeat(advantages, "batch -> batch gen", gen=gen_len)', "advantages.repeat(gen_len).reshape(-1, gen_len)"),
        ),
        mistake("rows and columns are swapped: [gen batch]", ('"batch -> batch gen"', '"batch -> gen batch"')),
    ],
    "compute_leave_one_out": [
        mistake(
            "the group's whole sum, own reward included, is divided by G - 1",
            ("(groups.sum(dim=1, keepdim=True) - groups) /", "groups.sum(dim=1, keepdim=True) /"),
        ),
        mistake(
            "the centred reward is scaled by (G - 1) / G, where G / (G - 1) is meant",
            ("groups - others", "(groups - others) * ((group_size - 1) / group_size) ** 2"),
        ),
        mistake(
            "the mean includes the completion's own reward",
            ("(groups.sum(dim=1, keepdim=True) - groups)", "groups.sum(dim=1, keepdim=True)"),
            ("(group_size - 1)", "group_size"),
        ),
        mistake("the others' sum is divided by G, not by G - 1", ("(group_size - 1)", "group_size")),
        mistake("the sign is flipped", ("groups - others", "others - groups")),
        mistake("the baseline is returned in place of the advantage", ("groups - others", "others")),
        mistake("the sum of the others is not divided at all", (" / (group_size - 1)", "")),
        mistake(
            "the mean of the others is taken over the whole batch",
            ("(groups.sum(dim=1, keepdim=True) - groups) / (group_size - 1)", "(groups.sum() - groups) / (groups.numel() - 1)"),
        ),
        mistake(
            "the advantage is also divided by the group's deviation",
            ("groups - others", "(groups - others) / (groups.std(dim=1, keepdim=True) + 1e-4)"),
        ),
        mistake("the own reward is left out of the sum twice", ("- groups) /", "- 2 * groups) /")),
        mistake(
            "groups are read down the columns: (group, groups)",
            ("split_groups(rewards, group_size)", "rewards.reshape(group_size, -1).T"),
            ('rearrange(groups - others, "groups group -> (groups group)")', "(groups - others).T.reshape(-1)"),
        ),
    ],
    "compute_process_advantages": [
        mistake(
            "only the token that ends a step gets its reward: == in place of >=",
            ("step_ends[:, :, None] >= positions", "step_ends[:, :, None] == positions"),
        ),
        mistake(
            "the sum over steps is divided by the number of columns: .mean(1) in place of .sum(1)",
            ("still_to_end).sum(dim=1)", "still_to_end).mean(dim=1)"),
        ),
        mistake(
            "steps before t are summed, not those that end at or after t",
            ("step_ends[:, :, None] >= positions", "(step_ends[:, :, None] <= positions) & (step_ends[:, :, None] >= 0)"),
        ),
        mistake(
            "a step's last token does not get its own reward: > in place of >=, or positions counted from 1",
            ("step_ends[:, :, None] >= positions", "step_ends[:, :, None] > positions"),
        ),
        mistake(
            "only the step that a token lies in counts, not the later ones",
            (
                "return (normalised[:, :, None] * still_to_end).sum(dim=1)",
                "first = still_to_end * (still_to_end.cumsum(dim=1) == 1)\n"
                "    return (normalised[:, :, None] * first).sum(dim=1)",
            ),
        ),
        mistake(
            "rewards are normalised within each completion, not over the group",
            (
                '"(groups group) steps -> groups (group steps)", group=group_size)\n    in_group',
                '"(groups group) steps -> (groups group) steps", group=group_size)\n    in_group',
            ),
            (
                'rearrange(present, "(groups group) steps -> groups (group steps)"',
                'rearrange(present, "(groups group) steps -> (groups group) steps"',
            ),
        ),
        mistake(
            "rewards are normalised over the whole batch, not within groups",
            (
                '"(groups group) steps -> groups (group steps)", group=group_size)\n    in_group',
                '"(groups group) steps -> 1 (groups group steps)", group=group_size)\n    in_group',
            ),
            (
                'rearrange(present, "(groups group) steps -> groups (group steps)"',
                'rearrange(present, "(groups group) steps -> 1 (groups group steps)"',
            ),
        ),
        mistake(
            "each step number is normalised by itself across the group, not all steps together",
            (
                '"(groups group) steps -> groups (group steps)", group=group_size)\n    in_group',
                '"(groups group) steps -> (groups steps) group", group=group_size)\n    in_group',
            ),
            (
                'rearrange(present, "(groups group) steps -> groups (group steps)"',
                'rearrange(present, "(groups group) steps -> (groups steps) group"',
            ),
            (
                "std, eps).reshape(step_rewards.shape)",
                'std, eps)\n    normalised = rearrange(normalised, "(groups steps) group -> (groups group) steps", '
                "steps=step_rewards.shape[1])",
            ),
        ),
        mistake(
            "absent steps (end -1) count as steps of reward 0 in mean and deviation",
            ("(step_ends >= 0).to(step_rewards.dtype)", "torch.ones_like(step_rewards)"),
        ),
        mistake("rewards are not normalised at all", ("normalize_rows(groups, in_group, std, eps)", "(groups * in_group)")),
        mistake(
            "the steps' rewards are averaged, not summed", (".sum(dim=1)", ".sum(dim=1) / still_to_end.sum(dim=1).clamp(min=1)")
        ),
        mistake(
            "rewards are only centred, without dividing by their deviation",
            ("normalize_rows(groups, in_group, std, eps)", 'normalize_rows(groups, in_group, "none", eps)'),
        ),
        mistake(
            "`std` is ignored, and n - 1 always divides",
            ("normalize_rows(groups, in_group, std, eps)", 'normalize_rows(groups, in_group, "unbiased", eps)'),
        ),
        mistake(
            "a step that ends at position 0 is taken for no step: > 0 in place of >= 0",
            ("(step_ends >= 0)", "(step_ends > 0)"),
        ),
    ],
    "estimate_kl_k1_k2": [
        mistake(
            "k1's log-ratio is reversed: log(reference / policy)",
            ("return logprobs - ref_logprobs", "return ref_logprobs - logprobs"),
        ),
        mistake("k2 lacks its half", (".square() / 2", ".square()")),
        mistake("k2 is the absolute difference", ("(logprobs - ref_logprobs).square() / 2", "(logprobs - ref_logprobs).abs()")),
        mistake(
            "the policy's log-probabilities are detached, so that k1 cannot train",
            ("return logprobs - ref_logprobs", "return logprobs.detach() - ref_logprobs"),
        ),
    ],
    "estimate_kl_k3": [
        mistake("the 1 is added, not subtracted", ("log_ratio.expm1() - log_ratio", "log_ratio.exp() + 1 - log_ratio")),
        mistake(
            "the log-ratio is reversed, which makes it an estimate of chi-squared minus KL",
            ("ref_logprobs - logprobs", "logprobs - ref_logprobs"),
        ),
        mistake("the 1 is not subtracted", ("log_ratio.expm1()", "log_ratio.exp()")),
        mistake("the log-ratio is added, not subtracted", ("- log_ratio", "+ log_ratio")),
        mistake("it is k1: only the log-ratio", UNBOUNDED, ("log_ratio.expm1() - log_ratio", "-log_ratio")),
        mistake("it is k2: half the squared log-ratio", UNBOUNDED, ("log_ratio.expm1() - log_ratio", "log_ratio.square() / 2")),
        mistake("the sign of the whole is flipped", ("log_ratio.expm1() - log_ratio", "log_ratio - log_ratio.expm1()")),
        mistake("the log-ratio is missing: exp(q) - 1", ("log_ratio.expm1() - log_ratio", "log_ratio.expm1()")),
        mistake(
            "the policy is detached, so that the penalty holds nothing back",
            ("ref_logprobs - logprobs", "ref_logprobs - logprobs.detach()"),
        ),
        mistake(
            "the log-ratio is not held, so that a token that the policy has all but given up makes the estimate infinite",
            (".clamp(max=LARGEST_LOG_RATIO)", ""),
        ),
        mistake(
            "the log-ratio is held on both sides, where only large ones overflow",
            (".clamp(max=LARGEST_LOG_RATIO)", ".clamp(-1.0, LARGEST_LOG_RATIO)"),
        ),
        mistake(
            "the result is averaged over the tokens already",
            ("log_ratio.expm1() - log_ratio", "(log_ratio.expm1() - log_ratio).mean().expand_as(log_ratio)"),
        ),
    ],
    "calc_kl_estimate_penalty": [
        mistake(
            "padding is hidden only after the estimate, when infinities there have made the gradient nan",
            (
                "KL_ESTIMATORS[estimator](hide(logprobs, mask), hide(ref_logprobs.detach(), mask))",
                "hide(KL_ESTIMATORS[estimator](logprobs, ref_logprobs.detach()), mask)",
            ),
        ),
        mistake("gradient flows into the reference", ("ref_logprobs.detach()", "ref_logprobs")),
        mistake("kl_coef is left out", ("kl_coef * reduce_tokens", "reduce_tokens")),
        mistake(
            "the penalty is negative: a penalty is subtracted later, by the objective",
            ("kl_coef * reduce_tokens", "-kl_coef * reduce_tokens"),
        ),
        mistake("`estimator` is ignored and k3 always taken", ("KL_ESTIMATORS[estimator]", 'KL_ESTIMATORS["k3"]')),
        mistake(
            "policy and reference are swapped",
            (
                "(hide(logprobs, mask), hide(ref_logprobs.detach(), mask))",
                "(hide(ref_logprobs.detach(), mask), hide(logprobs, mask))",
            ),
        ),
        mistake("tokens are summed, not averaged", ("reduce_tokens(estimate, gen_len, mask, reduction)", "estimate.sum()")),
        mistake(
            "tokens are summed within each completion and only completions are averaged",
            ("reduce_tokens(estimate, gen_len, mask, reduction)", "estimate.sum(dim=1).mean()"),
        ),
        mistake(
            "the mean is divided by the length once more",
            (
                "reduce_tokens(estimate, gen_len, mask, reduction)",
                "reduce_tokens(estimate, gen_len, mask, reduction) / gen_len",
            ),
        ),
        mistake(
            "the policy is detached, so that the penalty holds nothing back",
            ("hide(logprobs, mask)", "hide(logprobs.detach(), mask)"),
        ),
        mistake(
            "the mask is ignored, so that padding counts",
            ("(hide(logprobs, mask), hide(ref_logprobs.detach(), mask))", "(logprobs, ref_logprobs.detach())"),
            (
                "reduce_tokens(estimate, gen_len, mask, reduction)",
                'reduce_tokens(estimate, gen_len, None, reduction if reduction != "constant" else "token")',
            ),
        ),
    ],
    "group_metrics": [
        mistake(
            "only groups whose reward is exactly 0 count as all wrong",
            ("float((flat & ~all_right).float().mean())", "float((flat & (groups[:, 0] == 0)).float().mean())"),
        ),
        mistake(
            "`best` is ignored, or taken for missing when it is 0",
            ("rewards.max() if best is None else best", "best or rewards.max()"),
        ),
        mistake(
            "spread is looked for over the whole batch, not within groups",
            ("(groups == groups[:, :1]).all(dim=1)", "(groups == groups[:1, :1]).all(dim=1)"),
        ),
        mistake(
            "groups WITH spread are counted", ("(groups == groups[:, :1]).all(dim=1)", "~(groups == groups[:, :1]).all(dim=1)")
        ),
        mistake(
            "one pair of equal rewards is enough to call a group flat",
            ("(groups == groups[:, :1]).all(dim=1)", "(groups[:, 1:] == groups[:, :1]).any(dim=1)"),
        ),
        mistake(
            "groups are counted, where their share is meant",
            (
                'float(flat.float().mean()),\n        "groups_all_right"',
                'float(flat.float().sum()),\n        "groups_all_right"',
            ),
        ),
        mistake(
            "all right and all wrong are swapped",
            (
                '"groups_all_right": float(all_right.float().mean())',
                '"groups_all_right": float((flat & ~all_right).float().mean())',
            ),
            (
                '"groups_all_wrong": float((flat & ~all_right).float().mean())',
                '"groups_all_wrong": float(all_right.float().mean())',
            ),
        ),
        mistake(
            "a group that is all wrong counts as all right when no completion of the phase was right",
            (" & (groups[:, 0] > 0)", ""),
        ),
        mistake(
            "a group is flat only if all groups are: .all() without dim",
            ("(groups == groups[:, :1]).all(dim=1)", "(groups == groups[:, :1]).all()"),
        ),
        mistake(
            "shares are left as tensors, where plain floats are asked for",
            (
                'float(flat.float().mean()),\n        "groups_all_right": float(all_right.float().mean())',
                'flat.float().mean(),\n        "groups_all_right": all_right.float().mean()',
            ),
            ("float((flat & ~all_right).float().mean())", "(flat & ~all_right).float().mean()"),
        ),
        mistake("every flat group counts as all right", ("flat & (groups[:, 0] >= top) & (groups[:, 0] > 0)", "flat")),
        mistake(
            "the split is a share of the flat groups, not of all groups",
            ("float(all_right.float().mean())", "float(all_right.sum() / flat.sum().clamp(min=1))"),
            ("float((flat & ~all_right).float().mean())", "float((flat & ~all_right).sum() / flat.sum().clamp(min=1))"),
        ),
        mistake(
            "completions of a prompt are taken to lie group_size apart: (group, groups)",
            ("rewards.reshape(-1, group_size)", "rewards.reshape(group_size, -1).T"),
        ),
    ],
    "GrpoTrainer": [
        with_exact_kl(
            "the KL penalty is added, which rewards divergence", (RETURNED, "return surrogate + entropy_bonus + kl_penalty")
        ),
        with_exact_kl("the entropy bonus is subtracted", (RETURNED, "return surrogate - entropy_bonus - kl_penalty")),
        with_exact_kl(
            "the objective is negated, as a loss would be: the optimiser maximises",
            (RETURNED, "return -(surrogate + entropy_bonus - kl_penalty)"),
        ),
        with_exact_kl(
            "advantages are whitened once more over the minibatch, so that constant ones become noise",
            (
                '"eps": None',
                '"eps": 1e-8',
            ),
        ),
        with_exact_kl(
            "the objective is computed by the base model without its adapters, so that nothing is trained",
            (
                PASS,
                "logits = self.model(minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=gen_len + 1)",
            ),
        ),
        written_out(
            "the log-probabilities kept in the memory are the reference's, not the sampling policy's",
            "logits = self.model.forward_with_value_head(sampled.ids, **seen)[0]",
            "logits = self.ref_model(sampled.ids, **seen)",
        ),
        written_out(
            "the reference is the policy itself, adapters included, so that KL is always 0",
            "ref_logits = self.ref_model(sampled.ids, **seen)",
            "ref_logits = logits",
        ),
        mistake(
            "raw rewards stand in the place of advantages",
            (COMPARED, "rewards"),
        ),
        mistake(
            "rewards are only centred on the group's mean, not divided by their deviation",
            (COMPARED, "rewards - rewards.mean()"),
        ),
        mistake(
            "the sign of the advantages is flipped",
            (SPREAD, SPREAD.replace("(adv", "(-adv")),
        ),
        mistake(
            "the advantage is divided among the tokens",
            (SPREAD, SPREAD.replace("(advantages", "(advantages / self.args.gen_len")),
        ),
        mistake(
            "the KL penalty is added, which rewards divergence",
            ("surrogate + entropy_bonus - kl_penalty", "surrogate + entropy_bonus + kl_penalty"),
        ),
        mistake(
            "the entropy bonus is subtracted",
            ("surrogate + entropy_bonus - kl_penalty", "surrogate - entropy_bonus - kl_penalty"),
        ),
        mistake("the KL penalty is left out", ("surrogate + entropy_bonus - kl_penalty", "surrogate + entropy_bonus")),
        mistake("the entropy bonus is left out", ("surrogate + entropy_bonus - kl_penalty", "surrogate - kl_penalty")),
        mistake(
            "the objective is negated, as a loss would be: the optimiser maximises",
            ("return surrogate + entropy_bonus - kl_penalty", "return -(surrogate + entropy_bonus - kl_penalty)"),
        ),
        mistake(
            "advantages are whitened once more over the minibatch, so that constant ones become noise",
            (
                '"eps": None',
                '"eps": 1e-8',
            ),
        ),
        mistake(
            "the objective is computed by the base model without its adapters, so that nothing is trained",
            (
                PASS,
                "logits = self.model(minibatch.sample_ids, minibatch.attention_mask, logits_to_keep=gen_len + 1)",
            ),
        ),
        mistake(
            "the current log-probabilities are detached, so that only the entropy bonus trains",
            (
                "minibatch.advantages, **clip, **shared)",
                "minibatch.advantages, **clip, **shared).detach()",
            ),
        ),
        mistake(
            "the ratio is taken to the reference, not to the policy that sampled",
            (
                "minibatch.logprobs, minibatch.advantages",
                "minibatch.ref_logprobs, minibatch.advantages",
            ),
        ),
        mistake(
            "logits and tokens are out of step by one: each token is scored by the logits after it",
            (
                "get_logprobs(logits, with",
                "get_logprobs(logits.roll(-1, dims=1), with",
            ),
        ),
        mistake("clip_coef is a fixed 0.2", ('"clip_coef": args.clip_coef', '"clip_coef": 0.2')),
        written_out(
            "the rollout is scored without torch.no_grad(), so that the memory drags the graph of a whole phase along",
            "with torch.no_grad():",
            "if True:",
        ),
        mistake(
            "the group's deviation is that of a population (n), not the unbiased one (n - 1)",
            ("std=self.args.advantage_std", 'std="population"'),
        ),
        mistake(
            "policy and reference are swapped in the KL penalty, which then has no gradient",
            ("logprobs, minibatch.ref_logprobs, args.kl_coef", "minibatch.ref_logprobs, logprobs, args.kl_coef"),
        ),
        mistake(
            "the entropy is read one position late: that of the tokens after the generated ones",
            ("calc_entropy_bonus(chosen_at(logits, gen_len)", "calc_entropy_bonus(logits[:, -gen_len:]"),
        ),
        mistake("the objective is computed and never returned", (RETURNED, RETURNED.removeprefix("return "))),
    ],
    "grpo_many_prompts": [
        mistake("kl_estimator is never passed on", ("estimator=args.kl_estimator, ", "")),
        mistake("reduction is never passed on", (', "reduction": args.reduction', "")),
        mistake("advantage_std is never passed on", (", std=self.args.advantage_std", "")),
        mistake(
            "the whole batch is one group, whatever the prompts",
            ("rewards, self.completions_per_prompt, std", "rewards, self.args.batch_size, std"),
        ),
        mistake(
            "each prompt is drawn once: completions_per_prompt is 1 and rewards are compared over the batch",
            ("return self.args.resolved_group_size", "return 1"),
            ("rewards, self.completions_per_prompt, std", "rewards, self.args.batch_size, std"),
        ),
        mistake(
            "consecutive completions are dealt out to different groups",
            (
                "compute_group_advantages(rewards, self",
                "compute_group_advantages(rewards.reshape(self.completions_per_prompt, -1).T.reshape(-1), self",
            ),
        ),
        written_out(
            "the mask is not kept in the memory, so that what follows the end is trained",
            "'mask': sampled.mask, ",
            "",
        ),
        written_out(
            "the attention mask is not kept in the memory, so that padding is read as text",
            ", 'attention_mask': sampled.attention_mask}\n        columns",
            "}\n        columns",
        ),
        written_out(
            "the policy that sampled is scored at temperature 1",
            "logprobs = get_logprobs(logits, generated, temperature=args.temperature)",
            "logprobs = get_logprobs(logits, generated)",
        ),
        written_out(
            "the reference is scored at temperature 1, the policy at the temperature of sampling",
            "get_logprobs(ref_logits, generated, temperature=args.temperature)",
            "get_logprobs(ref_logits, generated)",
        ),
        mistake(
            "the objective scores at temperature 1 what was sampled at another",
            (
                "with_last_of_prompt(minibatch.sample_ids, gen_len), temperature=args.temperature",
                "with_last_of_prompt(minibatch.sample_ids, gen_len)",
            ),
        ),
        mistake(
            "entropy is that of the logits before they are divided by the temperature",
            ("chosen_at(logits, gen_len) / args.temperature", "chosen_at(logits, gen_len)"),
        ),
        mistake(
            "the mask does not reach the objective's terms",
            ('"mask": minibatch.mask', '"mask": None'),
        ),
        mistake(
            "the attention mask does not reach the model, so that padding is read as text",
            ("minibatch.sample_ids, minibatch.attention_mask, logits_to_keep", "minibatch.sample_ids, None, logits_to_keep"),
        ),
        written_out(
            "the attention mask is left out when the rollout is scored",
            "{'attention_mask': sampled.attention_mask, 'logits_to_keep'",
            "{'logits_to_keep'",
        ),
        mistake("the upper clip bound is ignored", (', "clip_coef_high": args.clip_coef_high', "")),
    ],
}
