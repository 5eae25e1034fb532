"""Peak memory of scoring and learning at a large vocabulary: the library as it is, against the plain formulas.

    python benchmarks/memory.py [--vocab 151936] [--batch 32] [--gen-len 128] [--output FILE]

The model is so small (width 16, one layer) that what depends on the vocabulary is all that counts. The two run one after the
other, each in a process of its own; RLHF_PLAIN=1 in the second's environment switches the library's fast paths off. A peak is
the highest resident size from the first score to the last update, minus the resident size when all imports were done and no
model was loaded. Prints one JSON object last.
"""

import argparse
import tempfile
from pathlib import Path

from ours import save_random_llama, work
from record import Worker, made_with, median, ratio, write_result

from rlhf_lib.args import GrpoArgs

ENVIRONMENTS = {"library": {"RLHF_PLAIN": ""}, "plain": {"RLHF_PLAIN": "1"}}


def measure(args: GrpoArgs, environment: dict[str, str], phases: int, threads: int) -> dict[str, float]:
    """One side in a process of its own: the peak over all phases, and median seconds, one phase uncounted."""
    with Worker(threads, work, args, True, False, environment=environment) as worker:
        answers = [worker.ask() for _ in range(phases + 1)]
    last, counted = answers[-1], answers[1:]
    return {
        "peak_mb": round(max(last["score_mb"], last["learn_mb"]), 1),
        **{name: round(last[name], 1) for name in ("generate_mb", "score_mb", "learn_mb")},
        "seconds": median(answer["score_s"] + answer["learn_s"] for answer in counted),
        **{name: median(answer[name] for answer in counted) for name in ("score_s", "learn_s")},
    }


def main(words: list[str] | None = None) -> None:
    """Measure both and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"vocab": 151_936, "batch": 32, "gen-len": 128, "width": 16, "layers": 1, "phases": 2, "threads": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as directory:
        save_random_llama(directory, given.vocab, given.width, given.layers)
        args = GrpoArgs(
            task="pocket", base_model=directory, device="cpu", batch_size=given.batch, group_size=8, gen_len=given.gen_len
        )
        sides = {name: measure(args, values, given.phases, given.threads) for name, values in ENVIRONMENTS.items()}
    sizes_given = {name.replace("-", "_"): getattr(given, name.replace("-", "_")) for name in sizes}
    result = {
        "benchmark": "memory",
        "ratio_memory": ratio(sides["library"]["peak_mb"], sides["plain"]["peak_mb"]),
        "library_s": sides["library"]["seconds"],
        "plain_s": sides["plain"]["seconds"],
        "ratio_time": ratio(sides["library"]["seconds"], sides["plain"]["seconds"]),
        **sides,
        "sizes": {**sizes_given, "minibatch": args.minibatch_size},
    }
    write_result({**result, **made_with(given.threads)}, given.output)


if __name__ == "__main__":
    main()
