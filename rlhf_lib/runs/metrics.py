"""Metrics of a phase: collected anywhere by name, averaged at the phase's end; and the formulas that several trainers share."""

import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_lib.objectives import LARGEST_LOG_RATIO, Mask, hide, reduce_tokens
from rlhf_lib.sharding import whole


class PhaseMetrics:
    """Numbers collected during a phase. Names that begin with "seconds_" add up, all others average."""

    def __init__(self) -> None:
        self.collected: dict[str, list[float]] = defaultdict(list)

    def log(self, **values: float | Tensor | None) -> None:
        """Collect one observation of each; None is left out."""
        for name, value in values.items():
            if value is not None:
                self.collected[name].append(float(whole(value.detach()) if isinstance(value, Tensor) else value))

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Log the wall-clock seconds spent inside as seconds_<part>."""
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.log(**{f"seconds_{part}": time.perf_counter() - started})

    def take(self) -> dict[str, float]:
        """The phase's figures; the collection is then empty."""
        figures = {
            name: sum(values) if name.startswith("seconds_") else sum(values) / len(values)
            for name, values in self.collected.items()
        }
        self.collected.clear()
        return figures


def peak_memory_mb() -> float:
    """Peak memory since the process began, in MB: of the GPU if one is in use, else resident."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent process held when it started this one
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if peak:
            return int(peak[1]) * 1024 / 1e6
    import resource  # not on Windows

    peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_rss / (1e6 if sys.platform == "darwin" else 1e3)


@torch.no_grad()
def ratio_metrics(
    logprobs: Float[Tensor, "batch gen"],
    mb_logprobs: Float[Tensor, "batch gen"],
    mb_advantages: Float[Tensor, "batch gen"],
    clip_range: tuple[float, float],
    mask: Mask,
) -> dict[str, Tensor]:
    """How far the policy has moved since it sampled.

    The mean ratio and its deviation over tokens, the KL from the sampling policy (its k3 estimate, in nats a token), and the
    share of tokens whose gradient the clip takes away, low and high.
    """
    gen_len = logprobs.shape[1]
    log_ratio = hide(logprobs - mb_logprobs, mask)
    ratio = log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
    mean = reduce_tokens(ratio, gen_len, mask)
    low = ((ratio < clip_range[0]) & (mb_advantages < 0)).float()
    high = ((ratio > clip_range[1]) & (mb_advantages > 0)).float()
    return {
        "ratio": mean,
        "ratio_std": reduce_tokens((ratio - mean).square(), gen_len, mask).sqrt(),
        "update_kl": reduce_tokens(ratio - 1 - log_ratio, gen_len, mask),
        "clip_low": reduce_tokens(low, gen_len, mask),
        "clip_high": reduce_tokens(high, gen_len, mask),
    }


@torch.no_grad()
def explained_variance(values: Float[Tensor, "batch gen"], returns: Float[Tensor, "batch gen"], mask: Mask) -> float | None:
    """1 - Var(returns - values) / Var(returns) over real tokens: 1 is a perfect critic, 0 or less a useless one.

    None if the returns do not vary.
    """
    real = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool()
    if real.sum() < 2 or (spread := returns[real].var()) == 0:
        return None
    return float(1 - (returns - values)[real].var() / spread)


def group_metrics(rewards: Float[Tensor, " batch"], group_size: int, best: float | None = None) -> dict[str, float]:
    """Shares of all groups: groups_without_spread, and the two kinds of those, groups_all_right and groups_all_wrong.

    A flat group is all right if its reward is at least `best` (None: the highest of the phase) and above 0, else all wrong.
    """
    groups = rewards.reshape(-1, group_size)
    flat = (groups == groups[:, :1]).all(dim=1)
    top = rewards.max() if best is None else best
    all_right = flat & (groups[:, 0] >= top) & (groups[:, 0] > 0)
    return {
        "groups_without_spread": float(flat.float().mean()),
        "groups_all_right": float(all_right.float().mean()),
        "groups_all_wrong": float((flat & ~all_right).float().mean()),
    }


def first_reaching(history: list[dict[str, float | int | None]], name: str, level: float, window: int = 1) -> int | None:
    """Index of the first record from which a metric stays at or above a level for `window` records in a row; None if never.

    Records that lack the metric (or have None) are passed over: they neither count for the window nor end it. With the window
    above 1 a lucky phase is not taken for a change.
    """
    start, length = None, 0
    for i, record in enumerate(history):
        value = record.get(name)
        if value is None:
            continue
        if value < level:
            start, length = None, 0
            continue
        start, length = (i if start is None else start), length + 1
        if length == window:
            return start
    return None


def rollout_metrics(rewards: Float[Tensor, " batch"], mask: Float[Tensor, "batch gen"], stops: bool) -> dict[str, float | None]:
    """Reward mean and deviation, completion length (overall, and of the better and worse half by mean), truncated share."""
    lengths = mask.sum(dim=1).float().cpu()
    better = rewards > rewards.mean()
    cut = (lengths == mask.shape[1]).float()
    return {
        "reward": float(rewards.mean()),
        "reward_std": float(rewards.std()) if len(rewards) > 1 else 0.0,
        "length": float(lengths.mean()),
        "length_above_mean_reward": float(lengths[better].mean()) if better.any() else None,
        "length_below_mean_reward": float(lengths[~better].mean()) if (~better).any() else None,
        "full_length_share": float(cut.mean()) if stops else None,
    }
