"""No field is swallowed: a tiny run of an algorithm reads every field of its arguments, or the class says that it does not."""

import ast
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import rlhf_lib
from rlhf_lib.args import CompareArgs, EvalArgs, MergeArgs, PretrainArgs, SampleArgs
from rlhf_lib.trainers import TRAINERS

from .conftest import ARGS_OF, SMALL_RUN

ROOT = Path(rlhf_lib.__file__).parent
CHECKS_OR_KEEPS = (
    "__post_init__",
    "checked",
    "to_json",
    "check_same_run",
    "replace",
)  # functions that look at all fields alike
UNDER_A_CONDITION = {  # fields that only another field's value brings to bear
    "wandb_project_name": "use_wandb",
    "wandb_entity": "use_wandb",
    "sampler_memory": "sampler vllm",
    "sampler_url": "sampler vllm-server",
    "sampler_directory": "sampler vllm-server",
    "sampler_timeout": "sampler vllm-server",
    "sampler_cap": "another sampler, or correct_sampler",
    "sampler_correction": "another sampler, or correct_sampler",
    "kl_estimator": "kl_coef",
    "reference": "adapter",
    "keep_solutions": "self_samples",
    "lora_alpha": "lora_rank or no adapter",
    "lora_maps": "lora_rank or no adapter",
    "temperature": "self_samples",
    "margin": "kind bradley-terry",
    "centring_coef": "kind bradley-terry",
    "prefix": "task char-count",
    "reward_fn": "task char-count",
}
TAKEN_ALONG = {  # fields without effect that code for all algorithms looks at
    "head_lr": "of an optimiser group that has no parameters here",
    "critic_phases": "whether there are any",
    "rewards": "whether there are any",
    "reward_model": "whether there is one",
    "clip_coef": "of the clip fractions that all log",
    "clip_coef_high": "likewise",
    "refill_draws": "whether there are any",
    "overlong_share": "whether there is one",
    "mask_truncated": "whether it is asked for",
}


class Reads(set):
    """Names of the fields that were read of arguments of a class, apart from what checks or keeps all of them."""

    def __init__(self, kind, monkeypatch):
        super().__init__()
        names = {f.name for f in fields(kind)}

        def noting(args, name):
            if name in names and name not in self and not self.is_kept(sys._getframe(1)):
                self.add(name)
            return object.__getattribute__(args, name)

        monkeypatch.setattr(kind, "__getattribute__", noting, raising=False)

    @staticmethod
    def is_kept(frame):
        while frame is not None:
            if frame.f_code.co_name in CHECKS_OR_KEEPS:
                return True
            frame = frame.f_back
        return False


def mentioned():
    """Names that are read as attributes anywhere outside `args`."""
    files = [file for file in ROOT.rglob("*.py") if "args" not in file.relative_to(ROOT).parts]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.fixture
def tiny_run(neo_dir, gsm8k_dir, roberta_dir, tmp_path):
    """Arguments of a run of an algorithm that needs all it has."""

    def given(algorithm):
        problems = {"task": "gsm8k", "data": str(gsm8k_dir), "few_shot": 1, "eval_problems": 2, "eval_every": 1}
        run = {**SMALL_RUN, **problems, "base_model": str(neo_dir), "output_dir": str(tmp_path / "run")}
        if algorithm in ("sft", "reward-model"):
            run = {name: value for name, value in run.items() if name not in ("prefix", "num_minibatches")}
            run |= {"problems": 10, "epochs": 2}
        else:
            run |= {"total_phases": 2, "warmup_steps": 0, "batch_size": 4}
        own = {
            "reward-model": {"reward_base": str(roberta_dir), "samples": 2, "with_solutions": True, "kind": "verifier"},
            "reft": {"warmup_problems": 4, "warmup_batch_size": 4},
            "grpo": {"group_size": 2},
            "latro": {"gen_len": 16},
        }
        return {**run, **own.get(algorithm, {})}

    return given


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", TRAINERS)
def test_each_field_is_read_or_said_not_to_be(algorithm, tiny_run, monkeypatch):
    kind = ARGS_OF[algorithm]
    reads = Reads(kind, monkeypatch)
    TRAINERS[algorithm](kind(**tiny_run(algorithm))).train()
    names = {f.name for f in fields(kind)}
    swallowed = names - reads - set(kind.unread) - set(UNDER_A_CONDITION)
    assert not swallowed, f"{algorithm} reads nowhere: {', '.join(sorted(swallowed))}"
    assert set(UNDER_A_CONDITION) & names <= mentioned() | set(kind.unread)
    said = reads & set(kind.unread) - set(TAKEN_ALONG)
    assert not said, f"{kind.__name__}.unread has fields that are read: {', '.join(sorted(said))}"


@pytest.mark.parametrize("kind", [CompareArgs, EvalArgs, MergeArgs, PretrainArgs, SampleArgs])
def test_commands_read_their_fields(kind):
    assert {f.name for f in fields(kind)} - set(kind.unread) <= mentioned()


@pytest.mark.parametrize("kind", [CompareArgs, *ARGS_OF.values()])
def test_what_is_not_read_is_a_field(kind):
    assert set(kind.unread) <= {f.name for f in fields(kind)}
