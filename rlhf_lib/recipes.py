"""Arguments from recipes and from command-line words; a recipe is a JSON file of values that a run starts from."""

from pathlib import Path
from typing import Any, TypeVar

import tyro

from rlhf_lib.args import from_json

RECIPES = Path(__file__).parent / "assets" / "recipes"
Args = TypeVar("Args")


def parse(kind: type[Args], words: list[str], prog: str, default: Args | None = None) -> Args:
    """An instance of the dataclass `kind` from command-line words, which change `default` (or the class's defaults)."""
    start: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, args=words, prog=prog, config=(tyro.conf.SuppressFixed,), **start)


def recipe(kind: type[Args], name: str) -> Args:
    """The arguments of a recipe that comes with the library, such as "grpo-pocket"."""
    return from_json(kind, (RECIPES / f"{name}.json").read_text(), f"recipe {name}")
