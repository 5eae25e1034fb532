"""What a check found, and what follows from it for an exercise. Light to import."""

from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["todo", "wrong", "passed"]


@dataclass
class Outcome:
    """What one check found."""

    state: State
    check: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    trace: list[Any] = field(default_factory=list)
    crashed: bool = False
    out_of_time: bool = False

    @property
    def is_diagnosed(self) -> bool:
        """Whether it was recognised as a known mistake."""
        return any(label == "diagnosis" for label, _ in self.lines)

    def text(self) -> str:
        """The lines under each other."""
        width = max([len(label) for label, _ in self.lines], default=0)
        return "\n".join(f"  {label:{width}}  {text}" for label, text in self.lines)


def state_of(outcomes: list[Outcome]) -> State:
    """An exercise is passed if all its checks are, to do if it raises NotAttempted, and otherwise wrong."""
    states = {outcome.state for outcome in outcomes}
    return "wrong" if "wrong" in states else "todo" if "todo" in states or not states else "passed"
