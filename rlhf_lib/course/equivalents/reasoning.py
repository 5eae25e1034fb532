"""Right mutants of chapters/6_reasoning.md."""

from rlhf_lib.course.equivalents import Reason, equivalent

FROM_THE_LEFT = "without a limit split and rsplit give the same pieces"

EQUIVALENT: dict[str, tuple[Reason, ...]] = {
    "tagged_and_hashes": (
        equivalent(
            "nothing stands before the first character, so that no tag is found there",
            ("end >= 0", "end > 0"),
            ("end >= 0", "end >= 1"),
        ),
        equivalent("any number below 0 says that there is no tag", ("else -1", "else -2")),
        equivalent("the text sets no limit to the number of ####", ("rsplit('####', MOST_HASHES)", "rsplit('####')")),
        equivalent(
            "only the first piece is taken, however many there are",
            ("part.split('\\n', 1)", "part.split('\\n')"),
            ("part.split('\\n', 1)", "part.split('\\n', 2)"),
        ),
    ),
    "parse_number": (
        equivalent(
            "an exponent of 1 either way is within the limit, as 0 is",
            ("match['exponent'] or 0", "match['exponent'] or 1"),
            ("match['exponent'] or 0", "match['exponent'] or -1"),
        ),
    ),
    "answers_match": (
        equivalent(
            "of two answers each equals the other",
            ("same_answer(answer, read_reference(reference))", "same_answer(read_reference(reference), answer)"),
        ),
    ),
    "five_rewards": (
        equivalent(
            "there are as many references as completions",
            ("zip(completions, answer, strict=True)", "zip(completions, answer)"),
            ("strict=True", "strict=False"),
        ),
        equivalent(
            FROM_THE_LEFT,
            ("text.split('\\n</answer>\\n')", "text.rsplit('\\n</answer>\\n')"),
            ("text.split('\\n</answer>')", "text.rsplit('\\n</answer>')"),
        ),
    ),
    "hardened_format": (equivalent(FROM_THE_LEFT, ("text.split(", "text.rsplit(")),),
    "calc_sft_loss": (equivalent("gather reads the rows that ids has; the one more is not looked at", (":-1]", ":]")),),
    "compute_token_rewards": (
        equivalent(
            "a mask of another dtype changes the result's dtype alone, of which the text says nothing",
            (".to(logprobs.dtype)", ""),
        ),
    ),
    "votes": (
        equivalent("weights that are all alike give the same winner", ("[1.0]", "[2.0]")),
        equivalent(
            "there is one weight for every answer",
            ("zip(answers, weights, strict=True)", "zip(answers, weights)"),
            ("strict=True", "strict=False"),
        ),
        equivalent("every sequence has an index", ("list(answers).index", "answers.index")),
    ),
    "first_reaching": (equivalent("a function that ends without return gives None", ("return None", "None")),),
}
