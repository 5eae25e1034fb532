"""What runs and inputs survive: signals at random moments, full disks, two writers, damaged files, bad values of options.

    python benchmarks/faults.py [--kinds signals disk writers damage values] [--trials 40] [--seed 0]

Every trial is a command of `rlhf` in a process of its own, on the bundled model, with a directory of its own. It has

- survived, if nothing was lost: a run that was stopped ends, resumed, with the metrics, samples and weights, to the last bit,
  of one that nobody touched; of two writers one does, and the other is told; and what was refused was refused in one
  sentence (exit code 1 or 2);
- lost something otherwise, for example when a damaged file was read as if it were whole;
- a traceback, if it printed one.

Processes are forked from one that has imported everything, so that a trial takes a second or two. Linux.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, made_with, write_result
from tabulate import tabulate

from rlhf_lib import args as arguments
from rlhf_lib import cli

SMALL = ("--task", "pocket", "--device", "cpu", "--eval-problems", "8", "--log-samples-every", "0", "--save-every", "1")
PHASES = ("--total-phases", "4", "--batch-size", "16", "--num-minibatches", "2", "--gen-len", "24", "--warmup-steps", "1")
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "grpo": (*SMALL, *PHASES),
    "ppo": (*SMALL, *PHASES),
    "ppo-lora": (*SMALL, *PHASES),
    "reft": (*SMALL, *PHASES, "--warmup-problems", "32"),
    "self-training": (*SMALL, *PHASES),
    "sft": (*SMALL, "--problems", "64", "--epochs", "4"),
    "reward-model": (*SMALL, "--problems", "16", "--samples", "4", "--epochs", "3", "--reward-base", "pocket"),
}
LONGER = {"sft": ("--epochs", "8"), "reward-model": ("--epochs", "6")}
TWICE = ("--total-phases", "8")
DEADLINE = 60.0  # seconds after which a process is ended; a command that took its values and works is none of the faults
MEMORY = 12 * 1024**3  # bytes of address space, so that a size that nobody has meets its end here


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit code; below 0 the signal that ended it."""
    text: str
    """What it printed."""

    @property
    def traceback(self) -> bool:
        """Whether it printed one."""
        return "Traceback (most recent call last)" in self.text

    @property
    def refused(self) -> bool:
        """Whether it said no in words: exit code 1 or 2, and no traceback."""
        return self.code in (1, 2) and not self.traceback and bool(self.text.strip())


class Child:
    """A command of `rlhf` in a forked process, in a folder, with a largest file size where that is given."""

    def __init__(self, words: list[str], folder: Path, largest_file: int | None = None):
        self.log = folder / f"output-{time.monotonic_ns()}.txt"
        self.started = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                self.redirect(folder, largest_file)
                code = cli.main(words)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def redirect(self, folder: Path, largest_file: int | None) -> None:
        """In the child: prints go to the log, and limits are set."""
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((nothing, 0), (handle, 1), (handle, 2)):
            os.dup2(number, target)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    def send(self, number: int) -> None:
        """A signal, if the process still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Its end, which the deadline brings about if nothing else does."""
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return Ended(os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace"))
            if time.monotonic() - self.started > DEADLINE:
                self.send(signal.SIGKILL)
            time.sleep(0.02)


def run(words: list[str], folder: Path, largest_file: int | None = None) -> Ended:
    """A command, waited for."""
    return Child(words, folder, largest_file).wait()


def command(algorithm: str, *more: str) -> list[str]:
    """A training of a few seconds, into the folder `run`."""
    return ["train", algorithm, *ALGORITHMS[algorithm], "--output-dir", "run", *more]


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves that must not depend on what happened to it: metrics, samples, weights."""
    home = folder / "run"
    lines = (home / "metrics.jsonl").read_text().splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if "seconds" not in k and "memory" not in k} for line in lines]
    samples = home / "samples.jsonl"
    weights = {file.name: file.read_bytes() for file in sorted((home / "model").glob("*.safetensors"))}
    return {"metrics": metrics, "samples": samples.read_text() if samples.exists() else "", "weights": weights}


class Bench:
    """Runs trials, each in a new folder, and counts how they ended.

    `untouched` keeps what a run of each algorithm leaves when nothing happens to it, and how long it takes.
    """

    def __init__(self, root: Path, seed: int):
        self.root, self.rng = root, random.Random(seed)
        self.untouched: dict[str, tuple[dict[str, Any], float]] = {}
        self.outcomes: dict[str, Counter] = {}
        self.stories: list[str] = []
        self.count = 0

    def folder(self) -> Path:
        """A new one."""
        self.count += 1
        folder = self.root / f"trial-{self.count}"
        folder.mkdir()
        return folder

    def whole(self, algorithm: str) -> tuple[dict[str, Any], float]:
        """What a run leaves, and its seconds."""
        if algorithm not in self.untouched:
            folder, started = self.folder(), time.monotonic()
            ended = run(command(algorithm), folder)
            if ended.code:
                raise SystemExit(f"an untouched run of {algorithm} ended with {ended.code}:\n{ended.text}")
            self.untouched[algorithm] = left_by(folder), time.monotonic() - started
        return self.untouched[algorithm]

    def count_trial(self, kind: str, trial: Callable[[Path], tuple[str, list[Ended]]], what: str) -> None:
        """Do a trial, and count it as its own verdict, or as a traceback if one of its processes printed one."""
        folder = self.folder()
        verdict, ended = trial(folder)
        if any(one.traceback for one in ended):
            verdict = "traceback"
        self.outcomes.setdefault(kind, Counter())[verdict] += 1
        if verdict != "survived":
            self.stories.append(f"{kind}: {what}: {verdict}: {ended[-1].code}: {ended[-1].text[-600:]}")
            print(self.stories[-1], flush=True)
        shutil.rmtree(folder)

    def resumed(self, algorithm: str, folder: Path) -> tuple[str, list[Ended]]:
        """Go on with what a stopped run left, or begin anew where it left nothing; is the end as if nothing had happened?"""
        started = (folder / "run" / "args.json").exists()
        ended = run(command(algorithm, *["--resume"] * started), folder)
        same = ended.code == 0 and left_by(folder) == self.whole(algorithm)[0]
        return ("survived" if same else "lost"), [ended]


def stopped(bench: Bench, algorithm: str, folder: Path, number: int) -> list[Ended]:
    """A run that a signal ends at a random moment, and then its evaluation, if it has begun and trains a policy."""
    child = Child(command(algorithm), folder)
    time.sleep(bench.rng.uniform(0, bench.whole(algorithm)[1]))
    child.send(number)
    ends = [child.wait()]
    if algorithm != "reward-model" and (folder / "run" / "args.json").exists():
        ends.append(run(["eval", "--run", "run", "--problems", "8", "--device", "cpu"], folder))
    return ends


def stop_and_resume(bench: Bench, algorithm: str, folder: Path) -> tuple[str, list[Ended]]:
    """A signal at a random moment; then the run is evaluated and resumed."""
    ends = stopped(bench, algorithm, folder, bench.rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    verdict, resumed = bench.resumed(algorithm, folder)
    return ("lost" if any(end.code for end in ends[1:]) else verdict), [*ends, *resumed]


def stop_and_extend(bench: Bench, algorithm: str, folder: Path) -> tuple[str, list[Ended]]:
    """SIGKILL at a random moment; then the run is evaluated, and goes on to twice its phases, each of which is there once."""
    ends = stopped(bench, algorithm, folder, signal.SIGKILL)
    more = LONGER.get(algorithm, TWICE)
    started = (folder / "run" / "args.json").exists()
    ended = run(command(algorithm, *more, *["--resume"] * started), folder)
    phases = [record["phase"] for record in left_by(folder)["metrics"]] if ended.code == 0 else []
    whole = phases == list(range(int(more[1]))) and not any(end.code for end in ends[1:])
    return ("survived" if whole else "lost"), [*ends, ended]


def signals(bench: Bench, trials: int) -> None:
    """SIGKILL, SIGTERM and Ctrl-C."""
    for i in range(trials):
        algorithm = list(ALGORITHMS)[i % len(ALGORITHMS)]
        bench.count_trial(
            "stopped by a signal, evaluated, resumed", lambda f, a=algorithm: stop_and_resume(bench, a, f), algorithm
        )
    for i in range(max(1, trials // 3)):
        algorithm = list(ALGORITHMS)[i % len(ALGORITHMS)]
        bench.count_trial(
            "killed, evaluated, resumed with twice the phases", lambda f, a=algorithm: stop_and_extend(bench, a, f), algorithm
        )


def fill_disk(bench: Bench, algorithm: str, folder: Path) -> tuple[str, list[Ended]]:
    """Files cannot grow beyond a random size; a sentence, and nothing lost once there is room."""
    bench.whole(algorithm)
    limit = int(10 ** bench.rng.uniform(2, 6.5))
    ended = run(command(algorithm), folder, largest_file=limit)
    if ended.code and not ended.refused:
        return "lost", [ended]
    if ended.code == 0:
        return ("survived" if left_by(folder) == bench.whole(algorithm)[0] else "lost"), [ended]
    verdict, resumed = bench.resumed(algorithm, folder)
    return verdict, [ended, *resumed]


def disk(bench: Bench, trials: int) -> None:
    """No room for metrics, samples, checkpoint, model or summary."""
    for i in range(trials):
        algorithm = list(ALGORITHMS)[i % len(ALGORITHMS)]
        bench.count_trial("full disk", lambda f, a=algorithm: fill_disk(bench, a, f), algorithm)


def write_twice(bench: Bench, algorithm: str, folder: Path) -> tuple[str, list[Ended]]:
    """Two processes in one directory, the second at a random moment of the first, starting or resuming."""
    seconds = bench.whole(algorithm)[1]
    first = Child(command(algorithm), folder)
    time.sleep(bench.rng.choice([0.0, bench.rng.uniform(0, 0.8 * seconds)]))
    second = Child(command(algorithm, *bench.rng.choice([[], ["--resume"]])), folder)
    ends = [first.wait(), second.wait()]
    one = sorted(end.code for end in ends) == [0, 2]
    same = one and left_by(folder) == bench.whole(algorithm)[0]
    return ("survived" if same else "lost"), ends


def writers(bench: Bench, trials: int) -> None:
    """Two processes that want the same directory."""
    for i in range(trials):
        algorithm = list(ALGORITHMS)[i % len(ALGORITHMS)]
        bench.count_trial("two writers", lambda f, a=algorithm: write_twice(bench, a, f), algorithm)


def flipped(rng: random.Random, content: bytes) -> bytes:
    """One bit is another."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "empty": lambda rng, content: b"",
    "cut": lambda rng, content: content[: rng.randrange(1, len(content))],
    "a list": lambda rng, content: b"[1, 2]\n",
    "null": lambda rng, content: b"null\n",
    "not UTF-8": lambda rng, content: b"\xff\xfe" + content,
    "a flipped bit": flipped,
}
CHECKED = ("checkpoint.pt",)  # files with a checksum, of which every bit counts
DAMAGED = (*CHECKED, "args.json", "model/adapter_config.json", "model/adapter_model.safetensors")


def damage(bench: Bench, trials: int) -> None:
    """Damaged files: read as nothing but what they were, or refused."""
    home = bench.folder()
    if run(command("grpo"), home).code:
        raise SystemExit("the run whose files are to be damaged did not end")
    problems = ["--problems", "8", "--device", "cpu"]
    readers = {"resume": command("grpo", "--resume", "--total-phases", "5"), "eval": ["eval", "--run", "run", *problems]}
    whole = {name: run(words, copied(home, bench.folder())).text for name, words in readers.items()}

    def trial(folder: Path, file: str, how: str, reader: str) -> tuple[str, list[Ended]]:
        target = copied(home, folder) / "run" / file
        target.write_bytes(DAMAGES[how](bench.rng, target.read_bytes()))
        ended = run(readers[reader], folder)
        as_before = ended.code == 0 and figures(ended.text) == figures(whole[reader])
        return ("survived" if ended.refused or as_before else "lost"), [ended]

    for _ in range(trials):
        reader = bench.rng.choice(list(readers))
        file, how = bench.rng.choice(DAMAGED), bench.rng.choice(list(DAMAGES))
        if how == "a flipped bit":  # which only a checksum tells from what was meant
            file, reader = "checkpoint.pt", "resume"
        bench.count_trial(
            "damaged file", lambda f, file=file, how=how, r=reader: trial(f, file, how, r), f"{reader}: {file}, {how}"
        )


def copied(home: Path, folder: Path) -> Path:
    """The run of one folder in another, which is returned."""
    shutil.copytree(home / "run", folder / "run")
    return folder


def figures(text: str) -> list[str]:
    """The lines of an output that do not depend on the clock."""
    return [line for line in text.splitlines() if "accuracy" in line.lower() or "greedy" in line]


NUMBERS = ("nan", "inf", "-inf", "-1", "0", "0.5", "1e308", "1e-320", "18446744073709551616", "true", "", "x", "1,5")
TEXTS = (
    "",
    "no/such/place",
    "~nobody",
    "x\x1b[31m\u202e",
    "\udcff",
    "y" * 5000,
    "..",
    "None",
    "/dev/null",
    "{}",
    "a:b.py:c",
    "=",
)
TRIED: dict[str, tuple[list[str], type]] = {
    **{f"train {name}": (command(name), kind) for name, kind in cli.TRAINABLE.items()},
    "sample": (["sample", "--count", "2", "--device", "cpu"], arguments.SampleArgs),
    "eval": (["eval", "--problems", "8", "--device", "cpu"], arguments.EvalArgs),
    "merge": (["merge", "--adapter", "run/model", "--output-dir", "merged", "--device", "cpu"], arguments.MergeArgs),
    "compare": (
        ["compare", "--methods", "zero-shot", "--seeds", "1", "--problems", "8", "--device", "cpu", "--output-dir", "report"],
        arguments.CompareArgs,
    ),
    "pretrain": (
        ["pretrain", "--steps", "1", "--batch-size", "4", "--layers", "1", "--output-dir", "made"],
        arguments.PretrainArgs,
    ),
}


def bad_values() -> Iterator[tuple[str, list[str]]]:
    """Every option of every command with every value that does not suit it, or hardly."""
    for name, (words, kind) in TRIED.items():
        hints = typing.get_type_hints(kind)
        for field in fields(kind):
            hint = hints[field.name]
            is_number = any(part in (int, float) for part in (hint, *typing.get_args(hint)))
            flag = f"--{field.name.replace('_', '-')}"
            for value in NUMBERS if is_number else TEXTS:
                yield name, [*words, flag, value]


def values(bench: Bench, trials: int) -> None:
    """A random sample of bad values: refused in a sentence, or taken and worked with."""
    tried = list(bad_values())
    for name, words in bench.rng.sample(tried, min(len(tried), 10 * trials)):

        def trial(folder: Path, words: list[str] = words) -> tuple[str, list[Ended]]:
            ended = run(words, folder)
            taken = ended.code in (0, -signal.SIGKILL)  # the deadline's
            return ("survived" if taken or ended.refused else "lost"), [ended]

        bench.count_trial("bad value", trial, f"{name} {words[-2]} {words[-1]!r}"[:100])


KINDS = {"signals": signals, "disk": disk, "writers": writers, "damage": damage, "values": values}


def table_of(outcomes: dict[str, Counter]) -> str:
    """Counts by kind, as a markdown table."""
    heads = ("fault", "trials", "survived", "lost", "tracebacks")
    rows = [(kind, sum(o.values()), o["survived"], o["lost"], o["traceback"]) for kind, o in outcomes.items()]
    return tabulate(rows, heads, tablefmt="github") + "\n"


def main() -> None:
    """Try everything, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--trials", type=int, default=40, help="trials of a kind; of values ten times as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, help="JSON file; the table goes beside it (default: benchmarks/results/faults.json)"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import rlhf_lib.compare
    import rlhf_lib.trainers  # noqa: F401, so that no forked process imports it

    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), given.seed)
        for kind in given.kinds:
            KINDS[kind](bench, given.trials)
    table = table_of(bench.outcomes)
    outcomes = {kind: dict(counts) for kind, counts in bench.outcomes.items()}
    result = {
        "benchmark": "faults",
        "outcomes": outcomes,
        "not_survived": bench.stories,
        "trials": given.trials,
        "seed": given.seed,
    }
    output = given.output or RESULTS / "faults.json"
    write_result({**result, **made_with(1)}, output)
    output.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
