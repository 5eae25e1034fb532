"""The rules that arguments check themselves by, and the error that says how to mend them."""

from dataclasses import fields
from typing import Any


class InputError(ValueError):
    """Something the user gave cannot work; the message gives the value, the rule and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise InputError(message) unless the condition holds."""
    if not condition:
        raise InputError(message)


def require_positive(args: Any, *names: str) -> None:
    """Every named field of `args` must be a number above zero."""
    for name in names:
        value = getattr(args, name)
        require(value > 0, f"{name}={value} must be above 0; leave it out for the default {default_of(args, name)}")


def require_not_negative(args: Any, *names: str) -> None:
    """Every named field of `args` must be zero or more."""
    for name in names:
        value = getattr(args, name)
        require(value >= 0, f"{name}={value} must not be negative; 0 switches it off")


def require_share(args: Any, *names: str) -> None:
    """Every named field of `args` must lie in [0, 1]."""
    for name in names:
        value = getattr(args, name)
        require(0 <= value <= 1, f"{name}={value} must lie between 0 and 1; the default is {default_of(args, name)}")


def default_of(args: Any, name: str) -> Any:
    """The default of a dataclass field."""
    return next(f.default for f in fields(args) if f.name == name)
