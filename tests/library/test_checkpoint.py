"""Damaged and foreign model directories: each fault is one sentence that names it, and nothing of it is run or passed over."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rlhf_lib
from rlhf_lib.args import InputError
from rlhf_lib.models import TransformerWithLora, TransformerWithValueHead, load_base, load_policy
from rlhf_lib.models.reward_model import RewardModel

from .conftest import tiny_config

WEIGHTS = "model.safetensors"
GONE = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def copy(model_dirs, tmp_path):
    """A copy of a tiny model's directory."""

    def make(kind="llama"):
        return Path(shutil.copytree(model_dirs[kind], tmp_path / kind))

    return make


def change_weights(directory, change):
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS, {"format": "pt"})


def change_settings(directory, file, **values):
    found = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps({**found, **values}))


def one_sentence(call, *parts):
    """The message of the InputError that a call raises: one line, with all parts in it."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


# Weights


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda w: {n: t for n, t in w.items() if n != GONE}, ["1 missing", GONE]),
        (
            lambda w: {f"other.{n}": t for n, t in w.items()},
            ["21 missing", "lm_head.weight", "and 18 more", "21 unexpected", "other."],
        ),
        (lambda w: {**w, "model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}, ["1 unexpected", "q_proj.bias"]),
        (lambda w: {**w, "model.layers.2.mlp.up_proj.weight": torch.zeros(48, 32)}, ["1 unexpected", "layers.2"]),
        (lambda w: {**w, GONE: w[GONE][:40].clone()}, ["1 of another shape", f"{GONE} [40, 32], not [48, 32]"]),
        (lambda w: {n: t for n, t in w.items() if n != "lm_head.weight"}, ["1 missing", "lm_head.weight"]),
        (lambda w: {"none": torch.zeros(1)}, ["21 missing", "none"]),
    ],
    ids=["one removed", "all renamed", "a bias", "a layer", "a shape", "an untied head removed", "nothing of it"],
)
def test_weights_that_do_not_fit_are_named(change, parts, copy):
    directory = copy()
    change_weights(directory, change)
    one_sentence(lambda: load_base(directory, device="cpu"), "base_model=", *parts, "get the model again")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ["model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.summary.weight"]),
        ("gpt2", ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"]),
        ("gpt_neo", ["transformer.h.0.attn.attention.bias", "transformer.h.0.attn.attention.masked_bias"]),
        ("gpt_neox", ["gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"]),
    ],
)
def test_constants_that_old_checkpoints_saved_do_no_harm(kind, names, copy, model_dirs):
    directory = copy(kind)
    change_weights(directory, lambda w: {**w, **{name: torch.zeros(1, 1, 4, 4) for name in names}})
    ids = torch.tensor([[1, 5, 9]])
    logits = [load_base(path, device="cpu").bridge.original_model(ids).logits for path in (directory, model_dirs[kind])]
    torch.testing.assert_close(*logits, rtol=0, atol=0)


def test_a_tied_head_may_be_missing(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM

    config = tiny_config("llama")
    config.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / WEIGHTS)
    load_base(tmp_path, device="cpu")


def in_shards(directory, missing):
    """The weights in two files with an index, or one of the files missing."""
    weights = load_file(directory / WEIGHTS)
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for file, held in shards.items():
        save_file({name: weights[name] for name in held}, directory / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / WEIGHTS).unlink()
    if missing:
        (directory / "model-00002-of-00002.safetensors").unlink()


def in_a_pickle(directory, length=None):
    """The weights as pytorch_model.bin, whole or cut."""
    file = directory / "pytorch_model.bin"
    torch.save(load_file(directory / WEIGHTS), file)
    (directory / WEIGHTS).unlink()
    file.write_bytes(file.read_bytes()[:length])


@pytest.mark.parametrize("damage", [lambda d: in_shards(d, missing=False), in_a_pickle], ids=["shards", "bin"])
def test_other_files_of_weights(damage, copy, model_dirs):
    directory = copy()
    damage(directory)
    ours, theirs = (load_base(path, device="cpu").parameters for path in (directory, model_dirs["llama"]))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: in_shards(d, missing=True),
        lambda d: (in_shards(d, missing=False), (d / "model.safetensors.index.json").write_text("{")),
        lambda d: in_a_pickle(d, 1000),
        lambda d: in_a_pickle(d, 0),
        lambda d: (d / WEIGHTS).unlink(),
        lambda d: (d / WEIGHTS).write_bytes(b""),
        lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:100]),
        lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-100]),
        lambda d: (d / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"),
    ],
    ids=["shard missing", "index cut", "bin cut", "bin empty", "none", "empty", "header cut", "end cut", "a pointer to it"],
)
def test_weights_that_cannot_be_read(damage, copy):
    directory = copy()
    damage(directory)
    one_sentence(lambda: load_base(directory, device="cpu"), "cannot be loaded", "get the model again")


# Settings and tokenizer


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0"),
        ({"num_attention_heads": -4}, "num_attention_heads=-4"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4, not a multiple of num_key_value_heads=3"),
        ({"hidden_size": -32}, "hidden_size=-32"),
        ({"hidden_size": 32.5}, "hidden_size=32.5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0"),
        ({"vocab_size": 100}, "[512, 32], not [100, 32]"),
        ({"num_hidden_layers": 3}, "9 missing"),
        ({"hidden_act": "nosuch"}, "nosuch"),
        ({"model_type": "nosuch"}, "nosuch"),
        ({"architectures": "LlamaForCausalLM"}, "architecture"),
        ({"architectures": [None]}, "architecture"),
        ({"quantization_config": 3}, "cannot be loaded"),
    ],
    ids=str,
)
def test_configurations_that_no_model_can_have(values, part, copy):
    directory = copy()
    change_settings(directory, "config.json", **values)
    one_sentence(lambda: load_base(directory, device="cpu"), "base_model=", part)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("text", [b"null", b"[]", b"3", b"", b'{"a"', b'{"a": "\xe9"}', b"{}"], ids=str)
def test_settings_that_are_no_objects(file, text, copy):
    directory = copy()
    (directory / file).write_bytes(text)
    if text == b"{}" and file in ("generation_config.json", "tokenizer_config.json"):
        load_base(directory, device="cpu")
    else:
        one_sentence(lambda: load_base(directory, device="cpu"), "tokenizer" if file == "tokenizer.json" else file[:6])


def test_a_tokenizer_that_is_missing(copy):
    directory = copy()
    (directory / "tokenizer.json").unlink()
    one_sentence(lambda: load_base(directory, device="cpu"), "the tokenizer of base_model=", "get them again")


@pytest.mark.parametrize("end", ["x", -5, 512, [2, 9999], {"a": 1}, True, 2.5])
def test_ends_that_are_no_tokens(end, copy):
    directory = copy()
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    one_sentence(lambda: load_base(directory, device="cpu"), "eos_token_id", "generation_config.json", "0 to 511")


def with_tokens(directory, count, **roles):
    """Add tokens to the tokenizer until it has `count`, the last of them named <last>."""
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(directory)
    own.add_tokens([f"<{i}>" for i in range(len(own), count - 1)] + ["<last>"])
    own.add_special_tokens(roles)
    own.save_pretrained(directory)


@pytest.mark.parametrize("role", ["pad", "bos", "eos"])
def test_a_role_outside_the_embedding(role, copy):
    directory = copy()
    with_tokens(directory, 513, **{f"{role}_token": "<last>"})
    one_sentence(
        lambda: load_base(directory, device="cpu"), f"{role}_token '<last>' has id 512", "512 rows", "tokenizer_config.json"
    )


def test_tokens_outside_the_embedding(copy):
    directory = copy()
    with_tokens(directory, 512)
    assert load_base(directory, device="cpu").tokenizer("<last>", add_special_tokens=False)["input_ids"] == [511]
    with_tokens(directory, 517)
    one_sentence(lambda: load_base(directory, device="cpu"), "4 tokens", "'<512>' 512", "and 1 more", "512 rows")


def test_a_placeholder_for_pictures_may_lie_outside(copy):
    """Gemma 3's text models have a tokenizer with one token more than their embedding has rows."""
    directory = copy()
    with_tokens(directory, 513)
    change_settings(directory, "tokenizer_config.json", extra_special_tokens={"image_token": "<last>"})
    load_base(directory, device="cpu")


# Code of a model's own


@pytest.fixture
def never_asked(monkeypatch):
    """Fail if anybody is asked anything; "y" would be the answer."""

    def answer(question=""):
        raise AssertionError(f"asked: {question}")

    monkeypatch.setattr("builtins.input", answer)


@pytest.mark.parametrize("model_type", ["nosuch", "llama"])
@pytest.mark.parametrize(
    "load", [lambda d: load_base(d, device="cpu"), lambda d: RewardModel(d, device="cpu")], ids=["base", "reward"]
)
def test_code_of_its_own_is_never_run(model_type, load, copy, tmp_path, never_asked):
    """With a model type that transformers has, its own code serves; without, the model is refused."""
    directory, trace = copy(), tmp_path / "it ran"
    (directory / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    kinds = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModel")
    change_settings(directory, "config.json", model_type=model_type, auto_map={kind: "own.Own" for kind in kinds})
    if model_type == "llama":
        load(directory)
    else:
        one_sentence(lambda: load(directory), "needs code that it brings along", "never run", "use a model")
    assert not trace.exists()


def test_a_tokenizer_with_code_of_its_own(copy, tmp_path, never_asked):
    directory, trace = copy(), tmp_path / "it ran"
    (directory / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass Own: pass\n")
    change_settings(directory, "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    one_sentence(lambda: load_base(directory, device="cpu"), "tokenizer", "needs code that it brings along")
    assert not trace.exists()


def test_nothing_is_loaded_from_elsewhere_but_by_the_strict_readers():
    """Whatever the library loads by transformers' Auto classes goes through models/checkpoint.py, which trusts no code."""
    for file in Path(rlhf_lib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                called, told = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
                if "Auto" in called or file.name == "checkpoint.py":
                    assert (file.name, told.get("trust_remote_code")) == ("checkpoint.py", "False"), f"{file}: {called}"


# Reward models


def test_a_reward_model_gets_a_new_head_and_nothing_else_new(model_dirs, copy):
    assert not RewardModel(model_dirs["llama"], device="cpu").is_trained
    directory = copy()
    change_weights(directory, lambda w: {n: t for n, t in w.items() if n != GONE})
    one_sentence(lambda: RewardModel(directory, device="cpu"), "reward model", "1 missing", GONE)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "qwen2"])
def test_a_saved_reward_model_has_its_head(kind, model_dirs, tmp_path):
    RewardModel(model_dirs[kind], device="cpu").save_pretrained(tmp_path)
    assert RewardModel(tmp_path, device="cpu").is_trained
    change_weights(tmp_path, lambda w: {n: t for n, t in w.items() if not n.startswith("score")})
    one_sentence(lambda: RewardModel(tmp_path, device="cpu"), "1 missing", "score.weight")


def test_an_encoder_without_a_classifier_gets_one(tmp_path, roberta_dir):
    """A masked language model's head goes, and a pooler with it; a new classifier comes."""
    from transformers import AutoTokenizer, RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig.from_pretrained(roberta_dir)
    config.architectures = ["RobertaForMaskedLM"]
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(roberta_dir).save_pretrained(tmp_path)
    change_weights(tmp_path, lambda w: {**w, "roberta.pooler.dense.weight": torch.zeros(32, 32)})
    assert not RewardModel(tmp_path, device="cpu").is_trained
    change_weights(tmp_path, lambda w: {n: t for n, t in w.items() if "layer.0" not in n})
    one_sentence(lambda: RewardModel(tmp_path, device="cpu"), "missing", "roberta.encoder.layer.0")


def test_a_classifier_of_three_classes_is_no_reward_model(tmp_path, roberta_dir):
    from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig.from_pretrained(roberta_dir)
    config.num_labels = 3
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(roberta_dir).save_pretrained(tmp_path)
    one_sentence(lambda: RewardModel(tmp_path, device="cpu"), "of another shape", "classifier.out_proj")


@pytest.mark.parametrize("longest", ["x", 0, 2.5, [3]])
def test_a_limit_of_length_that_is_none(longest, model_dirs, tmp_path):
    RewardModel(model_dirs["llama"], device="cpu").save_pretrained(tmp_path)
    change_settings(tmp_path, "config.json", reward_longest=longest)
    one_sentence(lambda: RewardModel(tmp_path, device="cpu"), f"reward_longest={longest!r}")


def test_a_policy_of_a_broken_run(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"reward_kind": "\xe9"}')
    one_sentence(lambda: load_policy(tmp_path, device="cpu"), "config.json cannot be read as JSON")


def test_value_heads(model_dirs, tmp_path):
    model = TransformerWithValueHead(model_dirs["llama"], device="cpu")
    file = tmp_path / "value_head.safetensors"
    whole = {name: tensor.clone() for name, tensor in model.value_head.state_dict().items()}
    for held, parts in (
        ({n: t for n, t in whole.items() if n != "2.bias"}, ["missing", "2.bias"]),
        ({**whole, "4.bias": torch.zeros(1)}, ["unexpected", "4.bias"]),
        ({**whole, "0.bias": torch.zeros(3)}, ["0.bias [3], not [128]"]),
    ):
        save_file(held, file)
        one_sentence(lambda: model.load_value_head(tmp_path), "value_head.safetensors", *parts)
    file.write_bytes(b"x")
    one_sentence(lambda: model.load_value_head(tmp_path), "value_head.safetensors")


# From the command line


def test_the_command_line_says_it_in_one_line(copy, capsys):
    from rlhf_lib.cli import main

    directory = copy()
    change_weights(directory, lambda w: {n: t for n, t in w.items() if n != GONE})
    assert main(["eval", "--base-model", str(directory), "--device", "cpu", "--problems", "2"]) == 2
    told = capsys.readouterr()
    assert GONE in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_an_adapters_base_is_read_strictly_too(copy, tmp_path):
    directory = copy()
    TransformerWithLora(directory, device="cpu").save_pretrained(tmp_path / "adapter")
    change_weights(directory, lambda w: {n: t for n, t in w.items() if n != GONE})
    one_sentence(lambda: TransformerWithLora.from_adapter(tmp_path / "adapter", device="cpu"), GONE)
