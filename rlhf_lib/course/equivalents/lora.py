"""Right mutants of chapters/3_lora.md."""

from rlhf_lib.course.equivalents import Reason, equivalent

EQUIVALENT: dict[str, tuple[Reason, ...]] = {
    "lora_init": (
        equivalent(
            "a rank must fit the smaller side, whichever it is; the error's message alone names them in another order",
            ("(rank, d_in, d_out)", "(rank, d_out, d_in)"),
        ),
    ),
    "merged": (
        equivalent(
            "copied back under no_grad, so that it makes no difference whether the copies have a graph",
            (".detach().clone()", ".clone()"),
        ),
        equivalent(
            "there are as many copies as maps",
            (", strict=True", ""),
            ("strict=True", "strict=False"),
        ),
        equivalent(
            "add_ converts: in bfloat16 the sum is rounded once rather than twice",
            ("(delta if m.is_transposed else delta.T).to(m.weight.dtype)", "delta if m.is_transposed else delta.T"),
        ),
    ),
    "peft_tensors": (
        equivalent("the tensors are for a file, and nothing asks that they have no graph", ("@torch.no_grad() def", "def")),
        equivalent("on a CPU they are there already", ("A.T.cpu()", "A.T"), ("B.T.cpu()", "B.T")),
    ),
}
