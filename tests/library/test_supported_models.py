"""Every architecture of the table is right, the plain way and the fast one, beside Hugging Face and peft; the table is true."""

import functools
import re
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file

from rlhf_lib.args import InputError
from rlhf_lib.models import BridgedTransformer, bridging

from .supported_models import ARCHITECTURES, CHECKS, Case, cells, written

LOCK = (Path(__file__).parents[1] / "constraints.txt").read_text()
AS_LOCKED = transformers.__version__ == str(max(map(Version, re.findall(r"^transformers==(\S+)", LOCK, re.MULTILINE))))
RIGHT = [name for name, (trains, _, _) in written().items() if trains == "yes"]


@pytest.fixture(scope="session")
def case_of(tmp_path_factory):
    """The tiny model of an architecture, made once."""
    root = tmp_path_factory.mktemp("supported")
    return functools.cache(lambda name: Case.make(name, root))


def test_the_table_has_every_architecture():
    assert list(written()) == list(ARCHITECTURES)
    assert len(RIGHT) >= 30


def right_or_refused(check, *given):
    """On the versions of the table nothing in it is refused; on others a model may be, but is never wrong."""
    try:
        check(*given)
    except InputError as refusal:
        if AS_LOCKED or not re.search("is not what TransformerLens|cannot be bridged", str(refusal)):
            raise
        pytest.skip(f"refused: {refusal}")


@pytest.mark.skipif(not AS_LOCKED, reason="the table is of the newest transformers of the lock")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_is_true(name, tmp_path):
    trains, fast, notes = cells(name, tmp_path)
    assert written()[name][:2] == (trains, fast)
    assert trains == "no" or written()[name][2] == notes  # a refusal's words name versions


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", RIGHT)
def test_as_hugging_face(name, check, case_of):
    right_or_refused(CHECKS[check], case_of(name))


def test_a_bridge_that_computes_something_else_is_refused(case_of, monkeypatch):
    """Whatever the reason: here attention that forgets its scale."""
    boot = bridging.TransformerBridge.boot_transformers

    def off(*args, **options):
        bridge = boot(*args, **options)
        bridge.blocks[0].attn.original_component.scaling *= 2
        return bridge

    monkeypatch.setattr(bridging.TransformerBridge, "boot_transformers", off)
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM is not what TransformerLens .* logits differ by .*; use a model of"
    ):
        BridgedTransformer(case_of("llama").directory, device="cpu")


def test_a_bias_made_for_splitting_is_gone_again(case_of):
    model = BridgedTransformer(case_of("gpt_neox, no attention bias").directory, device="cpu")
    assert not any("attn" in name and name.endswith("bias") for name, _ in model.base_model.named_parameters())


def test_the_router_of_experts_is_no_gate(case_of):
    for name in ("qwen3_moe", "mixtral", "olmoe"):
        assert {m.map_name for m in case_of(name).adapted.lora.maps} == {"attn.q", "attn.k", "attn.v", "attn.o"}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_saved_untouched_is_what_was_loaded(name, case_of, tmp_path):
    """Fused maps, tied weights and all: every number comes back."""
    right_or_refused(lambda: BridgedTransformer(case_of(name).directory, device="cpu").save_pretrained(tmp_path))
    before, after = (load_file(folder / "model.safetensors") for folder in (case_of(name).directory, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
