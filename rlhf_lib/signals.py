"""How a process is asked to end: Ctrl-C, and SIGTERM, which schedulers and `kill` send, all the same."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_by(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Inside, the signals (of none given: Ctrl-C and SIGTERM) call `handler`; afterwards what they called before.

    Signals arrive in the main thread alone; elsewhere nothing changes.
    """
    before = {}
    try:
        for number in numbers or ENDING:
            before[number] = signal.signal(number, handler)
    except ValueError:
        pass  # not in the main thread
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
