"""Which way a formula is computed: as it stands in the library, or by a faster function underneath that gives the same.

What a reader studies is the plain function. `@sped_up_by(fast)` above it names the function that is tried first, where fast
paths are on; it returns NotImplemented for what it does not cover, and then the plain one runs. The tests hold both equal.
Fast paths are off inside `with plain_formulas():`, with RLHF_PLAIN=1 in the environment, and while a student's own code runs.
`@taken_over_by(other)` is for what someone asked for by name, such as another sampler: no speed-up, so no switch turns it off.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STATE = {"fast": os.environ.get("RLHF_PLAIN", "0") in ("", "0")}
TOLD: set[str] = set()


def is_fast() -> bool:
    """Whether fast paths are on."""
    return STATE["fast"]


def use_plain_formulas() -> None:
    """Switch fast paths off for good."""
    STATE["fast"] = False


@contextmanager
def plain_formulas() -> Iterator[None]:
    """No fast paths inside."""
    before = STATE["fast"]
    STATE["fast"] = False
    try:
        yield
    finally:
        STATE["fast"] = before


def taken_over_by(other: Callable) -> Callable[[Callable], Callable]:
    """Ask `other` first, whether fast paths are on or not; the decorated function runs where that returns NotImplemented."""

    def decorate(plain: Callable) -> Callable:
        @functools.wraps(plain)
        def call(*args: Any, **options: Any) -> Any:
            result = other(*args, **options)
            return plain(*args, **options) if result is NotImplemented else result

        return call

    return decorate


def sped_up_by(fast: Callable) -> Callable[[Callable], Callable]:
    """Try `fast` first; the decorated function, which is the definition, computes whatever that leaves as NotImplemented."""
    return taken_over_by(lambda *args, **options: fast(*args, **options) if is_fast() else NotImplemented)


def tell_once(text: str) -> None:
    """Warn the first time that this is said."""
    if text not in TOLD:
        TOLD.add(text)
        warnings.warn(text, stacklevel=3)
