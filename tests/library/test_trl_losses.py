"""Losses and their gradients are those of TRL's GRPOTrainer, for every loss type that it has."""

from types import SimpleNamespace

import pytest
import torch

from rlhf_lib.algorithms import RATIOS, SURROGATES, chosen
from rlhf_lib.args import FAMILY
from rlhf_lib.args.algorithms import ALGORITHMS
from rlhf_lib.correction import sampler_weights
from rlhf_lib.objectives import calc_kl_estimate_penalty, reduce_tokens

GRPOTrainer = pytest.importorskip("trl", reason="needs trl: pip install rlhf_lib[bench]").GRPOTrainer
GRPOConfig = pytest.importorskip("trl").GRPOConfig
ROWS, GEN, LOW, HIGH = 6, 7, 0.2, 0.28
OURS = {  # TRL's name: the row of our table
    "grpo": "grpo",
    "bnpo": "grpo",
    "dr_grpo": "dr-grpo",
    "dapo": "dapo",
    "cispo": "cispo",
    "sapo": "sapo",
    "luspo": "luspo",
    "vespo": "vespo",
}
REDUCTION = {"grpo": "sequence", "sapo": "sequence", "dr_grpo": "constant", "luspo": "constant"}
CASES = [
    *((name, "token", beta) for name in OURS if name != "luspo" for beta in (0.0, 0.3)),
    ("grpo", "sequence", 0.0),
    ("sapo", "sequence", 0.0),
    ("luspo", "sequence", 0.0),
]


@pytest.fixture
def given():
    """Log-probabilities now, when sampled and of the reference; one advantage a row; completions of all lengths."""
    generator = torch.Generator().manual_seed(4)
    now = (-3 * torch.rand(ROWS, GEN, generator=generator, dtype=torch.float64)).requires_grad_()
    old = now.detach() + 0.4 * torch.randn(ROWS, GEN, generator=generator, dtype=torch.float64)
    reference = now.detach() + 0.5 * torch.randn(ROWS, GEN, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.5, -0.7, 0.0, 2.0, -1.0, 0.3], dtype=torch.float64)
    mask = (torch.arange(GEN) < torch.tensor([[7], [1], [3], [5], [7], [2]])).double()
    return now, old, reference, advantages, mask


def theirs(loss_type, level, beta, now, old, reference, advantages, mask):
    """The loss of TRL's own method, which is given log-probabilities in place of a model."""
    defaults = GRPOConfig(output_dir="unused", report_to=[], bf16=False)
    names = ("delta", "sapo_temperature_pos", "sapo_temperature_neg", "steps_per_generation")
    names += ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
    options = {name: getattr(defaults, name) for name in names} | {"steps_per_generation": 1, "use_bias_correction_kl": False}
    trainer = SimpleNamespace(
        args=SimpleNamespace(**options),
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=LOW,
        epsilon_high=HIGH,
        max_completion_length=GEN,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        aux_loss_enabled=False,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        entropy_coef=0.0,
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, device=now.device),
        model=SimpleNamespace(training=True),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        _metrics={"train": Forgetful()},
        _get_per_token_logps_and_entropies=lambda *args, **options: (now, torch.zeros_like(now), None),
    )
    ids = torch.zeros(ROWS, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": torch.zeros(ROWS, GEN, dtype=torch.long),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs)


class Forgetful(dict):
    """Metrics that nobody reads."""

    def __missing__(self, name):
        return []


def ours(loss_type, level, beta, now, old, reference, advantages, mask):
    """The objective as PolicyGradientTrainer composes it, from the row of our table."""
    row = ALGORITHMS[OURS[loss_type]]
    reduction = REDUCTION.get(loss_type, "token")
    ratio = chosen(level if row.ratio == "token" else row.ratio, RATIOS)(now - old, mask)
    each = chosen(row.surrogate, SURROGATES)(ratio, advantages[:, None].expand_as(now), now, mask, (1 - LOW, 1 + HIGH))
    if loss_type == "cispo":  # TRL's bound is the cap itself
        each = chosen(row.surrogate, SURROGATES)(ratio, advantages[:, None].expand_as(now), now, mask, (0.0, HIGH))
    objective = reduce_tokens(each, GEN, mask, reduction)
    if beta:
        objective = objective - calc_kl_estimate_penalty(now, reference, beta, GEN, mask=mask, reduction=reduction)
    return objective * (GEN if loss_type == "luspo" else 1)


@pytest.mark.parametrize(("loss_type", "level", "beta"), CASES)
def test_loss_and_gradient(loss_type, level, beta, given):
    loss, objective = (compute(loss_type, level, beta, *given) for compute in (theirs, ours))
    torch.testing.assert_close(-objective, loss, rtol=1e-6, atol=1e-9)
    gradients = [torch.autograd.grad(value, given[0])[0] for value in (-objective, loss)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)
    assert gradients[0].abs().max() > 1e-3


def test_every_loss_type_is_here():
    source = GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    named = {name for name in (*OURS, "grpo_new") if f"`'{name}'`" in source or f"'{name}'" in source or name in source}
    assert named == set(OURS)
    assert set(OURS.values()) - {"grpo"} <= set(FAMILY)


@pytest.mark.parametrize("kind", ["token", "token-mask", "sequence", "sequence-mask"])
def test_weights_of_another_sampler(kind, given):
    """As in TRL: exp of the difference, of a token or summed over the sequence, cut at the cap, or 0 over it."""
    now, sampler, _, _, mask = given
    now, sampler, mask = now.detach().float(), sampler.float(), mask.float()
    difference = (now - sampler) * mask
    ratio = (difference.sum(1, keepdim=True) if kind.startswith("sequence") else difference).exp()
    expected = ratio.masked_fill(ratio > 1.5, 0.0) if kind.endswith("mask") else ratio.clamp(max=1.5)
    torch.testing.assert_close(sampler_weights(now, sampler, 1.5, mask, kind), expected * mask)
