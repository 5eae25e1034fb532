"""What reading an answer costs, on ordinary and on hostile text.

    python benchmarks/answers.py

Prints microseconds a call: the median of 20 calls, beside the length in characters.
"""

import statistics
import time

from tabulate import tabulate

from rlhf_lib.rewards import answers_match

TEXTS = {
    "an answer in tags": "<reasoning>\n3+4=7\n</reasoning>\n<answer>\n7\n</answer>\n",
    "a million digits": "9" * 10**6,
    "1/ repeated": "1/" * 10**5,
    "unclosed <answer> repeated": "<answer>" * 10**5,
    "unclosed \\boxed{ repeated": "\\boxed{" * 10**5,
    "#### repeated": "#### " * 10**5,
    "1,000 run together": "1,000" * 10**5,
}


def microseconds(text: str, calls: int = 20) -> float:
    """Median over some calls."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        answers_match(text, "3")
        times.append(1e6 * (time.perf_counter() - started))
    return statistics.median(times)


if __name__ == "__main__":
    rows = [(name, len(text), round(microseconds(text), 1)) for name, text in TEXTS.items()]
    print(tabulate(rows, headers=("text", "characters", "microseconds")))
