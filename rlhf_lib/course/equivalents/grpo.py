"""Right mutants of chapters/4_grpo.md."""

from rlhf_lib.course.equivalents import Reason, equivalent

LOGGED = equivalent(
    "what is logged is only shown; the chapter says that nothing depends on it",
    ("self.log_update(logprobs, minibatch)", "pass"),
    ("self.log_update(logprobs, minibatch)", "self"),
    ("self.log(kl_penalty=kl_penalty)", "pass"),
    ("self.log(kl_penalty=kl_penalty)", "self"),
    ("self.log(kl_penalty=kl_penalty)", "self.log()"),
)

EQUIVALENT: dict[str, tuple[Reason, ...]] = {
    "compute_process_advantages": (
        equivalent(
            "a mask of true and false counts and multiplies like one of 1 and 0",
            ("(step_ends >= 0).to(step_rewards.dtype)", "step_ends >= 0"),
            ("(step_ends[:, :, None] >= positions).to(step_rewards.dtype)", "step_ends[:, :, None] >= positions"),
        ),
        equivalent("the device of everything here is the CPU", ("(gen_len, device=step_ends.device)", "(gen_len)")),
    ),
    "estimate_kl_k1_k2": (
        equivalent(
            "a difference and its negative have the same square",
            ("(logprobs - ref_logprobs).square()", "(ref_logprobs - logprobs).square()"),
        ),
    ),
    "calc_kl_estimate_penalty": (
        equivalent(
            "reduce_tokens hides what comes of the reference's padding, and no gradient passes the policy's, which is hidden",
            ("hide(ref_logprobs.detach(), mask)", "ref_logprobs.detach()"),
        ),
    ),
    "group_metrics": (
        equivalent(
            "in a group without spread every reward is the first",
            ("groups[:, 0] > 0", "groups[:, 1] > 0"),
            ("groups[:, 0] > 0", "groups[:, -1] > 0"),
            ("groups[:, 0] >= top", "groups[:, 1] >= top"),
            ("groups[:, 0] >= top", "groups[:, -1] >= top"),
        ),
    ),
    "GrpoTrainer": (LOGGED,),
    "grpo_many_prompts": (LOGGED,),
}
