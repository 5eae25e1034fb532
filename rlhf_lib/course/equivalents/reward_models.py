"""Right mutants of chapters/5_reward_models.md."""

from rlhf_lib.course.equivalents import Reason, equivalent

THE_CPU = "the device of everything here is the CPU"
A_MESSAGE = "the class of the error is promised, not which row its message names"
A_SYMMETRY = "of two numbers the smaller, or the larger, is the same in either order"

EQUIVALENT: dict[str, tuple[Reason, ...]] = {
    "other_losses": (
        equivalent(
            "a difference and its negative have the same square",
            ("(scores - targets.detach()).square()", "(targets.detach() - scores).square()"),
        ),
    ),
    "pool_last_real_token": (
        equivalent(
            "a mask of 1 and 0 counts and multiplies like one of true and false", ("attention_mask.bool()", "attention_mask")
        ),
        equivalent(THE_CPU, ("(values.shape[1], device=values.device)", "(values.shape[1])")),
        equivalent(
            A_MESSAGE,
            ("int((~real.any(dim=1)).nonzero()[0])", "(~real.any(dim=1)).nonzero()[0]"),
            ("int((~real.any(dim=1)).nonzero()[0])", "int((~real.any(dim=1))[0])"),
            (".nonzero()[0]", ".nonzero()[-1]"),
            ("row = int((~real.any(dim=1))", "row = int((~real.all(dim=1))"),
        ),
    ),
    "reward_model_forward": (
        equivalent(
            "padding is on the right, where no token of a causal model can see it",
            ("base_model(input_ids=ids, attention_mask=attention_mask)", "base_model(input_ids=ids)"),
        ),
    ),
    "make_comparisons": (
        equivalent(
            A_SYMMETRY,
            ("min(most, max(len(right), len(wrong)))", "min(max(len(right), len(wrong)), most)"),
            ("max(len(right), len(wrong))", "max(len(wrong), len(right))"),
        ),
    ),
    "calibration": (
        equivalent(
            "true and false are added to numbers as 1 and 0",
            ("(chosen > rejected).float()", "(chosen > rejected)"),
            ("(chosen == rejected).float()", "(chosen == rejected)"),
        ),
        equivalent("a distance is the same in both directions", ("abs(predicted - true)", "abs(true - predicted)")),
    ),
    "best_of_n_value": (equivalent(THE_CPU, (", device=gold.device", "")),),
}
