"""Arguments from recipes and from command-line words; a recipe is a JSON file of values that a run starts from.

A recipe of the library is named ALGORITHM-TASK, or ALGORITHM-TASK-MODEL where it is one of several for that task. A task's own
is taken without being asked for; the others are asked for by name, and any file is by its path.
"""

from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro

from rlhf_lib.args import GEN_LEN, InputError, from_file, require_no_saved_code

RECIPES = Path(__file__).parent / "assets" / "recipes"
Args = TypeVar("Args")


def parse(kind: type[Args], words: list[str], prog: str, default: Args | None = None) -> Args:
    """An instance of the dataclass `kind` from command-line words, which change `default` (or the class's defaults).

    Raises:
        InputError: `default` names code that the words do not give: see require_no_saved_code.
    """
    if {"-h", "--help"} & set(words):
        kind = without_unread(kind)
        default = None if default is None else kind(**vars(default))
    start: dict[str, Any] = {} if default is None else {"default": default}
    args = tyro.cli(kind, args=words, prog=prog, config=(tyro.conf.SuppressFixed,), **start)
    require_no_saved_code(args)
    return args


def without_unread(kind: type[Args]) -> type[Args]:
    """The dataclass `kind` without the fields that nothing reads, for its help; given all the same, they are refused."""
    hidden = [(f.name, tyro.conf.Suppress[f.type], field(default=f.default)) for f in fields(kind) if f.name in kind.unread]
    return make_dataclass(kind.__name__, hidden, bases=(kind,), kw_only=True, namespace={"__doc__": kind.__doc__})


def recipe_names(algorithm: str) -> list[str]:
    """The library's recipes for an algorithm; what follows its name is a task, so that ppo-lora's are not ppo's."""
    names = sorted(file.stem for file in RECIPES.glob(f"{algorithm}-*.json"))
    return [name for name in names if name.removeprefix(f"{algorithm}-").partition("-")[0] in GEN_LEN]


def recipe_file(name: str, algorithm: str) -> Path:
    """The file that `--recipe NAME` means: that path, such as a run's args.json, or the library's recipe of that name.

    Raises:
        InputError: neither; the message lists the algorithm's recipes.
    """
    if Path(name).is_file():
        return Path(name)
    own = recipe_names(algorithm)
    if name in own:
        return RECIPES / f"{name}.json"
    remedy = f"those are {', '.join(own)}"
    raise InputError(f"--recipe {name!r} is not a file, such as a run's args.json, nor a recipe for {algorithm}; {remedy}")


def recipe(kind: type[Args], name: str) -> Args:
    """The arguments of a recipe that comes with the library, such as "grpo-pocket"."""
    return from_file(kind, RECIPES / f"{name}.json")
