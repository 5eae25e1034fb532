"""Arguments as JSON: what a run keeps of itself, and what a recipe is."""

import importlib
import json
from dataclasses import fields
from typing import TypeVar

from rlhf_lib.args.rules import InputError, require
from rlhf_lib.args.training import RunArgs

Args = TypeVar("Args", bound=RunArgs)


def to_json(args: RunArgs) -> str:
    """All fields as JSON; a reward function is saved as module:qualname."""
    values = {"algorithm": args.algorithm} if args.algorithm else {}
    values |= {f.name: getattr(args, f.name) for f in fields(args)}
    if callable(values.get("reward_fn")):
        values["reward_fn"] = f"{args.reward_fn.__module__}:{args.reward_fn.__qualname__}"
    return json.dumps(values, indent=2)


def from_json(kind: type[Args], text: str, source: str = "arguments") -> Args:
    """Arguments of class `kind` from JSON; `source` names the file in errors."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{source} is not JSON ({error}); delete it or restore it from a copy") from None
    algorithm = values.pop("algorithm", None)
    require(
        algorithm in (None, kind.algorithm),
        f"{source} is of {algorithm!r}, not of {kind.algorithm!r}; use `rlhf train {algorithm}` for it, or other arguments for "
        f"{kind.algorithm}",
    )
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    require(not unknown, f"{source} has fields that {kind.__name__} lacks: {', '.join(unknown)}; remove them")
    if values.get("reward_fn"):
        module, _, name = values["reward_fn"].partition(":")
        values["reward_fn"] = getattr(importlib.import_module(module), name)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
