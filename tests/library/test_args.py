"""Arguments validate themselves and say what to do."""

from dataclasses import dataclass

import pytest
import torch

from rlhf_lib.args import GrpoArgs, InputError, LoraArgs, PretrainArgs, RLHFArgs, from_json, to_json
from rlhf_lib.optim import get_optimizer, get_optimizer_and_scheduler, learning_rate_scale
from rlhf_lib.rewards import reward_fn_char_count


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (
            RLHFArgs,
            {"batch_size": 10, "num_minibatches": 4},
            "batch_size=10 is not a multiple of num_minibatches=4; try batch_size=12",
        ),
        (RLHFArgs, {"gen_len": 0}, "gen_len=0 must be above 0"),
        (RLHFArgs, {"temperature": 0.0}, "temperature=0.0 must be above 0"),
        (RLHFArgs, {"top_k": 0}, "top_k=0 must be above 0"),
        (RLHFArgs, {"top_p": 1.5}, "top_p=1.5"),
        (RLHFArgs, {"kl_coef": -1.0}, "kl_coef=-1.0 must not be negative"),
        (RLHFArgs, {"final_scale": 2.0}, "final_scale=2.0 must lie between 0 and 1"),
        (RLHFArgs, {"warmup_steps": 30, "total_phases": 30}, "try warmup_steps=3"),
        (RLHFArgs, {"task": "pocket", "reward_fn": len}, "brings its own rewards"),
        (LoraArgs, {"lora_rank": 0}, "lora_rank=0 must be above 0"),
        (LoraArgs, {"lora_maps": ("attn.z",)}, "lora_maps=.*attn.q"),
        (GrpoArgs, {"group_size": 1}, "group_size=1 leaves nothing to compare with"),
        (GrpoArgs, {"group_size": 48, "batch_size": 128}, "group_size=48 does not divide batch_size=128; try batch_size=144"),
        (PretrainArgs, {"width": 100, "heads": 8}, "width=100.*try width=112"),
    ],
)
def test_bad_values(kind, given, message):
    with pytest.raises(InputError, match=message):
        kind(**given)


def test_the_remedies_work():
    RLHFArgs(batch_size=12, num_minibatches=4)
    GrpoArgs(group_size=48, batch_size=144)
    with pytest.raises(InputError, match="try batch_size=140"):
        GrpoArgs(group_size=7, batch_size=128)
    GrpoArgs(group_size=7, batch_size=140)
    PretrainArgs(width=112, heads=8)


def test_keyword_only_and_subclassed_with_a_bare_dataclass():
    with pytest.raises(TypeError):
        RLHFArgs(1)

    @dataclass
    class Mine(GrpoArgs):
        extra: int = 7

    assert Mine(batch_size=64, group_size=8).extra == 7


@pytest.mark.parametrize("kind", [RLHFArgs, LoraArgs, GrpoArgs])
def test_json_round_trip(kind):
    args = kind(seed=3, base_lr=1e-5)
    assert from_json(kind, to_json(args)) == args
    with_reward = kind(reward_fn=reward_fn_char_count)
    assert from_json(kind, to_json(with_reward)).reward_fn == "rlhf_lib.rewards.functions:reward_fn_char_count"


def test_bad_json():
    with pytest.raises(InputError, match="not JSON"):
        from_json(RLHFArgs, "{", "args.json")
    with pytest.raises(InputError, match="lacks: nonsense"):
        from_json(RLHFArgs, '{"nonsense": 1}', "args.json")


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_schedule(warmup, decay):
    args = RLHFArgs(total_phases=20, warmup_steps=warmup, final_scale=0.1, lr_decay=decay)
    scales = [learning_rate_scale(phase, args) for phase in range(20)]
    assert min(scales) > 0, "no phase, the first above all, has learning rate 0"
    assert scales[warmup] == max(scales) == 1
    assert scales[-1] == pytest.approx(0.1)
    assert scales[: warmup + 1] == sorted(scales[: warmup + 1])
    assert scales[warmup:] == sorted(scales[warmup:], reverse=True)


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)

    def get_base_model_trainable_params(self):
        return list(self.body.parameters())

    def get_value_head_params(self):
        return list(self.head.parameters())


def test_optimizer_maximises_with_two_learning_rates():
    model = Toy()
    optimizer = get_optimizer(model, 1e-3, 1e-2)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-2]
    assert all(group["maximize"] and group["weight_decay"] == 0.01 for group in optimizer.param_groups)
    before = model.head(model.body(torch.ones(3))).item()
    model.head(model.body(torch.ones(3))).backward()
    optimizer.step()
    assert model.head(model.body(torch.ones(3))).item() > before


def test_betas_and_weight_decay_are_honoured():
    args = RLHFArgs(adam_beta1=0.5, adam_beta2=0.9, weight_decay=0.3, warmup_steps=0)
    optimizer, scheduler = get_optimizer_and_scheduler(args, Toy())
    assert {group["betas"] for group in optimizer.param_groups} == {(0.5, 0.9)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3}
    assert scheduler.get_last_lr() == [args.base_lr, args.head_lr]
