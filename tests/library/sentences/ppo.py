"""The stubs of exercises/ppo.py: sentence, and its check, its checks, or the reason that there is none."""

SENTENCES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "value_head": {
        "Make `self.value_head`: an nn.Sequential of a linear map d_model -> 4 d_model, a ReLU, and a linear map to 1.": (
            "test_value_head__layers",
            "test_value_head__values",
        ),
        "Its weights are float32, whatever the base model's dtype, and live on the base model's device.": (
            "test_value_head__layers",
            "its device cannot be told apart on a CPU",
        ),
        "The pair (hook name, hook function) that reads the values off a forward pass.": "test_value_head__values",
        "The hook's place is the final norm's output, ln_final.hook_out [batch seq d_model]: what the unembedding reads too.": (
            "test_value_head__values"
        ),
        "The function stores the head's output [batch seq 1] in `self.value_head_output`.": "test_value_head__values",
        "The activation enters the head in float32 and with its graph, so that the value loss trains the trunk as well.": (
            "test_value_head__bfloat16",
            "test_value_head__gradients",
        ),
        "The function returns None, since whatever else a hook returns takes the activation's place.": (
            "test_value_head__logits_stay"
        ),
        "Load the base model as every policy does, then add the value head; without one, `self.value_head` is None.": (
            "test_value_head__layers",
            "test_value_head__device",
            "test_value_head__bfloat16",
            "test_value_head__left_out",
        ),
    },
    "compute_advantages": {
        "One-step temporal difference: V_{t+1} - V_t, and at the last real token reward - V_t (Sutton & Barto 2018, "
        "eq. 6.5).": "test_compute_advantages__values",
        "The value V_t of the generated token at position t is values[:, t - 1], given where that token was chosen: the first "
        "generated token, at position prefix_len, has values[:, prefix_len - 1].": "test_compute_advantages__values",
        "Positions after the last real token get 0.": (
            "exercise 2.11 adds the mask",
            "test_terms_with_masks__advantages",
        ),
    },
    "compute_gae": {
        "Generalised advantage estimation, A_t = delta_t + gamma lambda A_{t+1} (Schulman et al. 2016, eq. 16).": (
            "test_compute_gae__reward_at_the_end"
        ),
        "delta_t = r_t + gamma V_{t+1} - V_t, and V_t is values[:, t - 1], as in `compute_advantages`.": (
            "test_compute_gae__reward_at_the_end",
            "test_compute_gae__one_completion_and_one_token",
        ),
        "`rewards` is one number a completion, paid at its last real token, or one a token.": (
            "test_compute_gae__masks",
            "test_compute_gae__reward_for_every_token",
        ),
        "`dones` is 1 on tokens after which an episode is over, so that neither V nor A reaches back across them; the last "
        "real token always is one.": ("test_compute_gae__episodes_end_at_dones", "test_compute_gae__masks"),
        "Positions after it get 0, whatever values and rewards stand there, infinities included.": (
            "test_compute_gae__masks",
            "test_compute_gae__reward_for_every_token",
        ),
        "With gae_lambda 0 and gamma 1 this is `compute_advantages`.": "test_compute_gae__reward_at_the_end",
        "`group_ids` names each completion's prompt: advantages are then centred over the group's real tokens.": (
            "test_compute_gae__group_ids"
        ),
    },
    "returns": {
        "The values where the generated tokens were chosen: the last gen + 1, but for the very last; None without values.": (
            "test_returns__generated_values",
            "test_returns__without_values",
        ),
        "What the value function is to predict: advantage plus generated value; None without values.": (
            "test_returns__returns",
            "test_returns__without_values",
        ),
    },
    "get_minibatches": {
        "Every completion once a pass, for `batches_per_learning_phase` passes, each in a fresh `random_order`.": (
            "test_get_minibatches__every_completion_once_a_pass",
            "test_get_minibatches__a_fresh_order_each_pass",
            "test_get_minibatches__prompts_together",
        ),
        "A pass has `num_minibatches` minibatches of equal size, so the list has their product.": (
            "test_get_minibatches__every_completion_once_a_pass"
        ),
        "A row's entries stay together: all fields of a minibatch are of the same completions.": (
            "test_get_minibatches__rows_stay_together"
        ),
        "`values` are the generated ones; what the memory lacks is None.": (
            "exercise 2.11 adds these fields",
            "test_terms_with_masks__minibatches",
        ),
        "Rows are taken by index, never sliced: a slice of an inference-mode tensor cannot enter autograd.": (
            "test_get_minibatches__ready_for_training"
        ),
    },
    "calc_clipped_surrogate_objective": {
        "PPO's clipped surrogate, mean of min(rho A, clip(rho, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).": (
            "test_calc_clipped_surrogate_objective__values_and_gradients",
            "test_calc_clipped_surrogate_objective__one_kind_of_advantage",
        ),
        "rho = exp(logprobs - mb_logprobs) for each sampled token: the current policy over the one that sampled.": (
            "test_calc_clipped_surrogate_objective__values_and_gradients"
        ),
        "With `eps` None the advantages count as they are; a number whitens them over the whole minibatch first: "
        "(A - mean) / (deviation + eps), with the unbiased deviation.": (
            "test_calc_clipped_surrogate_objective__without_eps",
            "test_calc_clipped_surrogate_objective__values_and_gradients",
            "test_calc_clipped_surrogate_objective__eps_is_added",
        ),
        "The lower bound's low is clip_coef; the upper bound's high is clip_coef_high, or clip_coef too if that is None.": (
            "test_calc_clipped_surrogate_objective__values_and_gradients",
            "exercise 2.11 adds clip_coef_high",
            "test_terms_with_masks__two_bounds",
        ),
        "What the memory holds, mb_logprobs and mb_advantages, is data: no gradient reaches it.": (
            "exercise 2.11 asks for it",
            "test_terms_with_masks__surrogate",
        ),
    },
    "calc_value_function_loss": {
        "`vf_coef` times the mean of (values - returns)^2 / 2 (Schulman et al. 2017, eq. 9).": (
            "test_calc_value_function_loss__values_and_gradients"
        ),
        "`values` are the current ones at the positions where the generated tokens were chosen.": "says what the argument is",
        "What the memory holds, mb_returns and mb_values, is data: no gradient reaches it.": (
            "exercise 2.11 asks for it",
            "test_terms_with_masks__value_loss",
            "test_terms_with_masks__value_clipping",
        ),
        "With `clip_value` the larger of two losses counts for each token: at the value, and at the value held within "
        "clip_value of `mb_values`, the one at sampling time (as in the PPO authors' code).": (
            "exercise 2.11 adds clip_value",
            "test_terms_with_masks__value_clipping",
        ),
    },
    "calc_entropy_bonus": {
        "Entropy of each next-token distribution over the vocabulary, -sum of p log p, in nats.": (
            "test_calc_entropy_bonus__each_position"
        ),
        "`ent_coef` times the mean entropy of the policy per generated token, in nats.": (
            "test_calc_entropy_bonus__values_and_gradients",
            "test_calc_entropy_bonus__large_logits",
        ),
        "`logits` are those that chose the generated tokens.": "says what the argument is",
        "The entropy of a position is that of its whole next-token distribution, not the negative log-probability of the token "
        "that was sampled.": "test_calc_entropy_bonus__values_and_gradients",
    },
    "calc_kl_penalty": {
        "Exact KL(policy || reference) of each next-token distribution, sum of p (log p - log p_ref), in nats.": (
            "test_calc_kl_penalty__each_position"
        ),
        "`kl_coef` times the mean exact KL(policy || reference) per generated token, in nats (Ziegler et al. 2019, eq. 2).": (
            "test_calc_kl_penalty__values_and_gradients",
            "test_calc_kl_penalty__equal_policies",
            "test_calc_kl_penalty__large_logits",
        ),
        "The sum over the vocabulary is weighted by the policy's probabilities. ref_logits is data: no gradient reaches it.": (
            "test_calc_kl_penalty__values_and_gradients",
            "exercise 2.11 asks that no gradient reaches ref_logits",
            "test_terms_with_masks__kl",
        ),
    },
    "reduce_tokens": {
        "One number from per-token values, by one of three averages.": "test_reduce_tokens__three_reductions",
        "token      sum over real tokens / number of real tokens sequence   mean over sequences of each sequence's token mean "
        "constant   sum over real tokens / (batch x gen_len)": (
            "test_reduce_tokens__three_reductions",
            "test_reduce_tokens__gen_len_is_the_cap",
        ),
        "`mask` [batch gen] is 1 on real tokens; None: all are.": (
            "test_reduce_tokens__three_reductions",
            "test_reduce_tokens__no_mask",
        ),
        "Masked positions never matter, in value or gradient, whatever stands there, infinities included: they are hidden, not "
        "multiplied by 0.": "test_reduce_tokens__masked_positions_never_matter",
        "Without real tokens a mean is 0.": "test_reduce_tokens__no_real_tokens",
        "`gen_len` is the cap on generated tokens; without a mask it must be the number of columns.": (
            "test_reduce_tokens__gen_len_is_the_cap",
            "test_reduce_tokens__refusals",
        ),
        "InputError: no mask and another number of columns than gen_len, or an unknown reduction.": (
            "test_reduce_tokens__refusals"
        ),
    },
    "terms_with_masks": {
        "One-step temporal difference: V_{t+1} - V_t, and at the last real token reward - V_t (Sutton & Barto 2018, "
        "eq. 6.5).": "test_terms_with_masks__advantages",
        "The value V_t of the generated token at position t is values[:, t - 1], given where that token was chosen: the first "
        "generated token, at position prefix_len, has values[:, prefix_len - 1].": "test_terms_with_masks__advantages",
        "Positions after the last real token get 0.": "test_terms_with_masks__advantages",
        "Every completion once a pass, for `batches_per_learning_phase` passes, each in a fresh `random_order`.": (
            "exercise 2.5 checks it",
            "test_get_minibatches__every_completion_once_a_pass",
        ),
        "A pass has `num_minibatches` minibatches of equal size, so the list has their product.": (
            "exercise 2.5 checks it",
            "test_get_minibatches__every_completion_once_a_pass",
        ),
        "A row's entries stay together: all fields of a minibatch are of the same completions.": (
            "test_terms_with_masks__minibatches"
        ),
        "`values` are the generated ones; what the memory lacks is None.": "test_terms_with_masks__minibatches",
        "Rows are taken by index, never sliced: a slice of an inference-mode tensor cannot enter autograd.": (
            "exercise 2.5 checks it",
            "test_get_minibatches__ready_for_training",
        ),
        "PPO's clipped surrogate, mean of min(rho A, clip(rho, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).": (
            "test_terms_with_masks__surrogate"
        ),
        "rho = exp(logprobs - mb_logprobs) for each sampled token: the current policy over the one that sampled.": (
            "test_terms_with_masks__surrogate"
        ),
        "With `eps` None the advantages count as they are; a number whitens them over the whole minibatch first: "
        "(A - mean) / (deviation + eps), with the unbiased deviation.": (
            "test_terms_with_masks__surrogate",
            "test_terms_with_masks__whitening",
        ),
        "The lower bound's low is clip_coef; the upper bound's high is clip_coef_high, or clip_coef too if that is None.": (
            "test_terms_with_masks__surrogate",
            "test_terms_with_masks__two_bounds",
        ),
        "What the memory holds, mb_logprobs and mb_advantages, is data: no gradient reaches it.": (
            "test_terms_with_masks__surrogate"
        ),
        "`vf_coef` times the mean of (values - returns)^2 / 2 (Schulman et al. 2017, eq. 9).": (
            "test_terms_with_masks__value_loss"
        ),
        "`values` are the current ones at the positions where the generated tokens were chosen.": "says what the argument is",
        "What the memory holds, mb_returns and mb_values, is data: no gradient reaches it.": (
            "test_terms_with_masks__value_loss",
            "test_terms_with_masks__value_clipping",
        ),
        "With `clip_value` the larger of two losses counts for each token: at the value, and at the value held within "
        "clip_value of `mb_values`, the one at sampling time (as in the PPO authors' code).": (
            "test_terms_with_masks__value_clipping"
        ),
        "`ent_coef` times the mean entropy of the policy per generated token, in nats.": "test_terms_with_masks__entropy",
        "`logits` are those that chose the generated tokens.": "says what the argument is",
        "The entropy of a position is that of its whole next-token distribution, not the negative log-probability of the token "
        "that was sampled.": "test_terms_with_masks__entropy",
        "`kl_coef` times the mean exact KL(policy || reference) per generated token, in nats (Ziegler et al. 2019, eq. 2).": (
            "test_terms_with_masks__kl"
        ),
        "The sum over the vocabulary is weighted by the policy's probabilities. ref_logits is data: no gradient reaches it.": (
            "test_terms_with_masks__kl"
        ),
    },
    "get_optimizer": {
        "AdamW that MAXIMISES, with one learning rate for the model (or its adapters) and one for the value head.": (
            "test_get_optimizer__kind",
            "test_get_optimizer__a_step",
        ),
        "Two parameter groups in this order: what the model trains apart from the head, at base_lr; the value head's "
        "parameters (none without a head), at head_lr.": "test_get_optimizer__two_groups",
        "`betas` and `weight_decay` are AdamW's own, with torch's defaults.": (
            "test_get_optimizer__kind",
            "test_get_optimizer__betas_and_weight_decay",
        ),
    },
    "learning_rate_scale": {
        "Share of the peak learning rate in a phase (0 is the first): linear warm-up that starts above 0, then decay.": (
            "test_learning_rate_scale__warm_up_and_decay"
        ),
        "Phase k of the warm-up has (k + 1) / (warmup_steps + 1).": "test_learning_rate_scale__warm_up_and_decay",
        "Phase `warmup_steps` has 1; from there the share falls linearly, or by half a cosine wave with `lr_decay` cosine.": (
            "test_learning_rate_scale__warm_up_and_decay",
            "test_learning_rate_scale__cosine",
        ),
        "The last phase, total_phases - 1, has `final_scale`, or 1 where it is phase `warmup_steps`; any later phase has "
        "`final_scale`.": (
            "test_learning_rate_scale__warm_up_and_decay",
            "test_learning_rate_scale__no_warm_up",
            "test_learning_rate_scale__after_the_end",
        ),
    },
    "score_tokens": {
        "One pass of the policy and one of the reference over a rollout, whose padding neither sees; no graph is kept.": (
            "test_score_tokens__of_a_model_that_moved",
            "test_score_tokens__is_data",
            "how often a model is called is not looked at",
        ),
        "model: its forward_with_value_head gives the policy's logits and, with a head, values.": (
            "test_score_tokens__of_adapters",
            "test_score_tokens__without_a_head",
        ),
        "ref_model: called for the reference policy's logits.": "test_score_tokens__of_a_model_that_moved",
        "sampled: the completions; ids and attention_mask are read, and `mask` has gen_len columns.": (
            "test_score_tokens__at_the_temperature"
        ),
        "temperature: that of sampling.": (
            "test_score_tokens__at_the_temperature",
            "test_score_tokens__without_a_head",
        ),
    },
    "ppo_rollout_phase": {
        "Sample and reward completions, score their tokens, turn rewards into advantages, and keep what learning needs.": (
            "test_ppo_rollout_phase__samples_the_policy",
            "test_ppo_rollout_phase__scores_the_policy",
            "test_ppo_rollout_phase__keeps_the_reference",
            "test_ppo_rollout_phase__advantages",
            "test_ppo_rollout_phase__is_data",
        ),
        "`sample_and_reward` gives the completions and one reward each, `score_tokens` what policy and reference make of every "
        "token at args.temperature, `compute_token_advantages` an advantage a token.": (
            "says what is at hand; the chapter lets one sample without them"
        ),
        "The memory keeps the rollout's masks and the reference's log-probabilities; its logits only where "
        "`needs_ref_logits`.": (
            "exercise 2.18 adds masks and log-probabilities, and needs_ref_logits is True here",
            "test_ppo_many_prompts__prompts_and_masks",
            "test_ppo_many_prompts__scores_at_the_temperature",
            "test_ppo_rollout_phase__keeps_the_reference",
        ),
        "`log_scores(sampled, scores)` is optional.": "leaves something open",
        "`compute_gae` of rewards and values, with args.gamma and args.gae_lambda, where sampled.mask is 1.": (
            "test_ppo_rollout_phase__advantages",
            "exercise 2.18 adds gamma, lambda and the mask",
            "test_ppo_many_prompts__advantages",
        ),
        "Rewards are first whitened over the batch if args.normalize_reward.": (
            "test_ppo_rollout_phase__advantages",
            "test_ppo_rollout_phase__plain_rewards",
        ),
    },
    "ppo_objective": {
        "Clipped surrogate - value loss + entropy bonus - KL penalty, to be maximised.": (
            "test_ppo_objective__value_and_gradient",
            "test_ppo_objective__one_completion",
            "test_ppo_objective__advantages_without_spread",
        ),
        "One pass gives the current logits and values; entropy and KL are of softmax(logits / args.temperature).": (
            "test_ppo_objective__value_and_gradient",
            "exercise 2.18 adds the temperature",
            "test_ppo_many_prompts__objective",
        ),
    },
    "ppo_learning_phase": {
        "One update for every minibatch of the memory, then one step of the schedule; returns the mean objective.": (
            "test_ppo_learning_phase__several_updates",
            "test_ppo_learning_phase__schedule",
        ),
        "An update: clear the gradients, compute the objective and its gradient, scale the gradient down to "
        "args.max_grad_norm (L2 over everything trained) where it is longer, let the optimiser step uphill, and count it in "
        "`self.step`.": (
            "test_ppo_learning_phase__one_update",
            "test_ppo_learning_phase__several_updates",
            "test_ppo_learning_phase__gradient_clipping",
        ),
    },
    "ppo_many_prompts": {
        "Sample and reward completions, score their tokens, turn rewards into advantages, and keep what learning needs.": (
            "test_ppo_many_prompts__prompts_and_masks",
            "test_ppo_many_prompts__scores_at_the_temperature",
            "test_ppo_many_prompts__advantages",
        ),
        "`sample_and_reward` gives the completions and one reward each, `score_tokens` what policy and reference make of every "
        "token at args.temperature, `compute_token_advantages` an advantage a token.": (
            "test_ppo_many_prompts__scores_at_the_temperature"
        ),
        "The memory keeps the rollout's masks and the reference's log-probabilities; its logits only where "
        "`needs_ref_logits`.": (
            "test_ppo_many_prompts__prompts_and_masks",
            "test_ppo_many_prompts__scores_at_the_temperature",
            "needs_ref_logits is True here",
        ),
        "`log_scores(sampled, scores)` is optional.": "leaves something open",
        "`compute_gae` of rewards and values, with args.gamma and args.gae_lambda, where sampled.mask is 1.": (
            "test_ppo_many_prompts__advantages"
        ),
        "Rewards are first whitened over the batch if args.normalize_reward.": (
            "test_ppo_many_prompts__advantages",
            "test_ppo_rollout_phase__plain_rewards",
        ),
        "Clipped surrogate - value loss + entropy bonus - KL penalty, to be maximised.": (
            "test_ppo_many_prompts__objective",
            "test_ppo_many_prompts__upper_bound",
            "test_ppo_many_prompts__value_clipping",
        ),
        "One pass gives the current logits and values; entropy and KL are of softmax(logits / args.temperature).": (
            "test_ppo_many_prompts__objective"
        ),
    },
}
