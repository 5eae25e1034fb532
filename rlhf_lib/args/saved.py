"""Arguments as JSON: what a run keeps of itself, and what a recipe is. Nothing in such a file is ever imported or called."""

import json
import os
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rlhf_lib.args.code import CodeInFile, names_code, saved_name
from rlhf_lib.args.given import digest_of
from rlhf_lib.args.rules import InputError, default_of, require
from rlhf_lib.args.training import RunArgs
from rlhf_lib.args.types import checked, shown
from rlhf_lib.args.weights import reward_text

Args = TypeVar("Args", bound=RunArgs)


def to_json(args: RunArgs) -> str:
    """All fields as JSON; of code it has the names, of prompts and columns from Python their number and digest."""
    values = {"algorithm": args.algorithm} if args.algorithm else {}
    values |= {f.name: getattr(args, f.name) for f in fields(args)}
    for name in ("task", "reward_fn"):
        if values.get(name) is not None:
            values[name] = saved_name(values[name])
    if values.get("rewards"):
        values["rewards"] = [reward_text(entry) for entry in values["rewards"]]
    if values.get("prompts") is not None:
        values |= {"prompts": digest_of(args.prompts, args.columns), "columns": default_of(args, "columns")}
    return json.dumps(values, indent=2)


def comparable(args: RunArgs) -> dict[str, Any]:
    """The values of `to_json`, for telling whether two runs have the same arguments: of code the name alone counts.

    A file may have moved, and what Python passed may come from a file now.
    """
    values = json.loads(to_json(args))
    if "rewards" in values:
        values["rewards"] = [without_place(entry) for entry in values["rewards"]]
    for name in ("task", "reward_fn"):
        if values.get(name) is not None:
            values[name] = without_place(values[name])
    return values


def without_place(name: str) -> str:
    """ ":NAME" of FILE.py:NAME or module:NAME, with its weight; a name of the library's as it is."""
    return re.sub(r"^.*:", ":", name, flags=re.DOTALL)


def from_json(kind: type[Args], text: str, source: str = "arguments") -> Args:
    """Arguments of class `kind` from JSON; `source` names the file in errors.

    Where the file names code, the arguments hold the name, which cannot be run: see `require_no_saved_code`.

    Raises:
        InputError: no JSON object, a field that the class lacks, or a value that a field does not allow.
    """
    values = parse_object(text, source)
    algorithm = values.pop("algorithm", None)
    require(
        algorithm in (None, kind.algorithm),
        f"{source} is of {algorithm!r}, not of {kind.algorithm!r}; use `rlhf train {algorithm}` for it, or other arguments for "
        f"{kind.algorithm}",
    )
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    reasons = {kind.elsewhere[name] for name in unknown if name in kind.elsewhere}
    told = f" ({', '.join(sorted(reasons))})" if reasons else ""
    require(not unknown, f"{source} has fields that {kind.__name__} lacks: {', '.join(unknown)}{told}; remove them")
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


def require_no_saved_code(args: Any) -> None:
    """Raise where arguments hold names of code that a file brought in, or what is left of prompts from Python.

    Raises:
        InputError: it says what the user has to give again, as words to paste.
    """
    for name, value in (("task", getattr(args, "task", None)), ("reward_fn", getattr(args, "reward_fn", None))):
        is_saved = isinstance(value, str) and not isinstance(value, CodeInFile)
        if is_saved and (name == "reward_fn" or names_code(value) or ":" in value):
            refuse_saved_code(name, [value])
    rewards = getattr(args, "rewards", ())
    if any(names_code(entry) or (isinstance(entry, str) and type(entry) is str and ":" in entry) for entry in rewards):
        refuse_saved_code("rewards", [reward_text(entry) for entry in rewards])
    require(
        not isinstance(getattr(args, "prompts", None), dict),
        "the run's prompts came from Python, and args.json keeps only their digest; give them again in Python: "
        "prompts=[...], columns={...}, resume=True",
    )


def refuse_saved_code(name: str, values: list[str]) -> None:
    """Raise, with the words that give it again."""
    asks = name == "reward_fn"
    words = [f"FILE.py:{v.rpartition(':')[2]}" if not names_code(v) and (asks or ":" in v) else v for v in values]
    raise InputError(
        f"{name}={' '.join(values)} names code, which is never run because a recipe or args.json says so; if you trust it, "
        f"give it yourself: --{name.replace('_', '-')} {shlex.join(words)}"
    )
