"""Arguments as JSON: what a run keeps of itself, and what a recipe is."""

import importlib
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rlhf_lib.args.rules import InputError, require
from rlhf_lib.args.training import RunArgs
from rlhf_lib.args.types import checked, shown

Args = TypeVar("Args", bound=RunArgs)


def to_json(args: RunArgs) -> str:
    """All fields as JSON; a reward function is saved as module:qualname."""
    values = {f.name: getattr(args, f.name) for f in fields(args)}
    if callable(values.get("reward_fn")):
        values["reward_fn"] = f"{args.reward_fn.__module__}:{args.reward_fn.__qualname__}"
    return json.dumps(values, indent=2)


def from_json(kind: type[Args], text: str, source: str = "arguments") -> Args:
    """Arguments of class `kind` from JSON; `source` names the file in errors.

    Raises:
        InputError: no JSON object, a field that the class lacks, or a value that a field does not allow.
    """
    values = parse_object(text, source)
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    require(not unknown, f"{source} has fields that {kind.__name__} lacks: {', '.join(unknown)}; remove them")
    if values.get("reward_fn"):
        module, _, name = values["reward_fn"].partition(":")
        values["reward_fn"] = getattr(importlib.import_module(module), name)
    try:
        return kind(**checked(kind, values))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def from_file(kind: type[Args], file: str | os.PathLike) -> Args:
    """Arguments of class `kind` from a file of JSON: a recipe, or a run's args.json."""
    return from_json(kind, read_text(file), str(file))


def read_object(file: str | os.PathLike) -> dict[str, Any]:
    """The JSON object that a file holds, whatever its fields."""
    return parse_object(read_text(file), str(file))


def read_text(file: str | os.PathLike) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark.

    Raises:
        InputError: it cannot be read, or is no text.
    """
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check path and permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def parse_object(text: str, source: str) -> dict[str, Any]:
    """The object that a JSON text is, in which every name stands once; `source` names the file in errors."""
    try:
        found = json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
        raise InputError(f"{source} is not JSON ({reason}); mend it, or restore it from a copy") from None
    if not isinstance(found, dict):
        raise InputError(f"{source} holds {shown(found)} and no JSON object; write the fields as {{NAME: VALUE, ...}}")
    return found


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, if no name stands in it twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{max(names, key=names.count)!r} stands in it twice")
    return found
