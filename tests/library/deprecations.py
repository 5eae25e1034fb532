"""Deprecated calls of ours, also where a library's decorator or torch's call of a module stands between us and the warning."""

import linecache
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("rlhf_lib", "tests", "solutions", "exercises", "benchmarks")
PASSES_ON = (  # files whose functions only pass a call on
    "torch/nn/modules/module.py",
    "torch/utils/_contextlib.py",
    "transformers/utils/",
    "jaxtyping/",
    "beartype",
    "functools.py",
    "contextlib.py",
)


def is_ours(file):
    """Whether a file, by its path or by the course's name for an answer, belongs to the project."""
    path = ROOT / file
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in OURS


def passes_on(frame):
    """Whether a frame is on the way between a caller and the warning: it gives the warning, or passes the call on."""
    file = frame.f_code.co_filename
    line = linecache.getline(file, frame.f_lineno)
    return "warn" in line or "deprecat" in line or any(part in file for part in PASSES_ON)


def our_call(file, line):
    """`file:line` of the call that led to a warning located at a file and line, or None where a library made it."""
    frame = shown = sys._getframe(1)
    while shown and (shown.f_code.co_filename, shown.f_lineno) != (file, line):
        shown = shown.f_back
    frame = shown or frame
    while frame and passes_on(frame):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame and is_ours(frame.f_code.co_filename) else None


class DeprecatedCalls(list):
    """Takes the place of warnings.showwarning: a sentence for each deprecated call of ours."""

    def __call__(self, message, category, filename, lineno, file=None, line=None):
        """Called with each warning that is shown."""
        if issubclass(category, (FutureWarning, DeprecationWarning)) and (where := our_call(filename, lineno)):
            self.append(f"{where}: {category.__name__}: {message}")
