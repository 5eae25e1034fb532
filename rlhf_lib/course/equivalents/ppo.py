"""Right mutants of chapters/2_ppo.md."""

from rlhf_lib.course.equivalents import Reason, equivalent

ROLLOUT_PHASE = (
    equivalent("no text asks for the timing", ("with self.metrics.timed('score')", "if True"), ("'score'", "'scorex'")),
    equivalent(
        "logging is optional",
        ("self.log_scores(sampled, scores)", "pass"),
        ("self.log_scores(sampled, scores)", "self"),
    ),
    equivalent(
        "needs_ref_logits is True for PPO", ("scores.ref_logits if self.needs_ref_logits else None", "scores.ref_logits")
    ),
)
OBJECTIVE = (
    equivalent(
        "a pass with the logits of all positions has the same where they are read", (", logits_to_keep=gen_len + 1", "")
    ),
    equivalent(
        "logging is optional",
        ("self.log_update(logprobs, minibatch)", "pass"),
        ("self.log_update(logprobs, minibatch)", "self"),
        ("self.log(value_loss=value_loss, kl_penalty=kl_penalty)", "pass"),
        ("self.log(value_loss=value_loss, kl_penalty=kl_penalty)", "self"),
        ("value_loss=value_loss, ", ""),
        (", kl_penalty=kl_penalty", ""),
    ),
)

OF_VALUE_LOSS = (  # wherever calc_value_function_loss is written
    equivalent(
        "a square is the same either way round", ("values - returns", "returns - values"), ("held - returns", "returns - held")
    ),
    equivalent(
        "clip_value without mb_values fails by an error of torch's or Python's, and no text names one",
        ("mb_values is None", "False"),
        (
            "raise InputError(f'clip_value={clip_value} needs mb_values, the values at sampling time; pass mb_values=...')",
            "pass",
        ),
    ),
)

EQUIVALENT: dict[str, tuple[Reason, ...]] = {
    "value_head": (equivalent("on a CPU everything is where it must be", (".to(self.device)", "")),),
    "compute_gae": (
        equivalent(
            "the larger of two takes them in any order, and both are of float dtypes",
            ("last, dones.to(mask.dtype)", "dones.to(mask.dtype), last"),
            ("dones.to(mask.dtype)", "dones"),
        ),
        equivalent(
            "every column is written, and read before that",
            ("advantages = torch.zeros_like(deltas)", "advantages = deltas"),
            ("advantages = torch.zeros_like", "advantages = torch.ones_like"),
        ),
        equivalent(
            "the last real token carries nothing back from after it, and what is after it is hidden",
            ("running = torch.zeros_like(deltas[:, 0])", "running = deltas[:, 0]"),
            ("running = torch.zeros_like", "running = torch.ones_like"),
            ("running = torch.zeros_like(deltas[:, 0])", "running = torch.zeros_like(deltas[:, -1])"),
        ),
        equivalent(
            "deltas after the end are 0 already",
            ("advantages = hide(advantages, mask)", "pass"),
            ("hide(advantages, mask)", "advantages"),
        ),
        equivalent(
            "the chapter lets the reader leave group_ids alone",
            ("return advantages if group_ids is None else centre_per_group(advantages, group_ids, mask)", "return advantages"),
            ("centre_per_group(advantages, group_ids, mask)", "advantages"),
        ),
    ),
    "calc_clipped_surrogate_objective": (
        equivalent(
            "what is hidden later, by whiten or reduce_tokens, need not be hidden before",
            ("hide(mb_advantages.detach(), mask)", "mb_advantages.detach()"),
        ),
        equivalent(
            "reduce_tokens hides the value, and clamp gives no gradient to what is nan or above its bound",
            ("hide(logprobs - mb_logprobs.detach(), mask)", "(logprobs - mb_logprobs.detach())"),
        ),
        equivalent(
            "no text asks for a bound on the log-ratio, and e^20 is beyond any clip", (".clamp(max=LARGEST_LOG_RATIO)", "")
        ),
    ),
    "calc_value_function_loss": (
        equivalent(
            "what is hidden later, by reduce_tokens, need not be hidden before",
            ("hide(mb_returns.detach(), mask)", "mb_returns.detach()"),
            ("hide(mb_values.detach(), mask)", "mb_values.detach()"),
        ),
        *OF_VALUE_LOSS,
    ),
    "terms_with_masks": (
        equivalent(
            "what is hidden later, by whiten or reduce_tokens, need not be hidden before",
            ("hide(mb_advantages.detach(), mask)", "mb_advantages.detach()"),
            ("hide(mb_returns.detach(), mask)", "mb_returns.detach()"),
            ("hide(mb_values.detach(), mask)", "mb_values.detach()"),
        ),
        equivalent(
            "the bound lets no gradient through infinities, and reduce_tokens hides what comes of them",
            ("hide(logprobs - mb_logprobs.detach(), mask)", "(logprobs - mb_logprobs.detach())"),
        ),
        equivalent(
            "no text asks for a bound on the log-ratio, and e^20 is beyond any clip", (".clamp(max=LARGEST_LOG_RATIO)", "")
        ),
        *OF_VALUE_LOSS,
    ),
    "learning_rate_scale": (
        equivalent("in phase warmup_steps both formulas give 1", ("phase < args", "phase <= args")),
        equivalent(
            "max and min take their arguments in any order",
            ("max(1, args.total_phases - 1 - args.warmup_steps)", "max(args.total_phases - 1 - args.warmup_steps, 1)"),
            (
                "min(1.0, (phase - args.warmup_steps) / decay_phases)",
                "min((phase - args.warmup_steps) / decay_phases, 1.0)",
            ),
        ),
    ),
    "ppo_rollout_phase": ROLLOUT_PHASE,
    "ppo_objective": (
        equivalent(
            "the text lets advantages stay as they are, since those of the checks are white already",
            ("eps=1e-08, ", ""),
            ("eps=1e-08", "eps=2e-08"),
        ),
        *OBJECTIVE,
    ),
    "ppo_learning_phase": (
        equivalent("no text asks for the timing", ("with self.metrics.timed('train')", "if True"), ("'train'", "'trainx'")),
        equivalent(
            "no text asks that a run stop where it diverges",
            ("self.stop_if_diverged(objective, norm)", "pass"),
            ("self.stop_if_diverged(objective, norm)", "self"),
            ("objective, norm", "norm, objective"),
        ),
        equivalent("the training loop has no use for the mean, and the text allows None", ("return sum(", "sum(")),
        equivalent("a tensor of one number will do where the text asks for the number", ("objective.item()", "objective")),
        equivalent(
            "logging is optional",
            ("self.log(objective=objective, grad_norm=norm)", "pass"),
            ("self.log(objective=objective, grad_norm=norm)", "self"),
            ("objective=objective, ", ""),
            (", grad_norm=norm", ""),
        ),
    ),
    "ppo_many_prompts": (
        *ROLLOUT_PHASE,
        equivalent(
            "the text of 2.16 lets advantages stay as they are, since those of the checks are white already",
            ("eps=1e-08, ", ""),
            ("eps=1e-08", "eps=2e-08"),
        ),
        *OBJECTIVE,
    ),
}
