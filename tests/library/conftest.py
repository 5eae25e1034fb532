"""Fixtures: tiny models on disk, small trainers, the real data where it is; shapes in signatures are checked at run time."""

import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook

install_import_hook("rlhf_lib", "shape_checks.beartype_once")

os.environ.setdefault("RLHF_COURSE_WARM", "0")  # no process outlives the tests

import pytest
import torch

from rlhf_lib.args import FAMILY, GrpoArgs, LoraArgs, ReftArgs, RewardModelArgs, RLHFArgs, SftArgs

from .deprecations import DeprecatedCalls

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("RLHF_SHARED", ROOT.parent / "shared"))
ARCHITECTURES = ("llama", "gpt2", "gpt_neo", "gpt_neox", "qwen2")
ARGS_OF = {
    "ppo": RLHFArgs,
    "ppo-lora": LoraArgs,
    "grpo": GrpoArgs,
    "reft": ReftArgs,
    **FAMILY,
    "sft": SftArgs,
    "reward-model": RewardModelArgs,
}
ON_A_PREFIX = ("ppo", "ppo-lora", "grpo")  # algorithms that also learn from a fixed prefix
SMALL_RUN = {
    "device": "cpu",
    "prefix": "Anna has",
    "gen_len": 6,
    "batch_size": 8,
    "num_minibatches": 2,
    "eval_problems": 0,
    "log_samples_every": 0,
}


def tiny_config(kind):
    from transformers import GPT2Config, GPTNeoConfig, GPTNeoXConfig, LlamaConfig, Qwen2Config

    ends = {"bos_token_id": 1, "eos_token_id": 2}
    grouped = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 64}
    llama_like = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, **grouped, **ends}
    return {
        "llama": lambda: LlamaConfig(**llama_like),
        "qwen2": lambda: Qwen2Config(**llama_like),
        "gpt2": lambda: GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=64, **ends),
        "gpt_neo": lambda: GPTNeoConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=48,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=64,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
            **ends,
        ),
        "gpt_neox": lambda: GPTNeoXConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            **ends,
        ),
    }[kind]()


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(1)  # the suite runs in two processes (make test)


@pytest.fixture(scope="session")
def tokenizer():
    from transformers import AutoTokenizer

    from rlhf_lib.models.loading import BUNDLED

    return AutoTokenizer.from_pretrained(BUNDLED["pocket"])


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory, tokenizer):
    """A directory for each architecture: random weights large enough that attention and dropout would show."""
    from transformers import AutoModelForCausalLM

    root, found = tmp_path_factory.mktemp("models"), {}
    for seed, kind in enumerate(ARCHITECTURES):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(kind))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(5)
        model.save_pretrained(root / kind)
        tokenizer.save_pretrained(root / kind)
        found[kind] = root / kind
    return found


@pytest.fixture(scope="session")
def shared():
    """The folder with real data and a real pretrained model."""
    if not SHARED.is_dir():
        pytest.skip("the real data and model are not beside the repository (set RLHF_SHARED to their folder)")
    return SHARED


@pytest.fixture(scope="session")
def neo_dir(tmp_path_factory, tokenizer):
    """A tiny random GPT-Neo whose context has room for word problems."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = tiny_config("gpt_neo")
    config.max_position_embeddings = 640
    root = tmp_path_factory.mktemp("neo")
    AutoModelForCausalLM.from_config(config).save_pretrained(root)
    tokenizer.save_pretrained(root)
    return root


@pytest.fixture(scope="session")
def roberta_dir(tmp_path_factory):
    """A tiny random RoBERTa classifier with a byte-level tokenizer of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("roberta")
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=514,
        type_vocab_size=1,
        num_labels=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(root)
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    own = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>"
    ).save_pretrained(root)
    return root


GSM8K = [
    (f"Anna has {a} apples and buys {b} bags of {c}. How many apples does she have?", a, b, c)
    for a, b, c in [(3, 2, 5), (4, 3, 6), (10, 2, 2), (7, 5, 4), (1, 9, 3), (12, 4, 5), (6, 6, 6), (20, 3, 7)]
]


@pytest.fixture(scope="session")
def gsm8k_dir(tmp_path_factory):
    """A folder in GSM8K's format: 24 problems to train on, 6 to test."""
    import json

    root = tmp_path_factory.mktemp("gsm8k")

    def row(i, question, a, b, c):
        worked = f"She buys {b}*{c}=<<{b}*{c}={b * c}>>{b * c} apples.\nNow she has {a}+{b * c}=<<{a}+{b * c}={a + b * c}>>"
        return {"question": question.replace("Anna", f"Anna{i}"), "answer": f"{worked}{a + b * c} apples.\n#### {a + b * c}"}

    train = [row(i, *problem) for i in range(3) for problem in GSM8K]
    test = [row(9, *problem) for problem in GSM8K[:6]]
    for split, rows in (("train", train), ("test", test)):
        (root / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


@pytest.fixture
def make(model_dirs, tmp_path):
    """Builds a small trainer by its name."""
    from rlhf_lib.trainers import TRAINERS

    def build(name, kind="llama", **changes):
        given = {
            "base_model": str(model_dirs[kind]),
            "output_dir": str(tmp_path / "run"),
            "total_phases": 4,
            **SMALL_RUN,
            **changes,
        }
        return TRAINERS[name](ARGS_OF[name](**given))

    return build


@pytest.fixture
def calls(monkeypatch):
    """A package vllm that notes its calls."""
    from . import vllm_stand_in

    told = vllm_stand_in.Calls()
    vllm_stand_in.install(monkeypatch, told)
    return told


@pytest.fixture
def server(calls, model_dirs):
    """A vLLM server that notes them too."""
    from . import vllm_stand_in

    stand_in = vllm_stand_in.Server(calls, str(model_dirs["llama"]))
    yield stand_in
    stand_in.stop()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A student's clone, without history."""
    from rlhf_lib.course.render import write_course

    for folder in ("chapters", "solutions", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "library"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "rlhf_lib").symlink_to(ROOT / "rlhf_lib")
    write_course(tmp_path)
    (tmp_path / "exercises" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def deprecated_calls(monkeypatch):
    """Every deprecated call of ours that a test leads to; one is an error."""
    found = DeprecatedCalls()
    monkeypatch.setattr(warnings, "showwarning", found)
    yield found
    assert not found, "deprecated: " + "; ".join(found)


def pytest_collection_modifyitems(items):
    # the slowest first, so that both processes end together
    items.sort(key=lambda item: "test_course_checkers" not in item.nodeid)
    lacking = {
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "vllm": None if find_spec("vllm") else "needs vLLM: tests/library/vllm_environment.sh makes an environment with it",
    }
    for item in items:
        for marker, reason in lacking.items():
            if reason and item.get_closest_marker(marker):  # keywords hold parameters too, such as "vllm"
                item.add_marker(pytest.mark.skip(reason=reason))
