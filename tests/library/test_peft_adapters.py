"""Adapters that peft made: equal to peft on plain Hugging Face, or refused with a remedy that works."""

import json
import shutil
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlhf_lib.args import InputError
from rlhf_lib.models import BridgedTransformer, TransformerWithLora

from .supported_models import Case

IDS = torch.tensor([[1, 5, 9, 300, 7, 44], [1, 8, 8, 20, 400, 3]])
KINDS = ("llama", "gpt2", "gpt_neox", "phi3, grouped", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {kind: Case.make(kind, root).directory for kind in KINDS}


def made_by_peft(base, directory, seed=0, **options):
    """A directory with a random adapter, and peft's logits with it: of the file where peft can read it back, else as made."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "init_lora_weights": False, **options}
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**given)).eval()
        model.save_pretrained(directory)
        if "init_lora_weights" not in options:
            try:
                model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()
            except RuntimeError:
                return None  # patterns that the file holds in another order give other ranks: peft cannot read it either
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def ours(directory, base):
    model = TransformerWithLora.from_adapter(directory, base, device="cpu")
    with torch.no_grad():
        return model, model.forward_with_value_head(IDS)[0] * 1


LOADABLE = [
    ("llama", {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"v_proj": 64}}),
    ("llama", {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 16}, "r": 2}),
    ("llama", {"target_modules": "all-linear", "rank_pattern": {r"layers\.1\.mlp\.up_proj": 7, "q_proj": 3}}),
    ("llama", {"target_modules": ["q_proj"], "alpha_pattern": {"model.layers.0.self_attn.q_proj": 1.5, "q_proj": 20}}),
    ("llama", {"target_modules": ["k_proj", "o_proj"], "use_rslora": True, "r": 9, "rank_pattern": {"o_proj": 5}}),
    ("llama", {"target_modules": r".*layers\.[02]\.(mlp\.gate_proj|self_attn\.v_proj)"}),
    ("llama", {"target_modules": ["up_proj", "q_proj"], "layers_to_transform": [1]}),
    ("llama", {"target_modules": ["up_proj", "q_proj"], "exclude_modules": r".*layers\.1.*"}),
    ("llama", {"target_modules": ["down_proj"], "r": 32}),
    ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"}),
    ("llama", {"target_modules": ["q_proj"], "lora_dropout": 0.3}),
    ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "r": 6, "rank_pattern": {"c_attn": 9}, "fan_in_fan_out": True}),
    ("gpt2", {"target_modules": ["c_proj", "c_fc"], "fan_in_fan_out": False}),
    ("gpt2", {"target_modules": "all-linear", "use_rslora": True}),
    ("gpt_neox", {"target_modules": ["query_key_value", "dense"], "alpha_pattern": {"dense": 3}}),
    ("phi3, grouped", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"], "rank_pattern": {"qkv_proj": 5}}),
    ("qwen3", {"target_modules": ["q_proj", "k_proj", "gate_proj"], "alpha_pattern": {r"layers\.2\..*": 1}}),
]


@pytest.mark.parametrize(("kind", "options"), LOADABLE, ids=str)
def test_as_peft_and_as_peft_again_once_saved(kind, options, bases, tmp_path):
    theirs = made_by_peft(bases[kind], tmp_path / "made", **options)
    model, logits = ours(tmp_path / "made", bases[kind])
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)
    assert (logits - model(IDS)).abs().max() > 1e-2 or options.get("init_lora_weights") == "gaussian"
    model.save_pretrained(tmp_path / "again")
    base = AutoModelForCausalLM.from_pretrained(bases[kind]).eval()
    with torch.no_grad():
        saved = PeftModel.from_pretrained(base, tmp_path / "again").eval()(IDS, use_cache=False).logits
    torch.testing.assert_close(saved, theirs, atol=1e-4, rtol=1e-4)
    again, same = ours(tmp_path / "again", bases[kind])
    torch.testing.assert_close(same, logits, atol=1e-5, rtol=1e-5)
    assert len(again.lora_params()) == len(model.lora_params())


NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PATTERNS = st.dictionaries(st.sampled_from([*NAMES, r"layers\.1\..*", "self_attn.k_proj"]), st.integers(1, 12), max_size=3)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    targets=st.sets(st.sampled_from(NAMES), min_size=1),
    ranks=PATTERNS,
    alphas=PATTERNS,
    options=st.fixed_dictionaries({"r": st.integers(1, 12), "lora_alpha": st.integers(1, 40), "use_rslora": st.booleans()}),
)
def test_any_ranks_alphas_and_targets(bases, tmp_path_factory, targets, ranks, alphas, options):
    directory = tmp_path_factory.mktemp("drawn")
    theirs = made_by_peft(
        bases["llama"], directory, target_modules=sorted(targets), rank_pattern=ranks, alpha_pattern=alphas, **options
    )
    if theirs is None:
        with pytest.raises(InputError, match="has rank"):
            ours(directory, bases["llama"])
    else:
        torch.testing.assert_close(ours(directory, bases["llama"])[1], theirs, atol=1e-4, rtol=1e-4)


REFUSED = [
    ({"use_dora": True}, "use_dora"),
    ({"bias": "all"}, "bias='all'"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
    ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
    ({"lora_bias": True}, "lora_bias"),
    ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
]


@pytest.mark.parametrize(("options", "word"), REFUSED, ids=str)
def test_refused_and_the_remedy_works(options, word, bases, tmp_path):
    theirs = made_by_peft(bases["qwen2"], tmp_path / "made", **{"target_modules": ["q_proj"], **options})
    with pytest.raises(InputError, match=rf"{word}.*merge it into the base model with peft"):
        ours(tmp_path / "made", bases["qwen2"])
    if "init_lora_weights" in options:
        return  # the residual model is not the base model: see the next test
    merged = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(bases["qwen2"]), tmp_path / "made"
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bases["qwen2"] / name, tmp_path / "merged")
    with torch.no_grad():
        got = BridgedTransformer(tmp_path / "merged", device="cpu")(IDS) * 1
    torch.testing.assert_close(got, theirs, atol=1e-4, rtol=1e-4)


def test_a_pissa_adapter_converted_by_peft_loads(bases, tmp_path):
    """The remedy of the refusal: peft writes the difference to the untouched base as an ordinary adapter."""
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights="pissa")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(bases["llama"]), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        theirs = model.eval()(IDS, use_cache=False).logits
    model.save_pretrained(tmp_path / "made", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    torch.testing.assert_close(ours(tmp_path / "made", bases["llama"])[1], theirs, atol=1e-3, rtol=1e-3)


DAMAGED = [
    ([], "holds list"),
    (None, "holds NoneType"),
    ({"r": None}, "r=None, which must be a whole number from 1 to 1e"),
    ({"r": "x"}, "r='x'"),
    ({"r": 0}, "r=0"),
    ({"r": 1.5}, r"r=1\.5"),
    ({"r": True}, "r=True"),
    ({"lora_alpha": None}, "lora_alpha=None, which must be a number of at most 1e"),
    ({"lora_alpha": float("nan")}, "lora_alpha=nan"),
    ({"lora_alpha": float("inf")}, "lora_alpha=inf"),
    ({"lora_alpha": "8"}, "lora_alpha='8'"),
    ({"alpha_pattern": {"q_proj": "x"}}, r"alpha_pattern\['q_proj'\]='x'"),
    ({"rank_pattern": [4]}, r"rank_pattern=\[4\]"),
    ({"rank_pattern": {"q_proj": 5}}, "has rank 4, and its adapter_config.json says 5"),
    ({"target_modules": ["v_proj"]}, "which its target_modules leave out"),
    ({"lora_alpha": 1e308}, r"lora_alpha=1e\+308"),
    ({"lora_alpha": 10**400}, "lora_alpha=a number of|lora_alpha=1000"),
    ({"alpha_pattern": {"(([a-z.0-9_]+)*)*X": 4}}, r"alpha_pattern .*could take forever"),
    ({"alpha_pattern": {r"(a|b)\1": 4}}, r"alpha_pattern .*could take forever"),
    ({"rank_pattern": {"(": 2}}, r"rank_pattern '\(', which is no regular expression"),
    ({"target_modules": "("}, r"target_modules '\(', which is no regular expression"),
    ({"target_modules": "(.*a)*b"}, r"target_modules .*could take forever"),
    ({"target_modules": ".*.*.*.*.*.*q_proj"}, "over 5 repeats"),
    ({"alpha_pattern": {".?" * 30 + "X": 4}}, "over 5 repeats"),
    ({"target_modules": 5}, "target_modules=5, which must be a text or a list"),
    ({"target_modules": ["q_proj", 5]}, "must be a text or a list of texts"),
    ({"exclude_modules": 3}, "exclude_modules=3"),
    ({"peft_type": "IA3"}, "peft_type='IA3'"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "uses layer_replication"),
    ({"shiny_new_option": {"strength": 3}}, "uses shiny_new_option"),
]


@pytest.mark.parametrize(("change", "message"), DAMAGED, ids=str)
def test_a_configuration_that_cannot_be_right_is_one_sentence(change, message, bases, tmp_path):
    made_by_peft(bases["llama"], tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_config.json"
    whole = {**json.loads(file.read_text()), **change} if isinstance(change, dict) else change
    file.write_text(json.dumps(whole))
    with pytest.raises(InputError, match=message) as error:
        ours(tmp_path, bases["llama"])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"", b"[" * 5000], ids=str)
def test_a_configuration_that_is_no_json(content, bases, tmp_path):
    made_by_peft(bases["llama"], tmp_path, target_modules=["q_proj"])
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"is not JSON .* restore it"):
        ours(tmp_path, bases["llama"])


def test_weights_that_cannot_be_right_are_one_sentence(bases, tmp_path):
    made_by_peft(bases["llama"], tmp_path, target_modules=["q_proj"])
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    first = min(tensors)
    for changed, message in (
        ({n: t for n, t in tensors.items() if n != first}, "do not make one adapter"),
        ({**tensors, "base_model.model.lm_head.bias": torch.zeros(3)}, "no low-rank adapter of a linear map"),
        ({n.replace("layers.0", "layers.9"): t for n, t in tensors.items()}, r"adapts model\.layers\.9\.self_attn\.q_proj"),
        ({}, "holds no adapters"),
    ):
        save_file(changed, file)
        with pytest.raises(InputError, match=message):
            ours(tmp_path, bases["llama"])
    file.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="is a pickle"):
        ours(tmp_path, bases["llama"])


def test_an_adapter_of_another_model_is_told_so(bases, tmp_path):
    made_by_peft(bases["gpt2"], tmp_path / "gpt2", target_modules=["c_attn"])
    with pytest.raises(InputError, match="made for another model"):
        ours(tmp_path / "gpt2", bases["llama"])
    made_by_peft(bases["qwen3"], tmp_path / "qwen3", target_modules=["q_proj"])
    with pytest.raises(InputError, match="made for another model"):
        ours(tmp_path / "qwen3", bases["llama"])
