"""The stubs of exercises/reasoning.py: sentence, and its check, its checks, or the reason that there is none."""

SENTENCES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "tagged_and_hashes": {
        "The text between the last </answer> and the last <answer> before it; None without such a pair.": (
            "test_tagged_and_hashes__the_last_closed_pair",
            "test_tagged_and_hashes__tags_left_open",
            "test_tagged_and_hashes__no_closed_pair",
        ),
        "The answer that #### marks (GSM8K's convention), on its own line or else on the next; None where #### marks none.": (
            "test_tagged_and_hashes__the_last_hashes",
            "test_tagged_and_hashes__no_hashes",
        ),
        "In Markdown #### begins a heading.": ("says what the next sentence is about"),
        "The last line that is none (is_heading) counts.": ("test_tagged_and_hashes__headings"),
        "Where all could be headings the last one is an answer, unless something that could be it (ANSWERING) follows.": (
            "test_tagged_and_hashes__headings",
            "test_tagged_and_hashes__nothing_but_headings",
        ),
    },
    "parse_number": {
        "The number that a text states: 18, $18.00, 1,000, 1 1/2, \\frac{1}{2}, 50%, 18 dollars, x = 18; "
        "None if it states none.": (
            "test_parse_number__whole_numbers_and_decimals",
            "test_parse_number__money_and_separators",
            "test_parse_number__fractions_and_exponents",
            "test_parse_number__words_around_it",
            "test_parse_number__no_number",
        ),
        "`bare` leaves the number alone, and NUMBER has to match all that is left: 2\\sqrt{3} is not 2.": (
            "test_parse_number__more_than_a_number"
        ),
        "Units are dropped: 50% is 50.": (
            "test_parse_number__money_and_separators",
            "test_parse_number__words_around_it",
        ),
        "None too for a text longer than LONGEST_ANSWER, an exponent beyond LARGEST_EXPONENT either way, "
        "and a fraction over 0; no text raises an error.": (
            "test_parse_number__too_long",
            "test_parse_number__fractions_and_exponents",
            "test_parse_number__no_number",
            "test_parse_number__hostile_texts",
        ),
    },
    "answers_match": {
        'The first of MARKS, in order, that holds something; "" where all that are there are empty, None '
        "where there is none.": (
            "test_answers_match__conventions_in_order",
            "test_answers_match__an_empty_answer_is_found",
        ),
        'The answer of a completion under one convention; "any" takes the first mark that holds one, and '
        "else the last number.": (
            "test_answers_match__a_convention_by_name",
            "test_answers_match__conventions_in_order",
        ),
        "A mark with nothing in it is an empty answer, and no number from elsewhere counts.": (
            "test_answers_match__an_empty_answer_is_found"
        ),
        "InputError: a convention that does not exist.": ("test_answers_match__a_convention_by_name"),
        "What two equal answers have in common: the number if there is one, else the text (as_text).": (
            "test_answers_match__keys",
            "test_answers_match__names_and_fractions",
        ),
        "None for a text that is empty or longer than LONGEST_ANSWER: it equals nothing, not even itself.": (
            "test_answers_match__keys",
            "test_answers_match__names_and_fractions",
        ),
        "Whether a full completion gives the answer of the reference, which may be a bare answer or a worked solution.": (
            "test_answers_match__right_and_wrong",
            "test_answers_match__texts",
            "test_answers_match__hostile_texts",
        ),
        '`convention` is about the completion: "any" looks for, in this order, the last closed <answer>, '
        '####, boxed, "the answer is", the last number, and takes a text without any of them as it stands; '
        "the reference itself always matches.": (
            "test_answers_match__conventions_of_the_completion",
            "test_answers_match__conventions_in_order",
            "test_answers_match__texts",
        ),
        'A reference that is an option\'s letter, such as "c" or "(C)", asks for a letter in all of these.': (
            "test_answers_match__letters"
        ),
    },
    "five_rewards": {
        "2 where the last closed <answer> holds the right answer, else 0.": (
            "test_five_rewards__correctness",
            "test_five_rewards__conversations",
        ),
        "A right answer without the tags earns nothing.": ("test_five_rewards__correctness"),
        "0.5 where the tagged answer is a whole number in digits alone, right or wrong, else 0.": (
            "test_five_rewards__integer",
            "test_five_rewards__conversations",
        ),
        "0.5 where the whole completion is the format, line by line, else 0; reasoning and answer have ONE line each.": (
            "test_five_rewards__strict_format",
            "test_five_rewards__conversations",
        ),
        "That is what the widespread pattern accepts, since its dot matches no line break: reasoning of "
        "several lines earns nothing.": ("test_five_rewards__strict_format"),
        "The line break after </answer> must be there, and nothing after it.": ("test_five_rewards__strict_format"),
        "See multiline_format_reward.": ("points to another function"),
        "0.5 where the completion begins with reasoning and answer in their tags, whatever the lines, else "
        "0; more may follow.": (
            "test_five_rewards__soft_format",
            "test_five_rewards__conversations",
        ),
        "The reward of `xml_count_reward` for one text: 0.125 a tag that stands exactly once, less 0.001 a "
        "trailing character.": (
            "test_five_rewards__tags_are_counted",
            "test_five_rewards__trailing_text_costs",
        ),
        'What must stand once: "<reasoning>\\n", "\\n</reasoning>\\n", "\\n<answer>\\n", "\\n</answer>".': (
            "test_five_rewards__tags_are_counted"
        ),
        'If the third does, what follows the last "\\n</answer>\\n" is trailing, the whole text where there '
        'is none; if the fourth does, what follows the last "\\n</answer>" is trailing too, less one character.': (
            "test_five_rewards__trailing_text_costs",
            "test_five_rewards__tags_are_counted",
        ),
    },
    "hardened_format": {
        "Whether `hardened_format_reward` pays for a text.": ("test_hardened_format__honest_completions"),
        "MULTILINE matches the whole of it, each of TAGS stands once, the reasoning has at least "
        "LEAST_REASONING characters without the space around it, and the tagged answer states one number "
        "(parse_number).": (
            "test_hardened_format__nothing_but_the_format",
            "test_hardened_format__every_line_of_the_format",
            "test_hardened_format__every_tag_once",
            "test_hardened_format__reasoning_of_some_length",
            "test_hardened_format__no_list_of_guesses",
            "test_hardened_format__a_short_answer_with_a_number",
        ),
    },
    "build_few_shot_prompt": {
        'Worked examples, then the question: "Question: ...\\nAnswer:\\n" each, an example\'s solution after '
        "it, and an empty line.": ("test_build_few_shot_prompt__everything_fits"),
        "question: what is to be answered; the prompt ends where its answer is to begin.": (
            "test_build_few_shot_prompt__everything_fits"
        ),
        "examples: pairs (question, solution), in the order in which they are to stand.": (
            "test_build_few_shot_prompt__everything_fits"
        ),
        "room: most tokens of the whole prompt. Examples are left out from the FRONT until it fits: those "
        "nearest to the question stay. The question itself stays whole even where it alone is too long.": (
            "test_build_few_shot_prompt__left_out_from_the_front",
            "test_build_few_shot_prompt__the_whole_prompt_is_counted",
            "test_build_few_shot_prompt__a_long_example_in_the_middle",
            "test_build_few_shot_prompt__a_question_too_long",
        ),
        "count_tokens: number of tokens of a text.": ("test_build_few_shot_prompt__the_whole_prompt_is_counted"),
    },
    "encode_example": {
        "(token ids, loss mask) of one example: beginning of sequence, prompt, solution, end of sequence.": (
            "test_encode_example__ids_and_mask"
        ),
        "Prompt and solution are tokenised apart, as they are when a completion is sampled, and without special tokens.": (
            "test_encode_example__apart",
            "test_encode_example__ids_and_mask",
        ),
        "The beginning-of-sequence token goes in front if `prepend_bos` and the tokenizer has one, unless "
        "the prompt begins with it already.": ("test_encode_example__the_beginning"),
        "`end_id` goes last, unless it is None.": ("test_encode_example__the_end"),
        "The mask is 1 on the solution and the end, which is learned too, or the model would never stop; it "
        "is 0 on all before.": ("test_encode_example__ids_and_mask"),
        "Both lists have one entry a token.": ("test_encode_example__ids_and_mask"),
        "InputError: a solution without tokens.": ("test_encode_example__an_empty_solution"),
    },
    "calc_sft_loss": {
        "Mean negative log-probability, in nats, of the tokens whose loss mask is 1, each given what stands before it.": (
            "test_calc_sft_loss__values_and_gradients",
            "test_calc_sft_loss__learned_tokens_anywhere",
            "test_calc_sft_loss__large_logits",
        ),
        "The logits, made float32 first, predict the next token each, so the first is never scored.": (
            "test_calc_sft_loss__bfloat16",
            "test_calc_sft_loss__the_first_token",
        ),
        "The mean is over tokens, not over sequences; without any the loss is 0.": (
            "test_calc_sft_loss__values_and_gradients",
            "test_calc_sft_loss__nothing_to_learn",
        ),
    },
    "compute_token_rewards": {
        "ReFT's reward of every token: -kl_coef (logprob - ref_logprob), and at the last real token the "
        "score on top of that.": (
            "test_compute_token_rewards__values",
            "test_compute_token_rewards__no_penalty",
            "test_compute_token_rewards__masks",
        ),
        "The difference of log-probabilities is the k1 estimate of KL(policy || reference) at one token "
        "(Trung et al. 2024, section 3.2; Stiennon et al. 2020).": ("says what the difference is called and where it is from"),
        "No gradient passes through rewards.": ("test_compute_token_rewards__are_data"),
        "Positions after the last real token get 0, whatever stands there, infinities included.": (
            "test_compute_token_rewards__masks",
            "test_compute_token_rewards__infinities_in_padding",
        ),
    },
    "reft_rollout": {
        "The KL is paid out of every token's reward, and `compute_gae` makes advantages of that.": (
            "test_reft_rollout__advantages_with_penalty"
        ),
        "Rewards are taken as they are, not whitened.": ("test_reft_rollout__advantages_without_penalty"),
        "`compute_token_rewards` makes one reward a token of them with args.kl_reward_coef and the "
        "log-probabilities in `scores`; args.gamma and args.gae_lambda are compute_gae's.": (
            "test_reft_rollout__advantages_with_penalty",
            "test_reft_rollout__advantages_without_penalty",
        ),
    },
    "pass_at_k": {
        "Chance that at least one of k completions is right, from `correct` right ones among `samples`; unbiased.": (
            "test_pass_at_k__is_unbiased"
        ),
        "1 - C(samples - correct, k) / C(samples, k): of all ways to pick k of the samples, those with a "
        "right one (Chen et al. 2021, eq. 1).": (
            "test_pass_at_k__all_picks",
            "test_pass_at_k__many_samples",
        ),
        "The plain guess 1 - (1 - correct / samples)^k is too low on average.": ("says why the formula is not a simpler one"),
        "InputError: k is not between 1 and samples, or correct not between 0 and samples.": ("test_pass_at_k__what_cannot_be"),
    },
    "votes": {
        "Index of the first completion that gives the most frequent answer; None if no completion has an answer.": (
            "test_votes__majority",
            "test_votes__without_an_answer",
        ),
        "`answers` are keys (rewards.answer_key), so that equal numbers are one answer; None is a "
        "completion without answer, which does not vote.": (
            "test_votes__zero_is_an_answer",
            "test_votes__without_an_answer",
        ),
        "Of equally frequent answers the one seen first wins.": ("test_votes__equally_frequent"),
        "Index of the first completion that gives the answer with the largest sum of weights; None if none has an answer.": (
            "test_votes__weights_are_summed",
            "test_votes__every_weight_counts",
            "test_votes__any_weights",
            "test_votes__without_an_answer",
        ),
        "With weights of 1 this is the majority; with a verifier's probabilities each completion votes as "
        "loudly as it is trusted (Li et al. 2023).": (
            "test_votes__majority",
            "test_votes__any_weights",
        ),
        "Ties go to the answer seen first.": ("test_votes__equally_frequent"),
    },
    "rerank": {
        "Index of the completion with the highest score, the first of equals (Cobbe et al. 2021, section 4).": (
            "test_rerank__highest",
            "test_rerank__equal_scores",
        ),
        "InputError: no scores.": ("test_rerank__nothing_to_choose_from"),
    },
    "first_reaching": {
        "Index of the first record from which a metric stays at or above a level for `window` records in a "
        "row; None if never.": (
            "test_first_reaching__a_level",
            "test_first_reaching__a_window",
            "test_first_reaching__not_in_a_row",
        ),
        "Records that lack the metric (or have None) are passed over: they neither count for the window nor end it.": (
            "test_first_reaching__missing_values",
            "test_first_reaching__zero_is_a_value",
        ),
        "With the window above 1 a lucky phase is not taken for a change.": ("test_first_reaching__a_window"),
    },
}
