"""Right mutants of chapters/1_rollouts.md."""

from rlhf_lib.course.equivalents import Reason, equivalent

LAST_AXIS = "the last axis is what torch takes by default"
ONE_DEVICE = "without an accelerator everything is on one device"
LOGPROBS = (
    equivalent("take reads the rows that tokens has; the one more is not looked at", (":-1]", ":]")),
    equivalent("its text asks for no float32; sample_tokens, whose text does, is checked for it", ("-1].float()", "-1]")),
)

EQUIVALENT: dict[str, tuple[Reason, ...]] = {
    "get_logprobs": LOGPROBS,
    "logprobs_at_a_temperature": LOGPROBS,
    "keep_top_k": (
        equivalent("where top_k is vocab, everything is kept either way", ("top_k >=", "top_k >")),
        equivalent(LAST_AXIS, ("topk(top_k, dim=-1)", "topk(top_k)")),
    ),
    "keep_top_p": (
        equivalent(LAST_AXIS, ("sort(dim=-1, ", "sort(")),
        equivalent("scatter fills every place", ("zeros_like", "ones_like")),
    ),
    "sample_tokens": (
        equivalent(
            "with neither given, truncate_logits gives back the logits, and their log_softmax is the policy's",
            (".log_softmax(dim=-1) if top_k or top_p else logprobs", ".log_softmax(dim=-1)"),
        ),
    ),
    "cached_decoding": (
        equivalent(
            "logits_to_keep only saves work: the last position is read, however many come back",
            (", logits_to_keep=1", ""),
            ("logits_to_keep=1", "logits_to_keep=2"),
            ("logits_to_keep=1", "logits_to_keep=0"),
        ),
        equivalent("with logits_to_keep=1 one position comes back, the first and the last", ("[:, -1]", "[:, -0]")),
    ),
    "decode": (
        equivalent(
            ONE_DEVICE,
            ("gen_len, device=ids.device)", "gen_len)"),
            ("end_ids, device=ids.device, ", "end_ids, "),
            ("bool, device=ids.device)", "bool)"),
        ),
        equivalent(
            "isin compares whole numbers of any size, and none with an empty tensor", ("device, dtype=ids.dtype", "device")
        ),
        equivalent("a truth value becomes 1 or 0 where it is written into a tensor of floats", ("running.float()", "running")),
    ),
    "rollout": (
        equivalent(
            "where the model is the bridge, the bridge's tokenizer is the model's",
            ("bridge.tokenizer if model is bridge else model.tokenizer", "model.tokenizer"),
        ),
        equivalent(
            "the sum is the same, and the text promises the error, not its words",
            ("(ids.shape[1], gen_len, ", "(gen_len, ids.shape[1], "),
        ),
        equivalent(
            ONE_DEVICE,
            ("ids, attention_mask = (ids.to(device), attention_mask.to(device))", "pass"),
            ("(ids.to(device), ", "(ids, "),
            (", attention_mask.to(device))", ", attention_mask)"),
        ),
    ),
    "get_samples": (
        equivalent(
            "there are as many completions as prompts",
            (", strict=True", ""),
            ("strict=True", "strict=False"),
        ),
        equivalent(
            "what is printed is no part of the result, and not looked at",
            ("if verbose", "if False"),
            ("if verbose", "if True"),
            ("print(*texts, sep='\\n---\\n')", "pass"),
            (", sep='\\n---\\n'", ""),
            ("---\\n'", "---\\nx'"),
        ),
    ),
}
