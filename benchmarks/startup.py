"""How long one waits before anything happens: importing the package, and the command line's help.

    python benchmarks/startup.py

Prints the median seconds of 7 fresh processes each, with those of an empty Python beside them.
"""

import statistics
import subprocess
import sys
import time

from tabulate import tabulate

COMMANDS = {
    "an empty Python": ["-c", ""],
    "import rlhf_lib": ["-c", "import rlhf_lib"],
    "rlhf --help": ["-m", "rlhf_lib", "--help"],
    "rlhf train --help": ["-m", "rlhf_lib", "train", "--help"],
    "rlhf train grpo --help": ["-m", "rlhf_lib", "train", "grpo", "--help"],
}


def seconds(words: list[str], runs: int = 7) -> float:
    """Median over some processes."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    print(tabulate([(name, seconds(words)) for name, words in COMMANDS.items()], ("command", "seconds"), floatfmt=".2f"))
