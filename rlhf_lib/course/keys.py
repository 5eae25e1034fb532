"""Single keys from the terminal, without Enter."""

import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import termios
    import tty
except ImportError:  # Windows
    termios = None


def are_read() -> bool:
    """Whether there is a terminal whose keys can be read one by one."""
    return termios is not None and sys.stdin.isatty()


@contextmanager
def single_keys() -> Iterator[None]:
    """Let the terminal hand on each key as it is pressed; without a terminal nothing changes."""
    if not are_read():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def pressed(seconds: float) -> str:
    """The key pressed within that time; empty if there was none."""
    if not are_read():
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""
