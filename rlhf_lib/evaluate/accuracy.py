"""A share of right answers, with its uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95% interval (Wilson 1927), all in [0, 1]."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, count: int) -> "Accuracy":
        """From counts; Wilson's interval keeps its meaning near 0 and 1, where the plain one does not."""
        if count == 0:
            return cls(math.nan, 0.0, 1.0)
        z, share = 1.959964, correct / count
        centre = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        return cls(share, max(0.0, centre - half), min(1.0, centre + half))

    @classmethod
    def mean(cls, shares: Sequence[float]) -> "Accuracy":
        """From one share a problem, such as its estimated pass@k: the mean and its normal 95% interval, cut to [0, 1].

        Shares of 0 and 1 alone get Wilson's interval.
        """
        count = len(shares)
        if all(share in (0, 1) for share in shares):
            return cls.of(round(sum(shares)), count)
        centre = sum(shares) / count
        variance = sum((share - centre) ** 2 for share in shares) / max(1, count - 1)
        half = 1.959964 * math.sqrt(variance / count)
        return cls(centre, max(0.0, centre - half), min(1.0, centre + half))

    def as_dict(self) -> dict[str, float]:
        """For JSON, to four decimals."""
        return {name: round(value, 4) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"
