"""What the benchmarks share: what a result was made with, medians, memory, and worker processes told what to do over a pipe."""

import json
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES_OF = {
    "ours": ("torch", "transformers", "transformer_lens", "rlhf_lib"),
    "trl": ("torch", "transformers", "trl", "peft", "accelerate"),
    "plain": ("torch", "transformers", "peft"),
}
IMPORTED_LATE = (
    "torch._dynamo",
    "torch.profiler",
    "transformers.models.llama.modeling_llama",
    "transformers.processing_utils",
)
NEEDED_BY = {"ours": (), "trl": ("trl", "peft", "accelerate"), "plain": ("peft",)}


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def commit() -> str:
    """The commit that was measured, with "+changes" if the library or the benchmarks differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    sources = [":/rlhf_lib", ":/benchmarks/*.py"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *sources], capture_output=True, text=True).stdout.strip()
    return f"{found or 'unknown'}{'+changes' if changed else ''}"


def made_with(threads: int, device: str = "cpu", systems: Iterable[str] = ("ours",)) -> dict[str, Any]:
    """Hardware, device, versions of what the systems use, commit and date: what every result carries."""
    packages = dict.fromkeys(package for system in systems for package in PACKAGES_OF[system])
    return {
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "threads": threads},
        "device": torch.cuda.get_device_name(device) if str(device).startswith("cuda") else str(device),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def missing_packages(systems: Iterable[str]) -> str | None:
    """What to install before these systems can be run, as one sentence; None if all is there."""
    missing = [name for name in dict.fromkeys(n for s in systems for n in NEEDED_BY[s]) if find_spec(name) is None]
    if not missing:
        return None
    remedy = "--systems ours needs none of them" if "peft" in missing else "--systems ours plain needs none of them"
    return f'not installed: {", ".join(missing)}; pip install "rlhf_lib[bench]", or {remedy}'


def median(values: Iterable[float], digits: int = 4) -> float:
    """The median, rounded for a result file."""
    return round(statistics.median(values), digits)


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """One figure over another, to four digits; None if either is missing."""
    return round(numerator / denominator, 4) if numerator is not None and denominator else None


def write_result(result: dict[str, Any], output: Path | None) -> None:
    """Print a result as one JSON object, and write it where that was asked for."""
    text = json.dumps(result, indent=2)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")
    print(text, flush=True)


def memory_mb(name: str) -> float:
    """A figure of /proc/self/status in MB: VmRSS, what the process holds in memory now, or VmHWM, the most that it held."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("memory is read from /proc/self/status, which this system lacks; run this benchmark on Linux")
    return int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6


def forget_peak() -> None:
    """Make VmHWM, the peak, what the process holds now; it rises again from there (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def import_baseline_mb() -> float:
    """Memory held after all imports, from which a peak is counted; to be called before a model is loaded.

    What any system imports only once it works (for the first optimiser step torch._dynamo, tens of MB) is imported here, and
    what importing held for a moment only is forgotten.
    """
    for name in IMPORTED_LATE:
        import_module(name)
    forget_peak()
    return memory_mb("VmRSS")


class Finished(Exception):
    """The parent has no more commands."""


class Port:
    """The worker's end of the pipe."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def receive(self) -> Any:
        """Wait for the parent's next command; raises Finished when none will come."""
        try:
            return self.connection.recv()
        except EOFError:
            raise Finished from None

    def commands(self) -> Iterator[Any]:
        """Every command until the parent has no more."""
        while True:
            try:
                yield self.receive()
            except Finished:
                return

    def report(self, answer: Any) -> None:
        """Answer the command."""
        self.connection.send(("answer", answer))


def serve(connection: Connection, work: Callable, *args: Any) -> None:
    """Do a worker's work; a failure goes to the parent as text."""
    port = Port(connection)
    try:
        work(port, *args)
    except Finished:
        pass
    except BaseException:
        connection.send(("failure", traceback.format_exc()))
    finally:
        connection.close()


def serve_process(connection: Connection, threads: int, work: Callable, *args: Any) -> None:
    """`serve`, as a process's first function: torch gets its threads, and prints go to standard error."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(threads)
    serve(connection, work, *args)


class Worker:
    """A fresh process that runs `work(port, *args)` and answers one command at a time, so that its peak memory is its own."""

    def __init__(self, threads: int, work: Callable, *args: Any, environment: dict[str, str] | None = None):
        """`work` is a module's function and `args` can be pickled; `environment` is added to the process's environment."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve_process, args=(theirs, threads, work, *args), daemon=True)
        with environment_with(environment or {}):
            self.process.start()
        theirs.close()

    def ask(self, command: Any = None) -> Any:
        """Send a command and wait for the answer."""
        try:
            self.connection.send(command)
            kind, answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            raise SystemExit(
                f"a worker ended with exit code {self.process.exitcode} (-9: killed, most often for memory)"
            ) from None
        if kind == "failure":
            raise SystemExit(f"a worker failed:\n{answer}")
        return answer

    def close(self) -> None:
        """Tell the worker that there are no more commands, and wait for its end."""
        self.connection.close()
        self.process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


@contextmanager
def environment_with(values: dict[str, str]) -> Iterator[None]:
    """These environment variables inside, for processes started there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
