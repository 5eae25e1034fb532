"""The error that says how to mend what was given, and what raises it."""

from dataclasses import fields
from typing import Any


class InputError(ValueError):
    """Something the user gave cannot work; the message gives the value, the rule and the remedy."""


def require(condition: bool, message: str) -> None:
    """Raise InputError(message) unless the condition holds."""
    if not condition:
        raise InputError(message)


def default_of(args: Any, name: str) -> Any:
    """The default of a dataclass field."""
    return next(f.default for f in fields(args) if f.name == name)
