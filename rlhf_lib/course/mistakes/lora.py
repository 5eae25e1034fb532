"""Named mistakes of chapter 3."""

from rlhf_lib.course.bank import Mistake, mistake

MAKE_A = "self.A = nn.Parameter(torch.empty(d_in, rank))"
MAKE_B = "self.B = nn.Parameter(torch.zeros(rank, d_out))"
FILL_A = "nn.init.kaiming_uniform_(self.A.T, a=math.sqrt(5))"
FORWARD = "(self.scale * (x.to(self.A.dtype) @ self.A @ self.B)).to(x.dtype)"
OUTPUT = "return self.alpha / self.rank"
PASS = """\
    with bridge.hooks(fwd_hooks=fwd_hooks):
        return bridge(ids, attention_mask=attention_mask, **options).float()"""
PLAIN_PASS = "bridge(ids, attention_mask=attention_mask, **options).float()"
ADD_ALL = "    for name, function in fwd_hooks:\n        bridge.add_hook(name, function)\n"
ADD = 'return out + adapter(seen.pop("x").flatten(2)).view_as(out)'
FLAT_LIST = "[hook for m in self.maps for hook in adapter_hooks(m, self.adapters[m.key])]"
ADD_DELTA = "m.weight.add_((delta if m.is_transposed else delta.T).to(m.weight.dtype))"
MAKE_HOOKS = "self.lora = LoraHooks(self.base_model, rank, lora_alpha, maps)"
ALL_HOOKS = "return [*super().fwd_hooks, *self.lora_fwd_hooks]"
BUILD = "super().__init__(base_model, lora_alpha, rank, maps=maps, device=device, dtype=dtype)"
EACH_MAP = "return sum(rank * (d_in + d_out) for d_in, d_out in shapes)"
ALL_TRAINED = "base_parameters * bytes_per_number * (4 + 1)"
LORA_TRAINED = "base_parameters * bytes_per_number + adapter_parameters * 4 * 4"

MERGE = """\
        try:
            self.is_merged = True
            with torch.no_grad():
                for m in self.maps:
                    delta = self.adapters[m.key].delta()
                    m.weight.add_((delta if m.is_transposed else delta.T).to(m.weight.dtype))
"""
MERGE_FIRST = MERGE.replace("        try:\n", "").replace("\n    ", "\n").removeprefix("    ") + "        try:\n"
DEFAULTS = "rank: int = 4, alpha: float = 32.0"
HEAD_OPTIONS = "        use_value_head: bool = True,\n"

BANK: dict[str, list[Mistake]] = {
    "lora_init": [
        mistake("A starts as ones: all columns learn the same", (MAKE_A, MAKE_A.replace("empty", "ones")), (FILL_A, "pass")),
        mistake(
            "A starts at zero like B: neither ever receives a gradient",
            (MAKE_A, MAKE_A.replace("empty", "zeros")),
            (FILL_A, "pass"),
        ),
        mistake("B starts at random, so that a new adapter changes the model", (MAKE_B, MAKE_B.replace("zeros", "randn"))),
        mistake(
            "the roles are swapped: A starts at zero and B at random",
            (FILL_A, "nn.init.zeros_(self.A)\n        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))"),
        ),
        mistake(
            "kaiming_uniform_ reads the fan-in off A's last axis, which is the rank: it wants the transpose",
            (FILL_A, FILL_A.replace("self.A.T", "self.A")),
        ),
        mistake(
            "A is filled as a tensor of three axes (heads apart), of which kaiming_uniform_ takes the wrong fan-in",
            (FILL_A, FILL_A.replace("self.A.T", "self.A.view(-1, 2, rank)")),
        ),
        mistake(
            "kaiming_uniform_ is left at its default a=0, which is for ReLU layers: numbers are sqrt(6) too large",
            (FILL_A, FILL_A.replace(", a=math.sqrt(5)", "")),
        ),
        mistake("A is normal, not uniform", (FILL_A, FILL_A.replace("uniform_", "normal_"))),
        mistake("A has standard deviation 1 whatever d_in", (FILL_A, "nn.init.normal_(self.A)")),
        mistake(
            "the rank is ignored: always 4",
            (MAKE_A, MAKE_A.replace("rank", "4")),
            (MAKE_B, MAKE_B.replace("rank", "4")),
        ),
        mistake(
            "alpha and rank are kept under each other's names",
            ("self.rank, self.alpha = rank, alpha", "self.rank, self.alpha = alpha, rank"),
        ),
        mistake(
            "A and B are buffers, which no optimiser trains",
            (MAKE_A, 'self.register_buffer("A", torch.empty(d_in, rank))'),
            (MAKE_B, 'self.register_buffer("B", torch.zeros(rank, d_out))'),
        ),
        mistake(
            "A and B are bare tensors, which parameters() does not list",
            (MAKE_A, "self.A = torch.empty(d_in, rank, requires_grad=True)"),
            (MAKE_B, "self.B = torch.zeros(rank, d_out, requires_grad=True)"),
        ),
        mistake("A is frozen: only B is trained", (MAKE_A, MAKE_A.replace("rank)", "rank), requires_grad=False"))),
        mistake(
            "A and B are stored as PEFT stores them, [rank d_in] and [d_out rank]",
            (MAKE_A, MAKE_A.replace("d_in, rank", "rank, d_in")),
            (MAKE_B, MAKE_B.replace("rank, d_out", "d_out, rank")),
        ),
        mistake("a rank that does not fit is accepted", ("require_rank(rank, d_in, d_out)", "pass")),
        mistake(
            "a rank is held against the larger side of the map, not the smaller one",
            ("require_rank(rank, d_in, d_out)", "require_rank(rank, max(d_in, d_out), max(d_in, d_out))"),
        ),
        mistake(
            "a rank that does not fit is refused by an assertion, not an InputError",
            ("require_rank(rank, d_in, d_out)", "assert 1 <= rank <= min(d_in, d_out)"),
        ),
        mistake("rank and alpha, left out, are others than 4 and 32", (DEFAULTS, "rank: int = 8, alpha: float = 16.0")),
        mistake("the bound is 1/d_in: its square root is forgotten", (FILL_A, "nn.init.uniform_(self.A, -1 / d_in, 1 / d_in)")),
        mistake("A has no negative numbers", (FILL_A, "nn.init.uniform_(self.A, 0, d_in**-0.5)")),
        mistake(
            "all columns of A are the same, so that the adapter has rank one for ever",
            (
                FILL_A,
                "nn.init.uniform_(self.A, -(d_in**-0.5), d_in**-0.5)\n        self.A.data[:] = self.A.data[:, :1].clone()",
            ),
        ),
        mistake(
            "the constructor sets the random seed, so that all adapters of a shape start alike",
            (FILL_A, "torch.manual_seed(0)\n        " + FILL_A),
        ),
    ],
    "lora_forward": [
        mistake("it returns zeros", (FORWARD, "x.new_zeros(*x.shape[:-1], self.B.shape[1])")),
        mistake("the sign is flipped", (FORWARD, FORWARD.replace("self.scale", "-self.scale"))),
        mistake("the scale is alpha / rank squared", (OUTPUT, OUTPUT + "**2")),
        mistake("the scale is alpha / sqrt(rank), which is another method (rsLoRA)", (OUTPUT, OUTPUT + "**0.5")),
        mistake("alpha is ignored: the scale is 1 / rank", (OUTPUT, "return 1 / self.rank")),
        mistake("the rank is ignored: the scale is alpha", (OUTPUT, "return float(self.alpha)")),
        mistake("the scale is upside down: rank / alpha", (OUTPUT, "return self.rank / self.alpha")),
        mistake("the scale is rounded down to a whole number", (OUTPUT, "return self.alpha // self.rank")),
        mistake("forward leaves the scale out", (FORWARD, FORWARD.replace("self.scale * ", ""))),
        mistake("the scale is applied twice", (FORWARD, FORWARD.replace("self.scale", "self.scale**2"))),
        mistake("the adapter is detached, so that it never learns", (FORWARD, FORWARD + ".detach()")),
        mistake(
            "x is detached, so that layers before the adapter learn nothing through it",
            (FORWARD, FORWARD.replace("x.to(self.A.dtype)", "x.detach().to(self.A.dtype)")),
        ),
        mistake("A is detached: only B learns", (FORWARD, FORWARD.replace("@ self.A @", "@ self.A.detach() @"))),
        mistake("x is added, as if this were the whole layer", (FORWARD, FORWARD + " + x")),
        mistake(
            "there is a ReLU between A and B",
            (FORWARD, FORWARD.replace("@ self.A @", "@ self.A).relu() @").replace("(x.to", "((x.to")),
        ),
        mistake("the output is float32 whatever the input is", (FORWARD, FORWARD.removesuffix(".to(x.dtype)"))),
        mistake(
            "A and B are cast down to x's dtype, so that all of it is computed in bfloat16",
            (FORWARD, "self.scale * (x @ self.A.to(x.dtype) @ self.B.to(x.dtype))"),
        ),
        mistake(
            "the product is rounded to x's dtype before it is scaled, and then once more",
            (FORWARD, "self.scale * (x.to(self.A.dtype) @ self.A @ self.B).to(x.dtype)"),
        ),
        mistake(
            "x A is rounded to x's dtype on the way",
            (FORWARD, FORWARD.replace("@ self.A @", "@ self.A).to(x.dtype).to(self.A.dtype) @").replace("(x.to", "((x.to")),
        ),
        mistake("B is detached: only A learns", (FORWARD, FORWARD.replace("@ self.B)", "@ self.B.detach())"))),
        mistake("the result is computed and not returned", ("return " + FORWARD, FORWARD)),
    ],
    "lora_delta": [
        mistake("the scale is left out", ("self.scale * (self.A @ self.B)", "self.A @ self.B")),
        mistake("it is transposed: [d_out d_in]", ("(self.A @ self.B)", "(self.A @ self.B).T")),
        mistake("the scale is applied twice", ("self.scale *", "self.scale**2 *")),
        mistake("alpha is not divided by the rank", ("self.scale *", "self.alpha *")),
        mistake("alpha is left out: the product is divided by the rank alone", ("self.scale *", "1 / self.rank *")),
        mistake("the sign is flipped", ("return self.scale", "return -self.scale")),
    ],
    "forward_with_hooks": [
        mistake(
            "hooks are added for good, one more copy with every call",
            (PASS, f"{ADD_ALL}    return {PLAIN_PASS}"),
        ),
        mistake(
            "all hooks are reset after the pass, other people's included, and none if the pass fails",
            (PASS, f"{ADD_ALL}    logits = {PLAIN_PASS}\n    bridge.reset_hooks()\n    return logits"),
        ),
        mistake(
            "all hooks of the bridge are reset in the end, other people's included",
            (PASS, f"{ADD_ALL}    try:\n        return {PLAIN_PASS}\n    finally:\n        bridge.reset_hooks()"),
        ),
        mistake(
            "the pass comes after the block, when the hooks are gone",
            (PASS, f"    with bridge.hooks(fwd_hooks=fwd_hooks):\n        pass\n    return {PLAIN_PASS}"),
        ),
        mistake("only the first hook is used", ("(fwd_hooks=fwd_hooks)", "(fwd_hooks=fwd_hooks[:1])")),
        mistake("the hooks are in reverse order", ("(fwd_hooks=fwd_hooks)", "(fwd_hooks=fwd_hooks[::-1])")),
        mistake("the attention mask is not passed on", ("attention_mask=attention_mask, ", "")),
        mistake(
            "the Hugging Face model is called directly, which does not derive GPT-2's positions from the mask",
            (PLAIN_PASS, "bridge.original_model(ids, attention_mask=attention_mask, **options).logits.float()"),
        ),
        mistake("logits_to_keep is not passed on", (", **options)", ")")),
        mistake(
            "the logits of all positions are computed, and all but the last cut off",
            (", **options).float()", ").float()[:, -(logits_to_keep or 0) :]"),
        ),
        mistake("the model is converted to float32, and stays so", (PASS, "    bridge.float()\n" + PASS)),
        mistake("the first positions are kept, not the last", (", **options).float()", ").float()[:, :logits_to_keep]")),
        mistake("logits stay in the model's dtype", (".float()", "")),
        mistake("the pass is under no_grad", ("(fwd_hooks=fwd_hooks):", "(fwd_hooks=fwd_hooks), torch.no_grad():")),
        mistake("log-probabilities are returned in place of logits", (".float()", ".float().log_softmax(-1)")),
    ],
    "adapter_hooks": [
        mistake("the contribution replaces the map's output", (ADD, ADD.replace("out + adapter", "adapter"))),
        mistake(
            "the adapter reads the map's output, not its input",
            (ADD, ADD.replace('seen.pop("x")', "out")),
        ),
        mistake(
            "the contribution is added to the map's input, before the map",
            ('(f"{adapted.bridge_name}.hook_out", add_output)', '(f"{adapted.bridge_name}.hook_in", add_output)'),
        ),
        mistake("the contribution is added twice", (ADD, ADD.replace("out + adapter", "out + 2 * adapter"))),
        mistake("the contribution is subtracted", (ADD, ADD.replace("out + adapter", "out - adapter"))),
        mistake(
            "the scale, which the adapter applies already, is applied once more",
            (ADD, ADD.replace("out + adapter", "out + adapter.scale * adapter")),
        ),
        mistake("the second hook returns nothing, so that the activation stays as it was", (ADD, ADD.removeprefix("return "))),
        mistake(
            "the query map is hooked whatever the map is",
            ('(f"{adapted.bridge_name}.hook_in"', '(f"blocks.{adapted.block}.attn.q.hook_in"'),
            ('(f"{adapted.bridge_name}.hook_out"', '(f"blocks.{adapted.block}.attn.q.hook_out"'),
        ),
        mistake(
            "the first block is hooked whatever the block is",
            ('(f"{adapted.bridge_name}.hook_in"', '(f"blocks.0.{adapted.map_name}.hook_in"'),
            ('(f"{adapted.bridge_name}.hook_out"', '(f"blocks.0.{adapted.map_name}.hook_out"'),
        ),
        mistake(
            "the contribution is split into heads the wrong way round, [d_head heads]",
            (ADD, ADD.replace(".view_as(out)", ".view(*out.shape[:2], out.shape[-1], -1).transpose(2, 3).reshape_as(out)")),
        ),
        mistake("the contribution is detached, so that the adapter never learns", (ADD, ADD + ".detach()")),
        mistake(
            "the remembered input is detached, so that earlier layers learn nothing through the adapter",
            ('seen["x"] = x', 'seen["x"] = x.detach()'),
        ),
        mistake(
            "the input of the first pass is remembered for ever",
            ('seen["x"] = x', 'seen.setdefault("x", x)'),
            ('seen.pop("x")', 'seen["x"]'),
        ),
        mistake(
            "the input is never taken out of the memory, which holds it until the next pass", ('seen.pop("x")', 'seen["x"]')
        ),
        mistake(
            "the sum is float32 whatever the activation is",
            (ADD, ADD.replace("out + adapter(", "out.float() + adapter(").replace(".flatten(2))", ".flatten(2).float())")),
        ),
        mistake("a hook takes one argument, although it is called with two", ("(x: Tensor, hook: Any)", "(x: Tensor)")),
    ],
    "lora_fwd_hooks": [
        mistake("only the first block is hooked", ("for m in self.maps for", "for m in self.maps if m.block == 0 for")),
        mistake("only attention is hooked", ("for m in self.maps for", 'for m in self.maps if "attn" in m.map_name for')),
        mistake(
            "it is a list of lists, one for each map",
            (FLAT_LIST, "[adapter_hooks(m, self.adapters[m.key]) for m in self.maps]"),
        ),
        mistake(
            "only the hooks on outputs are there, those on inputs are lost",
            ("(m, self.adapters[m.key])", "(m, self.adapters[m.key])[1:]"),
        ),
        mistake(
            "every block uses the first block's adapters",
            ("(m, self.adapters[m.key])", '(m, self.adapters[f"blocks_0_{m.key[9:]}"])'),
        ),
        mistake("every hook is there twice", (FLAT_LIST, FLAT_LIST + " * 2")),
        mistake("the hooks are a tuple, not a list", (FLAT_LIST, f"tuple({FLAT_LIST})")),
        mistake("the list is made and not returned", (f"return {FLAT_LIST}", FLAT_LIST)),
    ],
    "merged": [
        mistake(
            "the weights are never put back: without clone() the saved ones are the weights themselves",
            ("m.weight.detach().clone()", "m.weight.detach()"),
        ),
        mistake(
            "the adapters are subtracted again in the end, which rounding makes inexact",
            (
                "m.weight.copy_(weight)",
                "delta = self.adapters[m.key].delta()\n"
                "                    m.weight.sub_((delta if m.is_transposed else delta.T).to(m.weight.dtype))",
            ),
        ),
        mistake(
            "the weights are not put back when the block ends by an error: try and finally are missing",
            ("        finally:\n", "        except ZeroDivisionError:\n            raise\n        else:\n"),
        ),
        mistake(
            "an error inside the block is swallowed",
            ("        finally:\n", "        except Exception:\n            pass\n        finally:\n"),
        ),
        mistake(
            "delta is never transposed, although a Linear stores [d_out d_in]",
            ("(delta if m.is_transposed else delta.T)", "delta"),
        ),
        mistake(
            "delta is always transposed, although a Conv1D stores [d_in d_out]",
            ("(delta if m.is_transposed else delta.T)", "delta.T"),
        ),
        mistake(
            "delta is transposed for the wrong kind of layer",
            ("(delta if m.is_transposed else delta.T)", "(delta.T if m.is_transposed else delta)"),
        ),
        mistake("the scale is forgotten: A B alone is added", (".delta()", ".A @ self.adapters[m.key].B")),
        mistake("the adapter is subtracted", (ADD_DELTA, ADD_DELTA.replace("add_", "sub_"))),
        mistake("the adapter replaces the weight", (ADD_DELTA, ADD_DELTA.replace("add_", "copy_"))),
        mistake("only the first map is merged", ("for m in self.maps:\n", "for m in self.maps[:1]:\n")),
        mistake("adapters that are merged already are merged once more", ("if self.is_merged:", "if False:")),
        mistake("is_merged is never set, so that nothing is refused inside", ("self.is_merged = True", "pass")),
        mistake("is_merged stays set afterwards", ("self.is_merged = False", "pass")),
        mistake(
            "the adapters are emptied once they are merged",
            (ADD_DELTA, ADD_DELTA + "\n                    self.adapters[m.key].B.zero_()"),
        ),
        mistake(
            "the weights are changed without no_grad, so that they keep a graph",
            (MERGE, MERGE.replace("with torch.no_grad():", "if True:")),
        ),
        mistake(
            "the yield stands within no_grad, so that the whole block computes no gradients",
            ("            yield\n", "                yield\n"),
        ),
        mistake("the merging stands before `try`: if it fails half-way, its part stays", (MERGE, MERGE_FIRST)),
        mistake(
            "adapters that are merged already are refused by another error than a RuntimeError",
            ("raise RuntimeError", "raise ValueError"),
        ),
        mistake(
            "the refusal stands within `try`, so that it ends by undoing what the outer block has set",
            ("        if self.is_merged:\n            raise", "        if False:\n            raise"),
            (
                "            self.is_merged = True\n",
                "            if self.is_merged:\n                raise RuntimeError('merged already')\n"
                "            self.is_merged = True\n",
            ),
        ),
        mistake(
            "a new parameter takes the place of the weight, which others still hold",
            (
                ADD_DELTA,
                "total = m.weight + (delta if m.is_transposed else delta.T).to(m.weight.dtype)\n"
                "                    m.module.original_component.weight = nn.Parameter(total, m.weight.requires_grad)",
            ),
        ),
    ],
    "lora_model": [
        mistake("the base model is not frozen", ("self.base_model.requires_grad_(False)", "pass")),
        mistake(
            "everything is frozen, the adapters too: freeze before making them",
            (MAKE_HOOKS, MAKE_HOOKS + "\n        self.requires_grad_(False)"),
        ),
        mistake(
            "the rank is accepted and never passed on",
            (MAKE_HOOKS, "self.lora = LoraHooks(self.base_model, alpha=lora_alpha, maps=maps)"),
        ),
        mistake(
            "lora_alpha is accepted and never passed on",
            (MAKE_HOOKS, "self.lora = LoraHooks(self.base_model, rank, maps=maps)"),
        ),
        mistake(
            "rank and alpha are swapped: LoraHooks takes the rank first",
            (MAKE_HOOKS, "self.lora = LoraHooks(self.base_model, lora_alpha, rank, maps)"),
        ),
        mistake(
            "only attention is adapted",
            (MAKE_HOOKS, 'self.lora = LoraHooks(self.base_model, rank, lora_alpha, ("attn.q", "attn.k", "attn.v", "attn.o"))'),
        ),
        mistake(
            "`maps` is ignored and everything adapted",
            (MAKE_HOOKS, "self.lora = LoraHooks(self.base_model, rank, lora_alpha)"),
        ),
        mistake("the policy has no hooks of the adapters: it is the base model", (ALL_HOOKS, "return [*super().fwd_hooks]")),
        mistake("the adapters' hooks are in the list twice", (ALL_HOOKS, ALL_HOOKS.replace("]", ", *self.lora_fwd_hooks]"))),
        mistake(
            "the hooks are put on the base model for good, so that the reference is the policy",
            (
                MAKE_HOOKS,
                MAKE_HOOKS + "\n        for name, function in self.lora.fwd_hooks:\n"
                "            self.base_model.add_hook(name, function)",
            ),
            (ALL_HOOKS, "return [*super().fwd_hooks]"),
        ),
        mistake(
            "the base model's parameters are listed as trained, not the adapters'",
            ("return self.lora_params()", "return self.base_model_params()"),
        ),
        mistake(
            "only the B matrices are listed as trained",
            ("return self.lora_params()", 'return [p for name, p in self.lora.named_parameters() if name.endswith("B")]'),
        ),
        mistake("dtype is accepted and never passed on", ("device=device, dtype=dtype)", "device=device)")),
        mistake("device is accepted and never passed on", ("device=device, dtype=dtype)", "dtype=dtype)")),
        mistake(
            "only matrices are frozen: norms and biases are still trained",
            (
                "self.base_model.requires_grad_(False)",
                "for parameter in self.base_model.parameters():\n            parameter.requires_grad_(parameter.ndim < 2)",
            ),
        ),
        mistake(
            "the adapters are cast to the base model's dtype", (MAKE_HOOKS, MAKE_HOOKS + "\n        self.lora.to(self.dtype)")
        ),
        mistake(
            "the constructor takes the rank before lora_alpha",
            (
                "        lora_alpha: float = 32.0,\n        rank: int = 4,\n",
                "        rank: int = 4,\n        lora_alpha: float = 32.0,\n",
            ),
        ),
        mistake(
            "the parameters are a generator, which is empty once it has been read, not a list",
            ("return self.lora_params()", "return self.lora.parameters()"),
        ),
    ],
    "value_head_lora": [
        mistake("use_value_head is ignored: the head is always there", ("if use_value_head:", "if True:")),
        mistake("the head is never made", ("if use_value_head:", "if False:")),
        mistake("use_value_head is turned round", ("if use_value_head:", "if not use_value_head:")),
        mistake(
            "the head is frozen",
            ("self.add_value_head()", "self.add_value_head()\n            self.value_head.requires_grad_(False)"),
        ),
        mistake(
            "the base model is trained too",
            ("self.value_head = None", "self.value_head = None\n        self.base_model.requires_grad_(True)"),
        ),
        mistake(
            "only the head is trained, the adapters are frozen",
            ("self.value_head = None", "self.value_head = None\n        self.lora.requires_grad_(False)"),
        ),
        mistake("rank and alpha are swapped", (BUILD, BUILD.replace("lora_alpha, rank", "rank, lora_alpha"))),
        mistake("the rank is accepted and never passed on", (BUILD, BUILD.replace("lora_alpha, rank", "lora_alpha"))),
        mistake("lora_alpha is accepted and never passed on", (BUILD, BUILD.replace("lora_alpha, rank", "rank=rank"))),
        mistake("`maps` is accepted and never passed on", (BUILD, BUILD.replace("maps=maps, ", ""))),
        mistake("dtype is accepted and never passed on", (BUILD, BUILD.replace(", dtype=dtype", ""))),
        mistake(
            "the head is a single linear layer, without a hidden layer and its non-linearity",
            ("self.add_value_head()", "self.value_head = nn.Linear(self.cfg.d_model, 1)"),
        ),
        mistake("device is accepted and never passed on", (BUILD, BUILD.replace("device=device, ", ""))),
        mistake(
            "the head is cast to the base model's dtype",
            ("self.add_value_head()", "self.add_value_head()\n            self.value_head.to(self.dtype)"),
        ),
        mistake(
            "the head is left out unless it is asked for",
            (HEAD_OPTIONS, HEAD_OPTIONS.replace("True", "False")),
        ),
        mistake(
            "the head has a Tanh, not add_value_head's ReLU",
            ("self.add_value_head()", "self.add_value_head()\n            self.value_head[1] = nn.Tanh()"),
        ),
        mistake("value_head does not exist at all when it is left out", ("        self.value_head = None\n", "")),
    ],
    "lora_parameter_count": [
        mistake("the maps' own weights are counted", (EACH_MAP, "return sum(d_in * d_out for d_in, d_out in shapes)")),
        mistake("the sides are multiplied, not added", (EACH_MAP, EACH_MAP.replace("d_in + d_out)", "d_in * d_out)"))),
        mistake("only A is counted", (EACH_MAP, "return sum(rank * d_in for d_in, d_out in shapes)")),
        mistake("every map is taken to be square", (EACH_MAP, "return sum(2 * rank * d_in for d_in, d_out in shapes)")),
        mistake("only B is counted", (EACH_MAP, "return sum(rank * d_out for d_in, d_out in shapes)")),
        mistake(
            "only the first map is counted: return stands inside the loop",
            (EACH_MAP, "for d_in, d_out in shapes:\n        return rank * (d_in + d_out)\n    return 0"),
        ),
        mistake(
            "every map has its rank squared besides", (EACH_MAP, EACH_MAP.replace("d_in + d_out)", "d_in + d_out + rank)"))
        ),
        mistake("the rank is left out", (EACH_MAP, EACH_MAP.replace("rank * ", ""))),
    ],
    "training_bytes": [
        mistake("the reference's copy of the weights is forgotten", (ALL_TRAINED, ALL_TRAINED.replace("4 + 1", "4"))),
        mistake(
            "gradients are forgotten, or one of AdamW's two moments",
            (ALL_TRAINED, ALL_TRAINED.replace("4 + 1", "3 + 1")),
            (LORA_TRAINED, LORA_TRAINED.replace("4 * 4", "4 * 3")),
        ),
        mistake(
            "with adapters the base model is counted a second time, as reference",
            (LORA_TRAINED, LORA_TRAINED.replace("bytes_per_number +", "bytes_per_number * 2 +")),
        ),
        mistake(
            "with adapters the base model still has gradients and moments, although it is frozen",
            (LORA_TRAINED, LORA_TRAINED.replace("bytes_per_number +", "bytes_per_number * 4 +")),
        ),
        mistake("the base model's weights are forgotten with adapters", (LORA_TRAINED, "adapter_parameters * 4 * 4")),
        mistake(
            "adapters are taken to have the base model's format, not float32",
            (LORA_TRAINED, LORA_TRAINED.replace("4 * 4", "bytes_per_number * 4")),
        ),
        mistake("0 adapters are taken for None", ("if adapter_parameters is None:", "if not adapter_parameters:")),
        mistake(
            "bytes_per_number is ignored: always 4",
            (ALL_TRAINED, ALL_TRAINED.replace("bytes_per_number", "4")),
            (LORA_TRAINED, LORA_TRAINED.replace("bytes_per_number", "4")),
        ),
        mistake(
            "AdamW's moments are taken to be float32 whatever the weights are",
            (ALL_TRAINED, "base_parameters * (bytes_per_number * 3 + 8)"),
        ),
        mistake(
            "numbers are counted, not bytes",
            (ALL_TRAINED, "base_parameters * 5"),
            (LORA_TRAINED, "base_parameters + 4 * adapter_parameters"),
        ),
        mistake("of the adapters only the weights are counted", (LORA_TRAINED, LORA_TRAINED.replace("4 * 4", "4"))),
        mistake(
            "adapters count on top of full fine-tuning: gradients and moments for all",
            (LORA_TRAINED, f"{ALL_TRAINED} + adapter_parameters * 4 * 4"),
        ),
    ],
    "peft_tensors": [
        mistake("neither matrix is transposed", ("A.T.cpu()", "A.cpu()"), ("B.T.cpu()", "B.cpu()")),
        mistake(
            "the matrices are reshaped, not transposed: the shapes are right, the numbers are shuffled",
            ("A.T.cpu()", "A.reshape(A.shape[1], -1).cpu()"),
            ("B.T.cpu()", "B.reshape(B.shape[1], -1).cpu()"),
        ),
        mistake(
            "A and B stand under each other's names",
            ('.lora_A.weight"]', '.lora_other.weight"]'),
            ('.lora_B.weight"]', '.lora_A.weight"]'),
            ('.lora_other.weight"]', '.lora_B.weight"]'),
        ),
        mistake(
            "the scale is multiplied into B, and PEFT will apply it once more",
            ("(adapter.A, adapter.B)", "(adapter.A, adapter.scale * adapter.B)"),
        ),
        mistake(
            "the prefix base_model.model. is missing",
            ('f"base_model.model.{names.path(m)}.lora_A', 'f"{names.path(m)}.lora_A'),
            ('f"base_model.model.{names.path(m)}.lora_B', 'f"{names.path(m)}.lora_B'),
        ),
        mistake(
            "maps are called by the bridge's names, which PEFT does not know",
            ("{names.path(m)}.lora_A", "{m.bridge_name}.lora_A"),
            ("{names.path(m)}.lora_B", "{m.bridge_name}.lora_B"),
        ),
        mistake(
            "q, k and v of a fused map overwrite each other: only v is saved",
            ("fuse(hooks.adapters, m, names) if names.is_fused(m) else (adapter.A, adapter.B)", "adapter.A, adapter.B"),
        ),
        mistake("names lack .weight at the end", ('lora_A.weight"]', 'lora_A"]'), ('lora_B.weight"]', 'lora_B"]')),
        mistake(
            "names are those in memory, with the adapter's name (.default) in them, not those of PEFT's files",
            ('lora_A.weight"]', 'lora_A.default.weight"]'),
            ('lora_B.weight"]', 'lora_B.default.weight"]'),
        ),
        mistake(
            "the tensors are transposed views, which safetensors refuses to write",
            ("A.T.cpu().contiguous()", "A.T.cpu()"),
            ("B.T.cpu().contiguous()", "B.T.cpu()"),
        ),
        mistake("only the first map is saved: return stands inside the loop", ("    return tensors", "        return tensors")),
    ],
}
