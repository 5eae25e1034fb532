"""Code of the user's own: a function or class that is passed in Python, or named as FILE.py:NAME on the command line.

Data never names code. What the user typed is a `CodeInFile`, and only that is ever imported; the same letters in a recipe or in
a run's args.json stay a plain text, which is compared and asked for again.
"""

import difflib
import functools
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_lib.args.rules import InputError, require

PATTERN = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)", re.IGNORECASE | re.DOTALL)
NAMES_A_FILE = re.compile(r"\.py(:|=|$)", re.IGNORECASE)
INSTALLED = (sysconfig.get_paths()["stdlib"], "site-packages", "dist-packages")
OWN = f"{Path(__file__).parents[1]}{os.sep}"
PREFIX = "rlhf_file_"  # of the names under which loaded files stand in sys.modules
IN_PYTHON_ONLY = "in Python only"
"""In an annotation: no word of the command line sets this field."""


@dataclass(frozen=True)
class FromWords:
    """In an annotation: how the command line reads a field that its type does not say."""

    looks: str
    """What a value looks like, for the help."""
    read: Callable[[Any], Any]
    """The value of a word, or of the list of all words."""
    takes_all: bool = False
    """Whether it is read from all words that follow the option."""


class CodeInFile(str):
    """FILE.py:NAME as the user gave it, which may be imported. As a text it is what args.json keeps.

    Made of words of the command line, or in Python; never of what a file of arguments says.
    """

    def load(self) -> Any:
        """What has that name in that file, which is imported.

        Raises:
            InputError: not FILE.py:NAME, no such file, a file that cannot be imported, or one without that name.
        """
        parts = PATTERN.fullmatch(self)
        require(parts is not None, f"{self!s} must be FILE.py:NAME; add the name of the function or class in that file")
        module, name = load_file(parts["file"]), parts["name"]
        if name not in vars(module):
            own = [n for n, value in vars(module).items() if callable(value) and value_is_of(value, module)]
            near = difflib.get_close_matches(name, own, 1)
            has = f"did you mean {near[0]}?" if near else f"it has {', '.join(own) or 'no function or class'}"
            raise InputError(f"{self!s}: {parts['file']} has no {name}; {has}")
        return vars(module)[name]


def value_is_of(value: Any, module: ModuleType) -> bool:
    """Whether a function or class was defined in a module, or has no name of its own and stands there."""
    return getattr(value, "__module__", module.__name__) == module.__name__


def load_file(file: str) -> ModuleType:
    """The module in a file, imported once for as long as its text stays the same.

    The file's folder is searched first while it is imported, as for a script, and last from then on: what the file imports
    later is found too, and nothing in its folder takes the place of an installed package.
    """
    path = Path(file).expanduser().absolute()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}, from {Path.cwd()}); check the path") from None
    digest = hashlib.sha256(str(path).encode(errors="replace") + b"\0" + source).hexdigest()[:12]
    name = f"{PREFIX}{digest}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        exec(spec.loader.source_to_code(source, str(path)), vars(module))
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:
        del sys.modules[name]
        raise InputError(f"{file} cannot be imported: {described(error)}; correct it, and try it with python {file}") from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)
    return module


def last_of_users(error: BaseException) -> traceback.FrameSummary | None:
    """The last line of the user's own that a traceback passes through, else the last that is not this library's."""
    others = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((OWN, "<frozen"))]
    users = [frame for frame in others if not any(part in frame.filename for part in INSTALLED)]
    return next(reversed(users or others), None)


def described(error: BaseException) -> str:
    """What went wrong and where, on one line."""
    told = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}: {told}" if told else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frame = last_of_users(error)
    if frame is None:
        return what
    line = f": {frame.line}" if frame.line else ""
    return f"{what} ({frame.filename}, line {frame.lineno}, in {frame.name}{line})"


def fault_in_file(error: BaseException) -> str | None:
    """What went wrong and where, if it went wrong in a file that the user named; else None."""
    files = {getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name.startswith(PREFIX)}
    passed = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    return described(error) if files & passed else None


def name_of(code: Any) -> str:
    """A short name of a function, class, partial function or callable object, the same in every process and run."""
    name = getattr(code, "__name__", None)
    if isinstance(name, str):
        return "lambda" if name == "<lambda>" else name
    return name_of(code.func) if isinstance(code, functools.partial) else type(code).__name__


def saved_name(code: Any) -> str:
    """The text that args.json keeps of code; of what Python passed, the module and the name."""
    if isinstance(code, str):
        return str(code)
    return f"{getattr(code, '__module__', None) or type(code).__module__}:{name_of(code)}"


def names_code(value: Any) -> bool:
    """Whether a value is a text that names a file of code, without being one that the user gave as such."""
    return isinstance(value, str) and not isinstance(value, CodeInFile) and NAMES_A_FILE.search(value) is not None


def from_word(word: str) -> str:
    """A word of the command line, as what the user typed."""
    return CodeInFile(word) if NAMES_A_FILE.search(word) else word


def typed(looks: str, or_none: bool = False) -> FromWords:
    """How the command line reads a value that may be FILE.py:NAME; with `or_none` the word None is no value."""
    return FromWords(looks, lambda word: None if or_none and word == "None" else from_word(word))


def words(looks: str) -> FromWords:
    """How the command line reads a field of several texts that Python may also give as a dict."""
    return FromWords(f"[{looks} ...]", tuple, takes_all=True)
