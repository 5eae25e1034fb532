"""Arguments from recipes and from command-line words; a recipe is a JSON file of values that a run starts from.

A recipe of the library is named ALGORITHM-TASK, or ALGORITHM-TASK-MODEL where it is one of several for that task. A task's own
is taken without being asked for; the others are asked for by name, and any file is by its path.
"""

import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from rlhf_lib.args import FAMILY, GEN_LEN, InputError, from_file, from_json, read_object, require_no_saved_code
from rlhf_lib.args.command_line import options_in, read_words
from rlhf_lib.args.effects import require_effect
from rlhf_lib.args.help import all_about, overview
from rlhf_lib.args.types import checked
from rlhf_lib.terminal import visible

RECIPES = Path(__file__).parent / "assets" / "recipes"
FAMILY_RECIPE = "policy-gradient"
"""In the place of an algorithm in the name of a recipe that all policy gradients start from."""
Args = TypeVar("Args")


def parse(kind: type[Args], words: list[str], prog: str, default: Args | None = None) -> Args:
    """An instance of the dataclass `kind` from command-line words, which change `default` (or the class's defaults).

    Raises:
        InputError: a word that is no option or not all of one, a value that its field does not allow or that has no effect, or
            `default` names code that the words do not give: see require_no_saved_code.
    """
    if {"-h", "--help"} & set(words):
        show_help(kind, prog, default, words)
    given = read_words(kind, words)
    needed = [f for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    missing = [f"--{f.name.replace('_', '-')}" for f in needed if f.name not in given and default is None]
    if missing:
        raise InputError(f"{prog} needs {' and '.join(missing)}; {prog} --help says what each is")
    start = {} if default is None else {f.name: getattr(default, f.name) for f in fields(kind)}
    args = kind(**{**start, **checked(kind, given, start or None)})
    require_effect(args, given)
    require_no_saved_code(args)
    return args


def script_args(kind: type[Args], prog: str, default: Args) -> Args:
    """The arguments of a script from the words that it was started with; what is wrong with them is one sentence, code 2."""
    try:
        return parse(kind, sys.argv[1:], prog, default)
    except InputError as error:
        print(visible(f"{prog}: {error}"), file=sys.stderr)
        raise SystemExit(2) from None


def show_help(kind: type, prog: str, default: Any | None, words: list[str]) -> NoReturn:
    """Print what the options mean, or all about those that follow --help, with the values that they start from, and exit."""
    start = {} if default is None else vars(default)
    asked = [name for option in options_in(words) if option.name == "help" for name in option.values]
    told = "\n\n".join(all_about(kind, prog, start, name) for name in asked) if asked else overview(kind, prog, start)
    print(visible(told))
    raise SystemExit(0)


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


def task_recipe(algorithm: str, task: str) -> Path | None:
    """The recipe that a task starts from without being asked for one: the algorithm's own, or its family's."""
    names = [algorithm, *([FAMILY_RECIPE] if algorithm in FAMILY else [])]
    return next((file for file in (RECIPES / f"{name}-{task}.json" for name in names) if file.is_file()), None)


def family_recipe(kind: type[Args], file: Path) -> Args:
    """The arguments of a recipe for the whole family of policy gradients; what an algorithm does not read is left out."""
    values = {name: value for name, value in read_object(file).items() if name not in kind.unread}
    return from_json(kind, json.dumps(values), str(file))


def recipe(kind: type[Args], name: str) -> Args:
    """The arguments of a recipe that comes with the library, such as "grpo-pocket"."""
    return from_file(kind, RECIPES / f"{name}.json")
