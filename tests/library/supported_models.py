"""Every architecture, tiny and random, beside plain Hugging Face: no bridge, no cache, eager attention.

python -m tests.library.supported_models     # tries all and writes the table of rlhf_lib/models/README.md
"""

import inspect
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from rlhf_lib import engine
from rlhf_lib.args import InputError
from rlhf_lib.lora.peft_format import peft_tensors
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHead
from rlhf_lib.models.loading import BUNDLED, quiet_transformers
from rlhf_lib.rollouts import get_logprobs, rollout

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "rlhf_lib" / "models" / "README.md"
COMMON = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
UNGROUPED = {"num_key_value_heads": None}  # configurations that know no such thing keep it, and TransformerLens believes it
GPT_J = {**UNGROUPED, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64, "n_inner": 48, "rotary_dim": 4}
WINDOW = 5  # shorter than the prompts
ARCHITECTURES = {  # name: model_type, what differs from COMMON, models that it stands for
    "llama": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}, "Llama 2"),
    "llama, grouped, llama3 rope": ("llama", {"rope_parameters": LLAMA3}, "Llama 3"),
    "llama, SmolLM2's shape": (
        "llama",
        {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
        "SmolLM2",
    ),
    "qwen2": ("qwen2", {}, "Qwen2.5"),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}, "Qwen3 0.6B to 32B"),
    "qwen3_moe": (
        "qwen3_moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True},
        "Qwen3-30B-A3B",
    ),
    "mistral": ("mistral", {"sliding_window": WINDOW, "head_dim": 16}, "Mistral 7B"),
    "ministral3": ("ministral3", {"sliding_window": None, "head_dim": 16}, "Ministral 3"),
    "gemma": ("gemma", {"head_dim": 16}, "Gemma"),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        "Gemma 2",
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            "head_dim": 16,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
        },
        "Gemma 3",
    ),
    "phi": ("phi", {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}, "Phi-1.5, Phi-2"),
    "phi3": ("phi3", {"num_key_value_heads": 4}, "Phi-3-mini"),
    "phi3, grouped": ("phi3", {"sliding_window": WINDOW}, "Phi-3-medium, Phi-4"),
    "olmo": ("olmo", {}, "OLMo"),
    "olmo2": ("olmo2", {}, "OLMo 2"),
    "olmo3": (
        "olmo3",
        {"sliding_window": WINDOW, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
        "OLMo 3",
    ),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}, "OLMoE"),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1]}, "SmolLM3"),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 2.0},
        "Granite 3, 4 (dense)",
    ),
    "gpt2": ("gpt2", {**UNGROUPED, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64}, "GPT-2, DistilGPT-2"),
    "gpt_neo": (
        "gpt_neo",
        {
            **UNGROUPED,
            "num_layers": 2,
            "num_heads": 4,
            "window_size": WINDOW,
            "attention_types": [[["global", "local"], 1]],
            "num_hidden_layers": 2,
        },
        "GPT-Neo",
    ),
    "gpt_neox": ("gpt_neox", UNGROUPED, "Pythia"),
    "gpt_neox, no attention bias": (
        "gpt_neox",
        {**UNGROUPED, "attention_bias": False, "use_parallel_residual": False},
        "StableLM-alpha's kin",
    ),
    "gptj": ("gptj", GPT_J, "GPT-J"),
    "codegen": ("codegen", GPT_J, "CodeGen"),
    "opt": ("opt", {**UNGROUPED, "ffn_dim": 48, "word_embed_proj_dim": 32}, "OPT"),
    "falcon, multi-query": ("falcon", {**UNGROUPED, "multi_query": True, "bias": False, "alibi": False}, "Falcon 7B"),
    "falcon, all heads": (
        "falcon",
        {**UNGROUPED, "multi_query": False, "bias": True, "alibi": False},
        "none released",
    ),
    "falcon, new decoder": (
        "falcon",
        {**UNGROUPED, "new_decoder_architecture": True, "multi_query": True, "num_kv_heads": 2, "bias": False, "alibi": False},
        "Falcon 40B",
    ),
    "falcon, ALiBi": ("falcon", {**UNGROUPED, "multi_query": False, "bias": True, "alibi": True}, "Falcon-RW"),
    "bloom": ("bloom", {**UNGROUPED, "n_layer": 3, "n_head": 4}, "BLOOM"),
    "stablelm": ("stablelm", {}, "StableLM 2"),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW}, "StarCoder2"),
    "cohere": ("cohere", {}, "Command R"),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 48}, "LFM2"),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, "Mixtral"),
    "gemma4_text": ("gemma4_text", {"head_dim": 16, "vocab_size_per_layer_input": 512}, "Gemma 4"),
    "qwen3_5_text": ("qwen3_5_text", {"layer_types": ["linear_attention", "linear_attention", "full_attention"]}, "Qwen3.5"),
    "mamba": ("mamba", {}, "Mamba"),
}
PROMPTS = ["Anna has 12 apples and gives 5", "Ben"]
STEPS = 8


@dataclass
class Case:
    """A tiny random model of one architecture in a directory, and what plain Hugging Face makes of it."""

    name: str
    directory: Path

    @classmethod
    def make(cls, name, root):
        """Random weights, norms and biases included, large enough that each would be missed."""
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        kind, changes, _ = ARCHITECTURES[name]
        torch.manual_seed(sorted(ARCHITECTURES).index(name))
        with quiet_transformers(), torch.no_grad():
            model = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(kind, **{k: v for k, v in {**COMMON, **changes}.items() if v is not None})
            )
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(1 if kind == "gpt_neo" else 5)  # its scores are not scaled down, and would saturate
                else:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            directory = Path(root) / name.replace(" ", "-").replace(",", "").replace("'", "")
            model.save_pretrained(directory)
            AutoTokenizer.from_pretrained(BUNDLED["pocket"]).save_pretrained(directory)
        return cls(name, directory)

    def plain(self, directory=None):
        """The model by Hugging Face alone."""
        from transformers import AutoModelForCausalLM

        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(directory or self.directory, attn_implementation="eager").eval()

    @cached_property
    def adapted(self):
        """The policy with adapters that do something."""
        model = TransformerWithLora(self.directory, 8.0, 2, device="cpu")
        torch.manual_seed(1)
        for parameter in model.lora_params():
            torch.nn.init.normal_(parameter, std=0.3)
        return model

    @cached_property
    def prompts(self):
        """Two prompts of different lengths, and their mask."""
        ids, mask = self.adapted.encode(PROMPTS)
        return ids, mask

    @cached_property
    def in_peft(self):
        """The saved adapter on the plain model, by peft, trainable."""
        from peft import PeftModel

        with tempfile.TemporaryDirectory() as directory:
            self.adapted.save_pretrained(directory)
            return PeftModel.from_pretrained(self.plain(), directory, is_trainable=True).eval()


def logits_of(model, ids, mask):
    """One pass without a cache; padding takes no position."""
    options = {}
    if "position_ids" in inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters:
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits


def equal(got, expected, mask=None, rounding=1e-4):
    """Within rounding of float32, by the largest number; and not the same by being nothing."""
    if mask is not None:
        got, expected = got[mask.bool()], expected[mask.bool()]
    largest = expected.abs().max().item()
    assert largest > 1e-3
    torch.testing.assert_close(got, expected, atol=rounding * largest, rtol=1e-4)


def loss_of(logits, ids, mask):
    """The sum of the log-probabilities of all tokens that stand after a token, not after padding."""
    return (get_logprobs(logits, ids) * mask[:, 1:] * mask[:, :-1]).sum()


# What a model of the table can do; each raises where it cannot, or does it wrongly


@torch.no_grad()
def check_logits(case):
    """The base model and the policy, padded on the left."""
    ids, mask = case.prompts
    equal(case.adapted(ids, mask), logits_of(case.plain(), ids, mask), mask)
    policy = case.adapted.forward_with_value_head(ids, mask)[0]
    equal(policy, logits_of(case.in_peft, ids, mask), mask)
    assert (policy - case.adapted(ids, mask)).abs().max() > 1e-2, "these adapters would not be missed"


@torch.no_grad()
def check_rollouts(case):
    """Greedy tokens and log-probabilities of sampled ones are the uncached model's, the plain way and the fast, if any."""
    ids, mask = case.prompts
    for _ in range(STEPS):
        chosen = logits_of(case.in_peft, ids, mask)[:, -1].argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, chosen], dim=1), torch.cat([mask, torch.ones_like(chosen)], dim=1)
    for context in (engine.plain_formulas, torch.no_grad):
        with context():
            greedy = rollout(case.adapted, PROMPTS, STEPS, temperature=0.0, stop_at_eos=False)
            drawn = rollout(case.adapted, PROMPTS, STEPS, generator=torch.Generator().manual_seed(0), stop_at_eos=False)
        assert torch.equal(greedy.ids, ids)
        equal(
            drawn.logprobs, get_logprobs(logits_of(case.in_peft, drawn.ids, drawn.attention_mask), drawn.ids, drawn.prefix_len)
        )


def check_gradients(case):
    """Every adapter's gradient is that of peft on the plain model, the fast way and the plain."""
    ids, mask = case.prompts
    case.in_peft.zero_grad()
    loss_of(logits_of(case.in_peft, ids, mask), ids, mask).backward()
    expected = {
        name.replace(".default", ""): p.grad
        for name, p in case.in_peft.named_parameters()
        if p.requires_grad and p.grad is not None
    }
    model, names = case.adapted, case.adapted.peft_names
    kept = [(parameter, parameter.detach().clone()) for parameter in model.lora_params()]
    for context in (engine.plain_formulas, torch.enable_grad):
        model.zero_grad()
        with context():
            loss_of(model.forward_with_value_head(ids, mask)[0], ids, mask).backward()
        gradients = [parameter.grad for parameter in model.lora_params()]
        assert all(gradient is not None for gradient in gradients)
        try:
            in_files = []
            for values in (gradients, [torch.ones_like(g) for g in gradients]):
                for (parameter, _), value in zip(kept, values, strict=True):
                    parameter.data.copy_(value)
                in_files.append(peft_tensors(model.lora, names))
        finally:
            for (parameter, _), (_, before) in zip(kept, kept, strict=True):
                parameter.data.copy_(before)
        for name, gradient in in_files[0].items():
            theirs = expected[name] * in_files[1][name]  # a fused B has places that are not ours
            equal(gradient, theirs, rounding=3e-4)  # that of both passes; it differs from processor to processor


@torch.no_grad()
def check_merging(case):
    """Merged weights compute what the hooks do, and the merged directory is the policy."""
    ids, mask = case.prompts
    policy = case.adapted.forward_with_value_head(ids, mask)[0]
    with case.adapted.merged():
        equal(case.adapted.base_model(ids, attention_mask=mask), policy, mask)
    with tempfile.TemporaryDirectory() as directory:
        case.adapted.save_merged(directory)
        equal(logits_of(case.plain(directory), ids, mask), policy, mask)


def check_full_fine_tuning(case):
    """After a step on every weight, the saved directory is the model, and the reference is what it was before."""
    ids, mask = case.prompts
    model = TransformerWithValueHead(case.directory, device="cpu")
    reference = model.frozen_copy()
    loss_of(model.forward_with_value_head(ids, mask)[0], ids, mask).backward()
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=0.01).step()
    with torch.no_grad(), tempfile.TemporaryDirectory() as directory:
        after = model(ids, mask)
        before = logits_of(case.plain(), ids, mask)
        assert (after - before)[mask.bool()].abs().max() > 1e-3
        equal(reference(ids, mask), before, mask)
        model.save_pretrained(directory)
        equal(logits_of(case.plain(directory), ids, mask), after, mask)


CHECKS = {
    "logits": check_logits,
    "rollouts": check_rollouts,
    "gradients": check_gradients,
    "merging": check_merging,
    "full fine-tuning": check_full_fine_tuning,
}


def refusal(name, root):
    """What loading says of an architecture that cannot be right; None for the others."""
    try:
        case = Case.make(name, root)
    except Exception as error:  # Hugging Face itself has no such model in this version
        return f"not in this version of transformers ({type(error).__name__})"
    try:
        TransformerWithLora(case.directory, device="cpu")
    except InputError as error:
        return str(error).split(";")[0].replace(str(case.directory), "DIRECTORY")
    return None


def cells(name, root):
    """What the table says of an architecture: whether it trains, whether the fast path covers it, and notes."""
    refused = refusal(name, root)
    if refused is not None:
        return "no", "", refused
    model = Case.make(name, root).adapted
    fast = "yes" if model.base.passes.fast else "no"
    blocks = {part: {m.block for m in model.lora.maps if m.map_name.startswith(part)} for part in ("attn", "mlp")}
    whole = len(model.base_model.blocks)
    notes = [
        text
        for text, is_so in (
            ("experts get no adapters, attention does", not blocks["mlp"]),
            ("layers without attention get adapters on the MLP alone", len(blocks["attn"]) < whole),
        )
        if is_so
    ]
    return "yes", fast, "; ".join(notes)


def row(name, root):
    """A line of the table, once everything that it claims has been tried."""
    trains, fast, notes = cells(name, root)
    if trains == "yes":
        case = Case.make(name, root)
        for check in CHECKS.values():
            check(case)
    return f"| {name} | {ARCHITECTURES[name][2]} | {trains} | {fast} | {trains} | {trains} | {notes} |"


def written():
    """The table as it stands: each architecture's cells that `cells` gives."""
    lines = [line.strip("|").split("|") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    return {name.strip(): (trains.strip(), fast.strip(), notes.strip()) for name, _, trains, fast, _, _, notes in lines[1:]}


HEADER = """# What works on which architecture

Made by `python -m tests.library.supported_models`, which tries a tiny random model of each architecture against plain
Hugging Face (no bridge, no cache): logits with left padding, greedy tokens and log-probabilities of rollouts, gradients of the
adapters, merged weights, saved adapters in peft, merged and fully fine-tuned directories loaded again. A test holds it true.

| architecture | for example | trains | fast path | saves | merges | notes |
|---|---|---|---|---|---|---|
"""
FOOTER = """
*trains*: logits, rollouts and gradients are Hugging Face's. *fast path*: `rlhf_lib.engine` covers it; otherwise the bridge's
own passes are used, which are slower. *saves*: peft reads the adapter, Hugging Face the fine-tuned model. *no*: the error says
what the notes say.
"""


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for name in sys.argv[1:] or ARCHITECTURES:
            lines.append(row(name, folder))
            print(lines[-1])
    if not sys.argv[1:]:
        TABLE.write_text(HEADER + "\n".join(lines) + "\n" + FOOTER)
