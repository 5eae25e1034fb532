"""What a field may hold: type, choices and range stand in its annotation and are checked from there, wherever values come from.

A whole number is no float's 3.0 and no bool; a float may be given as a whole number; a list in the place of a tuple is one.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from rlhf_lib.args.rules import InputError

MOST = 10**9
"""The largest count: more phases than anyone waits for."""
LARGEST = 1e9
"""The largest float: float32, which everything is computed in, takes any product of four such numbers."""


@dataclass(frozen=True)
class Between:
    """The range of a number in an annotation, as in Annotated[float, Between(0, 1)]; a bound is included unless it is said."""

    low: int | float
    high: int | float
    without_low: bool = False
    without_high: bool = False
    or_zero: bool = False

    def refusal(self, value: int | float) -> str | None:
        """The rule that a number breaks, to follow "must"; None where it is within the range."""
        is_above = value > self.low if self.without_low else value >= self.low
        is_below = value < self.high if self.without_high else value <= self.high
        if (is_above and is_below) or (value == 0 and self.or_zero):
            return None
        if self.high <= 1:
            bounds = [(self.low, self.without_low), (self.high, self.without_high)]
            without = [f"{bound:g}" for bound, is_left_out in bounds if is_left_out]
            return f"lie between {self.low:g} and {self.high:g}" + (f", without {' and '.join(without)}" if without else "")
        if not is_below:
            return f"be at most {self.high:g}" if isinstance(self.high, float) else f"be at most {self.high}"
        if self.or_zero or (self.low == 0 and not self.without_low):
            return "not be negative" if value < 0 else f"be 0, or at least {self.low:g}"
        return "be above 0" if value <= 0 else f"be at least {self.low:g}"


@dataclass(frozen=True)
class NotEmpty:
    """The rule of a text that has to say something, as in Annotated[str, NotEmpty()]."""

    def refusal(self, value: str) -> str | None:
        """The rule, where the text breaks it."""
        return None if value.strip() else "not be empty"


Count = Annotated[int, Between(1, MOST)]
CountFromZero = Annotated[int, Between(0, MOST)]
Size = Annotated[int, Between(1, 10**6)]
"""How many of something are in memory at once."""
SizeFromZero = Annotated[int, Between(0, 10**6)]
Examples = Annotated[int, Between(0, 1000)]
"""How many worked examples a prompt has at most."""
Seed = Annotated[int, Between(0, 2**63 - 1)]
Positive = Annotated[float, Between(0, LARGEST, without_low=True)]
NotNegative = Annotated[float, Between(0, LARGEST)]
Share = Annotated[float, Between(0, 1)]
PositiveShare = Annotated[float, Between(0, 1, without_low=True)]
ProperShare = Annotated[float, Between(0, 1, without_low=True, without_high=True)]
Decay = Annotated[float, Between(0, 1, without_high=True)]
Temperature = Annotated[float, Between(1e-3, 1e3)]
TemperatureOrGreedy = Annotated[float, Between(1e-3, 1e3, or_zero=True)]
Seconds = Annotated[float, Between(0, 1e6, without_low=True)]
"""As long as a socket waits."""
Name = Annotated[str, NotEmpty()]
"""Of a file, a directory, a model, an account."""


class Misfit(ValueError):
    """A value that its annotation does not allow; the message is the rule, to follow "must"."""


@dataclass(kw_only=True)
class CheckedArgs:
    """Arguments that check themselves: first each field by itself, then what a class's own __post_init__ has to say."""

    unread: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Inherited fields that nothing reads here, with the reason and what to use; only their defaults are accepted."""
    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Fields that others have and this one lacks, with the reason: for those who look for them here."""

    def __post_init__(self) -> None:
        """Check every field against its annotation, and those that nothing reads against their defaults."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in checked(type(self), given).items():
            if value is not given[name]:
                setattr(self, name, value)


def checked(kind: type[CheckedArgs], given: Mapping[str, Any], start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Values by field as the annotations of a class have them.

    `start` are the values of all fields where they are left out, if those are not the class's defaults; errors name them.

    Raises:
        InputError: an annotation does not allow a value, or it is another than the default of a field that nothing reads.
    """
    annotations, found = annotations_of(kind), {}
    for field in (field for field in fields(kind) if field.name in given):
        name, value = field.name, given[field.name]
        try:
            found[name] = fitted(value, annotations.get(name, Any))
        except Misfit as rule:
            raise InputError(
                f"{name}={shown(value)} must {rule}{remedy(field.default if start is None else start[name], start is None)}"
            ) from None
        if name in kind.unread and found[name] != field.default:
            raise InputError(f"{name}={shown(value)} would change nothing: {kind.unread[name]}; leave it out")
    return found


@cache
def annotations_of(kind: type) -> dict[str, Any]:
    """The annotations of a class and its bases by field; those of a base whose names cannot be found are left out."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        with suppress(NameError):  # a student's class in a function, under `from __future__ import annotations`
            found |= get_type_hints(base, include_extras=True)
    return found


def shown(value: Any) -> str:
    """A value for an error, on one line and not too long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= 80 else f"{text[:79]}…"


def remedy(left_out: Any, is_default: bool = True) -> str:
    """What to do about a field's value, where leaving it out gives `left_out`, the class's default or another."""
    if left_out is MISSING:
        return ""
    the = "the default " if is_default else ""
    return "; leave it out" if left_out is None else f"; leave it out for {the}{shown(left_out)}"


def fitted(value: Any, kind: Any) -> Any:
    """The value as the annotation `kind` has it.

    Raises:
        Misfit: the annotation does not allow it.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return within(fitted(value, parts[0]), parts[1:])
    if origin in (Union, UnionType):
        return fitted_to_one(value, parts)
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in parts):
            raise Misfit(f"be {' or '.join(map(repr, parts))}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise Misfit("be a list")
        kinds = parts[:1] * len(value) if parts[1:] == (Ellipsis,) else parts
        if len(kinds) != len(value):
            raise Misfit(f"have {len(kinds)} entries")
        try:
            return tuple(fitted(part, kind) for part, kind in zip(value, kinds, strict=True))
        except Misfit as rule:
            raise Misfit(f"in each entry {rule}") from None
    return fitted_to_class(value, origin or kind)


def within(value: Any, rules: tuple) -> Any:
    """The value, unless a rule of its annotation refuses it; what else stands there is not ours."""
    for rule in rules:
        refusal = rule.refusal(value) if isinstance(rule, (Between, NotEmpty)) else None
        if refusal is not None:
            raise Misfit(refusal)
    return value


def fitted_to_one(value: Any, kinds: tuple) -> Any:
    """The value as the first of several annotations that allows it has it."""
    if value is None and NoneType in kinds:
        return None
    refusals = []
    for kind in kinds:
        if kind is NoneType:
            continue
        try:
            return fitted(value, kind)
        except Misfit as refusal:
            refusals.append(str(refusal))
    raise Misfit(", or ".join(refusals))


def fitted_to_class(value: Any, kind: Any) -> Any:
    """The value as a plain class has it."""
    if kind is float:
        return as_float(value)
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise Misfit("be a whole number")
    if kind is bool and not isinstance(value, bool):
        raise Misfit("be true or false, without quotes")
    if kind is str:
        return as_text(value)
    if kind is not Any and isinstance(kind, type) and not isinstance(value, kind):
        raise Misfit(f"be of class {kind.__name__}")
    return value


def as_float(value: Any) -> float:
    """A float, or a whole number in its place; infinities are left to the range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Misfit("be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise Misfit("be a number")
    return value if isinstance(value, float) else number


def as_text(value: Any) -> str:
    """A text that can be written to a file and handed to a tokenizer."""
    if not isinstance(value, str):
        raise Misfit("be a text")
    if "\0" in value:
        raise Misfit("not hold the character NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Misfit("be whole Unicode text: it holds half a surrogate pair, or bytes that are not UTF-8") from None
    return value
