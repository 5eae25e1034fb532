"""The stubs of exercises/rollouts.py: sentence, and its check, its checks, or the reason that there is none."""

LOGPROBS: dict[str, tuple[str, ...]] = {
    "The logits at one position predict the next, so token prefix_len is scored by the logits at prefix_len - 1, and the last "
    "position's logits score nothing.": ("test_get_logprobs__every_token", "test_get_logprobs__after_a_prefix"),
    "`prefix_len` is the number of tokens that are given, not scored: the result is [batch seq-prefix_len].": (
        "test_get_logprobs__after_a_prefix",
        "test_get_logprobs__a_batch_of_1",
        "test_logprobs_at_a_temperature__after_a_prefix",
    ),
    "None scores every token but the first: [batch seq-1].": ("test_get_logprobs__every_token",),
    "`temperature` must be the one of sampling.": (
        "tells the caller what to pass: the function cannot know how tokens were drawn",
    ),
}
UNDER_SOFTMAX = "Log-probabilities of tokens given what stands before them, in nats, under softmax(logits / temperature)."
WITHOUT_SPREAD = "One element, or no spread, gives exact zeros: there is nothing to compare."
NORMALISED = "Rewards with mean 0 and (unbiased) deviation 1 over the batch: (reward - mean) / (deviation + eps)."

SENTENCES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "take": {
        "For each token id, the entry of that id in the last axis: result[i, t] = logprobs[i, t, tokens[i, t]].": (
            "test_take__values_and_gradients",
            "test_take__axes_of_length_1",
        ),
    },
    "get_logprobs": {
        UNDER_SOFTMAX: ("test_get_logprobs__every_token", "test_get_logprobs__large_logits"),
        **LOGPROBS,
    },
    "logprobs_at_a_temperature": {
        UNDER_SOFTMAX: (
            "test_logprobs_at_a_temperature__values_and_gradients",
            "test_logprobs_at_a_temperature__they_are_normalised",
        ),
        **LOGPROBS,
    },
    "keep_top_k": {
        "Logits with -inf in place of all but the `top_k` largest of each row; the others as they are, not renormalised.": (
            "test_keep_top_k__values",
            "test_keep_top_k__one_row_and_one_token",
            "test_keep_top_k__large_logits",
        ),
        "A `top_k` of vocab or more keeps everything.": "test_keep_top_k__everything",
        "Tokens tied with the last one that stays, stay too.": "test_keep_top_k__ties",
    },
    "keep_top_p": {
        "Logits with -inf outside each row's nucleus: the smallest set of likeliest tokens that holds probability `top_p`.": (
            "test_keep_top_p__values",
            "test_keep_top_p__one_row",
            "test_keep_top_p__a_sum_of_exactly_p",
        ),
        "Probabilities are softmax(logits).": "test_keep_top_p__values",
        "The token with which the sum reaches `top_p` belongs to the set, so the likeliest token always stays.": (
            "test_keep_top_p__values",
            "test_keep_top_p__the_likeliest_always_stays",
        ),
        "A `top_p` of 1 keeps everything (Holtzman et al. 2020, section 3.1).": "test_keep_top_p__everything",
    },
    "sample_tokens": {
        "Logits after keep_top_k and then keep_top_p, each where it is given; without both the logits as they are.": (
            "test_sample_tokens__truncation",
            "test_sample_tokens__defaults",
        ),
        "Top-p thus takes its probabilities after top-k, as softmax of what that left.": "test_sample_tokens__truncation",
        "One token for each row: (tokens, their log-probabilities under the policy, and under what was sampled from).": (
            "test_sample_tokens__log_probabilities",
            "test_sample_tokens__one_row_and_large_logits",
        ),
        "The policy is softmax(logits / temperature).": (
            "test_sample_tokens__log_probabilities",
            "test_sample_tokens__frequencies",
            "test_sample_tokens__defaults",
        ),
        "`top_k` and `top_p`, where given, then cut that distribution (see truncate_logits) and what is left is renormalised; "
        "the token is drawn from the result, with `generator` as the source of randomness (None: torch's global one).": (
            "test_sample_tokens__log_probabilities_after_top_k",
            "test_sample_tokens__log_probabilities_after_top_p",
            "test_sample_tokens__frequencies_after_top_k",
            "test_sample_tokens__generator",
            "that None means torch's own generator cannot be seen: its state is set anew before every call",
        ),
        "Temperature 0 takes the likeliest token; its log-probabilities are then those at temperature 1.": (
            "test_sample_tokens__greedy"
        ),
        "All is computed in float32.": "test_sample_tokens__half_precision",
    },
    "cached_decoding": {
        "Logits of the token after the last of `ids`: the first call gets the prompts, each later one the newest tokens "
        "alone.": (
            "test_cached_decoding__the_prompts",
            "test_cached_decoding__token_by_token",
        ),
        "`self.attention_mask` [batch, all tokens so far] covers `ids` when the call begins, and one token more when it ends; "
        "`self.cache` is None at first and then holds the model's keys and values of all tokens so far.": (
            "test_cached_decoding__what_the_model_is_given"
        ),
        "A token's position is the number of real tokens before it in its row; padding may have any position that the model "
        "knows, such as 0.": (
            "test_cached_decoding__what_the_model_is_given",
            "test_cached_decoding__learned_positions",
        ),
        "`position_ids` go to the model only where `self.takes_positions`.": "test_cached_decoding__a_model_without_positions",
        "What the model calls its cache, as argument and in its output, is `self.cache_name`.": (
            "test_cached_decoding__what_the_model_is_given"
        ),
        "The model is asked for its cache (`use_cache=True`), whatever its settings say.": (
            "test_cached_decoding__a_model_without_positions"
        ),
    },
    "decode": {
        "The sampling loop: `gen_len` tokens for every sequence, or fewer once it has met one of `end_ids`.": (
            "test_decode__one_token_of_one_sequence",
            "test_decode__ends",
            "test_decode__several_end_tokens",
        ),
        "`decoder(ids)` gives next-token logits: it is called with the prompts first, then with the newest tokens [batch 1] "
        "alone, and no more once every sequence has ended.": (
            "test_decode__every_token_is_fed_back",
            "test_decode__stops_when_all_have_ended",
        ),
        "`sampling` are the keyword arguments of sample_tokens.": "test_decode__sampling_options",
        "The end token itself is real: mask 1, its own log-probabilities.": (
            "test_decode__ends",
            "test_decode__end_and_padding_coincide",
        ),
        "After it, tokens are `pad_id`, and mask and log-probabilities 0.": (
            "test_decode__ends",
            "test_decode__the_padding_token_may_be_drawn",
        ),
        "End tokens within the prompts end nothing.": "test_decode__end_tokens_within_the_prompt",
        "No graph is kept.": "test_decode__no_graph",
    },
    "reward_fn_char_count": {
        "How often the character `char` occurs in each sample, as a float: one reward a sample, in their order.": (
            "test_reward_fn_char_count__full_stops",
            "test_reward_fn_char_count__another_character",
            "test_reward_fn_char_count__one_sample",
        ),
    },
    "normalize_reward": {
        NORMALISED: (
            "test_normalize_reward__values",
            "test_normalize_reward__eps_is_added",
            "test_normalize_reward__double_precision",
        ),
        WITHOUT_SPREAD: ("test_normalize_reward__equal_rewards", "test_rewards_without_spread__equal_rewards"),
    },
    "rewards_without_spread": {
        NORMALISED: "test_rewards_without_spread__a_little_spread",
        WITHOUT_SPREAD: ("test_rewards_without_spread__one_reward", "test_rewards_without_spread__equal_rewards"),
    },
    "rollout": {
        "One completion of at most `gen_len` tokens for every prompt, sampled from the policy.": (
            "test_rollout__the_adapted_policy",
            "test_rollout__temperature_and_top_k",
            "test_rollout__the_text_that_a_completion_adds",
        ),
        "model: a policy of rlhf_lib.models, or a TransformerBridge.": (
            "test_rollout__the_adapted_policy",
            "test_rollout__a_bare_bridge",
        ),
        "prompts: any number, of any lengths; they are padded on the left.": (
            "test_rollout__the_adapted_policy",
            "test_rollout__a_bare_bridge",
        ),
        "temperature: 0 is greedy.": "test_rollout__the_adapted_policy",
        "stop_at_eos: end a completion at the tokenizer's end-of-sequence token; otherwise all have gen_len tokens.": (
            "test_rollout__ends",
            "test_rollout__without_ends",
            "test_rollout__defaults",
        ),
        "generator: source of randomness; None takes torch's global one.": (
            "test_rollout__generator",
            "that None means torch's own generator cannot be seen: its state is set anew before every call",
        ),
        "InputError: no prompts, a prompt too long for the context, or stop_at_eos with a model that has no such token.": (
            "test_rollout__what_is_refused"
        ),
    },
    "get_samples": {
        "`batch_size` continuations of a prompt: whole token sequences, and whole texts with the prompt included.": (
            "test_get_samples__ids_and_texts",
            "test_get_samples__temperature_and_top_k",
            "test_get_samples__defaults",
        ),
        "`model` is a policy, which is sampled with its adapters, or a bare TransformerBridge.": (
            "test_get_samples__the_adapted_policy",
            "test_get_samples__a_bare_bridge",
        ),
        "Exactly `gen_len` tokens each, whatever end-of-sequence says, unless `stop_at_eos`.": (
            "test_get_samples__past_the_end",
            "test_get_samples__keyword_arguments",
        ),
        "The beginning-of-sequence token goes first if `prepend_bos`.": "test_get_samples__ids_and_texts",
        "Of a list, each prompt gets `batch_size` in a row; shorter ones are padded on the left.": (
            "test_get_samples__several_prompts"
        ),
        "`verbose` prints the texts.": "what is printed is no part of the result, and not looked at",
    },
}
