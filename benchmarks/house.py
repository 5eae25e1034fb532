"""The house drawn: its floors by who imports whom, and what one update of GRPO touches.

    python benchmarks/house.py

A unit stands one floor above the highest that it imports. The second table counts the files and functions of the library that
run in one phase of GRPO (a rollout and its updates, after a phase that warms up), by the fast passes and by the plain formulas.
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tabulate import tabulate

import rlhf_lib

ROOT = Path(rlhf_lib.__file__).parent


def unit_of(path: Path) -> str:
    """The module or package right under the library that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The units that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlhf_lib":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def arrows() -> dict[str, set[str]]:
    """Which other units every unit imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "__init__.py":
            found[unit_of(path)] |= imported(path) - {unit_of(path)}
    return dict(found)


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Every unit's floor; RecursionError where imports go in a circle."""

    def floor(unit: str) -> int:
        return 1 + max((floor(below) for below in graph.get(unit, ())), default=-1)

    return {unit: floor(unit) for unit in graph}


def touched(work: Any) -> set[CodeType]:
    """The library's functions that run while `work()` does."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(ROOT)) and not code.co_name.startswith("<"):
            seen.add(code)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


def one_update() -> dict[str, set[CodeType]]:
    """What a phase of GRPO on the bundled model touches, both ways."""
    from rlhf_lib.args import GrpoArgs
    from rlhf_lib.engine import plain_formulas
    from rlhf_lib.trainers import GrpoTrainer

    given = {"task": "pocket", "gen_len": 16, "batch_size": 8, "group_size": 4, "num_minibatches": 2, "device": "cpu"}
    trainer = GrpoTrainer(GrpoArgs(**given))

    def phase() -> None:
        trainer.learning_phase(trainer.corrected(trainer.rollout_phase()))

    phase()
    fast = touched(phase)
    with plain_formulas():
        phase()
        plain = touched(phase)
    return {"fast": fast, "plain": plain}


def main() -> None:
    """Print both tables."""
    graph = arrows()
    levels = floors(graph)
    rows = [(level, " ".join(sorted(u for u in levels if levels[u] == level))) for level in range(max(levels.values()) + 1)]
    print(tabulate(reversed(rows), ("floor", "units")))
    print(f"\n{len(graph)} units, {sum(map(len, graph.values()))} arrows between them, none upward\n")
    counts = []
    for way, codes in one_update().items():
        counts.append((way, len({code.co_filename for code in codes}), len(codes)))
    print(tabulate(counts, ("one update of GRPO", "files", "functions")))


if __name__ == "__main__":
    main()
