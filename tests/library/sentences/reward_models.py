"""The stubs of exercises/reward_models.py: sentence, and its check, its checks, or the reason that there is none."""

SENTENCES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "calc_preference_loss": {
        "Bradley-Terry loss: mean of -log sigmoid(chosen - rejected - margin) + centring_coef (chosen + rejected)^2, in "
        "nats.": (
            "test_calc_preference_loss__values_and_gradients",
            "test_calc_preference_loss__margin_and_centring",
        ),
        "chosen, rejected: scores of the better and the worse text of each pair.": (
            "test_calc_preference_loss__values_and_gradients"
        ),
        "margin: how much better the chosen one is to be, one number or one a pair (Touvron et al. 2023, eq. 2).": (
            "test_calc_preference_loss__margin"
        ),
        "centring_coef: weight of the squared sum, which fixes the scores' zero: differences alone leave it open (Eisenstein "
        "et al. 2023, section 2).": "test_calc_preference_loss__centring",
        "Finite, with a finite gradient, however far apart the scores are.": "test_calc_preference_loss__scores_far_apart",
    },
    "other_losses": {
        "Mean squared difference of scores and target rewards, which are data: no gradient reaches them.": (
            "test_other_losses__regression"
        ),
        "Mean cross-entropy, in nats, of sigmoid(scores) as the chance that a solution is right.": (
            "test_other_losses__verifier",
            "test_other_losses__verifier_of_one_kind",
        ),
        "Computed from the scores themselves (log sigmoid), so that a confident score gives no infinity.": (
            "test_other_losses__a_confident_verifier"
        ),
    },
    "pool_last_real_token": {
        "Each row's value at its last real token, where a causal model has read the whole text for the first time.": (
            "test_pool_last_real_token__padding_on_the_right",
            "test_pool_last_real_token__no_padding",
        ),
        "`attention_mask` is 1 on real tokens and 0 on padding, which may stand on either side or on both.": (
            "test_pool_last_real_token__padding_on_the_left",
            "test_pool_last_real_token__padding_on_both_sides",
        ),
        "Token ids are not looked at, since padding and end of sequence share an id in many tokenizers.": (
            "the function is not given any token ids"
        ),
        "InputError: a row without a real token.": "test_pool_last_real_token__a_row_without_tokens",
    },
    "reward_model_forward": {
        "One score a row, in float32; padding is on the right and masked.": (
            "test_reward_model_forward__float32",
            "test_reward_model_forward__a_causal_model",
            "test_reward_model_forward__padding_with_the_end_token",
        ),
        "A causal model's `score` head turns the trunk's last hidden state at every position into a number, of which the one "
        "at the last real token counts; an encoder's classifier gives the number itself.": (
            "test_reward_model_forward__a_causal_model",
            "test_reward_model_forward__another_trunk",
            "test_reward_model_forward__an_encoder",
            "test_reward_model_forward__gradients",
        ),
    },
    "make_comparisons": {
        "Pairs (index of a right completion, index of a wrong one) of the same prompt, at most `most` a prompt.": (
            "test_make_comparisons__equal_numbers",
            "test_make_comparisons__at_most",
        ),
        "Completions of one prompt are consecutive, `group_size` of them.": "test_make_comparisons__equal_numbers",
        "Right ones are paired with wrong ones in turn: the i-th pair has the i-th right one and the i-th wrong one, each list "
        "beginning anew when it ends, until every completion of the longer list was used once.": (
            "test_make_comparisons__one_kind_is_rarer"
        ),
        "A prompt whose completions are all right or all wrong gives none.": "test_make_comparisons__nothing_to_compare",
        "InputError: the completions are not whole groups of at least 2.": ("test_make_comparisons__groups_that_are_not_whole"),
    },
    "calibration": {
        "Share of pairs whose chosen text has the higher score; a tie counts half, so that one half is guessing.": (
            "test_calibration__pairwise_accuracy",
            "test_calibration__ties",
        ),
        "(mean predicted probability, share that came true, count) of every bin of equal width that is not empty.": (
            "test_calibration__bins"
        ),
        "The lowest bin comes first.": "test_calibration__bins",
        "Each includes its lower edge, and the last one 1 as well.": (
            "test_calibration__edges",
            "test_calibration__zero_and_one",
        ),
        "Mean of |predicted - came true| over `calibration_bins`, weighted by their counts (Guo et al. 2017, eq. 3); 0 is "
        "best.": ("test_calibration__expected_error", "test_calibration__opposite_errors"),
    },
    "best_of_n_value": {
        "Expected gold reward of the best of n by proxy reward, from any number of samples; unbiased.": (
            "test_best_of_n_value__all_picks",
            "test_best_of_n_value__one_and_all",
            "test_best_of_n_value__many_samples",
        ),
        "Averages over all ways to pick n of the samples.": "test_best_of_n_value__all_picks",
        "Sorted by proxy, the i-th smallest (from 1) is the best of C(i - 1, n - 1) of the C(samples, n) picks (Nakano et al. "
        "2021, appendix I).": "test_best_of_n_value__all_picks",
        "Of samples with equal proxy the later one counts as the better.": "test_best_of_n_value__equal_proxies",
        "InputError: n is not between 1 and the number of samples.": "test_best_of_n_value__n_out_of_range",
    },
    "best_of_n_kl": {
        "KL(best-of-n policy || sampling policy) in nats, log n - (n - 1) / n (Stiennon et al. 2020, appendix G.3).": (
            "test_best_of_n_kl__values",
            "test_best_of_n_kl__best_of_one",
        ),
        "Exact where no two completions score the same; otherwise an upper bound (Beirami et al. 2024).": (
            "says what the formula means for texts that are sampled twice; the function is only given n"
        ),
    },
}
