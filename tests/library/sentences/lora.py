"""The stubs of exercises/lora.py: sentence, and its check, its checks, or the reason that there is none."""

SENTENCES: dict[str, dict[str, str | tuple[str, ...]]] = {
    "lora_init": {
        "Make the trained parameters A [d_in rank] and B [rank d_out], and keep `rank` and `alpha` as attributes.": (
            "test_lora_init__shapes",
            "test_lora_init__both_are_trained",
            "test_lora_init__keeps_rank_and_alpha",
        ),
        "A starts as the weight of torch's Linear(d_in, ...) does: Kaiming-uniform with a = sqrt(5) and fan-in d_in, which is "
        "uniform between -1/sqrt(d_in) and 1/sqrt(d_in).": (
            "test_lora_init__spread_of_A",
            "test_lora_init__every_number_on_its_own",
        ),
        "B starts at zero, so that a new adapter adds nothing.": "test_lora_init__starts_as_nothing",
        "InputError: rank below 1 or above the smaller side of the map (`require_rank` does it).": (
            "test_lora_init__a_rank_that_does_not_fit"
        ),
    },
    "lora_forward": {
        "What the low-rank product is multiplied by: alpha / rank.": "test_lora_forward__scale",
        "The adapter's contribution, scale * (x A) B; without x itself and without the map's own output.": (
            "test_lora_forward__a_square_map",
            "test_lora_forward__other_shapes",
        ),
        "It is computed in the adapter's dtype (float32), whatever x's is, and returned in x's dtype.": (
            "test_lora_forward__other_dtypes"
        ),
    },
    "lora_delta": {
        "The matrix that merging adds to the map, for outputs computed as x @ weight; forward(x) equals x @ delta().": (
            "test_lora_delta__a_square_map",
            "test_lora_delta__other_shapes",
        ),
    },
    "forward_with_hooks": {
        "Logits, in float32, of one pass of a TransformerBridge with hooks that last no longer than the pass, even if it "
        "fails.": (
            "test_forward_with_hooks__float32",
            "test_forward_with_hooks__nothing_remains",
            "test_forward_with_hooks__nothing_remains_of_a_pass_that_failed",
        ),
        "bridge: called as bridge(ids, attention_mask=..., logits_to_keep=...); hooks that it has already stay as they are.": (
            "test_forward_with_hooks__padding",
            "test_forward_with_hooks__other_hooks_stay",
        ),
        "fwd_hooks: pairs (hook name, function(activation, hook)).": "test_forward_with_hooks__hooks_act",
        "ids: token ids, padded on the left.": "test_forward_with_hooks__padding",
        "attention_mask: 1 on tokens and 0 on padding; None where there is no padding.": (
            "test_forward_with_hooks__padding",
            "test_forward_with_hooks__hooks_act",
        ),
        "logits_to_keep: compute the logits of the last so many positions only; None: of all.": (
            "test_forward_with_hooks__logits_to_keep",
            "test_forward_with_hooks__hooks_act",
        ),
    },
    "adapter_hooks": {
        "The two hooks of one adapter as pairs (hook name, function): remember the map's input, add to the map's output.": (
            "test_adapter_hooks__names",
            "test_adapter_hooks__maps_that_are_not_square",
        ),
        'The names are `adapted.bridge_name` + ".hook_in" and ".hook_out".': "test_adapter_hooks__names",
        "A function is called as function(activation, hook=...) in every forward pass; what it returns replaces the "
        "activation, unless that is None.": "test_adapter_hooks__each_pass_on_its_own",
        "Activations are [batch seq width], or split into heads [batch seq heads d_head], and keep their shape and dtype; the "
        "adapter sees and returns [batch seq width].": (
            "test_adapter_hooks__output_split_into_heads",
            "test_adapter_hooks__input_split_into_heads",
            "test_adapter_hooks__bfloat16",
        ),
        "Nothing of a pass is kept after it.": "test_adapter_hooks__nothing_is_kept",
    },
    "lora_fwd_hooks": {
        "Pairs (hook name, function) that add every adapter's contribution to a forward pass: two for each of `maps`.": (
            "test_lora_fwd_hooks__names",
            "test_lora_fwd_hooks__logits",
        ),
        "The adapter of a map `m` is `self.adapters[m.key]`; `adapter_hooks` makes the pairs of one.": (
            "test_lora_fwd_hooks__logits"
        ),
    },
    "merged": {
        "Inside, the base weights include the adapters; afterwards they are as before, bit for bit, whatever happened.": (
            "test_merged__all_maps",
            "test_merged__bfloat16",
            "test_merged__an_error_inside",
            "test_merged__an_error_while_merging",
        ),
        "Adds `delta()` of every map's adapter to `m.weight`, in place and without a graph: as it is where `m.is_transposed` "
        "(GPT-2's Conv1D stores [d_in d_out]), otherwise transposed.": (
            "test_merged__square_maps_of_both_kinds",
            "test_merged__in_place",
            "test_merged__frozen_weights",
            "test_merged__trained_weights",
        ),
        "`is_merged` is True inside and False outside.": ("test_merged__square_maps_of_both_kinds", "test_merged__twice"),
        "The adapters stay as they are.": "test_merged__adapters_stay",
        "Inside, gradients are computed as ever.": "test_merged__frozen_weights",
        "RuntimeError: the adapters are merged already.": "test_merged__twice",
    },
    "lora_model": {
        "Load the base model, freeze all of its parameters, and make `self.lora`, the LoraHooks of its adapters.": (
            "test_lora_model__reference_and_policy",
            "test_lora_model__what_is_trained",
            "test_lora_model__gradients",
        ),
        'base_model: "pocket", a Hugging Face name, or a local directory.': "test_lora_model__rank_and_alpha",
        "lora_alpha, rank: of every adapter; its output is scaled by lora_alpha / rank.": "test_lora_model__rank_and_alpha",
        "maps: which linear maps get one, of args.LORA_MAPS.": "test_lora_model__maps",
        "device: auto, cpu, cuda, cuda:N or mps.": "test_lora_model__device",
        "dtype: float32 or bfloat16, of the base model; adapters are float32.": "test_lora_model__bfloat16",
        "The hooks that turn the base model into the policy: those of the class above, and the adapters'.": (
            "test_lora_model__reference_and_policy",
            "of the library's classes none that stands above this one has hooks, so that the adapters' can be seen only",
        ),
        "What is trained apart from the value head: the adapters' parameters.": "test_lora_model__the_trained_parameters",
    },
    "value_head_lora": {
        "The same as TransformerWithLora's, then `self.value_head`: made by `add_value_head`, or None if left out.": (
            "test_value_head_lora__rank_and_alpha",
            "test_value_head_lora__maps",
            "test_value_head_lora__device",
            "test_value_head_lora__bfloat16",
            "test_value_head_lora__what_is_trained",
            "test_value_head_lora__the_head",
            "test_value_head_lora__left_out",
        ),
    },
    "lora_parameter_count": {
        "Trained numbers of the adapters on linear maps of these shapes (d_in, d_out): the sum of rank x (d_in + d_out).": (
            "test_lora_parameter_count__counts",
            "test_lora_parameter_count__no_maps",
        ),
        "A has d_in x rank numbers and B has rank x d_out (Hu et al. 2021, section 4.2).": "test_lora_parameter_count__counts",
    },
    "training_bytes": {
        "Bytes held from step to step: weights, gradients, AdamW's two moments, and the reference policy's weights.": (
            "test_training_bytes__full_fine_tuning",
            "test_training_bytes__lora",
        ),
        "What is trained is held four times, as weight, gradient and two moments, all of the weight's format.": (
            "test_training_bytes__full_fine_tuning",
            "test_training_bytes__lora",
        ),
        "Adapters are float32: 4 bytes a number.": "test_training_bytes__lora",
        "The base model's numbers take `bytes_per_number` bytes (4 in float32, 2 in bfloat16).": (
            "test_training_bytes__full_fine_tuning",
            "test_training_bytes__lora",
            "test_training_bytes__no_adapters",
        ),
        "- Full fine-tuning (`adapter_parameters` None): everything is trained, and the reference is a frozen copy of the "
        "weights. - LoRA: the adapters are trained; the base model is only kept, and is the reference policy as it stands.": (
            "test_training_bytes__full_fine_tuning",
            "test_training_bytes__lora",
            "test_training_bytes__no_adapters",
        ),
    },
    "peft_tensors": {
        "All adapters by PEFT's names, as PEFT stores them: contiguous, on the CPU, without the scale.": (
            "test_peft_tensors__all_maps",
            "test_peft_tensors__square_maps",
            "that they are on the CPU cannot be seen where all is on it",
        ),
        "The map at Hugging Face path P (`names.path(m)`) has two tensors: base_model.model.P.lora_A.weight = A^T [rank d_in] "
        "and base_model.model.P.lora_B.weight = B^T [d_out rank].": (
            "test_peft_tensors__square_maps",
            "test_peft_tensors__all_maps",
        ),
        "Where `names.is_fused(m)`, A and B are those of the fused map that m is part of, which `fuse(hooks.adapters, m, "
        "names)` gives.": "test_peft_tensors__fused_maps",
        "The scale alpha / rank stands in PEFT's configuration instead.": "test_peft_tensors__all_maps",
    },
}
