"""What code under check prints: kept while the check runs, and shown if it fails."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MOST_LINES = 20
DEBUGGERS = ("pdb", "bdb", "cmd")


class Kept(io.StringIO):
    """Standard output of a check; as soon as a debugger writes to it, all goes to the terminal."""

    def __init__(self, terminal: Any):
        super().__init__()
        self.terminal, self.is_live = terminal, False

    def write(self, text: str) -> int:
        """Keep the text, or pass it on."""
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not self.is_live and (caller in DEBUGGERS or caller.startswith("IPython")):
            self.is_live = True
            self.terminal.write(self.getvalue())
        return self.terminal.write(text) if self.is_live else super().write(text)

    def flush(self) -> None:
        """Flush what was passed on."""
        self.terminal.flush()

    def fileno(self) -> int:
        """The terminal's, so that a debugger can edit its line."""
        return self.terminal.fileno()

    def isatty(self) -> bool:
        """Whether a debugger would write to a terminal."""
        return self.terminal.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.terminal, name)


@contextmanager
def kept_output() -> Iterator[Kept]:
    """Keep what is printed."""
    terminal, kept = sys.stdout, Kept(sys.stdout)
    sys.stdout = kept
    try:
        yield kept
    finally:
        sys.stdout = terminal


def as_lines(printed: str) -> list[tuple[str, str]]:
    """Printed text as lines of a message, the last ones if there are many."""
    lines = printed.rstrip("\n").splitlines()
    shown = lines[-MOST_LINES:]
    if len(shown) < len(lines):
        shown = [f"({len(lines) - len(shown)} lines before these)", *shown]
    return [("" if i else "printed", line) for i, line in enumerate(shown)]
