"""The stubs of exercises/grpo.py: sentence, and its check, its checks, or the reason that there is none."""

ADVANTAGES = (
    "test_GrpoTrainer__advantages_are_group_relative",
    "test_grpo_many_prompts__advantages_within_groups",
    "test_grpo_many_prompts__advantages_without_deviation",
)
OBJECTIVE = ("test_GrpoTrainer__objective_and_its_gradient", "test_GrpoTrainer__constant_advantages_stay")

SENTENCES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "compute_group_advantages": {
        "Group-relative advantage (r - mean) / (std + eps) within each prompt's completions (Shao et al. 2024, section "
        "4.1.2).": (
            "test_compute_group_advantages__values",
            "test_compute_group_advantages__eps_is_added",
            "test_compute_group_advantages__eps_is_added",
        ),
        "Completions of one prompt are consecutive.": "test_compute_group_advantages__values",
        "`std` is the deviation with n - 1 in its denominator (unbiased), with n (population), or none, which only centres "
        "(Liu et al. 2025).": "test_compute_group_advantages__kinds_of_deviation",
        "A group without spread gives exact zeros: it has nothing to teach.": (
            "test_compute_group_advantages__a_group_without_spread"
        ),
    },
    "spread_over_tokens": {
        "The same advantage for every token of a completion.": "test_spread_over_tokens__values",
    },
    "compute_leave_one_out": {
        "RLOO: each reward minus the mean of the other completions of its prompt (Ahmadian et al. 2024).": (
            "test_compute_leave_one_out__values",
            "test_compute_leave_one_out__equal_rewards",
        ),
    },
    "compute_process_advantages": {
        "Process supervision (Shao et al. 2024, section 4.1.3): A_t sums the normalised rewards of steps that end at or after "
        "t.": (
            "test_compute_process_advantages__all_steps_present",
            "test_compute_process_advantages__deviation_and_eps",
        ),
        "`step_ends` holds the generated position (0 first) of each step's last token, and -1 where a completion has fewer "
        "steps.": (
            "test_compute_process_advantages__fewer_steps",
            "test_compute_process_advantages__a_step_of_one_token",
            "test_compute_process_advantages__one_step",
        ),
        "Each step's reward is normalised over all steps of its group.": "test_compute_process_advantages__fewer_steps",
    },
    "estimate_kl_k1_k2": {
        "log(policy / reference) of the sampled tokens; can be negative.": "test_estimate_kl_k1_k2__k1",
        "On samples of the policy itself it is unbiased, and as a loss its expected gradient is zero.": (
            "test_estimate_kl_k1_k2__k1",
            "test_estimate_kl_k1_k2__expected_gradients",
        ),
        "Half the squared log-ratio: biased, with little noise.": "test_estimate_kl_k1_k2__k2",
        "On samples of the policy itself, its expected gradient as a loss is that of KL(policy || reference).": (
            "test_estimate_kl_k1_k2__expected_gradients"
        ),
    },
    "estimate_kl_k3": {
        "exp(q) - q - 1 with q = log(reference / policy), never negative (Schulman 2020; GRPO's choice).": (
            "test_estimate_kl_k3__values_and_gradients",
            "test_estimate_kl_k3__equal_policies",
        ),
        "On samples of the policy itself it is unbiased, and as a loss its expected gradient is that of KL(reference || "
        "policy).": ("test_estimate_kl_k3__estimates_the_divergence", "test_estimate_kl_k3__expected_gradient"),
        "Beyond LARGEST_LOG_RATIO q counts as no more than that: the exponential stays finite.": (
            "test_estimate_kl_k3__far_from_the_reference"
        ),
    },
    "calc_kl_estimate_penalty": {
        "`kl_coef` times the mean estimated KL per generated token, from the sampled tokens' log-probabilities, in nats.": (
            "test_calc_kl_estimate_penalty__values_and_gradients",
            "test_calc_kl_estimate_penalty__masks",
            "test_calc_kl_estimate_penalty__infinities_in_padding",
        ),
        "ref_logprobs is data: no gradient reaches it.": "test_calc_kl_estimate_penalty__values_and_gradients",
        "Where the mask is 0 nothing counts, whatever stands there.": "test_calc_kl_estimate_penalty__infinities_in_padding",
    },
    "group_metrics": {
        "Shares of all groups: groups_without_spread, and the two kinds of those, groups_all_right and groups_all_wrong.": (
            "test_group_metrics__shares",
            "test_group_metrics__one_group",
        ),
        "A flat group is all right if its reward is at least `best` (None: the highest of the phase) and above 0, else all "
        "wrong.": (
            "test_group_metrics__rewards_between",
            "test_group_metrics__nothing_right",
            "test_group_metrics__best_is_missing_only_where_it_is_left_out",
        ),
    },
    "GrpoTrainer": {
        "Rewards compared within their groups, with args.advantage_std; the same advantage for every token of a completion.": (
            ADVANTAGES
        ),
        "Clipped surrogate + entropy bonus - estimated KL penalty, to be maximised; advantages are not whitened again.": (
            *OBJECTIVE,
            "test_GrpoTrainer__learns_the_enumerable_task",
        ),
    },
    "grpo_many_prompts": {
        "The group size.": "test_grpo_many_prompts__groups_share_a_prompt",
        "Rewards compared within their groups, with args.advantage_std; the same advantage for every token of a completion.": (
            ADVANTAGES
        ),
        "Clipped surrogate + entropy bonus - estimated KL penalty, to be maximised; advantages are not whitened again.": (
            *OBJECTIVE,
            "test_grpo_many_prompts__objective_counts_real_tokens",
            "test_grpo_many_prompts__arguments_reach_the_objective",
            "test_grpo_many_prompts__a_small_clip_upwards",
        ),
    },
}
