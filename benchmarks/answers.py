"""What reading and rewarding an answer costs, on ordinary and on hostile text.

    python benchmarks/answers.py

Prints microseconds a call, medians of 20 calls: reading and comparing the answer, and all reward functions
of rlhf_lib.rewards.REWARDS together. Writes the table to benchmarks/results/answers.md.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tabulate import tabulate

from rlhf_lib.rewards import REWARDS, answers_match

TEXTS = {
    "an answer in tags": "<reasoning>\n3+4=7\n</reasoning>\n<answer>\n7\n</answer>\n",
    "nothing": "",
    "three answers, the last unclosed": "<answer>1</answer> no: <answer>2</answer> or <answer>3",
    "a power": "<answer>10^9</answer>",
    "a huge exponent": "<answer>1e999999999</answer>",
    "code": "<answer>__import__('os').system('true')</answer>",
    "Arabic digits": "<answer>\u0663</answer>",
    "a million digits": "9" * 10**6,
    "a million digits in tags": f"<answer>{'9' * 10**6}</answer>",
    "1/ repeated": "1/" * 10**5,
    "unclosed <answer> repeated": "<answer>" * 10**5,
    "unclosed \\boxed{ repeated": "\\boxed{" * 10**5,
    "#### repeated": "#### " * 10**5,
    "the answer is, repeated": "the answer is " * 10**5,
    "1,000 run together": "1,000" * 10**5,
    "</reasoning><answer> repeated": "<reasoning>" + "</reasoning><answer>" * 10**5,
    "the same, with lines": "<reasoning>\n" + "\n</reasoning>\n<answer>\n" * 10**5,
    "( repeated": "( " * 10**5,
    "words that may end anywhere": "<answer>" + "a.b'" * 40 + "^ 5</answer>",
    "1 000 run together": "1 000 " * 10**5,
    "\\frac{1 repeated": "\\frac{1" * 10**5,
    "2 + repeated": "2 + " * 10**5,
}


def microseconds(call: Callable[[], object], calls: int = 20) -> float:
    """Median over some calls."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - started))
    return round(statistics.median(times), 1)


def reward_all(text: str) -> None:
    """Every reward function on one completion."""
    for reward in REWARDS.values():
        reward(["?"], [text], answer=["3"])


def main() -> None:
    """Print the table and write it."""
    rows = []
    for name, text in TEXTS.items():
        costs = microseconds(partial(answers_match, text, "3")), microseconds(partial(reward_all, text))
        rows.append((name, len(text), *costs))
    heads = ("text", "characters", "answers_match, microseconds", f"all {len(REWARDS)} rewards, microseconds")
    table = tabulate(rows, heads, tablefmt="github")
    (Path(__file__).parent / "results" / "answers.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
