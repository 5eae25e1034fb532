"""Which way a formula is computed: as it stands in the library, or by a faster function underneath that gives the same.

What a reader studies is the plain function. `@sped_up_by(fast)` above it names the function that is tried first, where fast
paths are on; it returns NotImplemented for what it does not cover, and then the plain one runs. The tests hold both equal.
Fast paths are off inside `with plain_formulas():`, with RLHF_PLAIN=1 in the environment, and while a student's own code runs.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

FAST = ContextVar("fast", default=os.environ.get("RLHF_PLAIN", "0") in ("", "0"))


def is_fast() -> bool:
    """Whether fast paths are on."""
    return FAST.get()


def use_plain_formulas() -> None:
    """Switch fast paths off for good."""
    FAST.set(False)


@contextmanager
def plain_formulas() -> Iterator[None]:
    """No fast paths inside."""
    before = FAST.set(False)
    try:
        yield
    finally:
        FAST.reset(before)


def sped_up_by(fast: Callable) -> Callable[[Callable], Callable]:
    """Try `fast` first; the decorated function, which is the definition, computes whatever that leaves as NotImplemented."""

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def call(*args: Any, **options: Any) -> Any:
            result = fast(*args, **options) if is_fast() else NotImplemented
            return plain(*args, **options) if result is NotImplemented else result

        return call

    return decorate
