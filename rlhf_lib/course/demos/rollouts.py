"""Sampling the bundled model, and scoring what it writes."""

import torch
from tabulate import tabulate

from rlhf_lib.advantages import normalize_reward
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.rewards import correctness_reward, reward_fn_char_count
from rlhf_lib.rollouts import get_logprobs, get_samples, rollout
from rlhf_lib.tasks import PocketTask

PROBLEMS = 30
GROUP = 8  # completions of each problem
GEN_LEN = 48
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1": {"temperature": 1.0},
    "temperature 2": {"temperature": 2.0},
    "temperature 1, top_k 2": {"temperature": 1.0, "top_k": 2},
    "temperature 1, top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
}


def main() -> None:
    """Reward full stops after a prefix, then right answers to word problems under several ways of sampling."""
    policy = TransformerWithLora.from_pretrained("pocket", device="cpu")
    torch.manual_seed(0)
    _, texts = get_samples(policy, "Question: Anna has", 6, gen_len=36, temperature=1.0, top_k=None)
    rewards = reward_fn_char_count(texts)
    rows = zip(texts, rewards.tolist(), normalize_reward(rewards).tolist(), strict=True)
    print(tabulate(rows, ("sample", "full stops", "normalised"), floatfmt=("", ".0f", ".2f")), "\n")

    task = PocketTask()
    problems = task.held_out(PROBLEMS).repeat(GROUP)
    rows = []
    for name, sampling in SETTINGS.items():
        sampled = rollout(policy, problems.prompts, GEN_LEN, generator=torch.Generator().manual_seed(0), **sampling)
        right = torch.tensor(correctness_reward(problems.prompts, sampled.completions, **problems.columns))
        reasons = [task.style_of(completion) == "reasoning" for completion in sampled.completions]
        best_of_group = right.reshape(PROBLEMS, GROUP).max(dim=1).values
        with torch.no_grad():
            logits, _ = policy.forward_with_value_head(sampled.ids, sampled.attention_mask, logits_to_keep=GEN_LEN + 1)
        scored = get_logprobs(logits, sampled.ids[:, -GEN_LEN - 1 :], temperature=sampling["temperature"] or 1.0)
        tokens = sampled.mask.sum()
        rows.append(
            (
                name,
                f"{sum(reasons) / len(reasons):.0%}",
                f"{right.mean():.0%}",
                f"{best_of_group.mean():.0%}",
                float(tokens / len(right)),
                float((sampled.sampler_logprobs - sampled.logprobs).sum() / tokens),
                float(((scored - sampled.logprobs) * sampled.mask).abs().max()),
            )
        )
    headers = ("sampling", "reasons", "right", f"best of {GROUP}", "tokens", "gap of truncation", "scored again")
    print(tabulate(rows, headers, floatfmt=("", "", "", "", ".1f", ".3f", ".0e")))
