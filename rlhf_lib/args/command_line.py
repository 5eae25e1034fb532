"""Words of the command line as values of a dataclass's fields. What a value may be is the class's to say."""

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rlhf_lib.args.code import IN_PYTHON_ONLY, CodeInFile, FromWords
from rlhf_lib.args.rules import InputError, require
from rlhf_lib.args.types import annotations_of

OPTION = re.compile(r"--(?P<name>[a-zA-Z][\w-]*)(=(?P<value>.*))?", re.DOTALL)
"""What is taken for an option; -1 and a text with spaces are values, whatever they begin with."""


@dataclass(frozen=True)
class Option:
    """An option as it was typed, with the words that follow it up to the next."""

    typed: str
    values: tuple[str, ...]

    @property
    def name(self) -> str:
        """The field that it is called after; _ and - are the same."""
        return self.typed.removeprefix("--").replace("-", "_")

    def only_value(self) -> str:
        """The value of an option that takes one.

        Raises:
            InputError: it has none, or more.
        """
        require(bool(self.values), f"{self.typed} has no value; write {self.typed} VALUE, or leave it out")
        require(
            len(self.values) == 1, f"{self.typed} takes one value; leave out {' '.join(self.values[1:])!r}, or quote all of it"
        )
        return self.values[0]


def options_in(words: list[str]) -> Iterator[Option]:
    """The options of a command line, in order.

    Raises:
        InputError: a word before the first of them.
    """
    found: list[tuple[str, list[str]]] = []
    for word in words:
        option = OPTION.fullmatch("--help" if word == "-h" else word)
        if option is not None:
            found.append((f"--{option['name']}", [] if option["value"] is None else [option["value"]]))
        elif found:
            found[-1][1].append(word)
        else:
            raise InputError(f"{word!r} belongs to no option; options begin with --, and --help lists them")
    return (Option(typed, tuple(values)) for typed, values in found)


def value_given(words: list[str], *names: str) -> str | None:
    """The value of the last option of those names, such as "output_dir"; None where there is none."""
    values = [option.only_value() for option in options_in(words) if option.name in names]
    return values[-1] if values else None


def is_given(words: list[str], name: str) -> bool:
    """Whether an option without a value is among the words."""
    return any(option.name == name for option in options_in(words))


def without(words: list[str], name: str) -> list[str]:
    """The words without an option and its values."""
    kept, is_kept = [], True
    for word in words:
        option = OPTION.fullmatch(word)
        is_kept = is_kept if option is None else option["name"].replace("-", "_") != name
        kept += [word] if is_kept else []
    return kept


def read_words(kind: type, words: list[str]) -> dict[str, Any]:
    """The values that words give, by field of the dataclass `kind`; of an option that is given twice, the last.

    Raises:
        InputError: an unknown option, a value that is missing or too many, or FILE.py:NAME without .py.
    """
    annotations = annotations_of(kind)
    known = {field.name: annotations.get(field.name, str) for field in fields(kind)}
    known = {name: annotation for name, annotation in known.items() if IN_PYTHON_ONLY not in get_args(annotation)}
    found = {}
    for option in options_in(words):
        name = option.name
        if name in known:
            found[name] = True if known[name] is bool else read_value(option, known[name])
        elif name.startswith("no_") and known.get(name[3:]) is bool:
            name = name[3:]
            found[name] = False
        else:
            reason = getattr(kind, "elsewhere", {}).get(name)
            raise InputError(
                f"{option.typed} is not an option{f' here: {reason}' if reason else ''}; {likely(option.typed, known)}"
            )
        if known[name] is bool and option.values:
            refusing = option.typed if option.typed.startswith("--no-") else f"--no-{option.typed[2:]}"
            raise InputError(f"{option.typed} takes no value, not {option.values[0]!r}; {refusing} is how to turn it off")
    return found


def likely(typed: str, known: Collection[str]) -> str:
    """What may have been meant by an option that is not known."""
    near = difflib.get_close_matches(typed, [f"--{name.replace('_', '-')}" for name in known], 2)
    return f"did you mean {' or '.join(near)}?" if near else "--help lists all"


def read_value(option: Option, annotation: Any) -> Any:
    """The value of an option as its annotation reads it; what it does not allow stays a text, which the class refuses."""
    spec = spec_of(annotation)
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if spec is not None and spec.takes_all:
        return spec.read(option.values)
    if get_origin(kind) is tuple:
        return tuple(read_word(option.typed, word, get_args(kind)[0]) for word in option.values)
    return read_word(option.typed, option.only_value(), annotation)


def spec_of(annotation: Any) -> FromWords | None:
    """How an annotation says that it is read from words, if it does."""
    return next((part for part in get_args(annotation) if isinstance(part, FromWords)), None)


def read_word(typed: str, word: str, annotation: Any) -> Any:
    """One word as an annotation reads it."""
    spec = spec_of(annotation)
    if spec is not None:
        value = spec.read(word)
        is_name = value is None or isinstance(value, CodeInFile) or (":" not in word and typed.strip("-") not in ("reward-fn",))
        require(is_name, f"{typed} {word!r} is not FILE.py:NAME; code of your own is named by a file that ends in .py")
        return value
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return read_word(typed, word, parts[0])
    if origin in (Union, UnionType):
        if NoneType in parts and word == "None":
            return None
        return read_word(typed, word, next(part for part in parts if part is not NoneType))
    if annotation in (int, float) and origin is not Literal:
        try:
            return annotation(word)
        except ValueError:
            return word
    return word
